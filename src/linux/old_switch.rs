//! Where a task that is not running goes on, in kernels before 4.9.
//!
//! `switch_to()` was a macro within `__schedule`: it pushed the flags and rbp, changed
//! the stack, and called `__switch_to`, behind which the next task goes on. That
//! place had a label (`thread_return`) until 2.6.33 only; it is behind the only call of
//! `__switch_to` there. A task that has not run yet has no such frame: its stack
//! pointer is its `pt_regs`, and `TIF_FORK` sends it to `ret_from_fork`. Source:
//! `arch/x86/include/asm/switch_to.h`, `arch/x86/kernel/process_64.c`.

use super::{Task, View};
use crate::addr::VirtAddr;
use crate::arch::{Register, Registers};
use crate::bytes::array_at;

/// `TIF_FORK` (`arch/x86/include/asm/thread_info.h`).
const TIF_FORK: u32 = 18;
/// No function is larger that holds the switch.
const FUNCTION_MAX: u64 = 16 << 10;

/// The registers with which `task` goes on.
pub(super) fn registers(view: &View, task: &Task) -> Result<Registers, &'static str> {
    let regs = |rip: VirtAddr, sp| [(Register::Rip, rip.0), (Register::Rsp, sp)].into_iter().collect();
    let flags = view.types().field("thread_info", "flags");
    let flags = flags.and_then(|f| view.space().read_u32(task.stack.checked_add(f.offset)?).ok());
    if flags.is_some_and(|flags| flags >> TIF_FORK & 1 != 0)
        && let Some(first) = view.symbol("ret_from_fork")
    {
        return Ok(regs(first, task.sp));
    }
    let rip = view
        .symbol("thread_return")
        .or_else(|| behind_switch(view))
        .ok_or("this kernel's context switch is not known")?;
    let rbp = view.space().read_u64(VirtAddr(task.sp)).map_err(|_| "its stack is not in the dump")?;
    let mut regs: Registers = regs(rip, task.sp.wrapping_add(16));
    regs.set(Register::Rbp, Some(rbp));
    Ok(regs)
}

/// The instruction behind the call of `__switch_to` in the scheduler.
fn behind_switch(view: &View) -> Option<VirtAddr> {
    let target = view.symbol("__switch_to")?.0;
    ["__schedule", "schedule"].iter().find_map(|name| {
        let function = view.symbols().by_name(name)?;
        let size = usize::try_from(function.size.min(FUNCTION_MAX)).ok()?;
        let code = view.space().read_vec(VirtAddr(function.address), size).ok()?;
        let returns = memchr::memchr_iter(0xe8, &code).filter_map(|at| {
            let rel = i32::from_le_bytes(array_at(&code, at + 1)?);
            let after = function.address.checked_add(at as u64 + 5)?;
            (after.wrapping_add_signed(rel.into()) == target).then_some(VirtAddr(after))
        });
        let returns: Vec<_> = returns.collect();
        // Two would leave it open which one it is.
        <[VirtAddr; 1]>::try_from(returns).ok().map(|[one]| one)
    })
}
