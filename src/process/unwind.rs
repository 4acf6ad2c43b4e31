//! A quick look at the stacks of a process: `.eh_frame` and `.debug_frame` rules; where
//! there are none what the function's own instructions tell, then frame pointers. gdb does this better; this is for `bt`
//! in a shell. Why a walk ends is told, always.
//!
//! The rules are [`super::rules`]', the rest [`super::no_rules`]'.

use gimli::UnwindContext;

use super::frames::{End, Frame, Kind, Stack};
use super::no_rules::{Callers, returns_from_a_signal, scan};
use super::sigframe::SigFrame;
use super::{Process, ThreadNotes, go};
use crate::addr::VirtAddr;
use crate::arch::Register::{Rbp, Rip, Rsp};
use crate::arch::Registers;
use crate::debuginfo::cfi::Step;
use crate::memory::AddressSpace;

/// Deeper stacks are cut: endless recursion is a common cause of death.
pub const FRAMES_MAX: usize = 4096;

/// The stack of `thread`, innermost frame first, at most `max` frames.
#[must_use]
pub fn stack(process: &Process, thread: &ThreadNotes, max: usize) -> Stack {
    let mut frames = Vec::new();
    let Some(mut regs) = process.general_regs(thread) else {
        return Stack { frames, end: End::NoRegisters };
    };
    let (mut context, mut callers) = (UnwindContext::new(), Callers::new(process));
    let mut kind = Kind::Regs;
    let end = loop {
        let (Some(pc), Some(sp)) = (regs.get(Rip), regs.get(Rsp)) else { break End::NoRegisters };
        if pc == 0 && kind != Kind::Regs {
            break End::Outermost;
        }
        if frames.len() >= max.min(FRAMES_MAX) {
            break End::Cut;
        }
        frames.push(Frame { pc, sp, kind });
        // A return address belongs to the call before it, which may be the last
        // instruction of its function.
        let exact = matches!(kind, Kind::Regs | Kind::Signal);
        let lookup = if exact { pc } else { pc.wrapping_sub(1) };
        let (next, next_kind) = match step(process, &mut context, &mut callers, &regs, lookup, kind) {
            Ok(next) => next,
            Err(end) => break end,
        };
        // The stack must shrink, or the walk would never end.
        let other = [kind, next_kind].contains(&Kind::Signal) || next_kind == Kind::Switch;
        if next.get(Rsp).is_some_and(|n| n > sp || other) {
            (regs, kind) = (next, next_kind);
            continue;
        }
        // After a guess a rule may start from a register that had been changed since.
        match scan(process, &regs, sp).filter(|_| matches!(kind, Kind::Scan | Kind::FramePointer)) {
            Some(next) => (regs, kind) = next,
            None => break End::NoProgress,
        }
    };
    Stack { frames, end }
}

fn step(
    process: &Process,
    context: &mut UnwindContext<usize>,
    callers: &mut Callers<'_>,
    regs: &Registers,
    lookup: u64,
    kind: Kind,
) -> Result<(Registers, Kind), End> {
    if let Some(next) = by_sigreturn(process, regs, kind) {
        return Ok((next, Kind::Signal));
    }
    if let Some(next) = go::caller_of_c(process, regs, lookup) {
        return Ok((next, Kind::Switch));
    }
    let mut fault = None;
    let mut word = |at: u64| process.memory().read_u64(VirtAddr(at)).map_err(|why| fault = Some(why)).ok();
    let by_rules = process.image_at(lookup).map(|image| {
        image.rules(process).step(process, image.file.as_deref(), context, regs, lookup, &mut word)
    });
    match (by_rules, fault) {
        (Some(Step::To(next, true)), _) => Ok((next, Kind::Signal)),
        (Some(Step::To(next, false)), _) => Ok((next, Kind::Call)),
        (Some(Step::End), Some(fault)) => Err(End::Unreadable(fault)),
        (Some(Step::End), None) => Err(End::Outermost),
        _ => match callers.by_code(regs, lookup) {
            Some(next) => Ok((next, Kind::Code)),
            None if starts_here(process, lookup) => Err(End::Outermost),
            // The psABI marks the outermost frame by a frame pointer of zero; code without frame
            // pointers may have a zero in it.
            None if matches!(kind, Kind::FramePointer | Kind::Code) && regs.get(Rbp) == Some(0) => {
                callers.aligned(regs, lookup).ok_or(End::Outermost)
            }
            None => callers.guess(regs, lookup, kind).ok_or(End::NoRules),
        },
    }
}

/// Where a signal handler returns to, if that is `mov $15, %eax; syscall`
/// (`rt_sigreturn`): glibc describes its own by rules, Go and musl do not.
fn by_sigreturn(process: &Process, regs: &Registers, kind: Kind) -> Option<Registers> {
    // A thread that stands there is about to leave the handler: its rules serve.
    if kind == Kind::Regs || !returns_from_a_signal(process, regs.get(Rip)?) {
        return None;
    }
    Some(SigFrame::read(process, regs.get(Rsp)?)?.registers(regs))
}

/// Whether `pc` is in the first function of the program or of the dynamic linker, which
/// nothing called.
fn starts_here(process: &Process, pc: u64) -> bool {
    /// It sets up one call.
    const LENGTH: u64 = 64;
    process
        .auxv_entry(super::AT_ENTRY)
        .is_some_and(|entry| (entry..entry.saturating_add(LENGTH)).contains(&pc))
}
