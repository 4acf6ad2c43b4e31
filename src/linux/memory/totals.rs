//! What the memory of the machine is used for, by the kernel's own counters.
//!
//! Pages are counted by zone (`vm_zone_stat[]`) and by node (`vm_node_stat[]`; before 4.8
//! one array, `vm_stat[]`, had both), each element a sum from which some pages of every CPU
//! are still missing, as in /proc/meminfo. Slab pages are counted in bytes since 5.9 by the
//! names `NR_SLAB_*_B`, but kept in pages. Sources: `mm/vmstat.c`,
//! `include/linux/mmzone.h`, `mm/swapfile.c`, `mm/util.c`, `mm/hugetlb.c`, `block/bdev.c`.

use std::ops::Range;

use serde::Serialize;

use super::super::list::List;
use super::super::object::Object;
use super::super::{Kernel, View, swap};
use super::pages::PageMap;
use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::bytes::u32_at;
use crate::error::ReadFault;
use crate::memory::read_holed;

/// Swap files that are believed (`MAX_SWAPFILES` is 32 at most).
const MAX_SWAPS: u64 = 32;
/// Sizes of huge pages (`HUGE_MAX_HSTATE` is 2).
const MAX_HUGE: u64 = 8;
/// Block devices.
const MAX_DEVICES: usize = 1 << 16;
/// Frames whose users are counted, those of 16 GiB: of more it takes too long.
const MAX_COUNTED: u64 = 4 << 20;
/// Bytes of `struct page` that are read at once.
const AT_ONCE: u64 = 1 << 20;

/// Pages, each `None` where the dump does not tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Totals {
    /// What the page allocator was given.
    pub(crate) total: Option<u64>,
    pub(crate) free: Option<u64>,
    pub(crate) used: Option<u64>,
    /// Pages with more than one user, but for reserved ones. Not counted on machines of more than 16 GiB.
    pub(crate) shared: Option<u64>,
    /// What is read of block devices.
    pub(crate) buffers: Option<u64>,
    /// What is read of files, swap and block devices left out.
    pub(crate) cached: Option<u64>,
    pub(crate) slab: Option<u64>,
    pub(crate) huge: Option<u64>,
    pub(crate) huge_free: Option<u64>,
    pub(crate) swap: Option<u64>,
    pub(crate) swap_used: Option<u64>,
    pub(crate) commit_limit: Option<u64>,
    pub(crate) committed: Option<u64>,
    /// What the used pages are used for, as far as the kernel counts it.
    #[serde(rename = "use")]
    pub(crate) uses: Vec<Use>,
}

/// Pages that are used for one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Use {
    pub(crate) what: &'static str,
    pub(crate) pages: u64,
}

impl Totals {
    /// Reads them. `None` where not even the total is known.
    #[must_use]
    pub(crate) fn of(kernel: &Kernel) -> Option<Self> {
        let shared = kernel.memory().pages().and_then(|pages| shared(kernel, pages));
        Some(Self { shared, ..Self::by_counters(kernel)? })
    }

