//! `help`: the table of commands, or one of them in full.
//!
//! In a shell clap answers `help` itself, from the same declarations.

use clap::Args;
use serde::Serialize;

use super::{Answer, COMMANDS, Command, CommandError, Context, Result, Subject, Text, find};
use crate::linux::Kernel;
use crate::process::Process;
use crate::text::{Screen, row};

pub(super) fn command() -> Command {
    Command::of_both("help", "list the commands, or explain one", "", of_kernel, of_process)
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
    let command = find(name).ok_or_else(|| CommandError::unknown(name))?;
    let help = command.for_monitor(subject).render_long_help().to_string();
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
        let width = self.0.iter().map(|l| l.name.len()).max().unwrap_or(0);
        for Line { name, summary } in &self.0 {
            row!(screen, "{name:<width$}  {summary}")?;
        }
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
        Ok(self.help.trim_end().lines().try_for_each(|line| row!(screen, "{line}"))?)
    }
}
