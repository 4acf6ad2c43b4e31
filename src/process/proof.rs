//! What proves that a file is the one that was mapped, where no build-id does.
//!
//! Go, musl-gcc and some packagers link without one. The core's own pages are
//! then the witness: the first page with all headers, and every other page of
//! read-only parts that the core holds, byte for byte. By default a core holds
//! the first page only, and how much was compared is told.

use std::path::PathBuf;

use super::found::FoundFile;
use super::notes::FileNote;
use crate::addr::PAGE_SIZE;
use crate::bytes::u64_at;
use crate::elf::{PT_DYNAMIC, PT_LOAD, ProgramHeader};
use crate::memory::segments::Stored;

const PAGE: usize = 4096;
const DT_TEXTREL: u64 = 22;
const DT_FLAGS: u64 = 30;
const DF_TEXTREL: u64 = 4;

/// Why a file's bytes are taken for the mapping's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// The build-id is the one in the core.
    BuildId,
    /// Neither has one; every page of it that the core holds is the file's.
    Pages {
        /// How many were compared.
        compared: u64,
        /// How many read-only pages are mapped.
        of: u64,
    },
    /// None: the user named it by `--exec` or `--lib`.
    Word,
    /// None: it lies at that path, and `--trust-paths` says that this is enough.
    Path,
}

/// Why a file's symbols are used, and its bytes are not taken for memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doubt {
    /// Its first page is the core's, others are not.
    Pages {
        /// How many differ.
        differ: u64,
        /// How many were compared.
        compared: u64,
        /// Address of the first that differs.
        first: u64,
    },
    /// The core holds no header page (`coredump_filter` without bit 4): the path and
    /// the places of its parts agree, nothing else can be compared.
    PathOnly,
}

/// What came of comparing a file with the core.
pub(super) enum Compared {
    /// All is equal.
    Equal { compared: u64, of: u64 },
    /// The first page is, others are not.
    Differs { differ: u64, compared: u64, first: u64 },
    /// The first page is another, or too short to be an ELF header.
    OtherHeader,
    /// The core holds no first page, and the parts lie as the file says.
    SameLayout,
    /// The core holds no first page, and the parts lie elsewhere.
    OtherLayout,
}

/// Compares `found` with what the core holds of the mappings `ranges`.
pub(super) fn compare(found: &FoundFile, ranges: &[FileNote], stored: &Stored, has_header: bool) -> Compared {
    if !has_header {
        return if same_layout(found, ranges) { Compared::SameLayout } else { Compared::OtherLayout };
    }
    let (mut compared, mut of, mut differ, mut first) = (0u64, 0u64, 0u64, None);
    let relocated_text = has_text_relocations(found);
    for range in ranges {
        let mut addr = range.start;
        while addr < range.end {
            let Some(segment) = stored.segment(addr) else { break };
            let end = segment.end.min(range.end);
            let present = segment.start.saturating_add(segment.present);
            if segment.writable() || addr >= present {
                of += if segment.writable() { 0 } else { (end - addr).div_ceil(PAGE_SIZE) };
                addr = end.max(addr.saturating_add(PAGE_SIZE));
                continue;
            }
            let offset = range.offset.saturating_add(addr - range.start);
            of += 1;
            let skip = offset > 0 && (relocated_text || is_written(found, offset));
            if !skip && let Some(same) = same_page(found, stored, addr, offset) {
                compared += 1;
                if !same {
                    if offset == 0 {
                        return Compared::OtherHeader;
                    }
                    differ += 1;
                    first = first.or(Some(addr));
                }
            }
            addr = addr.saturating_add(PAGE_SIZE);
        }
    }
    match first {
        _ if found.len < 64 || compared == 0 => Compared::OtherHeader,
        Some(first) => Compared::Differs { differ, compared, first },
        None => Compared::Equal { compared, of },
    }
}

