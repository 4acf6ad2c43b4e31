//! `sym`: names to addresses and back.

use std::io::Write;

use super::lines::{LineFiles, Lines};
use super::{Command, CommandError, Request, Subject, json, only_kernel};
use crate::addr::VirtAddr;
use crate::debuginfo::symbols::Symbol;
use crate::linux::{Kernel, Module};

pub(super) const COMMAND: Command = Command {
    name: "sym",
    usage: "[-q] SYMBOL|ADDRESS... | -l [MODULE]",
    summary: "symbols by name or address",
    help: "  -q  every symbol whose name contains the text\n  \
           -l  all symbols, or those of a module\n\n\
           With the debug info at hand, code has its source line behind it.",
    kernel: true,
    process: false,
    run,
};

#[derive(serde::Serialize)]
struct Row<'a> {
    address: String,
    symbol: &'a str,
    offset: u64,
    size: u64,
    #[serde(rename = "type")]
    kind: char,
    module: Option<&'a str>,
}

type Found<'a> = (Symbol<'a>, u64, Option<&'a Module>);

fn run(subject: Subject<'_>, request: &Request<'_>, out: &mut dyn Write) -> Result<(), CommandError> {
    let kernel = only_kernel(subject)?;
    let (flags, words) = super::select::flags(request.args);
    let found = match flags.as_slice() {
        [] => by_words(kernel, &words)?,
        ["-q"] => {
            let text = words.first().ok_or_else(|| CommandError::Failed("-q needs a text".to_owned()))?;
            all(kernel, None).filter(|(s, ..)| s.name.contains(text)).collect()
        }
        ["-l"] => all(kernel, words.first().copied()).collect(),
        other => return Err(CommandError::Failed(format!("{} is not -q or -l", other.join(" ")))),
    };
    if found.is_empty() {
        return Err(CommandError::Failed(format!("no symbol fits {}", words.join(" "))));
    }
    if request.json {
        let rows: Vec<Row<'_>> = found
            .iter()
            .map(|(s, offset, m)| Row {
                address: format!("{:#x}", s.address.wrapping_add(*offset)),
                symbol: s.name,
                offset: *offset,
                size: s.size,
                kind: char::from(s.kind),
                module: m.map(|m| m.name.as_str()),
            })
            .collect();
        return json(&rows, out);
    }
    let files = LineFiles::new(kernel);
    let lines = flags.is_empty().then(|| Lines::new(&files));
    for (s, offset, module) in found {
        super::check(request)?;
        let at = s.address.wrapping_add(offset);
        write!(out, "{at:016x} ({}) {}", char::from(s.kind), s.name)?;
        if offset != 0 {
            write!(out, "+{offset}")?;
        }
        if let Some(module) = module {
            write!(out, " [{}]", module.name)?;
        }
        if let Some(line) = lines.as_ref().filter(|_| s.is_text()).and_then(|l| l.of(VirtAddr(at)).pop()) {
            write!(out, " {line}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn by_words<'a>(kernel: &'a Kernel, words: &[&str]) -> Result<Vec<Found<'a>>, CommandError> {
    let mut found = Vec::new();
    for word in words {
        let named: Vec<Found<'a>> = named(kernel, word).collect();
        if !named.is_empty() {
            found.extend(named);
            continue;
        }
        let at = super::address(kernel, word)?;
        match kernel.symbolise(at) {
            Some(one) => found.push(one),
            None => return Err(CommandError::Failed(format!("no symbol holds {at}"))),
        }
    }
    Ok(found)
}

/// Every symbol of that name, of the kernel and of its modules.
pub(super) fn named<'a>(kernel: &'a Kernel, name: &str) -> impl Iterator<Item = Found<'a>> {
    let own: Vec<Found<'a>> = kernel.symbols().all_by_name(name).map(|s| (s, 0, None)).collect();
    let modules = kernel.modules().iter().zip(kernel.module_symbols());
    let theirs: Vec<Found<'a>> =
        modules.flat_map(|(m, table)| table.all_by_name(name).map(move |s| (s, 0, Some(m)))).collect();
    own.into_iter().chain(theirs)
}

fn all<'a>(kernel: &'a Kernel, module: Option<&str>) -> impl Iterator<Item = Found<'a>> {
    let module = module.map(str::to_owned);
    let own =
        kernel.symbols().iter().map(|s| (s, 0, None)).take(if module.is_none() { usize::MAX } else { 0 });
    let theirs = kernel
        .modules()
        .iter()
        .zip(kernel.module_symbols())
        .filter(move |(m, _)| module.as_ref().is_none_or(|name| m.name == *name))
        .flat_map(|(m, table)| table.iter().map(move |s| (s, 0, Some(m))));
    own.chain(theirs)
}
