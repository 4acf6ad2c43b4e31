//! snappy's frames (`framing_format.txt`): 64 KiB each, with a checksum.
//!
//! ```text
//!  u8 kind, u24 bytes that follow
//!  00  compressed: u32 masked CRC-32C, raw snappy      01  as it is: u32 CRC, bytes
//!  ff  "sNaPpY" begins a stream                        80..fe  skipped
//! ```

use std::io;

use super::Packing;
use super::parts::{Collector, Index, Part, as_it_stands};
use crate::bytes::source::Source;
use crate::bytes::u32_at;

const STREAM: &[u8] = b"\xff\x06\0\0sNaPpY";
const FRAME_MAX: u64 = 1 << 16;

/// Adds the frames from `at` of `source` on that hold `len` bytes; where they end, or
/// `None` where something else stands or the file ends.
pub(crate) fn frames(source: &dyn Source, mut at: u64, len: u64, to: &mut Collector) -> Option<u64> {
    let end = to.unpacked().checked_add(len)?;
    while to.unpacked() < end {
        // Kind and size, checksum, and the unpacked length of a compressed frame.
        let mut head = [0; 16];
        let there = source.peek_at(at, &mut head).ok()?;
        let head = head.get(..there)?;
        let size = u64::from(u32_at(head, 0)? >> 8);
        let next = at.checked_add(4 + size)?;
        if next > source.len() {
            return None;
        }
        match head.first()? {
            0 => {
                let unpacked = snap::raw::decompress_len(head.get(8..)?).ok()? as u64;
                if size < 5 || unpacked > FRAME_MAX {
                    return None;
                }
                to.add(at, 4 + size, unpacked)?;
            }
            1 => {
                let unpacked = size.checked_sub(4).filter(|&n| n <= FRAME_MAX)?;
                to.add(at, 4 + size, unpacked)?;
            }
            0x80..=0xff => {}
            _ => return None,
        }
        at = next;
    }
    (to.unpacked() == end).then_some(at)
}

/// What reads frames that were found.
pub(crate) fn index(parts: Collector) -> Index {
    Index { packing: Packing::Snappy, parts: parts.finish(), whole }
}

fn whole(source: &dyn Source, part: Part) -> io::Result<Vec<u8>> {
    Ok([STREAM, &as_it_stands(source, part)?].concat())
}
