//! Where the pages of memory stand in a migration stream.
//!
//! ```text
//!  u64 offset in the block | flags      [name of the block, unless 20]
//!  04  blocks follow: name, u64 length, until their sum is the offset
//!  02  a page of one byte: u8           08  a page: 4096 bytes
//!  100 a page in zlib: u32 length, data 40  a page as a difference (XBZRLE)
//!  20  of the same block as before      10  end of this part    200  nothing
//! ```
//!
//! A page that changed while it was sent is sent again: the last one counts. With
//! `mapped-ram` (QEMU 9) each page has a place of its own: behind a block's length stand
//! u32 version, u64 page size, u64 offset of a bitmap of the pages that are not zeros, u64 offset
//! of the pages. Source: QEMU `migration/ram.c`, `docs/devel/migration/mapped-ram.rst`.
//!
//! The stream tells blocks, not addresses. A PC has its memory in one block, whose front
//! lies at 0 and whose rest at 4 GiB (QEMU `hw/i386/pc_piix.c`, `pc_q35.c`).

use std::borrow::Cow;
use std::collections::HashMap;

use super::super::codec::{Codec, Decoders};
use super::super::page_cache::PageCache;
use super::super::{last_from, unread};
use super::stream::Stream;
use crate::addr::{PAGE_SIZE, PhysAddr};
use crate::bytes::source::Source;
use crate::error::ReadFault;

/// Pages whose places are kept together.
const CHUNK: u64 = 512;
/// As many of them: 96 GiB of memory, in 192 MiB.
const CHUNKS_MAX: usize = 48 << 10;
const BLOCKS_MAX: usize = 4096;
/// VGA's window: no memory.
const HOLE: std::ops::Range<u64> = 0xa_0000..0xc_0000;

/// The memory in a stream.
#[derive(Default)]
pub(super) struct Ram {
    blocks: Vec<Block>,
    chunks: HashMap<(usize, u64), Box<[Place; 512]>>,
    /// Pages have places of their own.
    pub(super) mapped: bool,
    /// Shared blocks are not sent, and have an address.
    pub(super) ignores_shared: bool,
    /// Where blocks are in the machine: `(address, block, offset, bytes)`, sorted.
    layout: Vec<(u64, usize, u64, u64)>,
    last: usize,
    differences: u64,
    too_large: bool,
    whole: bool,
    cache: PageCache,
    decoders: Decoders,
}

struct Block {
    name: String,
    len: u64,
    /// Offsets of the bitmap and of the pages.
    mapped: Option<(u64, u64)>,
}

/// Where a page stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Place(u64);

/// What is there.
enum Kind {
    /// Never sent.
    None,
    /// The page, at this offset.
    Page(u64),
    /// A page of this byte.
    Fill(u8),
    /// A zlib stream, its length before it.
    Zlib(u64),
    /// A difference to what is not kept.
    Difference,
}

impl Place {
    /// The kind is in the top byte: a file has less than 64 PiB.
    const OFFSET: u64 = (1 << 56) - 1;

    fn new(kind: &Kind) -> Self {
        Self(match *kind {
            Kind::None => 0,
            Kind::Page(at) => 1 << 56 | at & Self::OFFSET,
            Kind::Fill(byte) => 2 << 56 | u64::from(byte),
            Kind::Zlib(at) => 3 << 56 | at & Self::OFFSET,
            Kind::Difference => 4 << 56,
        })
    }

    fn kind(self) -> Kind {
        let at = self.0 & Self::OFFSET;
        match self.0 >> 56 {
            1 => Kind::Page(at),
            2 => Kind::Fill(at.to_le_bytes().first().copied().unwrap_or(0)),
            3 => Kind::Zlib(at),
            4 => Kind::Difference,
            _ => Kind::None,
        }
    }
}

