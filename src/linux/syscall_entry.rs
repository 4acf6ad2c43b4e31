//! What is true of the user's registers in a system call of a kernel before 4.1.
//!
//! SYSCALL itself saves nothing in memory, and `system_call` (`arch/x86/kernel/entry_64.S`)
//! writes only part of a `struct pt_regs` around the call of a handler:
//!
//! | way in | not written | lost to what is pushed there |
//! |---|---|---|
//! | fast path | sp, cs, flags, ss, cx | bx (the return address), bp (pushed by the handler) |
//! | `tracesys` (ptrace, seccomp), while the handler runs | | bx, bp likewise; r12 to r15 are popped again |
//! | `int $0x80` (`ia32entry.S`) | r8 to r11, bx, r12 to r15 | bp likewise |
//! | preempted on the way out (`retint_careful` and the like) | | bx (the mask of work), bp (the return address) |
//!
//! The stack pointer of the fast path waits in `thread.usersp`, or while the task is
//! on a CPU in that CPU's `old_rsp`; the flags are in r11, the code selector is the one
//! that SYSRET loads. bp is found again where the function that pushed it did
//! so first. What else was pushed over is known to nobody but the callee: unknown here.
//! Which way was taken, the return address in bx's place tells, or in bp's; where
//! neither is one, all 21 words were saved.

use super::{Task, View, entry_text};
use crate::addr::VirtAddr;
use crate::arch::Register::{Cs, Eflags, R8, R9, R10, R11, R12, R13, R14, R15, Rbp, Rbx, Rcx, Rip, Rsp, Ss};
use crate::arch::{Register, Registers, pt_regs};

/// `__USER_CS` and `__USER_DS`, by which SYSRET returns.
const USER: (u64, u64) = (0x33, 0x2b);
/// What the compiler's code saves if it uses it.
const CALLEE_SAVED: [Register; 5] = [Rbx, R12, R13, R14, R15];

/// Takes out of `regs`, the words of the `pt_regs` at the top of `task`'s stack, what
/// does not belong there, and puts in what is known from elsewhere.
pub(super) fn correct(view: &View, task: &Task, at: VirtAddr, regs: &mut Registers) {
    let within = |register: Register| {
        let pc = regs.get(register)?.checked_sub(1)?;
        view.symbols().by_address(pc).filter(|(s, _)| s.is_text()).map(|(s, _)| s.name)
    };
    let forget = |regs: &mut Registers, list: &[Register]| list.iter().for_each(|&r| regs.set(r, None));
    let interrupted = regs.get(R12) == at.checked_add(pt_regs::offset(R11)).map(|sp| sp.0);
    match (within(Rbx), within(Rbp)) {
        (Some(way), _) if is_fast(way) => {
            by_syscall(view, task, regs);
            forget(regs, &CALLEE_SAVED);
            // Interrupted before the handler was called: what the CPU pushed lies there.
            if interrupted || !handler_keeps_rbp(view, regs) {
                regs.set(Rbp, None);
            }
        }
        (Some("tracesys"), _) => {
            forget(regs, &CALLEE_SAVED);
            if !handler_keeps_rbp(view, regs) {
                regs.set(Rbp, None);
            }
        }
        (Some(way), _) if ["ia32_", "sysenter_", "cstar_"].iter().any(|p| way.starts_with(p)) => {
            forget(regs, &CALLEE_SAVED);
            forget(regs, &[R8, R9, R10, R11]);
        }
        (_, Some(way)) if way.ends_with("_careful") => {
            if way.starts_with("sysret") {
                by_syscall(view, task, regs);
            }
            // schedule_user() pushed it into the next word.
            let pushed = at.checked_add(pt_regs::offset(R12)).and_then(|at| view.space().read_u64(at).ok());
            let first =
                view.symbol("schedule_user").is_some_and(|function| entry_text::pushes_rbp(view, function));
            regs.set(Rbp, pushed.filter(|_| first));
            forget(regs, &CALLEE_SAVED);
        }
        _ => {}
    }
}

fn is_fast(way: &str) -> bool {
    way.starts_with("system_call") || way == "ret_from_sys_call"
}

/// What SYSCALL left in registers, and in the variables of the entry code.
fn by_syscall(view: &View, task: &Task, regs: &mut Registers) {
    let sp = if task.on_cpu {
        let old = view.symbol("old_rsp").and_then(|s| view.percpu().address(s, task.cpu?));
        old.and_then(|at| view.space().read_u64(at).ok())
    } else {
        task.usersp
    };
    regs.set(Rsp, sp);
    regs.set(Eflags, regs.get(R11));
    regs.set(Rcx, regs.get(Rip));
    regs.extend([(Cs, USER.0), (Ss, USER.1)]);
}

/// Whether the handler of this system call pushes rbp before all else.
fn handler_keeps_rbp(view: &View, regs: &Registers) -> bool {
    let handler = || {
        let number = regs.get(Register::OrigRax).filter(|n| *n < 1 << 12)?;
        view.space().read_u64(view.symbol("sys_call_table")?.checked_add(number * 8)?).ok()
    };
    handler().is_some_and(|at| entry_text::pushes_rbp(view, VirtAddr(at)))
}
