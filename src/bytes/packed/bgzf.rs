//! bgzip's blocks (`BGZF`, SAM/BAM format specification, 4.1): gzip members of at most
//! 64 KiB, whose header says how long they are.
//!
//! ```text
//!  0   1f 8b 08 04, time, flags, system        a gzip header with an extra field
//!  10  u16 length of the extra field: 6
//!  12  "BC", u16 2, u16 bytes of the member - 1
//!  ..  deflate stream, u32 CRC, u32 bytes unpacked
//! ```

use super::Packing;
use super::parts::{Collector, Index, as_it_stands};
use crate::bytes::source::Source;
use crate::bytes::{u16_at, u32_at};

/// The blocks of `source`, if all of it is such.
pub(super) fn index(source: &dyn Source) -> Option<Index> {
    let (mut at, mut all) = (0, Collector::default());
    let end = source.len();
    while at < end {
        let mut head = [0; 18];
        source.peek_at(at, &mut head).ok().filter(|&n| n == head.len())?;
        let is_block = head.starts_with(b"\x1f\x8b\x08\x04") && head.get(10..16)? == b"\x06\0BC\x02\0";
        if !is_block {
            return None;
        }
        let size = u64::from(u16_at(&head, 16)?) + 1;
        let last = at.checked_add(size)?.checked_sub(4).filter(|&last| last > at && last + 4 <= end)?;
        let mut len = [0; 4];
        source.peek_at(last, &mut len).ok().filter(|&n| n == len.len())?;
        let len = u64::from(u32_at(&len, 0)?);
        if len > 1 << 16 {
            return None;
        }
        all.add(at, size, len)?;
        at += size;
    }
    Some(Index { packing: Packing::Gzip, parts: all.finish(), whole: as_it_stands })
}
