//! The walk by ORC rules.
//!
//! What `unwind_next_frame()` of `arch/x86/kernel/unwind_orc.c` does, with two
//! additions for post-mortem use: functions without ORC are left by [`cfi`] or [`scan`],
//! and the stack ends with the first frame of user mode, which is shown.

use super::memory::StackMemory;
use super::{By, End, FRAMES_MAX, Frame, FrameKind, Progress, Start, Trace, cfi, code, scan};
use crate::addr::VirtAddr;
use crate::arch::Register::{self, Cs, R10, R13, Rax, Rbp, Rdi, Rdx, Rip, Rsp};
use crate::arch::{Registers, pt_regs};
use crate::debuginfo::orc::{Base, Kind, OrcEntry};
use crate::linux::{Kernel, Task, registers};

/// The caller of a jump to a bad address: its return address is on top of the
/// stack (the kernel's `null_orc_entry`).
const BAD_CALL: OrcEntry = OrcEntry {
    sp_base: Base::Sp,
    sp_offset: 8,
    bp_base: Base::Undefined,
    bp_offset: 0,
    kind: Kind::Call,
    signal: false,
};

/// Code without rules: try the frame pointer (the kernel's `orc_fp_entry`).
const FRAME_POINTER: OrcEntry = OrcEntry {
    sp_base: Base::Bp,
    sp_offset: 16,
    bp_base: Base::PrevSp,
    bp_offset: -16,
    kind: Kind::Call,
    signal: false,
};

struct State {
    pc: u64,
    sp: u64,
    regs: Registers,
    exact: bool,
    /// Whether the rule for the last step was lost.
    lost: bool,
}

pub(super) fn walk(kernel: &Kernel, task: &Task, start: &Start, memory: &mut StackMemory<'_>) -> Trace {
    let mut state = State { pc: start.pc, sp: start.sp, regs: start.regs, exact: start.exact, lost: false };
    let mut frames = Vec::with_capacity(16);
    frames.push(Frame::first(start));
    let mut progress = Progress::new(kernel, task, state.sp);
    let mut guessed = None;
    let end = loop {
        if frames.len() >= FRAMES_MAX {
            break End::TooDeep;
        }
        let stepped = step(kernel, task, &mut state, memory);
        guessed = guessed.or(state.lost.then_some(frames.len()));
        match stepped {
            Ok(Some(frame)) => {
                if frame.kind == FrameKind::User {
                    frames.push(frame);
                    break End::Complete;
                }
                if !progress.step(kernel, task, frame.sp) {
                    break End::NoProgress;
                }
                frames.push(frame);
            }
            Ok(None) => break End::Complete,
            Err(End::NoRule) => match entered_from_user(kernel, task, &state) {
                Some(frame) => {
                    frames.push(frame);
                    break End::Complete;
                }
                None => break End::NoRule,
            },
            Err(end) => break end,
        }
    };
    Trace { frames, end, guessed }
}

/// Entries for 32-bit programs have no rules in 4.18 (`entry_INT80_compat`, seen in 4.18.0-147.el8):
/// the frame whose stack pointer is where the user's registers lie is the entry's.
fn entered_from_user(kernel: &Kernel, task: &Task, state: &State) -> Option<Frame> {
    let at = registers::user_pt_regs(kernel, task).filter(|at| task.mm.is_some() && at.0 == state.sp)?;
    let regs = registers::saved(kernel, at).filter(registers::TaskRegisters::in_user_mode)?;
    let (pc, sp) = (regs.get(Rip)?, regs.get(Rsp)?);
    Some(Frame { kind: FrameKind::User, pt_regs: Some(at), ..Frame::call(pc, sp, By::Entry) })
}

/// Whether a task that never was in user mode began here, a kernel thread or what a CPU idles in:
/// nothing but room for the user's registers lies above.
fn is_outermost(kernel: &Kernel, task: &Task, state: &State) -> bool {
    task.mm.is_none() && registers::user_pt_regs(kernel, task).is_some_and(|at| at.0 == state.sp)
}

