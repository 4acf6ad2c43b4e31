//! A small ELF64 reader over anything that has bytes at offsets: a file of the
//! disk, or the first page of a mapping in the core.
//!
//! Why not `object`: the same code must read an image of which only one page is
//! known. Layout: `elf.h`, and the GNU gABI notes and sections named below.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::bytes::{cstr, u16_at, u32_at, u64_at};
use crate::elf::BuildId;

/// Loadable segment.
pub const PT_LOAD: u32 = 1;
/// The dynamic section.
pub const PT_DYNAMIC: u32 = 2;
/// Notes.
pub const PT_NOTE: u32 = 4;
/// The program headers themselves.
pub const PT_PHDR: u32 = 6;
/// The thread-local image.
pub const PT_TLS: u32 = 7;
/// `.eh_frame_hdr`.
pub const PT_GNU_EH_FRAME: u32 = 0x6474_e550;

/// `SHT_SYMTAB`.
pub const SHT_SYMTAB: u32 = 2;
/// `SHT_NOTE`.
const SHT_NOTE: u32 = 7;
/// `SHT_DYNSYM`.
pub const SHT_DYNSYM: u32 = 11;

/// More program headers than this are not those of a program (the kernel: 64 KiB of them).
const PHNUM_MAX: u16 = 1170;
/// A note segment or section larger than this is not searched.
const NOTES_MAX: u64 = 1 << 20;
/// No table of a program is larger (symbols, strings, relocations, unwind rules).
const TABLE_MAX: u64 = 1 << 28;

/// Bytes at offsets.
pub trait Bytes {
    /// Fills `buf` from `offset`; false when any byte of it is not there.
    fn fill(&self, offset: u64, buf: &mut [u8]) -> bool;

    /// The `len` bytes at `offset`, if they are there and not absurdly many.
    fn vec(&self, offset: u64, len: u64) -> Option<Vec<u8>> {
        if len > TABLE_MAX {
            return None;
        }
        // Probe the last byte before allocating what a header merely claims.
        if len > 4096 && !self.fill(offset.checked_add(len - 1)?, &mut [0]) {
            return None;
        }
        let mut buf = vec![0; usize::try_from(len).ok()?];
        self.fill(offset, &mut buf).then_some(buf)
    }
}

impl Bytes for File {
    fn fill(&self, offset: u64, buf: &mut [u8]) -> bool {
        self.read_exact_at(buf, offset).is_ok()
    }
}

impl<F: Fn(u64, &mut [u8]) -> bool> Bytes for F {
    fn fill(&self, offset: u64, buf: &mut [u8]) -> bool {
        self(offset, buf)
    }
}

/// The ELF header's fields that matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// `ET_EXEC` 2, `ET_DYN` 3.
    pub kind: u16,
    /// Entry point.
    pub entry: u64,
    phoff: u64,
    shoff: u64,
    phnum: u16,
    shnum: u16,
    shstrndx: u16,
}

/// `Elf64_Phdr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields' own names")]
pub struct Phdr {
    pub kind: u32,
    pub flags: u32,
    pub offset: u64,
    pub vaddr: u64,
    pub filesz: u64,
    pub memsz: u64,
    pub align: u64,
}

/// `Elf64_Shdr`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields' own names")]
pub struct Section {
    pub name: String,
    pub kind: u32,
    pub flags: u64,
    pub addr: u64,
    pub offset: u64,
    pub size: u64,
    pub link: u32,
}

impl Header {
    /// Reads the header of an x86-64 program, library or debug file.
    pub fn read(from: &(impl Bytes + ?Sized)) -> Option<Self> {
        let mut raw = [0; 64];
        if !from.fill(0, &mut raw) || !raw.starts_with(b"\x7fELF\x02\x01") || u16_at(&raw, 18)? != 62 {
            return None;
        }
        let header = Self {
            kind: u16_at(&raw, 16)?,
            entry: u64_at(&raw, 24)?,
            phoff: u64_at(&raw, 32)?,
            shoff: u64_at(&raw, 40)?,
            phnum: u16_at(&raw, 56)?,
            shnum: u16_at(&raw, 60)?,
            shstrndx: u16_at(&raw, 62)?,
        };
        (u16_at(&raw, 54)? == 56 && header.phnum <= PHNUM_MAX).then_some(header)
    }

    /// The program headers; as many as can be read.
    pub fn phdrs(&self, from: &(impl Bytes + ?Sized)) -> Vec<Phdr> {
        let Some(raw) = from.vec(self.phoff, u64::from(self.phnum) * 56) else { return Vec::new() };
        parse_phdrs(&raw)
    }

    /// The section headers; none when they cannot be read.
    pub fn sections(&self, from: &(impl Bytes + ?Sized)) -> Vec<Section> {
        let Some(raw) = from.vec(self.shoff, u64::from(self.shnum) * 64) else { return Vec::new() };
        let place = |h: &[u8]| Some((u64_at(h, 24)?, u64_at(h, 32)?));
        let names = raw
            .chunks_exact(64)
            .nth(self.shstrndx.into())
            .and_then(place)
            .and_then(|(offset, size)| from.vec(offset, size))
            .unwrap_or_default();
        let section = |h: &[u8]| {
            let name = usize::try_from(u32_at(h, 0)?).ok()?;
            Some(Section {
                name: cstr(names.get(name..).unwrap_or_default()).into_owned(),
                kind: u32_at(h, 4)?,
                flags: u64_at(h, 8)?,
                addr: u64_at(h, 16)?,
                offset: u64_at(h, 24)?,
                size: u64_at(h, 32)?,
                link: u32_at(h, 40)?,
            })
        };
        raw.chunks_exact(64).filter_map(section).collect()
    }
}

