//! Real vmcores through the real program and stock gdb, against what drgn says.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::support::client::Client;
use crate::support::dumps::{self, Dump, Task, each, number};
use crate::support::program::{Gdb, Server, Walked, corestub, have_gdb, output, walk};

#[derive(Deserialize)]
struct Row {
    task: String,
    pid: Option<u32>,
    tgid: Option<u32>,
    ppid: Option<u32>,
    comm: Option<String>,
    cpu: Option<u32>,
    on_cpu: bool,
    state: Option<char>,
}

/// What `ps --json` and drgn must agree in.
type Facts = (Option<u32>, Option<u32>, Option<u32>, Option<String>, Option<u32>, bool, Option<char>);

#[test]
fn ps_holds_exactly_the_tasks_that_drgn_sees() {
    each("ps", &dumps::all(), |dump| {
        let text = output(corestub().args(["ps", "--json"]).arg(&dump.path))?;
        let rows: Vec<Row> = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        let ours: BTreeMap<u64, Facts> = rows
            .into_iter()
            .map(|r| (number(&r.task), (r.pid, r.tgid, r.ppid, r.comm, r.cpu, r.on_cpu, r.state)))
            .collect();
        let oracle = dump.oracle();
        let theirs: BTreeMap<u64, Facts> = oracle.tasks.iter().map(|t| (number(&t.task), facts(t))).collect();
        if ours == theirs {
            return Ok(true);
        }
        // Of a dump whose filter left tasks out: all the others, and what led to them may be lost.
        let lost = dump.left_out()?;
        let pids: BTreeSet<u32> =
            oracle.tasks.iter().filter(|t| lost.contains(&number(&t.task))).map(|t| t.pid).collect();
        let same = |at: &u64| match (ours.get(at), theirs.get(at)) {
            // What a CPU ran is known to have run there, and nothing else.
            (Some(a), Some(b)) if a.3.is_none() => lost.contains(at) && (a.4, a.5) == (b.4, b.5),
            (Some(a), Some(b)) if a.2.is_none() && b.2.is_some_and(|ppid| pids.contains(&ppid)) => {
                *a == (b.0, b.1, None, b.3.clone(), b.4, b.5, b.6)
            }
            (None, Some(_)) => lost.contains(at),
            (a, b) => a == b,
        };
        if !lost.is_empty() && ours.keys().chain(theirs.keys()).all(same) {
            return Ok(true);
        }
        let mut why = format!("{} tasks, drgn has {}", ours.len(), theirs.len());
        for task in ours.keys().chain(theirs.keys()).collect::<BTreeSet<_>>() {
            let (a, b) = (ours.get(task), theirs.get(task));
            if !same(task) && why.len() < 2000 {
                why += &format!("\n  {task:#x}: {a:?}, drgn {b:?}");
            }
        }
        Err(why)
    });
}

fn facts(t: &Task) -> Facts {
    let state = t.state.as_deref().and_then(|s| s.chars().next()).unwrap_or('?');
    let on_cpu = t.on_cpu.unwrap_or_default() != 0;
    let (ppid, cpu) = (t.ppid.unwrap_or_default(), t.cpu.unwrap_or_default());
    (Some(t.pid), Some(t.tgid), Some(ppid), Some(t.comm.clone()), Some(cpu), on_cpu, Some(state))
}

