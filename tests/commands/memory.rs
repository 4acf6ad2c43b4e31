//! `kmem`, `whatis`, `dis`, `locks` and `compare` against what others say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::fixtures::{changed, physical};
use crate::support::program::{corestub, output};
use crate::support::{files, not_here};

/// The sample dumps, with what crash and drgn were heard to say of each.
const SAMPLES: [(&str, &str, &[u8]); 2] = [
    (
        "k6.1-oops.kdump",
        include_str!("oracles/k6.1-oops.kmem.txt"),
        include_bytes!("oracles/k6.1-oops.whatis.json.zst"),
    ),
    (
        "k6.12-oops.kdump",
        include_str!("oracles/k6.12-oops.kmem.txt"),
        include_bytes!("oracles/k6.12-oops.whatis.json.zst"),
    ),
];

/// Runs `test` on each sample that is there.
fn each(test: impl Fn(&Path, &str, &[u8])) {
    for (name, kmem, whatis) in SAMPLES {
        match files(name).first() {
            Some(path) => test(path, kmem, whatis),
            None => not_here(&format!("{name} is not in the lab's folders")),
        }
    }
}

fn run(dump: &Path, args: &[&str]) -> Result<String, String> {
    let (command, more) = args.split_first().unwrap();
    output(corestub().arg(command).args(["--debug-dir", "/nonexistent"]).arg(dump).args(more))
}

fn json(dump: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&run(dump, &[args, &["--json"]].concat()).unwrap()).unwrap()
}

