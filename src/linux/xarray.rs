//! The kernel's xarray, and the radix tree that it was before 4.20.
//!
//! An entry is a pointer to a node if its two low bits are the tree's mark for
//! that (2, in the radix tree 1); a node has 64 slots and knows by how many bits
//! of the index the trees below it go on. Sources: `include/linux/xarray.h`,
//! `lib/radix-tree.c`.

use std::collections::HashSet;

use super::View;
use super::layout::XArrayLayout;
use crate::addr::VirtAddr;
use crate::bytes::u64_at;

/// Nodes of one tree (each holds up to 64 entries).
const MAX_NODES: usize = 1 << 18;
/// Marked values below this are no nodes (a reserved slot, a retry; `xa_is_node()`).
const FIRST_NODE: u64 = 4096;
/// Nodes met again that are remembered.
const MAX_AGAIN: usize = 64;

/// The entries of one tree with their indexes, in the order of these.
pub(crate) struct XArray<'a> {
    view: &'a View,
    layout: XArrayLayout,
    /// Entries yet to be looked at, the next one last.
    waiting: Vec<Waiting>,
    visited: HashSet<u64>,
    /// Nodes that are damaged or cannot be read.
    pub unread: usize,
    /// Nodes to which the tree came back.
    pub again: Vec<VirtAddr>,
}

struct Waiting {
    entry: u64,
    index: u64,
    /// Bits of the index that the node above leaves.
    above: u8,
}

impl<'a> XArray<'a> {
    /// The tree whose root (`xa_head`, before 4.20 `rnode`) holds `root`.
    #[must_use]
    pub(crate) fn new(view: &'a View, layout: XArrayLayout, root: u64) -> Self {
        let waiting = vec![Waiting { entry: root, index: 0, above: 64 }];
        Self { view, layout, waiting, visited: HashSet::new(), unread: 0, again: Vec::new() }
    }

    /// The slots through which the tree whose root holds `root` leads to an index.
    #[must_use]
    pub(crate) fn place(view: &View, layout: XArrayLayout, root: u64, index: u64) -> Vec<u8> {
        if root & 3 != layout.node_mark || root <= FIRST_NODE {
            return Vec::new();
        }
        let at = VirtAddr(root & !3).checked_add(layout.shift.offset);
        let shift = at.and_then(|at| super::object::number(view, at, layout.shift)).unwrap_or(0) & 0x3f;
        let digit = |shift: u64| u8::try_from(index >> shift & 0x3f).unwrap_or(0);
        (0..=shift / 6).rev().map(|level| digit(level * 6)).collect()
    }

    /// Puts the entries of a node in line.
    fn open(&mut self, node: VirtAddr, index: u64, above: u8) -> Option<()> {
        let XArrayLayout { shift, slots, .. } = self.layout;
        let number = super::object::number(self.view, node.checked_add(shift.offset)?, shift)?;
        let shift = u8::try_from(number & 0xff).ok().filter(|&s| s < above)?;
        let count = usize::try_from(slots.size / 8).unwrap_or(0).min(64);
        let bytes = self.view.space().read_vec(node.checked_add(slots.offset)?, count * 8).ok()?;
        for slot in (0..count).rev() {
            let entry = u64_at(&bytes, slot * 8).unwrap_or(0);
            if entry != 0 {
                let index = index | (slot as u64).wrapping_shl(shift.into());
                self.waiting.push(Waiting { entry, index, above: shift });
            }
        }
        Some(())
    }
}

impl Iterator for XArray<'_> {
    /// Index and entry: a pointer, or a value if one of the two low bits is set.
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        while let Some(Waiting { entry, index, above }) = self.waiting.pop() {
            if entry & 3 != self.layout.node_mark {
                if entry != 0 {
                    return Some((index, entry));
                }
            } else if entry > FIRST_NODE {
                let node = VirtAddr(entry & !3);
                if self.visited.len() >= MAX_NODES || !self.visited.insert(node.0) {
                    if self.again.len() < MAX_AGAIN {
                        self.again.push(node);
                    }
                } else if self.open(node, index, above).is_none() {
                    self.unread += 1;
                }
            }
        }
        None
    }
}
