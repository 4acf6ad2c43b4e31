//! `triage`: one screen for a person who knows nothing of this dump.

use std::io::Write;

use super::bt::{self, Places, Style};
use super::{Command, CommandError, Request, Subject, json, only_kernel};
use crate::addr::VirtAddr;
use crate::arch::Register;
use crate::linux::log::{self, Log};
use crate::linux::registers::{self, TaskRegisters};
use crate::linux::{Kernel, Task, clock, taint};
use crate::memory::AddressSpace;
use crate::unwind::{self, Frame, FrameKind, Trace};

pub(super) const COMMAND: Command = Command {
    name: "triage",
    usage: "",
    summary: "one screen: what happened, the likely culprit, other CPUs, blocked tasks, last messages",
    help: "The culprit is a guess, and says by what rule: the instruction that an exception interrupted,\n\
           else the first caller of panic() and its like; a frame of a module comes first where one is near.",
    kernel: true,
    process: false,
    run,
};

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

#[derive(serde::Serialize)]
struct Culprit<'a> {
    symbol: Option<&'a str>,
    offset: Option<u64>,
    module: Option<&'a str>,
    pc: String,
    rule: &'static str,
}

#[derive(serde::Serialize)]
struct Triage<'a> {
    panic: Option<&'a str>,
    release: String,
    pid: Option<u32>,
    comm: Option<&'a str>,
    cpu: Option<u32>,
    exception: Option<String>,
    fault_address: Option<String>,
    culprit: Option<Culprit<'a>>,
    taint: String,
    blocked: usize,
}

fn run(subject: Subject<'_>, request: &Request<'_>, out: &mut dyn Write) -> Result<(), CommandError> {
    let kernel = only_kernel(subject)?;
    let log = log::read(kernel).unwrap_or_default();
    let active: Vec<&Task> = super::select::active(kernel).into_iter().map(AsRef::as_ref).collect();
    let crashed = kernel.panic_task().map(AsRef::as_ref);
    let shown = crashed.or_else(|| active.first().copied());
    let trace = shown.map(|t| unwind::with_crash_path(kernel, t));
    let culprit = crashed.and(trace.as_ref()).and_then(|t| culprit(kernel, t));
    let exception = trace.as_ref().and_then(|t| exception(kernel, t));
    let fault = crashed.and_then(|_| fault_address(&log, exception.as_deref()));
    let blocked: Vec<&Task> =
        kernel.tasks().all().iter().map(AsRef::as_ref).filter(|t: &&Task| t.state == 'D').collect();
    let taints = taint::of_kernel(kernel).unwrap_or(0);
    if request.json {
        let triage = Triage {
            panic: log::panic_message(&log),
            release: kernel.utsname().release,
            pid: crashed.map(|t| t.pid),
            comm: crashed.map(|t| t.comm.as_str()),
            cpu: crashed.map(|t| t.cpu),
            exception,
            fault_address: fault.map(|a| format!("{a:#x}")),
            culprit,
            taint: taint::letters(taints),
            blocked: blocked.len(),
        };
        return json(&triage, out);
    }
    what_happened(kernel, &log, crashed, taints, out)?;
    if let (Some(task), Some(trace)) = (shown, &trace) {
        crashed_stack(
            kernel,
            task,
            trace,
            crashed.is_some(),
            exception.as_deref(),
            fault,
            culprit.as_ref(),
            out,
        )?;
    }
    super::check(request)?;
    other_cpus(kernel, &active, shown, out)?;
    super::check(request)?;
    if !blocked.is_empty() {
        writeln!(out, "\nBLOCKED (state D): {} tasks", blocked.len())?;
        let groups = bt::collapse(kernel, &blocked, request.cancelled)?;
        bt::write_groups(kernel, &groups, out)?;
    }
    last_words(&log, out)
}

