//! The registers of a task, from where each kind of task left them.
//!
//! * switched out: the frame of `__switch_to_asm` at `thread.sp`;
//! * on a CPU: that CPU's `crash_notes` after a real crash, else the dump's own
//!   PRSTATUS and QEMU notes, by their CPU or by the task's stack;
//! * of user mode: `pt_regs` at the top of the kernel stack.
//!
//! What is not known is absent, never zero. Sources: `arch/x86/include/asm/switch_to.h`,
//! `arch/x86/include/asm/ptrace.h`, `include/linux/elfcore.h`, `kernel/crash_core.c`.

use super::system_registers::SystemRegisters;
use super::{Kernel, Task, View, object, old_switch, stacks, switch_frame, syscall_entry};
use crate::addr::VirtAddr;
use crate::arch::{Register, Registers, pt_regs};
use crate::bytes::u64_at;
use crate::dump::notes::{NT_PRSTATUS, PrStatus};
use crate::elf;

/// Where a set of registers was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The frame that the context switch left on the stack.
    SwitchFrame,
    /// The same, of a task that has not run yet.
    NewBorn,
    /// The CPU's `crash_notes`.
    CrashNote,
    /// A PRSTATUS note of the dump that names this CPU.
    PrStatus,
    /// The only PRSTATUS note whose stack pointer lies on the task's stack.
    PrStatusByStack,
    /// A PRSTATUS note taken for this CPU's by its position only: a guess.
    PrStatusByPosition,
    /// Nowhere, and why.
    Nowhere(&'static str),
}

/// The registers of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskRegisters {
    /// Those that are known.
    pub values: Registers,
    /// Where they were found.
    pub source: Source,
}

impl TaskRegisters {
    /// The value of a register, if it is known.
    #[must_use]
    pub fn get(&self, register: Register) -> Option<u64> {
        self.values.get(register)
    }

    /// Whether they are those of user mode.
    #[must_use]
    pub fn in_user_mode(&self) -> bool {
        self.values.in_user_mode()
    }

    fn nowhere(why: &'static str) -> Self {
        Self { values: Registers::default(), source: Source::Nowhere(why) }
    }
}

/// The registers of the innermost frame of `task`.
#[must_use]
pub fn of(kernel: &Kernel, task: &Task) -> TaskRegisters {
    match task.running_on() {
        Some(cpu) => on_cpu(kernel, task, cpu),
        None if task.on_cpu => TaskRegisters::nowhere("it was running, on which CPU is not known"),
        None => switched_out(kernel, task),
    }
}

/// The same with the system registers of its CPU. In the kernel the base of gs is
/// the CPU's; that of user mode, which a switch and a crash save, is the user's.
#[must_use]
pub fn with_system(kernel: &Kernel, task: &Task) -> TaskRegisters {
    let mut regs = of(kernel, task);
    let in_user_mode = regs.in_user_mode();
    let system = SystemRegisters::of(kernel, task);
    let here = system.iter().filter(|(register, ..)| *register != Register::GsBase || !in_user_mode);
    regs.values.extend(here.map(|(register, value, _)| (register, value)));
    regs
}

/// The user-mode registers of a task that has a user side.
#[must_use]
pub fn user(kernel: &Kernel, task: &Task) -> Option<TaskRegisters> {
    task.mm?;
    if let Some(cpu) = task.running_on() {
        let now = on_cpu(kernel, task, cpu);
        if now.in_user_mode() {
            return Some(now);
        }
    }
    let mut regs = of_entry(kernel, task, user_pt_regs(kernel, task)?)?;
    regs.values.extend(saved_bases(kernel, task));
    Some(regs)
}

/// The registers that the entry into the kernel saved at `at` on the stacks of `task`.
#[must_use]
pub fn of_entry(view: &View, task: &Task, at: VirtAddr) -> Option<TaskRegisters> {
    let mut regs = saved(view, at)?;
    let layout = view.layout();
    if layout.task.usersp.is_some() && user_pt_regs(view, task) == Some(at) {
        syscall_entry::correct(view, task, at, &mut regs.values);
    }
    // Where an entry does not save these, what lies in their place is older. What
    // is in orig_rax tells entries apart: the number of a system call, -1 for
    // exceptions, ~vector for interrupts (whose vectors begin at 0x20).
    let [of_syscall, of_interrupt] = regs.get(Register::OrigRax).map_or([false; 2], |n| {
        let n = n.cast_signed();
        [n >= 0, (-0x100..=-0x21).contains(&n)]
    });
    let version = &layout.version;
    let in_syscall = of_syscall && layout.task.usersp.is_none() && !version.system_calls_save_all();
    if in_syscall || of_interrupt && !version.interrupts_save_all() {
        use Register::{R12, R13, R14, R15, Rbx};
        [Rbx, R12, R13, R14, R15].into_iter().for_each(|r| regs.values.set(r, None));
    }
    if in_syscall {
        regs.values.set(Register::Rbp, None);
    }
    Some(regs)
}

