//! Dump files: bytes to physical pages and notes.
//!
//! ```text
//!   source      a file by offset                  notes, vmcoreinfo    what the dump says of itself
//!     v                                                  ^
//!   flattened   a stream put in order again              |
//!     v                                                  |
//!   elf, kdump  headers, where each page is  ------------+
//!     v
//!   codec, page_cache   pages decoded and kept
//! ```
//!
//! Opening reads headers and notes only; everything else is found when it is asked
//! for. What cannot be read says why ([`ReadFault`]), and nothing that is missing
//! is ever read as zeros.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod bitmap;
mod codec;
mod elf;
mod flattened;
mod kdump;
mod kdump_header;
pub mod notes;
mod page_cache;
pub mod vmcoreinfo;

use crate::bytes::served;
use crate::bytes::source::{self, Source};
#[cfg(test)]
pub(crate) use elf::tests::core as elf_core;
use elf::{CoreHeaders, ElfDump};
use flattened::Flattened;
use kdump::Kdump;
use kdump_header::Header;
pub use kdump_header::Utsname;
use notes::Notes;
use vmcoreinfo::VmcoreInfo;

use crate::addr::{PAGE_SIZE, PhysAddr};
use crate::error::{Error, ReadFault, Result};

/// Physical memory of the dumped machine.
pub trait PhysicalMemory: Send + Sync {
    /// Reads from `addr` to at most the end of its page: at least one byte on success
    /// (for a `buf` that is not empty).
    fn read_phys(&self, addr: PhysAddr, buf: &mut [u8]) -> Result<usize, ReadFault>;
}

/// What a dump file is a dump of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A machine: its physical memory.
    Vmcore,
    /// A process: its mappings.
    Core,
}

/// Tells what the file at `path` is, by its first bytes and its notes.
pub fn sniff(path: &Path) -> Result<Kind> {
    sniff_source(&*open_source(path)?)
}

fn sniff_source(source: &dyn Source) -> Result<Kind> {
    match magic(source)? {
        Magic::Kdump => Ok(Kind::Vmcore),
        Magic::Elf => {
            let machine = CoreHeaders::read(source)?.is_machine(source);
            Ok(if machine { Kind::Vmcore } else { Kind::Core })
        }
    }
}

enum Magic {
    Elf,
    Kdump,
}

/// Beginnings of files that people offer by mistake, and what to do with them.
const NO_DUMPS: [(&[u8], &str, &str); 4] = [
    (b"EMiL", "a LiME memory image", "corestub reads ELF and kdump files"),
    (b"PAGEDU64", "a Windows crash dump", "corestub reads Linux dumps"),
    (b"MDMP", "a minidump", "corestub reads Linux vmcores and ELF cores"),
    (b"QEVM", "a QEMU migration stream (virsh save)", "dump with: virsh dump --memory-only"),
];

/// Beginnings of compressed files, what they are, and what unpacks them.
const PACKED: [(&[u8], &str, &str); 5] = [
    (b"\x1f\x8b", "a gzip file", "gzip -dk"),
    (b"\xfd7zXZ", "an xz file", "xz -dk"),
    (b"\x28\xb5\x2f\xfd", "a zstd file", "zstd -d"),
    (b"BZh", "a bzip2 file", "bzip2 -dk"),
    (b"\x04\x22\x4d\x18", "an lz4 file", "lz4 -d"),
];

/// What a file that begins so is, and what unpacks it, if it is a compressed one.
#[must_use]
pub fn packed(head: &[u8]) -> Option<(&'static str, &'static str)> {
    let (_, what, program) = PACKED.iter().find(|(magic, ..)| head.starts_with(magic))?;
    Some((what, program))
}

/// Whether a file is the dump of a machine, by its beginning alone, as much of it
/// as there is: what is in a compressed file.
#[must_use]
pub fn begins_as_vmcore(head: Vec<u8>) -> bool {
    head.starts_with(flattened::SIGNATURE)
        || matches!(sniff_source(&source::InMemory::new(Path::new(""), head)), Ok(Kind::Vmcore))
}

/// Whether the file at `path` is a piece of a split kdump.
#[must_use]
pub fn is_piece(path: &Path) -> bool {
    let is_piece = |source: Arc<dyn Source>| Ok(Header::read(&*source)?.split);
    open_source(path).and_then(is_piece).unwrap_or(false)
}

