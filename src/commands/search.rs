//! `search`: a value or a text in memory.
//!
//! Kernel memory is searched once a page: through the direct map, where every
//! page of RAM has an address, and then where pages have a second one that
//! people know them by (vmalloc, modules, the kernel image). A user's is what
//! its page tables map; physical memory is what the dump has.

use std::collections::HashMap;
use std::io::Write;
use std::time::{Duration, Instant};

use super::{Command, CommandError, Request, Subject, json, only_kernel};
use crate::addr::{PAGE_SIZE, PhysAddr};
use crate::bytes::u64_at;
use crate::dump::PhysicalMemory;
use crate::linux::Kernel;
use crate::memory::AddressSpace;
use crate::memory::paging::PageTables;

pub(super) const COMMAND: Command = Command {
    name: "search",
    usage: "[-k|-u|-p] [-s START] [-e END|-l LENGTH] [-m MASK] [-w|-h] [-n MAX] VALUE|SYMBOL... | -c TEXT...",
    summary: "find a value or a text in kernel, user or physical memory",
    help: "  -k       kernel memory (the default)   -u  the selected task's   -p  physical\n  \
           -s -e -l  from START, up to END, or LENGTH bytes\n  \
           -m MASK  bits of the value that do not matter\n  \
           -w, -h   values of 32 or 16 bits instead of 64\n  \
           -c       texts\n  \
           -n MAX   stop after so many (10000)\n\n\
           Values are aligned to their size. Ctrl-C stops it.",
    kernel: true,
    process: false,
    run,
};

/// Bytes of text in front of a match across two pages.
const TEXT_MAX: usize = 256;
/// `MODULES_END` without the fixmap's largest extent.
const MODULES_END: u64 = 0xffff_ffff_ff00_0000;
/// How often the way so far is shown.
const PROGRESS: Duration = Duration::from_secs(3);

#[derive(Default)]
struct What {
    values: Vec<u64>,
    texts: Vec<Vec<u8>>,
    mask: u64,
    width: usize,
}

#[derive(serde::Serialize)]
struct Hit {
    address: String,
    found: String,
}

struct Finder<'a> {
    kernel: &'a Kernel,
    what: What,
    max: usize,
    hits: Vec<Hit>,
    count: usize,
    json: bool,
    /// Addresses that are of interest.
    start: u64,
    end: u64,
    physical: bool,
    /// The end of the page before, for texts across pages.
    tail: Vec<u8>,
    next: u64,
    shown: Instant,
}

fn run(subject: Subject<'_>, request: &Request<'_>, out: &mut dyn Write) -> Result<(), CommandError> {
    let kernel = only_kernel(subject)?;
    let mut what = What { width: 8, ..What::default() };
    let (mut user, mut physical, mut texts) = (false, false, false);
    let (mut start, mut end, mut length, mut max) = (None, None, None, 10_000);
    let mut words: Vec<&str> = Vec::new();
    let mut args = request.args.iter().map(String::as_str);
    while let Some(arg) = args.next() {
        let mut number = || {
            let word = args.next().ok_or_else(|| CommandError::Failed(format!("{arg} needs a number")))?;
            super::address(kernel, word).map(|a| a.0)
        };
        match arg {
            "-k" => {}
            "-u" => user = true,
            "-p" => physical = true,
            "-s" => start = Some(number()?),
            "-e" => end = Some(number()?),
            "-l" => length = Some(number()?),
            "-m" => what.mask = number()?,
            "-n" => {
                let number = args.next().and_then(|n| n.parse().ok());
                max = number.ok_or_else(|| CommandError::Failed("-n needs a number".to_owned()))?;
            }
            "-w" => what.width = 4,
            "-h" => what.width = 2,
            "-c" => texts = true,
            _ => words.push(arg),
        }
    }
    if words.is_empty() {
        return Err(CommandError::Failed("search needs a value, or a text behind -c".to_owned()));
    }
    for word in words {
        if texts {
            let text = word.trim_matches('"').as_bytes();
            if text.is_empty() || text.len() > TEXT_MAX {
                return Err(CommandError::Failed(format!("a text has 1 to {TEXT_MAX} bytes")));
            }
            what.texts.push(text.to_vec());
        } else {
            what.values.push(super::address(kernel, word)?.0 & !what.mask);
        }
    }
    let end = end.or_else(|| start.zip(length).map(|(s, l)| s.saturating_add(l))).unwrap_or(u64::MAX);
    let mut finder = Finder {
        kernel,
        what,
        max,
        hits: Vec::new(),
        count: 0,
        json: request.json,
        start: start.unwrap_or(0),
        end,
        physical,
        tail: Vec::new(),
        next: 0,
        shown: Instant::now(),
    };
    let done = if physical {
        finder.physical(request, out)
    } else if user || end <= kernel.user_limit() {
        let task = super::select::current(kernel, request)?;
        let space = kernel.task_space(task).ok_or_else(|| {
            CommandError::Failed(format!("{} (pid {}) has no user memory", task.comm, task.pid))
        })?;
        finder.mapped(&space, 0, kernel.user_limit(), request, out)
    } else {
        finder.of_kernel(request, out)
    };
    done?;
    if request.json {
        return json(&finder.hits, out);
    }
    if finder.count >= max {
        writeln!(out, "(stopped after {max}; -n asks for more)")?;
    } else if finder.count == 0 {
        writeln!(out, "(not found)")?;
    }
    Ok(())
}

