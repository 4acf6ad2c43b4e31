//! `log`: the kernel's log.

use std::io::Write;

use super::{Command, CommandError, Request, Subject, json, only_kernel};
use crate::linux::log::{self, Record};
use crate::linux::{Kernel, clock};

pub(super) const COMMAND: Command = Command {
    name: "log",
    usage: "[-T] [-m] [-c] [-t] [-l LEVEL] [-n LINES]",
    summary: "the kernel's log (dmesg)",
    help: "  -T        wall clock (UTC) instead of seconds since boot\n  \
           -m        the level in front of each message: <0> emergency to <7> debug\n  \
           -c        who wrote it: T and a pid, or C and a CPU\n  \
           -t        the text alone\n  \
           -l LEVEL  only this level and worse: 0-7, or emerg alert crit err warn notice info debug\n  \
           -n LINES  only the last records",
    kernel: true,
    process: false,
    run,
};

const LEVELS: [&str; 8] = ["emerg", "alert", "crit", "err", "warn", "notice", "info", "debug"];

/// What is written of each record.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Form {
    /// Seconds since 1970 at boot, for wall-clock times.
    boot: Option<i64>,
    level: bool,
    caller: bool,
    text: bool,
}

#[derive(serde::Serialize)]
struct Row<'a> {
    seq: Option<u64>,
    ts_ns: Option<u64>,
    level: Option<u8>,
    facility: Option<u8>,
    caller: Option<&'a str>,
    text: &'a str,
}

fn run(subject: Subject<'_>, request: &Request<'_>, out: &mut dyn Write) -> Result<(), CommandError> {
    let kernel = only_kernel(subject)?;
    let mut form = Form::default();
    let (mut worst, mut last) = (7, usize::MAX);
    let mut args = request.args.iter().map(String::as_str);
    while let Some(arg) = args.next() {
        match arg {
            "-T" => form.boot = Some(boot(kernel)?),
            "-m" => form.level = true,
            "-c" => form.caller = true,
            "-t" => form.text = true,
            "-l" => {
                worst = args.next().and_then(level).ok_or_else(|| no("-l needs a level: 0-7 or a name"))?
            }
            "-n" => last = args.next().and_then(|n| n.parse().ok()).ok_or_else(|| no("-n needs a number"))?,
            other => return Err(no(&format!("{other} is not one of -T -m -c -t -l -n"))),
        }
    }
    let log = log::read(kernel).map_err(CommandError::Failed)?;
    let mut records: Vec<&Record> = log.records.iter().filter(|r| r.level.unwrap_or(0) <= worst).collect();
    records.drain(..records.len().saturating_sub(last));
    if request.json {
        let rows: Vec<Row<'_>> = records
            .iter()
            .map(|r| Row {
                seq: r.seq,
                ts_ns: r.time,
                level: r.level,
                facility: r.facility,
                caller: r.caller.as_deref(),
                text: &r.text,
            })
            .collect();
        return json(&rows, out);
    }
    for record in records {
        super::check(request)?;
        write_record(record, form, out)?;
    }
    if log.lost > 0 {
        writeln!(out, "({} records are damaged or not in the dump)", log.lost)?;
    }
    Ok(())
}

fn no(why: &str) -> CommandError {
    CommandError::Failed(why.to_owned())
}

fn level(text: &str) -> Option<u8> {
    let number = text.parse().ok().filter(|&n: &u8| n < 8);
    number.or_else(|| LEVELS.iter().position(|l| *l == text).and_then(|i| u8::try_from(i).ok()))
}

fn boot(kernel: &Kernel) -> Result<i64, CommandError> {
    let clock = clock::read(kernel).ok_or_else(|| no("the clock is not known, so -T cannot work"))?;
    Ok(clock.date - clock.uptime)
}

/// A record as crash writes it: further lines indented below the first.
pub(super) fn write_record(record: &Record, form: Form, out: &mut dyn Write) -> Result<(), CommandError> {
    let mut head = String::new();
    if !form.text {
        if let Some(time) = record.time {
            let seconds = time / 1_000_000_000;
            match form.boot {
                Some(boot) => {
                    let at = boot.saturating_add(i64::try_from(seconds).unwrap_or(i64::MAX));
                    head = format!("[{}] ", clock::date(at));
                }
                None => head = format!("[{seconds:>5}.{:06}] ", time % 1_000_000_000 / 1000),
            }
        }
        if let Some(caller) = record.caller.as_deref().filter(|_| form.caller) {
            head.push_str(&format!("[{caller:>6}] "));
        }
    }
    if let Some(level) = record.level.filter(|_| form.level) {
        head.push_str(&format!("<{level}>"));
    }
    let indent = head.len();
    let text: String = record
        .text
        .chars()
        .map(|c| if c.is_control() && !c.is_ascii_whitespace() { '.' } else { c })
        .collect();
    for (i, line) in text.split('\n').enumerate() {
        match i {
            0 => writeln!(out, "{head}{line}")?,
            _ => writeln!(out, "{:indent$}{line}", "")?,
        }
    }
    Ok(())
}
