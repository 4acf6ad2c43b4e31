//! x86-64 page tables over a dump's physical memory: 4 or 5 levels, pages of
//! 4 KiB, 2 MiB and 1 GiB, SME's encryption bit masked.
//!
//! Source of the bits: Intel SDM vol. 3 chapter 4; `arch/x86/include/asm/pgtable_types.h`
//! for what Linux makes of entries that are not present.

use std::sync::Arc;

use super::AddressSpace;
use super::tlb::Tlb;
use crate::addr::{PAGE_SIZE, PhysAddr, VirtAddr};
use crate::dump::PhysicalMemory;
use crate::error::ReadFault;

const PRESENT: u64 = 1;
/// Page size: the entry maps memory, not a further table.
const PSE: u64 = 1 << 7;
/// `_PAGE_PROTNONE`: in an entry that is not present, bit 8 says that the page
/// is there all the same (mprotect(PROT_NONE), NUMA balancing).
const PROT_NONE: u64 = 1 << 8;
/// Bits 12..=51: the physical address in an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// What the walk needs to know of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paging {
    /// 4 or 5 levels.
    pub levels: u8,
    /// AMD's memory encryption bit as it stands in entries; 0 without SME.
    pub sme_mask: u64,
}

/// One entry met on the way down, for `vtop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// 1 is the page table, 5 the PML5.
    pub level: u8,
    /// Where the entry stands.
    pub entry: PhysAddr,
    /// The raw entry.
    pub value: u64,
}

/// Where a virtual address ends up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// The physical address.
    pub phys: PhysAddr,
    /// Bytes of the page that maps it: 4 KiB, 2 MiB or 1 GiB.
    pub page_size: u64,
    /// The leaf entry.
    pub entry: u64,
}

/// One tree of page tables.
pub struct PageTables {
    memory: Arc<dyn PhysicalMemory>,
    root: PhysAddr,
    paging: Paging,
    tlb: Tlb,
}

impl PageTables {
    /// The tree whose top table is at `root`.
    pub fn new(memory: Arc<dyn PhysicalMemory>, root: PhysAddr, paging: Paging) -> Self {
        let root = PhysAddr(root.0 & ADDRESS & !paging.sme_mask);
        Self { memory, root, paging, tlb: Tlb::default() }
    }

    /// Physical address of the top table: what CR3 holds.
    #[must_use]
    pub fn root(&self) -> PhysAddr {
        self.root
    }

    /// Levels and encryption bit.
    #[must_use]
    pub fn paging(&self) -> Paging {
        self.paging
    }

    /// The physical memory underneath.
    #[must_use]
    pub fn memory(&self) -> &Arc<dyn PhysicalMemory> {
        &self.memory
    }

    /// Walks the tables, telling `seen` of each entry on the way.
    pub fn walk(&self, addr: VirtAddr, seen: &mut dyn FnMut(Step)) -> Result<Mapping, ReadFault> {
        let bits = 12 + 9 * u32::from(self.paging.levels);
        // Canonical: all bits from the top translated one upwards are alike.
        let top = (addr.0.cast_signed()) >> (bits - 1);
        if top != 0 && top != -1 {
            return Err(ReadFault::NonCanonical { addr: addr.0 });
        }
        let mut table = self.root;
        for level in (1..=self.paging.levels).rev() {
            let shift = 12 + 9 * u32::from(level - 1);
            let entry_at = PhysAddr(table.0 + (addr.0 >> shift & 0x1ff) * 8);
            let mut raw = [0; 8];
            let fault = ReadFault::PageTable { addr: addr.0, level, phys: entry_at.0 };
            match self.memory.read_phys(entry_at, &mut raw) {
                Ok(8) => {}
                _ => return Err(fault),
            }
            let value = u64::from_le_bytes(raw);
            seen(Step { level, entry: entry_at, value });
            let leaf = level == 1 || (level <= 3 && value & PSE != 0);
            let mut target = value & ADDRESS;
            if value & PRESENT == 0 {
                if value == 0 || !leaf {
                    return Err(ReadFault::NotMapped { addr: addr.0, level });
                }
                if value & PROT_NONE == 0 {
                    return Err(ReadFault::Swapped { addr: addr.0, pte: value });
                }
                // Against L1TF the kernel stores the frame of such an entry
                // inverted (v4.19, 6b28baca9b1f, backported widely): no machine
                // has memory at the top of the range, so the top bit tells.
                if target >> 51 != 0 {
                    target = !target & ADDRESS;
                }
            }
            let target = target & !self.paging.sme_mask;
            if leaf {
                let page_size = 1u64 << shift;
                let phys = PhysAddr((target & !(page_size - 1)) | (addr.0 & (page_size - 1)));
                return Ok(Mapping { phys, page_size, entry: value });
            }
            table = PhysAddr(target);
        }
        // Not reached: level 1 always is a leaf.
        Err(ReadFault::NotMapped { addr: addr.0, level: 1 })
    }

