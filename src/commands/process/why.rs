//! `why`: what supplies an address, or why nothing does.

use serde::Serialize;

use crate::addr::VirtAddr;
use crate::commands::address;
use crate::commands::{Answer, Context, Result, Text};
use crate::elf::BuildId;
use crate::memory::AddressSpace;
use crate::process::Process;
use crate::text::{Screen, row};

#[derive(Serialize)]
struct Source {
    addr: VirtAddr,
    readable: bool,
    file: Option<String>,
    expected_build_id: Option<BuildId>,
    why: String,
}

pub(in crate::commands) fn run<'d>(
    process: &'d Process,
    word: Option<&str>,
    context: Context<'d>,
) -> Result<Answer<'d>> {
    let addr = match word {
        Some(word) => address::of_process(process, context, word)?,
        None => address::last_fault(context)?.0,
    };
    let file = process.file_at(addr.0).map(|(file, _)| file);
    let source = Source {
        addr,
        readable: process.memory().read_run(addr, &mut [0]).is_ok(),
        file: file.map(|f| f.name.clone()),
        expected_build_id: file.and_then(|f| f.expected()).cloned(),
        why: process.explain(addr.0),
    };
    Ok(source.into())
}

impl Text for Source {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        Ok(row!(screen, "{}", self.why)?)
    }
}
