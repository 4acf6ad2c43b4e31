//! Tasks by what they look like, where the kernel's lists of them are broken.
//!
//! All memory that the dump has is gone through, in steps of the alignment of slabs,
//! for a `task_struct`: pids that can be, a leader whose `group_leader` is itself, a name,
//! a stack, references. Freed ones keep their bytes, and are told by a reference count
//! of 0 or by what `release_task()` took away. Sources: `include/linux/sched.h`,
//! `kernel/exit.c`, `kernel/fork.c`.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::tasks::{self, PID_LIMIT, Scanned};
use super::{View, object};
use crate::addr::{PAGE_SIZE, Pfn, PhysAddr, VirtAddr};
use crate::bytes::{u32_at, u64_at};
use crate::debuginfo::Field;
use crate::dump::{PhysicalMemory, Vmcore};
use crate::par;

/// Slabs of `task_struct` are aligned to cache lines at least.
pub(super) const STEP: usize = 64;
pub(super) const PAGE: usize = 4096;
/// Pages that are read at most: 16 GiB.
const MAX_PAGES: u64 = 4 << 20;
/// Pages that are asked for at most: headers can claim any amount of memory.
const MAX_ASKED: u64 = 1 << 28;
/// Tasks that are believed.
const MAX_FOUND: usize = 1 << 20;
/// Pages that a thread takes at once.
const PART: u64 = 4096;
/// How often the way so far is told.
const PROGRESS: Duration = Duration::from_secs(3);
/// `EXIT_DEAD`: nobody waits for it any more (16; 32 before 3.14).
const EXIT_DEAD: u64 = 16;
/// `EXIT_DEAD` and `EXIT_ZOMBIE`: there are no other bits.
const EXIT_BITS: u64 = 16 | 32;

/// Where the members are by which a task is known.
struct Signature {
    pid: Field,
    tgid: Field,
    leader: Field,
    usage: Option<Field>,
    sighand: Option<Field>,
}

impl Signature {
    fn of(view: &View) -> Option<Self> {
        let task = |path| view.types().field("task_struct", path);
        Some(Self {
            pid: view.layout().task.pid,
            tgid: view.layout().task.tgid,
            leader: task("group_leader")?.or_size(8),
            usage: task("usage.refs.counter").or_else(|| task("usage.counter")).map(|f| f.or_size(4)),
            sighand: task("sighand").map(|f| f.or_size(8)),
        })
    }

    /// Bytes from the first of the members that a page is searched by to the end of the last.
    fn span(&self) -> std::ops::Range<u64> {
        let members = [self.pid, self.tgid, self.leader];
        let end = |f: &Field| f.offset.saturating_add(f.size);
        members.iter().map(|f| f.offset).min().unwrap_or(0)..members.iter().map(end).max().unwrap_or(0)
    }

    /// Whether a task at `base` can have these members: `bytes` are of its [`Self::span`].
    fn can_be(&self, base: u64, bytes: &[u8], limit: u64) -> bool {
        let start = self.span().start;
        let at = |f: Field| usize::try_from(f.offset - start).unwrap_or(usize::MAX);
        let (Some(pid), Some(tgid), Some(leader)) =
            (u32_at(bytes, at(self.pid)), u32_at(bytes, at(self.tgid)), u64_at(bytes, at(self.leader)))
        else {
            return false;
        };
        u64::from(pid.max(tgid)) <= PID_LIMIT
            && (leader == base || pid != tgid && leader >= limit && leader % 8 == 0)
    }
}

/// Whether what [`tasks::read`] made of `at` is a task that lives, or a zombie.
fn is_task(view: &View, signature: &Signature, at: VirtAddr) -> bool {
    let Some(task) = tasks::read(view, at) else { return false };
    let number = |f: Field| object::number(view, at.checked_add(f.offset)?, f);
    let l = &view.layout().task;
    let canonical = |f: Field| number(f).is_some_and(|p| p >= view.user_limit().wrapping_neg() && p % 8 == 0);
    let used = signature.usage.is_none_or(|f| number(f).is_some_and(|n| (1..1 << 20).contains(&n)));
    // Taken from a task that is released, before the last reference goes.
    let listed = canonical(l.signal) && signature.sighand.is_none_or(canonical);
    let named = !task.comm.is_empty() && task.comm.len() < 16 && !task.comm.chars().any(char::is_control);
    let idle = task.pid != 0 || task.comm.starts_with("swapper");
    let ids = (task.pid == 0) == (task.tgid == 0);
    let lives = task.exit_state & !EXIT_BITS == 0 && task.exit_state & EXIT_DEAD == 0;
    used && listed && named && idle && ids && lives && canonical(l.real_parent)
}

