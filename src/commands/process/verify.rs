//! `verify`: the core's read-only file mappings against the files.

use std::io::Write;

use super::{Place, spaced};
use crate::addr::PAGE_SIZE;
use crate::bytes::hex;
use crate::commands::{CommandError, Request, json};
use crate::elf::BuildId;
use crate::process::files::Lookup;
use crate::process::verify::{self, How, Page, Report, Verdict};
use crate::process::{Process, disasm};

#[derive(serde::Serialize)]
struct Row {
    file: String,
    host_file: Option<String>,
    verdict: &'static str,
    why: Option<String>,
    build_id: Option<String>,
    pages: u64,
    compared: u64,
    relro: u64,
    zeroed: u64,
    changed: u64,
    relocated_text: u64,
    zero_text_without_file: u64,
    differences: Vec<Difference>,
}

#[derive(serde::Serialize)]
struct Difference {
    page: String,
    file_offset: String,
    how: How,
    bytes: usize,
    first: String,
    core: String,
    file: String,
    /// The instruction that the first changed byte is in, with its address.
    instruction: Option<[String; 3]>,
    #[serde(flatten)]
    place: Place,
}

pub(in crate::commands) fn run(
    process: &Process,
    request: &Request<'_>,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let wanted = request.args.first();
    let mut rows = Vec::new();
    let (mut same, mut bad, mut nothing, mut absent, mut data) = (0, 0, 0, 0, 0);
    for file in process.files() {
        if (request.cancelled)() {
            return Ok(());
        }
        if wanted.is_some_and(|w| !file.name.contains(w.as_str())) {
            continue;
        }
        if !file.is_elf() {
            data += 1;
            continue;
        }
        let report = verify::compare(process, file, request.cancelled);
        match report.verdict {
            Verdict::Same => same += 1,
            Verdict::Differs => bad += 1,
            Verdict::NothingInCore => nothing += 1,
            Verdict::NotCompared(_) => absent += 1,
        }
        let row = row(process, &report);
        if request.json {
            rows.push(row);
        } else {
            text(&row, &report, out)?;
        }
    }
    if request.json {
        return json(&rows, out);
    }
    writeln!(
        out,
        "\n{same} same, {bad} differ, {absent} not compared, {nothing} with nothing in the core, {data} data files left out"
    )?;
    Ok(())
}

fn row(process: &Process, r: &Report) -> Row {
    let (verdict, why) = match &r.verdict {
        Verdict::Same => ("same", None),
        Verdict::Differs => ("differs", None),
        Verdict::NothingInCore => ("nothing_in_core", None),
        Verdict::NotCompared(why) => ("not_compared", Some(why.to_string())),
    };
    let difference = |p: &Page| Difference {
        page: format!("{:#x}", p.addr),
        file_offset: format!("{:#x}", p.offset),
        how: p.how,
        bytes: p.bytes,
        first: format!("{:#x}", p.first),
        core: hex(&p.core),
        file: hex(&p.file),
        instruction: disasm::beside(process, p.first).map(|b| [format!("{:#x}", b.at), b.core, b.file]),
        place: Place::of(process, p.first, p.first),
    };
    Row {
        file: r.file.name.clone(),
        host_file: r.file.served().map(|f| f.path.display().to_string()),
        verdict,
        why,
        build_id: r.file.expected().map(BuildId::to_string),
        pages: r.pages,
        compared: r.compared,
        relro: r.relro,
        zeroed: r.zeroed,
        changed: r.changed,
        relocated_text: r.relocated,
        zero_text_without_file: r.zero_text,
        differences: r.differences.iter().map(difference).collect(),
    }
}

fn text(row: &Row, r: &Report, out: &mut dyn Write) -> Result<(), CommandError> {
    let unproven = match r.file.lookup() {
        Lookup::HeaderOnly(_) => " (it has no build-id: the file may be another build)",
        _ => "",
    };
    let name = &row.file;
    match &r.verdict {
        Verdict::Same => {
            writeln!(out, "same       {name}: {} of {} pages compared{unproven}", r.compared, r.pages)?
        }
        Verdict::NothingInCore => {
            writeln!(out, "no pages   {name}: the core holds none of its {} read-only pages", r.pages)?;
        }
        Verdict::NotCompared(why) => {
            let id = row.build_id.as_deref().unwrap_or("not in the core");
            writeln!(out, "NOT FOUND  {name}: expected build-id {id}; {why}")?;
        }
        Verdict::Differs => {
            writeln!(
                out,
                "DIFFERS    {name}: {} of {} compared pages ({} zeroed, {} changed){unproven}",
                r.zeroed + r.changed,
                r.compared,
                r.zeroed,
                r.changed
            )?;
        }
    }
    if r.zero_text > 0 {
        writeln!(out, "           {} pages of its code are all zeros in the core", r.zero_text)?;
    }
    if r.relocated > 0 {
        writeln!(
            out,
            "           {} more pages of its text were relocated by the linker (not position-independent: DT_TEXTREL)",
            r.relocated
        )?;
    }
    let mut zeroed: Option<(u64, u64, &Difference)> = None;
    for (page, d) in r.differences.iter().zip(&row.differences) {
        if page.how == How::Zeroed {
            match &mut zeroed {
                Some((_, end, _)) if *end == page.addr => *end += PAGE_SIZE,
                run => {
                    zeros(run.take(), out)?;
                    *run = Some((page.addr, page.addr + PAGE_SIZE, d));
                }
            }
            continue;
        }
        zeros(zeroed.take(), out)?;
        let what = match page.how {
            How::Breakpoint => "a breakpoint (int3) at".to_owned(),
            _ => format!("{} bytes changed, first at", page.bytes),
        };
        writeln!(out, "    page {}: {what} {}  {}", d.page, d.first, d.place.text())?;
        let [at, core, file] = d.instruction.clone().unwrap_or_default();
        let at = if at.is_empty() { at } else { format!("   {at}: ") };
        writeln!(out, "        core  {}{at}{core}", spaced(&page.core))?;
        writeln!(out, "        file  {}{at}{file}", spaced(&page.file))?;
    }
    zeros(zeroed, out)?;
    let listed = r.differences.len() as u64;
    if r.zeroed + r.changed > listed {
        writeln!(out, "    ... and {} more pages", r.zeroed + r.changed - listed)?;
    }
    Ok(())
}

fn zeros(run: Option<(u64, u64, &Difference)>, out: &mut dyn Write) -> Result<(), CommandError> {
    let Some((start, end, first)) = run else { return Ok(()) };
    let pages = (end - start) / PAGE_SIZE;
    writeln!(
        out,
        "    {start:#x}-{end:#x}: {pages} pages read as ZEROS in the core, and the file has contents there (from {})",
        first.place.text()
    )?;
    Ok(())
}
