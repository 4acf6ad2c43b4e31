//! All tasks of the dump: the union of three sources that may each be damaged.
//!
//! * each CPU's current and idle task (`runqueues`);
//! * the pid map of the initial namespace (`init_pid_ns.idr`, a radix tree that
//!   became the xarray in 4.20);
//! * the list of thread group leaders (`init_task.tasks`) with their groups.
//!
//! An element that does not look like a task is skipped and counted; a walk ends
//! where it comes back to its start, meets something twice, or at its bound.
//! Sources: `include/linux/sched.h`, `kernel/pid.c`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::list::{Broken, List};
use super::xarray::XArray;
use super::{View, object};
use crate::addr::VirtAddr;
use crate::bytes::cstr;
use crate::debuginfo::Field;
use crate::par;

/// More tasks than this are not believed (`PID_MAX_LIMIT` is 2^22).
const MAX_TASKS: usize = 1 << 22;
const PF_KTHREAD: u64 = 0x0020_0000;
/// Steps along all lists of threads together: groups are disjoint, but damaged ones
/// can share a tail.
const MAX_STEPS: usize = 2 * MAX_TASKS;
/// Remarks that are kept; a damaged dump could have one for each task.
const MAX_REMARKS: usize = 64;
/// No pid reaches this.
const PID_LIMIT: u64 = 1 << 22;

/// One task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Address of its `task_struct`.
    pub addr: VirtAddr,
    /// Its pid (the thread's id); 0 for the idle tasks.
    pub pid: u32,
    /// Its thread group's id: the process.
    pub tgid: u32,
    /// pid of `real_parent`.
    pub ppid: u32,
    /// Its name.
    pub comm: String,
    /// The letter of /proc/PID/stat: R S D I T t Z X P.
    pub state: char,
    /// The raw `__state`.
    pub raw_state: u64,
    /// `exit_state`.
    pub exit_state: u64,
    /// The CPU it is, or was last, on.
    pub cpu: u32,
    /// Whether it was running on that CPU.
    pub on_cpu: bool,
    /// Whether it is a kernel thread.
    pub kthread: bool,
    /// Its `mm_struct`, `None` for kernel threads.
    pub mm: Option<VirtAddr>,
    /// Lowest address of its kernel stack; 0 once that was freed.
    pub stack: VirtAddr,
    /// `thread.sp`.
    pub sp: u64,
    /// For a CPU's idle task: that CPU.
    pub idle_of: Option<u32>,
}

/// The tasks, each once, and what was met on the way.
#[derive(Debug, Default)]
pub struct TaskList {
    tasks: Vec<Arc<Task>>,
    by_addr: HashMap<u64, usize>,
    /// Elements that were skipped because they do not look like tasks, or
    /// could not be read.
    pub skipped: usize,
    /// What was wrong with the sources, in words.
    pub remarks: Vec<String>,
}

impl TaskList {
    /// In the order: idle tasks by CPU, then by pid.
    #[must_use]
    pub fn all(&self) -> &[Arc<Task>] {
        &self.tasks
    }

    /// The task whose `task_struct` is at `addr`.
    #[must_use]
    pub fn by_address(&self, addr: VirtAddr) -> Option<&Arc<Task>> {
        self.tasks.get(*self.by_addr.get(&addr.0)?)
    }

    /// The tasks with this pid: one, unless memory is damaged or it is 0.
    pub fn by_pid(&self, pid: u32) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.iter().filter(move |t| t.pid == pid)
    }
}

/// `rq->curr` or `rq->idle` of a CPU.
fn runqueue_task(view: &View, cpu: u32, field: Field) -> Option<VirtAddr> {
    let rq = view.percpu().address(view.symbol("runqueues")?, cpu)?;
    view.space().read_u64(rq.checked_add(field.offset)?).ok().filter(|&a| a != 0).map(VirtAddr)
}

/// The task that `cpu` was running.
#[must_use]
pub fn current(view: &View, cpu: u32) -> Option<VirtAddr> {
    runqueue_task(view, cpu, view.layout().rq_curr)
}

