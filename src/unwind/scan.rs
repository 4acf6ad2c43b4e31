//! Leaving a function for which ORC has no rules.
//!
//! A handful of functions are marked `STACK_FRAME_NON_STANDARD`; of these only
//! `__crash_kexec` occurs in dumps, but in every one that went through `panic()`.
//! Its return address is found by what makes it one: the call in front of it
//! leads to the function's own start. By the same sign a function that ORC takes
//! for the outermost one has a caller after all.

use super::memory::StackMemory;
use crate::addr::VirtAddr;
use crate::arch::prologue;
use crate::linux::{Kernel, View};

/// How far up the return address is looked for.
pub(super) const REACH: u64 = 4096;

/// Few functions are larger.
const FUNCTION: u64 = 16 << 10;

/// The caller.
pub(super) struct Caller {
    pub(super) pc: u64,
    pub(super) sp: u64,
    pub(super) bp: Option<u64>,
}

/// Finds the caller of the function around `pc`, whose stack pointer is `sp`, in
/// the `reach` bytes from there up.
pub(super) fn leave(
    kernel: &Kernel,
    pc: u64,
    sp: u64,
    reach: u64,
    bp: Option<u64>,
    memory: &mut StackMemory<'_>,
) -> Option<Caller> {
    if !kernel.is_text(VirtAddr(pc)) {
        return None;
    }
    let symbols = kernel.symbols();
    let start = symbols.start_of(pc);
    // Where no symbol is known the function began not far before.
    let begins_at = |to: u64| match start {
        Some(start) => to == start,
        None => symbols.lacks_names() && to <= pc && pc - to < FUNCTION,
    };
    for slot in (sp..sp.checked_add(reach)?).step_by(8) {
        let word = memory.word(slot)?;
        if !kernel.is_text(VirtAddr(word)) {
            continue;
        }
        if let Some(start) = call_target(kernel, word).filter(|to| begins_at(*to)) {
            let bp = saved_bp(kernel, start, slot).and_then(|at| memory.word(at)).or(bp);
            return Some(Caller { pc: word, sp: slot + 8, bp });
        }
    }
    None
}

/// The nearest word from `sp` up that is a return address, by the call in front of it: of a
/// function whose rules are lost, and that was not called by its name. An indirect call, or
/// else one of a function that may have jumped to it.
pub(super) fn guess(
    kernel: &Kernel,
    sp: u64,
    bp: Option<u64>,
    memory: &mut StackMemory<'_>,
) -> Option<Caller> {
    let end = sp.checked_add(REACH)?;
    let mut nearest = |is_return: &dyn Fn(u64) -> bool| {
        (sp..end).step_by(8).find_map(|slot| {
            let pc = memory.word(slot).filter(|&pc| kernel.is_text(VirtAddr(pc)) && is_return(pc))?;
            Some(Caller { pc, sp: slot + 8, bp })
        })
    };
    let called = |pc| call_target(kernel, pc).is_some_and(|to| kernel.symbols().start_of(to) == Some(to));
    // Not where a function begins: that is a pointer to it.
    let lost = |pc| is_code_lost(kernel, pc) && kernel.symbols().start_of(pc) != Some(pc);
    nearest(&|pc| is_return(kernel, pc) || lost(pc)).or_else(|| nearest(&called))
}

/// Whether an indirect call stands in front of `pc`: through a thunk, or of its own.
pub(super) fn is_return(kernel: &Kernel, pc: u64) -> bool {
    if let Some(to) = call_target(kernel, pc) {
        let name = kernel.symbols().by_address(to).map(|(symbol, _)| symbol.name);
        return name.map_or_else(|| is_thunk(kernel, to), |name| name.starts_with("__x86_indirect"));
    }
    let mut code = [0; 3];
    let read = pc.checked_sub(3).is_some_and(|at| kernel.space().read_exact(VirtAddr(at), &mut code).is_ok());
    // ff /2: of a register in two bytes, with REX or a displacement in three.
    read && (code[1] == 0xff && code[2] & 0x38 == 0x10 || code[0] == 0xff && code[1] & 0x38 == 0x10)
}

