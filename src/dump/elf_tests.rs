//! ELF files made by a writer that shares nothing with the reader.
#![allow(clippy::cast_possible_truncation, reason = "sizes of test data")]

use proptest::prelude::*;

use super::*;
use crate::addr::PhysAddr;
use crate::bytes::source::InMemory;
use crate::error::ReadFault;

/// `(type, offset, vaddr, paddr, filesz, memsz)`
type Phdr = (u32, u64, u64, u64, u64, u64);

const VMCOREINFO: &[u8] = b"\x0b\0\0\0\x0e\0\0\0\0\0\0\0VMCOREINFO\0\0OSRELEASE=6.1\n\0\0";
const NAMED: &[u8] = b"\x05\0\0\0\x04\0\0\0\x03\0\0\0CORE\0\0\0\0abcd";

/// A core file; the program headers stand at `phoff`, more than 65,534 of them by the
/// way of section header 0, which stands right after the ELF header.
pub(crate) fn core(phdrs: &[Phdr], phoff: usize, data: &[(usize, &[u8])]) -> Vec<u8> {
    let mut f = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x04\0\x3e\0\x01\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    let extended = phdrs.len() >= 0xffff;
    f.extend((phoff as u64).to_le_bytes());
    f.extend(if extended { 64u64 } else { 0 }.to_le_bytes());
    f.extend([0; 4]);
    for half in [64, 56, u16::try_from(phdrs.len()).unwrap_or(0xffff), 64, u16::from(extended), 0] {
        f.extend(half.to_le_bytes());
    }
    assert_eq!(f.len(), 64);
    if extended {
        f.extend([0; 44]);
        f.extend(u32::try_from(phdrs.len()).unwrap().to_le_bytes());
        f.extend([0; 16]);
    }
    f.resize(f.len().max(phoff), 0);
    for &(kind, offset, vaddr, paddr, filesz, memsz) in phdrs {
        f.extend(kind.to_le_bytes());
        f.extend([0; 4]);
        for word in [offset, vaddr, paddr, filesz, memsz, 0] {
            f.extend(word.to_le_bytes());
        }
    }
    for &(at, bytes) in data {
        f.resize(f.len().max(at + bytes.len()), 0);
        f[at..at + bytes.len()].copy_from_slice(bytes);
    }
    f
}

fn open(bytes: Vec<u8>) -> Result<ElfDump> {
    ElfDump::open(Arc::new(InMemory::new("dump", bytes)))
}

fn read(dump: &ElfDump, phys: u64) -> Result<u8, ReadFault> {
    let mut b = [0];
    assert_eq!(dump.memory().read_phys(PhysAddr(phys), &mut b)?, 1);
    Ok(b[0])
}

#[test]
fn what_is_not_in_the_file_is_never_zero() {
    let dump = open(core(
        &[
            (4, 0x400, 0, 0, VMCOREINFO.len() as u64, 0),
            (1, 0x1000, 0xffff_8880_0000_1000, 0x1000, 0x1800, 0x4000),
            (1, u64::MAX, 0, 0x10_0000, 0, 0x1000),
            (1, 0x2900, 0, 0x8000, 0x1000, 0x1000),
            (1, 0x100, 0, u64::MAX - 5, 0x1000, 0x1000),
        ],
        64,
        &[(0x400, VMCOREINFO), (0x1000, &[1; 0x1000]), (0x2000, &[2; 0xa00])],
    ))
    .unwrap();
    assert_eq!((read(&dump, 0x1fff), read(&dump, 0x2000), read(&dump, 0x27ff)), (Ok(1), Ok(2), Ok(2)));
    assert_eq!(read(&dump, 0x2800), Err(ReadFault::Excluded { phys: 0x2800 }));
    assert_eq!(read(&dump, 0x4fff), Err(ReadFault::Excluded { phys: 0x4fff }));
    for phys in [0xfff, 0x5000, 0x10_0000, u64::MAX] {
        assert_eq!(read(&dump, phys), Err(ReadFault::NoMemory { phys }));
    }
    // The file ends 0x100 bytes into the page at 0x8000.
    assert_eq!(
        (read(&dump, 0x80ff), read(&dump, 0x8100)),
        (Ok(2), Err(ReadFault::Truncated { addr: 0x8100 }))
    );
    assert!(dump.incomplete().unwrap().contains("1 MiB"));
    let mut page = [0; 0x2000];
    assert_eq!(dump.memory().read_phys(PhysAddr(0x1234), &mut page), Ok(0xdcc));
    assert_eq!(dump.memory().read_phys(PhysAddr(0x2000), &mut page), Ok(0x800));
    assert_eq!(dump.memory().read_phys(PhysAddr(0x8000), &mut page), Ok(0x100));
    assert_eq!(dump.notes.vmcoreinfo.as_deref(), Some(&b"OSRELEASE=6.1\n"[..]));
    assert_eq!(dump.name(), "ELF (makedumpfile)");
}

