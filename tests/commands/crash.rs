//! Text against what crash 8.0.6 printed of the same dump, line by line.
//!
//! Where they differ on purpose, the rule that lets it pass says why.

use std::collections::BTreeMap;
use std::path::Path;

use crate::support::dumps::{self, Dump, each};
use crate::support::program::{corestub, output};

/// crash's output, cut into commands (scripts/lab/oracles.sh has the list).
struct Parts<'a> {
    banner: Vec<&'a str>,
    log: Vec<&'a str>,
    modules: Vec<&'a str>,
    ps: Vec<&'a str>,
    runq: Vec<&'a str>,
    rest: Vec<&'a str>,
}

impl Parts<'_> {
    /// Whether the guest crashed; else it was running.
    fn crashed(&self) -> bool {
        !self.banner.iter().any(|l| l.trim_start() == "PANIC: \"\"")
    }
}

fn parts(text: &str) -> Option<Parts<'_>> {
    let lines: Vec<&str> = text.lines().collect();
    let find = |from: usize, test: &dyn Fn(&str) -> bool| {
        lines.iter().skip(from).position(|l| test(l)).map(|i| i + from)
    };
    let kernel = find(0, &|l| l.trim_start().starts_with("KERNEL: "))?;
    let state = find(kernel, &|l| l.trim_start().starts_with("STATE: "))? + 1;
    let log = find(state, &|l| l.starts_with('['))?;
    let modules = find(log, &|l| l.trim_start().starts_with("MODULE "))?;
    let ps = find(modules, &|l| l.trim_start().starts_with("PID    PPID"))?;
    let runq = find(ps, &|l| l.starts_with("CPU ") && l.contains("RUNQUEUE"))?;
    let rest = find(runq, &|l| l.starts_with("PID: "))?;
    Some(Parts {
        banner: lines[kernel..state].to_vec(),
        log: lines[log..modules].to_vec(),
        modules: lines[modules..ps].to_vec(),
        ps: lines[ps..runq].to_vec(),
        runq: lines[runq..rest].to_vec(),
        rest: lines[rest..].to_vec(),
    })
}

fn run(dump: &Path, args: &[&str]) -> Result<String, String> {
    let (command, more) = args.split_first().unwrap();
    output(corestub().arg(command).args(["--debug-dir", "/nonexistent"]).arg(dump).args(more))
}

