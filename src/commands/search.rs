//! `search`: a value or a text in memory.
//!
//! Kernel memory is searched once a page: through the direct map, where every
//! page of RAM has an address, and then where pages have a second one that
//! people know them by (vmalloc, modules, the kernel image). A user's is what
//! its page tables map; physical memory is what the dump has.

use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use memchr::memmem;
use serde::ser::{Error as _, SerializeSeq};
use serde::{Serialize, Serializer};

use super::address::{self, Whose};
use super::rd::ascii;
use super::{Answer, Command, CommandError, Context, Result, Text};
use crate::addr::{PAGE_SIZE, PhysAddr, VirtAddr};
use crate::arch::map;
use crate::dump::PhysicalMemory;
use crate::error::ReadFault;
use crate::linux::Kernel;
use crate::memory::AddressSpace;
use crate::memory::paging::PageTables;
use crate::text::{Screen, put, row};

pub(super) fn command() -> Command {
    Command::of_kernel(
        "search",
        "find a value or a text in kernel, user or physical memory",
        "Values are aligned to their size. Ctrl-C stops it.\n\n\
         Examples:\n  \
           (gdb) monitor search -u $user_rsp\n  \
           (gdb) monitor search -c \"Out of memory\"\n  \
           $ corestub search vmcore -n 10 -h 0xdead",
        run,
    )
    .partly()
}

#[derive(Args)]
struct Arguments {
    #[arg(value_name = "VALUE|SYMBOL|TEXT", help = address::HELP, required = true)]
    words: Vec<String>,
    /// The words are texts
    #[arg(short = 'c')]
    texts: bool,
    /// Values of 32 bits instead of 64
    #[arg(short = 'w', conflicts_with = "half")]
    word: bool,
    /// Values of 16 bits
    #[arg(short = 'h')]
    half: bool,
    /// Bits of the value that do not matter
    #[arg(short)]
    mask: Option<String>,
    /// Stop after so many
    #[arg(short = 'n', value_name = "MAX", default_value_t = 10_000)]
    max: usize,
    /// From this address on
    #[arg(short)]
    start: Option<String>,
    /// Up to this address
    #[arg(short, conflicts_with = "length")]
    end: Option<String>,
    /// So many bytes from START on
    #[arg(short, requires = "start")]
    length: Option<String>,
    /// Kernel memory (the default)
    #[arg(short, conflicts_with_all = ["user", "physical"])]
    kernel: bool,
    /// The selected task's memory
    #[arg(short, conflicts_with = "physical")]
    user: bool,
    /// Physical memory
    #[arg(short)]
    physical: bool,
}

/// Bytes of text in front of a match across two pages.
const TEXT_MAX: usize = 256;
/// RAM, vmalloc, the image, modules: see [`Finder::of_kernel`].
const KERNEL_PARTS: usize = 4;
/// How often the way so far is shown.
const PROGRESS: Duration = if cfg!(test) { Duration::ZERO } else { Duration::from_secs(3) };

#[derive(Default)]
struct What {
    values: Vec<u64>,
    texts: Vec<memmem::Finder<'static>>,
    mask: u64,
    width: usize,
}

#[derive(Serialize)]
struct Hit {
    address: VirtAddr,
    found: String,
}

/// What is searched.
enum Place {
    Kernel,
    User(Arc<PageTables>),
    Physical,
}

/// A search, done while its answer is shown.
struct Search<'d> {
    kernel: &'d Kernel,
    context: Context<'d>,
    what: What,
    place: Place,
    start: u64,
    end: u64,
    max: usize,
    /// How many were found.
    count: Cell<usize>,
}

