//! `verify`: the core's read-only file mappings against the files.

use std::sync::Arc;

use clap::Args;
use serde::{Serialize, Serializer};

use super::{Place, REINSTALL, spaced};
use crate::addr::PAGE_SIZE;
use crate::commands::answer::streamed;
use crate::commands::{Answer, Command, CommandError, Context, Result, Text};
use crate::elf::BuildId;
use crate::hex;
use crate::process::files::{Lookup, MappedFile};
use crate::process::proof::{Doubt, Proof};
use crate::process::verify::{self, How, Page, Report, Verdict};
use crate::process::{Process, disasm};
use crate::text::{Screen, row};

#[derive(Serialize)]
struct Row {
    file: String,
    host_file: Option<String>,
    verdict: &'static str,
    why: Option<String>,
    build_id: Option<BuildId>,
    pages: u64,
    compared: u64,
    relro: u64,
    zeroed: u64,
    changed: u64,
    relocated_text: u64,
    zero_text_without_file: u64,
    /// Pages of code that are zeros in the core and in the file.
    zero_text_in_both: u64,
    /// Pages of code that the core left out and that are zeros in the file.
    zero_text_in_file: u64,
    differences: Vec<Difference>,
}

#[derive(Serialize)]
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

pub(in crate::commands) fn command() -> Command {
    Command::of_process(
        "verify",
        "compare the read-only mappings in the core with their files",
        "Tells pages that read as zeros though the file has code there, changed bytes, breakpoints that \
         were left, text that the linker relocated, files that are missing, and files whose build-id is \
         another. Cores hold the text only if coredump_filter has bit 2 (echo 0x3f > \
         /proc/PID/coredump_filter); by default there is only the first page of each file.",
        run,
    )
}

#[derive(Args)]
struct Arguments {
    /// Only files whose name contains this
    file: Option<String>,
}

fn run<'d>(process: &'d Process, args: Arguments, context: Context<'d>) -> Result<Answer<'d>> {
    let wanted = |f: &&Arc<MappedFile>| args.file.as_ref().is_none_or(|w| f.name.contains(w.as_str()));
    let (files, data): (Vec<_>, Vec<_>) = process.files().iter().filter(wanted).partition(|f| f.has_code());
    if let Some(text) = args.file.filter(|_| files.is_empty() && data.is_empty()) {
        return Err(CommandError::Failed(format!("no mapped file has {text} in its name")));
    }
    Ok(Verify { process, context, files, data: data.len() }.into())
}

/// Files are compared while the answer is shown.
struct Verify<'d> {
    process: &'d Process,
    context: Context<'d>,
    files: Vec<&'d Arc<MappedFile>>,
    /// How many files are no programs or libraries.
    data: usize,
}

impl Verify<'_> {
    fn reports(&self) -> impl Iterator<Item = Report> {
        self.files.iter().map(|f| verify::compare(self.process, f, self.context.cancelled))
    }
}

impl Serialize for Verify<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        streamed(to, self.context, self.reports().map(|report| row(self.process, &report)))
    }
}

impl Text for Verify<'_> {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        let (mut same, mut bad, mut nothing, mut absent) = (0, 0, 0, 0);
        for report in self.reports() {
            self.context.check()?;
            match report.verdict {
                Verdict::Same => same += 1,
                Verdict::Differs => bad += 1,
                Verdict::NothingInCore => nothing += 1,
                Verdict::NotCompared(_) => absent += 1,
            }
            text(&row(self.process, &report), &report, screen)?;
        }
        row!(screen)?;
        row!(
            screen,
            "{same} same, {bad} differ, {absent} not compared, {nothing} with nothing in the core, \
             {} data files left out",
            self.data
        )?;
        Ok(())
    }
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
        core: hex::encode(&p.core),
        file: hex::encode(&p.file),
        instruction: disasm::beside(process, p.first).map(|b| [format!("{:#x}", b.at), b.core, b.file]),
        place: Place::of(process, p.first, p.first),
    };
    Row {
        file: r.file.name.clone(),
        host_file: r.file.served().map(|f| f.path.display().to_string()),
        verdict,
        why,
        build_id: r.file.expected().cloned(),
        pages: r.pages,
        compared: r.compared,
        relro: r.relro,
        zeroed: r.zeroed,
        changed: r.changed,
        relocated_text: r.relocated,
        zero_text_without_file: r.zero_text,
        zero_text_in_both: r.zero_both,
        zero_text_in_file: r.zero_file,
        differences: r.differences.iter().map(difference).collect(),
    }
}

