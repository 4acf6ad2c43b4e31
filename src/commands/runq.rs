//! `runq`: what each CPU was running, and what waited for it.
//!
//! Waiting tasks: `rq->rt.active.queue[prio]` for real time, the red-black tree
//! `rq->cfs.tasks_timeline` for all others, entities of groups with their own
//! queue (`my_q`). A real-time task stays in its queue while it runs. Source: `kernel/sched/sched.h`.

use std::collections::HashSet;

use serde::Serialize;

use super::answer::apart;
use super::{Answer, Command, CommandError, Context, NoArguments, Result, Text};
use crate::addr::VirtAddr;
use crate::linux::list::List;
use crate::linux::object::Object;
use crate::linux::rbtree::RbTree;
use crate::linux::{Kernel, Task, tasks};
use crate::text::{Screen, row};

pub(super) fn command() -> Command {
    Command::of_kernel(
        "runq",
        "run queues: the current task of each CPU, and those that waited",
        "RT PRIO_ARRAY lists the real-time tasks, the one that runs among them, CFS RB_ROOT all others \
         that waited, the next to run first. bt -a shows what the current ones did.",
        run,
    )
}

/// Nodes of one tree or list.
const MAX: usize = 1 << 16;
/// Groups within groups.
const DEPTH: usize = 32;

#[derive(Serialize)]
#[serde(transparent)]
struct Queues<'a>(Vec<Queue<'a>>);

#[derive(Serialize)]
struct Queue<'a> {
    cpu: u32,
    runqueue: VirtAddr,
    current: Option<Waiting<'a>>,
    rt: Option<Class<'a>>,
    cfs: Option<Class<'a>>,
}

/// The queue of one class of tasks, if it can be read.
#[derive(Serialize)]
#[serde(transparent)]
struct Class<'a> {
    #[serde(skip)]
    at: VirtAddr,
    tasks: Vec<Waiting<'a>>,
}

#[derive(Serialize)]
struct Waiting<'a> {
    prio: Option<u64>,
    #[serde(skip)]
    of: &'a Task,
    pid: Option<u32>,
    task: VirtAddr,
    comm: Option<&'a str>,
}

fn run<'d>(kernel: &'d Kernel, _: NoArguments, context: Context<'d>) -> Result<Answer<'d>> {
    let mut queues = Vec::new();
    for &cpu in kernel.percpu().present() {
        context.check()?;
        let rq = Object::of_cpu(kernel, "runqueues", cpu, "rq");
        let rq = rq.ok_or_else(|| CommandError::failed("no symbol runqueues"))?;
        let current = tasks::current(kernel, cpu).and_then(|a| kernel.tasks().by_address(a));
        queues.push(Queue {
            cpu,
            runqueue: rq.base,
            current: current.map(|t| waiting(kernel, t)),
            rt: class(rq.address("rt.active"), |tasks| {
                real_time(kernel, rq.address("rt.active")?, &mut HashSet::new(), 0, tasks)
            }),
            cfs: class(rq.address("cfs.tasks_timeline"), |tasks| {
                fair(kernel, rq.address("cfs")?, &mut HashSet::new(), 0, tasks)
            }),
        });
    }
    Ok(Queues(queues).into())
}

/// The queue `at`, if `walk` can read it.
fn class<'a>(
    at: Option<VirtAddr>,
    walk: impl FnOnce(&mut Vec<Waiting<'a>>) -> Option<()>,
) -> Option<Class<'a>> {
    let (at, mut tasks) = (at?, Vec::new());
    walk(&mut tasks).map(|()| Class { at, tasks })
}

impl Text for Queues<'_> {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        apart(&self.0, screen)
    }
}

