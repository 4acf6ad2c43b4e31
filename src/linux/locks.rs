//! Who waits for which lock, and who holds it.
//!
//! A task that waits for a mutex, a rw_semaphore or a semaphore has a waiter on its own
//! stack, in a list with the others', and the lock is where that list begins. All three
//! begin alike: `struct list_head`, then the task. So the waiter is found by the task's
//! own address, and proves itself: its neighbours point back to it.
//!
//! | kernel | where the list begins |
//! |---|---|
//! | until 6.x | `wait_list` in the lock, one more link of the circle |
//! | 7.x | `first_waiter` in the lock: the circle is of waiters alone, and the lock is the one among the stack's words that points into it |
//!
//! The owner of a mutex has flags in its three lowest bits (4.10 and later), that of a
//! rw_semaphore too; with the lowest set it is the last of the readers that took it
//! (`RWSEM_READER_OWNED`), who may have left. Sources: `kernel/locking/mutex.c`, `rwsem.c`.

use super::object::Object;
use super::{Kernel, Task};
use crate::addr::VirtAddr;
use crate::bytes::u64_at;

/// Waiters of one lock that are looked at.
const MAX_WAITERS: usize = 1 << 16;
/// Bytes of a stack that are searched.
const MAX_STACK: u64 = 64 << 10;
/// Links of a chain of owners.
const MAX_CHAIN: usize = 64;
/// `MUTEX_FLAGS`, and those of a rw_semaphore's owner.
const OWNER_FLAGS: u64 = 7;
const READERS: u64 = 1;

/// What kind of lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Mutex,
    Rwsem,
    Semaphore,
}

impl Kind {
    /// The kernel's words.
    #[must_use]
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Mutex => "mutex",
            Self::Rwsem => "rw_semaphore",
            Self::Semaphore => "semaphore",
        }
    }

    fn types(self) -> (&'static str, &'static str) {
        match self {
            Self::Mutex => ("mutex", "mutex_waiter"),
            Self::Rwsem => ("rw_semaphore", "rwsem_waiter"),
            Self::Semaphore => ("semaphore", "semaphore_waiter"),
        }
    }

    /// By the functions that the task sleeps in.
    #[must_use]
    pub(crate) fn of_functions<'n>(names: impl IntoIterator<Item = &'n str>) -> Option<Self> {
        names.into_iter().take(8).find_map(|name| {
            if name.contains("rt_mutex") {
                None
            } else if name.contains("mutex_lock") {
                Some(Self::Mutex)
            } else if name.contains("rwsem_down")
                || name.starts_with("down_read")
                || name.starts_with("down_write")
            {
                Some(Self::Rwsem)
            } else if name.starts_with("__down") || name == "down" {
                Some(Self::Semaphore)
            } else {
                None
            }
        })
    }
}

/// Who has a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// This `task_struct`.
    Task(VirtAddr),
    /// Readers; the last that came, as far as that is told.
    Readers(Option<VirtAddr>),
    /// Nobody, or it is not kept (semaphores).
    Unknown,
}

/// A task's wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wait {
    pub(crate) kind: Kind,
    pub(crate) lock: VirtAddr,
    pub(crate) owner: Owner,
    /// How many wait for it.
    pub(crate) waiters: usize,
}

/// What `task`, which sleeps in a function of `kind`, waits for.
#[must_use]
pub(crate) fn wait(kernel: &Kernel, task: &Task, kind: Kind) -> Option<Wait> {
    if task.on_cpu || task.stack.0 == 0 {
        return None;
    }
    let top = task.stack.0.checked_add(kernel.thread_size())?;
    let start = task.sp & !7;
    let len = top.checked_sub(start).filter(|len| *len <= MAX_STACK)?;
    let mut bytes = vec![0; usize::try_from(len).ok()?];
    let read = kernel.space().read(VirtAddr(start), &mut bytes).ok()?;
    bytes.truncate(read);
    let words = || (0..bytes.len() / 8).filter_map(|i| Some((start + i as u64 * 8, u64_at(&bytes, i * 8)?)));
    let (lock_type, waiter_type) = kind.types();
    let (list, owned) =
        (kernel.types().field(waiter_type, "list")?, kernel.types().field(waiter_type, "task")?);
    let mine = words().filter(|(_, word)| *word == task.addr.0);
    let circles =
        mine.filter_map(|(at, _)| circle(kernel, at.wrapping_sub(owned.offset).wrapping_add(list.offset)));
    for links in circles {
        let lock = match kernel.types().field(lock_type, "wait_list") {
            Some(head) => links
                .iter()
                .find(|link| kernel.memory().stack_of(kernel, **link).is_none())
                .and_then(|link| Some(VirtAddr(link.0.checked_sub(head.offset)?))),
            None => {
                let first = kernel.types().field(lock_type, "first_waiter")?;
                let points = |lock: u64| {
                    let at = VirtAddr(lock).checked_add(first.offset)?;
                    let waiter = kernel.space().read_u64(at).ok()?;
                    links
                        .iter()
                        .any(|link| link.0 == waiter.wrapping_add(list.offset))
                        .then_some(VirtAddr(lock))
                };
                words().filter(|(_, word)| *word >= kernel.user_limit()).find_map(|(_, word)| points(word))
            }
        };
        if let Some(lock) = lock {
            let heads = usize::from(kernel.types().field(lock_type, "wait_list").is_some());
            let waiters = links.len() - heads;
            return Some(Wait { kind, lock, owner: owner(kernel, kind, lock), waiters });
        }
    }
    None
}

