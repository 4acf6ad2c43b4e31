//! zstd's seekable format (`contrib/seekable_format/zstd_seekable_compression_format.md`):
//! frames, and behind them a table of their sizes in a frame that others skip.
//!
//! ```text
//!  u32 0x184d2a5e, u32 bytes that follow
//!  u32 packed, u32 unpacked [, u32 checksum]      for each frame
//!  u32 frames, u8 flags (0x80: checksums), u32 0x8f92eab1
//! ```

use super::Packing;
use super::parts::{Collector, Index, as_it_stands};
use crate::bytes::source::Source;
use crate::bytes::u32_at;

const SKIPPABLE: u32 = 0x184d_2a5e;
const SEEKABLE: u32 = 0x8f92_eab1;
const FOOTER: u64 = 9;

/// The frames of `source`, if it has a table of them.
pub(super) fn index(source: &dyn Source) -> Option<Index> {
    let end = source.len();
    let footer = source.bytes(end.checked_sub(FOOTER)?, 9).ok()?;
    if u32_at(&footer, 5)? != SEEKABLE {
        return None;
    }
    // The table is read at once.
    let frames = u64::from(u32_at(&footer, 0)?);
    (frames <= Collector::MAX as u64).then_some(())?;
    let row: usize = if footer.get(4)? & 0x80 == 0 { 8 } else { 12 };
    let rows = frames.checked_mul(row as u64)?;
    let table = end.checked_sub(FOOTER + rows)?;
    let head = source.bytes(table.checked_sub(8)?, 8).ok()?;
    if (u32_at(&head, 0)?, u64::from(u32_at(&head, 4)?)) != (SKIPPABLE, rows + FOOTER) {
        return None;
    }
    let (mut at, mut all) = (0u64, Collector::default());
    for row in source.bytes(table, usize::try_from(rows).ok()?).ok()?.chunks_exact(row) {
        let size = u64::from(u32_at(row, 0)?);
        all.add(at, size, u32_at(row, 4)?.into())?;
        at += size;
    }
    (at <= table - 8).then(|| Index { packing: Packing::Zstd, parts: all.finish(), whole: as_it_stands })
}
