//! A source from front to back in big-endian numbers.

use crate::bytes::source::Source;

/// Bytes that are read ahead: most of the stream is pages, which are skipped.
const AHEAD: usize = 256;

/// A place in a stream.
pub(super) struct Stream<'s> {
    source: &'s dyn Source,
    at: u64,
    /// What is at `buffered_at`.
    buffer: [u8; AHEAD],
    buffered_at: u64,
    buffered: usize,
}

impl<'s> Stream<'s> {
    pub(super) fn new(source: &'s dyn Source, at: u64) -> Self {
        Self { source, at, buffer: [0; AHEAD], buffered_at: 0, buffered: 0 }
    }

    pub(super) fn source(&self) -> &'s dyn Source {
        self.source
    }

    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Goes elsewhere.
    pub(super) fn seek(&mut self, at: u64) {
        self.at = at;
    }

    /// Goes on by `len`, not beyond the end.
    pub(super) fn skip(&mut self, len: u64) -> Option<()> {
        self.at = self.at.checked_add(len).filter(|&at| at <= self.source.len())?;
        Some(())
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let within = |s: &Self| usize::try_from(s.at.checked_sub(s.buffered_at)?).ok();
        let here = |s: &Self| s.buffer.get(..s.buffered)?.get(within(s)?..)?.first_chunk().copied();
        let found = match here(self) {
            Some(found) => found,
            None => {
                self.buffered_at = self.at;
                self.buffered = 0;
                while let Some(rest) = self.buffer.get_mut(self.buffered..).filter(|r| !r.is_empty()) {
                    match self.source.peek_at(self.at + self.buffered as u64, rest).ok()? {
                        0 => break,
                        n => self.buffered += n,
                    }
                }
                here(self)?
            }
        };
        self.at += N as u64;
        Some(found)
    }

    /// The next byte, which stays.
    pub(super) fn peek(&mut self) -> Option<u8> {
        let byte = self.u8()?;
        self.at -= 1;
        Some(byte)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[b]| b)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn take(&mut self, len: usize) -> Option<Vec<u8>> {
        let bytes = self.source.bytes(self.at, len).ok()?.into_owned();
        self.at += len as u64;
        Some(bytes)
    }

    /// A name: its length in one byte, and itself.
    pub(super) fn name(&mut self) -> Option<String> {
        let len = self.u8()?;
        Some(String::from_utf8_lossy(&self.take(len.into())?).into_owned())
    }
}
