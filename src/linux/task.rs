//! What is told of one task, however it was found.

use crate::addr::VirtAddr;
use crate::text::or_unknown;

/// One task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Address of its `task_struct`.
    pub addr: VirtAddr,
    /// Its pid (the thread's id); 0 for the idle tasks.
    pub pid: u32,
    /// Its thread group's id: the process.
    pub tgid: u32,
    /// pid of `real_parent`, unless that cannot be read.
    pub ppid: Option<u32>,
    /// Its name.
    pub comm: String,
    /// The letter of /proc/PID/stat: R S D I T t Z X P.
    pub state: char,
    /// The raw `__state`.
    pub raw_state: u64,
    /// `exit_state`.
    pub exit_state: u64,
    /// The CPU it is, or was last, on, if that is known.
    pub cpu: Option<u32>,
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
    /// `thread.usersp`, in kernels that have it: see [`super::registers::user`].
    pub usersp: Option<u64>,
    /// For a CPU's idle task: that CPU.
    pub idle_of: Option<u32>,
    /// By what it was found first.
    pub found_by: FoundBy,
    /// Whether it is known by its CPU alone ([`super::unread`]): pid and the rest are not.
    pub unread: bool,
}

impl Task {
    /// Its pid, if that is known.
    #[must_use]
    pub fn known_pid(&self) -> Option<u32> {
        (!self.unread).then_some(self.pid)
    }

    /// The CPU that it was running on.
    #[must_use]
    pub fn running_on(&self) -> Option<u32> {
        self.cpu.filter(|_| self.on_cpu)
    }

    /// Its CPU for people, `?` if it is not known.
    #[must_use]
    pub fn cpu_text(&self) -> String {
        or_unknown(self.cpu)
    }

    /// Its thread group's id, if that is known.
    #[must_use]
    pub fn known_tgid(&self) -> Option<u32> {
        (!self.unread).then_some(self.tgid)
    }

    /// Its name, if that is known; for people [`Self::comm`] says that it is not.
    #[must_use]
    pub fn known_comm(&self) -> Option<&str> {
        (!self.unread).then_some(&self.comm)
    }

    /// The letter of its state, if that is known.
    #[must_use]
    pub fn known_state(&self) -> Option<char> {
        (!self.unread).then_some(self.state)
    }

    /// Whether it is a kernel thread, if that is known.
    #[must_use]
    pub fn known_kthread(&self) -> Option<bool> {
        (!self.unread).then_some(self.kthread)
    }

    /// Its pid for people, `?` if it is not known.
    #[must_use]
    pub fn pid_text(&self) -> String {
        or_unknown(self.known_pid())
    }
}

/// What tells of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FoundBy {
    /// `rq->curr` and `rq->idle` of a CPU.
    RunQueue,
    /// The per-CPU variables `current_task` and `idle_threads`: the run queue is lost.
    PerCpu,
    /// The map of pids, or the hash that it was.
    PidMap,
    /// The list of thread group leaders.
    TaskList,
    /// Its thread group's list.
    ThreadGroup,
    /// Its parent's list of children: both of the kernel's lists are broken.
    Children,
    /// What it looks like: all memory was searched.
    Scan,
}

impl FoundBy {
    /// The words in JSON and in remarks.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::RunQueue => "run queue",
            Self::PerCpu => "per-CPU variable",
            Self::PidMap => "pid map",
            Self::TaskList => "task list",
            Self::ThreadGroup => "thread group",
            Self::Children => "parent's children",
            Self::Scan => "search of memory",
        }
    }
}
