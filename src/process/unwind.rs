//! A quick look at the stacks of a process: `.eh_frame` and `.debug_frame` rules,
//! frame pointers where there are none. gdb does this better; this is for `bt`
//! in a shell. Why a walk ends is told, always.
//!
//! The rules are [`super::rules`]'.

use gimli::UnwindContext;
use serde::Serialize;

use super::{Process, ThreadNotes};
use crate::addr::VirtAddr;
use crate::arch::Register::{
    self, R8, R9, R10, R11, R12, R13, R14, R15, Rax, Rbp, Rbx, Rcx, Rdi, Rdx, Rip, Rsi, Rsp,
};
use crate::arch::Registers;
use crate::bytes::u64_at;
use crate::debuginfo::cfi::Step;
use crate::error::ReadFault;
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
    /// The first word up the stack that is behind a call: a guess.
    Scan,
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

/// Why a walk ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The rules say that it is the outermost frame, or it has no return address.
    Outermost,
    /// There are more frames.
    Cut,
    /// The core has no registers of the thread.
    NoRegisters,
    /// Nothing tells who called this frame: no rules, and no frame pointer that leads on.
    NoRules,
    /// The return address of this frame cannot be read.
    Unreadable(ReadFault),
    /// The caller would be below its callee on the stack: it is damaged, or the
    /// rules do not fit.
    NoProgress,
}

/// A thread's stack.
pub struct Stack {
    /// Innermost first.
    pub frames: Vec<Frame>,
    /// Why there are no more.
    pub end: End,
}

