//! ORC, the kernel's own unwind table.
//!
//! Two parallel arrays: `.orc_unwind_ip`, where row `i` starts (a 32-bit offset
//! from the array element itself), and `.orc_unwind`, six bytes that say where
//! the caller's stack pointer, rbp and return address are. Layout:
//! `arch/x86/include/asm/orc_types.h`; its bit-fields moved in 6.3 (ffb1b4a41016)
//! and 6.4 (fb799447ae29), and 7.1 renumbered the registers (1735858caa4b), while
//! the structure kept its size, so that only the hash in `.orc_header` (since
//! 6.4, backported to 6.3.10) tells them apart.
//!
//! Rows are kept in ten bytes each, with the flags brought to 7.1's form: a
//! kernel has 400,000 of them.

use std::ops::Range;
use std::path::PathBuf;

use super::symbols::SymbolTable;
use crate::addr::PAGE_SIZE;
use crate::bytes::u16_at;
use crate::error::{Error, Result};
use crate::memory::touches;

#[cfg(test)]
#[path = "tests/orc.rs"]
mod tests;

/// Most rows that are taken (a kernel with everything built in has 2 million).
const MAX_ROWS: usize = 1 << 24;

/// Which meaning the flag bits have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layout {
    /// 4.14 to 6.2: kind in 2 bits, end of stack in 1.
    V4_14,
    /// 6.3: kind in 2 bits, signal, end of stack.
    V6_3,
    /// 6.4 and later, and el9 from 5.14.0-517 on: kind in 3 bits, signal.
    V6_4,
    /// 7.1 and later: the registers are numbered anew.
    V7_1,
}

impl Layout {
    /// The layout by the contents of `.orc_header`, if the kernel has that
    /// section, else what its version says.
    pub fn detect(header: Option<&[u8]>, by_version: Self) -> Result<Self> {
        // scripts/orc_hash.sh over orc_types.h of 6.3.10, 6.4 and 7.1.
        const HASH_6_3: [u8; 20] = [
            0xdb, 0x84, 0xae, 0xd4, 0x10, 0x3b, 0x31, 0xdd, 0x51, 0xe0, 0x17, 0xf8, 0xf7, 0x97, 0x83, 0xca,
            0x98, 0x5c, 0x2c, 0x51,
        ];
        const HASH_6_4: [u8; 20] = [
            0xfe, 0x5d, 0x32, 0xbf, 0x58, 0x1b, 0xd6, 0x3b, 0x2c, 0xa9, 0xa5, 0xc6, 0x5b, 0xa5, 0xa6, 0x25,
            0xea, 0xb3, 0xfe, 0x24,
        ];
        const HASH_7_1: [u8; 20] = [
            0x13, 0x7c, 0x36, 0xad, 0x76, 0x27, 0xc4, 0xdd, 0x55, 0x93, 0x21, 0x76, 0xbb, 0x0e, 0xcd, 0xbd,
            0x50, 0x41, 0xfc, 0x82,
        ];
        match header {
            Some(h) if h == HASH_7_1 => Ok(Self::V7_1),
            Some(h) if h == HASH_6_4 => Ok(Self::V6_4),
            Some(h) if h == HASH_6_3 => Ok(Self::V6_3),
            Some(h) => Err(Error::Malformed {
                path: PathBuf::from(".orc_header"),
                format: "ORC",
                offset: 0,
                wanted: "the hash of a known orc_types.h",
                found: h.iter().take(20).map(|b| format!("{b:02x}")).collect(),
            }),
            None => Ok(by_version),
        }
    }
}

/// What a caller's value is found from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Base {
    /// Not known (rbp: unchanged).
    Undefined,
    /// The caller's stack pointer (only for rbp).
    PrevSp,
    /// rax.
    Ax,
    /// rdx.
    Dx,
    /// rdi.
    Di,
    /// rbp.
    Bp,
    /// rsp.
    Sp,
    /// r10.
    R10,
    /// r13.
    R13,
    /// The word at rbp + offset.
    BpIndirect,
    /// The word at rsp, + offset.
    SpIndirect,
}

/// What kind of frame a row describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// No information.
    Undefined,
    /// The outermost frame.
    End,
    /// An ordinary call: the return address is below the caller's stack pointer.
    Call,
    /// A whole `struct pt_regs` at the computed address.
    Regs,
    /// Only the hardware's part of one (rip, cs, rflags, rsp, ss).
    RegsPartial,
}

