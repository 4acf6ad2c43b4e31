//! A kernel dump as gdb sees it: every task a thread of one inferior.

use std::io::{self, Write};
use std::sync::{Arc, OnceLock};

use super::images::{self, Images};
use super::osdata;
use super::task_process::TaskProcess;
use super::{
    CommandContext, Description, FileError, Inferior, RegisterFile, ThreadInfo, Tid,
    description::{Extra, OsAbi},
};
use crate::addr::{PhysAddr, VirtAddr};
use crate::commands::{self, Subject};
use crate::error::ReadFault;
use crate::image::files::VirtualFile;
use crate::linux::{Kernel, Task, registers, tasks};
use crate::session::Shown;
use crate::session::threads::{self, Threads};

/// Above every pid, so that it collides with no task's.
pub const KERNEL_PID: u32 = 5 << 20;

/// The kernel inferior.
pub struct KernelInferior {
    kernel: Arc<Kernel>,
    shown: Shown,
    description: Description,
    first: OnceLock<Option<Arc<Task>>>,
    threads: OnceLock<Threads>,
    images: OnceLock<Images>,
}

impl KernelInferior {
    /// Shows `kernel` to gdb.
    #[must_use]
    pub fn new(kernel: Arc<Kernel>, shown: Shown) -> Self {
        Self {
            kernel,
            shown,
            description: Description::new(OsAbi::None, &[Extra::System, Extra::User]),
            first: OnceLock::new(),
            threads: OnceLock::new(),
            images: OnceLock::new(),
        }
    }

    /// The task to show first: the one that panicked, else the first CPU's.
    fn first(&self) -> Option<&Arc<Task>> {
        self.first
            .get_or_init(|| {
                let kernel = &self.kernel;
                kernel
                    .panic_task()
                    .cloned()
                    .or_else(|| tasks::on(kernel, *kernel.percpu().online().first()?).map(Arc::new))
            })
            .as_ref()
    }

    fn all(&self) -> &Threads {
        self.threads.get_or_init(|| Threads::shown(&self.kernel, self.shown))
    }

    fn images(&self) -> &Images {
        self.images.get_or_init(|| Images::new(&self.kernel))
    }

    /// The task behind a thread id. The one shown first needs no list.
    fn task(&self, tid: Tid) -> Option<&Arc<Task>> {
        if let Some(first) = self.first().filter(|t| threads::id(t) == tid) {
            return Some(first);
        }
        let all = self.all();
        all.tasks.get(*all.by_id.get(&tid)?)
    }
}

impl Inferior for KernelInferior {
    fn pid(&self) -> u32 {
        KERNEL_PID
    }

    fn description(&self) -> &Description {
        &self.description
    }

    fn initial_thread(&self) -> Tid {
        match self.first() {
            Some(task) => threads::id(task),
            None => self.all().infos.first().map_or(1, |t| t.tid),
        }
    }

    fn stop_signal(&self) -> u8 {
        // A kernel has no signal to report: none is claimed.
        0
    }

    fn threads(&self) -> &[ThreadInfo] {
        &self.all().infos
    }

    fn thread_exists(&self, tid: Tid) -> bool {
        self.task(tid).is_some()
    }

    fn registers(&self, tid: Tid) -> Option<RegisterFile> {
        let task = self.task(tid)?;
        let mut file = RegisterFile::unavailable(&self.description);
        let d = &self.description;
        file.set_all(d, "", &registers::with_system(&self.kernel, task).values);
        file.set_u64(d, "task", task.addr.0);
        if let Some(cpu) = task.cpu {
            file.set_u64(d, "cpu", cpu.into());
        }
        if let Some(user) = registers::user(&self.kernel, task) {
            file.set_all(d, "user_", &user.values);
        }
        Some(file)
    }

    fn read_memory(&self, tid: Tid, addr: VirtAddr, buf: &mut [u8]) -> Result<usize, ReadFault> {
        let task = if addr.0 < self.kernel.user_limit() { self.task(tid) } else { None };
        self.kernel.read_as(task.map(Arc::as_ref), addr, buf)
    }

    fn read_physical(&self, addr: u64, buf: &mut [u8]) -> Result<usize, ReadFault> {
        let memory = self.kernel.tables().memory();
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|r| !r.is_empty()) {
            match memory.read_phys(PhysAddr(addr.wrapping_add(done as u64)), rest) {
                Ok(n) if n > 0 => done += n,
                Err(fault) if done == 0 => return Err(fault),
                _ => break,
            }
        }
        Ok(done)
    }

    fn text_segment(&self) -> Option<VirtAddr> {
        Some(self.kernel.text_start())
    }

    fn slide(&self) -> Option<u64> {
        Some(self.kernel.kaslr_offset())
    }

    fn vmcoreinfo(&self) -> Option<Arc<str>> {
        Some(self.kernel.vmcoreinfo().text().into())
    }

    fn osdata(&self, table: &str) -> Option<Arc<str>> {
        osdata::table(&self.kernel, table).map(Into::into)
    }

    fn exec_file(&self) -> Option<String> {
        Some(images::EXEC.to_owned())
    }

    fn libraries(&self) -> Option<Arc<str>> {
        Some(self.images().libraries())
    }

    fn libraries_and_main(&self) -> Option<Arc<str>> {
        Some(self.images().libraries_and_main())
    }

    fn has_whole_libraries(&self) -> bool {
        true
    }

    fn whole_libraries(&self) -> Option<Arc<str>> {
        Some(self.images().whole_libraries())
    }

    fn is_types(&self, path: &str) -> bool {
        path == images::TYPES
    }

    fn whole_image(&self, path: &str) -> Option<String> {
        images::whole_image(&self.kernel, path)
    }

    /// Asked at connect: does not make the images, which takes longer than all else.
    fn has_libraries(&self) -> bool {
        true
    }

    fn open_file(&self, path: &str) -> Result<VirtualFile, FileError> {
        self.images().open(&self.kernel, path)
    }

    fn attach(&self, pid: u32) -> Option<Arc<dyn Inferior>> {
        TaskProcess::of(&self.kernel, pid).map(|p| Arc::new(p) as Arc<dyn Inferior>)
    }

    fn monitor(&self, context: &CommandContext<'_>, line: &str, out: &mut dyn Write) -> io::Result<()> {
        let task = context.thread.and_then(|tid| self.task(tid)).map(|t| t.addr);
        commands::monitor(Subject::Kernel(&self.kernel), context, task, line, out)
    }
}
