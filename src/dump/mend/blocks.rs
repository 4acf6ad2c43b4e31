//! Headers of a flattened dump's blocks that are damaged.
//!
//! A writer goes on where it stopped, in a few places of the file by turns: most blocks begin
//! where one before them ended. So where a size is wrong the next headers are known by
//! that; and where an offset is wrong, a later block goes on from where that one was to end.
//!
//! Sources: makedumpfile `write_buffer()` and `write_cache()`, QEMU `dump/dump.c`.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::BTreeMap;

use crate::bytes::array_at;
use crate::bytes::source::Source;

/// Places at which a writer may go on.
const ENDS_MAX: usize = 64;
/// Blocks that begin at none of them, and headers that are put right.
const STRAY_MAX: usize = 64;
/// Writers write 64 KiB at once.
const BLOCK_MAX: u64 = 1 << 20;

/// Headers that are read to find those behind damaged ones.
const READ_MAX: u32 = 1 << 16;

/// So many blocks are looked at before their size is held against them ...
const FREE: usize = 1 << 20;
/// ... which is this at least: writers write 16 to 64 KiB at once.
const BLOCK_MIN: u64 = 1024;

/// Whether `count` blocks within `bytes` are none that a writer made.
pub(in crate::dump) fn are_small(count: usize, bytes: u64) -> bool {
    count > FREE && bytes / (count as u64) < BLOCK_MIN
}

/// Offset and size in front of a block.
pub(in crate::dump) const RECORD_BYTES: u64 = 16;

/// The header of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::dump) enum Record {
    Block {
        offset: u64,
        size: u64,
    },
    End,
    /// No block is at such an offset, or so large.
    Unsound {
        size: Option<u64>,
    },
}

impl Record {
    /// The one at `at`; `None` where the stream ends.
    pub(in crate::dump) fn read(stream: &dyn Source, at: u64) -> Option<Self> {
        let mut raw = [0; 16];
        if !matches!(stream.peek_at(at, &mut raw), Ok(16)) {
            return None;
        }
        Some(Self::parse(&raw))
    }

    fn parse(raw: &[u8]) -> Self {
        let number = |at| array_at(raw, at).map_or(-1, i64::from_be_bytes);
        match (number(0), number(8)) {
            (-1, -1) => Self::End,
            (offset, size) => match (u64::try_from(offset), u64::try_from(size).ok()) {
                (Ok(offset), Some(size)) => Self::Block { offset, size },
                (_, size) => Self::Unsound { size },
            },
        }
    }
}

/// What the headers of blocks are to be, by where they are: an offset, `None` where it is lost, and a size.
pub(in crate::dump) type Mended = BTreeMap<u64, (Option<u64>, u64)>;

/// The header of a block, and where it is.
#[derive(Clone, Copy)]
struct Header {
    at: u64,
    offset: u64,
}

/// A block that begins where none ended.
struct Stray {
    at: u64,
    size: u64,
    /// Where blocks had ended before it.
    ends: Vec<u64>,
}

struct Walk<'s> {
    stream: &'s dyn Source,
    /// Where blocks ended and none went on yet, the last of them.
    ends: Vec<u64>,
    /// Those of blocks that went on themselves.
    rows: Vec<u64>,
    strays: Vec<Stray>,
    found: Mended,
    /// How many headers are still read to find others.
    left: Cell<u32>,
}

/// Walks the blocks of `stream`, the first of which is at `at`.
pub(in crate::dump) fn mended(stream: &dyn Source, mut at: u64) -> Mended {
    let mut walk = Walk {
        stream,
        ends: Vec::new(),
        rows: Vec::new(),
        strays: Vec::new(),
        found: Mended::new(),
        left: Cell::new(READ_MAX),
    };
    let mut before: Option<Header> = None;
    for count in 0.. {
        let Some(record) = Record::read(stream, at).filter(|_| !are_small(count, at)) else { break };
        let data = at + RECORD_BYTES;
        let there = |size: u64| data.checked_add(size).is_some_and(|end| end <= stream.len());
        let (offset, size) = match record {
            Record::End => break,
            Record::Block { offset, size } if there(size) && (offset, size) != (0, 0) => {
                // What begins elsewhere may be what stands within a block whose size is wrong.
                if before.is_none() || walk.ends.contains(&offset) {
                    before = Some(Header { at, offset });
                }
                walk.block(at, offset, size);
                at = data + size;
                continue;
            }
            Record::Block { offset, .. } => (Some(offset).filter(|offset| walk.ends.contains(offset)), None),
            // Where the offset alone is wrong the size tells where the next one is.
            Record::Unsound { size } => (None, size.filter(|&size| is_written(size))),
        };
        if walk.found.len() >= STRAY_MAX {
            break;
        }
        match walk.damaged(at, (offset, size), before) {
            Some(next) => at = next,
            None => break,
        }
    }
    walk.found
}