/// One row's rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OrcEntry {
    /// What the caller's stack pointer (or pt_regs) is counted from.
    pub sp_base: Base,
    /// Bytes to add to it.
    pub sp_offset: i16,
    /// Where the caller's rbp is counted from.
    pub bp_base: Base,
    /// Bytes to add to that.
    pub bp_offset: i16,
    /// The kind of frame.
    pub kind: Kind,
    /// Whether the pc is that of an interrupted instruction's handler: the
    /// caller's pc is then exact, not a return address.
    pub signal: bool,
}

impl OrcEntry {
    /// The rule where nothing is known.
    pub const UNDEFINED: Self = Self {
        sp_base: Base::Undefined,
        sp_offset: 0,
        bp_base: Base::Undefined,
        bp_offset: 0,
        kind: Kind::Undefined,
        signal: false,
    };
}

/// A row and the addresses it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// From the first address to one past the last.
    pub range: Range<u64>,
    /// Its rule.
    pub entry: OrcEntry,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Packed {
    sp_offset: i16,
    bp_offset: i16,
    /// As in 7.1.
    flags: u16,
}

/// Pages that may be others': of more nothing is sure.
const FOREIGN_MAX: usize = 16;
/// `PAGE_SIZE`, of addresses of rows.
const ROWS_PAGE: usize = 4096;

/// What a call has pushed.
const WORD: i16 = 8;

/// A row that is lost: bits that no layout has.
const LOST: Packed = Packed { sp_offset: 0, bp_offset: 0, flags: 0x8000 };

/// The rows of a kernel or a module, in the order of their addresses.
#[derive(Debug, Clone)]
pub struct OrcTable {
    base: u64,
    /// Where each row starts, from `base`.
    starts: Vec<u32>,
    rows: Vec<Packed>,
    /// Where the last row ends.
    end: u64,
}

/// The addresses of the rows in `range` outside of `holes`; `None` for one that is not above
/// the one before it.
fn ascending<'a>(
    ip: &'a [u8],
    holes: &'a [Range<usize>],
    ip_address: u64,
    range: Range<usize>,
) -> impl Iterator<Item = Option<u64>> + 'a {
    let mut before = 0;
    range.filter(|i| !touches(holes, &(i * 4..i * 4 + 4))).map(move |i| {
        let delta = i32::from_le_bytes(ip.get(i * 4..i * 4 + 4)?.try_into().ok()?);
        let at = ip_address.wrapping_add(4 * i as u64).wrapping_add_signed(delta.into());
        (std::mem::replace(&mut before, at) <= at).then_some(at)
    })
}

/// `holes` of the addresses, and the pages besides in whose place others stand: those whose
/// rows do not ascend, nor fit between those of their neighbours, where all others, three quarters at
/// least, ascend (since 5.6). `None` where there are none, or they do not explain all.
pub(crate) fn foreign(ip: &[u8], holes: &[Range<usize>], ip_address: u64) -> Option<Vec<Range<usize>>> {
    let rows = |range, holes| ascending(ip, holes, ip_address, range);
    let sound = |range, holes| rows(range, holes).all(|at| at.is_some());
    let count = ip.len() / 4;
    if rows(0..count, holes).all(|at| at.is_some()) {
        return None;
    }
    let pages = (ip.len() / ROWS_PAGE).min(4 * FOREIGN_MAX);
    let mut spans = Vec::new();
    let mut first = 0;
    while first < count {
        let page_end = (ip_address.checked_add(4 * first as u64)? | (PAGE_SIZE - 1)).checked_add(1)?;
        let end = usize::try_from((page_end - ip_address).div_ceil(4)).ok()?.min(count);
        let span = || Some((rows(first..end, holes).next()??, rows(first..end, holes).last()??));
        // All of a page may be lost.
        match sound(first..end, holes) {
            true => spans.extend(span().map(|span| (first * 4..end * 4, Some(span)))),
            false => spans.push((first * 4..end * 4, None)),
        }
        first = end;
    }
    let mut all = holes.to_vec();
    let mut before = 0;
    for (i, (page, span)) in spans.iter().enumerate() {
        // In a row with the neighbours; of that behind it may be the one that is in none.
        let after = spans.iter().skip(i + 1).filter_map(|(_, span)| *span).map(|(first, _)| first);
        let behind: Vec<u64> = after.take(2).collect();
        let fits = |(first, last): &(u64, u64)| {
            before <= *first && (behind.is_empty() || behind.iter().any(|next| *last <= *next))
        };
        if let Some((_, last)) = span.filter(|span| fits(span)) {
            before = last;
            continue;
        }
        if touches(holes, page) || 4 * (all.len() - holes.len() + 1) > pages {
            return None;
        }
        all.insert(all.partition_point(|hole| hole.end <= page.start), page.clone());
    }
    let explained = rows(0..count, &all).all(|at| at.is_some());
    explained.then_some(all)
}

