//! The walk by ORC rules.
//!
//! What `unwind_next_frame()` of `arch/x86/kernel/unwind_orc.c` does, with two
//! additions for post-mortem use: functions without ORC are left by [`scan`],
//! and the stack ends with the first frame of user mode, which is shown.

use super::memory::StackMemory;
use super::{End, FRAMES_MAX, Frame, FrameKind, Others, Progress, Start, Trace, scan};
use crate::addr::VirtAddr;
use crate::debuginfo::orc::{Base, Kind, OrcEntry};
use crate::linux::{Kernel, Task};

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

/// Offsets in `struct pt_regs` (`arch/x86/include/asm/ptrace.h`).
mod pt_regs {
    pub(super) const R13: u64 = 2 * 8;
    pub(super) const BP: u64 = 4 * 8;
    pub(super) const R10: u64 = 7 * 8;
    pub(super) const AX: u64 = 10 * 8;
    pub(super) const DX: u64 = 12 * 8;
    pub(super) const DI: u64 = 14 * 8;
    pub(super) const IP: u64 = 16 * 8;
    pub(super) const CS: u64 = 17 * 8;
    pub(super) const SP: u64 = 19 * 8;
}

struct State {
    pc: u64,
    sp: u64,
    bp: Option<u64>,
    others: Option<Others>,
    exact: bool,
}

pub(super) fn walk(kernel: &Kernel, task: &Task, start: &Start, memory: &mut StackMemory<'_>) -> Trace {
    let mut state =
        State { pc: start.pc, sp: start.sp, bp: start.bp, others: start.others, exact: start.exact };
    let kind = if start.exact { FrameKind::Regs } else { FrameKind::Call };
    let first = Frame { pc: state.pc, sp: state.sp, kind, pt_regs: None, partial: false };
    let mut frames = Vec::with_capacity(16);
    frames.push(first);
    let mut progress = Progress::new(kernel, task, state.sp);
    let end = loop {
        if frames.len() >= FRAMES_MAX {
            break End::TooDeep;
        }
        match step(kernel, &mut state, memory) {
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
            Err(end) => break end,
        }
    };
    Trace { frames, end }
}

/// From the state of one frame to that of its caller: `None` at the outermost.
fn step(kernel: &Kernel, state: &mut State, memory: &mut StackMemory<'_>) -> Result<Option<Frame>, End> {
    let at = if state.exact { state.pc } else { state.pc.wrapping_sub(1) };
    let mut rule = kernel.orc().lookup(kernel, at);
    let mut guessed = false;
    match rule.kind {
        Kind::End => return Ok(None),
        Kind::Undefined => {
            if let Some(caller) = scan::leave(kernel, at, state.sp, state.bp, memory) {
                *state = State { pc: caller.pc, sp: caller.sp, bp: caller.bp, others: None, exact: false };
                return Ok(Some(call(state)));
            }
            guessed = true;
            rule = if state.exact && !is_code(kernel, at) { BAD_CALL } else { FRAME_POINTER };
        }
        _ => {}
    }
    let unreadable = |at: u64| End::Unreadable(at);
    let mut word = |at: u64| memory.word(at).ok_or(unreadable(at));
    let bp = || state.bp.ok_or(End::NoRule);
    let others = || state.others.ok_or(End::NoRule);
    let sp_plus = |base: u64| base.wrapping_add_signed(i64::from(rule.sp_offset));
    let cfa = match rule.sp_base {
        Base::Sp => sp_plus(state.sp),
        Base::Bp => sp_plus(bp()?),
        Base::SpIndirect => sp_plus(word(state.sp)?),
        Base::BpIndirect => word(sp_plus(bp()?))?,
        // The kernel takes these as they are.
        Base::R10 => others()?.r10,
        Base::R13 => others()?.r13,
        Base::Di => others()?.di,
        Base::Dx => others()?.dx,
        Base::Ax => others()?.ax,
        Base::Undefined | Base::PrevSp => return Err(End::NoRule),
    };
    let mut frame = match rule.kind {
        Kind::Call => {
            let pc = word(cfa.wrapping_sub(8)).map_err(|end| if guessed { End::NoRule } else { end })?;
            Frame { pc, sp: cfa, kind: FrameKind::Call, pt_regs: None, partial: false }
        }
        Kind::Regs => {
            let (pc, sp) = (word(cfa.wrapping_add(pt_regs::IP))?, word(cfa.wrapping_add(pt_regs::SP))?);
            Frame { pc, sp, kind: FrameKind::Regs, pt_regs: Some(VirtAddr(cfa)), partial: false }
        }
        Kind::RegsPartial => {
            // Only ip, cs, flags, sp and ss are there: as the tail of a pt_regs.
            let regs = cfa.wrapping_sub(pt_regs::IP);
            let (pc, sp) = (word(cfa)?, word(regs.wrapping_add(pt_regs::SP))?);
            Frame { pc, sp, kind: FrameKind::Regs, pt_regs: Some(VirtAddr(regs)), partial: true }
        }
        Kind::Undefined | Kind::End => return Err(End::NoRule),
    };
    if guessed && !is_code(kernel, frame.pc.wrapping_sub(1)) {
        return Err(End::NoRule);
    }
    let full = frame.pt_regs.filter(|_| !frame.partial);
    let bp = match rule.bp_base {
        Base::PrevSp => word(cfa.wrapping_add_signed(i64::from(rule.bp_offset))).ok(),
        Base::Bp => word(bp()?.wrapping_add_signed(i64::from(rule.bp_offset))).ok(),
        _ => match full {
            Some(regs) => word(regs.0.wrapping_add(pt_regs::BP)).ok(),
            None => state.bp,
        },
    };
    let others = match (full, frame.partial) {
        (Some(regs), _) => {
            let mut at = |offset| word(regs.0.wrapping_add(offset)).ok();
            (|| {
                Some(Others {
                    r10: at(pt_regs::R10)?,
                    r13: at(pt_regs::R13)?,
                    di: at(pt_regs::DI)?,
                    dx: at(pt_regs::DX)?,
                    ax: at(pt_regs::AX)?,
                })
            })()
        }
        (None, true) => state.others,
        (None, false) => None,
    };
    if let Some(regs) = frame.pt_regs {
        let user = word(regs.0.wrapping_add(pt_regs::CS)).is_ok_and(|cs| cs & 3 == 3);
        if user {
            frame.kind = FrameKind::User;
            return Ok(Some(frame));
        }
    } else if frame.pc == 0 {
        // A zero return address marks the end of a kernel thread's stack.
        return Ok(None);
    }
    *state = State { pc: frame.pc, sp: frame.sp, bp, others, exact: frame.kind == FrameKind::Regs };
    Ok(Some(frame))
}

fn call(state: &State) -> Frame {
    Frame { pc: state.pc, sp: state.sp, kind: FrameKind::Call, pt_regs: None, partial: false }
}

/// Whether `pc` lies in the code of the kernel or of a module.
fn is_code(kernel: &Kernel, pc: u64) -> bool {
    kernel.is_text(VirtAddr(pc))
}