/// Whether the page is the file's; nothing where one of them has none.
fn same_page(found: &FoundFile, stored: &Stored, addr: u64, offset: u64) -> Option<bool> {
    let (mut core, mut file) = ([0; PAGE], [0; PAGE]);
    let len = usize::try_from(found.len.saturating_sub(offset)).unwrap_or(PAGE).min(PAGE);
    if len == 0 || !stored.read(addr, &mut core) || !found.fill(offset, file.get_mut(..len)?) {
        return None;
    }
    Some(core == file)
}

/// Whether the page at `offset` is part of what the linker loads writable: changed
/// by relocations at least.
pub(super) fn is_written(found: &FoundFile, offset: u64) -> bool {
    let page = offset & !(PAGE_SIZE - 1);
    loads(found.elf.program_headers()).filter(|p| p.is_writable()).any(|p| {
        page.saturating_add(PAGE_SIZE) > p.offset
            && p.offset.checked_add(p.filesz).is_none_or(|end| page < end)
    })
}

fn loads(phdrs: &[ProgramHeader]) -> impl Iterator<Item = &ProgramHeader> {
    phdrs.iter().filter(|p| p.kind == PT_LOAD)
}

fn has_text_relocations(found: &FoundFile) -> bool {
    let Some(dynamic) = found.elf.program_headers().iter().find(|p| p.kind == PT_DYNAMIC) else {
        return false;
    };
    let len = usize::try_from(dynamic.filesz.min(1 << 16)).unwrap_or(0);
    let table = found.elf.source().bytes(dynamic.offset, len).unwrap_or_default();
    let textrel = |e: &[u8]| match u64_at(e, 0) {
        Some(DT_TEXTREL) => true,
        Some(DT_FLAGS) => u64_at(e, 8).is_some_and(|f| f & DF_TEXTREL != 0),
        _ => false,
    };
    table.chunks_exact(16).any(textrel)
}

/// Whether each part that the file wants loaded is mapped: the same offsets at the
/// same distances.
fn same_layout(found: &FoundFile, ranges: &[FileNote]) -> bool {
    let phdrs = found.elf.program_headers();
    let down = |n: u64| n & !(PAGE_SIZE - 1);
    let Some(first) = loads(phdrs).min_by_key(|p| p.offset) else { return false };
    let Some(base) = ranges.iter().find(|r| r.offset == down(first.offset)).map(|r| r.start) else {
        return false;
    };
    let bias = base.wrapping_sub(down(first.vaddr));
    loads(phdrs).filter(|p| p.filesz > 0).all(|p| {
        let (at, offset) = (bias.wrapping_add(down(p.vaddr)), down(p.offset));
        ranges
            .iter()
            .any(|r| r.start <= at && at < r.end && r.offset.checked_add(at - r.start) == Some(offset))
    })
}

impl std::fmt::Display for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BuildId => write!(f, "by its build-id"),
            Self::Pages { compared, of } => {
                write!(
                    f,
                    "by its contents: it has no build-id, and {compared} of {of} pages, all that the core holds, are equal"
                )
            }
            Self::Word => write!(f, "by your word (--exec, --lib): nothing proves it"),
            Self::Path => write!(f, "by its path (--trust-paths): nothing proves it"),
        }
    }
}

impl std::fmt::Display for Doubt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pages { differ, compared, first } => write!(
                f,
                "it has no build-id, and {differ} of {compared} compared pages differ (the first at {first:#x}): \
                 symbols are served, its bytes are not taken for memory"
            ),
            Self::PathOnly => write!(
                f,
                "found by path and layout alone, since the core holds no ELF headers of it (coredump_filter without \
                 bit 4, or a core that is cut): symbols are served, its bytes are not taken for memory unless --trust-paths says so"
            ),
        }
    }
}

/// A file that the user named for the program or a library.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// `--exec`.
    pub exec: Option<PathBuf>,
    /// `--lib`.
    pub libs: Vec<PathBuf>,
    /// `--trust-paths`.
    pub trust_paths: bool,
}
