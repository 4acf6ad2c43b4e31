//! `task`: one task in full.

use clap::Args;
use serde::Serialize;

use super::answer::apart;
use super::bt::heading;
use super::{Answer, Command, Context, Result, Text};
use crate::arch::Register;
use crate::linux::object::Object;
use crate::linux::registers::{self, Source};
use crate::linux::system_registers::{DescriptorTables, REGISTERS, SystemRegisters};
use crate::linux::{Kernel, Task, stacks, usage};
use crate::text::{Screen, flag_names, or_unknown, row};

pub(super) fn command() -> Command {
    Command::of_kernel(
        "task",
        "what is known of a task: state, stack, registers, memory",
        "All members are in gdb: p *(struct task_struct *) ADDRESS",
        run,
    )
}

#[derive(Args)]
struct Arguments {
    /// Pids, addresses of task_struct, or names; without, the selected task
    #[arg(value_name = "PID|TASK|COMMAND")]
    tasks: Vec<String>,
}

const UNKNOWN: &str = "(not known)";

#[derive(Serialize)]
#[serde(transparent)]
struct Rows<'k>(Vec<Row<'k>>);

#[derive(Serialize)]
struct Row<'k> {
    #[serde(skip)]
    shown: &'k Task,
    #[serde(skip)]
    parent: String,
    pid: Option<u32>,
    tgid: Option<u32>,
    ppid: Option<u32>,
    comm: Option<&'k str>,
    task: String,
    cpu: Option<u32>,
    on_cpu: bool,
    state: String,
    flags: Option<String>,
    mm: Option<String>,
    stack: Option<String>,
    sp: Option<String>,
    prio: Option<u64>,
    start_time_ns: Option<u64>,
    vsz_kib: Option<u64>,
    rss_kib: Option<u64>,
    registers_from: String,
    registers: Vec<(String, String)>,
    system: Vec<System>,
}

/// A register that belongs to the CPU, and how it is known.
#[derive(Serialize)]
struct System {
    register: &'static str,
    value: String,
    from: String,
}

fn run<'d>(kernel: &'d Kernel, args: Arguments, context: Context<'d>) -> Result<Answer<'d>> {
    let tasks = super::select::or_current(kernel, context, &args.tasks)?;
    Ok(Rows(tasks.into_iter().map(|t| row(kernel, t)).collect()).into())
}

impl Text for Rows<'_> {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        apart(&self.0, screen)
    }
}

impl Text for Row<'_> {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        heading(self.shown, screen)?;
        let mut line = |name: &str, value: &str| row!(screen, "{name:>12}: {value}");
        line("STATE", &self.state)?;
        line("TGID", &or_unknown(self.tgid))?;
        line("PARENT", &self.parent)?;
        // Of a task that cannot be read it is not known that there is none, either.
        let unread = self.shown.unread;
        let known = |known: &'static str| if unread { UNKNOWN } else { known };
        line("FLAGS", self.flags.as_deref().unwrap_or(UNKNOWN))?;
        line("PRIO", &self.prio.map_or(UNKNOWN.to_owned(), |p| p.to_string()))?;
        line("MM", self.mm.as_deref().unwrap_or(known("none: a kernel thread, or its process has ended")))?;
        if self.mm.is_some() {
            let memory = self.vsz_kib.zip(self.rss_kib);
            let memory =
                memory.map(|(size, resident)| format!("{size} KiB, of which {resident} KiB resident"));
            line("MEMORY", memory.as_deref().unwrap_or(UNKNOWN))?;
        }
        line("STACK", self.stack.as_deref().unwrap_or(known("freed")))?;
        line("SAVED SP", self.sp.as_deref().unwrap_or(UNKNOWN))?;
        if let Some(ns) = self.start_time_ns {
            line("STARTED", &format!("{}.{:09} s after boot", ns / 1_000_000_000, ns % 1_000_000_000))?;
        }
        line("REGISTERS", &self.registers_from)?;
        let known: Vec<String> = self.registers.iter().map(|(n, v)| format!("{n} {v}")).collect();
        for chunk in known.chunks(4) {
            row!(screen, "              {}", chunk.join("  "))?;
        }
        for (i, s) in self.system.iter().enumerate() {
            let title = if i == 0 { "SYSTEM:" } else { "" };
            row!(screen, "{title:>13} {:<12} {:<22} {}", s.register, s.value, s.from)?;
        }
        Ok(())
    }
}

