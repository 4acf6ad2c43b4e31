//! `locks`: who waits for whom.

use std::collections::HashMap;

use clap::Args;
use serde::Serialize;

use super::bt::Places;
use super::{Answer, Command, Context, Result, Text};
use crate::addr::VirtAddr;
use crate::linux::locks::{self, Kind, Owner, Wait};
use crate::linux::memory::what::what;
use crate::linux::{Kernel, Task};
use crate::text::{Screen, put, row};
use crate::unwind::{self, FrameKind};

pub(super) fn command() -> Command {
    Command::of_kernel(
        "locks",
        "what blocked tasks wait for, who holds it, and deadlocks",
        "Of mutexes and rw_semaphores the owner is told, and what that waits for, as far as it goes; \
         semaphores, completions and IO have none.\n\n\
         Example:\n  (gdb) monitor locks",
        run,
    )
}

#[derive(Args)]
struct Arguments {
    /// Sleeping tasks (state S) too, which may wait for a lock and can be killed
    #[arg(short = 'a')]
    all: bool,
}

/// Functions that put a task to sleep, or belong to a lock: names, or their beginnings
/// with `_` at the end.
const SLEEPERS: [&str; 20] = [
    "__schedule",
    "schedule",
    "schedule_",
    "__mutex_",
    "mutex_",
    "ww_mutex_",
    "rwsem_",
    "down",
    "down_",
    "__down",
    "__down_",
    "wait_",
    "__wait_",
    "io_schedule",
    "io_schedule_",
    "do_wait_",
    "bit_wait",
    "out_of_line_",
    "rt_mutex_",
    "context_switch",
];

/// What a task waits for that is no lock, by the beginning of a function's name.
const OTHERS: [(&str, &str); 9] = [
    ("folio_wait", "a page that is locked or written"),
    ("wait_on_page", "a page that is locked or written"),
    ("__lock_page", "a page that is locked"),
    ("wait_on_buffer", "a buffer that is written"),
    ("__wait_on_buffer", "a buffer that is written"),
    ("io_schedule", "IO"),
    ("wait_on_bit", "a bit to be cleared"),
    ("wait_for_completion", "a completion"),
    ("__wait_for_common", "a completion"),
];

#[derive(Serialize)]
pub(super) struct Blocked {
    pub(super) pid: u32,
    pub(super) comm: String,
    task: VirtAddr,
    state: char,
    /// `mutex`, `rw_semaphore`, `semaphore`, or in words what else.
    pub(super) kind: Option<&'static str>,
    lock: Option<VirtAddr>,
    pub(super) name: Option<String>,
    waiters: Option<usize>,
    pub(super) owner: Option<Holder>,
    /// The pids that hold it up, one behind the other.
    pub(super) chain: Vec<u32>,
    pub(super) deadlock: bool,
    /// It waits for tasks that are in one.
    behind_deadlock: bool,
    /// The function that went to sleep.
    function: Option<String>,
    /// What the log says of it.
    log: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Holder {
    pub(super) pid: u32,
    pub(super) comm: String,
    /// It read the lock; others may have, too.
    reader: bool,
}

#[derive(Serialize)]
#[serde(transparent)]
struct Rows(Vec<Blocked>);

fn run<'d>(kernel: &'d Kernel, args: Arguments, context: Context<'d>) -> Result<Answer<'d>> {
    Ok(Rows(blocked(kernel, args.all, context)?).into())
}

/// The blocked tasks, those in a deadlock first.
pub(super) fn blocked(kernel: &Kernel, all: bool, context: Context<'_>) -> Result<Vec<Blocked>> {
    let mut waits = Waits { kernel, places: Places::default(), known: HashMap::new() };
    let mut rows = Vec::new();
    for task in kernel.tasks().all() {
        context.check()?;
        if task.state == 'D' || all && task.state == 'S' {
            let row = waits.row(task);
            rows.extend((task.state == 'D' || row.lock.is_some()).then_some(row));
        }
    }
    rows.sort_by_key(|row| (!row.deadlock, row.lock.is_none(), row.pid));
    Ok(rows)
}

struct Waits<'k> {
    kernel: &'k Kernel,
    places: Places<'k>,
    known: HashMap<VirtAddr, Asleep>,
}

/// What a task was found to wait for.
#[derive(Clone, Default)]
struct Asleep {
    wait: Option<Wait>,
    other: Option<&'static str>,
    function: Option<String>,
}

impl<'k> Waits<'k> {
    fn of(&mut self, task: &'k Task) -> Asleep {
        if let Some(known) = self.known.get(&task.addr) {
            return known.clone();
        }
        let found = self.look(task);
        self.known.insert(task.addr, found.clone());
        found
    }

    fn look(&mut self, task: &'k Task) -> Asleep {
        if task.on_cpu {
            return Asleep::default();
        }
        let trace = unwind::task(self.kernel, task);
        let frames = trace.frames.iter().filter(|f| f.kind != FrameKind::User);
        let names: Vec<&str> =
            frames.filter_map(|frame| Some(self.places.of(self.kernel, frame)?.name)).collect();
        let kind = Kind::of_functions(names.iter().copied());
        let wait = kind.and_then(|kind| locks::wait(self.kernel, task, kind));
        let other = OTHERS.iter().find(|(name, _)| names.iter().take(8).any(|n| n.starts_with(name)));
        let sleeps =
            |name: &&&str| !SLEEPERS.iter().any(|s| *name == s || s.ends_with('_') && name.starts_with(s));
        let function = names.iter().find(sleeps).map(|n| (*n).to_owned());
        Asleep { wait, other: other.map(|(_, what)| *what), function }
    }

