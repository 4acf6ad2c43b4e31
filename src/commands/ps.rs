//! `ps`: the tasks, in crash's columns.

use std::io::Write;

use super::{Command, CommandError, Request, Subject, json};
use crate::linux::layout::crash_state;
use crate::linux::{Kernel, Task};

pub(super) const COMMAND: Command = Command {
    name: "ps",
    usage: "[-k|-u|-G|-a] [PID|TASK|COMMAND]...",
    summary: "list tasks",
    help: "",
    kernel: true,
    process: true,
    run,
};

#[derive(serde::Serialize)]
struct Row<'a> {
    task: String,
    pid: u32,
    tgid: u32,
    ppid: u32,
    comm: &'a str,
    state: char,
    cpu: u32,
    on_cpu: bool,
    kthread: bool,
}

fn run(subject: Subject<'_>, request: &Request<'_>, out: &mut dyn Write) -> Result<(), CommandError> {
    match subject {
        Subject::Kernel(kernel) => of_kernel(kernel, request, out),
        Subject::Process(process) => super::process::ps::run(process, request, out),
    }
}

fn of_kernel(kernel: &Kernel, request: &Request<'_>, out: &mut dyn Write) -> Result<(), CommandError> {
    let tasks = kernel.tasks().all();
    if request.json {
        let rows: Vec<Row<'_>> = tasks.iter().map(|t| row(t)).collect();
        return json(&rows, out);
    }
    writeln!(out, "      PID    PPID  CPU       TASK        ST  COMM")?;
    for t in tasks {
        let mark = if t.on_cpu { '>' } else { ' ' };
        let comm = if t.kthread { format!("[{}]", t.comm) } else { t.comm.clone() };
        writeln!(
            out,
            "{mark} {:>7} {:>7} {:>3}  {:016x}  {}  {comm}",
            t.pid,
            t.ppid,
            t.cpu,
            t.addr.0,
            crash_state(t.state)
        )?;
    }
    Ok(())
}

fn row(t: &Task) -> Row<'_> {
    Row {
        task: format!("{:#x}", t.addr.0),
        pid: t.pid,
        tgid: t.tgid,
        ppid: t.ppid,
        comm: &t.comm,
        state: t.state,
        cpu: t.cpu,
        on_cpu: t.on_cpu,
        kthread: t.kthread,
    }
}
