//! The segments of a userspace core as an address space.
//!
//! A core does not hold the whole process: the kernel leaves out what its
//! `coredump_filter` names (file-backed text, first of all), and a full disk
//! cuts the file short. [`Stored`] is what the core itself holds; [`Segments`]
//! adds the mapped files, each behind the [`Backing`] trait, whose implementor
//! decides whether a file is proven to be the one that was mapped.
//!
//! Layout: `Elf64_Phdr` of `PT_LOAD` (elf.h); kernel `fs/binfmt_elf.c`, `elf_core_dump`.

use std::sync::Arc;

use crate::addr::VirtAddr;
use crate::bytes::source::Source;
use crate::error::ReadFault;
use crate::memory::AddressSpace;

/// One `PT_LOAD` of the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// First address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
    /// `PF_R` 4, `PF_W` 2, `PF_X` 1.
    pub flags: u32,
    /// Where its bytes stand in the core.
    pub offset: u64,
    /// How many bytes from `start` on the core was written with.
    pub stored: u64,
    /// How many of those the file still holds: fewer in a truncated core.
    pub present: u64,
}

impl Segment {
    /// Bytes that truncation has cost.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.stored.saturating_sub(self.present)
    }

    /// Whether the process could write to it.
    #[must_use]
    pub fn writable(&self) -> bool {
        self.flags & 2 != 0
    }

    /// Whether the process could execute it.
    #[must_use]
    pub fn executable(&self) -> bool {
        self.flags & 1 != 0
    }
}

/// The bytes that the core itself holds.
pub struct Stored {
    core: Arc<dyn Source>,
    segments: Vec<Segment>,
}

impl Stored {
    /// The segments of `core`, sorted by address; empty ones are dropped.
    #[must_use]
    pub fn new(core: Arc<dyn Source>, mut segments: Vec<Segment>) -> Self {
        segments.retain(|s| s.start < s.end);
        segments.sort_by_key(|s| s.start);
        Self { core, segments }
    }

    /// All segments in the order of their addresses.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The segment that covers `addr`.
    #[must_use]
    pub fn segment(&self, addr: u64) -> Option<&Segment> {
        let after = self.segments.partition_point(|s| s.start <= addr);
        self.segments.get(after.checked_sub(1)?).filter(|s| addr < s.end)
    }

    /// How many bytes from `addr` on are in the core without a gap, within one
    /// segment.
    #[must_use]
    pub fn run(&self, addr: u64) -> u64 {
        self.segment(addr).map_or(0, |s| s.present.saturating_sub(addr - s.start))
    }

    /// Reads from `addr` up to the end of what the segment holds.
    pub fn read_run(&self, addr: u64, buf: &mut [u8]) -> Result<usize, ReadFault> {
        let segment = self.segment(addr).ok_or(ReadFault::NoSegment { addr })?;
        let at = addr - segment.start;
        if at >= segment.stored {
            return Err(ReadFault::NotInCore { addr });
        }
        let left = segment.present.saturating_sub(at);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        let lost = ReadFault::Truncated { addr };
        if len == 0 {
            return Err(lost);
        }
        let offset = segment.offset.checked_add(at).ok_or(lost)?;
        match self.core.read_at(offset, buf.get_mut(..len).unwrap_or_default()) {
            Ok(n) if n > 0 => Ok(n),
            Ok(_) => Err(ReadFault::Shrunk { addr }),
            Err(e) => Err(e.raw_os_error().map_or(lost, |errno| ReadFault::Unread { addr, errno })),
        }
    }

    /// Fills `buf` from the core alone; false when any byte of it is not there.
    #[must_use]
    pub fn read(&self, addr: u64, buf: &mut [u8]) -> bool {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|r| !r.is_empty()) {
            let Some(at) = addr.checked_add(done as u64) else { return false };
            match self.read_run(at, rest) {
                Ok(n) => done += n,
                Err(_) => return false,
            }
        }
        true
    }
}

/// A mapped file.
pub trait Backing: Send + Sync {
    /// Reads what a mapping of the file showed at `offset` when the process
    /// died, or nothing if no file is proven to be the one that was mapped.
    fn read_mapped(&self, offset: u64, buf: &mut [u8]) -> Option<usize>;
}

/// A range of addresses that maps a file.
#[derive(Clone)]
pub struct FileRange {
    /// First address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
    /// Offset in the file that `start` shows.
    pub offset: u64,
    /// The file.
    pub file: Arc<dyn Backing>,
}

/// A process's memory: the core, and where it has nothing, the mapped files.
pub struct Segments {
    stored: Arc<Stored>,
    files: Vec<FileRange>,
}

impl Segments {
    /// Lays the mapped files behind the core.
    #[must_use]
    pub fn new(stored: Arc<Stored>, mut files: Vec<FileRange>) -> Self {
        files.retain(|f| f.start < f.end);
        files.sort_by_key(|f| f.start);
        Self { stored, files }
    }

    /// The core's own part.
    #[must_use]
    pub fn stored(&self) -> &Stored {
        &self.stored
    }

    fn file_at(&self, addr: u64) -> Option<&FileRange> {
        let after = self.files.partition_point(|f| f.start <= addr);
        self.files.get(after.checked_sub(1)?).filter(|f| addr < f.end)
    }
}

impl AddressSpace for Segments {
    fn read_run(&self, addr: VirtAddr, buf: &mut [u8]) -> Result<usize, ReadFault> {
        let fault = match self.stored.read_run(addr.0, buf) {
            Ok(n) => return Ok(n),
            // What was written and then lost may have been changed by the
            // process: the file is no substitute.
            Err(
                lost @ (ReadFault::Truncated { .. } | ReadFault::Unread { .. } | ReadFault::Shrunk { .. }),
            ) => return Err(lost),
            Err(fault) => fault,
        };
        let Some(range) = self.file_at(addr.0) else { return Err(fault) };
        let unproven = ReadFault::NotInCore { addr: addr.0 };
        let next = self.stored.segments.partition_point(|s| s.start <= addr.0);
        let end = self.stored.segments.get(next).map_or(range.end, |s| s.start.min(range.end));
        let left = usize::try_from(end - addr.0).unwrap_or(usize::MAX).min(buf.len());
        let offset = range.offset.checked_add(addr.0 - range.start).ok_or(unproven)?;
        match range.file.read_mapped(offset, buf.get_mut(..left).unwrap_or_default()) {
            Some(n) if n > 0 => Ok(n),
            _ => Err(unproven),
        }
    }
}
