//! The commands: `monitor X` in gdb and `corestub X DUMP` in a shell, the same code.
//!
//! A command is one function from a snapshot and its arguments to text, and to
//! a serialisable value for `--json`. This is the table; each command has a file.
//! Names are crash's where crash has one.

use std::io::{self, Write};

use crate::addr::VirtAddr;
use crate::error::ReadFault;
use crate::linux::Kernel;
use crate::process::Process;
use crate::session::{CommandContext, Tid};

mod bt;
mod help;
mod lines;
mod log;
mod maps;
mod mod_;
mod orc_switch_rows;
mod parallel;
mod printable;
mod process;
mod ps;
mod qemu;
mod rd;
mod runq;
mod search;
mod select;
mod sym;
mod sys;
mod task;
mod threads;
mod triage;
mod verify;
mod vtop;
mod why;

use printable::{Printable, printable};

/// What a command looks at.
#[derive(Clone, Copy)]
pub enum Subject<'a> {
    /// A vmcore.
    Kernel(&'a Kernel),
    /// A userspace core.
    Process(&'a Process),
}

/// One invocation.
pub struct Request<'a> {
    /// The words after the command's name.
    pub args: &'a [String],
    /// Give the value as JSON, not text for people.
    pub json: bool,
    /// The thread that gdb has selected.
    pub thread: Option<Tid>,
    /// The `task_struct` of that thread, in a vmcore.
    pub task: Option<VirtAddr>,
    /// The address of the session's last failed read, and why.
    pub last_fault: Option<(VirtAddr, ReadFault)>,
    /// True once the caller has given up; long work polls it.
    pub cancelled: &'a dyn Fn() -> bool,
}

/// Why a command gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// A sentence for the person who typed it; it may name things of the dump.
    #[error("{}", printable(.0))]
    Failed(String),
    /// The reader of the output went away, or gave up.
    #[error(transparent)]
    Output(#[from] io::Error),
}

/// What every command is.
pub type Run = fn(Subject<'_>, &Request<'_>, &mut dyn Write) -> Result<(), CommandError>;

/// A row of the table of commands.
pub struct Command {
    /// What is typed.
    pub name: &'static str,
    /// Its arguments, as `help` shows them.
    pub usage: &'static str,
    /// One line for the list.
    pub summary: &'static str,
    /// The rest of `help NAME`, with an example.
    pub help: &'static str,
    /// Whether it works on a vmcore.
    pub kernel: bool,
    /// Whether it works on a userspace core.
    pub process: bool,
    /// The function.
    pub run: Run,
}

/// All commands, in the order in which `help` lists them.
pub const COMMANDS: &[Command] = &[
    help::COMMAND,
    triage::COMMAND,
    sys::COMMAND,
    log::COMMAND,
    ps::COMMAND,
    bt::COMMAND,
    task::COMMAND,
    threads::COMMAND,
    runq::COMMAND,
    mod_::COMMAND,
    sym::COMMAND,
    rd::COMMAND,
    vtop::COMMAND,
    search::COMMAND,
    maps::COMMAND,
    verify::COMMAND,
    why::COMMAND,
    orc_switch_rows::COMMAND,
];

/// The command of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|c| c.name == name)
}

/// Runs a command by name.
pub fn run(
    subject: Subject<'_>,
    name: &str,
    request: &Request<'_>,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    if let (None, Subject::Kernel(kernel)) = (find(name), subject)
        && let Some(done) = qemu::run(kernel, name, request, &mut Printable(out))
    {
        return done;
    }
    let command =
        find(name).ok_or_else(|| CommandError::Failed(format!("no command {name}; `help` lists them")))?;
    let (fits, other) = match subject {
        Subject::Kernel(_) => (command.kernel, "a process core"),
        Subject::Process(_) => (command.process, "a vmcore"),
    };
    if !fits {
        return Err(CommandError::Failed(format!("works on {other} only")));
    }
    // JSON has its own escapes.
    if request.json {
        (command.run)(subject, request, out)
    } else {
        (command.run)(subject, request, &mut Printable(out))
    }
}

/// Runs the line of a `monitor` command. Whatever goes wrong in it is text.
pub fn monitor(
    subject: Subject<'_>,
    context: &CommandContext<'_>,
    task: Option<VirtAddr>,
    line: &str,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut words = line.split_whitespace().map(str::to_owned);
    let name = words.next().unwrap_or_else(|| "help".to_owned());
    let mut args: Vec<String> = words.collect();
    let before = args.len();
    args.retain(|a| a != "--json");
    let request = Request {
        json: args.len() != before,
        args: &args,
        thread: context.thread,
        task,
        last_fault: context.last_fault,
        cancelled: context.cancelled,
    };
    match run(subject, &name, &request, out) {
        Ok(()) => Ok(()),
        Err(CommandError::Output(e)) => Err(e),
        Err(failed) => writeln!(out, "{name}: {failed}"),
    }
}

/// Writes `value` as JSON, with a newline.
pub(crate) fn json(value: &impl serde::Serialize, out: &mut dyn Write) -> Result<(), CommandError> {
    serde_json::to_writer_pretty(&mut *out, value).map_err(io::Error::from)?;
    Ok(writeln!(out)?)
}

/// Reads an address as people type it: `0x` and hexadecimal digits, or the
/// digits alone as crash takes them.
pub(crate) fn parse_address(text: &str) -> Option<VirtAddr> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    u64::from_str_radix(digits, 16).ok().map(VirtAddr)
}

/// Whether the caller is still there; long work asks often.
pub(crate) fn check(request: &Request<'_>) -> Result<(), CommandError> {
    if (request.cancelled)() {
        return Err(CommandError::Output(io::Error::new(io::ErrorKind::Interrupted, "given up")));
    }
    Ok(())
}

/// The kernel, for a command that has no meaning for a process.
pub(crate) fn only_kernel(subject: Subject<'_>) -> Result<&Kernel, CommandError> {
    match subject {
        Subject::Kernel(kernel) => Ok(kernel),
        Subject::Process(_) => Err(CommandError::Failed("works on a vmcore only".to_owned())),
    }
}

/// An address as people give it: a symbol, `SYMBOL+OFFSET`, or digits.
pub(crate) fn address(kernel: &Kernel, word: &str) -> Result<VirtAddr, CommandError> {
    let (name, offset) = match word.split_once('+') {
        Some((name, offset)) => (name, parse_offset(offset)),
        None => (word, Some(0)),
    };
    let symbol = sym::named(kernel, name).next().map(|(s, ..)| VirtAddr(s.address));
    symbol
        .or_else(|| parse_address(name))
        .zip(offset)
        .and_then(|(base, offset)| base.checked_add(offset))
        .ok_or_else(|| CommandError::Failed(format!("{word} is no symbol and no address")))
}

fn parse_offset(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}
