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
//!  where they were  the sections: gdb warns of each that lies outside its segment
//!  end of file      the sections' names, the section headers
//! ```
//!
//! Layouts: `Elf64_Ehdr`, `Elf64_Shdr` (elf.h).

use gimli::{BaseAddresses, CieOrFde, EhFrame, LittleEndian, UnwindSection};
use object::elf::{
    PT_NOTE, SHF_ALLOC, SHF_EXECINSTR, SHF_WRITE, SHT_DYNAMIC, SHT_DYNSYM, SHT_NOBITS, SHT_NOTE,
    SHT_PROGBITS, SHT_STRTAB, SectionFlags, SectionType,
};

use super::Process;
use super::image::Image;
use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::bytes::{u32_at, u64_at};
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
    /// In the file.
    offset: u64,
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
    let names_at = Some(end).filter(|&end| end < END_MAX)?.next_multiple_of(8);
    let (mut names, mut table) = (vec![0], vec![0; SHDR]);
    let mut add = |names: &mut Vec<u8>, s: &Section| {
        let (name, link) = (u32::try_from(names.len()).unwrap_or(0), s.link);
        names.extend([s.name.as_bytes(), b"\0"].concat());
        table.extend([name.to_le_bytes(), s.kind.0.to_le_bytes()].concat());
        for word in [s.flags.0, s.address, s.offset, s.size] {
            table.extend(word.to_le_bytes());
        }
        table.extend([link.to_le_bytes(), 0u32.to_le_bytes()].concat());
        table.extend([8u64.to_le_bytes(), s.entry.to_le_bytes()].concat());
    };
    sections.iter().for_each(|section| add(&mut names, section));
    let count = u16::try_from(sections.len() + 2).ok()?;
    let mut pieces: Vec<(u64, Vec<u8>)> = sections.into_iter().map(|s| (s.offset, s.bytes)).collect();
    let name = ".shstrtab";
    let own = Section::new((name, SHT_STRTAB, SectionFlags(0)), 0, names_at, Vec::new());
    let size = (names.len() + name.len() + 1) as u64;
    add(&mut names, &Section { size, ..own });
    let headers_at = (names_at + size).next_multiple_of(8);
    let mut set = |at: usize, bytes: &[u8]| {
        if let Some(to) = head.get_mut(at..at + bytes.len()) {
            to.copy_from_slice(bytes);
        }
    };
    set(40, &headers_at.to_le_bytes());
    set(58, &64u16.to_le_bytes());
    set(60, &count.to_le_bytes());
    set(62, &(count - 1).to_le_bytes());
    let len = headers_at + table.len() as u64;
    // The header lies over what else stands in its page.
    pieces.extend([(names_at, names), (headers_at, table), (0, head)]);
    Some(Sparse { pieces, len })
}

