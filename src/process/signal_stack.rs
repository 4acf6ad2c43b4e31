//! The stack on which a thread handles signals (`sigaltstack`), as far as a frame on it tells.
//!
//! The kernel leaves a `ucontext` behind the address that a handler returns to
//! (`include/uapi/asm-generic/ucontext.h`: flags, link, `uc_stack`; then
//! `struct sigcontext_64` of `arch/x86/include/uapi/asm/sigcontext.h`).

use std::ops::Range;

use super::frames::Kind;
use super::{Process, ThreadNotes, unwind};
use crate::addr::VirtAddr;
use crate::bytes::{u32_at, u64_at};
use crate::memory::AddressSpace;

/// Frames that are looked through for the handler's.
const FRAMES: usize = 100;
/// `ss_sp`, `ss_flags`, `ss_size` of `uc_stack`.
const STACK: [usize; 3] = [16, 24, 32];
/// `trapno` and `cr2` of the `sigcontext`.
const TRAP: [usize; 2] = [200, 216];
const LENGTH: usize = 224;
const SS_DISABLE: u32 = 2;
const PAGE_FAULT: u64 = 14;

/// A stack for handlers, and one of them on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignalStack {
    /// Whose.
    pub tid: u32,
    /// Where.
    pub range: Range<u64>,
    /// The address of the page fault that it handles.
    pub fault: Option<u64>,
}

/// The stack for handlers that `thread` stands on.
#[must_use]
pub fn of(process: &Process, thread: &ThreadNotes) -> Option<SignalStack> {
    let frames = unwind::stack(process, thread, FRAMES).frames;
    let top = frames.first()?.sp;
    let interrupted = frames.iter().position(|frame| frame.kind == Kind::Signal)?;
    // Once the handler has returned, the stack pointer is at the `ucontext`.
    let at = frames.get(interrupted.checked_sub(1)?)?.sp;
    let context = process.memory().read_vec(VirtAddr(at), LENGTH).ok()?;
    let [start, flags, size] = STACK;
    let (start, size) = (u64_at(&context, start)?, u64_at(&context, size)?);
    let range = start..start.checked_add(size)?;
    let in_use = u32_at(&context, flags)? & SS_DISABLE == 0 && range.contains(&top) && range.contains(&at);
    let [trap, address] = TRAP.map(|field| u64_at(&context, field));
    in_use.then(|| SignalStack {
        tid: thread.tid,
        range,
        fault: address.filter(|_| trap == Some(PAGE_FAULT)),
    })
}
