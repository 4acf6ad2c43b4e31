//! `ps`: the tasks, in crash's columns.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use super::select::{by_words, flags};
use super::{Command, CommandError, Request, Subject, json};
use crate::addr::VirtAddr;
use crate::linux::layout::crash_state;
use crate::linux::object::Object;
use crate::linux::usage::{self, Usages};
use crate::linux::{Kernel, Task};
use crate::memory::AddressSpace;

pub(super) const COMMAND: Command = Command {
    name: "ps",
    usage: "[-k|-u] [-G] [-A] [-S|-p|-a] [PID|TASK|COMMAND]...",
    summary: "list tasks",
    help: "  -k  kernel threads only        -u  user tasks only\n  \
           -G  thread group leaders only   -A  what CPUs were running only\n  \
           -S  how many tasks are in each state\n  \
           -p  the parents of each task    -a  arguments and environment of each process\n\n\
           `>` marks what a CPU was running. States: RU running, IN interruptible, UN uninterruptible\n\
           (D), ID idle kernel thread, ST stopped, TR traced, ZO zombie, DE dead, PA parked.",
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
    vsz_kib: u64,
    rss_kib: u64,
}

/// Bytes of arguments or environment that are shown.
const ARGS_MAX: u64 = 64 << 10;
/// No family is deeper.
const PARENTS_MAX: usize = 1000;

fn run(subject: Subject<'_>, request: &Request<'_>, out: &mut dyn Write) -> Result<(), CommandError> {
    match subject {
        Subject::Kernel(kernel) => of_kernel(kernel, request, out),
        Subject::Process(process) => super::process::ps::run(process, request, out),
    }
}

fn of_kernel(kernel: &Kernel, request: &Request<'_>, out: &mut dyn Write) -> Result<(), CommandError> {
    let (flags, words) = flags(request.args);
    let has = |flag: &str| flags.contains(&flag);
    if let Some(other) = flags.iter().find(|f| !["-k", "-u", "-G", "-A", "-S", "-p", "-a"].contains(*f)) {
        return Err(CommandError::Failed(format!("{other} is not one of -k -u -G -A -S -p -a")));
    }
    let mut tasks: Vec<&Arc<Task>> =
        if words.is_empty() { kernel.tasks().all().iter().collect() } else { by_words(kernel, &words)? };
    tasks.retain(|t| {
        (!has("-k") || t.kthread)
            && (!has("-u") || !t.kthread)
            && (!has("-G") || t.pid == t.tgid)
            && (!has("-A") || t.on_cpu)
    });
    if has("-S") {
        return states(&tasks, request, out);
    }
    if has("-p") {
        return parents(kernel, &tasks, out);
    }
    if has("-a") {
        return arguments(kernel, &tasks, request, out);
    }
    let mut usages = Usages::new(kernel);
    if request.json {
        let rows: Vec<Row<'_>> = tasks.iter().map(|t| row(t, usages.of(t))).collect();
        return json(&rows, out);
    }
    let present = usage::present_pages(kernel).unwrap_or(0);
    writeln!(out, "      PID    PPID  CPU       TASK        ST  %MEM      VSZ      RSS  COMM")?;
    for t in tasks {
        super::check(request)?;
        let mark = if t.on_cpu { '>' } else { ' ' };
        let used = usages.of(t);
        writeln!(
            out,
            "{mark} {:>7} {:>7} {:>3}  {:016x}  {} {:>5.1} {:>8} {:>8}  {}",
            t.pid,
            // As crash: that an idle task was forked by pid 1 is of no interest.
            if t.idle_of.is_some() { 0 } else { t.ppid },
            t.cpu,
            t.addr.0,
            crash_state(t.state),
            usage::percent(used, present),
            used.vsz,
            used.rss,
            name(t)
        )?;
    }
    Ok(())
}

/// A kernel thread's name stands in brackets.
fn name(t: &Task) -> String {
    if t.kthread { format!("[{}]", t.comm) } else { t.comm.clone() }
}

fn row(t: &Task, used: usage::Usage) -> Row<'_> {
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
        vsz_kib: used.vsz,
        rss_kib: used.rss,
    }
}

fn states(tasks: &[&Arc<Task>], request: &Request<'_>, out: &mut dyn Write) -> Result<(), CommandError> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut order: Vec<&str> = Vec::new();
    for t in tasks {
        let state = crash_state(t.state);
        let count = counts.entry(state).or_default();
        if *count == 0 {
            order.push(state);
        }
        *count += 1;
    }
    if request.json {
        return json(&counts, out);
    }
    for state in order {
        writeln!(out, "  {state}: {}", counts.get(state).copied().unwrap_or(0))?;
    }
    Ok(())
}

fn parents(kernel: &Kernel, tasks: &[&Arc<Task>], out: &mut dyn Write) -> Result<(), CommandError> {
    for (i, task) in tasks.iter().enumerate() {
        if i > 0 {
            writeln!(out)?;
        }
        let mut line: Vec<&Task> = vec![task];
        while let Some(&child) = line.last() {
            let parent = Object::new(kernel, "task_struct", child.addr).pointer("real_parent");
            let parent = parent.and_then(|p| kernel.tasks().by_address(p));
            match parent {
                Some(p) if line.len() < PARENTS_MAX && line.iter().all(|t| t.addr != p.addr) => line.push(p),
                _ => break,
            }
        }
        for (depth, t) in line.iter().rev().enumerate() {
            write!(out, "{:depth$}", "")?;
            super::bt::heading(t, out)?;
        }
    }
    Ok(())
}

fn arguments(
    kernel: &Kernel,
    tasks: &[&Arc<Task>],
    request: &Request<'_>,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    for (i, task) in tasks.iter().enumerate() {
        super::check(request)?;
        if i > 0 {
            writeln!(out)?;
        }
        super::bt::heading(task, out)?;
        let Some(mm) = task.mm else {
            writeln!(out, "(no user memory)")?;
            continue;
        };
        let mm = Object::new(kernel, "mm_struct", mm);
        for (title, start, end) in [("ARG", "arg_start", "arg_end"), ("ENV", "env_start", "env_end")] {
            let text = match mm.number(start).zip(mm.number(end)) {
                Some((a, b)) if a < b => words_at(kernel, task, a, b - a),
                _ => "(none)".to_owned(),
            };
            writeln!(out, "{title}: {text}")?;
        }
    }
    Ok(())
}

/// NUL-separated words of user memory.
fn words_at(kernel: &Kernel, task: &Task, at: u64, len: u64) -> String {
    let len = usize::try_from(len.min(ARGS_MAX)).unwrap_or(0);
    let mut bytes = vec![0; len];
    let space = kernel.task_space(task);
    let read = space.map_or(Ok(0), |space| space.read(VirtAddr(at), &mut bytes));
    match read {
        Ok(n) => {
            let text = String::from_utf8_lossy(bytes.get(..n).unwrap_or_default()).into_owned();
            text.trim_end_matches('\0').split('\0').collect::<Vec<_>>().join(" ")
        }
        Err(fault) => format!("({fault})"),
    }
}