fn run<'d>(kernel: &'d Kernel, args: Arguments, context: Context<'d>) -> Result<Answer<'d>> {
    let number = |word: &String| address::of_kernel(kernel, context, word).map(|a| a.0);
    let optional = |word: &Option<String>| word.as_ref().map(number).transpose();
    let mask = optional(&args.mask)?.unwrap_or(0);
    let width = match (args.word, args.half) {
        (true, _) => 4,
        (_, true) => 2,
        _ => 8,
    };
    let mut what = What { width, mask, ..What::default() };
    for word in &args.words {
        if !args.texts {
            what.values.push(number(word)? & !mask);
        } else if (1..=TEXT_MAX).contains(&word.len()) {
            what.texts.push(memmem::Finder::new(word).into_owned());
        } else {
            return Err(CommandError::Usage(format!("a text has 1 to {TEXT_MAX} bytes")));
        }
    }
    let start = optional(&args.start)?.unwrap_or(0);
    let end = match (optional(&args.end)?, optional(&args.length)?) {
        (Some(end), _) => end,
        (_, Some(length)) => start.saturating_add(length),
        _ => u64::MAX,
    };
    let place = if args.physical {
        Place::Physical
    } else if args.user || !args.kernel && end <= kernel.user_limit() {
        let whose = Whose::default();
        Place::User(address::space(kernel, context, whose, None, VirtAddr(0))?)
    } else {
        Place::Kernel
    };
    Ok(Search { kernel, context, what, place, start, end, max: args.max, count: Cell::new(0) }.into())
}

/// What is told while the search goes on.
enum Told {
    Hit(Hit),
    /// The way so far, or a remark.
    Aside(String),
}

impl Search<'_> {
    /// Tells `take` of every hit.
    fn each(&self, take: &mut dyn FnMut(Told) -> Result<()>) -> Result<()> {
        let (tail, shown) = (Vec::new(), Instant::now());
        let parts = if matches!(self.place, Place::Kernel) { KERNEL_PARTS } else { 1 };
        let begun = (0, parts);
        let mut finder =
            Finder { search: self, take, tail, next: 0, begun, part: "", done: 0, all: 0, shown };
        match &self.place {
            Place::Physical => finder.ram(0),
            Place::User(space) => finder.mapped("user memory", space, 0..self.kernel.user_limit()),
            Place::Kernel => finder.of_kernel(),
        }
    }

    fn is_full(&self) -> bool {
        self.count.get() >= self.max
    }
}

impl Text for Search<'_> {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        let kernel = self.kernel;
        let symbols = !matches!(self.place, Place::Physical);
        self.each(&mut |told| match (told, self.context.progress) {
            (Told::Hit(hit), _) => {
                put!(screen, "{:x}: {}", hit.address.0, hit.found);
                let named = symbols && hit.address.0 >= kernel.user_limit();
                if let Some(p) = super::bt::place(kernel, hit.address.0).filter(|_| named) {
                    put!(screen, "  {}+{}", p.name, p.offset);
                }
                Ok(row!(screen)?)
            }
            (Told::Aside(text), Some(beside)) => {
                beside(&text);
                Ok(())
            }
            (Told::Aside(text), None) => {
                row!(screen, "({text})")?;
                Ok(screen.flush()?)
            }
        })?;
        if self.is_full() {
            row!(screen, "(stopped after {}; -n asks for more)", self.max)?;
        }
        Ok(())
    }

    fn failure(&self) -> Option<String> {
        (self.count.get() == 0).then(|| "not found".to_owned())
    }
}

impl Serialize for Search<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        let mut list = to.serialize_seq(None)?;
        let mut written = Ok(());
        let searched = self.each(&mut |told| match told {
            Told::Hit(hit) => {
                written = list.serialize_element(&hit);
                if written.is_ok() { Ok(()) } else { Err(CommandError::given_up()) }
            }
            Told::Aside(text) => {
                self.context.progress.iter().for_each(|beside| beside(&text));
                Ok(())
            }
        });
        written?;
        searched.map_err(S::Error::custom)?;
        list.end()
    }
}

