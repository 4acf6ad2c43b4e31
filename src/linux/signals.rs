//! Signals of a task: what it does about each, which it blocks, and which wait for it.
//!
//! The actions are those of the whole process, and a signal waits for all of its threads or for one.
//! Of some that wait (SIGKILL, and what came while memory was short) the kernel keeps the bit alone,
//! not who sent it. Sources: `include/linux/sched/signal.h`, `signal_types.h`, `kernel/signal.c`.

use super::View;
use super::list::List;
use super::object::Object;
use crate::addr::VirtAddr;

/// `_NSIG`.
pub(crate) const SIGNALS: u32 = 64;
/// Entries of queues that are looked at; `RLIMIT_SIGPENDING` bounds them for each user, at some 4,000 for each GiB.
pub(crate) const MOST: usize = 1 << 18;
/// What is read of a `siginfo_t`: its head and the members that say who sent it, or where.
const INFO: usize = 32;

/// `struct k_sigaction` of one signal.
pub(crate) struct Action {
    pub(crate) signal: u32,
    pub(crate) at: VirtAddr,
    /// 0 is `SIG_DFL`, 1 `SIG_IGN`.
    pub(crate) handler: u64,
    pub(crate) mask: u64,
    pub(crate) flags: u64,
}

/// What a task does about each signal; nothing once it has ended.
pub(crate) struct Actions {
    pub(crate) list: Vec<Action>,
    /// Why some are missing.
    pub(crate) lost: Option<String>,
}

/// Those of the task at `task`.
#[must_use]
pub(crate) fn actions(view: &View, task: VirtAddr) -> Actions {
    let mut found = Actions { list: Vec::new(), lost: None };
    if let Err(why) = found.fill(view, task) {
        found.lost = Some(why);
    }
    found
}

impl Actions {
    fn fill(&mut self, view: &View, task: VirtAddr) -> Result<(), String> {
        let handlers = Object::new(view, "task_struct", task).address("sighand");
        let handlers = handlers.ok_or_else(|| unknown("task_struct"))?;
        let handlers = view.space().read_u64(handlers).map_err(|fault| fault.to_string())?;
        if handlers == 0 {
            return Ok(());
        }
        let all = Object::new(view, "sighand_struct", VirtAddr(handlers));
        let array = all.field("action").map(|array| (array.offset, array.size / u64::from(SIGNALS)));
        let (first, size) = array.filter(|&(_, size)| size > 0).ok_or_else(|| unknown("sighand_struct"))?;
        for (signal, i) in (1..=SIGNALS).zip(0..) {
            match Action::read(view, signal, VirtAddr(handlers.wrapping_add(first + i * size))) {
                Ok(action) => self.list.push(action),
                Err(why) => _ = self.lost.get_or_insert(why),
            }
        }
        Ok(())
    }
}

impl Action {
    fn read(view: &View, signal: u32, at: VirtAddr) -> Result<Self, String> {
        let action = Object::new(view, "k_sigaction", at);
        let members = ["sa.sa_handler", "sa.sa_mask", "sa.sa_flags"].map(|member| action.number(member));
        let [Some(handler), Some(mask), Some(flags)] = members else {
            let fault = view.space().read_u64(at).err();
            return Err(fault.map_or_else(|| unknown("k_sigaction"), |fault| fault.to_string()));
        };
        Ok(Self { signal, at, handler, mask, flags })
    }
}

fn unknown(ty: &str) -> String {
    format!("the layout of struct {ty} is not known")
}

/// Signals that wait, those of a thread or of its process.
pub(crate) struct Pending {
    /// Signal 1 is bit 0.
    pub(crate) set: Option<u64>,
    /// The head of the queue.
    list: Option<VirtAddr>,
}

/// What is known of those in a set.
pub(crate) struct Queue {
    pub(crate) list: Vec<Queued>,
    /// Why it is not whole.
    pub(crate) broken: Option<String>,
}

