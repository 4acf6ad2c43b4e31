//! `vm`: the memory of tasks, mapping by mapping, in crash's columns.

use std::cell::RefCell;
use std::collections::HashSet;

use clap::Args;
use serde::{Serialize, Serializer};

use super::answer::streamed;
use super::bt::heading;
use super::select::all_or_current;
use super::{Answer, Command, Context, Result, Text};
use crate::addr::VirtAddr;
use crate::linux::object::Object;
use crate::linux::usage::{Usage, Usages};
use crate::linux::{Kernel, Task, vmas};
use crate::text::{Screen, few, or_unknown, row};

pub(super) fn command() -> Command {
    Command::of_kernel(
        "vm",
        "the memory of tasks: size, page tables, every mapping with its file",
        "What has no file is named as in /proc/PID/maps. What lies in a mapping: `rd -u ADDRESS`; where: `vtop -u ADDRESS`.\n\n\
         Examples:\n  (gdb) monitor vm\n  $ corestub vm vmcore 1\n  $ corestub vm vmcore -a -R libssl",
        run,
    )
    .likewise("maps")
}

#[derive(Args)]
struct Arguments {
    /// Pids, addresses of task_struct, or names; without, the selected task
    #[arg(value_name = "PID|TASK|COMMAND")]
    words: Vec<String>,
    /// Of all processes that have any
    #[arg(short = 'a', conflicts_with = "words")]
    all: bool,
    /// Only mappings whose file has this in its path
    #[arg(short = 'R', value_name = "TEXT")]
    path: Option<String>,
}

#[derive(Serialize)]
struct Memory<'d> {
    #[serde(skip)]
    of: &'d Task,
    pid: Option<u32>,
    task: VirtAddr,
    comm: Option<&'d str>,
    mm: Option<VirtAddr>,
    pgd: Option<VirtAddr>,
    rss_kib: Option<u64>,
    total_kib: Option<u64>,
    /// `None`: they cannot be read.
    mappings: Option<Vec<Mapping>>,
    /// Mappings that the kernel counted and that cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    unread: Option<u64>,
}

#[derive(Serialize)]
struct Mapping {
    vma: VirtAddr,
    start: VirtAddr,
    end: VirtAddr,
    flags: String,
    permissions: String,
    /// In the file, in bytes.
    offset: u64,
    /// `None`: the path is not in the dump.
    name: Option<String>,
}

impl From<vmas::Vma> for Mapping {
    fn from(vma: vmas::Vma) -> Self {
        Self {
            vma: vma.at,
            start: VirtAddr(vma.start),
            end: VirtAddr(vma.end),
            flags: format!("{:#x}", vma.flags),
            permissions: vma.permissions(),
            offset: vma.offset,
            name: (vma.file.is_none() || !vma.name.is_empty()).then_some(vma.name),
        }
    }
}

/// Made while they are shown: a large machine has millions of mappings.
struct Memories<'d> {
    kernel: &'d Kernel,
    context: Context<'d>,
    tasks: Vec<&'d Task>,
    path: Option<String>,
    /// Which mappings could not be read.
    unread: RefCell<Vec<String>>,
}

fn run<'d>(kernel: &'d Kernel, args: Arguments, context: Context<'d>) -> Result<Answer<'d>> {
    let mut tasks = all_or_current(kernel, context, args.all, &args.words)?;
    if args.all {
        // A process once, and none of the kernel's threads.
        let mut seen = HashSet::new();
        tasks.retain(|task| task.mm.is_some_and(|mm| seen.insert(mm)));
    }
    Ok(Memories { kernel, context, tasks, path: args.path, unread: RefCell::default() }.into())
}

impl<'d> Memories<'d> {
    /// One by one; of several, those that have nothing that was asked for are left out.
    fn each(&self) -> impl Iterator<Item = Memory<'d>> {
        let mut usages = Usages::new(self.kernel);
        let some = self.path.is_some() && self.tasks.len() > 1;
        self.tasks.iter().filter_map(move |task| {
            let row = of_task(self.kernel, task, usages.of(task), self.path.as_deref());
            let lost = match (&row.mappings, row.unread) {
                (None, _) => Some(format!("those of pid {}", task.pid_text())),
                (_, lost) => lost.map(|lost| format!("{lost} of pid {}", task.pid_text())),
            };
            self.unread.borrow_mut().extend(lost);
            let has_any = row.mappings.as_ref().is_none_or(|all| !all.is_empty());
            (!some || has_any).then_some(row)
        })
    }
}

impl Serialize for Memories<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        streamed(to, self.context, self.each())
    }
}

fn of_task<'d>(kernel: &'d Kernel, task: &'d Task, usage: Option<Usage>, part: Option<&str>) -> Memory<'d> {
    let vmas::Vmas { list, counted } = task.mm.map(|mm| vmas::of(kernel, mm)).unwrap_or_default();
    let lost = counted.map(|n| n.saturating_sub(list.len() as u64)).filter(|&n| n > 0);
    let wanted = |vma: &vmas::Vma| part.is_none_or(|part| vma.name.contains(part));
    let usage = usage.filter(|_| task.mm.is_some());
    // Neither a mapping nor how many there are.
    let unknown = task.unread || task.mm.is_some() && counted.is_none() && list.is_empty();
    Memory {
        of: task,
        pid: task.known_pid(),
        task: task.addr,
        comm: task.known_comm(),
        mm: task.mm,
        pgd: task.mm.and_then(|mm| Object::new(kernel, "mm_struct", mm).pointer("pgd")),
        rss_kib: usage.map(|usage| usage.rss),
        total_kib: usage.map(|usage| usage.vsz),
        mappings: (!unknown).then(|| list.into_iter().filter(wanted).map(Mapping::from).collect()),
        unread: lost,
    }
}

impl Text for Memories<'_> {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        for (i, memory) in self.each().enumerate() {
            self.context.check()?;
            if i > 0 {
                row!(screen)?;
            }
            memory.text(screen)?;
        }
        Ok(())
    }

    fn failure(&self) -> Option<String> {
        let unread = self.unread.borrow();
        few(unread.iter().cloned()).map(|lost| format!("these mappings cannot be read: {lost}"))
    }
}

impl Text for Memory<'_> {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        heading(self.of, screen)?;
        let Some(mm) = self.mm else {
            if self.mappings.is_none() {
                return Ok(row!(screen, "(cannot be read)")?);
            }
            return Ok(row!(screen, "No memory of its own: a thread of the kernel, or it has ended")?);
        };
        let kib = |size: Option<u64>| or_unknown(size.map(|kib| format!("{kib}k")));
        row!(screen, "       MM               PGD          RSS    TOTAL_VM")?;
        row!(
            screen,
            "{:016x} {:>17}  {:<7}  {}",
            mm.0,
            or_unknown(self.pgd.map(|at| format!("{:016x}", at.0))),
            kib(self.rss_kib),
            kib(self.total_kib)
        )?;
        let Some(mappings) = self.mappings.as_ref().filter(|all| !all.is_empty()) else { return Ok(()) };
        row!(screen, "      VMA           START       END     FLAGS    PERM FILE")?;
        for m in mappings {
            row!(
                screen,
                "{:016x} {:>12} {:>12} {:<8} {} {}",
                m.vma.0,
                format!("{:x}", m.start.0),
                format!("{:x}", m.end.0),
                m.flags.trim_start_matches("0x"),
                m.permissions,
                or_unknown(m.name.as_ref())
            )?;
        }
        Ok(())
    }
}
