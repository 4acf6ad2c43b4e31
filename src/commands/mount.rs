//! `mount`: what is mounted, in crash's columns.

use clap::Args;
use serde::Serialize;

use super::select::by_words;
use super::{Answer, Command, CommandError, Context, Result, Text};
use crate::addr::VirtAddr;
use crate::linux::Kernel;
use crate::linux::mounts::{self, Mount, Mounts};
use crate::text::{Screen, or_unknown, row};

pub(super) fn command() -> Command {
    Command::of_kernel(
        "mount",
        "what is mounted: file systems, devices, where; which are read-only",
        "Paths are those of the whole machine. A container has its own mounts: name a task of it.\n\n\
         Examples:\n  (gdb) monitor mount\n  $ corestub mount vmcore\n  $ corestub mount vmcore 4711",
        run,
    )
}

#[derive(Args)]
struct Arguments {
    /// A pid, the address of a task_struct, or a name: as this task sees it; without, as the first process
    #[arg(value_name = "PID|TASK|COMMAND")]
    task: Option<String>,
}

#[derive(Serialize)]
struct Answered {
    namespace: VirtAddr,
    mounts: Vec<Mount>,
    /// Why some may be missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    broken: Option<String>,
}

fn run<'d>(kernel: &'d Kernel, args: Arguments, _: Context<'d>) -> Result<Answer<'d>> {
    let asked = args.task.map(|word| by_words(kernel, &[word])).transpose()?;
    let task = match asked.as_ref().and_then(|tasks| tasks.first()) {
        Some(task) => task.addr,
        None => {
            let first = kernel.tasks().by_pid(1).next().map(|task| task.addr);
            first
                .or_else(|| kernel.symbol("init_task"))
                .ok_or_else(|| CommandError::failed("name a task by pid"))?
        }
    };
    let Mounts { namespace, list, broken } = mounts::of(kernel, task)
        .map_err(|why| CommandError::Failed(format!("what is mounted cannot be told: {why}")))?;
    Ok(Answered { namespace, mounts: list, broken }.into())
}

impl Text for Answered {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        let widest = |of: fn(&Mount) -> &Option<String>, least| {
            self.mounts
                .iter()
                .filter_map(|m| of(m).as_ref())
                .map(String::len)
                .max()
                .unwrap_or(0)
                .clamp(least, 40)
        };
        let (kinds, devices) = (widest(|m| &m.kind, 4), widest(|m| &m.device, 7));
        row!(screen, "     MOUNT           SUPERBLK     {:kinds$} {:devices$} DIRNAME", "TYPE", "DEVNAME")?;
        for mount in &self.mounts {
            row!(
                screen,
                "{:016x} {:>16} {:kinds$} {:devices$} {}{}",
                mount.at.0,
                or_unknown(mount.superblock.map(|at| format!("{:016x}", at.0))),
                or_unknown(mount.kind.as_ref()),
                or_unknown(mount.device.as_ref()),
                or_unknown(mount.path.as_ref()),
                if mount.read_only == Some(true) { "  (read-only)" } else { "" }
            )?;
        }
        Ok(())
    }

    fn failure(&self) -> Option<String> {
        self.broken.clone()
    }
}
