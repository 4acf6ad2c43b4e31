//! `help`: the table of commands, or one of them in full.
//!
//! In a shell clap answers `help` itself, from the same declarations.

use clap::Args;
use serde::Serialize;

use super::{Answer, COMMANDS, Command, CommandError, Context, Result, Subject, Text, declare, typed};
use crate::linux::Kernel;
use crate::process::Process;
use crate::text::{Screen, row};

pub(super) fn command() -> Command {
    Command::of_both("help", "list the commands, or explain one", "", of_kernel, of_process).partly()
}

#[derive(Args)]
struct Help {
    /// What is to be explained
    #[arg(value_name = "COMMAND")]
    name: Option<String>,
}

fn of_kernel<'d>(kernel: &'d Kernel, args: Help, _: Context<'d>) -> Result<Answer<'d>> {
    answer(Subject::Kernel(kernel), args.name.as_deref())
}

fn of_process<'d>(process: &'d Process, args: Help, _: Context<'d>) -> Result<Answer<'d>> {
    answer(Subject::Process(process), args.name.as_deref())
}

fn answer(subject: Subject<'_>, name: Option<&str>) -> Result<Answer<'static>> {
    let Some(name) = name else {
        let shown = COMMANDS.iter().filter(|c| !c.is_hidden() && c.fits(subject));
        return Ok(List(shown.map(|c| Line { name: c.name(), summary: c.summary() }).collect()).into());
    };
    let command = typed(name).ok_or_else(|| CommandError::unknown(name))?;
    // What the parser itself says to `monitor NAME --help`.
    let asked = command.for_monitor(subject).try_get_matches_from(["--help"]);
    let help = asked.map_or_else(|said| said.render().to_string(), |_| String::new());
    Ok(One { name: command.name(), summary: command.summary(), help }.into())
}

#[derive(Serialize)]
struct List(Vec<Line>);

#[derive(Serialize)]
struct Line {
    name: &'static str,
    summary: &'static str,
}

impl Text for List {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        let rows = self.0.iter().map(|l| clap::Command::new(l.name).about(l.summary));
        let mut list = declare::in_monitor(clap::Command::new("monitor"))
            .disable_help_subcommand(true)
            .help_template("{subcommands}")
            .subcommands(rows);
        declare::write_help(&list.render_help(), screen)?;
        row!(screen)?;
        row!(screen, "`help COMMAND` explains one. In gdb: `monitor COMMAND`; in a shell:")?;
        Ok(row!(screen, "`corestub COMMAND DUMP`. --json is for machines.")?)
    }
}

#[derive(Serialize)]
struct One {
    name: &'static str,
    summary: &'static str,
    help: String,
}

impl Text for One {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        Ok(declare::write_help(&self.help, screen)?)
    }
}
