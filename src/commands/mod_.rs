//! `mod`: the modules.

use clap::{ArgAction, Args};
use serde::Serialize;

use super::{Answer, Command, CommandError, Context, Result, Text};
use crate::addr::VirtAddr;
use crate::debuginfo::locate::Search;
use crate::elf::BuildId;
use crate::linux::debug_files::DebugFiles;
use crate::linux::modules::State;
use crate::linux::{Kernel, Module, taint};
use crate::number;
use crate::text::{Screen, put, row};

pub(super) fn command() -> Command {
    Command::of_kernel(
        "mod",
        "modules: base, size, taint, build-id, debug file",
        "OBJECT FILE is the file with debug info that was found by build-id; -v shows where it was looked for.",
        run,
    )
    .verbose()
}

#[derive(Args)]
struct Arguments {
    /// Only modules that taint the kernel, with the reasons
    #[arg(short)]
    taints: bool,
    /// Where the debug file of each, and of the kernel, was looked for, and why it was not found
    // The shell's option of this name stands for the same, and more on stderr.
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,
    /// Which modules; an address may be any in one
    #[arg(value_name = "NAME|ADDRESS")]
    modules: Vec<String>,
}

#[derive(Serialize)]
#[serde(transparent)]
struct Modules<'a> {
    rows: Vec<Row<'a>>,
    /// Only the taints are to be shown.
    #[serde(skip)]
    taints: bool,
    /// How the files were looked for, if that is to be shown.
    #[serde(skip)]
    searches: Option<&'a DebugFiles>,
    /// Whether a module lies in several places (since 6.4), and its base is that of its code.
    #[serde(skip)]
    parts: bool,
}

#[derive(Serialize)]
struct Row<'a> {
    #[serde(skip)]
    of: &'a Module,
    name: &'a str,
    module: VirtAddr,
    base: VirtAddr,
    size: u64,
    state: &'static str,
    taint: String,
    build_id: Option<BuildId>,
    debug_file: Option<String>,
    #[serde(skip)]
    search: Option<&'a Search>,
}

fn run<'d>(kernel: &'d Kernel, args: Arguments, _: Context<'d>) -> Result<Answer<'d>> {
    let files = kernel.debug_files();
    let file = |i: usize| files.modules.get(i).and_then(|f| f.as_ref());
    let search = |i: usize| files.module_searches.get(i);
    let rows = kernel.modules().iter().enumerate().map(|(i, m)| row(m, file(i), search(i)));
    let mut rows: Vec<Row<'_>> = rows.collect();
    // crash's order.
    rows.sort_by_key(|r| r.base);
    if !args.modules.is_empty() {
        let is = |m: &Module, word: &String| {
            let addr = number::address(word).map(VirtAddr);
            *word == m.name || addr.is_some_and(|a| a == m.addr || m.contains(a))
        };
        rows.retain(|r| args.modules.iter().any(|w| is(r.of, w)));
        if rows.is_empty() {
            return Err(CommandError::Failed(format!("no module is {}", args.modules.join(" or "))));
        }
    }
    if args.taints {
        rows.retain(|r| r.of.taints != 0);
    }
    let parts = kernel.types().field("module", "mem").is_some();
    let searches = (args.verbose > 0).then_some(files);
    Ok(Modules { rows, taints: args.taints, searches, parts }.into())
}

impl Text for Modules<'_> {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        if self.taints {
            for r in &self.rows {
                let reasons: Vec<&str> = taint::set(r.of.taints).map(|(_, why)| why).collect();
                row!(screen, "{}  {}  {}", r.name, r.taint, reasons.join("; "))?;
            }
            return Ok(());
        }
        let name_width = self.rows.iter().map(|r| r.name.len()).max().unwrap_or(4);
        let size_width = self.rows.iter().map(|r| r.size.to_string().len()).max().unwrap_or(4).max(4);
        let base = if self.parts { "TEXT_BASE" } else { "BASE" };
        row!(
            screen,
            "{:^16}  {:<name_width$}  {base:^16}  {:>size_width$}  OBJECT FILE",
            "MODULE",
            "NAME",
            "SIZE"
        )?;
        for r in &self.rows {
            let file = r.debug_file.as_deref().unwrap_or("(not loaded)");
            put!(
                screen,
                "{:016x}  {:<name_width$}  {:016x}  {:>size_width$}  {file}",
                r.module.0,
                r.name,
                r.base.0,
                r.size
            );
            if r.state != "live" {
                put!(screen, "  [{}]", r.state);
            }
            if !r.taint.is_empty() {
                put!(screen, "  [{}]", r.taint);
            }
            match &r.build_id {
                Some(id) => row!(screen, "  build-id {id}")?,
                None => row!(screen, "  build-id not in the dump")?,
            }
            if self.searches.is_some() {
                r.search.map_or(Ok(()), |search| searched(search, screen))?;
            }
        }
        if let Some(files) = self.searches {
            row!(screen)?;
            match (&files.vmlinux, &files.build_id) {
                (Some(file), _) => row!(screen, "vmlinux: {}", file.path().display())?,
                (None, Some(id)) => row!(screen, "vmlinux with build-id {id} was not found")?,
                (None, None) => row!(screen, "vmlinux was not looked for: its build-id is not known")?,
            }
            files.vmlinux_search.as_ref().map_or(Ok(()), |search| searched(search, screen))?;
        }
        Ok(())
    }
}

/// Where a file was looked for.
fn searched(search: &Search, screen: &mut Screen<'_>) -> Result<()> {
    for path in search.places.iter().filter(|path| Some(*path) != search.found.as_ref()) {
        row!(screen, "    looked at {}", path.display())?;
    }
    search.remarks.iter().try_for_each(|why| row!(screen, "    {why}"))?;
    Ok(())
}

fn row<'a>(m: &'a Module, file: Option<&std::path::PathBuf>, search: Option<&'a Search>) -> Row<'a> {
    Row {
        of: m,
        name: &m.name,
        module: m.addr,
        base: m.base(),
        size: m.size(),
        state: match m.state {
            State::Live => "live",
            State::Coming => "coming",
            State::Going => "going",
            State::Unformed => "unformed",
        },
        taint: taint::letters(m.taints),
        build_id: m.build_id.clone(),
        debug_file: file.map(|f| f.display().to_string()),
        search,
    }
}
