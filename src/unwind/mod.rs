//! Stacks of the kernel, in Rust: over ORC, or frame pointers where there is none.
//!
//! ORC tells for each instruction where the caller's stack pointer, rbp and
//! return address are, also across the switches between task, IRQ and exception
//! stacks ([`orc`] has the rules). A few functions have no ORC; `__crash_kexec`,
//! which stands on the stack of every panic, is one of them ([`scan`]). Where rules are
//! lost with a page of the dump, the function's own instructions tell ([`code`]). A kernel
//! built without ORC (before 4.14, or by choice) keeps frame pointers instead
//! ([`frame_pointers`]).
//!
//! Every walk is bounded: [`FRAMES_MAX`] frames, and within one stack each frame
//! lies above the one before. Source of the rules: `arch/x86/kernel/unwind_orc.c`,
//! `arch/x86/kernel/unwind_frame.c`.

use crate::addr::VirtAddr;
use crate::arch::{Register, Registers};
use crate::linux::registers::{self, Source, TaskRegisters};
use crate::linux::stacks;
use crate::linux::{Kernel, Task};

mod cfi;
mod code;
mod crash_path;
mod entries;
mod frame_pointers;
mod memory;
mod orc;
mod scan;

#[cfg(test)]
mod cfi_tests;
#[cfg(test)]
mod old_tests;
#[cfg(test)]
pub(crate) mod tests;

use memory::StackMemory;

/// No stack of a kernel is deeper: 64 KiB hold at most 4096 frames of two words,
/// and real ones stay below 100.
pub const FRAMES_MAX: usize = 1024;

/// What a frame's pc is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// A return address.
    Call,
    /// The instruction that was interrupted, or is running: exact.
    Regs,
    /// User mode's: the stack of the kernel ends here.
    User,
}

impl FrameKind {
    /// The word in JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Regs => "regs",
            Self::User => "user",
        }
    }
}

/// What told of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum By {
    /// The registers that the walk began with.
    Registers,
    /// ORC.
    Orc,
    /// ORC's rule on both sides of a hole in a function.
    OrcAround,
    /// rbp, and what it points to.
    FramePointer,
    /// What an entry into the kernel saved.
    Entry,
    /// The compiler's unwind rules, in vmlinux or a module's file.
    Cfi,
    /// What the function's own instructions did to the stack.
    Code,
    /// A call of the function itself, in front of a return address above it.
    Call,
    /// The next return address on the stack: a guess, the rules being lost.
    Guess,
}

impl By {
    /// The word in JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Registers => "registers",
            Self::Orc => "orc",
            Self::OrcAround => "orc_around",
            Self::FramePointer => "frame_pointer",
            Self::Entry => "entry",
            Self::Cfi => "cfi",
            Self::Code => "code",
            Self::Call => "call_found",
            Self::Guess => "guess",
        }
    }
}

/// One frame, innermost first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Where it is executing.
    pub pc: u64,
    /// Its stack pointer there.
    pub sp: u64,
    /// What `pc` is.
    pub kind: FrameKind,
    /// Where its registers were saved as a `struct pt_regs`, if they were.
    pub pt_regs: Option<VirtAddr>,
    /// Whether of these only the hardware's five words were.
    pub partial: bool,
    /// What told of it.
    pub by: By,
}

impl Frame {
    /// A frame at a return address.
    fn call(pc: u64, sp: u64, by: By) -> Self {
        Self { pc, sp, kind: FrameKind::Call, pt_regs: None, partial: false, by }
    }

    /// The frame that a walk begins with.
    fn first(start: &Start) -> Self {
        let kind = if start.exact { FrameKind::Regs } else { FrameKind::Call };
        Self { kind, ..Self::call(start.pc, start.sp, By::Registers) }
    }

    /// The address whose rule and symbol belong to the frame: that of the call
    /// for a return address.
    #[must_use]
    pub fn lookup_pc(&self) -> u64 {
        if self.kind == FrameKind::Call { self.pc.wrapping_sub(1) } else { self.pc }
    }
}

/// Why a walk came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The outermost frame, or user mode.
    Complete,
    /// There was nowhere to begin.
    NoRegisters(&'static str),
    /// Nothing tells how to go on from the last frame.
    NoRule,
    /// The stack at this address is not in the dump.
    Unreadable(u64),
    /// The next frame would not lie above the last one.
    NoProgress,
    /// [`FRAMES_MAX`] were reached.
    TooDeep,
}

impl End {
    /// A sentence on an incomplete stack.
    #[must_use]
    pub fn sentence(self) -> Option<String> {
        match self {
            Self::Complete => None,
            Self::NoRegisters(why) => Some(format!("no registers to start from: {why}")),
            Self::NoRule => Some("the stack goes on, but nothing tells how".to_owned()),
            Self::Unreadable(at) => Some(format!("the stack at {at:#x} is not in the dump")),
            Self::NoProgress => Some("the next frame would lie below this one".to_owned()),
            Self::TooDeep => Some(format!("stopped after {FRAMES_MAX} frames")),
        }
    }
}

/// One stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// Innermost first.
    pub frames: Vec<Frame>,
    /// How it ended.
    pub end: End,
    /// The first frame that is a guess, since the rules to find it are lost.
    pub guessed: Option<usize>,
}