fn magic(source: &dyn Source) -> Result<Magic> {
    let path = || source.path().to_owned();
    let head = source.bytes_up_to(0, 16).map_err(|e| Error::io("read", source.path(), e))?;
    if crate::elf::Header::is_elf(&head) {
        return Ok(Magic::Elf);
    }
    if Header::is_kdump(&head) {
        return Ok(Magic::Kdump);
    }
    if let Some((what, program)) = packed(&head) {
        return Err(Error::Packed { path: path(), what, program });
    }
    if let Some((_, what, hint)) = NO_DUMPS.iter().find(|(magic, ..)| head.starts_with(magic)) {
        return Err(Error::Unsupported { path: path(), what: (*what).to_owned(), hint });
    }
    Err(Error::Malformed {
        path: path(),
        format: "dump",
        offset: 0,
        wanted: "an ELF core, a vmcore, or a kdump file (`KDUMP   `)",
        found: format!("`{}`", head.get(..8).unwrap_or(&head).escape_ascii()),
    })
}

/// The file at `path`, put in order again if it is a flattened one.
fn open_source(path: &Path) -> Result<Arc<dyn Source>> {
    let source = served::open_dump(path)?;
    let head = source.bytes_up_to(0, 16).map_err(|e| Error::io("read", path, e))?;
    if head.starts_with(flattened::SIGNATURE) {
        return Ok(Arc::new(Flattened::open(source)?));
    }
    Ok(source)
}

/// The dump of a machine.
pub struct Vmcore {
    paths: Vec<PathBuf>,
    flattened: bool,
    /// What was lost before the format's own eyes.
    damage: Option<String>,
    format: Format,
    notes: Notes,
    vmcoreinfo: Option<VmcoreInfo>,
}

enum Format {
    Elf(ElfDump),
    Kdump(Kdump),
}

impl Vmcore {
    /// More ranges than this say nothing to anybody.
    const RANGES_MAX: usize = 4096;

    /// Opens one dump: a file, or any of the pieces of a split kdump.
    pub fn open(paths: &[PathBuf]) -> Result<Self> {
        let sources = paths.iter().map(|p| open_source(p)).collect::<Result<Vec<_>>>()?;
        Self::from_sources(sources)
    }

    fn from_sources(sources: Vec<Arc<dyn Source>>) -> Result<Self> {
        let paths = sources.iter().map(|s| s.path().to_owned()).collect();
        let flattened = sources.iter().any(|s| s.is_flattened());
        let damage: Vec<String> = sources.iter().filter_map(|s| s.damage()).collect();
        let damage = (!damage.is_empty()).then(|| damage.join("; "));
        let mut elf = None;
        for source in &sources {
            if matches!(magic(&**source)?, Magic::Elf) {
                elf = Some(source);
            }
        }
        let (format, notes) = match elf {
            Some(source) if sources.len() == 1 => {
                let elf = ElfDump::open(Arc::clone(source))?;
                let notes = elf.notes().clone();
                (Format::Elf(elf), notes)
            }
            Some(source) => {
                return Err(Error::Unsupported {
                    path: source.path().to_owned(),
                    what: "an ELF file among the pieces of a dump".to_owned(),
                    hint: "only kdump files can be split; give ELF dumps alone",
                });
            }
            None => {
                let kdump = Kdump::open(sources)?;
                let notes = kdump.notes();
                (Format::Kdump(kdump), notes)
            }
        };
        let vmcoreinfo = notes.vmcoreinfo.as_deref().map(VmcoreInfo::parse);
        Ok(Self { paths, flattened, damage, format, notes, vmcoreinfo })
    }

