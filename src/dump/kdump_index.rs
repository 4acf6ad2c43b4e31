//! Which descriptor is which page's, where a kdump's bitmap is damaged.
//!
//! A page's descriptor is found by counting the bits before its own, so that one flipped
//! bit of the bitmap moves all pages behind it, and each would be served as another. But
//! many pages tell their own address: an empty `struct list_head` points to itself, twice.
//! In memory that the kernel maps as a whole this is `page_offset_base`, a multiple of
//! 1 GiB, and the physical address. A few pages are asked when the dump is opened, and
//! many when those, or the headers, contradict the bitmap. Between two pages that are as
//! far beside their places all others are as well; between two that are not, a bit is
//! wrong, and the pages of the kernel's image are asked, too ([`super::kdump_image`]). Where
//! no other bit can be the wrong one it is turned back; else which page is which is not
//! known from the first to the last that can.
//!
//! Sources: `include/linux/list.h`, `arch/x86/mm/kaslr.c`; the order of what is in the
//! file: makedumpfile `write_kdump_pages_and_bitmap_cyclic()`, QEMU `dump/dump.c`.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::kdump_image::Pointers;
use crate::addr::PAGE_SIZE;

/// Pages that are asked of a dump in which nothing is wrong.
const FEW: u64 = 32;
/// And where something is.
const MANY: u64 = 4096;
/// How many pages from there on are tried for one that tells its address.
const TRIES: u64 = 8;
/// Pages that are decoded in all ...
const BUDGET: u32 = 3 << 14;
/// ... and those of the kernel's image besides.
const IMAGE_BUDGET: u32 = 1 << 14;
/// So many bits more or less than there were are believed.
const SHIFT_MAX: u64 = 64;
/// So many of the kernel's pages may be mistaken where they change their minds.
const MISTAKEN: usize = 3;
/// Where the kernel maps all memory, at the lowest and wherever KASLR puts it.
const DIRECT_MAP: Range<u64> = 0xff11_0000_0000_0000..0xffff_e000_0000_0000;
const DIRECT_MAP_ALIGN: u64 = 1 << 30;
/// Runs of bits between two pages that are looked at.
pub(super) const RUNS_MAX: usize = 1 << 12;

/// A piece of a dump, as its bitmap has it.
pub(super) trait Ranked {
    /// Descriptors in it.
    fn count(&self) -> Option<u64>;
    /// The descriptor that the bitmap gives the page frame `pfn`.
    fn rank(&self, pfn: u64) -> Option<u64>;
    /// The page frame to which the bitmap gives descriptor `index`.
    fn select(&self, index: u64) -> Option<u64>;
    /// The page of descriptor `index`, decoded.
    fn page(&self, index: u64) -> Option<[u8; 4096]>;
    /// Whether what is beside the bitmap contradicts it.
    fn contradicted(&self) -> bool;
    /// How many descriptors there are by what is beside the bitmap, and the first page frame behind theirs.
    fn end(&self) -> Option<(u64, u64)>;
    /// Where the map of the kernel's image begins in memory.
    fn phys_base(&self) -> Option<i64>;
    /// Runs of those bits of `pfns` that can be `wrong`; at most [`RUNS_MAX`], the last of which then reaches
    /// to the end of the last. `None` where they cannot be read.
    fn suspects(&self, pfns: Range<u64>, wrong: Wrong) -> Option<Vec<(u64, u64)>>;
}

/// What is wrong about bits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    /// They are not set, of pages that are in the dump.
    Lost,
    /// They are set, of pages that are not.
    Added,
}

/// How far descriptors are beside the places that the bitmap gives them.
pub(super) struct Shifts {
    /// `page_offset_base`.
    base: u64,
    /// Page frames by what is to be taken from their rank, in order; what is between is not known.
    /// Empty where the bitmap is as the pages say.
    known: Vec<(Range<u64>, i64)>,
    /// The page frames whose bits are wrong for certain, in order.
    turned: Vec<u64>,
}

