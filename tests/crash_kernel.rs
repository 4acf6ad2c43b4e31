//! What corestub did in the crash kernels of the lab's guests, where `make-vmcores` was given one
//! (`CORESTUB`): of /proc/vmcore, with 64 MB and no file but itself.

use std::path::{Path, PathBuf};

use crate::support::program::{corestub, expect, output};
use crate::support::{files, skip};

/// The folders with what it left there.
fn guests() -> Vec<PathBuf> {
    let found = files("hook.txt").into_iter().filter_map(|path| Some(path.parent()?.to_owned()));
    let found: Vec<_> = found.filter(|folder| folder.ends_with("crash-kernel")).collect();
    if found.is_empty() {
        skip("no guest ran corestub in its crash kernel (scripts/test makes them)");
    }
    found
}

/// What kdump's hook wrote into the folder that it took for the dump's.
fn saved(folder: &Path, suffix: &str) -> Option<String> {
    let saved = std::fs::read_dir(folder.join("saved")).unwrap().map(|entry| entry.unwrap().path());
    let path = saved.into_iter().find(|path| path.extension().is_some_and(|e| e == suffix))?;
    Some(std::fs::read_to_string(path).unwrap())
}

/// It says there what it says of the dump later.
#[test]
fn triage_in_the_crash_kernel_is_that_of_the_dump() {
    for folder in guests() {
        let there = saved(&folder, "txt").unwrap();
        expect(&there, &["/proc/vmcore", "labcrash_level3+0x5 of module labcrash"]).unwrap();
        let console = std::fs::read_to_string(folder.join("hook.txt")).unwrap();
        assert!(console.starts_with(&there), "{console}");
        // All but the name of the file.
        let rows = |text: &str| text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
        let dump = folder.with_file_name("l17.kdump");
        let here = output(corestub().args(["triage", "--debug-dir", "/nonexistent"]).arg(&dump)).unwrap();
        assert_eq!(rows(&there), rows(&here), "{}", folder.display());
    }
}

#[test]
fn the_hook_leaves_a_report_beside_the_dump() {
    for folder in guests() {
        let page = saved(&folder, "html").unwrap();
        expect(&page, &["labcrash_level3+0x5 [labcrash]", "<svg", "</html>"]).unwrap();
        assert_eq!(saved(&folder, "err"), None);
        // `rc 0 start 5.1 end 7.9 peak 33554432`, then the events of its cgroup.
        let memory = std::fs::read_to_string(folder.join("memory")).unwrap();
        assert!(memory.starts_with("rc 0 ") && memory.contains("\noom_kill 0\n"), "{memory}");
        eprintln!("{}: {memory}", folder.display());
    }
}
