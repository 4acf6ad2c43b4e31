//! `vtop`: a virtual address to a physical one, level by level.

use std::io;

use clap::Args;
use serde::Serialize;

use super::address::{self, Whose};
use super::answer::apart;
use super::select::by_words;
use super::{Answer, Command, Context, Result, Text};
use crate::addr::{PAGE_SIZE, PhysAddr, VirtAddr};
use crate::arch::paging::{Entry, Mapping};
use crate::dump::PhysicalMemory;
use crate::error::ReadFault;
use crate::linux::{Kernel, swap};
use crate::memory::paging::{PageTables, Step};
use crate::text::{Screen, row};

pub(super) fn command() -> Command {
    Command::of_kernel(
        "vtop",
        "translate addresses: every level of the page tables, flags in words",
        "User addresses are those of the selected task, or of -c. The last line tells whether the dump \
         has the page, and if not, why.",
        run,
    )
    .partly()
}

#[derive(Args)]
struct Arguments {
    #[arg(value_name = "ADDRESS|SYMBOL", help = address::HELP, required = true)]
    addresses: Vec<String>,
    /// This task, not the selected one
    #[arg(short = 'c', value_name = "PID|TASK")]
    task: Option<String>,
    #[command(flatten)]
    whose: Whose,
}

#[derive(Serialize)]
#[serde(transparent)]
struct Walks<'d>(Vec<Walk<'d>>);

#[derive(Serialize)]
struct Walk<'d> {
    address: VirtAddr,
    physical: Option<PhysAddr>,
    page_size: Option<u64>,
    levels: Vec<Level>,
    flags: Vec<&'static str>,
    in_dump: bool,
    fault: Option<String>,
    /// By what the physical address is known where a table is lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    computed: Option<String>,
    #[serde(skip)]
    more: More<'d>,
}

/// What only the text needs.
struct More<'d> {
    kernel: &'d Kernel,
    user: bool,
    steps: Vec<Step>,
    end: Result<Mapping, ReadFault>,
}

#[derive(Serialize)]
struct Level {
    level: &'static str,
    entry: PhysAddr,
    value: String,
}

fn run<'d>(kernel: &'d Kernel, args: Arguments, context: Context<'d>) -> Result<Answer<'d>> {
    let task = by_words(kernel, args.task.as_slice())?.first().copied();
    let walk = |word: &String| {
        let addr = address::of_kernel(kernel, context, word)?;
        let space = address::space(kernel, context, args.whose, task.map(AsRef::as_ref), addr)?;
        Ok(walk(kernel, &space, addr))
    };
    Ok(Walks(args.addresses.iter().map(walk).collect::<Result<_>>()?).into())
}

/// Whether the page's bytes are there.
fn presence(kernel: &Kernel, phys: PhysAddr) -> Result<(), ReadFault> {
    kernel.dump().read_phys(phys, &mut [0]).map(|_| ())
}

fn walk<'d>(kernel: &'d Kernel, space: &PageTables, addr: VirtAddr) -> Walk<'d> {
    let levels = space.paging().levels;
    let mut steps = Vec::new();
    let end = space.walk(addr, &mut |step| steps.push(step));
    let mapping = end.ok();
    let computed = match end {
        Err(ReadFault::PageTable { .. }) => space.computed(addr),
        _ => None,
    };
    let physical = mapping.map(|m| m.phys).or(computed.map(|(phys, _)| phys));
    let there = match (physical, end) {
        (Some(phys), _) => presence(kernel, phys),
        (None, end) => end.map(|_| ()),
    };
    Walk {
        address: addr,
        physical,
        computed: computed.map(|(_, basis)| basis.to_string()),
        page_size: mapping.map(|m| m.page_size),
        flags: mapping.map(|m| m.entry.flags(m.page_size > PAGE_SIZE)).unwrap_or_default(),
        in_dump: there.is_ok(),
        fault: there.err().map(|f| f.to_string()),
        levels: steps
            .iter()
            .map(|s| Level { level: levels.name(s.level), entry: s.at, value: format!("{:#x}", s.entry.0) })
            .collect(),
        more: More { kernel, user: addr.0 < kernel.user_limit(), steps, end },
    }
}

