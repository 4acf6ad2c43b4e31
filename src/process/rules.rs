//! The unwind rules of one image: `.eh_frame`, found by `.eh_frame_hdr` in memory,
//! which the mapped files supply as far as they are proven; and where that says
//! nothing, `.debug_frame` of the file or of its debug file: all that Go has, and
//! programs built without unwind tables.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use gimli::{
    BaseAddresses, DW_EH_PE_omit, DW_EH_PE_udata2, DW_EH_PE_udata4, DwEhPe, EhFrame, EhFrameHdr, EhHdrTable,
    LittleEndian, UnwindContext, UnwindSection,
};

use super::Process;
use super::files::MappedFile;
use crate::addr::VirtAddr;
use crate::arch::Registers;
use crate::bytes::u32_at;
use crate::debuginfo::cfi::{self, FrameRules, Slice, Step};
use crate::elf::{self, PT_GNU_EH_FRAME, PT_LOAD, ProgramHeader};
use crate::memory::AddressSpace;

/// No program's unwind rules are larger.
const RULES_MAX: u64 = 64 << 20;

/// The unwind rules of one image.
#[derive(Default)]
pub struct Rules {
    bias: u64,
    eh_frame: Option<Exceptions>,
    debug_frame: OnceLock<Option<FrameRules>>,
}

/// `.eh_frame`, and how an entry is found.
enum Exceptions {
    /// By the table of `.eh_frame_hdr`.
    Table(Table),
    /// By looking through all of it once.
    Whole(FrameRules),
}

struct Table {
    header: Vec<u8>,
    header_at: u64,
    frames_at: u64,
    frames_len: u64,
    /// All of `.eh_frame`, once entries are asked for often.
    whole: OnceLock<Vec<u8>>,
    asked: AtomicUsize,
}

/// Entries read one by one before all are.
const ENTRIES_MAX: usize = 64;
/// No entry is larger.
const ENTRY_MAX: u32 = 1 << 16;

impl Rules {
    /// Reads the rules of the image with these program headers, whose link-time
    /// addresses are `bias` (wrapping) lower: from memory or, without
    /// `.eh_frame_hdr`, from `file`.
    #[must_use]
    pub fn read(process: &Process, phdrs: &[ProgramHeader], bias: u64, file: Option<&MappedFile>) -> Self {
        let whole = || {
            let (bytes, address) = section(&file?.served()?.elf, ".eh_frame")?;
            Some(Exceptions::Whole(FrameRules::parse(bytes, true, bias.wrapping_add(address))))
        };
        let eh_frame = Table::read(process, phdrs, bias).map(Exceptions::Table).or_else(whole);
        Self { bias, eh_frame, debug_frame: OnceLock::new() }
    }

    /// One step from the function around `pc`, by the first source that knows it.
    pub(super) fn step(
        &self,
        process: &Process,
        file: Option<&MappedFile>,
        context: &mut UnwindContext<usize>,
        regs: &Registers,
        pc: u64,
        word: &mut dyn FnMut(u64) -> Option<u64>,
    ) -> Step {
        let by_exceptions = match &self.eh_frame {
            Some(Exceptions::Table(table)) => table.step(process, context, regs, pc, word),
            Some(Exceptions::Whole(rules)) => rules.step(regs, pc, word),
            None => Step::NoRules,
        };
        if !matches!(by_exceptions, Step::NoRules) {
            return by_exceptions;
        }
        match self.debug_frame.get_or_init(|| debug_frame(process, file?)) {
            Some(rules) => rules.step(regs, pc.wrapping_sub(self.bias), word),
            None => Step::NoRules,
        }
    }
}

impl Table {
    fn read(process: &Process, phdrs: &[ProgramHeader], bias: u64) -> Option<Self> {
        let phdr = phdrs.iter().find(|p| p.kind == PT_GNU_EH_FRAME)?;
        let header_at = bias.wrapping_add(phdr.vaddr);
        let header = read_up_to(process, header_at, phdr.memsz.min(RULES_MAX))?;
        // With a count of any other kind gimli's search can overflow; linkers write the last.
        let counts = [DW_EH_PE_omit, DW_EH_PE_udata2, DW_EH_PE_udata4];
        counts.contains(&DwEhPe(*header.get(2)?)).then_some(())?;
        let bases = BaseAddresses::default().set_eh_frame_hdr(header_at);
        let parsed = EhFrameHdr::new(&header, LittleEndian).parse(&bases, 8).ok()?;
        let frames_at = parsed.eh_frame_ptr().direct().ok()?;
        let holds = |p: &&ProgramHeader| {
            let start = bias.wrapping_add(p.vaddr);
            p.kind == PT_LOAD && start <= frames_at && frames_at - start < p.filesz
        };
        let load = phdrs.iter().find(holds)?;
        let left = load.filesz - (frames_at - bias.wrapping_add(load.vaddr));
        let (whole, asked) = (OnceLock::new(), AtomicUsize::new(0));
        Some(Self { header, header_at, frames_at, frames_len: left.min(RULES_MAX), whole, asked })
    }

    /// Where the sections are, `frames` the address of `.eh_frame`.
    fn bases(&self, frames: u64) -> BaseAddresses {
        BaseAddresses::default().set_eh_frame_hdr(self.header_at).set_eh_frame(frames)
    }

