//! One ELF file with its tables: program headers, sections, symbols, build-id.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use object::LittleEndian as LE;
use object::elf::{
    FileType, SHF_ALLOC, SHF_COMPRESSED, SHF_EXECINSTR, SHF_WRITE, SHN_XINDEX, SHT_NOBITS, SHT_NOTE,
    SectionFlags, SectionHeader64, SectionType,
};

use super::{BuildId, Header, PT_NOTE, ProgramHeader, Symbols, compressed, malformed, rows};
use crate::bytes::cstr;
use crate::bytes::source::{self, Source};
use crate::error::Result;

/// Notes longer than this are not searched for a build-id.
const NOTES_MAX: u64 = 1 << 20;
/// More sections than this are not believed.
const SECTIONS_MAX: u64 = 1 << 18;
/// More program headers than this are not those of a program (the kernel: 64 KiB of them).
const IMAGE_HEADERS_MAX: u64 = 1170;

/// One section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Its name.
    pub name: String,
    /// Its number in the file.
    pub index: usize,
    /// `sh_type`.
    pub kind: SectionType,
    /// `sh_flags`.
    pub flags: SectionFlags,
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
        self.flags & SHF_ALLOC != SectionFlags(0)
    }

    /// Code.
    #[must_use]
    pub fn is_code(&self) -> bool {
        self.flags & SHF_EXECINSTR != SectionFlags(0)
    }

    /// Data that may change.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.flags & SHF_WRITE != SectionFlags(0)
    }

    /// Its bytes in the file are compressed.
    #[must_use]
    pub fn is_compressed(&self) -> bool {
        self.flags & SHF_COMPRESSED != SectionFlags(0)
    }

    /// Without bytes in the file: `.bss`, or anything allocated in a debug file.
    #[must_use]
    pub fn is_nobits(&self) -> bool {
        self.kind == SHT_NOBITS
    }
}

/// An ELF file, or the image of one in memory.
pub struct File {
    source: Arc<dyn Source>,
    header: Header,
    program_headers: Vec<ProgramHeader>,
    sections: Vec<Section>,
    build_id: Option<BuildId>,
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("File").field("path", &self.path()).finish_non_exhaustive()
    }
}

