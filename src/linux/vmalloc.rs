//! Where vmalloc put its pages, without page tables.
//!
//! The kernel lists what it allocated: each `struct vm_struct` has an array of the
//! pages it was made of, and a `struct page` tells its frame by its place in the array at
//! `vmemmap_base`. So kernel stacks and modules, which lie in vmalloc's memory, can be
//! read although a table that maps them is lost; to those of stacks the tasks lead as
//! well. What only `vmap()` mapped (IRQ stacks) has no such array. Sources: `mm/vmalloc.c`, `include/linux/vmalloc.h`.
//!
//! | kernel | the areas |
//! |---|---|
//! | until 6.8 | the list `vmap_area_list` |
//! | 6.9 and later | `vmap_nodes[nr_vmap_nodes].busy.head` |

use std::sync::{Arc, OnceLock};

use super::derived::TASK_MAX;
use super::list;
use super::object::Object;
use super::{TaskList, View};
use crate::addr::{PAGE_SHIFT, PAGE_SIZE, Pfn, PhysAddr, VirtAddr};
use crate::dump::last_from;
use crate::memory::AddressSpace;
use crate::memory::paging::PageTables;

/// Areas that are believed; a machine with 100,000 threads has so many stacks.
const MAX_AREAS: usize = 1 << 20;
/// `vmap_nodes` are at most as many as CPUs.
const MAX_NODES: u64 = 8192;
/// Tasks in which a lost member is looked for.
const SAMPLE: usize = 16;

/// KASLR moves `vmemmap_base` by multiples of this (`arch/x86/mm/kaslr.c`).
const VMEMMAP_UNIT: u64 = 1 << 30;

/// One area: its addresses and the array of its pages.
struct Area {
    start: u64,
    end: u64,
    pages: VirtAddr,
}

/// How a `struct page` tells its frame.
#[derive(Clone, Copy)]
struct Frames {
    vmemmap: u64,
    page_size: u64,
}

impl Frames {
    /// By `vmemmap_base`; where that is lost by what is `mapped`: addresses, and what lists
    /// their pages.
    fn of(view: &View, tables: &PageTables, mapped: impl Iterator<Item = (u64, VirtAddr)>) -> Option<Self> {
        let page_size = view.types().size_of("page").filter(|&n| n > 0)?;
        let by_page = |(addr, pages): (u64, VirtAddr)| {
            let page = view.space().read_u64(pages).ok().filter(|page| *page >= view.user_limit())?;
            let within = match tables.walk(VirtAddr(addr), &mut |_| ()) {
                Ok(mapping) => mapping.phys.pfn().0.checked_mul(page_size)?,
                // All pages of a machine that is not larger lie within the first unit.
                Err(_) if tables.memory_end()? / PAGE_SIZE * page_size <= VMEMMAP_UNIT => page % VMEMMAP_UNIT,
                Err(_) => return None,
            };
            page.checked_sub(within).filter(|base| base.is_multiple_of(VMEMMAP_UNIT))
        };
        let agreed = || {
            let mut told = mapped.filter_map(by_page).take(SAMPLE);
            let base = told.next()?;
            told.all(|other| other == base).then_some(base)
        };
        let vmemmap = match view.symbol("vmemmap_base") {
            // Without CONFIG_RANDOMIZE_MEMORY it is always in one place.
            None if !view.symbols().lacks_names() => Some(tables.paging().levels.vmemmap()),
            at => at.and_then(|at| view.space().read_u64(at).ok()),
        };
        Some(Self { vmemmap: vmemmap.or_else(agreed)?, page_size })
    }

    /// Where `addr` is, of an area that begins at `start` and is made of these `pages`.
    fn find(self, space: &dyn AddressSpace, addr: VirtAddr, start: u64, pages: VirtAddr) -> Option<PhysAddr> {
        let slot = pages.checked_add((addr.0 - start) / PAGE_SIZE * 8)?;
        let page = space.read_u64(slot).ok()?.checked_sub(self.vmemmap)?;
        let phys = Pfn(page / self.page_size).address()?.0.checked_add(addr.page_offset())?;
        (page.is_multiple_of(self.page_size) && page / self.page_size < 1 << (52 - PAGE_SHIFT))
            .then_some(PhysAddr(phys))
    }
}

/// Where the array of `struct page` begins: `None` if it is lost, and nothing tells it.
pub(super) fn vmemmap(view: &View, tables: &PageTables) -> Option<u64> {
    let areas = || areas_of(view).into_iter().map(|a| (a.start, a.pages));
    Frames::of(view, tables, std::iter::once_with(areas).flatten()).map(|frames| frames.vmemmap)
}

