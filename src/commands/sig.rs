//! `sig`: what tasks do about signals, and which wait for them, in crash's columns.

use std::collections::HashSet;

use clap::Args;
use serde::{Serialize, Serializer};

use super::answer::apart;
use super::bt::heading;
use super::select::all_or_current;
use super::{Answer, Command, Context, Result, Text};
use crate::addr::VirtAddr;
use crate::linux::signals::{self, Action, Actions, Pending, Queue, Queued, SIGNALS, Signals};
use crate::linux::{Kernel, Task};
use crate::process::signal::{self, SigInfo};
use crate::text::{Screen, few, flag_names, or_unknown, row};

pub(super) fn command() -> Command {
    Command::of_kernel(
        "sig",
        "signals of tasks: handlers, what is blocked, what waits and who sent it",
        "A task that nobody can kill: `sig -p` has those for which a signal waits, `bt` says where they are.\n\n\
         Examples:\n  (gdb) monitor sig\n  $ corestub sig vmcore 1\n  $ corestub sig vmcore -p",
        run,
    )
}

#[derive(Args)]
struct Arguments {
    /// Pids, addresses of task_struct, or names; without, the selected task
    #[arg(value_name = "PID|TASK|COMMAND")]
    words: Vec<String>,
    /// What waits, and no handlers: of all tasks for which a signal waits, or of those that are named
    #[arg(short = 'p')]
    pending: bool,
    /// Signals whose action is the default one, too
    #[arg(short = 'd', conflicts_with = "pending")]
    default: bool,
}

#[derive(Serialize)]
#[serde(transparent)]
struct Rows<'d> {
    list: Vec<Row<'d>>,
    /// Tasks of which it is not known whether a signal waits.
    #[serde(skip)]
    unknown: Vec<String>,
}

#[derive(Serialize)]
struct Row<'d> {
    #[serde(skip)]
    of: &'d Task,
    pid: Option<u32>,
    task: VirtAddr,
    comm: Option<&'d str>,
    signal_struct: Option<VirtAddr>,
    nr_threads: Option<u64>,
    /// `None`: nobody asked, or they cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    actions: Option<Vec<Shown>>,
    /// What there is of actions beside these.
    #[serde(skip)]
    others: &'static str,
    /// Whether one waits that is not blocked.
    sigpending: Option<bool>,
    blocked: Option<Set>,
    private: Waiting,
    shared: Waiting,
    /// What of all that cannot be read.
    #[serde(skip)]
    lost: Vec<String>,
}

/// Signals, each a bit; signal 1 is bit 0.
#[derive(Clone, Copy)]
struct Set(u64);

impl Set {
    fn names(self) -> impl Iterator<Item = String> {
        (1..=SIGNALS).filter(move |n| self.0 >> (n - 1) & 1 != 0).map(signal::name)
    }
}

impl Serialize for Set {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{:#x}", self.0))
    }
}

#[derive(Serialize)]
struct Shown {
    signal: u32,
    name: String,
    sigaction: VirtAddr,
    handler: String,
    mask: Set,
    flags: String,
    #[serde(skip)]
    flag_names: Option<String>,
}

#[derive(Serialize)]
struct Waiting {
    signal: Option<Set>,
    names: Vec<String>,
    queue: Vec<Entry>,
    #[serde(skip)]
    whole: bool,
}

#[derive(Serialize)]
struct Entry {
    siginfo: VirtAddr,
    #[serde(flatten)]
    info: Option<SigInfo>,
}

fn run<'d>(kernel: &'d Kernel, args: Arguments, context: Context<'d>) -> Result<Answer<'d>> {
    let tasks = all_or_current(kernel, context, args.pending && args.words.is_empty(), &args.words)?;
    let mut rows = Rows { list: Vec::new(), unknown: Vec::new() };
    // What waits for a process is told once, not of each of its threads.
    let mut told = HashSet::new();
    let mut left = signals::MOST;
    for task in tasks {
        context.check()?;
        let signals = signals::of(kernel, task.addr);
        if args.pending {
            let sets = [signals.private.set, signals.shared.set];
            let [private, shared] = sets.map(|set| set.is_some_and(|set| set != 0));
            let first = shared && told.insert(signals.signal_struct);
            if !private && !first {
                rows.unknown.extend(sets.contains(&None).then(|| task.pid_text()));
                continue;
            }
        }
        let mut row = Row::new(kernel, task, &signals, &mut left);
        if !args.pending {
            row.act(signals::actions(kernel, task.addr), args.default);
        }
        rows.list.push(row);
    }
    Ok(rows.into())
}

impl<'d> Row<'d> {
    fn new(kernel: &Kernel, task: &'d Task, signals: &Signals, left: &mut usize) -> Self {
        let [private, shared] = [&signals.private, &signals.shared].map(|all| (all, all.queue(kernel, left)));
        let waits = private.0.set.zip(shared.0.set).map(|(private, shared)| private | shared);
        let mut lost = Vec::new();
        lost.extend(signals.blocked.is_none().then(|| "what it blocks".to_owned()));
        lost.extend(waits.is_none().then(|| "what waits".to_owned()));
        let queues = [&private.1, &shared.1].into_iter().filter_map(|queue| queue.broken.as_ref());
        lost.extend(queues.map(|why| format!("a queue ({why})")));
        Self {
            of: task,
            pid: task.known_pid(),
            task: task.addr,
            comm: task.known_comm(),
            signal_struct: signals.signal_struct,
            nr_threads: signals.threads,
            actions: None,
            others: "",
            sigpending: waits.zip(signals.blocked).map(|(waits, blocked)| waits & !blocked != 0),
            blocked: signals.blocked.map(Set),
            private: Waiting::new(private),
            shared: Waiting::new(shared),
            lost,
        }
    }

