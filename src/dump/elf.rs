//! ELF vmcores: `/proc/vmcore` copies, `makedumpfile -E`, QEMU `dump-guest-memory`.
//!
//! A core file whose `PT_LOAD` segments are pieces of physical memory: `p_paddr`
//! says which, `p_vaddr` is zero or wrong often enough (drgn issues 15 and 461)
//! that nothing here looks at it but for a hint at where the kernel's image lies.
//!
//! * `p_filesz < p_memsz`: the rest is memory of the machine that is not in the
//!   file. makedumpfile leaves out pages of zeros and filtered pages alike in this
//!   way, so the rest is *excluded*, never zero.
//! * QEMU with paging writes one segment for each mapping: the same memory many
//!   times, at the same place in the file. `p_offset` is -1 for what is no memory.
//!
//! The list is therefore sorted by physical address and made disjoint when it is
//! opened: of overlapping segments the one that begins first counts, what is stored
//! counts before what is not, and what joins in memory and in the file is joined.

use std::sync::Arc;

use super::notes::Notes;
use crate::addr::PhysAddr;
use crate::arch::map;
use crate::bytes::source::Source;
use crate::elf::{Header, PT_LOAD, PT_NOTE, ProgramHeader, notes};
use crate::error::{Error, ReadFault, Result};

/// makedumpfile's mark in `e_flags` of a dump it could not finish (`DUMP_ELF_INCOMPLETE`).
const INCOMPLETE: u32 = 1;
/// Notes larger than this are no notes (8,192 CPUs make 7 MB).
const NOTES_MAX: u64 = 256 << 20;

/// The ELF header and the program headers of a core file.
pub(super) struct CoreHeaders {
    segments: Vec<ProgramHeader>,
    flags: u32,
}

impl CoreHeaders {
    /// Reads and checks the headers.
    pub(super) fn read(source: &dyn Source) -> Result<Self> {
        let path = source.path();
        let header = Header::read(source)?;
        header.expect_core(path)?;
        let mut segments = header.all_program_headers(source)?;
        for segment in &mut segments {
            segment.memsz = segment.memsz.max(segment.filesz);
        }
        if segments.is_empty() {
            return Err(Error::Malformed {
                path: path.to_owned(),
                format: "ELF header",
                offset: 56,
                wanted: "program headers",
                found: "none".to_owned(),
            });
        }
        Ok(Self { segments, flags: header.flags() })
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
            for note in notes(data, 4) {
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
    /// `phys_base`, by a segment with addresses of the kernel's image.
    phys_base: Option<i64>,
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
        let image = loads().find(|s| s.vaddr.wrapping_sub(map::KERNEL_MAP) < map::KERNEL_IMAGE_SIZE);
        let phys_base = image.map(|s| s.paddr.wrapping_sub(s.vaddr - map::KERNEL_MAP).cast_signed());
        Ok(Self { source, stored, memory, notes, flags: headers.flags, excludes, lost, phys_base })
    }

    pub(super) fn notes(&self) -> &Notes {
        &self.notes
    }

    /// See [`super::Vmcore::phys_base_hint`].
    pub(super) fn phys_base(&self) -> Option<i64> {
        self.phys_base
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
            Ok(_) if at < self.source.len() => Err(ReadFault::Shrunk { addr: phys }),
            Ok(_) => Err(truncated),
            Err(e) => Err(super::unread(addr, &e)),
        }
    }

    /// What happened to the file since it was opened.
    pub(super) fn trouble(&self) -> Option<String> {
        self.source.trouble()
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
pub(super) mod tests;
