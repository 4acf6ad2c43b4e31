//! `bt`: stacks, in crash's form.
//!
//! The text follows crash: the address in brackets is where the frame's return
//! address lies, registers are shown where an exception or a system call saved
//! them (`[exception RIP: ...]`, which crash says of interrupts and of registers in
//! notes, too), and a line names a stack when it is left. For a CPU that stopped in
//! the kernel's crash code, those frames are shown above the ones at which the
//! dump's registers begin; JSON has the latter only, as gdb shows them.

use std::collections::HashMap;
use std::sync::Arc;

use clap::Args;
use serde::ser::{Error as _, SerializeSeq};
use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use super::lines::{LineFiles, Lines};
use super::select::{active, by_words, current};
use super::{Answer, Command, Context, FOR_VMCORES, Result, Text};
use crate::addr::VirtAddr;
use crate::linux::{Kernel, Task};
use crate::par::{self, Stopped};
use crate::text::{Rows, Screen, row};
use crate::unwind::{self, Frame, FrameKind, Trace};

#[path = "bt_summary.rs"]
mod summary;
#[path = "bt_text.rs"]
mod text;

pub(super) use summary::{collapse, write_groups};
pub(super) use text::{heading, write_task, write_trace};

pub(super) fn command() -> Command {
    Command::of_both(
        "bt",
        "stacks of tasks",
        "Examples:\n  (gdb) monitor bt 1\n  $ corestub bt vmcore --all --json",
        of_kernel,
        |process, args: Bt, context| {
            let all = args.words.is_empty() && (args.active || args.all);
            super::process::bt::run(process, all, &args.words, context)
        },
    )
}

#[derive(Args)]
struct Bt {
    /// Pids, addresses of task_struct, or names; thread ids in a process core; without, the
    /// selected task
    #[arg(value_name = "PID|TASK|COMMAND")]
    words: Vec<String>,
    /// What each CPU was running; in a process core all threads
    #[arg(short = 'a')]
    active: bool,
    /// Every task, or thread
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    kernel: OfKernel,
}

#[derive(Args)]
#[command(next_help_heading = FOR_VMCORES)]
struct OfKernel {
    /// Every task; identical stacks once, with how many and which pids
    #[arg(long)]
    summary: bool,
    /// Every word of each frame, with symbols, slab caches, and the names of saved registers
    #[arg(short, short_alias = 'F')]
    full: bool,
    /// Source lines, where the debug info of vmlinux or a module is found
    #[arg(short)]
    lines: bool,
}

/// What is shown of each frame.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Style {
    /// All words of the stack.
    pub(super) full: bool,
    /// Source lines.
    pub(super) lines: bool,
}

fn of_kernel<'d>(kernel: &'d Kernel, args: Bt, context: Context<'d>) -> Result<Answer<'d>> {
    let OfKernel { summary, full, lines } = args.kernel;
    let tasks: Vec<&Task> = if !args.words.is_empty() {
        by_words(kernel, &args.words)?.into_iter().map(Arc::as_ref).collect()
    } else if args.all || summary && !args.active {
        kernel.tasks().all().iter().map(Arc::as_ref).collect()
    } else if args.active {
        active(kernel).into_iter().map(Arc::as_ref).collect()
    } else {
        vec![current(kernel, context)?]
    };
    if summary {
        return Ok(summary::Summary::of(kernel, &tasks, context)?.into());
    }
    Ok(Stacks { kernel, context, tasks, style: Style { full, lines } }.into())
}

/// The stacks of tasks: walked on all cores while they are shown.
struct Stacks<'d> {
    kernel: &'d Kernel,
    context: Context<'d>,
    tasks: Vec<&'d Task>,
    style: Style,
}

impl Text for Stacks<'_> {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        let Self { kernel, style, .. } = *self;
        let files = LineFiles::new(kernel);
        let lines = style.lines.then(|| Lines::new(&files));
        let write = |(): &mut (), i: usize, task: &&Task| {
            Rows::of(|screen| {
                if i > 0 {
                    row!(screen)?;
                }
                write_task(kernel, task, style, lines.as_ref(), screen)
            })
        };
        Ok(par::ordered(&self.tasks, || (), write, self.context.cancelled, &mut |rows| screen.paste(&rows))?)
    }
}

