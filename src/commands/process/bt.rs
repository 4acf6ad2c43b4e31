//! `bt`: the stack of one thread, or of all.

use std::borrow::Cow;

use serde::Serialize;

use super::{Place, threads};
use crate::addr::PAGE_SIZE;
use crate::arch::map;
use crate::commands::{Answer, Context, Result, Text};
use crate::process::core_file::ThreadNotes;
use crate::process::files::Lookup;
use crate::process::frames::{self, End, Frame, Kind};
use crate::process::sigframe::SigFrame;
use crate::process::signal::{self, SigInfo};
use crate::process::unwind;
use crate::process::{Process, python};
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
    /// Python frames that belong to none of those in C.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    python: Vec<python::Frame>,
    /// Why Python's frames cannot be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_python: Option<&'a str>,
    /// Whether frames were left out.
    cut: bool,
    /// Why there are no more, where it is not that this is all.
    ended: Option<String>,
    #[serde(skip)]
    signal: u32,
}

#[derive(Serialize)]
struct Row {
    sp: String,
    kind: Kind,
    #[serde(flatten)]
    place: Place,
    /// What the code is, where no symbol says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'static str>,
    /// The signal that interrupted it, if its handler was told.
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<SigInfo>,
    /// The Python functions that this call of the interpreter runs, innermost first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    python: Vec<python::Frame>,
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
    let stack = unwind::stack(process, thread, unwind::FRAMES_MAX);
    let row = |(i, f): (usize, &Frame)| {
        // What a handler returns to was not called; where it has no name, the one before is another's.
        let handler = stack.frames.get(i + 1).is_some_and(|next| next.kind == Kind::Signal);
        let exact = handler || matches!(f.kind, Kind::Regs | Kind::Signal);
        let lookup = if exact { f.pc } else { f.pc.wrapping_sub(1) };
        let mut place = Place::of(process, f.pc, lookup);
        if handler && place.offset.as_deref() != Some("0x0") {
            place.has_no_symbol();
        }
        Row {
            sp: format!("{:#x}", f.sp),
            kind: f.kind,
            place,
            note: if handler { Some("signal handler called") } else { generated(process, lookup) },
            signal: SigFrame::before(process, &stack.frames, i).and_then(|frame| frame.info()),
            python: Vec::new(),
        }
    };
    let mut frames: Vec<Row> = stack.frames.iter().enumerate().map(row).collect();
    let (mut rest, mut no_python) = (Vec::new().into_iter(), None);
    match process.python() {
        Some(Ok(python)) => rest = python.stack(process, thread).unwrap_or_default().into_iter(),
        Some(Err(why)) => no_python = Some(why),
        None => {}
    }
    for row in frames.iter_mut().filter(|r| runs_python(r)) {
        for frame in rest.by_ref() {
            let entry = frame.entry;
            row.python.push(frame);
            if entry {
                break;
            }
        }
    }
    Stack {
        pid: process.pid(),
        tid: thread.tid,
        comm: process.thread_name(thread.tid),
        python: rest.collect(),
        no_python,
        cut: stack.end == End::Cut,
        ended: ended(process, &stack),
        frames,
        signal: thread.signal.into(),
    }
}

fn runs_python(row: &Row) -> bool {
    row.place.symbol.as_ref().is_some_and(|s| s.split('.').next() == Some(python::EVAL))
}

/// Code that no file has: a compiler at run time made it, or it is the kernel's.
fn generated(process: &Process, pc: u64) -> Option<&'static str> {
    let anonymous = process.file_at(pc).is_none() && process.image_at(pc).is_none();
    let executable = process.memory().stored().segment(pc).is_some_and(|s| s.executable());
    let is_vsyscall = pc & !(PAGE_SIZE - 1) == map::VSYSCALL;
    (anonymous && executable).then_some(if is_vsyscall { "vsyscall page" } else { "generated code (JIT)" })
}

