//! Finds the kallsyms tables by content, in kernels whose VMCOREINFO does not name
//! them: before 6.0, or when there is no VMCOREINFO.
//!
//! `scripts/kallsyms.c` writes the tables in one piece, each aligned to eight bytes.
//! The order of the middle never changed; the addresses moved behind it in 6.4
//! (404bad70fcf7):
//!
//! ```text
//!  < 6.4   [addresses | offsets relative_base]  num_syms names markers [seqs] token_table token_index
//! >= 6.4                                        num_syms names markers token_table token_index offsets relative_base seqs
//! ```
//!
//! (`relative_base` is missing since 7.0.) So: find an array of 256 ascending
//! u16 that splits the text in front of it into 256 printable tokens; go back to a
//! number N behind which exactly N names decode with these tokens and end where
//! the markers begin, which must agree; then take the place for the addresses
//! that puts `_stext` right and ascends. Each step proves the one before.

use super::kallsyms::{Tables, Tokens, name_length, read};
use super::symbols::SymbolTable;
use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::arch::map;
use crate::bytes;
use crate::memory::AddressSpace;

/// More than the image area has (`KERNEL_IMAGE_SIZE` is 1 GiB with KASLR).
const SCAN_MAX: u64 = 1 << 30;
const WINDOW: usize = 1 << 20;
/// `kallsyms_token_index`: 256 of u16.
const INDEX_LEN: usize = 512;
/// Longest token that the scan believes in; the compressor makes short ones.
const TOKEN_MAX: u16 = 96;
/// Text of all tokens; about 1 KiB in real kernels.
const TOKENS_MAX: usize = 8 << 10;
/// `num_syms` to `token_table`: 3 MiB in distribution kernels.
const NAMES_MAX: usize = 32 << 20;
/// Candidates for the token tables that are followed up.
const CANDIDATES_MAX: usize = 64;
/// Names decoded in all tries together; a real kernel takes few beyond its own.
const TRIES_MAX: usize = 64 << 20;
/// Every kernel with kallsyms has more symbols than this.
const SYMBOLS_MIN: u32 = 500;

/// Finds the tables in `ranges` of the kernel image (address and length; best from
/// `_stext` to `_end`) and decodes them. `stext` as for [`read`].
///
/// # Errors
/// The sentence says how far the search came.
pub fn find_and_read(
    space: &dyn AddressSpace,
    ranges: &[(VirtAddr, u64)],
    stext: Option<u64>,
    long_names: bool,
) -> Result<SymbolTable, String> {
    let tables = find(space, ranges, stext, long_names)?;
    let mut table = read(space, &tables, stext, long_names)?;
    table.note_origin("found by content");
    Ok(table)
}

/// Finds the tables only.
///
/// # Errors
/// The sentence says how far the search came.
pub fn find(
    space: &dyn AddressSpace,
    ranges: &[(VirtAddr, u64)],
    stext: Option<u64>,
    long_names: bool,
) -> Result<Tables, String> {
    let mut why = String::from("no kallsyms token table");
    let mut candidates = 0;
    let mut tries = TRIES_MAX;
    for token_index in Windows::new(space, ranges).flat_map(|window| token_indexes(&window)) {
        let Some((token_table, tokens)) = token_table(space, token_index) else { continue };
        candidates += 1;
        if candidates > CANDIDATES_MAX {
            break;
        }
        let Some((num_syms, count)) = names(space, token_table, &tokens, long_names, &mut tries) else {
            why = format!("kallsyms_token_table at {token_table:#x}, but no names before it");
            continue;
        };
        let found = address_places(num_syms, token_index, count).into_iter().find_map(|place| {
            let tables = Tables { num_syms, names: num_syms + 8, token_table, token_index, ..place };
            ascends(&read(space, &tables, stext, long_names).ok()?, count).then_some(tables)
        });
        match found {
            Some(tables) => {
                tracing::debug!("kallsyms by content: {tables:x?}");
                return Ok(tables);
            }
            None => {
                why = format!("kallsyms_names at {:#x}, but no addresses give _stext", num_syms + 8);
            }
        }
    }
    let bytes: u64 = ranges.iter().map(|(_, len)| len).sum();
    Err(format!("{why} in {bytes:#x} bytes of the kernel image"))
}

/// Readable pieces of the ranges, with an overlap of one token index.
struct Windows<'a> {
    space: &'a dyn AddressSpace,
    ranges: Vec<(u64, u64)>,
    budget: u64,
    /// What is read into: most of the addresses are not mapped.
    buf: Vec<u8>,
}

