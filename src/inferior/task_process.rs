//! One user process of a vmcore, as a further inferior (`attach PID`): its
//! threads with their user-mode registers, over its own page tables.
//!
//! Which file it runs is not looked for: gdb takes one that the user names
//! (`file PROGRAM` in this inferior), and finds where it lies by the auxiliary
//! vector. Filtered dumps (`makedumpfile -d 31`) hold no user pages at all.

use std::io::{self, Write};
use std::sync::Arc;

use super::description::OsAbi;
use super::{CommandContext, Description, FileError, Inferior, RegisterFile, ThreadInfo, Tid};
use crate::addr::VirtAddr;
use crate::commands::{self, Subject};
use crate::error::ReadFault;
use crate::image::files::VirtualFile;
use crate::linux::{Kernel, Task, registers};

/// A thread group that has a user side.
pub(super) struct TaskProcess {
    kernel: Arc<Kernel>,
    description: Description,
    pid: u32,
    tasks: Vec<Arc<Task>>,
    infos: Vec<ThreadInfo>,
}

impl TaskProcess {
    /// The process that `pid` belongs to; `None` for kernel threads, zombies and
    /// pids that there are not. It goes by the number that was asked for, be it
    /// that of another thread than the leader: gdb dies of a process (13.1 by an
    /// assertion, 18.1 of a signal) whose number is not the one it attached to.
    pub(super) fn of(kernel: &Arc<Kernel>, pid: u32) -> Option<Self> {
        let tgid = kernel.tasks().by_pid(pid).find(|t| t.mm.is_some())?.tgid;
        let in_group = |t: &&Arc<Task>| t.tgid == tgid && t.mm.is_some() && t.pid != 0;
        let mut tasks: Vec<Arc<Task>> = kernel.tasks().all().iter().filter(in_group).cloned().collect();
        // gdb shows the first thread after attaching.
        tasks.sort_by_key(|t| (t.pid != pid, t.pid != tgid, t.pid));
        let infos = tasks
            .iter()
            .map(|t| ThreadInfo {
                tid: t.pid,
                name: t.comm.clone(),
                core: Some(t.cpu),
                extra: format!("{} cpu {}", t.state, t.cpu),
            })
            .collect();
        let description = Description::new(OsAbi::Linux, &[]);
        Some(Self { kernel: kernel.clone(), description, pid, tasks, infos })
    }

    fn task(&self, tid: Tid) -> Option<&Arc<Task>> {
        self.tasks.iter().find(|t| t.pid == tid)
    }
}

impl Inferior for TaskProcess {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn description(&self) -> &Description {
        &self.description
    }

    fn initial_thread(&self) -> Tid {
        self.infos.first().map_or(self.pid, |t| t.tid)
    }

    fn stop_signal(&self) -> u8 {
        0
    }

    fn threads(&self) -> &[ThreadInfo] {
        &self.infos
    }

    fn registers(&self, tid: Tid) -> Option<RegisterFile> {
        let task = self.task(tid)?;
        let mut file = RegisterFile::unavailable(&self.description);
        if let Some(user) = registers::user(&self.kernel, task) {
            file.set_all(&self.description, "", &user.values);
        }
        Some(file)
    }

    fn read_memory(&self, tid: Tid, addr: VirtAddr, buf: &mut [u8]) -> Result<usize, ReadFault> {
        // A process cannot see the kernel's half.
        if addr.0 >= self.kernel.user_limit() {
            return Err(ReadFault::NoSegment { addr: addr.0 });
        }
        let task = self.task(tid).or(self.tasks.first());
        self.kernel.read_as(task.map(Arc::as_ref), addr, buf)
    }

    fn auxv(&self) -> Option<Arc<[u8]>> {
        let field = self.kernel.types().field("mm_struct", "saved_auxv")?;
        let at = self.tasks.first()?.mm?.checked_add(field.offset)?;
        let len = usize::try_from(field.size).ok().filter(|&n| n <= 4096)?;
        self.kernel.space().read_vec(at, len).ok().map(Arc::from)
    }

    fn open_file(&self, _path: &str) -> Result<VirtualFile, FileError> {
        Err(FileError::NotFound)
    }

    fn monitor(&self, context: &CommandContext<'_>, line: &str, out: &mut dyn Write) -> io::Result<()> {
        let task = context.thread.and_then(|tid| self.task(tid)).map(|t| t.addr);
        commands::monitor(Subject::Kernel(&self.kernel), context, task, line, out)
    }
}
