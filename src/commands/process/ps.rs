//! `ps`: the threads.

use std::io::Write;

use super::Place;
use crate::arch::Register;
use crate::commands::{CommandError, Request, json};
use crate::process::{Process, signal};

#[derive(serde::Serialize)]
struct Row<'a> {
    tid: u32,
    pid: u32,
    /// The core has the name of the process's first thread only.
    comm: Option<&'a str>,
    signal: Option<String>,
    died: bool,
    #[serde(flatten)]
    place: Place,
}

pub(in crate::commands) fn run(
    process: &Process,
    request: &Request<'_>,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let row = |(i, thread): (usize, &_)| {
        let thread: &crate::process::core_file::ThreadNotes = thread;
        let pc = process.general_regs(thread).and_then(|r| r.get(Register::Rip)).unwrap_or(0);
        Row {
            tid: thread.tid,
            pid: process.pid(),
            comm: process.thread_name(thread.tid),
            signal: (thread.signal != 0).then(|| signal::name(thread.signal.into())),
            died: i == 0,
            place: Place::of(process, pc, pc),
        }
    };
    let rows = process.threads().iter().enumerate().map(row);
    if request.json {
        return json(&rows.collect::<Vec<_>>(), out);
    }
    writeln!(out, "       TID  COMM              PC                  AT")?;
    for r in rows {
        let mark = if r.died { '>' } else { ' ' };
        let (name, pc) = (r.comm.unwrap_or("-"), &r.place.pc);
        writeln!(out, "{mark} {:>8}  {name:<16}  {pc:<18}  {}", r.tid, r.place.text())?;
    }
    Ok(())
}
