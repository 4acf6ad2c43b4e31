//! The headers of a kdump file.
//!
//! What they say twice: the version by how far the sub-header reaches, for what it leads to
//! stands right behind it; the number of page frames, by both its members and by the size of
//! the bitmaps; and all three by where the descriptors of the pages are, which are known
//! when seen. Pages and machine are those of x86-64, or the dump is none of ours.

use super::{Header, bits_between};
use crate::addr::PAGE_SIZE;
use crate::bytes::source::Source;
use crate::bytes::{is_zero, u32_at, u64_at};
use crate::dump::kdump_header::{
    BITMAP_BLOCKS, BLOCK_SIZE, DESCRIPTOR_BYTES, MACHINE, MAX_MAPNR, SIGNATURE, SUB_HDR_SIZE, VERSION, sub,
};

const BLOCK: usize = 4096;
/// Both headers, up to the last member of the second.
const FRONT: usize = BLOCK + sub::END_V6;
const X86_64: &[u8] = b"x86_64\0";
/// How many descriptors are looked at.
const LOOKED_AT: u64 = 32;
/// No sub-header has more blocks.
const SUB_MAX: u32 = 1 << 20;

pub(super) fn mend(source: &dyn Source) -> Option<Header> {
    let mut header = Header::of(source, FRONT)?;
    let word = |header: &Header, at| u32_at(&header.front, at);
    let long = |header: &Header, at| u64_at(&header.front, BLOCK + at);
    let signature = header.front.get(..SIGNATURE.len())?;
    let is_diskdump = signature == b"DISKDUMP";
    let wrong = if is_diskdump { 0 } else { bits_between(signature, SIGNATURE) };
    let machine = header.front.get(MACHINE..MACHINE + X86_64.len())?.to_vec();
    let unknown = machine.first() == Some(&0) || machine.starts_with(b"Unknown");
    let (version, block) = (word(&header, VERSION)?, word(&header, BLOCK_SIZE)?);
    let page = u32::try_from(PAGE_SIZE).ok()?;
    // The signature is believed to be one if two of these are as they should be.
    let so = [(1..=6).contains(&version), block == page, unknown || machine == X86_64];
    if wrong > 2 || so.iter().filter(|&&so| so).count() < 2 {
        return None;
    }
    if wrong > 0 {
        header.put(0, *SIGNATURE);
        header.said.push("its signature was damaged".to_owned());
    }
    if !unknown && bits_between(&machine, X86_64) == 1 {
        header.front.get_mut(MACHINE..MACHINE + X86_64.len())?.copy_from_slice(X86_64);
        header.said.push("a bit of the machine's name was turned over".to_owned());
    }
    if (block ^ page).count_ones() == 1 {
        header.put(BLOCK_SIZE, page.to_le_bytes());
        header.said.push(format!("block_size was {block}, and is {page}"));
    }
    if is_diskdump {
        return header.changed();
    }
    let max = (word(&header, MAX_MAPNR)?, long(&header, sub::MAX_MAPNR_64)?);
    if let Some(found) = version_by_place(&header.front, max).filter(|&found| found != version)
        && (found ^ version).count_ones() == 1
    {
        header.put(VERSION, found.to_le_bytes());
        header.said.push(format!("header_version was {version}, and its sub-header is that of {found}"));
    }
    let version = word(&header, VERSION)?;
    let told = Layout {
        sub: word(&header, SUB_HDR_SIZE)?,
        bitmaps: word(&header, BITMAP_BLOCKS)?,
        max: if version >= 6 && max.1 != 0 { max.1 } else { max.0.into() },
    };
    let found = told.found(max.0, source);
    if let Some(found) = found.filter(|found| *found != told) {
        let Layout { sub, bitmaps, max } = found;
        for (name, was, is) in [
            ("sub_hdr_size", told.sub.into(), sub.into()),
            ("bitmap_blocks", told.bitmaps.into(), bitmaps.into()),
            ("max_mapnr", told.max, max),
        ] {
            if was != is {
                header.said.push(format!("{name} was {was:#x}, and is {is:#x} by where the pages are"));
            }
        }
        header.put(SUB_HDR_SIZE, sub.to_le_bytes());
        header.put(BITMAP_BLOCKS, bitmaps.to_le_bytes());
        header.put(MAX_MAPNR, u32::try_from(max).unwrap_or(u32::MAX).to_le_bytes());
        if version >= 6 {
            header.put(BLOCK + sub::MAX_MAPNR_64, max.to_le_bytes());
        }
    }
    mend_split(&mut header, version, found.unwrap_or(told).max);
    header.changed()
}

