//! The stacks of a machine besides those of its tasks: one for interrupts and
//! a few for exceptions on each CPU, and the trampoline of the kernel's entry.
//!
//! | stack | where | source |
//! |---|---|---|
//! | IRQ, softirq | `hardirq_stack_ptr`; in `pcpu_hot` 6.2 - 6.14; before 5.2 `irq_stack_ptr` | `arch/x86/kernel/irq_64.c` |
//! | IST (NMI, #DF, #DB, #MC, #VC) | tops in `cpu_tss_rw.x86_tss.ist[]`, sizes in `struct exception_stacks` | `arch/x86/include/asm/cpu_entry_area.h` |
//! | entry | top in `x86_tss.sp0` since 4.15, size of `struct entry_stack` | `arch/x86/kernel/process.c` |
//!
//! x86-64 runs softirqs on the IRQ stack.

use std::ops::Range;

use super::{Task, View};
use crate::addr::VirtAddr;

/// What a stack is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A task's own.
    Task,
    /// Interrupts and softirqs of one CPU.
    Irq,
    /// An exception with a stack of its own, by crash's name: `NMI`.
    Exception(&'static str),
    /// Where the CPU enters the kernel from user mode, for a few instructions.
    Entry,
}

impl Kind {
    /// How crash names it between the frames.
    #[must_use]
    pub fn title(self) -> String {
        match self {
            Self::Task => "task stack".to_owned(),
            Self::Irq => "IRQ stack".to_owned(),
            Self::Exception(name) => format!("{name} exception stack"),
            Self::Entry => "ENTRY stack".to_owned(),
        }
    }
}

/// One stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stack {
    /// What it is for.
    pub kind: Kind,
    /// The CPU it belongs to; `None` for a task's.
    pub cpu: Option<u32>,
    /// Lowest address to one past the highest.
    pub range: Range<u64>,
}

/// The stacks of all CPUs, by address.
#[derive(Debug, Clone, Default)]
pub struct Stacks {
    list: Vec<Stack>,
}

/// `PAGE_SIZE`: what the stacks' tops are aligned to.
const PAGE: u64 = crate::addr::PAGE_SIZE;
/// No exception stack is larger (`EXCEPTION_STKSZ` with KASAN is 16 KiB).
const EXCEPTION_MAX: u64 = 64 << 10;

