//! Virtual address spaces: how a virtual address becomes bytes of the dump.
//!
//! [`AddressSpace`] is the border: page tables ([`paging`]) over a vmcore's
//! physical memory, or the segments of a userspace core ([`segments`]).

use std::ops::Range;

use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::error::ReadFault;
use crate::{bytes, par};

pub mod paging;
pub mod segments;

/// One virtual address space.
pub trait AddressSpace: Send + Sync {
    /// Reads from `addr` up to the end of the page or segment that holds it, at
    /// most `buf.len()` bytes. Returns how many bytes, at least one (for a `buf`
    /// that is not empty).
    fn read_run(&self, addr: VirtAddr, buf: &mut [u8]) -> Result<usize, ReadFault>;

    /// Fills as much of `buf` as is readable from `addr` on.
    ///
    /// A fault after the first byte is no error: the count says where it stopped.
    fn read(&self, addr: VirtAddr, buf: &mut [u8]) -> Result<usize, ReadFault> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|r| !r.is_empty()) {
            let Some(at) = addr.checked_add(done as u64) else { break };
            match self.read_run(at, rest) {
                Ok(n) if n > 0 => done += n,
                Err(fault) if done == 0 => return Err(fault),
                _ => break,
            }
        }
        Ok(done)
    }

    /// Fills the whole of `buf`, or says why the first unreadable byte is not.
    fn read_exact(&self, addr: VirtAddr, buf: &mut [u8]) -> Result<(), ReadFault> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|r| !r.is_empty()) {
            let at = addr.checked_add(done as u64).ok_or(ReadFault::NonCanonical { addr: addr.0 })?;
            done += self.read_run(at, rest)?.max(1);
        }
        Ok(())
    }

    /// The `len` bytes at `addr`. The caller bounds `len`.
    fn read_vec(&self, addr: VirtAddr, len: usize) -> Result<Vec<u8>, ReadFault> {
        let mut buf = vec![0; len];
        self.read_exact(addr, &mut buf)?;
        Ok(buf)
    }

    /// The 64-bit integer at `addr`.
    fn read_u64(&self, addr: VirtAddr) -> Result<u64, ReadFault> {
        let mut buf = [0; 8];
        self.read_exact(addr, &mut buf)?;
        Ok(u64::from_le_bytes(buf))
    }

    /// The 32-bit integer at `addr`.
    fn read_u32(&self, addr: VirtAddr) -> Result<u32, ReadFault> {
        let mut buf = [0; 4];
        self.read_exact(addr, &mut buf)?;
        Ok(u32::from_le_bytes(buf))
    }

    /// The NUL-terminated text at `addr`, at most `max` bytes of it. Text cut
    /// short by an unreadable page is returned as far as it goes.
    fn read_cstr(&self, addr: VirtAddr, max: usize) -> Result<String, ReadFault> {
        let mut buf = vec![0; max];
        let n = self.read(addr, &mut buf)?;
        Ok(bytes::cstr(buf.get(..n).unwrap_or_default()).into_owned())
    }
}

/// Bytes of which some may be lost.
#[derive(Debug, Default)]
pub struct Holed {
    /// The bytes; zeros where they are lost.
    pub bytes: Vec<u8>,
    /// What is lost, in order and apart from each other.
    pub holes: Vec<Hole>,
}

/// Bytes that are lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hole {
    /// Which.
    pub range: Range<usize>,
    /// Why the first of them is.
    pub fault: ReadFault,
}

impl Holed {
    /// The lost ranges alone.
    #[must_use]
    pub fn lost(&self) -> Vec<Range<usize>> {
        self.holes.iter().map(|h| h.range.clone()).collect()
    }

    /// `len` bytes from `at` on, if none of them is lost.
    #[must_use]
    pub fn get(&self, at: usize, len: usize) -> Option<&[u8]> {
        let end = at.checked_add(len)?;
        let next = self.holes.partition_point(|h| h.range.end <= at);
        let whole = self.holes.get(next).is_none_or(|h| h.range.start >= end);
        self.bytes.get(at..end).filter(|_| whole)
    }

    /// Behind the last byte that is there.
    #[must_use]
    pub fn reach(&self) -> usize {
        self.holes
            .last()
            .filter(|h| h.range.end == self.bytes.len())
            .map_or(self.bytes.len(), |h| h.range.start)
    }

    /// What is lost, in words; `None` if nothing is.
    #[must_use]
    pub fn sentence(&self) -> Option<String> {
        let first = self.holes.first()?;
        let bytes: usize = self.holes.iter().map(|h| h.range.len()).sum();
        Some(format!("{bytes:#x} of {:#x} bytes are lost: {}", self.bytes.len(), first.fault))
    }
}

/// Whether `range` touches one of the holes, which are in order and apart from each other.
pub(crate) fn touches(holes: &[Range<usize>], range: &Range<usize>) -> bool {
    let next = holes.partition_point(|h| h.end <= range.start);
    holes.get(next).is_some_and(|h| h.start < range.end)
}

/// The `len` bytes at `addr`, as far as they are there; read on several threads: what
/// takes time in a large read of a compressed dump is the decompression of its pages.
#[must_use]
pub fn read_holed(space: &dyn AddressSpace, addr: VirtAddr, len: usize) -> Holed {
    /// Less than this is not worth a thread.
    const PART: usize = 256 << 10;
    let part = len.div_ceil(par::threads()).max(PART).next_multiple_of(4096);
    let mut out = vec![0; len];
    let chunks = out.chunks_mut(part).enumerate();
    let holes = par::parts(chunks, |(i, chunk)| fill(space, addr, i * part, chunk));
    let mut joined: Vec<Hole> = Vec::new();
    for hole in holes.into_iter().flatten() {
        match joined.last_mut().filter(|last| last.range.end == hole.range.start) {
            Some(last) => last.range.end = hole.range.end,
            None => joined.push(hole),
        }
    }
    Holed { bytes: out, holes: joined }
}

/// Fills `part`, which begins `start` bytes behind `addr`; what could not be read.
fn fill(space: &dyn AddressSpace, addr: VirtAddr, start: usize, part: &mut [u8]) -> Vec<Hole> {
    let mut holes: Vec<Hole> = Vec::new();
    let mut done = 0;
    while let Some(rest) = part.get_mut(done..).filter(|r| !r.is_empty()) {
        let at = addr.checked_add((start + done) as u64);
        match at.ok_or(ReadFault::NonCanonical { addr: addr.0 }).and_then(|at| space.read_run(at, rest)) {
            Ok(n) => done += n.max(1),
            Err(fault) => {
                // On to the next page.
                let left = at.map_or(rest.len() as u64, |at| PAGE_SIZE - at.page_offset());
                let left = usize::try_from(left).unwrap_or(rest.len()).min(rest.len());
                // What a read wrote that then failed. A large hole stays pages that are not touched.
                if let Some(lost) = rest.get_mut(..left).filter(|lost| !bytes::is_zero(lost)) {
                    lost.fill(0);
                }
                let range = start + done..start + done + left;
                match holes.last_mut().filter(|last| last.range.end == range.start) {
                    Some(last) => last.range.end = range.end,
                    None => holes.push(Hole { range, fault }),
                }
                done += left;
            }
        }
    }
    holes
}
