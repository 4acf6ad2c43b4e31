//! `vtop`: a virtual address to a physical one, level by level.

use std::io::Write;

use super::{Command, CommandError, Request, Subject, json, only_kernel};
use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::arch::paging::Mapping;
use crate::dump::PhysicalMemory;
use crate::error::ReadFault;
use crate::linux::object::Object;
use crate::linux::{Kernel, Task};
use crate::memory::AddressSpace;
use crate::memory::paging::{PageTables, Step};

pub(super) const COMMAND: Command = Command {
    name: "vtop",
    usage: "[-u|-k] [-c PID|TASK] ADDRESS|SYMBOL...",
    summary: "translate addresses: every level of the page tables, flags in words",
    help: "User addresses are those of the selected task, or of -c.\n\
           The last line tells whether the dump has the page, and if not, why.",
    kernel: true,
    process: false,
    run,
};

/// Folders and mounts of a path.
const PATH_MAX: usize = 128;

#[derive(serde::Serialize)]
struct Walk {
    address: String,
    physical: Option<String>,
    page_size: Option<u64>,
    levels: Vec<Level>,
    flags: Vec<&'static str>,
    in_dump: bool,
    fault: Option<String>,
}

#[derive(serde::Serialize)]
struct Level {
    level: &'static str,
    entry: String,
    value: String,
}

fn run(subject: Subject<'_>, request: &Request<'_>, out: &mut dyn Write) -> Result<(), CommandError> {
    let kernel = only_kernel(subject)?;
    let mut words = Vec::new();
    let mut task: Option<&Task> = None;
    let mut args = request.args.iter().map(String::as_str);
    while let Some(arg) = args.next() {
        match arg {
            "-u" | "-k" => {}
            "-c" => {
                let word = args.next().ok_or_else(|| CommandError::Failed("-c needs a task".to_owned()))?;
                task = super::select::by_words(kernel, &[word])?.into_iter().next().map(AsRef::as_ref);
            }
            _ => words.push(arg),
        }
    }
    if words.is_empty() {
        return Err(CommandError::Failed("vtop needs an address".to_owned()));
    }
    let mut walks = Vec::new();
    for (i, word) in words.iter().enumerate() {
        let addr = super::address(kernel, word)?;
        let user = addr.0 < kernel.user_limit();
        let space = if user {
            let task = match task {
                Some(task) => task,
                None => super::select::current(kernel, request)?,
            };
            kernel.task_space(task).ok_or_else(|| {
                CommandError::Failed(format!("{} (pid {}) has no user memory", task.comm, task.pid))
            })?
        } else {
            kernel.space().clone()
        };
        if request.json {
            walks.push(walk(kernel, &space, addr));
            continue;
        }
        if i > 0 {
            writeln!(out)?;
        }
        text(kernel, &space, addr, user, out)?;
    }
    if request.json { json(&walks, out) } else { Ok(()) }
}

fn steps(space: &PageTables, addr: VirtAddr) -> (Vec<Step>, Result<Mapping, ReadFault>) {
    let mut steps = Vec::new();
    let end = space.walk(addr, &mut |step| steps.push(step));
    (steps, end)
}

/// Whether the page's bytes are there.
fn presence(kernel: &Kernel, mapping: Mapping) -> Result<(), ReadFault> {
    let mut byte = [0];
    kernel.dump().read_phys(mapping.phys, &mut byte).map(|_| ())
}

fn walk(kernel: &Kernel, space: &PageTables, addr: VirtAddr) -> Walk {
    let levels = space.paging().levels;
    let (steps, end) = steps(space, addr);
    let there = end.and_then(|mapping| presence(kernel, mapping));
    let mapping = end.ok();
    Walk {
        address: addr.to_string(),
        physical: mapping.map(|m| m.phys.to_string()),
        page_size: mapping.map(|m| m.page_size),
        flags: mapping.map(|m| m.entry.flags(m.page_size > PAGE_SIZE)).unwrap_or_default(),
        in_dump: there.is_ok(),
        fault: there.err().map(|f| f.to_string()),
        levels: steps
            .iter()
            .map(|s| Level {
                level: levels.name(s.level),
                entry: s.at.to_string(),
                value: format!("{:#x}", s.entry.0),
            })
            .collect(),
    }
}

