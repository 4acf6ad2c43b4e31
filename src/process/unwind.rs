//! A quick look at the stacks of a process: `.eh_frame` rules by gimli, frame
//! pointers where there are none. gdb does this better; this is for `bt` in a shell.
//!
//! The rules are [`super::rules`]'. DWARF numbers of the registers:
//! x86-64 psABI, figure 3.36.

use gimli::{
    CfaRule, EhFrame, Evaluation, EvaluationResult, Expression, LittleEndian, Register, RegisterRule,
    UnwindContext, Value,
};
use serde::Serialize;

use super::rules::Slice;
use super::{Process, ThreadNotes};
use crate::addr::VirtAddr;
use crate::dump::notes::GeneralRegs;
use crate::memory::AddressSpace;

/// Deeper stacks are cut: endless recursion is a common cause of death.
pub const FRAMES_MAX: usize = 4096;
const STEPS_MAX: u32 = 4096;
const RBP: usize = 6;
const RSP: usize = 7;
const RA: usize = 16;

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

/// Registers by DWARF number; what is not known is `None`.
#[derive(Clone, Copy)]
struct Registers([Option<u64>; 17]);

impl Registers {
    fn get(&self, register: usize) -> Option<u64> {
        self.0.get(register).copied().flatten()
    }

    fn set(&mut self, register: usize, value: Option<u64>) {
        if let Some(slot) = self.0.get_mut(register) {
            *slot = value;
        }
    }
}

impl From<GeneralRegs> for Registers {
    fn from(r: GeneralRegs) -> Self {
        let all = [
            r.rax, r.rdx, r.rcx, r.rbx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13,
            r.r14, r.r15, r.rip,
        ];
        Self(all.map(Some))
    }
}

/// The stack of `thread`, innermost frame first, at most `max` frames; and whether
/// there are more.
#[must_use]
pub fn stack(process: &Process, thread: &ThreadNotes, max: usize) -> (Vec<Frame>, bool) {
    let Some(regs) = process.general_regs(thread) else { return (Vec::new(), false) };
    let mut regs = Registers::from(regs);
    let mut context = UnwindContext::new();
    let mut frames = Vec::new();
    let mut kind = Kind::Regs;
    while let (Some(pc), Some(sp)) = (regs.get(RA), regs.get(RSP)) {
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
        if next.get(RSP).is_none_or(|n| n <= sp && next_kind != Kind::Signal && kind != Kind::Signal) {
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
            regs.get(usize::from(register.0)).map(|v| v.wrapping_add_signed(*offset))
        }
        CfaRule::Expression(e) => expression(*e, None),
    };
    let Some(cfa) = cfa else { return Step::End };
    let mut next = *regs;
    let word = |at: u64| process.memory().read_u64(VirtAddr(at)).ok();
    for number in 0..=RA {
        let register = Register(u16::try_from(number).unwrap_or(u16::MAX));
        let Some(rule) = row.register(register) else {
            // No rule: the psABI's callee-saved registers are unchanged.
            next.set(
                number,
                match number {
                    RSP => Some(cfa),
                    3 | RBP | 12..=15 => regs.get(number),
                    _ => None,
                },
            );
            continue;
        };
        let value = match rule {
            RegisterRule::Undefined if number == RA => return Step::End,
            RegisterRule::SameValue => regs.get(number),
            RegisterRule::Offset(n) => word(cfa.wrapping_add_signed(n)),
            RegisterRule::ValOffset(n) => Some(cfa.wrapping_add_signed(n)),
            RegisterRule::Register(r) => regs.get(usize::from(r.0)),
            RegisterRule::Expression(e) => expression(e, Some(cfa)).and_then(word),
            RegisterRule::ValExpression(e) => expression(e, Some(cfa)),
            RegisterRule::Constant(v) => Some(v),
            _ => None,
        };
        next.set(number, value);
    }
    if next.get(RA).is_none() {
        return Step::End;
    }
    Step::To(next, if fde.is_signal_trampoline() { Kind::Signal } else { Kind::Call })
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
                let value = regs.get(usize::from(register.0))?;
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
    let sp = regs.get(RSP)?;
    let mut next = Registers([None; 17]);
    if kind == Kind::Regs && !executable(pc) {
        next = *regs;
        next.set(RA, word(sp).filter(|&ra| executable(ra)));
        next.set(RSP, sp.checked_add(8));
        return next.get(RA).map(|_| (next, Kind::StackTop));
    }
    let rbp = regs.get(RBP).filter(|&rbp| rbp >= sp && rbp - sp < 1 << 24)?;
    next.set(RBP, word(rbp));
    next.set(RA, word(rbp.checked_add(8)?).filter(|&ra| executable(ra)));
    next.set(RSP, rbp.checked_add(16));
    next.get(RA).map(|_| (next, Kind::FramePointer))
}
