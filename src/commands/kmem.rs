//! `kmem`: what lies at an address, the slab caches with every list of free objects
//! checked, and what the memory is used for.
//!
//! Columns are crash's. [`slabs`] shows caches, [`damage`] what is wrong with one,
//! [`totals`] the memory as a whole.

use clap::Args;
use serde::Serialize;

use super::{Answer, Command, CommandError, Context, Result, Text, address, select};
use crate::addr::VirtAddr;
use crate::linux::Kernel;
use crate::linux::memory::what::{What, what};
use crate::text::{Screen, row};

#[path = "kmem_damage.rs"]
pub(super) mod damage;
#[path = "kmem_slabs.rs"]
mod slabs;
#[path = "kmem_totals.rs"]
mod totals;

pub(super) fn command() -> Command {
    Command::of_kernel(
        "kmem",
        "what lies at an address; slab caches, their free lists checked; memory by use",
        "With addresses: the symbol, per-CPU variable, stack, area, slab object and page that each is. \
         A list of free objects whose link was overwritten is told with the CPU, the object and what the \
         link looks like; then the exit code is 1.\n\n\
         Examples:\n  \
           (gdb) monitor kmem $rdi\n  \
           $ corestub kmem vmcore -s\n  \
           $ corestub kmem vmcore -S kmalloc-64\n  \
           $ corestub kmem vmcore -i",
        run,
    )
}

/// `whatis`: the same for those who do not think of slabs.
pub(super) fn whatis() -> Command {
    Command::of_kernel(
        "whatis",
        "what lies at an address: symbol, stack, slab object, page, or what else the value is",
        "Example:\n  (gdb) monitor whatis $rdi $rsi",
        |kernel, args: Addresses, context| places(kernel, &args.addresses, context),
    )
}

#[derive(Args)]
struct Addresses {
    #[arg(value_name = "ADDRESS|SYMBOL", help = address::HELP, required = true)]
    addresses: Vec<String>,
}

#[derive(Args)]
#[command(group = clap::ArgGroup::new("wanted").required(true).multiple(true))]
struct Arguments {
    #[arg(value_name = "ADDRESS|SYMBOL|CACHE", help = address::HELP, group = "wanted")]
    words: Vec<String>,
    /// Slab caches, all or those named
    #[arg(short = 's', group = "wanted", conflicts_with = "objects")]
    slabs: bool,
    /// The same with each slab and object
    #[arg(short = 'S', requires = "words")]
    objects: bool,
    /// Memory in pages: total, free, shared, buffers, cached, slab, huge, swap, promised; by use
    #[arg(short, group = "wanted", conflicts_with_all = ["slabs", "objects", "words"])]
    info: bool,
}

fn run<'d>(kernel: &'d Kernel, args: Arguments, context: Context<'d>) -> Result<Answer<'d>> {
    if args.info {
        return totals::run(kernel);
    }
    if args.slabs || args.objects {
        return slabs::run(kernel, &args.words, args.objects, context);
    }
    places(kernel, &args.words, context)
}

#[derive(Serialize)]
struct Place {
    address: VirtAddr,
    is: Vec<What>,
}

#[derive(Serialize)]
#[serde(transparent)]
struct Places(Vec<Place>);

fn places<'d>(kernel: &'d Kernel, words: &[String], context: Context<'d>) -> Result<Answer<'d>> {
    let task = select::current(kernel, context).ok();
    let place = |word: &String| {
        context.check()?;
        // What is no address is asked about, too: its digits come before a name's.
        let address = address::of_kernel(kernel, context, word)?;
        Ok(Place { address, is: what(kernel, task, address) })
    };
    Ok(Places(words.iter().map(place).collect::<Result<_>>()?).into())
}

impl Text for Places {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        for Place { address, is } in &self.0 {
            let mut first = true;
            for what in is {
                let address = if first { address.to_string() } else { String::new() };
                row!(screen, "{address:<18}  {}", what.sentence())?;
                first = false;
                let What::Slab { owners, .. } = what else { continue };
                for track in owners.iter().filter(|track| !track.stack.is_empty()) {
                    let done = if track.freed { "freed" } else { "allocated" };
                    row!(screen, "{:<18}  {done} by pid {} in", "", track.pid)?;
                    track.stack.iter().try_for_each(|frame| row!(screen, "{:<18}      {frame}", ""))?;
                }
            }
            if first {
                row!(screen, "{address}  nothing is known of it")?;
            }
        }
        Ok(())
    }

    fn failure(&self) -> Option<String> {
        let lost = |place: &&Place| place.is.iter().all(|w| matches!(w, What::Nowhere { .. }));
        let lost: Vec<String> = self.0.iter().filter(lost).map(|p| p.address.to_string()).collect();
        (!lost.is_empty()).then(|| format!("nothing lies at {}", lost.join(", ")))
    }
}

/// The error where the slab caches are not known.
fn unknown(why: &str) -> CommandError {
    CommandError::Failed(format!("the slab caches are not known: {why}"))
}
