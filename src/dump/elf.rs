//! ELF vmcores: `/proc/vmcore` copies, `makedumpfile -E`, QEMU `dump-guest-memory`.
//!
//! A core file whose `PT_LOAD` segments are pieces of physical memory: `p_paddr`
//! says which, `p_vaddr` is zero or wrong often enough (drgn issues 15 and 461)
//! that nothing here looks at it.
//!
//! * More than 65,534 program headers: `e_phnum` is `PN_XNUM`, and the number is
//!   in `sh_info` of section header 0 (`elf(5)`). QEMU puts that one section header
//!   before the program headers.
//! * `p_filesz < p_memsz`: the rest is memory of the machine that is not in the
//!   file. makedumpfile leaves out pages of zeros and filtered pages alike in this
//!   way, so the rest is *excluded*, never zero.
//! * QEMU with paging writes one segment for each mapping: the same memory many
//!   times, at the same place in the file. `p_offset` is -1 for what is no memory.
//!
//! The list is therefore sorted by physical address and made disjoint when it is
//! opened: of overlapping segments the one that begins first counts, what is stored
//! counts before what is not, and what joins in memory and in the file is joined.

use std::path::Path;
use std::sync::Arc;

use super::notes::{Notes, iter_notes};
use super::source::Source;
use crate::addr::PhysAddr;
use crate::bytes::{Cursor, u16_at, u32_at, u64_at};
use crate::error::{Error, ReadFault, Result};

const EHDR_BYTES: usize = 64;
const PHDR_BYTES: usize = 56;
const ET_CORE: u16 = 4;
const EM_X86_64: u16 = 62;
const PN_XNUM: u16 = 0xffff;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// makedumpfile's mark in `e_flags` of a dump it could not finish (`DUMP_ELF_INCOMPLETE`).
const INCOMPLETE: u32 = 1;
/// Notes larger than this are no notes (8,192 CPUs make 7 MB).
const NOTES_MAX: u64 = 256 << 20;

/// One program header.
#[derive(Debug, Clone, Copy)]
struct ProgramHeader {
    kind: u32,
    offset: u64,
    vaddr: u64,
    paddr: u64,
    filesz: u64,
    memsz: u64,
}

/// The ELF header and the program headers of a core file.
pub(super) struct CoreHeaders {
    segments: Vec<ProgramHeader>,
    flags: u32,
}

impl CoreHeaders {
    /// Whether `head` begins like an ELF file.
    pub(super) fn is_elf(head: &[u8]) -> bool {
        head.starts_with(b"\x7fELF")
    }

    /// Reads and checks the headers.
    pub(super) fn read(source: &dyn Source) -> Result<Self> {
        let path = source.path();
        let io = |e| Error::io("read", path, e);
        let bad = |offset: u64, wanted: &'static str, found: String| Error::Malformed {
            path: path.to_owned(),
            format: "ELF header",
            offset,
            wanted,
            found,
        };
        let head = source.bytes_up_to(0, EHDR_BYTES).map_err(io)?;
        check_ident(path, &head)?;
        if head.len() < EHDR_BYTES {
            return Err(bad(head.len() as u64, "a header of 64 bytes", "the end of the file".to_owned()));
        }
        let half = |at| u16_at(&head, at).unwrap_or(0);
        let (phoff, shoff) = (u64_at(&head, 32).unwrap_or(0), u64_at(&head, 40).unwrap_or(0));
        check_kind(path, half(16), half(18))?;
        let flags = u32_at(&head, 48).unwrap_or(0);
        if usize::from(half(54)) != PHDR_BYTES {
            return Err(bad(54, "e_phentsize 56", half(54).to_string()));
        }
        let mut count = u64::from(half(56));
        if half(56) == PN_XNUM {
            let section = source.bytes(shoff, 64).ok().filter(|_| shoff != 0);
            let info = section.and_then(|s| u32_at(&s, 44));
            count = info.map(u64::from).ok_or_else(|| {
                bad(40, "section header 0 with the number of segments", format!("e_shoff {shoff:#x}"))
            })?;
        }
        let table = count
            .checked_mul(PHDR_BYTES as u64)
            .filter(|&len| phoff.checked_add(len).is_some_and(|end| end <= source.len()))
            .and_then(|len| usize::try_from(len).ok())
            .and_then(|len| source.bytes(phoff, len).ok())
            .ok_or_else(|| {
                let found = format!("{count} of them at {phoff:#x} in a file of {:#x} bytes", source.len());
                bad(32, "program headers within the file", found)
            })?;
        if count == 0 {
            return Err(bad(56, "program headers", "none".to_owned()));
        }
        let segments = table.chunks_exact(PHDR_BYTES).filter_map(ProgramHeader::parse).collect();
        Ok(Self { segments, flags })
    }

    /// The bytes of each `PT_NOTE` segment, as far as the file has them.
    fn note_segments(&self, source: &dyn Source, mut each: impl FnMut(&[u8])) {
        let mut budget = NOTES_MAX;
        for s in self.segments.iter().filter(|s| s.kind == PT_NOTE) {
            let len = s.filesz.min(budget);
            budget -= len;
            if let Ok(data) = source.bytes_up_to(s.offset, usize::try_from(len).unwrap_or(0)) {
                each(&data);
            }
        }
    }

    /// Whether this is the dump of a machine rather than of a process.
    ///
    /// VMCOREINFO or QEMU's notes make a machine; a list of mapped files, an
    /// auxiliary vector or a process's name make a process; failing all of them
    /// (`dump-guest-memory` by another hypervisor) physical addresses make a machine.
    pub(super) fn is_machine(&self, source: &dyn Source) -> bool {
        const NT_PRPSINFO: u32 = 3;
        const NT_AUXV: u32 = 6;
        const NT_FILE: u32 = 0x4649_4c45;
        let (mut machine, mut process) = (false, false);
        self.note_segments(source, |data| {
            for note in iter_notes(data) {
                match (note.name, note.kind) {
                    (b"VMCOREINFO" | b"QEMU", 0) => machine = true,
                    (b"CORE", NT_PRPSINFO | NT_AUXV | NT_FILE) => process = true,
                    _ => {}
                }
            }
        });
        let mut loads = self.segments.iter().filter(|s| s.kind == PT_LOAD);
        machine || !process && loads.any(|s| s.paddr != 0 || s.vaddr == 0 && s.memsz > 0)
    }
}

