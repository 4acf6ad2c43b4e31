//! xz's index (`xz-file-format.txt`, 2 to 4): where each block stands.
//!
//! ```text
//!  stream header  fd "7zXZ" 00, flags (2), CRC32
//!  blocks         each padded to 4 bytes
//!  index          00, count, (unpadded size, unpacked size) for each, padding, CRC32
//!  stream footer  CRC32, u32 bytes of the index / 4 - 1, flags (2), "YZ"
//! ```
//!
//! Numbers of the index have 7 bits a byte, the lowest first. Streams can follow one
//! another, and zeros each of them; so the file is read from its end. A block is unpacked
//! as a stream of one block, so that its own check is made.

use std::io;

use super::Packing;
use super::parts::{Collector, Index, Part, as_it_stands};
use crate::bytes::source::Source;
use crate::bytes::u32_at;

const HEADER: u64 = 12;
/// An index larger than this is none: 10 million blocks.
const INDEX_MAX: u64 = 64 << 20;
/// More streams than this are none.
const STREAMS_MAX: usize = 1 << 16;
/// More zeros than this behind streams are a hole.
const PADDING_MAX: u64 = 1 << 20;

/// A stream: where its first block stands, and the blocks as `(unpadded, unpacked)`.
type Stream = (u64, Vec<(u64, u64)>);

/// What the rest of a file may have.
struct Left {
    padding: u64,
    blocks: u64,
}

/// The blocks of `source`, if all of it can be told.
pub(super) fn index(source: &dyn Source) -> Option<Index> {
    let (mut end, mut streams) = (source.len(), Vec::new());
    let mut left = Left { padding: PADDING_MAX, blocks: Collector::MAX as u64 };
    while end > 0 {
        let stream = stream_before(source, &mut end, &mut left)?;
        streams.push(stream);
        (streams.len() < STREAMS_MAX).then_some(())?;
    }
    let mut all = Collector::default();
    for (mut at, blocks) in streams.into_iter().rev() {
        for (unpadded, unpacked) in blocks {
            all.add(at, unpadded, unpacked)?;
            at += padded(unpadded)?;
        }
    }
    Some(Index { packing: Packing::Xz, parts: all.finish(), whole })
}

/// The stream that ends at `end`, which becomes its start.
fn stream_before(source: &dyn Source, end: &mut u64, left: &mut Left) -> Option<Stream> {
    let mut footer = [0; 12];
    loop {
        source.read_exact_at(end.checked_sub(HEADER)?, &mut footer).ok()?;
        if footer.get(8..)? != [0; 4] {
            break;
        }
        *end -= 4; // padding between streams
        left.padding = left.padding.checked_sub(4)?;
    }
    if footer.get(10..)? != b"YZ" {
        return None;
    }
    let len = (u64::from(u32_at(&footer, 4)?) + 1) * 4;
    let at = end.checked_sub(HEADER + len).filter(|_| len <= INDEX_MAX)?;
    let raw = source.bytes(at, usize::try_from(len).ok()?).ok()?;
    let mut rest = raw.strip_prefix(&[0])?;
    let count = number(&mut rest)?;
    left.blocks = left.blocks.checked_sub(count)?;
    let (mut blocks, mut sum) = (Vec::new(), 0u64);
    for _ in 0..count {
        let (unpadded, unpacked) = (number(&mut rest)?, number(&mut rest)?);
        sum = sum.checked_add(padded(unpadded)?)?;
        blocks.push((unpadded, unpacked));
    }
    let first = at.checked_sub(sum)?;
    *end = first.checked_sub(HEADER)?;
    let head = source.bytes(*end, 6).ok()?;
    (*head == *b"\xfd7zXZ\0").then_some((first, blocks))
}

fn padded(size: u64) -> Option<u64> {
    size.checked_next_multiple_of(4).filter(|&n| n > 0 && n < 1 << 62)
}

/// A number of the index.
fn number(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..63).step_by(7) {
        let (&byte, left) = rest.split_first()?;
        *rest = left;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn put_number(to: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = (value & 0x7f).to_le_bytes();
        value >>= 7;
        to.push(if value > 0 { low | 0x80 } else { low });
        if value == 0 {
            return;
        }
    }
}

fn crc32(data: &[u8]) -> [u8; 4] {
    let mut crc = flate2::Crc::new();
    crc.update(data);
    crc.sum().to_le_bytes()
}

/// The block as a stream of its own. All streams of one file are made by one program with
/// one kind of check as a rule; where not, the first one's header does not fit, and the
/// block does not unpack.
fn whole(source: &dyn Source, part: Part) -> io::Result<Vec<u8>> {
    let header = source.bytes(0, 12)?;
    let flags: Vec<u8> = header.get(6..8).unwrap_or_default().to_vec();
    let mut out = header.into_owned();
    out.extend(as_it_stands(source, Part { size: part.size.next_multiple_of(4), ..part })?);
    let mut index = vec![0];
    for value in [1, part.size, part.len] {
        put_number(&mut index, value);
    }
    index.resize(index.len().next_multiple_of(4), 0);
    index.extend(crc32(&index));
    let mut footer = u32::try_from(index.len() / 4 - 1).unwrap_or(0).to_le_bytes().to_vec();
    footer.extend(flags);
    out.extend(index);
    out.extend(crc32(&footer));
    out.extend(footer);
    out.extend(b"YZ");
    Ok(out)
}