fn parent(kernel: &Kernel, task: &Task) -> String {
    let Some(ppid) = task.ppid else { return "(not in the dump)".to_owned() };
    match kernel.tasks().by_pid(ppid).next() {
        Some(p) => format!("pid {} \"{}\"", p.pid, p.comm),
        None => format!("pid {ppid}"),
    }
}

fn row<'k>(kernel: &Kernel, task: &'k Task) -> Row<'k> {
    let object = Object::new(kernel, "task_struct", task.addr);
    let regs = registers::of(kernel, task);
    let used = usage::Usages::new(kernel).of(task);
    Row {
        shown: task,
        parent: parent(kernel, task),
        pid: task.known_pid(),
        tgid: task.known_tgid(),
        ppid: task.ppid,
        comm: task.known_comm(),
        task: task.addr.to_string(),
        cpu: task.cpu,
        on_cpu: task.on_cpu,
        state: super::sys::state_text(kernel, task),
        flags: object.number("flags").map(flags),
        mm: task.mm.map(|m| m.to_string()),
        stack: stacks::of_task(kernel, task).map(|s| stacks::bounds(&s)),
        sp: (!task.unread).then(|| format!("{:#x}", task.sp)),
        prio: object.number("prio"),
        start_time_ns: object.number("start_time"),
        vsz_kib: used.map(|u| u.vsz),
        rss_kib: used.map(|u| u.rss),
        registers_from: source(&regs.source),
        registers: regs
            .values
            .iter()
            .filter(|(register, _)| !REGISTERS.contains(register))
            .map(|(register, value)| (register.name(), value))
            .chain([("task", task.addr.0)])
            .chain(task.cpu.map(|cpu| ("cpu", cpu.into())))
            .map(|(name, value)| (name.to_owned(), format!("{value:#x}")))
            .collect(),
        system: system(kernel, task),
    }
}

/// What the CPU has loaded besides, or would load.
fn system(kernel: &Kernel, task: &Task) -> Vec<System> {
    let registers = SystemRegisters::of(kernel, task);
    let mut rows: Vec<System> = registers
        .iter()
        .map(|(r, value, from)| System {
            register: r.name(),
            value: format!("{value:#x}"),
            from: from.to_string(),
        })
        .collect();
    let user = registers::user(kernel, task).and_then(|user| user.get(Register::GsBase));
    rows.extend(user.map(|value| System {
        register: "user_gs_base",
        value: format!("{value:#x}"),
        from: "of user mode, as it was saved".to_owned(),
    }));
    let DescriptorTables { idt, gdt, tr, .. } = DescriptorTables::of(kernel, task);
    for (register, known) in [("idt", idt), ("gdt", gdt), ("tr", tr)] {
        rows.extend(known.map(|(table, from)| System {
            register,
            value: format!("{:#x} {:#x}", table.base, table.limit),
            from: format!("base and limit: {from}"),
        }));
    }
    rows
}

/// Where registers came from, in words.
pub(super) fn source(source: &Source) -> String {
    match source {
        Source::SwitchFrame => "saved on its stack when it was switched out".to_owned(),
        Source::NewBorn => "of its start: it has not run yet".to_owned(),
        Source::CrashNote => "saved by its CPU in the crash (crash_notes)".to_owned(),
        Source::PrStatus => "the dump's note for its CPU".to_owned(),
        Source::PrStatusByStack => "the dump's note whose stack pointer lies on its stack".to_owned(),
        Source::PrStatusByPosition => "a note taken for its CPU's by position: a guess".to_owned(),
        Source::Nowhere(why) => format!("none: {why}"),
    }
}

/// `PF_` flags that say something to a person (`include/linux/sched.h`).
fn flags(value: u64) -> String {
    const NAMES: [(u64, &str); 10] = [
        (0x2, "PF_IDLE"),
        (0x4, "PF_EXITING"),
        (0x20, "PF_WQ_WORKER"),
        (0x40, "PF_FORKNOEXEC"),
        (0x100, "PF_SUPERPRIV"),
        (0x200, "PF_DUMPCORE"),
        (0x400, "PF_SIGNALED"),
        (0x800, "PF_MEMALLOC"),
        (0x0020_0000, "PF_KTHREAD"),
        (0x0002_0000, "PF_KSWAPD"),
    ];
    flag_names(value, &NAMES).map_or_else(|| format!("{value:#x}"), |names| format!("{value:#x} ({names})"))
}
