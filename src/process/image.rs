//! Programs and libraries in the process's memory: where each lies, its program
//! headers, its symbols.

use std::sync::{Arc, OnceLock};

use super::Process;
use super::elf::{self, Header, Phdr, Symbols};
use super::files::{self, MappedFile};
use super::rules::Rules;
use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::memory::AddressSpace;

/// One ELF image.
pub struct Image {
    /// The file's name in the core, or `[vdso]`.
    pub name: String,
    /// The file; none for the vdso.
    pub file: Option<Arc<MappedFile>>,
    /// Lowest address.
    pub start: u64,
    /// One past the highest address.
    pub end: u64,
    /// What is added to a link-time address (wrapping).
    pub bias: u64,
    /// The program headers.
    pub phdrs: Vec<Phdr>,
    symbols: OnceLock<Vec<Symbols>>,
    rules: OnceLock<Rules>,
}

impl Image {
    /// The unwind rules.
    #[must_use]
    pub fn rules(&self, process: &Process) -> &Rules {
        let read = || Rules::read(process, &self.phdrs, self.bias, self.file.as_deref());
        self.rules.get_or_init(read)
    }

    /// The run-time address of a link-time one.
    #[must_use]
    pub fn at(&self, link_time: u64) -> u64 {
        self.bias.wrapping_add(link_time)
    }

    /// The first program header of a kind.
    #[must_use]
    pub fn phdr(&self, kind: u32) -> Option<&Phdr> {
        self.phdrs.iter().find(|p| p.kind == kind)
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
        self.symbols.get_or_init(|| self.read_symbols(process)).iter().find_map(|s| s.lookup(link_time))
    }

    /// The file's own symbols, those of its debug file, those for the linker.
    fn read_symbols(&self, process: &Process) -> Vec<Symbols> {
        let Some(mapped) = &self.file else {
            let memory = |offset: u64, buf: &mut [u8]| {
                self.start
                    .checked_add(offset)
                    .is_some_and(|at| process.memory().read_exact(VirtAddr(at), buf).is_ok())
            };
            return Symbols::read(&memory, elf::SHT_DYNSYM).into_iter().collect();
        };
        let Some(found) = mapped.served() else { return Vec::new() };
        let debug = || {
            let id = mapped.expected()?;
            let dirs = &process.options().debug_dirs;
            let open = |dir| files::open_regular(&files::build_id_path(dir, id, ".debug")?).ok();
            let file = dirs.iter().find_map(|dir| open(dir))?.file;
            (elf::build_id(&*file).as_deref() == Some(id)).then(|| Symbols::read(&*file, elf::SHT_SYMTAB))?
        };
        let own = Symbols::read(&*found.file, elf::SHT_SYMTAB).or_else(debug);
        own.into_iter().chain(Symbols::read(&*found.file, elf::SHT_DYNSYM)).collect()
    }
}

/// All images of the process.
#[must_use]
pub fn find(process: &Process) -> Vec<Image> {
    let mut images: Vec<_> = process.files().iter().filter_map(of_file).collect();
    images.extend(vdso(process));
    images.sort_by_key(|i| i.start);
    images
}

fn of_file(file: &Arc<MappedFile>) -> Option<Image> {
    let in_core = file.in_core();
    let phdrs = match Header::read(&in_core) {
        Some(header) => Some(header.phdrs(&in_core)).filter(|p| !p.is_empty()),
        None => None,
    };
    let phdrs = phdrs.or_else(|| {
        let found = &*file.served()?.file;
        Some(Header::read(found)?.phdrs(found))
    })?;
    let first = file.first()?;
    let bias = first.start.wrapping_sub(start_of(&phdrs)?);
    // A file may be mapped twice: its image is what the program headers span.
    let span =
        phdrs.iter().filter(|p| p.kind == elf::PT_LOAD).filter_map(|p| p.vaddr.checked_add(p.memsz)).max()?;
    let end = bias.wrapping_add(span).max(first.end);
    let (name, start) = (file.name.clone(), first.start);
    let file = Some(Arc::clone(file));
    Some(Image { name, file, start, end, bias, phdrs, symbols: OnceLock::new(), rules: OnceLock::new() })
}

/// The link-time address of file offset 0.
fn start_of(phdrs: &[Phdr]) -> Option<u64> {
    let first = phdrs.iter().filter(|p| p.kind == elf::PT_LOAD).min_by_key(|p| p.offset)?;
    Some((first.vaddr & !(PAGE_SIZE - 1)).wrapping_sub(first.offset & !(PAGE_SIZE - 1)))
}

fn vdso(process: &Process) -> Option<Image> {
    const AT_SYSINFO_EHDR: u64 = 33;
    let start = process.auxv_entry(AT_SYSINFO_EHDR)?;
    if process.file_at(start).is_some() {
        return None;
    }
    let end = process.memory().stored().segment(start)?.end;
    let memory = |offset: u64, buf: &mut [u8]| {
        start.checked_add(offset).is_some_and(|at| process.memory().read_exact(VirtAddr(at), buf).is_ok())
    };
    let phdrs = Header::read(&memory)?.phdrs(&memory);
    let bias = start.wrapping_sub(start_of(&phdrs)?);
    Some(Image {
        name: "[vdso]".to_owned(),
        file: None,
        start,
        end,
        bias,
        phdrs,
        symbols: OnceLock::new(),
        rules: OnceLock::new(),
    })
}
