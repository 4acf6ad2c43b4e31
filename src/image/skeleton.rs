//! A skeleton ELF: section headers and symbols at run-time addresses, and no
//! contents (gdb reads memory from the server).
//!
//! What gdb 13 needs of it, each of these learnt the hard way:
//!
//! * ET_EXEC with sections named as in the real file: gdb relocates separate
//!   debug info section by section, by name.
//! * No section at address 0 (`.data..percpu`): gdb takes 0 for "unknown".
//! * `e_entry` 1: within a function it would be the outermost one, and 0 ends
//!   the backtrace of every pc outside symbols.
//! * Of several names for one address the best has the size and the others none:
//!   gdb prefers a symbol with a size, and would else take the last by alphabet.

use std::io::Write as _;
use std::ops::Range;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use object::elf;
use object::endian::Endianness;
use object::write::StringId;
use object::write::elf::{FileHeader, ProgramHeader, SectionHeader, SinglePhase, Writer};

use super::leb::{Put, len32};
use crate::debuginfo::symbols::{Symbol, SymbolTable};

#[cfg(test)]
#[path = "tests/skeleton.rs"]
mod tests;

/// Below this, addresses are offsets in the per-CPU area (before 6.15): as
/// symbols they would make every small number look like one.
const KERNEL_HALF: u64 = 1 << 63;
/// Section indices from here on are reserved; and no real file has as many.
const MAX_SECTIONS: usize = 4096;

/// What a section holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SectionKind {
    /// Code.
    Text,
    /// Variables and constants.
    Data,
}

/// A section of the real image, where it is on the dumped machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Its name, as in the real file where that is known.
    pub name: String,
    /// Where it is.
    pub range: Range<u64>,
    /// What it holds.
    pub kind: SectionKind,
}

/// The parts of a skeleton.
#[derive(Debug, Clone, Copy, Default)]
pub struct Skeleton<'a> {
    /// Sections at their run-time addresses.
    pub sections: &'a [Section],
    /// The build-id, if gdb is to look for separate debug info (or this is it).
    pub build_id: Option<&'a [u8]>,
    /// The symbols, in the form of [`symbol_table`].
    pub symbols: Option<&'a ElfSymbols>,
    /// Name and checksum of a debug file beside this one, which gdb takes if it
    /// finds none by the build-id.
    pub debug_link: Option<(&'a str, u32)>,
    /// Sections with contents: `.debug_frame`, `.debug_info`...
    pub contents: &'a [(&'static str, &'a [u8])],
    /// A shared object: LLDB takes an executable for the one of the process, and for
    /// each further one forgets where all others are (14 to 22).
    pub shared: bool,
}

