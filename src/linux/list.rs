//! The kernel's linked lists, walked so that no damage leads astray.
//!
//! `struct list_head` is a circle through its head, `struct hlist_head` a chain
//! that ends with null (`include/linux/types.h`); in both a link's first word
//! leads on. The walk ends at the first link that cannot be right, and says what
//! was wrong with it. A circle can be walked from its other end, too, by the second
//! words of its links: [`both_ways`] loses no more than lies between the two breaks. Elements
//! may also point to each other without links of their own (`file_system_type.next`).

use std::collections::HashSet;
use std::fmt;

use super::View;
use crate::addr::VirtAddr;
use crate::error::ReadFault;

/// Why a list is not whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The link at this address cannot be read.
    Unreadable(VirtAddr, ReadFault),
    /// The link at the first address points to the second, where no kernel memory is.
    Stray(VirtAddr, u64),
    /// The list comes back to this link, which is not its head.
    Circle(u64),
    /// There are more links than are believed.
    TooLong,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(at, fault) => write!(f, "link {at}: {fault}"),
            Self::Stray(at, to) => write!(f, "link {at} points to {to:#x}"),
            Self::Circle(to) => write!(f, "the list comes back to {to:#x} and not to its head"),
            Self::TooLong => f.write_str("there are more links than can be"),
        }
    }
}

/// The elements of one list, from the first on.
pub(crate) struct List<'a> {
    view: &'a View,
    /// The link to be followed next; `None` at the end.
    at: Option<VirtAddr>,
    /// What the last link holds, one of these.
    ends: [u64; 2],
    /// Where the link lies in an element.
    offset: u64,
    /// Which word of a link leads on: 0 is the next element's, 8 the one before.
    word: u64,
    seen: HashSet<u64>,
    steps: usize,
    broken: Option<Broken>,
}

/// What a walk along a circle met.
pub(crate) struct Walked {
    /// The elements, in the order of the list as far as that is known.
    pub(crate) elements: Vec<VirtAddr>,
    /// What ended the walk from the front too early.
    pub(crate) broken: Option<Broken>,
    /// How many of the steps are left.
    pub(crate) steps: usize,
}

/// The elements on the circle through `head`; where it is broken, those that can be
/// reached from its end, too.
#[must_use]
pub(crate) fn both_ways(view: &View, head: VirtAddr, offset: u64, steps: usize) -> Walked {
    let mut list = List::circular(view, head, offset, steps);
    let mut elements: Vec<_> = list.by_ref().collect();
    let broken = list.broken();
    if broken.is_some() {
        // It ends where it meets what was seen from the front.
        list = List { at: Some(head), word: 8, broken: None, ..list };
        let behind: Vec<_> = list.by_ref().collect();
        elements.extend(behind.into_iter().rev());
    }
    Walked { elements, broken, steps: list.steps }
}

impl<'a> List<'a> {
    /// The elements on the circle through the `struct list_head` at `head` by their
    /// member at `offset`; at most so many `steps`.
    #[must_use]
    pub(crate) fn circular(view: &'a View, head: VirtAddr, offset: u64, steps: usize) -> Self {
        let (at, ends, seen) = (Some(head), [head.0; 2], HashSet::new());
        Self { view, at, ends, offset, word: 0, seen, steps, broken: None }
    }

    /// The elements of the `struct hlist_head` at `head`.
    #[must_use]
    pub(crate) fn chain(view: &'a View, head: VirtAddr, offset: u64, steps: usize) -> Self {
        Self { ends: [0; 2], ..Self::circular(view, head, offset, steps) }
    }

    /// The elements behind the one at `first`, each of which points to the next one by its
    /// word at `offset`; the last to null or to `first`.
    #[must_use]
    pub(crate) fn pointers(view: &'a View, first: VirtAddr, offset: u64, steps: usize) -> Self {
        Self { ends: [0, first.0], word: offset, ..Self::circular(view, first, 0, steps) }
    }

    /// The same walk from the other end of the circle.
    #[must_use]
    pub(crate) fn backward(self) -> Self {
        Self { word: 8, ..self }
    }

    /// What ended the walk too early.
    #[must_use]
    pub(crate) fn broken(&self) -> Option<Broken> {
        self.broken
    }

    /// How many of the steps are left.
    #[must_use]
    pub(crate) fn steps_left(&self) -> usize {
        self.steps
    }

    fn follow(&mut self, at: VirtAddr) -> Result<Option<VirtAddr>, Broken> {
        let word = at.checked_add(self.word).ok_or(Broken::Stray(at, u64::MAX))?;
        let next = self.view.space().read_u64(word).map_err(|fault| Broken::Unreadable(at, fault))?;
        if self.ends.contains(&next) {
            return Ok(None);
        }
        if next < self.view.user_limit() {
            return Err(Broken::Stray(at, next));
        }
        if !self.seen.insert(next) {
            return Err(Broken::Circle(next));
        }
        self.steps = self.steps.checked_sub(1).ok_or(Broken::TooLong)?;
        Ok(Some(VirtAddr(next)))
    }
}

impl Iterator for List<'_> {
    type Item = VirtAddr;

    fn next(&mut self) -> Option<VirtAddr> {
        let at = self.at.take()?;
        match self.follow(at) {
            Ok(next) => self.at = next,
            Err(why) => self.broken = Some(why),
        }
        self.at.map(|link| VirtAddr(link.0.wrapping_sub(self.offset)))
    }
}
