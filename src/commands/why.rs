//! `why`: the reason an address cannot be read.

use clap::Args;
use serde::Serialize;

use super::address::{self, Whose};
use super::{Answer, Command, CommandError, Context, Result, Text, select};
use crate::addr::VirtAddr;
use crate::error::ReadFault;
use crate::linux::Kernel;
use crate::linux::memory::what::{What, what};
use crate::linux::system_registers::{DescriptorTables, REGISTERS, SystemRegisters};
use crate::memory::AddressSpace;
use crate::process::Process;
use crate::text::{Screen, row};

pub(super) fn command() -> Command {
    Command::of_both(
        "why",
        "why an address (by default the last that failed) cannot be read",
        "Of a system register ($cr0 $cr2 $cr3 $cr4 $efer $gs_base $idt $gdt $tr) it tells how its value is known.\n\n\
         Tells a page that is not mapped from one that was swapped out, left out of the dump by its \
         filter, lost by truncation, or damaged, and what lies there (whatis says more). User addresses are those of the selected thread.\n\n\
         Examples:\n  \
           (gdb) x/gx 0xffff888000000000\n  \
           Cannot access memory at address 0xffff888000000000\n  \
           (gdb) monitor why\n  \
           (gdb) monitor why $rsp+8\n  \
           (gdb) monitor why $cr4",
        of_kernel,
        of_process,
    )
    .partly()
}

#[derive(Args)]
struct Why {
    #[arg(help = address::HELP)]
    address: Option<String>,
}

#[derive(Serialize)]
struct Reason {
    addr: VirtAddr,
    readable: bool,
    why: String,
    /// What lies there, from the nearest to the widest.
    is: Vec<What>,
    /// The address is readable, and there is more to say: a page table is lost, or what stood there
    /// was written over.
    #[serde(skip)]
    more: bool,
}

/// How a system register is known.
#[derive(Serialize)]
struct Origin {
    register: String,
    value: String,
    from: String,
}

/// `$cr4` and its like; `None` for what is no such register.
fn register(kernel: &Kernel, word: &str, context: Context<'_>) -> Result<Option<Origin>> {
    let Some(name) = word.strip_prefix('$') else { return Ok(None) };
    let register = REGISTERS.into_iter().find(|r| r.name() == name);
    if register.is_none() && !["idt", "gdt", "tr"].contains(&name) {
        return Ok(None);
    }
    let task = select::current(kernel, context)?;
    let known = match register {
        Some(r) => SystemRegisters::of(kernel, task).get(r).map(|(v, from)| (format!("{v:#x}"), from)),
        None => {
            let DescriptorTables { idt, gdt, tr, .. } = DescriptorTables::of(kernel, task);
            let table = match name {
                "idt" => idt,
                "gdt" => gdt,
                _ => tr,
            };
            table.map(|(t, from)| (format!("{:#x}, limit {:#x}", t.base, t.limit), from))
        }
    };
    let (value, from) = known.ok_or_else(|| {
        CommandError::Failed(format!("{name} is not in this dump, and nothing in it tells its value"))
    })?;
    let of = if task.on_cpu { "of" } else { "for it, as of" };
    let from = format!("{from}; {of} CPU {}", task.cpu_text());
    Ok(Some(Origin { register: name.to_owned(), value, from }))
}

impl Text for Origin {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        Ok(row!(screen, "{} is {}: {}", self.register, self.value, self.from)?)
    }
}

fn of_kernel<'d>(kernel: &'d Kernel, args: Why, context: Context<'d>) -> Result<Answer<'d>> {
    if let Some(word) = &args.address
        && let Some(origin) = register(kernel, word, context)?
    {
        return Ok(origin.into());
    }
    let (addr, fault) = match &args.address {
        Some(word) => {
            let addr = address::of_kernel(kernel, context, word)?;
            (addr, read(kernel, context, addr).err())
        }
        None => address::last_fault(context).map(|(addr, fault)| (addr, Some(fault)))?,
    };
    let more = || computed(kernel, addr).or_else(|| erased(kernel, addr));
    let more = fault.is_none().then(more).flatten();
    let why = match (fault, &more) {
        (Some(fault), _) => match kernel.dump().trouble() {
            Some(trouble) => format!("{fault} ({trouble})"),
            None => fault.to_string(),
        },
        (None, Some(more)) => more.clone(),
        (None, None) => "it is in the dump".to_owned(),
    };
    let task = select::current(kernel, context).ok();
    let mut is = what(kernel, task, addr);
    // The reason is told already.
    is.retain(|what| !matches!(what, What::Nowhere { .. }));
    Ok(Reason { addr, readable: fault.is_none(), why, is, more: more.is_some() }.into())
}

