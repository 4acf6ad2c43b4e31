//! Is what the core holds of a file's read-only mappings what the file holds?
//!
//! Nothing writes to them, so a difference is a finding: pages that lost their
//! contents and read as zeros, bytes that a patcher, a debugger or broken memory
//! changed. Three differences are no findings: data that the linker relocates before
//! it makes it read-only (RELRO: its `PT_LOAD` is writable), text that it
//! relocates because the file is not position-independent (`DT_TEXTREL`), and what
//! the core does not hold, which is the file by definition.

use std::sync::Arc;

use serde::Serialize;

use super::Process;
use super::files::{Lookup, MappedFile};
use super::found::{FoundFile, Refusal};
use super::image::Image;
use crate::addr::PAGE_SIZE;
use crate::bytes::is_zero;
use crate::elf::{self, PT_DYNAMIC, PT_LOAD, ProgramHeader, relocated_places};

const PAGE: usize = 4096;
/// Bytes of a difference that are shown.
const SHOWN: usize = 16;
/// Bytes of relocations that are looked at.
const RELOCATIONS_MAX: usize = 1 << 28;
/// Differences of one file that are listed one by one.
const LISTED: usize = 256;

/// How a page differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// All zeros in the core; the file has something there.
    Zeroed,
    /// Some bytes are others.
    Changed,
    /// One byte is `int3`: a debugger's breakpoint.
    Breakpoint,
    /// Only bytes that `DT_TEXTREL` lets the linker change.
    RelocatedText,
}

/// One page that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Its address.
    pub addr: u64,
    /// Its offset in the file.
    pub offset: u64,
    /// In which way.
    pub how: How,
    /// How many bytes differ.
    pub bytes: usize,
    /// Address of the first byte that differs.
    pub first: u64,
    /// What the core has from there on.
    pub core: Vec<u8>,
    /// What the file has from there on.
    pub file: Vec<u8>,
}

/// What became of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All pages that can be compared are the file's.
    Same,
    /// Some differ.
    Differs,
    /// No page of a read-only mapping is in the core.
    NothingInCore,
    /// It cannot be compared.
    NotCompared(Refusal),
}

/// The comparison of one file.
#[derive(Debug, Clone)]
pub struct Report {
    /// The file.
    pub file: Arc<MappedFile>,
    /// In one word.
    pub verdict: Verdict,
    /// Pages of read-only mappings.
    pub pages: u64,
    /// How many of those are in the core and were compared.
    pub compared: u64,
    /// Read-only pages that the linker wrote before: not compared.
    pub relro: u64,
    /// Pages of each kind of difference.
    pub zeroed: u64,
    /// Pages with changed bytes, breakpoints included.
    pub changed: u64,
    /// Pages that differ by text relocations only.
    pub relocated: u64,
    /// Without a file: executable pages of the core that are all zeros.
    pub zero_text: u64,
    /// Executable pages that are all zeros in the core and in the file.
    pub zero_both: u64,
    /// Pages of code that the core left out and that are all zeros in the file.
    pub zero_file: u64,
    /// The first pages that differ, relocated text left out.
    pub differences: Vec<Page>,
}

impl std::fmt::Debug for MappedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MappedFile").field("name", &self.name).finish_non_exhaustive()
    }
}

const DT_RELA: u64 = 7;
const DT_RELASZ: u64 = 8;
const DT_TEXTREL: u64 = 22;
const DT_FLAGS: u64 = 30;
const DF_TEXTREL: u64 = 4;