impl Stacks {
    /// Finds the stacks of the CPUs that were online.
    pub(super) fn read(view: &View) -> Self {
        let mut list = Vec::new();
        for &cpu in view.percpu().present() {
            irq(view, cpu, &mut list);
            of_tss(view, cpu, &mut list);
        }
        list.retain(|s| s.range.start >= view.user_limit() && s.range.start < s.range.end);
        list.sort_by_key(|s| s.range.start);
        Self { list }
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[Stack] {
        &self.list
    }

    /// The stack that holds `sp`. The top address itself belongs to the stack:
    /// it is where the stack pointer of an empty one stands.
    #[must_use]
    pub fn at(&self, sp: u64) -> Option<&Stack> {
        let after = self.list.partition_point(|s| s.range.start <= sp);
        let last = self.list.get(after.checked_sub(1)?)?;
        if sp < last.range.end {
            return Some(last);
        }
        (sp == last.range.end).then_some(last)
    }

    /// The stack that holds `sp` for `task`: its own, or one of a CPU.
    #[must_use]
    pub fn of(&self, view: &View, task: &Task, sp: u64) -> Option<Stack> {
        of_task(view, task)
            .filter(|own| own.range.contains(&sp) || sp == own.range.end)
            .or_else(|| self.at(sp).cloned())
    }
}

/// A task's own stack.
#[must_use]
pub(crate) fn of_task(view: &View, task: &Task) -> Option<Stack> {
    let start = task.stack.0;
    let range = start..start.checked_add(view.thread_size())?;
    (start != 0).then_some(Stack { kind: Kind::Task, cpu: None, range })
}

/// How far below the stack of `task` a stack pointer lies that has run out of it, into the
/// guard page (`CONFIG_VMAP_STACK`, 4.9).
#[must_use]
pub(crate) fn overflow(task: &Task, sp: u64) -> Option<u64> {
    task.stack.0.checked_sub(sp).filter(|below| (1..=PAGE).contains(below))
}

fn percpu_word(view: &View, cpu: u32, symbol: &str, offset: u64) -> Option<u64> {
    let at = view.percpu().address(view.symbol(symbol)?, cpu)?.checked_add(offset)?;
    view.space().read_u64(at).ok()
}

fn irq(view: &View, cpu: u32, list: &mut Vec<Stack>) {
    let hot = view.types().field("pcpu_hot", "hardirq_stack_ptr");
    let pointer = percpu_word(view, cpu, "hardirq_stack_ptr", 0)
        .or_else(|| percpu_word(view, cpu, "pcpu_hot", hot?.offset))
        .or_else(|| percpu_word(view, cpu, "irq_stack_ptr", 0))
        .filter(|&p| p != 0);
    // The pointer is the top, or 8 below (since 5.8), or 64 below (before 5.2).
    let Some(top) = pointer.and_then(|p| p.checked_next_multiple_of(PAGE)) else { return };
    // IRQ_STACK_SIZE has been THREAD_SIZE's 16 KiB (32 with KASAN) all along.
    let size = view.thread_size();
    if let Some(start) = top.checked_sub(size) {
        list.push(Stack { kind: Kind::Irq, cpu: Some(cpu), range: start..top });
    }
}

fn of_tss(view: &View, cpu: u32, list: &mut Vec<Stack>) {
    let types = view.types();
    let symbol = ["cpu_tss_rw", "cpu_tss", "init_tss"].into_iter().find(|s| view.symbol(s).is_some());
    let Some(symbol) = symbol else { return };
    let Some(ist) = types.field("tss_struct", "x86_tss.ist") else { return };
    // Since 5.2. The type may be lost, the name less likely so, too.
    let known = types.size_of("exception_stacks").is_some();
    let new = known || view.symbol("cea_exception_stacks").is_some();
    let ist = |i: u64| percpu_word(view, cpu, symbol, ist.offset + i * 8).filter(|&t| t != 0);
    // Until 3.18 a stack fault had a stack, too, as the first of five (6f442be2fb22,
    // which distributions took back to 3.10: so the table is asked, not the release).
    let names: &[&'static str] = match ist(4) {
        _ if new => &["DOUBLEFAULT", "NMI", "DEBUG", "MCE", "VC"],
        None => &["DOUBLEFAULT", "NMI", "DEBUG", "MCE"],
        Some(_) => &["STACKFAULT", "DOUBLEFAULT", "NMI", "DEBUG", "MCE"],
    };
    for (i, &name) in (0u64..).zip(names) {
        let top = ist(i);
        let size = if !known && new {
            // They lie in a row, with a page between them that is not mapped.
            ist(1).zip(ist(0)).and_then(|(nmi, fault)| nmi.checked_sub(fault)?.checked_sub(PAGE))
        } else if new {
            let member = match name {
                "DOUBLEFAULT" => "DF_stack",
                "NMI" => "NMI_stack",
                "DEBUG" => "DB_stack",
                "MCE" => "MCE_stack",
                _ => "VC_stack",
            };
            types.field("exception_stacks", member).map(|f| f.size)
        } else {
            Some(if name == "DEBUG" { 2 * PAGE } else { PAGE })
        };
        let start = top.zip(size.filter(|&s| s <= EXCEPTION_MAX)).and_then(|(t, s)| t.checked_sub(s));
        if let (Some(start), Some(top)) = (start, top) {
            list.push(Stack { kind: Kind::Exception(name), cpu: Some(cpu), range: start..top });
        }
    }
    // Before 4.15 sp0 was the top of the task's stack, and there was no such type.
    let size = types.size_of("entry_stack").or_else(|| types.size_of("SYSENTER_stack"));
    let sp0 = types.field("tss_struct", "x86_tss.sp0");
    let top = sp0.and_then(|f| percpu_word(view, cpu, symbol, f.offset));
    if let (Some(size), Some(top)) = (size.filter(|&s| s <= EXCEPTION_MAX), top)
        && let Some(start) = top.checked_sub(size)
    {
        list.push(Stack { kind: Kind::Entry, cpu: Some(cpu), range: start..top });
    }
}

/// The address range as people write it.
#[must_use]
pub(crate) fn bounds(stack: &Stack) -> String {
    format!("{}-{}", VirtAddr(stack.range.start), VirtAddr(stack.range.end))
}