/// A page that told its address.
#[derive(Clone, Copy)]
pub(super) struct Told {
    index: u64,
    pfn: u64,
    shift: i64,
}

impl Shifts {
    /// `None` where no page says anything.
    pub(super) fn find(piece: &dyn Ranked) -> Option<Self> {
        Self::ask(piece, if piece.contradicted() { MANY } else { FEW }, None)
    }

    /// As [`Self::find`], where what the pages hold makes no sense; `None` if the bitmap is right.
    pub(super) fn look_closer(piece: &dyn Ranked) -> Option<Self> {
        Self::ask(piece, MANY, None).filter(|found| !found.none())
    }

    /// A bitmap that is believed, where all memory is mapped at `base`.
    pub(super) fn believed(base: u64) -> Self {
        Self { base, known: Vec::new(), turned: Vec::new() }
    }

    /// Where all memory is mapped.
    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// Whether the bitmap is as the pages say.
    pub(super) fn none(&self) -> bool {
        self.known.is_empty()
    }

    /// `also` is a page that was read, and where all memory is mapped.
    fn ask(piece: &dyn Ranked, points: u64, also: Option<(Told, u64)>) -> Option<Self> {
        let (also, base) = also.unzip();
        let mut asking = Asking { piece, left: BUDGET, base, pointers: None };
        if points < MANY {
            let told = asking.sample(points)?;
            if told.iter().all(|t| t.shift == 0) {
                return Some(Self::believed(asking.base?));
            }
        }
        asking.pointers = piece.phys_base().map(Pointers::new);
        let mut told = asking.sample(MANY)?;
        if also.is_none() && told.iter().all(|t| t.shift == 0) {
            return Some(Self::believed(asking.base?));
        }
        told.extend(also);
        told.sort_by_key(|t| t.index);
        let (told, base) = (asking.narrow(told), asking.base?);
        if also.is_some_and(|also| told.iter().filter(|t| t.shift == also.shift).count() < 2) {
            return None;
        }
        let mut known: Vec<(Range<u64>, i64)> = vec![(0..0, 0)];
        for t in told {
            match known.last_mut() {
                Some((pfns, shift)) if *shift == t.shift => pfns.end = t.pfn + 1,
                _ => known.push((t.pfn..t.pfn + 1, t.shift)),
            }
        }
        if let Some((pfns, _)) = known.last_mut() {
            pfns.end = u64::MAX;
        }
        let mut found = Self::believed(base);
        for (pfns, shift) in known {
            found.follow(piece, pfns, shift);
        }
        Some(found)
    }

    /// Adds page frames that are known, and what the bits themselves tell of those before them.
    fn follow(&mut self, piece: &dyn Ranked, mut pfns: Range<u64>, shift: i64) {
        let Some((before, from)) = self.known.last_mut() else { return self.known.push((pfns, shift)) };
        let more = shift - *from;
        let wrong = if more < 0 { Wrong::Lost } else { Wrong::Added };
        let between = before.end..pfns.start;
        let runs = piece.suspects(between.clone(), wrong).unwrap_or_default();
        let count: u64 = runs.iter().map(|(_, len)| len).sum();
        if count == more.unsigned_abs() && runs.len() < RUNS_MAX {
            // All of them are wrong, and no other.
            let mut from = *from;
            for pfn in runs.iter().flat_map(|&(first, len)| first..first + len) {
                if let Some((pfns, _)) = self.known.last_mut() {
                    pfns.end = pfn + 1;
                }
                from += more.signum();
                self.known.push((pfn + 1..pfn + 1, from));
                self.turned.push(pfn);
            }
            if let Some((known, _)) = self.known.last_mut() {
                known.end = pfns.end;
            }
            return;
        }
        // A bit that was added may be any that is set; one that is lost is among the others.
        if let (Wrong::Lost, Some(&(first, _)), Some(&(last, len))) = (wrong, runs.first(), runs.last())
            && count > more.unsigned_abs()
        {
            before.end = first;
            pfns.start = last + len;
        }
        self.known.push((pfns, shift));
    }