/// Decodes a table of program headers.
#[must_use]
pub fn parse_phdrs(raw: &[u8]) -> Vec<Phdr> {
    let phdr = |h: &[u8]| {
        Some(Phdr {
            kind: u32_at(h, 0)?,
            flags: u32_at(h, 4)?,
            offset: u64_at(h, 8)?,
            vaddr: u64_at(h, 16)?,
            filesz: u64_at(h, 32)?,
            memsz: u64_at(h, 40)?,
            align: u64_at(h, 48)?,
        })
    };
    raw.chunks_exact(56).filter_map(phdr).collect()
}

/// The GNU build-id, from the note segments or, in a debug file, the note sections.
pub fn build_id(from: &(impl Bytes + ?Sized)) -> Option<Vec<u8>> {
    let header = Header::read(from)?;
    let of_segments = header
        .phdrs(from)
        .into_iter()
        .filter(|p| p.kind == PT_NOTE)
        .find_map(|p| build_id_in(from, p.offset, p.filesz));
    of_segments.or_else(|| {
        let sections = header.sections(from);
        sections.iter().filter(|s| s.kind == SHT_NOTE).find_map(|s| build_id_in(from, s.offset, s.size))
    })
}

fn build_id_in(from: &(impl Bytes + ?Sized), offset: u64, size: u64) -> Option<Vec<u8>> {
    if size > NOTES_MAX {
        return None;
    }
    let raw = from.vec(offset, size)?;
    BuildId::from_notes(&raw, 4).map(|id| id.as_bytes().to_vec())
}

/// A build-id or other bytes in hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Base name of the debug file that `.gnu_debuglink` names.
pub fn debug_link(from: &(impl Bytes + ?Sized)) -> Option<String> {
    let sections = Header::read(from)?.sections(from);
    let link = sections.iter().find(|s| s.name == ".gnu_debuglink" && s.size < 4096)?;
    let name = cstr(&from.vec(link.offset, link.size)?).into_owned();
    (!name.is_empty() && !name.contains('/')).then_some(name)
}

/// Build-id of the file that `.gnu_debugaltlink` names (dwz).
pub fn alt_debug_build_id(from: &(impl Bytes + ?Sized)) -> Option<Vec<u8>> {
    let sections = Header::read(from)?.sections(from);
    let link = sections.iter().find(|s| s.name == ".gnu_debugaltlink" && s.size < 4096)?;
    let raw = from.vec(link.offset, link.size)?;
    let id = raw.get(raw.iter().position(|&b| b == 0)? + 1..)?;
    (2..=64).contains(&id.len()).then(|| id.to_vec())
}

/// One function or object with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symbol {
    /// Link-time address.
    pub addr: u64,
    /// Bytes; 0 when not told.
    pub size: u64,
    name: u32,
}

/// The code symbols of one file, sorted by address.
#[derive(Debug, Default)]
pub struct Symbols {
    symbols: Vec<Symbol>,
    names: Vec<u8>,
}

impl Symbols {
    /// Reads the table of the wanted kind (`SHT_SYMTAB`, `SHT_DYNSYM`).
    pub fn read(from: &(impl Bytes + ?Sized), kind: u32) -> Option<Self> {
        let sections = Header::read(from)?.sections(from);
        let table = sections.iter().find(|s| s.kind == kind)?;
        let strings = sections.get(usize::try_from(table.link).ok()?)?;
        Some(Self::parse(&from.vec(table.offset, table.size)?, from.vec(strings.offset, strings.size)?))
    }

    /// Decodes a table of `Elf64_Sym` and its names.
    #[must_use]
    pub fn parse(table: &[u8], names: Vec<u8>) -> Self {
        let code = |sym: &[u8]| {
            let (info, section) = (*sym.get(4)?, u16_at(sym, 6)?);
            // STT_NOTYPE (assembly), STT_FUNC, STT_GNU_IFUNC; defined.
            let wanted = matches!(info & 15, 0 | 2 | 10) && section != 0 && section < 0xff00;
            let name = u32_at(sym, 0)?;
            (wanted && name != 0).then_some(Symbol { addr: u64_at(sym, 8)?, size: u64_at(sym, 16)?, name })
        };
        let mut symbols: Vec<_> = table.chunks_exact(24).filter_map(code).collect();
        // Of several at one address the one with a size is last, and found first.
        symbols.sort_by_key(|s| (s.addr, s.size));
        Self { symbols, names }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.symbols.is_empty()
    }

    /// The symbol that holds `addr`, and how far into it `addr` is.
    #[must_use]
    pub fn lookup(&self, addr: u64) -> Option<(String, u64)> {
        let after = self.symbols.partition_point(|s| s.addr <= addr);
        let before = self.symbols.get(..after)?;
        // An inner symbol that has ended already may stand between: look a little further back.
        let found = before.iter().rev().take(16).find(|s| {
            let offset = addr - s.addr;
            offset < s.size || s.size == 0 && offset < 0x1000
        })?;
        let name = self.names.get(usize::try_from(found.name).ok()?..)?;
        // `clock_nanosleep@@GLIBC_2.17`: the version is the linker's business.
        let name = cstr(name);
        let plain = name.split('@').next().filter(|n| !n.is_empty()).unwrap_or(&name);
        Some((plain.to_owned(), addr - found.addr))
    }
}
