//! `why`: what supplies an address, or why nothing does.

use std::io::Write;

use crate::addr::VirtAddr;
use crate::commands::{CommandError, Request, json};
use crate::elf::BuildId;
use crate::process::Process;

#[derive(serde::Serialize)]
struct Why {
    addr: String,
    file: Option<String>,
    expected_build_id: Option<String>,
    why: String,
}

pub(in crate::commands) fn run(
    process: &Process,
    addr: VirtAddr,
    request: &Request<'_>,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let file = process.file_at(addr.0).map(|(file, _)| file);
    let why = Why {
        addr: addr.to_string(),
        file: file.map(|f| f.name.clone()),
        expected_build_id: file.and_then(|f| f.expected()).map(BuildId::to_string),
        why: process.explain(addr.0),
    };
    if request.json {
        return json(&why, out);
    }
    Ok(writeln!(out, "{}", why.why)?)
}