impl Text for Queue<'_> {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        row!(screen, "CPU {} RUNQUEUE: {:x}", self.cpu, self.runqueue.0)?;
        match &self.current {
            Some(t) => {
                row!(
                    screen,
                    "  CURRENT: PID: {:<5}  TASK: {:x}  COMMAND: \"{}\"",
                    t.of.pid_text(),
                    t.task.0,
                    t.of.comm
                )?;
            }
            None => row!(screen, "  CURRENT: (not a task)")?,
        }
        for (title, class) in [("RT PRIO_ARRAY", &self.rt), ("CFS RB_ROOT", &self.cfs)] {
            let Some(Class { at, tasks }) = class else {
                row!(screen, "  {title}: (not known)")?;
                continue;
            };
            row!(screen, "  {title}: {:x}", at.0)?;
            for w in tasks {
                let prio = w.prio.map_or("?".to_owned(), |p| p.to_string());
                row!(
                    screen,
                    "     [{prio:>3}] PID: {:<5}  TASK: {:x}  COMMAND: \"{}\"",
                    w.of.pid_text(),
                    w.task.0,
                    w.of.comm
                )?;
            }
            if tasks.is_empty() {
                row!(screen, "     [no tasks queued]")?;
            }
        }
        Ok(())
    }
}

fn waiting<'a>(kernel: &'a Kernel, task: &'a Task) -> Waiting<'a> {
    Waiting {
        prio: Object::new(kernel, "task_struct", task.addr).number("prio"),
        of: task,
        pid: task.known_pid(),
        task: task.addr,
        comm: task.known_comm(),
    }
}

/// The tasks of one `struct rt_prio_array`, by priority, groups in place. `None` if the
/// types are not known, or its first list cannot be read.
fn real_time<'a>(
    kernel: &'a Kernel,
    active: VirtAddr,
    seen: &mut HashSet<u64>,
    depth: usize,
    out: &mut Vec<Waiting<'a>>,
) -> Option<()> {
    let types = kernel.types();
    let queue = types.field("rt_prio_array", "queue")?;
    let link = types.field("sched_rt_entity", "run_list")?;
    let entity_in_task = types.field("task_struct", "rt")?;
    kernel.space().read_u64(active.checked_add(queue.offset)?).ok()?;
    for prio in 0..(queue.size / 16).min(256) {
        let Some(head) = active.checked_add(queue.offset + prio * 16) else { break };
        for entity in List::circular(kernel, head, link.offset, MAX) {
            if seen.len() >= MAX || !seen.insert(entity.0) {
                return Some(());
            }
            let group = Object::new(kernel, "sched_rt_entity", entity).pointer("my_q");
            let group = group.and_then(|group| Object::new(kernel, "rt_rq", group).address("active"));
            match group {
                Some(active) if depth < DEPTH => {
                    real_time(kernel, active, seen, depth + 1, out);
                }
                _ => {
                    let task = VirtAddr(entity.0.wrapping_sub(entity_in_task.offset));
                    out.extend(kernel.tasks().by_address(task).map(|t| waiting(kernel, t)));
                }
            }
        }
    }
    Some(())
}

/// The tasks of one `struct cfs_rq`, leftmost first, groups in place. `None` as above.
fn fair<'a>(
    kernel: &'a Kernel,
    cfs: VirtAddr,
    seen: &mut HashSet<u64>,
    depth: usize,
    out: &mut Vec<Waiting<'a>>,
) -> Option<()> {
    let types = kernel.types();
    let cfs = Object::new(kernel, "cfs_rq", cfs);
    // Since 4.14 the root has its leftmost node beside it (rb_root_cached).
    let member = ["tasks_timeline.rb_root.rb_node", "tasks_timeline.rb_node"]
        .into_iter()
        .find(|m| cfs.number(m).is_some())?;
    let root = cfs.pointer(member);
    let node_in_entity = types.field("sched_entity", "run_node")?;
    let entity_in_task = types.field("task_struct", "se")?;
    for node in RbTree::new(kernel, root, MAX) {
        if seen.len() >= MAX || !seen.insert(node.0) {
            return Some(());
        }
        let entity = node.0.wrapping_sub(node_in_entity.offset);
        let group = Object::new(kernel, "sched_entity", VirtAddr(entity)).pointer("my_q");
        match group {
            Some(group) if depth < DEPTH => {
                fair(kernel, group, seen, depth + 1, out);
            }
            _ => {
                let task = VirtAddr(entity.wrapping_sub(entity_in_task.offset));
                out.extend(kernel.tasks().by_address(task).map(|t| waiting(kernel, t)));
            }
        }
    }
    Some(())
}