impl OrcTable {
    /// Decodes the two sections. `ip_address` is the run-time address of the
    /// first; `end` is where the text ends that the last row may cover. `origin`
    /// names the table in messages.
    pub fn parse(
        layout: Layout,
        ip: &[u8],
        ip_address: u64,
        entries: &[u8],
        end: u64,
        origin: &str,
    ) -> Result<Self> {
        Self::parse_holed(layout, (ip, &[]), ip_address, (entries, &[]), 0..end, origin)
    }

    /// The same of sections with holes (byte ranges in order): a row whose rule is lost
    /// is a lost one, and so is all code whose rows are. `text` is what the rows may cover.
    pub fn parse_holed(
        layout: Layout,
        (ip, ip_holes): (&[u8], &[Range<usize>]),
        ip_address: u64,
        (entries, entry_holes): (&[u8], &[Range<usize>]),
        text: Range<u64>,
        origin: &str,
    ) -> Result<Self> {
        let end = text.end;
        let bad = |wanted, found| Error::Malformed {
            path: PathBuf::from(origin),
            format: "ORC",
            offset: 0,
            wanted,
            found,
        };
        if !ip.len().is_multiple_of(4) || entries.len() != ip.len() / 4 * 6 {
            let found = format!("{} and {}", ip.len(), entries.len());
            return Err(bad("4 bytes of address for every 6 of entry", found));
        }
        let count = ip.len() / 4;
        if count > MAX_ROWS {
            return Err(bad("at most 2^24 rows", count.to_string()));
        }
        let address = |i: usize, bytes: &[u8]| {
            let delta = bytes.try_into().map(i32::from_le_bytes).unwrap_or(0);
            ip_address.wrapping_add(4 * i as u64).wrapping_add_signed(i64::from(delta))
        };
        let known = || {
            let all = ip.chunks_exact(4).enumerate();
            all.filter(|(i, _)| !touches(ip_holes, &(i * 4..i * 4 + 4))).map(|(i, b)| (i, address(i, b)))
        };
        let first = known().map(|(_, at)| at).min().unwrap_or(0);
        let base = if ip_holes.is_empty() { first } else { first.min(text.start) };
        let (mut starts, mut rows) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let mut next = 0;
        for (i, at) in known() {
            let start = |at: u64| {
                u32::try_from(at.wrapping_sub(base))
                    .map_err(|_| bad("rows within 4 GiB of each other", format!("{base:#x} and {at:#x}")))
            };
            if i > next {
                // Where the last row in front of the hole ends is lost, too.
                starts.push(starts.last().map_or(0, |before: &u32| before.saturating_add(1)));
                rows.push(LOST);
            }
            next = i + 1;
            starts.push(start(at)?);
            let lost = touches(entry_holes, &(i * 6..i * 6 + 6));
            rows.push(if lost {
                LOST
            } else {
                entries.get(i * 6..i * 6 + 6).map_or(LOST, |e| pack(layout, e))
            });
        }
        if next < count && !rows.is_empty() {
            starts.push(starts.last().map_or(0, |before| before.saturating_add(1)));
            rows.push(LOST);
        }
        if !starts.is_sorted() {
            if !ip_holes.is_empty() {
                return Err(bad("sorted rows, as some are lost", "others".to_owned()));
            }
            // vmlinux is sorted since 5.6. Of two rows with one address the real
            // one comes last, and so wins over the end mark of another object.
            let mut order: Vec<_> = starts.iter().copied().zip(rows.iter().copied()).collect();
            order.sort_by_key(|(start, row)| (*start, row.flags & 0x700 != 0));
            (starts, rows) = order.into_iter().unzip();
        }
        let end = end.min(base.saturating_add(u64::from(u32::MAX)));
        Ok(Self { base, starts, rows, end })
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn start(&self, i: usize) -> Option<u64> {
        self.starts.get(i).map(|s| self.base.saturating_add(u64::from(*s)))
    }

    /// The addresses that the table knows something about.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        let first = self.start(0).unwrap_or(0);
        let last = self.start(self.len().saturating_sub(1)).unwrap_or(0);
        first..self.end.max(last)
    }

    /// The rule for `pc`: undefined outside the table, and where it is lost.
    #[must_use]
    pub fn lookup(&self, pc: u64) -> OrcEntry {
        self.row_at(pc).map_or(OrcEntry::UNDEFINED, unpack)
    }

    /// Whether there was a rule for `pc` that is lost.
    #[must_use]
    pub fn is_lost(&self, pc: u64) -> bool {
        self.row_at(pc) == Some(LOST)
    }

