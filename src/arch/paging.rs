//! Page tables: what an entry means, the way down from the root, and the way
//! along, over everything that is mapped.
//!
//! Source of the bits: Intel SDM vol. 3 chapter 4; `arch/x86/include/asm/pgtable_types.h`
//! and `pgtable_64.h` for what Linux makes of entries that are not present.

use super::map::Levels;
use crate::addr::{PAGE_SHIFT, PhysAddr, VirtAddr};
use crate::bytes::u64_at;
use crate::error::{Absence, ReadFault};

#[cfg(test)]
#[path = "paging_tests.rs"]
mod tests;

/// Bits 12..=51: the physical address in an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Entries looked at for one [`Run`] at most, so that its receiver may stop in between.
const RUN_STEPS: u32 = 1 << 16;
/// Entries looked at by one [`Runs`] at most. Of pages of 4 KiB it is 16 TiB; only
/// damaged tables, which point at each other, have more.
const STEPS_MAX: u64 = 1 << 32;

/// What the walk needs to know of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paging {
    /// How deep the tables are.
    pub levels: Levels,
    /// AMD's memory encryption bit as it stands in entries; 0 without SME.
    pub sme_mask: u64,
}

impl Paging {
    /// The table that `word`, an entry or CR3, points to. Of CR3 the low bits are
    /// the PCID; with page-table isolation bit 12 is the user's half of the pair.
    #[must_use]
    pub fn table(self, word: u64) -> PhysAddr {
        PhysAddr(word & ADDRESS & !self.sme_mask)
    }
}

/// An entry of a page table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry(pub u64);

/// What an entry leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Nothing is mapped.
    Nothing,
    /// The page was swapped out.
    Swap,
    /// A table of the next lower level.
    Table(PhysAddr),
    /// A page.
    Page(PhysAddr),
}

impl Entry {
    const PRESENT: u32 = 0;
    const RW: u32 = 1;
    const USER: u32 = 2;
    /// The entry maps memory, not a further table; in a PTE it is PAT.
    const PSE: u32 = 7;
    /// `_PAGE_PROTNONE`: in an entry that is not present, bit 8 says that the page
    /// is there all the same (mprotect(PROT_NONE), NUMA balancing).
    const PROT_NONE: u32 = 8;

    fn has(self, bit: u32) -> bool {
        self.0 >> bit & 1 != 0
    }

    /// What this entry of a table of `level` leads to.
    #[must_use]
    pub fn target(self, level: u8, paging: Paging) -> Target {
        let leaf = level == 1 || (level <= 3 && self.has(Self::PSE));
        let mut word = self.0;
        if !self.has(Self::PRESENT) {
            if word == 0 || !leaf {
                return Target::Nothing;
            }
            if !self.has(Self::PROT_NONE) {
                return Target::Swap;
            }
            // Against L1TF the kernel stores the frame of such an entry
            // inverted (v4.19, 6b28baca9b1f, backported widely): no machine
            // has memory at the top of the range, so the top bit tells.
            if self.has(51) {
                word = !word;
            }
        }
        let table = paging.table(word);
        if leaf { Target::Page(PhysAddr(table.0 & !(span(level) - 1))) } else { Target::Table(table) }
    }

    /// Area and offset of the swap entry. Since 4.18 (6b28baca9b1f) the offset is
    /// kept inverted, against L1TF.
    #[must_use]
    pub fn swap(self) -> (u64, u64) {
        (self.0 >> 59, (!self.0 << 5) >> 14)
    }

    /// Its flags in crash's words. `large` says that it maps more than 4 KiB.
    #[must_use]
    pub fn flags(self, large: bool) -> Vec<&'static str> {
        let present = self.has(Self::PRESENT);
        [
            (present, "PRESENT"),
            (self.has(Self::RW), "RW"),
            (self.has(Self::USER), "USER"),
            (self.has(3), "PWT"),
            (self.has(4), "PCD"),
            (self.has(5), "ACCESSED"),
            (self.has(6), "DIRTY"),
            (self.has(Self::PSE) && present && large, "PSE"),
            (self.has(Self::PSE) && present && !large, "PAT"),
            (self.has(Self::PROT_NONE) && !present, "PROTNONE"),
            (self.has(Self::PROT_NONE) && present, "GLOBAL"),
            (self.has(63), "NX"),
        ]
        .into_iter()
        .filter_map(|(on, word)| on.then_some(word))
        .collect()
    }
}

/// How far the index into a table of `level` is from the bottom of an address.
const fn shift(level: u8) -> u32 {
    PAGE_SHIFT + 9 * (level.saturating_sub(1) as u32)
}

/// Bytes that one entry of a table of `level` covers.
const fn span(level: u8) -> u64 {
    1 << shift(level)
}

/// What the entries on the way to a page allow: each of them must.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights {
    /// Not where `PROT_NONE` hides the page.
    pub read: bool,
    /// Writing.
    pub write: bool,
    /// User mode.
    pub user: bool,
}

/// Where a virtual address ends up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// The physical address.
    pub phys: PhysAddr,
    /// Bytes of the page that maps it: 4 KiB, 2 MiB or 1 GiB.
    pub page_size: u64,
    /// The leaf entry.
    pub entry: Entry,
    /// What may be done there.
    pub rights: Rights,
}

