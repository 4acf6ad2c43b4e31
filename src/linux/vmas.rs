//! The mappings of a process: `mm_struct` and its `vm_area_struct`s.
//!
//! From 6.1 on they hang in a maple tree (commit 524e00b36e8c took the list away), before
//! in a list by address. The kernel counts the mappings, so that it can be told whether all were found.

use std::collections::HashSet;

use super::View;
use super::maple::Maple;
use super::object::Object;
use super::paths;
use crate::addr::{PAGE_SIZE, VirtAddr};

/// More than any process has (`vm.max_map_count` is 65,530, and at most 2^31).
const MOST: usize = 1 << 20;

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
    /// Its `vm_area_struct`.
    pub(crate) at: VirtAddr,
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
        Some(root) => Maple::read(view, root).entries,
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
        at,
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