/// Why a walk ended before the outermost frame.
fn ended(process: &Process, stack: &frames::Stack) -> Option<String> {
    let last = stack.frames.last();
    let text = match &stack.end {
        End::Outermost | End::Cut => return None,
        End::NoRegisters if stack.frames.is_empty() => "no registers in the core".to_owned(),
        End::NoRegisters => "the rules give the caller no address".to_owned(),
        End::NoRules => {
            let pc = last.map_or(0, |f| if f.kind == Kind::Regs { f.pc } else { f.pc.wrapping_sub(1) });
            format!("nothing tells who called {pc:#x}: {}", without_rules(process, pc))
        }
        End::Unreadable(fault) => format!("the return address of this frame cannot be read: {fault}"),
        End::NoProgress => {
            "the caller would be below this frame on the stack, which is damaged or is not what the unwind \
             information describes"
                .to_owned()
        }
    };
    Some(text)
}

/// Why there are no unwind rules for `pc`.
fn without_rules(process: &Process, pc: u64) -> String {
    let segment = process.memory().stored().segment(pc);
    match (process.file_at(pc), segment) {
        (Some((file, _)), _) => match file.lookup() {
            Lookup::Refused(why) => format!("{}: {why}", file.name),
            _ => format!(
                "{} has no unwind information for it (.eh_frame, .debug_frame), and no frame pointer leads on",
                file.name
            ),
        },
        (None, _) if process.image_at(pc).is_some() => "no unwind information for it".to_owned(),
        (None, Some(s)) if s.executable() => {
            "generated code has no unwind information, and no frame pointer leads on".to_owned()
        }
        (None, Some(_)) => "it is data, not code".to_owned(),
        (None, None) => "nothing is mapped there, and the top of the stack is no return address".to_owned(),
    }
}

impl Text for Stacks<'_> {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        self.0.iter().try_for_each(|stack| stack.text(screen))
    }
}

impl Row {
    /// How it was found, if that is worth a word.
    fn how(&self) -> Cow<'static, str> {
        Cow::Borrowed(match (self.kind, &self.signal) {
            (Kind::Regs | Kind::Call, _) => "",
            (Kind::Signal, None) => "  <interrupted by a signal>",
            (Kind::Signal, Some(info)) => {
                let at = info.address.map(|at| format!(" at {at:#x}")).unwrap_or_default();
                return format!("  <interrupted by {}{at}>", signal::name(info.signal)).into();
            }
            (Kind::Code, _) => "  <by the callee's code>",
            (Kind::Switch, _) => "  <on its own stack>",
            (Kind::FramePointer, _) => "  <guess: frame pointer>",
            (Kind::StackTop, _) => "  <guess: top of the stack>",
            (Kind::Scan, _) => "  <guess: found on the stack>",
        })
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
            let how = f.how();
            let text = match f.note {
                Some(note) if f.place.symbol.is_none() && f.place.module.is_none() => format!("<{note}>"),
                Some(note) => format!("<{note}>  {}", f.place.text()),
                None => f.place.text(),
            };
            row!(screen, " #{i:<3} {:>18}  {text}{how}", f.place.pc)?;
            f.python.iter().try_for_each(|frame| python_frame(frame, screen))?;
        }
        if self.cut {
            row!(screen, " ... more frames follow")?;
        }
        if let Some(why) = &self.ended {
            row!(screen, " the walk ends here: {why}")?;
        }
        if !self.python.is_empty() {
            row!(screen, " Python frames, which belong to no frame above:")?;
            self.python.iter().try_for_each(|frame| python_frame(frame, screen))?;
        }
        if let Some(why) = self.no_python {
            row!(screen, " no Python frames: {why}")?;
        }
        Ok(())
    }
}

fn python_frame(frame: &python::Frame, screen: &mut Screen<'_>) -> Result<()> {
    let line = frame.line.map_or_else(|| "?".to_owned(), |line| line.to_string());
    Ok(row!(screen, "      {:>18}  {} at {}:{line}", "python", frame.function, frame.file)?)
}
