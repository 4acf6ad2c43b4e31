//! `orc-switch-rows`: for gdb's helpers, the code at which vmlinux's own CFI is
//! wrong (see `scripts/gdb/corestub/unwinder.py`).

use std::io::Write;

use serde::Serialize;

use super::{Command, CommandError, Request, Subject};
use crate::image::cfi;

pub(super) const COMMAND: Command = Command {
    name: "orc-switch-rows",
    usage: "[--json]",
    summary: "where the kernel changes to the IRQ stack (for gdb's helpers)",
    help: "The code around each inline change of the stack: there the caller's stack pointer is the word\n\
           at rsp plus `off`, and rbp is saved at that plus `bp_off` if `bp_reg` is prev_sp. The compiler's\n\
           own unwind rules are wrong in these places; the helpers that gdbinit loads put them right.",
    kernel: true,
    process: false,
    run,
};

#[derive(Serialize)]
struct Row {
    start: String,
    end: String,
    off: i16,
    bp_reg: &'static str,
    bp_off: i16,
}

fn run(subject: Subject<'_>, request: &Request<'_>, out: &mut dyn Write) -> Result<(), CommandError> {
    let Subject::Kernel(kernel) = subject else { return Ok(()) };
    let orc = kernel.orc();
    let Some(table) = orc.of_kernel() else {
        let why = orc.missing.as_deref().unwrap_or("the dump has no ORC table");
        return Err(CommandError::Failed(why.to_owned()));
    };
    let rows: Vec<Row> = cfi::switches(table)
        .map(|s| Row {
            start: format!("{:#x}", s.range.start),
            end: format!("{:#x}", s.range.end),
            off: s.offset,
            bp_reg: if s.rbp.is_some() { "prev_sp" } else { "undefined" },
            bp_off: s.rbp.unwrap_or(0),
        })
        .collect();
    if request.json {
        return super::json(&rows, out);
    }
    for r in &rows {
        writeln!(out, "{} {} off {} rbp {} {}", r.start, r.end, r.off, r.bp_reg, r.bp_off)?;
    }
    Ok(())
}
