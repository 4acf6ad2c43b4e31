//! What a client and a dump have in common: thread ids, their order, and what a
//! command may know of the session that it runs in.
//!
//! It lies below the commands and the inferiors, which both speak of threads, and
//! knows nothing of the protocol.

use crate::addr::VirtAddr;
use crate::error::ReadFault;

pub(crate) mod threads;

/// A thread id of the protocol: positive and below 2^31 (gdb truncates more).
pub type Tid = u32;

/// Which tasks of a kernel are threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// All.
    Tasks,
    /// Those that the CPUs were running, as a machine emulator shows it: clients that
    /// walk all threads when they connect take seconds for thousands, and some do not
    /// survive one without a program counter, as a dead task is.
    Cpus,
}

/// One thread, as `info threads` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadInfo {
    /// The protocol's thread id; the task's pid where there is one.
    pub tid: Tid,
    /// `comm`, raw (the protocol room escapes it).
    pub name: String,
    /// The CPU it is, or was last, on.
    pub core: Option<u32>,
    /// What stands behind the name: state, pid, tgid, guesses.
    pub extra: String,
}

/// What one client's session knows and a command may ask about.
pub struct CommandContext<'a> {
    /// The thread that gdb has selected, if it still exists.
    pub thread: Option<Tid>,
    /// The address of the last failed read of this session, and why.
    pub last_fault: Option<(VirtAddr, ReadFault)>,
    /// True once the client has given the command up; long work polls it.
    pub cancelled: &'a dyn Fn() -> bool,
}
