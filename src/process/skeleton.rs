//! An ELF file that stands for a program or library whose file is missing: what the
//! core itself shows of it.
//!
//! Without a program gdb asks for no libraries, and all frames are `??`. It needs
//! little of it: the program headers as they are in memory (it compares them), the
//! dynamic section, by which it finds the linker's list, and the build-id, by which it
//! finds a debug file. The symbol table and the unwind tables are there where the
//! core was written with the file's read-only pages.
//!
//! ```text
//!  0                the first page as in memory: ELF header, program headers, notes
//!  end of file      the sections' bytes, their names, the section headers
//! ```
//!
//! Layouts: `Elf64_Ehdr`, `Elf64_Shdr` (elf.h).

use object::elf::{
    PT_NOTE, SHF_ALLOC, SHF_EXECINSTR, SHF_WRITE, SHT_DYNAMIC, SHT_DYNSYM, SHT_NOBITS, SHT_NOTE,
    SHT_PROGBITS, SHT_STRTAB, SectionFlags, SectionType,
};

use super::Process;
use super::image::Image;
use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::bytes::u64_at;
use crate::elf::{self, PT_DYNAMIC, PT_GNU_EH_FRAME, PT_LOAD};
use crate::image::files::Sparse;
use crate::memory::AddressSpace;

const EHDR: usize = 64;
const SHDR: usize = 64;
/// Bytes of one section.
const SECTION_MAX: u64 = 64 << 20;
/// No file ends behind it, and what is put behind the end has room.
const END_MAX: u64 = 1 << 62;
const DT_HASH: u64 = 4;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_STRSZ: u64 = 10;
const DT_GNU_HASH: u64 = 0x6fff_fef5;

struct Section {
    name: &'static str,
    kind: SectionType,
    flags: SectionFlags,
    /// At link time.
    address: u64,
    size: u64,
    link: u32,
    entry: u64,
    bytes: Vec<u8>,
}

/// The file that stands for `image`; nothing where the core holds not even its headers.
#[must_use]
pub fn of(process: &Process, image: &Image) -> Option<Sparse> {
    let first = image.file.as_ref()?.first()?;
    let mut head = read(process, first.start, PAGE_SIZE)?;
    if head.len() < EHDR || !head.starts_with(b"\x7fELF") {
        return None;
    }
    let sections = sections(process, image);
    let loads = image.phdrs.iter().filter(|p| p.kind == PT_LOAD);
    let end = loads.filter_map(|p| p.offset.checked_add(p.filesz)).max()?.max(PAGE_SIZE);
    let mut at = Some(end).filter(|&end| end < END_MAX)?.next_multiple_of(8);
    let mut pieces: Vec<(u64, Vec<u8>)> = Vec::new();
    let (mut names, mut table) = (vec![0], vec![0; SHDR]);
    let add = |table: &mut Vec<u8>, s: &Section, name: usize, offset: u64| {
        let (name, link) = (u32::try_from(name).unwrap_or(0), s.link);
        table.extend([name.to_le_bytes(), s.kind.0.to_le_bytes()].concat());
        for word in [s.flags.0, s.address, offset, s.size] {
            table.extend(word.to_le_bytes());
        }
        table.extend([link.to_le_bytes(), 0u32.to_le_bytes()].concat());
        table.extend([8u64.to_le_bytes(), s.entry.to_le_bytes()].concat());
    };
    let mut put = |bytes: Vec<u8>| {
        let offset = at;
        at = (at + bytes.len() as u64).next_multiple_of(8);
        pieces.push((offset, bytes));
        offset
    };
    let name_of = |names: &mut Vec<u8>, name: &str| {
        let at = names.len();
        names.extend([name.as_bytes(), b"\0"].concat());
        at
    };
    let count = sections.len() + 2;
    for mut section in sections {
        let name = name_of(&mut names, section.name);
        let offset = put(std::mem::take(&mut section.bytes));
        add(&mut table, &section, name, offset);
    }
    let name = name_of(&mut names, ".shstrtab");
    let (size, offset) = (names.len() as u64, put(names));
    let shstrtab = Section { size, ..Section::new(".shstrtab", SHT_STRTAB, SectionFlags(0), 0, Vec::new()) };
    add(&mut table, &shstrtab, name, offset);
    let section_headers = put(table);
    let mut set = |at: usize, bytes: &[u8]| {
        if let Some(to) = head.get_mut(at..at + bytes.len()) {
            to.copy_from_slice(bytes);
        }
    };
    let count = u16::try_from(count).ok()?;
    set(40, &section_headers.to_le_bytes());
    set(58, &64u16.to_le_bytes());
    set(60, &count.to_le_bytes());
    set(62, &(count - 1).to_le_bytes());
    pieces.insert(0, (0, head));
    Some(Sparse { pieces, len: at })
}

impl Section {
    fn new(name: &'static str, kind: SectionType, flags: SectionFlags, address: u64, bytes: Vec<u8>) -> Self {
        let size = bytes.len() as u64;
        Self { name, kind, flags, address, size, link: 0, entry: 0, bytes }
    }
}

fn read(process: &Process, at: u64, len: u64) -> Option<Vec<u8>> {
    process.memory().read_vec(VirtAddr(at), usize::try_from(len.min(SECTION_MAX)).ok()?).ok()
}

