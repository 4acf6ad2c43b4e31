//! The registers of a task, from where each kind of task left them.
//!
//! * switched out: the frame of `__switch_to_asm` at `thread.sp`;
//! * on a CPU: that CPU's `crash_notes` after a real crash, else the dump's own
//!   PRSTATUS and QEMU notes;
//! * of user mode: `pt_regs` at the top of the kernel stack.
//!
//! What is not known is absent, never zero. Sources: `arch/x86/include/asm/switch_to.h`,
//! `arch/x86/include/asm/ptrace.h`, `include/linux/elfcore.h`, `kernel/crash_core.c`.

use super::{Kernel, Task, object};
use crate::addr::VirtAddr;
use crate::bytes::u64_at;
use crate::dump::notes::{GeneralRegs, NT_PRSTATUS, PrStatus};
use crate::elf;
use crate::memory::AddressSpace;

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
    /// A PRSTATUS note taken for this CPU's by its position only: a guess.
    PrStatusByPosition,
    /// Nowhere, and why.
    Nowhere(&'static str),
}

/// Registers by gdb's names; what is absent is unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskRegisters {
    values: Vec<(&'static str, u64)>,
    /// Where they were found.
    pub source: Source,
}

impl TaskRegisters {
    /// The value of a register, by gdb's name (`rip`, `eflags`).
    #[must_use]
    pub fn value(&self, name: &str) -> Option<u64> {
        self.values.iter().find(|(n, _)| *n == name).map(|&(_, v)| v)
    }