/// How a readable address of the kernel is known whose page table is lost.
fn computed(kernel: &Kernel, addr: VirtAddr) -> Option<String> {
    let lost = kernel.tables().walk(addr, &mut |_| ()).err().filter(|_| addr.0 >= kernel.user_limit())?;
    let (phys, basis) = kernel.tables().computed(addr)?;
    Some(format!("it is in the dump; {lost}, and its physical address {phys} is computed, by {basis}"))
}

/// What makedumpfile's `--config` wrote over at an address: its text names symbols, sizes and
/// no places, but it wrote as many times `X`, and nothing else beside them.
fn erased(kernel: &Kernel, addr: VirtAddr) -> Option<String> {
    let text = kernel.dump().notes().eraseinfo.as_deref()?;
    let is_x = |at: Option<VirtAddr>| {
        let mut byte = [0];
        at.is_some_and(|at| kernel.space().read_run(at, &mut byte).is_ok()) && byte == *b"X"
    };
    let back = |n: &u64| is_x(addr.0.checked_sub(*n).map(VirtAddr));
    let ahead = |n: &u64| is_x(addr.checked_add(*n));
    if !ahead(&0) {
        return None;
    }
    let before = (1..ERASED_MAX).take_while(back).count();
    let run = before + (0..ERASED_MAX).take_while(ahead).count();
    let lines = erased_by(text, run);
    (!lines.is_empty())
        .then(|| format!("it is in the dump, but makedumpfile wrote X over {run} bytes here ({lines})"))
}

/// More bytes than this are not counted.
const ERASED_MAX: u64 = 1 << 16;

/// The lines of makedumpfile's text by which so many bytes were erased.
fn erased_by(text: &str, bytes: usize) -> String {
    let of_size = |line: &&str| {
        let mut words = line.split_whitespace();
        words.next() == Some("erase")
            && words.skip_while(|&word| word != "size").skip(1).any(|size| size.parse() == Ok(bytes))
    };
    text.lines().filter(of_size).map(str::trim).collect::<Vec<_>>().join(" or ")
}

fn of_process<'d>(process: &'d Process, args: Why, context: Context<'d>) -> Result<Answer<'d>> {
    super::process::why::run(process, args.address.as_deref(), context)
}

fn read(kernel: &Kernel, context: Context<'_>, addr: VirtAddr) -> Result<(), ReadFault> {
    let space = address::space(kernel, context, Whose::default(), None, addr);
    // No task, or one without user memory.
    let space = space.map_err(|_| ReadFault::NoUserSpace { addr: addr.0 })?;
    space.read_run(addr, &mut [0]).map(|_| ())
}

impl Text for Reason {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        if self.more {
            return Ok(row!(screen, "{} is readable: {}", self.addr, self.why)?);
        }
        match (self.readable, self.is.first()) {
            (true, Some(what)) => row!(screen, "{} is readable: {}", self.addr, what.sentence())?,
            (true, None) => row!(screen, "{} is readable", self.addr)?,
            (false, Some(what)) => row!(screen, "{}: {} ({})", self.addr, self.why, what.sentence())?,
            (false, None) => row!(screen, "{}: {}", self.addr, self.why)?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_erased_is_told_by_its_size() {
        // As makedumpfile 1.7.2 wrote it.
        let text = "erase init_task.comm size 16\nerase saved_command_line size 130\nnullify x size 8\n";
        assert_eq!(erased_by(text, 16), "erase init_task.comm size 16");
        assert_eq!(erased_by(text, 130), "erase saved_command_line size 130");
        assert_eq!((erased_by(text, 8), erased_by(text, 17)), (String::new(), String::new()));
        assert_eq!(erased_by("erase a size 16\nerase b size 16", 16), "erase a size 16 or erase b size 16");
    }
}