/// The user's fs and gs bases, as the last context switch saved them.
fn saved_bases(view: &View, task: &Task) -> impl Iterator<Item = (Register, u64)> {
    let layout = &view.layout().task;
    let bases = [(Register::FsBase, layout.fsbase), (Register::GsBase, layout.gsbase)];
    bases.into_iter().filter_map(|(register, field)| {
        let field = field?;
        Some((register, object::number(view, task.addr.checked_add(field.offset)?, field)?))
    })
}

/// Where the `pt_regs` of the entry from user mode lie.
#[must_use]
pub fn user_pt_regs(view: &View, task: &Task) -> Option<VirtAddr> {
    let below = view.layout().stack_padding.checked_add(view.layout().pt_regs_size)?;
    (task.stack.0 != 0).then_some(())?;
    task.stack.checked_add(view.thread_size().checked_sub(below)?)
}

/// The registers that were saved as a `struct pt_regs` at `at`.
#[must_use]
pub fn saved(view: &View, at: VirtAddr) -> Option<TaskRegisters> {
    let mut bytes = [0; pt_regs::SIZE];
    view.space().read_exact(at, &mut bytes).ok()?;
    Some(TaskRegisters { values: pt_regs::parse(&bytes)?, source: Source::SwitchFrame })
}

pub(super) fn switched_out(view: &View, task: &Task) -> TaskRegisters {
    if task.stack.0 == 0 {
        return TaskRegisters::nowhere("its stack was freed");
    }
    let end = task.stack.0.saturating_add(view.thread_size());
    if !(task.stack.0..end).contains(&task.sp) {
        return TaskRegisters::nowhere("its saved stack pointer is not in its stack");
    }
    let sp = VirtAddr(task.sp);
    let mut values = Registers::default();
    let mut source = Source::SwitchFrame;
    if let Some(frame) = switch_frame::of(view) {
        let Ok(bytes) = view.space().read_vec(sp, usize::try_from(frame.size.min(256)).unwrap_or_default())
        else {
            return TaskRegisters::nowhere("its stack is not in the dump");
        };
        for (register, offset) in frame.offsets {
            values.set(register, usize::try_from(offset).ok().and_then(|at| u64_at(&bytes, at)));
        }
        values.set(Register::Rsp, Some(task.sp.wrapping_add(frame.size)));
    } else if switch_frame::exists(view) {
        return TaskRegisters::nowhere("what a context switch leaves is lost: its type, and its code");
    } else {
        match old_switch::registers(view, task) {
            Ok(regs) => values = regs,
            Err(why) => return TaskRegisters::nowhere(why),
        }
    }
    let rip = VirtAddr(values.get(Register::Rip).unwrap_or(0));
    if ["ret_from_fork", "ret_from_fork_asm"].iter().any(|n| view.symbol(n) == Some(rip)) {
        source = Source::NewBorn;
    }
    values.extend(saved_bases(view, task));
    TaskRegisters { values, source }
}

fn on_cpu(kernel: &Kernel, task: &Task, cpu: u32) -> TaskRegisters {
    // Only a kernel that crashed on its own fills crash_notes; they name their
    // CPU by place, where the dump's notes skip CPUs that were offline or deaf.
    if kernel.vmcoreinfo().crash_time().is_some()
        && let Some(values) = crash_note(kernel, cpu)
    {
        return TaskRegisters { values, source: Source::CrashNote };
    }
    let notes = &kernel.dump().notes().prstatus;
    // QEMU numbers its notes cpu + 1; a crashed kernel writes the task's pid.
    let numbered = notes.iter().enumerate().all(|(i, n)| n.pid as usize == i + 1);
    if numbered && let Some(note) = notes.get(cpu as usize) {
        return TaskRegisters { values: note.regs, source: Source::PrStatus };
    }
    if let Some(own) = stacks::of_task(kernel, task) {
        let there = |note: &&PrStatus| note.regs.get(Register::Rsp).is_some_and(|sp| own.range.contains(&sp));
        let mut all = notes.iter().filter(there);
        if let (Some(note), None) = (all.next(), all.next()) {
            return TaskRegisters { values: note.regs, source: Source::PrStatusByStack };
        }
    }
    let online = kernel.percpu().online();
    if notes.len() == online.len()
        && let Some(note) = online.iter().position(|&c| c == cpu).and_then(|i| notes.get(i))
    {
        return TaskRegisters { values: note.regs, source: Source::PrStatusByPosition };
    }
    TaskRegisters::nowhere("its CPU saved no registers")
}

/// The PRSTATUS note in `crash_notes` of one CPU.
fn crash_note(view: &View, cpu: u32) -> Option<Registers> {
    let notes = VirtAddr(view.space().read_u64(view.symbol("crash_notes")?).ok()?);
    let bytes = view.space().read_vec(view.percpu().address(notes, cpu)?, 512).ok()?;
    elf::notes(&bytes, 4)
        .find(|note| note.kind == NT_PRSTATUS)
        .and_then(|note| PrStatus::parse(note.desc))
        .map(|status| status.regs)
}
