//! `info symbol` in bare gdb, against the guest's own /proc/kallsyms.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::Read;

use crate::support::dumps::{self, each};
use crate::support::program::{Gdb, Server, have_gdb};

/// How many addresses are asked for on each dump.
const SAMPLE: usize = 1000;

/// The names at each address, of kernel and modules, as the guest recorded them.
fn recorded(dump: &dumps::Dump) -> Option<BTreeMap<u64, Vec<String>>> {
    let file = std::fs::File::open(dump.path.parent()?.join("oracle/kallsyms.gz")).ok()?;
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).ok()?;
    let mut names: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (address, kind, name) = (words.next()?, words.next()?, words.next()?);
        let address = u64::from_str_radix(address, 16).ok()?;
        // per-CPU offsets are no addresses; __ksymtab and the like are in no section that is kept
        if address >> 63 == 1 && "tTdDbBrR".contains(kind) {
            names.entry(address).or_default().push(name.to_owned());
        }
    }
    Some(names)
}

#[test]
fn info_symbol_names_what_the_guest_names() {
    if !have_gdb() {
        return;
    }
    each("info symbol", &dumps::one_of_each(), |dump| {
        let Some(names) = recorded(dump) else { return Ok(false) };
        let all: Vec<(&u64, &Vec<String>)> = names.iter().collect();
        let step = (all.len() / SAMPLE).max(1);
        // The last byte before the next symbol, but not far into a gap.
        let asked: Vec<(u64, &Vec<String>)> = all
            .windows(2)
            .step_by(step)
            .take(SAMPLE)
            .map(|w| (w[0].0 + (w[1].0 - w[0].0 - 1).min(3), w[0].1))
            .collect();
        // gdb takes `types__setpgid` for Ada's and `x.isra.0` for C++'s.
        let mut script = String::from("set print demangle off\n");
        for (address, _) in &asked {
            let _ = writeln!(script, "echo @\\n\ninfo symbol {address:#x}");
        }
        let commands = tempfile::NamedTempFile::new().map_err(|e| e.to_string())?;
        std::fs::write(commands.path(), script).map_err(|e| e.to_string())?;
        let server = Server::start(&dump.path, &["--debug-dir", "/nonexistent"])?;
        let source = format!("source {}", commands.path().display());
        let said = Gdb::new(None).connect(&server).ex(&source).run()?;
        let answers: Vec<&str> = said.split('@').skip(1).map(|a| a.lines().nth(1).unwrap_or("")).collect();
        let mut wrong = Vec::new();
        for ((address, names), answer) in asked.iter().zip(&answers) {
            let got = answer.split_whitespace().next().unwrap_or("");
            if !names.iter().any(|n| n == got) {
                wrong.push(format!("{address:#x} is {answer:?}, not one of {names:?}"));
            }
        }
        eprintln!("{}: {} of {} right", dump.name(), asked.len() - wrong.len(), asked.len());
        if answers.len() != asked.len() || !wrong.is_empty() {
            let n = wrong.len();
            wrong.truncate(10);
            return Err(format!("{} answers, {n} wrong:\n    {}", answers.len(), wrong.join("\n    ")));
        }
        Ok(true)
    });
}
