//! Kernels of which no debug info is fetched, the oldest and the newest that Debian offers
//! (`make-vmcores kernel`): each is held against what its guest recorded of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::fixtures::hex;
use crate::support::program::{Gdb, Server, corestub, expect, have_gdb, output, walk};
use crate::support::{files, guest, skip};

/// The dumps of each such kernel that hold all but free pages.
fn dumps() -> Vec<PathBuf> {
    let found = files("l17.kdump");
    if found.is_empty() {
        skip("no dump of a kernel without debug info (scripts/test makes them)");
    }
    found
}

fn stacks(dump: &Path) -> Vec<Value> {
    serde_json::from_str(&output(corestub().args(["bt", "--all", "--json"]).arg(dump)).unwrap()).unwrap()
}

/// The program counters of a stack of `bt --json`.
fn pcs(stack: &Value) -> Vec<u64> {
    stack["frames"].as_array().unwrap().iter().map(|f| hex(&f["pc"])).collect()
}

/// What a worker's comm in /proc has before what it works at, as far as the kernel keeps it.
fn plain(comm: &str) -> &str {
    let name = comm.split(['-', '+']).next().unwrap_or(comm);
    name.get(..15).unwrap_or(name)
}

#[test]
fn tasks_and_stacks_are_those_that_the_guest_had() {
    for dump in dumps() {
        are_the_guests(&stacks(&dump), &dump);
    }
}

/// The guest read its own memory, too, while it ran (`CORESTUB`).
#[test]
fn a_running_kernel_is_read_by_its_kcore() {
    let found = files("kcore.json");
    if found.is_empty() {
        skip("no guest read its /proc/kcore (scripts/test makes one that does)");
    }
    for file in found {
        let stacks: Vec<Value> = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        are_the_guests(&stacks, file.parent().unwrap());
        // Types from BTF: those that are derived do not tell it.
        assert!(stacks.iter().any(|stack| stack["cpu"].is_u64()), "{}", file.display());
    }
}

/// Holds them against what the guest recorded, in the folder of `dump`.
fn are_the_guests(stacks: &[Value], dump: &Path) {
    let folder = dump.parent().unwrap();
    let mut symbols: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for symbol in guest::kallsyms(folder).unwrap() {
        symbols.entry(symbol.name).or_default().push(symbol.address);
    }
    let recorded = guest::tasks(folder).unwrap();
    assert!(recorded.len() > 60, "{} tasks recorded", recorded.len());
    let mut wrong = Vec::new();
    let mut slept = 0;
    for task in &recorded {
        let Some(stack) = stacks.iter().find(|s| s["pid"] == task.tid) else {
            // The guest's disk is unmounted after the record, which ends the threads of ext4.
            if !["jbd2/vda", "ext4", "kworker/R"].contains(&plain(&task.comm)) {
                wrong.push(format!("{} {} is not there", task.tid, task.comm));
            }
            continue;
        };
        if plain(&task.comm) != plain(stack["comm"].as_str().unwrap()) {
            wrong.push(format!("{} {} is called {}", task.tid, task.comm, stack["comm"]));
        }
        // RCU's threads go on.
        let rests = "SDIT".contains(task.state) && !task.comm.starts_with("rcu_");
        if !rests || stack["state"] != task.state.to_string() {
            continue;
        }
        slept += 1;
        let pcs: Vec<u64> = pcs(stack).into_iter().filter(|pc| pc >> 63 == 1).collect();
        // Functions may have several names, and names stand for several functions.
        let tail = pcs.len().checked_sub(task.stack.len()).map_or(&[][..], |at| &pcs[at..]);
        let same = tail.len() == task.stack.len()
            && tail.iter().zip(&task.stack).all(|(pc, (name, offset))| {
                symbols.get(name).is_some_and(|all| all.iter().any(|a| a + offset == *pc))
            });
        if !same {
            wrong.push(format!("{} {}: {:?}, not {pcs:x?}", task.tid, task.comm, task.stack));
        }
    }
    eprintln!("{}: {} tasks, {slept} of which slept", dump.display(), recorded.len());
    assert!(wrong.is_empty(), "{}:\n{}", dump.display(), wrong.join("\n"));
    assert!(slept > 50, "{}: {slept} tasks that slept", dump.display());
}

#[test]
fn modules_and_log_are_the_guests() {
    for dump in dumps() {
        let oracle = dump.with_file_name("oracle");
        let read =
            |name: &str| String::from_utf8_lossy(&std::fs::read(oracle.join(name)).unwrap()).into_owned();
        let mods: Value =
            serde_json::from_str(&output(corestub().args(["mod", "--json"]).arg(&dump)).unwrap()).unwrap();
        let ours: BTreeSet<(String, u64)> = mods
            .as_array()
            .unwrap()
            .iter()
            .map(|m| (m["name"].as_str().unwrap().to_owned(), hex(&m["base"])))
            .collect();
        let guests: BTreeSet<(String, u64)> = read("modules")
            .lines()
            .filter_map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                let base = words.get(5)?.strip_prefix("0x")?;
                Some(((*words.first()?).to_owned(), u64::from_str_radix(base, 16).ok()?))
            })
            .collect();
        assert!(guests.len() > 5);
        assert_eq!(ours, guests, "{}", dump.display());
        let log = output(corestub().arg("log").arg(&dump)).unwrap();
        // dmesg gives each line of a record its time.
        let text = |line: &str| line.split_once("] ").map_or(line, |(_, text)| text).trim().to_owned();
        let ours: BTreeSet<String> = log.lines().map(text).collect();
        let lacking: Vec<String> = read("dmesg").lines().map(text).filter(|l| !ours.contains(l)).collect();
        assert!(lacking.is_empty(), "{}: {lacking:#?}", dump.display());
    }
}

