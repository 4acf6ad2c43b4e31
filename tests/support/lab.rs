//! Where the lab keeps its dumps and tools on this machine, how long a test waits,
//! and how it says that it cannot run here. The tests in `src/` share this file.

use std::io::Write;
use std::panic::Location;
use std::path::PathBuf;
use std::time::Duration;

/// How long a test waits for what must come: long enough for a machine that has
/// too much to do, and for a debugger that reads from a slow disk. Only what hangs
/// waits so long. How fast anything is, no test says; `scripts/bench` does.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

/// A folder of what the scripts fetch and make: `lab`, `frontends`, `lx`.
pub(crate) fn cache(name: &str) -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || set("HOME").unwrap_or_default().join(".cache");
    set("XDG_CACHE_HOME").unwrap_or_else(home).join("corestub").join(name)
}

/// The folders in which dumps are looked for: `CORESTUB_LAB` (colon-separated),
/// else the cache that `scripts/lab` fills.
pub(crate) fn dirs() -> Vec<PathBuf> {
    match std::env::var_os("CORESTUB_LAB") {
        Some(dirs) => std::env::split_paths(&dirs).collect(),
        None => vec![cache("lab")],
    }
}

/// A test that cannot run here says so, in a line that `scripts/test` counts;
/// where `CI` is set that is a failure.
#[track_caller]
pub(crate) fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "skipped in CI: {why}");
    tell("SKIPPED", why);
}

/// A test of what only some machines have (a dump that cannot be made again, a
/// program that nothing here installs) says so, and CI goes on.
#[track_caller]
pub(crate) fn not_here(why: &str) {
    tell("NOT HERE", why);
}

/// `WORD module::test: reason`, past the harness, which keeps to itself what a
/// passing test prints.
#[track_caller]
fn tell(word: &str, why: &str) {
    let (thread, place) = (std::thread::current(), Location::caller());
    // With one thread for all tests its name is `main`.
    let test = thread.name().filter(|name| *name != "main");
    let test = test.map_or_else(|| place.to_string(), str::to_owned);
    let line = format!("{word} {test}: {}\n", why.replace('\n', " "));
    let _ = std::io::stderr().write_all(line.as_bytes());
}
