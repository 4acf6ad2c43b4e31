//! BTF of which pages are lost: the types before and behind a hole, with their numbers.
//!
//! Records have no numbers of their own: a type's is its place. Behind a hole two things
//! are sought: where a record begins (from there on many must follow that can be), and
//! how many types the hole took. The second is told by references: a `FUNC` names a
//! `FUNC_PROTO` and a `DATASEC` names `VAR`s, while a pointer or a member never names
//! one of those. So one number fits thousands of references, and any other few of them.
//! Where none fits, the types behind the hole are given up. A lost header is made out:
//! records begin at byte 24, strings behind the last that can be one.

use std::ops::Range;

use super::records::Kind;
use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::bytes::u32_at;
use crate::memory::{AddressSpace, touches};

/// In a table of offsets: a type that is lost.
pub(super) const LOST: u32 = u32::MAX;

/// So many records in a row are no accident.
const CHAIN: usize = 24;
/// How far behind a hole the first record is sought: a struct has at most 65,535 members.
const SYNC_MAX: usize = 1 << 20;
/// Pages that may be others': of more nothing is sure.
const FOREIGN_MAX: usize = 16;
/// References held against the possible numbers, for all holes of a table.
const CHECKS_MAX: usize = 50_000_000;
/// Programs in an image have BTF of their own, of a few KB (`kernel/bpf/preload`).
const OF_KERNEL: u64 = 64 << 10;
/// `sizeof(struct btf_header)`, which has been the same ever since.
const HEADER: usize = 24;

/// A type section with holes.
struct Section<'a> {
    bytes: &'a [u8],
    types: Range<usize>,
    /// Where the strings are; not known while a lost header is made out.
    strings: Option<Range<usize>>,
    holes: &'a [Range<usize>],
}

impl Section<'_> {
    /// Kind and end of the record at `at`, if it is all there and can be one.
    fn record(&self, at: usize) -> Option<(Kind, usize)> {
        let (name, info, word) =
            (u32_at(self.bytes, at)?, u32_at(self.bytes, at + 4)?, u32_at(self.bytes, at + 8)?);
        let kind = Kind::from_number(info >> 24 & 0x1f)?;
        let vlen = (info & 0xffff) as usize;
        let flag = info >> 31 != 0;
        let end = at + 12 + kind.extra(vlen);
        let nameless = matches!(
            kind,
            Kind::Ptr | Kind::Array | Kind::Const | Kind::Volatile | Kind::Restrict | Kind::FuncProto
        );
        let listing = kind.is_composite()
            || matches!(kind, Kind::Enum | Kind::Enum64 | Kind::FuncProto | Kind::Datasec);
        let named = matches!(kind, Kind::Int | Kind::Typedef | Kind::Func | Kind::Var | Kind::Datasec);
        let sound = info & 0x60ff_0000 == 0
            && (!flag || kind.is_composite() || matches!(kind, Kind::Enum | Kind::Enum64 | Kind::Fwd))
            && (listing || vlen == 0 || kind == Kind::Func && vlen <= 2)
            && (name == 0) == (nameless || name == 0 && !named)
            && (kind != Kind::Int || (1..=16).contains(&word))
            && self.is_name(name)
            && end <= self.types.end
            && !touches(self.holes, &(at..end));
        sound.then_some((kind, end))
    }

    /// Whether a string begins at `offset`, as far as the strings are known.
    fn is_name(&self, offset: u32) -> bool {
        let Some(strings) = &self.strings else { return offset < 1 << 28 };
        let at = strings.start + offset as usize;
        let before = || self.bytes.get(at - 1) == Some(&0) || touches(self.holes, &(at - 1..at));
        offset == 0 || at < strings.end && before()
    }

    /// Offsets of the records in a row from `at` on, and where the row ends.
    fn row(&self, mut at: usize, max: usize) -> (Vec<u32>, usize) {
        let mut offsets = Vec::new();
        while offsets.len() < max && at < self.types.end {
            let (Some((_, end)), Ok(offset)) = (self.record(at), u32::try_from(at)) else { break };
            offsets.push(offset);
            at = end;
        }
        (offsets, at)
    }

    /// Where records begin again behind a hole that ends at `at`.
    fn sync(&self, at: usize) -> Option<usize> {
        let at = (at - self.types.start).next_multiple_of(4) + self.types.start;
        (at..self.types.end.min(at.saturating_add(SYNC_MAX))).step_by(4).find(|&at| {
            let (row, end) = self.row(at, CHAIN);
            let cut = end >= self.types.end || touches(self.holes, &(end..end + 12));
            row.len() >= CHAIN || cut && row.len() >= 4
        })
    }

    /// The runs of records between the holes, and the bytes that each lost before it.
    fn runs(&self) -> Vec<(usize, Vec<u32>)> {
        let mut runs = Vec::new();
        let mut at = self.types.start;
        let mut lost = 0;
        loop {
            let (row, end) = self.row(at, usize::MAX);
            runs.push((lost, row));
            // Behind the hole that ended the row, whether it hit the record's head or tail.
            let next = self.holes.iter().map(|h| h.end).find(|&hole| hole > end);
            let Some(sync) = next.filter(|_| end < self.types.end).and_then(|hole| self.sync(hole)) else {
                return runs;
            };
            (lost, at) = (sync - end, sync);
        }
    }

    /// The number of the type that a reference leads to, and what it must or must not be.
    fn references(&self, at: u32, out: &mut Vec<(u32, Target)>) {
        let at = at as usize;
        let Some((kind, end)) = self.record(at) else { return };
        let word = |at: usize| u32_at(self.bytes, at).unwrap_or(0);
        let tail = at + 12..end;
        match kind {
            Kind::Func => out.push((word(at + 8), Target::Proto)),
            Kind::Datasec => out.extend(tail.step_by(12).map(|at| (word(at), Target::Var))),
            Kind::Ptr | Kind::Const | Kind::Volatile => out.push((word(at + 8), Target::NoFunc)),
            Kind::Var | Kind::Typedef => out.push((word(at + 8), Target::NoFunc)),
            Kind::Struct | Kind::Union => {
                out.extend(tail.step_by(12).map(|at| (word(at + 4), Target::Whole)))
            }
            Kind::Array => out.push((word(at + 12), Target::Whole)),
            _ => {}
        }
    }
}

