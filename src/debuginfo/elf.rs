//! ELF files beside the dump: vmlinux, modules, their debug files.
//!
//! Only 64-bit little-endian x86-64 files are taken. Headers are read at
//! opening; everything else when it is asked for, from the mapped file, so that
//! a vmlinux of half a gigabyte costs nothing until its DWARF is wanted.
//! Layouts: the System V ABI (`Elf64_Ehdr`, `Elf64_Shdr`, `Elf64_Sym`, `Elf64_Chdr`).
//! They are read by hand rather than through `object::read`, so that a file
//! which cannot be mapped works too and each error knows its offset.

use std::borrow::Cow;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use super::symbols::{Builder, SymbolTable};
use crate::bytes;
use crate::bytes::source::{self, Source};
use crate::elf::BuildId;
use crate::error::{Error, Result};

/// Kernel addresses: what KASLR moves. Below lie per-CPU offsets, zero-based
/// until 6.15, and absolute symbols.
pub const KERNEL_HALF: u64 = 1 << 63;

const SHT_SYMTAB: u32 = 2;
const SHT_NOTE: u32 = 7;
const SHT_NOBITS: u32 = 8;
const SHF_WRITE: u64 = 1;
const SHF_ALLOC: u64 = 2;
const SHF_EXECINSTR: u64 = 4;
const SHF_COMPRESSED: u64 = 0x800;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;

/// Compressed sections may grow by this factor; zlib's limit is about 1030.
const EXPANSION_MAX: u64 = 1100;
/// Largest section that is decompressed: twice what any vmlinux has.
const DECOMPRESSED_MAX: u64 = 2 << 30;
/// Notes longer than this are not searched for a build-id.
const NOTES_MAX: u64 = 1 << 20;

/// What the file is, `e_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// `ET_REL`: a module; its sections have no addresses yet.
    Relocatable,
    /// `ET_EXEC`: vmlinux.
    Executable,
    /// `ET_DYN`: a vdso or a position-independent program.
    Dynamic,
}

/// One section header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Its name.
    pub name: String,
    /// Its number in the file.
    pub index: usize,
    /// `sh_type`.
    pub kind: u32,
    /// `sh_flags`.
    pub flags: u64,
    /// Link-time address; 0 in modules.
    pub address: u64,
    /// Where its bytes start in the file.
    pub offset: u64,
    /// Bytes, compressed if it is.
    pub size: u64,
    /// `sh_link`.
    pub link: u32,
    /// `sh_addralign`.
    pub align: u64,
}

impl Section {
    /// Part of the loaded image.
    #[must_use]
    pub fn is_alloc(&self) -> bool {
        self.flags & SHF_ALLOC != 0
    }

    /// Without bytes in the file: `.bss`, or anything allocated in a debug file.
    #[must_use]
    pub fn is_nobits(&self) -> bool {
        self.kind == SHT_NOBITS
    }

    fn letter(&self) -> u8 {
        match () {
            () if self.flags & SHF_EXECINSTR != 0 => b't',
            () if self.flags & SHF_ALLOC == 0 => b'n',
            () if self.flags & SHF_WRITE == 0 => b'r',
            () if self.is_nobits() && self.name.contains("bss") => b'b',
            () => b'd',
        }
    }
}

/// One program header.
#[derive(Debug, Clone, Copy)]
struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    file_size: u64,
}

/// A vmlinux, a module, or the debug file of either.
pub struct Vmlinux {
    source: Arc<dyn Source>,
    kind: FileKind,
    sections: Vec<Section>,
    segments: Vec<Segment>,
    build_id: Option<BuildId>,
}

impl std::fmt::Debug for Vmlinux {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vmlinux")
            .field("path", &self.path())
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl Vmlinux {
    /// Opens the file at `path` and reads its headers.
    ///
    /// # Errors
    /// What stands where an x86-64 ELF header, its tables or names should.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_source(source::open(path)?)
    }

    /// The same over bytes from elsewhere, e.g. a decompressed module.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_source(source: Arc<dyn Source>) -> Result<Self> {
        let header = Header::read(&*source)?;
        let sections = header.sections(&*source)?;
        let segments = header.segments(&*source)?;
        let mut file = Self { source, kind: header.kind, sections, segments, build_id: None };
        file.build_id = file.find_build_id();
        Ok(file)
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// The bytes of the whole file.
    #[must_use]
    pub fn source(&self) -> &Arc<dyn Source> {
        &self.source
    }

    /// What the file is.
    #[must_use]
    pub fn kind(&self) -> FileKind {
        self.kind
    }