#[test]
fn seventy_thousand_segments_are_all_found() {
    let n = 70_000;
    let at = 128 + 56 * n;
    let phdrs: Vec<Phdr> = (0..n as u64).map(|i| (1, at as u64 + i % 251, 0, i << 13, 1, 4096)).collect();
    let data: Vec<u8> = (0..251).collect();
    let dump = open(core(&phdrs, 128, &[(at, &data)])).unwrap();
    for i in [0, 1, 65_534, 65_535, 65_536, 69_999] {
        assert_eq!(read(&dump, i << 13).unwrap(), data[usize::try_from(i % 251).unwrap()]);
        assert_eq!(read(&dump, (i << 13) + 1), Err(ReadFault::Excluded { phys: (i << 13) + 1 }));
    }
    assert_eq!(dump.memory().physical_ranges(4096).len(), 4096);
    assert_eq!(dump.memory().physical_ranges(4096)[4095], (PhysAddr(4095 << 13), (65_904 << 13) + 4096));
}

/// A bit of the place of a segment was turned over: what it holds was somewhere else.
#[test]
fn a_damaged_header_is_mended_and_that_is_told() {
    let at = |i: u64| (1, 0x1000 + i * 0x1000, 0xffff_8880_0000_0000 + (i << 14), i << 14, 0x1000, 0x4000);
    let mut phdrs: Vec<Phdr> = (0..6).map(at).collect();
    phdrs[3].3 ^= 1 << 40;
    let data: Vec<u8> = (0..6).flat_map(|i| [i; 0x1000]).collect();
    let dump = open(core(&phdrs, 64, &[(0x1000, &data)])).unwrap();
    assert_eq!(read(&dump, 3 << 14), Ok(3));
    let told = ["a bit of p_paddr of program header 3 was turned over, as its neighbours prove"];
    assert_eq!(dump.remarks(), told);
    assert_eq!(dump.direct_map(), Some(0xffff_8880_0000_0000));
}

#[test]
fn the_map_of_all_memory_is_where_most_segments_say() {
    let segments = |vaddrs: &[u64]| {
        let load = |(i, &vaddr): (usize, &u64)| (1, 0x1000, vaddr, (i as u64) << 20, 0x1000, 0x1000);
        open(core(&vaddrs.iter().enumerate().map(load).collect::<Vec<_>>(), 64, &[])).unwrap().direct_map()
    };
    let base = 0xffff_8f06_0000_0000;
    let image = 0xffff_ffff_8100_0000;
    assert_eq!(segments(&[image, base + (1 << 20), base + (2 << 20)]), Some(base));
    assert_eq!(segments(&[0, 0, 0]), None);
    assert_eq!(segments(&[base, base]), None);
    assert_eq!(segments(&[base + 0x1000, base + 0x10_1000]), None);
}

#[test]
fn machines_and_processes_are_told_apart() {
    let note = |note: &[u8]| (4, 0x400, 0, 0, note.len() as u64, 0);
    let user = (1, 0x800, 0x40_0000, 0, 0x10, 0x10);
    let kernel = (1, 0x800, 0xffff_8880_0010_0000, 0x10_0000, 0x10, 0x10);
    for (phdrs, data, machine) in [
        (vec![note(VMCOREINFO), user], VMCOREINFO, true),
        (vec![note(NAMED), user], NAMED, false),
        (vec![note(NAMED), kernel], NAMED, false),
        (vec![kernel], b"", true),
        (vec![user], b"", false),
        (vec![(1, 0x800, 0, 0, 0x10, 0x10)], b"", true),
        // A note segment that lies about its size says nothing.
        (vec![(4, u64::MAX - 3, 0, 0, u64::MAX, 0), user], b"", false),
    ] {
        let source = InMemory::new("dump", core(&phdrs, 64, &[(0x400, data), (0x800, &[1; 16])]));
        assert_eq!(CoreHeaders::read(&source).unwrap().is_machine(&source), machine, "{phdrs:?}");
    }
}

