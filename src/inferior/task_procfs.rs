//! `/proc/PID` of a user process of a vmcore, as far as gdb reads it over vFile:
//! `info proc`, and `generate-core-file`, which without `maps` writes a core of
//! registers alone and calls it saved.
//!
//! What of a mapping is in the dump is told by `smaps` page by page, so that the new
//! core has the holes of the dump and no made-up zeros. Formats: proc(5).

use std::ops::Range;

use tracing::warn;

use crate::addr::{PAGE_SIZE, PhysAddr, VirtAddr};
use crate::linux::object::Object;
use crate::linux::{Kernel, Task, paths, vmas};
use crate::memory::AddressSpace;
use crate::process::procfs::Line;
use crate::text::printable;

/// Pieces of mappings that are told apart.
const PIECES: usize = 1 << 18;
/// Longest command line that is read (the kernel's `MAX_ARG_STRLEN`).
const ARGUMENTS: u64 = 32 * PAGE_SIZE;

pub(super) struct Procfs<'a> {
    kernel: &'a Kernel,
    task: &'a Task,
    mm: Object<'a>,
    threads: usize,
}

/// Where a process sees the vDSO, and where the kernel has its image.
pub(super) struct Vdso {
    pub(super) at: Range<u64>,
    pub(super) image: VirtAddr,
}

impl<'a> Procfs<'a> {
    /// Of the process that `task` leads.
    pub(super) fn of(kernel: &'a Kernel, task: &'a Task, threads: usize) -> Option<Self> {
        Some(Self { kernel, task, mm: Object::new(kernel, "mm_struct", task.mm?), threads })
    }

    /// A file of `/proc/PID`.
    pub(super) fn file(&self, name: &str) -> Option<Vec<u8>> {
        match name {
            "maps" => Some(self.maps().into_bytes()),
            "smaps" => Some(self.smaps().into_bytes()),
            "cmdline" => self.arguments(),
            "stat" => Some(self.stat().into_bytes()),
            "status" => Some(self.status().into_bytes()),
            "comm" => Some(format!("{}\n", self.task.comm).into_bytes()),
            "auxv" => self.auxv(),
            _ => None,
        }
    }

    /// A link of `/proc/PID`.
    pub(super) fn link(&self, name: &str) -> Option<String> {
        let task = || Object::new(self.kernel, "task_struct", self.task.addr).follow("fs", "fs_struct");
        match name {
            "exe" => paths::of_file(self.kernel, self.mm.pointer("exe_file")?),
            "cwd" => paths::of_path(self.kernel, task()?.address("pwd")?),
            "root" => paths::of_path(self.kernel, task()?.address("root")?),
            _ => None,
        }
    }

    /// The auxiliary vector.
    pub(super) fn auxv(&self) -> Option<Vec<u8>> {
        let size = self.mm.field("saved_auxv")?.size;
        let len = usize::try_from(size).ok().filter(|&n| n <= 4096)?;
        self.kernel.space().read_vec(self.mm.address("saved_auxv")?, len).ok()
    }

    /// The vDSO (`struct vdso_image`, `arch/x86/include/asm/vdso.h`).
    pub(super) fn vdso(&self) -> Option<Vdso> {
        let image = self.mm.follow("context.vdso_image", "vdso_image")?;
        let start = self.mm.number("context.vdso").filter(|&at| at != 0)?;
        let size = image.number("size").filter(|&size| size <= 64 * PAGE_SIZE)?;
        Some(Vdso { at: start..start.checked_add(size)?, image: image.pointer("data")? })
    }

    fn vmas(&self) -> Vec<vmas::Vma> {
        let vmas::Vmas { list, counted } = vmas::of(self.kernel, self.mm.base);
        if let Some(counted) = counted.filter(|&n| n != list.len() as u64) {
            warn!("process {}: {} of {counted} mappings are readable", self.task.tgid, list.len());
        }
        list
    }

    fn maps(&self) -> String {
        let mut out = String::new();
        self.vmas().iter().for_each(|v| line(v, v.start..v.end).write(&mut out));
        out
    }

    /// Each mapping in pieces: what the dump holds of it, and what not.
    fn smaps(&self) -> String {
        let mut out = String::new();
        let stored = self.kernel.dump().stored_ranges();
        let mut left = PIECES;
        for vma in self.vmas() {
            let mut at = vma.start;
            for kept in self.kept(&vma, &stored) {
                if at < kept.start {
                    line(&vma, at..kept.start).write_piece(&mut out, false, 0);
                }
                line(&vma, kept.clone()).write_piece(&mut out, true, kept.end - kept.start);
                at = kept.end;
                left = left.saturating_sub(1);
                if left == 0 {
                    break;
                }
            }
            if at < vma.end {
                line(&vma, at..vma.end).write_piece(&mut out, false, 0);
            }
        }
        out
    }

