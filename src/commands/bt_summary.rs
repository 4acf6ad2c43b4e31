//! `bt --summary`: identical stacks once, with how many tasks share them.

use std::collections::BTreeMap;
use std::io;

use serde::{Serialize, Serializer};

use super::{JsonFrame, Places};
use crate::commands::{Context, Result, Text};
use crate::linux::{Kernel, Task};
use crate::par;
use crate::text::{Screen, put, row};
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

impl Group {
    /// One row: how many, who, and where.
    pub(in crate::commands) fn glance(&self, kernel: &Kernel) -> String {
        let mut places = Places::default();
        let names = self.frames.iter().map(|frame| match places.of(kernel, frame) {
            Some(p) => p.name.to_owned(),
            None => format!("{:#x}", frame.pc),
        });
        let names: Vec<String> =
            names.skip_while(|name| name.trim_start_matches('_') == "schedule").collect();
        let who: Vec<&str> = self.comms.keys().take(2).map(String::as_str).collect();
        let more = if self.comms.len() > 2 { ", ..." } else { "" };
        let pid = self.pids.first().copied().unwrap_or_default();
        let and = if self.pids.len() > 1 { " and others" } else { "" };
        format!("{} [{}{more}] pid {pid}{and}: {}", self.pids.len(), who.join(", "), names.join(" < "))
    }
}

/// The stacks of `tasks`, collapsed: the most frequent first.
pub(in crate::commands) fn collapse(
    kernel: &Kernel,
    tasks: &[&Task],
    context: Context<'_>,
) -> Result<Vec<Group>> {
    let mut traces = Vec::with_capacity(tasks.len());
    let walk = |(): &mut (), _: usize, task: &&Task| unwind::task(kernel, task);
    let mut keep = |trace| {
        traces.push(trace);
        Ok::<_, io::Error>(())
    };
    par::ordered(tasks, || (), walk, context.cancelled, &mut keep)?;
    let mut groups: BTreeMap<Key, Group> = BTreeMap::new();
    for (task, mut trace) in tasks.iter().zip(traces) {
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

#[derive(Serialize)]
struct JsonGroup<'a> {
    count: usize,
    pids: &'a [u32],
    comms: &'a BTreeMap<String, usize>,
    states: &'a BTreeMap<char, usize>,
    frames: Vec<JsonFrame<'a>>,
}

/// The answer of `bt --summary`.
pub(super) struct Summary<'d> {
    kernel: &'d Kernel,
    tasks: usize,
    groups: Vec<Group>,
}

impl<'d> Summary<'d> {
    pub(super) fn of(kernel: &'d Kernel, tasks: &[&Task], context: Context<'_>) -> Result<Self> {
        Ok(Self { kernel, tasks: tasks.len(), groups: collapse(kernel, tasks, context)? })
    }
}

impl Serialize for Summary<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        let mut places = Places::default();
        to.collect_seq(self.groups.iter().map(|g| JsonGroup {
            count: g.pids.len(),
            pids: &g.pids,
            comms: &g.comms,
            states: &g.states,
            frames: places.json(self.kernel, &g.frames),
        }))
    }
}

impl Text for Summary<'_> {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        row!(screen, "{} tasks, {} different stacks", self.tasks, self.groups.len())?;
        Ok(write_groups(self.kernel, &self.groups, screen)?)
    }
}

/// The groups as text.
pub(in crate::commands) fn write_groups(
    kernel: &Kernel,
    groups: &[Group],
    screen: &mut Screen<'_>,
) -> io::Result<()> {
    let mut places = Places::default();
    for group in groups {
        let states: Vec<String> = group.states.iter().map(|(s, n)| format!("{n} {s}")).collect();
        let noun = if group.pids.len() == 1 { "task" } else { "tasks" };
        row!(screen)?;
        put!(screen, "{} {noun} ({}):", group.pids.len(), states.join(", "));
        for pid in group.pids.iter().take(PIDS_MAX) {
            put!(screen, " {pid}");
        }
        if let Some(more) = group.pids.len().checked_sub(PIDS_MAX).filter(|&n| n > 0) {
            put!(screen, " and {more} more");
        }
        let mut comms: Vec<(&String, &usize)> = group.comms.iter().collect();
        comms.sort_by_key(|(name, n)| (std::cmp::Reverse(**n), *name));
        let names: Vec<&str> = comms.iter().take(4).map(|(name, _)| name.as_str()).collect();
        let more = if comms.len() > 4 { ", ..." } else { "" };
        row!(screen, "  [{}{more}]", names.join(", "))?;
        if group.frames.is_empty() {
            row!(screen, "    (no kernel stack)")?;
        }
        for frame in &group.frames {
            match places.of(kernel, frame) {
                Some(p) => {
                    put!(screen, "    {}+{:#x}", p.name, p.offset);
                    if let Some(module) = p.module {
                        put!(screen, " [{module}]");
                    }
                    row!(screen)?;
                }
                None => row!(screen, "    {:#x}", frame.pc)?,
            }
        }
    }
    Ok(())
}
