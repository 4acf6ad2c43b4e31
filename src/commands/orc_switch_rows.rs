//! `orc-switch-rows`: for gdb's helpers, the code at which vmlinux's own CFI is
//! wrong (see `scripts/gdb/corestub/unwinder.py`).

use serde::Serialize;

use super::{Answer, Command, CommandError, Context, NoArguments, Result, Text};
use crate::addr::VirtAddr;
use crate::image::cfi;
use crate::linux::Kernel;
use crate::text::{Screen, row};

pub(super) fn command() -> Command {
    Command::of_kernel(
        "orc-switch-rows",
        "where the kernel changes to the IRQ stack (for gdb's helpers)",
        "The code around each inline change of the stack: there the caller's stack pointer is the word \
         at rsp plus `off`, and rbp is saved at that plus `bp_off` if `bp_reg` is prev_sp. The compiler's \
         own unwind rules are wrong in these places; the helpers that gdbinit loads put them right.",
        run,
    )
    .hidden()
}

#[derive(Serialize)]
#[serde(transparent)]
struct Switches(Vec<Row>);

#[derive(Serialize)]
struct Row {
    start: VirtAddr,
    end: VirtAddr,
    off: i16,
    bp_reg: &'static str,
    bp_off: i16,
}

fn run<'d>(kernel: &'d Kernel, _: NoArguments, _: Context<'d>) -> Result<Answer<'d>> {
    let orc = kernel.orc();
    let missing = || CommandError::failed(orc.missing.as_deref().unwrap_or("the dump has no ORC table"));
    let rows = cfi::switches(orc.of_kernel().ok_or_else(missing)?).map(|s| Row {
        start: VirtAddr(s.range.start),
        end: VirtAddr(s.range.end),
        off: s.offset,
        bp_reg: if s.rbp.is_some() { "prev_sp" } else { "undefined" },
        bp_off: s.rbp.unwrap_or(0),
    });
    Ok(Switches(rows.collect()).into())
}

impl Text for Switches {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        for r in &self.0 {
            row!(screen, "{} {} off {} rbp {} {}", r.start, r.end, r.off, r.bp_reg, r.bp_off)?;
        }
        Ok(())
    }
}