struct Finder<'a, 'd> {
    search: &'a Search<'d>,
    take: &'a mut dyn FnMut(Told) -> Result<()>,
    /// The end of the page before, for texts across pages.
    tail: Vec<u8>,
    next: u64,
    /// How many parts were begun, and of how many: the way only goes forward.
    begun: (usize, usize),
    /// What is gone through, bytes of it, of how many.
    part: &'static str,
    done: u64,
    all: u64,
    shown: Instant,
}

impl Finder<'_, '_> {
    /// Searches one page at `addr`.
    fn page(&mut self, addr: u64, bytes: &[u8]) -> Result<()> {
        let Search { what, start, end, .. } = self.search;
        if addr >= *end || addr.saturating_add(PAGE_SIZE) <= *start {
            return Ok(());
        }
        let width = what.width;
        if !what.values.is_empty() {
            let keep = !what.mask & if width == 8 { u64::MAX } else { (1 << (8 * width)) - 1 };
            for (i, word) in bytes.chunks_exact(width).enumerate() {
                let value = word.iter().rev().fold(0u64, |v, &b| v << 8 | u64::from(b));
                if what.values.iter().any(|&w| w & keep == value & keep) {
                    self.hit(addr + (i * width) as u64, &format!("{value:0w$x}", w = width * 2))?;
                }
            }
        }
        if what.texts.is_empty() {
            return Ok(());
        }
        if self.next != addr {
            self.tail.clear();
        }
        let before = self.tail.len();
        let mut joined = std::mem::take(&mut self.tail);
        joined.extend_from_slice(bytes);
        let mut found = Vec::new();
        for text in &what.texts {
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
            let line = ascii(joined.iter().skip(at).take(56));
            self.hit(addr.wrapping_add(at as u64).wrapping_sub(before as u64), &line)?;
        }
        let longest = what.texts.iter().map(|text| text.needle().len()).max().unwrap_or(1);
        joined.drain(..joined.len().saturating_sub(longest.saturating_sub(1)));
        self.tail = joined;
        self.next = addr.wrapping_add(bytes.len() as u64);
        Ok(())
    }

    fn hit(&mut self, at: u64, found: &str) -> Result<()> {
        let Search { start, end, count, .. } = self.search;
        if at < *start || at >= *end || self.search.is_full() {
            return Ok(());
        }
        count.set(count.get() + 1);
        (self.take)(Told::Hit(Hit { address: VirtAddr(at), found: found.to_owned() }))
    }

    fn progress(&mut self) -> Result<()> {
        if self.shown.elapsed() < PROGRESS {
            return Ok(());
        }
        self.shown = Instant::now();
        let percent = self.done.saturating_mul(100) / self.all.max(1);
        let part = match self.begun {
            (_, 1) => self.part.to_owned(),
            (n, of) => format!("{n} of {of}, {}", self.part),
        };
        (self.take)(Told::Aside(format!("{part}: {percent}% searched")))
    }

    /// Goes on to a part of so many bytes.
    fn begin(&mut self, part: &'static str, all: u64) {
        self.begun.0 += 1;
        (self.part, self.done, self.all) = (part, 0, all);
    }

    /// Searches the pages from `phys` up to and with `last`; `base` is what is
    /// added to make addresses.
    fn pages(&mut self, phys: u64, last: u64, base: u64) -> Result<()> {
        let Search { kernel, context, start, end, .. } = *self.search;
        let mut page = [0; 4096];
        for at in (phys & !(PAGE_SIZE - 1)..=last).step_by(4096) {
            if self.search.is_full() {
                break;
            }
            let addr = base.wrapping_add(at);
            if addr < end && addr.saturating_add(PAGE_SIZE) > start {
                context.check()?;
                if kernel.dump().read_phys(PhysAddr(at), &mut page) == Ok(4096) {
                    self.page(addr, &page)?;
                }
            }
            self.done = self.done.saturating_add(PAGE_SIZE);
            self.progress()?;
        }
        Ok(())
    }