/// Whether the rules of ORC around `at` may well be wrong: objtool took the cold part of a
/// function for one of its own.
fn is_misunderstood(kernel: &Kernel, at: u64) -> bool {
    kernel.layout().version.takes_cold_parts_for_functions()
        && kernel.symbolise(VirtAddr(at)).is_some_and(|(symbol, ..)| symbol.name.contains(".cold"))
}

/// What tells of the caller of the function around an address, whose stack pointer and registers
/// are these: its pc, its stack pointer, its registers.
type Leave = fn(&Kernel, u64, u64, &Registers, &mut StackMemory<'_>) -> Option<(u64, u64, Registers)>;

/// The caller, if `leave` tells it: then `state` is its.
fn caller(
    (leave, by): (Leave, By),
    kernel: &Kernel,
    at: u64,
    state: &mut State,
    memory: &mut StackMemory<'_>,
) -> Option<Frame> {
    let (pc, sp, regs) = leave(kernel, at, state.sp, &state.regs, memory)?;
    // The compiler's rules are as good as ORC's.
    *state = State { pc, sp, regs, exact: false, lost: state.lost && by != By::Cfi };
    Some(Frame::call(pc, sp, by))
}

const BY_CFI: (Leave, By) = (cfi::leave, By::Cfi);
const BY_CODE: (Leave, By) = (code::leave, By::Code);

/// Whether an ordinary rule by the stack pointer leads into code.
fn leads_to_code(kernel: &Kernel, state: &State, rule: &OrcEntry, memory: &mut StackMemory<'_>) -> bool {
    let cfa = state.sp.wrapping_add_signed(i64::from(rule.sp_offset));
    memory.word(cfa.wrapping_sub(8)).is_some_and(|pc| is_code(kernel, pc))
}

/// From the state of one frame to that of its caller: `None` at the outermost.
fn step(
    kernel: &Kernel,
    task: &Task,
    state: &mut State,
    memory: &mut StackMemory<'_>,
) -> Result<Option<Frame>, End> {
    let at = if state.exact { state.pc } else { state.pc.wrapping_sub(1) };
    let mut rule = kernel.orc().lookup(kernel, at);
    let mut by = By::Orc;
    match rule.kind {
        Kind::Call if is_misunderstood(kernel, at) => {
            if let Some(caller) = caller(BY_CFI, kernel, at, state, memory) {
                return Ok(Some(caller));
            }
            state.lost = false;
        }
        Kind::End | Kind::Undefined => {
            // A CPU interrupted at the first instruction of a retpoline thunk, which
            // is an end by ORC before 6.4, was just called.
            let ends = rule.kind == Kind::End;
            let reach = if ends { u64::from(state.exact) * 8 } else { scan::REACH };
            state.lost = !ends && kernel.orc().is_lost(kernel, at);
            let bp = state.regs.get(Rbp);
            // Both are no guess: the place is that of the registers, to the byte.
            let entered = state.lost.then(|| entered_from_user(kernel, task, state)).flatten();
            if entered.is_some() || state.lost && is_outermost(kernel, task, state) {
                state.lost = false;
                return Ok(entered);
            }
            if !ends && let Some(caller) = caller(BY_CFI, kernel, at, state, memory) {
                return Ok(Some(caller));
            }
            if let Some(around) =
                kernel.orc().bridged(kernel, at).filter(|r| leads_to_code(kernel, state, r, memory))
            {
                (rule, by) = (around, By::OrcAround);
            } else if state.lost
                && let Some(caller) = caller(BY_CODE, kernel, at, state, memory)
            {
                return Ok(Some(caller));
            } else {
                let found = scan::leave(kernel, at, state.sp, reach, bp, memory).map(|c| (c, By::Call));
                let guess =
                    || Some((scan::guess(kernel, state.sp, bp, memory).filter(|_| state.lost)?, By::Guess));
                if let Some((caller, by)) = found.or_else(guess) {
                    let regs = caller.bp.map(|bp| (Rbp, bp)).into_iter().collect();
                    *state = State { pc: caller.pc, sp: caller.sp, regs, exact: false, lost: state.lost };
                    return Ok(Some(Frame::call(caller.pc, caller.sp, by)));
                }
                if ends {
                    return Ok(None);
                }
                by = By::FramePointer;
                rule = if state.exact && !is_code(kernel, at) { BAD_CALL } else { FRAME_POINTER };
            }
        }
        _ => state.lost = false,
    }
    let unreadable = |at: u64| End::Unreadable(at);
    let mut word = |at: u64| memory.word(at).ok_or(unreadable(at));
    let register = |r: Register| state.regs.get(r).ok_or(End::NoRule);
    let sp_plus = |base: u64| base.wrapping_add_signed(i64::from(rule.sp_offset));
    let cfa = match rule.sp_base {
        Base::Sp => sp_plus(state.sp),
        Base::Bp => sp_plus(register(Rbp)?),
        Base::SpIndirect => sp_plus(word(state.sp)?),
        Base::BpIndirect => word(sp_plus(register(Rbp)?))?,
        // The kernel takes these as they are.
        Base::R10 => register(R10)?,
        Base::R13 => register(R13)?,
        Base::Di => register(Rdi)?,
        Base::Dx => register(Rdx)?,
        Base::Ax => register(Rax)?,
        Base::Undefined | Base::PrevSp => return Err(End::NoRule),
    };
    let guessed = by == By::FramePointer;
    let mut frame = match rule.kind {
        Kind::Call => {
            let pc = word(cfa.wrapping_sub(8)).map_err(|end| if guessed { End::NoRule } else { end })?;
            Frame::call(pc, cfa, by)
        }
        Kind::Regs => {
            let (pc, sp) = (word(saved(cfa, Rip))?, word(saved(cfa, Rsp))?);
            Frame { kind: FrameKind::Regs, pt_regs: Some(VirtAddr(cfa)), ..Frame::call(pc, sp, by) }
        }
        Kind::RegsPartial => {
            // Only ip, cs, flags, sp and ss are there: as the tail of a pt_regs.
            let regs = cfa.wrapping_sub(pt_regs::offset(Rip));
            let (pc, sp) = (word(cfa)?, word(saved(regs, Rsp))?);
            let pt_regs = Some(VirtAddr(regs));
            Frame { kind: FrameKind::Regs, pt_regs, partial: true, ..Frame::call(pc, sp, by) }
        }
        Kind::Undefined | Kind::End => return Err(End::NoRule),
    };
    if guessed && !is_code(kernel, frame.pc.wrapping_sub(1)) {
        return Err(End::NoRule);
    }
    let full = frame.pt_regs.filter(|_| !frame.partial);
    let bp = match rule.bp_base {
        Base::PrevSp => word(cfa.wrapping_add_signed(i64::from(rule.bp_offset))).ok(),
        Base::Bp => word(register(Rbp)?.wrapping_add_signed(i64::from(rule.bp_offset))).ok(),
        _ => match full {
            Some(regs) => word(saved(regs.0, Rbp)).ok(),
            None => state.regs.get(Rbp),
        },
    };
    let mut regs: Registers = match full {
        Some(at) => {
            let read = |r| Some((r, word(saved(at.0, r)).ok()?));
            [R10, R13, Rdi, Rdx, Rax].into_iter().filter_map(read).collect()
        }
        None if frame.partial => state.regs,
        None => Registers::default(),
    };
    regs.set(Rbp, bp);
    if let Some(at) = frame.pt_regs {
        let user = word(saved(at.0, Cs)).is_ok_and(|cs| cs & 3 == 3);
        if user {
            frame.kind = FrameKind::User;
            return Ok(Some(frame));
        }
    } else if frame.pc == 0 {
        // A zero return address marks the end of a kernel thread's stack.
        return Ok(None);
    }
    *state =
        State { pc: frame.pc, sp: frame.sp, regs, exact: frame.kind == FrameKind::Regs, lost: state.lost };
    Ok(Some(frame))
}

/// Where a `struct pt_regs` at `regs` holds `register`.
fn saved(regs: u64, register: Register) -> u64 {
    regs.wrapping_add(pt_regs::offset(register))
}

/// Whether `pc` lies in the code of the kernel or of a module.
fn is_code(kernel: &Kernel, pc: u64) -> bool {
    kernel.is_text(VirtAddr(pc))
}
