//! `why`: the reason an address cannot be read.

use clap::Args;
use serde::Serialize;

use super::address::{self, Whose};
use super::{Answer, Command, Context, Result, Text};
use crate::addr::VirtAddr;
use crate::error::ReadFault;
use crate::linux::Kernel;
use crate::memory::AddressSpace;
use crate::process::Process;
use crate::text::{Screen, row};

pub(super) fn command() -> Command {
    Command::of_both(
        "why",
        "why an address (by default the last that failed) cannot be read",
        "Tells a page that is not mapped from one that was swapped out, left out of the dump by its \
         filter, lost by truncation, or damaged. User addresses are those of the selected thread.\n\n\
         Examples:\n  \
           (gdb) x/gx 0xffff888000000000\n  \
           Cannot access memory at address 0xffff888000000000\n  \
           (gdb) monitor why\n  \
           (gdb) monitor why $rsp+8",
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
    /// The address is readable, though a page table is lost.
    #[serde(skip)]
    computed: bool,
}

fn of_kernel<'d>(kernel: &'d Kernel, args: Why, context: Context<'d>) -> Result<Answer<'d>> {
    let (addr, fault) = match &args.address {
        Some(word) => {
            let addr = address::of_kernel(kernel, context, word)?;
            (addr, read(kernel, context, addr).err())
        }
        None => address::last_fault(context).map(|(addr, fault)| (addr, Some(fault)))?,
    };
    let computed = fault.is_none().then(|| computed(kernel, addr)).flatten();
    let why = match (fault, &computed) {
        (Some(fault), _) => match kernel.dump().trouble() {
            Some(trouble) => format!("{fault} ({trouble})"),
            None => fault.to_string(),
        },
        (None, Some(how)) => format!("it is in the dump; {how}"),
        (None, None) => "it is in the dump".to_owned(),
    };
    Ok(Reason { addr, readable: fault.is_none(), why, computed: computed.is_some() }.into())
}

/// How a readable address of the kernel is known whose page table is lost.
fn computed(kernel: &Kernel, addr: VirtAddr) -> Option<String> {
    let lost = kernel.tables().walk(addr, &mut |_| ()).err().filter(|_| addr.0 >= kernel.user_limit())?;
    let (phys, basis) = kernel.tables().computed(addr)?;
    Some(format!("{lost}, and its physical address {phys} is computed, by {basis}"))
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
        if self.computed {
            return Ok(row!(screen, "{} is readable: {}", self.addr, self.why)?);
        }
        if self.readable {
            return Ok(row!(screen, "{} is readable", self.addr)?);
        }
        Ok(row!(screen, "{}: {}", self.addr, self.why)?)
    }
}
