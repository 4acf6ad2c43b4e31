//! One user process of a vmcore, as a further inferior (`attach PID`): its
//! threads with their user-mode registers, over its own page tables.
//!
//! Which file it runs is told (`/proc/PID/exe`), but not looked for: gdb takes one that
//! the user names (`file PROGRAM` in this inferior), and finds where it lies by the
//! auxiliary vector. Filtered dumps (`makedumpfile -d 31`) hold no user pages at all.

use std::io::{self, Write};
use std::sync::Arc;

use super::description::OsAbi;
use super::task_procfs::Procfs;
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
                core: t.cpu,
                extra: format!("{} cpu {}", t.state, t.cpu_text()),
            })
            .collect();
        let description = Description::new(OsAbi::Linux, &[]);
        Some(Self { kernel: kernel.clone(), description, pid, tasks, infos })
    }

    fn task(&self, tid: Tid) -> Option<&Arc<Task>> {
        self.tasks.iter().find(|t| t.pid == tid)
    }

    fn procfs(&self) -> Option<Procfs<'_>> {
        // The process by its leader, whichever thread was attached to.
        let leader = self.tasks.iter().find(|t| t.pid == t.tgid).or(self.tasks.first())?;
        Procfs::of(&self.kernel, leader, self.tasks.len())
    }

    /// `/proc/PID/NAME`, or `/proc/PID/task/TID/NAME`, of this process.
    fn proc_file<'p>(&self, path: &'p str) -> Option<(Procfs<'_>, &'p str)> {
        let ours = |tid: &str| tid.parse().is_ok_and(|tid| self.task(tid).is_some());
        let name = super::proc_name(path, ours, ours)?;
        Some((self.procfs()?, name))
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
        self.kernel.read_as(task.map(Arc::as_ref), addr, buf).or_else(|fault| {
            // The vDSO's pages come from the kernel's image of it at the first touch.
            let vdso = self.procfs().and_then(|proc| proc.vdso()).ok_or(fault)?;
            let offset = addr.0.checked_sub(vdso.at.start).filter(|_| addr.0 < vdso.at.end).ok_or(fault)?;
            let len = usize::try_from(vdso.at.end - addr.0).unwrap_or(usize::MAX).min(buf.len());
            let from = VirtAddr(vdso.image.0.wrapping_add(offset));
            self.kernel.space().read(from, buf.get_mut(..len).unwrap_or_default()).map_err(|_| fault)
        })
    }

    fn auxv(&self) -> Option<Arc<[u8]>> {
        self.procfs()?.auxv().map(Arc::from)
    }

    fn open_file(&self, path: &str) -> Result<VirtualFile, FileError> {
        let file = self.proc_file(path).and_then(|(proc, name)| proc.file(name));
        file.map(VirtualFile::from_bytes).ok_or(FileError::NotFound)
    }

    fn read_link(&self, path: &str) -> Result<String, FileError> {
        self.proc_file(path).and_then(|(proc, name)| proc.link(name)).ok_or(FileError::NotFound)
    }

    fn monitor(&self, context: &CommandContext<'_>, line: &str, out: &mut dyn Write) -> io::Result<()> {
        let task = context.thread.and_then(|tid| self.task(tid)).map(|t| t.addr);
        commands::monitor(Subject::Kernel(&self.kernel), context, task, line, out)
    }
}
