//! A quick look at the stacks of a process: `.eh_frame` rules by gimli, frame
//! pointers where there are none. gdb does this better; this is for `bt` in a shell.
//!
//! The rules are [`super::rules`]'.

use gimli::{
    CfaRule, EhFrame, Evaluation, EvaluationResult, Expression, LittleEndian, RegisterRule, UnwindContext,
    Value,
};
use serde::Serialize;

use super::rules::Slice;
use super::{Process, ThreadNotes};
use crate::addr::VirtAddr;
use crate::arch::Register::{self, R12, R13, R14, R15, Rbp, Rbx, Rip, Rsp};
use crate::arch::Registers;
use crate::memory::AddressSpace;

/// Deeper stacks are cut: endless recursion is a common cause of death.
pub const FRAMES_MAX: usize = 4096;
const STEPS_MAX: u32 = 4096;

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
            Step::To(next, kind) => Some((next, kind)),
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

#[allow(clippy::large_enum_variant, reason = "one at a time, on the stack")]
enum Step {
    To(Registers, Kind),
    /// The rules say that this is the outermost frame.
    End,
    NoRules,
}

fn by_rules<'a>(process: &'a Process, context: &mut UnwindContext<usize>, regs: &Registers, pc: u64) -> Step {
    let Some(rules) = process.image_at(pc).map(|image| image.rules(process)) else { return Step::NoRules };
    let Some(fde) = rules.entry(pc) else { return Step::NoRules };
    if !fde.contains(pc) {
        return Step::NoRules;
    }
    let section: EhFrame<Slice<'a>> = EhFrame::new(&rules.frames, LittleEndian);
    let bases = rules.bases();
    let Ok(row) = fde.unwind_info_for_address(&section, &bases, context, pc) else { return Step::NoRules };
    let expression = |e: gimli::UnwindExpression<usize>, initial: Option<u64>| {
        evaluate(process, regs, e.get(&section).ok()?, fde.cie().encoding(), initial)
    };
    let cfa = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => {
            by_number(regs, *register).map(|v| v.wrapping_add_signed(*offset))
        }
        CfaRule::Expression(e) => expression(*e, None),
    };
    let Some(cfa) = cfa else { return Step::End };
    let mut next = *regs;
    let word = |at: u64| process.memory().read_u64(VirtAddr(at)).ok();
    for &register in Register::of_frame() {
        let rule = register.dwarf().and_then(|n| row.register(gimli::Register(n.into())));
        let Some(rule) = rule else {
            // No rule: the psABI's callee-saved registers are unchanged.
            let value = match register {
                Rsp => Some(cfa),
                Rbx | Rbp | R12 | R13 | R14 | R15 => regs.get(register),
                _ => None,
            };
            next.set(register, value);
            continue;
        };
        let value = match rule {
            RegisterRule::Undefined if register == Rip => return Step::End,
            RegisterRule::SameValue => regs.get(register),
            RegisterRule::Offset(n) => word(cfa.wrapping_add_signed(n)),
            RegisterRule::ValOffset(n) => Some(cfa.wrapping_add_signed(n)),
            RegisterRule::Register(r) => by_number(regs, r),
            RegisterRule::Expression(e) => expression(e, Some(cfa)).and_then(word),
            RegisterRule::ValExpression(e) => expression(e, Some(cfa)),
            RegisterRule::Constant(v) => Some(v),
            _ => None,
        };
        next.set(register, value);
    }
    if next.get(Rip).is_none() {
        return Step::End;
    }
    Step::To(next, if fde.is_signal_trampoline() { Kind::Signal } else { Kind::Call })
}

fn by_number(regs: &Registers, number: gimli::Register) -> Option<u64> {
    regs.get(Register::from_dwarf(number.0)?)
}

fn evaluate(
    process: &Process,
    regs: &Registers,
    expression: Expression<Slice<'_>>,
    encoding: gimli::Encoding,
    initial: Option<u64>,
) -> Option<u64> {
    let mut evaluation: Evaluation<_> = expression.evaluation(encoding);
    evaluation.set_max_iterations(STEPS_MAX);
    if let Some(initial) = initial {
        evaluation.set_initial_value(initial);
    }
    let mut state = evaluation.evaluate().ok()?;
    for _ in 0..STEPS_MAX {
        state = match state {
            EvaluationResult::Complete => break,
            EvaluationResult::RequiresMemory { address, size, .. } => {
                let raw = process.memory().read_vec(VirtAddr(address), size.min(8).into()).ok()?;
                let value = raw.iter().rev().fold(0, |v: u64, &b| v << 8 | u64::from(b));
                evaluation.resume_with_memory(Value::Generic(value)).ok()?
            }
            EvaluationResult::RequiresRegister { register, .. } => {
                let value = by_number(regs, register)?;
                evaluation.resume_with_register(Value::Generic(value)).ok()?
            }
            _ => return None,
        };
    }
    match evaluation.as_result().last()?.location {
        gimli::Location::Address { address } => Some(address),
        _ => None,
    }
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
