//! Out of memory: what the memory is used for, who has most of it, and whom the kernel killed.

use std::io;

use serde::Serialize;

use super::Triage;
use crate::addr::PAGE_SIZE;
use crate::linux::Kernel;
use crate::linux::memory::oom::{self, Holder, Kill, Request};
use crate::linux::memory::totals::Totals;
use crate::linux::usage::size_text;
use crate::text::{Screen, row};

/// Processes that are told.
const HOLDERS: usize = 10;
/// Of each kind, on the screen.
const SHOWN: usize = 3;
/// Uses of memory, on the screen.
const USES: usize = 4;
/// Slab caches are named where they have such a part of the memory.
const MUCH: u64 = 10;

/// Memory that ran out.
#[derive(Serialize)]
pub(super) struct OutOfMemory {
    /// Whether the kernel panicked of it; else it killed, and went on.
    pub(super) fatal: bool,
    /// What was asked for last.
    request: Option<Request>,
    killed: Vec<Kill>,
    /// The processes that have most, at the end.
    largest: Vec<Holder>,
    /// The slab caches that have most, where slabs have much.
    caches: Vec<CacheSize>,
    memory: Option<Totals>,
}

/// What a slab cache has.
#[derive(Clone, Serialize)]
pub(super) struct CacheSize {
    pub(super) cache: String,
    pub(super) bytes: u64,
}

impl OutOfMemory {
    /// `None` where memory did not run out, by all that is told. `caches` has all of them.
    pub(super) fn of(kernel: &Kernel, panic: Option<&str>, mut caches: Vec<CacheSize>) -> Option<Self> {
        let fatal = panic.is_some_and(oom::is_fatal);
        let killed = oom::kills(kernel);
        if !fatal && killed.is_empty() {
            return None;
        }
        let memory = Totals::by_counters(kernel);
        let sizes = memory.as_ref().and_then(|m| m.slab.zip(m.total));
        if sizes.is_none_or(|(slab, total)| slab < total / MUCH) {
            caches.clear();
        }
        caches.sort_by_key(|cache| std::cmp::Reverse(cache.bytes));
        caches.truncate(HOLDERS);
        Some(Self {
            fatal,
            request: oom::request(kernel.log()),
            killed,
            largest: oom::largest(kernel, HOLDERS),
            caches,
            memory,
        })
    }

    /// A row for each thing that is known.
    fn rows(&self, shown: usize, screen: &mut Screen<'_>) -> io::Result<()> {
        let title = match (self.fatal, self.killed.iter().all(|kill| kill.of_group)) {
            (true, _) => "OUT OF MEMORY",
            (false, true) => "A GROUP (cgroup) WAS OUT OF MEMORY before the crash",
            (false, false) => "OUT OF MEMORY before the crash",
        };
        let pages = |pages: u64| size_text(pages.saturating_mul(PAGE_SIZE));
        let total = self.memory.as_ref().and_then(|memory| memory.total);
        match &self.memory {
            Some(Totals { total: Some(total), free: Some(free), swap, swap_used, .. }) => {
                let swap = match swap.zip(*swap_used) {
                    Some((0, _)) => "no swap".to_owned(),
                    Some((all, used)) => format!("{} of {} swap used", pages(used), pages(all)),
                    None => "swap is not known".to_owned(),
                };
                row!(screen, "{title}: {} of {} free, {swap}", pages(*free), pages(*total))?;
            }
            _ => row!(screen, "{title}: how much was used is not known")?,
        }
        if let Some(memory) = &self.memory {
            let mut uses: Vec<_> = memory.uses.iter().filter(|u| u.what != "free" && u.pages > 0).collect();
            uses.sort_by_key(|u| std::cmp::Reverse(u.pages));
            let uses = uses.iter().take(USES.max(shown)).map(|u| format!("{} {}", u.what, pages(u.pages)));
            listed("used for", uses, "; ", screen)?;
        }
        let percent = |kib: u64| {
            let share = total.and_then(|total| kib.saturating_mul(25).checked_div(total));
            share.filter(|share| *share > 0).map(|share| format!(" ({share} %)")).unwrap_or_default()
        };
        let most = self.largest.iter().take(shown).map(|holder| {
            let swap = match holder.swap_kib {
                Some(0) | None => String::new(),
                Some(swap) => format!(" and {} in swap", size_text(swap << 10)),
            };
            let name = person(holder.pid, &holder.comm);
            format!("{name} {}{}{swap}", size_text(holder.rss_kib << 10), percent(holder.rss_kib))
        });
        listed("most of it", most, ", ", screen)?;
        let caches = self.caches.iter().take(shown);
        let caches = caches.map(|cache| format!("{} {}", cache.cache, size_text(cache.bytes)));
        listed("slab caches", caches, ", ", screen)?;
        if let Some(Request { comm, order }) = &self.request {
            let pages = order.and_then(|order| 1u64.checked_shl(order));
            let pages = match pages {
                Some(1) => "a page".to_owned(),
                Some(pages) => format!("{pages} pages in a row"),
                None => "pages".to_owned(),
            };
            row!(screen, "    asked for: {pages}, by \"{comm}\"")?;
        }
        let killed = self.killed.iter().rev().take(shown).map(|kill| {
            let size = kill.rss_kib.map(|kib| format!(" {}", size_text(kib << 10))).unwrap_or_default();
            let group = if kill.of_group { " of its group" } else { "" };
            let alive = if kill.alive { ", not yet ended" } else { "" };
            format!("{}{size}{group}{alive}", person(Some(kill.pid), &kill.comm))
        });
        listed("killed", killed, ", ", screen)?;
        match self.killed.len().saturating_sub(shown) {
            0 => Ok(()),
            more => row!(screen, "    ({more} were killed before)"),
        }
    }
}

fn person(pid: Option<u32>, comm: &str) -> String {
    format!("pid {} \"{comm}\"", crate::text::or_unknown(pid))
}

/// `name: one, two`, where there are any.
fn listed(
    name: &str,
    all: impl Iterator<Item = String>,
    between: &str,
    screen: &mut Screen<'_>,
) -> io::Result<()> {
    let all: Vec<String> = all.collect();
    if all.is_empty() { Ok(()) } else { row!(screen, "    {name}: {}", all.join(between)) }
}

impl Triage<'_> {
    /// Of memory that ran out, if it did.
    pub(super) fn shortage(&self, full: bool, screen: &mut Screen<'_>) -> io::Result<()> {
        let Some(shortage) = &self.out_of_memory else { return Ok(()) };
        row!(screen)?;
        shortage.rows(if full { HOLDERS } else { SHOWN }, screen)
    }
}
