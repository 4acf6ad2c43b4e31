//! Images made by a writer that shares nothing with the reader.
#![allow(clippy::cast_possible_truncation, reason = "a pattern")]

use std::io::Write;

use proptest::prelude::*;

use super::*;
use crate::addr::PhysAddr;
use crate::bytes::source::InMemory;
use crate::error::ReadFault;

fn page(seed: usize) -> Vec<u8> {
    (0..4096).map(|i| if i % 3 == 0 { (seed ^ i) as u8 } else { 7 }).collect()
}

/// Ranges of so many pages; v1 or v2.
fn image(ranges: &[(u64, usize)], packed: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for &(start, pages) in ranges {
        out.extend(if packed { b"AVML\x02\0\0\0" } else { b"EMiL\x01\0\0\0" });
        for n in [start, start + pages as u64 * 4096 - 1, 0] {
            out.extend(n.to_le_bytes());
        }
        let first = usize::try_from(start / 4096).unwrap();
        let memory: Vec<u8> = (first..first + pages).flat_map(page).collect();
        if packed {
            let mut to = snap::write::FrameEncoder::new(Vec::new());
            to.write_all(&memory).unwrap();
            let frames = to.into_inner().unwrap();
            out.extend(&frames);
            out.extend((frames.len() as u64).to_le_bytes());
        } else {
            out.extend(memory);
        }
    }
    out
}

const RANGES: [(u64, usize); 3] = [(0x1000, 30), (0x10_0000, 100), (0x1_0000_0000, 1)];

fn open(bytes: Vec<u8>) -> Result<Lime> {
    Lime::open(Arc::new(InMemory::new("lime", bytes)))
}

fn read(lime: &Lime, phys: u64) -> Result<Vec<u8>, ReadFault> {
    let mut buf = vec![0; 4096];
    lime.memory().read_phys(PhysAddr(phys), &mut buf).map(|n| buf[..n].to_vec())
}

#[test]
fn both_forms_read_every_page() {
    for packed in [false, true] {
        let lime = open(image(&RANGES, packed)).unwrap();
        assert_eq!(
            (lime.name().as_str(), lime.incomplete()),
            (if packed { "AVML (snappy)" } else { "LiME" }, None)
        );
        for (start, pages) in RANGES {
            for i in 0..pages {
                let phys = start + i as u64 * 4096;
                assert_eq!(read(&lime, phys).unwrap(), page(usize::try_from(phys / 4096).unwrap()));
            }
        }
        for phys in [0, 0x1_f000, 0x1_0000_1000] {
            assert_eq!(read(&lime, phys), Err(ReadFault::NoMemory { phys }));
        }
        let ranges: Vec<_> = RANGES.iter().map(|&(at, n)| (PhysAddr(at), n as u64 * 4096)).collect();
        assert_eq!(lime.memory().physical_ranges(9), ranges);
        assert_eq!(lime.memory().stored_ranges(9), ranges);
    }
}

#[test]
fn an_image_that_breaks_off_has_what_came_before() {
    for packed in [false, true] {
        let whole = image(&RANGES, packed);
        for cut in [whole.len() - 9, whole.len() / 2, 40_000] {
            let lime = open(whole[..cut].to_vec()).unwrap();
            assert!(lime.incomplete().unwrap().contains("breaks off"), "{packed} {cut}");
            let mut alike = 0;
            for (start, pages) in RANGES {
                for phys in (0..pages).map(|i| start + i as u64 * 4096) {
                    let Ok(bytes) = read(&lime, phys) else { continue };
                    assert!(page(usize::try_from(phys / 4096).unwrap()).starts_with(&bytes));
                    alike += 1;
                }
            }
            assert!(alike > 5, "{packed} {cut}");
        }
        let mut odd = whole;
        odd.extend([1; 50]);
        assert!(open(odd).unwrap().incomplete().unwrap().contains("what follows is lost"));
    }
}

#[test]
fn a_wrong_byte_of_a_frame_is_seen() {
    let mut bytes = image(&RANGES, true);
    bytes[200] ^= 1;
    let lime = open(bytes).unwrap();
    assert!(matches!(read(&lime, 0x1000), Err(ReadFault::Unread { .. })));
    assert!(read(&lime, 0x10_0000).is_ok());
}

#[test]
fn headers_that_lie_are_refused() {
    for (at, value) in [(4, 3u64), (8, u64::MAX), (16, 0)] {
        let mut bytes = image(&[(0x1000, 1)], false);
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        assert!(open(bytes).is_err(), "{at}");
    }
    // All of the address space in a file of 4 KiB.
    let mut bytes = image(&[(0, 1)], false);
    bytes[16..24].copy_from_slice(&(u64::MAX - 1).to_le_bytes());
    let lime = open(bytes).unwrap();
    assert!(lime.incomplete().is_some() && read(&lime, 0).is_ok());
    assert_eq!(lime.memory().stored_ranges(9), [(PhysAddr(0), 4096)]);
    assert!(matches!(read(&lime, 1 << 60), Err(ReadFault::Truncated { .. })));
}

proptest! {
    #[test]
    fn mutated_images_are_survived(packed: bool, at in any::<prop::sample::Index>(), near in 0usize..60, to in any::<u64>(), cut in any::<prop::sample::Index>()) {
        let mut bytes = image(&[(0x1000, 3), (0x10_0000, 40)], packed);
        let at = if near < 50 { near } else { at.index(bytes.len() - 8) };
        bytes[at..at + 8].copy_from_slice(&to.to_le_bytes());
        if to % 2 == 0 {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(lime) = open(bytes) {
            let _ = (lime.incomplete(), lime.memory().physical_ranges(5), lime.memory().stored_ranges(5));
            for phys in [0, 0x1000, 0x10_0000, to, u64::MAX] {
                let _ = read(&lime, phys);
            }
        }
    }
}
