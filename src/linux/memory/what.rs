//! What is at an address? One answer for `kmem`, `whatis`, `locks`, and what `dis` calls odd.
//!
//! An address is several things at once: a byte of an object, of a slab, of a page; a
//! word of a stack in an area of vmalloc's. They are told from the nearest to the widest.

use serde::Serialize;

use super::super::object::Object;
use super::super::{Kernel, Task};
use super::areas::VmArea;
use super::looks::looks;
use super::marked::{self, Track};
use super::page::{Page, page};
use crate::addr::{PhysAddr, VirtAddr};
use crate::debuginfo::symbols::plus;
use crate::error::ReadFault;

/// Who allocates stacks of tasks: an area of theirs without a task is a stack that was
/// freed, and waits for the next task (`cached_stacks`, `kernel/fork.c`).
const STACK_MAKERS: [&str; 5] =
    ["dup_task_struct", "alloc_thread_stack_node", "copy_process", "alloc_thread_info_node", "kernel_clone"];

/// One thing that an address is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(crate) enum What {
    /// No address at all.
    NonCanonical { looks: Option<String> },
    /// An address that is one, and a value that means something else.
    Looks { looks: String },
    /// Of the kernel's image or a module's, or of vmlinux's per-CPU template.
    Symbol { symbol: String, offset: u64, module: Option<String>, text: bool },
    /// A module's memory without a symbol.
    Module { module: String, init: bool },
    /// One CPU's copy of per-CPU memory.
    PerCpu { cpu: u32, symbol: Option<String>, offset: u64 },
    /// A kernel stack of a task.
    TaskStack { pid: u32, comm: String, task: VirtAddr, offset: u64 },
    /// A stack of a CPU.
    CpuStack { cpu: u32, stack: String, offset: u64 },
    /// A stack that no task has any more.
    FreedStack { start: VirtAddr },
    /// One of vmalloc's areas.
    Vmalloc {
        start: VirtAddr,
        end: VirtAddr,
        what: &'static str,
        caller: Option<String>,
        phys: Option<PhysAddr>,
    },
    /// An object of a slab cache.
    Slab {
        cache: String,
        cache_at: VirtAddr,
        slab: VirtAddr,
        object: VirtAddr,
        offset: u64,
        /// Where it is free; `None`: it is allocated.
        free: Option<String>,
        /// Behind what its user asked for.
        padding: bool,
        /// Who had it last, where `slub_debug` keeps that.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        owners: Vec<Track>,
    },
    /// Memory of a slab that is no object's.
    SlabRest { cache: String, cache_at: VirtAddr, slab: VirtAddr },
    /// A `struct page`, of this page.
    StructPage { physical: PhysAddr, offset: u64 },
    /// A user's address, of this process.
    User { pid: u32, comm: String },
    /// The page that it lies in.
    Page(Page),
    /// Why it is nowhere.
    Nowhere { why: String },
}

/// What is odd about a value: that it is no address, or means something else.
#[must_use]
pub(crate) fn odd(kernel: &Kernel, value: VirtAddr) -> Option<What> {
    let looks = looks(value.0);
    if !kernel.tables().paging().levels.canonical(value) {
        return Some(What::NonCanonical { looks });
    }
    looks.map(|looks| What::Looks { looks })
}

/// All that is known of `addr`; user addresses are `task`'s.
#[must_use]
pub(crate) fn what(kernel: &Kernel, task: Option<&Task>, addr: VirtAddr) -> Vec<What> {
    let mut all = Vec::from_iter(odd(kernel, addr));
    if let [What::NonCanonical { .. }] = all.as_slice() {
        return all;
    }
    if addr.0 < kernel.user_limit() {
        user(kernel, task, addr, &mut all);
        return all;
    }
    all.extend(symbol(kernel, addr).or_else(|| percpu(kernel, addr)));
    all.extend(stack(kernel, addr));
    let area = kernel.memory().area(kernel, addr);
    let vacant = !all.iter().any(|w| matches!(w, What::TaskStack { .. }));
    if let Some(area) = area {
        all.extend(freed_stack(kernel, area).filter(|_| vacant));
        all.push(vmalloc(kernel, area));
    }
    let pages = kernel.memory().pages();
    if let Some(pages) = pages.filter(|p| p.array().contains(&addr.0)) {
        let of = pages.holding(addr).and_then(|page| Some((page, pages.pfn(page)?.address()?)));
        all.extend(of.map(|(page, physical)| What::StructPage { physical, offset: addr.0 - page.0 }));
    }
    all.extend(slab(kernel, addr));
    match kernel.tables().translate(addr) {
        Ok(phys) => all.extend(pages.and_then(|pages| page(kernel, pages, phys)).map(What::Page)),
        Err(fault) if all.is_empty() => all.push(What::Nowhere { why: fault.to_string() }),
        Err(_) => {}
    }
    all
}

