//! The mappings of a process: `mm_struct` and its `vm_area_struct`s.
//!
//! From 6.1 on they hang in a maple tree (`include/linux/maple_tree.h`, commit
//! 524e00b36e8c took the list away), before in a list by address. A pointer to a
//! node of the tree has the node's type in bits 3 to 6, the root's bit 1, too; a leaf's
//! slots are the mappings themselves, and a node says by its pivots how far each slot goes.
//! The kernel counts the mappings, so that it can be told whether all were found.

use std::collections::HashSet;

use super::View;
use super::object::Object;
use super::paths;
use crate::addr::{PAGE_SIZE, VirtAddr};

/// More than any process has (`vm.max_map_count` is 65,530, and at most 2^31).
const MOST: usize = 1 << 20;
/// No tree is as deep (`MAPLE_HEIGHT_MAX`).
const DEEPEST: usize = 31;
/// `MAPLE_NODE_MASK`: nodes are 256 bytes, and aligned to that.
const NODE: u64 = 0xff;

/// `vm_flags` (`include/linux/mm.h`).
pub(crate) const VM_READ: u64 = 1;
/// The same.
pub(crate) const VM_WRITE: u64 = 2;
/// The same.
pub(crate) const VM_EXEC: u64 = 4;
const VM_SHARED: u64 = 8;

/// One mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Vma {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// `vm_flags`.
    pub(crate) flags: u64,
    /// Offset in the file, in bytes.
    pub(crate) offset: u64,
    /// Device and inode of the file.
    pub(crate) file: Option<(u64, u64)>,
    /// As `/proc/PID/maps` names it; empty if it does not, or if that is not in the dump.
    pub(crate) name: String,
}

impl Vma {
    /// `r-xp`
    pub(crate) fn permissions(&self) -> String {
        let bit = |mask, letter, none| if self.flags & mask != 0 { letter } else { none };
        [bit(VM_READ, 'r', '-'), bit(VM_WRITE, 'w', '-'), bit(VM_EXEC, 'x', '-'), bit(VM_SHARED, 's', 'p')]
            .iter()
            .collect()
    }
}

/// The mappings of one process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Vmas {
    /// In the order of their addresses.
    pub(crate) list: Vec<Vma>,
    /// How many the kernel counted; `None` where that cannot be read.
    pub(crate) counted: Option<u64>,
}

/// Reads the mappings of the `mm_struct` at `mm`.
#[must_use]
pub(crate) fn of(view: &View, mm: VirtAddr) -> Vmas {
    let mm = Object::new(view, "mm_struct", mm);
    let areas = match mm.number("mm_mt.ma_root") {
        Some(root) => Tree::areas(view, root),
        None => listed(view, mm),
    };
    let mut list: Vec<Vma> = areas.into_iter().filter_map(|at| read(view, mm, at)).collect();
    list.sort_by_key(|v| v.start);
    list.dedup();
    let counted = mm.number("map_count").filter(|&n| n <= u64::from(u32::MAX) >> 1);
    Vmas { list, counted }
}

/// Until 6.0: `mm->mmap`, linked by `vm_next`.
fn listed(view: &View, mm: Object<'_>) -> Vec<VirtAddr> {
    let first = mm.pointer("mmap");
    let next = |at: &VirtAddr| Object::new(view, "vm_area_struct", *at).pointer("vm_next");
    let mut seen = HashSet::new();
    std::iter::successors(first, next).take(MOST).take_while(|at| seen.insert(*at)).collect()
}

struct Tree<'a> {
    view: &'a View,
    visited: HashSet<u64>,
    found: Vec<VirtAddr>,
}

impl<'a> Tree<'a> {
    fn areas(view: &'a View, root: u64) -> Vec<VirtAddr> {
        let mut tree = Self { view, visited: HashSet::new(), found: Vec::new() };
        // xa_is_node()
        if root & 3 == 2 && root > 4096 {
            tree.node(root, u64::MAX, 0);
        } else if root >= view.user_limit() {
            // A tree of one entry has no node.
            tree.found.push(VirtAddr(root));
        }
        tree.found
    }

    fn node(&mut self, entry: u64, last: u64, depth: usize) -> Option<()> {
        let node = entry & !NODE;
        // maple_leaf_64, maple_range_64, maple_arange_64; there are no others here.
        let kind = entry >> 3 & 0xf;
        let ty = if kind == 3 { "maple_arange_64" } else { "maple_range_64" };
        if depth > DEEPEST || self.visited.len() >= MOST || !self.visited.insert(node) || kind == 0 {
            return None;
        }
        let object = Object::new(self.view, ty, VirtAddr(node));
        let (pivots, slots) = (object.field("pivot")?, object.field("slot")?);
        let word = |field: crate::debuginfo::Field, i: u64| {
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
        for (child, to) in children {
            if child < self.view.user_limit() {
                continue;
            }
            if kind != 1 {
                self.node(child, to, depth + 1);
            } else if self.found.len() < MOST {
                self.found.push(VirtAddr(child));
            }
        }
        Some(())
    }
}

fn read(view: &View, mm: Object<'_>, at: VirtAddr) -> Option<Vma> {
    let area = Object::new(view, "vm_area_struct", at);
    let (start, end) = (area.number("vm_start")?, area.number("vm_end")?);
    if start >= end || end > view.user_limit() || (start | end) % PAGE_SIZE != 0 {
        return None;
    }
    let file = area.follow("vm_file", "file");
    let inode = file.and_then(|f| f.follow("f_inode", "inode"));
    let device = inode.and_then(|i| i.follow("i_sb", "super_block")?.number("s_dev"));
    Some(Vma {
        start,
        end,
        flags: area.number("vm_flags")?,
        offset: file.and_then(|_| area.number("vm_pgoff")).unwrap_or(0).wrapping_mul(PAGE_SIZE),
        file: file.map(|_| (device.unwrap_or(0), inode.and_then(|i| i.number("i_ino")).unwrap_or(0))),
        name: match file {
            Some(file) => paths::of_file(view, file.base).unwrap_or_default(),
            None => name(view, mm, area, start, end).unwrap_or_default(),
        },
    })
}

/// What `/proc/PID/maps` says of a mapping without a file (`fs/proc/task_mmu.c`).
fn name(view: &View, mm: Object<'_>, area: Object<'_>, start: u64, end: u64) -> Option<String> {
    let text = |at: Option<VirtAddr>| view.space().read_cstr(at?, 80).ok();
    if area.pointer("vm_ops") == view.symbol("special_mapping_vmops") && area.pointer("vm_ops").is_some() {
        return text(area.follow("vm_private_data", "vm_special_mapping")?.pointer("name"));
    }
    if mm.number("context.vdso") == Some(start) {
        return Some("[vdso]".to_owned());
    }
    if start <= mm.number("brk")? && end >= mm.number("start_brk")? {
        return Some("[heap]".to_owned());
    }
    if (start..=end).contains(&mm.number("start_stack")?) {
        return Some("[stack]".to_owned());
    }
    // CONFIG_ANON_VMA_NAME (5.17): in a union with what only mappings of files need until 6.1.
    let named =
        area.follow("anon_name", "anon_vma_name").filter(|_| view.types().size_of("anon_vma_name").is_some());
    Some(format!("[anon:{}]", text(named?.address("name"))?))
}
