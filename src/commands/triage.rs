//! `triage`: one screen for a person who knows nothing of this dump.
//!
//! Here is what is found out; [`screen`] shows it as one screen, [`full`] at length.

use clap::Args;
use serde::Serialize;

use super::bt::{self, Places};
use super::kmem::damage::Damage;
use super::lines::{LineFiles, Lines};
use super::locks::{self, Blocked};
use super::{Answer, Command, Context, Result, Text, entry, kmem, signature};
use crate::addr::VirtAddr;
use crate::linux::log::{self, Log};
use crate::linux::registers::{self, TaskRegisters};
use crate::linux::{Kernel, Panicked, Task, clock, stacks, taint};
use crate::text::{Screen, row};
use crate::unwind::{self, Frame, FrameKind, Trace};
use oom::OutOfMemory;

#[path = "triage_full.rs"]
mod full;
#[path = "triage_memory.rs"]
mod memory;
#[path = "triage_oom.rs"]
mod oom;
#[path = "triage_screen.rs"]
mod screen;

pub(super) fn command() -> Command {
    Command::of_kernel(
        "triage",
        "one screen: what happened, the likely culprit, other CPUs, blocked tasks, last messages",
        "The culprit is a guess, and says by what rule: the instruction that an exception interrupted, \
         else the first caller of panic() and its like; a frame of a module comes first where one is near.",
        run,
    )
}

/// What stands for what is left out.
const CUT: &str = "...";

#[derive(Args)]
struct Arguments {
    /// Whole stacks with registers, all blocked tasks, more of the log
    #[arg(long)]
    full: bool,
}

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
    /// Which frame of the stack that is shown.
    #[serde(skip)]
    frame: usize,
    symbol: Option<&'a str>,
    offset: Option<u64>,
    module: Option<&'a str>,
    pc: VirtAddr,
    rule: &'static str,
    /// Where its source line is looked up.
    #[serde(skip)]
    line_at: VirtAddr,
}

impl Culprit<'_> {
    /// `labcrash_level3+0x5`
    fn place(&self) -> Option<String> {
        Some(format!("{}+{:#x}", self.symbol?, self.offset?))
    }
}

#[derive(Serialize)]
pub(super) struct Triage<'d> {
    pub(super) panic: Option<String>,
    release: String,
    pid: Option<u32>,
    comm: Option<&'d str>,
    cpu: Option<u32>,
    pub(super) exception: Option<String>,
    fault_address: Option<VirtAddr>,
    culprit: Option<Culprit<'d>>,
    taint: String,
    blocked: usize,
    /// See [`signature`].
    pub(super) signature: Option<String>,
    pub(super) coarse_signature: Option<String>,
    /// The tasks for whose sleep the kernel panicked (`hung_task_panic`), in words.
    hung: Vec<String>,
    /// Memory ran out: who has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    out_of_memory: Option<OutOfMemory>,
    /// Lists of free objects that are smashed.
    slab_damage: Vec<Damage>,
    /// Blocked tasks that wait for a lock, those in a deadlock first.
    locks: Vec<Blocked>,
    #[serde(skip)]
    more: More<'d>,
}

/// What only the text shows, or needs.
struct More<'d> {
    full: bool,
    kernel: &'d Kernel,
    context: Context<'d>,
    active: Vec<&'d Task>,
    blocked: Vec<&'d Task>,
    crashed: Option<&'d Task>,
    /// The task that crashed, or what the first CPU was running, with its stack.
    shown: Option<(&'d Task, Trace)>,
    /// Which of its frames is the first that did not report the crash.
    innermost: usize,
    taints: u64,
}

fn run<'d>(kernel: &'d Kernel, args: Arguments, context: Context<'d>) -> Result<Answer<'d>> {
    Ok(of(kernel, args.full, context)?.into())
}

