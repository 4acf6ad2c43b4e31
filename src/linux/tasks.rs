//! All tasks of the dump: the union of sources that may each be damaged.
//!
//! * each CPU's current and idle task (`runqueues`, else the per-CPU variables
//!   `current_task` and `idle_threads`);
//! * the pid map of the initial namespace (`init_pid_ns.idr`, a radix tree that
//!   became the xarray in 4.20; before 4.15 the hash of [`mod@pid_hash`]);
//! * the list of thread group leaders (`init_task.tasks`) with their groups;
//! * where neither of these two is whole, the children of the tasks that were found,
//!   and at last all memory, searched for what looks like a task ([`super::task_scan`]).
//!
//! An element that does not look like a task is skipped and counted; a walk ends
//! where it comes back to its start, meets something twice, or at its bound.
//! Sources: `include/linux/sched.h`, `kernel/pid.c`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::list::{self, Broken, List};
use super::task::{FoundBy, Task};
use super::xarray::XArray;
use super::{View, object, pid_hash, unread};
use crate::addr::VirtAddr;
use crate::bytes::cstr;
use crate::debuginfo::Field;
use crate::par;

/// More tasks than this are not believed (`PID_MAX_LIMIT` is 2^22).
const MAX_TASKS: usize = 1 << 22;
pub(super) const PF_KTHREAD: u64 = 0x0020_0000;
/// Steps along all lists of threads together: groups are disjoint, but damaged ones
/// can share a tail.
const MAX_STEPS: usize = 2 * MAX_TASKS;
/// Remarks that are kept; a damaged dump could have one for each task.
const MAX_REMARKS: usize = 64;
/// No pid reaches this.
pub(super) const PID_LIMIT: u64 = 1 << 22;

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
        self.tasks.iter().filter(move |t| t.pid == pid && !t.unread)
    }

    /// The task that says itself that it was running on `cpu`, if it is the only one.
    pub(super) fn running_on(&self, cpu: u32) -> Option<Arc<Task>> {
        let mut all = self.tasks.iter().filter(|t| t.running_on() == Some(cpu));
        all.next().filter(|_| all.next().is_none()).cloned()
    }
}

/// `rq->curr` or `rq->idle` of a CPU.
fn runqueue_task(view: &View, cpu: u32, field: Option<Field>) -> Option<VirtAddr> {
    let field = field?;
    let rq = view.percpu().address(view.symbol("runqueues")?, cpu)?;
    view.space().read_u64(rq.checked_add(field.offset)?).ok().filter(|&a| a != 0).map(VirtAddr)
}

/// The pointer to a task in a CPU's copy of a variable.
fn percpu_task(view: &View, cpu: u32, symbol: &str, offset: u64) -> Option<VirtAddr> {
    let at = view.percpu().address(view.symbol(symbol)?, cpu)?.checked_add(offset)?;
    view.space().read_u64(at).ok().filter(|&a| a >= view.user_limit()).map(VirtAddr)
}

/// What `cpu` was running, and what tells that.
fn running(view: &View, cpu: u32) -> Option<(VirtAddr, FoundBy)> {
    let by_queue = runqueue_task(view, cpu, view.layout().rq_curr).map(|at| (at, FoundBy::RunQueue));
    by_queue.or_else(|| {
        // A member of pcpu_hot from 6.2 to 6.14, a variable before and after.
        let hot = view.types().field("pcpu_hot", "current_task");
        let at = hot
            .and_then(|f| percpu_task(view, cpu, "pcpu_hot", f.offset))
            .or_else(|| percpu_task(view, cpu, "current_task", 0));
        at.map(|at| (at, FoundBy::PerCpu))
    })
}

/// The idle task of `cpu`, and what tells that.
fn idle(view: &View, cpu: u32) -> Option<(VirtAddr, FoundBy)> {
    let by_queue = runqueue_task(view, cpu, view.layout().rq_idle).map(|at| (at, FoundBy::RunQueue));
    by_queue.or_else(|| percpu_task(view, cpu, "idle_threads", 0).map(|at| (at, FoundBy::PerCpu)))
}

/// The task that `cpu` was running.
#[must_use]
pub fn current(view: &View, cpu: u32) -> Option<VirtAddr> {
    running(view, cpu).map(|(at, _)| at)
}

/// The task that `cpu` was running.
#[must_use]
pub fn on(view: &View, cpu: u32) -> Option<Task> {
    let mut task = read(view, current(view, cpu)?)?;
    task.idle_of = (task.pid == 0).then_some(cpu);
    Some(task)
}