/// Compares the read-only mappings of `file`. Stops early when `cancelled`.
#[must_use]
pub fn compare(process: &Process, file: &Arc<MappedFile>, cancelled: &dyn Fn() -> bool) -> Report {
    let mut report = Report {
        file: Arc::clone(file),
        verdict: Verdict::NothingInCore,
        pages: 0,
        compared: 0,
        relro: 0,
        zeroed: 0,
        changed: 0,
        relocated: 0,
        zero_text: 0,
        zero_both: 0,
        zero_file: 0,
        differences: Vec::new(),
    };
    let image = process.image_at(file.first().map_or(0, |r| r.start));
    let found = match file.lookup() {
        Lookup::Proven(found, _) | Lookup::Doubtful(found, _) => Some(found),
        Lookup::Refused(why) => {
            report.verdict = Verdict::NotCompared(why.clone());
            None
        }
    };
    let relocations = found.zip(image).map(|(f, i)| text_relocations(f, i)).unwrap_or_default();
    for range in &file.ranges {
        let image = process.image_at(range.start);
        let mut addr = range.start & !(PAGE_SIZE - 1);
        while addr < range.end {
            if cancelled() {
                return report;
            }
            let Some(segment) = process.memory().stored().segment(addr) else { break };
            let (segment_end, executable) = (segment.end.min(range.end), segment.executable());
            if segment.writable() {
                addr = segment_end.max(addr.saturating_add(PAGE_SIZE));
                continue;
            }
            // What the core does not hold is counted, not walked: a header may claim any size.
            if addr - segment.start >= segment.present {
                let pages = (segment_end - addr).div_ceil(PAGE_SIZE);
                report.pages = report.pages.saturating_add(pages);
                if let Some(found) = found.filter(|_| executable) {
                    let from = range.offset.wrapping_add(addr.wrapping_sub(range.start));
                    report.zero_file += zero_code(found, from, segment_end - addr, cancelled);
                }
                addr = segment_end.max(addr.saturating_add(PAGE_SIZE));
                continue;
            }
            report.pages = report.pages.saturating_add(1);
            if image.is_some_and(|i| in_writable_load(i, addr)) {
                report.relro += 1;
            } else {
                match (found, core_page(process, addr)) {
                    (_, None) => {}
                    (None, Some(core)) => {
                        report.zero_text += u64::from(executable && is_zero(&core));
                    }
                    (Some(found), Some(core)) => {
                        // A hostile mapping may start within a page.
                        let offset = range.offset.wrapping_add(addr.wrapping_sub(range.start));
                        report.compared += 1;
                        let page = compare_page(found, addr, offset, &core, &relocations, image);
                        let zeros = executable && page.is_none() && is_zero(&core);
                        report.zero_both += u64::from(zeros && offset < found.len);
                        report.take(page);
                    }
                }
            }
            addr = addr.saturating_add(PAGE_SIZE);
        }
    }
    if found.is_some() {
        report.verdict = match (report.zeroed + report.changed, report.compared) {
            (0, 0) => Verdict::NothingInCore,
            (0, _) => Verdict::Same,
            _ => Verdict::Differs,
        };
    }
    report
}

impl Report {
    fn take(&mut self, page: Option<Page>) {
        let Some(page) = page else { return };
        match page.how {
            How::Zeroed => self.zeroed += 1,
            How::Changed | How::Breakpoint => self.changed += 1,
            How::RelocatedText => self.relocated += 1,
        }
        if page.how != How::RelocatedText && self.differences.len() < LISTED {
            self.differences.push(page);
        }
    }
}

/// The page of `addr`, if the core holds it, and how it differs from the file that
/// is mapped there. For pages of read-only mappings only.
#[must_use]
pub fn page(process: &Process, addr: u64) -> Option<Page> {
    let addr = addr & !(PAGE_SIZE - 1);
    let (file, range) = process.file_at(addr)?;
    let segment = process.memory().stored().segment(addr)?;
    let image = process.image_at(addr);
    if segment.writable() || image.is_some_and(|i| in_writable_load(i, addr)) {
        return None;
    }
    let core = core_page(process, addr)?;
    let found = file.served()?;
    let relocations = image.map(|i| text_relocations(found, i)).unwrap_or_default();
    compare_page(found, addr, range.offset + (addr - range.start), &core, &relocations, image)
}

/// Who says that a page of code is all zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zeros {
    /// The core; no file is there to compare.
    Core,
    /// The file; the core does not hold the page.
    File,
    /// Both: the file itself is damaged.
    Both,
}

/// Whether the page of `addr` is executable and all zeros, as far as is known.
#[must_use]
pub fn zero_text(process: &Process, addr: u64) -> Option<Zeros> {
    process.memory().stored().segment(addr).filter(|s| s.executable())?;
    let addr = addr & !(PAGE_SIZE - 1);
    let zeros = |page: &[u8; PAGE]| is_zero(page);
    let file = || {
        let (file, range) = process.file_at(addr)?;
        let (found, offset) = (file.served()?, range.offset + (addr - range.start));
        let (mut page, len) =
            ([0; PAGE], usize::try_from(found.len.saturating_sub(offset)).unwrap_or(PAGE).min(PAGE));
        (len > 0 && found.fill(offset, page.get_mut(..len)?)).then(|| zeros(&page))
    };
    match (core_page(process, addr).map(|page| zeros(&page)), file()) {
        (Some(true), Some(true)) => Some(Zeros::Both),
        (Some(true), None) => Some(Zeros::Core),
        (None, Some(true)) => Some(Zeros::File),
        _ => None,
    }
}

