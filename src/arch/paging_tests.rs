#![allow(clippy::cast_possible_truncation, reason = "the numbers of these tests are small")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Writes page tables. It shares no layout code with the walk: a virtual page is
/// a number whose digits to the base 512 name the entries, and an entry is a sum.
#[derive(Debug, Clone)]
struct Builder {
    frames: BTreeMap<u64, [u64; 512]>,
    levels: u32,
    free: u64,
    /// Added to every entry.
    extra: u64,
}

const ROOT: u64 = 1;
const PRESENT: u64 = 1;
const LARGE: u64 = 128;

impl Builder {
    fn new(levels: Levels, extra: u64) -> Self {
        let levels = if levels == Levels::Five { 5 } else { 4 };
        Self { frames: [(ROOT, [0; 512])].into(), levels, free: 2, extra }
    }

    /// Puts `entry` where the page with the number `page` has its entry of `level`.
    fn put(&mut self, root: u64, page: u64, level: u32, entry: u64) {
        let digit = |level: u32| (page / 512u64.pow(level - 1) % 512) as usize;
        let mut table = root;
        for above in (level + 1..=self.levels).rev() {
            let slot = self.frames.get_mut(&table).unwrap().get_mut(digit(above)).unwrap();
            if *slot == 0 {
                *slot = self.free * 4096 + PRESENT + self.extra;
                self.frames.insert(self.free, [0; 512]);
                self.free += 1;
            }
            let slot = self.frames[&table][digit(above)];
            table = (slot - PRESENT - self.extra) / 4096;
        }
        self.frames.get_mut(&table).unwrap()[digit(level)] = entry;
    }

    fn map(&mut self, page: u64, frame: u64, level: u32) {
        let large = if level > 1 { LARGE } else { 0 };
        self.put(ROOT, page, level, frame * 4096 + PRESENT + large + self.extra);
    }

    fn read(&self, at: PhysAddr, buf: &mut [u8]) -> Result<usize, Absence> {
        let words = self.frames.get(&(at.0 / 4096)).ok_or(Absence::NoMemory)?;
        let from = (at.0 % 4096) as usize;
        let len = buf.len().min(4096 - from);
        for (to, word) in buf.chunks_mut(8).zip(&words[from / 8..]) {
            to.copy_from_slice(&word.to_le_bytes()[..to.len()]);
        }
        Ok(len)
    }

    fn walk(&self, paging: Paging, root: u64, addr: u64) -> Result<Mapping, ReadFault> {
        walk(paging, PhysAddr(root * 4096), VirtAddr(addr), |_, at| {
            let mut word = [0; 8];
            self.read(at, &mut word).map(|_| u64::from_le_bytes(word))
        })
    }

    fn runs(
        &self,
        paging: Paging,
        start: u64,
        last: u64,
    ) -> Runs<impl FnMut(PhysAddr, &mut [u8]) -> Result<usize, Absence>> {
        let root = PhysAddr(ROOT * 4096);
        Runs::new(paging, root, VirtAddr(start), VirtAddr(last), |at, buf: &mut [u8]| self.read(at, buf))
    }
}

const FOUR: Paging = Paging { levels: Levels::Four, sme_mask: 0 };
const FIVE: Paging = Paging { levels: Levels::Five, sme_mask: 0 };
const SME: u64 = 1 << 47;

/// The address of page number `page`, as the CPU extends it.
fn address(page: u64, levels: Levels) -> u64 {
    let unused = if levels == Levels::Five { 7 } else { 16 };
    ((page * 4096) << unused).cast_signed().wrapping_shr(unused).cast_unsigned()
}

/// Runs lie end to end, as maximal as they may be, and each says what the walk of
/// its ends says.
fn tile(tables: &Builder, paging: Paging, start: u64, last: u64) -> Vec<Run> {
    let runs: Vec<Run> = tables.runs(paging, start, last).collect();
    let mut next = Some(start).filter(|s| *s <= last);
    for run in &runs {
        assert_eq!(Some(run.start.0), next);
        assert!(run.start <= run.last && run.last.0 <= last);
        next = run.last.0.checked_add(1).filter(|n| *n <= last);
        assert_eq!(run.to, tables.walk(paging, ROOT, run.start.0));
        for at in [run.last.0, run.start.0 + (run.last.0 - run.start.0) / 2] {
            match (run.to, tables.walk(paging, ROOT, at)) {
                (Ok(a), Ok(b)) => assert_eq!(a.phys.0 + (at - run.start.0), b.phys.0),
                (Err(a), Err(b)) => assert_eq!(std::mem::discriminant(&a), std::mem::discriminant(&b)),
                (a, b) => panic!("{a:x?} goes on as {b:x?}"),
            }
        }
    }
    assert_eq!(next, None);
    runs
}

#[derive(Debug, Clone, Copy)]
struct Page {
    page: u64,
    frame: u64,
    level: u32,
}