/// Who panicked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Panicked {
    /// Nobody: the machine was running.
    Nobody,
    /// This task.
    Task(Arc<Task>),
    /// This task by the log, and why nothing else tells.
    Reported(Arc<Task>, String),
    /// Somebody of whom not enough is in the dump, and why.
    Unreadable(String),
}

/// What `panic_cpu` holds as long as nobody panicked (`include/linux/panic.h`).
const PANIC_CPU_INVALID: u32 = u32::MAX;

/// The task on the CPU that panicked (`panic_cpu`, else `crashing_cpu`, which starts as 0 in
/// kernels that distributions gave the first, 3.10 of RHEL 7.3); `listed` finds the one that says itself that it ran
/// there.
pub(super) fn panicked(view: &View, listed: impl FnOnce(u32) -> Option<Arc<Task>>) -> Panicked {
    let mut unread = None;
    let mut number = |name: &str| {
        let Some(at) = view.symbol(name) else {
            if view.symbols().lacks_names() {
                unread = Some(format!("the name {name} is lost"));
            }
            return None;
        };
        let n = view.space().read_u32(at);
        n.inspect_err(|fault| unread = Some(format!("{name} cannot be read: {fault}"))).ok()
    };
    let can_be = |n: &u32| view.percpu().can_be(*n);
    let cpu = match number("panic_cpu") {
        Some(PANIC_CPU_INVALID) => return Panicked::Nobody,
        first => first.filter(can_be).or_else(|| number("crashing_cpu").filter(can_be)),
    };
    let Some(cpu) = cpu else { return unread.map_or(Panicked::Nobody, Panicked::Unreadable) };
    let Some((at, found_by)) = running(view, cpu) else {
        let why = || {
            format!(
                "CPU {cpu} panicked, its run queue is not in the dump, and no task says that it was there"
            )
        };
        return listed(cpu).map_or_else(|| Panicked::Unreadable(why()), Panicked::Task);
    };
    match read(view, at) {
        Some(mut task) => {
            task.idle_of = idle(view, cpu).is_some_and(|(i, _)| i == at).then_some(cpu);
            task.found_by = found_by;
            Panicked::Task(Arc::new(task))
        }
        None => Panicked::Task(Arc::new(unread::on_cpu(view, cpu, at, found_by))),
    }
}

/// Reads a member of the structure at `base`.
fn field(view: &View, base: VirtAddr, field: Field) -> Option<u64> {
    object::number(view, base.checked_add(field.offset)?, field)
}

/// The CPU of the task at `addr` where `task_struct` does not tell it.
fn last_cpu(view: &View, addr: VirtAddr, stack: u64) -> Option<u32> {
    // Before 4.9 thread_info lies at the bottom of the stack.
    let on_stack = view
        .types()
        .field("thread_info", "cpu")
        .filter(|_| !view.layout().version.has_thread_info_in_task())
        .and_then(|f| field(view, VirtAddr(stack), f))
        .and_then(|cpu| u32::try_from(cpu).ok())
        .filter(|&cpu| view.percpu().can_be(cpu));
    on_stack.or_else(|| view.percpu().present().iter().copied().find(|&cpu| current(view, cpu) == Some(addr)))
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
        .and_then(|parent| field(view, VirtAddr(parent), l.pid))
        .filter(|&ppid| ppid <= PID_LIMIT);
    let cpu = match l.cpu {
        Some(f) => Some(u32::try_from(number(f)?).ok().filter(|&c| view.percpu().can_be(c))?),
        None => last_cpu(view, addr, stack),
    };
    let on_cpu = match l.on_cpu {
        Some(f) => number(f)? != 0,
        None => cpu.is_some_and(|cpu| current(view, cpu) == Some(addr)),
    };
    Some(Task {
        addr,
        pid: u32::try_from(pid).ok()?,
        tgid: u32::try_from(tgid).ok()?,
        ppid: ppid.and_then(|p| u32::try_from(p).ok()),
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
        usersp: l.usersp.and_then(number),
        idle_of: None,
        found_by: FoundBy::Scan,
        unread: false,
    })
}

/// What a search of memory found.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    pub(super) tasks: Vec<VirtAddr>,
    /// What was not searched.
    pub(super) remark: Option<String>,
}

/// The tasks that lists and trees lead to, without a search of memory.
#[must_use]
pub fn listed(view: &View) -> TaskList {
    collect(view, &|_| Scanned::default())
}