/// All that is found out, shown at length if `full`.
pub(super) fn of<'d>(kernel: &'d Kernel, full: bool, context: Context<'d>) -> Result<Triage<'d>> {
    let log = kernel.log();
    let active: Vec<&Task> = super::select::active(kernel).into_iter().map(AsRef::as_ref).collect();
    let crashed = kernel.panic_task().map(AsRef::as_ref);
    let shown = super::select::shown(kernel).map(|t| (t, unwind::with_crash_path(kernel, t)));
    let trace = shown.as_ref().map(|(_, trace)| trace);
    let mended = trace.is_some_and(|t| mended(kernel, t));
    let exception = trace.filter(|_| !mended).and_then(|t| exception(kernel, t));
    // Which frame an exception interrupted that led to the crash.
    let exact =
        trace.filter(|_| !mended).and_then(|t| t.frames.iter().position(|f| f.kind == FrameKind::Regs));
    let blocked: Vec<&Task> =
        kernel.tasks().all().iter().map(AsRef::as_ref).filter(|t: &&Task| t.state == 'D').collect();
    let taints = taint::of_kernel(kernel).unwrap_or(0);
    let panic = log::panic_message(log).map(str::to_owned);
    let mut locks = locks::blocked(kernel, false, context)?;
    let by_watch = panic.as_ref().is_some_and(|message| message.contains("hung_task: "));
    let hung: Vec<String> =
        locks.iter().filter(|b| by_watch && b.is_reported()).map(Blocked::with_place).collect();
    locks.retain(Blocked::is_of_a_lock);
    // Of khungtaskd's own stack nothing is to blame.
    let culprit = crashed.and(trace).filter(|_| hung.is_empty()).and_then(|t| culprit(kernel, t, exact));
    let signatures =
        crashed.and(trace).map(|t| signatures(kernel, t, exact, exception.as_deref(), culprit.as_ref()));
    let (signature, coarse_signature) = signatures.unzip();
    // A machine that ran may have been stopped in the middle of a change.
    let (slab_damage, caches) = crashed.map(|_| memory::damage(kernel)).unwrap_or_default();
    let out_of_memory = OutOfMemory::of(kernel, panic.as_deref(), caches);
    let innermost = culprit.as_ref().map_or(0, |culprit| culprit.frame);
    // Whoever asked last is not to blame for what others have.
    let culprit = culprit.filter(|_| !out_of_memory.as_ref().is_some_and(|memory| memory.fatal));
    Ok(Triage {
        panic,
        hung,
        release: kernel.utsname().release,
        pid: crashed.and_then(Task::known_pid),
        comm: crashed.and_then(Task::known_comm),
        cpu: crashed.and_then(|t| t.cpu),
        fault_address: crashed.and_then(|_| fault_address(log, exception.as_deref())).map(VirtAddr),
        exception,
        culprit,
        taint: taint::letters(taints),
        blocked: blocked.len(),
        signature,
        coarse_signature,
        out_of_memory,
        slab_damage,
        locks,
        more: More { full, kernel, context, active, blocked, crashed, shown, innermost, taints },
    })
}

impl Text for Triage<'_> {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        if self.more.full { self.full(screen) } else { self.screen(screen) }
    }
}

impl Triage<'_> {
    /// Which dump, of which kernel, from when. Of a path that does not fit into
    /// `columns` the end is shown.
    fn which(&self, columns: Option<usize>, screen: &mut Screen<'_>) -> std::io::Result<()> {
        let kernel = self.more.kernel;
        let uts = kernel.utsname();
        let what = format!("Linux {} {}", uts.release, uts.machine);
        let mut path = kernel.dump().path().display().to_string();
        let room = columns.map_or(usize::MAX, |columns| columns.saturating_sub(what.chars().count() + 2));
        let length = path.chars().count();
        if length > room {
            let end = path.chars().skip(length.saturating_sub(room.saturating_sub(CUT.len())));
            path = format!("{CUT}{}", end.collect::<String>());
        }
        row!(screen, "{path}  {what}")?;
        match clock::read(kernel) {
            Some(clock) => {
                row!(screen, "stopped {} after {}", clock::date(clock.date), clock::uptime(clock.uptime))
            }
            None => Ok(()),
        }
    }

    /// Of what it died, and who died, as far as that is not known: a line each.
    fn death(&self) -> Vec<String> {
        let panicked = self.more.kernel.panicked();
        let what = match (&self.panic, self.more.crashed) {
            (Some(line), _) => Some(line.trim()),
            (None, Some(_)) => Some("The kernel panicked; its log does not say why."),
            (None, None) if *panicked != Panicked::Nobody => None,
            (None, None) => Some("No crash: the dump was taken of a running machine."),
        };
        let unknown = |why: &str| {
            let report = log::last_report(self.more.kernel.log());
            let says = report.map(|report| format!("THE LOG'S LAST REPORT SAYS {}", report.text));
            [Some(format!("WHO PANICKED IS NOT KNOWN: {why}")), says].into_iter().flatten().collect()
        };
        let who: Vec<String> = match panicked {
            Panicked::Unreadable(why) => unknown(why),
            Panicked::Task(task) if task.unread => {
                unknown(&format!("the task_struct at {} cannot be read", task.addr))
            }
            Panicked::Reported(_, why) => vec![format!("WHO PANICKED IS KNOWN BY THE LOG ALONE: {why}")],
            Panicked::Task(_) | Panicked::Nobody => Vec::new(),
        };
        let overflow =
            self.more.shown.as_ref().is_some_and(|(task, trace)| {
                trace.frames.iter().any(|f| stacks::overflow(task, f.sp).is_some())
            });
        let overflow = overflow.then(|| "THE KERNEL STACK OVERFLOWED.".to_owned());
        what.map(str::to_owned).into_iter().chain(overflow).chain(who).collect()
    }

    /// `#PF page fault at address 0xb (a member of a null pointer)`, if somebody crashed by one.
    fn by(&self) -> Option<String> {
        let exception = self.exception.as_ref().filter(|_| self.more.crashed.is_some())?;
        let at = self.fault_address.map(|address| {
            let null = if address.0 < 4096 { " (a member of a null pointer)" } else { "" };
            format!(" at address {address}{null}")
        });
        Some(format!("{exception}{}", at.unwrap_or_default()))
    }

    /// `labcrash_level3+0x5 of module labcrash`.
    fn suspect(culprit: &Culprit<'_>) -> String {
        let place = culprit.place().unwrap_or_else(|| culprit.pc.to_string());
        culprit.module.map_or(place.clone(), |module| format!("{place} of module {module}"))
    }

    /// The registers that an exception in the kernel interrupted. In a panic() they are
    /// those of the code that saves registers.
    fn at_the_exception(&self) -> Option<TaskRegisters> {
        self.exception.as_ref()?;
        let regs = registers::of(self.more.kernel, self.more.crashed?);
        (!regs.in_user_mode()).then_some(regs)
    }

    /// Source lines of the culprit.
    fn lines(&self, culprit: &Culprit<'_>) -> Vec<String> {
        let files = LineFiles::new(self.more.kernel);
        Lines::new(&files).of(culprit.line_at)
    }

    /// The tasks that other CPUs were running.
    fn others(&self) -> impl Iterator<Item = &Task> {
        let shown = self.more.shown.as_ref().map(|(task, _)| task.addr);
        self.more.active.iter().copied().filter(move |task| Some(task.addr) != shown)
    }
}