/// The CPU that panicked: `panic_cpu`, else `crashing_cpu`.
#[must_use]
pub fn panic_cpu(view: &View) -> Option<u32> {
    ["panic_cpu", "crashing_cpu"].iter().find_map(|name| {
        let n = view.space().read_u32(view.symbol(name)?).ok()?;
        view.percpu().online().contains(&n).then_some(n)
    })
}

/// The task on the CPU that panicked.
pub(super) fn panicked(view: &View) -> Option<Task> {
    let cpu = panic_cpu(view)?;
    let mut task = read(view, current(view, cpu)?)?;
    task.idle_of = (runqueue_task(view, cpu, view.layout().rq_idle) == Some(task.addr)).then_some(cpu);
    Some(task)
}

/// Reads a member of the structure at `base`.
fn field(view: &View, base: VirtAddr, field: Field) -> Option<u64> {
    object::number(view, base.checked_add(field.offset)?, field)
}

/// The task whose `task_struct` is at `addr`; `None` if what lies there is not
/// readable or not a task.
#[must_use]
pub fn read(view: &View, addr: VirtAddr) -> Option<Task> {
    let layout = view.layout();
    let l = &layout.task;
    if addr.0 < view.user_limit() || !addr.0.is_multiple_of(8) {
        return None;
    }
    let number = |f: Field| field(view, addr, f);
    let pid = number(l.pid)?;
    let tgid = number(l.tgid)?;
    if pid > PID_LIMIT || tgid > PID_LIMIT {
        return None;
    }
    let mut comm = [0; 16];
    view.space().read_exact(addr.checked_add(l.comm.offset)?, &mut comm).ok()?;
    let stack = number(l.stack)?;
    if stack != 0 && (stack < view.user_limit() || !stack.is_multiple_of(4096)) {
        return None;
    }
    let (raw_state, exit_state) = (number(l.state)?, number(l.exit_state)?);
    let mm = number(l.mm)?;
    let ppid = number(l.real_parent)
        .filter(|&p| p >= view.user_limit())
        .and_then(|parent| field(view, VirtAddr(parent), l.pid));
    let cpu = match l.cpu {
        Some(f) => number(f)?,
        // Before 4.9 thread_info lies at the bottom of the stack.
        None => view
            .types()
            .field("thread_info", "cpu")
            .and_then(|f| field(view, VirtAddr(stack), f))
            .unwrap_or(0),
    };
    let cpu = u32::try_from(cpu).ok().filter(|&c| (c as usize) < view.percpu().len().max(1))?;
    let on_cpu = match l.on_cpu {
        Some(f) => number(f)? != 0,
        None => current(view, cpu) == Some(addr),
    };
    Some(Task {
        addr,
        pid: u32::try_from(pid).ok()?,
        tgid: u32::try_from(tgid).ok()?,
        ppid: u32::try_from(ppid.unwrap_or(0)).unwrap_or(0),
        comm: cstr(&comm).into_owned(),
        state: layout.version.state_char(raw_state, exit_state),
        raw_state,
        exit_state,
        cpu,
        on_cpu,
        kthread: number(l.flags)? & PF_KTHREAD != 0,
        mm: (mm >= view.user_limit()).then_some(VirtAddr(mm)),
        stack: VirtAddr(stack),
        sp: number(l.sp)?,
        idle_of: None,
    })
}

/// Collects all tasks.
pub(super) fn collect(view: &View) -> TaskList {
    let mut found = Found::default();
    let mut idle = HashMap::new();
    for &cpu in view.percpu().online() {
        if let Some(addr) = runqueue_task(view, cpu, view.layout().rq_idle) {
            idle.insert(addr.0, cpu);
            found.add(addr);
        }
        if let Some(addr) = current(view, cpu) {
            found.add(addr);
        }
    }
    pid_map(view, &mut found);
    task_list(view, &mut found);

    let tasks = read_all(view, &found.addrs);
    let mut list = TaskList { remarks: found.remarks, ..TaskList::default() };
    list.skipped = found.addrs.len() - tasks.len() + found.stray;
    list.tasks = tasks
        .into_iter()
        .map(|mut t| {
            t.idle_of = idle.get(&t.addr.0).copied();
            Arc::new(t)
        })
        .collect();
    list.tasks.sort_by_key(|t| (t.idle_of.is_none(), t.idle_of, t.pid, t.addr));
    list.by_addr = list.tasks.iter().enumerate().map(|(i, t)| (t.addr.0, i)).collect();
    if list.skipped > 0 {
        tracing::warn!("{} elements of the task lists are not tasks, or not in the dump", list.skipped);
    }
    list
}

