//! Every task is a thread: ids, order and what `info threads` says.
//!
//! gdb's threads 1..N are what CPUs 0..N-1 were running, so that the kernel's
//! own scripts (`$lx_current()`) and habit hold; then all other tasks by pid.
//! The thread id is the pid. Idle tasks, which share pid 0, get 2^22 + 1 + cpu, and
//! tasks that cannot be read 2^22 + 2^21 + 1 + cpu;
//! a pid met a second time (damaged memory) gets an id above 2^23.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Shown, ThreadInfo, Tid};
use crate::addr::VirtAddr;
use crate::arch::Register;
use crate::linux::registers::{self, Source};
use crate::linux::{Kernel, Task, tasks};

const IDLE: Tid = (1 << 22) + 1;
/// Tasks that are known by their CPU alone.
const UNREAD: Tid = (3 << 21) + 1;
const DUPLICATE: Tid = 1 << 23;

/// The id of a task that no other task shares.
pub(crate) fn id(task: &Task) -> Tid {
    match (task.pid, task.idle_of) {
        _ if task.unread => UNREAD.saturating_add(task.cpu.unwrap_or(0)),
        (0, cpu) => IDLE.saturating_add(cpu.or(task.cpu).unwrap_or(0)),
        (pid, _) => pid,
    }
}

/// The threads of a kernel in gdb's order.
pub(crate) struct Threads {
    pub(crate) infos: Vec<ThreadInfo>,
    pub(crate) tasks: Vec<Arc<Task>>,
    pub(crate) by_id: HashMap<Tid, usize>,
}

impl Threads {
    /// The threads that are shown.
    pub(crate) fn shown(kernel: &Kernel, shown: Shown) -> Self {
        match shown {
            Shown::Tasks => Self::of(kernel),
            Shown::Cpus => Self::of_cpus(kernel),
        }
    }

    /// One for each CPU of which registers are known.
    fn of_cpus(kernel: &Kernel) -> Self {
        let running = kernel.percpu().present().iter().filter_map(|&cpu| tasks::on(kernel, cpu));
        let known = |task: &Task| registers::of(kernel, task).get(Register::Rip).is_some();
        Self::listed(kernel, running.filter(known).map(Arc::new).collect())
    }

    pub(crate) fn of(kernel: &Kernel) -> Self {
        let list = kernel.tasks();
        let mut order: Vec<Arc<Task>> = Vec::with_capacity(list.all().len());
        let mut placed: HashSet<VirtAddr> = HashSet::new();
        for &cpu in kernel.percpu().present() {
            let running = tasks::current(kernel, cpu).and_then(|addr| list.by_address(addr));
            if let Some(task) = running.filter(|t| placed.insert(t.addr)) {
                order.push(task.clone());
            }
        }
        // Idle tasks that were not running go to the end.
        let (idle, rest): (Vec<_>, Vec<_>) =
            list.all().iter().filter(|t| !placed.contains(&t.addr)).partition(|t| t.pid == 0);
        order.extend(rest.into_iter().chain(idle).cloned());
        Self::listed(kernel, order)
    }

    fn listed(kernel: &Kernel, order: Vec<Arc<Task>>) -> Self {
        let panicked = kernel.panic_task().map(|t| t.addr);
        let mut by_id = HashMap::with_capacity(order.len());
        let mut infos = Vec::with_capacity(order.len());
        let mut duplicates = DUPLICATE;
        for (i, task) in order.iter().enumerate() {
            let mut tid = id(task);
            if by_id.contains_key(&tid) {
                duplicates += 1;
                tid = duplicates;
            }
            by_id.insert(tid, i);
            infos.push(ThreadInfo {
                tid,
                name: task.comm.clone(),
                core: task.cpu,
                extra: extra(kernel, task, panicked == Some(task.addr)),
            });
        }
        Self { infos, tasks: order, by_id }
    }
}

/// `S pid 31 tgid 31 cpu 3`, with what is special.
fn extra(kernel: &Kernel, task: &Task, panicked: bool) -> String {
    if task.unread {
        return format!("? cpu {} (its task_struct at {} cannot be read)", task.cpu_text(), task.addr);
    }
    let mut text = format!("{} pid {} tgid {} cpu {}", task.state, task.pid, task.tgid, task.cpu_text());
    if task.kthread {
        text.push_str(" kernel");
    }
    if panicked {
        text.push_str(" PANIC");
    }
    if task.on_cpu {
        text.push_str(" running");
        match registers::of(kernel, task).source {
            Source::PrStatusByPosition => text.push_str(" (registers guessed by position)"),
            Source::Nowhere(_) => text.push_str(" (no registers saved)"),
            _ => {}
        }
    } else if task.stack.0 == 0 {
        text.push_str(" (no stack)");
    }
    text
}