/// One that was queued.
pub(crate) struct Queued {
    /// Its `siginfo_t`.
    pub(crate) at: VirtAddr,
    pub(crate) info: Option<[u8; INFO]>,
}

/// The signals of one task.
pub(crate) struct Signals {
    pub(crate) signal_struct: Option<VirtAddr>,
    pub(crate) threads: Option<u64>,
    pub(crate) blocked: Option<u64>,
    pub(crate) private: Pending,
    pub(crate) shared: Pending,
}

/// Which signals wait for `task`.
#[must_use]
pub(crate) fn of(view: &View, task: VirtAddr) -> Signals {
    let task = Object::new(view, "task_struct", task);
    let process = task.follow("signal", "signal_struct");
    Signals {
        signal_struct: process.map(|process| process.base),
        threads: process.and_then(|process| process.number("nr_threads")),
        blocked: task.number("blocked"),
        private: Pending::read(Some(task), "pending"),
        shared: Pending::read(process, "shared_pending"),
    }
}

impl Pending {
    fn read(owner: Option<Object<'_>>, member: &str) -> Self {
        let at = owner.and_then(|owner| Some((owner.view(), owner.address(member)?)));
        let all = at.map(|(view, at)| Object::new(view, "sigpending", at));
        Self { set: all.and_then(|all| all.number("signal")), list: all.and_then(|all| all.address("list")) }
    }