    /// What is to be taken from the rank of `pfn`; `None` where that is not known.
    pub(super) fn of(&self, pfn: u64) -> Option<i64> {
        if self.none() {
            return Some(0);
        }
        let (pfns, shift) = super::last_from(&self.known, pfn, |(pfns, _)| pfns.start)?;
        pfns.contains(&pfn).then_some(*shift)
    }

    /// Whether the bit of `pfn` is wrong for certain.
    pub(super) fn turned(&self, pfn: u64) -> bool {
        self.turned.binary_search(&pfn).is_ok()
    }

    /// What `page` tells, which is to be that of `pfn` and says that it is another: two bits that
    /// turned over near each other may have escaped [`Self::find`].
    pub(super) fn contradiction(&self, piece: &dyn Ranked, pfn: u64, page: &[u8; 4096]) -> Option<Told> {
        let own = own_address(page).filter(|own| own.wrapping_sub(self.base) != pfn * PAGE_SIZE)?;
        let index = piece.rank(pfn)?.checked_add_signed(self.of(pfn)?.checked_neg()?)?;
        told_by(piece, self.base, index, own)
    }

    /// As [`Self::find`], where `told` says that there is something to be found; `None` where no
    /// other page agrees.
    pub(super) fn find_by(&self, piece: &dyn Ranked, told: Told) -> Option<Self> {
        Self::ask(piece, MANY, Some((told, self.base)))
    }

    /// The page frames about which nothing is known.
    pub(super) fn unknown(&self) -> impl Iterator<Item = Range<u64>> {
        let between = self.known.iter().zip(self.known.iter().skip(1)).map(|((a, _), (b, _))| a.end..b.start);
        between.filter(|pfns| !pfns.is_empty())
    }

    /// The page frames whose bits are wrong for certain.
    pub(super) fn turned_back(&self) -> &[u64] {
        &self.turned
    }
}

struct Asking<'a> {
    piece: &'a dyn Ranked,
    left: u32,
    /// `page_offset_base`, once it is known.
    base: Option<u64>,
    /// What the pages that were asked point to, if it is to be known.
    pointers: Option<Pointers>,
}