/// Lets `tables` ask for the pages of vmalloc's areas, where a table of them is lost.
pub(super) fn know_pages(tables: &PageTables, view: &View) {
    // A walk of the lists must not ask for what it is about to find.
    let unlisted = Arc::new(tables.unlisted());
    let view = view.through(unlisted.clone());
    let known = OnceLock::new();
    tables.know_listed(move |addr| {
        let (areas, frames): &(Vec<Area>, _) = known.get_or_init(|| {
            let areas = areas_of(&view);
            let frames = Frames::of(&view, &unlisted, areas.iter().map(|a| (a.start, a.pages)));
            (areas, frames)
        });
        let area = last_from(areas, addr.0, |a| a.start).filter(|a| addr.0 < a.end)?;
        (*frames)?.find(view.space(), addr, area.start, area.pages)
    });
}

/// Lets `tables` ask the tasks themselves for the pages of their stacks: the list of areas
/// can be lost, too.
pub(super) fn know_stacks(tables: &PageTables, view: &View, tasks: &TaskList) {
    let unlisted = Arc::new(tables.unlisted());
    let view = view.through(unlisted.clone());
    let mut stacks: Vec<(u64, VirtAddr)> =
        tasks.all().iter().filter(|t| t.stack.0 != 0).map(|t| (t.stack.0, t.addr)).collect();
    stacks.sort_unstable();
    let known = OnceLock::new();
    tables.know_listed(move |addr| {
        let (member, frames) = known.get_or_init(|| {
            let member = stack_area_member(&view, &stacks);
            let pages =
                |&(stack, task): &(u64, VirtAddr)| Some((stack, stack_pages(&view, member?, stack, task)?));
            (member, Frames::of(&view, &unlisted, stacks.iter().filter_map(pages)))
        });
        let &(stack, task) = last_from(&stacks, addr.0, |(stack, _)| *stack)?;
        let pages = stack_pages(&view, (*member)?, stack, task)?;
        let within = addr.0 - stack < view.thread_size();
        within.then(|| (*frames)?.find(view.space(), addr, stack, pages)).flatten()
    });
}

/// The array of the pages of `stack`, by the `member` of its task that leads to its area.
fn stack_pages(view: &View, member: u64, stack: u64, task: VirtAddr) -> Option<VirtAddr> {
    let area = stack_area(view, task.checked_add(member)?, stack)?;
    let pages = area.checked_add(vm_struct(view, "pages", 32))?;
    view.space().read_u64(pages).ok().map(VirtAddr)
}

/// Offset of a member of `struct vm_struct`: where its type is lost, that which it has had
/// since 2.6.
fn vm_struct(view: &View, member: &str, usual: u64) -> u64 {
    view.types().field("vm_struct", member).map_or(usual, |f| f.offset)
}

/// The area that the pointer at `at` leads to, if it is that of `stack`: it says so itself.
fn stack_area(view: &View, at: VirtAddr, stack: u64) -> Option<VirtAddr> {
    let area = VirtAddr(view.space().read_u64(at).ok().filter(|&area| area >= view.user_limit())?);
    let start = view.space().read_u64(area.checked_add(vm_struct(view, "addr", 8))?).ok()?;
    (start == stack).then_some(area)
}

/// Offset of `task_struct.stack_vm_area` (`CONFIG_VMAP_STACK`, 4.9 and later): by the type,
/// else the one that leads to their areas from several tasks.
fn stack_area_member(view: &View, stacks: &[(u64, VirtAddr)]) -> Option<u64> {
    if let Some(field) = view.types().field("task_struct", "stack_vm_area") {
        return Some(field.offset);
    }
    let leads = |offset: u64| {
        let of = |(stack, task): &(u64, VirtAddr)| stack_area(view, task.checked_add(offset)?, *stack);
        stacks.iter().filter_map(of).take(3).count() == 3
    };
    let one = |(stack, task): &(u64, VirtAddr)| {
        (0..TASK_MAX as u64).step_by(8).find(|&o| {
            task.checked_add(o).is_some_and(|at| stack_area(view, at, *stack).is_some()) && leads(o)
        })
    };
    stacks.iter().take(SAMPLE).find_map(one)
}

fn areas_of(view: &View) -> Vec<Area> {
    let mut areas: Vec<Area> = areas(view).into_iter().filter_map(|at| area(view, at)).collect();
    areas.sort_by_key(|a| a.start);
    areas
}