/// Searches the memory of `dump`, which is mapped in a row from `direct` on.
pub(super) fn scan(view: &View, dump: &Vmcore, direct: VirtAddr) -> Scanned {
    let Some(signature) = Signature::of(view) else { return Scanned::default() };
    tracing::warn!("the kernel's lists of tasks are broken: all memory is searched for tasks");
    let (mut tasks, whole) = over_memory(dump, "tasks", |phys, page, found| {
        search(view, dump, direct, &signature, (phys, page), found);
    });
    tasks.sort_unstable();
    let remark = (!whole).then(|| "memory is too large to be searched for tasks as a whole".to_owned());
    Scanned { tasks, remark }
}

/// What `visit` finds in the pages that `dump` has, each once, and whether those were all. `what`
/// is sought, in words.
pub(super) fn over_memory<T: Send>(
    dump: &Vmcore,
    what: &str,
    visit: impl Fn(PhysAddr, &[u8; PAGE], &mut Vec<T>) + Sync,
) -> (Vec<T>, bool) {
    let mut parts = Vec::new();
    let mut asked = 0;
    for (start, len) in dump.stored_ranges() {
        let (mut first, end) = (start.0 / PAGE_SIZE, start.0.saturating_add(len).div_ceil(PAGE_SIZE));
        while first < end && asked < MAX_ASKED {
            let last = end.min(first + PART);
            asked += last - first;
            parts.push(first..last);
            first = last;
        }
    }
    let (next, pages) = (AtomicUsize::new(0), AtomicU64::new(0));
    let found = Mutex::new(Vec::new());
    par::parts(0..par::threads(), |thread| {
        let mut told = Instant::now();
        let mut page = [0; PAGE];
        while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
            let (mut here, mut read) = (Vec::new(), 0);
            for phys in part.clone().map_while(|pfn| Pfn(pfn).address()) {
                if dump.read_phys(phys, &mut page) == Ok(PAGE) {
                    read += 1;
                    visit(phys, &page, &mut here);
                }
            }
            let all = pages.fetch_add(read, Ordering::Relaxed);
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            found.extend(here);
            if all > MAX_PAGES || found.len() > MAX_FOUND {
                return;
            }
            if thread == 0 && told.elapsed() > PROGRESS {
                told = Instant::now();
                let percent = next.load(Ordering::Relaxed) * 100 / parts.len().max(1);
                tracing::warn!("looking for {what}: {percent}% of memory searched");
            }
        }
    });
    let whole = pages.load(Ordering::Relaxed) <= MAX_PAGES && asked < MAX_ASKED;
    (found.into_inner().unwrap_or_else(PoisonError::into_inner), whole)
}

/// Searches a page.
fn search(
    view: &View,
    dump: &Vmcore,
    direct: VirtAddr,
    signature: &Signature,
    (phys, page): (PhysAddr, &[u8; PAGE]),
    found: &mut Vec<VirtAddr>,
) {
    let (span, limit) = (signature.span(), view.user_limit());
    // And the beginning of the next for members across the border.
    let mut window = [0; 2 * PAGE];
    let (own, next) = window.split_at_mut(PAGE);
    own.copy_from_slice(page);
    let behind = phys.0.checked_add(PAGE_SIZE);
    let more = behind.and_then(|at| dump.read_phys(PhysAddr(at), next).ok()).unwrap_or(0);
    let bytes = window.get(..PAGE + more).unwrap_or_default();
    for at in (span.start % STEP as u64..PAGE_SIZE).step_by(STEP) {
        let base = direct.0.wrapping_add(phys.0).wrapping_add(at).wrapping_sub(span.start);
        let members = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
        if signature.can_be(base, members, limit) && is_task(view, signature, VirtAddr(base)) {
            found.push(VirtAddr(base));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::tests::machine::Machine;

    const TASK: u64 = 0xffff_8880_0100_0000;

    #[test]
    fn what_no_task_can_be_is_none() {
        let holds = |change: &[(&'static str, u64)]| {
            let mut machine = Machine::new();
            machine.member("task_struct", "group_leader", 0xf0, 8);
            machine.task(TASK, 7, "sh");
            for path in ["real_parent", "group_leader"] {
                machine.set(TASK, "task_struct", path, TASK);
            }
            change.iter().for_each(|&(path, value)| machine.set(TASK, "task_struct", path, value));
            let view = machine.view();
            is_task(&view, &Signature::of(&view).unwrap(), VirtAddr(TASK))
        };
        assert!(holds(&[]) && holds(&[("exit_state", 32)]));
        // Seen where a file's table lay: a name, pointers, and numbers that no task has.
        for change in
            [("exit_state", 0xffff_8d43), ("tgid", 0), ("exit_state", EXIT_DEAD), ("real_parent", 1)]
        {
            assert!(!holds(&[change]), "{change:?}");
        }
    }
}
