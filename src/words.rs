//! Telling apart what belongs to the program and what to a command:
//! `corestub bt --all --json --vmlinux V vmcore 1234`.
//!
//! A command's own flags are not clap's, and may stand anywhere. So the options
//! that clap knows are moved to the front, and all other words behind `--`.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::{commands, dump};

/// Puts the known options of a table command before all of its other words.
/// Other command lines are left alone.
#[must_use]
pub fn regroup(program: &clap::Command, argv: Vec<OsString>) -> Vec<OsString> {
    let Some(at) = argv.iter().skip(1).position(|w| !w.to_string_lossy().starts_with('-')).map(|i| i + 1)
    else {
        return argv;
    };
    let name = argv.get(at).map(|w| w.to_string_lossy().into_owned()).unwrap_or_default();
    // `help` is clap's here: `corestub help bt`.
    let of_table = name != "help" && commands::find(&name).is_some();
    let Some(sub) = program.find_subcommand(&name).filter(|_| of_table) else { return argv };

    let (mut known, mut others) = (Vec::new(), Vec::new());
    let mut words = argv.iter().skip(at + 1).cloned();
    while let Some(word) = words.next() {
        let text = word.to_string_lossy().into_owned();
        let (flag, inline) = text.split_once('=').map_or((text.as_str(), false), |(f, _)| (f, true));
        let arg = sub.get_arguments().find(|a| {
            a.get_long().is_some_and(|l| flag.strip_prefix("--") == Some(l))
                || a.get_short().is_some_and(|s| {
                    s == 'v'
                        && flag.trim_start_matches('-').chars().all(|c| c == 'v')
                        && flag.starts_with("-v")
                })
        });
        match arg {
            Some(arg) => {
                known.push(word);
                if arg.get_action().takes_values() && !inline {
                    known.extend(words.next());
                }
            }
            None if matches!(flag, "-h" | "--help") => known.push(word),
            None => others.push(word),
        }
    }
    let mut out: Vec<OsString> = argv.into_iter().take(at + 1).collect();
    out.append(&mut known);
    out.push("--".into());
    out.append(&mut others);
    out
}

/// Splits a command's words into the dump (all its pieces) and its arguments.
///
/// The dump is the first word that names a file (or, if none does, the first
/// that is no flag: opening it gives the error). Words right behind it that are
/// dumps too are further pieces.
#[must_use]
pub fn dumps_and_arguments(words: &[String]) -> (Vec<PathBuf>, Vec<String>) {
    let is_file = |w: &&String| !w.starts_with('-') && PathBuf::from(w).is_file();
    let first =
        words.iter().position(|w| is_file(&w)).or_else(|| words.iter().position(|w| !w.starts_with('-')));
    let Some(first) = first else { return (Vec::new(), words.to_vec()) };
    let more = words
        .iter()
        .skip(first + 1)
        .take_while(|w| is_file(w) && dump::sniff(&PathBuf::from(w)).is_ok())
        .count();
    let dumps = words.iter().skip(first).take(1 + more).map(PathBuf::from).collect();
    let rest = words.iter().take(first).chain(words.iter().skip(first + 1 + more));
    (dumps, rest.filter(|w| *w != "--").cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dump_is_found_among_flags() {
        let words = ["--all", "Cargo.toml", "1"].map(str::to_owned);
        let (dumps, args) = dumps_and_arguments(&words);
        assert_eq!(dumps, [PathBuf::from("Cargo.toml")]);
        assert_eq!(args, ["--all", "1"]);
    }

    #[test]
    fn a_missing_file_is_still_taken_for_the_dump() {
        let (dumps, args) = dumps_and_arguments(&["-k".to_owned(), "nowhere".to_owned()]);
        assert_eq!(dumps, [PathBuf::from("nowhere")]);
        assert_eq!(args, ["-k"]);
    }
}
