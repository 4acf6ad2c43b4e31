//! Leaving a function by the compiler's own unwind rules, where the kernel's tell nothing.

use super::memory::StackMemory;
use crate::addr::VirtAddr;
use crate::arch::Register::{Rip, Rsp};
use crate::arch::Registers;
use crate::linux::Kernel;

/// The caller of the function around `at`, whose stack pointer is `sp`: its pc, its stack
/// pointer, and the other registers that are known there.
pub(super) fn leave(
    kernel: &Kernel,
    at: u64,
    sp: u64,
    regs: &Registers,
    memory: &mut StackMemory<'_>,
) -> Option<(u64, u64, Registers)> {
    if !kernel.is_text(VirtAddr(at)) {
        return None;
    }
    let mut regs = *regs;
    regs.set(Rsp, Some(sp));
    let next = kernel.caller_by_cfi(&regs, at, &mut |at| memory.word(at))?;
    let (pc, caller_sp) = (next.get(Rip)?, next.get(Rsp)?);
    // Rules that do not fit the code lead astray.
    (caller_sp > sp && kernel.is_text(VirtAddr(pc.wrapping_sub(1)))).then_some((pc, caller_sp, next))
}