/// Runs `test` on each dump that crash could read.
fn with_crash(what: &str, test: impl Fn(&Dump, &Parts<'_>) -> Result<(), String>) {
    with_crash_of(what, &dumps::all(), test);
}

/// The same, of dumps from which no page was cut.
fn with_whole(what: &str, test: impl Fn(&Dump, &Parts<'_>) -> Result<(), String>) {
    let dumps = dumps::whole();
    if dumps.is_empty() {
        return crate::support::not_here("a dump that is no fixture");
    }
    with_crash_of(what, &dumps, test);
}

fn with_crash_of(what: &str, dumps: &[Dump], test: impl Fn(&Dump, &Parts<'_>) -> Result<(), String>) {
    each(what, dumps, |dump| {
        let Some(text) = dump.crash() else { return Ok(false) };
        let Some(parts) = parts(&text) else { return Ok(false) };
        test(dump, &parts).map(|()| true)
    });
}

/// The lines that differ, but for white space at the ends and empty lines.
fn differences<'a>(
    ours: impl IntoIterator<Item = &'a str>,
    crash: impl IntoIterator<Item = &'a str>,
) -> Vec<(String, String)> {
    let tidy = |l: &str| l.trim_end().to_owned();
    let mut ours = ours.into_iter().map(tidy).filter(|l| !l.is_empty());
    let mut crash = crash.into_iter().map(tidy).filter(|l| !l.is_empty());
    let mut out = Vec::new();
    loop {
        match (ours.next(), crash.next()) {
            (None, None) => return out,
            (a, b) if a == b => {}
            (a, b) => out.push((a.unwrap_or_default(), b.unwrap_or_default())),
        }
    }
}

fn verdict(mut differ: Vec<(String, String)>, lines: usize) -> Result<(), String> {
    let count = differ.len();
    differ.truncate(4);
    let text: String = differ.iter().map(|(a, b)| format!("\n  ours:  {a}\n  crash: {b}")).collect();
    if count == 0 { Ok(()) } else { Err(format!("{count} of {lines} lines differ:{text}")) }
}

#[test]
fn the_log_is_crashs() {
    with_crash("log", |dump, parts| {
        let ours = run(&dump.path, &["log"])?;
        verdict(differences(ours.lines(), parts.log.iter().copied()), parts.log.len())
    });
}

#[test]
fn ps_is_crashs() {
    with_crash("ps", |dump, parts| {
        let ours = run(&dump.path, &["ps"])?;
        // A running guest may be caught within __schedule(): crash marks the task that
        // the run queue has already turned to, we the one that still runs, as drgn does.
        let crashed = parts.crashed();
        let mark = |l: &str| if crashed { l.to_owned() } else { l.replacen('>', " ", 1) };
        let ours: Vec<String> = ours.lines().map(mark).collect();
        let theirs: Vec<String> = parts.ps.iter().map(|l| mark(l)).collect();
        let mut differ = differences(ours.iter().map(String::as_str), theirs.iter().map(String::as_str));
        // vfork() shares memory between two processes. crash adds to each what
        // its own threads have not handed in yet, we what all users have not.
        let columns = |l: &str| {
            let words: Vec<String> = l.split_whitespace().map(str::to_owned).collect();
            words
                .into_iter()
                .enumerate()
                .filter(|(i, _)| ![5, 7].contains(i))
                .map(|w| w.1)
                .collect::<Vec<_>>()
        };
        differ.retain(|(a, b)| !(a.ends_with("lab-vfork") && columns(a) == columns(b)));
        verdict(differ, parts.ps.len())
    });
}

#[test]
fn runq_is_crashs() {
    with_crash("runq", |dump, parts| {
        let ours = run(&dump.path, &["runq"])?;
        verdict(differences(ours.lines(), parts.runq.iter().copied()), parts.runq.len())
    });
}

#[test]
fn mod_has_crashs_columns() {
    with_crash("mod", |dump, parts| {
        let ours = run(&dump.path, &["mod"])?;
        // Behind the object file we have taints and the build-id.
        let cut = |l: &str| l.split("(not loaded)").next().unwrap_or_default().trim_end().to_owned();
        let ours: Vec<String> = ours.lines().map(cut).collect();
        let crash: Vec<String> = parts.modules.iter().map(|l| cut(l)).collect();
        let differ = differences(ours.iter().map(String::as_str), crash.iter().map(String::as_str));
        verdict(differ, crash.len())
    });
}

fn rows<'a>(lines: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, &'a str> {
    let mut rows = BTreeMap::new();
    for line in lines {
        if let Some((name, value)) = line.split_once(": ") {
            rows.entry(name.trim()).or_insert(value.trim());
        }
    }
    rows
}

#[test]
fn sys_is_crashs_banner() {
    with_crash("sys", |dump, parts| {
        let ours = run(&dump.path, &["sys"])?;
        let (ours, crash) = (rows(ours.lines()), rows(parts.banner.iter().copied()));
        let seconds = |text: &str| {
            text.split(':').try_fold(0u64, |sum, part| Some(sum * 60 + part.trim().parse::<u64>().ok()?))
        };
        let mut differ = Vec::new();
        // A guest that did not crash has no task of its own to show: crash takes
        // pid 0, we what CPU 0 was running.
        let crashed = crash.get("PANIC").is_none_or(|p| *p != "\"\"");
        for (name, theirs) in &crash {
            let mine = ours.get(name).copied().unwrap_or("(no such row)");
            let same = match *name {
                "NODENAME" => mine.strip_suffix("  [no host name was set]").unwrap_or(mine) == *theirs,
                "KERNEL" => mine.contains("[TAINTED]") == theirs.contains("[TAINTED]"),
                "DUMPFILE" => mine.contains("[PARTIAL DUMP]") == theirs.contains("[PARTIAL DUMP]"),
                "PID" | "COMMAND" | "TASK" | "CPU" | "STATE" if !crashed => true,
                // crash counts jiffies, and on 6.12 with a wrong HZ: 3:48 minutes
                // for 14 seconds. The kernel's clock, which we read, is the log's.
                "UPTIME" => match (seconds(mine), seconds(theirs)) {
                    (Some(a), Some(b)) => a.abs_diff(b) <= 1 || dump.name().contains("6.12"),
                    _ => false,
                },
                _ => mine == *theirs,
            };
            if !same {
                differ.push((format!("{name}: {mine}"), format!("{name}: {theirs}")));
            }
        }
        verdict(differ, crash.len())
    });
}

/// The lines of each task's stack, by its address.
fn stacks<'a>(lines: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, Vec<&'a str>> {
    let mut stacks: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut task = None;
    for line in lines {
        if line.starts_with("PID: ") {
            task = line.split_whitespace().nth(3).filter(|t| !stacks.contains_key(t));
        } else if !["    ", " #", "#", "---", "("].iter().any(|p| line.starts_with(p)) {
            task = None;
        }
        if let Some(task) = task {
            stacks.entry(task).or_default().push(line.trim_end());
        }
    }
    stacks
}

#[test]
fn bt_is_crashs() {
    with_crash("bt", |dump, parts| {
        // crash calls it an exception, whatever saved the registers.
        let ours = run(&dump.path, &["bt", "--all"])?
            .replace("[saved RIP: ", "[exception RIP: ")
            .replace("[interrupted RIP: ", "[exception RIP: ");
        let (ours, crash) = (stacks(ours.lines()), stacks(parts.rest.iter().copied()));
        // The registers of a running guest's CPUs are QEMU's, which crash cannot
        // walk from, or walks stale frames.
        let crashed = parts.crashed();
        let mut differ = Vec::new();
        for (task, theirs) in &crash {
            let empty = Vec::new();
            let mine = ours.get(task).unwrap_or(&empty);
            let active = theirs.iter().any(|l| l.contains("crash_nmi_callback"))
                || !crashed
                    && dump.oracle().tasks.iter().any(|t| t.on_cpu == Some(1) && t.task.ends_with(task));
            if active && !crashed || theirs.len() == 1 {
                continue;
            }
            // The bracket of the frame that an interrupt entered by is 8 bytes off in
            // crash: our stack pointers are drgn's, all of them.
            let same = |(a, b): &(String, String)| {
                let cut = |l: &str| l.split_once("] ").map(|(_, name)| name.to_owned());
                b.contains(" asm_") && cut(a) == cut(b)
            };
            // crash has no unwind tables of modules: from there outward it guesses,
            // often wrongly. `every_stack_is_drgns` compares those frames.
            let known = |lines: &[&str]| {
                lines
                    .iter()
                    .position(|l| l.contains("] ") && l.trim_end().ends_with(']'))
                    .unwrap_or(usize::MAX)
            };
            let known = known(mine).min(known(theirs));
            let mut lines = differences(mine.iter().copied().take(known), theirs.iter().copied().take(known));
            lines.retain(|pair| !same(pair));
            differ.append(&mut lines);
        }
        verdict(differ, crash.values().map(Vec::len).sum())
    });
}

/// Every `vtop` that crash was asked for: title, levels, page, flags.
#[test]
fn vtop_is_crashs() {
    let asked = |dump: &Dump| dump.crash().is_some_and(|text| text.contains("\nVIRTUAL "));
    // A run of the program for each address: not on every form of a dump.
    let dumps: Vec<_> = dumps::one_of_each().into_iter().filter(asked).collect();
    if dumps.is_empty() {
        return crate::support::not_here("the dumps of which crash was asked for vtop");
    }
    with_crash_of("vtop", &dumps, |dump, parts| {
        let process = parts.rest.iter().rev().find_map(|l| l.strip_prefix("    PID: "));
        let mut differ = Vec::new();
        let mut count = 0;
        for (i, line) in parts.rest.iter().enumerate() {
            if !line.starts_with("VIRTUAL ") {
                continue;
            }
            let Some(address) = parts.rest.get(i + 1).and_then(|l| l.split_whitespace().next()) else {
                continue;
            };
            // What follows is of vm_area_struct and struct page; gdb has those.
            let end = |l: &&&str| {
                ["VIRTUAL ", "rd:", "vtop:", "SWAP:", "      VMA ", "      PAGE "]
                    .iter()
                    .any(|p| l.starts_with(p))
                    || l.starts_with("ff") && (l.contains(") ") || l.split_whitespace().count() >= 6)
            };
            let rest = &parts.rest[i + 1..];
            let block = &rest[..rest.iter().position(|l| end(&l)).unwrap_or(rest.len())];
            if block.iter().any(|l| l.contains("cannot determine swap location")) {
                continue;
            }
            let user = address.len() < 16;
            let args = match process {
                Some(pid) if user => vec!["vtop", "-c", pid, address],
                _ => vec!["vtop", address],
            };
            let ours = run(&dump.path, &args)?;
            let own = ["the page is in the dump", "the page at physical", "the page of"];
            let ours = ours.lines().skip(1).filter(|l| {
                !own.iter().any(|p| l.starts_with(p))
                    && !l.contains("is not mapped")
                    && !l.contains("was swapped out")
            });
            differ.append(&mut differences(ours, block.iter().copied()));
            count += block.len();
        }
        verdict(differ, count)
    });
}

/// `rd -a` of the banners.
#[test]
fn rd_is_crashs() {
    with_crash("rd", |dump, parts| {
        let start = parts.rest.iter().position(|l| l.contains(":  Linux version "));
        let Some(start) = start else { return Err("crash did not read linux_banner".to_owned()) };
        let ours = run(&dump.path, &["rd", "-a", "linux_banner"])?;
        // crash's last line runs into the next command's output.
        let whole = ours.lines().count() - 1;
        let differ =
            differences(ours.lines().take(whole), parts.rest.iter().skip(start).take(whole).copied());
        let last = ours.lines().last().unwrap_or_default().to_owned();
        if !parts.rest.get(start + whole).is_some_and(|l| l.starts_with(&last)) {
            return Err(format!("the last line is {last}"));
        }
        verdict(differ, whole)
    });
}

/// The memory of the guest's process with many kinds of mappings.
#[test]
fn vm_is_crashs() {
    with_whole("vm", |dump, parts| {
        let head = parts.rest.iter().rposition(|l| l.starts_with("       MM               PGD"));
        let (Some(head), Some(pid)) =
            (head, parts.rest.iter().rev().find_map(|l| l.strip_prefix("    PID: ")))
        else {
            return Ok(());
        };
        let words = |l: &str| l.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let is_row = |l: &&&str| l.starts_with("ff") || l.starts_with("      VMA ");
        let theirs = parts.rest.iter().skip(head + 1).take_while(is_row);
        let theirs: Vec<_> = theirs.filter(|l| l.starts_with("ff")).map(|l| words(l)).collect();
        let ours = run(&dump.path, &["vm", pid])?;
        let mut ours: Vec<_> = ours.lines().filter(|l| l.starts_with("ff")).map(words).collect();
        for row in ours.iter_mut().skip(1) {
            // Ours alone: the permissions, and the names of what has no file.
            row.remove(4);
            row.truncate(if row.get(4).is_some_and(|name| name.starts_with('[')) { 4 } else { 5 });
        }
        let join = |rows: Vec<Vec<String>>| rows.into_iter().map(|row| row.join(" ")).collect::<Vec<_>>();
        let (ours, theirs) = (join(ours), join(theirs));
        assert!(theirs.len() > 20, "{theirs:?}");
        let differ = differences(ours.iter().map(String::as_str), theirs.iter().map(String::as_str));
        verdict(differ, theirs.len())
    });
}

#[test]
fn swap_is_crashs() {
    with_whole("swap", |dump, parts| {
        let Some(head) = parts.rest.iter().position(|l| l.starts_with("SWAP_INFO_STRUCT")) else {
            return Ok(());
        };
        let words = |l: &&str| l.split_whitespace().collect::<Vec<_>>().join(" ");
        let theirs: Vec<_> =
            parts.rest[head..].iter().take_while(|l| !l.starts_with(' ')).map(words).collect();
        let ours: Vec<_> = run(&dump.path, &["swap"])?.lines().map(|l| words(&l)).collect();
        let differ = differences(ours.iter().map(String::as_str), theirs.iter().map(String::as_str));
        verdict(differ, theirs.len())
    });
}
