//! `ps`: the threads.

use serde::Serialize;

use super::Place;
use crate::arch::Register;
use crate::commands::{Answer, CommandError, Result, Text};
use crate::process::core_file::ThreadNotes;
use crate::process::{Process, signal};
use crate::text::{Screen, row};

#[derive(Serialize)]
#[serde(transparent)]
struct Threads<'a>(Vec<Row<'a>>);

#[derive(Serialize)]
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

pub(in crate::commands) fn run<'d>(process: &'d Process, words: &[String]) -> Result<Answer<'d>> {
    let row = |(i, thread): (usize, &ThreadNotes)| {
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
    let named = |t: &ThreadNotes, w: &String| {
        w.parse() == Ok(t.tid) || process.thread_name(t.tid) == Some(w.as_str())
    };
    let threads = process.threads();
    if let Some(word) = words.iter().find(|w| !threads.iter().any(|t| named(t, w))) {
        return Err(CommandError::Failed(format!("{word} is no thread id and no thread's name")));
    }
    let wanted = |t: &ThreadNotes| words.is_empty() || words.iter().any(|w| named(t, w));
    Ok(Threads(threads.iter().enumerate().filter(|(_, t)| wanted(t)).map(row).collect()).into())
}

impl Text for Threads<'_> {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        row!(screen, "       TID  COMM              PC                  AT")?;
        for r in &self.0 {
            let mark = if r.died { '>' } else { ' ' };
            let (name, pc) = (r.comm.unwrap_or("-"), &r.place.pc);
            row!(screen, "{mark} {:>8}  {name:<16}  {pc:<18}  {}", r.tid, r.place.text())?;
        }
        Ok(())
    }
}
