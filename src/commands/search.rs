//! `search`: a value or a text in memory.
//!
//! Kernel memory is searched once a page: through the direct map, where every
//! page of RAM has an address, and then where pages have a second one that
//! people know them by (vmalloc, modules, the kernel image). A user's is what
//! its page tables map; physical memory is what the dump has.

use std::io::Write;
use std::time::{Duration, Instant};

use memchr::memmem;

use super::{Command, CommandError, Request, Subject, json, only_kernel};
use crate::addr::{PAGE_SIZE, PhysAddr, VirtAddr};
use crate::arch::map;
use crate::dump::PhysicalMemory;
use crate::error::ReadFault;
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
/// How often the way so far is shown.
const PROGRESS: Duration = Duration::from_secs(3);

#[derive(Default)]
struct What {
    values: Vec<u64>,
    texts: Vec<memmem::Finder<'static>>,
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
    /// Bytes gone through, of how many.
    done: u64,
    all: u64,
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
            what.texts.push(memmem::Finder::new(text).into_owned());
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
        done: 0,
        all: 0,
        shown: Instant::now(),
    };
    let done = if physical {
        finder.ram(0, request, out)
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
            let mut from = 0;
            while let Some(at) = joined.get(from..).and_then(|rest| text.find(rest)) {
                // What lies whole in the page before was found there.
                if from + at + text.needle().len() > before {
                    found.push(from + at);
                }
                from += at + 1;
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
        let longest = self.what.texts.iter().map(|text| text.needle().len()).max().unwrap_or(1);
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

    fn progress(&mut self, out: &mut dyn Write) -> Result<(), CommandError> {
        if self.json || self.shown.elapsed() < PROGRESS {
            return Ok(());
        }
        self.shown = Instant::now();
        writeln!(out, "({}% searched)", self.done.saturating_mul(100) / self.all.max(1))?;
        Ok(out.flush()?)
    }

    /// Searches the pages from `phys` up to and with `last`; `base` is what is
    /// added to make addresses.
    fn pages(
        &mut self,
        phys: u64,
        last: u64,
        base: u64,
        request: &Request<'_>,
        out: &mut dyn Write,
    ) -> Result<(), CommandError> {
        let mut page = [0; 4096];
        for at in (phys & !(PAGE_SIZE - 1)..=last).step_by(4096) {
            if self.count >= self.max {
                break;
            }
            let addr = base.wrapping_add(at);
            if addr < self.end && addr.saturating_add(PAGE_SIZE) > self.start {
                super::check(request)?;
                if self.kernel.dump().read_phys(PhysAddr(at), &mut page) == Ok(4096) {
                    self.page(addr, &page, out)?;
                }
            }
            self.done = self.done.saturating_add(PAGE_SIZE);
            self.progress(out)?;
        }
        Ok(())
    }

    /// All RAM; `base` is what is added to make addresses.
    fn ram(&mut self, base: u64, request: &Request<'_>, out: &mut dyn Write) -> Result<(), CommandError> {
        let ranges = self.kernel.dump().physical_ranges();
        (self.done, self.all) = (0, ranges.iter().fold(0u64, |all, r| all.saturating_add(r.1)));
        for (start, len) in ranges.into_iter().filter(|r| r.1 > 0) {
            self.pages(start.0, start.0.saturating_add(len - 1), base, request, out)?;
        }
        Ok(())
    }

    fn of_kernel(&mut self, request: &Request<'_>, out: &mut dyn Write) -> Result<(), CommandError> {
        let kernel = self.kernel;
        let space = kernel.space();
        let levels = space.paging().levels;
        let variable = |name| space.read_u64(kernel.symbol(name)?).ok();
        // Where RAM is mapped as a whole.
        let direct =
            variable("page_offset_base").unwrap_or_else(|| kernel.layout().version.direct_map(levels));
        self.ram(direct, request, out)?;
        let vmalloc = levels.vmalloc(variable("vmalloc_base"));
        self.mapped(space, vmalloc.start, vmalloc.end, request, out)?;
        // The image's mapping goes on behind its end, over other people's pages.
        let end = kernel.symbol("_end").map_or(u64::MAX, |a| a.0);
        self.mapped(space, kernel.text_start().0, end, request, out)?;
        // MODULES_VADDR: behind the room that KASLR may put the image in.
        let room = kernel.vmcoreinfo().number("KERNEL_IMAGE_SIZE").map(i64::cast_unsigned);
        let modules = map::KERNEL_MAP.saturating_add(room.unwrap_or(map::KERNEL_IMAGE_SIZE));
        self.mapped(space, modules.max(end.min(map::FIXMAP)), map::FIXMAP, request, out)
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
        (self.done, self.all) = (0, end.saturating_sub(start));
        for run in space.runs(VirtAddr(start), VirtAddr(end.saturating_sub(1))) {
            super::check(request)?;
            match run.to {
                Ok(to) => {
                    let base = run.start.0.wrapping_sub(to.phys.0);
                    self.pages(to.phys.0, run.last.0.wrapping_sub(base), base, request, out)?;
                }
                Err(fault @ ReadFault::Endless { .. }) if !self.json => writeln!(out, "({fault})")?,
                Err(_) => {}
            }
            if self.count >= self.max {
                break;
            }
            self.done = run.last.0 - start;
            self.progress(out)?;
        }
        Ok(())
    }
}
