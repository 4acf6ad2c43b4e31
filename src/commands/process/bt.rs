//! `bt`: the stack of one thread, or of all.

use serde::Serialize;

use super::{Place, threads};
use crate::commands::{Answer, Context, Result, Text};
use crate::process::core_file::ThreadNotes;
use crate::process::unwind::{self, Frame, Kind};
use crate::process::{Process, signal};
use crate::text::{Screen, put, row};

#[derive(Serialize)]
#[serde(transparent)]
struct Stacks<'a>(Vec<Stack<'a>>);

#[derive(Serialize)]
struct Stack<'a> {
    pid: u32,
    tid: u32,
    comm: Option<&'a str>,
    frames: Vec<Row>,
    /// Whether frames were left out.
    cut: bool,
    #[serde(skip)]
    signal: u32,
}

#[derive(Serialize)]
struct Row {
    sp: String,
    kind: Kind,
    #[serde(flatten)]
    place: Place,
}

pub(in crate::commands) fn run<'d>(
    process: &'d Process,
    all: bool,
    words: &[String],
    context: Context<'d>,
) -> Result<Answer<'d>> {
    let chosen: Vec<&ThreadNotes> =
        if all { process.threads().iter().collect() } else { threads(process, words, context.thread)? };
    let mut stacks = Vec::new();
    for thread in chosen {
        context.check()?;
        stacks.push(of_thread(process, thread));
    }
    Ok(Stacks(stacks).into())
}

fn of_thread<'a>(process: &'a Process, thread: &ThreadNotes) -> Stack<'a> {
    let (frames, cut) = unwind::stack(process, thread, unwind::FRAMES_MAX);
    let row = |f: &Frame| {
        let exact = matches!(f.kind, Kind::Regs | Kind::Signal);
        let lookup = if exact { f.pc } else { f.pc.wrapping_sub(1) };
        Row { sp: format!("{:#x}", f.sp), kind: f.kind, place: Place::of(process, f.pc, lookup) }
    };
    let frames = frames.iter().map(row).collect();
    Stack {
        pid: process.pid(),
        tid: thread.tid,
        comm: process.thread_name(thread.tid),
        frames,
        cut,
        signal: thread.signal.into(),
    }
}

impl Text for Stacks<'_> {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        self.0.iter().try_for_each(|stack| stack.text(screen))
    }
}

impl Text for Stack<'_> {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        put!(screen, "thread {}", self.tid);
        if let Some(name) = self.comm {
            put!(screen, " \"{name}\"");
        }
        if self.signal != 0 {
            put!(screen, "  {}", signal::name(self.signal));
        }
        row!(screen)?;
        for (i, f) in self.frames.iter().enumerate() {
            let how = match f.kind {
                Kind::Regs | Kind::Call => "",
                Kind::Signal => "  <interrupted by a signal>",
                Kind::FramePointer => "  <guess: frame pointer>",
                Kind::StackTop => "  <guess: top of the stack>",
            };
            row!(screen, " #{i:<3} {:>18}  {}{how}", f.place.pc, f.place.text())?;
        }
        if self.frames.is_empty() {
            row!(screen, " no registers in the core")?;
        }
        if self.cut {
            row!(screen, " ... more frames follow")?;
        }
        Ok(())
    }
}
