//! ELF vmcores: `/proc/vmcore` copies, `makedumpfile -E`, QEMU `dump-guest-memory`.
//!
//! A core file whose `PT_LOAD` segments are pieces of physical memory: `p_paddr`
//! says which, `p_vaddr` is zero or wrong often enough (drgn issues 15 and 461)
//! that nothing here looks at it but for hints at where the kernel's image and its map of
//! all memory lie.
//!
//! * `p_filesz < p_memsz`: the rest is memory of the machine that is not in the
//!   file. makedumpfile leaves out pages of zeros and filtered pages alike in this
//!   way, so the rest is *excluded*, never zero.
//! * QEMU with paging writes one segment for each mapping: the same memory many
//!   times, at the same place in the file. `p_offset` is -1 for what is no memory.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::extents::{Extent, Extents};
use super::mend::segments;
use super::notes::Notes;
use super::{Form, Memory, foreign};
use crate::arch::{Levels, map};
use crate::bytes::source::Source;
use crate::elf::{Header, Note, NoteWalk, PT_LOAD, PT_NOTE, ProgramHeader};
use crate::error::{Error, Result};

/// makedumpfile's mark in `e_flags` of a dump it could not finish (`DUMP_ELF_INCOMPLETE`).
const INCOMPLETE: u32 = 1;

/// The ELF header and the program headers of a core file.
pub(super) struct CoreHeaders {
    segments: Vec<ProgramHeader>,
    flags: u32,
    /// What of them was damaged.
    mended: Vec<String>,
}

impl CoreHeaders {
    /// Reads and checks the headers.
    pub(super) fn read(source: &dyn Source) -> Result<Self> {
        let path = source.path();
        let header = Header::read(source)?;
        header.expect_core(path)?;
        let mut segments = header.all_program_headers(source)?;
        let mended = segments::mend(&mut segments, source.len());
        for segment in &mut segments {
            segment.memsz = segment.memsz.max(segment.filesz);
        }
        let names = if segments.is_empty() { header.section_names(source) } else { None };
        if names.is_some_and(|names| memchr::memmem::find(&names, b"\0.xen_pages\0").is_some()) {
            return Err(Error::Unsupported {
                path: path.to_owned(),
                what: "a dump of a Xen domain (xl dump-core)".to_owned(),
                hint: foreign::OTHER_DUMP,
            });
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
        Ok(Self { segments, flags: header.flags(), mended })
    }

    /// Each note, as far as the file has them.
    fn each_note(&self, source: &dyn Source, mut each: impl FnMut(Note<'_>)) {
        let mut walk = NoteWalk::new(source);
        for s in self.segments.iter().filter(|s| s.kind == PT_NOTE) {
            // What cannot be read tells nothing.
            let _ = walk.each(s.offset..s.offset.saturating_add(s.filesz), |note, _| each(note));
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
        self.each_note(source, |note| match (note.name, note.kind) {
            (b"VMCOREINFO" | b"QEMU", 0) => machine = true,
            (b"CORE", NT_PRPSINFO | NT_AUXV | NT_FILE) => process = true,
            _ => {}
        });
        let mut loads = self.segments.iter().filter(|s| s.kind == PT_LOAD);
        machine || !process && loads.any(|s| s.paddr != 0 || s.vaddr == 0 && s.memsz > 0)
    }
}

/// An ELF vmcore.
pub(super) struct ElfDump {
    path: PathBuf,
    extents: Extents,
    notes: Notes,
    flags: u32,
    /// `phys_base`, by a segment with addresses of the kernel's image.
    phys_base: Option<i64>,
    /// Where physical address 0 is mapped, by most of the memory of its segments.
    direct_map: Option<u64>,
    /// See [`Form::remarks`].
    mended: Vec<String>,
}

/// The start of the map of all memory by the addresses of `loads`: the one that more than
/// half of their memory in the kernel's half agrees on.
fn direct_map<'s>(loads: impl Iterator<Item = &'s ProgramHeader>) -> Option<u64> {
    let mut bases: HashMap<u64, u64> = HashMap::new();
    let lowest = Levels::Five.kernel_start().0;
    for s in loads.filter(|s| (lowest..map::KERNEL_MAP).contains(&s.vaddr)) {
        let memory = bases.entry(s.vaddr.wrapping_sub(s.paddr)).or_default();
        *memory = memory.saturating_add(s.memsz);
    }
    let all = bases.values().fold(0, |sum: u64, memory| sum.saturating_add(*memory));
    let (base, memory) = bases.into_iter().max_by_key(|(_, memory)| *memory)?;
    // KASLR moves it by multiples of 1 GiB (`arch/x86/mm/kaslr.c`).
    (memory > all / 2 && base >= lowest && base.is_multiple_of(1 << 30)).then_some(base)
}

impl ElfDump {
    /// Opens an ELF vmcore.
    pub(super) fn open(source: Arc<dyn Source>) -> Result<Self> {
        let headers = CoreHeaders::read(&*source)?;
        let mut notes = Notes::default();
        headers.each_note(&*source, |note| notes.add(&note));
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
        let stored = loads().filter(|s| s.filesz > 0);
        let stored = stored.map(|s| Extent { start: s.paddr, len: s.filesz, offset: s.offset }).collect();
        let path = source.path().to_owned();
        let extents = Extents::new(source, stored, loads().map(|s| (s.paddr, s.memsz)).collect());
        let image = loads().find(|s| map::is_in_image(s.vaddr));
        let phys_base = image.map(|s| s.paddr.wrapping_sub(s.vaddr - map::KERNEL_MAP).cast_signed());
        let direct_map = direct_map(loads());
        Ok(Self { path, extents, notes, flags: headers.flags, phys_base, direct_map, mended: headers.mended })
    }
}

impl Form for ElfDump {
    fn notes(&self) -> Notes {
        self.notes.clone()
    }

    fn phys_base(&self) -> Option<i64> {
        self.phys_base
    }

    fn direct_map(&self) -> Option<u64> {
        self.direct_map
    }

    /// Who wrote it, as far as it tells.
    fn name(&self) -> String {
        let writer = match () {
            () if !self.notes.qemu_cpus.is_empty() => "ELF (QEMU dump-guest-memory)",
            () if self.extents.excludes() => "ELF (makedumpfile)",
            () => "ELF",
        };
        writer.to_owned()
    }

    fn incomplete(&self) -> Option<String> {
        self.extents.incomplete().or_else(|| {
            let path = self.path.display();
            (self.flags & INCOMPLETE != 0).then(|| {
                format!(
                    "{path} is marked incomplete: its writer ran out of space or time, and pages are lost"
                )
            })
        })
    }

    fn remarks(&self) -> Vec<String> {
        self.mended.clone()
    }

    fn memory(&self) -> &dyn Memory {
        &self.extents
    }
}

#[cfg(test)]
#[path = "elf_tests.rs"]
pub(super) mod tests;