impl Skeleton<'_> {
    /// The file.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let contents: usize = self.contents.iter().map(|(_, b)| b.len() + 8).sum();
        let symbols = self.symbols.map_or(0, |s| s.entries.len() + s.names.len());
        let mut file = Vec::with_capacity(contents + symbols + 128 * (self.sections.len() + 16));
        // The writer fails on tables larger than the format allows; ours are not.
        let headers = self.write(&mut file).unwrap_or_default();
        if let Some(front) = file.get_mut(..headers.len()) {
            front.copy_from_slice(&headers);
        }
        file
    }

    fn write(&self, file: &mut Vec<u8>) -> object::write::Result<Vec<u8>> {
        let note = self.build_id.map(note).unwrap_or_default();
        let lowest = lowest(self.sections);
        let segments = u32::from(lowest.is_some()) + u32::from(!note.is_empty());
        let header = FileHeader {
            os_abi: elf::ELFOSABI_NONE,
            abi_version: 0,
            e_type: if self.shared { elf::ET_DYN } else { elf::ET_EXEC },
            e_machine: elf::EM_X86_64,
            e_entry: 1,
            e_flags: elf::FileFlags(0),
        };

        let mut w = Writer::new_single_phase(Endianness::Little, true, file);
        w.write_file_header(&header)?;
        w.write_program_headers_placeholder(segments);
        let mut headers = Vec::new();
        for s in usable(self.sections) {
            // Constants are writable too: what is read-only LLDB takes from the file (seen with
            // 19), and gdb with `trust-readonly-sections`, where there are only zeros.
            let (code, name) = match s.kind {
                SectionKind::Text => (elf::SHF_EXECINSTR, &s.name),
                SectionKind::Data => (elf::SectionFlags(0), &s.name),
            };
            let sh_flags = elf::SHF_ALLOC | elf::SHF_WRITE | code;
            let section = SectionHeader {
                sh_name: 0,
                sh_type: elf::SHT_NOBITS,
                sh_flags,
                sh_addr: s.range.start,
                sh_offset: w.offset(),
                sh_size: s.range.end - s.range.start,
                sh_link: 0,
                sh_info: 0,
                sh_addralign: 1,
                sh_entsize: 0,
            };
            headers.push((w.add_section_name(name.as_bytes()), section));
        }
        let mut note_at = 0;
        if !note.is_empty() {
            let i = add(&mut w, &mut headers, ".note.gnu.build-id", &note, 4);
            if let Some((_, h)) = headers.get_mut(i) {
                h.sh_type = elf::SHT_NOTE;
                note_at = h.sh_offset;
            }
        }
        for (name, data) in self.contents {
            match compressed(data) {
                Some(packed) => {
                    let i = add(&mut w, &mut headers, name, &packed, 8);
                    if let Some((_, h)) = headers.get_mut(i) {
                        h.sh_flags = elf::SHF_COMPRESSED;
                    }
                }
                None => {
                    add(&mut w, &mut headers, name, data, 8);
                }
            }
        }
        if let Some((name, checksum)) = self.debug_link {
            let mut link = Vec::new();
            link.cstr(name);
            link.resize(link.len().next_multiple_of(4), 0);
            link.u32(checksum);
            add(&mut w, &mut headers, ".gnu_debuglink", &link, 4);
        }
        if let Some(s) = self.symbols {
            let i = add(&mut w, &mut headers, ".symtab", &s.entries, 8);
            let j = add(&mut w, &mut headers, ".strtab", &s.names, 1);
            if let Some((_, h)) = headers.get_mut(i) {
                h.sh_type = elf::SHT_SYMTAB;
                h.sh_link = len32(j + 1);
                h.sh_info = s.locals;
                h.sh_entsize = 24;
            }
            if let Some((_, h)) = headers.get_mut(j) {
                h.sh_type = elf::SHT_STRTAB;
            }
        }
        w.write_shstrtab()?;
        w.write_null_section_header();
        for (name, mut h) in headers {
            h.sh_name = w.section_name_offset(Some(name));
            w.write_section_header(&h);
        }
        w.write_shstrtab_section_header();

        let mut programs = Vec::new();
        if let Some(lowest) = lowest {
            let highest = usable(self.sections).map(|s| s.range.end).max().unwrap_or(lowest);
            programs.push(ProgramHeader {
                p_type: elf::PT_LOAD,
                p_flags: elf::PF_R | elf::PF_X,
                p_offset: 0,
                p_vaddr: lowest,
                p_paddr: lowest,
                p_filesz: 0,
                p_memsz: highest - lowest,
                p_align: 1,
            });
        }
        if !note.is_empty() {
            programs.push(ProgramHeader {
                p_type: elf::PT_NOTE,
                p_flags: elf::PF_R,
                p_offset: note_at,
                p_vaddr: 0,
                p_paddr: 0,
                p_filesz: note.len() as u64,
                p_memsz: note.len() as u64,
                p_align: 4,
            });
        }
        let mut front = Vec::new();
        w.write_headers_to(&mut front, &programs)?;
        Ok(front)
    }
}

/// `data` as the format keeps compressed sections (`Elf64_Chdr`, then a zlib
/// stream), where that is worth it: what is served crosses the wire twice, since
/// gdb checks the sum of a debug file before it reads it.
fn compressed(data: &[u8]) -> Option<Vec<u8>> {
    /// Sections below this fit a packet or two as they are.
    const LEAST: usize = 64 << 10;
    (data.len() >= LEAST).then_some(())?;
    let mut out = Vec::with_capacity(data.len() / 3);
    out.u32(elf::ELFCOMPRESS_ZLIB.0);
    out.u32(0);
    out.extend((data.len() as u64).to_le_bytes());
    out.extend(8u64.to_le_bytes());
    let mut encoder = ZlibEncoder::new(out, Compression::fast());
    encoder.write_all(data).and_then(|()| encoder.finish()).ok().filter(|packed| packed.len() < data.len())
}