impl Asking<'_> {
    /// Pages at about `points` places, as far as they tell their addresses.
    fn sample(&mut self, points: u64) -> Option<Vec<Told>> {
        let count = self.piece.count()?;
        let stride = (count / points).max(1);
        let claims: Vec<(u64, u64)> = (0..count)
            .step_by(usize::try_from(stride).ok()?)
            .filter_map(|from| self.first(from..count.min(from.saturating_add(stride.min(TRIES)))))
            .collect();
        let base = match self.base {
            Some(base) => base,
            None => *self.base.insert(self.vote(&claims)?),
        };
        let told = claims.iter().filter_map(|&(index, page)| told_by(self.piece, base, index, page));
        Some(in_order(told.chain(end(self.piece))))
    }

    /// Where all memory is mapped: most pages are right about that.
    fn vote(&self, claims: &[(u64, u64)]) -> Option<u64> {
        let mut votes: HashMap<u64, u32> = HashMap::new();
        for &(index, page) in claims {
            let Some(pfn) = self.piece.select(index) else { continue };
            let base = page.wrapping_sub(pfn * PAGE_SIZE).wrapping_add(DIRECT_MAP_ALIGN / 2)
                & !(DIRECT_MAP_ALIGN - 1);
            if told_by(self.piece, base, index, page).is_some() {
                *votes.entry(base).or_default() += 1;
            }
        }
        let (base, votes) = votes.into_iter().max_by_key(|&(_, votes)| votes)?;
        (votes > 2).then_some(base)
    }

    /// The first of the descriptors whose page tells its address, and that.
    fn first(&mut self, mut range: Range<u64>) -> Option<(u64, u64)> {
        range.find_map(|index| Some((index, self.claim(index)?)))
    }

    fn claim(&mut self, index: u64) -> Option<u64> {
        own_address(&self.page(index)?)
    }

    fn page(&mut self, index: u64) -> Option<[u8; 4096]> {
        self.left = self.left.checked_sub(1)?;
        let page = self.piece.page(index)?;
        if let Some(pointers) = &mut self.pointers {
            pointers.collect(&page);
        }
        Some(page)
    }

    /// More pages, between those that are not as far beside their places.
    fn narrow(&mut self, told: Vec<Told>) -> Vec<Told> {
        let own = self.between(told, |asking, last, next| {
            let mut more = Vec::new();
            for index in last.index.saturating_add(1)..next.index {
                if asking.left == 0 {
                    break;
                }
                let told = asking.claim(index).zip(asking.base);
                more.extend(told.and_then(|(own, base)| told_by(asking.piece, base, index, own)));
            }
            more
        });
        self.left = self.left.max(IMAGE_BUDGET);
        self.between(own, Self::in_image)
    }

    /// `told`, and `more` of what is between two that are not as far beside their places.
    fn between(&mut self, told: Vec<Told>, more: impl Fn(&mut Self, Told, Told) -> Vec<Told>) -> Vec<Told> {
        let mut out: Vec<Told> = Vec::new();
        // What is before the first page is where it is to be.
        let mut last = Told { index: 0, pfn: 0, shift: 0 };
        for next in told {
            if next.shift != last.shift {
                out.extend(more(self, last, next));
            }
            out.push(next);
            last = next;
        }
        in_order(out.into_iter())
    }

    /// Pages of the kernel's image between `last` and `next`, each as far beside its place as one of these.
    fn in_image(&mut self, last: Told, next: Told) -> Vec<Told> {
        let places = self.places(last, next);
        let mut told: Vec<Told> = Vec::new();
        for (&index, places) in places.range(last.index.saturating_add(1)..next.index.max(last.index + 1)) {
            let Some(page) = self.page(index) else { continue };
            let place = self.pointers.as_ref().and_then(|all| all.place(&page, places));
            told.extend(place.map(|(pfn, shift)| Told { index, pfn, shift }));
        }
        // One in a thousand is mistaken: the bit is where the least of them are.
        let mut mistaken = told.iter().filter(|t| t.shift == last.shift).count();
        let (mut least, mut split) = (mistaken, 0);
        for (i, t) in (1..).zip(&told) {
            mistaken = if t.shift == last.shift { mistaken - 1 } else { mistaken + 1 };
            if mistaken < least {
                (least, split) = (mistaken, i);
            }
        }
        let (before, after) = told.split_at(split);
        let before =
            before.iter().take(before.len().saturating_sub(MISTAKEN)).filter(|t| t.shift == last.shift);
        let after = after.iter().skip(MISTAKEN).filter(|t| t.shift == next.shift);
        before.chain(after).copied().collect()
    }

    /// Which page frames of the kernel's image a descriptor between `last` and `next` may be of, by its index.
    fn places(&self, last: Told, next: Told) -> BTreeMap<u64, Vec<(u64, i64)>> {
        let mut places: BTreeMap<u64, Vec<(u64, i64)>> = BTreeMap::new();
        let between = last.pfn..next.pfn.max(last.pfn);
        for pfn in self.pointers.iter().flat_map(|all| all.pfns(between.clone())) {
            let Some(rank) = set_rank(self.piece, pfn) else { continue };
            for shift in [last.shift, next.shift] {
                let Some(index) = rank.checked_add_signed(-shift) else { continue };
                places.entry(index).or_default().push((pfn, shift));
            }
        }
        places
    }
}