/// The frames from the innermost one to the first in the entry code, or all of them.
/// Assembly has no unwind information in vmlinux, so gdb cannot go on from there.
fn down_to_entry<'a>(pcs: &'a [(u64, &'a str)]) -> &'a [(u64, &'a str)] {
    let entry = |name: &str| {
        ["entry_", "asm_", "ret_from_fork", "secondary_startup", "common_startup", "common_interrupt_return"]
            .iter()
            .any(|p| name.starts_with(p))
    };
    let end = pcs.iter().position(|(_, name)| entry(name)).map_or(pcs.len(), |n| n + 1);
    &pcs[..end]
}

/// How one task's stack compares; `None` if gdb does not list the task.
fn compare(task: &Task, walked: &BTreeMap<u32, &Walked>, wanted: &[(u64, &str)]) -> Result<(), String> {
    let Some(w) = walked.get(&task.tid()) else { return Err("gdb has no such thread".to_owned()) };
    if w.name.as_deref() != Some(&task.comm) {
        return Err(format!("is called {:?}", w.name));
    }
    let got: Vec<u64> = w.frames.iter().map_while(|f| f.0).collect();
    if got.len() >= wanted.len() && wanted.iter().zip(&got).all(|(a, b)| a.0 == *b) {
        return Ok(());
    }
    let show = |pcs: Vec<String>| pcs.join(" ");
    Err(format!(
        "drgn: {}\n      gdb:  {}{}",
        show(wanted.iter().map(|(pc, name)| format!("{pc:x}={name}")).collect()),
        show(got.iter().map(|pc| format!("{pc:x}")).collect()),
        w.error.as_deref().map(|e| format!(" ({e})")).unwrap_or_default()
    ))
}

#[test]
fn with_vmlinux_sleeping_tasks_have_the_frames_that_drgn_sees() {
    if !have_gdb() {
        return;
    }
    each("frames with vmlinux", &dumps::one_of_each(), |dump| {
        let Some(vmlinux) = dump.vmlinux() else {
            eprintln!("{}: no vmlinux of its kernel", dump.name());
            return Ok(false);
        };
        let server = Server::start(&dump.path, &[])?;
        let walked = walk(&server, Some(&vmlinux))?;
        let walked: BTreeMap<u32, &Walked> = walked.iter().map(|w| (w.tid, w)).collect();
        let (oracle, lost) = (dump.oracle(), dump.left_out()?);
        let (mut sleeping, mut in_modules, mut differ) = (0, 0, Vec::new());
        for task in &oracle.tasks {
            if task.on_cpu != Some(0) || task.is_dead() || task.stack_error.is_some() {
                continue;
            }
            if lost.contains(&number(&task.task)) && !walked.contains_key(&task.tid()) {
                continue;
            }
            let pcs = task.pcs();
            let pcs = down_to_entry(&pcs);
            if pcs.iter().any(|(pc, _)| oracle.in_module(*pc)) {
                in_modules += 1; // vmlinux alone cannot unwind through a module
                continue;
            }
            sleeping += 1;
            if let Err(why) = compare(task, &walked, pcs) {
                differ.push(format!("pid {} {}: {why}", task.pid, task.comm));
            }
        }
        let agree = sleeping - differ.len();
        eprintln!(
            "{}: {agree} of {sleeping} sleeping tasks agree, {in_modules} sleep in a module",
            dump.name()
        );
        if differ.len() * 100 > sleeping {
            differ.truncate(5);
            return Err(format!("fewer than 99 % of {sleeping} agree:\n    {}", differ.join("\n    ")));
        }
        Ok(true)
    });
}

#[test]
fn bare_gdb_has_every_frame_that_drgn_sees() {
    if !have_gdb() {
        return;
    }
    each("frames with bare gdb", &dumps::one_of_each(), |dump| {
        let server = Server::start(&dump.path, &[])?;
        let walked = walk(&server, None)?;
        let walked: BTreeMap<u32, &Walked> = walked.iter().map(|w| (w.tid, w)).collect();
        // gdb has read all stacks, symbols and types by now
        let memory = server.rss_anon().unwrap_or_default();
        if memory > 96 << 10 {
            return Err(format!("the server holds {memory} KiB of its own"));
        }
        let (oracle, lost) = (dump.oracle(), dump.left_out()?);
        let (mut differ, mut excused) = (Vec::new(), Vec::new());
        for task in &oracle.tasks {
            // drgn goes on into user space, of which it has no unwind information
            let mut all = task.pcs();
            if let Some(user) = all.iter().position(|(pc, _)| pc >> 47 == 0) {
                all.truncate(user + 1);
            }
            match compare(task, &walked, &all) {
                Err(_) if task.is_dead() || task.stack_error.is_some() => {
                    excused.push(format!("{} {}", task.pid, task.comm))
                }
                Err(_) if lost.contains(&number(&task.task)) && !walked.contains_key(&task.tid()) => {
                    excused.push(format!("{} {} (left out)", task.pid, task.comm))
                }
                Err(why) => differ.push(format!("pid {} {}: {why}", task.pid, task.comm)),
                Ok(()) => {
                    // and none beyond drgn's last, but in user space
                    let beyond = walked[&task.tid()].frames[all.len()..]
                        .iter()
                        .find(|f| f.0.is_some_and(|pc| pc >> 47 != 0));
                    if let Some(frame) = beyond.filter(|_| !all.is_empty() && !task.ends_in_thunk()) {
                        differ.push(format!(
                            "pid {} {}: a frame too many: {:x?}",
                            task.pid, task.comm, frame.0
                        ));
                    }
                }
            }
        }
        eprintln!(
            "{}: {} of {} tasks agree; server {memory} KiB; dead, with their stacks reused, or not there: {excused:?}",
            dump.name(),
            oracle.tasks.len() - differ.len() - excused.len(),
            oracle.tasks.len()
        );
        if differ.is_empty() {
            return Ok(true);
        }
        let n = differ.len();
        differ.truncate(5);
        Err(format!("{n} of {} differ:\n    {}", oracle.tasks.len(), differ.join("\n    ")))
    });
}

#[test]
fn sampled_addresses_read_as_drgn_reads_them() {
    each("addresses", &dumps::one_of_each(), |dump| {
        let Some(addresses) = dump.addresses() else {
            return Ok(false);
        };
        let server = Server::start(&dump.path, &[])?;
        let mut client = Client::connect(&server.address);
        let (holes, lost) = (dump.has_holes(), dump.left_out()?);
        let processes = dump.oracle().tasks.into_iter().filter(|t| lost.contains(&number(&t.task)));
        let processes: BTreeSet<u32> = processes.map(|t| t.tgid).collect();
        let (mut whole, mut gone) = (0, 0);
        let mut wrong: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        let (mut selected, mut zeros) = (None, 0);
        for (kind, address, pid, expected) in &addresses.samples {
            // the kernel's own addresses read the same whatever is selected
            if *pid != 0 && selected != Some(*pid) {
                let reply = client.ask(&format!("Hg{pid:x}"));
                if reply != "OK" && processes.contains(pid) {
                    gone += 1;
                    continue;
                }
                if reply != "OK" {
                    return Err(format!("Hg{pid:x}: {reply}"));
                }
                selected = Some(*pid);
            }
            let got = client.read(number(address), addresses.size);
            let fine = match expected {
                Some(bytes) if got == *bytes => {
                    whole += 1;
                    true
                }
                // What drgn read was not filtered yet.
                Some(bytes) if !lost.is_empty() && bytes.starts_with(&got) => {
                    gone += 1;
                    true
                }
                // drgn reads zeros where an ELF file leaves a page out
                Some(bytes)
                    if holes && bytes.starts_with(&got) && bytes[got.len()..].bytes().all(|b| b == b'0') =>
                {
                    zeros += 1;
                    true
                }
                Some(_) => false,
                None => got.len() < addresses.size * 2,
            };
            if !fine {
                wrong
                    .entry(kind)
                    .or_default()
                    .push(format!("{address} pid {pid}: {got:?}, drgn {expected:?}"));
            }
        }
        eprintln!(
            "{}: {} addresses ({zeros} in holes of the ELF file, {gone} left out)",
            dump.name(),
            addresses.samples.len()
        );
        if gone > whole {
            return Err(format!("{gone} of {} are left out", addresses.samples.len()));
        }
        if wrong.is_empty() {
            return Ok(true);
        }
        let shown = wrong.iter().map(|(k, w)| {
            format!("{k}: {} wrong, e.g.\n      {}", w.len(), w[..w.len().min(3)].join("\n      "))
        });
        Err(shown.collect::<Vec<_>>().join("\n    "))
    });
}

#[test]
fn bare_gdb_names_the_crashed_stack() {
    if !have_gdb() {
        return;
    }
    let panics: Vec<Dump> = dumps::one_of_each().into_iter().filter(Dump::is_module_panic).collect();
    each("crashed stack", &panics, |dump| {
        let server = Server::start(&dump.path, &[])?;
        let text = Gdb::new(None).connect(&server).ex("bt").run()?;
        let mut rest = text.as_str();
        for function in ["labcrash_level3", "labcrash_level2", "labcrash_level1"] {
            let at = rest.find(function).ok_or_else(|| format!("no {function} in its place in\n{text}"))?;
            rest = &rest[at..];
        }
        Ok(true)
    });
}

#[test]
fn a_dump_refuses_to_run() {
    if !have_gdb() {
        return;
    }
    each("refusals", &dumps::one_of_each()[..1.min(dumps::one_of_each().len())], |dump| {
        let server = Server::start(&dump.path, &[])?;
        for command in ["continue", "stepi", "set var *(int*)$sp = 1", "call (int)1", "p $pc = 0"] {
            let text = Gdb::new(None).connect(&server).ex(command).ex("p/x $sp").run()?;
            if !text.contains("= 0xffff") {
                return Err(format!("{command}:\n{text}"));
            }
        }
        Ok(true)
    });
}

#[test]
fn with_vmlinux_types_and_data_are_right() {
    if !have_gdb() {
        return;
    }
    each("init_task.comm", &dumps::one_of_each(), |dump| {
        let Some(vmlinux) = dump.vmlinux() else { return Ok(false) };
        let server = Server::start(&dump.path, &[])?;
        let text = Gdb::new(Some(&vmlinux)).connect(&server).ex("p init_task.comm").ex("p/x $task").run()?;
        if text.contains("\"swapper/0\\000") { Ok(true) } else { Err(text) }
    });
}
