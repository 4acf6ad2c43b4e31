//! A bitmap in a file, with rank: how many bits are set before a place.
//!
//! kdump files store a descriptor for each dumped page and no index: the place of
//! a page's descriptor is the number of dumped pages before it. The rank of every
//! 4,096th bit is counted once, at the first question; the rest is one popcount
//! over at most 512 bytes.

use std::ops::Range;
use std::sync::OnceLock;

use crate::bytes::source::Source;

/// Bytes between two counted places.
const BLOCK: u64 = 512;
/// How much of a bitmap that cannot be mapped is read at once.
const CHUNK: u64 = 1 << 20;

/// How much of two bitmaps is compared: that of 512 GiB of memory.
const COMPARED: u64 = 16 << 20;
const COMPARED_AT_ONCE: usize = 64 << 10;

/// A bitmap of page frames in a file.
pub(super) struct Bitmap {
    /// Offset in the file.
    offset: u64,
    /// How many bits count.
    bits: u64,
    /// Set bits before each block; `None` when the bitmap cannot be read.
    ranks: OnceLock<Option<Vec<u64>>>,
}

impl Bitmap {
    /// The `bits` bits at `offset`.
    pub(super) fn new(offset: u64, bits: u64) -> Self {
        Self { offset, bits, ranks: OnceLock::new() }
    }

    /// Bit `n`; `None` when the file ends before it.
    pub(super) fn bit(&self, source: &dyn Source, n: u64) -> Option<bool> {
        if n >= self.bits {
            return Some(false);
        }
        Some(self.byte(source, n / 8)? >> (n % 8) & 1 == 1)
    }

    /// Byte `at`; `None` where the file has none, or a hole: those zeros are no answer.
    fn byte(&self, source: &dyn Source, at: u64) -> Option<u8> {
        let at = self.offset.checked_add(at).filter(|&at| source.holds(at, 1))?;
        let mut byte = [0];
        source.read_exact_at(at, &mut byte).ok()?;
        let [byte] = byte;
        Some(byte)
    }

    /// How many bits before bit `n` are set; `None` when the file ends before it.
    pub(super) fn rank(&self, source: &dyn Source, n: u64) -> Option<u64> {
        let n = n.min(self.bits);
        let block = n / 8 / BLOCK;
        let ranks = self.ranks.get_or_init(|| self.count(source)).as_ref()?;
        let before = *ranks.get(usize::try_from(block).ok()?)?;
        let whole = usize::try_from(n / 8 - block * BLOCK).ok()?;
        let mut part = [0; 512];
        let part = part.get_mut(..whole)?;
        source.read_exact_at(self.offset.checked_add(block * BLOCK)?, part).ok()?;
        let mut rank = before + ones(part);
        if !n.is_multiple_of(8) {
            let byte = self.byte(source, n / 8)?;
            rank += u64::from((byte & ((1 << (n % 8)) - 1)).count_ones());
        }
        Some(rank)
    }