    /// Its build-id, from a note section or segment.
    #[must_use]
    pub fn build_id(&self) -> Option<&BuildId> {
        self.build_id.as_ref()
    }

    /// All sections in file order, the empty first one included.
    #[must_use]
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// The section of that name.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// The bytes of a section, decompressed if it is compressed; empty for one
    /// without bytes in the file.
    ///
    /// # Errors
    /// The section does not fit in the file or does not decompress.
    pub fn data(&self, section: &Section) -> Result<Cow<'_, [u8]>> {
        if section.is_nobits() || section.size == 0 {
            return Ok(Cow::Borrowed(&[]));
        }
        let raw = self.range(section.offset, section.size, "section within the file")?;
        if section.flags & SHF_COMPRESSED == 0 {
            return Ok(raw);
        }
        decompress(&raw)
            .map(Cow::Owned)
            .map_err(|found| self.malformed(section.offset, "a section that decompresses", found))
    }

    /// The bytes of the section of that name, if it has any.
    ///
    /// # Errors
    /// As [`Self::data`].
    pub fn section_data(&self, name: &str) -> Result<Option<Cow<'_, [u8]>>> {
        let Some(section) = self.section(name).filter(|s| !s.is_nobits() && s.size != 0) else {
            return Ok(None);
        };
        self.data(section).map(Some)
    }

    /// The lowest kernel address of a loaded segment: `_text` before KASLR.
    #[must_use]
    pub fn first_load_vaddr(&self) -> Option<u64> {
        self.segments
            .iter()
            .filter(|segment| segment.kind == PT_LOAD && segment.address >= KERNEL_HALF)
            .map(|segment| segment.address)
            .min()
    }

    /// Whether there is DWARF.
    #[must_use]
    pub fn has_dwarf(&self) -> bool {
        self.section(".debug_info").is_some_and(|s| !s.is_nobits() && s.size != 0)
    }

    /// The symbols of `.symtab`, moved by the KASLR `slide`. Those below
    /// [`KERNEL_HALF`] (per-CPU, absolute) stay where they are.
    ///
    /// # Errors
    /// There is no symbol table, or it contradicts itself.
    pub fn symbols(&self, slide: u64) -> Result<SymbolTable> {
        self.symbols_placed(&|address, _| {
            Some(if address >= KERNEL_HALF { address.wrapping_add(slide) } else { address })
        })
    }

    /// The symbols of `.symtab`, each at the address that `place` gives to
    /// (value in the file, its section); those it gives none are left out.
    /// In a module the value is an offset into the section.
    ///
    /// # Errors
    /// As [`Self::symbols`].
    pub fn symbols_placed(
        &self,
        place: &dyn Fn(u64, Option<&Section>) -> Option<u64>,
    ) -> Result<SymbolTable> {
        let missing = || Error::Missing {
            path: self.path().to_owned(),
            what: "no symbol table (.symtab)".to_owned(),
            hint: "it was stripped: give the unstripped file or its .debug",
        };
        let symtab =
            self.sections.iter().find(|s| s.kind == SHT_SYMTAB && s.size != 0).ok_or_else(missing)?;
        let strtab =
            self.sections.get(symtab.link as usize).filter(|s| !s.is_nobits()).ok_or_else(|| {
                self.malformed(symtab.offset, "a symbol table with names", "no .strtab".into())
            })?;
        let (table, names) = (self.data(symtab)?, self.data(strtab)?);

        let mut builder = Builder::new(format!("symbol table of {}", self.path().display()));
        builder.reserve(table.len() / SYM_SIZE);
        for entry in table.chunks_exact(SYM_SIZE) {
            let Some(symbol) = RawSymbol::parse(entry) else { continue };
            let Some((letter, section)) = symbol.letter(&self.sections) else { continue };
            let name = names.get(symbol.name..).unwrap_or_default();
            let name = name.split(|&b| b == 0).next().unwrap_or_default();
            if is_label(name) {
                continue;
            }
            if let Some(address) = place(symbol.value, section) {
                builder.push(address, symbol.size, letter, name);
            }
        }
        Ok(builder.finish())
    }

    fn find_build_id(&self) -> Option<BuildId> {
        let sections = self.sections.iter().filter(|s| s.kind == SHT_NOTE).map(|s| (s.offset, s.size));
        let segments = self.segments.iter().filter(|s| s.kind == PT_NOTE).map(|s| (s.offset, s.file_size));
        sections
            .chain(segments)
            .filter(|&(_, size)| size <= NOTES_MAX)
            .filter_map(|(offset, size)| self.range(offset, size, "notes").ok())
            .find_map(|notes| BuildId::from_notes(&notes, 4))
    }

    fn range(&self, offset: u64, size: u64, wanted: &'static str) -> Result<Cow<'_, [u8]>> {
        let short = || self.malformed(offset, wanted, format!("{size:#x} bytes, past the end"));
        let len = usize::try_from(size).map_err(|_| short())?;
        self.source.bytes(offset, len).map_err(|_| short())
    }

    fn malformed(&self, offset: u64, wanted: &'static str, found: String) -> Error {
        malformed(self.path(), offset, wanted, found)
    }
}

