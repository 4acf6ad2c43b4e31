//! What gdb can be shown: [`Inferior`], the border between the protocol and the
//! kernel or process behind it.
//!
//! Everything here is `&self`: an inferior is an immutable snapshot shared by
//! all clients. What one client has selected comes in as an argument.

use std::io::{self, Write};
use std::sync::Arc;

use crate::addr::VirtAddr;
use crate::error::ReadFault;
use crate::image::files::VirtualFile;

mod core_registers;
pub mod description;
mod images;
pub mod kernel;
mod osdata;
pub mod process;
mod task_process;
mod task_procfs;

pub use description::{Description, RegisterFile};

pub use crate::session::{CommandContext, ThreadInfo, Tid};

/// Why a file cannot be opened by a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileError {
    /// No such file is announced (ENOENT).
    NotFound,
    /// It is announced, but may not or cannot be read (EACCES).
    Denied,
}

/// `NAME` of `/proc/PID/NAME`, or of `/proc/PID/task/TID/NAME`, which is the same file for all
/// threads here: of the process and of a thread that are ours.
fn proc_name(
    path: &str,
    process: impl FnOnce(&str) -> bool,
    thread: impl FnOnce(&str) -> bool,
) -> Option<&str> {
    let (_, name) = path.strip_prefix("/proc/")?.split_once('/').filter(|(pid, _)| process(pid))?;
    match name.strip_prefix("task/") {
        Some(rest) => rest.split_once('/').filter(|(tid, _)| thread(tid)).map(|(_, name)| name),
        None => Some(name),
    }
}

/// A stopped, immutable target.
pub trait Inferior: Send + Sync {
    /// The protocol's process id. A kernel uses a number above 2^22 so that it
    /// cannot collide with a task's pid.
    fn pid(&self) -> u32;

    /// Layout of the register file, and the target.xml that announces it.
    fn description(&self) -> &Description;

    /// The thread to select at connect: the one that crashed. Cheap: it must
    /// not need the list of all threads.
    fn initial_thread(&self) -> Tid;

    /// The signal `?` reports (the Linux number, the same in gdb for the common
    /// ones): 0 claims none.
    fn stop_signal(&self) -> u8;

    /// All threads in gdb's order. Made at first use.
    fn threads(&self) -> &[ThreadInfo];

    /// Whether `tid` exists. Cheap where it can be: gdb asks often.
    fn thread_exists(&self, tid: Tid) -> bool {
        tid == self.initial_thread() || self.threads().iter().any(|t| t.tid == tid)
    }

    /// The registers of a thread, or `None` if there is no such thread. What
    /// the dump does not hold is unavailable in the register file.
    fn registers(&self, tid: Tid) -> Option<RegisterFile>;

    /// Reads memory as the thread sees it: as much of `buf` as is readable.
    fn read_memory(&self, tid: Tid, addr: VirtAddr, buf: &mut [u8]) -> Result<usize, ReadFault>;

    /// Reads physical memory, where there is such a thing.
    fn read_physical(&self, addr: u64, _buf: &mut [u8]) -> Result<usize, ReadFault> {
        Err(ReadFault::NoMemory { phys: addr })
    }

    /// Name of the main image, to be opened by [`Inferior::open_file`].
    fn exec_file(&self) -> Option<String> {
        None
    }

    /// The `<library-list>` document of `qXfer:libraries`.
    fn libraries(&self) -> Option<Arc<str>> {
        None
    }

    /// The same for a client that has the main image's name, but perhaps not its
    /// symbols: that image is among them.
    fn libraries_and_main(&self) -> Option<Arc<str>> {
        self.libraries()
    }

    /// Whether [`Inferior::libraries`] will give a document. Asked at connect:
    /// an inferior whose list takes time to make answers this without it.
    fn has_libraries(&self) -> bool {
        self.libraries().is_some()
    }

    /// Whether [`Inferior::libraries_svr4`] will give a document.
    fn has_libraries_svr4(&self) -> bool {
        self.libraries_svr4().is_some()
    }

    /// The `<library-list-svr4>` document of `qXfer:libraries-svr4`.
    fn libraries_svr4(&self) -> Option<Arc<str>> {
        None
    }

    /// Run-time address of the first PT_LOAD of the main image, for a client
    /// that loaded its own (`qOffsets` `TextSeg=`).
    fn text_segment(&self) -> Option<VirtAddr> {
        None
    }

    /// How far the main image was moved from where it was linked. LLDB takes
    /// `TextSeg=` for this.
    fn slide(&self) -> Option<u64> {
        None
    }

    /// The auxiliary vector.
    fn auxv(&self) -> Option<Arc<[u8]>> {
        None
    }

    /// The `siginfo_t` of a thread.
    fn siginfo(&self, _tid: Tid) -> Option<Vec<u8>> {
        None
    }

    /// An `info os` table as an `<osdata>` document; the empty name lists the
    /// tables.
    fn osdata(&self, _table: &str) -> Option<Arc<str>> {
        None
    }

    /// Address of a thread-local variable: `offset` in the TLS block of the
    /// module whose `struct link_map` is at `link_map`.
    fn tls_address(&self, _tid: Tid, _offset: u64, _link_map: VirtAddr) -> Option<VirtAddr> {
        None
    }

    /// Text of the VMCOREINFO note (`qXfer:vmcoreinfo`).
    fn vmcoreinfo(&self) -> Option<Arc<str>> {
        None
    }

    /// Whether [`Inferior::whole_libraries`] will give a document.
    fn has_whole_libraries(&self) -> bool {
        false
    }

    /// The same list for LLDB, of images that hold all there is.
    fn whole_libraries(&self) -> Option<Arc<str>> {
        None
    }

    /// Whether this file is opened only by a client that has no debug info of the main
    /// image.
    fn is_types(&self, _path: &str) -> bool {
        false
    }

    /// The file that holds all there is to the image `path`, for such a client.
    fn whole_image(&self, _path: &str) -> Option<String> {
        None
    }

    /// Opens a file that this inferior announced; anything else is not found.
    fn open_file(&self, path: &str) -> Result<VirtualFile, FileError>;

    /// Target of a symbolic link (`/proc/PID/exe`, `/proc/PID/cwd`).
    fn read_link(&self, _path: &str) -> Result<String, FileError> {
        Err(FileError::NotFound)
    }

    /// Runs a `monitor` command. Errors of the command itself are text on
    /// `out`; an `Err` is `out`'s own (the client went away or gave up).
    fn monitor(&self, context: &CommandContext<'_>, line: &str, out: &mut dyn Write) -> io::Result<()>;

    /// A further inferior for `attach PID` (extended-remote): one user process
    /// of a kernel dump.
    fn attach(&self, _pid: u32) -> Option<Arc<dyn Inferior>> {
        None
    }
}
