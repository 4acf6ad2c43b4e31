//! `triage`: one screen for a person who knows nothing of this dump.

use std::io;

use serde::Serialize;

use super::bt::{self, Places, Style};
use super::lines::{LineFiles, Lines};
use super::{Answer, Command, Context, NoArguments, Result, Text};
use crate::addr::VirtAddr;
use crate::arch::Register;
use crate::linux::log::{self, Log};
use crate::linux::registers::{self, TaskRegisters};
use crate::linux::{Kernel, Panicked, Task, clock, taint};
use crate::text::{Screen, put, row};
use crate::unwind::{self, Frame, FrameKind, Trace};

pub(super) fn command() -> Command {
    Command::of_kernel(
        "triage",
        "one screen: what happened, the likely culprit, other CPUs, blocked tasks, last messages",
        "The culprit is a guess, and says by what rule: the instruction that an exception interrupted, \
         else the first caller of panic() and its like; a frame of a module comes first where one is near.",
        run,
    )
}

/// Frames of other CPUs and of blocked tasks that are shown.
const SHORT: usize = 8;
/// Lines of the log at the end.
const LINES: usize = 12;
/// How near to the innermost frame a module's must be to be suspected.
const NEAR: usize = 6;

/// Functions that report a death and do not cause it: names, or their beginnings.
const REPORTERS: [&str; 36] = [
    "machine_kexec",
    "__crash_kexec",
    "crash_kexec",
    "crash_save_cpu",
    "panic",
    "vpanic",
    "nmi_panic",
    "oops_end",
    "oops_begin",
    "die",
    "__die",
    "die_addr",
    "die_body",
    "no_context",
    "page_fault_oops",
    "bad_area",
    "__bad_area",
    "exc_",
    "asm_exc_",
    "do_trap",
    "do_error_trap",
    "do_user_addr_fault",
    "do_kern_addr_fault",
    "kernelmode_fixup_or_oops",
    "handle_bug",
    "report_bug",
    "__warn",
    "warn_slowpath",
    "check_panic_on_warn",
    "__stack_chk_fail",
    "__fortify_",
    "fortify_panic",
    "crash_nmi_callback",
    "default_do_nmi",
    "end_repeat_nmi",
    "native_machine_",
];

#[derive(Serialize)]
struct Culprit<'a> {
    symbol: Option<&'a str>,
    offset: Option<u64>,
    module: Option<&'a str>,
    pc: VirtAddr,
    rule: &'static str,
    /// Where its source line is looked up.
    #[serde(skip)]
    line_at: VirtAddr,
}

#[derive(Serialize)]
struct Triage<'d> {
    panic: Option<String>,
    release: String,
    pid: Option<u32>,
    comm: Option<&'d str>,
    cpu: Option<u32>,
    exception: Option<String>,
    fault_address: Option<VirtAddr>,
    culprit: Option<Culprit<'d>>,
    taint: String,
    blocked: usize,
    #[serde(skip)]
    more: More<'d>,
}

/// What only the text shows, or needs.
struct More<'d> {
    kernel: &'d Kernel,
    context: Context<'d>,
    active: Vec<&'d Task>,
    blocked: Vec<&'d Task>,
    crashed: Option<&'d Task>,
    /// The task that crashed, or what the first CPU was running, with its stack.
    shown: Option<(&'d Task, Trace)>,
    taints: u64,
}