    /// The first file.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.paths.first().map_or(Path::new(""), PathBuf::as_path)
    }

    /// All files, in the order they were given.
    #[must_use]
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// What the dump says beside its memory.
    #[must_use]
    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// VMCOREINFO, if the dump has one.
    #[must_use]
    pub fn vmcoreinfo(&self) -> Option<&VmcoreInfo> {
        self.vmcoreinfo.as_ref()
    }

    /// `phys_base` as the kdump sub-header has it, or the segments of an ELF file: a
    /// hint, since QEMU writes 0 there when it does not know it.
    #[must_use]
    pub fn phys_base_hint(&self) -> Option<i64> {
        match &self.format {
            Format::Elf(elf) => elf.phys_base(),
            Format::Kdump(kdump) => kdump.header()?.phys_base,
        }
    }

    /// The `uname` of the dumped machine, if the format has it and its writer knew it.
    #[must_use]
    pub fn utsname_hint(&self) -> Option<&Utsname> {
        self.header().map(|h| &h.utsname).filter(|u| !u.release.is_empty())
    }

    /// When the dump was made, in seconds since 1970, if the format has it and
    /// its writer filled it in.
    #[must_use]
    pub fn timestamp_hint(&self) -> Option<i64> {
        self.header().map(|h| h.seconds).filter(|&s| s > 0)
    }

    /// makedumpfile's `-d`, if the format has it.
    #[must_use]
    pub fn dump_level(&self) -> Option<u32> {
        self.header()?.dump_level
    }

    /// The format, for people: `kdump-compressed v6 (zstd)`. Counts the bitmap of a kdump.
    #[must_use]
    pub fn format(&self) -> String {
        let format = match &self.format {
            Format::Elf(elf) => elf.format(),
            Format::Kdump(kdump) => kdump.format(),
        };
        if self.flattened { format!("{format}, flattened") } else { format }
    }

    /// What crash calls `[PARTIAL DUMP]`: a kdump file with two bitmaps, that is one
    /// that *can* leave pages out, at whatever `-d` it was made.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.header().is_some_and(|h| h.two_bitmaps)
    }

    /// What was lost when the dump was written or copied, in words; `None` if nothing
    /// was. Counts the bitmap of a kdump, so it is not quite free.
    #[must_use]
    pub fn incomplete(&self) -> Option<String> {
        let own = match &self.format {
            Format::Elf(elf) => elf.incomplete(),
            Format::Kdump(kdump) => kdump.incomplete(),
        };
        match (&self.damage, own) {
            (Some(damage), Some(own)) => Some(format!("{damage}; {own}")),
            (Some(damage), None) => Some(damage.clone()),
            (None, own) => own,
        }
    }

    /// The machine's memory, as `(start, bytes)`, sorted and disjoint. At most a few
    /// thousand ranges; what is beyond them is covered by the last one. Walks the
    /// bitmap of a kdump.
    #[must_use]
    pub fn physical_ranges(&self) -> Vec<(PhysAddr, u64)> {
        match &self.format {
            Format::Elf(elf) => elf.physical_ranges(Self::RANGES_MAX),
            Format::Kdump(kdump) => kdump.physical_ranges(Self::RANGES_MAX),
        }
    }

    /// The part of [`Self::physical_ranges`] that the file has bytes for: headers can
    /// claim any amount of memory, so this is what a search goes through.
    #[must_use]
    pub fn stored_ranges(&self) -> Vec<(PhysAddr, u64)> {
        match &self.format {
            Format::Elf(elf) => elf.stored_ranges(),
            Format::Kdump(kdump) => kdump.stored_ranges(Self::RANGES_MAX),
        }
    }

    /// What happened to the files since they were opened, in words.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let all: Vec<String> = match &self.format {
            Format::Elf(elf) => elf.trouble().into_iter().collect(),
            Format::Kdump(kdump) => kdump.trouble(),
        };
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// Whether QEMU wrote the dump: it has the whole state of each CPU.
    #[must_use]
    pub fn is_qemu(&self) -> bool {
        !self.notes.qemu_cpus.is_empty()
    }

    fn header(&self) -> Option<&Header> {
        match &self.format {
            Format::Elf(_) => None,
            Format::Kdump(kdump) => kdump.header(),
        }
    }
}

impl PhysicalMemory for Vmcore {
    fn read_phys(&self, addr: PhysAddr, buf: &mut [u8]) -> Result<usize, ReadFault> {
        match &self.format {
            Format::Elf(elf) => elf.read_phys(addr, buf),
            Format::Kdump(kdump) => kdump.read_phys(addr, buf),
        }
    }
}

/// Why the bytes of the page at `addr` could not be read, which the file had when it was
/// opened.
fn unread(addr: PhysAddr, error: &io::Error) -> ReadFault {
    match error.raw_os_error() {
        Some(errno) => ReadFault::Unread { addr: addr.0, errno },
        None => ReadFault::Shrunk { addr: addr.0 },
    }
}

/// Bytes from `addr` to the end of its page.
fn to_page_end(addr: PhysAddr) -> u64 {
    PAGE_SIZE - addr.page_offset()
}

#[cfg(test)]
#[path = "kdump_tests.rs"]
mod kdump_tests;