/// Writes the contents of a section; its header comes later. Returns its place
/// among the headers.
fn add<'a>(
    w: &mut Writer<'a, SinglePhase>,
    headers: &mut Vec<(StringId, SectionHeader)>,
    name: &'static str,
    data: &[u8],
    align: u64,
) -> usize {
    let sh_offset = w.write_align(align);
    w.write(data);
    let section = SectionHeader {
        sh_name: 0,
        sh_type: elf::SHT_PROGBITS,
        sh_flags: elf::SectionFlags(0),
        sh_addr: 0,
        sh_offset,
        sh_size: data.len() as u64,
        sh_link: 0,
        sh_info: 0,
        sh_addralign: align,
        sh_entsize: 0,
    };
    headers.push((w.add_section_name(name.as_bytes()), section));
    headers.len() - 1
}

/// The lowest address: what `<segment>` in the library list has to say.
#[must_use]
pub fn lowest(sections: &[Section]) -> Option<u64> {
    usable(sections).map(|s| s.range.start).min()
}

/// Sections that can be written, at most as many as the format numbers.
fn usable(sections: &[Section]) -> impl Iterator<Item = &Section> {
    sections
        .iter()
        .filter(|s| s.range.start != 0 && s.range.start < s.range.end && !s.name.contains('\0'))
        .take(MAX_SECTIONS)
}

/// An NT_GNU_BUILD_ID note.
fn note(id: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.u32(4);
    out.u32(len32(id.len()));
    out.u32(3);
    out.extend(b"GNU\0");
    out.extend(id);
    while !out.len().is_multiple_of(4) {
        out.push(0);
    }
    out
}

/// `.symtab` and `.strtab`.
#[derive(Debug, Default)]
pub struct ElfSymbols {
    entries: Vec<u8>,
    names: Vec<u8>,
    locals: u32,
}

/// The symbols of an image, against the sections it will be written with.
#[must_use]
pub fn symbol_table(symbols: &SymbolTable, sections: &[Section]) -> ElfSymbols {
    let mut places: Vec<(&Section, u16)> = usable(sections).zip(1..elf::SHN_LORESERVE).collect();
    places.sort_by_key(|(s, _)| s.range.start);
    let mut out = ElfSymbols::default();
    out.entries.resize(24, 0);
    out.names.push(0);
    let mut globals = Vec::new();
    let mut previous = None;
    let mut place = 0;
    for s in symbols.iter().filter(|s| s.address >= KERNEL_HALF && !s.name.is_empty()) {
        while places.get(place).is_some_and(|(p, _)| p.range.end <= s.address) {
            place += 1;
        }
        // `_etext`, `__bss_stop`: the end of a section belongs to it.
        let here = places.get(place).filter(|(p, _)| p.range.contains(&s.address));
        let ends = |(p, _): &&(&Section, u16)| p.range.end == s.address;
        let here = here.or_else(|| places.get(place.checked_sub(1)?).filter(ends));
        let (end, index) = here.map_or((0, elf::SHN_ABS.0), |(p, index)| (p.range.end, *index));
        let alias = previous == Some(s.address);
        previous = Some(s.address);
        let size = if alias { 0 } else { size(symbols, &s, end) };
        let entry = entry(&s, size, len32(out.names.len()), index);
        out.names.cstr(s.name);
        if s.kind.is_ascii_lowercase() && !matches!(s.kind, b'w' | b'v') {
            out.entries.extend(entry);
        } else {
            globals.extend(entry);
        }
    }
    for (s, end, index) in again(symbols, &places) {
        out.entries.extend(entry(&s, size(symbols, &s, end), len32(out.names.len()), index));
        out.names.cstr(s.name);
    }
    out.locals = len32(out.entries.len() / 24);
    out.entries.extend(globals);
    out
}