impl Finder<'_> {
    /// Searches one page at `addr`.
    fn page(&mut self, addr: u64, bytes: &[u8], out: &mut dyn Write) -> Result<(), CommandError> {
        if addr >= self.end || addr.saturating_add(PAGE_SIZE) <= self.start {
            return Ok(());
        }
        let width = self.what.width;
        if !self.what.values.is_empty() {
            let keep = !self.what.mask & if width == 8 { u64::MAX } else { (1 << (8 * width)) - 1 };
            for (i, word) in bytes.chunks_exact(width).enumerate() {
                let value = word.iter().rev().fold(0u64, |v, &b| v << 8 | u64::from(b));
                if self.what.values.iter().any(|&w| w & keep == value & keep) {
                    self.hit(addr + (i * width) as u64, &format!("{value:0w$x}", w = width * 2), out)?;
                }
            }
        }
        if self.what.texts.is_empty() {
            return Ok(());
        }
        if self.next != addr {
            self.tail.clear();
        }
        let before = self.tail.len();
        let mut joined = std::mem::take(&mut self.tail);
        joined.extend_from_slice(bytes);
        let mut found = Vec::new();
        for text in &self.what.texts {
            let first = text.first().copied().unwrap_or(0);
            let mut from = 0;
            while let Some(at) = joined.get(from..).and_then(|rest| rest.iter().position(|&b| b == first)) {
                let at = from + at;
                // What lies whole in the page before was found there.
                if at + text.len() > before && joined.get(at..at + text.len()) == Some(text.as_slice()) {
                    found.push(at);
                }
                from = at + 1;
            }
        }
        found.sort_unstable();
        for at in found {
            let line: String = joined
                .iter()
                .skip(at)
                .take(56)
                .map(|&b| if (0x20..0x7f).contains(&b) { char::from(b) } else { '.' })
                .collect();
            self.hit(addr.wrapping_add(at as u64).wrapping_sub(before as u64), &line, out)?;
        }
        let longest = self.what.texts.iter().map(Vec::len).max().unwrap_or(1);
        joined.drain(..joined.len().saturating_sub(longest.saturating_sub(1)));
        self.tail = joined;
        self.next = addr.wrapping_add(bytes.len() as u64);
        Ok(())
    }

    fn hit(&mut self, at: u64, found: &str, out: &mut dyn Write) -> Result<(), CommandError> {
        if at < self.start || at >= self.end || self.count >= self.max {
            return Ok(());
        }
        self.count += 1;
        if self.json {
            self.hits.push(Hit { address: format!("{at:#x}"), found: found.to_owned() });
            return Ok(());
        }
        write!(out, "{at:x}: {found}")?;
        if !self.physical
            && let Some(p) = super::bt::place(self.kernel, at).filter(|_| at >= self.kernel.user_limit())
        {
            write!(out, "  {}+{}", p.name, p.offset)?;
        }
        Ok(writeln!(out)?)
    }

    fn progress(&mut self, done: u64, all: u64, out: &mut dyn Write) -> Result<(), CommandError> {
        if self.json || self.shown.elapsed() < PROGRESS {
            return Ok(());
        }
        self.shown = Instant::now();
        writeln!(out, "({}% searched)", done.saturating_mul(100) / all.max(1))?;
        Ok(out.flush()?)
    }

    /// All RAM; `base` is what is added to make addresses.
    fn ram(&mut self, base: u64, request: &Request<'_>, out: &mut dyn Write) -> Result<(), CommandError> {
        let ranges = self.kernel.dump().physical_ranges();
        let all = ranges.iter().fold(0u64, |all, r| all.saturating_add(r.1));
        let mut done = 0u64;
        let mut page = [0; 4096];
        for (start, len) in ranges {
            let mut at = start.0 & !(PAGE_SIZE - 1);
            let end = start.0.saturating_add(len);
            while at < end && self.count < self.max {
                let addr = base.wrapping_add(at);
                if addr < self.end && addr.saturating_add(PAGE_SIZE) > self.start {
                    super::check(request)?;
                    if self.kernel.dump().read_phys(PhysAddr(at), &mut page) == Ok(4096) {
                        self.page(addr, &page, out)?;
                    }
                }
                at = at.saturating_add(PAGE_SIZE);
                done = done.saturating_add(PAGE_SIZE);
                self.progress(done, all, out)?;
            }
        }
        Ok(())
    }

    fn physical(&mut self, request: &Request<'_>, out: &mut dyn Write) -> Result<(), CommandError> {
        self.ram(0, request, out)
    }

    fn of_kernel(&mut self, request: &Request<'_>, out: &mut dyn Write) -> Result<(), CommandError> {
        let levels = self.kernel.space().paging().levels;
        // Where RAM is mapped as a whole: a variable where KASLR moves it.
        let direct = self
            .kernel
            .symbol("page_offset_base")
            .and_then(|a| self.kernel.space().read_u64(a).ok())
            .unwrap_or_else(|| self.kernel.layout().version.direct_map(levels));
        self.ram(direct, request, out)?;
        let space = self.kernel.space().clone();
        let vmalloc = self
            .kernel
            .symbol("vmalloc_base")
            .and_then(|a| self.kernel.space().read_u64(a).ok())
            .unwrap_or(if levels == 5 { 0xffa0_0000_0000_0000 } else { 0xffff_c900_0000_0000 });
        // VMALLOC_SIZE_TB is 32 with 4 levels and 12800 with 5.
        let size = if levels == 5 { 12_800 << 40 } else { 32 << 40 };
        self.mapped(&space, vmalloc, vmalloc.saturating_add(size), request, out)?;
        // The image's mapping goes on behind its end, over other people's pages.
        let end = self.kernel.symbol("_end").map_or(u64::MAX, |a| a.0);
        self.mapped(&space, self.kernel.text_start().0, end, request, out)?;
        // MODULES_VADDR: behind the room that KASLR may put the image in.
        let room = self.kernel.vmcoreinfo().number("KERNEL_IMAGE_SIZE").unwrap_or(1 << 30);
        let modules = crate::linux::kaslr::KERNEL_MAP.saturating_add_signed(room).max(end.min(MODULES_END));
        self.mapped(&space, modules, MODULES_END, request, out)
    }

    /// What `space` maps of `start..end`.
    fn mapped(
        &mut self,
        space: &PageTables,
        start: u64,
        end: u64,
        request: &Request<'_>,
        out: &mut dyn Write,
    ) -> Result<(), CommandError> {
        let (start, end) = (start.max(self.start & !(PAGE_SIZE - 1)), end.min(self.end));
        let mut tables = Tables { space, pages: HashMap::new() };
        let mut at = start;
        let mut page = [0; 4096];
        while at < end && self.count < self.max {
            super::check(request)?;
            match tables.leaf(at) {
                Ok((phys, size)) => {
                    let rest = size - (at & (size - 1));
                    let stop = at.saturating_add(rest).min(end);
                    let mut phys = phys;
                    while at < stop && self.count < self.max {
                        super::check(request)?;
                        if self.kernel.dump().read_phys(PhysAddr(phys), &mut page) == Ok(4096) {
                            self.page(at, &page, out)?;
                        }
                        (at, phys) = (at.saturating_add(PAGE_SIZE), phys.saturating_add(PAGE_SIZE));
                    }
                }
                // Nothing below this entry: on to the next one.
                Err(size) => at = (at & !(size - 1)).saturating_add(size),
            }
            self.progress(at.saturating_sub(start), end.saturating_sub(start), out)?;
        }
        Ok(())
    }
}

