//! `ps`: the tasks, in crash's columns.

use std::collections::BTreeMap;

use clap::Args;
use serde::{Serialize, Serializer};

use super::answer::streamed;
use super::bt::heading;
use super::select::by_words;
use super::{Answer, Command, Context, FOR_VMCORES, Result, Text};
use crate::addr::VirtAddr;
use crate::error::ReadFault;
use crate::linux::object::Object;
use crate::linux::usage::{self, Usages};
use crate::linux::{Kernel, Task};
use crate::memory::AddressSpace;
use crate::text::{Screen, or_unknown, put, row};

pub(super) fn command() -> Command {
    Command::of_both(
        "ps",
        "list tasks",
        "`>` marks what a CPU was running. States: RU running, IN interruptible, UN uninterruptible \
         (D), ID idle kernel thread, ST stopped, TR traced, ZO zombie, DE dead, PA parked.",
        of_kernel,
        |process, args: Ps, _| super::process::ps::run(process, &args.words),
    )
}

#[derive(Args)]
struct Ps {
    /// Pids, addresses of task_struct, or names; thread ids in a process core
    #[arg(value_name = "PID|TASK|COMMAND")]
    words: Vec<String>,
    #[command(flatten)]
    only: Only,
    #[command(flatten)]
    form: Form,
}

/// Which tasks are listed.
#[derive(Args)]
#[command(next_help_heading = FOR_VMCORES)]
struct Only {
    /// Kernel threads only
    #[arg(short = 'k', conflicts_with = "user")]
    kernel: bool,
    /// User tasks only
    #[arg(short = 'u')]
    user: bool,
    /// Thread group leaders only
    #[arg(short = 'G')]
    leaders: bool,
    /// What CPUs were running only
    #[arg(short = 'A')]
    active: bool,
}

/// What is shown of each.
#[derive(Args)]
#[group(multiple = false)]
#[command(next_help_heading = FOR_VMCORES)]
struct Form {
    /// How many tasks are in each state
    #[arg(short = 'S')]
    states: bool,
    /// The parents of each task
    #[arg(short = 'p')]
    parents: bool,
    /// Arguments and environment of each process
    #[arg(short = 'a')]
    arguments: bool,
}

#[derive(Serialize)]
struct Row<'a> {
    task: VirtAddr,
    pid: Option<u32>,
    tgid: Option<u32>,
    ppid: Option<u32>,
    comm: Option<&'a str>,
    state: Option<char>,
    cpu: Option<u32>,
    /// `None` where no CPU is known to run it.
    on_cpu: Option<bool>,
    kthread: Option<bool>,
    /// `None`: not known.
    vsz_kib: Option<u64>,
    rss_kib: Option<u64>,
    found_by: &'static str,
}

/// Bytes of arguments or environment that are shown.
const ARGS_MAX: u64 = 64 << 10;
/// No family is deeper.
const PARENTS_MAX: usize = 1000;

fn of_kernel<'d>(kernel: &'d Kernel, args: Ps, context: Context<'d>) -> Result<Answer<'d>> {
    let tasks = if args.words.is_empty() {
        kernel.tasks().all().iter().collect()
    } else {
        by_words(kernel, &args.words)?
    };
    let only = args.only;
    let shown = |t: &&Task| {
        (!only.kernel || t.kthread)
            && (!only.user || !t.kthread)
            && (!only.leaders || t.pid == t.tgid)
            && (!only.active || t.on_cpu)
    };
    let tasks: Vec<&Task> = tasks.into_iter().map(AsRef::as_ref).filter(shown).collect();
    Ok(match args.form {
        Form { states: true, .. } => States { kernel, tasks }.into(),
        Form { parents: true, .. } => Parents(tasks.iter().map(|t| parents(kernel, t)).collect()).into(),
        Form { arguments: true, .. } => Words { kernel, context, tasks }.into(),
        _ => List { kernel, context, tasks }.into(),
    })
}

/// The tasks, one in a row.
struct List<'d> {
    kernel: &'d Kernel,
    context: Context<'d>,
    tasks: Vec<&'d Task>,
}

