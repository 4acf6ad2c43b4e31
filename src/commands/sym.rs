//! `sym`: names to addresses and back.

use clap::Args;
use serde::{Serialize, Serializer};

use super::answer::streamed;
use super::lines::{LineFiles, Lines};
use super::{Answer, Command, CommandError, Context, Result, Text, address};
use crate::addr::VirtAddr;
use crate::debuginfo::symbols::Symbol;
use crate::linux::{Kernel, Module};
use crate::text::{Screen, put, row};

pub(super) fn command() -> Command {
    Command::of_kernel(
        "sym",
        "symbols by name or address",
        "With the debug info at hand, code has its source line behind it.",
        run,
    )
    .partly()
}

#[derive(Args)]
struct Arguments {
    #[arg(value_name = "SYMBOL|ADDRESS", help = address::HELP, required_unless_present = "list")]
    words: Vec<String>,
    /// Every symbol whose name contains one of the words
    #[arg(short, conflicts_with = "list")]
    query: bool,
    /// All symbols, or those of the modules that the words name
    #[arg(short)]
    list: bool,
}

#[derive(Serialize)]
struct Row<'a> {
    address: VirtAddr,
    symbol: &'a str,
    offset: u64,
    size: u64,
    #[serde(rename = "type")]
    kind: char,
    module: Option<&'a str>,
}

type Found<'a> = (Symbol<'a>, u64, Option<&'a Module>);

struct Symbols<'d> {
    kernel: &'d Kernel,
    context: Context<'d>,
    found: Vec<Found<'d>>,
    /// Whether source lines are shown.
    lines: bool,
}

fn run<'d>(kernel: &'d Kernel, args: Arguments, context: Context<'d>) -> Result<Answer<'d>> {
    let words = args.words;
    let found: Vec<Found<'_>> = if args.query {
        all(kernel, &[]).filter(|(s, ..)| words.iter().any(|w| s.name.contains(w.as_str()))).collect()
    } else if args.list {
        all(kernel, &words).collect()
    } else {
        by_words(kernel, context, &words)?
    };
    if found.is_empty() {
        return Err(CommandError::Failed(format!("no symbol fits {}", words.join(" "))));
    }
    Ok(Symbols { kernel, context, found, lines: !(args.query || args.list) }.into())
}

impl Serialize for Symbols<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        let rows = self.found.iter().map(|(s, offset, m)| Row {
            address: VirtAddr(s.address.wrapping_add(*offset)),
            symbol: s.name,
            offset: *offset,
            size: s.size,
            kind: char::from(s.kind),
            module: m.map(|m| m.name.as_str()),
        });
        streamed(to, self.context, rows)
    }
}

impl Text for Symbols<'_> {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        let files = LineFiles::new(self.kernel);
        let lines = self.lines.then(|| Lines::new(&files));
        for (s, offset, module) in &self.found {
            self.context.check()?;
            let at = s.address.wrapping_add(*offset);
            put!(screen, "{at:016x} ({}) {}", char::from(s.kind), s.name);
            if *offset != 0 {
                put!(screen, "+{offset}");
            }
            if let Some(module) = module {
                put!(screen, " [{}]", module.name);
            }
            let lines = lines.as_ref().filter(|_| s.is_text());
            if let Some(line) = lines.and_then(|l| l.of(VirtAddr(at)).pop()) {
                put!(screen, " {line}");
            }
            row!(screen)?;
        }
        Ok(())
    }
}

fn by_words<'a>(kernel: &'a Kernel, context: Context<'_>, words: &[String]) -> Result<Vec<Found<'a>>> {
    let mut found = Vec::new();
    for word in words {
        let named: Vec<Found<'a>> = kernel.symbols_named(word).map(|(s, m)| (s, 0, m)).collect();
        if !named.is_empty() {
            found.extend(named);
            continue;
        }
        let at = address::of_kernel(kernel, context, word)?;
        match kernel.symbolise(at) {
            Some(one) => found.push(one),
            None => return Err(CommandError::Failed(format!("no symbol holds {at}"))),
        }
    }
    Ok(found)
}

/// All symbols, or those of the modules of these names.
fn all<'a>(kernel: &'a Kernel, modules: &[String]) -> impl Iterator<Item = Found<'a>> {
    let own = modules.is_empty().then(|| kernel.symbols().iter().map(|s| (s, 0, None)));
    let theirs = kernel
        .modules()
        .iter()
        .zip(kernel.module_symbols())
        .filter(|(m, _)| modules.is_empty() || modules.contains(&m.name))
        .flat_map(|(m, table)| table.iter().map(move |s| (s, 0, Some(m))));
    own.into_iter().flatten().chain(theirs)
}