    /// The same without [`Self::shared`], for which every page is looked at.
    #[must_use]
    pub(crate) fn by_counters(kernel: &Kernel) -> Option<Self> {
        let word = |name| kernel.space().read_u64(kernel.symbol(name)?).ok();
        let total = word("_totalram_pages").or_else(|| word("totalram_pages"))?;
        let stat = |names: &[&str]| counter(kernel, names);
        let free = stat(&["NR_FREE_PAGES"]);
        let buffers = buffers(kernel);
        let file = stat(&["NR_FILE_PAGES"]);
        let swap_cache = stat(&["NR_SWAPCACHE"]).or_else(|| swap_cache(kernel));
        let reclaimable = stat(&["NR_SLAB_RECLAIMABLE_B", "NR_SLAB_RECLAIMABLE"]);
        let unreclaimable = stat(&["NR_SLAB_UNRECLAIMABLE_B", "NR_SLAB_UNRECLAIMABLE"]);
        let (huge, huge_free) = huge(kernel).unzip();
        let (swap, swap_used) = swap(kernel).unzip();
        let mut totals = Self {
            total: Some(total),
            free,
            used: free.and_then(|free| total.checked_sub(free)),
            shared: None,
            buffers,
            cached: file.zip(swap_cache).zip(buffers).map(|((file, swap), b)| {
                // Each is read at another moment of its own.
                file.saturating_sub(swap).saturating_sub(b)
            }),
            slab: reclaimable.zip(unreclaimable).map(|(a, b)| a.saturating_add(b)),
            huge,
            huge_free,
            swap,
            swap_used,
            commit_limit: commit_limit(kernel, total, huge.unwrap_or(0)),
            committed: percpu_sum(kernel, "vm_committed_as"),
            uses: Vec::new(),
        };
        let stacks = stat(&["NR_KERNEL_STACK_KB"]).map(|kib| kib / 4);
        let stacks =
            stacks.or_else(|| Some(stat(&["NR_KERNEL_STACK"])? * (kernel.thread_size() / PAGE_SIZE)));
        let known = [
            ("anonymous", stat(&["NR_ANON_MAPPED", "NR_ANON_PAGES"])),
            ("shared memory, tmpfs", stat(&["NR_SHMEM"])),
            ("files", totals.cached.map(|c| c.saturating_sub(stat(&["NR_SHMEM"]).unwrap_or(0)))),
            ("block devices", totals.buffers),
            ("slab, reclaimable", reclaimable),
            ("slab, unreclaimable", unreclaimable),
            ("page tables", stat(&["NR_PAGETABLE"])),
            ("kernel stacks", stacks),
            ("huge pages", totals.huge),
        ];
        totals.uses =
            known.into_iter().filter_map(|(what, pages)| Some(Use { what, pages: pages? })).collect();
        if let Some(used) = totals.used {
            let told: u64 = totals.uses.iter().map(|u| u.pages).fold(0, u64::saturating_add);
            totals.uses.push(Use { what: "the rest", pages: used.saturating_sub(told) });
        }
        if let Some(pages) = free {
            totals.uses.push(Use { what: "free", pages });
        }
        Some(totals)
    }
}

/// The counter that has one of these names.
fn counter(view: &View, names: &[&str]) -> Option<u64> {
    let value = |name: &str| u64::try_from(view.types().enumerator(name)?).ok();
    let (name, index) = names.iter().find_map(|name| Some((*name, value(name)?)))?;
    let of_zone = match name {
        "NR_FREE_PAGES" => true,
        // They moved to the node in 5.9 and 5.11 (991e7673859e, f0c0c115fb81), where they
        // stand behind more counters than a zone has.
        "NR_PAGETABLE" | "NR_KERNEL_STACK" | "NR_KERNEL_STACK_KB" => {
            value("NR_VM_ZONE_STAT_ITEMS").is_some_and(|zone| index < zone)
        }
        // 385386cff4c6 of 4.13 put them behind the five lists of pages (NR_UNEVICTABLE is 4).
        "NR_SLAB_RECLAIMABLE" => index != 5,
        "NR_SLAB_UNRECLAIMABLE" => index != 6,
        _ => false,
    };
    let array = view.symbol(if of_zone { "vm_zone_stat" } else { "vm_node_stat" });
    let at = array.or_else(|| view.symbol("vm_stat"))?.checked_add(index.checked_mul(8)?)?;
    // The parts that CPUs keep may make a sum negative, which stands for nothing.
    Some(u64::try_from(view.space().read_u64(at).ok()?.cast_signed()).unwrap_or(0))
}

/// A `struct percpu_counter` as it is without what CPUs keep: what crash shows.
fn percpu_sum(view: &View, symbol: &str) -> Option<u64> {
    u64::try_from(Object::of_symbol(view, symbol, "percpu_counter")?.signed("count")?).ok()
}

/// Pages of all block devices: their inodes are those of one file system.
fn buffers(view: &View) -> Option<u64> {
    let block = VirtAddr(view.space().read_u64(view.symbol("blockdev_superblock")?).ok()?);
    let head = Object::new(view, "super_block", block).address("s_inodes")?;
    let link = view.types().field("inode", "i_sb_list")?;
    let mut inodes = List::circular(view, head, link.offset, MAX_DEVICES);
    let mut pages = 0u64;
    for inode in inodes.by_ref() {
        let mapping = Object::new(view, "inode", inode).follow("i_mapping", "address_space")?;
        pages = pages.checked_add(mapping.number("nrpages")?)?;
    }
    inodes.broken().is_none().then_some(pages)
}

