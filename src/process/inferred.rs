//! The list of mapped files of a core that has none: no `NT_FILE` is written by
//! kernels before 3.7, by qemu-user, and by the kernel where it would be too large
//! (over 4 MiB: some 65,000 mappings of files).
//!
//! What is known then: ELF headers in memory say where the parts of their file lie,
//! and the dynamic linker's list and the auxiliary vector say what it is called.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use object::elf::PT_INTERP;

use super::Process;
use super::image::start_of;
use super::link_map::LinkMap;
use super::notes::FileNote;
use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::elf::{self, Header, PT_DYNAMIC, PT_LOAD, ProgramHeader};
use crate::memory::AddressSpace;

const AT_PHDR: u64 = 3;
const AT_BASE: u64 = 7;
const AT_ENTRY: u64 = 9;
const AT_EXECFN: u64 = 31;
const AT_SYSINFO_EHDR: u64 = 33;
const DT_STRTAB: u64 = 5;
const DT_SONAME: u64 = 14;
/// No process maps more files than this.
const IMAGES_MAX: usize = 1 << 13;

/// The mappings of all ELF files that memory shows, as `NT_FILE` would have them.
pub(super) fn file_notes(process: &Process) -> Vec<FileNote> {
    let stored = process.memory().stored();
    let mut notes = Vec::new();
    let mut names = HashSet::new();
    let objects = process.link_map();
    for segment in stored.segments().iter().filter(|s| s.present >= 64) {
        if names.len() >= IMAGES_MAX || process.auxv_entry(AT_SYSINFO_EHDR) == Some(segment.start) {
            continue;
        }
        let Some(image) = Image::at(process, segment.start) else { continue };
        let name = image.name(process, objects);
        let name = name.map_or_else(|| format!("(ELF file at {:#x})", image.start), |name| straight(&name));
        // The linker itself may map a file twice to look at it.
        if names.insert(name.clone()) {
            notes.extend(image.ranges(&name));
        }
    }
    notes
}

/// The way without its detours: `/opt/app/bin/../lib/libx.so`, as programs are started and
/// as the linker makes it of `$ORIGIN/../lib`. `NT_FILE` has none. Should a link on the way
/// lead elsewhere, another file lies there, which is refused like any other.
fn straight(name: &str) -> String {
    let path = Path::new(name);
    if !path.is_absolute() || name.starts_with("//") {
        return name.to_owned();
    }
    let mut way = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(part) => way.push(part),
            Component::ParentDir => drop(way.pop()),
            _ => {}
        }
    }
    way.into_os_string().into_string().unwrap_or_else(|_| name.to_owned())
}

struct Image {
    start: u64,
    bias: u64,
    phdrs: Vec<ProgramHeader>,
}

impl Image {
    /// The image whose ELF header stands at `start`.
    fn at(process: &Process, start: u64) -> Option<Self> {
        let mut magic = [0; 4];
        process.memory().read(VirtAddr(start), &mut magic).ok().filter(|&n| n == 4)?;
        if &magic != b"\x7fELF" {
            return None;
        }
        let raw = process.memory().read_vec(VirtAddr(start), 64).ok()?;
        let header = Header::read(&crate::bytes::source::InMemory::new("memory", raw.clone())).ok()?;
        // e_phnum, 56 bytes each.
        let count = usize::from(*raw.get(56)?) | usize::from(*raw.get(57)?) << 8;
        let at = start.checked_add(header.program_headers_at())?;
        let phdrs =
            ProgramHeader::parse_all(&process.memory().read_vec(VirtAddr(at), count.min(1024) * 56).ok()?);
        let bias = start.wrapping_sub(start_of(&phdrs)?);
        Some(Self { start, bias, phdrs })
    }

    fn covers(&self, addr: u64) -> bool {
        let link_time = addr.wrapping_sub(self.bias);
        self.phdrs.iter().any(|p| p.kind == PT_LOAD && p.vaddr <= link_time && link_time - p.vaddr < p.memsz)
    }

    fn name(&self, process: &Process, objects: &[LinkMap]) -> Option<String> {
        let string = |at: u64| process.memory().read_cstr(VirtAddr(at), 4096).ok().filter(|s| !s.is_empty());
        let holds = |key| process.auxv_entry(key).is_some_and(|at| self.covers(at));
        if holds(AT_PHDR) || holds(AT_ENTRY) {
            return string(process.auxv_entry(AT_EXECFN)?);
        }
        let object = objects.iter().find(|o| !o.name.is_empty() && self.covers(o.dynamic));
        let interpreter = || {
            process.auxv_entry(AT_BASE).filter(|&base| base == self.start)?;
            let program = Self::of_program(process)?;
            let phdr = program.phdrs.iter().find(|p| p.kind == PT_INTERP)?;
            string(program.bias.wrapping_add(phdr.vaddr))
        };
        object.map(|o| o.name.clone()).or_else(interpreter).or_else(|| self.soname(process))
    }

    fn of_program(process: &Process) -> Option<Self> {
        let at = process.auxv_entry(AT_PHDR)?;
        Self::at(process, process.memory().stored().segment(at)?.start)
    }

    fn soname(&self, process: &Process) -> Option<String> {
        let dynamic = self.phdrs.iter().find(|p| p.kind == PT_DYNAMIC)?;
        let at = VirtAddr(self.bias.wrapping_add(dynamic.vaddr));
        let len = usize::try_from(dynamic.memsz.min(1 << 16)).ok()?;
        let table = process.memory().read_vec(at, len).ok()?;
        let entry = |tag| elf::dynamic_entry(&table, tag);
        // glibc makes the pointers absolute in memory, musl and the vdso do not.
        let strings = entry(DT_STRTAB)?;
        let strings = if self.covers(strings) { strings } else { self.bias.wrapping_add(strings) };
        process.memory().read_cstr(VirtAddr(strings.checked_add(entry(DT_SONAME)?)?), 255).ok()
    }

    /// One mapping for each part of the file that is loaded.
    fn ranges(&self, name: &str) -> Vec<FileNote> {
        let down = |n: u64| n & !(PAGE_SIZE - 1);
        let note = |p: &ProgramHeader| {
            let start = self.bias.wrapping_add(down(p.vaddr));
            let size =
                (p.vaddr - down(p.vaddr)).checked_add(p.filesz)?.checked_next_multiple_of(PAGE_SIZE)?;
            let end = start.checked_add(size).filter(|&end| start < end)?;
            let offset = down(p.offset);
            offset.checked_add(size)?;
            Some(FileNote { start, end, offset, name: name.as_bytes().to_vec() })
        };
        self.phdrs.iter().filter(|p| p.kind == PT_LOAD).filter_map(note).collect()
    }
}