/// Class and byte order, before anything is read by them.
fn check_ident(path: &Path, head: &[u8]) -> Result<()> {
    let what = match (head.get(4), head.get(5)) {
        (Some(2), Some(1)) => return Ok(()),
        (Some(1), _) => "a 32-bit ELF file",
        (Some(2), Some(2)) => "a big-endian ELF file",
        _ => "an ELF file of unknown class",
    };
    Err(Error::Unsupported {
        path: path.to_owned(),
        what: what.to_owned(),
        hint: "corestub serves x86-64 dumps only",
    })
}

/// File type and machine.
fn check_kind(path: &Path, kind: u16, machine: u16) -> Result<()> {
    let other = |what: String, hint| Err(Error::Unsupported { path: path.to_owned(), what, hint });
    if kind != ET_CORE {
        let what = match kind {
            1 => "an ELF object file or kernel module",
            2 => "an ELF executable or vmlinux",
            3 => "an ELF executable or shared library",
            _ => "an ELF file that is no core dump",
        };
        return other(what.to_owned(), "give the dump; a vmlinux goes with --vmlinux");
    }
    if machine != EM_X86_64 {
        let name = match machine {
            3 => "i386",
            20 | 21 => "PowerPC",
            22 => "s390",
            40 => "ARM",
            183 => "AArch64",
            243 => "RISC-V",
            258 => "LoongArch",
            _ => "unknown type",
        };
        return other(
            format!("a dump of a machine of type {machine} ({name})"),
            "corestub serves x86-64 dumps only",
        );
    }
    Ok(())
}

impl ProgramHeader {
    fn parse(raw: &[u8]) -> Option<Self> {
        let mut c = Cursor::new(raw);
        let (kind, _flags) = (c.u32().ok()?, c.u32().ok()?);
        let (offset, vaddr, paddr) = (c.u64().ok()?, c.u64().ok()?, c.u64().ok()?);
        let (filesz, memsz) = (c.u64().ok()?, c.u64().ok()?);
        Some(Self { kind, offset, vaddr, paddr, filesz, memsz: memsz.max(filesz) })
    }
}

/// Physical memory that is stored in one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent {
    start: u64,
    len: u64,
    offset: u64,
}

impl Extent {
    fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }
}

/// An ELF vmcore.
pub(super) struct ElfDump {
    source: Arc<dyn Source>,
    /// What the file stores: sorted, disjoint.
    stored: Vec<Extent>,
    /// What the machine has: sorted, disjoint, `(start, len)`.
    memory: Vec<(u64, u64)>,
    notes: Notes,
    flags: u32,
    excludes: bool,
    /// Bytes that the headers promise and the file does not have.
    lost: u64,
}

impl ElfDump {
    /// Opens an ELF vmcore.
    pub(super) fn open(source: Arc<dyn Source>) -> Result<Self> {
        let headers = CoreHeaders::read(&*source)?;
        let mut notes = Notes::default();
        headers.note_segments(&*source, |data| notes.add(data));
        let loads = || {
            // Not memory of the machine (QEMU), or nonsense beyond the address space.
            headers.segments.iter().filter(|s| {
                s.kind == PT_LOAD
                    && s.memsz > 0
                    && !(s.filesz == 0 && s.offset == u64::MAX)
                    && s.paddr.checked_add(s.memsz).is_some()
                    && s.offset.checked_add(s.filesz).is_some()
            })
        };
        let stored = disjoint(
            loads()
                .filter(|s| s.filesz > 0)
                .map(|s| Extent { start: s.paddr, len: s.filesz, offset: s.offset })
                .collect(),
        );
        let memory = union(loads().map(|s| (s.paddr, s.memsz)).collect());
        let sum = |lens: &mut dyn Iterator<Item = u64>| lens.fold(0u64, u64::saturating_add);
        let excludes = sum(&mut memory.iter().map(|m| m.1)) > sum(&mut stored.iter().map(|e| e.len));
        let end = source.len();
        let lost = sum(&mut stored.iter().map(|e| (e.offset + e.len).saturating_sub(e.offset.max(end))));
        Ok(Self { source, stored, memory, notes, flags: headers.flags, excludes, lost })
    }

