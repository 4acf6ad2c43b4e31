//! Which tasks a command is about: by pid, task address or name.

use std::sync::Arc;

use super::{CommandError, Context, Result};
use crate::addr::VirtAddr;
use crate::linux::{Kernel, Panicked, Task, tasks};
use crate::number;

/// The tasks that a word names: a pid in decimal, the address of a
/// `task_struct` in hexadecimal, or a command name. A name matches exactly, or
/// as a whole where it is quoted with `"`.
pub(super) fn by_word<'k>(kernel: &'k Kernel, word: &str) -> Vec<&'k Arc<Task>> {
    let list = kernel.tasks();
    if let Ok(pid) = word.parse::<u32>() {
        let found: Vec<_> = list.by_pid(pid).collect();
        if !found.is_empty() {
            return found;
        }
    }
    if let Some(task) = number::address(word).and_then(|addr| list.by_address(VirtAddr(addr))) {
        return vec![task];
    }
    let name = word.trim_matches('"');
    list.all().iter().filter(|t| t.comm == name).collect()
}

/// The tasks that several words name; a word that names none is an error.
pub(super) fn by_words<'k>(kernel: &'k Kernel, words: &[String]) -> Result<Vec<&'k Arc<Task>>> {
    let mut out: Vec<&Arc<Task>> = Vec::new();
    for word in words {
        let found = by_word(kernel, word);
        if found.is_empty() {
            return Err(CommandError::Failed(format!(
                "{word} is no pid, task address or command name of this dump"
            )));
        }
        for task in found {
            if !out.iter().any(|t| t.addr == task.addr) {
                out.push(task);
            }
        }
    }
    Ok(out)
}

/// The task to show: the one that panicked, and if none did what the first CPU was running.
pub(super) fn shown(kernel: &Kernel) -> Option<&Task> {
    match kernel.panicked() {
        Panicked::Task(task) | Panicked::Reported(task, _) => Some(task),
        Panicked::Unreadable(_) => None,
        Panicked::Nobody => first(kernel).map(AsRef::as_ref),
    }
}

/// The task that is selected: gdb's, else the one that panicked, else what CPU
/// 0 was running.
pub(super) fn current<'k>(kernel: &'k Kernel, context: Context<'_>) -> Result<&'k Task> {
    if let Some(task) = context.task.and_then(|addr| kernel.tasks().by_address(addr)) {
        return Ok(task);
    }
    let selected = match kernel.panicked() {
        Panicked::Task(task) | Panicked::Reported(task, _) => Some(task),
        Panicked::Nobody => kernel.tasks().all().iter().find(|t| t.on_cpu),
        Panicked::Unreadable(why) => {
            return Err(CommandError::Failed(format!(
                "who panicked is not known ({why}); name a task by pid"
            )));
        }
    };
    selected.map(AsRef::as_ref).ok_or_else(|| CommandError::failed("no task is selected; name one by pid"))
}

/// The tasks that words name, without words the selected one.
pub(super) fn or_current<'k>(
    kernel: &'k Kernel,
    context: Context<'_>,
    words: &[String],
) -> Result<Vec<&'k Task>> {
    if words.is_empty() {
        return Ok(vec![current(kernel, context)?]);
    }
    Ok(by_words(kernel, words)?.into_iter().map(AsRef::as_ref).collect())
}

/// All tasks, or those of [`or_current`].
pub(super) fn all_or_current<'k>(
    kernel: &'k Kernel,
    context: Context<'_>,
    all: bool,
    words: &[String],
) -> Result<Vec<&'k Task>> {
    if all {
        return Ok(kernel.tasks().all().iter().map(AsRef::as_ref).collect());
    }
    or_current(kernel, context, words)
}

/// The task that `cpu` was running.
fn on(kernel: &Kernel, cpu: u32) -> Option<&Arc<Task>> {
    kernel.tasks().by_address(tasks::current(kernel, cpu)?)
}

/// What the first CPU was running; never another's in its place.
pub(super) fn first(kernel: &Kernel) -> Option<&Arc<Task>> {
    on(kernel, *kernel.percpu().present().first()?)
}

/// The tasks that the CPUs were running, by CPU.
pub(super) fn active(kernel: &Kernel) -> Vec<&Arc<Task>> {
    kernel.percpu().present().iter().filter_map(|&cpu| on(kernel, cpu)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::tests::machine::Machine;

    const AT: u64 = 0xffff_8880_0100_0000;

    /// The machine did not crash. `sys` showed what the next CPU was running.
    #[test]
    fn another_cpus_task_does_not_stand_for_that_of_the_first() {
        let kernel = |lost: bool| {
            let mut machine = Machine::new();
            for (name, offset) in
                [("nr_cpu_ids", 0), ("__per_cpu_offset", 8), ("__cpu_online_mask", 24), ("runqueues", 0x100)]
            {
                machine.symbol(name, AT + offset);
            }
            [2, 0, 0x1000, 3].into_iter().zip(0..).for_each(|(word, i)| machine.word(AT + i * 8, word));
            for cpu in 0..2 {
                let (queue, task) = (AT + 0x100 + cpu * 0x1000, AT + 0x10_0000 + cpu * 0x1000);
                machine.task(task, 70 + u32::try_from(cpu).unwrap(), "sh");
                machine.set(task, "task_struct", "cpu", cpu);
                machine.set(queue, "rq", "curr", task);
                machine.set(queue, "rq", "idle", task);
            }
            if lost {
                machine.forget(AT + 0x100, 0x100);
            }
            machine.kernel()
        };
        let pids = |kernel: &Kernel| active(kernel).iter().map(|t| t.pid).collect::<Vec<_>>();
        let (sound, lost) = (kernel(false), kernel(true));
        assert_eq!((first(&sound).map(|t| t.pid), pids(&sound)), (Some(70), vec![70, 71]));
        assert_eq!((first(&lost).map(|t| t.pid), pids(&lost)), (None, vec![71]));
    }
}
