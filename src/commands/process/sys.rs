//! `sys`: what died, of what.

use serde::Serialize;

use super::handling::Handling;
use super::{Place, REINSTALL, fault, spaced};
use crate::addr::VirtAddr;
use crate::arch::Register;
use crate::commands::{Answer, Context, NoArguments, Result, Text};
use crate::elf::BuildId;
use crate::memory::AddressSpace;
use crate::process::files::Lookup;
use crate::process::signal::{self, SigInfo};
use crate::process::verify::{self, How, Zeros};
use crate::process::{Process, disasm, go, last_words, procfs};
use crate::text::{Screen, row};

#[derive(Serialize)]
struct Sys {
    core: String,
    command_line: Option<String>,
    executable: Option<String>,
    pid: u32,
    ppid: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    comm: Option<String>,
    threads: usize,
    tid: Option<u32>,
    signal: Option<String>,
    siginfo: Option<SigInfo>,
    died_of: Option<String>,
    /// What the instruction wanted, where the signal does not tell it.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
    /// What glibc said as it aborted.
    #[serde(skip_serializing_if = "Option::is_none")]
    abort_message: Option<String>,
    /// The C++ exception that nothing caught: its type, and its `what()` if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    exception: Option<(String, Option<String>)>,
    /// Where the thread handles a signal, if that is a stack of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    signal_stack: Option<String>,
    /// The version of the Python interpreter in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    python: Option<String>,
    /// The version of Go, if it is a program of Go.
    #[serde(skip_serializing_if = "Option::is_none")]
    go: Option<String>,
    #[serde(flatten)]
    place: Option<Place>,
    code_in_core: Option<String>,
    code_in_file: Option<String>,
    /// The signals whose handlers ran, innermost first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    handling: Vec<Handling>,
    mappings: usize,
    files_missing: Vec<String>,
    lost_bytes: u64,
    warnings: Vec<String>,
}

const CODE: usize = 16;
const SIGABRT: u32 = 6;

pub(in crate::commands) fn run<'d>(
    process: &'d Process,
    _: NoArguments,
    _: Context<'d>,
) -> Result<Answer<'d>> {
    Ok(collect(process).into())
}

impl Text for Sys {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        let mut line = |name: &str, value: &str| row!(screen, "{name:>12}: {value}");
        line("CORE", &self.core)?;
        line("COMMAND", self.command_line.as_deref().unwrap_or("unknown: the core has no NT_PRPSINFO"))?;
        if let Some(exe) = &self.executable {
            line("EXECUTABLE", exe)?;
        }
        let ids = [("", Some(self.pid)), ("parent ", self.ppid), ("user ", self.uid), ("group ", self.gid)];
        let ids: Vec<_> = ids.iter().filter_map(|(what, id)| id.map(|id| format!("{what}{id}"))).collect();
        line("PID", &ids.join(", "))?;
        line("THREADS", &self.threads.to_string())?;
        if let Some(died_of) = &self.died_of {
            line("SIGNAL", died_of)?;
        }
        if let Some(refused) = &self.refused {
            line("REFUSED", refused)?;
        }
        if let Some(message) = &self.abort_message {
            line("MESSAGE", message)?;
        }
        if let Some((name, what)) = &self.exception {
            let what = what.as_ref().map(|w| format!(": {w}")).unwrap_or_default();
            line("EXCEPTION", &format!("{name} (C++, not caught){what}"))?;
        }
        if let (Some(tid), Some(place)) = (self.tid, &self.place) {
            line("THREAD", &tid.to_string())?;
            line("PC", &format!("{}  {}", place.pc, place.text()))?;
        }
        if let Some(stack) = &self.signal_stack {
            line("STACK", &format!("the one for signal handlers, {stack}"))?;
        }
        if let Some(code) = &self.code_in_core {
            line("CODE AT PC", code)?;
        }
        if let Some(code) = &self.code_in_file {
            line(if self.code_in_core.is_some() { "IN THE FILE" } else { "CODE AT PC" }, code)?;
        }
        self.handling.iter().try_for_each(|handling| handling.lines(&mut line))?;
        line("MAPPINGS", &self.mappings.to_string())?;
        for (i, file) in self.files_missing.iter().enumerate() {
            line(if i == 0 { "NOT FOUND" } else { "" }, file)?;
        }
        for warning in &self.warnings {
            line("WARNING", warning)?;
        }
        Ok(())
    }
}

