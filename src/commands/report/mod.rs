//! `corestub report DUMP`: one page to attach to a ticket.
//!
//! The page is made of what other commands answer, asked for as anybody asks
//! ([`asked`]); nothing is read from the dump for it alone. [`sections`] puts the answers
//! together as [`Section`]s, which [`html`] and [`markdown`] write and JSON has as they are.
//! No memory of a user process is in any of them. What is to be masked is masked in the
//! sections ([`redact`]), before anything is written.

use std::io::Write;
use std::path::Path;

use clap::ValueEnum;
use serde::Serialize;

use super::{CommandError, Context, Result, Subject};
use crate::linux::Kernel;
use crate::text::write_json;
use flame::Node;

mod asked;
mod charts;
mod escape;
mod flame;
mod html;
mod markdown;
mod redact;
mod sections;

/// What a report is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A page that needs no other file, no network and no script
    Html,
    /// Text for a chat or an issue, without the charts
    Markdown,
    /// For machines
    Json,
}

/// A part of the report that has a title.
#[derive(Debug, Serialize)]
struct Section {
    /// Where links lead.
    id: &'static str,
    title: &'static str,
    parts: Vec<Part>,
}

/// What a section is made of. Every text in it may be the dump's, so whoever writes it
/// escapes it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Part {
    /// A sentence.
    Note(String),
    Facts(Vec<Fact>),
    Lines(Vec<Line>),
    Table {
        head: Vec<&'static str>,
        rows: Vec<Vec<String>>,
    },
    /// Stacks, each below its heading.
    Stacks(Vec<Stack>),
    Flame(Node),
    /// Sizes in bytes.
    Bars(Vec<Bar>),
    Log(Vec<Message>),
}

#[derive(Debug, Serialize)]
struct Fact {
    name: String,
    value: String,
    /// It has nothing of the machine in it.
    #[serde(skip)]
    public: bool,
}

#[derive(Debug, Serialize)]
struct Line {
    text: String,
    /// Whether it is what to look at.
    here: bool,
}

#[derive(Debug, Serialize)]
struct Stack {
    heading: String,
    frames: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Bar {
    name: String,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct Message {
    ts_ns: Option<u64>,
    level: Option<u8>,
    text: String,
    /// Written by the kernel itself, and not through /dev/kmsg.
    kernel: bool,
}

/// The report.
#[derive(Debug, Serialize)]
struct Report {
    title: String,
    redacted: bool,
    sections: Vec<Section>,
}

/// Writes the report of a vmcore to a file, or to `out`.
pub fn report(
    subject: Subject<'_>,
    format: Format,
    redacted: bool,
    to: Option<&Path>,
    context: Context<'_>,
    out: &mut dyn Write,
) -> Result<()> {
    let Subject::Kernel(kernel) = subject else {
        return Err(CommandError::Usage("for vmcores only; this is a process core".to_owned()));
    };
    let report = of(kernel, redacted, context)?;
    let Some(path) = to else { return report.write(format, out) };
    let failed = |e: std::io::Error| CommandError::Failed(format!("cannot write {}: {e}", path.display()));
    // `-o DUMP` would be the end of it.
    if path.canonicalize().is_ok_and(|p| kernel.dump().path().canonicalize().is_ok_and(|dump| dump == p)) {
        return Err(CommandError::Usage(format!("{} is the dump", path.display())));
    }
    let mut page = Vec::new();
    report.write(format, &mut page)?;
    std::fs::write(path, page).map_err(failed)
}

fn of(kernel: &Kernel, redacted: bool, context: Context<'_>) -> Result<Report> {
    let mut report =
        Report { title: sections::title(kernel), redacted, sections: sections::all(kernel, context)? };
    if redacted {
        redact::report(kernel, &mut report);
    }
    Ok(report)
}

impl Report {
    fn write(&self, format: Format, out: &mut dyn Write) -> Result<()> {
        match format {
            Format::Html => out.write_all(html::page(self).as_bytes())?,
            Format::Markdown => out.write_all(markdown::text(self).as_bytes())?,
            Format::Json => write_json(self, out)?,
        }
        Ok(())
    }
}
