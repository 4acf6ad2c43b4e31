//! `rd`: memory as words, or as text.

use std::io::Write;
use std::sync::Arc;

use super::{Command, CommandError, Request, Subject, json, only_kernel, parse_address};
use crate::addr::{PhysAddr, VirtAddr};
use crate::dump::PhysicalMemory;
use crate::error::ReadFault;
use crate::linux::Kernel;
use crate::memory::AddressSpace;
use crate::memory::paging::PageTables;

pub(super) const COMMAND: Command = Command {
    name: "rd",
    usage: "[-8|-16|-32|-64] [-a] [-s] [-p|-u] [-e END] ADDRESS|SYMBOL [COUNT]",
    summary: "read memory",
    help: "  -8 -16 -32 -64  size of a word in bits (64)\n  \
           -a              as text, as far as it is printable if no count is given\n  \
           -s              words that are addresses of symbols by their names\n  \
           -p              the address is physical     -u  it is the selected task's\n  \
           -e END          up to this address instead of a count",
    kernel: true,
    process: false,
    run,
};

/// Bytes that one call shows at most.
const MAX: u64 = 64 << 20;
/// Text without a count ends here at the latest.
const TEXT_MAX: u64 = 4096;

/// What is read from.
enum From {
    Physical,
    Virtual(Arc<PageTables>),
}

impl From {
    /// Up to the end of the page at most.
    fn read(&self, kernel: &Kernel, addr: u64, buf: &mut [u8]) -> Result<usize, ReadFault> {
        match self {
            Self::Physical => kernel.dump().read_phys(PhysAddr(addr), buf),
            Self::Virtual(space) => space.read_run(VirtAddr(addr), buf),
        }
    }
}

struct Options {
    bytes: u64,
    text: bool,
    symbols: bool,
    physical: bool,
    end: Option<u64>,
}

