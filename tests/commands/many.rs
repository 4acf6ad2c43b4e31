//! `scripts/triage-row` as docs/many-dumps.md has it: many dumps, one row each.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{files, not_here};

/// Asks two at once; the rows in the order of the dumps.
fn rows(folder: &Path, corestub: &str, limit: &str, dumps: &[&Path]) -> Vec<Value> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/triage-row");
    let into = folder.join("rows");
    let list = folder.join("list");
    fs::write(&list, dumps.iter().flat_map(|d| [d.to_str().unwrap(), "\0"]).collect::<String>()).unwrap();
    let mut xargs = Command::new("xargs");
    xargs.args(["-0", "-n1", "-P2", script]).arg(&into).stdin(fs::File::open(&list).unwrap());
    xargs.env("CORESTUB", corestub).env("LIMIT", limit).stdout(Stdio::null());
    assert!(xargs.status().unwrap().success());
    let read = |dump: &&Path| {
        let rows = fs::read_dir(&into).unwrap().map(|row| fs::read_to_string(row.unwrap().path()).unwrap());
        // A row is one line.
        let rows = rows.inspect(|row| assert_eq!(row.lines().count(), 1, "{row}"));
        let mut rows = rows.map(|row| serde_json::from_str::<Value>(&row).unwrap());
        rows.find(|row| row["dump"] == dump.to_str().unwrap()).unwrap()
    };
    dumps.iter().map(read).collect()
}

#[test]
fn a_bad_dump_among_many_costs_its_row_only() {
    let (a, b) = (files("k6.1-oops.kdump"), files("k6.12-oops.kdump"));
    let (Some(a), Some(b)) = (a.first(), b.first()) else {
        return not_here("two sample dumps");
    };
    let folder = tempfile::tempdir().unwrap();
    let cut = folder.path().join(r#"cut "one" \ of them"#);
    fs::write(&cut, &fs::read(a).unwrap()[..100_000]).unwrap();
    let dumps = [a.as_path(), b, &cut];

    let slow = folder.path().join("slow");
    fs::write(&slow, "#!/bin/sh\nprintf '{ \"panic\":'\nexec sleep 60\n").unwrap();
    fs::set_permissions(&slow, fs::Permissions::from_mode(0o755)).unwrap();
    let apart = tempfile::tempdir().unwrap();
    let late = rows(apart.path(), slow.to_str().unwrap(), "1", &dumps[..1]).remove(0);
    assert_eq!(
        (&late["exit"], &late["said"]),
        (&Value::from(124), &Value::from("no answer within 1 seconds"))
    );
    assert!(late["panic"].is_null());

    let corestub = env!("CARGO_BIN_EXE_corestub");
    let found = rows(folder.path(), corestub, "300", &dumps);
    assert_eq!(found.len(), 3);
    assert!(found[0]["signature"].as_str().unwrap().len() == 16);
    // The same crash of two kernels.
    assert_eq!(found[0]["signature"], found[1]["signature"]);
    assert_ne!(found[0]["release"], found[1]["release"]);
    let lost = &found[2];
    assert_eq!((&lost["exit"], &lost["signature"]), (&Value::from(1), &Value::Null));
    assert!(lost["said"].as_str().unwrap().contains("the dump file is truncated"), "{lost}");
    // What is there is not asked for again.
    assert_eq!(rows(folder.path(), "/nonexistent", "300", &dumps), found);
}