    /// The place of set bit number `nth`, counted from 0.
    pub(super) fn select(&self, source: &dyn Source, nth: u64) -> Option<u64> {
        // The last place before which no more than `nth` are set is that of the bit.
        let (mut low, mut high) = (0, self.bits);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.rank(source, middle + 1)? <= nth {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        (low < self.bits).then_some(low)
    }

    /// Whether a bit is set here and not in `all`, as far as one looks.
    pub(super) fn exceeds(&self, source: &dyn Source, all: &Self) -> bool {
        let bits = self.len(source).min(all.len(source)).min(COMPARED) * 8;
        let beyond = self.runs_with(all, source, 0..bits, 1, |own, all| own & !all);
        beyond.is_some_and(|runs| !runs.is_empty())
    }

    /// Runs, at most `max`, of the bits of `range` that `pick` takes of words of this map and of `other`, as
    /// [`Self::runs`] gives them; `None` if one cannot be read, or they are too many to be compared.
    pub(super) fn runs_with(
        &self,
        other: &Self,
        source: &dyn Source,
        range: Range<u64>,
        max: usize,
        pick: fn(u64, u64) -> u64,
    ) -> Option<Vec<(u64, u64)>> {
        let range = range.start..range.end.min(self.bits).min(other.bits);
        let (from, to) = (range.start / 64 * 8, range.end.div_ceil(8));
        if to.saturating_sub(from) > COMPARED {
            return None;
        }
        let mut runs = Runs::new(max);
        for at in (from..to).step_by(COMPARED_AT_ONCE) {
            let n = (to - at).min(COMPARED_AT_ONCE as u64);
            let bytes = |map: &Self| {
                let place = map.offset.checked_add(at).filter(|&place| source.holds(place, n))?;
                source.bytes(place, usize::try_from(n).ok()?).ok()
            };
            let (own, other) = (bytes(self)?, bytes(other)?);
            for (i, (own, other)) in own.chunks(8).zip(other.chunks(8)).enumerate() {
                let first = (at + i as u64 * 8) * 8;
                let bits = (range.end - first).min(64);
                let before = u64::MAX << range.start.saturating_sub(first).min(63);
                runs.word(first, pick(word(own), word(other)) & before, bits);
            }
        }
        Some(runs.ended(range.end))
    }

    /// Bytes of it that are in the file without a hole.
    fn len(&self, source: &dyn Source) -> u64 {
        let len = self.bits.div_ceil(8).min(source.len().saturating_sub(self.offset));
        if source.holds(self.offset, len) {
            return len;
        }
        let whole = |&at: &u64| source.holds(self.offset.saturating_add(at), BLOCK.min(len - at));
        (0..len.div_ceil(BLOCK)).map(|block| block * BLOCK).find(|at| !whole(at)).unwrap_or(len)
    }

    /// The rank at the front of each block that is in the file.
    fn count(&self, source: &dyn Source) -> Option<Vec<u64>> {
        let len = self.len(source);
        let mut ranks = Vec::with_capacity(usize::try_from(len / BLOCK).ok()? + 1);
        let mut rank = 0;
        for start in (0..len).step_by(usize::try_from(CHUNK).ok()?) {
            let n = usize::try_from(CHUNK.min(len - start)).ok()?;
            let at = self.offset.checked_add(start)?;
            if source.is_hole(at, n as u64) {
                ranks.extend(std::iter::repeat_n(rank, n.div_ceil(usize::try_from(BLOCK).ok()?)));
                continue;
            }
            let chunk = source.bytes(at, n).ok()?;
            for block in chunk.chunks(usize::try_from(BLOCK).ok()?) {
                ranks.push(rank);
                rank += ones(block);
            }
        }
        if len.is_multiple_of(BLOCK) {
            ranks.push(rank);
        }
        Some(ranks)
    }

    /// Runs of set bits, as `(first, count)`; at most `max`, the last of which
    /// then reaches to the end of the last run (so nothing that is set is left out).
    pub(super) fn runs(&self, source: &dyn Source, max: usize) -> Vec<(u64, u64)> {
        let mut runs = Runs::new(max);
        let len = self.len(source);
        let mut at = 0;
        while at < len {
            let n = usize::try_from(CHUNK.min(len - at)).unwrap_or(0);
            let place = self.offset.saturating_add(at);
            if source.is_hole(place, n as u64) {
                runs.close(at * 8);
                at += n as u64;
                continue;
            }
            let Ok(chunk) = source.bytes(place, n) else { break };
            for (i, bytes) in chunk.chunks(8).enumerate() {
                let first = (at + i as u64 * 8) * 8;
                let bits = (bytes.len() as u64 * 8).min(self.bits.saturating_sub(first));
                runs.word(first, word(bytes), bits);
            }
            at += n as u64;
        }
        runs.ended(self.bits.min(len.saturating_mul(8)))
    }
}

/// Runs of set bits, found word by word.
struct Runs {
    max: usize,
    found: Vec<(u64, u64)>,
    open: Option<u64>,
}

impl Runs {
    fn new(max: usize) -> Self {
        Self { max, found: Vec::new(), open: None }
    }

    /// The first `bits` of `word`, which begins with bit number `first`.
    fn word(&mut self, first: u64, word: u64, bits: u64) {
        match (word, &self.open) {
            (0, None) => {}
            (u64::MAX, Some(_)) if bits == 64 => {}
            _ => {
                for bit in 0..bits {
                    match (word >> bit & 1 == 1, self.open) {
                        (true, None) => self.open = Some(first + bit),
                        (false, Some(_)) => self.close(first + bit),
                        _ => {}
                    }
                }
            }
        }
    }

