//! Compressed kdump files, as `makedumpfile -l|-c|-p|-z|-d` and QEMU write them.
//!
//! ```text
//!  block 0     header            version, machine, block size, how many pages
//!  block 1..   sub-header        grows with the version: notes, split, 64-bit frame numbers
//!  ..          bitmap 1          one bit a page: the machine has it
//!  ..          bitmap 2          one bit a page: the dump has it
//!  ..          page descriptors  24 bytes for each dumped page, in order
//!  ..          page data         each page compressed alone
//! ```
//!
//! A block is `block_size` bytes, the dumped machine's page. All fields are in
//! the dumped machine's byte order and word size: here little-endian, 64 bits.
//! Sources: makedumpfile `diskdump_mod.h` and `IMPLEMENTATION`, crash `diskdump.h`,
//! libkdumpfile `diskdump.c`.
//!
//! A dump that was cut short (disk full, time-out of the kdump kernel) keeps its
//! bitmaps and loses the tail: descriptors there are zero or past the end.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::bitmap::Bitmap;
use super::codec::{Codec, Decoders};
use super::kdump_header::{DESCRIPTOR_BYTES, Header};
use super::kdump_index::{RUNS_MAX, Ranked, Shifts, Wrong};
use super::notes::Notes;
use super::page_cache::{PAGE_BYTES, PageCache};
use super::vmcoreinfo::VmcoreInfo;
use super::{Form, Memory, PhysicalMemory};
use crate::addr::{PAGE_SIZE, PhysAddr};
use crate::bytes;
use crate::bytes::source::Source;
use crate::direct_mapped::DirectMapped;
use crate::error::{Error, ReadFault, Result};
use crate::text::few;

/// Most bytes of a compressed page. makedumpfile and QEMU store a page as it is when
/// compressing does not make it smaller; libkdumpfile's makers of test files do not.
const PACKED_MAX: usize = 2 * PAGE_BYTES;

/// A kdump file, or the pieces of a split one.
pub(super) struct Kdump {
    /// By first page frame; at least one.
    pieces: Vec<Piece>,
    /// Page frames of the machine.
    max_pfn: u64,
    /// Where pages are, by frame: most reads are small, and of few pages.
    places: DirectMapped<Stored, 256>,
    cache: PageCache,
    decoders: Decoders,
}

/// One file.
struct Piece {
    source: Arc<dyn Source>,
    header: Header,
    /// The machine's pages; the same bits as `dumped` when the file has one bitmap.
    present: Bitmap,
    /// The pages in the dump (in all pieces of it).
    dumped: Bitmap,
    /// The page frames whose descriptors are here.
    pfns: Range<u64>,
    /// Where the second bitmap is damaged, as far as pages told when it was opened. Where they did not, it
    /// is believed once the kernel's own word makes them tell.
    shifts: OnceLock<Shifts>,
    /// The same, once a page that was read contradicts that: asked once, since it takes many pages;
    /// `None` where no other page agreed.
    found_late: OnceLock<Option<Shifts>>,
}

/// Where the bytes of a page are.
#[derive(Clone, Copy)]
struct Stored {
    piece: usize,
    offset: u64,
    size: usize,
    codec: Codec,
    /// By [`Piece::late`].
    late: bool,
}

impl Kdump {
    /// Opens the files in `sources`: one dump, or any of the pieces of one.
    pub(super) fn open(sources: Vec<Arc<dyn Source>>) -> Result<Self> {
        let mut pieces = sources.into_iter().map(Piece::open).collect::<Result<Vec<_>>>()?;
        pieces.sort_by_key(|p| p.pfns.start);
        check_pieces(&pieces)?;
        let max_pfn = pieces.iter().map(|p| p.header.max_pfn).max().unwrap_or(0);
        let decoders = Decoders::default();
        for piece in &pieces {
            if let Some(shifts) = Shifts::find(&Indexed { piece, decoders: &decoders }) {
                piece.shifts.get_or_init(|| shifts);
            }
        }
        Ok(Self { pieces, max_pfn, places: DirectMapped::default(), cache: PageCache::default(), decoders })
    }