/// What the page of descriptor `index` tells, which says that it is mapped at `page`.
fn told_by(piece: &dyn Ranked, base: u64, index: u64, page: u64) -> Option<Told> {
    let pfn = page.checked_sub(base)? / PAGE_SIZE;
    let shift = set_rank(piece, pfn)?.cast_signed().checked_sub(index.cast_signed())?;
    (shift.unsigned_abs() <= SHIFT_MAX).then_some(Told { index, pfn, shift })
}

/// The rank of `pfn`, whose own bit is set: one whose bit was lost is none to go by.
fn set_rank(piece: &dyn Ranked, pfn: u64) -> Option<u64> {
    let rank = piece.rank(pfn)?;
    (piece.rank(pfn + 1)?.checked_sub(rank)? == 1).then_some(rank)
}

/// How far what is behind the last descriptor is beside its place.
fn end(piece: &dyn Ranked) -> Option<Told> {
    let (index, pfn) = piece.end()?;
    let shift = piece.count()?.cast_signed().checked_sub(index.cast_signed())?;
    (shift.unsigned_abs() <= SHIFT_MAX).then_some(Told { index, pfn, shift })
}

/// Without those that are not where their neighbours let them be.
fn in_order(told: impl Iterator<Item = Told>) -> Vec<Told> {
    let mut out: Vec<Told> = Vec::new();
    for t in told {
        if out.last().is_none_or(|last| last.index < t.index && last.pfn < t.pfn) {
            out.push(t);
        }
    }
    out
}