fn user(kernel: &Kernel, task: Option<&Task>, addr: VirtAddr, all: &mut Vec<What>) {
    let space = task.and_then(|t| kernel.task_space(t).map(|space| (t, space)));
    let Some((task, space)) = space else {
        let why = ReadFault::NoUserSpace { addr: addr.0 }.to_string();
        return all.push(What::Nowhere { why });
    };
    match space.translate(addr) {
        Ok(phys) => {
            all.push(What::User { pid: task.tgid, comm: task.comm.clone() });
            all.extend(kernel.memory().pages().and_then(|p| page(kernel, p, phys)).map(What::Page));
        }
        Err(fault) => all.push(What::Nowhere { why: fault.to_string() }),
    }
}

fn symbol(kernel: &Kernel, addr: VirtAddr) -> Option<What> {
    if let Some((module, symbols)) = kernel.module_at(addr) {
        let name = module.name.clone();
        return Some(match symbols.by_address(addr.0) {
            Some((symbol, offset)) => {
                let text = symbol.is_text();
                What::Symbol { symbol: symbol.name.to_owned(), offset, module: Some(name), text }
            }
            None => {
                let init = module.ranges.iter().any(|r| r.init && addr.0.wrapping_sub(r.base.0) < r.size);
                What::Module { module: name, init }
            }
        });
    }
    let end = kernel.symbol("_end")?;
    if addr < kernel.text_start() || addr >= end {
        return None;
    }
    let (symbol, offset) = kernel.symbols().by_address(addr.0)?;
    let text = symbol.is_text();
    Some(What::Symbol { symbol: symbol.name.to_owned(), offset, module: None, text })
}

fn percpu(kernel: &Kernel, addr: VirtAddr) -> Option<What> {
    let (start, end) = (kernel.symbol("__per_cpu_start")?.0, kernel.symbol("__per_cpu_end")?.0);
    let unit = kernel
        .symbol("pcpu_unit_size")
        .and_then(|at| kernel.space().read_u32(at).ok())
        .map_or(end.saturating_sub(start), u64::from);
    kernel.percpu().present().iter().find_map(|&cpu| {
        let at = addr.0.wrapping_sub(kernel.percpu().offset(cpu)?);
        let into = at.wrapping_sub(start);
        if into < end.saturating_sub(start) {
            let (symbol, offset) = kernel.symbols().by_address(at)?;
            return Some(What::PerCpu { cpu, symbol: Some(symbol.name.to_owned()), offset });
        }
        if let Some((symbol, offset)) = of_module(kernel, at) {
            return Some(What::PerCpu { cpu, symbol: Some(symbol), offset });
        }
        (into < unit).then_some(What::PerCpu { cpu, symbol: None, offset: at })
    })
}

/// The variable of a module at this place of per-CPU memory.
fn of_module(kernel: &Kernel, at: u64) -> Option<(String, u64)> {
    let index = kernel.modules().iter().position(|m| {
        let module = Object::new(kernel, "module", m.addr);
        let base = module.number("percpu").filter(|b| *b != 0);
        base.zip(module.number("percpu_size")).is_some_and(|(base, size)| at.wrapping_sub(base) < size)
    })?;
    let (symbol, offset) = kernel.module_symbols().get(index)?.by_address(at)?;
    Some((symbol.name.to_owned(), offset))
}

fn stack(kernel: &Kernel, addr: VirtAddr) -> Option<What> {
    if let Some((task, offset)) = kernel.memory().stack_of(kernel, addr) {
        return Some(What::TaskStack { pid: task.pid, comm: task.comm.clone(), task: task.addr, offset });
    }
    let stack = kernel.stacks().at(addr.0).filter(|s| s.range.contains(&addr.0))?;
    Some(What::CpuStack { cpu: stack.cpu?, stack: stack.kind.title(), offset: addr.0 - stack.range.start })
}

fn caller(kernel: &Kernel, area: &VmArea) -> Option<String> {
    let (symbol, offset, _) = kernel.symbolise(area.caller?)?;
    Some(format!("{}+{offset:#x}", symbol.name))
}