fn run<'d>(kernel: &'d Kernel, _: NoArguments, context: Context<'d>) -> Result<Answer<'d>> {
    let log = kernel.log();
    let active: Vec<&Task> = super::select::active(kernel).into_iter().map(AsRef::as_ref).collect();
    let crashed = kernel.panic_task().map(AsRef::as_ref);
    let shown = match kernel.panicked() {
        Panicked::Unreadable(_) => None,
        Panicked::Task(_) | Panicked::Nobody => crashed.or_else(|| active.first().copied()),
    };
    let shown = shown.map(|t| (t, unwind::with_crash_path(kernel, t)));
    let trace = shown.as_ref().map(|(_, trace)| trace);
    let exception = trace.and_then(|t| exception(kernel, t));
    let blocked: Vec<&Task> =
        kernel.tasks().all().iter().map(AsRef::as_ref).filter(|t: &&Task| t.state == 'D').collect();
    let taints = taint::of_kernel(kernel).unwrap_or(0);
    let triage = Triage {
        panic: log::panic_message(log).map(str::to_owned),
        release: kernel.utsname().release,
        pid: crashed.map(|t| t.pid),
        comm: crashed.map(|t| t.comm.as_str()),
        cpu: crashed.map(|t| t.cpu),
        fault_address: crashed.and_then(|_| fault_address(log, exception.as_deref())).map(VirtAddr),
        exception,
        culprit: crashed.and(trace).and_then(|t| culprit(kernel, t)),
        taint: taint::letters(taints),
        blocked: blocked.len(),
        more: More { kernel, context, active, blocked, crashed, shown, taints },
    };
    Ok(triage.into())
}

impl Text for Triage<'_> {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        let More { kernel, context, blocked, .. } = &self.more;
        self.what_happened(screen)?;
        self.crashed_stack(screen)?;
        context.check()?;
        self.other_cpus(screen)?;
        context.check()?;
        if !blocked.is_empty() {
            row!(screen)?;
            row!(screen, "BLOCKED (state D): {} tasks", blocked.len())?;
            let groups = bt::collapse(kernel, blocked, *context)?;
            bt::write_groups(kernel, &groups, screen)?;
        }
        Ok(last_words(kernel.log(), screen)?)
    }
}

