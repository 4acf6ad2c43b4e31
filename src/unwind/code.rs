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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::tests::machine::Machine;

    const TEXT: u64 = 0xffff_ffff_8100_0000;
    const FUNCTION: u64 = TEXT + 0x1000;
    const CALLER: u64 = TEXT + 0x2000;
    const THUNK: u64 = TEXT + 0x3000;
    const STACK: u64 = 0xffff_c900_0000_0000;

    /// push %rbx; sub $16,%rsp; nop: called where `front` ends, of what was on the stack before.
    fn left(front: &[u8], damage: &dyn Fn(&mut Machine)) -> Option<(u64, u64)> {
        let mut m = Machine::new();
        m.symbol("_text", TEXT);
        m.symbol("_etext", TEXT + 0x10_0000);
        m.function("callee", FUNCTION, &[0x53, 0x48, 0x83, 0xec, 0x10, 0x90, 0x90, 0x90]);
        m.function("caller", CALLER - 0x10, &[0x90; 0x40]);
        m.function("another", THUNK, &[0xff, 0xe3, 0xcc]);
        m.write(CALLER - front.len() as u64, front);
        for slot in 0..8 {
            // Return addresses of others.
            m.word(STACK + slot * 8, CALLER + 8);
        }
        m.word(STACK + 0x18, CALLER);
        damage(&mut m);
        let kernel = m.kernel();
        let mut memory = StackMemory::new(&kernel);
        leave(&kernel, FUNCTION + 5, STACK, &Registers::default(), &mut memory).map(|(pc, sp, _)| (pc, sp))
    }

    fn call(to: u64) -> Vec<u8> {
        let rel = i32::try_from(to.wrapping_sub(CALLER).cast_signed()).unwrap();
        [&[0xe8], &rel.to_le_bytes()[..]].concat()
    }

    #[test]
    fn the_return_address_is_where_the_instructions_put_it() {
        let caller = Some((CALLER, STACK + 0x20));
        let lose_names = |m: &mut Machine| m.lose_names();
        assert_eq!(left(&call(FUNCTION), &|_| ()), caller);
        assert_eq!(left(&call(THUNK), &lose_names), caller);
        // call *%rbx
        assert_eq!(left(&[0xff, 0xd3], &|_| ()), caller);
        // The caller's code is lost.
        assert_eq!(left(&[], &|m| m.forget(CALLER - 0x10, 0x40)), caller);
        // Nothing is called in front of it, or what is no function's beginning.
        assert_eq!(left(&[0x90, 0x90], &|_| ()), None);
        assert_eq!(left(&call(FUNCTION + 2), &|_| ()), None);
        // The function's own code is lost.
        assert_eq!(left(&call(FUNCTION), &|m| m.forget(FUNCTION, 8)), None);
        assert_eq!(left(&call(FUNCTION), &|m| m.forget(STACK + 0x18, 8)), None);
    }
}
