//! What is fuzzed: each parser that reads a dump, and the protocol.
//!
//! libFuzzer runs them (`scripts/fuzz`), and `tests/fuzz.rs` does with a bounded number of inputs, in every
//! test run. An input is the bytes of the file or table, or a list of changes to a real one ([`patches`]).

mod btf;
mod commands;
mod core;
mod elf;
mod flattened;
mod kallsyms;
mod lime;
mod log;
mod migration;
mod modules;
mod notes;
mod orc;
mod packed;
mod paging;
mod patches;
mod process;
mod rsp;
mod tasks;
mod vmcore;
mod vmware;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// One of them.
pub struct Target {
    pub name: &'static str,
    /// Must return, whatever the bytes are.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

pub const TARGETS: [Target; 19] = [
    Target { name: "btf", run: btf::run, seeds: btf::seeds },
    Target { name: "commands", run: commands::run, seeds: commands::seeds },
    Target { name: "core", run: core::run, seeds: core::seeds },
    Target { name: "elf", run: elf::run, seeds: elf::seeds },
    Target { name: "flattened", run: flattened::run, seeds: flattened::seeds },
    Target { name: "kallsyms", run: kallsyms::run, seeds: kallsyms::seeds },
    Target { name: "lime", run: lime::run, seeds: lime::seeds },
    Target { name: "log", run: log::run, seeds: patches::seeds },
    Target { name: "migration", run: migration::run, seeds: migration::seeds },
    Target { name: "modules", run: modules::run, seeds: patches::seeds },
    Target { name: "notes", run: notes::run, seeds: notes::seeds },
    Target { name: "orc", run: orc::run, seeds: orc::seeds },
    Target { name: "packed", run: packed::run, seeds: packed::seeds },
    Target { name: "paging", run: paging::run, seeds: paging::seeds },
    Target { name: "process", run: process::run, seeds: patches::seeds },
    Target { name: "rsp", run: rsp::run, seeds: rsp::seeds },
    Target { name: "tasks", run: tasks::run, seeds: patches::seeds },
    Target { name: "vmcore", run: vmcore::run, seeds: vmcore::seeds },
    Target { name: "vmware", run: vmware::run, seeds: vmware::seeds },
];

/// A fixture of the repository, unpacked.
fn fixture(name: &str) -> Vec<u8> {
    unpacked("fixtures", name)
}

/// What a format's writer in the tests of `src/` made, or a packer.
fn seed(name: &str) -> Vec<u8> {
    unpacked("fuzz/seeds", name)
}

fn unpacked(folder: &str, name: &str) -> Vec<u8> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    // This file is of two crates.
    let tests = [here.join("tests"), here.join("..")];
    let folder = tests.map(|tests| tests.join(folder)).into_iter().find(|dir| dir.is_dir());
    let folder = folder.expect("the repository");
    std::fs::read(folder.join(name)).unwrap_or_else(|_| {
        let packed = std::fs::read(folder.join(format!("{name}.zst"))).expect("a fixture");
        zstd::decode_all(&packed[..]).expect("zstd")
    })
}

/// The same as a file.
fn fixture_file(name: &str) -> PathBuf {
    let path = scratch(name);
    std::fs::write(&path, fixture(name)).expect("a file of the fixture");
    path
}

/// A file of this process, in memory where that can be had.
fn scratch(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        folder.join(format!("corestub-fuzz-{}", std::process::id()))
    });
    let _ = std::fs::create_dir(folder);
    folder.join(name)
}

/// Takes away what [`scratch`] left.
pub fn clear() {
    if let Some(folder) = scratch("x").parent() {
        let _ = std::fs::remove_dir_all(folder);
    }
}