impl Serialize for List<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        let mut usages = Usages::new(self.kernel);
        streamed(to, self.context, self.tasks.iter().map(|t| row(t, usages.of(t))))
    }
}

impl Text for List<'_> {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        let mut usages = Usages::new(self.kernel);
        let present = usage::present_pages(self.kernel).unwrap_or(0);
        row!(screen, "      PID    PPID  CPU       TASK        ST  %MEM      VSZ      RSS  COMM")?;
        for t in &self.tasks {
            self.context.check()?;
            let mark = if t.on_cpu { '>' } else { ' ' };
            let [percent, vsz, rss] = match usages.of(t) {
                Some(used) => [
                    format!("{:.1}", usage::percent(used, present)),
                    used.vsz.to_string(),
                    used.rss.to_string(),
                ],
                None => ["?", "?", "?"].map(str::to_owned),
            };
            row!(
                screen,
                "{mark} {:>7} {:>7} {:>3}  {:016x}  {} {percent:>5} {vsz:>8} {rss:>8}  {}",
                t.pid_text(),
                // As crash: that an idle task was forked by pid 1 is of no interest.
                if t.idle_of.is_some() { "0".to_owned() } else { parent(t) },
                t.cpu_text(),
                t.addr.0,
                letters(self.kernel, t),
                name(t)
            )?;
        }
        Ok(())
    }
}

/// The parent's pid, if it is known.
fn parent(t: &Task) -> String {
    or_unknown(t.ppid)
}

/// A kernel thread's name stands in brackets.
fn name(t: &Task) -> String {
    if t.kthread { format!("[{}]", t.comm) } else { t.comm.clone() }
}

fn row(t: &Task, used: Option<usage::Usage>) -> Row<'_> {
    Row {
        task: t.addr,
        pid: t.known_pid(),
        tgid: t.known_tgid(),
        ppid: t.ppid,
        comm: t.known_comm(),
        state: t.known_state(),
        cpu: t.cpu,
        on_cpu: (t.on_cpu || t.cpu.is_some()).then_some(t.on_cpu),
        kthread: t.known_kthread(),
        vsz_kib: used.map(|u| u.vsz),
        rss_kib: used.map(|u| u.rss),
        found_by: t.found_by.words(),
    }
}

/// The state, as crash shows it.
fn letters(kernel: &Kernel, task: &Task) -> &'static str {
    kernel.layout().version.crash_state(task.state, task.raw_state)
}

/// How many tasks are in each state, in the order in which the states come up.
struct States<'d> {
    kernel: &'d Kernel,
    tasks: Vec<&'d Task>,
}

impl States<'_> {
    fn counts(&self) -> Vec<(&'static str, usize)> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let mut order: Vec<&str> = Vec::new();
        for t in &self.tasks {
            let state = letters(self.kernel, t);
            let count = counts.entry(state).or_default();
            if *count == 0 {
                order.push(state);
            }
            *count += 1;
        }
        order.into_iter().map(|state| (state, counts.get(state).copied().unwrap_or(0))).collect()
    }
}

impl Serialize for States<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_map(self.counts())
    }
}

impl Text for States<'_> {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        Ok(self.counts().iter().try_for_each(|(state, count)| row!(screen, "  {state}: {count}"))?)
    }
}

/// Each task with its parents.
#[derive(Serialize)]
#[serde(transparent)]
struct Parents<'d>(Vec<Family<'d>>);

#[derive(Serialize)]
struct Family<'d> {
    #[serde(flatten)]
    task: Person<'d>,
    /// The nearest first.
    parents: Vec<Person<'d>>,
}

#[derive(Serialize)]
struct Person<'d> {
    #[serde(skip)]
    of: &'d Task,
    task: VirtAddr,
    pid: Option<u32>,
    comm: Option<&'d str>,
    cpu: Option<u32>,
}

impl<'d> From<&'d Task> for Person<'d> {
    fn from(of: &'d Task) -> Self {
        Self { of, task: of.addr, pid: of.known_pid(), comm: of.known_comm(), cpu: of.cpu }
    }
}

