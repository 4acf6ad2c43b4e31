//! `kmem -i`: what the memory of the machine is used for.

use serde::Serialize;

use crate::addr::PAGE_SIZE;
use crate::commands::{Answer, CommandError, Result, Text};
use crate::linux::Kernel;
use crate::linux::memory::totals::Totals;
use crate::linux::usage::size_text;
use crate::text::{Screen, row};

#[derive(Serialize)]
#[serde(transparent)]
struct Shown(Totals);

pub(super) fn run(kernel: &Kernel) -> Result<Answer<'_>> {
    let unknown = || CommandError::failed("the kernel's counters of memory are not known");
    Ok(Shown(Totals::of(kernel).ok_or_else(unknown)?).into())
}

/// A row of crash's, with the share of something if that is asked for.
fn line(
    name: &str,
    pages: Option<u64>,
    of: Option<(&str, Option<u64>)>,
    screen: &mut Screen<'_>,
) -> std::io::Result<()> {
    let Some(pages) = pages else { return row!(screen, "{name:>13}        ?            ?") };
    let size = match pages {
        0 => "0".to_owned(),
        pages => size_text(pages.saturating_mul(PAGE_SIZE)),
    };
    let share = match of {
        None => "        ----".to_owned(),
        Some((whole, total)) => {
            let percent = |total| pages.saturating_mul(100).checked_div(total).unwrap_or(0);
            total.map_or_else(String::new, |total| format!("{:>4}% of {whole}", percent(total)))
        }
    };
    row!(screen, "{name:>13} {pages:>8} {size:>12} {share}")
}

impl Text for Shown {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        let t = &self.0;
        let of_memory = Some(("TOTAL MEM", t.total));
        row!(screen, "                 PAGES        TOTAL      PERCENTAGE")?;
        line("TOTAL MEM", t.total, None, screen)?;
        for (name, pages) in [
            ("FREE", t.free),
            ("USED", t.used),
            ("SHARED", t.shared),
            ("BUFFERS", t.buffers),
            ("CACHED", t.cached),
            ("SLAB", t.slab),
        ] {
            line(name, pages, of_memory, screen)?;
        }
        row!(screen)?;
        line("TOTAL HUGE", t.huge, None, screen)?;
        line("HUGE FREE", t.huge_free, Some(("TOTAL HUGE", t.huge)), screen)?;
        row!(screen)?;
        line("TOTAL SWAP", t.swap, None, screen)?;
        let swap_free = t.swap.zip(t.swap_used).and_then(|(all, used)| all.checked_sub(used));
        line("SWAP USED", t.swap_used, Some(("TOTAL SWAP", t.swap)), screen)?;
        line("SWAP FREE", swap_free, Some(("TOTAL SWAP", t.swap)), screen)?;
        row!(screen)?;
        line("COMMIT LIMIT", t.commit_limit, None, screen)?;
        line("COMMITTED", t.committed, Some(("TOTAL LIMIT", t.commit_limit)), screen)?;
        row!(screen)?;
        row!(screen, "BY USE")?;
        t.uses.iter().try_for_each(|u| {
            let size = size_text(u.pages.saturating_mul(PAGE_SIZE));
            row!(screen, "  {:<22} {:>9} {size:>12}", u.what, u.pages)
        })?;
        Ok(())
    }
}