/// Every `struct vmap_area` in use.
pub(super) fn areas(view: &View) -> Vec<VirtAddr> {
    let mut heads = Vec::new();
    heads.extend(view.symbol("vmap_area_list"));
    if let (Some(nodes), Some(size), Some(head)) = (
        view.symbol("vmap_nodes").and_then(|at| view.space().read_u64(at).ok()),
        view.types().size_of("vmap_node"),
        view.types().field("vmap_node", "busy.head"),
    ) {
        let count = view.symbol("nr_vmap_nodes").and_then(|at| view.space().read_u32(at).ok());
        let node = |i: u64| VirtAddr(nodes.wrapping_add(i * size).wrapping_add(head.offset));
        heads.extend((0..count.map_or(1, u64::from).min(MAX_NODES)).map(node));
    }
    let Some(link) = view.types().field("vmap_area", "list") else { return Vec::new() };
    let mut areas = Vec::new();
    let mut steps = MAX_AREAS;
    for head in heads {
        let walked = list::both_ways(view, head, link.offset, steps);
        areas.extend(walked.elements);
        steps = walked.steps;
    }
    areas
}

fn area(view: &View, at: VirtAddr) -> Option<Area> {
    let vm = Object::new(view, "vmap_area", at).follow("vm", "vm_struct")?;
    let (start, pages, count) = (vm.pointer("addr")?, vm.pointer("pages")?, vm.number("nr_pages")?);
    let end = start.0.checked_add(count.checked_mul(PAGE_SIZE)?)?;
    Some(Area { start: start.0, end, pages })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Levels;
    use crate::arch::paging::Paging;
    use crate::dump::PhysicalMemory;
    use crate::error::ReadFault;
    use crate::linux::tests::machine::Machine;
    use crate::memory::paging::{Basis, Linear};

    const VMEMMAP: u64 = 0xffff_ea1c_4000_0000;
    const AT: u64 = 0xffff_8880_0100_0000;

    /// Tables in frames 1 to 4 that map page 5 to frame 9.
    struct Frames1To4;

    impl PhysicalMemory for Frames1To4 {
        fn read_phys(&self, addr: PhysAddr, buf: &mut [u8]) -> Result<usize, ReadFault> {
            let entry = match (addr.pfn().0, addr.page_offset()) {
                (n @ 1..=3, 0) => (n + 1) << 12 | 3,
                (4, 40) => 9 << 12 | 3,
                (1..=4, _) => 0,
                _ => return Err(ReadFault::Truncated { addr: addr.0 }),
            };
            buf.copy_from_slice(&entry.to_le_bytes());
            Ok(8)
        }
    }

    #[test]
    fn where_struct_pages_begin_is_told_by_what_is_mapped() {
        let base = |root: u64, memory: u64, listed: &[(u64, u64)]| {
            let mut machine = Machine::new();
            // It has a name, and its page is lost.
            machine.symbol("vmemmap_base", AT);
            machine.size("page", 64);
            let mut list = |(&(addr, pfn), at): (&(u64, u64), u64)| {
                machine.word(at, VMEMMAP + pfn * 64);
                (addr, VirtAddr(at))
            };
            let mapped: Vec<_> = listed.iter().zip((AT + 0x1000..).step_by(8)).map(&mut list).collect();
            let paging = Paging { levels: Levels::Four, sme_mask: 0 };
            let mut tables = PageTables::new(Arc::new(Frames1To4), PhysAddr(root), paging);
            tables.know(Linear {
                basis: Basis::DirectMap,
                start: VirtAddr(AT),
                len: memory,
                phys: PhysAddr(0),
            });
            Frames::of(&machine.view(), &tables, mapped.into_iter()).map(|frames| frames.vmemmap)
        };
        assert_eq!(base(0x1000, 1 << 40, &[(0x5000, 9)]), Some(VMEMMAP));
        assert_eq!(base(0x1000, 1 << 40, &[(0x5000, 10)]), None);
        // The tables are lost.
        let lost = 0x10_0000;
        assert_eq!(base(lost, 1 << 34, &[(0x5000, 9), (0x7000, 1 << 21)]), Some(VMEMMAP));
        assert_eq!(base(lost, 1 << 40, &[(0x5000, 9)]), None);
        // What was taken for areas contradicts itself.
        assert_eq!(base(lost, 1 << 34, &[(0x5000, 9), (0x7000, 1 << 30)]), None);
    }
}
