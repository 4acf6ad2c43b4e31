//! `sys`: what crashed, in crash's banner.

use std::io::Write;

use super::{Command, CommandError, Request, Subject, json};
use crate::linux::log::{self, Log};
use crate::linux::{Kernel, Task, clock, taint, usage};
use crate::memory::AddressSpace;
use crate::unwind;

pub(super) const COMMAND: Command = Command {
    name: "sys",
    usage: "",
    summary: "the machine, the dump and what died",
    help: "The rows of crash's banner, then where symbols, types and unwind rules come from.\n\
           UPTIME is by the kernel's timekeeper, DATE in UTC.",
    kernel: true,
    process: true,
    run,
};

#[derive(serde::Serialize)]
struct Sys<'a> {
    release: String,
    version: String,
    machine: String,
    nodename: String,
    dumpfile: String,
    format: String,
    partial: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    incomplete: Option<String>,
    cpus: usize,
    mhz: Option<u32>,
    tasks: usize,
    memory_bytes: Option<u64>,
    date: Option<i64>,
    uptime_s: Option<i64>,
    load_average: Option<String>,
    taint: Option<String>,
    kaslr_offset: String,
    phys_base: String,
    panic: Option<String>,
    pid: Option<u32>,
    comm: Option<&'a str>,
    cpu: Option<u32>,
    task: Option<String>,
    state: Option<String>,
    vmlinux: Option<String>,
    symbols: &'a str,
    types: &'a str,
    unwind: String,
}

fn run(subject: Subject<'_>, request: &Request<'_>, out: &mut dyn Write) -> Result<(), CommandError> {
    match subject {
        Subject::Kernel(kernel) => of_kernel(kernel, request, out),
        Subject::Process(process) => super::process::sys::run(process, request, out),
    }
}

/// The task to show: the one that panicked, else what the first CPU was running.
fn shown(kernel: &Kernel) -> Option<&Task> {
    let running = || super::select::active(kernel).into_iter().next();
    kernel.panic_task().or_else(running).map(AsRef::as_ref)
}

fn of_kernel(kernel: &Kernel, request: &Request<'_>, out: &mut dyn Write) -> Result<(), CommandError> {
    let uts = kernel.utsname();
    let task = shown(kernel);
    let log = log::read(kernel).unwrap_or_default();
    let clock = clock::read(kernel);
    let files = kernel.debug_files();
    let taints = taint::of_kernel(kernel);
    let sys = Sys {
        release: uts.release,
        version: uts.version,
        machine: uts.machine,
        nodename: uts.nodename,
        dumpfile: kernel.dump().path().display().to_string(),
        format: kernel.dump().format(),
        partial: kernel.dump().is_partial(),
        incomplete: kernel.dump().incomplete(),
        cpus: kernel.percpu().online().len(),
        mhz: kernel.symbol("cpu_khz").and_then(|a| kernel.space().read_u32(a).ok()).map(|khz| khz / 1000),
        tasks: kernel.tasks().all().len(),
        memory_bytes: usage::present_pages(kernel).and_then(|n| n.checked_mul(4096)),
        date: clock.map(|c| c.date).or_else(|| kernel.vmcoreinfo().crash_time()),
        uptime_s: clock.map(|c| c.uptime),
        load_average: clock::load(kernel),
        taint: taints.map(taint::letters),
        kaslr_offset: format!("{:#x}", kernel.kaslr_offset()),
        phys_base: format!("{:#x}", kernel.phys_base()),
        panic: log::panic_message(&log).map(str::to_owned),
        pid: task.map(|t| t.pid),
        comm: task.map(|t| t.comm.as_str()),
        cpu: task.map(|t| t.cpu),
        task: task.map(|t| t.addr.to_string()),
        state: task.map(|t| state_text(kernel, t)),
        vmlinux: files.vmlinux.as_ref().map(|v| v.path().display().to_string()),
        symbols: kernel.symbols().origin(),
        types: kernel.types().origin(),
        unwind: unwind::origin(kernel),
    };
    if request.json {
        return json(&sys, out);
    }
    text(kernel, &sys, task, &log, out)
}