/// Pages of the file, of `len` bytes from `from`, that are code by its sections and all
/// zeros. (Tables of zeros may lie in an executable mapping.)
fn zero_code(found: &FoundFile, from: u64, len: u64, cancelled: &dyn Fn() -> bool) -> u64 {
    let end = from.saturating_add(len).min(found.len);
    let is_code = |page: u64| {
        let mut code = found.elf.sections().iter().filter(|s| s.is_code() && !s.is_nobits());
        code.any(|s| s.offset < page + PAGE_SIZE && page < s.offset.saturating_add(s.size))
    };
    let mut page = [0; PAGE];
    let mut zeros = 0;
    let mut at = from;
    while at < end && !cancelled() {
        let n = usize::try_from(end - at).unwrap_or(PAGE).min(PAGE);
        let Some(bytes) = page.get_mut(..n).filter(|_| at < u64::MAX - PAGE_SIZE) else { break };
        zeros += u64::from(found.fill(at, bytes) && is_zero(bytes) && is_code(at));
        at += PAGE_SIZE;
    }
    zeros
}

fn core_page(process: &Process, addr: u64) -> Option<[u8; PAGE]> {
    let mut page = [0; PAGE];
    process.memory().stored().read(addr, &mut page).then_some(page)
}

/// Whether the linker loads `addr` writable: RELRO, when the mapping is read-only.
fn in_writable_load(image: &Image, addr: u64) -> bool {
    let link_time = addr.wrapping_sub(image.bias);
    let covers = |p: &&ProgramHeader| {
        p.kind == PT_LOAD
            && (p.vaddr & !(PAGE_SIZE - 1)) <= link_time
            && p.vaddr.checked_add(p.memsz).is_none_or(|end| link_time < end)
    };
    image.phdrs.iter().find(covers).is_some_and(ProgramHeader::is_writable)
}

fn compare_page(
    found: &FoundFile,
    addr: u64,
    offset: u64,
    core: &[u8; PAGE],
    relocations: &[u64],
    image: Option<&Image>,
) -> Option<Page> {
    let mut file = [0; PAGE];
    let in_file = usize::try_from(found.len.saturating_sub(offset)).unwrap_or(PAGE).min(PAGE);
    // Past the end of the file there is nothing to compare with; a page is padded with zeros.
    if in_file == 0 || !found.fill(offset, file.get_mut(..in_file)?) || &file == core {
        return None;
    }
    let differing = || (0..PAGE).filter(|&i| core.get(i) != file.get(i));
    let (first, bytes) = (differing().next()?, differing().count());
    let relocated = |i: usize| {
        let Some(image) = image else { return false };
        let link_time = (addr + i as u64).wrapping_sub(image.bias);
        // 8 bytes: R_X86_64_RELATIVE and R_X86_64_64, the widest.
        let after = relocations.partition_point(|&r| r <= link_time);
        after.checked_sub(1).and_then(|i| relocations.get(i)).is_some_and(|&r| link_time - r < 8)
    };
    let how = match () {
        () if is_zero(core) => How::Zeroed,
        () if !relocations.is_empty() && differing().all(relocated) => How::RelocatedText,
        () if bytes == 1 && core.get(first) == Some(&0xcc) => How::Breakpoint,
        () => How::Changed,
    };
    let shown = |from: &[u8; PAGE]| from.iter().skip(first).take(SHOWN).copied().collect();
    Some(Page { addr, offset, how, bytes, first: addr + first as u64, core: shown(core), file: shown(&file) })
}

/// Link-time addresses that the linker relocates although they lie in text,
/// sorted; none unless the file says `DT_TEXTREL` or `DF_TEXTREL`.
fn text_relocations(found: &FoundFile, image: &Image) -> Vec<u64> {
    let bytes = |at: u64, len: u64| {
        let len = usize::try_from(len).ok().filter(|&len| len <= RELOCATIONS_MAX)?;
        found.elf.source().bytes(at, len).ok()
    };
    let Some(dynamic) = image.phdr(PT_DYNAMIC) else { return Vec::new() };
    let table = bytes(dynamic.offset, dynamic.filesz.min(1 << 16)).unwrap_or_default();
    let entry = |tag| elf::dynamic_entry(&table, tag);
    if entry(DT_TEXTREL).is_none() && entry(DT_FLAGS).is_none_or(|f| f & DF_TEXTREL == 0) {
        return Vec::new();
    }
    let (Some(at), Some(size)) = (entry(DT_RELA), entry(DT_RELASZ)) else { return Vec::new() };
    let Some(load) = image.load_of(at) else { return Vec::new() };
    let raw = load.offset.checked_add(at - load.vaddr).and_then(|o| bytes(o, size)).unwrap_or_default();
    let mut offsets: Vec<u64> = relocated_places(&raw).collect();
    offsets.sort_unstable();
    offsets
}