/// Cache and its columns by name.
fn caches(text: &str) -> BTreeMap<String, Vec<String>> {
    let rows = text.lines().filter(|l| l.starts_with("ffff"));
    rows.map(|l| l.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .map(|columns| (columns.last().unwrap().clone(), columns))
        .collect()
}

/// What crash 8.0.6 said to `kmem -i`.
const TOTALS: [(&str, &str); 3] = [
    ("k6.1-oops.kdump", include_str!("oracles/k6.1-oops.memory.txt")),
    ("k6.1-scale.kdump", include_str!("oracles/k6.1-scale.memory.txt")),
    ("k6.12-oops.kdump", include_str!("oracles/k6.12-oops.memory.txt")),
];

#[test]
fn memory_by_use_is_as_crash_counts_it() {
    for (name, crash) in TOTALS {
        let Some(dump) = files(name).into_iter().next() else {
            not_here(&format!("{name} is not in the lab's folders"));
            continue;
        };
        let ours = run(&dump, &["kmem", "-i"]).unwrap();
        let (ours, uses) = ours.split_once("BY USE").unwrap();
        let rows = |text: &str| -> Vec<String> {
            text.lines().map(str::to_owned).filter(|l| !l.is_empty()).collect()
        };
        assert_eq!(rows(ours), rows(crash), "{name}");
        assert!(rows(crash).len() >= 15, "{name}");
        // What is used for something is all there is.
        let pages = |l: &str| l.split_whitespace().rev().nth(2).and_then(|n| n.parse::<u64>().ok());
        let total = json(&dump, &["kmem", "-i"])["total"].as_u64().unwrap();
        assert_eq!(uses.lines().filter_map(pages).sum::<u64>(), total, "{name}: {uses}");
    }
}

/// Zeros in the place of a `struct page` would be a page without users.
#[test]
fn users_of_pages_are_not_counted_where_some_are_lost() {
    let Some(sound) = files("k6.1-oops.kdump").into_iter().next() else {
        return not_here("k6.1-oops.kdump is not in the lab's folders");
    };
    let base = run(&sound, &["rd", "vmemmap_base"]).unwrap();
    let base = u64::from_str_radix(base.split_whitespace().nth(1).unwrap(), 16).unwrap();
    let dump = changed(&sound, "lost-vmemmap", |kdump| kdump.lose(physical(&sound, base + 0x10_0000)));
    let told = run(&dump, &["kmem", "-i"]).unwrap();
    assert!(told.lines().any(|line| line.split_whitespace().eq(["SHARED", "?", "?"])), "{told}");
}

#[test]
fn slab_caches_are_as_crash_counts_them() {
    each(|dump, kmem, _| {
        let (ours, crash) = (caches(&run(dump, &["kmem", "-s"]).unwrap()), caches(kmem));
        assert!(crash.len() > 150 && ours.len() == crash.len(), "{}", crash.len());
        for (name, wanted) in &crash {
            let found = &ours[name];
            let but_allocated = |row: &[String]| [&row[..2], &row[3..]].concat();
            assert_eq!(but_allocated(found), but_allocated(wanted));
            // crash overlooks the partial slabs of a CPU that allocates from none.
            let count = |row: &[String]| row[2].parse::<u64>().unwrap();
            if count(found) != count(wanted) {
                let listed = json(dump, &["kmem", "-S", name]);
                let partial = listed[0]["listed"].as_array().unwrap();
                let of = |cpu: &str, what: &str| partial.iter().any(|s| s["place"] == format!("{what}{cpu}"));
                let free = partial.iter().filter(|s| {
                    let cpu = s["place"].as_str().unwrap().strip_prefix("a partial slab of CPU ");
                    cpu.is_some_and(|cpu| !of(&format!("{cpu}'s free list"), "CPU "))
                });
                let free: u64 = free.map(|s| s["free"].as_u64().unwrap()).sum();
                assert_eq!(count(found) + free, count(wanted), "{name}");
            }
        }
    });
}

#[test]
fn what_lies_at_an_address_is_as_drgn_says() {
    each(|dump, _, whatis| {
        let samples: Vec<Vec<Value>> = serde_json::from_slice(&zstd::decode_all(whatis).unwrap()).unwrap();
        let mut args = vec!["whatis"];
        args.extend(samples.iter().map(|s| s[1].as_str().unwrap()));
        let ours = json(dump, &args);
        let mut kinds = BTreeMap::new();
        for (sample, place) in samples.iter().zip(ours.as_array().unwrap()) {
            let kind = sample[0].as_str().unwrap();
            let is = place["is"].as_array().unwrap();
            let one = |kind: &str| is.iter().find(|w| w["kind"] == kind);
            let right = match kind {
                // drgn takes what is left behind the last object for one more.
                "slab" if one("slab-rest").is_some_and(|w| w["cache"] == sample[2]) => {
                    sample[4].as_bool().unwrap()
                }
                "slab" => one("slab").is_some_and(|w| {
                    w["cache"] == sample[2]
                        && w["object"] == sample[3]
                        && w["free"].is_null() == sample[4].as_bool().unwrap()
                }),
                // The later frames of a slab are no page of slabs to drgn, and have no users.
                "page" => one("page").is_some_and(|w| {
                    let later = !w["head"].is_null();
                    let same = w["refcount"] == sample[3] && one("slab").is_none();
                    w["physical"] == sample[2] && (later || same)
                }),
                "stack" => one("task-stack").is_some_and(|w| w["pid"] == sample[2]),
                "vmalloc" => one("vmalloc").is_some_and(|w| {
                    let caller = w["caller"].as_str().map(|c| c.split('+').next().unwrap());
                    w["start"] == sample[2]
                        && w["end"] == sample[3]
                        && (sample[4].is_null() || caller == sample[4].as_str())
                }),
                "symbol" => one("symbol").is_some_and(|w| {
                    let end = w["offset"].as_u64().zip(sample[3].as_u64());
                    // drgn reads vmlinux, which has other names for some addresses and no inner labels.
                    w["symbol"] == sample[2] || end.is_some_and(|(ours, theirs)| ours <= theirs)
                }),
                other => panic!("{other}"),
            };
            assert!(right, "{sample:?}\n{place}");
            *kinds.entry(kind.to_owned()).or_insert(0) += 1;
        }
        assert!(kinds.len() == 5 && kinds.values().all(|n| *n >= 100), "{kinds:?}");
    });
}

#[test]
fn instructions_begin_where_objdump_says() {
    each(|dump, _, _| {
        for function in ["schedule", "do_syscall_64", "memcpy", "labcrash_level3"] {
            let Ok(text) = run(dump, &["dis", function, "--json"]) else { continue };
            let rows: Vec<Value> = serde_json::from_str(&text).unwrap();
            let address =
                |row: &Value| u64::from_str_radix(&row["address"].as_str().unwrap()[2..], 16).unwrap();
            let ours: Vec<u64> = rows.iter().map(address).collect();
            let (start, len) = (ours[0], ours.last().unwrap() - ours[0]);
            let bytes = json(dump, &["rd", &format!("{start:x}"), &len.max(1).to_string(), "-8"]);
            let hex = bytes["hex"].as_str().unwrap();
            let bytes: Vec<u8> =
                (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect();
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), bytes).unwrap();
            let vma = format!("--adjust-vma={start:#x}");
            let out = Command::new("objdump")
                .args(["-D", "-b", "binary", "-m", "i386:x86-64", "--no-show-raw-insn", "-w", &vma])
                .arg(file.path())
                .output();
            let Ok(out) = out else { return crate::support::skip("objdump is not installed") };
            let theirs: Vec<u64> = String::from_utf8(out.stdout)
                .unwrap()
                .lines()
                .filter_map(|l| u64::from_str_radix(l.trim().split_once(":\t")?.0, 16).ok())
                .collect();
            assert!(theirs.len() + 1 >= ours.len() && !theirs.is_empty(), "{function}");
            // Behind the last byte that was given objdump has nothing to go by.
            let sure = ours.len() - 1;
            assert_eq!(ours[..sure], theirs[..sure.min(theirs.len())], "{function}");
        }
    });
}