impl<'a> Windows<'a> {
    fn new(space: &'a dyn AddressSpace, ranges: &[(VirtAddr, u64)]) -> Self {
        let ranges = ranges.iter().rev().map(|(at, len)| (at.0 & !7, at.0.saturating_add(*len))).collect();
        Self { space, ranges, budget: SCAN_MAX, buf: vec![0; WINDOW] }
    }
}

impl Iterator for Windows<'_> {
    type Item = (u64, Vec<u8>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (at, end) = self.ranges.last_mut()?;
            if *at >= *end || self.budget == 0 {
                self.ranges.pop();
                continue;
            }
            let want = usize::try_from(*end - *at).map_or(WINDOW, |left| left.min(WINDOW));
            let got = self.space.read(VirtAddr(*at), self.buf.get_mut(..want)?).unwrap_or(0);
            let start = *at;
            // Behind a hole go on with the next page; else overlap.
            let step = match got {
                _ if got < want => got as u64 + PAGE_SIZE - (start + got as u64) % PAGE_SIZE,
                _ if start + got as u64 >= *end => got as u64,
                _ => (got - INDEX_LEN) as u64,
            };
            *at = start.saturating_add(step);
            self.budget = self.budget.saturating_sub(step);
            if got >= INDEX_LEN {
                return Some((start, self.buf.get(..got)?.to_vec()));
            }
        }
    }
}

/// Addresses in the window that could be `kallsyms_token_index`.
fn token_indexes((base, window): &(u64, Vec<u8>)) -> Vec<u64> {
    let mut found = Vec::new();
    for (at, head) in window.chunks_exact(8).enumerate() {
        // 0, then at least 1 more each time.
        let [0, 0, low, high, ..] = *head else { continue };
        if (low, high) == (0, 0) || u16::from_le_bytes([low, high]) > TOKEN_MAX {
            continue;
        }
        let index = window.get(at * 8..at * 8 + INDEX_LEN).unwrap_or_default();
        let value = |pair: &[u8]| bytes::u16_at(pair, 0).unwrap_or(0);
        let mut steps = index.chunks_exact(2).zip(index.chunks_exact(2).skip(1));
        if index.len() == INDEX_LEN
            && steps
                .all(|(a, b)| value(b).checked_sub(value(a)).is_some_and(|n| (1..=TOKEN_MAX).contains(&n)))
        {
            found.push(base + at as u64 * 8);
        }
    }
    found
}

/// The token text that ends right before its index.
fn token_table(space: &dyn AddressSpace, token_index: u64) -> Option<(u64, Tokens)> {
    let index = space.read_vec(VirtAddr(token_index), INDEX_LEN).ok()?;
    let last = u64::from(bytes::u16_at(&index, INDEX_LEN - 2)?);
    let text = read_before(space, token_index, TOKENS_MAX);
    let start = token_index - text.len() as u64;
    // The length of the last token is the only unknown, and rounded up to eight.
    for len in (last + 1).next_multiple_of(8)..=last + u64::from(TOKEN_MAX) + 8 {
        if len % 8 != 0 {
            continue;
        }
        let table = token_index.checked_sub(len)?;
        let text = text.get(usize::try_from(table.checked_sub(start)?).ok()?..)?;
        if is_token_text(&index, text) {
            return Some((table, Tokens::new(&index, text.to_vec())?));
        }
    }
    None
}

/// Each index starts a token of printable characters that ends with its NUL.
fn is_token_text(index: &[u8], text: &[u8]) -> bool {
    let start = |i: usize| bytes::u16_at(index, i * 2).map(usize::from);
    (0..256).all(|i| {
        let (Some(from), Some(to)) = (start(i), start(i + 1).or(Some(text.len()))) else { return false };
        match text.get(from..to).and_then(|token| token.split(|&b| b == 0).next().map(|t| (t, token))) {
            // The last one is followed by padding only.
            Some((word, token)) => {
                word.len() < token.len()
                    && (i == 255 || word.len() + 1 == token.len())
                    && token.iter().skip(word.len()).all(|&b| b == 0)
                    && word.iter().all(u8::is_ascii_graphic)
            }
            None => false,
        }
    })
}