    fn row_at(&self, pc: u64) -> Option<Packed> {
        self.rows.get(self.index_at(pc)?).copied()
    }

    fn index_at(&self, pc: u64) -> Option<usize> {
        let offset = u32::try_from(pc.checked_sub(self.base)?).ok().filter(|_| self.range().contains(&pc))?;
        self.starts.partition_point(|s| *s <= offset).checked_sub(1)
    }

    /// The rule for `pc` in a hole that objtool left within a function, as that of 4.18 does
    /// behind jumps that it cannot follow: the one that stands on both sides of it. It is
    /// an ordinary call's, in whose frame the function has words of its own: the place is
    /// neither between functions nor at the start of one.
    #[must_use]
    pub fn bridged(&self, pc: u64, symbols: &SymbolTable) -> Option<OrcEntry> {
        let hole = self.index_at(pc)?;
        let row = |i: usize| self.rows.get(i).copied();
        let (before, it, after) = (row(hole.checked_sub(1)?)?, row(hole)?, row(hole + 1)?);
        if before != after || it == LOST || unpack(it) != OrcEntry::UNDEFINED {
            return None;
        }
        let rule = unpack(before);
        let framed = rule.kind == Kind::Call && rule.sp_base == Base::Sp && rule.sp_offset > WORD;
        let (start, end) = (self.start(hole)?, self.start(hole + 1)?);
        let within = || symbols.by_address(end).is_some_and(|(symbol, _)| symbol.address < start);
        (framed && within()).then_some(rule)
    }

    /// All rows that cover an address, in order.
    pub fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        self.rows.iter().enumerate().filter_map(|(i, row)| {
            let start = self.start(i)?;
            let end = self.start(i + 1).unwrap_or(self.end);
            (start < end).then(|| Row { range: start..end, entry: unpack(*row) })
        })
    }
}

fn pack(layout: Layout, e: &[u8]) -> Packed {
    let half = |at| u16_at(e, at).unwrap_or(0);
    let flags = half(4);
    let old_kind = flags >> 8 & 3;
    // Before 6.4 there are no kinds for "undefined" and "end": no base stands
    // for the first, and the end bit beside it for the second.
    let kind = |end: bool, signal: bool| {
        let kind = match (flags & 0xf, end) {
            (0, false) => 0,
            (0, true) => 1,
            _ => old_kind + 2,
        };
        kind << 8 | u16::from(signal) << 11
    };
    let registers = if layout == Layout::V7_1 {
        flags & 0xff
    } else {
        // undefined, prev_sp, dx, di, bp, sp, r10, r13, *bp, *sp
        const NUMBERS: [u16; 10] = [0, 8, 2, 5, 4, 3, 6, 7, 10, 9];
        let number = |n: u16| NUMBERS.get(usize::from(n & 0xf)).copied().unwrap_or(0xf);
        number(flags) | number(flags >> 4) << 4
    };
    let flags = registers
        | match layout {
            Layout::V4_14 => kind(flags & 0x400 != 0, old_kind != 0),
            Layout::V6_3 => kind(flags & 0x800 != 0, flags & 0x400 != 0),
            Layout::V6_4 | Layout::V7_1 => flags & 0xf00,
        };
    Packed { sp_offset: half(0).cast_signed(), bp_offset: half(2).cast_signed(), flags }
}

fn unpack(row: Packed) -> OrcEntry {
    let kind = match row.flags >> 8 & 7 {
        1 => Kind::End,
        2 => Kind::Call,
        3 => Kind::Regs,
        4 => Kind::RegsPartial,
        _ => return OrcEntry::UNDEFINED,
    };
    let (Some(sp_base), Some(bp_base)) = (base(row.flags), base(row.flags >> 4)) else {
        return OrcEntry::UNDEFINED;
    };
    if matches!(sp_base, Base::Undefined | Base::PrevSp) && kind != Kind::End {
        return OrcEntry::UNDEFINED;
    }
    OrcEntry {
        sp_base,
        sp_offset: row.sp_offset,
        bp_base,
        bp_offset: row.bp_offset,
        kind,
        signal: row.flags & 0x800 != 0,
    }
}

fn base(number: u16) -> Option<Base> {
    const BASES: [Base; 11] = [
        Base::Undefined,
        Base::Ax,
        Base::Dx,
        Base::Sp,
        Base::Bp,
        Base::Di,
        Base::R10,
        Base::R13,
        Base::PrevSp,
        Base::SpIndirect,
        Base::BpIndirect,
    ];
    BASES.get(usize::from(number & 0xf)).copied()
}