/// The messages that led to the crash: what the oops itself says of registers and stack
/// is known better.
fn last_words(log: &Log, lines: usize) -> &[log::Record] {
    let end = log
        .records
        .iter()
        .position(|r| r.text.contains("Call Trace:") || r.text.starts_with("CPU: "))
        .unwrap_or(log.records.len());
    log.records.get(end.saturating_sub(lines)..end).unwrap_or_default()
}

/// Whether the innermost exception is a page fault that the kernel was about to mend: what
/// came of that is to blame, no memory or a file system, and not the access.
fn mended(kernel: &Kernel, trace: &Trace) -> bool {
    let inward = trace.frames.iter().take_while(|f| f.kind == FrameKind::Call);
    let mut names = inward.filter_map(|f| bt::place(kernel, f.lookup_pc())).map(|place| place.name);
    names.any(|name| name == "handle_mm_fault")
}

/// The exception's entry on the way to the crash: `page fault`.
fn exception(kernel: &Kernel, trace: &Trace) -> Option<String> {
    let by = trace.frames.iter().find_map(|f| {
        let name = bt::place(kernel, f.lookup_pc()).filter(|_| f.kind == FrameKind::Call)?.name;
        entry::exception(name)
    })?;
    let (symbol, words) = match by {
        "page_fault" | "async_page_fault" => ("#PF", "page fault"),
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

/// The signature, and the coarse one.
fn signatures(
    kernel: &Kernel,
    trace: &Trace,
    exact: Option<usize>,
    exception: Option<&str>,
    culprit: Option<&Culprit<'_>>,
) -> (String, String) {
    let frames = trace.frames.iter().skip(exact.unwrap_or(0)).filter(|f| f.kind != FrameKind::User);
    let names = frames.filter_map(|f| Some(bt::place(kernel, f.lookup_pc())?.name));
    let names = names.filter(|name| !reporter(name)).take(signature::FRAMES);
    let exception = exception.and_then(|e| e.split(' ').next()).unwrap_or("panic");
    let culprit = culprit.and_then(|c| c.symbol).unwrap_or("unknown");
    (signature::of(names), signature::of([exception, culprit]))
}

fn reporter(name: &str) -> bool {
    REPORTERS.iter().any(|r| {
        name == *r
            || name.strip_prefix(r).is_some_and(|rest| rest.starts_with('.'))
            || r.ends_with('_') && name.starts_with(r)
    })
}

/// The frame to look at first.
fn culprit<'a>(kernel: &'a Kernel, trace: &Trace, exact: Option<usize>) -> Option<Culprit<'a>> {
    let mut places = Places::default();
    let (first, rule) = match exact {
        Some(i) => (i, "the instruction that the exception interrupted"),
        None => {
            let i = trace.frames.iter().position(|f| {
                f.kind == FrameKind::Call && !places.of(kernel, f).is_some_and(|p| reporter(p.name))
            })?;
            (i, "the first caller of the code that reports a crash")
        }
    };
    let found = |at: usize, frame: &Frame, rule, places: &mut Places<'a>| {
        let place = places.of(kernel, frame);
        Culprit {
            frame: at,
            symbol: place.map(|p| p.name),
            offset: place.map(|p| p.offset),
            module: place.and_then(|p| p.module),
            pc: VirtAddr(frame.pc),
            rule,
            line_at: VirtAddr(frame.lookup_pc()),
        }
    };
    let frame = trace.frames.get(first)?;
    let innermost = found(first, frame, rule, &mut places);
    if innermost.module.is_some() {
        return Some(innermost);
    }
    let module =
        trace.frames.iter().enumerate().skip(first).take(NEAR).find(|(_, f)| {
            f.kind != FrameKind::User && places.of(kernel, f).is_some_and(|p| p.module.is_some())
        });
    match module {
        Some((at, frame)) => Some(found(at, frame, "the nearest frame of a module", &mut places)),
        None => Some(innermost),
    }
}