/// `kallsyms_num_syms` before the token table, and its value.
fn names(
    space: &dyn AddressSpace,
    token_table: u64,
    tokens: &Tokens,
    long_names: bool,
    tries: &mut usize,
) -> Option<(u64, usize)> {
    let before = read_before(space, token_table, NAMES_MAX);
    let start = token_table - before.len() as u64;
    let aligned = usize::try_from(start.next_multiple_of(8) - start).ok()?;
    let last = before.len().checked_sub(8)?;
    for at in (aligned..last + 1).step_by(8).rev() {
        let Some(count) = bytes::u64_at(&before, at).and_then(|n| u32::try_from(n).ok()) else { continue };
        let room = before.len() - at;
        // Two to forty bytes a name, markers and sequence numbers included.
        if count < SYMBOLS_MIN || room / 48 > count as usize || room < 2 * count as usize {
            continue;
        }
        let names = before.get(at + 8..)?;
        if [long_names, !long_names]
            .into_iter()
            .any(|long| are_names(names, count as usize, tokens, long, tries))
        {
            return Some((start + at as u64, count as usize));
        }
    }
    None
}

/// So many names decode, and the markers behind them agree.
fn are_names(data: &[u8], count: usize, tokens: &Tokens, long: bool, tries: &mut usize) -> bool {
    let mut at = 0;
    let mut scratch = Vec::new();
    let mut second_marker = 0;
    for number in 0..count {
        if number == 256 {
            second_marker = at as u64;
        }
        let Some(left) = tries.checked_sub(1) else { return false };
        *tries = left;
        let Some(rest) = data.get(at..) else { return false };
        let Some((len, prefix)) = name_length(rest, long).filter(|(len, _)| *len != 0) else { return false };
        let Some(code) = rest.get(prefix..prefix + len) else { return false };
        scratch.clear();
        if !tokens.expand(code, &mut scratch) {
            return false;
        }
        at += prefix + len;
    }
    // The end is aligned in memory, where `data` starts at a multiple of eight.
    let markers = data.get(at.next_multiple_of(8)..).unwrap_or_default();
    // 32 bits each since 4.20, 64 before.
    let narrow = bytes::u32_at(markers, 4).map(u64::from);
    let wide = bytes::u64_at(markers, 8);
    bytes::u32_at(markers, 0) == Some(0) && (narrow == Some(second_marker) || wide == Some(second_marker))
}

/// Where the addresses can be, the likeliest first.
fn address_places(num_syms: u64, token_index: u64, count: usize) -> Vec<Tables> {
    let blank = Tables {
        names: 0,
        num_syms: 0,
        token_table: 0,
        token_index: 0,
        addresses: None,
        offsets: None,
        relative_base: None,
    };
    let len = (count as u64 * 4).next_multiple_of(8);
    let after = token_index.saturating_add(INDEX_LEN as u64);
    let base = num_syms.saturating_sub(8);
    vec![
        Tables { offsets: Some(base.saturating_sub(len)), relative_base: Some(base), ..blank.clone() },
        Tables { offsets: Some(after), relative_base: Some(after.saturating_add(len)), ..blank.clone() },
        Tables { addresses: Some(num_syms.saturating_sub(count as u64 * 8)), ..blank.clone() },
        Tables { offsets: Some(after), ..blank.clone() },
        Tables { addresses: Some(after), ..blank },
    ]
}

/// The table is whole, and real symbols lie where a kernel has them.
fn ascends(table: &SymbolTable, count: usize) -> bool {
    let placed =
        table.iter().filter(|symbol| symbol.address < 1 << 31 || symbol.address >= map::KERNEL_MAP).count();
    table.len() == count && placed * 100 >= count * 99
}

/// What is readable right before `end`, at most `max` bytes.
fn read_before(space: &dyn AddressSpace, end: u64, max: usize) -> Vec<u8> {
    let mut pieces = Vec::new();
    let mut at = end;
    let mut total = 0;
    while total < max {
        let start = at.saturating_sub(1) & !(PAGE_SIZE - 1);
        let Ok(len) = usize::try_from(at - start) else { break };
        let Ok(page) = space.read_vec(VirtAddr(start), len) else { break };
        total += len;
        pieces.push(page);
        if start == 0 {
            break;
        }
        at = start;
    }
    let mut whole: Vec<u8> = Vec::with_capacity(total);
    pieces.iter().rev().for_each(|piece| whole.extend_from_slice(piece));
    let excess = whole.len().saturating_sub(max);
    whole.drain(..excess);
    whole
}

#[cfg(test)]
#[path = "tests/kallsyms_scan.rs"]
mod tests;