    /// Adds what the task does about each signal; about those it left as they were if `all`.
    fn act(&mut self, Actions { list, lost }: Actions, all: bool) {
        let shown = list.iter().filter(|action| all || action.handler != 0);
        let shown: Vec<_> = shown.map(Shown::from).collect();
        self.others = match list.len() - shown.len() {
            0 if list.is_empty() && lost.is_none() => "No handlers: it has ended",
            0 => "",
            64 => "SIG_DFL: all",
            _ => "SIG_DFL: the others",
        };
        // Where not one is known there is no list, either.
        self.actions = (!list.is_empty() || lost.is_none()).then_some(shown);
        self.lost.extend(lost.map(|why| format!("handlers ({why})")));
    }
}

impl From<&Action> for Shown {
    fn from(action: &Action) -> Self {
        /// `include/uapi/asm-generic/signal-defs.h`, `arch/x86/include/uapi/asm/signal.h`.
        const FLAGS: [(u64, &str); 9] = [
            (0x1, "SA_NOCLDSTOP"),
            (0x2, "SA_NOCLDWAIT"),
            (0x4, "SA_SIGINFO"),
            (0x800, "SA_EXPOSE_TAGBITS"),
            (0x0400_0000, "SA_RESTORER"),
            (0x0800_0000, "SA_ONSTACK"),
            (0x1000_0000, "SA_RESTART"),
            (0x4000_0000, "SA_NODEFER"),
            (0x8000_0000, "SA_RESETHAND"),
        ];
        Self {
            signal: action.signal,
            name: signal::name(action.signal),
            sigaction: action.at,
            handler: match action.handler {
                0 => "SIG_DFL".to_owned(),
                1 => "SIG_IGN".to_owned(),
                at => format!("{at:#x}"),
            },
            mask: Set(action.mask),
            flags: format!("{:#x}", action.flags),
            flag_names: flag_names(action.flags, &FLAGS),
        }
    }
}

impl Waiting {
    fn new((pending, queue): (&Pending, Queue)) -> Self {
        let entry = |queued: Queued| Entry {
            siginfo: queued.at,
            info: queued.info.as_ref().and_then(|raw| SigInfo::parse(raw)),
        };
        Self {
            signal: pending.set.map(Set),
            names: pending.set.into_iter().flat_map(|set| Set(set).names()).collect(),
            queue: queue.list.into_iter().map(entry).collect(),
            whole: queue.broken.is_none(),
        }
    }
}

impl Text for Rows<'_> {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        match (self.list.as_slice(), self.unknown.as_slice()) {
            ([], []) => Ok(row!(screen, "No signal waits")?),
            (list, _) => apart(list, screen),
        }
    }

    fn failure(&self) -> Option<String> {
        let of = |row: &Row<'_>| format!("of pid {} {}", row.of.pid_text(), row.lost.join(", "));
        let lost = few(self.list.iter().filter(|row| !row.lost.is_empty()).map(of));
        let unknown = few(self.unknown.iter().cloned()).map(|pids| format!("what waits for pid {pids}"));
        let all: Vec<_> = lost.into_iter().chain(unknown).collect();
        (!all.is_empty()).then(|| format!("this cannot be read: {}", all.join("; ")))
    }
}

impl Text for Row<'_> {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        heading(self.of, screen)?;
        let at = or_unknown(self.signal_struct.map(|at| format!("{:016x}", at.0)));
        row!(screen, "SIGNAL_STRUCT: {at}  NR_THREADS: {}", or_unknown(self.nr_threads))?;
        if let Some(actions) = &self.actions {
            if !actions.is_empty() {
                row!(screen, " SIG    SIGACTION        HANDLER       MASK       FLAGS")?;
            }
            for action in actions {
                row!(
                    screen,
                    "{:>4} {:016x} {:>10} {:016x} {}{}  {}",
                    format!("[{}]", action.signal),
                    action.sigaction.0,
                    action.handler.trim_start_matches("0x"),
                    action.mask.0,
                    action.flags.trim_start_matches("0x"),
                    action.flag_names.as_ref().map(|names| format!(" ({names})")).unwrap_or_default(),
                    action.name
                )?;
            }
            if !self.others.is_empty() {
                row!(screen, "{}", self.others)?;
            }
        }
        row!(
            screen,
            "SIGPENDING: {}",
            match self.sigpending {
                Some(true) => "yes",
                Some(false) => "no",
                None => "?",
            }
        )?;
        row!(screen, "   BLOCKED: {}", in_words(self.blocked))?;
        for (title, waiting) in [("PRIVATE_PENDING", &self.private), ("SHARED_PENDING", &self.shared)] {
            row!(screen, "{title}")?;
            waiting.text(screen)?;
        }
        Ok(())
    }
}

impl Text for Waiting {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        row!(screen, "    SIGNAL: {}", in_words(self.signal))?;
        if self.queue.is_empty() {
            return Ok(row!(screen, "  SIGQUEUE: {}", if self.whole { "(empty)" } else { "?" })?);
        }
        row!(screen, "  SIGQUEUE:  SIG  SIGINFO")?;
        for entry in &self.queue {
            let number = or_unknown(entry.info.as_ref().map(|info| info.signal));
            let text = entry.info.as_ref().map(SigInfo::describe).unwrap_or_default();
            row!(screen, "{number:>16}  {:016x}  {text}", entry.siginfo.0)?;
        }
        Ok(())
    }
}

/// `0000000000000100  SIGKILL`
fn in_words(set: Option<Set>) -> String {
    let Some(set) = set else { return or_unknown(None::<&str>) };
    let names = few(set.names()).map(|names| format!("  {names}")).unwrap_or_default();
    format!("{:016x}{names}", set.0)
}
