//! Memory: what the machine has, and what each process uses.
//!
//! A process's resident pages: `mm->rss_stat.count[]` plus what its threads have
//! not yet handed in (`task->rss_stat.count[]`, until 6.1), or per-CPU counters
//! (6.2 and later, f1a7941243c1). Sources: `include/linux/mm_types_task.h`,
//! `lib/percpu_counter.c`.

use std::collections::HashMap;

use super::object::Object;
use super::{Kernel, Task, View};
use crate::addr::{PAGE_SIZE, VirtAddr};

/// Nodes that are believed (`MAX_NUMNODES` is at most 1024).
const MAX_NODES: u64 = 1024;

/// Pages that the machine's nodes have (`node_present_pages`).
#[must_use]
pub(crate) fn present_pages(view: &View) -> Option<u64> {
    if let Some(node) = Object::of_symbol(view, "contig_page_data", "pglist_data") {
        return node.number("node_present_pages");
    }
    let nodes = view.symbol("node_data")?;
    let ids = view.symbol("nr_node_ids").and_then(|a| view.space().read_u32(a).ok()).unwrap_or(1);
    let mut total = 0u64;
    for i in 0..u64::from(ids).min(MAX_NODES) {
        let node = view.space().read_u64(nodes.checked_add(i * 8)?).ok().filter(|&n| n != 0);
        if let Some(node) = node {
            total = total.checked_add(
                Object::new(view, "pglist_data", VirtAddr(node)).number("node_present_pages")?,
            )?;
        }
    }
    (total > 0).then_some(total)
}

/// Bytes as crash writes them: `767.5 MB`, `1 GB`.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "one decimal place is shown")]
pub(crate) fn size_text(bytes: u64) -> String {
    const MB: u64 = 1 << 20;
    const GB: u64 = 1 << 30;
    let text = match bytes {
        b if b >= GB => format!("{:.1} GB", b as f64 / GB as f64),
        b if b >= MB => format!("{:.1} MB", b as f64 / MB as f64),
        b => return format!("{} KB", b >> 10),
    };
    text.replace(".0 ", " ")
}

/// crash's `MEMORY`: a machine that lacks less than 64 MB to a whole GB (the
/// firmware's share) counts as having it.
#[must_use]
pub(crate) fn memory_text(view: &View) -> Option<String> {
    let bytes = present_pages(view)?.checked_mul(PAGE_SIZE)?;
    let next = bytes.checked_next_multiple_of(1 << 30)?;
    Some(size_text(if next - bytes <= 64 << 20 { next } else { bytes }))
}

/// Size and resident set of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// KiB of address space (`total_vm`).
    pub vsz: u64,
    /// KiB in memory.
    pub rss: u64,
    /// KiB in swap (`MM_SWAPENTS`), but for what threads have not handed in yet; if it is known.
    pub swap: Option<u64>,
}

/// `MM_SWAPENTS`.
const SWAPPED: u64 = 2;

/// What each process uses; one reading for all its threads.
pub(crate) struct Usages<'a> {
    kernel: &'a Kernel,
    /// `MM_FILEPAGES`, `MM_ANONPAGES`, `MM_SHMEMPAGES`.
    counters: Vec<u64>,
    /// What tasks keep for themselves, by mm (vfork() shares it between processes).
    cached: HashMap<u64, u64>,
    known: HashMap<u64, Option<Usage>>,
}

impl<'a> Usages<'a> {
    /// For the tasks of `kernel`.
    #[must_use]
    pub(crate) fn new(kernel: &'a Kernel) -> Self {
        let counter = |name, old| kernel.types().enumerator(name).map_or(old, |n| Some(n.cast_unsigned()));
        let counters = [("MM_FILEPAGES", Some(0)), ("MM_ANONPAGES", Some(1)), ("MM_SHMEMPAGES", None)]
            .into_iter()
            .filter_map(|(name, old)| counter(name, old))
            .filter(|&n| n < 8)
            .collect();
        let mut usages = Self { kernel, counters, cached: HashMap::new(), known: HashMap::new() };
        if let Some(field) = kernel.types().field("task_struct", "rss_stat.count") {
            for (task, mm) in kernel.tasks().all().iter().filter_map(|t| Some((t, t.mm?))) {
                for &i in &usages.counters {
                    let at = task.addr.checked_add(field.offset + i * 4);
                    let count = at.and_then(|a| kernel.space().read_u32(a).ok()).map_or(0, u32::cast_signed);
                    *usages.cached.entry(mm.0).or_default() += u64::try_from(count).unwrap_or(0);
                }
            }
        }
        usages
    }

    /// What the process of `task` uses; `None` if that cannot be told.
    pub(crate) fn of(&mut self, task: &Task) -> Option<Usage> {
        let Some(mm) = task.mm.filter(|_| !matches!(task.state, 'Z' | 'X' | 'x')) else {
            return (!task.unread).then(Usage::default);
        };
        if let Some(known) = self.known.get(&mm.0) {
            return *known;
        }
        let usage = self.read(mm);
        self.known.insert(mm.0, usage);
        usage
    }

    fn read(&self, mm: VirtAddr) -> Option<Usage> {
        let object = Object::new(self.kernel, "mm_struct", mm);
        let total_vm = object.number("total_vm")?;
        let mut pages = self.cached.get(&mm.0).copied().unwrap_or(0);
        let array = object.address("rss_stat.count");
        let counted = |i: u64| {
            let count = match array {
                Some(base) => self.kernel.space().read_u64(base.checked_add(i * 8)?).ok()?.cast_signed(),
                None => self.percpu_counter(object.address("rss_stat")?, i)?,
            };
            // The parts that CPUs keep may make a sum negative, which stands for nothing.
            Some(u64::try_from(count).unwrap_or(0))
        };
        for &i in &self.counters {
            pages = pages.checked_add(counted(i)?)?;
        }
        let swap = counted(SWAPPED).and_then(|pages| pages.checked_mul(4));
        Some(Usage { vsz: total_vm.checked_mul(4)?, rss: pages.checked_mul(4)?, swap })
    }

    /// `rss_stat[i]`, a `struct percpu_counter`: its sum over all CPUs.
    fn percpu_counter(&self, array: VirtAddr, i: u64) -> Option<i64> {
        let size = self.kernel.types().size_of("percpu_counter")?;
        let counter = Object::new(self.kernel, "percpu_counter", array.checked_add(i * size)?);
        let mut sum = counter.signed("count")?;
        let percpu = VirtAddr(counter.number("counters")?);
        for &cpu in self.kernel.percpu().present() {
            let at = self.kernel.percpu().address(percpu, cpu)?;
            let part = self.kernel.space().read_u32(at).ok().map_or(0, u32::cast_signed);
            sum = sum.checked_add(i64::from(part))?;
        }
        Some(sum)
    }
}

/// A task's share of the machine's memory, in percent.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "one decimal place is shown")]
pub(crate) fn percent(usage: Usage, present: u64) -> f64 {
    if present == 0 { 0.0 } else { usage.rss as f64 / 4.0 * 100.0 / present as f64 }
}
