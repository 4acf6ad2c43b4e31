//! The report as a page: one file, in light and dark, that has no script and asks nobody.
//!
//! It is well formed as XML is. Whatever may be the dump's goes through [`push`]; and if
//! something came through all the same, the page's policy lets no browser run or load it.

use std::fmt::Write;

use super::escape::push;
use super::{Fact, Line, Message, Part, Report, Stack, charts};

const STYLE: &str = include_str!("style.css");
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// The page.
pub(super) fn page(report: &Report) -> String {
    let mut page = String::from("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n");
    // Writing to a string does not fail.
    let _ = writeln!(page, "<meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\"/>");
    page.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>");
    push(&mut page, &report.title);
    let _ = write!(page, "</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<header><h1>");
    push(&mut page, &report.title);
    page.push_str("</h1>\n");
    if report.redacted {
        page.push_str("<p class=\"note\">Names, command lines and addresses are masked.</p>\n");
    }
    page.push_str("<nav>");
    for section in &report.sections {
        let _ = write!(page, "<a href=\"#{}\">{}</a> ", section.id, section.title);
    }
    page.push_str("</nav></header>\n");
    for section in &report.sections {
        let _ = writeln!(page, "<section id=\"{}\">\n<h2>{}</h2>", section.id, section.title);
        section.parts.iter().for_each(|part| write(part, &mut page));
        page.push_str("</section>\n");
    }
    let version = env!("CARGO_PKG_VERSION");
    let _ = writeln!(page, "<footer>corestub {version} report</footer>\n</body>\n</html>");
    page
}

fn element(page: &mut String, name: &str, text: &str) {
    let _ = write!(page, "<{name}>");
    push(page, text);
    let _ = write!(page, "</{name}>");
}

fn write(part: &Part, page: &mut String) {
    match part {
        Part::Note(text) => {
            page.push_str("<p class=\"note\">");
            push(page, text);
            page.push_str("</p>\n");
        }
        Part::Facts(facts) => write_facts(facts, page),
        Part::Lines(lines) => write_lines(lines, page),
        Part::Table { head, rows } => {
            page.push_str("<div class=\"wide\"><table><thead><tr>");
            head.iter().for_each(|name| element(page, "th", name));
            page.push_str("</tr></thead>\n<tbody>");
            for row in rows {
                page.push_str("<tr>");
                row.iter().for_each(|cell| element(page, "td", cell));
                page.push_str("</tr>\n");
            }
            page.push_str("</tbody></table></div>\n");
        }
        Part::Stacks(stacks) => stacks.iter().for_each(|stack| write_stack(stack, page)),
        Part::Flame(graph) => {
            page.push_str(&graph.svg());
            page.push_str(
                "<p class=\"legend\">Callers above what they call; as wide as there are tasks; \
                 <span class=\"m\">modules</span> in another colour.</p>\n",
            );
        }
        Part::Bars(bars) => page.push_str(&charts::bars(bars)),
        Part::Log(log) => write_log(log, page),
    }
}

fn write_facts(facts: &[Fact], page: &mut String) {
    page.push_str("<dl>");
    for Fact { name, value, .. } in facts {
        element(page, "dt", name);
        element(page, "dd", value);
        page.push('\n');
    }
    page.push_str("</dl>\n");
}

fn write_lines(lines: &[Line], page: &mut String) {
    page.push_str("<pre>");
    for Line { text, here } in lines {
        if *here {
            element(page, "mark", text);
        } else {
            push(page, text);
        }
        page.push('\n');
    }
    page.push_str("</pre>\n");
}

fn write_stack(stack: &Stack, page: &mut String) {
    page.push_str("<details><summary>");
    push(page, &stack.heading);
    page.push_str("</summary><pre>");
    for frame in &stack.frames {
        push(page, frame);
        page.push('\n');
    }
    page.push_str("</pre></details>\n");
}

fn write_log(log: &[Message], page: &mut String) {
    page.push_str(&charts::time_line(log).unwrap_or_default());
    page.push_str("<pre class=\"log\">");
    for Message { ts_ns, level, text, .. } in log {
        let _ = write!(page, "<span class=\"{}\">", charts::level(*level));
        if let Some(ns) = ts_ns {
            let _ = write!(page, "[{:>5}.{:06}] ", ns / 1_000_000_000, ns % 1_000_000_000 / 1000);
        }
        for (i, line) in text.split('\n').enumerate() {
            if i > 0 {
                page.push_str("\n               ");
            }
            push(page, line);
        }
        page.push_str("</span>\n");
    }
    page.push_str("</pre>\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::report::{Bar, Node, Section};

    /// Every text of the report tries to be more than text, in each kind of part.
    #[test]
    fn no_text_becomes_markup() {
        const EVIL: &str = "</pre></title><script>alert(1)</script>\"' onload=x &lt; \u{202e}\u{1b}[1m";
        let evil = || EVIL.to_owned();
        let graph = Node { name: evil(), count: 1, ..Node::default() };
        let message =
            Message { ts_ns: Some(1), level: Some(0), text: format!("{EVIL}\n{EVIL}"), kernel: true };
        let parts = vec![
            Part::Note(evil()),
            Part::Facts(vec![Fact { name: evil(), value: evil(), public: true }]),
            Part::Lines(vec![Line { text: evil(), here: true }, Line { text: evil(), here: false }]),
            Part::Table { head: vec!["a"], rows: vec![vec![evil()]] },
            Part::Stacks(vec![Stack { heading: evil(), frames: vec![evil()] }]),
            Part::Flame(graph),
            Part::Bars(vec![Bar { name: evil(), bytes: 1 << 20 }]),
            Part::Log(vec![message]),
        ];
        let sections = vec![Section { id: "x", title: "X", parts }];
        let page = page(&Report { title: evil(), redacted: false, sections });
        let times = page.matches("alert(1)").count();
        assert!(times >= 12, "{times}");
        assert_eq!(
            page.matches("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&apos; onload").count(),
            times,
            "{page}"
        );
        assert!(!page.contains("<script") && !page.contains(['\u{1b}', '\u{202e}']), "{page}");
    }
}
