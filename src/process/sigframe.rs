//! What the kernel leaves on the stack for a signal handler: `struct rt_sigframe`
//! (`arch/x86/include/asm/sigframe.h`), from the `ucontext` on, which lies behind the address
//! that the handler returns to. It tells what was interrupted, why, and on which stack: where
//! the handler gave up or raised the signal once more, this alone knows what went wrong.
//!
//! `struct ucontext` of `include/uapi/asm-generic/ucontext.h` (flags, link, `uc_stack`), in it
//! `struct sigcontext_64` of `arch/x86/include/uapi/asm/sigcontext.h`, then the `siginfo_t`, if
//! the handler takes one.

use std::ops::Range;

use super::frames::{Frame, Kind};
use super::signal::SigInfo;
use super::{Process, ThreadNotes};
use crate::addr::VirtAddr;
use crate::arch::Register::{
    self, R8, R9, R10, R11, R12, R13, R14, R15, Rax, Rbp, Rbx, Rcx, Rdi, Rdx, Rip, Rsi, Rsp,
};
use crate::arch::Registers;
use crate::bytes::{u32_at, u64_at};
use crate::memory::AddressSpace;

/// `ss_sp`, `ss_flags`, `ss_size` of `uc_stack`.
const STACK: [usize; 3] = [16, 24, 32];
const SS_DISABLE: u32 = 2;
/// The general registers of the `sigcontext`.
const GREGS: usize = 40;
const ORDER: [Register; 17] =
    [R8, R9, R10, R11, R12, R13, R14, R15, Rdi, Rsi, Rbp, Rbx, Rdx, Rax, Rcx, Rsp, Rip];
/// `err`, `trapno`, `cr2`: of the last fault that the thread had.
const TRAP: [usize; 3] = [192, 200, 216];
const PAGE_FAULT: u64 = 14;
/// Behind the signal mask.
const SIGINFO: usize = 304;
const LENGTH: usize = SIGINFO + 48;

/// How far below the stack pointer a handler's frame can be: the red zone, the vector
/// registers (11 KiB with AMX), what aligns them.
const BELOW: u64 = 16 << 10;

/// Frames of a thread's stack that are looked through for handlers.
pub const FRAMES: usize = 100;

/// One of them.
#[derive(Debug, Clone)]
pub struct SigFrame {
    /// Where the `ucontext` is.
    pub at: u64,
    raw: Vec<u8>,
}

impl SigFrame {
    /// The one whose `ucontext` is at `at`.
    #[must_use]
    pub fn read(process: &Process, at: u64) -> Option<Self> {
        Some(Self { at, raw: process.memory().read_vec(VirtAddr(at), LENGTH).ok()? })
    }

    /// The one that leads to `frames[index]`, which a signal interrupted.
    #[must_use]
    pub fn before(process: &Process, frames: &[Frame], index: usize) -> Option<Self> {
        frames.get(index).filter(|frame| frame.kind == Kind::Signal)?;
        // Once the handler has returned, the stack pointer is at the `ucontext`.
        Self::read(process, frames.get(index.checked_sub(1)?)?.sp)
    }

    /// Those of the handlers that run in `frames`, innermost first.
    pub fn running(process: &Process, frames: &[Frame]) -> impl Iterator<Item = Self> {
        (0..frames.len()).filter_map(|index| Self::before(process, frames, index))
    }

    /// The one of a handler that has returned to where `thread` still stands: it raised the
    /// signal again, which was blocked until then.
    #[must_use]
    pub fn returned(process: &Process, thread: &ThreadNotes) -> Option<Self> {
        let regs = process.general_regs(thread)?;
        let sp = regs.get(Rsp)?;
        let stack = process.memory().stored().segment(sp)?;
        let from = sp.saturating_sub(BELOW).max(stack.start).checked_next_multiple_of(16)?;
        let below =
            process.memory().read_vec(VirtAddr(from), usize::try_from(sp.checked_sub(from)?).ok()?).ok()?;
        let same =
            |raw: &&[u8]| ORDER.iter().zip(0..).all(|(&r, i)| regs.get(r) == u64_at(raw, GREGS + i * 8));
        let offset =
            (0..below.len()).step_by(16).rev().find(|&at| below.get(at..).is_some_and(|raw| same(&raw)))?;
        Self::read(process, from + offset as u64)
    }

    /// The registers of what was interrupted; the others stand as in `from`.
    #[must_use]
    pub fn registers(&self, from: &Registers) -> Registers {
        let mut regs = *from;
        for (i, &register) in ORDER.iter().enumerate() {
            regs.set(register, u64_at(&self.raw, GREGS + i * 8));
        }
        regs
    }

    /// The stack for handlers (`sigaltstack`), if the thread had one.
    #[must_use]
    pub fn own_stack(&self) -> Option<Range<u64>> {
        let [start, flags, size] = STACK;
        let (start, size) = (u64_at(&self.raw, start)?, u64_at(&self.raw, size)?);
        let disabled = u32_at(&self.raw, flags)? & SS_DISABLE != 0;
        (!disabled).then_some(start..start.checked_add(size)?)
    }

    /// The address of the thread's last page fault, and what it was about.
    #[must_use]
    pub fn page_fault(&self) -> Option<(u64, &'static str)> {
        let [error, trap, address] = TRAP.map(|field| u64_at(&self.raw, field));
        // `enum x86_pf_error_code` of `arch/x86/include/asm/trap_pf.h`.
        let what = match error? {
            e if e & 16 != 0 => "code was to run there",
            e if e & 2 != 0 => "a write",
            _ => "a read",
        };
        Some((address.filter(|_| trap == Some(PAGE_FAULT))?, what))
    }

    /// What was signalled. The kernel writes it for handlers with `SA_SIGINFO` alone: anything
    /// may lie there.
    #[must_use]
    pub fn info(&self) -> Option<SigInfo> {
        let raw = self.raw.get(SIGINFO..)?;
        let info = SigInfo::parse(raw)?;
        let fits = match (info.address, self.page_fault()) {
            (Some(told), Some((address, _))) => told == address,
            _ => true,
        };
        let plausible =
            (1..=64).contains(&info.signal) && u32_at(raw, 4) == Some(0) && info.code_name.is_some();
        (fits && plausible).then_some(info)
    }
}
