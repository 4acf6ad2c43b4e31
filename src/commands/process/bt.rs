//! `bt`: the stack of one thread, or of all.

use std::io::Write;

use super::{Place, thread};
use crate::commands::{CommandError, Request, json};
use crate::process::core_file::ThreadNotes;
use crate::process::unwind::{self, Frame, Kind};
use crate::process::{Process, signal};

#[derive(serde::Serialize)]
struct Stack<'a> {
    pid: u32,
    tid: u32,
    comm: Option<&'a str>,
    frames: Vec<Row>,
    /// Whether frames were left out.
    cut: bool,
}

#[derive(serde::Serialize)]
struct Row {
    sp: String,
    kind: Kind,
    #[serde(flatten)]
    place: Place,
}

pub(in crate::commands) fn run(
    process: &Process,
    request: &Request<'_>,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let all = request.args.first().is_some_and(|a| matches!(a.as_str(), "-a" | "--all" | "all"));
    let threads: Vec<&ThreadNotes> = if all {
        process.threads().iter().collect()
    } else {
        vec![thread(process, request.args.first(), request.thread)?]
    };
    let mut stacks = Vec::new();
    for t in threads {
        if (request.cancelled)() {
            break;
        }
        let stack = of_thread(process, t);
        if request.json {
            stacks.push(stack);
        } else {
            text(&stack, t, out)?;
        }
    }
    if request.json { json(&stacks, out) } else { Ok(()) }
}

fn of_thread<'a>(process: &'a Process, thread: &ThreadNotes) -> Stack<'a> {
    let (frames, cut) = unwind::stack(process, thread, unwind::FRAMES_MAX);
    let row = |f: &Frame| {
        let exact = matches!(f.kind, Kind::Regs | Kind::Signal);
        let lookup = if exact { f.pc } else { f.pc.wrapping_sub(1) };
        Row { sp: format!("{:#x}", f.sp), kind: f.kind, place: Place::of(process, f.pc, lookup) }
    };
    let frames = frames.iter().map(row).collect();
    Stack { pid: process.pid(), tid: thread.tid, comm: process.thread_name(thread.tid), frames, cut }
}

fn text(stack: &Stack<'_>, thread: &ThreadNotes, out: &mut dyn Write) -> Result<(), CommandError> {
    let name = stack.comm.map(|n| format!(" \"{n}\"")).unwrap_or_default();
    let signal = match thread.signal {
        0 => String::new(),
        s => format!("  {}", signal::name(s.into())),
    };
    writeln!(out, "thread {}{name}{signal}", stack.tid)?;
    for (i, f) in stack.frames.iter().enumerate() {
        let how = match f.kind {
            Kind::Regs | Kind::Call => "",
            Kind::Signal => "  <interrupted by a signal>",
            Kind::FramePointer => "  <guess: frame pointer>",
            Kind::StackTop => "  <guess: top of the stack>",
        };
        writeln!(out, " #{i:<3} {:>18}  {}{how}", f.place.pc, f.place.text())?;
    }
    if stack.frames.is_empty() {
        writeln!(out, " no registers in the core")?;
    }
    if stack.cut {
        writeln!(out, " ... more frames follow")?;
    }
    Ok(())
}
