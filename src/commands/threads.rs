//! `threads`: which tasks gdb shows, and in which order.

use clap::Args;
use serde::Serialize;

use super::{Answer, Command, Context, Result, Text};
use crate::linux::Kernel;
use crate::session::threads::Threads;
use crate::text::{Screen, row};

pub(super) fn command() -> Command {
    Command::of_kernel(
        "threads",
        "which tasks gdb shows as threads, and their numbers",
        "gdb's threads 1 to N are what CPUs 0 to N-1 were running, then come all other tasks by pid. \
         A thread's id is its pid; idle tasks have ids from 4194305 (2^22 + 1) on.\n\n\
         Examples:\n  (gdb) monitor threads D\n  (gdb) thread 17",
        run,
    )
}

#[derive(Args)]
struct Arguments {
    /// What is listed: `active`, a state's letter (D), a pid, or a name
    words: Vec<String>,
}

#[derive(Serialize)]
struct Row {
    number: usize,
    tid: u32,
    pid: u32,
    comm: String,
    state: char,
    cpu: Option<u32>,
    about: String,
}

#[derive(Serialize)]
#[serde(transparent)]
struct List {
    rows: Vec<Row>,
    #[serde(skip)]
    all: usize,
    #[serde(skip)]
    words: Vec<String>,
}

fn run<'d>(kernel: &'d Kernel, args: Arguments, _: Context<'d>) -> Result<Answer<'d>> {
    let threads = Threads::of(kernel);
    let fits = |row: &Row, on_cpu: bool| {
        args.words.is_empty()
            || args.words.iter().any(|word| {
                (word == "active" && on_cpu)
                    || (word.len() == 1 && word.starts_with(row.state))
                    || word.parse() == Ok(row.pid)
                    || *word == row.comm
            })
    };
    let all = threads.infos.len();
    let rows = threads.infos.into_iter().zip(&threads.tasks).enumerate().filter_map(|(i, (info, task))| {
        let row = Row {
            number: i + 1,
            tid: info.tid,
            pid: task.pid,
            comm: info.name,
            state: task.state,
            cpu: task.cpu,
            about: info.extra,
        };
        fits(&row, task.on_cpu).then_some(row)
    });
    Ok(List { rows: rows.collect(), all, words: args.words.clone() }.into())
}

impl Text for List {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        row!(screen, "{:>7} {:>8}  {:<16}  ABOUT", "THREAD", "TID", "COMM")?;
        for row in &self.rows {
            row!(screen, "{:>7} {:>8}  {:<16}  {}", row.number, row.tid, row.comm, row.about)?;
        }
        Ok(row!(screen, "{} of {} threads", self.rows.len(), self.all)?)
    }

    fn failure(&self) -> Option<String> {
        self.rows.is_empty().then(|| format!("no thread is {}", self.words.join(" or ")))
    }
}