impl Text for Walks<'_> {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        apart(&self.0, screen)
    }
}

impl Text for Walk<'_> {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        let More { kernel, user, steps, end } = &self.more;
        let width = format!("{:x}", self.address.0).len();
        let physical = self.physical.map_or("(not mapped)".to_owned(), |p| format!("{:x}", p.0));
        let title = if *user { 10 } else { 16 };
        row!(screen, "{:<title$}  {:<16}", "VIRTUAL", "PHYSICAL")?;
        row!(screen, "{:<width$x}  {physical:<16}", self.address.0)?;
        row!(screen)?;
        let top = kernel.tables().paging().levels.count();
        for (step, level) in steps.iter().zip(&self.levels) {
            if step.level == top && !user {
                // crash's words for the kernel's own top table.
                let base = ["init_top_pgt", "init_level4_pgt", "swapper_pg_dir"];
                if let Some(top) = base.iter().find_map(|n| kernel.symbol(n)) {
                    row!(screen, "PGD DIRECTORY: {:016x}", top.0)?;
                }
                row!(screen, "PAGE DIRECTORY: {:x}", step.entry.0)?;
            } else {
                row!(screen, "   {}: {:x} => {:x}", level.level, step.at.0, step.entry.0)?;
            }
        }
        match end {
            Ok(mapping) => self.page(*mapping, screen)?,
            Err(fault @ ReadFault::Swapped { .. }) => {
                if let Some(step) = steps.last() {
                    swap_entry(kernel, step.entry, screen)?;
                }
                row!(screen)?;
                row!(screen, "{fault}")?;
            }
            Err(fault) => {
                row!(screen)?;
                row!(screen, "{fault}")?;
                if let Some(basis) = &self.computed {
                    row!(screen, "physical {physical} is computed, by {basis}")?;
                    row!(screen, "{}", self.fault.as_deref().unwrap_or("the page is in the dump"))?;
                }
            }
        }
        Ok(())
    }
}

impl Walk<'_> {
    fn page(&self, mapping: Mapping, screen: &mut Screen<'_>) -> io::Result<()> {
        let large = match mapping.page_size {
            PAGE_SIZE => "",
            size if size == 1 << 21 => "  (2MB)",
            _ => "  (1GB)",
        };
        let page = mapping.phys.0 & !(mapping.page_size - 1);
        row!(screen, "  PAGE: {page:x}{large}")?;
        row!(screen)?;
        let pte = format!("{:x}", mapping.entry.0);
        let phys = format!("{page:x}");
        let (a, b) = (pte.len().max(3), phys.len().max(8));
        row!(screen, "{:^a$}  {:^b$}  FLAGS", "PTE", "PHYSICAL")?;
        row!(screen, "{pte:>a$}  {phys:>b$}  ({})", self.flags.join("|"))?;
        row!(screen)?;
        row!(screen, "{}", self.fault.as_deref().unwrap_or("the page is in the dump"))
    }
}

fn swap_entry(kernel: &Kernel, entry: Entry, screen: &mut Screen<'_>) -> io::Result<()> {
    let (area, offset) = entry.swap();
    let pte = format!("{:x}", entry.0);
    let name = swap::name(kernel, area).unwrap_or_else(|| format!("swap area {area}"));
    let (a, b) = (pte.len().max(3), name.len().max(4));
    row!(screen)?;
    row!(screen, "{:^a$}  {:^b$}  OFFSET", "PTE", "SWAP")?;
    // In the middle, and rather to the right: crash's CENTER|RJUST.
    let offset = offset.to_string();
    let c = offset.len() + 6usize.saturating_sub(offset.len()).div_ceil(2);
    row!(screen, "{pte:>a$}  {name:>b$}  {offset:>c$}")
}