fn text(
    kernel: &Kernel,
    space: &PageTables,
    addr: VirtAddr,
    user: bool,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let levels = space.paging().levels;
    let (steps, end) = steps(space, addr);
    let width = format!("{:x}", addr.0).len();
    let physical = match end {
        Ok(mapping) => format!("{:x}", mapping.phys.0),
        Err(_) => "(not mapped)".to_owned(),
    };
    let title = if user { 10 } else { 16 };
    writeln!(out, "{:<title$}  {:<16}", "VIRTUAL", "PHYSICAL")?;
    writeln!(out, "{:<width$x}  {physical:<16}\n", addr.0)?;
    for step in &steps {
        let name = levels.name(step.level);
        if step.level == levels.count() && !user {
            // crash's words for the kernel's own top table.
            let base = ["init_top_pgt", "init_level4_pgt", "swapper_pg_dir"];
            if let Some(top) = base.iter().find_map(|n| kernel.symbol(n)) {
                writeln!(out, "PGD DIRECTORY: {:016x}", top.0)?;
            }
            writeln!(out, "PAGE DIRECTORY: {:x}", step.entry.0)?;
        } else {
            writeln!(out, "   {name}: {:x} => {:x}", step.at.0, step.entry.0)?;
        }
    }
    let last = steps.last();
    match end {
        Ok(mapping) => {
            let large = match mapping.page_size {
                PAGE_SIZE => "",
                size if size == 1 << 21 => "  (2MB)",
                _ => "  (1GB)",
            };
            let page = mapping.phys.0 & !(mapping.page_size - 1);
            writeln!(out, "  PAGE: {page:x}{large}\n")?;
            let pte = format!("{:x}", mapping.entry.0);
            let phys = format!("{page:x}");
            let (a, b) = (pte.len().max(3), phys.len().max(8));
            writeln!(out, "{:^a$}  {:^b$}  FLAGS", "PTE", "PHYSICAL")?;
            let words = mapping.entry.flags(mapping.page_size > PAGE_SIZE).join("|");
            writeln!(out, "{pte:>a$}  {phys:>b$}  ({words})")?;
            match presence(kernel, mapping) {
                Ok(()) => writeln!(out, "\nthe page is in the dump")?,
                Err(fault) => writeln!(out, "\n{fault}")?,
            }
        }
        Err(fault) => {
            if let (ReadFault::Swapped { .. }, Some(step)) = (fault, last) {
                let (area, offset) = step.entry.swap();
                let pte = format!("{:x}", step.entry.0);
                let name = swap_name(kernel, area).unwrap_or_else(|| format!("swap area {area}"));
                let (a, b) = (pte.len().max(3), name.len().max(4));
                writeln!(out, "\n{:^a$}  {:^b$}  OFFSET", "PTE", "SWAP")?;
                // In the middle, and rather to the right: crash's CENTER|RJUST.
                let offset = offset.to_string();
                let c = offset.len() + 6usize.saturating_sub(offset.len()).div_ceil(2);
                writeln!(out, "{pte:>a$}  {name:>b$}  {offset:>c$}")?;
            }
            writeln!(out, "\n{fault}")?;
        }
    }
    Ok(())
}

/// Path of the file or device of a swap area: `swap_info[area]->swap_file`.
fn swap_name(kernel: &Kernel, area: u64) -> Option<String> {
    let slot = kernel.symbol("swap_info")?.checked_add(area.checked_mul(8)?)?;
    let info = VirtAddr(kernel.space().read_u64(slot).ok().filter(|&p| p >= kernel.user_limit())?);
    let file = Object::new(kernel, "swap_info_struct", info).follow("swap_file", "file")?;
    // f_path became private to its accessors in 6.18.
    let of = |path: &str| {
        file.pointer(&format!("f_path.{path}")).or_else(|| file.pointer(&format!("__f_path.{path}")))
    };
    let (mut dentry, mut mount) = (of("dentry")?, of("mnt")?);
    let in_mount = kernel.types().field("mount", "mnt")?.offset;
    let mut names: Vec<String> = Vec::new();
    // From the file up to the root of its mount, on to where that is mounted.
    for _ in 0..PATH_MAX {
        let outer = Object::new(kernel, "mount", VirtAddr(mount.0.wrapping_sub(in_mount)));
        if outer.pointer("mnt.mnt_root") == Some(dentry) {
            let parent = outer.pointer("mnt_parent")?;
            if parent == outer.base {
                break;
            }
            dentry = outer.pointer("mnt_mountpoint")?;
            mount = VirtAddr(parent.0.wrapping_add(in_mount));
            continue;
        }
        let entry = Object::new(kernel, "dentry", dentry);
        let name = kernel.space().read_cstr(entry.pointer("d_name.name")?, 256).ok()?;
        let parent = entry.pointer("d_parent")?;
        if parent == dentry {
            break;
        }
        names.push(name);
        dentry = parent;
    }
    Some(names.iter().rev().map(|n| format!("/{n}")).collect()).filter(|p: &String| !p.is_empty())
}
