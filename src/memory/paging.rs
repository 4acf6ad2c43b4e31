//! The page tables of a dump as an address space: [`crate::arch::paging`] over its
//! physical memory, with a cache of translations.
//!
//! Where a table itself is lost, the kernel's own map can still be known without it:
//! the direct map and the kernel's image lie in physical memory in a row
//! ([`Linear`]), and what was allocated page by page is listed by the allocator
//! ([`PageTables::know_listed`]). Such an address is *computed*: [`PageTables::computed`]
//! says by what. The word of a table that can be read always counts more.

use std::fmt;
use std::sync::{Arc, OnceLock};

use super::AddressSpace;
use crate::addr::{PAGE_SIZE, PhysAddr, VirtAddr};
use crate::arch::paging::{Entry, Mapping, Paging, Run, Runs, walk};
use crate::direct_mapped::DirectMapped;
use crate::dump::PhysicalMemory;
use crate::error::{Absence, ReadFault};

/// One entry met on the way down, for `vtop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// 1 is the page table, 5 the PML5.
    pub level: u8,
    /// Where the entry stands.
    pub at: PhysAddr,
    /// The entry.
    pub entry: Entry,
}

/// By what an address is computed whose table is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// The kernel's image, by `phys_base`.
    Image,
    /// The map of all memory, by `page_offset_base`.
    DirectMap,
    /// vmalloc's list of the pages that it mapped.
    VmStruct,
}

impl fmt::Display for Basis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Image => "phys_base",
            Self::DirectMap => "page_offset_base",
            Self::VmStruct => "the pages that its vm_struct lists",
        })
    }
}

/// Addresses that lie in physical memory in a row.
#[derive(Debug, Clone, Copy)]
pub struct Linear {
    /// How that is known.
    pub basis: Basis,
    /// The first address.
    pub start: VirtAddr,
    /// How many bytes.
    pub len: u64,
    /// Where the first byte is.
    pub phys: PhysAddr,
}

/// Where vmalloc put the page of an address.
type Listed = Box<dyn Fn(VirtAddr) -> Option<PhysAddr> + Send + Sync>;

/// One tree of page tables.
pub struct PageTables {
    memory: Arc<dyn PhysicalMemory>,
    root: PhysAddr,
    paging: Paging,
    /// Page -> frame address.
    tlb: DirectMapped<u64, 64>,
    linear: Vec<Linear>,
    /// By all areas, and by the stacks of tasks.
    listed: [OnceLock<Listed>; 2],
    /// False where nothing tells where the tables are.
    known: bool,
}

impl PageTables {
    /// The tree whose top table is at `root`.
    pub fn new(memory: Arc<dyn PhysicalMemory>, root: PhysAddr, paging: Paging) -> Self {
        let (linear, listed) = (Vec::new(), Default::default());
        Self {
            memory,
            root: paging.table(root.0),
            paging,
            tlb: DirectMapped::default(),
            linear,
            listed,
            known: true,
        }
    }

    /// No tables at all: nothing can be translated.
    #[must_use]
    pub fn unknown(memory: Arc<dyn PhysicalMemory>, paging: Paging) -> Self {
        Self { known: false, ..Self::new(memory, PhysAddr(0), paging) }
    }

    /// Adds what is known without tables.
    pub fn know(&mut self, linear: Linear) {
        self.linear.push(linear);
    }

    /// Where all memory is mapped in a row, if that is known.
    #[must_use]
    pub fn direct_map(&self) -> Option<VirtAddr> {
        self.linear.iter().find(|l| l.basis == Basis::DirectMap).map(|l| l.start)
    }

    /// Where memory ends that is mapped in a row, if that is known.
    #[must_use]
    pub fn memory_end(&self) -> Option<u64> {
        let direct = self.linear.iter().find(|l| l.basis == Basis::DirectMap)?;
        direct.phys.0.checked_add(direct.len)
    }

    /// What is known of memory that was allocated page by page; asked only for an
    /// address whose table is lost.
    pub fn know_listed(&self, listed: impl Fn(VirtAddr) -> Option<PhysAddr> + Send + Sync + 'static) {
        let free = self.listed.iter().find(|l| l.get().is_none());
        let _ = free.map(|l| l.set(Box::new(listed)));
    }

