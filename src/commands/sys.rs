//! `sys`: what crashed, in crash's banner.

use std::io::Write;

use super::{Command, CommandError, Request, Subject, json};
use crate::linux::Kernel;

pub(super) const COMMAND: Command = Command {
    name: "sys",
    usage: "",
    summary: "the machine, the dump and what died",
    help: "",
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
    cpus: usize,
    tasks: usize,
    kaslr_offset: String,
    phys_base: String,
    panic: Option<String>,
    pid: Option<u32>,
    comm: Option<&'a str>,
    cpu: Option<u32>,
    task: Option<String>,
    symbols: &'a str,
    types: &'a str,
}

fn run(subject: Subject<'_>, request: &Request<'_>, out: &mut dyn Write) -> Result<(), CommandError> {
    match subject {
        Subject::Kernel(kernel) => of_kernel(kernel, request, out),
        Subject::Process(process) => super::process::sys::run(process, request, out),
    }
}

fn of_kernel(kernel: &Kernel, request: &Request<'_>, out: &mut dyn Write) -> Result<(), CommandError> {
    let uts = kernel.utsname();
    let task = kernel.panic_task();
    let sys = Sys {
        release: uts.release,
        version: uts.version,
        machine: uts.machine,
        nodename: uts.nodename,
        dumpfile: kernel.dump().path().display().to_string(),
        format: kernel.dump().format(),
        partial: kernel.dump().is_partial(),
        cpus: kernel.percpu().online().len(),
        tasks: kernel.tasks().all().len(),
        kaslr_offset: format!("{:#x}", kernel.kaslr_offset()),
        phys_base: format!("{:#x}", kernel.phys_base()),
        panic: None,
        pid: task.map(|t| t.pid),
        comm: task.map(|t| t.comm.as_str()),
        cpu: task.map(|t| t.cpu),
        task: task.map(|t| t.addr.to_string()),
        symbols: kernel.symbols().origin(),
        types: kernel.types().origin(),
    };
    if request.json {
        return json(&sys, out);
    }
    let mut row = |name: &str, value: &str| writeln!(out, "{name:>12}: {value}");
    row("DUMPFILE", &format!("{}{}", sys.dumpfile, if sys.partial { "  [PARTIAL DUMP]" } else { "" }))?;
    row("CPUS", &sys.cpus.to_string())?;
    row("TASKS", &sys.tasks.to_string())?;
    row("NODENAME", &sys.nodename)?;
    row("RELEASE", &sys.release)?;
    row("VERSION", &sys.version)?;
    row("MACHINE", &sys.machine)?;
    if let Some(t) = task {
        row("PID", &t.pid.to_string())?;
        row("COMMAND", &format!("\"{}\"", t.comm))?;
        row("TASK", &format!("{:x}", t.addr.0))?;
        row("CPU", &t.cpu.to_string())?;
    }
    Ok(())
}
