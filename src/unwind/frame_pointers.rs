//! The walk by frame pointers, for kernels without ORC (3.10 to 4.13, or built
//! with `CONFIG_UNWINDER_FRAME_POINTER`).
//!
//! rbp points to the caller's rbp, above which lies the return address. Since
//! 4.9 entry code leaves a pointer to `pt_regs` with bit 0 set instead
//! (`ENCODE_FRAME_POINTER`, commit 946c191161ce); what older kernels leave,
//! [`entries`](super::entries) knows. Where an instruction was interrupted at which
//! its function has no frame yet, or none any more, its bytes tell
//! ([`prologue`]), and where it keeps none, the compiler's rules ([`cfi`]) or the call that
//! led there ([`scan`]) do.

use super::entries::Entries;
use super::memory::StackMemory;
use super::{By, End, FRAMES_MAX, Frame, FrameKind, Progress, Start, Trace, cfi, scan};
use crate::addr::VirtAddr;
use crate::arch::Register::{self, Cs, Rbp, Rip, Rsp};
use crate::arch::{prologue, pt_regs};
use crate::linux::{Kernel, Task, registers};

/// Functions without a frame push a few registers at most.
const FRAMELESS: u64 = 64;

pub(super) fn walk(kernel: &Kernel, task: &Task, start: &Start, memory: &mut StackMemory<'_>) -> Trace {
    let mut frames = vec![Frame::first(start)];
    let mut progress = Progress::new(kernel, task, start.sp);
    let entries = Entries::of(kernel);
    let mut bp = start.regs.get(Rbp).unwrap_or(0);
    let end = loop {
        let Some(last) = frames.last() else { break End::NoRule };
        if frames.len() >= FRAMES_MAX {
            break End::TooDeep;
        }
        if is_first(kernel, last) {
            break End::NoRule;
        }
        let Some((frame, next)) = step(kernel, &entries, last, bp, memory) else { break End::NoRule };
        if frame.kind == FrameKind::User {
            frames.push(frame);
            break End::Complete;
        }
        if frame.kind == FrameKind::Call && !kernel.is_text(VirtAddr(frame.pc)) {
            break End::NoRule;
        }
        if !progress.step(kernel, task, frame.sp) {
            break End::NoProgress;
        }
        frames.push(frame);
        bp = next;
    };
    Trace { end: finish(kernel, task, &entries, &mut frames, end), frames, guessed: None }
}

/// Whether `frame` is where every task began: rbp is none of its frames' there (for a
/// kernel thread its argument, which may well point into another stack).
fn is_first(kernel: &Kernel, frame: &Frame) -> bool {
    let name = kernel.symbols().by_address(frame.lookup_pc()).map(|(symbol, _)| symbol.name);
    matches!(name, Some("ret_from_fork" | "ret_from_fork_asm"))
}

fn step(
    kernel: &Kernel,
    entries: &Entries<'_>,
    last: &Frame,
    bp: u64,
    memory: &mut StackMemory<'_>,
) -> Option<(Frame, u64)> {
    let call = |pc, sp| Frame::call(pc, sp, By::FramePointer);
    if let Some(regs) = entries.saved_by(kernel, last, memory) {
        return interrupted(regs, memory);
    }
    if last.kind == FrameKind::Regs {
        let sp = last.sp;
        match frame_of(kernel, last.pc) {
            prologue::Frame::AtSp => return Some((call(memory.word(sp)?, sp.checked_add(8)?), bp)),
            prologue::Frame::Pushed => {
                let pc = memory.word(sp.checked_add(8)?)?;
                return Some((call(pc, sp.checked_add(16)?), memory.word(sp)?));
            }
            prologue::Frame::Unknown => {
                let regs = [(Rbp, bp)].into_iter().collect();
                if let Some((pc, sp, regs)) = cfi::leave(kernel, last.pc, sp, &regs, memory) {
                    return Some((Frame::call(pc, sp, By::Cfi), regs.get(Rbp)?));
                }
                let left = scan::leave(kernel, last.pc, sp, FRAMELESS, Some(bp), memory);
                if let Some(caller) = left {
                    return Some((Frame::call(caller.pc, caller.sp, By::Call), bp));
                }
            }
            prologue::Frame::ByBp => {}
        }
    }
    if bp & 1 == 0 {
        let (next, pc) = (memory.word(bp)?, memory.word(bp.checked_add(8)?)?);
        return Some((call(pc, bp.checked_add(16)?), next));
    }
    interrupted(bp & !1, memory)
}

/// The frame whose registers were saved at `regs`, and its rbp.
fn interrupted(regs: u64, memory: &mut StackMemory<'_>) -> Option<(Frame, u64)> {
    let mut saved = |r: Register| memory.word(regs.checked_add(pt_regs::offset(r))?);
    let (pc, cs, sp, bp) = (saved(Rip)?, saved(Cs)?, saved(Rsp)?, saved(Rbp)?);
    let kind = if cs & 3 == 3 { FrameKind::User } else { FrameKind::Regs };
    Some((Frame { kind, pt_regs: Some(VirtAddr(regs)), ..Frame::call(pc, sp, By::Entry) }, bp))
}

/// How the function around `pc` keeps its return address there. Where no code is, a
/// call led there and did no more.
fn frame_of(kernel: &Kernel, pc: u64) -> prologue::Frame {
    if !kernel.is_text(VirtAddr(pc)) {
        return prologue::Frame::AtSp;
    }
    let Some((_, offset, _)) = kernel.symbolise(VirtAddr(pc)) else { return prologue::Frame::Unknown };
    let mut code = [0; prologue::REACH];
    let read = kernel.space().read(VirtAddr(pc - offset), &mut code).unwrap_or(0);
    let mut around = [0; 2];
    let there =
        pc.checked_sub(1).is_some_and(|at| kernel.space().read_exact(VirtAddr(at), &mut around).is_ok());
    prologue::frame(code.get(..read).unwrap_or_default(), offset, there.then_some(around))
}

/// The chain does not reach the system call entry of older kernels: the user's
/// registers lie at the top of the stack all the same.
fn finish(kernel: &Kernel, task: &Task, entries: &Entries<'_>, frames: &mut Vec<Frame>, end: End) -> End {
    let Some(last) = frames.last().filter(|_| end == End::NoRule) else { return end };
    let first = is_first(kernel, last);
    if task.mm.is_none() {
        // An idle task has no first function of its own.
        return if first || task.idle_of.is_some() && frames.len() > 1 { End::Complete } else { end };
    }
    if !first && !entries.contain(last) {
        return end;
    }
    let Some(at) = registers::user_pt_regs(kernel, task) else { return end };
    let regs = registers::of_entry(kernel, task, at).filter(registers::TaskRegisters::in_user_mode);
    let Some((pc, sp)) = regs.and_then(|regs| regs.get(Rip).zip(regs.get(Rsp))) else { return end };
    frames.push(Frame { kind: FrameKind::User, pt_regs: Some(at), ..Frame::call(pc, sp, By::Entry) });
    End::Complete
}
