//! ELF files: one reader for vmcores, cores, vmlinux, modules and mapped programs.
//!
//! Only 64-bit little-endian x86-64 files are taken. Headers are read at opening
//! ([`File`], or [`Header`] for those who need less), everything else when it is
//! asked for.
//!
//! Structures and constants are those of the crate `object`, and so is the walk over
//! notes. The rest of `object::read` is not used:
//!
//! * It borrows what it reads for as long as the file lives (`ReadRef`). What is not
//!   mapped, such as a program's image within a core, would go through `ReadCache`,
//!   which is not `Sync` and keeps each range that it ever read: 174 MB after five
//!   sections of Debian's vmlinux (6.1). Copies that [`Source`] gives are dropped.
//! * It refuses a table that is cut ("Invalid ELF program header size or alignment");
//!   a core that ran out of disk has one, and what is there of it is served.
//! * Its errors are a sentence without file and offset.
//!
//! One rule for more than 65,534 program headers (`e_phnum` is `PN_XNUM`, `elf(5)`):
//! `sh_info` of section header 0 counts them. QEMU puts that header first, the kernel
//! at the very end of a core, where truncation loses it; then what the first segment
//! describes begins where the program headers end, which is a guess, and is told.

use std::path::Path;

use object::LittleEndian as LE;
use object::elf::{
    ELFMAG, EM_X86_64, ET_CORE, ET_DYN, ET_EXEC, ET_REL, FileHeader64, FileType, PN_XNUM, ProgramHeader64,
    ProgramType, SectionHeader64,
};
use object::pod::{Pod, from_bytes, slice_from_bytes};

use crate::bytes::source::Source;
use crate::bytes::u64_at;
use crate::error::{Error, Result};

mod build_id;
mod compressed;
mod file;
mod notes;
mod relocations;
mod symbols;

pub use build_id::BuildId;
pub use file::{File, Section};
pub use notes::{Note, Walk as NoteWalk, notes};
pub use object::elf::{PT_DYNAMIC, PT_GNU_EH_FRAME, PT_LOAD, PT_NOTE, PT_PHDR, PT_TLS};
pub use relocations::relocated_places;
pub use symbols::{Symbol, Symbols};

/// Nothing larger is read or decompressed at once: twice what any vmlinux has.
pub(crate) const DATA_MAX: u64 = 2 << 30;

/// More program headers than this are not believed: a machine or a process has a few
/// thousand, QEMU's dumps by mapping some hundred thousand.
const PROGRAM_HEADERS_MAX: u64 = 1 << 20;

/// The file header.
#[derive(Debug, Clone, Copy)]
pub struct Header(FileHeader64<LE>);

/// One program header: a piece of the file and where it is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgramHeader {
    /// `p_type`: [`PT_LOAD`] and so on.
    pub kind: ProgramType,
    /// `p_flags`: readable 4, writable 2, executable 1.
    pub flags: u32,
    /// Where its bytes start in the file.
    pub offset: u64,
    /// Virtual address.
    pub vaddr: u64,
    /// Physical address, in dumps of machines.
    pub paddr: u64,
    /// Bytes in the file.
    pub filesz: u64,
    /// Bytes in memory.
    pub memsz: u64,
    /// `p_align`.
    pub align: u64,
}

/// The program headers of a file, as far as it has them.
#[derive(Debug, Default)]
pub struct ProgramHeaders {
    /// Those that are there.
    pub list: Vec<ProgramHeader>,
    /// How many there should be,
    pub count: u64,
    /// and whether that is a guess.
    pub guessed: bool,
}

impl Header {
    /// Whether `head` begins like an ELF file.
    #[must_use]
    pub fn is_elf(head: &[u8]) -> bool {
        head.starts_with(&ELFMAG)
    }

