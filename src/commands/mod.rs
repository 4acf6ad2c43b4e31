//! The commands: `monitor X` in gdb and `corestub X DUMP` in a shell, the same code.
//!
//! A command is one function from a snapshot and its arguments to text, and to
//! a serialisable value for `--json`. This is the table; each command has a file.
//! Names are crash's where crash has one.

use std::io::{self, Write};
use std::sync::LazyLock;

use clap::ArgMatches;

use crate::addr::VirtAddr;
use crate::error::ReadFault;
use crate::linux::Kernel;
use crate::par::Stopped;
use crate::process::Process;
use crate::session::{CommandContext, Tid};
use crate::text::{Screen, printable, put, row};

mod address;
mod answer;
mod bt;
mod declare;
mod help;
mod lines;
mod log;
mod mod_;
mod orc_switch_rows;
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
mod vtop;
mod why;

use answer::{Answer, Text};
pub use declare::Command;
use declare::FOR_VMCORES;

/// What a command looks at.
#[derive(Clone, Copy)]
pub enum Subject<'a> {
    /// A vmcore.
    Kernel(&'a Kernel),
    /// A userspace core.
    Process(&'a Process),
}

/// What a command may know of who asks.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The thread that gdb has selected.
    pub thread: Option<Tid>,
    /// The `task_struct` of that thread, in a vmcore.
    pub task: Option<VirtAddr>,
    /// The address of the session's last failed read, and why.
    pub last_fault: Option<(VirtAddr, ReadFault)>,
    /// True once the caller has given up; long work polls it.
    pub cancelled: &'a dyn Fn() -> bool,
    /// Where long work tells how far it is; without, among the rows of its answer.
    pub progress: Option<&'a dyn Fn(&str)>,
}

/// The arguments of a command that takes none.
#[derive(clap::Args)]
struct NoArguments {}

impl Context<'_> {
    /// Whether the caller is still there; long work asks often.
    fn check(&self) -> Result<()> {
        if (self.cancelled)() { Err(CommandError::given_up()) } else { Ok(()) }
    }
}

/// Why a command gave no answer, or not the whole of it.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// A sentence for the person who typed it; it may name things of the dump.
    #[error("{}", printable(.0))]
    Failed(String),
    /// The same, of what was typed.
    #[error("{}", printable(.0))]
    Usage(String),
    /// The reader of the output went away, or gave up.
    #[error(transparent)]
    Output(#[from] io::Error),
}

impl CommandError {
    fn failed(why: impl Into<String>) -> Self {
        Self::Failed(why.into())
    }

    fn unknown(name: &str) -> Self {
        Self::Usage(format!("no command {name}; `help` lists them"))
    }

    fn given_up() -> Self {
        Self::Output(io::Error::new(io::ErrorKind::Interrupted, "given up"))
    }
}

impl From<Stopped<io::Error>> for CommandError {
    fn from(stopped: Stopped<io::Error>) -> Self {
        match stopped {
            Stopped::Cancelled => Self::given_up(),
            Stopped::Refused(e) => Self::Output(e),
        }
    }
}

/// What commands give.
pub type Result<T, E = CommandError> = std::result::Result<T, E>;

/// All commands, in the order in which `help` lists them.
pub static COMMANDS: LazyLock<Vec<Command>> = LazyLock::new(|| {
    vec![
        help::command(),
        triage::command(),
        sys::command(),
        log::command(),
        ps::command(),
        bt::command(),
        task::command(),
        threads::command(),
        runq::command(),
        mod_::command(),
        sym::command(),
        rd::command(),
        vtop::command(),
        search::command(),
        process::maps::command(),
        process::verify::command(),
        why::command(),
        orc_switch_rows::command(),
    ]
});

/// The command of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|c| c.name() == name)
}

/// Runs a command with what [`Command::declare`] parsed.
pub fn run(
    subject: Subject<'_>,
    command: &Command,
    given: &ArgMatches,
    context: Context<'_>,
    out: &mut dyn Write,
) -> Result<()> {
    let answer = command.answer(subject, given, context)?;
    answer.write(declare::wants_json(given), context, out)
}

/// Runs the line of a `monitor` command, quoted as in a shell. Whatever goes wrong
/// in it is text.
pub fn monitor(
    subject: Subject<'_>,
    context: &CommandContext<'_>,
    task: Option<VirtAddr>,
    line: &str,
    out: &mut dyn Write,
) -> io::Result<()> {
    let Some(mut words) = shlex::split(line) else {
        return row!(Screen::new(out), "a quote is missing in: {line}");
    };
    if words.is_empty() {
        words.push("help".to_owned());
    }
    let name = words.remove(0);
    let (thread, last_fault, cancelled) = (context.thread, context.last_fault, context.cancelled);
    let context = Context { thread, task, last_fault, cancelled, progress: None };
    let done = match (find(&name), subject) {
        (Some(command), _) => match command.for_monitor(subject).try_get_matches_from(words) {
            Ok(given) => run(subject, command, &given, context, out),
            Err(e) => return refused(&name, &e, out),
        },
        (None, Subject::Kernel(kernel)) => qemu::run(kernel, &name, &words, context, &mut Screen::new(out)),
        (None, Subject::Process(_)) => Err(CommandError::unknown(&name)),
    };
    match done {
        Ok(()) => Ok(()),
        Err(CommandError::Output(e)) => Err(e),
        Err(failed) => row!(Screen::new(out), "{name}: {failed}"),
    }
}

/// What the parser has to say: what is wrong, or the help that was asked for.
fn refused(name: &str, why: &clap::Error, out: &mut dyn Write) -> io::Result<()> {
    let text = why.render().to_string();
    let mut screen = Screen::new(out);
    let text = match text.strip_prefix("error: ") {
        Some(error) => {
            put!(screen, "{name}: ");
            error
        }
        None => &text,
    };
    declare::write_help(&text, &mut screen)
}