    pub(super) fn notes(&self) -> &Notes {
        &self.notes
    }

    /// Who wrote it, as far as it tells.
    pub(super) fn format(&self) -> String {
        let writer = match () {
            () if !self.notes.qemu_cpus.is_empty() => "ELF (QEMU dump-guest-memory)",
            () if self.excludes => "ELF (makedumpfile)",
            () => "ELF",
        };
        writer.to_owned()
    }

    pub(super) fn incomplete(&self) -> Option<String> {
        let path = self.source.path().display();
        if self.lost > 0 {
            let (end, mib) = (self.source.len(), self.lost.div_ceil(1 << 20));
            return Some(format!("{path} ends at {end:#x}, and {mib} MiB of memory after that are lost"));
        }
        (self.flags & INCOMPLETE != 0).then(|| {
            format!("{path} is marked incomplete: its writer ran out of space or time, and pages are lost")
        })
    }

    /// The machine's memory in coarse ranges of bytes.
    pub(super) fn physical_ranges(&self, max: usize) -> Vec<(PhysAddr, u64)> {
        let mut ranges: Vec<_> = self.memory.iter().map(|&(start, len)| (PhysAddr(start), len)).collect();
        if let Some(&(last, len)) = ranges.last().filter(|_| ranges.len() > max) {
            ranges.truncate(max);
            if let Some(to) = ranges.last_mut() {
                to.1 = last.0 + len - to.0.0;
            }
        }
        ranges
    }

    /// What the file has bytes for.
    pub(super) fn stored_ranges(&self) -> Vec<(PhysAddr, u64)> {
        let end = self.source.len();
        let there = |e: &Extent| e.len.min(end.saturating_sub(e.offset));
        self.stored.iter().map(|e| (PhysAddr(e.start), there(e))).filter(|&(_, len)| len > 0).collect()
    }

    /// See [`super::PhysicalMemory::read_phys`].
    pub(super) fn read_phys(&self, addr: PhysAddr, buf: &mut [u8]) -> Result<usize, ReadFault> {
        let phys = addr.0;
        let to_page_end = super::to_page_end(addr);
        let after = self.stored.partition_point(|e| e.start <= phys);
        let extent = after.checked_sub(1).and_then(|i| self.stored.get(i)).filter(|e| phys < e.end());
        let Some(extent) = extent else {
            let after = self.memory.partition_point(|m| m.0 <= phys);
            let range = after.checked_sub(1).and_then(|i| self.memory.get(i));
            return Err(match range.filter(|m| phys - m.0 < m.1) {
                Some(_) => ReadFault::Excluded { phys },
                None => ReadFault::NoMemory { phys },
            });
        };
        let within = phys - extent.start;
        let n = usize::try_from((extent.len - within).min(to_page_end)).unwrap_or(0).min(buf.len());
        let Some(buf) = buf.get_mut(..n).filter(|b| !b.is_empty()) else { return Ok(0) };
        let truncated = ReadFault::Truncated { addr: phys };
        let at = extent.offset + within;
        // The file may end within the page; a hole in a flattened stream reads as zeros.
        let there = self.source.len().saturating_sub(at).min(n as u64);
        if !self.source.holds(at, there) {
            return Err(truncated);
        }
        match self.source.read_at(at, buf) {
            Ok(n) if n > 0 => Ok(n),
            _ => Err(truncated),
        }
    }
}

/// Makes `extents` sorted, disjoint and joined: the first to begin keeps what it has.
fn disjoint(mut extents: Vec<Extent>) -> Vec<Extent> {
    // The longest first where several begin at one place.
    extents.sort_by(|a, b| a.start.cmp(&b.start).then(b.len.cmp(&a.len)));
    let mut out: Vec<Extent> = Vec::new();
    for mut e in extents {
        if let Some(last) = out.last_mut() {
            let overlap = last.end().saturating_sub(e.start);
            if overlap >= e.len {
                continue;
            }
            e = Extent { start: e.start + overlap, len: e.len - overlap, offset: e.offset + overlap };
            if last.end() == e.start && last.offset + last.len == e.offset {
                last.len += e.len;
                continue;
            }
        }
        out.push(e);
    }
    out.shrink_to_fit();
    out
}

/// The union of `(start, len)` ranges, sorted.
fn union(mut ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    let mut out: Vec<(u64, u64)> = Vec::new();
    for (start, len) in ranges {
        match out.last_mut() {
            Some(last) if start <= last.0 + last.1 => last.1 = last.1.max(start + len - last.0),
            _ => out.push((start, len)),
        }
    }
    out.shrink_to_fit();
    out
}

#[cfg(test)]
#[path = "elf_tests.rs"]
mod tests;