    /// The same tables without [`Self::know_listed`]: for whoever reads that list.
    #[must_use]
    pub fn unlisted(&self) -> Self {
        let linear = self.linear.clone();
        let known = self.known;
        Self { linear, known, ..Self::new(Arc::clone(&self.memory), self.root, self.paging) }
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
        if !self.known {
            return Err(ReadFault::NoTables { addr: addr.0 });
        }
        walk(self.paging, self.root, addr, |level, at| {
            let mut raw = [0; 8];
            match self.memory.read_phys(at, &mut raw) {
                Ok(8) => {}
                Ok(_) => return Err(Absence::Lost),
                Err(fault) => return Err(fault.absence()),
            }
            let word = u64::from_le_bytes(raw);
            seen(Step { level, at, entry: Entry(word) });
            Ok(word)
        })
    }

    /// What is mapped where, from `start` up to and with `last`.
    pub fn runs(&self, start: VirtAddr, last: VirtAddr) -> impl Iterator<Item = Run> {
        let read = |at, buf: &mut [u8]| self.memory.read_phys(at, buf).map_err(ReadFault::absence);
        let runs = Runs::new(self.paging, self.root, start, last, read);
        runs.take(if self.known { usize::MAX } else { 0 })
    }

    /// Where an address must be whose table is lost, and by what that is known.
    #[must_use]
    pub fn computed(&self, addr: VirtAddr) -> Option<(PhysAddr, Basis)> {
        let within = |l: &&Linear| addr.0.wrapping_sub(l.start.0) < l.len;
        if let Some(linear) = self.linear.iter().find(within) {
            let phys = linear.phys.0.checked_add(addr.0 - linear.start.0)?;
            return Some((PhysAddr(phys), linear.basis));
        }
        let phys = self.listed.iter().filter_map(OnceLock::get).find_map(|listed| listed(addr))?;
        Some((phys, Basis::VmStruct))
    }

    /// Translates one address.
    pub fn translate(&self, addr: VirtAddr) -> Result<PhysAddr, ReadFault> {
        let page = addr.0 & !(PAGE_SIZE - 1);
        let frame = match self.tlb.find(page / PAGE_SIZE) {
            Some(frame) => frame,
            None => {
                let phys = match self.walk(addr, &mut |_| ()) {
                    Ok(mapping) => mapping.phys,
                    Err(lost @ ReadFault::PageTable { .. }) => self.computed(addr).ok_or(lost)?.0,
                    Err(fault) => return Err(fault),
                };
                let frame = phys.0 & !(PAGE_SIZE - 1);
                self.tlb.insert(page / PAGE_SIZE, frame);
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
mod tests {
    use super::*;
    use crate::arch::Levels;

    /// Tables in frames 1 to 4 that map page 5 to frame 9, full of sevens.
    struct Frames;

    impl PhysicalMemory for Frames {
        fn read_phys(&self, addr: PhysAddr, buf: &mut [u8]) -> Result<usize, ReadFault> {
            let mut frame = [0u8; 4096];
            let (index, entry) = match addr.pfn().0 {
                n @ 1..=3 => (0, (n + 1) << 12 | 3),
                4 => (5, 9 << 12 | 3),
                9 => (0, 0x0707_0707_0707_0707),
                _ => return Err(ReadFault::NoMemory { phys: addr.0 }),
            };
            frame[index * 8..][..8].copy_from_slice(&u64::to_le_bytes(entry));
            if addr.pfn().0 == 9 {
                frame.fill(7);
            }
            let at = usize::try_from(addr.page_offset()).unwrap();
            let n = buf.len().min(4096 - at);
            buf[..n].copy_from_slice(&frame[at..at + n]);
            Ok(n)
        }
    }

    #[test]
    fn a_read_stops_where_the_mapping_stops() {
        let paging = Paging { levels: Levels::Four, sme_mask: 0 };
        let tables = PageTables::new(Arc::new(Frames), PhysAddr(0x1000), paging);
        let mut buf = [0; 32];
        assert_eq!(tables.read(VirtAddr(0x5ff0), &mut buf), Ok(16));
        assert_eq!(buf[..16], [7; 16]);
        let lost = ReadFault::NotMapped { addr: 0x6000, level: 1 };
        assert_eq!(tables.read(VirtAddr(0x6000), &mut buf), Err(lost));
        assert_eq!(tables.read_exact(VirtAddr(0x5ff0), &mut buf), Err(lost));
        let mapped: Vec<Run> =
            tables.runs(VirtAddr(0), VirtAddr(u64::MAX)).filter(|r| r.to.is_ok()).collect();
        assert_eq!(mapped.len(), 1);
        assert_eq!((mapped[0].start.0, mapped[0].last.0), (0x5000, 0x5fff));
    }
}
