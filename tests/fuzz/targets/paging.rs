//! Page tables of any words: the way down, and along.

use corestub::addr::{PhysAddr, VirtAddr};
use corestub::arch::Levels;
use corestub::arch::paging::{Paging, Runs, walk};
use corestub::error::Absence;

pub fn run(bytes: &[u8]) {
    let read = |at: PhysAddr, buf: &mut [u8]| {
        // Low frames only, so that tables find each other.
        let rest = bytes.get((at.0 & 0xffff) as usize..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        if len == 0 { Err(Absence::NoMemory) } else { Ok(len) }
    };
    let start = VirtAddr(bytes.iter().rev().take(8).fold(0, |v, &b| v << 8 | u64::from(b)));
    for levels in [Levels::Four, Levels::Five] {
        let paging = Paging { levels, sme_mask: 0 };
        let _ = walk(paging, PhysAddr(0), start, |_, at| {
            let mut word = [0; 8];
            read(at, &mut word).map(|_| u64::from_le_bytes(word))
        });
        let mut next = start;
        for run in Runs::new(paging, PhysAddr(0), start, VirtAddr(u64::MAX), read).take(3) {
            assert_eq!(run.start, next);
            let _ = run.to.map(|mapping| (mapping.entry.flags(true), mapping.entry.swap()));
            next = VirtAddr(run.last.0.wrapping_add(1));
        }
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let entries = (0..64u64).map(|i| (i % 16) << 12 | [0x63, 0xe3, 0, 0x67][i as usize % 4]);
    vec![entries.flat_map(u64::to_le_bytes).collect()]
}
