//! One target of libFuzzer's: which one, `CORESTUB_FUZZ` says. With `CORESTUB_FUZZ_SEEDS` its seeds
//! are written into that folder, and nothing is run.
#![no_main]

mod targets;

use std::sync::OnceLock;

use targets::{TARGETS, Target};

static TARGET: OnceLock<&Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(
    init: {
        let name = std::env::var("CORESTUB_FUZZ").unwrap_or_default();
        let Some(target) = TARGETS.iter().find(|target| target.name == name) else {
            let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            eprintln!("CORESTUB_FUZZ names no target of {names:?}");
            std::process::exit(2);
        };
        if let Some(folder) = std::env::var_os("CORESTUB_FUZZ_SEEDS") {
            for (i, seed) in (target.seeds)().iter().enumerate() {
                std::fs::write(std::path::Path::new(&folder).join(format!("seed-{i}")), seed).expect("a seed");
            }
            targets::clear();
            std::process::exit(0);
        }
        TARGET.get_or_init(|| target);
    },
    |bytes: &[u8]| {
        if let Some(target) = TARGET.get() {
            (target.run)(bytes);
        }
    }
);
