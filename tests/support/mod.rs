//! Where the dumps are, and how the program and gdb are run.

pub mod client;
pub mod dumps;
pub mod fixtures;
pub mod guest;
pub mod kdump;
mod lab;
pub mod program;
pub mod terminal;

use std::path::PathBuf;
use std::time::{Duration, Instant};

pub(crate) use lab::{PATIENCE, cache, dirs as lab_dirs, not_here, skip};

/// Where `scripts/lab/frontends` puts what no distribution packages.
pub fn frontends() -> PathBuf {
    std::env::var_os("CORESTUB_FRONTENDS").map_or_else(|| cache("frontends"), PathBuf::from)
}

/// Waits for what must come to pass.
#[track_caller]
pub fn until(what: &str, mut there: impl FnMut() -> bool) {
    let start = Instant::now();
    while !there() {
        assert!(start.elapsed() < PATIENCE, "not in {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The smallest raw ELF vmcore (of a crash, not filtered) there is.
pub fn raw_vmcore() -> Option<PathBuf> {
    files("vmcore.elf").into_iter().min_by_key(|p| std::fs::metadata(p).map_or(u64::MAX, |m| m.len()))
}

/// All files of this name up to three folders below the lab's.
pub fn files(name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<(PathBuf, u8)> = lab_dirs().into_iter().map(|d| (d, 3)).collect();
    while let Some((folder, depth)) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && depth > 0 {
                folders.push((path, depth - 1));
            } else if path.file_name().is_some_and(|n| n == name) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