fn malformed(path: &Path, offset: u64, wanted: &'static str, found: String) -> Error {
    Error::Malformed { path: path.to_owned(), format: "ELF file", offset, wanted, found }
}

/// Labels that only confuse: local ones of the assembler, checksums and
/// name strings of exports.
fn is_label(name: &[u8]) -> bool {
    const PREFIXES: [&[u8]; 3] = [b".L", b"__crc_", b"__kstrtab"];
    name.is_empty() || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

struct Header {
    kind: FileKind,
    phoff: u64,
    phnum: u64,
    shoff: u64,
    shnum: u64,
    names: usize,
}

const SHDR_SIZE: u64 = 64;
const PHDR_SIZE: u64 = 56;

impl Header {
    fn read(source: &dyn Source) -> Result<Self> {
        let path = source.path();
        let head = source.bytes_up_to(0, 64).map_err(|e| Error::io("read", path, e))?;
        let bad = |offset, wanted, found: String| malformed(path, offset, wanted, found);
        if head.get(..4) != Some(b"\x7fELF") {
            let found = head.iter().take(4).map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ");
            return Err(bad(0, "an ELF header (7f 45 4c 46)", found));
        }
        if head.get(4..6) != Some(&[2, 1]) {
            return Err(bad(
                4,
                "a 64-bit little-endian file",
                format!("class and data {:?}", head.get(4..6)),
            ));
        }
        let field = |at: usize| bytes::u16_at(&head, at).unwrap_or(0);
        let machine = field(18);
        if machine != 62 {
            return Err(bad(18, "machine 62 (x86-64)", machine.to_string()));
        }
        let kind = match field(16) {
            1 => FileKind::Relocatable,
            2 => FileKind::Executable,
            3 => FileKind::Dynamic,
            other => {
                return Err(bad(16, "a relocatable, executable or shared file", format!("type {other}")));
            }
        };
        let long =
            |at: usize| bytes::u64_at(&head, at).ok_or_else(|| bad(0, "64 bytes", head.len().to_string()));
        let (phoff, shoff) = (long(32)?, long(40)?);
        let (mut shnum, mut names, mut phnum) =
            (u64::from(field(60)), usize::from(field(62)), u64::from(field(56)));
        if shoff != 0 && u64::from(field(58)) != SHDR_SIZE {
            return Err(bad(58, "section headers of 64 bytes", field(58).to_string()));
        }
        if phoff != 0 && phnum != 0 && u64::from(field(54)) != PHDR_SIZE {
            return Err(bad(54, "program headers of 56 bytes", field(54).to_string()));
        }
        // More than 65,279 sections: the numbers are in the first header.
        if shoff != 0 && (shnum == 0 || names == 0xffff || phnum == 0xffff) {
            let first = source
                .bytes(shoff, 64)
                .map_err(|_| bad(shoff, "a section header", "the end of the file".into()))?;
            if shnum == 0 {
                shnum = bytes::u64_at(&first, 32).unwrap_or(0);
            }
            if names == 0xffff {
                names = bytes::u32_at(&first, 40).unwrap_or(0) as usize;
            }
            if phnum == 0xffff {
                phnum = u64::from(bytes::u32_at(&first, 44).unwrap_or(0));
            }
        }
        if shoff == 0 {
            shnum = 0;
        }
        if phoff == 0 {
            phnum = 0;
        }
        Ok(Self { kind, phoff, phnum, shoff, shnum, names })
    }

    fn sections(&self, source: &dyn Source) -> Result<Vec<Section>> {
        let table = table(source, self.shoff, self.shnum, SHDR_SIZE, "section headers within the file")?;
        let mut name_offsets = Vec::new();
        let mut sections = Vec::new();
        for (index, header) in table.chunks_exact(64).enumerate() {
            let word = |at| bytes::u32_at(header, at).unwrap_or(0);
            let long = |at| bytes::u64_at(header, at).unwrap_or(0);
            name_offsets.push(word(0) as usize);
            sections.push(Section {
                name: String::new(),
                index,
                kind: word(4),
                flags: long(8),
                address: long(16),
                offset: long(24),
                size: long(32),
                link: word(40),
                align: long(48),
            });
        }
        // Names are a convenience: without their table, sections go by number only.
        let names = sections
            .get(self.names)
            .and_then(|s| source.bytes(s.offset, usize::try_from(s.size).ok()?).ok())
            .unwrap_or_default();
        for (section, offset) in sections.iter_mut().zip(name_offsets) {
            let name = names.get(offset..).unwrap_or_default();
            section.name = bytes::cstr(name.get(..256).unwrap_or(name)).into_owned();
        }
        Ok(sections)
    }

    fn segments(&self, source: &dyn Source) -> Result<Vec<Segment>> {
        let table = table(source, self.phoff, self.phnum, PHDR_SIZE, "program headers within the file")?;
        let long = |header, at| bytes::u64_at(header, at).unwrap_or(0);
        Ok(table
            .chunks_exact(56)
            .map(|header| Segment {
                kind: bytes::u32_at(header, 0).unwrap_or(0),
                offset: long(header, 8),
                address: long(header, 16),
                file_size: long(header, 32),
            })
            .collect())
    }
}

fn table<'s>(
    source: &'s dyn Source,
    offset: u64,
    count: u64,
    each: u64,
    wanted: &'static str,
) -> Result<Cow<'s, [u8]>> {
    count
        .checked_mul(each)
        .and_then(|len| usize::try_from(len).ok())
        .and_then(|len| source.bytes(offset, len).ok())
        .ok_or_else(|| malformed(source.path(), offset, wanted, format!("{count} of {each} bytes")))
}

