//! `task`: one task in full.

use std::io::Write;

use super::bt::heading;
use super::{Command, CommandError, Request, Subject, json, only_kernel};
use crate::linux::object::Object;
use crate::linux::registers::{self, Source};
use crate::linux::{Kernel, Task, stacks, usage};

pub(super) const COMMAND: Command = Command {
    name: "task",
    usage: "[PID|TASK|COMMAND]...",
    summary: "what is known of a task: state, stack, registers, memory",
    help: "All members are in gdb: p *(struct task_struct *) ADDRESS",
    kernel: true,
    process: false,
    run,
};

#[derive(serde::Serialize)]
struct Row {
    pid: u32,
    tgid: u32,
    ppid: u32,
    comm: String,
    task: String,
    cpu: u32,
    on_cpu: bool,
    state: String,
    flags: String,
    mm: Option<String>,
    stack: Option<String>,
    sp: String,
    prio: Option<u64>,
    start_time_ns: Option<u64>,
    vsz_kib: u64,
    rss_kib: u64,
    registers_from: String,
    registers: Vec<(String, String)>,
}

fn run(subject: Subject<'_>, request: &Request<'_>, out: &mut dyn Write) -> Result<(), CommandError> {
    let kernel = only_kernel(subject)?;
    let words: Vec<&str> = request.args.iter().map(String::as_str).collect();
    let tasks: Vec<&Task> = if words.is_empty() {
        vec![super::select::current(kernel, request)?]
    } else {
        super::select::by_words(kernel, &words)?.into_iter().map(AsRef::as_ref).collect()
    };
    let rows: Vec<Row> = tasks.iter().map(|t| row(kernel, t)).collect();
    if request.json {
        return json(&rows, out);
    }
    for (i, (task, r)) in tasks.iter().zip(&rows).enumerate() {
        if i > 0 {
            writeln!(out)?;
        }
        heading(task, out)?;
        let mut line = |name: &str, value: &str| writeln!(out, "{name:>12}: {value}");
        line("STATE", &r.state)?;
        line("TGID", &r.tgid.to_string())?;
        line("PARENT", &parent(kernel, task))?;
        line("FLAGS", &r.flags)?;
        line("PRIO", &r.prio.map_or("(not known)".to_owned(), |p| p.to_string()))?;
        line("MM", r.mm.as_deref().unwrap_or("none: a kernel thread, or its process has ended"))?;
        if task.mm.is_some() {
            line("MEMORY", &format!("{} KiB, of which {} KiB resident", r.vsz_kib, r.rss_kib))?;
        }
        line("STACK", r.stack.as_deref().unwrap_or("freed"))?;
        line("SAVED SP", &r.sp)?;
        if let Some(ns) = r.start_time_ns {
            line("STARTED", &format!("{}.{:09} s after boot", ns / 1_000_000_000, ns % 1_000_000_000))?;
        }
        line("REGISTERS", &r.registers_from)?;
        let known: Vec<String> = r.registers.iter().map(|(n, v)| format!("{n} {v}")).collect();
        for chunk in known.chunks(4) {
            writeln!(out, "              {}", chunk.join("  "))?;
        }
    }
    Ok(())
}

fn parent(kernel: &Kernel, task: &Task) -> String {
    match kernel.tasks().by_pid(task.ppid).next() {
        Some(p) => format!("pid {} \"{}\"", p.pid, p.comm),
        None => format!("pid {}", task.ppid),
    }
}

fn row(kernel: &Kernel, task: &Task) -> Row {
    let object = Object::new(kernel, "task_struct", task.addr);
    let regs = registers::of(kernel, task);
    let used = usage::Usages::new(kernel).of(task);
    Row {
        pid: task.pid,
        tgid: task.tgid,
        ppid: task.ppid,
        comm: task.comm.clone(),
        task: task.addr.to_string(),
        cpu: task.cpu,
        on_cpu: task.on_cpu,
        state: super::sys::state_text(kernel, task),
        flags: flags(object.number("flags").unwrap_or(0)),
        mm: task.mm.map(|m| m.to_string()),
        stack: stacks::of_task(kernel, task).map(|s| stacks::bounds(&s)),
        sp: format!("{:#x}", task.sp),
        prio: object.number("prio"),
        start_time_ns: object.number("start_time"),
        vsz_kib: used.vsz,
        rss_kib: used.rss,
        registers_from: source(&regs.source),
        registers: regs
            .values
            .iter()
            .map(|(register, value)| (register.name(), value))
            .chain([("task", task.addr.0), ("cpu", task.cpu.into())])
            .map(|(name, value)| (name.to_owned(), format!("{value:#x}")))
            .collect(),
    }
}

/// Where registers came from, in words.
pub(super) fn source(source: &Source) -> String {
    match source {
        Source::SwitchFrame => "saved on its stack when it was switched out".to_owned(),
        Source::NewBorn => "of its start: it has not run yet".to_owned(),
        Source::CrashNote => "saved by its CPU in the crash (crash_notes)".to_owned(),
        Source::PrStatus => "the dump's note for its CPU".to_owned(),
        Source::PrStatusByPosition => "a note taken for its CPU's by position: a guess".to_owned(),
        Source::Nowhere(why) => format!("none: {why}"),
    }
}

/// `PF_` flags that say something to a person (`include/linux/sched.h`).
fn flags(value: u64) -> String {
    const NAMES: [(u64, &str); 10] = [
        (0x2, "PF_IDLE"),
        (0x4, "PF_EXITING"),
        (0x20, "PF_WQ_WORKER"),
        (0x40, "PF_FORKNOEXEC"),
        (0x100, "PF_SUPERPRIV"),
        (0x200, "PF_DUMPCORE"),
        (0x400, "PF_SIGNALED"),
        (0x800, "PF_MEMALLOC"),
        (0x0020_0000, "PF_KTHREAD"),
        (0x0002_0000, "PF_KSWAPD"),
    ];
    let words: Vec<&str> = NAMES.iter().filter(|(bit, _)| value & bit != 0).map(|&(_, n)| n).collect();
    if words.is_empty() { format!("{value:#x}") } else { format!("{value:#x} ({})", words.join("|")) }
}