/// The links of the circle through `link`, if it is one.
fn circle(kernel: &Kernel, link: u64) -> Option<Vec<VirtAddr>> {
    let read = |at: u64| kernel.space().read_u64(VirtAddr(at)).ok();
    let mut links = vec![VirtAddr(link)];
    let mut at = link;
    while links.len() <= MAX_WAITERS {
        let next = read(at)?;
        if read(next.checked_add(8)?)? != at {
            return None;
        }
        if next == link {
            return Some(links);
        }
        links.push(VirtAddr(next));
        at = next;
    }
    None
}

fn owner(kernel: &Kernel, kind: Kind, lock: VirtAddr) -> Owner {
    let lock = Object::new(kernel, kind.types().0, lock);
    let Some(word) = lock.number("owner.counter").or_else(|| lock.number("owner")) else {
        return Owner::Unknown;
    };
    let task = kernel.tasks().by_address(VirtAddr(word & !OWNER_FLAGS)).map(|t| t.addr);
    match (kind, task) {
        (Kind::Rwsem, _) if word & READERS != 0 => Owner::Readers(task),
        (_, Some(task)) => Owner::Task(task),
        (_, None) => Owner::Unknown,
    }
}

/// The tasks that hold up the one at `first`, one behind the other, by `holds_up`; and
/// whether the last of them leads back into the chain.
#[must_use]
pub(crate) fn chain(
    first: VirtAddr,
    mut holds_up: impl FnMut(VirtAddr) -> Option<VirtAddr>,
) -> (Vec<VirtAddr>, bool) {
    let mut chain = vec![first];
    while chain.len() < MAX_CHAIN {
        let Some(next) = chain.last().and_then(|last| holds_up(*last)) else { return (chain, false) };
        let known = chain.contains(&next);
        chain.push(next);
        if known {
            return (chain, true);
        }
    }
    (chain, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_end_and_cycles_are_told() {
        let by = |owners: &'static [(u64, u64)]| {
            move |at: VirtAddr| owners.iter().find(|(a, _)| *a == at.0).map(|(_, b)| VirtAddr(*b))
        };
        let of = |owners| {
            let (chain, cycle) = chain(VirtAddr(1), by(owners));
            (chain.into_iter().map(|a| a.0).collect::<Vec<_>>(), cycle)
        };
        assert_eq!(of(&[]), (vec![1], false));
        assert_eq!(of(&[(1, 2), (2, 3)]), (vec![1, 2, 3], false));
        assert_eq!(of(&[(1, 2), (2, 1)]), (vec![1, 2, 1], true));
        assert_eq!(
            of(&[(1, 2), (2, 3), (3, 2)]),
            (vec![1, 2, 3, 2], true),
            "it waits for a deadlock of others"
        );
        let (long, cycle) = chain(VirtAddr(1), |at| Some(VirtAddr(at.0 + 1)));
        assert_eq!((long.len(), cycle), (MAX_CHAIN, false));
    }

    #[test]
    fn a_kind_is_told_by_the_functions() {
        let of = |names: &[&str]| Kind::of_functions(names.iter().copied());
        assert_eq!(of(&["__schedule", "schedule", "__mutex_lock.constprop.0", "f"]), Some(Kind::Mutex));
        assert_eq!(of(&["__schedule", "rwsem_down_read_slowpath"]), Some(Kind::Rwsem));
        assert_eq!(of(&["schedule_timeout", "__down_common", "down"]), Some(Kind::Semaphore));
        assert_eq!(of(&["schedule", "io_schedule"]), None);
    }
}