    /// Reads and checks the header.
    ///
    /// # Errors
    /// It is not that of a file for x86-64.
    pub fn read(source: &dyn Source) -> Result<Self> {
        let path = source.path();
        let head =
            source.bytes_up_to(0, size_of::<FileHeader64<LE>>()).map_err(|e| Error::io("read", path, e))?;
        if !Self::is_elf(&head) {
            let found = head.iter().take(4).map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ");
            return Err(malformed(path, 0, "an ELF header (7f 45 4c 46)", found));
        }
        let foreign = match (head.get(4), head.get(5)) {
            (Some(2), Some(1)) => None,
            (Some(1), _) => Some("a 32-bit ELF file"),
            (Some(2), Some(2)) => Some("a big-endian ELF file"),
            _ => Some("an ELF file of unknown class"),
        };
        if let Some(what) = foreign {
            let pair = (head.get(18).copied().unwrap_or(0), head.get(19).copied().unwrap_or(0));
            let machine = match head.get(5) {
                Some(2) => u16::from_be_bytes([pair.0, pair.1]),
                _ => u16::from_le_bytes([pair.0, pair.1]),
            };
            return Err(not_ours(
                path,
                format!("{what} for a machine of type {machine} ({})", machine_name(machine)),
            ));
        }
        let Ok((header, _)) = from_bytes::<FileHeader64<LE>>(&head) else {
            let found = "the end of the file".to_owned();
            return Err(malformed(path, head.len() as u64, "a header of 64 bytes", found));
        };
        Ok(Self(*header))
    }

    /// Refuses what is not the core of a machine or process of x86-64.
    ///
    /// # Errors
    /// Says what the file is instead.
    pub fn expect_core(&self, path: &Path) -> Result<()> {
        let what = match self.kind() {
            ET_CORE => return self.expect_x86_64(path),
            ET_REL => "an ELF object file or kernel module",
            ET_EXEC => "an ELF executable or vmlinux",
            ET_DYN => "an ELF executable or shared library",
            _ => "an ELF file that is no core dump",
        };
        let hint = "give the dump; a vmlinux goes with --vmlinux";
        Err(Error::Unsupported { path: path.to_owned(), what: what.to_owned(), hint })
    }

    /// Refuses other machines.
    fn expect_x86_64(&self, path: &Path) -> Result<()> {
        let machine = self.0.e_machine.get(LE);
        if machine == EM_X86_64 {
            return Ok(());
        }
        let name = machine_name(machine.0);
        Err(not_ours(path, format!("an ELF file for a machine of type {} ({name})", machine.0)))
    }

    /// `e_type`: `ET_CORE` and so on.
    #[must_use]
    pub fn kind(&self) -> FileType {
        self.0.e_type.get(LE)
    }

    /// `e_flags`.
    #[must_use]
    pub fn flags(&self) -> u32 {
        self.0.e_flags.get(LE).0
    }

    /// Where the program headers start.
    #[must_use]
    pub fn program_headers_at(&self) -> u64 {
        self.0.e_phoff.get(LE)
    }

    /// The program headers, as far as the file has them.
    ///
    /// # Errors
    /// They have a size that is not theirs, or the file cannot be read.
    pub fn program_headers(&self, source: &dyn Source) -> Result<ProgramHeaders> {
        let (path, at) = (source.path(), self.program_headers_at());
        let (count, guessed) = self.count_program_headers(source);
        if count == 0 || at == 0 {
            return Ok(ProgramHeaders::default());
        }
        let size = self.0.e_phentsize.get(LE);
        if usize::from(size) != size_of::<ProgramHeader64<LE>>() {
            return Err(malformed(path, 54, "e_phentsize 56", size.to_string()));
        }
        let len = count.min(PROGRAM_HEADERS_MAX).saturating_mul(size.into());
        let table = source
            .bytes_up_to(at, usize::try_from(len).unwrap_or(usize::MAX))
            .map_err(|e| Error::io("read", path, e))?;
        Ok(ProgramHeaders { list: ProgramHeader::parse_all(&table), count, guessed })
    }

    /// All program headers.
    ///
    /// # Errors
    /// As [`Self::program_headers`], or the file does not have all of them.
    pub fn all_program_headers(&self, source: &dyn Source) -> Result<Vec<ProgramHeader>> {
        let (told, _) = self.count_program_headers(source);
        if told > PROGRAM_HEADERS_MAX {
            let path = source.path().to_owned();
            let what = format!("a dump in {told} segments");
            return Err(Error::Unsupported { path, what, hint: "a million of them is the limit" });
        }
        let headers = self.program_headers(source)?;
        let bad = |offset, wanted, found| Err(malformed(source.path(), offset, wanted, found));
        if headers.guessed {
            let found = format!("e_shoff {:#x}", self.0.e_shoff.get(LE));
            return bad(40, "section header 0 with the number of segments", found);
        }
        if (headers.list.len() as u64) < headers.count {
            let (count, at) = (headers.count, self.program_headers_at());
            let found = format!("{count} of them at {at:#x} in a file of {:#x} bytes", source.len());
            return bad(32, "program headers within the file", found);
        }
        Ok(headers.list)
    }