/// What a reference says of the type that it names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    /// It is a `FUNC_PROTO`.
    Proto,
    /// It is a `VAR`.
    Var,
    /// It is neither function, nor variable, nor section.
    NoFunc,
    /// It has a size, too.
    Whole,
}

impl Target {
    /// A vote for a kind, or against it.
    fn vote(self, kind: Kind) -> i64 {
        let no_type = matches!(kind, Kind::Func | Kind::Var | Kind::Datasec | Kind::DeclTag);
        match self {
            Self::Proto => {
                if kind == Kind::FuncProto {
                    1
                } else {
                    -1
                }
            }
            Self::Var => {
                if kind == Kind::Var {
                    1
                } else {
                    -1
                }
            }
            Self::NoFunc => {
                if no_type {
                    -1
                } else {
                    0
                }
            }
            Self::Whole => {
                if no_type || matches!(kind, Kind::FuncProto | Kind::Fwd) {
                    -1
                } else {
                    0
                }
            }
        }
    }
}

/// The offset of each type by its number, [`LOST`] where it is lost; the numbers begin
/// at 1. What cannot be numbered is left out.
pub(super) fn offsets(
    bytes: &[u8],
    types: Range<usize>,
    strings: Range<usize>,
    holes: &[Range<usize>],
) -> Vec<u32> {
    let section = Section { bytes, types, strings: Some(strings), holes };
    let runs = section.runs();
    let mut references = Vec::new();
    for (_, run) in &runs {
        run.iter().for_each(|&at| section.references(at, &mut references));
    }
    references.sort_unstable_by_key(|r| r.0);
    let mut all: Vec<u32> = Vec::new();
    let mut budget = CHECKS_MAX;
    for (lost, run) in &runs {
        if *lost > 0 {
            let kinds: Vec<Kind> =
                run.iter().filter_map(|&at| Some(section.record(at as usize)?.0)).collect();
            match count_of_lost(all.len(), *lost, &kinds, &references, &mut budget) {
                Some(count) => all.extend(std::iter::repeat_n(LOST, count)),
                None => return all,
            }
        }
        all.extend(run);
    }
    all
}

/// How many types the `lost` bytes held, behind `known` types and before types of `kinds`.
fn count_of_lost(
    known: usize,
    lost: usize,
    kinds: &[Kind],
    references: &[(u32, Target)],
    budget: &mut usize,
) -> Option<usize> {
    // A record has 12 bytes at least; the first number behind is known + count + 1.
    let most = lost / 12 + 1;
    let first = u32::try_from(known + 1).ok()?;
    let last = u32::try_from(known + most + kinds.len()).ok()?;
    let from = references.partition_point(|r| r.0 < first);
    let to = references.partition_point(|r| r.0 <= last);
    let here = references.get(from..to)?;
    let each = (*budget / most).clamp(64, 1 << 16);
    let stride = here.len().div_ceil(each).max(1);
    *budget = budget.saturating_sub(here.len() / stride * most);
    let score = |count: usize| {
        let kind = |id: u32| kinds.get((id as usize).checked_sub(known + count + 1)?);
        here.iter()
            .step_by(stride)
            .filter_map(|(id, target)| Some(target.vote(*kind(*id)?)))
            .fold((0i64, 0i64), |(good, bad), vote| (good + vote.max(0), bad + (-vote).max(0)))
    };
    // Only a count that few references speak against, and the next best one many.
    let worth = |(good, bad): (i64, i64)| good - 8 * bad;
    let mut scores: Vec<_> = (0..=most).map(|count| (worth(score(count)), count)).collect();
    scores.sort_unstable_by_key(|(worth, _)| std::cmp::Reverse(*worth));
    let (best, second) = (scores.first()?, scores.get(1).map_or(i64::MIN, |s| s.0));
    let (_, bad) = score(best.1);
    (best.0 > second && bad <= 2 + here.len() as i64 / 1000).then_some(best.1)
}

