//! `info symbol` in bare gdb, against the guest's own /proc/kallsyms.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use crate::support::dumps::{self, each};
use crate::support::guest::{self, Symbol};
use crate::support::program::{Gdb, Server, have_gdb};

/// The names at each address that the guest names, of kernel and modules, as it
/// recorded them itself.
fn recorded(dump: &dumps::Dump) -> Option<BTreeMap<u64, Vec<String>>> {
    let lines = guest::kallsyms(dump.path.parent()?)?;
    // From `_end` on the kernel names what is in modules alone (`is_kernel()`).
    let end = lines.iter().find(|l| l.name == "_end" && l.module.is_none())?.address;
    let mut names: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for Symbol { address, name, module } in lines {
        // Per-CPU offsets are no addresses; what the guest made as it ran is in no file.
        let made = matches!(module.as_deref(), Some("[bpf]" | "[__builtin__ftrace]"));
        if address >> 63 == 1 && !made && (address < end || module.is_some()) {
            names.entry(address).or_default().push(name);
        }
    }
    Some(names)
}

/// Every symbol, its first byte and one that is behind it: those at the very end of
/// a section or of a module, too, which a sample would seldom meet.
#[test]
fn info_symbol_names_what_the_guest_names() {
    if !have_gdb() {
        return;
    }
    // All of a folder are of one guest.
    let mut dumps = dumps::one_of_each();
    dumps.dedup_by_key(|d| d.path.parent().map(Path::to_owned));
    each("info symbol", &dumps, |dump| {
        let Some(names) = recorded(dump) else { return Ok(false) };
        let next = names.keys().skip(1).map(Some).chain([None]);
        let mut asked: Vec<(u64, &Vec<String>)> = Vec::new();
        for ((address, names), next) in names.iter().zip(next) {
            // Up to the next symbol, but not far into a gap.
            let behind = next.map_or(0, |next| (next - address - 1).min(3));
            asked.push((*address, names));
            asked.extend((behind > 0).then_some((address + behind, names)));
        }
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
