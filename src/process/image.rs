//! Programs and libraries in the process's memory: where each lies, its program
//! headers, its symbols.

use std::sync::{Arc, OnceLock};

use object::elf::{ProgramType, SHT_DYNSYM, SHT_SYMTAB};

use super::Process;
use super::files::MappedFile;
use super::functions::{self, Table};
use super::notes::FileNote;
use super::rules::Rules;
use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::bytes::source::InMemory;
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
    own: OnceLock<Option<Table>>,
    dynamic: OnceLock<Option<Table>>,
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
        let own = self.own(process).and_then(|table| table.covering(link_time));
        own.or_else(|| self.dynamic()?.covering(link_time))
    }

    /// The address of a variable.
    #[must_use]
    pub fn variable(&self, process: &Process, name: &str) -> Option<u64> {
        self.exported(name).or_else(|| self.own(process)?.variable(name).map(|at| self.at(at)))
    }

    /// The address of a variable that the linker knows.
    #[must_use]
    pub fn exported(&self, name: &str) -> Option<u64> {
        let file = self.file.as_ref().and_then(|file| file.served());
        let may = file.and_then(|file| functions::may_export(file, name)).unwrap_or(true);
        Some(()).filter(|()| may).and_then(|()| self.dynamic()?.variable(name)).map(|at| self.at(at))
    }

    /// The address of a function.
    #[must_use]
    pub fn address_of(&self, process: &Process, name: &str) -> Option<u64> {
        let own = self.own(process).and_then(|table| table.function(name));
        own.or_else(|| self.dynamic()?.function(name)).map(|at| self.at(at))
    }

    /// The file's own symbols, else those of its debug file.
    fn own(&self, process: &Process) -> Option<&Table> {
        let read = || {
            let mapped = self.file.as_ref()?;
            let own = Table::of(&mapped.served()?.elf, SHT_SYMTAB);
            own.or_else(|| Table::of(&process.debug_file_of(mapped)?.elf, SHT_SYMTAB))
        };
        self.own.get_or_init(read).as_ref()
    }

    /// The symbols for the linker.
    fn dynamic(&self) -> Option<&Table> {
        let read = || match &self.file {
            Some(mapped) => Table::of(&mapped.served()?.elf, SHT_DYNSYM),
            None => Table::of(self.vdso.as_ref()?, SHT_DYNSYM),
        };
        self.dynamic.get_or_init(read).as_ref()
    }
}

/// The images of a file: it may be mapped twice (`dlmopen`), and besides as a whole by one
/// who reads it (backtraces do), which is no image.
pub(super) fn of_file(process: &Process, file: &Arc<MappedFile>) -> Vec<Image> {
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
            own: OnceLock::new(),
            dynamic: OnceLock::new(),
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

/// The image that the kernel maps into each process.
pub(super) fn vdso(process: &Process) -> Option<Image> {
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
        own: OnceLock::new(),
        dynamic: OnceLock::new(),
        rules: OnceLock::new(),
    })
}