    fn runs(&self, max: usize, which: impl Fn(&Piece) -> &Bitmap) -> Vec<(PhysAddr, u64)> {
        let Some(piece) = self.pieces.first() else { return Vec::new() };
        let runs = which(piece).runs(&*piece.source, max);
        runs.into_iter().map(|(pfn, n)| (PhysAddr(pfn * PAGE_SIZE), n * PAGE_SIZE)).collect()
    }

    fn find(&self, addr: PhysAddr) -> Result<Stored, ReadFault> {
        let pfn = addr.pfn().0;
        if pfn >= self.max_pfn {
            return Err(ReadFault::NoMemory { phys: addr.0 });
        }
        let truncated = ReadFault::Truncated { addr: addr.0 };
        let after = self.pieces.partition_point(|p| p.pfns.start <= pfn);
        let holder = after.checked_sub(1).and_then(|i| Some((i, self.pieces.get(i)?)));
        let Some((index, piece)) = holder.filter(|(_, p)| p.pfns.contains(&pfn)) else {
            // Every piece has the bitmaps of the whole dump.
            let any = self.pieces.first().ok_or(truncated)?;
            any.must_hold(pfn, addr)?;
            return Err(ReadFault::OtherPiece { phys: addr.0 });
        };
        // Before the bit itself: it may be the damaged one.
        let late = piece.late().is_some();
        let shift = match piece.shifts() {
            Some(shifts) => shifts.of(pfn).ok_or(ReadFault::Misplaced { phys: addr.0 })?,
            None => 0,
        };
        piece.must_hold(pfn, addr)?;
        let descriptor = piece.index(pfn).and_then(|index| index.checked_add_signed(shift.checked_neg()?));
        let (offset, size, codec) = piece.stored(descriptor.ok_or(truncated)?, addr)?;
        Ok(Stored { piece: index, offset, size, codec, late })
    }

    /// No page is served of which it says itself that it is another.
    fn check(&self, piece: &Piece, pfn: u64, page: &[u8; PAGE_BYTES]) -> Result<(), ReadFault> {
        let ranked = Indexed { piece, decoders: &self.decoders };
        let Some(shifts) = piece.shifts() else { return Ok(()) };
        let Some(told) = shifts.contradiction(&ranked, pfn, page) else { return Ok(()) };
        piece.found_late.get_or_init(|| shifts.find_by(&ranked, told));
        Err(ReadFault::Misplaced { phys: pfn * PAGE_SIZE })
    }
}

impl Form for Kdump {
    /// The header of the first piece.
    fn phys_base(&self) -> Option<i64> {
        self.header()?.phys_base
    }

    fn header(&self) -> Option<&Header> {
        self.pieces.first().map(|p| &p.header)
    }

    /// The notes; every piece repeats them.
    fn notes(&self) -> Notes {
        self.pieces.first().map(|p| p.header.notes(&*p.source)).unwrap_or_default()
    }

    /// `kdump-compressed v6 (zstd)`. The header does not name the codec: the first
    /// compressed page in the file does.
    fn name(&self) -> String {
        let Some(piece) = self.pieces.first() else { return String::new() };
        let header = &piece.header;
        let magic = if header.diskdump { "diskdump" } else { "kdump-compressed" };
        let split = match self.pieces.len() {
            1 if !header.split => String::new(),
            n => format!(", {n} piece{} of a split dump", if n == 1 { "" } else { "s" }),
        };
        format!("{magic} v{} ({}{split})", header.version, piece.codec().name())
    }

    fn incomplete(&self) -> Option<String> {
        let mut lacks: Vec<String> = self.pieces.iter().filter_map(Piece::incomplete).collect();
        // Split pieces cover the frames without gaps.
        let mut next = 0;
        for piece in self.pieces.iter().filter(|p| p.header.split) {
            if piece.pfns.start > next {
                lacks.push(format!(
                    "the piece of page frames {next:#x}..{:#x} was not given",
                    piece.pfns.start
                ));
            }
            next = piece.pfns.end;
        }
        if next > 0 && next < self.max_pfn {
            lacks.push(format!("the piece of page frames {next:#x}..{:#x} was not given", self.max_pfn));
        }
        (!lacks.is_empty()).then(|| lacks.join("; "))
    }

