//! The open files of a task: `files_struct.fdt`, an array of `struct file` by descriptor.
//!
//! Sources: `include/linux/fdtable.h`, `include/linux/fs.h`, `include/linux/fs_struct.h`.

use serde::Serialize;

use super::object::Object;
use super::{Task, View, paths};
use crate::addr::VirtAddr;

/// Descriptors that are looked at (`sysctl_nr_open` is 2^20 unless somebody raised it).
const MAX: u64 = 1 << 20;
/// A name of the kernel's own.
const NAME_MAX: usize = 64;
/// `S_IFMT`.
const KIND: u64 = 0o170_000;

/// What a task has open, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpenFiles {
    pub(crate) root: Option<String>,
    pub(crate) cwd: Option<String>,
    pub(crate) files: Vec<OpenFile>,
    /// Descriptors that could not be read, or that are beyond what is looked at.
    pub(crate) unread: u64,
}

/// One descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct OpenFile {
    pub(crate) fd: u64,
    pub(crate) file: VirtAddr,
    pub(crate) dentry: Option<VirtAddr>,
    pub(crate) inode: Option<VirtAddr>,
    /// crash's word for it.
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) path: Option<String>,
}

/// The open files of `task`. `None` where its structures cannot be read.
#[must_use]
pub(crate) fn of(view: &View, task: &Task) -> Option<OpenFiles> {
    let object = Object::new(view, "task_struct", task.addr);
    let place = |member| {
        let fs = object.follow("fs", "fs_struct")?;
        paths::of_path(view, fs.address(member)?)
    };
    let mut open = OpenFiles { root: place("root"), cwd: place("pwd"), files: Vec::new(), unread: 0 };
    if object.number("files")? == 0 {
        // It has ended so far already.
        return Some(open);
    }
    let table = object.follow("files", "files_struct")?.follow("fdt", "fdtable")?;
    let (count, array) = (table.number("max_fds")?, table.pointer("fd")?);
    open.unread = count.saturating_sub(MAX);
    for fd in 0..count.min(MAX) {
        match view.space().read_u64(array.checked_add(fd * 8)?) {
            Ok(0) => {}
            Ok(at) if at >= view.user_limit() => open.files.push(file(view, fd, VirtAddr(at))),
            Ok(_) | Err(_) => open.unread += 1,
        }
    }
    Some(open)
}

fn file(view: &View, fd: u64, at: VirtAddr) -> OpenFile {
    let object = Object::new(view, "file", at);
    let path = paths::path_in(&object);
    let dentry = path.and_then(|path| Object::new(view, "path", path).follow("dentry", "dentry"));
    let inode = dentry.and_then(|d| d.follow("d_inode", "inode"));
    let mode = inode.and_then(|i| i.number("i_mode")).map(|mode| mode & KIND);
    let kind = match mode {
        Some(0o100_000) => "REG",
        Some(0o040_000) => "DIR",
        Some(0o020_000) => "CHR",
        Some(0o060_000) => "BLK",
        Some(0o010_000) => "FIFO",
        Some(0o140_000) => "SOCK",
        Some(0o120_000) => "LNK",
        _ => "UNKN",
    };
    // What lies in no directory has the kernel's own name: `[eventpoll]`, or, where its file
    // system makes one when asked, what /proc says of it.
    let own = || view.space().read_cstr(dentry?.pointer("d_name.name")?, NAME_MAX).ok();
    let number = || inode?.number("i_ino");
    let path = match (kind, own()) {
        (_, Some(name)) if name.starts_with('[') => Some(name),
        ("FIFO", Some(name)) if name.is_empty() || name == "/" => number().map(|n| format!("pipe:[{n}]")),
        ("SOCK", Some(name)) if name.is_empty() || name == "/" => number().map(|n| format!("socket:[{n}]")),
        _ => path.and_then(|path| paths::of_path(view, path)),
    };
    OpenFile { fd, file: at, dentry: dentry.map(|d| d.base), inode: inode.map(|i| i.base), kind, path }
}
