//! Virtual address spaces: how a virtual address becomes bytes of the dump.
//!
//! [`AddressSpace`] is the border: page tables ([`paging`]) over a vmcore's
//! physical memory, or the segments of a userspace core ([`segments`]).

use crate::addr::VirtAddr;
use crate::error::ReadFault;
use crate::{bytes, par};

pub mod paging;
pub mod segments;
mod tlb;

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

/// The `len` bytes at `addr`, read on several threads: what takes time in a
/// large read of a compressed dump is the decompression of its pages.
pub fn read_large(space: &dyn AddressSpace, addr: VirtAddr, len: usize) -> Result<Vec<u8>, ReadFault> {
    /// Less than this is not worth a thread.
    const PART: usize = 256 << 10;
    let part = len.div_ceil(par::threads()).max(PART).next_multiple_of(4096);
    let mut out = vec![0; len];
    let results: Vec<_> = std::thread::scope(|scope| {
        let readers: Vec<_> = out
            .chunks_mut(part)
            .enumerate()
            .map(|(i, chunk)| {
                scope.spawn(move || {
                    let at = addr
                        .checked_add((i * part) as u64)
                        .ok_or(ReadFault::NonCanonical { addr: addr.0 })?;
                    space.read_exact(at, chunk)
                })
            })
            .collect();
        // In the order of addresses, so that the first fault is the lowest.
        readers
            .into_iter()
            .map(|r| r.join().unwrap_or(Err(ReadFault::NonCanonical { addr: addr.0 })))
            .collect()
    });
    results.into_iter().collect::<Result<(), _>>().map(|()| out)
}