/// Pages that are in swap and in memory, before they were counted (5.12, b6038942480e).
fn swap_cache(view: &View) -> Option<u64> {
    let nr = view.types().field("address_space", "nrpages")?;
    if let Some(space) = view.symbol("swapper_space") {
        return view.space().read_u64(space.checked_add(nr.offset)?).ok();
    }
    let size = view.types().size_of("address_space")?;
    let (spaces, counts) = (view.symbol("swapper_spaces")?, view.symbol("nr_swapper_spaces")?);
    let mut pages = 0u64;
    for i in 0..MAX_SWAPS {
        let count = view.space().read_u32(counts.checked_add(i * 4)?).ok()?.min(1 << 16);
        let first = view.space().read_u64(spaces.checked_add(i * 8)?).ok()?;
        for n in (0..u64::from(count)).take_while(|_| first >= view.user_limit()) {
            let at = VirtAddr(first).checked_add(n * size)?.checked_add(nr.offset)?;
            pages = pages.checked_add(view.space().read_u64(at).ok()?)?;
        }
    }
    Some(pages)
}

/// Pages of swap, and those in use.
fn swap(view: &View) -> Option<(u64, u64)> {
    swap::areas(view)?.into_iter().try_fold((0, 0), |(all, used), area| {
        let area = area?;
        Some((all + area.pages, used + area.used))
    })
}

/// Pages of `MAP_HUGETLB` and its like, and those that are free. Nothing of them is no lack.
fn huge(view: &View) -> Option<(u64, u64)> {
    let Some(array) = view.symbol("hstates") else { return Some((0, 0)) };
    let count = view.space().read_u32(view.symbol("hugetlb_max_hstate")?).ok()?;
    let size = view.types().size_of("hstate")?;
    let (mut all, mut free) = (0u64, 0u64);
    for i in 0..u64::from(count).min(MAX_HUGE) {
        let state = Object::new(view, "hstate", array.checked_add(i * size)?);
        let pages = 1u64.checked_shl(u32::try_from(state.number("order")?).ok()?.min(40))?;
        all = all.checked_add(state.number("nr_huge_pages")?.checked_mul(pages)?)?;
        free = free.checked_add(state.number("free_huge_pages")?.checked_mul(pages)?)?;
    }
    Some((all, free))
}

/// What may be promised, if promises are kept (`vm_commit_limit()`).
fn commit_limit(view: &View, total: u64, huge: u64) -> Option<u64> {
    let word = |name| view.space().read_u64(view.symbol(name)?).ok();
    let of_memory = match word("sysctl_overcommit_kbytes") {
        Some(kib) if kib > 0 => kib / 4,
        _ => {
            let ratio = view.space().read_u32(view.symbol("sysctl_overcommit_ratio")?).ok()?;
            total.saturating_sub(huge).checked_mul(ratio.into())? / 100
        }
    };
    of_memory.checked_add(word("total_swap_pages")?)
}

/// Pages with more than one user, those left out that the kernel itself was given at boot:
/// crash leaves them out, too.
fn shared(view: &View, pages: &PageMap) -> Option<u64> {
    let types = view.types();
    let count = types.field("page", "_refcount.counter").or_else(|| types.field("page", "_count.counter"))?;
    let count = usize::try_from(count.offset).ok()?;
    let (array, size) = (pages.array(), pages.size());
    if (array.end - array.start) / size > MAX_COUNTED {
        return None;
    }
    let step = AT_ONCE / size * size;
    let mut shared = 0u64;
    let mut at = array.start;
    while at < array.end {
        let length = step.min(array.end - at);
        let read = read_holed(view.space(), VirtAddr(at), usize::try_from(length).ok()?);
        if !read.holes.iter().all(|hole| is_empty(view, at, &hole.range)) {
            return None;
        }
        for page in read.bytes.chunks_exact(usize::try_from(size).ok()?) {
            let users = u32_at(page, count).unwrap_or(0).cast_signed();
            shared += u64::from(users > 1 && !pages.is_reserved(page)?);
        }
        at += length;
    }
    Some(shared)
}

/// Whether a hole of the page array is one of the machine's memory, which has no pages there,
/// or zeros that the dump's filter left out; what is lost may be anything.
fn is_empty(view: &View, array: u64, hole: &Range<usize>) -> bool {
    let end = array.saturating_add(hole.end as u64);
    let first = array.saturating_add(hole.start as u64);
    let pages = std::iter::successors(Some(first), |at| (at | (PAGE_SIZE - 1)).checked_add(1));
    pages.take_while(|at| *at < end).all(|at| {
        let fault = view.space().read_run(VirtAddr(at), &mut [0]).err();
        matches!(fault, Some(ReadFault::NotMapped { .. } | ReadFault::Excluded { .. }))
    })
}
