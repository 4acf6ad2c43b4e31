//! `report`: a page that holds together, of what the other commands answer.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::support::dumps::{self, each};
use crate::support::program::{corestub, output};
use crate::support::{files, not_here};

fn report(dump: &Path, args: &[&str]) -> String {
    output(corestub().arg("report").args(["--debug-dir", "/nonexistent"]).arg(dump).args(args)).unwrap()
}

fn json(dump: &Path, command: &str) -> Value {
    let said = output(corestub().arg(command).args(["--debug-dir", "/nonexistent", "--json"]).arg(dump));
    serde_json::from_str(&said.unwrap()).unwrap()
}

/// The tags of a page, each with its attributes, as they stand between `<` and `>`.
fn tags(page: &str) -> impl Iterator<Item = &str> {
    page.split('<').skip(1).map(|rest| rest.split('>').next().unwrap())
}

/// The values of one attribute.
fn values<'p>(page: &'p str, attribute: &str) -> Vec<&'p str> {
    let start = format!(" {attribute}=\"");
    tags(page).flat_map(|tag| tag.split(&start).skip(1).map(|rest| rest.split('"').next().unwrap())).collect()
}

/// What no page may lack, whatever it tells: every element is closed in order, every link leads
/// somewhere, nothing is run or fetched.
fn assert_sound(page: &str) {
    let mut open = Vec::new();
    for tag in tags(page).filter(|tag| !tag.starts_with('!')) {
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "</{name}> closes another element");
        } else if !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
    let ids = values(page, "id");
    let all: BTreeSet<&str> = ids.iter().copied().collect();
    assert_eq!(ids.len(), all.len(), "an id stands for one place");
    let links = values(page, "href");
    assert!(links.len() >= 9, "{links:?}");
    for link in links {
        assert!(link.strip_prefix('#').is_some_and(|id| all.contains(id)), "{link} leads nowhere");
    }
    for tag in tags(page) {
        assert!(!tag.contains("://") && !tag.starts_with("script") && !tag.contains(" src="), "<{tag}>");
        let handler = |word: &str| word.starts_with("on") && word.contains('=');
        assert!(!tag.split(' ').skip(1).any(handler), "<{tag}>");
    }
    let style = page.split("<style>").nth(1).and_then(|rest| rest.split("</style>").next()).unwrap();
    assert!(
        !style.contains("url(") && !style.contains("@import") && style.contains("prefers-color-scheme: dark")
    );
}

#[test]
fn a_page_is_sound_and_tells_what_the_commands_tell() {
    each("report", &dumps::one_of_each(), |dump| {
        let page = report(&dump.path, &[]);
        assert_sound(&page);
        let triage = json(&dump.path, "triage");
        for fact in [&triage["signature"], &triage["culprit"]["symbol"], &triage["culprit"]["rule"]] {
            if let Some(fact) = fact.as_str() {
                assert!(page.contains(fact), "{fact}");
            }
        }
        for module in json(&dump.path, "mod").as_array().unwrap() {
            assert!(page.contains(&format!("<td>{}</td>", module["name"].as_str().unwrap())));
        }
        let tasks = json(&dump.path, "ps").as_array().unwrap().len();
        assert!(page.contains(&format!("<title>all tasks: {tasks} tasks</title>")), "{tasks}");
        Ok(true)
    });
}

/// The oops of the lab's module, of which all is known.
fn oops() -> Option<std::path::PathBuf> {
    let found = files("k6.1-oops.kdump").into_iter().next();
    if found.is_none() {
        not_here("k6.1-oops.kdump is not in the lab's folders");
    }
    found
}

#[test]
fn an_oops_is_told_with_its_instruction() {
    let Some(dump) = oops() else { return };
    let page = report(&dump, &[]);
    for told in [
        "<dt>By</dt><dd>#PF page fault",
        "<dd>labcrash_level3+0x5 [labcrash]</dd>",
        "<mark>=&gt; 0xffffffffc05af005 &lt;labcrash_level3+5&gt;:",
        "[exception RIP: labcrash_level3+5]",
        "<title>labcrash_sleep_d: 1 task</title><rect class=\"m\"",
        "slab, reclaimable",
    ] {
        assert!(page.contains(told), "{told}");
    }
    let markdown = report(&dump, &["--format", "markdown"]);
    assert!(
        markdown.contains("\n## Stack and code\n") && markdown.contains("`labcrash_level3+0x5 [labcrash]`")
    );
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.html");
    let said = report(&dump, &["-o", path.to_str().unwrap()]);
    assert_eq!((said.as_str(), std::fs::read_to_string(&path).unwrap()), ("", page));
}

#[test]
fn what_is_masked_is_nowhere() {
    let Some(dump) = oops() else { return };
    let tasks = json(&dump, "ps");
    let names: BTreeSet<&str> = tasks
        .as_array()
        .unwrap()
        .iter()
        .filter(|task| task["kthread"] == false && task["pid"] != 0)
        .filter_map(|task| task["comm"].as_str())
        .collect();
    assert!(names.len() > 5, "{names:?}");
    for format in ["html", "markdown", "json"] {
        let plain = report(&dump, &["--format", format]);
        let masked = report(&dump, &["--format", format, "--redact"]);
        let word = |text: &str, name: &str| {
            let inside = |c: Option<char>| {
                c.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/'))
            };
            text.match_indices(name).any(|(at, _)| {
                !inside(text[..at].chars().next_back()) && !inside(text[at + name.len()..].chars().next())
            })
        };
        for name in &names {
            assert!(!word(&masked, name), "{format}: {name}");
        }
        assert!(names.iter().any(|name| word(&plain, name)), "{format}");
        for secret in ["ffffffffc05af005", "ffff8d4343", "k6.1-oops", "console=ttyS0"] {
            assert!(!masked.contains(secret), "{format}: {secret}");
        }
        // Whatever stands beside them. (The last ones are error numbers.)
        let kernel_address = |word: &&str| {
            word.len() == 16
                && u64::from_str_radix(word, 16).is_ok_and(|n| (0xffff << 48..=u64::MAX - 4096).contains(&n))
        };
        let left: Vec<&str> =
            masked.split(|c: char| !c.is_ascii_alphanumeric()).filter(kernel_address).take(9).collect();
        assert!(left.is_empty(), "{format}: {left:?}");
        // What the crash was stays.
        assert!(masked.contains("labcrash_level3+0x5") && masked.contains("task-1"), "{format}");
        let signature = json(&dump, "triage")["signature"].as_str().unwrap().to_owned();
        assert!(masked.contains(&signature), "{format}");
    }
}

#[test]
fn a_dump_is_not_written_over() {
    let Some(dump) = oops() else { return };
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("vmcore");
    std::fs::copy(&dump, &copy).unwrap();
    let out = corestub().arg("report").arg(&copy).arg("-o").arg(&copy).output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert_eq!(std::fs::read(&copy).unwrap(), std::fs::read(&dump).unwrap());
}
