//! The core file itself: ELF header, program headers, notes.
//!
//! Written by the kernel (`fs/binfmt_elf.c`, `elf_core_dump`), by gdb's `gcore`
//! (`gdb/linux-tdep.c`), or kept compressed by systemd-coredump (see
//! [`crate::bytes::packed`]). What truncation has cost is told, not refused.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::notes::{self, FileNote, PsInfo};
use crate::arch::map;
use crate::bytes::packed::{self, Unpack};
use crate::bytes::source::Source;
use crate::dump::notes::{NT_PRSTATUS, PrStatus};
use crate::elf::{self, Header, PT_LOAD, PT_NOTE, ProgramHeader};
use crate::error::{Error, Result};
use crate::memory::segments::Segment;

/// Where the descriptor of a note stands in the core.
pub type Place = Range<u64>;

/// More threads than a system has room for in most of its settings (`kernel.pid_max` is at most four
/// times that).
const THREADS_MAX: usize = 1 << 20;

/// `p_flags`: readable.
const PF_R: u32 = 4;

/// What the notes tell of one thread.
#[derive(Debug, Clone, Default)]
pub struct ThreadNotes {
    /// The thread's id.
    pub tid: u32,
    /// The signal that stopped it.
    pub signal: u16,
    /// `NT_PRSTATUS`.
    pub prstatus: Place,
    /// `NT_FPREGSET`: the FXSAVE image.
    pub fpregs: Option<Place>,
    /// `NT_X86_XSTATE`: the XSAVE image.
    pub xstate: Option<Place>,
    /// `NT_SIGINFO`.
    pub siginfo: Option<Place>,
}

/// A parsed core.
pub struct CoreFile {
    /// The path that was given.
    pub path: PathBuf,
    /// Its bytes, decompressed.
    pub source: Arc<dyn Source>,
    /// All `PT_LOAD`s in the order of the file.
    pub segments: Vec<Segment>,
    /// Threads in the order of the file: the one that died first.
    pub threads: Vec<ThreadNotes>,
    /// `NT_PRPSINFO`.
    pub psinfo: Option<PsInfo>,
    /// `NT_AUXV`, raw.
    pub auxv: Vec<u8>,
    /// `NT_FILE`.
    pub files: Vec<FileNote>,
    /// `NT_X86_XSAVE_LAYOUT` (Linux 6.12): where the XSAVE parts stand.
    pub xsave_layout: Option<Place>,
    /// Another system than Linux that wrote a note.
    pub system: Option<&'static str>,
    /// What is wrong with the core, in sentences.
    pub complaints: Vec<String>,
    /// Bytes that the headers promise and the file does not hold.
    pub lost: u64,
}

impl CoreFile {
    /// Opens the core at `path`.
    pub fn open(path: &Path) -> Result<Self> {
        let source = packed::open(path, &Unpack::default())?;
        Self::parse(path, source)
    }

    /// Parses an opened core.
    pub fn parse(path: &Path, source: Arc<dyn Source>) -> Result<Self> {
        let mut complaints: Vec<String> = source.damage().into_iter().collect();
        let header = Header::read(&*source)?;
        header.expect_core(path)?;
        let headers = header.program_headers(&*source)?;
        let (there, count) = (headers.list.len(), headers.count);
        if headers.guessed {
            complaints.push(format!(
                "the section header that counts the segments is lost: {count} are assumed from the first one's place"
            ));
        }
        if (there as u64) < count {
            complaints.push(format!("the file ends in its program headers: {there} of {count} are there"));
        }
        let mut core = Self {
            path: path.to_owned(),
            source: Arc::clone(&source),
            segments: Vec::new(),
            threads: Vec::new(),
            psinfo: None,
            auxv: Vec::new(),
            files: Vec::new(),
            xsave_layout: None,
            system: None,
            complaints,
            lost: 0,
        };
        let mut walk = elf::NoteWalk::new(&*source);
        for ProgramHeader { kind, flags, offset, vaddr, filesz, memsz, .. } in headers.list {
            let present = source.len().saturating_sub(offset).min(filesz);
            match kind {
                PT_NOTE => {
                    core.lost = core.lost.saturating_add(filesz - present);
                    core.read_notes(&mut walk, offset, filesz)?;
                }
                PT_LOAD => {
                    let end = vaddr.saturating_add(memsz.max(filesz));
                    let stored = filesz.min(end - vaddr);
                    let present = present.min(stored);
                    core.lost = core.lost.saturating_add(stored - present);
                    // The kernel cannot read that page, and leaves zeros in its place.
                    let unread = vaddr == map::VSYSCALL && flags & PF_R == 0;
                    let (stored, present) = if unread { (0, 0) } else { (stored, present) };
                    core.segments.push(Segment { start: vaddr, end, flags, offset, stored, present });
                }
                _ => {}
            }
        }
        if let Some(system) = core.system.filter(|_| core.threads.is_empty()) {
            return Err(Error::Unsupported {
                path: path.to_owned(),
                what: format!("a core of a process of {system}"),
                hint: "corestub serves cores of Linux only",
            });
        }
        if core.threads.is_empty() {
            let (found, wanted) = ("none".to_owned(), "an NT_PRSTATUS note for each thread");
            return Err(Error::Malformed {
                path: path.to_owned(),
                format: "core notes",
                offset: header.program_headers_at(),
                wanted,
                found,
            });
        }
        Ok(core)
    }

