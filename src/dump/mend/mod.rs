//! Headers in which bits turned over, put right where what stands beside them proves it.
//!
//! A page that is lost is one page; a bit of a header loses the whole dump. What the
//! headers say twice, and what the rest of the file says of them, is held against them
//! before they are read; what contradicts it is put right, in memory, and told. What nothing
//! proves stays as it is, and is refused as before.

use std::borrow::Cow;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::bytes::source::Source;

pub(super) mod blocks;
mod elf;
mod kdump;
pub(super) mod segments;

/// A file with another front than it has.
struct Mended {
    source: Arc<dyn Source>,
    front: Vec<u8>,
    /// What was put right.
    said: String,
}

/// A header as it should be, and what of it was not.
struct Header {
    front: Vec<u8>,
    said: Vec<String>,
}

/// `source`, with its header put right if it needs it.
pub(super) fn mend(source: Arc<dyn Source>) -> Arc<dyn Source> {
    let Some(Header { front, said }) = kdump::mend(&*source).or_else(|| elf::mend(&*source)) else {
        return source;
    };
    let mended = Mended { said: said.join("; "), front, source };
    // Nobody is told of what was wrong with the core of a process.
    let process = mended.front.starts_with(&object::elf::ELFMAG)
        && !super::elf::CoreHeaders::read(&mended).is_ok_and(|headers| headers.is_machine(&mended));
    if process { mended.source } else { Arc::new(mended) }
}

impl Header {
    fn of(source: &dyn Source, len: usize) -> Option<Self> {
        let front = source.bytes_up_to(0, len).ok()?.into_owned();
        (front.len() == len).then_some(Self { front, said: Vec::new() })
    }

    fn put<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        if let Some(place) = self.front.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
            *place = bytes;
        }
    }

    fn changed(self) -> Option<Self> {
        (!self.said.is_empty()).then_some(self)
    }
}

/// How many bits two strings of the same length differ in.
fn bits_between(a: &[u8], b: &[u8]) -> u32 {
    a.iter().zip(b).map(|(a, b)| (a ^ b).count_ones()).sum()
}

impl Mended {
    /// What of `len` bytes at `offset` is in the front.
    fn in_front(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let rest = self.front.get(usize::try_from(offset).ok()?..).filter(|rest| !rest.is_empty())?;
        rest.get(..len.min(rest.len()))
    }
}

impl Source for Mended {
    fn path(&self) -> &Path {
        self.source.path()
    }

    fn len(&self) -> u64 {
        self.source.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let Some(front) = self.in_front(offset, buf.len()) else { return self.source.read_at(offset, buf) };
        buf.get_mut(..front.len()).into_iter().for_each(|buf| buf.copy_from_slice(front));
        Ok(front.len())
    }

    fn peek_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        if self.in_front(offset, 1).is_some() {
            return self.read_at(offset, buf);
        }
        self.source.peek_at(offset, buf)
    }

    fn slice(&self, offset: u64, len: usize) -> Option<&[u8]> {
        match self.in_front(offset, len) {
            Some(front) => (front.len() == len).then_some(front),
            None => self.source.slice(offset, len),
        }
    }

    fn bytes(&self, offset: u64, len: usize) -> io::Result<Cow<'_, [u8]>> {
        let mut bytes = self.source.bytes(offset, len)?;
        if let Some(front) = self.in_front(offset, len) {
            bytes.to_mut().get_mut(..front.len()).into_iter().for_each(|b| b.copy_from_slice(front));
        }
        Ok(bytes)
    }

    fn holds(&self, offset: u64, len: u64) -> bool {
        self.source.holds(offset, len)
    }

    fn is_hole(&self, offset: u64, len: u64) -> bool {
        self.in_front(offset, 1).is_none() && self.source.is_hole(offset, len)
    }

    fn is_flattened(&self) -> bool {
        self.source.is_flattened()
    }

    fn damage(&self) -> Option<String> {
        self.source.damage()
    }

    fn trouble(&self) -> Option<String> {
        let said = format!("{}: {}", self.path().display(), self.said);
        Some(self.source.trouble().map_or(said.clone(), |more| format!("{said}; {more}")))
    }

    fn identity(&self) -> Option<String> {
        self.source.identity()
    }
}