#[test]
fn headers_that_cannot_be_served_say_what_and_where() {
    let good = core(&[(1, 0x800, 0, 0, 0x10, 0x10)], 64, &[(0x800, &[1; 16])]);
    let refused = |bytes: Vec<u8>| open(bytes).err().expect("an error").to_string();
    let with = |at: usize, bytes: &[u8]| {
        let mut f = good.clone();
        f[at..at + bytes.len()].copy_from_slice(bytes);
        refused(f)
    };
    for (message, wanted) in [
        (with(4, &[1]), "32-bit"),
        (with(5, &[2]), "big-endian"),
        (with(16, &[2]), "--vmlinux"),
        (with(16, &[3]), "shared library"),
        (with(18, &183u16.to_le_bytes()), "AArch64"),
        (with(54, &[32]), "e_phentsize 56"),
        (with(56, &[0, 0]), "found none"),
        (with(32, &u64::MAX.to_le_bytes()), "within the file"),
        (with(56, &[0xff, 0xff]), "section header 0"),
        (refused(good[..40].to_vec()), "64 bytes"),
        (refused(good[..5].to_vec()), "unknown class"),
        (refused(good[..100].to_vec()), "within the file"),
    ] {
        assert!(message.contains(wanted), "{message}");
    }
}

#[test]
fn the_mark_of_an_unfinished_dump_is_told() {
    let mut f = core(&[(1, 0x800, 0, 0, 0x10, 0x10)], 64, &[(0x800, &[1; 16])]);
    f[48] = 1;
    assert!(open(f).unwrap().incomplete().unwrap().contains("marked incomplete"));
}

proptest! {
    #[test]
    fn any_segments_are_survived_and_read_what_they_say(
        phdrs in proptest::collection::vec((Just(1u32), 0u64..0x4000, any::<u64>(), 0u64..0x8000, 0u64..0x2000, 0u64..0x3000), 1..12),
        probes in proptest::collection::vec(0u64..0xb000, 20),
    ) {
        let file: Vec<u8> = (0..0x3000u32).map(|i| (i % 251) as u8).collect();
        let base = 64 + phdrs.len() * 56;
        let phdrs: Vec<Phdr> = phdrs.into_iter().map(|(k, o, v, p, f, m)| (k, o + base as u64, v, p, f, m)).collect();
        let bytes = core(&phdrs, 64, &[(base, &file)]);
        let dump = open(bytes.clone()).unwrap();
        for phys in probes {
            let stored = |p: &&Phdr| phys >= p.3 && phys - p.3 < p.4;
            let candidates: Vec<usize> = phdrs.iter().filter(stored).map(|p| (p.1 + (phys - p.3)) as usize).collect();
            let memory = phdrs.iter().any(|p| phys >= p.3 && phys - p.3 < p.5.max(p.4));
            match read(&dump, phys) {
                Ok(b) => prop_assert!(candidates.iter().any(|&at| bytes.get(at) == Some(&b))),
                Err(ReadFault::Truncated { .. }) => prop_assert!(candidates.iter().any(|&at| at >= bytes.len())),
                Err(ReadFault::Excluded { .. }) => prop_assert!(candidates.is_empty() && memory),
                Err(fault) => {
                    prop_assert_eq!(fault, ReadFault::NoMemory { phys });
                    prop_assert!(!memory);
                }
            }
        }
    }

    #[test]
    fn mutated_headers_are_survived(at in 0usize..290, value in prop_oneof![Just(u64::MAX), Just(0), any::<u64>()], cut in 0usize..0x900) {
        let mut f = core(
            &[(4, 0x400, 0, 0, VMCOREINFO.len() as u64, 0), (1, 0x800, 0, 0, 0x10, 0x10), (1, 0x808, 0, 0x10, 0x8, 0x1000)],
            64,
            &[(0x400, VMCOREINFO), (0x800, &[1; 16])],
        );
        f[at..at + 8].copy_from_slice(&value.to_le_bytes());
        let cut = f[..cut.min(f.len())].to_vec();
        for f in [f, cut] {
            if let Ok(dump) = open(f) {
                for phys in [0, 8, 15, 16, 0x100f, 0x1010, value, value.wrapping_add(7)] {
                    let _ = read(&dump, phys);
                }
                let _ = (dump.incomplete(), dump.memory().physical_ranges(2), dump.name());
            }
        }
    }
}
