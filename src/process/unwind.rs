//! A quick look at the stacks of a process: `.eh_frame` rules by gimli, frame
//! pointers where there are none. gdb does this better; this is for `bt` in a shell.
//!
//! The rules are [`super::rules`]'.

use gimli::{EhFrame, LittleEndian, UnwindContext};
use serde::Serialize;

use super::{Process, ThreadNotes};
use crate::addr::VirtAddr;
use crate::arch::Register::{Rbp, Rip, Rsp};
use crate::arch::Registers;
use crate::debuginfo::cfi::{self, Step};
use crate::memory::AddressSpace;

/// Deeper stacks are cut: endless recursion is a common cause of death.
pub const FRAMES_MAX: usize = 4096;

/// How a frame was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The thread's own registers.
    Regs,
    /// A call, by unwind rules.
    Call,
    /// What a signal interrupted, by unwind rules.
    Signal,
    /// A call, by frame pointers: a guess where the compiler used none.
    FramePointer,
    /// The return address on top of the stack, after a jump to nowhere: a guess.
    StackTop,
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Where it is.
    pub pc: u64,
    /// Its stack pointer.
    pub sp: u64,
    /// How it was found.
    pub kind: Kind,
}

/// The stack of `thread`, innermost frame first, at most `max` frames; and whether
/// there are more.
#[must_use]
pub fn stack(process: &Process, thread: &ThreadNotes, max: usize) -> (Vec<Frame>, bool) {
    let Some(mut regs) = process.general_regs(thread) else { return (Vec::new(), false) };
    let mut context = UnwindContext::new();
    let mut frames = Vec::new();
    let mut kind = Kind::Regs;
    while let (Some(pc), Some(sp)) = (regs.get(Rip), regs.get(Rsp)) {
        if pc == 0 && kind != Kind::Regs {
            break;
        }
        if frames.len() >= max.min(FRAMES_MAX) {
            return (frames, true);
        }
        frames.push(Frame { pc, sp, kind });
        // A return address belongs to the call before it, which may be the last
        // instruction of its function.
        let exact = matches!(kind, Kind::Regs | Kind::Signal);
        let lookup = if exact { pc } else { pc.wrapping_sub(1) };
        let next = match by_rules(process, &mut context, &regs, lookup) {
            Step::To(next, signal) => Some((next, if signal { Kind::Signal } else { Kind::Call })),
            Step::End => None,
            Step::NoRules => guess(process, &regs, pc, kind),
        };
        let Some((next, next_kind)) = next else { break };
        // The stack must shrink, or the walk would never end.
        if next.get(Rsp).is_none_or(|n| n <= sp && next_kind != Kind::Signal && kind != Kind::Signal) {
            break;
        }
        (regs, kind) = (next, next_kind);
    }
    (frames, false)
}

fn by_rules(process: &Process, context: &mut UnwindContext<usize>, regs: &Registers, pc: u64) -> Step {
    let Some(rules) = process.image_at(pc).map(|image| image.rules(process)) else { return Step::NoRules };
    let Some(fde) = rules.entry(pc).filter(|fde| fde.contains(pc)) else { return Step::NoRules };
    let section: EhFrame<cfi::Slice<'_>> = EhFrame::new(&rules.frames, LittleEndian);
    let mut word = |at: u64| process.memory().read_u64(VirtAddr(at)).ok();
    cfi::step(&section, &rules.bases(), &fde, context, regs, pc, &mut word)
}

/// Without rules: a jump to where nothing is mapped has left the return address on
/// top of the stack; elsewhere the frame pointer may be one.
fn guess(process: &Process, regs: &Registers, pc: u64, kind: Kind) -> Option<(Registers, Kind)> {
    let word = |at: u64| process.memory().read_u64(VirtAddr(at)).ok();
    let executable = |at: u64| process.memory().stored().segment(at).is_some_and(|s| s.executable());
    let sp = regs.get(Rsp)?;
    let mut next = Registers::default();
    if kind == Kind::Regs && !executable(pc) {
        next = *regs;
        next.set(Rip, word(sp).filter(|&ra| executable(ra)));
        next.set(Rsp, sp.checked_add(8));
        return next.get(Rip).map(|_| (next, Kind::StackTop));
    }
    let rbp = regs.get(Rbp).filter(|&rbp| rbp >= sp && rbp - sp < 1 << 24)?;
    next.set(Rbp, word(rbp));
    next.set(Rip, word(rbp.checked_add(8)?).filter(|&ra| executable(ra)));
    next.set(Rsp, rbp.checked_add(16));
    next.get(Rip).map(|_| (next, Kind::FramePointer))
}