#[test]
fn dumps_of_one_crash_are_alike() {
    let dumps: Vec<PathBuf> =
        SAMPLES.iter().filter_map(|(name, ..)| files(name).into_iter().next()).collect();
    if dumps.len() < 2 {
        return not_here("both sample dumps");
    }
    let mut compare = corestub();
    compare.arg("compare").args(["--json", "--debug-dir", "/nonexistent"]).args(&dumps);
    let compared: Value = serde_json::from_str(&output(&mut compare).unwrap()).unwrap();
    let alike = &compared["alike"]["facts"];
    assert_eq!(alike["culprit"], "labcrash_level3+0x5");
    assert_eq!(alike["exception"], "#PF page fault");
    assert_eq!(compared["different"]["release"].as_object().unwrap().len(), 2);
    let signatures: Vec<&Value> =
        compared["dumps"].as_array().unwrap().iter().map(|d| &d["coarse_signature"]).collect();
    assert!(signatures[0].is_string() && signatures[0] == signatures[1]);
    // A dump that cannot be opened costs its row.
    let mut compare = corestub();
    compare.arg("compare").args(["--json", "--debug-dir", "/nonexistent"]).args(&dumps).arg("/etc/passwd");
    let out = compare.output().unwrap();
    let compared: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert_eq!(compared["dumps"].as_array().unwrap().len(), 3);
    assert_eq!(compared["alike"]["facts"]["culprit"], "labcrash_level3+0x5");
}

/// The dumps of a scenario that only some machines have made.
fn of_scenario(name: &str) -> Vec<PathBuf> {
    let mut found = files("l31.kdump");
    found.retain(|dump| dump.parent().is_some_and(|folder| folder.ends_with(name)));
    if found.is_empty() {
        not_here(&format!("no {name} (scripts/lab/make-vmcores {name})"));
    }
    found
}

fn triage(dump: &Path) -> Value {
    serde_json::from_str(&output(corestub().args(["triage", "--json"]).arg(dump)).unwrap()).unwrap()
}

/// With `slub_debug=U` each object that was written over has the stacks of who allocated it and
/// who freed it.
#[test]
fn owners_have_whole_stacks() {
    for dump in of_scenario("kdump-overrun") {
        let triage = triage(&dump);
        let damage = triage["slab_damage"].as_array().unwrap();
        let owners: Vec<&Value> =
            damage.iter().flat_map(|d| d["object"]["owners"].as_array().unwrap()).collect();
        assert!(owners.len() >= 3, "{}: {triage:#}", dump.display());
        for owner in owners {
            let stack: Vec<&str> =
                owner["stack"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
            let ends = ["entry_SYSCALL_64_after_hwframe+", "asm_common_interrupt+", "ret_from_fork"];
            assert!(stack.last().is_some_and(|f| ends.iter().any(|end| f.starts_with(end))), "{owner:#}");
            if owner["by"].as_str().unwrap().starts_with("labcrash_overrun") {
                assert!(stack.iter().any(|frame| frame.starts_with("labcrash_write+")), "{owner:#}");
            }
        }
        let said = output(corestub().arg("triage").arg(&dump)).unwrap();
        assert!(said.contains("labcrash_overrun+0x1d [labcrash] < labcrash_write+"), "{said}");
    }
}

/// The kernel killed for memory, and died of something else.
#[test]
fn who_was_killed_for_memory_is_told() {
    for dump in of_scenario("kdump-oomkill") {
        let triage = triage(&dump);
        let shortage = &triage["out_of_memory"];
        let killed = &shortage["killed"][0];
        let told = (&killed["comm"], &killed["of_group"], &shortage["fatal"]);
        assert_eq!(told, (&"tail".into(), &false.into(), &false.into()), "{}", dump.display());
        assert!(killed["rss_kib"].as_u64().unwrap() > 150 << 10, "{killed}");
    }
}