/// Bare gdb walks each stack as `bt` does, and knows the kernel's variables with their types.
#[test]
fn bare_gdb_walks_and_reads() {
    if !have_gdb() {
        return;
    }
    for dump in dumps() {
        let server = Server::start(&dump, &["--debug-dir", "/nonexistent"]).unwrap();
        let walked = walk(&server, None).unwrap();
        let stacks = stacks(&dump);
        assert_eq!(walked.len(), stacks.len(), "{}", dump.display());
        for stack in &stacks {
            let (comm, pcs) = (stack["comm"].as_str(), pcs(stack));
            let found = walked.iter().any(|w| {
                w.name.as_deref() == comm && w.frames.iter().map_while(|f| f.0).collect::<Vec<_>>() == pcs
            });
            assert!(found, "{}: gdb has no stack of {comm:?} with {pcs:x?}", dump.display());
        }
        let said = Gdb::new(None)
            .connect(&server)
            .ex("p init_task.comm")
            .ex("p init_task.pid")
            .ex("p jiffies_64 > 0")
            .ex("p slab_caches.next != &slab_caches")
            .ex("p modules.next != &modules")
            .ex("p sizeof(struct task_struct) > 2000")
            .ex("x/s &linux_banner")
            .run()
            .unwrap();
        let wanted = ["\"swapper", " = 0\n", "$3 = 1", "$4 = 1", "$5 = 1", "$6 = 1", "\"Linux version "];
        expect(&said, &wanted).unwrap();
    }
}

/// makedumpfile up to 1.7.8 takes pages of task_structs for a user's from 7.1 on: one remark
/// says so, and who panicked has a stack all the same.
#[test]
fn a_filter_that_dropped_tasks_is_named() {
    for full in dumps() {
        let filtered = full.with_file_name("l31.kdump");
        let said = |args: &[&str]| output(corestub().args(args).arg(&filtered)).unwrap();
        let sys = said(&["sys"]);
        expect(&said(&["bt"]), &["labcrash_level3+", "labcrash_level1 at "]).unwrap();
        let told = sys
            .lines()
            .filter(|l| l.contains("task_structs lie in slab pages that the dump's filter left out"));
        match told.count() {
            0 => assert_eq!(stacks(&filtered).len(), stacks(&full).len(), "{}", filtered.display()),
            1 => assert!(sys.matches("thread group of").count() <= 1, "{sys}"),
            _ => panic!("{sys}"),
        }
    }
}

/// Whether the kernel has arrays of free objects.
fn sheaves(dump: &Path) -> bool {
    output(corestub().arg("struct").arg(dump).args(["slab_sheaf", "-o"])).is_ok()
}

/// What went wrong in such a guest before it died is told: a list of free objects that was
/// written over, a deadlock, tasks that hung, a group that ran out of memory.
#[test]
fn what_else_went_wrong_is_told() {
    for dump in dumps() {
        if !dump.with_file_name("oracle").join("labipc.txt").exists() {
            skip(
                "a dump of an older lab, in whose guest nothing else went wrong (scripts/test makes it again)",
            );
            continue;
        }
        let triage: Value =
            serde_json::from_str(&output(corestub().args(["triage", "--json"]).arg(&dump)).unwrap()).unwrap();
        let said = format!("{}: {triage:#}", dump.display());
        // The object behind the one with the text had its link there; since 6.18 a CPU keeps what
        // is freed in an array (sheaf), and nothing is smashed.
        let damage = triage["slab_damage"].as_array().unwrap();
        let smashed = damage.iter().find(|d| d["cache"] == "kmalloc-64");
        assert!(smashed.is_some() || sheaves(&dump), "{said}");
        if let Some(smashed) = smashed {
            let looks = smashed["looks"].as_str().unwrap_or_else(|| panic!("{said}"));
            assert!(looks.starts_with("UTF-16 text"), "{said}");
            let before = hex(&smashed["object"]["at"]) - hex(&smashed["before"]["at"]);
            assert_eq!((before, &smashed["before"]["allocated"]), (64, &Value::Bool(true)), "{said}");
        }

        let shortage = &triage["out_of_memory"];
        let killed = shortage["killed"].as_array().unwrap_or_else(|| panic!("{said}"));
        assert_eq!(
            (killed.len(), &killed[0]["comm"], &killed[0]["of_group"]),
            (1, &"tail".into(), &true.into()),
            "{said}"
        );
        assert!(killed[0]["rss_kib"].as_u64().unwrap() > 14 << 10 && shortage["fatal"] == false, "{said}");

        let stuck: BTreeSet<&str> = triage["locks"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|l| l["deadlock"] == true)
            .filter_map(|l| l["comm"].as_str())
            .collect();
        assert_eq!(stuck, BTreeSet::from(["lab-ab", "lab-ba"]), "{said}");
        let locks = output(corestub().arg("locks").arg(&dump)).unwrap();
        expect(&locks, &["lab-ab", "lab-reader", "labcrash_b", "blocked for more than"]).unwrap();
    }
}
