//! The walk by frame pointers, for kernels without ORC (3.10 to 4.13, or built
//! with `CONFIG_UNWINDER_FRAME_POINTER`).
//!
//! rbp points to the caller's rbp, above which lies the return address. Since
//! 4.9 entry code leaves a pointer to `pt_regs` with bit 0 set instead
//! (`ENCODE_FRAME_POINTER`, commit 946c191161ce). Interrupts of older kernels are
//! not passed.

use super::memory::StackMemory;
use super::{End, FRAMES_MAX, Frame, FrameKind, Progress, Start, Trace};
use crate::addr::VirtAddr;
use crate::arch::Register::{self, Cs, Rbp, Rip, Rsp};
use crate::arch::pt_regs;
use crate::linux::{Kernel, Task, registers};

pub(super) fn walk(kernel: &Kernel, task: &Task, start: &Start, memory: &mut StackMemory<'_>) -> Trace {
    let kind = if start.exact { FrameKind::Regs } else { FrameKind::Call };
    let mut frames = vec![Frame { pc: start.pc, sp: start.sp, kind, pt_regs: None, partial: false }];
    let mut progress = Progress::new(kernel, task, start.sp);
    let mut bp = start.regs.get(Rbp).unwrap_or(0);
    let end = loop {
        if frames.len() >= FRAMES_MAX {
            break End::TooDeep;
        }
        let Some((frame, next)) = step(bp, memory) else { break End::NoRule };
        if frame.kind == FrameKind::User {
            frames.push(frame);
            break End::Complete;
        }
        if !kernel.is_text(VirtAddr(frame.pc)) {
            break End::NoRule;
        }
        if !progress.step(kernel, task, frame.sp) {
            break End::NoProgress;
        }
        frames.push(frame);
        bp = next;
    };
    Trace { end: finish(kernel, task, &mut frames, end), frames }
}

fn step(bp: u64, memory: &mut StackMemory<'_>) -> Option<(Frame, u64)> {
    if bp & 1 == 0 {
        let (next, pc) = (memory.word(bp)?, memory.word(bp.checked_add(8)?)?);
        let sp = bp.checked_add(16)?;
        return Some((Frame { pc, sp, kind: FrameKind::Call, pt_regs: None, partial: false }, next));
    }
    let regs = bp & !1;
    let mut saved = |r: Register| memory.word(regs.checked_add(pt_regs::offset(r))?);
    let (pc, cs, sp, next) = (saved(Rip)?, saved(Cs)?, saved(Rsp)?, saved(Rbp)?);
    let kind = if cs & 3 == 3 { FrameKind::User } else { FrameKind::Regs };
    Some((Frame { pc, sp, kind, pt_regs: Some(VirtAddr(regs)), partial: false }, next))
}

/// The chain does not reach the system call entry of older kernels: the user's
/// registers lie at the top of the stack all the same.
fn finish(kernel: &Kernel, task: &Task, frames: &mut Vec<Frame>, end: End) -> End {
    if end != End::NoRule {
        return end;
    }
    if task.mm.is_none() {
        return if frames.len() > 1 { End::Complete } else { end };
    }
    let Some(at) = registers::user_pt_regs(kernel, task) else { return end };
    let Some(regs) = registers::saved(kernel, at).filter(registers::TaskRegisters::in_user_mode) else {
        return end;
    };
    let (Some(pc), Some(sp)) = (regs.get(Rip), regs.get(Rsp)) else { return end };
    frames.push(Frame { pc, sp, kind: FrameKind::User, pt_regs: Some(at), partial: false });
    End::Complete
}