fn freed_stack(kernel: &Kernel, area: &VmArea) -> Option<What> {
    let (symbol, ..) = kernel.symbolise(area.caller?)?;
    let made = STACK_MAKERS.iter().any(|m| symbol.name.split('.').next() == Some(*m));
    made.then_some(What::FreedStack { start: VirtAddr(area.range.start) })
}

fn vmalloc(kernel: &Kernel, area: &VmArea) -> What {
    What::Vmalloc {
        start: VirtAddr(area.range.start),
        end: VirtAddr(area.range.end),
        what: area.kind(),
        caller: caller(kernel, area),
        phys: area.phys.map(PhysAddr),
    }
}

fn slab(kernel: &Kernel, addr: VirtAddr) -> Option<What> {
    let slub = kernel.memory().slub(kernel).ok()?;
    let (cache, slab) = slub.holding(kernel, addr)?;
    let name = cache.name.clone();
    let Some((object, _)) = slab.holding(cache, addr.0) else {
        return Some(What::SlabRest { cache: name, cache_at: cache.addr, slab: slab.at });
    };
    let free = slub.free_in(kernel, cache, &slab).get(&object).map(ToString::to_string);
    let offset = addr.0 - object.0;
    let padding = offset >= cache.object_size;
    let owners = marked::tracks(kernel, cache, object);
    Some(What::Slab {
        cache: name,
        cache_at: cache.addr,
        slab: slab.at,
        object,
        offset,
        free,
        padding,
        owners,
    })
}

impl What {
    /// In a word or two, for what is named in passing.
    #[must_use]
    pub(crate) fn short(&self) -> String {
        match self {
            Self::Symbol { symbol, offset, module: Some(module), .. } => {
                format!("{} [{module}]", plus(symbol, *offset))
            }
            Self::Symbol { symbol, offset, .. } => plus(symbol, *offset),
            Self::Slab { cache, object, offset, .. } => plus(&format!("in {cache} object {object}"), *offset),
            other => other.sentence(),
        }
    }

    /// A sentence for people.
    #[must_use]
    pub(crate) fn sentence(&self) -> String {
        let or_nothing = |text: &Option<String>, before: &str| {
            text.as_ref().map(|text| format!("{before}{text}")).unwrap_or_default()
        };
        match self {
            Self::NonCanonical { looks } => format!("not an address{}", or_nothing(looks, ": ")),
            Self::Looks { looks } => format!("looks like {looks}"),
            Self::Symbol { symbol, offset, module, text } => {
                let kind = if *text { "code" } else { "data" };
                format!("{kind}{}: {symbol}+{offset:#x}", or_nothing(module, " of module "))
            }
            Self::Module { module, init } => {
                format!("module {module}{}", if *init { ", freed once it was loaded" } else { "" })
            }
            Self::PerCpu { cpu, symbol: Some(symbol), offset } => {
                format!("per-CPU variable of CPU {cpu}: {symbol}+{offset:#x}")
            }
            Self::PerCpu { cpu, symbol: None, offset } => {
                format!("per-CPU memory of CPU {cpu}, allocated as {offset:#x}")
            }
            Self::TaskStack { pid, comm, task, offset } => {
                format!("kernel stack of pid {pid} \"{comm}\" (task {task}), +{offset:#x}")
            }
            Self::CpuStack { cpu, stack, offset } => format!("{stack} of CPU {cpu}, +{offset:#x}"),
            Self::FreedStack { start } => format!("a freed kernel stack, from {start} on"),
            Self::Vmalloc { start, end, what, caller, phys } => {
                let phys = phys.map(|p| format!(" of physical {p}")).unwrap_or_default();
                format!("{what} area {start}-{end}{phys}{}", or_nothing(caller, ", asked for by "))
            }
            Self::Slab { cache, object, offset, free, padding, owners, .. } => {
                let state = match free {
                    Some(place) => format!("FREE ({place})"),
                    None => "allocated".to_owned(),
                };
                let padding = if *padding { ", behind its end" } else { "" };
                let owners: String = owners.iter().map(|track| format!("; {track}")).collect();
                format!("slab {cache}: object {object}+{offset:#x}{padding}, {state}{owners}")
            }
            Self::SlabRest { cache, slab, .. } => format!("slab {cache}: no object (slab {slab})"),
            Self::StructPage { physical, offset } => format!("struct page of {physical}, +{offset:#x}"),
            Self::User { pid, comm } => format!("user memory of pid {pid} \"{comm}\""),
            Self::Page(page) => page.to_string(),
            Self::Nowhere { why } => why.clone(),
        }
    }
}
