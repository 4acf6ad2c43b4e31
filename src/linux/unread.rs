//! A CPU whose current task is not in the dump, or damaged: the CPU's registers and its
//! stack are there all the same, and are shown as a task without a name.
//!
//! makedumpfile up to 1.7.8 does so to a third of all tasks from 7.1 on: it takes the tail
//! pages of compound pages, and with them most of each slab, for free ones.

use super::View;
use super::task::{FoundBy, Task};
use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::error::ReadFault;

/// What stands for the name. No kernel's task has a name of that length.
pub(crate) const NAME: &str = "(task not readable)";

/// The task at `at`, of which nothing is known but that `cpu` was running it.
pub(super) fn on_cpu(view: &View, cpu: u32, at: VirtAddr, found_by: FoundBy) -> Task {
    Task {
        addr: at,
        pid: 0,
        tgid: 0,
        ppid: None,
        comm: NAME.to_owned(),
        state: '?',
        raw_state: 0,
        exit_state: 0,
        cpu: Some(cpu),
        on_cpu: true,
        kthread: false,
        mm: None,
        stack: VirtAddr(stack(view, cpu).unwrap_or(0)),
        sp: 0,
        usersp: None,
        idle_of: None,
        found_by,
        unread: true,
    }
}

/// The stack of what `cpu` runs, by the pointer to its top: a variable since 4.0, from 6.2
/// to 6.14 a member of `pcpu_hot`.
fn stack(view: &View, cpu: u32) -> Option<u64> {
    let word = |name: &str, offset: u64| {
        let at = view.percpu().address(view.symbol(name)?, cpu)?.checked_add(offset)?;
        view.space().read_u64(at).ok().filter(|&top| top >= view.user_limit())
    };
    let hot = view.types().field("pcpu_hot", "top_of_stack");
    let top = word("cpu_current_top_of_stack", 0).or_else(|| word("pcpu_hot", hot?.offset))?;
    // FRED leaves some room above it.
    top.checked_next_multiple_of(PAGE_SIZE)?.checked_sub(view.thread_size())
}

/// Why the `task_struct` at `at` cannot be read.
pub(super) fn why(view: &View, at: VirtAddr) -> String {
    fault(view, at).map_or_else(|| "it is no task".to_owned(), |fault| fault.to_string())
}

/// The first of its members that is not in the dump.
fn fault(view: &View, at: VirtAddr) -> Option<ReadFault> {
    let task = &view.layout().task;
    let members = [task.pid, task.tgid, task.comm, task.stack, task.state, task.exit_state, task.mm, task.sp];
    members.iter().map(|f| f.offset).chain([0]).find_map(|offset| {
        let at = at.checked_add(offset)?;
        view.space().read_exact(at, &mut [0; 4]).err()
    })
}

/// What is to be said of `lost` elements that were not read as tasks.
pub(super) fn remark(view: &View, lost: impl Iterator<Item = VirtAddr>) -> Option<String> {
    if !view.layout().version.needs_tails_of_compound_pages() {
        return None;
    }
    let filtered = lost.filter(|&at| matches!(fault(view, at), Some(ReadFault::Excluded { .. }))).count();
    (filtered > 0).then(|| {
        format!(
            "{filtered} task_structs lie in slab pages that the dump's filter left out: makedumpfile up to 1.7.8 \
             does not know the compound pages of this kernel, a newer one does"
        )
    })
}
