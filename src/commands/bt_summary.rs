//! `bt --summary`: identical stacks once, with how many tasks share them.

use std::collections::BTreeMap;
use std::io::Write;

use super::{JsonFrame, Places};
use crate::commands::{CommandError, Request, parallel};
use crate::linux::{Kernel, Task};
use crate::unwind::{self, Frame, FrameKind};

/// pids that a line names before it only counts.
const PIDS_MAX: usize = 12;

/// What makes two stacks the same: the return addresses, the kernel's part.
type Key = Vec<u64>;

#[derive(Default)]
pub(in crate::commands) struct Group {
    frames: Vec<Frame>,
    pids: Vec<u32>,
    comms: BTreeMap<String, usize>,
    states: BTreeMap<char, usize>,
}

/// The stacks of `tasks`, collapsed: the most frequent first.
pub(in crate::commands) fn collapse(
    kernel: &Kernel,
    tasks: &[&Task],
    cancelled: &dyn Fn() -> bool,
) -> Result<Vec<Group>, CommandError> {
    // The walk is the work; its results pass through memory in order.
    let traces = std::sync::Mutex::new(BTreeMap::new());
    parallel::ordered(
        tasks,
        || (),
        |(), i, task, _| {
            let trace = unwind::task(kernel, task);
            traces.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(i, trace);
        },
        cancelled,
        &mut std::io::sink(),
    )?;
    let traces = traces.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut groups: BTreeMap<Key, Group> = BTreeMap::new();
    for (i, mut trace) in traces {
        let Some(task) = tasks.get(i) else { continue };
        trace.frames.retain(|f| f.kind != FrameKind::User);
        let key: Key = trace.frames.iter().map(|f| f.pc).collect();
        let group = groups.entry(key).or_default();
        group.pids.push(task.pid);
        *group.comms.entry(task.comm.clone()).or_default() += 1;
        *group.states.entry(task.state).or_default() += 1;
        if group.frames.is_empty() {
            group.frames = trace.frames;
        }
    }
    let mut groups: Vec<Group> = groups.into_values().collect();
    groups.sort_by_key(|g| (std::cmp::Reverse(g.pids.len()), g.pids.first().copied()));
    Ok(groups)
}

#[derive(serde::Serialize)]
struct JsonGroup<'a> {
    count: usize,
    pids: &'a [u32],
    comms: &'a BTreeMap<String, usize>,
    states: &'a BTreeMap<char, usize>,
    frames: Vec<JsonFrame<'a>>,
}

pub(super) fn run(
    kernel: &Kernel,
    tasks: &[&Task],
    request: &Request<'_>,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let groups = collapse(kernel, tasks, request.cancelled)?;
    if request.json {
        let mut places = Places::default();
        let rows: Vec<JsonGroup<'_>> = groups
            .iter()
            .map(|g| JsonGroup {
                count: g.pids.len(),
                pids: &g.pids,
                comms: &g.comms,
                states: &g.states,
                frames: places.json(kernel, &g.frames),
            })
            .collect();
        return crate::commands::json(&rows, out);
    }
    writeln!(out, "{} tasks, {} different stacks", tasks.len(), groups.len())?;
    write_groups(kernel, &groups, out)
}

/// The groups as text.
pub(in crate::commands) fn write_groups(
    kernel: &Kernel,
    groups: &[Group],
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let mut places = Places::default();
    for group in groups {
        let states: Vec<String> = group.states.iter().map(|(s, n)| format!("{n} {s}")).collect();
        let noun = if group.pids.len() == 1 { "task" } else { "tasks" };
        write!(out, "\n{} {noun} ({}):", group.pids.len(), states.join(", "))?;
        for pid in group.pids.iter().take(PIDS_MAX) {
            write!(out, " {pid}")?;
        }
        if let Some(more) = group.pids.len().checked_sub(PIDS_MAX).filter(|&n| n > 0) {
            write!(out, " and {more} more")?;
        }
        let mut comms: Vec<(&String, &usize)> = group.comms.iter().collect();
        comms.sort_by_key(|(name, n)| (std::cmp::Reverse(**n), *name));
        let names: Vec<&str> = comms.iter().take(4).map(|(name, _)| name.as_str()).collect();
        let more = if comms.len() > 4 { ", ..." } else { "" };
        writeln!(out, "  [{}{more}]", names.join(", "))?;
        if group.frames.is_empty() {
            writeln!(out, "    (no kernel stack)")?;
        }
        for frame in &group.frames {
            match places.of(kernel, frame) {
                Some(p) => {
                    write!(out, "    {}+{:#x}", p.name, p.offset)?;
                    if let Some(module) = p.module {
                        write!(out, " [{module}]")?;
                    }
                    writeln!(out)?;
                }
                None => writeln!(out, "    {:#x}", frame.pc)?,
            }
        }
    }
    Ok(())
}