fn text(row: &Row, r: &Report, screen: &mut Screen<'_>) -> Result<()> {
    let unproven = match r.file.lookup() {
        Lookup::Doubtful(_, Doubt::Pages { .. }) => " (it has no build-id: the file may be another build)",
        Lookup::Doubtful(_, Doubt::PathOnly) => " (found by its path alone: the core has no ELF headers)",
        Lookup::Proven(_, Proof::Word | Proof::Path) => " (taken by your word)",
        _ => "",
    };
    let name = &row.file;
    match &r.verdict {
        Verdict::Same => {
            row!(screen, "same       {name}: {} of {} pages compared{unproven}", r.compared, r.pages)?
        }
        Verdict::NothingInCore => {
            row!(screen, "no pages   {name}: the core holds none of its {} read-only pages", r.pages)?;
        }
        Verdict::NotCompared(why) => {
            let id = row.build_id.as_ref().map_or_else(|| "not in the core".to_owned(), BuildId::to_string);
            row!(screen, "NOT FOUND  {name}: expected build-id {id}; {why}")?;
        }
        Verdict::Differs => {
            row!(
                screen,
                "DIFFERS    {name}: {} of {} compared pages ({} zeroed, {} changed){unproven}",
                r.zeroed + r.changed,
                r.compared,
                r.zeroed,
                r.changed
            )?;
        }
    }
    if r.zero_text > 0 {
        row!(screen, "           {} pages of its code are all zeros in the core", r.zero_text)?;
    }
    for (pages, whose) in
        [(r.zero_both, "in the core and in the file"), (r.zero_file, "in the file (the core left them out)")]
    {
        if pages > 0 {
            row!(
                screen,
                "           {pages} pages of its code are all zeros {whose}: the file itself is damaged there; {REINSTALL}"
            )?;
        }
    }
    if r.relocated > 0 {
        row!(
            screen,
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
                    zeros(run.take(), screen)?;
                    *run = Some((page.addr, page.addr + PAGE_SIZE, d));
                }
            }
            continue;
        }
        zeros(zeroed.take(), screen)?;
        let what = match page.how {
            How::Breakpoint => "a breakpoint (int3) at".to_owned(),
            _ => format!("{} bytes changed, first at", page.bytes),
        };
        row!(screen, "    page {}: {what} {}  {}", d.page, d.first, d.place.text())?;
        let [at, core, file] = d.instruction.clone().unwrap_or_default();
        let at = if at.is_empty() { at } else { format!("   {at}: ") };
        row!(screen, "        core  {}{at}{core}", spaced(&page.core))?;
        row!(screen, "        file  {}{at}{file}", spaced(&page.file))?;
    }
    zeros(zeroed, screen)?;
    let listed = r.differences.len() as u64;
    if r.zeroed + r.changed > listed {
        row!(screen, "    ... and {} more pages", r.zeroed + r.changed - listed)?;
    }
    Ok(())
}

fn zeros(run: Option<(u64, u64, &Difference)>, screen: &mut Screen<'_>) -> Result<()> {
    let Some((start, end, first)) = run else { return Ok(()) };
    let pages = (end - start) / PAGE_SIZE;
    row!(
        screen,
        "    {start:#x}-{end:#x}: {pages} pages read as ZEROS in the core, and the file has contents there (from {})",
        first.place.text()
    )?;
    Ok(())
}