impl Triage<'_> {
    fn what_happened(&self, screen: &mut Screen<'_>) -> io::Result<()> {
        let More { kernel, crashed, taints, .. } = self.more;
        let uts = kernel.utsname();
        row!(screen, "{}  Linux {} {}", kernel.dump().path().display(), uts.release, uts.machine)?;
        if let Some(clock) = clock::read(kernel) {
            row!(screen, "stopped {} after {}", clock::date(clock.date), clock::uptime(clock.uptime))?;
        }
        row!(screen)?;
        match (&self.panic, crashed) {
            (Some(line), _) => row!(screen, "{}", line.trim())?,
            (None, Some(_)) => row!(screen, "The kernel panicked; its log does not say why.")?,
            (None, None) if *kernel.panicked() != Panicked::Nobody => {}
            (None, None) => row!(screen, "No crash: the dump was taken of a running machine.")?,
        }
        if let Panicked::Unreadable(why) = kernel.panicked() {
            row!(screen, "WHO PANICKED IS NOT KNOWN: {why}")?;
        }
        if let Some(t) = crashed {
            row!(screen, "in pid {} \"{}\" on CPU {}", t.pid, t.comm, t.cpu)?;
        }
        for (letter, why) in taint::set(taints) {
            row!(screen, "tainted {letter}: {why}")?;
        }
        if let Some(lost) = kernel.dump().incomplete() {
            row!(screen, "THE DUMP IS INCOMPLETE: {lost}")?;
        }
        Ok(())
    }

    fn crashed_stack(&self, screen: &mut Screen<'_>) -> io::Result<()> {
        let More { kernel, crashed, shown: Some((task, trace)), .. } = &self.more else { return Ok(()) };
        if let Some(exception) = self.exception.as_ref().filter(|_| crashed.is_some()) {
            put!(screen, "by {exception}");
            if let Some(address) = self.fault_address {
                put!(screen, " at address {address}");
                if address.0 < 4096 {
                    put!(screen, " (a member of a null pointer)");
                }
            }
            row!(screen)?;
        }
        if let Some(culprit) = &self.culprit {
            self.accuse(culprit, screen)?;
        }
        row!(screen)?;
        row!(screen, "STACK")?;
        bt::heading(task, screen)?;
        bt::write_trace(kernel, task, trace, Style::default(), None, screen)?;
        let regs = registers::of(kernel, task);
        // In a panic() they are those of the code that saves registers.
        if crashed.is_some() && !regs.in_user_mode() && self.exception.is_some() {
            code(kernel, &regs, screen)?;
        }
        Ok(())
    }

    fn accuse(&self, culprit: &Culprit<'_>, screen: &mut Screen<'_>) -> io::Result<()> {
        let kernel = self.more.kernel;
        row!(screen)?;
        put!(screen, "LIKELY CULPRIT: ");
        match (culprit.symbol, culprit.offset) {
            (Some(name), Some(offset)) => put!(screen, "{name}+{offset:#x}"),
            _ => put!(screen, "{}", culprit.pc),
        }
        if let Some(module) = culprit.module {
            put!(screen, " of module {module}");
            let taints = kernel.modules().iter().find(|m| m.name == module).map_or(0, |m| m.taints);
            let why: Vec<&str> = taint::set(taints).map(|(_, why)| why).collect();
            if !why.is_empty() {
                put!(screen, " ({})", why.join("; "));
            }
        }
        row!(screen)?;
        row!(screen, "    by rule: {}", culprit.rule)?;
        let files = LineFiles::new(kernel);
        let lines = Lines::new(&files).of(culprit.line_at);
        lines.iter().try_for_each(|line| row!(screen, "    {line}"))
    }

    fn other_cpus(&self, screen: &mut Screen<'_>) -> io::Result<()> {
        let More { kernel, active, shown, .. } = &self.more;
        let mut places = Places::default();
        row!(screen)?;
        row!(screen, "OTHER CPUS")?;
        for task in active.iter().filter(|t| shown.as_ref().is_none_or(|(s, _)| s.addr != t.addr)) {
            let trace = unwind::task(kernel, task);
            put!(screen, "CPU {:<3} pid {:<7} {:<16}", task.cpu, task.pid, task.comm);
            if trace.frames.first().is_some_and(|f| f.kind == FrameKind::User) {
                row!(screen, " in user mode")?;
                continue;
            }
            let names: Vec<String> = trace
                .frames
                .iter()
                .filter(|f| f.kind != FrameKind::User)
                .take(SHORT)
                .map(|f| places.of(kernel, f).map_or_else(|| format!("{:#x}", f.pc), |p| p.name.to_owned()))
                .collect();
            match trace.end.sentence() {
                Some(why) if names.is_empty() => row!(screen, " ({why})")?,
                _ => row!(screen, " {}", names.join(" < "))?,
            }
        }
        Ok(())
    }
}

/// The exception's entry on the way to the crash: `page fault`.
fn exception(kernel: &Kernel, trace: &Trace) -> Option<String> {
    let entry = trace.frames.iter().find_map(|f| {
        let name = bt::place(kernel, f.lookup_pc()).filter(|_| f.kind == FrameKind::Call)?.name;
        name.strip_prefix("asm_exc_").filter(|n| *n != "nmi")
    })?;
    let (symbol, words) = match entry {
        "page_fault" => ("#PF", "page fault"),
        "general_protection" => ("#GP", "general protection fault"),
        "invalid_op" => ("#UD", "invalid opcode (BUG() and WARN() use it)"),
        "divide_error" => ("#DE", "divide error"),
        "double_fault" => ("#DF", "double fault"),
        "stack_segment" => ("#SS", "stack segment fault"),
        "machine_check" => ("#MC", "machine check"),
        "debug" => ("#DB", "debug exception"),
        "int3" => ("#BP", "breakpoint"),
        "control_protection" => ("#CP", "control protection fault"),
        other => return Some(other.replace('_', " ")),
    };
    Some(format!("{symbol} {words}"))
}

