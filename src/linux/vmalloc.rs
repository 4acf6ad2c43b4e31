//! Where vmalloc put its pages, without page tables.
//!
//! The kernel lists what it allocated: each `struct vm_struct` has an array of the
//! pages it was made of, and a `struct page` tells its frame by its place in the array at
//! `vmemmap_base`. So kernel stacks and modules, which lie in vmalloc's memory, can be
//! read although a table that maps them is lost. What only `vmap()` mapped (IRQ stacks)
//! has no such array. Sources: `mm/vmalloc.c`, `include/linux/vmalloc.h`.
//!
//! | kernel | the areas |
//! |---|---|
//! | until 6.8 | the list `vmap_area_list` |
//! | 6.9 and later | `vmap_nodes[nr_vmap_nodes].busy.head` |

use std::sync::{Arc, OnceLock};

use super::View;
use super::list;
use super::object::Object;
use crate::addr::{PAGE_SHIFT, PAGE_SIZE, Pfn, PhysAddr, VirtAddr};
use crate::memory::AddressSpace;
use crate::memory::paging::PageTables;

/// Areas that are believed; a machine with 100,000 threads has so many stacks.
const MAX_AREAS: usize = 1 << 20;
/// `vmap_nodes` are at most as many as CPUs.
const MAX_NODES: u64 = 8192;

/// One area: its addresses and the array of its pages.
struct Area {
    start: u64,
    end: u64,
    pages: VirtAddr,
}

/// Lets `tables` ask for the pages of vmalloc's areas, where a table of them is lost.
pub(super) fn know_pages(tables: &PageTables, view: &View) {
    // A walk of the lists must not ask for what it is about to find.
    let unlisted = Arc::new(tables.unlisted());
    let view = view.through(unlisted.clone());
    let vmemmap = view
        .symbol("vmemmap_base")
        .and_then(|at| unlisted.read_u64(at).ok())
        .unwrap_or_else(|| tables.paging().levels.vmemmap());
    let Some(page_size) = view.types().size_of("page").filter(|&n| n > 0) else { return };
    let areas = OnceLock::new();
    tables.know_listed(move |addr| {
        let areas: &Vec<Area> = areas.get_or_init(|| areas_of(&view));
        let after = areas.partition_point(|a| a.start <= addr.0);
        let area = areas.get(after.checked_sub(1)?).filter(|a| addr.0 < a.end)?;
        let slot = area.pages.checked_add((addr.0 - area.start) / PAGE_SIZE * 8)?;
        let page = unlisted.read_u64(slot).ok()?.checked_sub(vmemmap)?;
        let phys = Pfn(page / page_size).address()?.0.checked_add(addr.page_offset())?;
        (page.is_multiple_of(page_size) && page / page_size < 1 << (52 - PAGE_SHIFT))
            .then_some(PhysAddr(phys))
    });
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
