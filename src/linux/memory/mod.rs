//! What lies where in the kernel's memory: pages, slabs, vmalloc's areas, stacks.
//!
//! [`pages`] is the array of `struct page`, [`slub`] the slab caches, [`freelists`] walks
//! and checks their free objects, [`marked`] what `slub_debug` leaves around them, [`depot`] the
//! stacks of who had them, [`looks`] says what a word is that is no address, and [`what`] puts all of them together: what is at this address? [`totals`] counts pages by use, [`oom`]
//! says who had them when there were none left.

use std::sync::OnceLock;

use super::{Kernel, Task};
use crate::addr::VirtAddr;
use areas::VmArea;
use pages::{Bases, PageMap};
use slub::Slub;

mod areas;
mod depot;
pub(crate) mod freelists;
pub(crate) mod looks;
pub(crate) mod marked;
mod marks;
pub(crate) mod oom;
mod page;
pub(crate) mod pages;
pub(crate) mod slub;
pub(crate) mod totals;
pub(crate) mod what;

/// Each part, read when first asked for.
pub(crate) struct Memory {
    pages: Option<PageMap>,
    slub: OnceLock<Result<Slub, String>>,
    areas: OnceLock<Vec<VmArea>>,
    /// Where the stacks of tasks begin, with the task's place in the list of tasks.
    stacks: OnceLock<Vec<(u64, usize)>>,
}

impl Memory {
    pub(super) fn of(kernel: &Kernel) -> Self {
        let pages =
            Bases::of(kernel).and_then(|bases| PageMap::read(kernel, bases, kernel.btf().map(AsRef::as_ref)));
        Self { pages, slub: OnceLock::new(), areas: OnceLock::new(), stacks: OnceLock::new() }
    }

    /// The array of `struct page`; `None` where the type is not known.
    #[must_use]
    pub(crate) fn pages(&self) -> Option<&PageMap> {
        self.pages.as_ref()
    }

    /// The slab caches. `Err` says why they are not known.
    pub(crate) fn slub(&self, kernel: &Kernel) -> Result<&Slub, &str> {
        let read = || {
            let pages = self.pages.clone().ok_or_else(|| "struct page is not known".to_owned())?;
            Slub::read(kernel, pages)
        };
        self.slub.get_or_init(read).as_ref().map_err(String::as_str)
    }

    /// The name of the slab cache in whose memory `addr` lies: cheap, for words by the thousand.
    #[must_use]
    pub(crate) fn cache_of(&self, kernel: &Kernel, addr: VirtAddr) -> Option<&str> {
        let (cache, _) = self.slub(kernel).ok()?.holding(kernel, addr)?;
        Some(&cache.name)
    }

    /// The area of vmalloc's that holds `addr`.
    #[must_use]
    pub(crate) fn area(&self, kernel: &Kernel, addr: VirtAddr) -> Option<&VmArea> {
        areas::holding(self.areas.get_or_init(|| areas::areas(kernel)), addr.0)
    }

    /// The task on whose kernel stack `addr` lies, and how far from its lowest address.
    #[must_use]
    pub(crate) fn stack_of<'k>(&self, kernel: &'k Kernel, addr: VirtAddr) -> Option<(&'k Task, u64)> {
        let stacks = self.stacks.get_or_init(|| areas::stacks(kernel));
        let after = stacks.partition_point(|(start, _)| *start <= addr.0);
        let (start, task) = stacks.get(after.checked_sub(1)?)?;
        let offset = addr.0 - start;
        (offset < kernel.thread_size()).then_some((kernel.tasks().all().get(*task)?, offset))
    }
}