/// Data reaches to the next symbol, the last to the end of its section: the kernel
/// names the padding behind a `bool` by it, and gdb would not name it at all. A
/// function keeps its size, by which gdb knows where to stop disassembling.
fn size(symbols: &SymbolTable, s: &Symbol<'_>, section_end: u64) -> u64 {
    if s.is_text() {
        return s.size;
    }
    s.size.max(symbols.gap(s).unwrap_or(section_end.saturating_sub(s.address)))
}

/// For each section of data that begins with nameless bytes (`__mcount_loc` behind
/// the last `__kstrtabns_*`), the symbol before it, to be in that section as well:
/// gdb asks the symbols of an address's own section only, while the kernel
/// (`find_kallsyms_symbol`) takes the closest one before.
fn again<'a>(symbols: &'a SymbolTable, places: &[(&Section, u16)]) -> Vec<(Symbol<'a>, u64, u16)> {
    let mut found = Vec::new();
    // Where the run of adjoining sections of data began.
    let (mut start, mut end) = (u64::MAX, None);
    for (section, index) in places {
        let Range { start: from, end: to } = section.range;
        if section.kind == SectionKind::Text {
            end = None;
            continue;
        }
        if end != Some(from) {
            start = from;
        }
        end = Some(to);
        if let Some((s, 1..)) = symbols.by_address(from)
            && s.address >= start
            && !s.is_text()
        {
            found.push((s, to, *index));
        }
    }
    found
}

fn entry(s: &Symbol<'_>, size: u64, name: u32, section: u16) -> [u8; 24] {
    let kind: u8 = if s.is_text() { 2 } else { 1 };
    let bind: u8 = match s.kind {
        b'w' | b'W' | b'v' | b'V' => 2,
        k if k.is_ascii_lowercase() => 0,
        _ => 1,
    };
    let [n0, n1, n2, n3] = name.to_le_bytes();
    let [x0, x1] = section.to_le_bytes();
    let [a0, a1, a2, a3, a4, a5, a6, a7] = s.address.to_le_bytes();
    let [s0, s1, s2, s3, s4, s5, s6, s7] = size.to_le_bytes();
    [
        n0,
        n1,
        n2,
        n3,
        bind << 4 | kind,
        0,
        x0,
        x1,
        a0,
        a1,
        a2,
        a3,
        a4,
        a5,
        a6,
        a7,
        s0,
        s1,
        s2,
        s3,
        s4,
        s5,
        s6,
        s7,
    ]
}

/// The kernel's sections by its own symbols, where no file is at hand that names
/// them: from `_text` to `_end` without a gap, so that every symbol has one.
#[must_use]
pub fn kernel_sections(symbols: &SymbolTable) -> Vec<Section> {
    use SectionKind::{Data, Text};
    // Where each begins, in the order of vmlinux.lds.S; a missing one is part of
    // the one before. In debug kernels and older ones some are elsewhere: they
    // are sorted by address.
    const STARTS: [(&str, &[&str], SectionKind); 7] = [
        (".text", &["_text", "_stext"], Text),
        (".rodata", &["__start_rodata", "_etext"], Data),
        (".data", &["_sdata"], Data),
        (".init.text", &["_sinittext"], Text),
        (".init.data", &["_einittext"], Data),
        (".bss", &["__bss_start"], Data),
        (".brk", &["__brk_base"], Data),
    ];
    let address = |name: &str| symbols.address(name).filter(|a| *a >= KERNEL_HALF);
    let mut starts: Vec<_> = STARTS
        .iter()
        .filter_map(|(name, from, kind)| Some((from.iter().find_map(|n| address(n))?, *name, *kind)))
        .collect();
    starts.sort_by_key(|(at, ..)| *at);
    let end = address("_end").or_else(|| starts.last().map(|(at, ..)| at.saturating_add(1 << 20)));
    let ends = starts.iter().skip(1).map(|(at, ..)| *at).chain(end);
    starts
        .iter()
        .zip(ends)
        .filter(|((start, ..), end)| start < end)
        .map(|((start, name, kind), end)| Section {
            name: (*name).to_owned(),
            range: *start..end,
            kind: *kind,
        })
        .collect()
}
