//! `files`: what a task has open, in crash's columns.

use clap::Args;
use serde::Serialize;

use super::answer::apart;
use super::bt::heading;
use super::select::all_or_current;
use super::{Answer, Command, CommandError, Context, Result, Text};
use crate::addr::VirtAddr;
use crate::linux::open_files::{self, OpenFile};
use crate::linux::{Kernel, Task};
use crate::text::{Screen, or_unknown, row};

pub(super) fn command() -> Command {
    Command::of_kernel(
        "files",
        "the open files of tasks, with their paths",
        "Paths are those of the whole machine, also of a task in a container. Of pipes and sockets the \
         number of their inode is told, as in /proc.\n\n\
         Examples:\n  (gdb) monitor files\n  $ corestub files vmcore 1\n  $ corestub files vmcore -a -R /var/log",
        run,
    )
}

#[derive(Args)]
struct Arguments {
    /// Pids, addresses of task_struct, or names; without, the selected task
    #[arg(value_name = "PID|TASK|COMMAND")]
    words: Vec<String>,
    /// Of all tasks that have any
    #[arg(short = 'a', conflicts_with = "words")]
    all: bool,
    /// Only files whose path has this in it
    #[arg(short = 'R', value_name = "TEXT")]
    path: Option<String>,
}

#[derive(Serialize)]
struct Open<'d> {
    #[serde(skip)]
    of: &'d Task,
    pid: Option<u32>,
    task: VirtAddr,
    comm: Option<&'d str>,
    root: Option<String>,
    cwd: Option<String>,
    /// `None`: they cannot be read.
    files: Option<Vec<OpenFile>>,
    /// Descriptors that could not be read.
    unread: u64,
}

#[derive(Serialize)]
#[serde(transparent)]
struct Files<'d>(Vec<Open<'d>>);

fn run<'d>(kernel: &'d Kernel, args: Arguments, context: Context<'d>) -> Result<Answer<'d>> {
    let wanted = |file: &OpenFile| match (&args.path, &file.path) {
        (None, _) => true,
        (Some(part), path) => path.as_ref().is_some_and(|path| path.contains(part.as_str())),
    };
    let mut all = Vec::new();
    for of in all_or_current(kernel, context, args.all, &args.words)? {
        context.check()?;
        let found = open_files::of(kernel, of);
        let (root, cwd, files, unread) = match found {
            Some(open) => (open.root, open.cwd, Some(open.files), open.unread),
            None => (None, None, None, 0),
        };
        let files: Option<Vec<_>> = files.map(|files| files.into_iter().filter(wanted).collect());
        if args.all && unread == 0 && files.as_ref().is_some_and(Vec::is_empty) {
            continue;
        }
        all.push(Open {
            of,
            pid: of.known_pid(),
            task: of.addr,
            comm: of.known_comm(),
            root,
            cwd,
            files,
            unread,
        });
    }
    if !all.is_empty() && all.iter().all(|open| open.files.is_none()) {
        return Err(CommandError::failed("what the task has open cannot be read"));
    }
    Ok(Files(all).into())
}

impl Text for Files<'_> {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        apart(&self.0, screen)
    }

    fn failure(&self) -> Option<String> {
        unreadable(self.0.iter().filter(|open| open.files.is_none()).map(|open| open.of))
    }
}

/// The sentence about tasks of which it is not known what they have open.
pub(super) fn unreadable<'t>(tasks: impl Iterator<Item = &'t Task>) -> Option<String> {
    let lost: Vec<String> = tasks.map(Task::pid_text).collect();
    (!lost.is_empty()).then(|| format!("what {} has open cannot be read", lost.join(", ")))
}

impl Text for Open<'_> {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        heading(self.of, screen)?;
        let Some(files) = &self.files else { return Ok(row!(screen, "(cannot be read)")?) };
        let known = |path: &Option<String>| or_unknown(path.as_ref());
        if self.root.is_some() || self.cwd.is_some() || !files.is_empty() {
            row!(screen, "ROOT: {}    CWD: {}", known(&self.root), known(&self.cwd))?;
        }
        if files.is_empty() && self.unread == 0 {
            return Ok(row!(screen, "No open files")?);
        }
        row!(screen, " FD       FILE            DENTRY           INODE       TYPE PATH")?;
        let address = |at: Option<VirtAddr>| or_unknown(at.map(|at| format!("{:016x}", at.0)));
        for f in files {
            let (dentry, inode) = (address(f.dentry), address(f.inode));
            row!(
                screen,
                "{:>3} {:016x} {dentry:>16} {inode:>16} {:<4} {}",
                f.fd,
                f.file.0,
                f.kind,
                known(&f.path)
            )?;
        }
        if self.unread > 0 {
            row!(screen, "({} descriptors cannot be read)", self.unread)?;
        }
        Ok(())
    }
}
