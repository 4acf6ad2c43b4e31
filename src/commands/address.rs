//! Addresses as people give them, and in whose memory they are looked up.
//!
//! In gdb a command sees what gdb sees: the kernel's memory, and for user addresses
//! that of the selected thread. In a shell the selected thread is the one that
//! panicked, else what the first CPU was running (see [`select::current`]).

use std::sync::Arc;

use super::select;
use super::{CommandError, Context, Result};
use crate::addr::VirtAddr;
use crate::arch::Register;
use crate::error::ReadFault;
use crate::linux::{Kernel, Task, registers};
use crate::memory::paging::PageTables;
use crate::number;
use crate::process::Process;

/// What help says of an address.
pub(super) const HELP: &str = "An address is a symbol, `$` and a register of the selected thread (in a \
    shell: '$rsp'), or hexadecimal digits; `+` and a number may follow.";

/// The address that a word names in a vmcore.
pub(super) fn of_kernel(kernel: &Kernel, context: Context<'_>, word: &str) -> Result<VirtAddr> {
    parse(word, |name| {
        let Some(named) = name.strip_prefix('$') else {
            return Ok(kernel.symbols_named(name).next().map(|(s, _)| s.address));
        };
        let task = select::current(kernel, context)?;
        let value = match named.strip_prefix("user_") {
            Some(named) => register(named).and_then(|r| registers::user(kernel, task)?.get(r)),
            None => register(named).and_then(|r| registers::with_system(kernel, task).get(r)),
        };
        value.map(Some).ok_or_else(|| unknown(name, task.pid))
    })
}

/// The address that a word names in a process core.
pub(super) fn of_process(process: &Process, context: Context<'_>, word: &str) -> Result<VirtAddr> {
    parse(word, |name| {
        let Some(named) = name.strip_prefix('$') else {
            return Ok(process.images().into_iter().find_map(|image| image.address_of(process, name)));
        };
        let thread = super::process::thread(process, context.thread)?;
        let value = register(named).and_then(|r| process.general_regs(thread)?.get(r));
        value.map(Some).ok_or_else(|| unknown(name, thread.tid))
    })
}

/// The last fault of the session, which is meant where no address is given.
pub(super) fn last_fault(context: Context<'_>) -> Result<(VirtAddr, ReadFault)> {
    let none = || CommandError::failed("no read has failed in this session; why ADDRESS asks for one");
    context.last_fault.ok_or_else(none)
}

/// A register by gdb's names.
fn register(name: &str) -> Option<Register> {
    match name {
        "pc" => Some(Register::Rip),
        "sp" => Some(Register::Rsp),
        "fp" => Some(Register::Rbp),
        _ => Register::ALL.iter().find(|r| r.name() == name).copied(),
    }
}

fn unknown(register: &str, id: u32) -> CommandError {
    CommandError::Failed(format!("{register} is no register that the dump holds of {id}"))
}

/// NAME, NAME+OFFSET, or digits; `lookup` knows the names.
fn parse(word: &str, lookup: impl Fn(&str) -> Result<Option<u64>>) -> Result<VirtAddr> {
    let (name, offset) = word.split_once('+').map_or((word, Ok(0)), |(n, o)| (n, number::unsigned(o)));
    let base = lookup(name)?.or_else(|| number::address(name));
    base.zip(offset.ok())
        .and_then(|(base, offset)| base.checked_add(offset))
        .map(VirtAddr)
        .ok_or_else(|| CommandError::Failed(format!("{word} is no symbol, no register and no address")))
}

/// Whose page tables are asked for.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(super) struct Whose {
    /// The kernel's own page tables
    #[arg(short = 'k', conflicts_with = "user")]
    kernel: bool,
    /// The selected task's
    #[arg(short = 'u')]
    user: bool,
}

/// The page tables for `addr`: the kernel's own, but for user addresses those of
/// `task` (by default the selected one).
pub(super) fn space(
    kernel: &Kernel,
    context: Context<'_>,
    whose: Whose,
    task: Option<&Task>,
    addr: VirtAddr,
) -> Result<Arc<PageTables>> {
    if whose.kernel || !whose.user && addr.0 >= kernel.user_limit() {
        return Ok(kernel.tables().clone());
    }
    let task = task.map_or_else(|| select::current(kernel, context), Ok)?;
    kernel
        .task_space(task)
        .ok_or_else(|| CommandError::Failed(format!("{} (pid {}) has no user memory", task.comm, task.pid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_comes_before_its_digits() {
        let lookup = |name: &str| Ok((name == "add").then_some(0x1000));
        assert_eq!(parse("add", lookup).unwrap(), VirtAddr(0x1000));
        assert_eq!(parse("add+0x10", lookup).unwrap(), VirtAddr(0x1010));
        assert_eq!(parse("ad+16", lookup).unwrap(), VirtAddr(0xbd));
        assert_eq!(parse("0xffff", lookup).unwrap(), VirtAddr(0xffff));
        for wrong in ["ffffffffffffffff+1", "add+", "add+x", "x", ""] {
            assert!(parse(wrong, lookup).is_err(), "{wrong}");
        }
    }
}