const SYM_SIZE: usize = 24;

struct RawSymbol {
    name: usize,
    info: u8,
    section: u16,
    value: u64,
    size: u64,
}

impl RawSymbol {
    fn parse(entry: &[u8]) -> Option<Self> {
        Some(Self {
            name: bytes::u32_at(entry, 0)? as usize,
            info: *entry.get(4)?,
            section: bytes::u16_at(entry, 6)?,
            value: bytes::u64_at(entry, 8)?,
            size: bytes::u64_at(entry, 16)?,
        })
    }

    /// The letter that `nm` prints, and the section; `None` for what is no symbol
    /// of this file (undefined, file and section names).
    fn letter<'s>(&self, sections: &'s [Section]) -> Option<(u8, Option<&'s Section>)> {
        const SHN_ABS: u16 = 0xfff1;
        const SHN_XINDEX: u16 = 0xffff;
        let (kind, binding) = (self.info & 15, self.info >> 4);
        // STT_NOTYPE, OBJECT, FUNC, COMMON, GNU_IFUNC; not SECTION, FILE, TLS.
        if !matches!(kind, 0 | 1 | 2 | 5 | 10) {
            return None;
        }
        let (letter, section) = match self.section {
            0 => return None,
            SHN_ABS => (b'a', None),
            // Beyond 65,279 sections the number is in a table of its own; the
            // letter then follows from the type alone.
            SHN_XINDEX => (if kind == 2 { b't' } else { b'd' }, None),
            index => {
                let section = sections.get(usize::from(index))?;
                (section.letter(), Some(section))
            }
        };
        Some(match binding {
            0 => (letter, section),
            2 if kind == 1 => (b'V', section),
            2 => (b'W', section),
            _ => (letter.to_ascii_uppercase(), section),
        })
    }
}

/// `Elf64_Chdr` and the stream behind it.
fn decompress(raw: &[u8]) -> Result<Vec<u8>, String> {
    let (Some(kind), Some(size), Some(stream)) =
        (bytes::u32_at(raw, 0), bytes::u64_at(raw, 8), raw.get(24..))
    else {
        return Err("a cut compression header".into());
    };
    if size > DECOMPRESSED_MAX || size / EXPANSION_MAX > stream.len() as u64 {
        // zstd can do better than zlib on long runs, but debug sections do not.
        return Err(format!("a size of {size:#x} from {:#x} bytes", stream.len()));
    }
    let mut out = Vec::new();
    match kind {
        1 => flate2::read::ZlibDecoder::new(stream).take(size).read_to_end(&mut out),
        2 => zstd::stream::read::Decoder::with_buffer(stream)
            .and_then(|decoder| decoder.take(size).read_to_end(&mut out)),
        other => return Err(format!("compression {other}")),
    }
    .map_err(|error| error.to_string())?;
    if out.len() as u64 != size {
        return Err(format!("{:#x} bytes instead of {size:#x}", out.len()));
    }
    Ok(out)
}

#[cfg(test)]
#[path = "tests/elf.rs"]
mod tests;
