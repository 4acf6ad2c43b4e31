//! `files`, `irq`, `timer` and `dev -d` against what crash 8.0.6 said of the same dump; `mount`
//! against what the guest does.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::support::dumps;
use crate::support::program::{corestub, output};
use crate::support::{files, not_here};

/// crash's answers, each behind a line `crash> COMMAND`.
const SAMPLES: [(&str, &[u8]); 2] = [
    ("k6.1-oops.kdump", include_bytes!("oracles/k6.1-oops.devices.txt.zst")),
    ("k6.12-oops.kdump", include_bytes!("oracles/k6.12-oops.devices.txt.zst")),
];

/// Runs `test` on each sample that is there, with crash's rows to `command`.
fn each(command: &str, test: impl Fn(&Path, Vec<String>)) {
    for (name, packed) in SAMPLES {
        let text = String::from_utf8(zstd::decode_all(packed).unwrap()).unwrap();
        let asked = format!("crash> {command}");
        let answer = text.lines().skip_while(|l| **l != asked).skip(1);
        let answer = tidy(answer.take_while(|l| !l.starts_with("crash> ")));
        assert!(!answer.is_empty(), "{asked}");
        match files(name).first() {
            Some(path) => test(path, answer),
            None => not_here(&format!("{name} is not in the lab's folders")),
        }
    }
}

/// Rows in which only words count: crash makes its columns as wide as what is in them.
fn tidy<'l>(lines: impl Iterator<Item = &'l str>) -> Vec<String> {
    let words = |l: &str| l.split_whitespace().collect::<Vec<_>>().join(" ");
    lines.map(words).filter(|l| !l.is_empty()).collect()
}

fn run(dump: &Path, args: &[&str]) -> String {
    let (command, more) = args.split_first().unwrap();
    output(corestub().arg(command).args(["--debug-dir", "/nonexistent"]).arg(dump).args(more)).unwrap()
}

fn rows(dump: &Path, args: &[&str]) -> Vec<String> {
    tidy(run(dump, args).lines())
}

fn json(dump: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&run(dump, &[args, &["--json"]].concat())).unwrap()
}

/// Every task's files, in crash's rows.
#[test]
fn files_are_crashs() {
    each("files", |dump, crash| {
        let pids: Vec<String> = json(dump, &["ps"])
            .as_array()
            .unwrap()
            .iter()
            .map(|task| task["task"].as_str().unwrap().to_owned())
            .collect();
        let words: Vec<&str> = std::iter::once("files").chain(pids.iter().map(String::as_str)).collect();
        // A pipe has no path, and we tell its number.
        let ours: Vec<String> = rows(dump, &words)
            .into_iter()
            .map(|row| row.split(" pipe:[").next().unwrap().to_owned())
            .collect();
        let by_task = |rows: &[String]| -> BTreeMap<String, Vec<String>> {
            let tasks = rows.chunk_by(|_, row| !row.starts_with("PID: "));
            tasks.map(|rows| (rows[0].clone(), rows[1..].to_vec())).collect()
        };
        assert!(crash.len() > 700 && crash.iter().any(|row| row.ends_with("UNKN [eventpoll]")));
        assert_eq!(by_task(&ours), by_task(&crash));
    });
}

/// `-a -R` finds who has a file open; a pipe has two ends.
#[test]
fn files_are_found_by_a_part_of_their_path() {
    each("files", |dump, crash| {
        let wanted = crash.iter().filter(|row| row.contains("/tmp/mtprog.txt")).count();
        let found = json(dump, &["files", "-a", "-R", "mtprog"]);
        let of = |task: &Value| task["files"].as_array().unwrap().len();
        let found: Vec<usize> = found.as_array().unwrap().iter().map(of).collect();
        assert!(wanted > 20 && !found.contains(&0));
        assert_eq!(found.iter().sum::<usize>(), wanted);
        let mut pipes: BTreeMap<String, usize> = BTreeMap::new();
        for task in json(dump, &["files", "-a", "-R", "pipe:["]).as_array().unwrap() {
            for file in task["files"].as_array().unwrap() {
                *pipes.entry(file["path"].as_str().unwrap().to_owned()).or_default() += 1;
            }
        }
        assert!(!pipes.is_empty() && pipes.values().all(|ends| *ends >= 2), "{pipes:?}");
    });
}