    /// All RAM; `base` is what is added to make addresses.
    fn ram(&mut self, base: u64) -> Result<()> {
        let ranges = self.search.kernel.dump().physical_ranges();
        let all = ranges.iter().fold(0u64, |all, r| all.saturating_add(r.1));
        self.begin("RAM", all);
        for (start, len) in ranges.into_iter().filter(|r| r.1 > 0) {
            self.pages(start.0, start.0.saturating_add(len - 1), base)?;
        }
        Ok(())
    }

    fn of_kernel(&mut self) -> Result<()> {
        let kernel = self.search.kernel;
        let space = kernel.tables();
        let levels = space.paging().levels;
        let variable = |name| space.read_u64(kernel.symbol(name)?).ok();
        // Where RAM is mapped as a whole.
        let direct =
            variable("page_offset_base").unwrap_or_else(|| kernel.layout().version.direct_map(levels));
        self.ram(direct)?;
        self.mapped("vmalloc", space, levels.vmalloc(variable("vmalloc_base")))?;
        // The image's mapping goes on behind its end, over other people's pages.
        let end = kernel.symbol("_end").map_or(u64::MAX, |a| a.0);
        self.mapped("the kernel's image", space, kernel.text_start().0..end)?;
        // MODULES_VADDR: behind the room that KASLR may put the image in.
        let room = kernel.vmcoreinfo().number("KERNEL_IMAGE_SIZE").map(i64::cast_unsigned);
        let modules = map::KERNEL_MAP.saturating_add(room.unwrap_or(map::KERNEL_IMAGE_SIZE));
        self.mapped("modules", space, modules.max(end.min(map::FIXMAP))..map::FIXMAP)
    }

    /// What `space` maps of `range`.
    fn mapped(&mut self, part: &'static str, space: &PageTables, range: Range<u64>) -> Result<()> {
        let Search { context, start: from, end: to, .. } = *self.search;
        let (start, end) = (range.start.max(from & !(PAGE_SIZE - 1)), range.end.min(to));
        self.begin(part, end.saturating_sub(start));
        for run in space.runs(VirtAddr(start), VirtAddr(end.saturating_sub(1))) {
            context.check()?;
            match run.to {
                Ok(to) => {
                    let base = run.start.0.wrapping_sub(to.phys.0);
                    self.pages(to.phys.0, run.last.0.wrapping_sub(base), base)?;
                }
                Err(fault @ ReadFault::Endless { .. }) => (self.take)(Told::Aside(fault.to_string()))?,
                Err(_) => {}
            }
            if self.search.is_full() {
                break;
            }
            self.done = run.last.0 - start;
            self.progress()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a search tells of its way, on every vmcore that there is.
    #[test]
    fn the_way_goes_forward() {
        for kernel in crate::unwind::tests::kernels() {
            let told = std::cell::RefCell::new(Vec::new());
            let beside = |text: &str| told.borrow_mut().push(text.to_owned());
            let context = Context {
                thread: None,
                task: None,
                last_fault: None,
                cancelled: &|| false,
                progress: Some(&beside),
            };
            let what = What { values: vec![0x1234_5678_9abc_def1], width: 8, ..What::default() };
            let (start, end, count) = (kernel.text_start().0, u64::MAX, Cell::new(0));
            let place = Place::Kernel;
            let search = Search { kernel: &kernel, context, what, place, start, end, max: 1, count };
            search.text(&mut Screen::new(&mut std::io::sink())).unwrap();
            let way = |text: &String| {
                let (n, rest) = text.split_once(" of 4, ").unwrap();
                let percent = rest.strip_suffix("% searched").and_then(|r| r.rsplit(": ").next()).unwrap();
                (n.parse().unwrap(), percent.parse().unwrap())
            };
            let way: Vec<(usize, u64)> = told.borrow().iter().map(way).collect();
            assert!(way.len() > 4 && way.is_sorted(), "{way:?}");
            assert!(way.iter().all(|w| w.1 <= 100), "{way:?}");
        }
    }
}
