//! `help`: the table of commands, or one of them in full.

use std::io::Write;

use super::{COMMANDS, Command, CommandError, Request, Subject, find};

pub(super) const COMMAND: Command = Command {
    name: "help",
    usage: "[COMMAND]",
    summary: "list the commands, or explain one",
    help: "",
    kernel: true,
    process: true,
    run,
};

fn run(subject: Subject<'_>, request: &Request<'_>, out: &mut dyn Write) -> Result<(), CommandError> {
    if let Some(name) = request.args.first() {
        let c = find(name).ok_or_else(|| CommandError::Failed(format!("no command {name}")))?;
        writeln!(out, "{} {}\n    {}", c.name, c.usage, c.summary)?;
        if !c.help.is_empty() {
            writeln!(out, "\n{}", c.help)?;
        }
        return Ok(());
    }
    for c in COMMANDS {
        let fits = match subject {
            Subject::Kernel(_) => c.kernel,
            Subject::Process(_) => c.process,
        };
        if fits {
            writeln!(out, "{:<30} {}", format!("{} {}", c.name, c.usage), c.summary)?;
        }
    }
    writeln!(
        out,
        "\nIn gdb: `monitor COMMAND`; in a shell: `corestub COMMAND DUMP`, with --json for machines."
    )?;
    Ok(())
}