    fn read_notes(&mut self, walk: &mut elf::NoteWalk<'_>, offset: u64, filesz: u64) -> Result<()> {
        let end = offset.saturating_add(filesz);
        let read = walk
            .each(offset..end, |note, place| self.take_note(note.name, note.kind, note.desc, place))
            .map_err(|e| Error::io("read the notes of", &self.path, e))?;
        let left = end.min(self.source.len()).saturating_sub(read);
        if end > self.source.len() {
            self.complain(format!(
                "the file ends within its notes: what they tell behind offset {read:#x} of threads and mapped files is lost"
            ));
        } else if left >= 16 {
            self.complain(format!(
                "the notes are malformed from offset {read:#x} on: {left} bytes are not read"
            ));
        }
        Ok(())
    }

    /// Takes note of what is wrong: a hostile core has no end of it.
    fn complain(&mut self, sentence: String) {
        const COMPLAINTS_MAX: usize = 100;
        match self.complaints.len() {
            ..COMPLAINTS_MAX => self.complaints.push(sentence),
            COMPLAINTS_MAX => self.complaints.push("more is wrong with the notes, and not listed".to_owned()),
            _ => {}
        }
    }

    fn take_note(&mut self, name: &[u8], kind: u32, desc: &[u8], place: Place) {
        let full = self.threads.len() >= THREADS_MAX;
        let of_thread = self.threads.last_mut();
        match (name, kind) {
            (b"CORE", NT_PRSTATUS) if full => {
                self.complain(format!("of more than {THREADS_MAX} threads the first are taken"));
            }
            (b"CORE", NT_PRSTATUS) => match PrStatus::parse(desc) {
                Some(status) if status.pid != 0 && status.pid <= 0x7fff_ffff => {
                    let (tid, signal) = (status.pid, status.signal);
                    self.threads.push(ThreadNotes { tid, signal, prstatus: place, ..Default::default() });
                }
                Some(status) => {
                    self.complain(format!("a thread with the impossible id {} is left out", status.pid));
                }
                None => self.complain(format!(
                    "an NT_PRSTATUS of {} bytes, not {}, is left out",
                    desc.len(),
                    PrStatus::SIZE
                )),
            },
            (b"CORE", notes::NT_FPREGSET) => {
                if let Some(thread) = of_thread {
                    thread.fpregs.get_or_insert(place);
                }
            }
            (b"LINUX", notes::NT_X86_XSTATE) => {
                if let Some(thread) = of_thread {
                    thread.xstate.get_or_insert(place);
                }
            }
            (b"CORE", notes::NT_SIGINFO) => {
                if let Some(thread) = of_thread {
                    thread.siginfo.get_or_insert(place);
                }
            }
            (b"CORE", notes::NT_PRPSINFO) if self.psinfo.is_none() => self.psinfo = PsInfo::parse(desc),
            (b"CORE", notes::NT_AUXV) if self.auxv.is_empty() => {
                self.auxv = desc.get(..desc.len().min(1 << 16)).unwrap_or_default().to_vec();
            }
            (b"CORE", notes::NT_FILE) if self.files.is_empty() => match notes::parse_files(desc) {
                Ok(files) => self.files = files,
                Err(complaint) => self.complain(complaint),
            },
            (b"LINUX", notes::NT_X86_XSAVE_LAYOUT) => {
                self.xsave_layout.get_or_insert(place);
            }
            // Theirs are called so (`sys/elf_common.h`, `sys/exec_elf.h` of each).
            (b"FreeBSD", _) => self.system = Some("FreeBSD"),
            (name, _) if name.starts_with(b"NetBSD-CORE") => self.system = Some("NetBSD"),
            (name, _) if name.starts_with(b"OpenBSD") => self.system = Some("OpenBSD"),
            _ => {}
        }
    }

    /// The bytes of a note; empty when they cannot be read.
    #[must_use]
    pub fn note(&self, place: &Place) -> Vec<u8> {
        let len = usize::try_from(place.end.saturating_sub(place.start)).unwrap_or(0);
        self.source.bytes(place.start, len).map(std::borrow::Cow::into_owned).unwrap_or_default()
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
