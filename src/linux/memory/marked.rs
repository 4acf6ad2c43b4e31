//! Red zones, poison and owners as they are found around objects: [`marks`](super::marks) says
//! where they lie.

use std::fmt;

use serde::Serialize;

use super::super::object::Object;
use super::super::{Kernel, View};
use super::depot;
use super::slub::{Cache, Slab};
use crate::addr::VirtAddr;

const RED_FREE: u8 = 0xbb;
const RED_ALLOCATED: u8 = 0xcc;
const POISON: u8 = 0x6b;
const POISON_END: u8 = 0xa5;
/// Bytes that are told of what was written over.
const TOLD: usize = 8;
/// Functions of a stack that are told in one row.
const IN_A_ROW: usize = 4;

/// Which of the marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Zone {
    Left,
    Right,
    Poison,
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Left => "left red zone",
            Self::Right => "right red zone",
            Self::Poison => "poison",
        })
    }
}

/// Bytes that nobody may write, and that somebody wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Overwritten {
    pub(crate) object: VirtAddr,
    pub(crate) zone: Zone,
    /// The first byte that is wrong, and what should be there.
    pub(crate) at: VirtAddr,
    pub(crate) wanted: u8,
    /// What is there from it on, no further than the zone goes.
    pub(crate) found: Vec<u8>,
}

/// What of the marks of `slab`'s objects was written over, and how many objects cannot be read.
pub(super) fn overwritten(
    view: &View,
    cache: &Cache,
    slab: &Slab,
    free: &dyn Fn(VirtAddr) -> bool,
) -> (Vec<Overwritten>, usize) {
    let (mut all, mut unread) = (Vec::new(), 0);
    let Some(marks) = cache.marks else { return (all, unread) };
    let (Ok(pad), Ok(size)) = (usize::try_from(cache.pad), usize::try_from(cache.size)) else {
        return (all, unread);
    };
    for object in (0..slab.objects).filter_map(|i| slab.nth(cache, i)) {
        // With the left red zone, which is counted as the object's own.
        let start = VirtAddr(object.0.saturating_sub(cache.pad));
        let Ok(bytes) = view.space().read_vec(start, size) else {
            unread += 1;
            continue;
        };
        let part = |from: u64, to: u64| {
            let index = |offset: u64| usize::try_from(offset).ok()?.checked_add(pad);
            Some((object.0.checked_add(from)?, bytes.get(index(from)?..index(to)?)?))
        };
        let is_free = free(object);
        let red = if is_free { RED_FREE } else { RED_ALLOCATED };
        let mut check = |zone, place: Option<(u64, &[u8])>, wanted: u8| {
            let Some((at, bytes)) = place else { return false };
            let wrong = bytes.iter().position(|byte| *byte != wanted);
            let Some((offset, found)) = wrong.and_then(|i| Some((i as u64, bytes.get(i..)?))) else {
                return false;
            };
            let found = found.iter().take(TOLD).copied().collect();
            all.push(Overwritten { object, zone, at: VirtAddr(at.saturating_add(offset)), wanted, found });
            true
        };
        if marks.red_zone {
            // The kernel may have been stopped between the list and the marks.
            let red_of = |bytes: &[u8]| match bytes.first() {
                Some(first @ (&RED_FREE | &RED_ALLOCATED)) => *first,
                _ => red,
            };
            let left = bytes.get(..pad).map(|bytes| (start.0, bytes));
            check(Zone::Left, left, left.map_or(red, |(_, bytes)| red_of(bytes)));
            let right = part(cache.object_size, marks.inuse);
            check(Zone::Right, right, right.map_or(red, |(_, bytes)| red_of(bytes)));
        }
        if marks.poison && is_free {
            let last = cache.object_size.saturating_sub(1);
            if !check(Zone::Poison, part(0, last), POISON) {
                check(Zone::Poison, part(last, cache.object_size), POISON_END);
            }
        }
    }
    (all, unread)
}

/// Who allocated an object last, or freed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Track {
    /// Whether it tells of the free.
    pub(crate) freed: bool,
    pub(crate) by: String,
    pub(crate) pid: u64,
    pub(crate) cpu: u64,
    /// The whole stack, where it is kept (`CONFIG_STACKTRACE`), the innermost function first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) stack: Vec<String>,
}

impl Track {
    /// Whoever did it and who called them, as many as go in a row: `a < b < c`. The allocator's own
    /// functions stand before; 6.1 leaves out one too many at a free.
    #[must_use]
    pub(crate) fn in_a_row(&self) -> Option<String> {
        let callers = self.stack.iter().position(|frame| *frame == self.by).map_or(0, |at| at + 1);
        let callers = self.stack.get(callers..).filter(|callers| !callers.is_empty())?;
        let frames = std::iter::once(&self.by).chain(callers).take(IN_A_ROW);
        Some(frames.map(String::as_str).collect::<Vec<_>>().join(" < "))
    }
}

impl fmt::Display for Track {
    /// `allocated by labcrash_smash+0x1c [labcrash], pid 1 on CPU 0`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = if self.freed { "freed" } else { "allocated" };
        write!(f, "{done} by {}, pid {} on CPU {}", self.by, self.pid, self.cpu)
    }
}

/// The tracks of the object at `object`, those that were written.
#[must_use]
pub(crate) fn tracks(kernel: &Kernel, cache: &Cache, object: VirtAddr) -> Vec<Track> {
    let Some((at, length)) = cache.marks.and_then(|marks| marks.tracks) else { return Vec::new() };
    let track = |(freed, at): (bool, u64)| {
        let track = Object::new(kernel, "track", object.checked_add(at)?);
        // A caller's address, which is behind the call.
        let name = |caller: VirtAddr| {
            let (symbol, offset, module) = kernel.symbolise(caller)?;
            let module = module.map(|module| format!(" [{}]", module.name)).unwrap_or_default();
            Some(format!("{}+{offset:#x}{module}", symbol.name))
        };
        let named = |at: VirtAddr| name(at).unwrap_or_else(|| at.to_string());
        Some(Track {
            freed,
            by: name(track.pointer("addr")?)?,
            pid: track.number("pid")?,
            cpu: track.number("cpu")?,
            stack: stack(kernel, &track).unwrap_or_default().into_iter().map(named).collect(),
        })
    };
    [(false, at), (true, at + length)].into_iter().filter_map(track).collect()
}

/// The stack that a `struct track` has: itself, since 5.19 (788691464c29) in the depot.
fn stack(view: &View, track: &Object<'_>) -> Option<Vec<VirtAddr>> {
    if let Some(own) = track.field("addrs") {
        return depot::words(view, track.address("addrs")?, own.size / 8);
    }
    depot::stack(view, track.number("handle")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_begins_with_who_did_it() {
        let row = |stack: &[&str]| {
            let stack = stack.iter().map(|frame| (*frame).to_owned()).collect();
            Track { freed: false, by: "b".to_owned(), pid: 1, cpu: 0, stack }.in_a_row()
        };
        assert_eq!(row(&["a", "b", "c", "d"]).as_deref(), Some("b < c < d"));
        assert_eq!(row(&["c", "d", "e", "f"]).as_deref(), Some("b < c < d < e"));
        assert_eq!((row(&["a", "b"]), row(&[])), (None, None));
    }
}
