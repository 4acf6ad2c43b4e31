//! `threads`: which tasks gdb shows, and in which order.

use std::io::Write;

use super::{Command, CommandError, Request, Subject, json, only_kernel};
use crate::session::threads::Threads;

pub(super) const COMMAND: Command = Command {
    name: "threads",
    usage: "[active|STATE|PID|COMMAND]...",
    summary: "which tasks gdb shows as threads, and their numbers",
    help: "gdb's threads 1 to N are what CPUs 0 to N-1 were running, then come all other tasks by pid.\n\
           A thread's id is its pid; idle tasks have ids from 4194305 (2^22 + 1) on.\n\
           Words choose what is listed: `active`, a state's letter (D), a pid, or a name.\n\n    \
           (gdb) monitor threads D\n    (gdb) thread 17",
    kernel: true,
    process: false,
    run,
};

#[derive(serde::Serialize)]
struct Row<'a> {
    number: usize,
    tid: u32,
    pid: u32,
    comm: &'a str,
    state: char,
    cpu: u32,
    about: &'a str,
}

fn run(subject: Subject<'_>, request: &Request<'_>, out: &mut dyn Write) -> Result<(), CommandError> {
    let kernel = only_kernel(subject)?;
    let threads = Threads::of(kernel);
    let fits = |row: &Row<'_>, on_cpu: bool| {
        request.args.is_empty()
            || request.args.iter().any(|word| {
                (word == "active" && on_cpu)
                    || (word.len() == 1 && word.starts_with(row.state))
                    || word.parse() == Ok(row.pid)
                    || word == row.comm
            })
    };
    let rows: Vec<Row<'_>> = threads
        .infos
        .iter()
        .zip(&threads.tasks)
        .enumerate()
        .map(|(i, (info, task))| {
            let row = Row {
                number: i + 1,
                tid: info.tid,
                pid: task.pid,
                comm: &task.comm,
                state: task.state,
                cpu: task.cpu,
                about: &info.extra,
            };
            (row, task.on_cpu)
        })
        .filter(|(row, on_cpu)| fits(row, *on_cpu))
        .map(|(row, _)| row)
        .collect();
    if request.json {
        return json(&rows, out);
    }
    writeln!(out, "{:>7} {:>8}  {:<16}  ABOUT", "THREAD", "TID", "COMM")?;
    for row in &rows {
        super::check(request)?;
        writeln!(out, "{:>7} {:>8}  {:<16}  {}", row.number, row.tid, row.comm, row.about)?;
    }
    writeln!(out, "{} of {} threads", rows.len(), threads.infos.len())?;
    Ok(())
}