/// The stack of `thread`, innermost frame first, at most `max` frames.
#[must_use]
pub fn stack(process: &Process, thread: &ThreadNotes, max: usize) -> Stack {
    let mut frames = Vec::new();
    let Some(mut regs) = process.general_regs(thread) else {
        return Stack { frames, end: End::NoRegisters };
    };
    let mut context = UnwindContext::new();
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
        let (next, next_kind) = match step(process, &mut context, &regs, lookup, kind) {
            Ok(next) => next,
            Err(end) => break end,
        };
        // The stack must shrink, or the walk would never end.
        if next.get(Rsp).is_some_and(|n| n > sp || next_kind == Kind::Signal || kind == Kind::Signal) {
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
    regs: &Registers,
    lookup: u64,
    kind: Kind,
) -> Result<(Registers, Kind), End> {
    if let Some(next) = by_sigreturn(process, regs, kind) {
        return Ok((next, Kind::Signal));
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
        // The psABI marks the outermost frame by a frame pointer of zero.
        _ if kind == Kind::FramePointer && regs.get(Rbp) == Some(0) => Err(End::Outermost),
        _ => guess(process, regs, kind).ok_or(End::NoRules),
    }
}

/// Where a signal handler returns to, if that is `mov $15, %eax; syscall`
/// (`rt_sigreturn`): glibc describes its own by rules, Go and musl do not. What
/// was interrupted lies in the `ucontext` on the stack
/// (`arch/x86/include/uapi/asm/sigcontext.h`, `struct sigcontext_64`).
fn by_sigreturn(process: &Process, regs: &Registers, kind: Kind) -> Option<Registers> {
    const RT_SIGRETURN: [&[u8]; 2] = [b"\x48\xc7\xc0\x0f\0\0\0\x0f\x05", b"\xb8\x0f\0\0\0\x0f\x05"];
    const GREGS: u64 = 40;
    const ORDER: [Register; 17] =
        [R8, R9, R10, R11, R12, R13, R14, R15, Rdi, Rsi, Rbp, Rbx, Rdx, Rax, Rcx, Rsp, Rip];
    // A thread that stands there is about to leave the handler: its rules serve.
    if kind == Kind::Regs {
        return None;
    }
    let mut code = [0; 9];
    let n = process.memory().read(VirtAddr(regs.get(Rip)?), &mut code).ok()?;
    if !RT_SIGRETURN.iter().any(|c| code.get(..n).is_some_and(|code| code.starts_with(c))) {
        return None;
    }
    let at = VirtAddr(regs.get(Rsp)?.checked_add(GREGS)?);
    let saved = process.memory().read_vec(at, ORDER.len() * 8).ok()?;
    let mut next = *regs;
    for (i, &register) in ORDER.iter().enumerate() {
        next.set(register, u64_at(&saved, i * 8));
    }
    Some(next)
}

/// Without rules: a jump to where nothing is mapped has left the return address on
/// top of the stack; elsewhere the frame pointer may be one, and if it is none some
/// word on the stack is the return address.
fn guess(process: &Process, regs: &Registers, kind: Kind) -> Option<(Registers, Kind)> {
    let pc = regs.get(Rip)?;
    let word = |at: u64| process.memory().read_u64(VirtAddr(at)).ok();
    let executable = |at: u64| process.memory().stored().segment(at).is_some_and(|s| s.executable());
    let sp = regs.get(Rsp)?;
    if kind == Kind::Regs && !executable(pc) {
        let mut next = *regs;
        next.set(Rip, word(sp).filter(|&ra| executable(ra)));
        next.set(Rsp, sp.checked_add(8));
        return next.get(Rip).map(|_| (next, Kind::StackTop));
    }
    let by_pointer = || {
        let rbp = regs.get(Rbp).filter(|&rbp| rbp >= sp && rbp - sp < 1 << 24)?;
        let mut next = Registers::default();
        next.set(Rbp, word(rbp));
        next.set(Rip, word(rbp.checked_add(8)?).filter(|&ra| executable(ra)));
        next.set(Rsp, rbp.checked_add(16));
        next.get(Rip).map(|_| (next, Kind::FramePointer))
    };
    by_pointer().or_else(|| scan(process, regs, sp))
}

/// The first word up the stack that a call could have left there. Programs without
/// frame pointers and rules (musl's libc, hand-written assembly) leave nothing better.
fn scan(process: &Process, regs: &Registers, sp: u64) -> Option<(Registers, Kind)> {
    /// A frame larger than this is not looked through.
    const SEARCHED: usize = 2048;
    let mut raw = vec![0; SEARCHED];
    let n = process.memory().read(VirtAddr(sp), &mut raw).ok()?;
    raw.truncate(n);
    let words = (0..raw.len()).step_by(8).filter_map(|i| Some((i, u64_at(&raw, i)?)));
    let (at, ra) = words.into_iter().find(|&(_, ra)| is_behind_a_call(process, ra))?;
    let mut next = *regs;
    next.set(Rip, Some(ra));
    next.set(Rsp, sp.checked_add(at as u64 + 8));
    Some((next, Kind::Scan))
}

/// Whether a call instruction ends at `ra`: `e8 rel32`, or `ff /2` in its forms of 2, 3,
/// 4, 6 and 7 bytes, a REX before it or not.
fn is_behind_a_call(process: &Process, ra: u64) -> bool {
    let executable = process.memory().stored().segment(ra).is_some_and(|s| s.executable());
    let mut code = [0; 7];
    let Some(from) = ra.checked_sub(7).filter(|_| executable) else { return false };
    if process.memory().read(VirtAddr(from), &mut code).ok() != Some(code.len()) {
        return false;
    }
    let indirect = |len: usize| {
        let at = code.len() - len;
        let (op, modrm) = (code.get(at), code.get(at + 1).copied().unwrap_or(0));
        let (mode, rm) = (modrm >> 6, modrm & 7);
        let expected = match (mode, rm) {
            (3, _) => 2,
            (0, 5) | (2, 0..=3 | 5..) => 6,
            (0, 4) => 3,
            (0, _) => 2,
            (1, 4) => 4,
            (1, _) => 3,
            _ => 7,
        };
        op == Some(&0xff) && modrm >> 3 & 7 == 2 && expected == len
    };
    code.get(2) == Some(&0xe8) || [2, 3, 4, 6, 7].into_iter().any(indirect)
}
