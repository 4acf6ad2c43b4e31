//! `sys`: what crashed, in crash's banner.

use serde::Serialize;

use super::{Answer, Command, Context, NoArguments, Result, Text};
use crate::linux::log;
use crate::linux::{Kernel, Panicked, Task, clock, taint, usage};
use crate::text::{Screen, row};
use crate::unwind;

pub(super) fn command() -> Command {
    Command::of_both(
        "sys",
        "the machine, the dump and what died",
        "The rows of crash's banner, then where symbols, types and unwind rules come from. UPTIME is by \
         the kernel's timekeeper, DATE in UTC.",
        of_kernel,
        super::process::sys::run,
    )
    .partly()
}

#[derive(Serialize)]
struct Sys<'a> {
    #[serde(skip)]
    kernel: &'a Kernel,
    #[serde(skip)]
    shown: Option<&'a Task>,
    release: String,
    version: String,
    machine: String,
    nodename: String,
    dumpfile: String,
    format: String,
    partial: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    incomplete: Option<String>,
    /// makedumpfile's list of what `--config` wiped.
    #[serde(skip_serializing_if = "Option::is_none")]
    erased: Option<&'a str>,
    cpus: Option<usize>,
    /// Of these not online: unplugged, or stopped by a panic without a kdump kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    offline: Option<usize>,
    mhz: Option<u32>,
    tasks: Option<usize>,
    memory_bytes: Option<u64>,
    date: Option<i64>,
    uptime_s: Option<i64>,
    load_average: Option<String>,
    taint: Option<String>,
    kaslr_offset: String,
    phys_base: String,
    panic: Option<String>,
    pid: Option<u32>,
    comm: Option<&'a str>,
    cpu: Option<u32>,
    task: Option<String>,
    state: Option<String>,
    vmlinux: Option<String>,
    symbols: &'a str,
    types: &'a str,
    unwind: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    remarks: Vec<String>,
}

/// What was found damaged on the way.
fn remarks(kernel: &Kernel) -> Vec<String> {
    let tasks = kernel.tasks();
    let mut out: Vec<String> = kernel.dump().trouble().into_iter().collect();
    out.extend(kernel.vmcoreinfo_mended().map(str::to_owned));
    if let Some(lack) = kernel.lack() {
        out.push(format!("only memory, symbols and the log can be shown: {}", lack.what()));
        return out;
    }
    match kernel.panicked() {
        Panicked::Unreadable(why) => out.push(format!("who panicked is not known: {why}")),
        Panicked::Reported(_, why) => out.push(format!("who panicked is known by the log alone: {why}")),
        Panicked::Task(_) | Panicked::Nobody => {}
    }
    out.extend(tasks.remarks.iter().cloned());
    if tasks.skipped > 0 {
        out.push(format!("{} elements of the task lists are not tasks", tasks.skipped));
    }
    let lost = kernel.log().lost;
    if lost > 0 {
        out.push(format!("{lost} records of the log are damaged or not in the dump"));
    }
    out
}

fn of_kernel<'d>(kernel: &'d Kernel, _: NoArguments, _: Context<'d>) -> Result<Answer<'d>> {
    let uts = kernel.utsname();
    let task = super::select::shown(kernel);
    let clock = clock::read(kernel);
    let files = kernel.debug_files();
    let vmlinux = files.vmlinux.as_ref().or(kernel.vmlinux());
    let taints = taint::of_kernel(kernel);
    let sys = Sys {
        kernel,
        shown: task,
        release: uts.release,
        version: uts.version,
        machine: uts.machine,
        nodename: uts.nodename,
        dumpfile: kernel.dump().path().display().to_string(),
        format: kernel.dump().format(),
        partial: kernel.dump().is_partial(),
        incomplete: kernel.dump().incomplete(),
        erased: kernel.dump().notes().eraseinfo.as_deref(),
        cpus: Some(kernel.percpu().present().len()).filter(|&n| n > 0),
        offline: Some(kernel.percpu().present().len() - kernel.percpu().online().len()).filter(|&n| n > 0),
        mhz: kernel.symbol("cpu_khz").and_then(|a| kernel.space().read_u32(a).ok()).map(|khz| khz / 1000),
        tasks: kernel.lack().is_none().then(|| kernel.tasks().all().len()),
        memory_bytes: usage::present_pages(kernel).and_then(|n| n.checked_mul(4096)),
        date: clock.map(|c| c.date).or_else(|| kernel.vmcoreinfo().crash_time()),
        uptime_s: clock.map(|c| c.uptime),
        load_average: clock::load(kernel),
        taint: taints.map(taint::letters),
        kaslr_offset: format!("{:#x}", kernel.kaslr_offset()),
        phys_base: format!("{:#x}", kernel.phys_base()),
        panic: log::panic_message(kernel.log()).map(str::to_owned),
        pid: task.and_then(Task::known_pid),
        comm: task.and_then(Task::known_comm),
        cpu: task.and_then(|t| t.cpu),
        task: task.map(|t| t.addr.to_string()),
        state: task.map(|t| state_text(kernel, t)),
        vmlinux: vmlinux.map(|v| v.path().display().to_string()),
        symbols: kernel.symbols().origin(),
        types: kernel.types().origin(),
        unwind: match kernel.lack() {
            Some(_) => "nothing".to_owned(),
            None => unwind::origin(kernel),
        },
        remarks: remarks(kernel),
    };
    Ok(sys.into())
}

