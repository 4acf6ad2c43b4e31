//! Programs and libraries in the process's memory: where each lies, its program
//! headers, its symbols.

use std::sync::{Arc, OnceLock};

use object::elf::{
    ProgramType, SHN_LORESERVE, SHN_UNDEF, SHT_DYNSYM, SHT_SYMTAB, STB_LOCAL, STT_FUNC, STT_GNU_IFUNC,
    STT_NOTYPE, STT_OBJECT, SectionType,
};

use super::Process;
use super::files::MappedFile;
use super::notes::FileNote;
use super::rules::Rules;
use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::bytes::source::InMemory;
use crate::debuginfo::symbols::{Builder, SymbolTable};
use crate::elf::{self, PT_LOAD, ProgramHeader};
use crate::memory::AddressSpace;

/// No vdso is larger (two to four pages).
const VDSO_MAX: u64 = 1 << 20;

/// One file is in memory at most so often: a process has few namespaces of the linker.
const IMAGES_MAX: usize = 64;

/// One ELF image.
pub struct Image {
    /// The file's name in the core, or `[vdso]`.
    pub name: String,
    /// The file; none for the vdso.
    pub file: Option<Arc<MappedFile>>,
    vdso: Option<elf::File>,
    /// Lowest address.
    pub start: u64,
    /// One past the highest address.
    pub end: u64,
    /// What is added to a link-time address (wrapping).
    pub bias: u64,
    /// The program headers.
    pub phdrs: Vec<ProgramHeader>,
    symbols: OnceLock<Vec<SymbolTable>>,
    rules: OnceLock<Rules>,
}

impl Image {
    /// The unwind rules.
    #[must_use]
    pub fn rules(&self, process: &Process) -> &Rules {
        let read = || Rules::read(process, &self.phdrs, self.bias, self.file.as_deref());
        self.rules.get_or_init(read)
    }

    /// Whether the program headers put that part of the file there.
    fn has(&self, range: &FileNote) -> bool {
        let at = range.start.wrapping_sub(self.bias);
        let page = |number: u64| number & !(PAGE_SIZE - 1);
        self.phdrs.iter().filter(|p| p.kind == PT_LOAD).any(|p| {
            let into = at.wrapping_sub(page(p.vaddr));
            into < page(p.memsz.saturating_add(2 * PAGE_SIZE))
                && page(p.offset).wrapping_add(into) == range.offset
        })
    }

    /// The run-time address of a link-time one.
    #[must_use]
    pub fn at(&self, link_time: u64) -> u64 {
        self.bias.wrapping_add(link_time)
    }

    /// The first program header of a kind.
    #[must_use]
    pub fn phdr(&self, kind: ProgramType) -> Option<&ProgramHeader> {
        self.phdrs.iter().find(|p| p.kind == kind)
    }

    /// The segment of whose bytes in the file `address` is one, at link time.
    #[must_use]
    pub fn load_of(&self, address: u64) -> Option<&ProgramHeader> {
        let holds =
            |p: &&ProgramHeader| p.kind == PT_LOAD && p.vaddr <= address && address - p.vaddr < p.filesz;
        self.phdrs.iter().find(holds)
    }

    /// Offset of `addr` in the image's file, where a mapping shows it.
    #[must_use]
    pub fn file_offset(&self, addr: u64) -> Option<u64> {
        let ranges = self.file.as_ref().map(|f| f.ranges.as_slice()).unwrap_or_default();
        let range = ranges.iter().find(|r| r.start <= addr && addr < r.end)?;
        Some(range.offset + (addr - range.start))
    }

    /// The function that holds `addr`, and how far into it `addr` is.
    #[must_use]
    pub fn symbol(&self, process: &Process, addr: u64) -> Option<(String, u64)> {
        let link_time = addr.wrapping_sub(self.bias);
        let (symbol, offset) = self.symbols(process).iter().find_map(|table| table.covering(link_time))?;
        // `clock_nanosleep@@GLIBC_2.17`: the version is the linker's business.
        let plain = symbol.name.split('@').next().filter(|n| !n.is_empty()).unwrap_or(symbol.name);
        Some((plain.to_owned(), offset))
    }

    /// The address of a variable that the linker knows.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<u64> {
        let file = &self.file.as_ref()?.served()?.elf;
        let find = |kind| {
            let symbols = file.symbols(kind).ok()??;
            let plain = |n: &[u8]| n.split(|&b| b == b'@').next() == Some(name.as_bytes());
            let is_it = |s: &elf::Symbol<'_>| {
                s.info.st_type() == STT_OBJECT && s.section != SHN_UNDEF && plain(s.name)
            };
            symbols.iter().find(is_it).map(|s| self.at(s.value))
        };
        find(SHT_DYNSYM).or_else(|| find(SHT_SYMTAB))
    }

    /// The address of a function.
    #[must_use]
    pub fn address_of(&self, process: &Process, name: &str) -> Option<u64> {
        self.symbols(process).iter().find_map(|table| table.by_name(name)).map(|s| self.at(s.address))
    }

    fn symbols(&self, process: &Process) -> &[SymbolTable] {
        self.symbols.get_or_init(|| self.read_symbols(process))
    }

    /// The file's own symbols, those of its debug file, those for the linker.
    fn read_symbols(&self, process: &Process) -> Vec<SymbolTable> {
        let Some(mapped) = &self.file else {
            return self.vdso.iter().filter_map(|vdso| functions(vdso, SHT_DYNSYM)).collect();
        };
        let Some(found) = mapped.served() else { return Vec::new() };
        let debug = || functions(&process.debug_file_of(mapped)?.elf, SHT_SYMTAB);
        let own = functions(&found.elf, SHT_SYMTAB).or_else(debug);
        own.into_iter().chain(functions(&found.elf, SHT_DYNSYM)).collect()
    }
}