impl<'d> Serialize for Stacks<'d> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        let mut list = to.serialize_seq(Some(self.tasks.len()))?;
        let kernel = self.kernel;
        let write = |places: &mut Places<'d>, _: usize, task: &&'d Task| {
            to_raw_value(&stack(kernel, task, &unwind::task(kernel, task), places))
        };
        let mut take = |stack: serde_json::Result<Box<RawValue>>| {
            list.serialize_element(&stack.map_err(S::Error::custom)?)
        };
        match par::ordered(&self.tasks, Places::default, write, self.context.cancelled, &mut take) {
            Ok(()) => list.end(),
            Err(Stopped::Cancelled) => Err(S::Error::custom("given up")),
            Err(Stopped::Refused(e)) => Err(e),
        }
    }
}

#[derive(Serialize)]
struct JsonStack<'a> {
    pid: Option<u32>,
    task: VirtAddr,
    cpu: Option<u32>,
    comm: Option<&'a str>,
    state: Option<char>,
    frames: Vec<JsonFrame<'a>>,
    /// Why the stack ends early.
    #[serde(skip_serializing_if = "Option::is_none")]
    incomplete: Option<String>,
}

#[derive(Serialize)]
struct JsonFrame<'a> {
    pc: VirtAddr,
    sp: VirtAddr,
    symbol: Option<&'a str>,
    offset: Option<u64>,
    module: Option<&'a str>,
    kind: &'static str,
    /// What told of the frame.
    by: &'static str,
}

/// A symbol for a pc: name, offset of the pc, module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place<'a> {
    pub(super) name: &'a str,
    pub(super) offset: u64,
    pub(super) module: Option<&'a str>,
}

/// Symbols of pcs, remembered: thousands of tasks share a few hundred.
#[derive(Default)]
pub(super) struct Places<'a> {
    known: HashMap<u64, Option<Place<'a>>>,
}

impl<'a> Places<'a> {
    /// Frames as machines are given them.
    fn json(&mut self, kernel: &'a Kernel, frames: &[Frame]) -> Vec<JsonFrame<'a>> {
        let json = |frame: &Frame| {
            let place = self.of(kernel, frame);
            JsonFrame {
                pc: VirtAddr(frame.pc),
                sp: VirtAddr(frame.sp),
                symbol: place.map(|p| p.name),
                offset: place.map(|p| p.offset),
                module: place.and_then(|p| p.module),
                kind: frame.kind.word(),
                by: frame.by.word(),
            }
        };
        frames.iter().map(json).collect()
    }

    pub(super) fn of(&mut self, kernel: &'a Kernel, frame: &Frame) -> Option<Place<'a>> {
        if frame.kind == FrameKind::User {
            return None;
        }
        let at = frame.lookup_pc();
        let mut place = *self.known.entry(at).or_insert_with(|| place(kernel, at));
        if let Some(place) = &mut place {
            place.offset = place.offset.wrapping_add(frame.pc.wrapping_sub(at));
        }
        place
    }
}

/// The symbol around `addr`.
pub(super) fn place(kernel: &Kernel, addr: u64) -> Option<Place<'_>> {
    let (symbol, offset, module) = kernel.symbolise(VirtAddr(addr))?;
    Some(Place { name: symbol.name, offset, module: module.map(|m| m.name.as_str()) })
}

fn stack<'a>(kernel: &'a Kernel, task: &'a Task, trace: &Trace, places: &mut Places<'a>) -> JsonStack<'a> {
    JsonStack {
        pid: task.known_pid(),
        task: task.addr,
        cpu: task.cpu,
        comm: task.known_comm(),
        state: task.known_state(),
        frames: places.json(kernel, &trace.frames),
        incomplete: trace.incomplete(kernel),
    }
}