impl Text for Sys<'_> {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        const UNKNOWN: &str = "(not known)";
        const IN_DUMP: &str = " in the dump";
        let mut line = |name: &str, value: &str| row!(screen, "{name:>12}: {value}");
        let tainted = if self.taint.as_deref().is_some_and(|t| !t.is_empty()) { "  [TAINTED]" } else { "" };
        let from_dump = || match (self.symbols.strip_suffix(IN_DUMP), self.types.strip_suffix(IN_DUMP)) {
            (Some(symbols), Some(types)) => format!("{symbols} and {types}{IN_DUMP}"),
            _ => format!("symbols: {}; types: {}", self.symbols, self.types),
        };
        let kernel = self.vmlinux.clone().unwrap_or_else(from_dump);
        line("KERNEL", &format!("{kernel}{tainted}"))?;
        let partial = if self.partial { "  [PARTIAL DUMP]" } else { "" };
        let incomplete = if self.incomplete.is_some() { "  [INCOMPLETE]" } else { "" };
        line("DUMPFILE", &format!("{}{partial}{incomplete}", self.dumpfile))?;
        let offline = self.offline.map(|n| format!(" [OFFLINE: {n}]")).unwrap_or_default();
        line("CPUS", &self.cpus.map_or_else(|| UNKNOWN.to_owned(), |n| format!("{n}{offline}")))?;
        line("DATE", &self.date.map_or_else(|| UNKNOWN.to_owned(), clock::date))?;
        line("UPTIME", &self.uptime_s.map_or_else(|| UNKNOWN.to_owned(), clock::uptime))?;
        line("LOAD AVERAGE", self.load_average.as_deref().unwrap_or(UNKNOWN))?;
        line("TASKS", &self.tasks.map_or_else(|| UNKNOWN.to_owned(), |n| n.to_string()))?;
        // What a kernel is called before somebody names it (`init/Kconfig`, DEFAULT_HOSTNAME).
        let unnamed = if self.nodename == "(none)" { "  [no host name was set]" } else { "" };
        line("NODENAME", &format!("{}{unnamed}", self.nodename))?;
        line("RELEASE", &self.release)?;
        line("VERSION", &self.version)?;
        let mhz = self.mhz.filter(|&m| m > 0).map_or("unknown".to_owned(), |m| m.to_string());
        line("MACHINE", &format!("{}  ({mhz} Mhz)", self.machine))?;
        line("MEMORY", &usage::memory_text(self.kernel).unwrap_or_else(|| UNKNOWN.to_owned()))?;
        let panic = self.panic.as_deref().unwrap_or_default();
        let oops = if panic.contains("Oops: ") { " (check log for details)" } else { "" };
        // What is lost of the log may be what says it; else nothing did, for which crash has "", too.
        let lost = self.panic.is_none() && self.kernel.log().lost > 0;
        line("PANIC", &if lost { UNKNOWN.to_owned() } else { format!("\"{panic}\"{oops}") })?;
        if let (Some(t), Some(state)) = (self.shown, &self.state) {
            line("PID", &t.pid_text())?;
            line("COMMAND", &format!("\"{}\"", t.comm))?;
            // Since 4.9 thread_info is a member of the task (CONFIG_THREAD_INFO_IN_TASK).
            let info = self
                .kernel
                .types()
                .field("task_struct", "thread_info")
                .map_or(t.stack.0, |f| t.addr.0.wrapping_add(f.offset));
            let same = self.kernel.tasks().by_pid(t.pid).count();
            let of = if same > 1 { format!("(1 of {same})  ") } else { String::new() };
            line("TASK", &format!("{:x}  {of}[THREAD_INFO: {info:x}]", t.addr.0))?;
            line("CPU", &t.cpu_text())?;
            line("STATE", state)?;
        }
        line("KASLR", &format!("{}  (phys_base {})", self.kaslr_offset, self.phys_base))?;
        line("FORMAT", &self.format)?;
        line("SYMBOLS", self.symbols)?;
        line("TYPES", self.types)?;
        line("UNWIND", &self.unwind)?;
        let files = self.kernel.debug_files();
        if files.vmlinux.is_none() {
            let places = &files.places;
            line("DEBUG INFO", &format!("no vmlinux with source lines {places}"))?;
            let search = files.vmlinux_search.as_ref();
            search.map_or(Ok(()), |s| s.remarks.iter().try_for_each(|why| line("", why)))?;
        }
        if let Some(taint) = self.taint.as_deref().filter(|t| !t.is_empty()) {
            line("TAINT", taint)?;
        }
        if let Some(lost) = &self.incomplete {
            line("INCOMPLETE", lost)?;
        }
        for erased in self.erased.unwrap_or_default().lines().filter(|l| !l.trim().is_empty()) {
            line("ERASED", erased)?;
        }
        self.remarks.iter().try_for_each(|remark| line("REMARK", remark))?;
        Ok(())
    }
}

/// `TASK_RUNNING (PANIC)`.
pub(super) fn state_text(kernel: &Kernel, task: &Task) -> String {
    if task.unread {
        return "(not known)".to_owned();
    }
    let state = kernel.layout().version.state_names(task.raw_state, task.exit_state);
    let panicked = kernel.panic_task().is_some_and(|t| t.addr == task.addr);
    match (panicked, task.on_cpu) {
        (true, _) => format!("{state} (PANIC)"),
        (_, true) => format!("{state} (ACTIVE)"),
        _ => state,
    }
}
