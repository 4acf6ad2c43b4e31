//! `maps`: the mappings of a process.

use std::io::Write;

use super::{Command, CommandError, Request, Subject};

pub(super) const COMMAND: Command = Command {
    name: "maps",
    usage: "",
    summary: "the mappings, and whether their bytes are in the core, in a file, or missing",
    help: "IN CORE is what the core holds itself. FROM FILE is what it left out and a file with the same\n\
           build-id supplies. MISSING is neither: `why ADDRESS` says why.",
    kernel: false,
    process: true,
    run,
};

fn run(subject: Subject<'_>, request: &Request<'_>, out: &mut dyn Write) -> Result<(), CommandError> {
    match subject {
        Subject::Kernel(_) => Err(CommandError::Failed("maps is for userspace cores".to_owned())),
        Subject::Process(process) => super::process::maps::run(process, request, out),
    }
}