/// Interrupts and their handlers; how often they came to each CPU.
#[test]
fn irq_is_crashs() {
    each("irq", |dump, crash| assert_eq!(rows(dump, &["irq"]), crash));
    each("irq -s", |dump, crash| assert_eq!(rows(dump, &["irq", "-s"]), crash));
    each("irq", |dump, _| {
        let all = json(dump, &["irq", "4"]);
        let handler = all["irqs"][0]["actions"][0]["handler"].as_str().unwrap();
        assert_eq!(handler, "serial8250_interrupt");
    });
}

/// The timers in the wheels of every CPU, and in the trees of its clocks.
#[test]
fn timer_is_crashs() {
    each("timer", |dump, crash| {
        let mut ours = rows(dump, &["timer"]);
        if dump.ends_with("k6.12-oops.kdump") {
            // 6.9 made three wheels of two. crash shows two by their old names, and not the third.
            let third = |row: &String| !row.contains("[BASE_DEF]");
            let wheels = ours.chunk_by(|_, row| !row.starts_with("TIMER_BASES["));
            let rows = wheels.filter(|wheel| third(&wheel[0])).flatten();
            let rename = |row: &String| {
                row.replace("[BASE_LOCAL]", "[BASE_STD]").replace("[BASE_GLOBAL]", "[BASE_DEF]")
            };
            ours = rows.map(rename).collect();
        }
        assert_eq!(ours, crash);
    });
    each("timer -r", |dump, crash| {
        // crash makes the time of jiffies, with a HZ that is wrong on 6.12: TTE is a column on its own.
        let without = |rows: &[String]| -> Vec<String> {
            let times = |row: &String| row.bytes().all(|b| b.is_ascii_digit());
            let tte = |row: &String| {
                let words: Vec<&str> = row.split(' ').collect();
                match words.as_slice() {
                    [soft, hard, _, rest @ ..] if times(&(*soft).to_owned()) => {
                        [&[*soft, *hard], rest].concat().join(" ")
                    }
                    _ => row.clone(),
                }
            };
            rows.iter().filter(|row| !times(row)).map(tte).collect()
        };
        let ours = rows(dump, &["timer", "-r"]);
        assert!(crash.len() > 60);
        assert_eq!(without(&ours), without(&crash));
        // The tick of each CPU is due within two seconds of the time that we say it was.
        for base in json(dump, &["timer", "-r"]).as_array().unwrap() {
            let timers = base["clocks"][0]["timers"].as_array().unwrap();
            let tick =
                timers.iter().find(|t| t["name"] == "tick_sched_timer" || t["name"] == "tick_nohz_handler");
            let tte = tick.unwrap()["tte"].as_i64().unwrap();
            assert!(tte.abs() < 2_000_000_000, "{tte}");
        }
    });
}

/// Disks; that requests are found is tested beside the code, as these disks have none.
#[test]
fn dev_is_crashs() {
    let sorted = |mut rows: Vec<String>| {
        rows.sort();
        rows
    };
    each("dev -d", |dump, crash| assert_eq!(sorted(rows(dump, &["dev", "-d"])), sorted(crash)));
}

/// What the lab's guests mount (`scripts/lab/guest/init`).
#[test]
fn mounts_are_the_guests() {
    const MOUNTED: [[&str; 3]; 5] = [
        ["proc", "proc", "/proc"],
        ["sysfs", "sysfs", "/sys"],
        ["devtmpfs", "dev", "/dev"],
        ["tmpfs", "tmp", "/tmp"],
        ["devpts", "pts", "/dev/pts"],
    ];
    let dumps = dumps::whole();
    if dumps.is_empty() {
        return not_here("a dump that is no fixture");
    }
    dumps::each("mount", &dumps, |dump| {
        let found = json(&dump.path, &["mount"]);
        let words = |m: &Value| ["type", "device", "path"].map(|word| m[word].as_str().unwrap().to_owned());
        let found: Vec<_> = found["mounts"].as_array().unwrap().iter().map(words).collect();
        let all = MOUNTED.iter().all(|wanted| found.iter().any(|have| have == wanted));
        if all && found.iter().any(|have| have[2] == "/") { Ok(true) } else { Err(format!("{found:?}")) }
    });
}