fn collect(process: &Process) -> Sys {
    let core = process.core();
    let psinfo = core.psinfo.as_ref();
    let first = process.threads().first();
    let regs = first.and_then(|t| process.general_regs(t));
    let pc = regs.as_ref().and_then(|r| r.get(Register::Rip));
    let siginfo = first.and_then(|t| t.siginfo.as_ref()).and_then(|at| SigInfo::parse(&core.note(at)));
    let signal = first.map(|t| t.signal).filter(|&s| s != 0).map(u32::from);
    let died_of = match (&siginfo, signal) {
        (Some(info), Some(signal)) if info.signal == signal => Some(info.describe()),
        (_, Some(signal)) => Some(format!("{} ({})", signal::name(signal), signal::meaning(signal))),
        (_, None) => Some("none: the core was taken of a live process".to_owned()),
    };
    let aborted = signal == Some(SIGABRT);
    let mut warnings = core.complaints.clone();
    if core.lost > 0 {
        warnings.insert(
            0,
            format!(
                "the core is truncated: {} of the bytes that its headers promise are missing ({} KiB)",
                core.lost,
                core.lost >> 10
            ),
        );
    }
    let signal_stack = first.and_then(|t| process.labels().signal_stack(t.tid));
    // A handler that gave up has hidden what it was called for.
    let handling = first.map(|t| Handling::of(process, t, siginfo.as_ref())).unwrap_or_default();
    let fault = siginfo.as_ref().and_then(|i| i.address).or_else(|| handling.iter().find_map(|h| h.fault));
    if let Some((at, stack)) = fault.and_then(|at| Some((at, process.labels().overflowed(at)?))) {
        warnings.push(format!(
            "{at:#x} is just below the stack of thread {}: a stack overflow (too deep a recursion, or too large a \
             local variable)",
            stack.tid
        ));
    }
    warnings.extend(siginfo.as_ref().and_then(|info| unread_page(process, info)));
    let (in_core, from_file) = pc.map(|pc| code_at(process, pc)).unwrap_or_default();
    let code_in_file = pc.and_then(|pc| page_warning(process, pc, &mut warnings)).or(from_file);
    let lost_file = |f: &&std::sync::Arc<crate::process::files::MappedFile>| {
        f.has_code() && matches!(f.lookup(), Lookup::Refused(_))
    };
    let why = |f: &std::sync::Arc<crate::process::files::MappedFile>| match f.lookup() {
        Lookup::Refused(why) => {
            let id = f.expected().map_or_else(|| "not in the core".to_owned(), BuildId::to_string);
            format!("{}: expected build-id {id}; {why}", f.name)
        }
        _ => f.name.clone(),
    };
    let refused = siginfo.as_ref().and_then(|info| fault::explain(process, regs.as_ref()?, info));
    Sys {
        core: core.path.display().to_string(),
        command_line: procfs::command_line(process),
        executable: process.program().map(|i| i.name.clone()),
        pid: process.pid(),
        ppid: psinfo.map(|p| p.ppid),
        uid: psinfo.map(|p| p.uid),
        gid: psinfo.map(|p| p.gid),
        comm: psinfo.map(|p| p.name.clone()),
        threads: process.threads().len(),
        tid: first.map(|t| t.tid),
        signal: signal.map(signal::name),
        siginfo,
        died_of,
        refused,
        abort_message: aborted.then(|| last_words::abort_message(process)).flatten(),
        exception: first.filter(|_| aborted).and_then(|t| last_words::exception(process, t)),
        signal_stack: signal_stack.map(|s| format!("{:#x}-{:#x}", s.start, s.end)),
        python: process.python().and_then(Result::ok).map(|p| format!("{}.{}", p.version.0, p.version.1)),
        go: go::version(process),
        place: pc.map(|pc| Place::of(process, pc, pc)),
        code_in_core: in_core,
        code_in_file,
        handling,
        mappings: procfs::mappings(process).len(),
        files_missing: process.files().iter().filter(lost_file).map(why).collect(),
        lost_bytes: core.lost,
        warnings,
    }
}

/// What a SIGBUS tells of a file whose page could not be had.
fn unread_page(process: &Process, info: &SigInfo) -> Option<String> {
    let at = info.address.filter(|_| info.code_name == Some("BUS_ADRERR"))?;
    let (file, range) = process.file_at(at)?;
    let offset = range.offset.wrapping_add(at - range.start);
    let length =
        file.served().map(|found| format!("; it now has {:#x} bytes", found.len)).unwrap_or_default();
    Some(format!(
        "{at:#x} maps {} at file offset {offset:#x}: the file was cut or written anew while it was mapped, or its disk \
         failed{length}",
        file.name
    ))
}

/// The instruction bytes at `pc`: in the core, or if it left them out in the file.
pub(super) fn code_at(process: &Process, pc: u64) -> (Option<String>, Option<String>) {
    let mut code = [0; CODE];
    let Ok(n) = process.memory().read(VirtAddr(pc), &mut code) else { return (None, None) };
    let shown = |source| Some(with_instruction(code.get(..n)?, pc, source));
    if process.memory().stored().run(pc) > 0 { (shown("core"), None) } else { (None, shown("from the file")) }
}

/// The bytes of the instruction at `pc`, what it is, and who says so.
fn with_instruction(code: &[u8], pc: u64, source: &str) -> String {
    let (text, len) = disasm::text(code, pc).unwrap_or_default();
    format!("{:<24} {text}  ({source})", spaced(code.get(..len).unwrap_or(code)))
}

/// Warns if the page of `pc` is not what the file holds; gives the file's bytes there.
fn page_warning(process: &Process, pc: u64, warnings: &mut Vec<String>) -> Option<String> {
    let Some(page) = verify::page(process, pc) else {
        let text = match verify::zero_text(process, pc) {
            Some(Zeros::Core) => {
                "the page of the pc is executable and all ZEROS in the core; there is no file to compare"
                    .to_owned()
            }
            Some(Zeros::Both) => format!(
                "the page of the pc is all ZEROS in the core and in the file: the file itself is damaged here; {REINSTALL}"
            ),
            Some(Zeros::File) => format!(
                "the page of the pc is all ZEROS in the file (the core left it out): the file itself is damaged here; \
                 {REINSTALL}"
            ),
            None => return None,
        };
        warnings.push(text);
        return None;
    };
    let text = match page.how {
        How::Zeroed => {
            "the page of the pc reads as ZEROS in the core, but the file has code there: `verify` shows which pages"
        }
        How::Changed => "the page of the pc is not what the file holds: `verify` shows the bytes",
        How::Breakpoint => "a breakpoint (int3) is set in the page of the pc",
        How::RelocatedText => return None,
    };
    warnings.push(text.to_owned());
    let (file, range) = process.file_at(pc)?;
    let mut code = [0; CODE];
    let found = file.served()?;
    found.fill(range.offset + (pc - range.start), &mut code).then(|| with_instruction(&code, pc, "file"))
}