/// What can be said of the image's parts, in the order of the section table, which
/// begins with an empty one.
fn sections(process: &Process, image: &Image) -> Vec<Section> {
    let mut all = Vec::new();
    let mut take = |name, kind, flags, address: u64, len: u64| {
        let bytes = read(process, image.at(address), len).filter(|b| b.len() as u64 == len && len > 0)?;
        all.push(Section::new(name, kind, flags, address, bytes));
        Some(all.len())
    };
    // The symbol table's strings are the next section.
    if let Some((symbols, count, strings, strings_len)) = symbol_table(process, image)
        && let Some(at) = take(".dynsym", SHT_DYNSYM, SHF_ALLOC, symbols, count * 24)
        && take(".dynstr", SHT_STRTAB, SHF_ALLOC, strings, strings_len).is_some()
    {
        let at = at - 1;
        if let Some(table) = all.get_mut(at) {
            (table.link, table.entry) = (u32::try_from(at + 2).unwrap_or(0), 24);
        }
    }
    let mut take = |name, kind, flags, address: u64, len: u64| {
        let bytes = read(process, image.at(address), len).filter(|b| b.len() as u64 == len && len > 0);
        all.extend(bytes.map(|bytes| Section::new(name, kind, flags, address, bytes)));
    };
    if let Some(p) = image.phdr(PT_DYNAMIC) {
        take(".dynamic", SHT_DYNAMIC, SHF_ALLOC | SHF_WRITE, p.vaddr, p.memsz);
    }
    for p in image.phdrs.iter().filter(|p| p.kind == PT_NOTE && p.filesz < 1 << 16) {
        take(".note", SHT_NOTE, SHF_ALLOC, p.vaddr, p.filesz);
    }
    if let Some((header, len, frames, frames_len)) = eh_frame(process, image) {
        take(".eh_frame_hdr", SHT_PROGBITS, SHF_ALLOC, header, len);
        take(".eh_frame", SHT_PROGBITS, SHF_ALLOC, frames, frames_len);
    }
    for p in image.phdrs.iter().filter(|p| p.kind == PT_LOAD && p.memsz > 0) {
        let (name, flags) = match (p.is_writable(), p.flags & 1 != 0) {
            (true, _) => (".data", SHF_ALLOC | SHF_WRITE),
            (_, true) => (".text", SHF_ALLOC | SHF_EXECINSTR),
            _ => continue,
        };
        let section = Section::new(name, SHT_NOBITS, flags, p.vaddr, Vec::new());
        all.push(Section { size: p.memsz, ..section });
    }
    all
}

/// Where the linker's symbol table is, how many entries it has, and its strings.
fn symbol_table(process: &Process, image: &Image) -> Option<(u64, u64, u64, u64)> {
    let dynamic = image.phdr(PT_DYNAMIC)?;
    let table = read(process, image.at(dynamic.vaddr), dynamic.memsz.min(1 << 16))?;
    let entry = |tag| elf::dynamic_entry(&table, tag);
    // glibc has made the addresses those of run time, musl leaves them as they were.
    let linked = |at: u64| if at >= image.start && at < image.end { at.wrapping_sub(image.bias) } else { at };
    let (symbols, strings) = (linked(entry(DT_SYMTAB)?), linked(entry(DT_STRTAB)?));
    let word = |at: u64| process.memory().read_u32(VirtAddr(image.at(at))).ok();
    let by_hash = entry(DT_HASH).map(linked).and_then(|at| word(at.checked_add(4)?)).map(u64::from);
    let by_gnu_hash = || gnu_hash_count(linked(entry(DT_GNU_HASH)?), &word);
    // The strings follow the symbols with all linkers.
    let by_distance = || strings.checked_sub(symbols).map(|n| n / 24);
    let count =
        by_hash.or_else(by_gnu_hash).or_else(by_distance).filter(|&n| n > 0 && n < SECTION_MAX / 24)?;
    Some((symbols, count, strings, entry(DT_STRSZ)?.min(SECTION_MAX)))
}

/// How many symbols `DT_GNU_HASH` leads to: the last bucket's chain ends with the last.
fn gnu_hash_count(at: u64, word: &dyn Fn(u64) -> Option<u32>) -> Option<u64> {
    const STEPS_MAX: u64 = 1 << 22;
    let field = |i: u64| word(at.checked_add(4 * i)?).map(u64::from);
    let (buckets, first, bloom) = (field(0)?, field(1)?, field(2)?);
    let chains = 4 + bloom.checked_mul(2)?.checked_add(buckets)?;
    let heads = (0..buckets.min(STEPS_MAX)).filter_map(|i| field(4 + bloom * 2 + i));
    let last = heads.max().filter(|&n| n >= first)?;
    let ends = |n: &u64| chains.checked_add(n - first).and_then(field).is_none_or(|hash| hash & 1 == 1);
    (last..last.saturating_add(STEPS_MAX)).find(ends).map(|n| n + 1)
}

/// `.eh_frame_hdr` and `.eh_frame`, at link time, up to the end of their part.
fn eh_frame(process: &Process, image: &Image) -> Option<(u64, u64, u64, u64)> {
    let header = image.phdr(PT_GNU_EH_FRAME)?;
    // Version 1, `DW_EH_PE_pcrel | DW_EH_PE_sdata4`: what all linkers write.
    let head = read(process, image.at(header.vaddr), 8).filter(|h| h.starts_with(&[1, 0x1b]))?;
    let distance = u64_at(&head, 0)? >> 32;
    let at = header.vaddr.wrapping_add(4).wrapping_add_signed(i64::from(distance as u32 as i32));
    let holds = |p: &&elf::ProgramHeader| p.kind == PT_LOAD && p.vaddr <= at && at - p.vaddr < p.filesz;
    let load = image.phdrs.iter().find(holds)?;
    Some((header.vaddr, header.memsz, at, load.filesz - (at - load.vaddr)))
}