/// Name, kind and flags of a section.
type Kind = (&'static str, SectionType, SectionFlags);

impl Section {
    fn new((name, kind, flags): Kind, address: u64, offset: u64, bytes: Vec<u8>) -> Self {
        let size = bytes.len() as u64;
        Self { name, kind, flags, address, offset, size, link: 0, entry: 0, bytes }
    }

    /// Where the core holds it whole.
    fn held(process: &Process, image: &Image, kind: Kind, address: u64, len: u64) -> Option<Self> {
        let load = image.load_of(address).filter(|p| len > 0 && len <= p.filesz - (address - p.vaddr))?;
        let bytes = read(process, image.at(address), len).filter(|b| b.len() as u64 == len)?;
        let offset = load.offset.checked_add(address - load.vaddr)?;
        offset.checked_add(len).filter(|&end| end < END_MAX)?;
        Some(Self::new(kind, address, offset, bytes))
    }

    /// `.eh_frame` up to its terminator, behind which other sections may follow, or to
    /// the first entry that makes no sense: gdb ends with an internal error where an
    /// entry leads to no CIE (`decode_frame_entry_1`).
    fn cut_to_whole_entries(mut self) -> Self {
        let section = EhFrame::new(&self.bytes, LittleEndian);
        let bases = BaseAddresses::default().set_eh_frame(self.address);
        let mut entries = section.entries(&bases);
        let mut end = 0;
        while let Ok(Some(entry)) = entries.next() {
            let whole = match entry {
                CieOrFde::Cie(_) => true,
                CieOrFde::Fde(fde) => fde.parse(EhFrame::cie_from_offset).is_ok(),
            };
            let Some(len) = u32_at(&self.bytes, end).filter(|&len| whole && len != u32::MAX) else { break };
            end += 4 + len as usize;
        }
        self.bytes.truncate(end);
        self.size = self.bytes.len() as u64;
        self
    }
}

fn read(process: &Process, at: u64, len: u64) -> Option<Vec<u8>> {
    process.memory().read_vec(VirtAddr(at), usize::try_from(len.min(SECTION_MAX)).ok()?).ok()
}

/// What can be said of the image's parts, in the order of the section table, which
/// begins with an empty one.
fn sections(process: &Process, image: &Image) -> Vec<Section> {
    let held = |kind, address, len| Section::held(process, image, kind, address, len);
    let mut all = Vec::new();
    if let Some((symbols, count, strings, strings_len)) = symbol_table(process, image)
        && let Some(symbols) = held((".dynsym", SHT_DYNSYM, SHF_ALLOC), symbols, count * 24)
        && let Some(strings) = held((".dynstr", SHT_STRTAB, SHF_ALLOC), strings, strings_len)
    {
        // The symbol table's strings are the second section.
        all.extend([Section { link: 2, entry: 24, ..symbols }, strings]);
    }
    if let Some(p) = image.phdr(PT_DYNAMIC) {
        all.extend(held((".dynamic", SHT_DYNAMIC, SHF_ALLOC | SHF_WRITE), p.vaddr, p.memsz));
    }
    for p in image.phdrs.iter().filter(|p| p.kind == PT_NOTE && p.filesz < 1 << 16) {
        all.extend(held((".note", SHT_NOTE, SHF_ALLOC), p.vaddr, p.filesz));
    }
    if let Some((header, frames, len)) = eh_frame(process, image) {
        all.extend(held((".eh_frame_hdr", SHT_PROGBITS, SHF_ALLOC), header.vaddr, header.memsz));
        let frames = held((".eh_frame", SHT_PROGBITS, SHF_ALLOC), frames, len);
        all.extend(frames.map(Section::cut_to_whole_entries));
    }
    for p in image.phdrs.iter().filter(|p| p.kind == PT_LOAD && p.memsz > 0) {
        let (name, flags) = match (p.is_writable(), p.flags & 1 != 0) {
            (true, _) => (".data", SHF_ALLOC | SHF_WRITE),
            // Writable too: what is read-only LLDB takes from the file, which has only zeros.
            (_, true) => (".text", SHF_ALLOC | SHF_WRITE | SHF_EXECINSTR),
            _ => continue,
        };
        let section = Section::new((name, SHT_NOBITS, flags), p.vaddr, p.offset, Vec::new());
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

/// `.eh_frame_hdr`, and where `.eh_frame` begins, at link time, with the bytes up to the
/// end of its segment.
fn eh_frame<'a>(process: &Process, image: &'a Image) -> Option<(&'a elf::ProgramHeader, u64, u64)> {
    let header = image.phdr(PT_GNU_EH_FRAME)?;
    // Version 1, `DW_EH_PE_pcrel | DW_EH_PE_sdata4`: what all linkers write.
    let head = read(process, image.at(header.vaddr), 8).filter(|h| h.starts_with(&[1, 0x1b]))?;
    let distance = u64_at(&head, 0)? >> 32;
    let at = header.vaddr.wrapping_add(4).wrapping_add_signed(i64::from(distance as u32 as i32));
    let load = image.load_of(at)?;
    Some((header, at, load.filesz - (at - load.vaddr)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A CIE as gcc writes it, and an FDE of it.
    fn entries() -> Vec<u8> {
        let mut bytes = 20u32.to_le_bytes().to_vec();
        bytes.extend([0, 0, 0, 0, 1, b'z', b'R', 0, 1, 0x78, 16, 1, 0x1b, 12, 7, 8, 0x90, 1, 0, 0]);
        bytes.extend([20u32, 28, 0x1000, 0x20].map(u32::to_le_bytes).concat());
        bytes.extend([0; 8]);
        bytes
    }

    fn cut(bytes: &[u8]) -> Vec<u8> {
        let kind = (".eh_frame", SHT_PROGBITS, SHF_ALLOC);
        let section = Section::new(kind, 0x2000, 0x2000, bytes.to_vec()).cut_to_whole_entries();
        assert_eq!(section.size, section.bytes.len() as u64);
        section.bytes
    }

    #[test]
    fn what_follows_the_terminator_is_not_of_the_unwind_table() {
        let whole = entries();
        assert_eq!(cut(&whole), whole);
        // binutils 2.44 puts the notes there.
        let note = [4u32, 16, 5, 0x55_4e47].map(u32::to_le_bytes).concat();
        assert_eq!(cut(&[whole.clone(), vec![0; 4], note].concat()), whole);
        assert!(cut(&[]).is_empty());
    }

    #[test]
    fn an_entry_without_its_cie_ends_the_table() {
        let whole = entries();
        let mut stray = whole.clone();
        stray[28] = 27;
        assert_eq!(cut(&stray), whole[..24]);
        let mut cut_off = whole.clone();
        cut_off.truncate(40);
        assert_eq!(cut(&cut_off), whole[..24]);
    }
}