/// The address of a page by two empty lists in it at least, which agree.
fn own_address(page: &[u8; 4096]) -> Option<u64> {
    let mut own = None;
    let mut count = 0;
    for (at, pair) in (0..).step_by(8).zip(page.as_chunks().0.windows(2)) {
        let &[word, next] = pair else { continue };
        let word = u64::from_le_bytes(word);
        if word % PAGE_SIZE != at || next != word.to_le_bytes() || !DIRECT_MAP.contains(&word) {
            continue;
        }
        let this = word - at;
        if own.is_some_and(|own| own != this) {
            return None;
        }
        own = Some(this);
        count += 1;
    }
    own.filter(|_| count > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine whose every third page tells its address; `bits` are the bitmap, `pages`
    /// what the file has.
    struct Made {
        bits: Vec<bool>,
        /// The places of the bits that are set.
        set: Vec<u64>,
        pages: Vec<u64>,
        contradicted: bool,
    }

    const BASE: u64 = 0xffff_9234_4000_0000;

    impl Ranked for Made {
        fn count(&self) -> Option<u64> {
            Some(self.set.len() as u64)
        }
        fn rank(&self, pfn: u64) -> Option<u64> {
            Some(self.set.partition_point(|&set| set < pfn) as u64)
        }
        fn select(&self, index: u64) -> Option<u64> {
            self.set.get(usize::try_from(index).ok()?).copied()
        }
        fn page(&self, index: u64) -> Option<[u8; 4096]> {
            let pfn = *self.pages.get(usize::try_from(index).ok()?)?;
            let mut page = [0; 4096];
            if pfn % 3 == 0 {
                for at in [64, 1024] {
                    let own = BASE + pfn * PAGE_SIZE + at as u64;
                    page[at..at + 8].copy_from_slice(&own.to_le_bytes());
                    page[at + 8..at + 16].copy_from_slice(&own.to_le_bytes());
                }
            }
            Some(page)
        }
        fn contradicted(&self) -> bool {
            self.contradicted
        }
        fn end(&self) -> Option<(u64, u64)> {
            self.contradicted.then_some((self.pages.len() as u64, self.bits.len() as u64))
        }
        fn phys_base(&self) -> Option<i64> {
            None
        }
        fn suspects(&self, pfns: Range<u64>, wrong: Wrong) -> Option<Vec<(u64, u64)>> {
            let set = |pfn: &u64| self.bits[usize::try_from(*pfn).unwrap()] == (wrong == Wrong::Added);
            Some(pfns.filter(set).map(|pfn| (pfn, 1)).collect())
        }
    }

    fn machine(flip: &[usize], contradicted: bool) -> (Made, Vec<u64>) {
        let mut bits: Vec<bool> = (0..4000).map(|pfn| pfn % 7 != 3).collect();
        let pages: Vec<u64> = (0..4000).filter(|pfn| pfn % 7 != 3).collect();
        for &at in flip {
            bits[at] = !bits[at];
        }
        let set = (0..4000).filter(|&pfn| bits[pfn]).map(|pfn| pfn as u64).collect();
        (Made { bits, set, pages: pages.clone(), contradicted }, pages)
    }

    /// No page is served as another, and few are not known.
    fn check(flip: &[usize], contradicted: bool) {
        let (made, pages) = machine(flip, contradicted);
        let shifts = Shifts::find(&made).expect("shifts");
        let mut unknown = 0;
        for (index, &pfn) in pages.iter().enumerate() {
            match shifts.of(pfn) {
                Some(shift) if made.bits[usize::try_from(pfn).unwrap()] != shifts.turned(pfn) => {
                    let rank = made.rank(pfn).unwrap().cast_signed();
                    assert_eq!(rank - shift, i64::try_from(index).unwrap(), "{pfn} of {flip:?}");
                }
                Some(_) => panic!("{pfn} of {flip:?} is said not to be in the dump"),
                None => unknown += 1,
            }
        }
        assert!(unknown <= 8 * flip.len(), "{unknown} of {flip:?} not known");
        assert_eq!(shifts.unknown().count() + shifts.turned_back().len(), flip.len(), "{flip:?}");
    }

    #[test]
    fn pages_behind_a_flipped_bit_are_found_by_what_they_say() {
        for contradicted in [false, true] {
            check(&[1003], contradicted);
            check(&[1000], contradicted);
            check(&[3, 2000], contradicted);
            check(&[700, 703 + 7 * 200, 3003], contradicted);
        }
    }

    #[test]
    fn a_sound_bitmap_stays_as_it_is() {
        for contradicted in [false, true] {
            let (sound, pages) = machine(&[], contradicted);
            let shifts = Shifts::find(&sound).expect("pages that tell");
            for (index, pfn) in (0..).zip(pages) {
                assert_eq!(shifts.of(pfn), Some(0));
                assert_eq!(
                    shifts.contradiction(&sound, pfn, &sound.page(index).unwrap()).map(|told| told.pfn),
                    None
                );
            }
        }
    }

    /// Few pages are asked, so that none of those between the two bits may be.
    #[test]
    fn a_page_that_is_read_shows_what_was_not_found() {
        let (made, pages) = machine(&[1003, 1025], false);
        let blind = Shifts::believed(BASE);
        let read = |shifts: &Shifts, pfn: u64| {
            let index = made.rank(pfn).unwrap().checked_add_signed(-shifts.of(pfn)?).unwrap();
            Some((pages[usize::try_from(index).unwrap()], made.page(index).unwrap()))
        };
        let mut shown = 0;
        for &pfn in &made.set {
            let (is, page) = read(&blind, pfn).unwrap();
            let Some(told) = blind.contradiction(&made, pfn, &page) else { continue };
            assert_eq!(told.pfn, is);
            let mended = blind.find_by(&made, told).expect("others agree");
            let known = made.set.iter().filter_map(|&pfn| Some((pfn, read(&mended, pfn)?.0)));
            assert!(known.clone().all(|(pfn, is)| pfn == is));
            assert!(known.count() + 16 > pages.len());
            shown += 1;
        }
        assert!(shown > 4, "{shown}");
        let mended = Shifts::look_closer(&made).expect("so do all pages");
        assert!(made.set.iter().all(|&pfn| read(&mended, pfn).is_none_or(|(is, _)| pfn == is)));
        assert!(Shifts::look_closer(&machine(&[], false).0).is_none());
    }
}