fn run(subject: Subject<'_>, request: &Request<'_>, out: &mut dyn Write) -> Result<(), CommandError> {
    let kernel = only_kernel(subject)?;
    let mut options = Options { bytes: 8, text: false, symbols: false, physical: false, end: None };
    let mut words = Vec::new();
    let mut args = request.args.iter().map(String::as_str);
    while let Some(arg) = args.next() {
        match arg {
            "-8" => options.bytes = 1,
            "-16" => options.bytes = 2,
            "-32" => options.bytes = 4,
            "-64" | "-x" | "-u" | "-k" => {}
            "-a" => options.text = true,
            "-s" | "-S" => options.symbols = true,
            "-p" => options.physical = true,
            "-e" => {
                let end = args.next().map(|w| super::address(kernel, w)).transpose()?;
                options.end = end.map(|a| a.0);
            }
            other if other.starts_with('-') => {
                return Err(CommandError::Failed(format!("{other} is not one of {}", COMMAND.usage)));
            }
            _ => words.push(arg),
        }
    }
    let Some(&word) = words.first() else {
        return Err(CommandError::Failed("rd needs an address".to_owned()));
    };
    let start = match parse_address(word).filter(|_| options.physical) {
        Some(physical) => physical.0,
        None => super::address(kernel, word)?.0,
    };
    let unit = if options.text { 1 } else { options.bytes };
    let count =
        words.get(1).map(|w| number(w).ok_or_else(|| CommandError::Failed(format!("{w} is no count"))));
    let len = match (count.transpose()?, options.end) {
        (Some(n), _) => n.saturating_mul(unit),
        (None, Some(end)) => end.saturating_sub(start),
        (None, None) if options.text => TEXT_MAX,
        (None, None) => unit,
    };
    if len > MAX {
        return Err(CommandError::Failed(format!("{len} bytes are more than {MAX}; read them in parts")));
    }
    let from = if options.physical {
        From::Physical
    } else if start < kernel.user_limit() {
        let task = super::select::current(kernel, request)?;
        From::Virtual(kernel.task_space(task).ok_or_else(|| {
            CommandError::Failed(format!("{} (pid {}) has no user memory", task.comm, task.pid))
        })?)
    } else {
        From::Virtual(kernel.space().clone())
    };
    let stop_at_nul = options.text && words.len() < 2 && options.end.is_none();
    if request.json {
        return as_json(kernel, &from, start, len, stop_at_nul, request, out);
    }
    show(kernel, &from, start, len, stop_at_nul, &options, request, out)
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

#[derive(serde::Serialize)]
struct Bytes {
    address: String,
    hex: String,
    fault: Option<String>,
}

fn as_json(
    kernel: &Kernel,
    from: &From,
    start: u64,
    len: u64,
    stop_at_nul: bool,
    request: &Request<'_>,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let (mut hex, mut done, mut failed) = (String::new(), 0, None);
    let mut page = [0; 4096];
    while done < len && failed.is_none() {
        super::check(request)?;
        let want = usize::try_from(len - done).unwrap_or(4096).min(4096);
        match from.read(kernel, start.wrapping_add(done), page.get_mut(..want).unwrap_or_default()) {
            Ok(n) => {
                let got = page.get(..n).unwrap_or_default();
                let end = got.iter().position(|&b| b == 0 && stop_at_nul);
                got.iter().take(end.unwrap_or(n)).for_each(|b| hex.push_str(&format!("{b:02x}")));
                done = if end.is_some() || n == 0 { len } else { done + n as u64 };
            }
            Err(fault) => failed = Some(fault.to_string()),
        }
    }
    json(&Bytes { address: format!("{start:#x}"), hex, fault: failed }, out)
}

/// Bytes on a line: 16, or 60 characters.
fn line_len(options: &Options) -> u64 {
    if options.text { 60 } else { 16 }
}

#[allow(clippy::too_many_arguments, reason = "one call site")]
fn show(
    kernel: &Kernel,
    from: &From,
    start: u64,
    len: u64,
    stop_at_nul: bool,
    options: &Options,
    request: &Request<'_>,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let mut at = start;
    let end = start.saturating_add(len);
    while at < end {
        super::check(request)?;
        let want = line_len(options).min(end - at);
        let mut buf = [0; 60];
        let mut got = 0;
        let mut fault = None;
        while (got as u64) < want && fault.is_none() {
            let rest = buf.get_mut(got..usize::try_from(want).unwrap_or(0)).unwrap_or_default();
            match from.read(kernel, at.wrapping_add(got as u64), rest) {
                Ok(0) => break,
                Ok(n) => got += n,
                Err(why) => fault = Some(why),
            }
        }
        let bytes = buf.get(..got).unwrap_or_default();
        // As crash: text ends at what is none.
        let nul = bytes.iter().position(|b| !(0x20..0x7f).contains(b)).filter(|_| stop_at_nul);
        let bytes = bytes.get(..nul.unwrap_or(got)).unwrap_or_default();
        if !bytes.is_empty() {
            line(kernel, at, bytes, options, out)?;
        }
        if let Some(fault) = fault {
            writeln!(out, "rd: {fault}")?;
            return Ok(());
        }
        if nul.is_some() || got == 0 {
            return Ok(());
        }
        at = at.saturating_add(want);
    }
    Ok(())
}

fn ascii(bytes: &[u8]) -> String {
    bytes.iter().map(|&b| if (0x20..0x7f).contains(&b) { char::from(b) } else { '.' }).collect()
}

fn line(
    kernel: &Kernel,
    at: u64,
    bytes: &[u8],
    options: &Options,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let width = if options.physical || at >> 48 == 0 { 12 } else { 16 };
    write!(out, "{at:>width$x}:  ")?;
    if options.text {
        return Ok(writeln!(out, "{}", ascii(bytes))?);
    }
    let unit = usize::try_from(options.bytes).unwrap_or(8);
    let digits = unit * 2;
    let mut column = 0;
    for word in bytes.chunks(unit) {
        let value = word.iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte));
        let name = (options.symbols && unit == 8 && value >= kernel.user_limit())
            .then(|| super::bt::place(kernel, value))
            .flatten();
        let text = match name {
            Some(p) => format!("{}+{} ", p.name, p.offset),
            None => format!("{value:0digits$x} "),
        };
        column += text.len();
        write!(out, "{text:<digits$}")?;
    }
    let full = 16 / unit * (digits + 1);
    let pad = full.saturating_sub(column);
    Ok(writeln!(out, "{:pad$}  {}", "", ascii(bytes))?)
}