impl Ram {
    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Whether all parts were read.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Why it cannot be read, if so.
    pub(super) fn refused(&self) -> Option<&'static str> {
        match () {
            () if self.too_large => Some("a migration stream of more than 96 GiB of memory"),
            () if self.layout.is_empty() => Some("a migration stream without a PC's memory (pc.ram)"),
            () => None,
        }
    }

    /// What is not there, in words.
    pub(super) fn lacks(&self) -> Option<String> {
        let n = Some(self.differences).filter(|&n| n > 0)?;
        Some(format!("{n} pages were sent as differences (XBZRLE), and cannot be read"))
    }

    /// Reads a part of the section; `None` where it breaks off, or is not understood.
    pub(super) fn read_part(&mut self, stream: &mut Stream<'_>) -> Option<()> {
        self.whole = false;
        loop {
            let word = stream.u64()?;
            let (offset, flags) = (word & !(PAGE_SIZE - 1), word & (PAGE_SIZE - 1));
            if flags & 0x4 != 0 {
                self.read_blocks(stream, offset)?;
            }
            if flags & (0x2 | 0x8 | 0x40 | 0x100) != 0 && flags & 0x20 == 0 {
                let name = stream.name()?;
                self.last = self.blocks.iter().position(|b| b.name == name)?;
            }
            let kind = match flags {
                _ if flags & 0x2 != 0 => Kind::Fill(stream.u8()?),
                _ if flags & 0x8 != 0 => {
                    let at = stream.at();
                    stream.skip(PAGE_SIZE)?;
                    Kind::Page(at)
                }
                _ if flags & 0x100 != 0 => {
                    let at = stream.at();
                    let len = stream.u32()?;
                    stream.skip(len.into())?;
                    Kind::Zlib(at)
                }
                _ if flags & 0x40 != 0 => {
                    stream.u8()?;
                    let len = stream.u16()?;
                    stream.skip(len.into())?;
                    self.differences += 1;
                    Kind::Difference
                }
                _ if flags & 0x10 != 0 => {
                    self.whole = true;
                    return Some(());
                }
                _ if flags & (0x4 | 0x200) != 0 => continue,
                _ => return None,
            };
            self.put(offset, &kind)?;
        }
    }

    fn put(&mut self, offset: u64, kind: &Kind) -> Option<()> {
        let block = self.blocks.get(self.last)?;
        if offset >= block.len {
            return None;
        }
        let page = offset / PAGE_SIZE;
        let key = (self.last, page / CHUNK);
        if self.chunks.len() >= CHUNKS_MAX && !self.chunks.contains_key(&key) {
            self.too_large = true;
            return None;
        }
        let chunk = self.chunks.entry(key).or_insert_with(|| Box::new([Place::default(); 512]));
        *chunk.get_mut(usize::try_from(page % CHUNK).ok()?)? = Place::new(kind);
        Some(())
    }

    fn read_blocks(&mut self, stream: &mut Stream<'_>, mut total: u64) -> Option<()> {
        while total > 0 {
            let (name, len) = (stream.name()?, stream.u64()?);
            total = total.checked_sub(len)?;
            if self.ignores_shared {
                stream.u64()?;
            }
            let mut mapped = None;
            if self.mapped {
                let (version, size) = (stream.u32()?, stream.u64()?);
                let (bitmap, pages) = (stream.u64()?, stream.u64()?);
                (version == 1 && size == PAGE_SIZE).then_some(())?;
                if (bitmap, pages) != (0, 0) {
                    mapped = Some((bitmap, pages));
                    // Last pages of zeros need not be in the file.
                    stream.seek(pages.checked_add(len)?);
                }
            }
            (self.blocks.len() < BLOCKS_MAX).then_some(())?;
            self.blocks.push(Block { name, len, mapped });
        }
        Some(())
    }

    /// Puts the blocks where a PC of this name has them.
    pub(super) fn lay_out(&mut self, machine: &str) {
        let mut main: Vec<usize> = (0..self.blocks.len()).filter(|&i| self.name(i) == "pc.ram").collect();
        if main.is_empty() {
            // Of the user's own backends, one for each node: their order is that of their names.
            main = (0..self.blocks.len())
                .filter(|&i| self.name(i).starts_with("/objects/") || self.name(i).starts_with("ram-node"))
                .collect();
            main.sort_by_key(|&i| (self.name(i).len(), self.name(i).to_owned()));
        }
        let lens: Vec<u64> = main.iter().filter_map(|&i| Some(self.blocks.get(i)?.len)).collect();
        let Some(total) = lens.iter().try_fold(0u64, |sum, len| sum.checked_add(*len)) else { return };
        let low = match machine.contains("q35") {
            true if total >= 0xb000_0000 => 0x8000_0000,
            false if total >= 0xe000_0000 => 0xc000_0000,
            _ => total,
        };
        let mut done = 0u64;
        for (block, len) in main.into_iter().zip(lens) {
            let mut offset = 0;
            while offset < len {
                // Each piece ends where the address jumps.
                let ends = [HOLE.start, HOLE.end, low, u64::MAX];
                let end = ends.into_iter().find(|&end| end > done).unwrap_or(u64::MAX);
                let n = (len - offset).min(end - done);
                let at = if done < low { done } else { (1u64 << 32).saturating_add(done - low) };
                if !HOLE.contains(&done) {
                    self.layout.push((at, block, offset, n));
                }
                done += n;
                offset += n;
            }
        }
    }

    fn name(&self, block: usize) -> &str {
        self.blocks.get(block).map_or("", |b| &b.name)
    }

    /// The machine's memory.
    pub(super) fn ranges(&self, max: usize) -> Vec<(PhysAddr, u64)> {
        self.layout.iter().map(|&(at, _, _, len)| (PhysAddr(at), len)).take(max).collect()
    }

    /// See [`super::super::PhysicalMemory::read_phys`].
    pub(super) fn read_phys(
        &self,
        source: &dyn Source,
        addr: PhysAddr,
        buf: &mut [u8],
    ) -> Result<usize, ReadFault> {
        let phys = addr.0;
        let found = last_from(&self.layout, phys, |l| l.0).filter(|l| phys - l.0 < l.3);
        let &(start, block, offset, _) = found.ok_or(ReadFault::NoMemory { phys })?;
        let at = offset + (phys - start);
        let within = at % PAGE_SIZE;
        let n = buf.len().min(usize::try_from(PAGE_SIZE - within).unwrap_or(0));
        let Some(buf) = buf.get_mut(..n).filter(|b| !b.is_empty()) else { return Ok(0) };
        let (truncated, corrupt) = (ReadFault::Truncated { addr: phys }, ReadFault::Corrupt { phys });
        match self.find(source, block, at / PAGE_SIZE).ok_or(truncated)? {
            Kind::None => return Err(truncated),
            Kind::Difference => return Err(corrupt),
            Kind::Fill(byte) => buf.fill(byte),
            Kind::Page(from) => {
                source.read_exact_at(from + within, buf).map_err(|e| unread(addr, &e))?;
            }
            Kind::Zlib(from) => {
                let page = self.cache.page((block, from), |page| {
                    let data = packed(source, from).ok_or(corrupt)?;
                    self.decoders.decode(Codec::Zlib, &data, page).ok_or(corrupt)
                })?;
                let within = usize::try_from(within).unwrap_or(0);
                buf.copy_from_slice(page.get(within..within + n).ok_or(corrupt)?);
            }
        }
        Ok(n)
    }

    fn find(&self, source: &dyn Source, block: usize, page: u64) -> Option<Kind> {
        if let Some((bitmap, pages)) = self.blocks.get(block)?.mapped {
            let mut byte = [0];
            source.read_exact_at(bitmap.checked_add(page / 8)?, &mut byte).ok()?;
            let [byte] = byte;
            return Some(match byte >> (page % 8) & 1 {
                0 => Kind::Fill(0),
                _ => Kind::Page(pages.checked_add(page.checked_mul(PAGE_SIZE)?)?),
            });
        }
        let chunk = self.chunks.get(&(block, page / CHUNK));
        Some(
            chunk
                .and_then(|c| c.get(usize::try_from(page % CHUNK).ok()?))
                .copied()
                .unwrap_or_default()
                .kind(),
        )
    }
}

/// The zlib stream of a page at `at`, its length before it.
fn packed(source: &dyn Source, at: u64) -> Option<Cow<'_, [u8]>> {
    let mut len = [0; 4];
    source.read_exact_at(at, &mut len).ok()?;
    // zlib's worst case of a page is a few bytes more than it.
    let len = usize::try_from(u32::from_be_bytes(len)).ok().filter(|&n| n <= 8192)?;
    source.bytes(at + 4, len).ok()
}