/// Whether the code at `at`, whose name is lost, is a thunk of an indirect call: it jumps to where a register
/// leads, or as a retpoline calls what puts the register in place of the return address.
fn is_thunk(kernel: &Kernel, at: u64) -> bool {
    let mut code = [0; 32];
    if kernel.space().read_exact(VirtAddr(at), &mut code).is_err() {
        return false;
    }
    let code = code.get(prologue::marks(&code)..).unwrap_or_default();
    match code {
        // jmp *%reg
        [0xff, 0xe0..=0xe7, ..] | [0x41, 0xff, 0xe0..=0xe7, ..] => true,
        // call over what is never run; mov %reg,(%rsp)
        [0xe8, over, 0, 0, 0, rest @ ..] => {
            let store = rest.get(usize::from(*over)..).unwrap_or_default();
            matches!(store, [0x48 | 0x4c, 0x89, mode, 0x24, ..] if mode & 0xc7 == 0x04)
        }
        _ => false,
    }
}

/// Whether the code in front of `pc` is not in the dump.
pub(super) fn is_code_lost(kernel: &Kernel, pc: u64) -> bool {
    kernel.space().read_exact(VirtAddr(pc.wrapping_sub(1)), &mut [0]).is_err()
}

/// Where the call in front of return address `pc` leads, if it is a near one.
pub(super) fn call_target(view: &View, pc: u64) -> Option<u64> {
    let mut code = [0; 5];
    view.space().read_exact(VirtAddr(pc.checked_sub(5)?), &mut code).ok()?;
    let [0xe8, rel @ ..] = code else { return None };
    Some(pc.wrapping_add_signed(i64::from(i32::from_le_bytes(rel))))
}

/// Where the function at `start` pushed rbp, if its first instructions are
/// pushes: `slot` holds its return address.
fn saved_bp(view: &View, start: u64, slot: u64) -> Option<u64> {
    let mut code = [0; 32];
    view.space().read_exact(VirtAddr(start), &mut code).ok()?;
    let mut rest = code.get(prologue::marks(&code)..)?;
    let mut at = slot;
    loop {
        at = at.checked_sub(8)?;
        rest = match rest {
            [0x55, ..] => return Some(at),
            [0x50..=0x57, more @ ..] | [0x41, 0x50..=0x57, more @ ..] => more,
            _ => return None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::tests::machine::Machine;

    const TEXT: u64 = 0xffff_ffff_8100_0000;
    const STACK: u64 = 0xffff_c900_0000_0000;

    /// A function whose rules and name are lost is left by the call of what can be it.
    #[test]
    fn a_function_that_no_symbol_names_is_left() {
        let function = TEXT + 0x100_0000;
        let caller = |names: bool| {
            let mut machine = Machine::new();
            machine.symbol("_text", TEXT);
            machine.symbol("_etext", TEXT + 0x400_0000);
            // Calls of what lies behind, of what is far, and of the function.
            for (i, to) in [(1, function + 0x2000), (2, TEXT), (3, function)] {
                let at = TEXT + 0x200_0000 + i * 0x100;
                let rel = i32::try_from(to.wrapping_sub(at).cast_signed()).unwrap();
                machine.write(at - 5, &[&[0xe8], &rel.to_le_bytes()[..]].concat());
                machine.word(STACK + i * 16, at);
                machine.word(STACK + i * 16 + 8, 7);
            }
            machine.word(STACK, 7);
            machine.word(STACK + 8, 7);
            if !names {
                machine.lose_names();
            }
            let kernel = machine.kernel();
            let mut memory = StackMemory::new(&kernel);
            leave(&kernel, function + 0x40, STACK, 0x40, None, &mut memory).map(|c| (c.pc, c.sp))
        };
        assert_eq!(caller(false), Some((TEXT + 0x200_0300, STACK + 56)));
        assert_eq!(caller(true), None);
    }
}