    /// All that are known.
    #[must_use]
    pub fn values(&self) -> &[(&'static str, u64)] {
        &self.values
    }

    /// Whether they are those of user mode (`cs` of ring 3).
    #[must_use]
    pub fn in_user_mode(&self) -> bool {
        self.value("cs").is_some_and(|cs| cs & 3 == 3)
    }

    fn nowhere(why: &'static str) -> Self {
        Self { values: Vec::new(), source: Source::Nowhere(why) }
    }

    fn general(r: &GeneralRegs, source: Source) -> Self {
        let values = vec![
            ("rax", r.rax),
            ("rbx", r.rbx),
            ("rcx", r.rcx),
            ("rdx", r.rdx),
            ("rsi", r.rsi),
            ("rdi", r.rdi),
            ("rbp", r.rbp),
            ("rsp", r.rsp),
            ("r8", r.r8),
            ("r9", r.r9),
            ("r10", r.r10),
            ("r11", r.r11),
            ("r12", r.r12),
            ("r13", r.r13),
            ("r14", r.r14),
            ("r15", r.r15),
            ("rip", r.rip),
            ("eflags", r.eflags),
            ("cs", r.cs),
            ("ss", r.ss),
            ("ds", r.ds),
            ("es", r.es),
            ("fs", r.fs),
            ("gs", r.gs),
            ("orig_rax", r.orig_rax),
            ("fs_base", r.fs_base),
            ("gs_base", r.gs_base),
        ];
        Self { values, source }
    }

    /// The system registers of the machine beside the general ones, for the
    /// target description's `system` group.
    fn push(&mut self, name: &'static str, value: Option<u64>) {
        if let Some(value) = value {
            self.values.push((name, value));
        }
    }
}

/// The registers of the innermost frame of `task`.
#[must_use]
pub fn of(kernel: &Kernel, task: &Task) -> TaskRegisters {
    let mut regs = if task.on_cpu { on_cpu(kernel, task.cpu) } else { switched_out(kernel, task) };
    if task.on_cpu
        && let Some(q) = kernel.dump().notes().qemu_cpus.get(task.cpu as usize)
    {
        for (name, value) in [("cr0", q.cr0), ("cr2", q.cr2), ("cr3", q.cr3), ("cr4", q.cr4)] {
            regs.push(name, Some(value));
        }
    }
    if regs.value("cr3").is_none() {
        // What the CPU would load: the task's own tables, or the kernel's.
        let root = match task.mm {
            Some(_) => kernel.task_space(task).map(|s| s.root().0),
            None => Some(kernel.space().root().0),
        };
        regs.push("cr3", root);
    }
    regs.push("task", Some(task.addr.0));
    regs.push("cpu", Some(u64::from(task.cpu)));
    regs
}

/// The user-mode registers of a task that has a user side.
#[must_use]
pub fn user(kernel: &Kernel, task: &Task) -> Option<TaskRegisters> {
    task.mm?;
    if task.on_cpu {
        let now = on_cpu(kernel, task.cpu);
        if now.in_user_mode() {
            return Some(now);
        }
    }
    let at = user_pt_regs(kernel, task)?;
    let mut regs = pt_regs(kernel, at)?;
    // Where a system call does not save these, what lies in their place is older.
    let in_syscall = regs.value("orig_rax").is_some_and(|n| n.cast_signed() >= 0);
    if in_syscall && !kernel.layout().version.system_calls_save_all() {
        regs.values.retain(|(name, _)| !matches!(*name, "rbx" | "rbp" | "r12" | "r13" | "r14" | "r15"));
    }
    for (name, value) in saved_bases(kernel, task) {
        regs.push(name, value);
    }
    Some(regs)
}

/// The user's fs and gs bases, as the last context switch saved them.
fn saved_bases(kernel: &Kernel, task: &Task) -> [(&'static str, Option<u64>); 2] {
    let layout = &kernel.layout().task;
    [("fs_base", layout.fsbase), ("gs_base", layout.gsbase)].map(|(name, field)| {
        (name, field.and_then(|f| object::number(kernel, task.addr.checked_add(f.offset)?, f)))
    })
}

/// Where the `pt_regs` of the entry from user mode lie.
#[must_use]
pub fn user_pt_regs(kernel: &Kernel, task: &Task) -> Option<VirtAddr> {
    let below = kernel.layout().stack_padding.checked_add(kernel.layout().pt_regs_size)?;
    (task.stack.0 != 0).then_some(())?;
    task.stack.checked_add(kernel.thread_size().checked_sub(below)?)
}

/// `struct pt_regs` at `at`: 21 words (`arch/x86/include/asm/ptrace.h`).
#[must_use]
pub fn pt_regs(kernel: &Kernel, at: VirtAddr) -> Option<TaskRegisters> {
    const NAMES: [&str; 21] = [
        "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi",
        "rdi", "orig_rax", "rip", "cs", "eflags", "rsp", "ss",
    ];
    let bytes = kernel.space().read_vec(at, NAMES.len() * 8).ok()?;
    let values = NAMES
        .iter()
        .zip(bytes.chunks_exact(8))
        .filter_map(|(&name, raw)| {
            let value = u64_at(raw, 0)?;
            // With FRED the upper halves of cs and ss hold the event's data (6.9).
            Some((name, if matches!(name, "cs" | "ss") { value & 0xffff } else { value }))
        })
        .collect();
    Some(TaskRegisters { values, source: Source::SwitchFrame })
}

fn switched_out(kernel: &Kernel, task: &Task) -> TaskRegisters {
    if task.stack.0 == 0 {
        return TaskRegisters::nowhere("its stack was freed");
    }
    let end = task.stack.0.saturating_add(kernel.thread_size());
    if !(task.stack.0..end).contains(&task.sp) {
        return TaskRegisters::nowhere("its saved stack pointer is not in its stack");
    }
    let sp = VirtAddr(task.sp);
    let mut values = Vec::with_capacity(10);
    let mut source = Source::SwitchFrame;
    if let Some(frame) = kernel.layout().switch_frame {
        let Ok(bytes) = kernel.space().read_vec(sp, usize::try_from(frame.size.min(256)).unwrap_or_default())
        else {
            return TaskRegisters::nowhere("its stack is not in the dump");
        };
        for (name, offset) in ["r15", "r14", "r13", "r12", "rbx", "rbp", "rip"].iter().zip(frame.offsets) {
            if let Some(value) = usize::try_from(offset).ok().and_then(|at| u64_at(&bytes, at)) {
                values.push((*name, value));
            }
        }
        values.push(("rsp", task.sp.wrapping_add(frame.size)));
    } else {
        // Before 4.9 the macro switch_to() pushed flags and rbp and went on at
        // the label thread_return.
        let (Ok(rbp), Some(rip)) = (kernel.space().read_u64(sp), kernel.symbol("thread_return")) else {
            return TaskRegisters::nowhere("this kernel's context switch is not known");
        };
        values.extend([("rbp", rbp), ("rip", rip.0), ("rsp", task.sp.wrapping_add(16))]);
    }
    let rip = values.iter().find(|v| v.0 == "rip").map_or(0, |v| v.1);
    if ["ret_from_fork", "ret_from_fork_asm"].iter().any(|n| kernel.symbol(n) == Some(VirtAddr(rip))) {
        source = Source::NewBorn;
    }
    let mut regs = TaskRegisters { values, source };
    for (name, value) in saved_bases(kernel, task) {
        regs.push(name, value);
    }
    regs
}

fn on_cpu(kernel: &Kernel, cpu: u32) -> TaskRegisters {
    // Only a kernel that crashed on its own fills crash_notes; they name their
    // CPU by place, where the dump's notes skip CPUs that were offline or deaf.
    if kernel.vmcoreinfo().crash_time().is_some()
        && let Some(regs) = crash_note(kernel, cpu)
    {
        return TaskRegisters::general(&regs, Source::CrashNote);
    }
    let notes = &kernel.dump().notes().prstatus;
    // QEMU numbers its notes cpu + 1; a crashed kernel writes the task's pid.
    let numbered = notes.iter().enumerate().all(|(i, n)| n.pid as usize == i + 1);
    if numbered && let Some(note) = notes.get(cpu as usize) {
        return TaskRegisters::general(&note.regs, Source::PrStatus);
    }
    let online = kernel.percpu().online();
    if notes.len() == online.len()
        && let Some(note) = online.iter().position(|&c| c == cpu).and_then(|i| notes.get(i))
    {
        return TaskRegisters::general(&note.regs, Source::PrStatusByPosition);
    }
    TaskRegisters::nowhere("its CPU saved no registers")
}

/// The PRSTATUS note in `crash_notes` of one CPU.
fn crash_note(kernel: &Kernel, cpu: u32) -> Option<GeneralRegs> {
    let notes = VirtAddr(kernel.space().read_u64(kernel.symbol("crash_notes")?).ok()?);
    let bytes = kernel.space().read_vec(kernel.percpu().address(notes, cpu)?, 512).ok()?;
    elf::notes(&bytes, 4)
        .find(|note| note.kind == NT_PRSTATUS)
        .and_then(|note| PrStatus::parse(note.desc))
        .map(|status| status.regs)
}
