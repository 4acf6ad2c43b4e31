//! kallsyms of which pages are lost: the names before and behind a hole.
//!
//! Names are one stream, in which a name's number is its place. `kallsyms_markers`, which
//! lie between the names and the tokens, tell where every 256th begins, so behind a hole
//! the numbers go on with the next block. Where each table lies, and so how many symbols
//! there are although `kallsyms_num_syms` is lost, follows from the order in which
//! `scripts/kallsyms.c` writes them:
//!
//! ```text
//!  < 6.4   offsets relative_base num_syms names markers [seqs] token_table token_index
//! >= 6.4   num_syms names markers token_table token_index offsets relative_base seqs
//! ```

use super::{NAME_MAX, Names, SYMBOLS_MAX, Tables, Tokens, name_length};
use crate::addr::VirtAddr;
use crate::bytes::{u16_at, u32_at};
use crate::memory::{AddressSpace, Holed, read_holed};

/// Names of one block: `kallsyms_markers` has one entry for each.
const BLOCK: usize = 256;
/// Bytes of names that are believed.
const NAMES_BYTES: u64 = 64 << 20;

/// How many symbols there are, by the places of the tables.
pub(super) fn count(tables: &Tables) -> Option<u32> {
    let (start, end, size) = match (tables.offsets, tables.relative_base, tables.addresses) {
        (Some(offsets), Some(base), _) => (offsets, base, 4),
        (None, _, Some(addresses)) => (addresses, tables.num_syms, 8),
        _ => return None,
    };
    // Padding makes it one too many at most: no name decodes there.
    let count = u32::try_from(end.checked_sub(start)? / size).ok()?;
    (1..=SYMBOLS_MAX).contains(&count).then_some(count)
}

/// `kallsyms_token_index` anew: where each token of the table begins.
pub(super) fn token_index(text: &[u8]) -> Option<Vec<u8>> {
    let mut index = vec![0, 0];
    let ends = text.iter().enumerate().filter(|(_, byte)| **byte == 0).map(|(at, _)| at + 1);
    for start in ends.take(255) {
        index.extend(u16::try_from(start).ok()?.to_le_bytes());
    }
    (index.len() == 512).then_some(index)
}

/// The names with their numbers: a lost one is empty.
pub(super) fn names(
    space: &dyn AddressSpace,
    tables: &Tables,
    count: u32,
    tokens: &Tokens,
    long: bool,
) -> Option<Names> {
    let len = tables.token_table.checked_sub(tables.names).filter(|len| *len < NAMES_BYTES)?;
    let read = read_holed(space, VirtAddr(tables.names), usize::try_from(len).ok()?);
    let count = count as usize;
    let markers = markers(&read, count)?;
    let mut names = Names { text: Vec::new(), ends: Vec::new(), trouble: None, ambiguous: false };
    names.trouble = read.sentence().map(|lost| format!("of its names {lost}"));
    let mut next = Some(0);
    for block in 0..count.div_ceil(BLOCK) {
        let in_block = BLOCK.min(count - block * BLOCK);
        let mut at = markers.get(block).copied().flatten().or(next);
        for _ in 0..in_block {
            at = at.and_then(|at| name(&read, at, tokens, long, &mut names.text));
            names.ends.push(u32::try_from(names.text.len()).ok()?);
        }
        next = at;
    }
    Some(names)
}

/// Appends the name at `at`; where the next one is.
fn name(read: &Holed, at: usize, tokens: &Tokens, long: bool, text: &mut Vec<u8>) -> Option<usize> {
    let (len, prefix) = name_length(read.bytes.get(at..)?, long)?;
    let whole = read.get(at, prefix + len).filter(|_| len > 0)?;
    let start = text.len();
    let good = text.len() + NAME_MAX < super::ARENA_MAX && tokens.expand(whole.get(prefix..)?, text);
    if !good {
        text.truncate(start);
        return None;
    }
    Some(at + prefix + len)
}

/// Where each block of names begins, by the table behind the names; `None` for those that
/// are lost.
fn markers(read: &Holed, count: usize) -> Option<Vec<Option<usize>>> {
    let blocks = count.div_ceil(BLOCK);
    let len = (blocks * 4).next_multiple_of(8);
    // Since 6.2 and until 6.3 three bytes a symbol stand behind it.
    let behind = [0, (count * 3).next_multiple_of(8)];
    behind.into_iter().find_map(|behind| {
        // `names` and `token_table` are aligned to eight, and so is all between them.
        let start = read.bytes.len().checked_sub(behind)?.checked_sub(len)?;
        let marker = |block: usize| Some(u32_at(read.get(start + block * 4, 4)?, 0)? as usize);
        let all: Vec<_> = (0..blocks).map(marker).collect();
        let known = || all.iter().enumerate().filter_map(|(i, m)| m.map(|m| (i, m)));
        // At least two bytes a name, and each block behind the one before.
        let mut steps = known().zip(known().skip(1));
        let ascends = steps.all(|((i, a), (j, b))| a + (j - i) * BLOCK * 2 <= b && b < start);
        let first = known().next()?;
        (ascends && (first.0 > 0 || first.1 == 0)).then_some(all)
    })
}

/// Whether `index` is one of 256 ascending tokens.
pub(super) fn is_index(index: &[u8]) -> bool {
    let value = |i: usize| u16_at(index, i * 2);
    index.len() == 512 && (0..255).all(|i| value(i) < value(i + 1))
}