/// Where types and strings are when the header is lost.
pub(super) fn sections(bytes: &[u8], holes: &[Range<usize>]) -> Option<(Range<usize>, Range<usize>)> {
    let section = Section { bytes, types: HEADER..bytes.len(), strings: None, holes };
    let first = holes.first().filter(|h| h.start < HEADER)?;
    // Strings begin where no hole and yet no record is; their first is empty.
    let mut at = section.sync(first.end)?;
    loop {
        let end = section.row(at, usize::MAX).1;
        let Some(hole) = holes.iter().find(|h| h.start < end + 12 && end < h.end) else {
            let strings = end..bytes.len();
            return (bytes.get(end) == Some(&0)).then_some((HEADER..end, strings));
        };
        at = section.sync(hole.end)?;
    }
}

/// `holes`, and the pages besides in whose place others stand: where no record can be one.
/// `start` is the address of the first byte, or its last twelve bits. No more than `holes` where they do not explain all.
pub(crate) fn foreign(bytes: &[u8], holes: &[Range<usize>], start: u64) -> Vec<Range<usize>> {
    foreign_pages(bytes, holes, start).unwrap_or_else(|| holes.to_vec())
}

fn foreign_pages(bytes: &[u8], holes: &[Range<usize>], start: u64) -> Option<Vec<Range<usize>>> {
    fn section_of<'a>(
        bytes: &'a [u8],
        (types, strings): &(Range<usize>, Range<usize>),
        holes: &'a [Range<usize>],
    ) -> Section<'a> {
        Section { bytes, types: types.clone(), strings: Some(strings.clone()), holes }
    }
    let start = start % PAGE_SIZE;
    let page = |at: usize| {
        let first = usize::try_from(((start + at as u64) & !(PAGE_SIZE - 1)).saturating_sub(start)).ok()?;
        let end = ((start + at as u64) | (PAGE_SIZE - 1)) + 1 - start;
        Some(first..usize::try_from(end).ok()?.min(bytes.len()))
    };
    let mut all = holes.to_vec();
    if !touches(&all, &(0..HEADER)) && super::is_header(bytes).is_none() {
        all.insert(0, page(0)?);
    }
    let places = super::sections(bytes, &all)?;
    let (mut at, last) = (places.0.start, places.0.end);
    loop {
        let end = section_of(bytes, &places, &all).row(at, usize::MAX).1;
        if end >= last {
            return Some(all);
        }
        let told = touches(&all, &(end..end + 12)) || section_of(bytes, &places, &[]).record(end).is_some();
        if !told {
            // What of the record is on the page before was held to be sound with that page.
            let page = page(end + 11)?;
            if all.len() >= holes.len() + FOREIGN_MAX || touches(&all, &page) {
                return None;
            }
            all.insert(all.partition_point(|hole| hole.end <= page.start), page);
        }
        let next = all.iter().map(|hole| hole.end).find(|hole| *hole > end)?;
        at = section_of(bytes, &places, &all).sync(next)?;
    }
}

/// Address and size of the BTF that stands in an image of `len` bytes at `start`, by its
/// header: where its name is lost.
pub(crate) fn find(space: &dyn AddressSpace, start: VirtAddr, len: u64) -> Option<(u64, u64)> {
    let mut page = [0; 4096];
    let first = start.0 & !(PAGE_SIZE - 1);
    // `.BTF` begins where `.rodata` of another kind ends, at a multiple of four.
    (first..first.checked_add(len)?).step_by(page.len()).find_map(|at| {
        let got = space.read(VirtAddr(at), &mut page).ok()?;
        let page = page.get(..got)?;
        (0..got.saturating_sub(HEADER)).step_by(4).find_map(|i| {
            let word = |n: usize| u32_at(page, i + 4 * n).map(u64::from);
            let types = word(3)?;
            // Magic, version 1, no flags; then where types and strings are.
            let sound =
                word(0)? == 0x1_eb9f && word(1)? == HEADER as u64 && word(2)? == 0 && word(4)? == types;
            sound
                .then_some((at + i as u64, HEADER as u64 + types + word(5)?))
                .filter(|b| (OF_KERNEL..1 << 28).contains(&b.1))
        })
    })
}
