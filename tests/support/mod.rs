//! Where the dumps are, and how the program and gdb are run.

pub mod client;
pub mod dumps;
pub mod program;

use std::path::PathBuf;

/// The folders in which dumps are looked for: `CORESTUB_LAB` (colon-separated),
/// else the cache that `scripts/lab` fills.
pub fn lab_dirs() -> Vec<PathBuf> {
    if let Some(dirs) = std::env::var_os("CORESTUB_LAB") {
        return std::env::split_paths(&dirs).collect();
    }
    vec![lab_cache()]
}

/// The folder that `scripts/lab/make-vmcores` fills by default.
pub fn lab_cache() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache"),
        PathBuf::from,
    );
    cache.join("corestub/lab")
}

/// A test that cannot run here says so; where `CI` is set that is a failure.
pub fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "skipped in CI: {why}");
    eprintln!("SKIPPED: {why}");
}

/// A test of a dump that only some machines have (it cannot be made again) says so.
pub fn not_here(why: &str) {
    eprintln!("NOT HERE: {why}");
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