/// Page tables walked in order, each table read once in a row.
struct Tables<'a> {
    space: &'a PageTables,
    /// By level: the last table and its bytes.
    pages: HashMap<u8, (u64, Option<Vec<u8>>)>,
}

impl Tables<'_> {
    /// Physical address and page size of the page at `at`; `Err` says how many
    /// bytes from there on are not mapped.
    fn leaf(&mut self, at: u64) -> Result<(u64, u64), u64> {
        const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
        let paging = self.space.paging();
        let mut table = self.space.root().0;
        for level in (1..=paging.levels).rev() {
            let shift = 12 + 9 * u32::from(level - 1);
            let size = 1u64 << shift;
            let index = usize::try_from(at >> shift & 0x1ff).unwrap_or(0);
            let cached = self.pages.entry(level).or_insert((1, None));
            if cached.0 != table {
                let mut bytes = vec![0; 4096];
                let read = self.space.memory().read_phys(PhysAddr(table), &mut bytes) == Ok(4096);
                *cached = (table, read.then_some(bytes));
            }
            // A table that is not in the dump: nothing below it can be found.
            let entry = cached.1.as_ref().and_then(|b| u64_at(b, index * 8)).unwrap_or(0);
            if entry & 1 == 0 {
                return Err(size);
            }
            let target = entry & ADDRESS & !paging.sme_mask;
            if level == 1 || (level <= 3 && entry & 0x80 != 0) {
                let base = target & !(size - 1);
                return Ok((base | (at & (size - 1) & !(PAGE_SIZE - 1)), size));
            }
            table = target;
        }
        Err(PAGE_SIZE)
    }
}