    /// The parts of a mapping whose pages are in the dump, by address; `stored` is what of
    /// physical memory is.
    fn kept(&self, vma: &vmas::Vma, stored: &[(PhysAddr, u64)]) -> Vec<Range<u64>> {
        let Some(space) = self.kernel.task_space(self.task) else { return Vec::new() };
        let whole = vma.start..vma.end;
        if self.vdso().is_some_and(|vdso| vdso.at == whole) {
            return vec![whole];
        }
        let mut all: Vec<Range<u64>> = Vec::new();
        for run in space.runs(VirtAddr(vma.start), VirtAddr(vma.end - 1)) {
            let Ok(mapping) = run.to else { continue };
            let (first, len) = (mapping.phys.0, run.last.0 - run.start.0 + 1);
            let end = first.saturating_add(len);
            let from = stored.partition_point(|(start, len)| start.0.saturating_add(*len) <= first);
            for &(PhysAddr(start), len) in stored.iter().skip(from).take_while(|(start, _)| start.0 < end) {
                let part = start.max(first)..start.saturating_add(len).min(end);
                let here = run.start.0 + (part.start - first)..run.start.0 + (part.end - first);
                if let Some(last) = all.last_mut().filter(|last| last.end == here.start) {
                    last.end = here.end;
                } else if all.len() < PIECES {
                    all.push(here);
                } else {
                    return all;
                }
            }
        }
        all
    }

    /// `argv`, each word ended by a NUL; `None` where its pages are not in the dump.
    fn arguments(&self) -> Option<Vec<u8>> {
        let (start, end) = (self.mm.number("arg_start")?, self.mm.number("arg_end")?);
        let len = end.checked_sub(start).filter(|len| (1..=ARGUMENTS).contains(len))?;
        self.kernel.task_space(self.task)?.read_vec(VirtAddr(start), usize::try_from(len).ok()?).ok()
    }

    /// The pids of the process group and of the session.
    fn groups(&self) -> [u64; 2] {
        let signal =
            Object::new(self.kernel, "task_struct", self.task.addr).follow("signal", "signal_struct");
        let number = |kind: u64| {
            let at = signal?.address("pids")?.checked_add(kind * 8)?;
            let pid = self.kernel.space().read_u64(at).ok().filter(|&p| p >= self.kernel.user_limit())?;
            let first = Object::new(self.kernel, "pid", VirtAddr(pid)).address("numbers")?;
            self.kernel.space().read_u32(first).ok().map(u64::from)
        };
        // PIDTYPE_PGID and PIDTYPE_SID (4.19 and later).
        [number(2), number(3)].map(Option::unwrap_or_default)
    }

    /// gdb makes the `NT_PRPSINFO` of a new core from it; fields that it does not
    /// need are 0 as for a process that hides them.
    fn stat(&self) -> String {
        let task = Object::new(self.kernel, "task_struct", self.task.addr);
        let name = self.task.comm.replace(|c: char| c.is_control(), "?");
        let (pid, state, ppid) = (self.task.tgid, self.task.state, self.task.ppid.unwrap_or(0));
        let [group, session] = self.groups();
        let prio = task.signed("static_prio").unwrap_or(120).saturating_sub(120);
        let mut out = format!(
            "{pid} ({name}) {state} {ppid} {group} {session} 0 -1 {} 0 0 0 0 0 0 0 0 {} {prio} {}",
            task.number("flags").unwrap_or(0),
            prio.saturating_add(20),
            self.threads,
        );
        (21..=52).for_each(|_| out.push_str(" 0"));
        out.push('\n');
        out
    }

    fn status(&self) -> String {
        let (pid, ppid) = (self.task.tgid, self.task.ppid.unwrap_or(0));
        let task = Object::new(self.kernel, "task_struct", self.task.addr);
        let mut out = format!(
            "Name:\t{}\nState:\t{} (in a vmcore)\nTgid:\t{pid}\nPid:\t{}\nPPid:\t{ppid}\nTracerPid:\t0\n",
            printable(&self.task.comm),
            self.task.state,
            self.task.pid,
        );
        if let Some(cred) = task.follow("cred", "cred") {
            for (word, names) in
                [("Uid", ["uid", "euid", "suid", "fsuid"]), ("Gid", ["gid", "egid", "sgid", "fsgid"])]
            {
                let ids = names.map(|n| cred.number(n).map_or_else(|| "?".to_owned(), |id| id.to_string()));
                out.push_str(&format!("{word}:\t{}\n", ids.join("\t")));
            }
        }
        out.push_str(&format!("Threads:\t{}\n", self.threads));
        out
    }
}

/// A part of a mapping.
fn line(vma: &vmas::Vma, range: Range<u64>) -> Line<'_> {
    // MKDEV(): 12 bits of major number above 20 of minor.
    let device = |(dev, inode)| (dev >> 20, dev & 0xf_ffff, inode);
    Line {
        permissions: vma.permissions(),
        offset: vma.file.map_or(0, |_| vma.offset.wrapping_add(range.start - vma.start)),
        file: vma.file.map(device),
        name: &vma.name,
        range,
    }
}