impl Trace {
    /// A sentence on a stack that is not whole, or not sure.
    #[must_use]
    pub fn incomplete(&self, kernel: &Kernel) -> Option<String> {
        let guessed = self.guessed.map(|from| {
            let orc = kernel.orc();
            let why = orc.lost.as_ref().or(orc.missing.as_ref()).map(|why| format!(": {why}"));
            format!("from frame {from} on it is a guess, as rules of ORC are lost{}", why.unwrap_or_default())
        });
        match (guessed, self.end.sentence()) {
            (Some(guessed), Some(end)) => Some(format!("{guessed}; {end}")),
            (guessed, end) => guessed.or(end),
        }
    }
}

/// Where a walk begins.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Start {
    pub(crate) pc: u64,
    pub(crate) sp: u64,
    /// rbp, and where they are known r10, r13, rdi, rdx and rax: what rules count from.
    pub(crate) regs: Registers,
    /// Whether `pc` is an exact one.
    pub(crate) exact: bool,
}

/// By which knowledge stacks are walked.
#[must_use]
pub fn origin(kernel: &Kernel) -> String {
    match (kernel.orc().of_kernel(), &kernel.orc().missing) {
        (Some(table), _) => match &kernel.orc().lost {
            Some(lost) => format!("ORC in the dump ({} rows), not whole ({lost})", table.len()),
            None => format!("ORC in the dump ({} rows)", table.len()),
        },
        (None, Some(why)) if is_built_with_orc(kernel) => {
            format!("what lies on the stacks: a guess (ORC is lost: {why})")
        }
        (None, Some(why)) => format!("frame pointers (no ORC: {why})"),
        (None, None) => "frame pointers".to_owned(),
    }
}

/// The stack of a task.
#[must_use]
pub fn task(kernel: &Kernel, task: &Task) -> Trace {
    let regs = registers::of(kernel, task);
    match start_of(&regs) {
        Ok(start) if regs.in_user_mode() => {
            let frame = Frame { kind: FrameKind::User, ..Frame::first(&start) };
            Trace { frames: vec![frame], end: End::Complete, guessed: None }
        }
        Ok(start) => walk(kernel, task, &start),
        Err(why) => Trace { frames: Vec::new(), end: End::NoRegisters(why), guessed: None },
    }
}

/// The stack of a task, with the frames of the kernel's crash code above those
/// of [`task`] where the dump still has them.
#[must_use]
pub fn with_crash_path(kernel: &Kernel, of: &Task) -> Trace {
    let trace = task(kernel, of);
    crash_path::find(kernel, of, &trace).unwrap_or(trace)
}

/// Where the walk begins with these registers.
pub(crate) fn start_of(regs: &TaskRegisters) -> Result<Start, &'static str> {
    let why = match regs.source {
        Source::Nowhere(why) => why,
        _ => "they lack rip and rsp",
    };
    let (pc, sp) = regs.get(Register::Rip).zip(regs.get(Register::Rsp)).ok_or(why)?;
    // A task that was switched out goes on behind a call; a new one begins at
    // the first instruction of ret_from_fork.
    let exact = !matches!(regs.source, Source::SwitchFrame);
    Ok(Start { pc, sp, regs: regs.values, exact })
}

/// Walks from `start` on the stacks that `task` may be on.
pub(crate) fn walk(kernel: &Kernel, task: &Task, start: &Start) -> Trace {
    let mut memory = StackMemory::new(kernel);
    if kernel.orc().of_kernel().is_some() || is_built_with_orc(kernel) {
        orc::walk(kernel, task, start, &mut memory)
    } else {
        frame_pointers::walk(kernel, task, start, &mut memory)
    }
}

/// Whether the kernel has ORC, be it lost.
fn is_built_with_orc(kernel: &Kernel) -> bool {
    let named = |name| kernel.symbol(name).is_some();
    // Their names can be lost, too.
    named("__start_orc_unwind_ip") || named("__start_orc_unwind") || kernel.symbols().lacks_names()
}

/// Keeps a walk from going in circles.
struct Progress {
    /// Bounds of the stack that the last frame was on.
    range: Option<(u64, u64)>,
    sp: u64,
    switches: usize,
}

/// A walk leaves a stack for another at most this often: user, NMI, #DB, #MC,
/// IRQ and task stacks, nested as far as the hardware goes.
const SWITCHES_MAX: usize = 16;

impl Progress {
    fn new(kernel: &Kernel, task: &Task, sp: u64) -> Self {
        Self { range: Self::range(kernel, task, sp), sp, switches: 0 }
    }

    fn range(kernel: &Kernel, task: &Task, sp: u64) -> Option<(u64, u64)> {
        kernel.stacks().of(kernel, task, sp).map(|s| (s.range.start, s.range.end))
    }

    /// Whether a frame at `sp` may follow.
    fn step(&mut self, kernel: &Kernel, task: &Task, sp: u64) -> bool {
        let inside = self.range.is_some_and(|(start, end)| start <= sp && sp <= end);
        if inside {
            let up = sp > self.sp;
            self.sp = sp;
            return up;
        }
        let range = Self::range(kernel, task, sp);
        let unknown = range.is_none() && self.range.is_none();
        if unknown && sp <= self.sp {
            return false;
        }
        (self.range, self.sp) = (range, sp);
        self.switches += usize::from(!unknown);
        self.switches <= SWITCHES_MAX
    }
}

/// The stack that a frame of `task` is on: its own, too, where that has overflowed.
#[must_use]
pub fn stack_of(kernel: &Kernel, task: &Task, frame: &Frame) -> Option<stacks::Stack> {
    let overflowed = || stacks::overflow(task, frame.sp).and_then(|_| stacks::of_task(kernel, task));
    kernel.stacks().of(kernel, task, frame.sp).or_else(overflowed)
}