impl File {
    /// Opens the file at `path` and reads its tables.
    ///
    /// # Errors
    /// What stands where an x86-64 ELF header, its tables or names should.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(source::open(path)?)
    }

    /// The same over bytes from elsewhere, e.g. a decompressed module.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn read(source: Arc<dyn Source>) -> Result<Self> {
        let header = Header::read(&*source)?;
        header.expect_x86_64(source.path())?;
        let program_headers = header.all_program_headers(&*source)?;
        let sections = sections(&header, &*source)?;
        Ok(Self::new(source, header, program_headers, sections))
    }

    /// The image of a program in memory, where section headers are not loaded and
    /// program headers may be missing.
    ///
    /// # Errors
    /// It is no ELF header of x86-64.
    pub fn read_image(source: Arc<dyn Source>) -> Result<Self> {
        let header = Header::read(&*source)?;
        header.expect_x86_64(source.path())?;
        let headers = header.program_headers(&*source).unwrap_or_default();
        let list = if headers.count <= IMAGE_HEADERS_MAX { headers.list } else { Vec::new() };
        Ok(Self::new(source, header, list, Vec::new()))
    }

    fn new(
        source: Arc<dyn Source>,
        header: Header,
        program_headers: Vec<ProgramHeader>,
        sections: Vec<Section>,
    ) -> Self {
        let mut file = Self { source, header, program_headers, sections, build_id: None };
        file.build_id = file.find_build_id();
        file
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

    /// What the file is: `ET_REL` a module, `ET_EXEC` a vmlinux or program, `ET_DYN` a library.
    #[must_use]
    pub fn kind(&self) -> FileType {
        self.header.kind()
    }

    /// Its build-id, from a note section or segment.
    #[must_use]
    pub fn build_id(&self) -> Option<&BuildId> {
        self.build_id.as_ref()
    }

    /// All program headers.
    #[must_use]
    pub fn program_headers(&self) -> &[ProgramHeader] {
        &self.program_headers
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
        if !section.is_compressed() {
            return Ok(raw);
        }
        compressed::decompress(&raw)
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

    /// Whether there is DWARF.
    #[must_use]
    pub fn has_dwarf(&self) -> bool {
        self.section(".debug_info").is_some_and(|s| !s.is_nobits() && s.size != 0)
    }

    /// The symbol table of that kind, `SHT_SYMTAB` or `SHT_DYNSYM`, if there is one.
    ///
    /// # Errors
    /// It contradicts itself.
    pub fn symbols(&self, kind: SectionType) -> Result<Option<Symbols<'_>>> {
        let Some((table, names)) = self.symbol_table(kind)? else { return Ok(None) };
        Ok(Some(Symbols::new(self.data(table)?, self.data(names)?)))
    }

    /// The sections of that table and of its names.
    ///
    /// # Errors
    /// It has no names.
    pub fn symbol_table(&self, kind: SectionType) -> Result<Option<(&Section, &Section)>> {
        let Some(table) = self.sections.iter().find(|s| s.kind == kind && s.size != 0) else {
            return Ok(None);
        };
        let names =
            self.sections.get(table.link as usize).filter(|s| !s.is_nobits()).ok_or_else(|| {
                self.malformed(table.offset, "a symbol table with names", "no .strtab".into())
            })?;
        Ok(Some((table, names)))
    }

    /// Base name of the debug file that `.gnu_debuglink` names.
    #[must_use]
    pub fn debug_link(&self) -> Option<String> {
        let raw = self.section_data(".gnu_debuglink").ok()??;
        let name = cstr(&raw).into_owned();
        (!name.is_empty() && !name.contains('/') && name.len() < 4096).then_some(name)
    }

    /// Build-id of the file that `.gnu_debugaltlink` names (dwz).
    #[must_use]
    pub fn shared_debug_build_id(&self) -> Option<BuildId> {
        let raw = self.section_data(".gnu_debugaltlink").ok()??;
        BuildId::new(raw.get(raw.iter().position(|&b| b == 0)? + 1..)?)
    }

    fn find_build_id(&self) -> Option<BuildId> {
        let sections = self.sections.iter().filter(|s| s.kind == SHT_NOTE);
        let segments = self.program_headers.iter().filter(|p| p.kind == PT_NOTE);
        sections
            .map(|s| (s.offset, s.size, s.align))
            .chain(segments.map(|p| (p.offset, p.filesz, p.align)))
            .filter(|&(_, size, _)| size <= NOTES_MAX)
            .find_map(|(offset, size, align)| {
                BuildId::from_notes(&self.range(offset, size, "notes").ok()?, align)
            })
    }

    fn range(&self, offset: u64, size: u64, wanted: &'static str) -> Result<Cow<'_, [u8]>> {
        let short = || self.malformed(offset, wanted, format!("{size:#x} bytes, past the end"));
        let len = usize::try_from(size).ok().filter(|_| size <= super::DATA_MAX).ok_or_else(short)?;
        self.source.bytes(offset, len).map_err(|_| short())
    }

    fn malformed(&self, offset: u64, wanted: &'static str, found: String) -> crate::error::Error {
        malformed(self.path(), offset, wanted, found)
    }
}

fn sections(header: &Header, source: &dyn Source) -> Result<Vec<Section>> {
    let (raw, path) = (&header.0, source.path());
    let at = raw.e_shoff.get(LE);
    if at == 0 {
        return Ok(Vec::new());
    }
    let each = raw.e_shentsize.get(LE);
    if usize::from(each) != size_of::<SectionHeader64<LE>>() {
        return Err(malformed(path, 58, "section headers of 64 bytes", each.to_string()));
    }
    // More than 65,279 sections: the numbers are in the first header.
    let first = header.first_section(source);
    let count = match raw.e_shnum.get(LE) {
        0 => first.map_or(0, |first| first.sh_size.get(LE)),
        count => count.into(),
    };
    let names = match raw.e_shstrndx.get(LE) {
        SHN_XINDEX => first.map_or(0, |first| first.sh_link.get(LE)),
        index => index.0.into(),
    };
    let bytes_of = |offset, size| source.bytes(offset, usize::try_from(size).ok()?).ok();
    let table = Some(count)
        .filter(|&count| count <= SECTIONS_MAX)
        .and_then(|count| bytes_of(at, count * u64::from(each)))
        .ok_or_else(|| {
            let found = format!("{count} of {each} bytes");
            malformed(path, at, "section headers within the file", found)
        })?;
    let table = rows::<SectionHeader64<LE>>(&table);
    // Names are a convenience: without their table, sections go by number only.
    let names = table
        .get(names as usize)
        .filter(|s| s.sh_size.get(LE) <= super::DATA_MAX)
        .and_then(|s| bytes_of(s.sh_offset.get(LE), s.sh_size.get(LE)))
        .unwrap_or_default();
    let section = |(index, raw): (usize, &SectionHeader64<LE>)| {
        let name = names.get(raw.sh_name.get(LE) as usize..).unwrap_or_default();
        Section {
            name: cstr(name.get(..256).unwrap_or(name)).into_owned(),
            index,
            kind: raw.sh_type.get(LE),
            flags: raw.sh_flags.get(LE),
            address: raw.sh_addr.get(LE),
            offset: raw.sh_offset.get(LE),
            size: raw.sh_size.get(LE),
            link: raw.sh_link.get(LE),
            align: raw.sh_addralign.get(LE),
        }
    };
    Ok(table.iter().enumerate().map(section).collect())
}
