//! `mod`: the modules.

use std::io::Write;

use super::{Command, CommandError, Request, Subject, json, only_kernel};
use crate::elf::BuildId;
use crate::linux::modules::State;
use crate::linux::{Module, taint};

pub(super) const COMMAND: Command = Command {
    name: "mod",
    usage: "[-t] [NAME|ADDRESS]...",
    summary: "modules: base, size, taint, build-id, debug file",
    help: "  -t  only modules that taint the kernel, with the reasons\n\n\
           OBJECT FILE is the file with debug info that was found by build-id.",
    kernel: true,
    process: false,
    run,
};

#[derive(serde::Serialize)]
struct Row<'a> {
    name: &'a str,
    module: String,
    base: String,
    size: u64,
    state: &'static str,
    taint: String,
    build_id: Option<String>,
    debug_file: Option<String>,
}

fn run(subject: Subject<'_>, request: &Request<'_>, out: &mut dyn Write) -> Result<(), CommandError> {
    let kernel = only_kernel(subject)?;
    let (flags, words) = super::select::flags(request.args);
    if let Some(other) = flags.iter().find(|f| **f != "-t") {
        return Err(CommandError::Failed(format!("{other} is not -t")));
    }
    let files = kernel.debug_files();
    let mut rows: Vec<(&Module, Row<'_>)> = kernel
        .modules()
        .iter()
        .enumerate()
        .map(|(i, m)| (m, row(m, files.modules.get(i).and_then(|f| f.as_ref()))))
        .collect();
    // crash's order.
    rows.sort_by_key(|(m, _)| m.base());
    if !words.is_empty() {
        rows.retain(|(m, _)| {
            words.iter().any(|w| {
                *w == m.name || super::parse_address(w).is_some_and(|a| a == m.addr || m.contains(a))
            })
        });
        if rows.is_empty() {
            return Err(CommandError::Failed(format!("no module is {}", words.join(" or "))));
        }
    }
    if !flags.is_empty() {
        rows.retain(|(m, _)| m.taints != 0);
    }
    if request.json {
        let rows: Vec<&Row<'_>> = rows.iter().map(|(_, r)| r).collect();
        return json(&rows, out);
    }
    if !flags.is_empty() {
        for (m, r) in &rows {
            let reasons: Vec<&str> = taint::set(m.taints).map(|(_, why)| why).collect();
            writeln!(out, "{}  {}  {}", r.name, r.taint, reasons.join("; "))?;
        }
        return Ok(());
    }
    let name_width = rows.iter().map(|(_, r)| r.name.len()).max().unwrap_or(4);
    let size_width = rows.iter().map(|(_, r)| r.size.to_string().len()).max().unwrap_or(4).max(4);
    // Since 6.4 a module lies in several places, and its base is that of its code.
    let base = if kernel.types().field("module", "mem").is_some() { "TEXT_BASE" } else { "BASE" };
    writeln!(
        out,
        "{:^16}  {:<name_width$}  {base:^16}  {:>size_width$}  OBJECT FILE",
        "MODULE", "NAME", "SIZE"
    )?;
    for (m, r) in &rows {
        let file = r.debug_file.as_deref().unwrap_or("(not loaded)");
        write!(
            out,
            "{:016x}  {:<name_width$}  {:016x}  {:>size_width$}  {file}",
            m.addr.0,
            r.name,
            m.base().0,
            r.size
        )?;
        if r.state != "live" {
            write!(out, "  [{}]", r.state)?;
        }
        if !r.taint.is_empty() {
            write!(out, "  [{}]", r.taint)?;
        }
        match &r.build_id {
            Some(id) => writeln!(out, "  build-id {id}")?,
            None => writeln!(out, "  build-id not in the dump")?,
        }
    }
    Ok(())
}

fn row<'a>(m: &'a Module, file: Option<&std::path::PathBuf>) -> Row<'a> {
    Row {
        name: &m.name,
        module: m.addr.to_string(),
        base: m.base().to_string(),
        size: m.size(),
        state: match m.state {
            State::Live => "live",
            State::Coming => "coming",
            State::Going => "going",
            State::Unformed => "unformed",
        },
        taint: taint::letters(m.taints),
        build_id: m.build_id.as_ref().map(BuildId::to_string),
        debug_file: file.map(|f| f.display().to_string()),
    }
}
