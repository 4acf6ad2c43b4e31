//! Leaving a function by what its own instructions do to the stack, where its rule of ORC is lost.
//!
//! Compilers move the stack pointer alike on all ways to one place ([`crate::arch::by_code`]), and where
//! functions begin kallsyms says, be the names lost. What lies where the return address
//! must be is behind a call, or the code in front of it is lost, too.

use super::memory::StackMemory;
use super::scan;
use crate::addr::VirtAddr;
use crate::arch::Register::{Rip, Rsp};
use crate::arch::{Registers, by_code};
use crate::linux::Kernel;

/// A function is read so far in front of the place, and behind it.
const BEFORE: u64 = 64 << 10;
const BEHIND: u64 = 4096;

/// The caller of the function around `at`, whose stack pointer is `sp`: its pc, its stack pointer
/// and the other registers that are known there.
pub(super) fn leave(
    kernel: &Kernel,
    at: u64,
    sp: u64,
    regs: &Registers,
    memory: &mut StackMemory<'_>,
) -> Option<(u64, u64, Registers)> {
    let start = start_of(kernel, at)?;
    let into = at.checked_sub(start).filter(|&into| into <= BEFORE)?;
    let mut code = vec![0; usize::try_from(into + BEHIND).ok()?];
    let read = kernel.space().read(VirtAddr(start), &mut code).ok()?;
    let frame = by_code::Frame::of(code.get(..read)?, usize::try_from(into).ok()?)?;
    let mut regs = *regs;
    regs.set(Rsp, Some(sp));
    let next = frame.caller(&regs, &mut |at| memory.word(at))?;
    let (pc, caller_sp) = (next.get(Rip)?, next.get(Rsp)?);
    (caller_sp > sp && may_return_to(kernel, pc, start)).then_some((pc, caller_sp, next))
}

/// Where the function around `at` begins. What a compiler split off is entered with a frame.
fn start_of(kernel: &Kernel, at: u64) -> Option<u64> {
    if let Some((symbol, ..)) = kernel.symbolise(VirtAddr(at)) {
        return (!symbol.name.contains(".cold")).then_some(symbol.address);
    }
    kernel.symbols().start_of(at).filter(|_| kernel.is_text(VirtAddr(at)))
}

/// Whether the function at `start` may return to `pc`: it was called there, by its name or by a
/// pointer, or by the name of another that jumped to it.
fn may_return_to(kernel: &Kernel, pc: u64, start: u64) -> bool {
    if !kernel.is_text(VirtAddr(pc.wrapping_sub(1))) {
        return false;
    }
    match scan::call_target(kernel, pc) {
        Some(to) => to == start || start_of(kernel, to).is_none_or(|begin| begin == to),
        None => scan::is_return(kernel, pc) || scan::is_code_lost(kernel, pc),
    }
}
