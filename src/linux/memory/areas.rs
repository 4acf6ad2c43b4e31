//! What is mapped where by name: vmalloc's areas and the stacks of tasks, by address.

use std::ops::Range;

use super::super::object::Object;
use super::super::{Kernel, View, vmalloc};
use crate::addr::VirtAddr;

/// `VM_IOREMAP` and its like (`include/linux/vmalloc.h`), as far as a mapping's kind goes.
const FLAGS: [(u64, &str); 7] = [
    (0x1, "ioremap"),
    (0x2, "vmalloc"),
    (0x4, "vmap"),
    (0x8, "user"),
    (0x10, "dma-coherent"),
    (0x20, "uninitialised"),
    (0x200, "maps a vmalloc'ed file"),
];

/// One area of vmalloc's.
#[derive(Debug, Clone)]
pub(crate) struct VmArea {
    pub(crate) range: Range<u64>,
    /// Who asked for it: an address of code.
    pub(crate) caller: Option<VirtAddr>,
    pub(crate) flags: u64,
    /// What it maps, if that is no memory of pages (ioremap).
    pub(crate) phys: Option<u64>,
}

impl VmArea {
    /// `vmalloc`, `ioremap`...
    #[must_use]
    pub(crate) fn kind(&self) -> &'static str {
        FLAGS.iter().find(|(bit, _)| self.flags & bit != 0).map_or("a mapping", |(_, name)| name)
    }
}

/// All areas, by address.
#[must_use]
pub(super) fn areas(view: &View) -> Vec<VmArea> {
    let mut areas: Vec<VmArea> = vmalloc::areas(view).into_iter().filter_map(|at| area(view, at)).collect();
    areas.sort_by_key(|a| a.range.start);
    areas
}

fn area(view: &View, at: VirtAddr) -> Option<VmArea> {
    let object = Object::new(view, "vmap_area", at);
    let range = object.number("va_start")?..object.number("va_end")?;
    if range.start < view.user_limit() || range.is_empty() {
        return None;
    }
    let vm = object.follow("vm", "vm_struct");
    let number = |path| vm.as_ref().and_then(|vm| vm.number(path));
    Some(VmArea {
        range,
        caller: number("caller").filter(|a| *a >= view.user_limit()).map(VirtAddr),
        flags: number("flags").unwrap_or(0),
        phys: number("phys_addr").filter(|p| *p != 0),
    })
}

/// The area that holds `addr`, of areas sorted by address.
#[must_use]
pub(super) fn holding(areas: &[VmArea], addr: u64) -> Option<&VmArea> {
    let after = areas.partition_point(|a| a.range.start <= addr);
    areas.get(after.checked_sub(1)?).filter(|a| a.range.contains(&addr))
}

/// Where the stacks of tasks begin, with the place of the task in the list of tasks.
#[must_use]
pub(super) fn stacks(kernel: &Kernel) -> Vec<(u64, usize)> {
    let tasks = kernel.tasks().all().iter().enumerate();
    let mut stacks: Vec<_> = tasks.filter(|(_, t)| t.stack.0 != 0).map(|(i, t)| (t.stack.0, i)).collect();
    stacks.sort_unstable();
    stacks
}
