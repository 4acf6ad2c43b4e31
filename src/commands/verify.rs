//! `verify`: is the dump what the files say?

use std::io::Write;

use super::{Command, CommandError, Request, Subject};

pub(super) const COMMAND: Command = Command {
    name: "verify",
    usage: "[FILE]",
    summary: "compare the read-only mappings in the core with their files",
    help: "Tells pages that read as zeros though the file has code there, changed bytes, breakpoints that\n\
           were left, text that the linker relocated, files that are missing, and files whose build-id is\n\
           another. Cores hold the text only if coredump_filter has bit 2 (echo 0x3f > /proc/PID/coredump_filter);\n\
           by default there is only the first page of each file. FILE: only files whose name contains it.",
    kernel: false,
    process: true,
    run,
};

fn run(subject: Subject<'_>, request: &Request<'_>, out: &mut dyn Write) -> Result<(), CommandError> {
    match subject {
        Subject::Kernel(_) => Err(CommandError::Failed("verify is for userspace cores".to_owned())),
        Subject::Process(process) => super::process::verify::run(process, request, out),
    }
}