/// Follows `addr` down from the table at `root`. `read` gives the word of a table
/// of a level (1 is the page table, 5 the PML5), or why there is none; it may keep
/// what it sees.
pub fn walk(
    paging: Paging,
    root: PhysAddr,
    addr: VirtAddr,
    mut read: impl FnMut(u8, PhysAddr) -> Result<u64, Absence>,
) -> Result<Mapping, ReadFault> {
    if !paging.levels.canonical(addr) {
        return Err(ReadFault::NonCanonical { addr: addr.0 });
    }
    let mut table = root;
    let mut rights = Rights { read: true, write: true, user: true };
    for level in (1..=paging.levels.count()).rev() {
        let at = PhysAddr(table.0 + (addr.0 >> shift(level) & 0x1ff) * 8);
        let lost = |why| ReadFault::PageTable { addr: addr.0, level, phys: at.0, why };
        let word = read(level, at).map_err(lost)?;
        let entry = Entry(word);
        rights.read &= entry.has(Entry::PRESENT);
        rights.write &= entry.has(Entry::RW);
        rights.user &= entry.has(Entry::USER);
        match entry.target(level, paging) {
            Target::Nothing => return Err(ReadFault::NotMapped { addr: addr.0, level }),
            Target::Swap => return Err(ReadFault::Swapped { addr: addr.0, pte: word }),
            Target::Table(next) => table = next,
            Target::Page(page) => {
                let page_size = span(level);
                let phys = PhysAddr(page.0 | addr.0 & (page_size - 1));
                return Ok(Mapping { phys, page_size, entry, rights });
            }
        }
    }
    // Not reached: an entry of level 1 leads to no table.
    Err(ReadFault::NotMapped { addr: addr.0, level: 1 })
}

/// Addresses in a row that are mapped to physical addresses in a row, with the same
/// rights, or are not mapped for one kind of reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first address.
    pub start: VirtAddr,
    /// The last.
    pub last: VirtAddr,
    /// Where the first address ends up.
    pub to: Result<Mapping, ReadFault>,
}

impl Run {
    /// Whether `next`, which begins where this one ends, is more of the same.
    fn goes_on_as(&self, next: &Self) -> bool {
        match (self.to, next.to) {
            (Ok(a), Ok(b)) => a.phys.0 + (next.start.0 - self.start.0) == b.phys.0 && a.rights == b.rights,
            (Err(a), Err(b)) => std::mem::discriminant(&a) == std::mem::discriminant(&b),
            _ => false,
        }
    }
}

/// All addresses from one to another, as [`Run`]s without a gap. Each table is
/// read once in a row; `read` fills a buffer from physical memory and says how
/// much of it, or why nothing.
pub struct Runs<R> {
    paging: Paging,
    root: PhysAddr,
    read: R,
    next: Option<VirtAddr>,
    last: VirtAddr,
    tables: [Table; 5],
    left: u64,
}

/// The table of one level that was read last.
#[derive(Clone)]
struct Table {
    at: Option<PhysAddr>,
    bytes: Vec<u8>,
    absence: Absence,
}

impl<R: FnMut(PhysAddr, &mut [u8]) -> Result<usize, Absence>> Runs<R> {
    /// Runs from `start` up to and with `last`.
    pub fn new(paging: Paging, root: PhysAddr, start: VirtAddr, last: VirtAddr, read: R) -> Self {
        let tables = std::array::from_fn(|_| Table { at: None, bytes: Vec::new(), absence: Absence::Lost });
        let next = Some(start).filter(|s| *s <= last);
        Self { paging, root, read, next, last, tables, left: STEPS_MAX }
    }

    /// What one entry says of `start` and the addresses behind it.
    fn step(&mut self, start: VirtAddr) -> Run {
        let mut at_level = 0;
        let (tables, read) = (&mut self.tables, &mut self.read);
        let to = walk(self.paging, self.root, start, |level, at| {
            at_level = level;
            tables.get_mut(usize::from(level - 1)).ok_or(Absence::NoMemory)?.word(at, read)
        });
        let last = match to {
            Err(ReadFault::NonCanonical { .. }) => self.paging.levels.kernel_start().0 - 1,
            _ => start.0 | (span(at_level) - 1),
        };
        Run { start, last: VirtAddr(last).min(self.last), to }
    }
}

impl Table {
    fn word(
        &mut self,
        at: PhysAddr,
        read: &mut impl FnMut(PhysAddr, &mut [u8]) -> Result<usize, Absence>,
    ) -> Result<u64, Absence> {
        let page = PhysAddr(at.0 - at.page_offset());
        if self.at != Some(page) {
            self.bytes.resize(4096, 0);
            let got = read(page, &mut self.bytes);
            self.absence = got.err().unwrap_or(Absence::Lost);
            self.bytes.truncate(got.unwrap_or(0));
            self.at = Some(page);
        }
        let at = usize::try_from(at.page_offset()).unwrap_or(usize::MAX);
        u64_at(&self.bytes, at).ok_or(self.absence)
    }
}

impl<R: FnMut(PhysAddr, &mut [u8]) -> Result<usize, Absence>> Iterator for Runs<R> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        let start = self.next?;
        if self.left == 0 {
            self.next = None;
            return Some(Run { start, last: self.last, to: Err(ReadFault::Endless { addr: start.0 }) });
        }
        let mut run = self.step(start);
        let mut steps = 1;
        loop {
            self.next = run.last.checked_add(1).filter(|next| *next <= self.last);
            let Some(next) = self.next.filter(|_| steps < RUN_STEPS) else { break };
            let more = self.step(next);
            steps += 1;
            if !run.goes_on_as(&more) {
                break;
            }
            run.last = more.last;
        }
        self.left = self.left.saturating_sub(steps.into());
        Some(run)
    }
}
