//! A sample of `scripts/lab/damage`: damaged copies of a real dump, each class once.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::fixtures::fixture;
use crate::support::program::{corestub, output};
use crate::support::skip;

#[test]
fn what_is_not_hit_is_still_answered() {
    if Command::new("python3").arg("--version").output().is_err() {
        return skip("no python3");
    }
    let counts = Path::new(env!("CARGO_TARGET_TMPDIR")).join("damage.json");
    let mut script = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/lab/damage"));
    script.args(["-n", "10", "-v", "-p"]).arg(corestub().get_program()).arg("-o").arg(&counts);
    let table = output(script.arg(fixture("k6.1-zstd.kdump"))).unwrap();
    let counts: Value = serde_json::from_str(&fs::read_to_string(&counts).unwrap()).unwrap();
    let of = |class: &str, key: &str| counts[class][key].as_u64().unwrap_or(0);
    for class in ["tables", "tasks", "kallsyms", "btf", "orc", "modules", "log"] {
        assert_eq!(of(class, "opened"), of(class, "copies"), "{class}:\n{table}");
        assert!(of(class, "tasks") * 100 >= of(class, "tasks_of") * 95, "{class}:\n{table}");
        // The fixture has no code, by which callers are guessed where rules are lost.
        let enough = of(class, "stacks") * 100 >= of(class, "stacks_of") * 95;
        assert!(enough || class == "orc", "{class}:\n{table}");
    }
    for (class, of) in counts.as_object().unwrap() {
        assert_eq!(of["wrong"].as_u64().unwrap_or(0), 0, "{class}:\n{table}");
    }
}
