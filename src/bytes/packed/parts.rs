//! A compressed file whose parts can be unpacked alone.
//!
//! Small parts are kept in memory, some of them; large ones (xz makes 24 MiB) are put, when
//! they are first asked for, into a file without a name, so that none is unpacked twice.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::{Packing, Unpack, cache};
use crate::bytes::source::Source;

/// A part up to this size is kept in memory,
const SMALL: u64 = 2 << 20;
/// a larger one in a file; one that is larger than this is unpacked with all others.
const LARGE: u64 = 64 << 20;
/// What is kept in memory.
const KEPT: u64 = 32 << 20;
/// `EIO`: what a part that does not decompress gives.
const EIO: i32 = 5;

/// A part of a compressed file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    /// Where it stands in what is unpacked,
    pub(crate) start: u64,
    /// and how much it is there.
    pub(crate) len: u64,
    /// Where it stands in the file,
    pub(crate) at: u64,
    /// and how much it is there.
    pub(crate) size: u64,
}

/// Makes of the bytes of one part a stream that is whole.
pub(crate) type Whole = fn(&dyn Source, Part) -> io::Result<Vec<u8>>;

/// The parts of a file, in their order and without gaps.
pub(crate) struct Index {
    pub(crate) packing: Packing,
    pub(crate) parts: Vec<Part>,
    pub(crate) whole: Whole,
}

/// The bytes of a part as they stand in the file.
pub(crate) fn as_it_stands(source: &dyn Source, part: Part) -> io::Result<Vec<u8>> {
    let size = usize::try_from(part.size).map_err(|_| io::ErrorKind::UnexpectedEof)?;
    source.bytes(part.at, size).map(std::borrow::Cow::into_owned)
}

/// What is in the file.
pub(crate) struct Parts {
    source: Arc<dyn Source>,
    index: Index,
    len: u64,
    kept: Kept,
}

enum Kept {
    Memory(Cache<usize, Arc<[u8]>, Bytes>),
    /// Which parts are in the file already.
    File {
        file: File,
        there: Vec<Mutex<bool>>,
    },
}

#[derive(Clone)]
struct Bytes;

impl Weighter<usize, Arc<[u8]>> for Bytes {
    fn weight(&self, _: &usize, bytes: &Arc<[u8]>) -> u64 {
        bytes.len().max(1) as u64
    }
}

impl Parts {
    /// `source` by its `index`; `None` if its parts are too large for that.
    pub(crate) fn open(source: Arc<dyn Source>, index: Index, how: &Unpack) -> io::Result<Option<Self>> {
        let largest = index.parts.iter().map(|p| p.len.max(p.size)).max().unwrap_or(0);
        let len = index.parts.last().map_or(0, |p| p.start + p.len);
        if largest > LARGE || len == 0 {
            return Ok(None);
        }
        let kept = if largest <= SMALL {
            let items = usize::try_from(KEPT / largest.max(1)).unwrap_or(1).max(4);
            Kept::Memory(Cache::with_weighter(items, KEPT, Bytes))
        } else if len > how.limit {
            return Ok(None);
        } else {
            let there = index.parts.iter().map(|_| Mutex::new(false)).collect();
            Kept::File { file: cache::nameless(how)?.0, there }
        };
        let (parts, packing) = (index.parts.len(), index.packing.name());
        tracing::debug!(
            "{}: {parts} parts of {packing}, unpacked as they are asked for",
            source.path().display()
        );
        Ok(Some(Self { source, index, len, kept }))
    }

    fn unpacked(&self, part: Part) -> io::Result<Vec<u8>> {
        let bytes = (self.index.whole)(&*self.source, part)?;
        let len = usize::try_from(part.len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let mut out = Vec::with_capacity(len);
        // One byte more, so that what follows the last one is checked, too.
        let done = self.index.packing.unpacked(&bytes[..])?.take(part.len + 1).read_to_end(&mut out);
        if done.is_ok() && out.len() == len {
            return Ok(out);
        }
        let why = done.err().map_or_else(|| "its length differs".to_owned(), |e| e.to_string());
        let path = self.source.path().display();
        tracing::warn!("{path}: what is at {:#x} does not decompress: {why}", part.at);
        Err(io::Error::from_raw_os_error(EIO))
    }
}

impl Source for Parts {
    fn path(&self) -> &Path {
        self.source.path()
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let number = self.index.parts.partition_point(|p| p.start <= offset).checked_sub(1);
        let found = number.and_then(|n| Some((n, *self.index.parts.get(n)?)));
        let Some((number, part)) = found.filter(|(_, p)| offset - p.start < p.len) else { return Ok(0) };
        let within = offset - part.start;
        let n = usize::try_from(part.len - within).map_or(buf.len(), |left| left.min(buf.len()));
        let buf = buf.get_mut(..n).unwrap_or_default();
        match &self.kept {
            Kept::Memory(cache) => {
                let bytes = cache.get_or_insert_with(&number, || self.unpacked(part).map(Arc::from))?;
                let from = usize::try_from(within).ok().and_then(|at| bytes.get(at..at.checked_add(n)?));
                buf.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
            }
            Kept::File { file, there } => {
                let there = there.get(number).ok_or(io::ErrorKind::UnexpectedEof)?;
                let mut there = there.lock().unwrap_or_else(PoisonError::into_inner);
                if !*there {
                    file.write_all_at(&self.unpacked(part)?, part.start)?;
                    *there = true;
                }
                drop(there);
                file.read_exact_at(buf, offset)?;
            }
        }
        Ok(n)
    }

    fn damage(&self) -> Option<String> {
        self.source.damage()
    }

    fn trouble(&self) -> Option<String> {
        self.source.trouble()
    }
}

/// Collects parts.
#[derive(Default)]
pub(crate) struct Collector {
    parts: Vec<Part>,
    start: u64,
}

impl Collector {
    /// More parts than this are a bomb: 640 MiB of bgzip's smallest.
    pub(super) const MAX: usize = 1 << 22;

    /// How much the parts so far hold.
    pub(crate) fn unpacked(&self) -> u64 {
        self.start
    }

    /// Adds a part of `len` bytes which stands at `at` and has `size` bytes there; `None`
    /// when they are too many.
    pub(crate) fn add(&mut self, at: u64, size: u64, len: u64) -> Option<()> {
        if self.parts.len() >= Self::MAX {
            return None;
        }
        // Ends of streams are empty parts.
        if len > 0 {
            self.parts.push(Part { start: self.start, len, at, size });
            self.start = self.start.checked_add(len)?;
        }
        Some(())
    }

    pub(crate) fn finish(self) -> Vec<Part> {
        self.parts
    }
}
