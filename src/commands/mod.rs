//! The commands: `monitor X` in gdb and `corestub X DUMP` in a shell, the same code.
//!
//! A command is declared once ([`Command`]): its arguments as a type, and a function
//! for a vmcore, for a process core, or for both. The shell and `monitor` parse with
//! that declaration, and help, completions and manual pages show it. The function
//! answers a value that is JSON and text. This is the table; each command has a file.
//! Names are crash's where crash has one.
//!
//! # To add a command
//!
//! One file, `src/commands/hello.rs`:
//!
//! ```ignore
//! //! `hello`: greets.
//!
//! use clap::Args;
//! use serde::Serialize;
//!
//! use super::{Answer, Command, Context, Result, Text};
//! use crate::linux::Kernel;
//! use crate::text::{Screen, row};
//!
//! pub(super) fn command() -> Command {
//!     Command::of_kernel("hello", "greet somebody", "Examples:\n  (gdb) monitor hello -n you", run)
//! }
//!
//! #[derive(Args)]
//! struct Arguments {
//!     /// Who is greeted
//!     #[arg(short, default_value = "world")]
//!     name: String,
//! }
//!
//! #[derive(Serialize)]
//! struct Greeting {
//!     name: String,
//!     release: String,
//! }
//!
//! fn run<'d>(kernel: &'d Kernel, args: Arguments, _: Context<'d>) -> Result<Answer<'d>> {
//!     Ok(Greeting { name: args.name, release: kernel.utsname().release }.into())
//! }
//!
//! impl Text for Greeting {
//!     fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
//!         Ok(row!(screen, "hello, {} on {}", self.name, self.release)?)
//!     }
//! }
//! ```
//!
//! and here `mod hello;` and its row, `hello::command()`, in [`COMMANDS`]. That is all:
//! it is in `corestub hello DUMP`, `monitor hello`, both helps, `--json`, completions and
//! manual pages; a test asks for its row in `docs/commands.md`.
//!
//! * `of_both` takes a function for each kind of dump. Options for a vmcore only have
//!   `#[arg(help_heading = FOR_VMCORES)]`: for a process they are refused.
//! * Text is written by `row!` and `put!`, which names of the dump cannot break. A long
//!   answer holds the dump and makes its rows while it is shown (`log`, `rd`, `search`).
//! * What could not be done although there is an answer: [`Text::failure`]. An error is
//!   [`CommandError::Failed`] (exit code 1), or `Usage` (2) if it is of what was typed.
//! * Addresses are words that [`address`] reads; tasks, words that [`select`] reads.

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
mod compare;
mod declare;
mod dev;
mod dis;
mod entry;
mod files;
mod help;
mod ipcs;
mod irq;
mod kmem;
mod lines;
mod list;
mod locks;
mod log;
mod mod_;
mod mount;
mod net;
mod orc_switch_rows;
mod process;
mod ps;
mod qemu;
mod rd;
mod report;
mod runq;
mod search;
mod select;
mod sig;
mod signature;
mod struct_;
mod swap;
mod sym;
mod sys;
mod task;
mod threads;
mod timer;
mod tree;
mod triage;
mod vm;
mod vtop;
mod walk;
mod why;

use answer::{Answer, Text};
pub use compare::compare;
pub use declare::Command;
use declare::FOR_VMCORES;
pub use list::list;
pub use report::{Format, report};

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
        files::command(),
        vm::command(),
        mount::command(),
        sig::command(),
        threads::command(),
        runq::command(),
        locks::command(),
        dev::command(),
        irq::command(),
        timer::command(),
        net::command(),
        ipcs::command(),
        mod_::command(),
        sym::command(),
        rd::command(),
        vtop::command(),
        search::command(),
        process::maps::command(),
        process::verify::command(),
        dis::command(),
        struct_::command(),
        walk::command(),
        tree::command(),
        kmem::command(),
        swap::command(),
        kmem::whatis(),
        why::command(),
        orc_switch_rows::command(),
    ]
});

/// The command of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|c| c.name() == name)
}

/// Names of crash's that a shell has for something else.
const OTHER_NAMES: [(&str, &str); 1] = [("list", "walk")];

/// The command that `monitor` knows by this name.
fn typed(name: &str) -> Option<&'static Command> {
    find(name).or_else(|| find(OTHER_NAMES.iter().find(|(other, _)| *other == name)?.1))
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
    let done = match (typed(&name), subject) {
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