/// Pages of all sizes; near each other, so that some are neighbours, on both
/// sides of the hole between the halves.
fn pages(levels: Levels) -> impl Strategy<Value = Vec<Page>> {
    let count = if levels == Levels::Five { 1u64 << 45 } else { 1 << 36 };
    let near = prop_oneof![Just(0), Just(count / 2 - 4096), Just(count / 2), Just(count - 4096), 0..count];
    let page = (near, 0u64..1024, 0u64..1024, prop_oneof![8 => Just(1u32), 2 => Just(2), 1 => Just(3)]);
    let page = page.prop_map(move |(near, page, frame, level)| {
        let size = 512u64.pow(level - 1);
        let page = ((near + page) % count) / size * size;
        // Frames in step with pages make neighbours in both.
        let frame = if frame % 2 == 0 { page % 4096 + 0x10_0000 } else { 0x20_0000 + frame };
        Page { page, frame: frame / size * size, level }
    });
    prop::collection::vec(page, 0..40)
}

/// Builds those of `pages` that do not overlap others, and returns these.
fn build(pages: &[Page], levels: Levels, extra: u64) -> (Builder, Vec<Page>) {
    let mut tables = Builder::new(levels, extra);
    let mut taken: Vec<Page> = Vec::new();
    for &p in pages {
        let end = |p: &Page| p.page + 512u64.pow(p.level - 1);
        if taken.iter().all(|t| end(t) <= p.page || end(&p) <= t.page) {
            tables.map(p.page, p.frame, p.level);
            taken.push(p);
        }
    }
    (tables, taken)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_mapped_is_found_and_nothing_else(
        four in pages(Levels::Four), five in pages(Levels::Five), encrypted: bool, offset in 0u64..4096
    ) {
        for (pages, mut paging) in [(four, FOUR), (five, FIVE)] {
            paging.sme_mask = if encrypted { SME } else { 0 };
            let (tables, taken) = build(&pages, paging.levels, paging.sme_mask);
            for p in &taken {
                let size = 512u64.pow(p.level - 1) * 4096;
                let inside = offset * 4096 % size + offset;
                let found = tables.walk(paging, ROOT, address(p.page, paging.levels) + inside).unwrap();
                prop_assert_eq!((found.phys.0, found.page_size), (p.frame * 4096 + inside, size));
            }
            let runs = tile(&tables, paging, 0, u64::MAX);
            let mapped: u64 = runs.iter().filter(|r| r.to.is_ok()).map(|r| r.last.0 - r.start.0 + 1).sum();
            prop_assert_eq!(mapped, taken.iter().map(|p| 512u64.pow(p.level - 1) * 4096).sum::<u64>());
            // Neighbours are one run.
            prop_assert!(runs.windows(2).all(|w| !w[0].goes_on_as(&w[1])));
        }
    }

    #[test]
    fn runs_start_and_stop_anywhere(pages in pages(Levels::Four), a: u64, b: u64, small: bool) {
        let (tables, taken) = build(&pages, Levels::Four, 0);
        let base = taken.first().map_or(0, |p| address(p.page, Levels::Four));
        let (a, b) = if small { (base ^ (a % 0x40_0000), base ^ (b % 0x40_0000)) } else { (a, b) };
        tile(&tables, FOUR, a.min(b), a.max(b));
        prop_assert_eq!(tables.runs(FOUR, a.max(b), a.min(b)).count(), usize::from(a == b));
    }

    /// Tables of any words, which point at each other and at nothing.
    #[test]
    fn any_tables_are_survived(
        words in prop::collection::vec((0u64..8, 0usize..512, 0u64..10, any::<u64>()), 0..200),
        addrs in prop::collection::vec(any::<u64>(), 20), sme: u64, start: u64,
    ) {
        let mut tables = Builder::new(Levels::Five, 0);
        for (frame, index, target, noise) in words {
            let flags = noise & 0xfff | noise & SME;
            tables.frames.entry(frame).or_insert([0; 512])[index] = (target * 4096) | flags;
        }
        for paging in [FOUR, FIVE, Paging { sme_mask: sme, ..FOUR }] {
            for &addr in &addrs {
                let _ = tables.walk(paging, ROOT, addr);
            }
            let mut runs = tables.runs(paging, start, u64::MAX);
            runs.left = 1 << 12;
            let mut next = start;
            for run in runs {
                prop_assert_eq!(run.start.0, next);
                next = run.last.0.wrapping_add(1);
            }
            prop_assert_eq!(next, 0);
        }
    }
}

