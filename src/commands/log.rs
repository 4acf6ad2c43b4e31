//! `log`: the kernel's log.

use std::io;

use clap::Args;
use serde::{Serialize, Serializer};

use super::answer::streamed;
use super::{Answer, Command, CommandError, Context, Result, Text};
use crate::linux::log::Record;
use crate::linux::{Kernel, clock};
use crate::text::{Screen, row};

pub(super) fn command() -> Command {
    Command::of_kernel("log", "the kernel's log (dmesg)", "", run).partly()
}

#[derive(Args)]
struct Arguments {
    /// Wall clock (UTC) instead of seconds since boot
    #[arg(short = 'T')]
    wall_clock: bool,
    /// The level in front of each message: <0> emergency to <7> debug
    #[arg(short = 'm')]
    levels: bool,
    /// Who wrote it: T and a pid, or C and a CPU
    #[arg(short)]
    caller: bool,
    /// The text alone
    #[arg(short)]
    text: bool,
    /// Only this level and worse: 0-7, or emerg alert crit err warn notice info debug
    #[arg(short, default_value = "debug", hide_default_value = true, value_parser = level)]
    level: u8,
    /// Only the last records
    #[arg(short = 'n', value_name = "LINES")]
    last: Option<usize>,
}

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

#[derive(Serialize)]
struct Row<'a> {
    seq: Option<u64>,
    ts_ns: Option<u64>,
    level: Option<u8>,
    facility: Option<u8>,
    caller: Option<&'a str>,
    text: &'a str,
}

/// The log, or what of it was asked for.
struct Shown<'d> {
    context: Context<'d>,
    records: Vec<&'d Record>,
    form: Form,
    lost: usize,
}

fn run<'d>(kernel: &'d Kernel, args: Arguments, context: Context<'d>) -> Result<Answer<'d>> {
    let boot = if args.wall_clock { Some(boot(kernel)?) } else { None };
    let form = Form { boot, level: args.levels, caller: args.caller, text: args.text };
    let log = kernel.log();
    if let Some(why) = &log.missing {
        return Err(CommandError::Failed(why.clone()));
    }
    let mut records: Vec<&Record> =
        log.records.iter().filter(|r| r.level.unwrap_or(0) <= args.level).collect();
    records.drain(..records.len().saturating_sub(args.last.unwrap_or(usize::MAX)));
    Ok(Shown { context, records, form, lost: log.lost }.into())
}

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        streamed(to, self.context, self.records.iter().copied().map(row))
    }
}

fn row(record: &Record) -> Row<'_> {
    let Record { seq, time, level, facility, caller, text } = record;
    let (caller, text) = (caller.as_deref(), text.as_str());
    Row { seq: *seq, ts_ns: *time, level: *level, facility: *facility, caller, text }
}

impl Text for Shown<'_> {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        for record in &self.records {
            self.context.check()?;
            write_record(record, self.form, screen)?;
        }
        if self.lost > 0 {
            row!(screen, "({} records are damaged or not in the dump)", self.lost)?;
        }
        Ok(())
    }
}

fn level(text: &str) -> Result<u8, String> {
    let number = text.parse().ok().filter(|&n: &u8| n < 8);
    let named = || LEVELS.iter().position(|l| *l == text).and_then(|i| u8::try_from(i).ok());
    number.or_else(named).ok_or_else(|| format!("a level is 0-7 or one of {}", LEVELS.join(" ")))
}

fn boot(kernel: &Kernel) -> Result<i64> {
    let unknown = || CommandError::failed("the clock is not known, so -T cannot work");
    let clock = clock::read(kernel).ok_or_else(unknown)?;
    Ok(clock.date - clock.uptime)
}

/// A record as crash writes it: further lines indented below the first.
pub(super) fn write_record(record: &Record, form: Form, screen: &mut Screen<'_>) -> io::Result<()> {
    let mut head = String::new();
    if !form.text {
        // Only rings of old kernels have texts without a time, and nothing else of them.
        if record.time.is_none() && (record.seq.is_some() || record.caller.is_some()) {
            head.push_str("(time lost) ");
        }
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
    for (i, line) in record.text.split('\n').enumerate() {
        match i {
            0 => row!(screen, "{head}{line}")?,
            _ => row!(screen, "{:indent$}{line}", "")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_is_lost_is_no_line_without_one() {
        let line = |seq, time, caller: Option<&str>| {
            let caller = caller.map(str::to_owned);
            let record = Record { seq, time, level: None, facility: None, caller, text: "Yama".to_owned() };
            let mut out = Vec::new();
            write_record(&record, Form::default(), &mut Screen::new(&mut out)).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(line(Some(7), Some(1_500_000_000), Some("T1")), "[    1.500000] Yama\n");
        assert_eq!(line(None, None, Some("T1")), "(time lost) Yama\n");
        assert_eq!(line(Some(7), None, None), "(time lost) Yama\n");
        assert_eq!(line(None, None, None), "Yama\n");
    }
}