    /// Of each who sent it, or why, as far as the kernel knows; `left` entries at most, and so many less after it.
    pub(crate) fn queue(&self, view: &View, left: &mut usize) -> Queue {
        let mut queue = Queue { list: Vec::new(), broken: None };
        let member = |name| view.types().field("sigqueue", name).map(|field| field.offset);
        let (Some(head), Some(link), Some(info)) = (self.list, member("list"), member("info")) else {
            queue.broken = Some(unknown("sigqueue"));
            return queue;
        };
        let mut list = List::circular(view, head, link, *left);
        queue.list.extend(list.by_ref().map(|entry| {
            let at = VirtAddr(entry.0.wrapping_add(info));
            let mut raw = [0; INFO];
            Queued { at, info: view.space().read_exact(at, &mut raw).is_ok().then_some(raw) }
        }));
        queue.broken = list.broken().map(|why| why.to_string());
        *left = list.steps_left();
        queue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::tests::machine::Machine;

    const TASK: u64 = 0xffff_8880_0100_0000;
    const PROCESS: u64 = TASK + 0x2000;
    const HANDLERS: u64 = TASK + 0x3000;
    const ENTRY: u64 = TASK + 0x4000;

    /// A task for whose process SIGTERM waits, sent by process 77.
    fn machine() -> Machine {
        let mut m = Machine::new();
        for (ty, path, offset, size) in [
            ("task_struct", "sighand", 0x100, 8),
            ("task_struct", "blocked", 0x108, 8),
            ("task_struct", "pending", 0x110, 24),
            ("signal_struct", "nr_threads", 0x08, 4),
            ("signal_struct", "shared_pending", 0x40, 24),
            ("sigpending", "list", 0x00, 16),
            ("sigpending", "signal", 0x10, 8),
            ("sigqueue", "list", 0x00, 16),
            ("sigqueue", "info", 0x18, 48),
            ("sighand_struct", "action", 0x10, 64 * 32),
            ("k_sigaction", "sa.sa_handler", 0x00, 8),
            ("k_sigaction", "sa.sa_flags", 0x08, 8),
            ("k_sigaction", "sa.sa_mask", 0x18, 8),
        ] {
            m.member(ty, path, offset, size);
        }
        m.task(TASK, 5, "sh");
        for (member, value) in [("signal", PROCESS), ("sighand", HANDLERS), ("blocked", 1 << 14)] {
            m.set(TASK, "task_struct", member, value);
        }
        m.set(PROCESS, "signal_struct", "nr_threads", 1);
        let [own, shared] =
            [m.at(TASK, "task_struct", "pending"), m.at(PROCESS, "signal_struct", "shared_pending")];
        m.circle(own, &[]);
        m.set(own, "sigpending", "signal", 1 << 8);
        m.circle(shared, &[ENTRY]);
        m.set(shared, "sigpending", "signal", 1 << 14);
        for (at, value) in [(0x18, 15), (0x20, 0), (0x28, 77), (0x30, 0)] {
            m.word(ENTRY + at, value);
        }
        let actions = m.at(HANDLERS, "sighand_struct", "action");
        (0..64 * 4).for_each(|i| m.word(actions + i * 8, 0));
        m.word(actions + 2 * 32, 1);
        m
    }

    /// The first byte of each entry, and whether there were more.
    fn queue(view: &View, pending: &Pending) -> (Vec<Option<u8>>, bool) {
        let queue = pending.queue(view, &mut 8);
        (queue.list.iter().map(|q| q.info.map(|info| info[0])).collect(), queue.broken.is_some())
    }

    #[test]
    fn what_waits_is_told_as_far_as_it_can_be_read() {
        let view = machine().view();
        let signals = of(&view, VirtAddr(TASK));
        assert_eq!((signals.signal_struct, signals.threads), (Some(VirtAddr(PROCESS)), Some(1)));
        assert_eq!((signals.blocked, signals.private.set), (Some(1 << 14), Some(1 << 8)));
        // SIGKILL has no entry.
        assert_eq!(queue(&view, &signals.private), (vec![], false));
        assert_eq!(queue(&view, &signals.shared), (vec![Some(15)], false));
        assert_eq!(signals.shared.queue(&view, &mut 8).list[0].at, VirtAddr(ENTRY + 0x18));

        let mut machine = machine();
        machine.forget(ENTRY + 0x10, 0x40);
        let view = machine.view();
        assert_eq!(queue(&view, &of(&view, VirtAddr(TASK)).shared), (vec![None], false));
    }

    #[test]
    fn a_queue_that_leads_astray_is_said_to_be_broken() {
        let mut lost = machine();
        lost.forget(ENTRY, 0x10);
        let view = lost.view();
        assert!(queue(&view, &of(&view, VirtAddr(TASK)).shared).1);
        let mut lost = machine();
        lost.forget(PROCESS, 0x100);
        let view = lost.view();
        let shared = of(&view, VirtAddr(TASK)).shared;
        assert_eq!((shared.set, queue(&view, &shared)), (None, (vec![], true)));
    }

    /// Many threads share one long queue.
    #[test]
    fn entries_are_counted_over_all_queues() {
        let view = machine().view();
        let shared = of(&view, VirtAddr(TASK)).shared;
        let mut left = 3;
        let whole = |queue: Queue| queue.broken.is_none();
        assert!(whole(shared.queue(&view, &mut left)) && left < 3);
        left = 0;
        assert!(!whole(shared.queue(&view, &mut left)));
    }

    #[test]
    fn a_task_that_has_ended_has_no_handlers() {
        let view = machine().view();
        let all = actions(&view, VirtAddr(TASK));
        let set: Vec<_> = all.list.iter().filter(|a| a.handler != 0).map(|a| a.signal).collect();
        assert_eq!((all.list.len(), set, all.lost), (64, vec![3], None));

        let mut ended = machine();
        ended.set(TASK, "task_struct", "sighand", 0);
        let all = actions(&ended.view(), VirtAddr(TASK));
        assert_eq!((all.list.len(), all.lost), (0, None));
    }

    #[test]
    fn of_handlers_that_cannot_be_read_the_reason_is_told() {
        let mut lost = machine();
        lost.forget(HANDLERS + 0x10, 32);
        let all = actions(&lost.view(), VirtAddr(TASK));
        assert_eq!((all.list.len(), all.list[0].signal, all.lost.is_some()), (63, 2, true));
        let mut lost = machine();
        lost.lose_member("task_struct", "sighand");
        let why = actions(&lost.view(), VirtAddr(TASK)).lost.unwrap();
        assert_eq!(why, "the layout of struct task_struct is not known");
    }
}