    /// How many program headers there are, and whether that is a guess.
    fn count_program_headers(&self, source: &dyn Source) -> (u64, bool) {
        let told = self.0.e_phnum.get(LE);
        if told != PN_XNUM {
            return (told.into(), false);
        }
        let told = self.first_section(source).map_or(0, |first| first.sh_info.get(LE));
        if told != 0 {
            return (told.into(), false);
        }
        let size = size_of::<ProgramHeader64<LE>>();
        let at = self.program_headers_at();
        let first = source.bytes_up_to(at, size).unwrap_or_default();
        let guess = from_bytes::<ProgramHeader64<LE>>(&first)
            .ok()
            .and_then(|(first, _)| first.p_offset.get(LE).checked_sub(at))
            .map(|len| len / size as u64);
        let least = u64::from(PN_XNUM);
        (guess.filter(|&count| count >= least).unwrap_or(least), true)
    }

    /// Section header 0, which holds what is too large for the file header.
    fn first_section(&self, source: &dyn Source) -> Option<SectionHeader64<LE>> {
        self.section_header(source, 0)
    }

    fn section_header(&self, source: &dyn Source, index: u16) -> Option<SectionHeader64<LE>> {
        let size = size_of::<SectionHeader64<LE>>();
        let at = Some(self.0.e_shoff.get(LE)).filter(|&at| at != 0)?;
        let raw = source.bytes(at.checked_add(u64::from(index) * size as u64)?, size).ok()?;
        from_bytes::<SectionHeader64<LE>>(&raw).ok().map(|(header, _)| *header)
    }

    /// The names of the sections, each behind a zero, as far as they are of use to tell
    /// what a file is.
    #[must_use]
    pub fn section_names(&self, source: &dyn Source) -> Option<Vec<u8>> {
        const NAMES_MAX: u64 = 64 << 10;
        let names = self.section_header(source, self.0.e_shstrndx.get(LE).0)?;
        let size = usize::try_from(names.sh_size.get(LE).min(NAMES_MAX)).ok()?;
        Some(source.bytes_up_to(names.sh_offset.get(LE), size).ok()?.into_owned())
    }
}

impl ProgramHeader {
    /// Loaded writable.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.flags & 2 != 0
    }

    /// Decodes a table of program headers.
    #[must_use]
    pub fn parse_all(table: &[u8]) -> Vec<Self> {
        rows::<ProgramHeader64<LE>>(table)
            .iter()
            .map(|raw| Self {
                kind: raw.p_type.get(LE),
                flags: raw.p_flags.get(LE).0,
                offset: raw.p_offset.get(LE),
                vaddr: raw.p_vaddr.get(LE),
                paddr: raw.p_paddr.get(LE),
                filesz: raw.p_filesz.get(LE),
                memsz: raw.p_memsz.get(LE),
                align: raw.p_align.get(LE),
            })
            .collect()
    }
}

/// The value of the first entry of a kind (`DT_*`) in a dynamic section.
#[must_use]
pub fn dynamic_entry(table: &[u8], kind: u64) -> Option<u64> {
    table.chunks_exact(16).find(|e| u64_at(e, 0) == Some(kind)).and_then(|e| u64_at(e, 8))
}

/// The whole rows in a table.
fn rows<T: Pod>(table: &[u8]) -> &[T] {
    slice_from_bytes(table, table.len() / size_of::<T>()).map_or(&[], |(rows, _)| rows)
}

fn malformed(path: &Path, offset: u64, wanted: &'static str, found: String) -> Error {
    Error::Malformed { path: path.to_owned(), format: "ELF file", offset, wanted, found }
}

/// What people call an `e_machine` (elf.h).
fn machine_name(machine: u16) -> &'static str {
    match machine {
        2 | 18 | 43 => "SPARC",
        3 => "i386",
        8 => "MIPS",
        20 | 21 => "PowerPC",
        22 => "s390",
        40 => "ARM",
        50 => "Itanium",
        62 => "x86-64",
        183 => "AArch64",
        243 => "RISC-V",
        258 => "LoongArch",
        _ => "unknown type",
    }
}

fn not_ours(path: &Path, what: String) -> Error {
    Error::Unsupported { path: path.to_owned(), what, hint: "corestub serves x86-64 dumps only" }
}
