//! `swap`: the areas that memory is swapped out to, in crash's columns.

use serde::Serialize;

use super::{Answer, Command, CommandError, Context, NoArguments, Result, Text};
use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::linux::{Kernel, swap};
use crate::text::{Screen, or_unknown, row};

pub(super) fn command() -> Command {
    Command::of_kernel(
        "swap",
        "swap areas: size, use, priority, file or device",
        "Who has most in swap: `ps -S`.\n\nExamples:\n  (gdb) monitor swap\n  $ corestub swap vmcore",
        run,
    )
}

#[derive(Serialize)]
#[serde(transparent)]
struct Areas(Vec<Option<Area>>);

#[derive(Serialize)]
struct Area {
    swap_info: VirtAddr,
    #[serde(rename = "type")]
    kind: Option<&'static str>,
    kib: u64,
    used_kib: u64,
    priority: Option<i64>,
    name: Option<String>,
}

fn run<'d>(kernel: &'d Kernel, _: NoArguments, _: Context<'d>) -> Result<Answer<'d>> {
    let areas = swap::areas(kernel).ok_or_else(|| {
        CommandError::failed("the table of swap areas (swap_info, nr_swapfiles) cannot be read")
    })?;
    let area = |area: swap::Area| Area {
        swap_info: area.at,
        kind: area.partition.map(|device| if device { "PARTITION" } else { "FILE" }),
        kib: area.pages * (PAGE_SIZE >> 10),
        used_kib: area.used * (PAGE_SIZE >> 10),
        priority: area.priority,
        name: area.name,
    };
    Ok(Areas(areas.into_iter().map(|found| found.map(area)).collect()).into())
}

impl Text for Areas {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        if self.0.is_empty() {
            return Ok(row!(screen, "No swap is switched on")?);
        }
        row!(screen, "SWAP_INFO_STRUCT    TYPE       SIZE       USED     PCT  PRI  FILENAME")?;
        for area in self.0.iter().flatten() {
            let percent = area.used_kib * 100 / area.kib.max(1);
            row!(
                screen,
                "{:016x}  {:^9} {:>9}k {:>9}k {percent:>3}% {:>4}  {}",
                area.swap_info.0,
                area.kind.unwrap_or("?"),
                area.kib,
                area.used_kib,
                or_unknown(area.priority),
                or_unknown(area.name.as_ref())
            )?;
        }
        Ok(())
    }

    fn failure(&self) -> Option<String> {
        let lost = self.0.iter().filter(|area| area.is_none()).count();
        (lost > 0).then(|| format!("{lost} swap areas cannot be read"))
    }
}