/// The version of the sub-header by where that begins to which it leads.
fn version_by_place(front: &[u8], max: (u32, u64)) -> Option<u32> {
    let places = [sub::VMCOREINFO, sub::NOTES].map(|at| u64_at(front, BLOCK + at));
    let first = places.into_iter().flatten().filter(|&at| at != 0).min();
    let size = first.and_then(|at| usize::try_from(at.checked_sub(PAGE_SIZE)?).ok());
    match size {
        // Nothing else can stand where both say the same.
        Some(sub::END_V6)
            if u64::from(max.0) == max.1
                || bits_between(&u64::from(max.0).to_le_bytes(), &max.1.to_le_bytes()) == 1 =>
        {
            Some(6)
        }
        Some(sub::END_V5) => Some(5),
        Some(sub::END_V4) => Some(4),
        Some(sub::END_V3) => Some(3),
        _ => None,
    }
}

/// Where the descriptors are.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Layout {
    sub: u32,
    bitmaps: u32,
    max: u64,
}

impl Layout {
    /// This one or one that a bit of one member makes of it, or of two.
    fn found(self, max: u32, source: &dyn Source) -> Option<Self> {
        let other = bits_between(&u64::from(max).to_le_bytes(), &self.max.to_le_bytes()) == 1;
        // Of two numbers of page frames that both fit the larger one loses nothing.
        let mut frames = [Some(self.max), other.then_some(max.into())];
        frames.sort_unstable_by(|a, b| b.cmp(a));
        let told = frames.into_iter().flatten().map(|max| Self { max, ..self });
        if let Some(told) = told.clone().find(|layout| layout.holds(source)) {
            return Some(told);
        }
        let mut near = Vec::new();
        for layout in told {
            let both = u32::try_from(layout.half()).ok().and_then(|half| half.checked_mul(2));
            let both = both.filter(|both| (both ^ self.bitmaps).count_ones() == 1);
            for bitmaps in [Some(self.bitmaps), both].into_iter().flatten() {
                let subs = (0..20).map(|bit| self.sub ^ 1 << bit).chain([self.sub, self.sub & (SUB_MAX - 1)]);
                near.extend(subs.map(|sub| Self { sub, bitmaps, ..layout }));
            }
        }
        // Behind the first descriptors there are others, before them none.
        near.sort_by_key(Self::descriptors_at);
        near.into_iter().find(|layout| layout.holds(source))
    }

    /// Blocks of one bitmap.
    fn half(&self) -> u64 {
        self.max.div_ceil(8 * PAGE_SIZE)
    }

    fn descriptors_at(&self) -> u64 {
        (1 + u64::from(self.sub) + u64::from(self.bitmaps)) * PAGE_SIZE
    }

    /// Whether the bitmaps are those of so many page frames, and descriptors follow them.
    fn holds(self, source: &dyn Source) -> bool {
        let (half, bitmaps) = (self.half(), u64::from(self.bitmaps));
        if half == 0 || self.sub > SUB_MAX || bitmaps != half && bitmaps != half.saturating_mul(2) {
            return false;
        }
        let at = self.descriptors_at();
        let Ok(bytes) = source.bytes_up_to(at, usize::try_from(LOOKED_AT * DESCRIPTOR_BYTES).unwrap_or(0))
        else {
            return false;
        };
        let descriptors = bytes.chunks_exact(24).filter(|d| !is_zero(d));
        let is_sound = |d: &[u8]| {
            let (offset, size) = (u64_at(d, 0).unwrap_or(0), u32_at(d, 8).unwrap_or(0));
            let flags = u32_at(d, 12).unwrap_or(u32::MAX);
            let behind =
                offset > at && offset.checked_add(size.into()).is_some_and(|end| end <= source.len());
            behind && (1..=8192).contains(&size) && [0, 1, 2, 4, 0x20].contains(&flags)
        };
        let (sound, others): (Vec<_>, Vec<_>) = descriptors.partition(|d| is_sound(d));
        sound.len() > 3 * others.len()
    }
}