    fn look_closer(&self) -> bool {
        let believed = self.pieces.iter().filter(|piece| piece.shifts().is_none_or(Shifts::none));
        let late = believed.filter_map(|piece| {
            let found = Shifts::look_closer(&Indexed { piece, decoders: &self.decoders })?;
            piece.found_late.set(Some(found)).ok()
        });
        late.count() > 0
    }

    /// As the pages told when they were first asked.
    fn direct_map(&self) -> Option<u64> {
        self.pieces.iter().find_map(|piece| Some(piece.shifts.get()?.base()))
    }

    fn know_direct_map(&self, base: u64) {
        for piece in &self.pieces {
            piece.shifts.get_or_init(|| Shifts::believed(base));
        }
    }

    fn memory(&self) -> &dyn Memory {
        self
    }
}

impl Memory for Kdump {
    fn trouble(&self) -> Vec<String> {
        self.pieces
            .iter()
            .flat_map(|p| [p.source.trouble(), p.turned_back(), p.found_late()])
            .flatten()
            .collect()
    }

    fn physical_ranges(&self, max: usize) -> Vec<(PhysAddr, u64)> {
        self.runs(max, |piece| &piece.present)
    }

    fn stored_ranges(&self, max: usize) -> Vec<(PhysAddr, u64)> {
        self.runs(max, |piece| &piece.dumped)
    }
}

impl PhysicalMemory for Kdump {
    fn read_phys(&self, addr: PhysAddr, buf: &mut [u8]) -> Result<usize, ReadFault> {
        let within = usize::try_from(addr.page_offset()).unwrap_or(0);
        let n = buf.len().min(PAGE_BYTES - within);
        let Some(buf) = buf.get_mut(..n).filter(|b| !b.is_empty()) else { return Ok(0) };
        let pfn = addr.pfn().0;
        let holds = |stored: &Stored| {
            self.pieces.get(stored.piece).is_some_and(|p| stored.late == p.late().is_some())
        };
        let stored = match self.places.find(pfn).filter(holds) {
            Some(stored) => stored,
            None => {
                let stored = self.find(addr)?;
                self.places.insert(pfn, stored);
                stored
            }
        };
        let (truncated, corrupt) =
            (ReadFault::Truncated { addr: addr.0 }, ReadFault::Corrupt { phys: addr.0 });
        let piece = self.pieces.get(stored.piece).ok_or(truncated)?;
        let source = &*piece.source;
        let Stored { offset, size, codec, .. } = stored;
        let page = self.cache.page((stored.piece, offset), |page| {
            decode(source, (offset, size, codec), &self.decoders, page)
                .map_err(|e| e.map_or(corrupt, |e| super::unread(addr, &e)))?;
            self.check(piece, pfn, page)
        });
        match page {
            Ok(page) => buf.copy_from_slice(page.get(within..within + n).ok_or(corrupt)?),
            Err(_) if !holds(&stored) => return self.read_phys(addr, buf),
            // A bad sector costs no more than itself.
            Err(ReadFault::Unread { .. } | ReadFault::Shrunk { .. }) if codec == Codec::Raw => {
                let at = offset.checked_add(within as u64).ok_or(truncated)?;
                source.read_exact_at(at, buf).map_err(|e| super::unread(addr, &e))?;
            }
            Err(fault) => return Err(fault),
        }
        Ok(n)
    }
}

/// A page of its own; `Err` where the file cannot be read, or what is read does not decode.
fn decode(
    source: &dyn Source,
    (offset, size, codec): (u64, usize, Codec),
    decoders: &Decoders,
    page: &mut [u8; PAGE_BYTES],
) -> Result<(), Option<io::Error>> {
    if codec == Codec::Raw {
        return Ok(source.read_exact_at(offset, page)?);
    }
    let mut data = [0; PACKED_MAX];
    let data = data.get_mut(..size).ok_or(None)?;
    source.read_exact_at(offset, data)?;
    decoders.decode(codec, data, page).ok_or(None)
}

