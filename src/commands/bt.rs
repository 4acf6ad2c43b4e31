//! `bt`: stacks, in crash's form.
//!
//! The text follows crash: the address in brackets is where the frame's return
//! address lies, registers are shown where an exception or a system call saved
//! them, and a line names a stack when it is left. For a CPU that stopped in
//! the kernel's crash code, those frames are shown above the ones at which the
//! dump's registers begin; JSON has the latter only, as gdb shows them.

use std::collections::HashMap;
use std::fmt;
use std::io::Write;
use std::sync::Arc;

use serde::Serialize;

use super::lines::{LineFiles, Lines};
use super::select::{active, by_words, current, flags};
use super::{Command, CommandError, Request, Subject, parallel};
use crate::addr::VirtAddr;
use crate::linux::{Kernel, Task};
use crate::unwind::{self, Frame, FrameKind, Trace};

#[path = "bt_summary.rs"]
mod summary;
#[path = "bt_text.rs"]
mod text;

pub(super) use summary::{collapse, write_groups};
pub(super) use text::{heading, write_task, write_trace};

pub(super) const COMMAND: Command = Command {
    name: "bt",
    usage: "[-a | --all | --summary] [-f] [-l] [PID|TASK|COMMAND]...",
    summary: "stacks of tasks",
    help: "  (nothing)     the selected task\n  \
           -a            what each CPU was running\n  \
           --all         every task\n  \
           --summary     every task; identical stacks once, with how many and which pids\n  \
           -f            every word of each frame, with symbols and the names of saved registers\n  \
           -l            source lines, where the debug info of vmlinux or a module is found\n\n    \
           (gdb) monitor bt 1\n    \
           $ corestub bt --all --json vmcore",
    kernel: true,
    process: true,
    run,
};

/// What is shown of each frame.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Style {
    /// All words of the stack.
    pub(super) full: bool,
    /// Source lines.
    pub(super) lines: bool,
}

fn run(subject: Subject<'_>, request: &Request<'_>, out: &mut dyn Write) -> Result<(), CommandError> {
    match subject {
        Subject::Kernel(kernel) => of_kernel(kernel, request, out),
        Subject::Process(process) => super::process::bt::run(process, request, out),
    }
}

fn of_kernel(kernel: &Kernel, request: &Request<'_>, out: &mut dyn Write) -> Result<(), CommandError> {
    let (flags, words) = flags(request.args);
    let (mut style, mut all, mut cpus, mut collapsed) = (Style::default(), false, false, false);
    for flag in flags {
        match flag {
            "-f" | "-F" => style.full = true,
            "-l" => style.lines = true,
            "-a" => cpus = true,
            "--all" => all = true,
            "--summary" => collapsed = true,
            other => {
                return Err(CommandError::Failed(format!("{other} is not one of -a --all --summary -f -l")));
            }
        }
    }
    let tasks: Vec<&Task> = if !words.is_empty() {
        by_words(kernel, &words)?.into_iter().map(Arc::as_ref).collect()
    } else if all || collapsed && !cpus {
        kernel.tasks().all().iter().map(Arc::as_ref).collect()
    } else if cpus {
        active(kernel).into_iter().map(Arc::as_ref).collect()
    } else {
        vec![current(kernel, request)?]
    };
    if collapsed {
        return summary::run(kernel, &tasks, request, out);
    }
    if request.json {
        return json(kernel, &tasks, request, out);
    }
    let files = LineFiles::new(kernel);
    let lines = style.lines.then(|| Lines::new(&files));
    parallel::ordered(
        &tasks,
        || (),
        |(), i, task, to| {
            if i > 0 {
                to.push(b'\n');
            }
            // Writing to memory does not fail.
            let _ = write_task(kernel, task, style, lines.as_ref(), to);
        },
        request.cancelled,
        out,
    )
}

/// An address, for JSON.
pub(super) struct Hex(pub(super) u64);

impl Serialize for Hex {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{:#x}", self.0))
    }
}

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

#[derive(Serialize)]
struct JsonStack<'a> {
    pid: u32,
    task: Hex,
    cpu: u32,
    comm: &'a str,
    state: char,
    frames: Vec<JsonFrame<'a>>,
    /// Why the stack ends early.
    #[serde(skip_serializing_if = "Option::is_none")]
    incomplete: Option<String>,
}

#[derive(Serialize)]
struct JsonFrame<'a> {
    pc: Hex,
    sp: Hex,
    symbol: Option<&'a str>,
    offset: Option<u64>,
    module: Option<&'a str>,
    kind: &'static str,
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
                pc: Hex(frame.pc),
                sp: Hex(frame.sp),
                symbol: place.map(|p| p.name),
                offset: place.map(|p| p.offset),
                module: place.and_then(|p| p.module),
                kind: frame.kind.word(),
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

fn json(
    kernel: &Kernel,
    tasks: &[&Task],
    request: &Request<'_>,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    out.write_all(b"[")?;
    parallel::ordered(
        tasks,
        Places::default,
        |places, i, task, to| {
            to.extend_from_slice(if i == 0 { b"\n" } else { b",\n" });
            let trace = unwind::task(kernel, task);
            let _ = serde_json::to_writer(to, &stack(kernel, task, &trace, places));
        },
        request.cancelled,
        out,
    )?;
    Ok(out.write_all(b"\n]\n")?)
}

fn stack<'a>(kernel: &'a Kernel, task: &'a Task, trace: &Trace, places: &mut Places<'a>) -> JsonStack<'a> {
    JsonStack {
        pid: task.pid,
        task: Hex(task.addr.0),
        cpu: task.cpu,
        comm: &task.comm,
        state: task.state,
        frames: places.json(kernel, &trace.frames),
        incomplete: trace.end.sentence(),
    }
}
