//! `ipcs` against the guest's own /proc/sysvipc (scripts/lab/guest/labipc.c makes what is there).

use std::path::Path;

use serde_json::Value;

use crate::support::guest;
use crate::support::program::{corestub, output};

/// Rows of numbers below a head.
fn table(oracle: &Path, name: &str) -> Vec<Vec<u64>> {
    let text = std::fs::read_to_string(oracle.join(format!("ipc-{name}"))).unwrap();
    let number = |(column, word): (usize, &str)| match column {
        0 => u64::from(word.parse::<i32>().unwrap().cast_unsigned()),
        2 => u64::from_str_radix(word, 8).unwrap(),
        _ => word.parse().unwrap(),
    };
    // Of what is behind the fifth column nothing is compared but a segment's pages.
    let row = |line: &str| line.split_whitespace().enumerate().map(number).collect();
    text.lines().skip(1).map(row).collect()
}

fn json(dump: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&output(corestub().arg("ipcs").arg(dump).args(args).arg("--json")).unwrap()).unwrap()
}

fn columns(all: &Value, names: &[&str]) -> Vec<Vec<u64>> {
    let row = |object: &Value| names.iter().map(|name| value(&object[name])).collect();
    all.as_array().unwrap().iter().map(row).collect()
}

fn value(of: &Value) -> u64 {
    of.as_u64().unwrap_or_else(|| panic!("{of}"))
}

#[test]
fn objects_are_those_of_the_guest() {
    for (dump, oracle) in guest::recorded("labipc.txt") {
        let ours = json(&dump, &[]);
        let pick = |name, wanted: &[usize]| -> Vec<Vec<u64>> {
            let column = |row: &[u64], i: usize| if i == 2 { row[2] & 0o777 } else { row[i] };
            let row = |row: &Vec<u64>| wanted.iter().map(|i| column(row, *i)).collect();
            table(&oracle, name).iter().map(row).collect()
        };
        let said = dump.display();
        let queues = pick("msg", &[0, 1, 2, 3, 4, 7]);
        assert_eq!(
            columns(&ours["queues"], &["key", "id", "perms", "bytes", "messages", "uid"]),
            queues,
            "{said}"
        );
        assert!(queues.len() == 2 && queues[0][3..5] == [300, 3], "{queues:?}");
        let semaphores = pick("sem", &[0, 1, 2, 3, 4]);
        assert_eq!(
            columns(&ours["semaphores"], &["key", "id", "perms", "semaphores", "uid"]),
            semaphores,
            "{said}"
        );
        assert_eq!(semaphores.iter().map(|s| s[3]).collect::<Vec<_>>(), [5, 1]);
        let memory = table(&oracle, "shm");
        let segments = pick("shm", &[0, 1, 2, 3, 6, 7]);
        assert_eq!(
            columns(&ours["memory"], &["key", "id", "perms", "bytes", "attached", "uid"]),
            segments,
            "{said}"
        );
        assert_eq!(segments.len(), 4);
        for (segment, guest) in ours["memory"].as_array().unwrap().iter().zip(&memory) {
            let flags = (&segment["destroyed"], &segment["locked"]);
            assert_eq!(
                flags,
                (&Value::from(guest[2] & 0o1000 != 0), &Value::from(guest[2] & 0o2000 != 0)),
                "{said}"
            );
            // What was in memory may have been swapped out since.
            let pages = &segment["pages"];
            let there = value(&pages["resident"]) + value(&pages["swapped"]);
            assert_eq!(there, (guest[14] + guest[15]) / 4096, "{said}: {segment}");
        }
        assert!(memory.iter().any(|m| m[2] & 0o1000 != 0) && memory.iter().any(|m| m[2] & 0o2000 != 0));
    }
}

/// One object alone, by ID and by address; one kind; another namespace.
#[test]
fn one_of_them_and_others_namespaces() {
    for (dump, oracle) in guest::recorded("labipc.txt") {
        let all = json(&dump, &["-q"]);
        assert!(all["memory"].is_null() && all["semaphores"].is_null());
        let queue = &all["queues"][0];
        for word in [queue["id"].to_string(), queue["at"].as_str().unwrap().to_owned()] {
            let one = json(&dump, &["-q", &word]);
            assert_eq!(one["queues"], serde_json::json!([queue]), "{word}");
        }
        let text = std::fs::read_to_string(oracle.join("labipc.txt")).unwrap();
        let pid = text.trim().strip_prefix("other ").unwrap();
        let other = json(&dump, &["-n", pid]);
        assert_eq!(
            (&other["memory"], &other["semaphores"]),
            (&serde_json::json!([]), &serde_json::json!([]))
        );
        assert_eq!(columns(&other["queues"], &["key", "bytes", "messages"]), [[0x1ab0_0007, 200, 2]]);
        let none = output(corestub().arg("ipcs").arg(&dump).arg("123456789")).unwrap_err();
        assert!(none.contains("nothing has the ID or address 123456789"), "{none}");
    }
}