/// The code symbols of one of the file's tables, if it has that table.
fn functions(file: &elf::File, kind: SectionType) -> Option<SymbolTable> {
    let symbols = file.symbols(kind).ok()??;
    let mut table = Builder::new(file.path().display().to_string());
    // STT_NOTYPE: assembly.
    let code = |s: &elf::Symbol<'_>| matches!(s.info.st_type(), STT_NOTYPE | STT_FUNC | STT_GNU_IFUNC);
    for s in symbols.iter().filter(code).filter(|s| s.section != SHN_UNDEF && s.section.0 < SHN_LORESERVE) {
        table.push(s.value, s.size, if s.info.st_bind() == STB_LOCAL { b't' } else { b'T' }, s.name);
    }
    Some(table.finish_as_told())
}

/// All images of the process.
#[must_use]
pub fn find(process: &Process) -> Vec<Image> {
    let mut images: Vec<_> = process.files().iter().flat_map(|file| of_file(process, file)).collect();
    images.extend(vdso(process));
    images.sort_by_key(|i| i.start);
    images
}

/// The images of a file: it may be mapped twice (`dlmopen`), and besides as a whole by one
/// who reads it (backtraces do), which is no image.
fn of_file(process: &Process, file: &Arc<MappedFile>) -> Vec<Image> {
    let mut images = all_of_file(file).unwrap_or_default();
    let stored = process.memory().stored();
    let executable = |image: &Image| {
        let own = |r: &&FileNote| image.start <= r.start && r.start < image.end;
        let mut ranges = file.ranges.iter().filter(own);
        ranges.any(|r| stored.segment(r.start).is_some_and(|s| s.executable()))
    };
    if images.iter().any(executable) {
        images.retain(executable);
    } else {
        images.truncate(1);
    }
    images
}

fn all_of_file(file: &Arc<MappedFile>) -> Option<Vec<Image>> {
    let in_core = file.image().map(elf::File::program_headers).filter(|p| !p.is_empty());
    let phdrs = in_core.or_else(|| Some(file.served()?.elf.program_headers()))?.to_vec();
    let start = start_of(&phdrs)?;
    let span =
        phdrs.iter().filter(|p| p.kind == PT_LOAD).filter_map(|p| p.vaddr.checked_add(p.memsz)).max()?;
    let first = file.first()?;
    let mut images: Vec<Image> = Vec::new();
    for range in file.ranges.iter().filter(|r| r.offset == first.offset) {
        // A small program's data may lie in the file's first page, too.
        if images.last().is_some_and(|image| image.has(range)) {
            continue;
        }
        let bias = range.start.wrapping_sub(start);
        images.push(Image {
            name: file.name.clone(),
            file: Some(Arc::clone(file)),
            vdso: None,
            start: range.start,
            end: bias.wrapping_add(span).max(range.end),
            bias,
            phdrs: phdrs.clone(),
            symbols: OnceLock::new(),
            rules: OnceLock::new(),
        });
        if images.len() >= IMAGES_MAX {
            break;
        }
    }
    Some(images)
}

/// The link-time address of file offset 0.
pub(super) fn start_of(phdrs: &[ProgramHeader]) -> Option<u64> {
    let first = phdrs.iter().filter(|p| p.kind == PT_LOAD).min_by_key(|p| p.offset)?;
    Some((first.vaddr & !(PAGE_SIZE - 1)).wrapping_sub(first.offset & !(PAGE_SIZE - 1)))
}

fn vdso(process: &Process) -> Option<Image> {
    const AT_SYSINFO_EHDR: u64 = 33;
    let start = process.auxv_entry(AT_SYSINFO_EHDR)?;
    if process.file_at(start).is_some() {
        return None;
    }
    let end = process.memory().stored().segment(start)?.end;
    let mut bytes = vec![0; usize::try_from((end - start).min(VDSO_MAX)).ok()?];
    let read = process.memory().read(VirtAddr(start), &mut bytes).ok()?;
    bytes.truncate(read);
    let vdso = elf::File::read(Arc::new(InMemory::new("[vdso]", bytes))).ok()?;
    let phdrs = vdso.program_headers().to_vec();
    let bias = start.wrapping_sub(start_of(&phdrs)?);
    Some(Image {
        name: "[vdso]".to_owned(),
        file: None,
        vdso: Some(vdso),
        start,
        end,
        bias,
        phdrs,
        symbols: OnceLock::new(),
        rules: OnceLock::new(),
    })
}
