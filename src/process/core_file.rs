//! The core file itself: ELF header, program headers, notes.
//!
//! Written by the kernel (`fs/binfmt_elf.c`, `elf_core_dump`), by gdb's `gcore`
//! (`gdb/linux-tdep.c`), or kept compressed by systemd-coredump (see
//! [`super::compressed`]). More than 65,534 segments are told by `e_phnum ==
//! PN_XNUM`: the count then stands in `sh_info` of section header 0, which the
//! kernel puts at the very end of the file and truncation loses first.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::compressed;
use super::notes::{self, FileNote, PsInfo};
use crate::bytes::source::Source;
use crate::bytes::{u16_at, u32_at, u64_at};
use crate::dump::notes::{NT_PRSTATUS, PrStatus};
use crate::elf;
use crate::error::{Error, Result};
use crate::memory::segments::Segment;

const EHDR_SIZE: usize = 64;
const PHDR_SIZE: usize = 56;
const ET_CORE: u16 = 4;
const EM_X86_64: u16 = 62;
const PN_XNUM: u16 = 0xffff;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;

/// Where the descriptor of a note stands in the core.
pub type Place = Range<u64>;

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
    /// What is wrong with the core, in sentences.
    pub complaints: Vec<String>,
    /// Bytes that the headers promise and the file does not hold.
    pub lost: u64,
}

impl CoreFile {
    /// Opens the core at `path`.
    pub fn open(path: &Path) -> Result<Self> {
        let source = compressed::open(path)?;
        Self::parse(path, source)
    }

    /// Parses an opened core.
    pub fn parse(path: &Path, source: Arc<dyn Source>) -> Result<Self> {
        let mut complaints = Vec::new();
        let header = Header::read(path, &*source)?;
        let (phnum, complaint) = header.segment_count(path, &*source)?;
        complaints.extend(complaint);
        let table = header.program_headers(path, &*source, phnum, &mut complaints)?;
        let mut core = Self {
            path: path.to_owned(),
            source: Arc::clone(&source),
            segments: Vec::new(),
            threads: Vec::new(),
            psinfo: None,
            auxv: Vec::new(),
            files: Vec::new(),
            xsave_layout: None,
            complaints,
            lost: 0,
        };
        for phdr in table.chunks_exact(PHDR_SIZE) {
            let kind = u32_at(phdr, 0).unwrap_or_default();
            let at = |offset| u64_at(phdr, offset).unwrap_or_default();
            let (offset, vaddr, filesz, memsz) = (at(8), at(16), at(32), at(40));
            let present = source.len().saturating_sub(offset).min(filesz);
            match kind {
                PT_NOTE => {
                    core.lost = core.lost.saturating_add(filesz - present);
                    core.read_notes(offset, filesz)?;
                }
                PT_LOAD => {
                    let end = vaddr.saturating_add(memsz.max(filesz));
                    let stored = filesz.min(end - vaddr);
                    let present = present.min(stored);
                    core.lost = core.lost.saturating_add(stored - present);
                    let flags = u32_at(phdr, 4).unwrap_or_default();
                    core.segments.push(Segment { start: vaddr, end, flags, offset, stored, present });
                }
                _ => {}
            }
        }
        if core.threads.is_empty() {
            let (found, wanted) = ("none".to_owned(), "an NT_PRSTATUS note for each thread");
            return Err(Error::Malformed {
                path: path.to_owned(),
                format: "core notes",
                offset: header.phoff,
                wanted,
                found,
            });
        }
        Ok(core)
    }

    fn read_notes(&mut self, offset: u64, filesz: u64) -> Result<()> {
        let source = Arc::clone(&self.source);
        let len = usize::try_from(filesz.min(source.len())).unwrap_or(usize::MAX);
        let data =
            source.bytes_up_to(offset, len).map_err(|e| Error::io("read the notes of", &self.path, e))?;
        let base = data.as_ptr().addr();
        let mut end = 0;
        for note in elf::notes(&data, 4) {
            let start = note.desc.as_ptr().addr().saturating_sub(base);
            end = start + note.desc.len();
            let place = offset + start as u64..offset + end as u64;
            self.take_note(note.name, note.kind, note.desc, place);
        }
        if data.len().saturating_sub(end) >= 16 {
            self.complaints.push(format!(
                "the notes are malformed from offset {:#x} on: {} bytes are not read",
                offset.saturating_add(end as u64),
                data.len() - end
            ));
        }
        Ok(())
    }