fn what_happened(
    kernel: &Kernel,
    log: &Log,
    crashed: Option<&Task>,
    taints: u64,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let uts = kernel.utsname();
    writeln!(out, "{}  Linux {} {}", kernel.dump().path().display(), uts.release, uts.machine)?;
    if let Some(clock) = clock::read(kernel) {
        writeln!(out, "stopped {} after {}", clock::date(clock.date), clock::uptime(clock.uptime))?;
    }
    match (log::panic_message(log), crashed) {
        (Some(line), _) => writeln!(out, "\n{}", line.trim())?,
        (None, Some(_)) => writeln!(out, "\nThe kernel panicked; its log does not say why.")?,
        (None, None) => writeln!(out, "\nNo crash: the dump was taken of a running machine.")?,
    }
    if let Some(t) = crashed {
        writeln!(out, "in pid {} \"{}\" on CPU {}", t.pid, t.comm, t.cpu)?;
    }
    for (letter, why) in taint::set(taints) {
        writeln!(out, "tainted {letter}: {why}")?;
    }
    if let Some(lost) = kernel.dump().incomplete() {
        writeln!(out, "THE DUMP IS INCOMPLETE: {lost}")?;
    }
    Ok(())
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
            pc: format!("{:#x}", frame.pc),
            rule,
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

#[allow(clippy::too_many_arguments, reason = "one call site")]
fn crashed_stack(
    kernel: &Kernel,
    task: &Task,
    trace: &Trace,
    crashed: bool,
    exception: Option<&str>,
    fault: Option<u64>,
    culprit: Option<&Culprit<'_>>,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    if let Some(exception) = exception.filter(|_| crashed) {
        write!(out, "by {exception}")?;
        if let Some(address) = fault {
            write!(out, " at address {address:#x}")?;
            if address < 4096 {
                write!(out, " (a member of a null pointer)")?;
            }
        }
        writeln!(out)?;
    }
    if let Some(c) = culprit {
        write!(out, "\nLIKELY CULPRIT: ")?;
        match (c.symbol, c.offset) {
            (Some(name), Some(offset)) => write!(out, "{name}+{offset:#x}")?,
            _ => write!(out, "{}", c.pc)?,
        }
        if let Some(module) = c.module {
            write!(out, " of module {module}")?;
            let taints = kernel.modules().iter().find(|m| m.name == module).map_or(0, |m| m.taints);
            let why: Vec<&str> = taint::set(taints).map(|(_, why)| why).collect();
            if !why.is_empty() {
                write!(out, " ({})", why.join("; "))?;
            }
        }
        writeln!(out, "\n    by rule: {}", c.rule)?;
        let at = u64::from_str_radix(c.pc.trim_start_matches("0x"), 16).unwrap_or(0);
        let files = super::lines::LineFiles::new(kernel);
        let lines = super::lines::Lines::new(&files);
        let exact = c.rule.starts_with("the instruction");
        for line in lines.of(VirtAddr(if exact { at } else { at.wrapping_sub(1) })) {
            writeln!(out, "    {line}")?;
        }
    }
    writeln!(out, "\nSTACK")?;
    bt::heading(task, out)?;
    bt::write_trace(kernel, task, trace, Style::default(), None, out)?;
    let regs = registers::of(kernel, task);
    // In a panic() they are those of the code that saves registers.
    if crashed && !regs.in_user_mode() && exception.is_some() {
        code(kernel, &regs, out)?;
    }
    Ok(())
}

/// The bytes around the instruction, as an oops has them.
fn code(kernel: &Kernel, regs: &TaskRegisters, out: &mut dyn Write) -> Result<(), CommandError> {
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
                return Ok(writeln!(out, "Code: not known: {fault}")?);
            }
            Err(_) => text.push_str(" ??"),
        }
    }
    Ok(writeln!(out, "{text}")?)
}

fn other_cpus(
    kernel: &Kernel,
    active: &[&Task],
    shown: Option<&Task>,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let mut places = Places::default();
    writeln!(out, "\nOTHER CPUS")?;
    for task in active.iter().filter(|t| shown.is_none_or(|s| s.addr != t.addr)) {
        let trace = unwind::task(kernel, task);
        write!(out, "CPU {:<3} pid {:<7} {:<16}", task.cpu, task.pid, task.comm)?;
        if trace.frames.first().is_some_and(|f| f.kind == FrameKind::User) {
            writeln!(out, " in user mode")?;
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
            Some(why) if names.is_empty() => writeln!(out, " ({why})")?,
            _ => writeln!(out, " {}", names.join(" < "))?,
        }
    }
    Ok(())
}

fn last_words(log: &Log, out: &mut dyn Write) -> Result<(), CommandError> {
    writeln!(out, "\nLAST MESSAGES")?;
    // The registers and stack of the oops itself are above: what led to it counts.
    let end = log
        .records
        .iter()
        .position(|r| r.text.contains("Call Trace:") || r.text.starts_with("CPU: "))
        .unwrap_or(log.records.len());
    let from = end.saturating_sub(LINES);
    for record in log.records.get(from..end).unwrap_or_default() {
        super::log::write_record(record, super::log::Form::default(), out)?;
    }
    Ok(())
}