/// Collects all tasks. `scan` searches memory for more.
pub(super) fn collect(view: &View, scan: &dyn Fn(&View) -> Scanned) -> TaskList {
    let mut found = Found::default();
    let mut idle_of = HashMap::new();
    let mut on_cpus = Vec::new();
    for &cpu in view.percpu().present() {
        let (idle, current) = (idle(view, cpu), running(view, cpu));
        if let Some((addr, by)) = idle {
            idle_of.insert(addr.0, cpu);
            found.add(addr, by);
        }
        if let Some((addr, by)) = current {
            found.add(addr, by);
            on_cpus.push((cpu, addr, by));
        }
        match (idle, current) {
            (Some(_), Some((_, FoundBy::RunQueue))) => {}
            // It may never have run.
            (None, None) if !view.percpu().online().contains(&cpu) => {}
            (_, Some(_)) => found.remark(format!("the run queue of CPU {cpu} cannot be read")),
            _ => found.remark(format!("the run queue of CPU {cpu} cannot be read, nor what it was running")),
        }
    }
    let pids_whole = pid_map(view, &mut found) || pid_hash(view, &mut found);
    let list_whole = task_list(view, &mut found);
    let mut tasks = read_all(view, &found.addrs);
    if !pids_whole && !list_whole {
        children(view, &mut found, &mut tasks);
        let known = found.addrs.len();
        let scanned = scan(view);
        scanned.tasks.into_iter().for_each(|at| found.add(at, FoundBy::Scan));
        tasks.extend(read_all(view, found.addrs.get(known..).unwrap_or_default()));
        found.remarks.extend(scanned.remark);
        let count = |by| tasks.iter().filter(|t| t.found_by == by).count();
        let (by_parent, by_scan) = (count(FoundBy::Children), count(FoundBy::Scan));
        if by_parent + by_scan > 0 {
            found.remark(format!(
                "of {} tasks {by_parent} were found as children and {by_scan} by a search of memory; \
                 where a page is lost there may have been more",
                tasks.len()
            ));
        }
    }

    let read: HashSet<VirtAddr> = tasks.iter().map(|t| t.addr).collect();
    for &(cpu, at, by) in on_cpus.iter().filter(|(_, at, _)| !read.contains(at)) {
        found.remark(format!("the task on CPU {cpu} is at {at}: {}", unread::why(view, at)));
        tasks.push(unread::on_cpu(view, cpu, at, by));
    }
    let lost = found.addrs.iter().map(|(at, _)| *at).filter(|at| !read.contains(at));
    found.remarks.extend(unread::remark(view, lost));

    let mut list = TaskList { remarks: found.remarks, ..TaskList::default() };
    list.skipped = found.addrs.len() - read.len() + found.stray;
    list.tasks = tasks
        .into_iter()
        .map(|mut t| {
            t.idle_of = idle_of.get(&t.addr.0).copied();
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
fn read_all(view: &View, addrs: &[(VirtAddr, FoundBy)]) -> Vec<Task> {
    let part = addrs.len().div_ceil(par::threads()).max(256);
    let read = |&(at, found_by): &(VirtAddr, FoundBy)| Some(Task { found_by, ..read(view, at)? });
    par::parts(addrs.chunks(part), |chunk| chunk.iter().filter_map(read).collect::<Vec<_>>()).concat()
}

#[derive(Default)]
struct Found {
    addrs: Vec<(VirtAddr, FoundBy)>,
    seen: HashSet<u64>,
    /// Pids whose first task is nowhere that a task can be.
    stray: usize,
    remarks: Vec<String>,
}

impl Found {
    fn add(&mut self, addr: VirtAddr, by: FoundBy) {
        if self.addrs.len() < MAX_TASKS && self.seen.insert(addr.0) {
            self.addrs.push((addr, by));
        }
    }

    /// Adds the first task on the list of type `PIDTYPE_PID` of a `struct pid`; whether
    /// that list can be read.
    fn add_of_pid(&mut self, view: &View, pid: VirtAddr, tasks: Field, link: Field) -> bool {
        let Some(head) = pid.checked_add(tasks.offset) else { return true };
        let mut with_pid = List::chain(view, head, link.offset, 1);
        match (with_pid.next(), with_pid.broken()) {
            (Some(task), _) => self.add(task, FoundBy::PidMap),
            (None, Some(Broken::Stray(..))) => self.stray += 1,
            (None, Some(_)) => return false,
            (None, None) => {}
        }
        true
    }

    fn remark(&mut self, what: String) {
        if self.remarks.len() < MAX_REMARKS {
            self.remarks.push(what);
        }
    }
}

/// The children of `tasks`, and theirs.
fn children(view: &View, found: &mut Found, tasks: &mut Vec<Task>) {
    let types = view.types();
    let (Some(head), Some(link)) =
        (types.field("task_struct", "children"), types.field("task_struct", "sibling"))
    else {
        return;
    };
    let (mut steps, mut next) = (MAX_STEPS, 0);
    while next < tasks.len() {
        let known = found.addrs.len();
        for task in tasks.get(next..).unwrap_or_default() {
            let Some(head) = task.addr.checked_add(head.offset) else { continue };
            let walked = list::both_ways(view, head, link.offset, steps);
            steps = walked.steps;
            walked.elements.into_iter().for_each(|at| found.add(at, FoundBy::Children));
        }
        next = tasks.len();
        tasks.extend(read_all(view, found.addrs.get(known..).unwrap_or_default()));
    }
}

/// Walks `init_pid_ns.idr`; whether it is whole.
fn pid_map(view: &View, found: &mut Found) -> bool {
    let l = view.layout();
    let (Some(ns), Some(head), Some(xarray), Some(tasks), Some(link)) =
        (view.symbol("init_pid_ns"), l.pid_map_head, l.xarray, l.pid_tasks, l.task.pid_link)
    else {
        return false;
    };
    let Some(root) = field(view, ns, head) else {
        found.remark("the pid map's root is not in the dump".to_owned());
        return false;
    };
    let mut map = XArray::new(view, xarray, root);
    let mut lost = 0;
    for (_, entry) in map.by_ref().filter(|(_, entry)| entry & 3 == 0) {
        lost += usize::from(!found.add_of_pid(view, VirtAddr(entry), tasks, link));
    }
    if lost > 0 {
        found.remark(format!("{lost} pids of the pid map are not in the dump"));
    }
    for node in &map.again {
        found.remark(format!("the pid map comes back to its node {node}"));
    }
    if map.unread > 0 {
        found.remark(format!("{} nodes of the pid map are damaged or not in the dump", map.unread));
    }
    lost + map.unread + map.again.len() + found.stray == 0
}

/// Walks `pid_hash`, of which the pid map took the place; whether it is there and whole.
fn pid_hash(view: &View, found: &mut Found) -> bool {
    let l = view.layout();
    let (Some(tasks), Some(link)) = (l.pid_tasks, l.task.pid_link) else { return false };
    let mut lost = 0;
    let broken = pid_hash::walk(view, MAX_STEPS, |pid| {
        lost += usize::from(!found.add_of_pid(view, pid, tasks, link));
    });
    if let Some(chains) = broken.filter(|&n| n > 0) {
        found.remark(format!("{chains} chains of the pid hash are damaged or not whole in the dump"));
    }
    if lost > 0 {
        found.remark(format!("{lost} pids of the pid hash are not in the dump"));
    }
    broken == Some(0) && lost + found.stray == 0
}

/// Walks `init_task.tasks` and each leader's thread group; whether they are whole.
fn task_list(view: &View, found: &mut Found) -> bool {
    let l = view.layout();
    let Some(init) = view.symbol("init_task") else { return false };
    let Some(head) = init.checked_add(l.task.tasks.offset) else { return false };
    found.add(init, FoundBy::TaskList);
    let leaders = list::both_ways(view, head, l.task.tasks.offset, MAX_STEPS);
    let (mut steps, mut whole) = (leaders.steps, leaders.broken.is_none());
    if let Some(why) = leaders.broken {
        found.remark(format!("task list: {why}"));
    }
    let (mut broken, mut first) = (0usize, None);
    for leader in leaders.elements {
        found.add(leader, FoundBy::TaskList);
        let group = match (l.thread_head, l.task.thread_node, l.task.thread_group) {
            (Some(thread_head), Some(node), _) => field(view, leader, l.task.signal)
                .and_then(|signal| VirtAddr(signal).checked_add(thread_head.offset))
                .zip(Some(node)),
            (_, _, Some(link)) => leader.checked_add(link.offset).zip(Some(link)),
            _ => None,
        };
        let Some((head, link)) = group else {
            whole = false;
            continue;
        };
        let threads = list::both_ways(view, head, link.offset, steps);
        steps = threads.steps;
        threads.elements.into_iter().for_each(|thread| found.add(thread, FoundBy::ThreadGroup));
        if let Some(why) = threads.broken {
            broken += 1;
            first.get_or_insert_with(|| format!("thread group of {leader}: {why}"));
        }
    }
    match first {
        Some(first) if broken > 1 => found.remark(format!("{first} (and {} thread groups more)", broken - 1)),
        Some(first) => found.remark(first),
        None => {}
    }
    whole && broken == 0
}