/// Reads the tasks at `addrs`, on two or more threads where that pays: what
/// takes time is the decompression of their pages.
fn read_all(view: &View, addrs: &[VirtAddr]) -> Vec<Task> {
    let part = addrs.len().div_ceil(par::threads()).max(256);
    std::thread::scope(|scope| {
        let parts: Vec<_> = addrs
            .chunks(part)
            .map(|chunk| scope.spawn(move || chunk.iter().filter_map(|&a| read(view, a)).collect::<Vec<_>>()))
            .collect();
        parts.into_iter().flat_map(|p| p.join().unwrap_or_default()).collect()
    })
}

#[derive(Default)]
struct Found {
    addrs: Vec<VirtAddr>,
    seen: HashSet<u64>,
    /// Pids whose first task is nowhere that a task can be.
    stray: usize,
    remarks: Vec<String>,
}

impl Found {
    fn add(&mut self, addr: VirtAddr) {
        if self.addrs.len() < MAX_TASKS && self.seen.insert(addr.0) {
            self.addrs.push(addr);
        }
    }

    fn remark(&mut self, what: String) {
        if self.remarks.len() < MAX_REMARKS {
            self.remarks.push(what);
        }
    }
}

/// Walks `init_pid_ns.idr`.
fn pid_map(view: &View, found: &mut Found) {
    let l = view.layout();
    let (Some(ns), Some(head), Some(xarray), Some(tasks), Some(link)) =
        (view.symbol("init_pid_ns"), l.pid_map_head, l.xarray, l.pid_tasks, l.task.pid_link)
    else {
        return;
    };
    let Some(root) = field(view, ns, head) else {
        found.remark("the pid map's root is not in the dump".to_owned());
        return;
    };
    let mut map = XArray::new(view, xarray, root);
    for (_, entry) in map.by_ref().filter(|(_, entry)| entry & 3 == 0) {
        // A `struct pid`: the first task on its list of type PIDTYPE_PID.
        let Some(head) = VirtAddr(entry).checked_add(tasks.offset) else { continue };
        let mut with_pid = List::chain(view, head, link.offset, 1);
        match (with_pid.next(), with_pid.broken()) {
            (Some(task), _) => found.add(task),
            (None, Some(Broken::Stray(..))) => found.stray += 1,
            _ => {}
        }
    }
    for node in &map.again {
        found.remark(format!("the pid map comes back to its node {node}"));
    }
    if map.unread > 0 {
        found.remark(format!("{} nodes of the pid map are damaged or not in the dump", map.unread));
    }
}

/// Walks `init_task.tasks` and each leader's thread group.
fn task_list(view: &View, found: &mut Found) {
    let l = view.layout();
    let Some(init) = view.symbol("init_task") else { return };
    let Some(head) = init.checked_add(l.task.tasks.offset) else { return };
    let mut steps = MAX_STEPS;
    let mut follow = |head, link: Field| {
        let mut list = List::circular(view, head, link.offset, steps);
        let elements: Vec<_> = list.by_ref().collect();
        steps = list.steps_left();
        (elements, list.broken())
    };
    let (leaders, broken) = follow(head, l.task.tasks);
    if let Some(why) = broken {
        found.remark(format!("task list: {why}"));
    }
    for leader in leaders {
        found.add(leader);
        let group = match (l.thread_head, l.task.thread_node, l.task.thread_group) {
            (Some(thread_head), Some(node), _) => field(view, leader, l.task.signal)
                .and_then(|signal| VirtAddr(signal).checked_add(thread_head.offset))
                .zip(Some(node)),
            (_, _, Some(link)) => leader.checked_add(link.offset).zip(Some(link)),
            _ => None,
        };
        let Some((head, link)) = group else { continue };
        let (threads, broken) = follow(head, link);
        for thread in threads {
            found.add(thread);
        }
        if let Some(why) = broken {
            found.remark(format!("thread group of {leader}: {why}"));
        }
    }
}
