//! The kernel's maple tree: ranges of an index, each with an entry (6.1 and later).
//!
//! A pointer to a node has the node's type in bits 3 to 6, the root's bit 1, too; a leaf's
//! slots are the entries themselves, and a node says by its pivots how far each slot goes.
//! Source: `include/linux/maple_tree.h`.

use std::collections::HashSet;

use super::View;
use super::object::Object;
use crate::addr::VirtAddr;
use crate::debuginfo::Field;

/// Entries and nodes of one tree that are looked at.
const MOST: usize = 1 << 20;
/// No tree is as deep (`MAPLE_HEIGHT_MAX`).
const DEEPEST: usize = 31;
/// `MAPLE_NODE_MASK`: nodes are 256 bytes, and aligned to that.
const NODE: u64 = 0xff;

/// What a tree holds.
pub(crate) struct Maple<'a> {
    view: &'a View,
    visited: HashSet<u64>,
    /// The entries that are pointers, in the order of their indexes.
    pub(crate) entries: Vec<VirtAddr>,
    /// Where each of them hangs, if that was asked for: the slots from the root on.
    pub(crate) places: Option<Vec<Vec<u8>>>,
    /// The slots above what is looked at.
    path: Vec<u8>,
    /// Nodes that are damaged or cannot be read.
    pub(crate) unread: usize,
}

impl<'a> Maple<'a> {
    /// The tree whose `ma_root` holds `root`.
    #[must_use]
    pub(crate) fn read(view: &'a View, root: u64) -> Self {
        Self::read_into(view, root, None)
    }

    /// The same with the place of each entry.
    #[must_use]
    pub(crate) fn with_places(view: &'a View, root: u64) -> Self {
        Self::read_into(view, root, Some(Vec::new()))
    }

    fn read_into(view: &'a View, root: u64, places: Option<Vec<Vec<u8>>>) -> Self {
        let (visited, entries, path) = (HashSet::new(), Vec::new(), Vec::new());
        let mut tree = Self { view, visited, entries, places, path, unread: 0 };
        // xa_is_node()
        if root & 3 == 2 && root > 4096 {
            tree.node(root, u64::MAX, 0);
        } else if root >= view.user_limit() {
            // A tree of one entry has no node.
            tree.keep(root);
        }
        tree
    }

    fn keep(&mut self, entry: u64) {
        self.entries.push(VirtAddr(entry));
        if let Some(places) = &mut self.places {
            places.push(self.path.clone());
        }
    }

    fn node(&mut self, entry: u64, last: u64, depth: usize) {
        if self.open(entry, last, depth).is_none() {
            self.unread += 1;
        }
    }

    fn open(&mut self, entry: u64, last: u64, depth: usize) -> Option<()> {
        let node = entry & !NODE;
        // maple_leaf_64, maple_range_64, maple_arange_64; maple_dense is not in use.
        let kind = entry >> 3 & 0xf;
        let ty = if kind == 3 { "maple_arange_64" } else { "maple_range_64" };
        if depth > DEEPEST || self.visited.len() >= MOST || !self.visited.insert(node) || kind == 0 {
            return None;
        }
        let object = Object::new(self.view, ty, VirtAddr(node));
        let (pivots, slots) = (object.field("pivot")?, object.field("slot")?);
        let word = |field: Field, i: u64| {
            let at = VirtAddr(node).checked_add(field.offset + i * 8)?;
            (i * 8 < field.size).then(|| self.view.space().read_u64(at).ok()).flatten()
        };
        let mut children = Vec::new();
        for i in 0..slots.size.min(NODE) / 8 {
            // Behind the last pivot that is set, and in place of the last slot, is something else.
            let to = word(pivots, i).filter(|&p| p != 0 || i == 0).unwrap_or(last);
            children.push((word(slots, i)?, to));
            if to >= last {
                break;
            }
        }
        for (slot, (child, to)) in (0..).zip(children) {
            if child < self.view.user_limit() {
                continue;
            }
            self.path.push(slot);
            if kind != 1 {
                self.node(child, to, depth + 1);
            } else if self.entries.len() < MOST {
                self.keep(child);
            }
            self.path.pop();
        }
        Some(())
    }
}