/// A dump that is said to be a piece, and is none; or the other way round.
fn mend_split(header: &mut Header, version: u32, max: u64) {
    let at = |at| u64_at(&header.front, BLOCK + at).unwrap_or(0);
    let (first, last) = match version {
        6.. => (at(sub::START_PFN_64), at(sub::END_PFN_64)),
        _ => (at(sub::START_PFN), at(sub::END_PFN)),
    };
    let split = u32_at(&header.front, BLOCK + sub::SPLIT).unwrap_or(0);
    // One bit of a range makes no piece.
    let range = first < last && last <= max && first.count_ones() + last.count_ones() > 1;
    let is = u32::from(range);
    if version >= 2 && (range || first == last) && (split ^ is).count_ones() == 1 {
        header.put(BLOCK + sub::SPLIT, is.to_le_bytes());
        header.said.push(format!("split was {split}, and the page frames say {is}"));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::mend as mended;
    use crate::bytes::source::InMemory;

    const MAX: u64 = 0x2_ffdd;
    /// Descriptors of many blocks.
    const PAGES: usize = 30_000;

    /// A dump of a machine as makedumpfile writes it, of as many pages as fill what is looked at.
    fn dump(version: u32) -> Vec<u8> {
        let mut f = vec![0; 4096 * 15 + 24 * PAGES + PAGES];
        let mut put = |at: usize, bytes: &[u8]| f[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"KDUMP   ");
        put(8, &version.to_le_bytes());
        put(12 + 4 * 65, b"x86_64");
        for (at, word) in [(428, 4096), (432, 2), (436, 12), (440, u32::try_from(MAX).unwrap())] {
            put(at, &word.to_le_bytes());
        }
        let size = [48, 64, 80, 104][version as usize - 3];
        put(4096 + 32, &(4096u64 + size).to_le_bytes());
        put(4096 + 40, &100u64.to_le_bytes());
        if version >= 6 {
            put(4096 + 96, &MAX.to_le_bytes());
        }
        let at = 4096 * 15;
        for i in 0..PAGES {
            put(at + 24 * i, &((at + 24 * PAGES + i) as u64).to_le_bytes());
            put(at + 24 * i + 8, &[1, 0, 0, 0, 0x20]);
        }
        f
    }

    fn front(bytes: &[u8]) -> (Vec<u8>, Option<String>) {
        let source = mended(Arc::new(InMemory::new("dump", bytes.to_vec())));
        (source.bytes(0, 4200).unwrap().into_owned(), source.trouble())
    }

    #[test]
    fn each_bit_of_what_is_proved_is_turned_back() {
        for version in 3..=6 {
            let sound = dump(version);
            assert_eq!(front(&sound), (sound[..4200].to_vec(), None));
            let twice = if version == 6 { 4096 + 96..4096 + 104 } else { 0..0 };
            for at in [0..12, 272..279, 428..440, 4096 + 12..4096 + 16, twice].into_iter().flatten() {
                for bit in 0..8 {
                    let mut damaged = sound.clone();
                    damaged[at] ^= 1 << bit;
                    let (mut front, said) = front(&damaged);
                    // A few page frames more are no more blocks of a bitmap.
                    let more = at >= 4096 + 96 && damaged[at] > sound[at];
                    if more && said.is_none() {
                        front[at] = sound[at];
                        assert!(at < 4096 + 98);
                    }
                    assert!(more || said.is_some(), "bit {bit} of {at} of version {version}");
                    assert_eq!(front, sound[..4200], "bit {bit} of {at} of version {version}");
                }
            }
        }
    }

    #[test]
    fn a_piece_is_told_by_its_page_frames() {
        let (sound, mut piece) = (dump(6), dump(6));
        for (at, pfn) in [(80, 0u64), (88, 0x1_2345)] {
            piece[4096 + at..4104 + at].copy_from_slice(&pfn.to_le_bytes());
        }
        assert!(front(&piece).1.unwrap().contains("split was 0"));
        piece[4096 + 12] = 1;
        assert_eq!(front(&piece).1, None);
        for at in 4096 + 80..4096 + 96 {
            for bit in 0..8 {
                let mut damaged = sound.clone();
                damaged[at] ^= 1 << bit;
                assert_eq!(front(&damaged).1, None, "bit {bit} of {at}");
            }
        }
    }

    #[test]
    fn several_at_once_and_what_is_no_kdump() {
        let sound = dump(6);
        let mut damaged = sound.clone();
        for (at, bit) in [(3, 5), (273, 0), (433, 2), (4096 + 99, 7)] {
            damaged[at] ^= 1 << bit;
        }
        assert_eq!(front(&damaged).0, sound[..4200]);
        damaged[429] ^= 1;
        damaged[9] ^= 1;
        assert_eq!(front(&damaged).1, None);
        // A dump of another machine, and of other pages.
        for (at, bytes) in [(272, b"aarch64\0".as_slice()), (428, &[0, 0, 1, 0])] {
            let mut other = sound.clone();
            other[at..at + bytes.len()].copy_from_slice(bytes);
            let (front, said) = front(&other);
            assert_eq!(
                (&front[272..280], &front[428..432], said),
                (&other[272..280], &other[428..432], None)
            );
        }
    }
}