impl Walk<'_> {
    /// A header that may be right.
    fn block(&mut self, at: u64, offset: u64, size: u64) {
        let full = self.found.len() >= STRAY_MAX;
        let stray = self.strays.iter().position(|stray| !full && self.goes_on(stray, offset));
        if let Some(stray) = stray {
            let Stray { at, size, .. } = self.strays.remove(stray);
            self.ends.retain(|&end| end != offset - size);
            self.rows.retain(|&end| end != offset - size);
            self.rows.push(offset);
            self.ends.push(offset);
            self.found.insert(at, (Some(offset - size), size));
        } else if !self.ends.contains(&offset) && self.strays.len() < STRAY_MAX {
            self.strays.push(Stray { at, size, ends: self.rows.clone() });
        }
        self.went_on(offset, size);
    }

    /// Whether no block is known that ends at `offset`, where `stray` would, had it gone on where several
    /// in a row ended and none went on.
    fn goes_on(&self, stray: &Stray, offset: u64) -> bool {
        let from = offset.checked_sub(stray.size).filter(|_| !self.ends.contains(&offset));
        from.is_some_and(|from| stray.ends.contains(&from) && self.rows.contains(&from))
    }

    fn went_on(&mut self, offset: u64, size: u64) {
        let end = offset.saturating_add(size);
        if self.ends.contains(&offset) {
            add(&mut self.rows, offset, end);
        }
        add(&mut self.ends, offset, end);
    }

    /// The header at `at` is damaged, or that `before` it; where the next is.
    fn damaged(&mut self, at: u64, said: (Option<u64>, Option<u64>), before: Option<Header>) -> Option<u64> {
        let (header, offset, next) = self.told(at, said, before)?;
        let size = next - header - RECORD_BYTES;
        self.found.insert(header, (offset, size));
        match offset {
            Some(offset) => self.went_on(offset, size),
            None => self.strays.push(Stray { at: header, size, ends: self.rows.clone() }),
        }
        Some(next)
    }

    /// What the next blocks tell of the header at `at`, of which the `offset` or the `size` may be right, or
    /// of that `before` it: which is damaged, its offset, and where the next is.
    fn told(
        &self,
        at: u64,
        (offset, size): (Option<u64>, Option<u64>),
        before: Option<Header>,
    ) -> Option<(u64, Option<u64>, u64)> {
        let data = at + RECORD_BYTES;
        let from = before.map_or(data, |before| before.at + RECORD_BYTES) + 1;
        let starts = offset.map_or_else(|| self.ends.clone(), |offset| vec![offset]);
        let said = size.and_then(|size| Some((data + size, Record::read(self.stream, data + size)?)));
        let mut all = said.into_iter().chain(self.headers(from)).take_while(|_| self.left.get() > 0);
        all.find_map(|(next, record)| {
            let end = |start: u64, data: u64| start.checked_add(next.checked_sub(data)?);
            let of_before = before.and_then(|before| end(before.offset, before.at + RECORD_BYTES));
            let mut ends: Vec<u64> = starts.iter().filter_map(|&start| end(start, data)).collect();
            ends.extend(of_before);
            let begin = self.follow(next, record, ends)?;
            let goes_on = |end: Option<u64>| end.is_some_and(|end| begin.contains(&end));
            Some(match before {
                Some(before) if next < data || offset.is_none() && goes_on(of_before) => {
                    (before.at, Some(before.offset), next)
                }
                _ => {
                    let going_on = || starts.iter().copied().find(|&start| goes_on(end(start, data)));
                    (at, offset.or_else(going_on), next)
                }
            })
        })
    }

    /// What may be headers from `from` on.
    fn headers(&self, from: u64) -> impl Iterator<Item = (u64, Record)> {
        /// Most are near: the rest is not read.
        const STEP: usize = 1 << 16;
        let read =
            |at: u64| self.stream.bytes_up_to(at, STEP + 15).map_or_else(|_| Vec::new(), Cow::into_owned);
        (from..from.saturating_add(2 * BLOCK_MAX)).step_by(STEP).flat_map(move |step| {
            let bytes = read(step);
            (0..bytes.len().saturating_sub(15)).filter_map(move |at| {
                let record = Record::parse(bytes.get(at..at + 16)?);
                let may_be = match record {
                    Record::Block { size, .. } => is_written(size),
                    Record::End => true,
                    Record::Unsound { .. } => false,
                };
                may_be.then_some((step + at as u64, record))
            })
        })
    }

    /// The offsets that headers say which follow each other from `at` on, if the first and another are where a
    /// block ended, at one of `ends` or of these, or the stream ends with them.
    fn follow(&self, mut at: u64, first: Record, mut ends: Vec<u64>) -> Option<Vec<u64>> {
        /// So many begin elsewhere at first.
        const FOLLOWED: usize = 16;
        ends.extend(&self.ends);
        let known = !ends.is_empty();
        let (mut begin, mut go_on, mut ended) = (Vec::new(), 0, false);
        let mut record = Some(first);
        while begin.len() < FOLLOWED {
            self.left.set(self.left.get().checked_sub(1)?);
            match record {
                Some(Record::Block { offset, size }) if is_written(size) => {
                    go_on += u32::from(ends.contains(&offset));
                    if go_on == 0 && known {
                        return None;
                    }
                    begin.push(offset);
                    ends.push(offset.saturating_add(size));
                    at += RECORD_BYTES + size;
                }
                Some(Record::End) => {
                    ended = at + RECORD_BYTES == self.stream.len();
                    break;
                }
                _ => break,
            }
            record = Record::read(self.stream, at);
        }
        (go_on > 1 || ended).then_some(begin)
    }
}

