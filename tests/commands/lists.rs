//! `walk` (crash's `list`), `tree` and `net` against what crash 8.0.6 said of the same dump.

use std::path::Path;

use crate::support::program::{corestub, output};
use crate::support::{files, not_here};

/// crash's answers, each behind a line `crash> COMMAND`.
const SAMPLES: [(&str, &[u8]); 2] = [
    ("k6.1-oops.kdump", include_bytes!("oracles/k6.1-oops.lists.txt.zst")),
    ("k6.12-oops.kdump", include_bytes!("oracles/k6.12-oops.lists.txt.zst")),
];

/// Rows in which only words count; crash pads a text with the zeros behind it, and has no comma
/// behind what is the last member of a structure.
fn tidy<'l>(lines: impl Iterator<Item = &'l str>) -> Vec<String> {
    let words = |l: &str| {
        l.split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
            .replace("\\000", "")
            .trim_end_matches(',')
            .to_owned()
    };
    lines.map(words).filter(|l| !l.is_empty()).collect()
}

fn ours(dump: &Path, words: &[&str]) -> Vec<String> {
    let (command, more) = words.split_first().unwrap();
    // A shell has another list.
    let command = if *command == "list" { "walk" } else { command };
    let out = output(corestub().arg(command).args(["--debug-dir", "/nonexistent"]).arg(dump).args(more));
    tidy(out.unwrap().lines())
}

/// Every kind of list and tree, by every option that changes the way.
#[test]
fn lists_and_trees_are_crashs() {
    for (name, packed) in SAMPLES {
        let Some(dump) = files(name).into_iter().next() else {
            not_here(&format!("{name} is not in the lab's folders"));
            continue;
        };
        let text = String::from_utf8(zstd::decode_all(packed).unwrap()).unwrap();
        let answers: Vec<(&str, &str)> =
            text.split("crash> ").filter_map(|part| part.split_once('\n')).collect();
        assert!(answers.len() >= 10);
        for (command, rows) in answers {
            let words: Vec<&str> = command.split(' ').collect();
            let crash = tidy(rows.lines());
            assert!(!crash.is_empty(), "{name}: {command}");
            assert_eq!(ours(&dump, &words), crash, "{name}: {command}");
        }
    }
}
