//! The commands on real vmcores: stacks against drgn, text against crash, and
//! snapshots of the text on dumps that never change.

mod crash;
mod declared;
mod devices;
mod hostile;
mod ipcs;
mod lists;
mod many;
mod memory;
mod report;
mod shell;
mod sig;
mod snapshots;

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::support::dumps::{self, each, number};
use crate::support::program::{corestub, output};

#[derive(Deserialize)]
struct Stack {
    pid: u32,
    task: String,
    frames: Vec<Frame>,
}

#[derive(Deserialize)]
struct Frame {
    pc: String,
    symbol: Option<String>,
    kind: String,
}

/// Every stack of every dump equals drgn's, down to the first frame of user
/// space. Dead tasks have none: drgn walks what lies in their freed stacks.
#[test]
fn every_stack_is_drgns() {
    let counts = std::cell::Cell::new((0, 0));
    each("bt --all", &dumps::all(), |dump| {
        let text = output(corestub().args(["bt", "--all", "--json"]).arg(&dump.path))?;
        let stacks: Vec<Stack> = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        let ours: BTreeMap<u64, &Stack> = stacks.iter().map(|s| (number(&s.task), s)).collect();
        let (mut same, mut differ) = (0, Vec::new());
        let oracle = dump.oracle();
        for task in &oracle.tasks {
            let Some(stack) = ours.get(&number(&task.task)) else {
                differ.push(format!("pid {}: not there", task.pid));
                continue;
            };
            let pcs: Vec<u64> = stack.frames.iter().map(|f| number(&f.pc)).collect();
            let wanted: Vec<u64> = task.pcs().iter().map(|p| p.0).collect();
            let beyond = task.ends_in_thunk() && pcs.len() > wanted.len() && pcs.starts_with(&wanted);
            if pcs == wanted || beyond || task.is_dead() {
                same += 1;
                continue;
            }
            let show = |f: &Frame| format!("{}={}:{}", f.pc, f.symbol.as_deref().unwrap_or("?"), f.kind);
            differ.push(format!(
                "pid {}: {:x?}, drgn {wanted:x?}",
                stack.pid,
                stack.frames.iter().map(show).collect::<Vec<_>>()
            ));
        }
        let (n, m) = counts.get();
        counts.set((n + oracle.tasks.len(), m + same));
        // "At least 99.5 %" is promised; what is measured is all.
        if differ.is_empty() {
            return Ok(true);
        }
        differ.truncate(5);
        Err(format!("{same} of {} agree:\n  {}", oracle.tasks.len(), differ.join("\n  ")))
    });
    let (all, equal) = counts.get();
    eprintln!("stacks: {equal} of {all} equal drgn's");
}

/// A frame's kind is `user` only at the end, and there only.
#[test]
fn user_mode_ends_a_stack() {
    each("frame kinds", &dumps::one_of_each(), |dump| {
        let text = output(corestub().args(["bt", "--all", "--json"]).arg(&dump.path))?;
        let stacks: Vec<Stack> = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        for stack in &stacks {
            let inner = stack.frames.len().saturating_sub(1);
            for (i, frame) in stack.frames.iter().enumerate() {
                let user = number(&frame.pc) >> 56 == 0 && number(&frame.pc) != 0;
                if (frame.kind == "user") != user || user && i != inner {
                    return Err(format!("pid {}: frame {i} at {} is {}", stack.pid, frame.pc, frame.kind));
                }
            }
        }
        Ok(true)
    });
}

/// The collapsed stacks together hold every task once.
#[test]
fn the_summary_counts_every_task() {
    each("bt --summary", &dumps::one_of_each(), |dump| {
        #[derive(Deserialize)]
        struct Group {
            count: usize,
            pids: Vec<u32>,
        }
        let text = output(corestub().args(["bt", "--summary", "--json"]).arg(&dump.path))?;
        let groups: Vec<Group> = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        let counted: usize = groups.iter().map(|g| g.count).sum();
        let listed: usize = groups.iter().map(|g| g.pids.len()).sum();
        let tasks = dump.oracle().tasks.len();
        if (counted, listed) == (tasks, tasks) {
            Ok(true)
        } else {
            Err(format!("{counted} counted, {listed} listed, drgn has {tasks}"))
        }
    });
}

/// The triage of the lab's oopses names the function that made them.
#[test]
fn triage_names_the_culprit() {
    each("triage", &dumps::one_of_each(), |dump| {
        if !dump.is_module_panic() {
            return Ok(false);
        }
        for form in [&["triage"][..], &["triage", "--full"]] {
            let text = output(corestub().args(form).arg(&dump.path))?;
            let wanted = "LIKELY CULPRIT: labcrash_level3+0x5 of module labcrash";
            if !text.contains(wanted) || !text.contains("<0f> b") {
                return Err(format!("no `{wanted}` in:\n{text}"));
            }
        }
        Ok(true)
    });
}

/// Whatever there is to say, `triage` fits a screen, and `--full` says more.
#[test]
fn triage_is_one_screen() {
    each("one screen", &dumps::one_of_each(), |dump| {
        let text = output(corestub().arg("triage").arg(&dump.path))?;
        let (rows, columns) = (text.lines().count(), text.lines().map(|l| l.chars().count()).max());
        let full = output(corestub().args(["triage", "--full"]).arg(&dump.path))?;
        if (24..=40).contains(&rows) && columns <= Some(100) && full.lines().count() > rows {
            Ok(true)
        } else {
            Err(format!("{rows} rows of {columns:?} columns:\n{text}"))
        }
    });
}

/// Only what entered the kernel by an exception is called one: not the registers
/// that QEMU saved of a running CPU, nor those that an interrupt did.
#[test]
fn an_exception_is_one() {
    each("exceptions", &dumps::one_of_each(), |dump| {
        let text = output(corestub().args(["bt", "--all"]).arg(&dump.path))?;
        let lines: Vec<&str> = text.lines().collect();
        let mut seen = false;
        for (i, line) in lines.iter().enumerate().filter(|(_, l)| l.contains(" RIP: ") && l.contains("    ["))
        {
            let entry = lines[..i].last().unwrap_or(&"");
            let by_exception = entry.contains(" asm_exc_") && !entry.contains("nmi");
            if line.starts_with("    [exception RIP: ") != by_exception {
                return Err(format!("{entry}\n{line}"));
            }
            seen = true;
        }
        Ok(seen)
    });
}

/// A value that lies in memory is found there, by each of its addresses.
#[test]
fn search_finds_what_rd_shows() {
    each("search", &dumps::one_of_each(), |dump| {
        let sym = output(corestub().arg("sym").arg(&dump.path).arg("linux_banner"))?;
        let at = sym.split_whitespace().next().unwrap_or_default().to_owned();
        let end = format!("{:x}", u64::from_str_radix(&at, 16).map_err(|e| e.to_string())? + 0x1000);
        let mut search = corestub();
        search.arg("search").arg(&dump.path).args(["-s", &at, "-e", &end, "-c", "Linux version"]);
        let found = output(&mut search)?;
        if found.contains(&format!("{at}: Linux version ")) {
            Ok(true)
        } else {
            Err(format!("linux_banner at {at}: {found}"))
        }
    });
}