    fn step(
        &self,
        process: &Process,
        context: &mut UnwindContext<usize>,
        regs: &Registers,
        pc: u64,
        word: &mut dyn FnMut(u64) -> Option<u64>,
    ) -> Step {
        let bases = self.bases(self.frames_at);
        let Ok(header) = EhFrameHdr::new(&self.header, LittleEndian).parse(&bases, 8) else {
            return Step::NoRules;
        };
        let often = self.whole.get().is_some() || self.asked.fetch_add(1, Ordering::Relaxed) >= ENTRIES_MAX;
        if !often && let Some(alone) = header.table().and_then(|table| self.alone(process, &table, pc)) {
            let section = EhFrame::new(&alone.bytes, LittleEndian);
            let bases = self.bases(alone.address);
            let entry = section.fde_from_offset(&bases, alone.entry.into(), EhFrame::cie_from_offset);
            let Some(fde) = entry.ok().filter(|fde| fde.contains(pc)) else { return Step::NoRules };
            return cfi::step(&section, &bases, &fde, context, regs, pc, word);
        }
        let frames = self
            .whole
            .get_or_init(|| read_up_to(process, self.frames_at, self.frames_len).unwrap_or_default());
        let section: EhFrame<Slice<'_>> = EhFrame::new(frames, LittleEndian);
        let entry = match header.table() {
            Some(table) => self.place(&table, pc).and_then(|at| {
                let offset = usize::try_from(at.checked_sub(self.frames_at)?).ok()?;
                section.fde_from_offset(&bases, offset.into(), EhFrame::cie_from_offset).ok()
            }),
            None => section.fde_for_address(&bases, pc, EhFrame::cie_from_offset).ok(),
        };
        let Some(fde) = entry.filter(|fde| fde.contains(pc)) else { return Step::NoRules };
        cfi::step(&section, &bases, &fde, context, regs, pc, word)
    }

    /// Where the entry is that may be for `pc`.
    fn place(&self, table: &EhHdrTable<'_, Slice<'_>>, pc: u64) -> Option<u64> {
        table.lookup(pc, &self.bases(self.frames_at)).ok()?.direct().ok()
    }

    /// The entry for `pc` and what it refers to, as a section of their own: of node's
    /// 2.8 MB a stack needs some hundred bytes.
    fn alone(&self, process: &Process, table: &EhHdrTable<'_, Slice<'_>>, pc: u64) -> Option<Alone> {
        let at = self.place(table, pc)?;
        let end = self.frames_at.checked_add(self.frames_len)?;
        let piece = |at: u64| {
            let mut len = [0; 4];
            let within = self.frames_at <= at && at < end;
            process.memory().read_exact(VirtAddr(at), within.then_some(&mut len)?).ok()?;
            // 0 ends the section; 64-bit DWARF has all ones.
            let len = u32::from_le_bytes(len);
            let known = (4..=ENTRY_MAX).contains(&len) && u64::from(len) + 4 <= end - at;
            let whole = usize::try_from(len).ok().filter(|_| known)? + 4;
            process.memory().read_vec(VirtAddr(at), whole).ok()
        };
        let mut entry = piece(at)?;
        // How far before this word what it refers to begins.
        let back = u32_at(&entry, 4).filter(|&back| back != 0)?;
        let mut bytes = piece((at + 4).checked_sub(back.into())?).filter(|cie| u32_at(cie, 4) == Some(0))?;
        let start = bytes.len();
        entry.get_mut(4..8)?.copy_from_slice(&u32::try_from(start + 4).ok()?.to_le_bytes());
        bytes.append(&mut entry);
        Some(Alone { bytes, entry: start, address: at.wrapping_sub(start as u64) })
    }
}

/// One entry of `.eh_frame` behind what it refers to.
struct Alone {
    bytes: Vec<u8>,
    /// Where it begins.
    entry: usize,
    /// Of the first byte, so that the entry has its own.
    address: u64,
}

/// `.debug_frame` of the file, else of its debug file.
fn debug_frame(process: &Process, file: &MappedFile) -> Option<FrameRules> {
    let own = section(&file.served()?.elf, ".debug_frame");
    let found = own.or_else(|| section(&process.debug_file_of(file)?.elf, ".debug_frame"));
    found.map(|(bytes, address)| FrameRules::parse(bytes, false, address))
}

/// The bytes of a section, and its link-time address.
fn section(file: &elf::File, name: &str) -> Option<(Vec<u8>, u64)> {
    let section = file.section(name).filter(|s| s.size <= RULES_MAX && !s.is_nobits())?;
    let bytes = file.data(section).ok().filter(|d| !d.is_empty())?.into_owned();
    Some((bytes, section.address))
}

fn read_up_to(process: &Process, at: u64, len: u64) -> Option<Vec<u8>> {
    let mut buf = vec![0; usize::try_from(len).ok()?];
    let n = process.memory().read(VirtAddr(at), &mut buf).ok()?;
    buf.truncate(n);
    // What a hostile header claims must not stay allocated for each image.
    buf.shrink_to_fit();
    Some(buf)
}