/// A piece whose bitmap is held against its pages.
struct Indexed<'a> {
    piece: &'a Piece,
    decoders: &'a Decoders,
}

impl Ranked for Indexed<'_> {
    fn count(&self) -> Option<u64> {
        self.piece.descriptor_count()
    }

    fn rank(&self, pfn: u64) -> Option<u64> {
        self.piece.index(pfn)
    }

    fn select(&self, index: u64) -> Option<u64> {
        let Piece { source, dumped, pfns, .. } = self.piece;
        dumped.select(&**source, dumped.rank(&**source, pfns.start)?.checked_add(index)?)
    }

    fn page(&self, index: u64) -> Option<[u8; PAGE_BYTES]> {
        let piece = self.piece;
        let mut page = [0; PAGE_BYTES];
        decode(&*piece.source, piece.stored(index, PhysAddr(0)).ok()?, self.decoders, &mut page).ok()?;
        Some(page)
    }

    fn contradicted(&self) -> bool {
        let Piece { source, header, present, dumped, .. } = self.piece;
        self.piece.count_by_place().is_some_and(|count| Some(count) != self.count())
            || header.two_bitmaps && dumped.exceeds(&**source, present)
    }

    fn end(&self) -> Option<(u64, u64)> {
        Some((self.piece.count_by_place()?, self.piece.pfns.end))
    }

    fn phys_base(&self) -> Option<i64> {
        let Piece { header, source, .. } = self.piece;
        let info = header.notes(&**source).vmcoreinfo;
        info.and_then(|text| VmcoreInfo::parse(&text).number("phys_base")).or(header.phys_base)
    }

    fn suspects(&self, pfns: Range<u64>, wrong: Wrong) -> Option<Vec<(u64, u64)>> {
        let Piece { source, present, dumped, header, .. } = self.piece;
        let runs = |pick| dumped.runs_with(present, &**source, pfns.clone(), RUNS_MAX, pick);
        match wrong {
            Wrong::Lost if header.two_bitmaps => runs(|dumped, present| !dumped & present),
            Wrong::Lost => runs(|dumped, _| !dumped),
            // Of a page that the machine has not there is no doubt.
            Wrong::Added => match runs(|dumped, present| dumped & !present)? {
                sure if !sure.is_empty() && header.two_bitmaps => Some(sure),
                _ => runs(|dumped, _| dumped),
            },
        }
    }
}

/// Several files must be different pieces of the same dump.
fn check_pieces(pieces: &[Piece]) -> Result<()> {
    let Some(first) = pieces.first().filter(|_| pieces.len() > 1) else { return Ok(()) };
    for (before, piece) in pieces.iter().zip(pieces.iter().skip(1)) {
        let bad = |wanted, found: String| {
            Err(Error::Malformed {
                path: piece.source.path().to_owned(),
                format: "split kdump",
                offset: PAGE_SIZE,
                wanted,
                found,
            })
        };
        if !piece.header.split || !first.header.split {
            return bad(
                "every file to be a piece of one split dump",
                "a dump that is whole by itself".to_owned(),
            );
        }
        if piece.header.identity() != first.header.identity() {
            return bad(
                "the same machine, time and size as in the other pieces",
                format!("a piece of another dump than {}", first.source.path().display()),
            );
        }
        if piece.pfns.start < before.pfns.end {
            return bad(
                "page frames that no other piece has",
                format!("{:#x} again, as in {}", piece.pfns.start, before.source.path().display()),
            );
        }
    }
    Ok(())
}

impl Piece {
    fn open(source: Arc<dyn Source>) -> Result<Self> {
        let header = Header::read(&*source)?;
        let present = Bitmap::new(header.bitmaps_at, header.max_pfn);
        let dumped = Bitmap::new(header.dumped_at, header.max_pfn);
        let pfns = if header.split { header.pfns.clone() } else { 0..header.max_pfn };
        Ok(Self {
            source,
            header,
            present,
            dumped,
            pfns,
            shifts: OnceLock::new(),
            found_late: OnceLock::new(),
        })
    }