/// Whether a writer may have written so many bytes at once.
fn is_written(size: u64) -> bool {
    (1..=BLOCK_MAX).contains(&size)
}

/// A block that began at `offset` ends at `end`.
fn add(ends: &mut Vec<u64>, offset: u64, end: u64) {
    ends.retain(|&known| known != offset && known != end);
    if ends.len() >= ENDS_MAX {
        ends.remove(0);
    }
    ends.push(end);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::bytes::source::InMemory;

    /// As makedumpfile writes: headers, then descriptors and pages by turns, and where each header is.
    fn stream(pages_of: u64) -> (Vec<u8>, Vec<(usize, u64, u64)>) {
        let mut blocks = vec![(0, 464), (0x1068, 4020), (0x1000, 104), (0x3000, 14332), (0x7000, 1104)];
        let (mut rows, mut pages) = (0x7450, 0x1_0000);
        for i in 0..pages_of {
            blocks.extend([(pages, 3000 + i), (rows, 360)]);
            (rows, pages) = (rows + 360, pages + 3000 + i);
        }
        let (mut bytes, mut headers) = (vec![0; 4096], Vec::new());
        for (i, &(offset, size)) in blocks.iter().enumerate() {
            headers.push((bytes.len(), offset, size));
            bytes.extend(offset.to_be_bytes());
            bytes.extend(size.to_be_bytes());
            // Words of little numbers, which look like headers here and there.
            let low = |at: u64| (at + i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[1];
            bytes.extend((0..size).map(|at| if at % 8 < 2 { low(at) } else { 0 }));
        }
        bytes.extend([0xff; 16]);
        (bytes, headers)
    }

    fn of(bytes: Vec<u8>) -> Mended {
        mended(&InMemory::new("flat", bytes), 4096)
    }

    #[test]
    fn sound_headers_stay_as_they_are() {
        assert_eq!(of(stream(12).0), Mended::new());
    }

    #[test]
    fn a_wrong_size_or_offset_is_told_by_the_blocks_about_it() {
        let (sound, headers) = stream(12);
        // Where two were before, and one is behind.
        for &(at, offset, size) in headers.get(8..headers.len() - 3).unwrap() {
            for bit in [0, 3, 9, 17, 20, 40, 60, 63] {
                let mut bytes = sound.clone();
                bytes[at + 15 - bit / 8] ^= 1 << (bit % 8);
                let wanted = Mended::from([(at as u64, (Some(offset), size))]);
                assert_eq!(of(bytes), wanted, "bit {bit} of the size of {offset:#x}");
                let mut bytes = sound.clone();
                bytes[at + 7 - bit / 8] ^= 1 << (bit % 8);
                assert_eq!(of(bytes), wanted, "bit {bit} of the offset {offset:#x}");
            }
        }
        let first = headers[0].0;
        let mut bytes = sound.clone();
        bytes[first + 8] = 0x10;
        assert_eq!(of(bytes).get(&4096).unwrap().1, 464, "its place is not known: nothing was before it");
    }

    #[test]
    fn no_more_are_mended_than_a_person_would_read_of() {
        let (mut bytes, headers) = stream(400);
        for &(at, ..) in headers.get(8..).unwrap().iter().step_by(4) {
            bytes[at + 3] ^= 1;
        }
        assert_eq!(of(bytes).len(), STRAY_MAX);
    }

    proptest! {
        #[test]
        fn hostile_streams_end(at in 4096usize..60_000, to in any::<[u8; 16]>(), n in 1usize..16, cut in 4096usize..60_000) {
            let mut bytes = stream(12).0;
            let at = at.min(bytes.len() - 16);
            bytes[at..at + n].copy_from_slice(&to[..n]);
            bytes.truncate(cut);
            let _ = of(bytes);
        }
    }
}
