//! Where a kernel before 4.9 keeps its entry code, and which of it is what.
//!
//! Sections of their own hold it (`include/asm-generic/sections.h`); until 4.6 a part
//! was among what kprobes leaves alone, which holds compiled functions as well: those
//! begin like any other.

use std::ops::Range;

use super::View;
use crate::addr::VirtAddr;
use crate::arch::prologue::{self, Prologue};
use crate::arch::stub::Stub;
use crate::debuginfo::symbols::SymbolTable;

/// The sections.
#[must_use]
pub(crate) fn sections(view: &View) -> Vec<Range<u64>> {
    let section = |name: &str| {
        let bound = |end: &str| view.symbol(&format!("__{name}_text_{end}"));
        Some(bound("start")?.0..bound("end")?.0)
    };
    ["entry", "kprobes"].into_iter().filter_map(section).filter(|r| r.start < r.end).collect()
}

/// The stubs in them, by address.
#[must_use]
pub(crate) fn stubs(view: &View) -> Vec<(Range<u64>, Stub)> {
    let mut out = Vec::new();
    for section in sections(view) {
        let inside = view.symbols().iter().filter(|s| s.is_text() && section.contains(&s.address));
        let mut starts: Vec<_> = inside.map(|s| (s.address, s.name)).collect();
        starts.sort_unstable();
        starts.dedup_by_key(|s| s.0);
        let ends = starts.iter().skip(1).map(|s| s.0).chain([section.end]);
        for (&(start, name), end) in starts.iter().zip(ends) {
            if !pushes_rbp(view, VirtAddr(start)) {
                out.push((start..end, Stub::of(name)));
            }
        }
    }
    out.sort_by_key(|(range, _)| range.start);
    out
}

/// The first instructions of the functions of `symbols`, by address.
#[must_use]
pub(crate) fn prologues(view: &View, symbols: &SymbolTable) -> Vec<Prologue> {
    let mut code = [0; prologue::REACH];
    let functions = symbols.iter().filter(|s| s.is_text() && s.address >= view.user_limit());
    let mut out: Vec<_> = functions
        .filter_map(|s| {
            let read = view.space().read(VirtAddr(s.address), &mut code).ok()?;
            let room = usize::try_from(s.size).unwrap_or(usize::MAX);
            Prologue::of(s.address, code.get(..read.min(room))?)
        })
        .collect();
    out.sort_unstable_by_key(|p| p.start);
    out
}

/// Whether the function at `start` pushes rbp before all else.
#[must_use]
pub(crate) fn pushes_rbp(view: &View, start: VirtAddr) -> bool {
    let mut code = [0; prologue::REACH];
    let read = view.space().read(start, &mut code).unwrap_or(0);
    prologue::begins(code.get(..read).unwrap_or_default())
}
