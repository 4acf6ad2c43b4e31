//! `corestub list`, and names and pids in the place of paths.

use super::*;
use crate::support::fixtures;
use crate::support::program;

#[test]
fn what_the_machine_keeps_is_listed_and_called_by_name() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("var/lib/systemd/coredump");
    fs::create_dir_all(&folder).unwrap();
    let boot = "0123456789abcdef0123456789abcdef";
    let kept = folder.join(format!("core.plain.1000.{boot}.4711.1700000001000000.zst"));
    fs::copy(fixtures::folder().join("plain.core.zst"), &kept).unwrap();
    fs::write(folder.join(format!("core.plain.1000.{boot}.12.1700000000000000")), "no core").unwrap();
    fs::write(folder.join(format!("core.\\x1b[2Jnasty.0.{boot}.1.1600000000000000")), "no core").unwrap();
    let run = |words: &[&str]| {
        let out = program::corestub().env("CORESTUB_ROOT", root.path()).args(words).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (out.status.success(), text(out.stdout), text(out.stderr))
    };

    let (ok, listed, _) = run(&["list"]);
    assert!(ok && listed.lines().count() == 4, "{listed}");
    assert!(listed.contains(kept.to_str().unwrap()) && listed.contains(".[2Jnasty"), "{listed}");
    assert!(!listed.contains('\x1b'), "{listed:?}");
    let (ok, listed, _) = run(&["list", "--json", "4711"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert!(ok && listed["dumps"].as_array().unwrap().len() == 1, "{listed}");
    let core = &listed["dumps"][0];
    assert_eq!((&core["keeper"], &core["uid"]), (&"systemd".into(), &1000.into()));
    let (ok, _, said) = run(&["list", "nobody"]);
    assert!(!ok && said.contains("no dump"), "{said}");

    let by_path = run(&["bt", kept.to_str().unwrap()]).1;
    for word in ["plain", "4711"] {
        let (ok, stack, said) = run(&["bt", word]);
        assert!(ok && stack == by_path, "{stack} {said}");
        assert!(said.contains(kept.to_str().unwrap()), "{said}");
    }
    assert!(run(&["bt", "plain"]).2.contains("the newest of 2"));
    assert!(!run(&["bt", "./plain"]).0);
    // A file of that name comes first.
    let named = root.path().join("4711");
    fs::write(&named, "no core").unwrap();
    let mut command = program::corestub();
    command.current_dir(&root).env("CORESTUB_ROOT", root.path()).args(["bt", "4711"]);
    assert!(!command.output().unwrap().status.success());
}