    fn close(&mut self, end: u64) {
        let Some(first) = self.open.take() else { return };
        if self.found.len() < self.max {
            self.found.push((first, end - first));
        } else if let Some((first, count)) = self.found.last_mut() {
            *count = end - *first;
        }
    }

    fn ended(mut self, end: u64) -> Vec<(u64, u64)> {
        self.close(end);
        self.found
    }
}

/// Up to 8 bytes as a word.
fn word(bytes: &[u8]) -> u64 {
    let mut padded = [0; 8];
    if let Some(to) = padded.get_mut(..bytes.len()) {
        to.copy_from_slice(bytes);
    }
    u64::from_le_bytes(padded)
}

/// Set bits in `data`.
fn ones(data: &[u8]) -> u64 {
    let (words, rest) = data.as_chunks::<8>();
    let in_words: u32 = words.iter().map(|w| u64::from_le_bytes(*w).count_ones()).sum();
    u64::from(in_words + rest.iter().map(|b| b.count_ones()).sum::<u32>())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::cast_possible_truncation, reason = "sizes of test data")]

    use proptest::prelude::*;

    use super::*;
    use crate::bytes::source::InMemory;

    proptest! {
        #[test]
        fn rank_and_runs_agree_with_counting(
            data in proptest::collection::vec(prop_oneof![Just(0u8), Just(0xff), any::<u8>()], 1..1500),
            offset in 0usize..20, bits in 0u64..26000, at in 0u64..27000, max in 1usize..2000,
        ) {
            let offset = offset.min(data.len() - 1);
            let source = InMemory::new("m", data.clone());
            let map = Bitmap::new(offset as u64, bits);
            let there = ((data.len() - offset) * 8) as u64;
            let bit = |n: u64| n < bits.min(there) && data[offset + (n / 8) as usize] >> (n % 8) & 1 == 1;
            if at < bits.min(there) {
                prop_assert_eq!(map.bit(&source, at), Some(bit(at)));
                prop_assert_eq!(map.rank(&source, at), Some((0..at).filter(|&n| bit(n)).count() as u64));
            } else {
                let _ = (map.bit(&source, at), map.rank(&source, at));
            }
            if bits <= there {
                let nth = (0..bits).filter(|&n| bit(n)).nth(at as usize);
                prop_assert_eq!(map.select(&source, at), nth);
            }
            let runs = map.runs(&source, max);
            prop_assert!(runs.len() <= max);
            prop_assert!(runs.windows(2).all(|w| w[0].0 + w[0].1 < w[1].0));
            let mut covered = vec![false; bits as usize + 70];
            for &(first, count) in &runs {
                covered[first as usize..(first + count) as usize].fill(true);
            }
            for (n, covered) in covered.into_iter().enumerate() {
                let set = bit(n as u64);
                prop_assert!(covered == set || covered && runs.len() == max, "bit {} of {:?}", n, runs);
            }
        }
    }

    proptest! {
        #[test]
        fn runs_of_two_maps_agree_with_counting(
            data in proptest::collection::vec(prop_oneof![Just(0u8), Just(0xff), any::<u8>()], 0..600),
            other in 0usize..300, bits in 0u64..2400, from in 0u64..2500, to in 0u64..2500,
        ) {
            let source = InMemory::new("m", data.clone());
            let (own, all) = (Bitmap::new(0, bits), Bitmap::new(other as u64, bits));
            let bit = |at: u64| data.get((at / 8) as usize).is_some_and(|byte| byte >> (at % 8) & 1 == 1);
            let wanted: Vec<u64> = (from..to.min(bits)).filter(|&n| bit(n) && !bit(n + 8 * other as u64)).collect();
            let runs = own.runs_with(&all, &source, from..to, 1000, |own, all| own & !all);
            let there = from < to.min(bits) && (other as u64 + to.min(bits).div_ceil(8)) as usize <= data.len();
            prop_assert!(!there || runs.is_some());
            if let Some(runs) = runs {
                let found: Vec<u64> = runs.iter().flat_map(|&(first, count)| first..first + count).collect();
                prop_assert_eq!(found, wanted);
            }
        }
    }

    #[test]
    fn the_rank_at_the_very_end_counts_all() {
        let source = InMemory::new("m", vec![0xff; 1024]);
        assert_eq!(Bitmap::new(0, 8192).rank(&source, 8192), Some(8192));
        assert_eq!(Bitmap::new(0, 8192).rank(&source, 8191), Some(8191));
    }
}
