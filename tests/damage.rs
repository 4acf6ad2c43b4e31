//! A sample of `scripts/lab/damage`: damaged copies of a real dump, each class once.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::dumps::{each, one_of_each};
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

/// Two bits for each quarter of the second bitmap, one that was set and one that was not: of the kernel's
/// names nothing is lost, and no task is told wrongly.
#[test]
fn one_bit_of_the_bitmap_costs_what_lies_about_it_alone() {
    each("bits of bitmaps", &one_of_each(), |dump| {
        let sound = fs::read(&dump.path).map_err(|e| e.to_string())?;
        // The fixtures have nothing of the kernel that is not asked for.
        if !sound.starts_with(b"KDUMP   ") || sound.len() < 10 << 20 {
            return Ok(false);
        }
        let word = |at: usize| u32::from_le_bytes(sound[at..at + 4].try_into().unwrap()) as usize;
        let (sub_header, blocks) = (word(432), word(436));
        let bitmap = 4096 * (1 + sub_header + blocks / 2);
        let set = |bit: usize| sound[bitmap + bit / 8] >> (bit % 8) & 1 == 1;
        let (ones, zeros): (Vec<usize>, Vec<usize>) = (0..blocks / 2 * 4096 * 8).partition(|&bit| set(bit));
        let zeros: Vec<usize> = zeros.into_iter().filter(|bit| Some(bit) < ones.last()).collect();
        let tasks = tasks(&dump.path)?;
        let names = |dump: &Path| {
            let sys = output(corestub().args(["sys", "--json"]).arg(dump))?;
            let sys: Value = serde_json::from_str(&sys).map_err(|e| e.to_string())?;
            Ok::<_, String>(sys["symbols"].to_string())
        };
        let known = names(&dump.path)?;
        for bit in [&ones, &zeros].into_iter().flat_map(|all| (1..4).map(|i| all[all.len() * i / 4])) {
            let mut bytes = sound.clone();
            bytes[bitmap + bit / 8] ^= 1 << (bit % 8);
            let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bit.kdump");
            fs::write(&copy, bytes).map_err(|e| e.to_string())?;
            let still = self::tasks(&copy)?;
            let wrong: Vec<_> = still.difference(&tasks).collect();
            let names = names(&copy)?;
            if !wrong.is_empty() || still.len() * 10 < tasks.len() * 9 || names != known {
                let (n, of) = (still.len(), tasks.len());
                return Err(format!("bit {bit:#x}: {n} of {of} tasks, not there before: {wrong:?}; {names}"));
            }
        }
        Ok(true)
    });
}

/// Addresses, ids and names.
fn tasks(dump: &Path) -> Result<BTreeSet<String>, String> {
    let rows: Value = serde_json::from_str(&output(corestub().args(["ps", "--json"]).arg(dump))?)
        .map_err(|e| e.to_string())?;
    let of = |row: &Value| format!("{} {} {}", row["task"], row["pid"], row["comm"]);
    Ok(rows.as_array().ok_or("no rows")?.iter().map(of).collect())
}