/// Every level leads to the same full table: more than can be gone through.
#[test]
fn endless_tables_end() {
    let mut tables = Builder::new(Levels::Four, 0);
    tables.frames.insert(ROOT, [ROOT * 4096 + PRESENT; 512]);
    let mut runs = tables.runs(FOUR, 0, u64::MAX);
    runs.left = 1000;
    let all: Vec<Run> = runs.collect();
    assert_eq!(all.len(), 501); // two steps a run: the second shows that it ended
    let last = all.last().unwrap();
    assert_eq!((last.to, last.last.0), (Err(ReadFault::Endless { addr: 500 << 12 }), u64::MAX));
    // One run of a hole that never ends stops in between, too.
    tables.frames.insert(7, [0; 512]);
    tables.frames.insert(6, [7 * 4096 + PRESENT; 512]);
    tables.frames.insert(ROOT, [6 * 4096 + PRESENT; 512]);
    let first = tables.runs(FIVE, 0, u64::MAX).next().unwrap();
    assert_eq!(first.last.0 + 1, u64::from(RUN_STEPS) << 30);
}

#[test]
fn absent_swapped_and_prot_none_are_told_apart() {
    let mut tables = Builder::new(Levels::Four, 0);
    tables.put(ROOT, 1, 1, 0x1234_5602);
    tables.put(ROOT, 2, 1, 0x9000 | 0x100);
    tables.put(ROOT, 3, 1, 0x000f_ffff_ffff_6000 | 0x100);
    let at = |addr| tables.walk(FOUR, ROOT, addr).map(|m| m.phys.0);
    assert_eq!(at(0x1000), Err(ReadFault::Swapped { addr: 0x1000, pte: 0x1234_5602 }));
    assert_eq!(at(0x2008), Ok(0x9008));
    assert_eq!(at(0x3008), Ok(0x9008));
    assert_eq!(at(0x4000), Err(ReadFault::NotMapped { addr: 0x4000, level: 1 }));
    assert_eq!(at(1 << 39), Err(ReadFault::NotMapped { addr: 1 << 39, level: 4 }));
    assert_eq!(at(1 << 50), Err(ReadFault::NonCanonical { addr: 1 << 50 }));
    // A table that the dump lacks.
    tables.put(ROOT, 1 << 27, 4, 99 * 4096 + PRESENT);
    let lost = ReadFault::PageTable { addr: 1 << 39, level: 3, phys: 99 * 4096, why: Absence::NoMemory };
    assert_eq!(tables.walk(FOUR, ROOT, 1 << 39), Err(lost));
}

/// Page-table isolation: the user's half of the pair lacks the kernel, and CR3
/// carries a PCID.
#[test]
fn both_halves_of_a_pair_are_walked() {
    let mut tables = Builder::new(Levels::Four, 0);
    let (kernel_half, user_half) = (20, 21);
    tables.frames.extend([(kernel_half, [0; 512]), (user_half, [0; 512])]);
    let kernel = 0xffff_8880_0000_0000;
    let of_kernel = kernel % (1 << 48) / 4096;
    tables.put(kernel_half, 5, 1, 0x7000 + PRESENT);
    tables.put(kernel_half, of_kernel, 1, 0x8000 + PRESENT);
    tables.put(user_half, 5, 1, 0x7000 + PRESENT);
    for (cr3, half, seen) in [(20 << 12 | 6, kernel_half, true), (21 << 12 | 0x806, user_half, false)] {
        assert_eq!(FOUR.table(cr3), PhysAddr(half * 4096));
        assert_eq!(tables.walk(FOUR, half, 0x5000).map(|m| m.phys.0), Ok(0x7000));
        assert_eq!(tables.walk(FOUR, half, kernel).is_ok(), seen);
    }
}

#[test]
fn a_right_is_what_every_level_grants() {
    let mut tables = Builder::new(Levels::Four, 6);
    for (page, entry) in [(1, PRESENT + 6), (2, PRESENT + 4), (3, PRESENT + 2), (4, 0x100 + 6)] {
        tables.put(ROOT, page, 1, page * 4096 + entry);
    }
    let rights = |tables: &Builder, at: u64| {
        let r = tables.walk(FOUR, ROOT, at).unwrap().rights;
        [r.user, r.read, r.write]
    };
    assert_eq!(rights(&tables, 0x1000), [true, true, true]);
    assert_eq!(rights(&tables, 0x2000), [true, true, false]);
    assert_eq!(rights(&tables, 0x3000), [false, true, true]);
    assert_eq!(rights(&tables, 0x4000), [true, false, true]);
    // Neighbours with other rights are other runs.
    assert_eq!(tables.runs(FOUR, 0x1000, 0x4fff).count(), 4);
    let top = tables.frames[&ROOT][0];
    tables.frames.get_mut(&ROOT).unwrap()[0] = top - 2;
    assert_eq!(rights(&tables, 0x1000), [true, true, false]);
}

#[test]
fn a_swap_entry_is_crashs() {
    // k6.1-oops, mtprog: /dev/zram0, 512.
    assert_eq!(Entry(0x07ff_ffff_fffb_fe02).swap(), (0, 512));
}