    fn late(&self) -> Option<&Shifts> {
        self.found_late.get()?.as_ref()
    }

    fn shifts(&self) -> Option<&Shifts> {
        self.late().or(self.shifts.get())
    }

    /// Whether the dump holds the page; if not, why.
    fn must_hold(&self, pfn: u64, addr: PhysAddr) -> Result<(), ReadFault> {
        let truncated = ReadFault::Truncated { addr: addr.0 };
        let turned = self.shifts().is_some_and(|shifts| shifts.turned(pfn));
        if self.dumped.bit(&*self.source, pfn).ok_or(truncated)? != turned {
            return Ok(());
        }
        Err(match self.present.bit(&*self.source, pfn).ok_or(truncated)? {
            true => ReadFault::Excluded { phys: addr.0 },
            false => ReadFault::NoMemory { phys: addr.0 },
        })
    }

    /// The place among the descriptors of this piece that the bitmap gives to a page.
    fn index(&self, pfn: u64) -> Option<u64> {
        let source = &*self.source;
        let before = if self.pfns.start > 0 { self.dumped.rank(source, self.pfns.start)? } else { 0 };
        self.dumped.rank(source, pfn)?.checked_sub(before)
    }

    /// Where the page of descriptor `index` is, which is to be the one of `addr`.
    fn stored(&self, index: u64, addr: PhysAddr) -> Result<(u64, usize, Codec), ReadFault> {
        let truncated = ReadFault::Truncated { addr: addr.0 };
        let (offset, size, flags) = self.read_descriptor(index).map_err(|e| match e {
            Some(e) if e.raw_os_error().is_some() => super::unread(addr, &e),
            _ => truncated,
        })?;
        let end = offset.checked_add(size.into()).ok_or(truncated)?;
        if offset == 0 || end > self.source.len() || !self.source.holds(offset, size.into()) {
            return Err(truncated);
        }
        let corrupt = ReadFault::Corrupt { phys: addr.0 };
        let codec = Codec::from_flags(flags).ok_or(corrupt)?;
        let size = usize::try_from(size).map_err(|_| corrupt)?;
        let sound = if codec == Codec::Raw { size == PAGE_BYTES } else { (1..=PACKED_MAX).contains(&size) };
        if !sound {
            return Err(corrupt);
        }
        Ok((offset, size, codec))
    }

    /// Offset, size and flags; `Err` past the file's end, and where it cannot be read.
    fn read_descriptor(&self, index: u64) -> Result<(u64, u32, u32), Option<io::Error>> {
        let at = index.checked_mul(DESCRIPTOR_BYTES).and_then(|n| self.header.descriptors_at.checked_add(n));
        let mut raw = [0; 24];
        self.source.read_exact_at(at.ok_or(None)?, &mut raw)?;
        let word = |at| bytes::u32_at(&raw, at).ok_or(None);
        Ok((bytes::u64_at(&raw, 0).ok_or(None)?, word(8)?, word(12)?))
    }

    fn descriptor_at(&self, index: u64) -> Option<(u64, u32, u32)> {
        self.read_descriptor(index).ok()
    }

    /// The codec of the first page that is compressed, if some in a sample are. Memory
    /// begins with pages that do not compress (1,440 of them in a 6.12 guest), so the
    /// sample is wide.
    fn codec(&self) -> Codec {
        const WHOLE: u64 = 4096;
        let count = self.descriptor_count().unwrap_or(0);
        let stride = usize::try_from(count / WHOLE).unwrap_or(usize::MAX).max(1);
        (0..count.min(WHOLE))
            .chain((0..count).step_by(stride))
            .map_while(|i| self.descriptor_at(i))
            .filter(|&(offset, ..)| offset != 0)
            .filter_map(|(_, _, flags)| Codec::from_flags(flags))
            .find(|&codec| codec != Codec::Raw)
            .unwrap_or(Codec::Raw)
    }

    /// How many descriptors this piece has. Counts the bitmap.
    fn descriptor_count(&self) -> Option<u64> {
        let source = &*self.source;
        self.dumped.rank(source, self.pfns.end)?.checked_sub(self.dumped.rank(source, self.pfns.start)?)
    }

