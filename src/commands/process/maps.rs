//! `maps`: each mapping, its file, and where its bytes come from.

use std::collections::HashSet;

use serde::Serialize;

use crate::addr::VirtAddr;
use crate::commands::{Answer, Command, Context, NoArguments, Result, Text};
use crate::elf::BuildId;
use crate::memory::AddressSpace;
use crate::process::files::Lookup;
use crate::process::proof::Proof;
use crate::process::{Process, procfs};
use crate::text::{Screen, put, row};

pub(in crate::commands) fn command() -> Command {
    Command::of_process(
        "maps",
        "the mappings, and whether their bytes are in the core, in a file, or missing",
        "IN CORE is what the core holds itself. FROM FILE is what it left out and a file with the same \
         build-id supplies. MISSING is neither: `why ADDRESS` says why.",
        run,
    )
    .likewise("vm")
}

#[derive(Serialize)]
#[serde(transparent)]
struct Maps(Vec<Row>);

#[derive(Serialize)]
struct Row {
    start: String,
    end: String,
    perms: String,
    offset: Option<String>,
    name: String,
    build_id: Option<BuildId>,
    in_core: u64,
    from_file: u64,
    missing: u64,
    host_file: Option<String>,
    why: Option<String>,
}

fn run<'d>(process: &'d Process, _: NoArguments, context: Context<'d>) -> Result<Answer<'d>> {
    let mut rows = Vec::new();
    for mapping in procfs::mappings(process) {
        context.check()?;
        rows.push(row(process, &mapping));
    }
    Ok(Maps(rows).into())
}

impl Text for Maps {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        row!(screen, "START            END              PERM  IN CORE FROM FILE  MISSING  NAME")?;
        let (mut reasons, mut known) = (Vec::new(), HashSet::new());
        for r in &self.0 {
            let size = |n: u64| if n == 0 { "-".to_owned() } else { format!("{}K", n.div_ceil(1024)) };
            put!(
                screen,
                "{:>16} {:>16} {} {:>9} {:>9} {:>8}  {}",
                r.start.trim_start_matches("0x"),
                r.end.trim_start_matches("0x"),
                r.perms,
                size(r.in_core),
                size(r.from_file),
                size(r.missing),
                r.name
            );
            if let Some(offset) = r.offset.as_ref().filter(|o| *o != "0x0") {
                put!(screen, "+{offset}");
            }
            row!(screen)?;
            if let Some(why) = r.why.as_ref().filter(|_| r.missing > 0) {
                let line = format!("{}: {why}", r.name);
                if known.insert(line.clone()) {
                    reasons.push(line);
                }
            }
        }
        if !reasons.is_empty() {
            row!(screen)?;
            row!(screen, "missing:")?;
        }
        reasons.iter().try_for_each(|reason| row!(screen, "  {reason}"))?;
        Ok(())
    }
}

fn row(process: &Process, m: &procfs::Mapping) -> Row {
    let size = m.end - m.start;
    let in_core = m.stored.min(size);
    // What follows the stored part is of one kind: a file either supplies it or not
    // (it may end earlier; asking for the first page tells enough).
    let readable = in_core < size && process.memory().read_run(VirtAddr(m.start + in_core), &mut [0]).is_ok();
    let from_file = if readable { size - in_core } else { 0 };
    let file = process.file_at(m.start).map(|(file, _)| file).filter(|_| m.file);
    let (host_file, why) = match file.map(|f| f.lookup()) {
        Some(Lookup::Proven(f, Proof::BuildId)) => (Some(f.path.display().to_string()), None),
        Some(Lookup::Proven(f, proof)) => (Some(f.path.display().to_string()), Some(proof.to_string())),
        Some(Lookup::Doubtful(f, doubt)) => (Some(f.path.display().to_string()), Some(doubt.to_string())),
        Some(Lookup::Refused(why)) => (None, Some(why.to_string())),
        None => (None, None),
    };
    Row {
        start: format!("{:#x}", m.start),
        end: format!("{:#x}", m.end),
        perms: procfs::permissions(m.flags),
        offset: m.file.then(|| format!("{:#x}", m.offset)),
        name: m.name.clone(),
        build_id: file.and_then(|f| f.expected()).cloned(),
        in_core,
        from_file,
        missing: size - in_core - from_file,
        host_file,
        why,
    }
}