    /// Translates one address.
    pub fn translate(&self, addr: VirtAddr) -> Result<PhysAddr, ReadFault> {
        let page = addr.0 & !(PAGE_SIZE - 1);
        let frame = match self.tlb.find(page) {
            Some(frame) => frame,
            None => {
                let frame = self.walk(addr, &mut |_| ())?.phys.0 & !(PAGE_SIZE - 1);
                self.tlb.insert(page, frame);
                frame
            }
        };
        Ok(PhysAddr(frame | addr.page_offset()))
    }
}

impl AddressSpace for PageTables {
    fn read_run(&self, addr: VirtAddr, buf: &mut [u8]) -> Result<usize, ReadFault> {
        let phys = self.translate(addr)?;
        let left = usize::try_from(PAGE_SIZE - addr.page_offset()).unwrap_or(0);
        let len = buf.len().min(left);
        self.memory.read_phys(phys, buf.get_mut(..len).unwrap_or_default())
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "the numbers of these tests are small")]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Frames of memory by number; each read stays within one.
    struct Frames(HashMap<u64, Vec<u8>>);

    impl PhysicalMemory for Frames {
        fn read_phys(&self, addr: PhysAddr, buf: &mut [u8]) -> Result<usize, ReadFault> {
            let frame = self.0.get(&addr.pfn().0).ok_or(ReadFault::NoMemory { phys: addr.0 })?;
            let at = addr.page_offset() as usize;
            let n = buf.len().min(frame.len() - at);
            buf[..n].copy_from_slice(&frame[at..at + n]);
            Ok(n)
        }
    }

    fn machine(entries: &[(u64, u64, u64)], data: &[(u64, u8)]) -> Arc<dyn PhysicalMemory> {
        let mut frames: HashMap<u64, Vec<u8>> = HashMap::new();
        for &(frame, index, value) in entries {
            let page = frames.entry(frame).or_insert_with(|| vec![0; 4096]);
            page[index as usize * 8..][..8].copy_from_slice(&value.to_le_bytes());
        }
        for &(frame, byte) in data {
            frames.insert(frame, vec![byte; 4096]);
        }
        Arc::new(Frames(frames))
    }

    const FOUR: Paging = Paging { levels: 4, sme_mask: 0 };

    #[test]
    fn small_large_and_huge_pages_are_found() {
        let memory = machine(
            &[
                (1, 0, 0x2003),
                (2, 0, 0x3003),
                (2, 1, 0x4000_0083), // 1 GiB
                (3, 0, 0x4003),
                (3, 1, 0x20_0083), // 2 MiB
                (4, 5, 0x9003),
            ],
            &[(9, 0xaa), (0x200, 0xbb)],
        );
        let tables = PageTables::new(memory, PhysAddr(0x1000), FOUR);
        assert_eq!(tables.translate(VirtAddr(0x5123)), Ok(PhysAddr(0x9123)));
        assert_eq!(tables.translate(VirtAddr(0x20_0456)), Ok(PhysAddr(0x20_0456)));
        assert_eq!(tables.translate(VirtAddr(0x4000_0789)), Ok(PhysAddr(0x4000_0789)));
        let mut two = [0; 2];
        tables.read_exact(VirtAddr(0x5ffe), &mut two).unwrap();
        assert_eq!(two, [0xaa; 2]);
    }

    #[test]
    fn a_read_stops_where_the_mapping_stops() {
        let memory = machine(&[(1, 0, 0x2003), (2, 0, 0x3003), (3, 0, 0x4003), (4, 5, 0x9003)], &[(9, 7)]);
        let tables = PageTables::new(memory, PhysAddr(0x1000), FOUR);
        let mut buf = [0; 32];
        assert_eq!(tables.read(VirtAddr(0x5ff0), &mut buf), Ok(16));
        assert_eq!(
            tables.read(VirtAddr(0x6000), &mut buf),
            Err(ReadFault::NotMapped { addr: 0x6000, level: 1 })
        );
    }

    #[test]
    fn absent_swapped_and_prot_none_are_told_apart() {
        let inverted = (!0x9000u64 & ADDRESS) | PROT_NONE;
        let memory = machine(
            &[
                (1, 0, 0x2003),
                (2, 0, 0x3003),
                (3, 0, 0x4003),
                (4, 1, 0x1234_5602 & !PROT_NONE),
                (4, 2, 0x9000 | PROT_NONE),
                (4, 3, inverted),
            ],
            &[(9, 7)],
        );
        let tables = PageTables::new(memory, PhysAddr(0x1000), FOUR);
        assert!(matches!(tables.translate(VirtAddr(0x1000)), Err(ReadFault::Swapped { .. })));
        assert_eq!(tables.translate(VirtAddr(0x2008)), Ok(PhysAddr(0x9008)));
        assert_eq!(tables.translate(VirtAddr(0x3008)), Ok(PhysAddr(0x9008)));
        assert!(matches!(tables.translate(VirtAddr(0x4000)), Err(ReadFault::NotMapped { level: 1, .. })));
        assert!(matches!(tables.translate(VirtAddr(1 << 39)), Err(ReadFault::NotMapped { level: 4, .. })));
        assert!(matches!(tables.translate(VirtAddr(1 << 50)), Err(ReadFault::NonCanonical { .. })));
    }

    #[test]
    fn the_encryption_bit_is_not_part_of_the_address() {
        let sme = 1u64 << 47;
        let memory = machine(
            &[(1, 0, 0x2003 | sme), (2, 0, 0x3003 | sme), (3, 0, 0x4003 | sme), (4, 0, 0x9003 | sme)],
            &[(9, 7)],
        );
        let tables = PageTables::new(memory, PhysAddr(0x1000 | sme), Paging { levels: 4, sme_mask: sme });
        assert_eq!(tables.translate(VirtAddr(0x10)), Ok(PhysAddr(0x9010)));
    }

    #[test]
    fn five_levels_reach_where_four_do_not() {
        let memory = machine(
            &[(1, 1, 0x2003), (2, 0, 0x3003), (3, 0, 0x4003), (4, 0, 0x5003), (5, 0, 0x9003)],
            &[(9, 7)],
        );
        let tables = PageTables::new(memory, PhysAddr(0x1000), Paging { levels: 5, sme_mask: 0 });
        assert_eq!(tables.translate(VirtAddr(1 << 48)), Ok(PhysAddr(0x9000)));
    }

    /// A table that is its own child ends the walk like any other.
    #[test]
    fn tables_that_point_to_themselves_do_not_loop() {
        let memory = machine(&[(1, 0, 0x1003)], &[]);
        let tables = PageTables::new(memory, PhysAddr(0x1000), FOUR);
        assert_eq!(tables.translate(VirtAddr(0x10)), Ok(PhysAddr(0x1010)));
    }
}
