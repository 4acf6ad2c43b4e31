//! The commands: `monitor X` in gdb and `corestub X DUMP` in a shell, the same code.
//!
//! A command is one function from a snapshot and its arguments to text, and to
//! a serialisable value for `--json`. This is the table; each command has a file.

use std::io::{self, Write};

use crate::addr::VirtAddr;
use crate::error::ReadFault;
use crate::linux::Kernel;
use crate::process::Process;
use crate::target::Tid;

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
    /// The address of the session's last failed read, and why.
    pub last_fault: Option<(VirtAddr, ReadFault)>,
    /// True once the caller has given up; long work polls it.
    pub cancelled: &'a dyn Fn() -> bool,
}

/// Why a command gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// A sentence for the person who typed it.
    #[error("{0}")]
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
pub const COMMANDS: &[Command] = &[];