    fn take_note(&mut self, name: &[u8], kind: u32, desc: &[u8], place: Place) {
        let of_thread = self.threads.last_mut();
        match (name, kind) {
            (b"CORE", NT_PRSTATUS) => match PrStatus::parse(desc) {
                Some(status) if status.pid != 0 && status.pid <= 0x7fff_ffff => {
                    let (tid, signal) = (status.pid, status.signal);
                    self.threads.push(ThreadNotes { tid, signal, prstatus: place, ..Default::default() });
                }
                Some(status) => self
                    .complaints
                    .push(format!("a thread with the impossible id {} is left out", status.pid)),
                None => self.complaints.push(format!(
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
                Err(complaint) => self.complaints.push(complaint),
            },
            (b"LINUX", notes::NT_X86_XSAVE_LAYOUT) => {
                self.xsave_layout.get_or_insert(place);
            }
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

/// The ELF header's fields that matter.
struct Header {
    phoff: u64,
    shoff: u64,
    phentsize: u16,
    phnum: u16,
}

impl Header {
    fn read(path: &Path, source: &dyn Source) -> Result<Self> {
        let malformed = |offset, wanted, found| Error::Malformed {
            path: path.to_owned(),
            format: "ELF core header",
            offset,
            wanted,
            found,
        };
        let raw = source.bytes_up_to(0, EHDR_SIZE).map_err(|e| Error::io("read", path, e))?;
        if !raw.starts_with(b"\x7fELF") {
            let magic = raw.get(..4.min(raw.len())).unwrap_or_default();
            return Err(malformed(0, "the magic 7f 'ELF'", format!("{magic:02x?}")));
        }
        let unsupported = |what: String, hint| Error::Unsupported { path: path.to_owned(), what, hint };
        match raw.get(4) {
            Some(2) => {}
            Some(1) => {
                return Err(unsupported(
                    "a core of a 32-bit process".into(),
                    "only x86-64 processes are served",
                ));
            }
            other => return Err(malformed(4, "ELFCLASS64 (2)", format!("{other:?}"))),
        }
        if raw.get(5) != Some(&1) {
            return Err(unsupported("a big-endian ELF file".into(), "only x86-64 processes are served"));
        }
        let short = || malformed(raw.len() as u64, "64 bytes of ELF header", format!("{} bytes", raw.len()));
        let (kind, machine) = (u16_at(&raw, 16).ok_or_else(short)?, u16_at(&raw, 18).ok_or_else(short)?);
        if kind != ET_CORE {
            return Err(malformed(16, "e_type ET_CORE (4)", kind.to_string()));
        }
        if machine != EM_X86_64 {
            return Err(unsupported(
                format!("a core of ELF machine {machine}"),
                "only x86-64 (62) processes are served",
            ));
        }
        Ok(Self {
            phoff: u64_at(&raw, 32).ok_or_else(short)?,
            shoff: u64_at(&raw, 40).ok_or_else(short)?,
            phentsize: u16_at(&raw, 54).ok_or_else(short)?,
            phnum: u16_at(&raw, 56).ok_or_else(short)?,
        })
    }

    /// How many program headers there are, and a complaint if that is a guess.
    fn segment_count(&self, path: &Path, source: &dyn Source) -> Result<(u64, Option<String>)> {
        if usize::from(self.phentsize) != PHDR_SIZE {
            return Err(Error::Malformed {
                path: path.to_owned(),
                format: "ELF core header",
                offset: 54,
                wanted: "e_phentsize 56",
                found: self.phentsize.to_string(),
            });
        }
        if self.phnum != PN_XNUM {
            return Ok((self.phnum.into(), None));
        }
        let sh_info = self.shoff.checked_add(44);
        if let Some(raw) = sh_info.and_then(|at| source.bytes(at, 4).ok())
            && let Some(count) = u32_at(&raw, 0)
            && count != 0
        {
            return Ok((count.into(), None));
        }
        // Truncated. What the first header describes starts where the headers end.
        let first = source.bytes_up_to(self.phoff, PHDR_SIZE).map_err(|e| Error::io("read", path, e))?;
        let count = u64_at(&first, 8)
            .and_then(|offset| offset.checked_sub(self.phoff))
            .map(|len| len / PHDR_SIZE as u64)
            .filter(|&count| count >= PN_XNUM.into())
            .unwrap_or(PN_XNUM.into());
        let complaint = format!(
            "the section header that counts the segments is lost: {count} are assumed from the first one's place"
        );
        Ok((count, Some(complaint)))
    }

    fn program_headers<'a>(
        &self,
        path: &Path,
        source: &'a dyn Source,
        count: u64,
        complaints: &mut Vec<String>,
    ) -> Result<std::borrow::Cow<'a, [u8]>> {
        let wanted = usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(PHDR_SIZE);
        let table = source.bytes_up_to(self.phoff, wanted).map_err(|e| Error::io("read", path, e))?;
        if table.len() < wanted {
            complaints.push(format!(
                "the file ends in its program headers: {} of {count} are there",
                table.len() / PHDR_SIZE
            ));
        }
        Ok(table)
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