fn parents<'d>(kernel: &'d Kernel, task: &'d Task) -> Family<'d> {
    let mut line: Vec<&Task> = vec![task];
    while let Some(&child) = line.last() {
        let parent = Object::new(kernel, "task_struct", child.addr).pointer("real_parent");
        let parent = parent.and_then(|p| kernel.tasks().by_address(p));
        match parent {
            Some(p) if line.len() < PARENTS_MAX && line.iter().all(|t| t.addr != p.addr) => line.push(p),
            _ => break,
        }
    }
    Family { task: task.into(), parents: line.into_iter().skip(1).map(Person::from).collect() }
}

impl Text for Parents<'_> {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        for (i, family) in self.0.iter().enumerate() {
            if i > 0 {
                row!(screen)?;
            }
            for (depth, person) in family.parents.iter().rev().chain([&family.task]).enumerate() {
                put!(screen, "{:depth$}", "");
                heading(person.of, screen)?;
            }
        }
        Ok(())
    }
}

/// The arguments and the environment of each process.
struct Words<'d> {
    kernel: &'d Kernel,
    context: Context<'d>,
    tasks: Vec<&'d Task>,
}

#[derive(Serialize)]
struct Process<'d> {
    #[serde(flatten)]
    task: Person<'d>,
    /// Whether it has user memory at all.
    user: bool,
    arguments: Spoken,
    environment: Spoken,
}

/// Words that were given to a process, or why they cannot be read.
#[derive(Serialize)]
#[serde(untagged)]
enum Spoken {
    Words(Vec<String>),
    Lost { fault: String },
}

impl<'d> Words<'d> {
    fn processes(&self) -> impl Iterator<Item = Process<'d>> {
        self.tasks.iter().map(|t| {
            let words = |start, end| spoken(self.kernel, t, start, end);
            Process {
                task: (*t).into(),
                user: t.mm.is_some(),
                arguments: words("arg_start", "arg_end"),
                environment: words("env_start", "env_end"),
            }
        })
    }
}

/// The words between two addresses that members of `struct mm_struct` hold.
fn spoken(kernel: &Kernel, task: &Task, start: &str, end: &str) -> Spoken {
    let bounds = task.mm.and_then(|mm| {
        let mm = Object::new(kernel, "mm_struct", mm);
        mm.number(start).zip(mm.number(end))
    });
    match bounds {
        Some((a, b)) if a < b => words_at(kernel, task, a, b - a)
            .map_or_else(|fault| Spoken::Lost { fault: fault.to_string() }, Spoken::Words),
        _ => Spoken::Words(Vec::new()),
    }
}

impl Serialize for Words<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        streamed(to, self.context, self.processes())
    }
}

impl Text for Words<'_> {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        for (i, process) in self.processes().enumerate() {
            self.context.check()?;
            if i > 0 {
                row!(screen)?;
            }
            heading(process.task.of, screen)?;
            if !process.user {
                row!(screen, "(no user memory)")?;
                continue;
            }
            for (title, words) in [("ARG", &process.arguments), ("ENV", &process.environment)] {
                match words {
                    Spoken::Words(words) if words.is_empty() => row!(screen, "{title}: (none)")?,
                    Spoken::Words(words) => row!(screen, "{title}: {}", words.join(" "))?,
                    Spoken::Lost { fault } => row!(screen, "{title}: ({fault})")?,
                }
            }
        }
        Ok(())
    }
}

/// NUL-separated words of user memory.
fn words_at(kernel: &Kernel, task: &Task, at: u64, len: u64) -> Result<Vec<String>, ReadFault> {
    let len = usize::try_from(len.min(ARGS_MAX)).unwrap_or(0);
    let mut bytes = vec![0; len];
    let space = kernel.task_space(task);
    let read = space.map_or(Ok(0), |space| space.read(VirtAddr(at), &mut bytes))?;
    let text = String::from_utf8_lossy(bytes.get(..read).unwrap_or_default()).into_owned();
    Ok(text.trim_end_matches('\0').split('\0').map(str::to_owned).collect())
}
