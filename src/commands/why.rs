//! `why`: the reason an address cannot be read.

use std::io::Write;

use super::{Command, CommandError, Request, Subject, parse_address};

pub(super) const COMMAND: Command = Command {
    name: "why",
    usage: "[ADDRESS]",
    summary: "why an address (by default the last that failed) cannot be read",
    help: "Tells a page that is not mapped from one that was swapped out, left out of the dump by its\n\
           filter, lost by truncation, or damaged. User addresses are those of the selected thread.\n\n    \
           (gdb) x/gx 0xffff888000000000\n    Cannot access memory at address 0xffff888000000000\n    (gdb) monitor why",
    kernel: true,
    process: true,
    run,
};

fn run(subject: Subject<'_>, request: &Request<'_>, out: &mut dyn Write) -> Result<(), CommandError> {
    let addr = match (request.args.first(), request.last_fault) {
        (Some(text), _) => {
            parse_address(text).ok_or_else(|| CommandError::Failed(format!("{text} is not an address")))?
        }
        (None, Some((addr, fault))) => match subject {
            Subject::Kernel(_) => return Ok(writeln!(out, "{addr}: {fault}")?),
            Subject::Process(_) => addr,
        },
        (None, None) => {
            return Ok(writeln!(out, "no read has failed in this session; why ADDRESS asks for one")?);
        }
    };
    match subject {
        Subject::Kernel(kernel) => {
            let task = request.task.and_then(|t| kernel.tasks().by_address(t));
            let mut byte = [0; 1];
            match kernel.read_as(task.map(AsRef::as_ref), addr, &mut byte) {
                Ok(_) => writeln!(out, "{addr} is readable")?,
                Err(fault) => writeln!(out, "{addr}: {fault}")?,
            }
        }
        Subject::Process(process) => super::process::why::run(process, addr, request, out)?,
    }
    Ok(())
}
