//! The report as Markdown, without its pictures. Texts stand in code, where nothing of them
//! is taken for more than text.

use std::fmt::Write;

use super::{Line, Part, Report};
use crate::linux::usage::size_text;
use crate::text::printable;

/// Messages of the log: a chat takes no more.
const MESSAGES: usize = 60;
/// Stacks of a section.
const STACKS: usize = 8;

/// The text.
pub(super) fn text(report: &Report) -> String {
    let mut out = format!("# {}\n", span(&report.title));
    for section in &report.sections {
        // Writing to a string does not fail.
        let _ = write!(out, "\n## {}\n\n", section.title);
        section.parts.iter().for_each(|part| write(part, &mut out));
    }
    out
}

/// `text` as code in a line: by more backticks than are in it.
fn span(text: &str) -> String {
    let text = printable(text).replace('|', "\\|");
    let ticks = "`".repeat(longest(&text) + 1);
    let room = if text.starts_with('`') || text.ends_with('`') { " " } else { "" };
    if text.is_empty() { text } else { format!("{ticks}{room}{text}{room}{ticks}") }
}

/// How many backticks follow each other.
fn longest(text: &str) -> usize {
    text.split(|c| c != '`').map(str::len).max().unwrap_or(0)
}

/// Lines as a block of code.
fn block<'t>(lines: impl Iterator<Item = &'t str>, out: &mut String) {
    let text: String = lines.flat_map(|line| [printable(line).into_owned(), "\n".to_owned()]).collect();
    let fence = "`".repeat(longest(&text).max(2) + 1);
    let _ = write!(out, "{fence}text\n{text}{fence}\n");
}

fn write(part: &Part, out: &mut String) {
    match part {
        Part::Note(text) => {
            let _ = writeln!(out, "{}\n", span(text));
        }
        Part::Facts(facts) => {
            for fact in facts {
                let _ = writeln!(out, "- {}: {}", span(&fact.name), span(&fact.value));
            }
        }
        Part::Lines(lines) => block(lines.iter().map(|Line { text, .. }| text.as_str()), out),
        Part::Table { head, rows } => {
            let _ = writeln!(out, "| {} |\n|{}", head.join(" | "), "---|".repeat(head.len()));
            for row in rows {
                let cells: Vec<String> = row.iter().map(|cell| span(cell)).collect();
                let _ = writeln!(out, "| {} |", cells.join(" | "));
            }
        }
        Part::Stacks(stacks) => {
            for stack in stacks.iter().take(STACKS) {
                let _ = writeln!(out, "{}\n", span(&stack.heading));
                block(stack.frames.iter().map(String::as_str), out);
            }
            if let Some(more) = stacks.len().checked_sub(STACKS).filter(|n| *n > 0) {
                let _ = writeln!(out, "({more} more)");
            }
        }
        Part::Flame(_) => {}
        Part::Bars(bars) => {
            for bar in bars {
                let _ = writeln!(out, "- {}: {}", span(&bar.name), size_text(bar.bytes));
            }
        }
        Part::Log(log) => {
            let lines = log.iter().skip(log.len().saturating_sub(MESSAGES)).flat_map(|m| m.text.lines());
            block(lines, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_in_its_code() {
        assert_eq!(span("a|b"), "`a\\|b`");
        assert_eq!(span("``"), "``` `` ```");
        assert_eq!(span("x\n# y"), "`x.# y`");
        let mut out = String::new();
        block(["```", "# no heading"].into_iter(), &mut out);
        assert_eq!(out, "````text\n```\n# no heading\n````\n");
    }
}
