//! Where the dumps are, and how the program and gdb are run.

use std::path::PathBuf;

/// The folders in which dumps are looked for: `CORESTUB_LAB` (colon-separated),
/// else the cache that `scripts/lab` fills.
#[allow(dead_code, reason = "used by the rooms' tests")]
pub fn lab_dirs() -> Vec<PathBuf> {
    if let Some(dirs) = std::env::var_os("CORESTUB_LAB") {
        return std::env::split_paths(&dirs).collect();
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache"),
        PathBuf::from,
    );
    vec![cache.join("corestub/lab")]
}