    /// How many descriptors there are by where the first page begins, which is behind them.
    fn count_by_place(&self) -> Option<u64> {
        const ASKED: u64 = 64;
        let from = self.header.descriptors_at;
        let pages: Vec<_> = (0..ASKED).map_while(|i| self.descriptor_at(i)).collect();
        let &(first, size, _) = pages.iter().filter(|(offset, ..)| *offset > from).min()?;
        // A descriptor that is damaged has no page right behind its own.
        let next = first.checked_add(size.into())?;
        let bytes = pages.iter().any(|(offset, ..)| *offset == next).then_some(first - from)?;
        let count = bytes / DESCRIPTOR_BYTES;
        let is_last =
            bytes.is_multiple_of(DESCRIPTOR_BYTES) && self.stored(count.checked_sub(1)?, PhysAddr(0)).is_ok();
        is_last.then_some(count)
    }

    /// What is said of a damaged bitmap.
    fn misplaced(&self) -> Option<String> {
        let unknown = self.shifts()?.unknown().map(|pfns| format!("{:#x}..{:#x}", pfns.start, pfns.end));
        Some(format!(
            "{}: its bitmap is damaged at page frames {}, which are lost; what is behind them was found by what is in the pages",
            self.source.path().display(),
            few(unknown)?,
        ))
    }

    /// What is said of bits that are known to be wrong.
    fn turned_back(&self) -> Option<String> {
        let turned = self.shifts()?.turned_back().iter().map(|pfn| format!("{pfn:#x}"));
        Some(format!(
            "{}: its bitmap is wrong about page frame {}, by what is in the pages",
            self.source.path().display(),
            few(turned)?,
        ))
    }

    /// What is said of a bitmap that was not known to be damaged.
    fn found_late(&self) -> Option<String> {
        self.late()?;
        Some(format!(
            "{}: that its bitmap is damaged was found as pages were read: what was read before may be of other pages",
            self.source.path().display()
        ))
    }

    fn incomplete(&self) -> Option<String> {
        if let Some(misplaced) = self.misplaced() {
            return Some(misplaced);
        }
        let path: &Path = self.source.path();
        let (len, header) = (self.source.len(), &self.header);
        if len < header.descriptors_at {
            return Some(format!(
                "{} ends at {len:#x} within its bitmaps, which reach to {:#x}: no page can be read",
                path.display(),
                header.descriptors_at
            ));
        }
        if header.status & Header::STATUS_INCOMPLETE != 0 {
            return Some(format!(
                "{} is marked incomplete: its writer ran out of space or time, and pages are lost",
                path.display()
            ));
        }
        match self.lost_of_tail() {
            Some((0, 0)) => None,
            Some((0, unwritten)) => Some(format!(
                "{} lacks {unwritten} of its last pages: they were never written, or their descriptors are lost",
                path.display()
            )),
            _ => Some(format!("{} ends at {len:#x} before its last pages: it was cut short", path.display())),
        }
    }

    /// How many of the last pages lie behind the file's end, and how many lie nowhere, by their
    /// descriptors. Pages are stored in the order of these, so that one before a page that is
    /// there is damaged; but all pages of zeros share an early one, so a few are asked. Counts
    /// the bitmap.
    fn lost_of_tail(&self) -> Option<(u64, u64)> {
        const ASKED: u64 = 1024;
        let count = self.count_by_place().or_else(|| self.descriptor_count())?;
        let (mut behind, mut nowhere, mut last) = (0, 0, 0);
        for index in count.saturating_sub(ASKED)..count {
            let (offset, size, _) = self.descriptor_at(index)?;
            let end = offset.checked_add(size.into());
            if offset == 0 {
                nowhere += 1;
            } else if end.is_none_or(|end| end > self.source.len()) {
                behind += 1;
            } else if offset > last {
                nowhere += if last > 0 { std::mem::take(&mut behind) } else { 0 };
                last = offset;
            }
        }
        Some((behind, nowhere))
    }
}
