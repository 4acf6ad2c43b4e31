//! `sig` against the guest's own /proc/PID/status (scripts/lab/guest/init sends the signals that wait).

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::guest;
use crate::support::program::{corestub, output};

/// What /proc calls the sets, in the order of [`sets`].
const SETS: [&str; 5] = ["SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt"];

/// The sets of each thread: `/proc/1/task/1/status:SigPnd: 0000000000000000`.
fn recorded(oracle: &Path) -> BTreeMap<u64, [u64; 5]> {
    let text = std::fs::read_to_string(oracle.join("signals")).unwrap();
    let mut all = BTreeMap::<u64, [u64; 5]>::new();
    for line in text.lines() {
        let (path, rest) = line.split_once("/status:").unwrap();
        let (name, set) = rest.split_once(':').unwrap();
        let tid = path.rsplit('/').next().unwrap().parse().unwrap();
        let Some(i) = SETS.iter().position(|known| *known == name) else { continue };
        all.entry(tid).or_default()[i] = u64::from_str_radix(set.trim(), 16).unwrap();
    }
    all
}

fn rows(dump: &Path, command: &str, words: &[String]) -> Vec<Value> {
    serde_json::from_str(&output(corestub().arg(command).arg(dump).args(words).arg("--json")).unwrap())
        .unwrap()
}

fn sets(row: &Value) -> [u64; 5] {
    let set = |value: &Value| u64::from_str_radix(&value.as_str().unwrap()[2..], 16).unwrap();
    let acting = |wanted: &dyn Fn(&str) -> bool| {
        let all = row["actions"].as_array().unwrap().iter();
        let acts = all.filter(|action| wanted(action["handler"].as_str().unwrap()));
        acts.map(|action| 1 << (action["signal"].as_u64().unwrap() - 1)).sum()
    };
    [
        set(&row["private"]["signal"]),
        set(&row["shared"]["signal"]),
        set(&row["blocked"]),
        acting(&|handler| handler == "SIG_IGN"),
        acting(&|handler| handler.starts_with("0x")),
    ]
}

#[test]
fn signals_are_those_of_the_guest() {
    for (dump, oracle) in guest::recorded("signals") {
        let theirs = recorded(&oracle);
        let listed = rows(&dump, "ps", &[]).into_iter().filter_map(|task| task["pid"].as_u64());
        let both: Vec<_> = listed.filter(|pid| theirs.contains_key(pid)).map(|pid| pid.to_string()).collect();
        let found = rows(&dump, "sig", &both);
        assert!(found.len() == both.len() && found.len() > 60, "{}: {} tasks", dump.display(), found.len());
        for row in &found {
            let pid = row["pid"].as_u64().unwrap();
            assert_eq!(sets(row), theirs[&pid], "pid {pid} of {}: {SETS:?}", dump.display());
        }

        let waits = rows(&dump, "sig", &["-p".to_owned()]);
        let [task] = waits.as_slice() else { panic!("{}: {waits:?}", dump.display()) };
        let told =
            |info: &Value| ["signal", "code_name", "sender_pid", "sender_uid"].map(|m| info[m].clone());
        let told: Vec<_> = task["shared"]["queue"].as_array().unwrap().iter().map(told).collect();
        let sent = |signal: u32| [json!(signal), json!("SI_USER"), json!(1), json!(0)];
        assert_eq!(told, [sent(10), sent(15)], "{}", dump.display());
        assert_eq!((&task["comm"], &task["sigpending"]), (&json!("sh"), &json!(true)));
        assert_eq!(task["shared"]["names"], json!(["SIGUSR1", "SIGTERM"]));
    }
}
