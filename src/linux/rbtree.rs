//! The kernel's red-black trees, from the leftmost node to the rightmost.
//!
//! A node that cannot be read costs what hangs below it, one that is met again ends its
//! branch. Source: `include/linux/rbtree_types.h`.

use std::collections::HashSet;

use super::View;
use super::object::Object;
use crate::addr::VirtAddr;

/// The nodes of one tree, in order.
pub(crate) struct RbTree<'a> {
    view: &'a View,
    /// Where to go down to the left next.
    at: Option<VirtAddr>,
    /// The nodes above it that are yet to come.
    path: Vec<VirtAddr>,
    seen: HashSet<u64>,
    most: usize,
    broken: bool,
}

impl<'a> RbTree<'a> {
    /// The tree below the `struct rb_node` at `root`, at most so many nodes.
    #[must_use]
    pub(crate) fn new(view: &'a View, root: Option<VirtAddr>, most: usize) -> Self {
        Self { view, at: root, path: Vec::new(), seen: HashSet::new(), most, broken: false }
    }

    /// Whether a part of it was lost.
    #[must_use]
    pub(crate) fn broken(&self) -> bool {
        self.broken
    }

    fn child(&mut self, node: VirtAddr, side: &str) -> Option<VirtAddr> {
        match Object::new(self.view, "rb_node", node).number(side) {
            Some(0) => None,
            Some(child) if child >= self.view.user_limit() => Some(VirtAddr(child)),
            _ => {
                self.broken = true;
                None
            }
        }
    }
}

impl Iterator for RbTree<'_> {
    type Item = VirtAddr;

    fn next(&mut self) -> Option<VirtAddr> {
        while let Some(node) = self.at.take() {
            if self.seen.len() >= self.most || !self.seen.insert(node.0) {
                self.broken = true;
                break;
            }
            self.path.push(node);
            self.at = self.child(node, "rb_left");
        }
        let node = self.path.pop()?;
        self.at = self.child(node, "rb_right");
        Some(node)
    }
}