/// What the page fault was for, as the oops in the log says it
/// (`show_fault_oops()`, `arch/x86/mm/fault.c`): no register in memory keeps it.
fn fault_address(log: &Log, exception: Option<&str>) -> Option<u64> {
    exception.filter(|e| e.starts_with("#PF"))?;
    let line =
        log.records.iter().rev().find(|r| r.text.starts_with("BUG: ") && r.text.contains("address"))?;
    let digits = line.text.rsplit(' ').next()?;
    u64::from_str_radix(digits.trim_start_matches("0x"), 16).ok()
}

fn reporter(name: &str) -> bool {
    REPORTERS.iter().any(|r| {
        name == *r
            || name.strip_prefix(r).is_some_and(|rest| rest.starts_with('.'))
            || r.ends_with('_') && name.starts_with(r)
    })
}

/// The frame to look at first.
fn culprit<'a>(kernel: &'a Kernel, trace: &Trace) -> Option<Culprit<'a>> {
    let mut places = Places::default();
    let exact = trace.frames.iter().position(|f| f.kind == FrameKind::Regs);
    let (first, rule) = match exact {
        Some(i) => (i, "the instruction that the exception interrupted"),
        None => {
            let i = trace.frames.iter().position(|f| {
                f.kind == FrameKind::Call && !places.of(kernel, f).is_some_and(|p| reporter(p.name))
            })?;
            (i, "the first caller of the code that reports a crash")
        }
    };
    let found = |frame: &Frame, rule, places: &mut Places<'a>| {
        let place = places.of(kernel, frame);
        Culprit {
            symbol: place.map(|p| p.name),
            offset: place.map(|p| p.offset),
            module: place.and_then(|p| p.module),
            pc: VirtAddr(frame.pc),
            rule,
            line_at: VirtAddr(frame.lookup_pc()),
        }
    };
    let frame = trace.frames.get(first)?;
    let innermost = found(frame, rule, &mut places);
    if innermost.module.is_some() {
        return Some(innermost);
    }
    let module = trace
        .frames
        .iter()
        .skip(first)
        .take(NEAR)
        .find(|f| f.kind != FrameKind::User && places.of(kernel, f).is_some_and(|p| p.module.is_some()));
    match module {
        Some(frame) => Some(found(frame, "the nearest frame of a module", &mut places)),
        None => Some(innermost),
    }
}

/// The bytes around the instruction, as an oops has them.
fn code(kernel: &Kernel, regs: &TaskRegisters, screen: &mut Screen<'_>) -> io::Result<()> {
    const BEFORE: u64 = 42;
    const AFTER: u64 = 22;
    let Some(rip) = regs.get(Register::Rip) else { return Ok(()) };
    let mut text = String::from("Code:");
    for at in rip.saturating_sub(BEFORE)..rip.saturating_add(AFTER) {
        let mut byte = [0];
        match kernel.space().read_exact(VirtAddr(at), &mut byte) {
            Ok(()) if at == rip => text.push_str(&format!(" <{:02x}>", byte[0])),
            Ok(()) => text.push_str(&format!(" {:02x}", byte[0])),
            Err(fault) if at == rip => {
                return row!(screen, "Code: not known: {fault}");
            }
            Err(_) => text.push_str(" ??"),
        }
    }
    row!(screen, "{text}")
}

fn last_words(log: &Log, screen: &mut Screen<'_>) -> io::Result<()> {
    row!(screen)?;
    row!(screen, "LAST MESSAGES")?;
    // The registers and stack of the oops itself are above: what led to it counts.
    let end = log
        .records
        .iter()
        .position(|r| r.text.contains("Call Trace:") || r.text.starts_with("CPU: "))
        .unwrap_or(log.records.len());
    let from = end.saturating_sub(LINES);
    for record in log.records.get(from..end).unwrap_or_default() {
        super::log::write_record(record, super::log::Form::default(), screen)?;
    }
    Ok(())
}
