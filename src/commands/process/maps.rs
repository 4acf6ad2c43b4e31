//! `maps`: each mapping, its file, and where its bytes come from.

use std::collections::HashSet;
use std::io::Write;

use crate::addr::VirtAddr;
use crate::commands::{CommandError, Request, check, json};
use crate::elf::BuildId;
use crate::memory::AddressSpace;
use crate::process::files::Lookup;
use crate::process::{Process, procfs};

#[derive(serde::Serialize)]
struct Row {
    start: String,
    end: String,
    perms: String,
    offset: Option<String>,
    name: String,
    build_id: Option<String>,
    in_core: u64,
    from_file: u64,
    missing: u64,
    host_file: Option<String>,
    why: Option<String>,
}

pub(in crate::commands) fn run(
    process: &Process,
    request: &Request<'_>,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let rows = procfs::mappings(process);
    let rows = rows.iter().map(|m| row(process, m));
    if request.json {
        return json(&rows.collect::<Vec<_>>(), out);
    }
    writeln!(out, "START            END              PERM  IN CORE FROM FILE  MISSING  NAME")?;
    let (mut reasons, mut known) = (Vec::new(), HashSet::new());
    for r in rows {
        check(request)?;
        let size = |n: u64| if n == 0 { "-".to_owned() } else { format!("{}K", n.div_ceil(1024)) };
        let plain = |a: &str| a.trim_start_matches("0x").to_owned();
        write!(
            out,
            "{:>16} {:>16} {} {:>9} {:>9} {:>8}  {}",
            plain(&r.start),
            plain(&r.end),
            r.perms,
            size(r.in_core),
            size(r.from_file),
            size(r.missing),
            r.name
        )?;
        if let Some(offset) = r.offset.as_ref().filter(|o| *o != "0x0") {
            write!(out, "+{offset}")?;
        }
        writeln!(out)?;
        if let Some(why) = r.why.filter(|_| r.missing > 0) {
            let line = format!("{}: {why}", r.name);
            if known.insert(line.clone()) {
                reasons.push(line);
            }
        }
    }
    if !reasons.is_empty() {
        writeln!(out, "\nmissing:")?;
    }
    for reason in reasons {
        writeln!(out, "  {reason}")?;
    }
    Ok(())
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
        Some(Lookup::Proven(f)) => (Some(f.path.display().to_string()), None),
        Some(Lookup::HeaderOnly(f)) => (
            Some(f.path.display().to_string()),
            Some("it has no build-id: symbols are served, its bytes are not taken for memory".to_owned()),
        ),
        Some(Lookup::Refused(why)) => (None, Some(why.to_string())),
        None => (None, None),
    };
    Row {
        start: format!("{:#x}", m.start),
        end: format!("{:#x}", m.end),
        perms: procfs::permissions(m.flags),
        offset: m.file.then(|| format!("{:#x}", m.offset)),
        name: m.name.clone(),
        build_id: file.and_then(|f| f.expected()).map(BuildId::to_string),
        in_core,
        from_file,
        missing: size - in_core - from_file,
        host_file,
        why,
    }
}