    fn row(&mut self, task: &'k Task) -> Blocked {
        let kernel = self.kernel;
        let Asleep { wait, other, function } = self.of(task);
        let (chain, cycle) = locks::chain(task.addr, |at| {
            let task = kernel.tasks().by_address(at)?;
            match self.of(task).wait?.owner {
                Owner::Task(owner) => Some(owner),
                Owner::Readers(_) | Owner::Unknown => None,
            }
        });
        let deadlock = cycle && chain.last() == Some(&task.addr);
        let by = |at: VirtAddr| kernel.tasks().by_address(at);
        let owner = wait.and_then(|wait| {
            let (at, reader) = match wait.owner {
                Owner::Task(at) => (at, false),
                Owner::Readers(last) => (last?, true),
                Owner::Unknown => return None,
            };
            let task = by(at)?;
            Some(Holder { pid: task.pid, comm: task.comm.clone(), reader })
        });
        Blocked {
            pid: task.pid,
            comm: task.comm.clone(),
            task: task.addr,
            state: task.state,
            kind: wait.map(|w| w.kind.word()).or(other),
            lock: wait.map(|w| w.lock),
            name: wait.map(|w| name(kernel, w.lock)),
            waiters: wait.map(|w| w.waiters),
            owner,
            chain: chain.into_iter().skip(1).filter_map(|at| Some(by(at)?.pid)).collect(),
            deadlock,
            behind_deadlock: cycle && !deadlock,
            function,
            log: said(kernel, task),
        }
    }
}

/// What a lock is part of.
fn name(kernel: &Kernel, lock: VirtAddr) -> String {
    what(kernel, None, lock).first().map_or_else(|| "unknown memory".to_owned(), |w| w.short())
}

/// `INFO: task sh:211 blocked for more than 120 seconds.`
fn said(kernel: &Kernel, task: &Task) -> Option<String> {
    let start = format!("INFO: task {}:{} blocked", task.comm, task.pid);
    let mut said = kernel.log().records.iter().rev().filter_map(|r| r.text.lines().next());
    said.find(|line| line.starts_with(&start)).map(str::to_owned)
}

impl Blocked {
    /// Whether it is in a deadlock.
    pub(super) fn is_stuck(&self) -> bool {
        self.deadlock
    }

    /// Whether the log says that it has slept too long.
    pub(super) fn is_reported(&self) -> bool {
        self.log.is_some()
    }

    /// `pid 246 "lab-ab" waits for mutex labcrash_b`
    pub(super) fn in_a_row(&self) -> String {
        format!("pid {} \"{}\" waits for {}", self.pid, self.comm, self.sentence())
    }

    /// The same, and where.
    pub(super) fn with_place(&self) -> String {
        let place = self.function.as_ref().filter(|_| self.is_of_a_lock());
        self.in_a_row() + &place.map(|name| format!(", in {name}()")).unwrap_or_default()
    }

    /// Whether a lock was found.
    pub(super) fn is_of_a_lock(&self) -> bool {
        self.lock.is_some()
    }

    /// What it waits for, in words.
    pub(super) fn sentence(&self) -> String {
        let mut text = match (&self.name, self.kind) {
            (Some(name), Some(kind)) => format!("{kind} {name}"),
            (None, Some(other)) => other.to_owned(),
            _ => match &self.function {
                Some(function) => format!("what {function}() waits for"),
                None => "what is not known".to_owned(),
            },
        };
        if let Some(Holder { pid, comm, reader }) = &self.owner {
            let how = if *reader { "read by, among others," } else { "held by" };
            text = format!("{text}, {how} pid {pid} \"{comm}\"");
        }
        text
    }
}

impl Text for Rows {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        if self.0.is_empty() {
            return Ok(row!(screen, "no task is blocked (state D)")?);
        }
        for blocked in &self.0 {
            put!(screen, "pid {:<7} {:<16} waits for {}", blocked.pid, blocked.comm, blocked.sentence());
            if let Some(waiters) = blocked.waiters.filter(|n| *n > 1) {
                put!(screen, " ({waiters} wait)");
            }
            row!(screen)?;
            if blocked.chain.len() > 1 || blocked.deadlock {
                let pids: Vec<String> = blocked.chain.iter().map(ToString::to_string).collect();
                let end = match blocked {
                    Blocked { deadlock: true, .. } => ": DEADLOCK",
                    Blocked { behind_deadlock: true, .. } => ": a deadlock of these",
                    _ => "",
                };
                row!(screen, "            held up by {}{end}", pids.join(", by "))?;
            }
            if let (Some(function), Some(_)) = (&blocked.function, blocked.kind) {
                row!(screen, "            in {function}()")?;
            }
            if let Some(log) = &blocked.log {
                row!(screen, "            {log}")?;
            }
        }
        Ok(())
    }
}