fn text(
    kernel: &Kernel,
    sys: &Sys<'_>,
    task: Option<&Task>,
    log: &Log,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    const UNKNOWN: &str = "(not known)";
    let mut row = |name: &str, value: &str| writeln!(out, "{name:>12}: {value}");
    let tainted = if sys.taint.as_deref().is_some_and(|t| !t.is_empty()) { "  [TAINTED]" } else { "" };
    row("KERNEL", &format!("{}{tainted}", sys.vmlinux.as_deref().unwrap_or("(no vmlinux found)")))?;
    let partial = if sys.partial { "  [PARTIAL DUMP]" } else { "" };
    let incomplete = if sys.incomplete.is_some() { "  [INCOMPLETE]" } else { "" };
    row("DUMPFILE", &format!("{}{partial}{incomplete}", sys.dumpfile))?;
    row("CPUS", &sys.cpus.to_string())?;
    row("DATE", &sys.date.map_or_else(|| UNKNOWN.to_owned(), clock::date))?;
    row("UPTIME", &sys.uptime_s.map_or_else(|| UNKNOWN.to_owned(), clock::uptime))?;
    row("LOAD AVERAGE", sys.load_average.as_deref().unwrap_or(UNKNOWN))?;
    row("TASKS", &sys.tasks.to_string())?;
    row("NODENAME", &sys.nodename)?;
    row("RELEASE", &sys.release)?;
    row("VERSION", &sys.version)?;
    let mhz = sys.mhz.filter(|&m| m > 0).map_or("unknown".to_owned(), |m| m.to_string());
    row("MACHINE", &format!("{}  ({mhz} Mhz)", sys.machine))?;
    row("MEMORY", &usage::memory_text(kernel).unwrap_or_else(|| UNKNOWN.to_owned()))?;
    let panic = sys.panic.as_deref().unwrap_or_default();
    let oops = if panic.contains("Oops: ") { " (check log for details)" } else { "" };
    row("PANIC", &format!("\"{panic}\"{oops}"))?;
    if let (Some(t), Some(state)) = (task, &sys.state) {
        row("PID", &t.pid.to_string())?;
        row("COMMAND", &format!("\"{}\"", t.comm))?;
        // Since 4.9 thread_info is a member of the task (CONFIG_THREAD_INFO_IN_TASK).
        let info = kernel
            .types()
            .field("task_struct", "thread_info")
            .map_or(t.stack.0, |f| t.addr.0.wrapping_add(f.offset));
        let same = kernel.tasks().by_pid(t.pid).count();
        let of = if same > 1 { format!("(1 of {same})  ") } else { String::new() };
        row("TASK", &format!("{:x}  {of}[THREAD_INFO: {info:x}]", t.addr.0))?;
        row("CPU", &t.cpu.to_string())?;
        row("STATE", state)?;
    }
    row("KASLR", &format!("{}  (phys_base {})", sys.kaslr_offset, sys.phys_base))?;
    row("FORMAT", &sys.format)?;
    row("SYMBOLS", sys.symbols)?;
    row("TYPES", sys.types)?;
    row("UNWIND", &sys.unwind)?;
    if let Some(taint) = sys.taint.as_deref().filter(|t| !t.is_empty()) {
        row("TAINT", taint)?;
    }
    if let Some(lost) = &sys.incomplete {
        row("INCOMPLETE", lost)?;
    }
    for remark in &kernel.tasks().remarks {
        row("REMARK", remark)?;
    }
    if kernel.tasks().skipped > 0 {
        row("REMARK", &format!("{} elements of the task lists are not tasks", kernel.tasks().skipped))?;
    }
    if log.lost > 0 {
        row("REMARK", &format!("{} records of the log are damaged or not in the dump", log.lost))?;
    }
    Ok(())
}

/// `TASK_RUNNING (PANIC)`.
pub(super) fn state_text(kernel: &Kernel, task: &Task) -> String {
    let state = kernel.layout().version.state_names(task.raw_state, task.exit_state);
    let panicked = kernel.panic_task().is_some_and(|t| t.addr == task.addr);
    match (panicked, task.on_cpu) {
        (true, _) => format!("{state} (PANIC)"),
        (_, true) => format!("{state} (ACTIVE)"),
        _ => state,
    }
}
