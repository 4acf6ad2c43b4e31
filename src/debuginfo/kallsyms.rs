//! The kernel's own symbol table, decoded out of dumped memory.
//!
//! Layout as written by `scripts/kallsyms.c` and read by `kernel/kallsyms.c`:
//!
//! * `kallsyms_names`: per symbol a length and so many token numbers. The length is
//!   one byte; since 6.1 (73bbb94466fd "support big kernel symbols") its top bit
//!   announces a second byte with seven more bits. Nothing in a dump tells which:
//!   the kernel's version is a hint, and the reading that stays consistent wins.
//! * `kallsyms_token_index` (256 x u16) into `kallsyms_token_table` (NUL-terminated
//!   text). The first character of an expanded name is its type.
//! * addresses, in one of four forms ([`Encoding`]); `_stext`, whose true address
//!   VMCOREINFO has, decides which.
//!
//! VMCOREINFO names these tables since 6.0 (5fd8fea935a1, f09bddbd8661). For older
//! kernels [`super::kallsyms_scan`] finds them by content.

#[path = "kallsyms_holed.rs"]
mod holed;

use super::symbols::{ARENA_MAX, Builder, SymbolTable};
use crate::addr::VirtAddr;
use crate::arch::map;
use crate::bytes;
use crate::memory::{self, AddressSpace, Holed};

/// Longest name that is believed; the kernel's own limit is 512 (`KSYM_NAME_LEN`).
const NAME_MAX: usize = 1024;

/// More symbols than any kernel has; all modules built in make about 400,000.
const SYMBOLS_MAX: u32 = 4 << 20;
/// How much is read of a table at a time.
const CHUNK: usize = 128 << 10;
/// Bytes of the tokens' text; their index has 16 bits.
const TABLE_MAX: usize = 1 << 16;

/// Virtual addresses of the tables; 0 and `None` never mean the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    /// `kallsyms_names`.
    pub names: u64,
    /// `kallsyms_num_syms`, a `u32`.
    pub num_syms: u64,
    /// `kallsyms_token_table`.
    pub token_table: u64,
    /// `kallsyms_token_index`.
    pub token_index: u64,
    /// `kallsyms_addresses`, 64-bit each; until 6.11 and then only in kernels
    /// without `CONFIG_KALLSYMS_BASE_RELATIVE`.
    pub addresses: Option<u64>,
    /// `kallsyms_offsets`, 32-bit each.
    pub offsets: Option<u64>,
    /// `kallsyms_relative_base`, one 64-bit address; until 7.0.
    pub relative_base: Option<u64>,
}

impl Tables {
    /// The tables by VMCOREINFO's `SYMBOL(...)` values; `None` before 6.0.
    #[must_use]
    pub fn from_lookup(symbol: &dyn Fn(&str) -> Option<u64>) -> Option<Self> {
        let tables = Self {
            names: symbol("kallsyms_names")?,
            num_syms: symbol("kallsyms_num_syms")?,
            token_table: symbol("kallsyms_token_table")?,
            token_index: symbol("kallsyms_token_index")?,
            addresses: symbol("kallsyms_addresses"),
            offsets: symbol("kallsyms_offsets"),
            relative_base: symbol("kallsyms_relative_base"),
        };
        (tables.addresses.is_some() || tables.offsets.is_some()).then_some(tables)
    }
}

/// How symbol addresses are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// 64-bit addresses (removed in 6.11).
    Absolute,
    /// `relative_base` + an unsigned 32-bit offset.
    BaseRelative,
    /// From 0 on an absolute (per-CPU) address; below, `relative_base - 1 - value`
    /// (`CONFIG_KALLSYMS_ABSOLUTE_PERCPU`, removed in 6.15).
    AbsolutePercpu,
    /// Relative to the entry's own address (since 7.0).
    PlaceRelative,
}

impl std::fmt::Display for Encoding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Absolute => "absolute",
            Self::BaseRelative => "base-relative",
            Self::AbsolutePercpu => "absolute per-CPU",
            Self::PlaceRelative => "place-relative",
        })
    }
}

/// Decodes the tables. `stext` is the true address of `_stext`; without it the
/// form of the addresses is judged by plausibility. Whether
/// `long_names` are marked is a hint only.
///
/// A table that is cut short by an unreadable page yields the symbols before it
/// (its origin and a warning say so) as long as `_stext` is among them.
///
/// # Errors
/// The sentence says which table fails and why.
pub fn read(
    space: &dyn AddressSpace,
    tables: &Tables,
    stext: Option<u64>,
    long_names: bool,
) -> Result<SymbolTable, String> {
    let count = match space.read_u32(VirtAddr(tables.num_syms)) {
        Ok(count) => count,
        Err(fault) => {
            holed::count(tables).ok_or_else(|| format!("kallsyms_num_syms cannot be read: {fault}"))?
        }
    };
    if count == 0 || count > SYMBOLS_MAX {
        return Err(format!(
            "kallsyms_num_syms at {:#x} is {count}: not a number of symbols",
            tables.num_syms
        ));
    }
    let mut names = match Tokens::read(space, tables.token_index, tables.token_table) {
        Ok(tokens) => Names::read(space, tables, count, &tokens, long_names),
        // Where functions begin is known all the same, if it is known where the first does.
        Err(why) if stext.is_some() => Names::lost(why),
        Err(why) => return Err(why),
    };
    let holed = names.trouble.is_some();
    let mut raw = Raw::read(space, tables, if holed { count as usize } else { names.len() });
    if holed {
        // Symbols of lost names keep their places, as far as there are addresses: what a count
        // from a hostile dump promises beyond them takes no time.
        let end = names.ends.last().copied().unwrap_or(0);
        names.ends.resize(raw.reach().max(names.len()).min(count as usize), end);
    }
    let wanted = stext.filter(|_| names.find(b"_stext").is_some());
    let encoding = match (names.find(b"_stext").or_else(|| names.find(b"_text")), stext) {
        (Some(at), _) => raw.encoding(tables, at, wanted),
        // The name of `_stext` is lost, and not its address.
        (None, Some(stext)) if holed => raw.encoding_of_most(tables, names.len(), stext),
        (None, _) => {
            return Err(format!(
                "kallsyms_names at {:#x}: {}",
                tables.names,
                names.trouble.unwrap_or_else(|| format!("no _stext among {count} names"))
            ));
        }
    };
    let by_most = || raw.encoding_of_most(tables, names.len(), stext.filter(|_| raw.trouble.is_some())?);
    let encoding = encoding.or_else(by_most).ok_or_else(|| {
        raw.trouble.clone().unwrap_or_else(|| {
            format!(
                "no known encoding of kallsyms' addresses gives _stext{}",
                wanted.map(|a| format!(" = {a:#x}")).unwrap_or_default()
            )
        })
    })?;

    let addresses = raw.addresses(encoding, tables, names.len());
    let text = std::mem::take(&mut names.text);
    let mut builder = Builder::adopt(text, &names.ends, &addresses)
        .ok_or_else(|| "kallsyms_names hold no text".to_owned())?;
    let kept = builder.named();
    let mut origin = String::from("kallsyms in the dump");
    if kept < count as usize
        && let Some(trouble) = names.trouble.or(raw.trouble)
    {
        tracing::warn!("kallsyms: only {kept} of {count} symbols can be read: {trouble}");
        origin = format!("{origin} ({kept} of {count}: {trouble})");
        builder.lacks_names();
    }
    tracing::debug!("{kept} symbols, {encoding}");
    builder.origin(origin);
    Ok(builder.finish())
}

/// Tokens up to this length are copied as one block; nearly all are.
const BLOCK: usize = 16;

/// The 256 tokens, ready to be copied.
pub(super) struct Tokens {
    text: Vec<u8>,
    tokens: Vec<Token>,
}

#[derive(Clone, Copy)]
struct Token {
    /// The front of it, padded.
    block: [u8; BLOCK],
    start: usize,
    len: usize,
    /// Nothing but visible characters.
    visible: bool,
}

impl Tokens {
    fn read(space: &dyn AddressSpace, index_at: u64, table_at: u64) -> Result<Self, String> {
        let index = match space.read_vec(VirtAddr(index_at), 512) {
            Ok(index) if holed::is_index(&index) => index,
            read => {
                // It says no more than the table itself, which lies in front of it.
                let len = usize::try_from(index_at.saturating_sub(table_at)).unwrap_or(0).min(TABLE_MAX);
                let text = space.read_vec(VirtAddr(table_at), len).ok();
                let tells = |text: &Vec<u8>| {
                    let words = || text.split(|b| *b == 0).take(256).filter(|word| !word.is_empty());
                    words().count() >= 64 && words().flatten().all(u8::is_ascii_graphic)
                };
                text.filter(tells)
                    .and_then(|text| holed::token_index(&text))
                    .filter(|index| holed::is_index(index))
                    .ok_or_else(|| match read {
                        Ok(_) => format!("kallsyms_token_index at {index_at:#x} is none"),
                        Err(fault) => format!("kallsyms_token_index cannot be read: {fault}"),
                    })?
            }
        };
        let last = (0..256).filter_map(|i| bytes::u16_at(&index, i * 2)).max().unwrap_or(0);
        // The last token ends at its NUL; what follows the table does no harm.
        let mut text = vec![0; usize::from(last) + NAME_MAX];
        let readable = space
            .read(VirtAddr(table_at), &mut text)
            .map_err(|fault| format!("kallsyms_token_table cannot be read: {fault}"))?;
        text.truncate(readable);
        // With others all names would be wrong ones.
        if readable > usize::from(last) && holed::token_index(&text).is_none_or(|told| told != index) {
            return Err(format!(
                "kallsyms_token_table at {table_at:#x} is not the one that kallsyms_token_index tells of"
            ));
        }
        Self::new(&index, text).ok_or_else(|| format!("kallsyms_token_table at {table_at:#x} is cut short"))
    }

    /// From the bytes of both tables.
    pub(super) fn new(index: &[u8], text: Vec<u8>) -> Option<Self> {
        let mut tokens = Vec::with_capacity(256);
        for token in 0..256 {
            let start = usize::from(bytes::u16_at(index, token * 2)?);
            let rest = text.get(start..)?;
            let len = rest.iter().take(NAME_MAX).position(|&b| b == 0)?;
            let word = rest.get(..len)?;
            let mut block = [0; BLOCK];
            block.iter_mut().zip(word).for_each(|(to, from)| *to = *from);
            tokens.push(Token { block, start, len, visible: word.iter().all(u8::is_ascii_graphic) });
        }
        Some(Self { text, tokens })
    }

    /// Appends the expansion of `code` to `out`; `false` if that is no symbol
    /// (`out` may then have grown).
    pub(super) fn expand(&self, code: &[u8], out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let mut end = start;
        let mut visible = true;
        for &token in code {
            let Some(token) = self.tokens.get(usize::from(token)) else { return false };
            visible &= token.visible;
            if token.len <= BLOCK {
                // One wide store; what is too much of it is overwritten or cut off.
                if out.len() < end + BLOCK {
                    out.resize(end + 8 * BLOCK, 0);
                }
                if let Some(to) = out.get_mut(end..end + BLOCK) {
                    to.copy_from_slice(&token.block);
                }
            } else {
                out.truncate(end);
                out.extend_from_slice(
                    self.text.get(token.start..token.start + token.len).unwrap_or_default(),
                );
            }
            end += token.len;
            if end - start > NAME_MAX {
                return false;
            }
        }
        out.truncate(end);
        visible && end - start > 1 && out.get(start).is_some_and(|&kind| is_kind(kind))
    }
}

/// What `nm` writes in front of a name: a letter, or one of its two signs. `?` is
/// `__nosave_begin` of kernels without HIBERNATION (seen on 3.10 and 4.18).
fn is_kind(kind: u8) -> bool {
    kind.is_ascii_alphabetic() || matches!(kind, b'?' | b'-')
}

/// The length in front of a name, and its own size.
pub(super) fn name_length(head: &[u8], long: bool) -> Option<(usize, usize)> {
    let first = *head.first()?;
    if long && first & 0x80 != 0 {
        Some((usize::from(first & 0x7f) | usize::from(*head.get(1)?) << 7, 2))
    } else {
        Some((usize::from(first), 1))
    }
}

/// Expanded names, each with its kind in front, as far as they could be decoded.
struct Names {
    text: Vec<u8>,
    ends: Vec<u32>,
    trouble: Option<String>,
    /// A length with its top bit set was met: it has two readings.
    ambiguous: bool,
}

impl Names {
    /// Reads them in that of two forms which gives more.
    fn read(space: &dyn AddressSpace, tables: &Tables, count: u32, tokens: &Tokens, long: bool) -> Self {
        let mut names = Self::decode(space, tables.names, count, tokens, long);
        if names.ambiguous || names.trouble.is_some() {
            let other = Self::decode(space, tables.names, count, tokens, !long);
            if (other.len(), names.odd()) > (names.len(), other.odd()) {
                names = other;
            }
        }
        // Where a page is lost, names go on behind it.
        if names.trouble.is_some() && names.len() < count as usize {
            let holed = |long| holed::names(space, tables, count, tokens, long);
            let known = |names: &Self| names.iter().count();
            let best = [long, !long].into_iter().filter_map(holed).max_by_key(known);
            if let Some(mut best) = best.filter(|best| known(best) > known(&names)) {
                best.trouble = best.trouble.or(names.trouble);
                names = best;
            }
        }
        names
    }

    /// None of them.
    fn lost(trouble: String) -> Self {
        Self { text: Vec::new(), ends: Vec::new(), trouble: Some(trouble), ambiguous: false }
    }

    fn decode(space: &dyn AddressSpace, at: u64, count: u32, tokens: &Tokens, long: bool) -> Self {
        let mut names = Self { text: Vec::new(), ends: Vec::new(), trouble: None, ambiguous: false };
        // Room for what a real kernel has; a count from a hostile dump gets no more.
        let room = (count as usize).min(1 << 19);
        names.text.reserve_exact(room * 27);
        names.ends.reserve_exact(room);
        let mut stream = Stream { space, next: at, buf: Vec::new(), pos: 0, fault: None };
        for number in 0..count {
            let head = stream.peek(2);
            names.ambiguous |= head.first().is_some_and(|first| first & 0x80 != 0);
            let Some((len, prefix)) = name_length(head, long) else { break };
            let Some(code) = stream.peek(prefix + len).get(prefix..prefix + len) else { break };
            let start = names.text.len();
            let good = len != 0 && tokens.expand(code, &mut names.text);
            let Some(end) = u32::try_from(names.text.len()).ok().filter(|_| good) else {
                names.text.truncate(start);
                names.trouble = Some(format!("name {number} of {count} does not decode"));
                return names;
            };
            if names.text.len() > ARENA_MAX {
                names.text.truncate(start);
                names.trouble = Some(format!("{number} of {count} names already take {ARENA_MAX:#x} bytes"));
                return names;
            }
            names.ends.push(end);
            stream.pos += prefix + len;
        }
        if let Some(fault) = stream.fault.filter(|_| names.ends.len() < count as usize) {
            names.trouble = Some(format!("name {} of {count} cannot be read: {fault}", names.ends.len()));
        }
        names
    }

    /// How many characters no compiler would emit.
    fn odd(&self) -> usize {
        self.text.iter().filter(|&&b| !b.is_ascii_alphanumeric() && !b"_.$".contains(&b)).count()
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    /// Kind and name of each.
    fn iter(&self) -> impl Iterator<Item = (u8, &[u8])> {
        let mut start = 0;
        self.ends.iter().filter_map(move |&end| {
            let whole = self.text.get(start..end as usize);
            start = end as usize;
            whole?.split_first().map(|(&kind, name)| (kind, name))
        })
    }

    /// The number of a name.
    fn find(&self, wanted: &[u8]) -> Option<usize> {
        let mut start = 0;
        self.ends.iter().position(|&end| {
            let whole = self.text.get(start..end as usize).unwrap_or_default();
            start = end as usize;
            whole.get(1..) == Some(wanted)
        })
    }
}

/// Forward reads in chunks; the end of the table is not known in advance.
struct Stream<'a> {
    space: &'a dyn AddressSpace,
    next: u64,
    buf: Vec<u8>,
    pos: usize,
    fault: Option<crate::error::ReadFault>,
}

impl Stream<'_> {
    /// The next `want` bytes, or as many as are readable; does not consume.
    fn peek(&mut self, want: usize) -> &[u8] {
        if self.buf.len() - self.pos.min(self.buf.len()) < want && self.fault.is_none() {
            self.buf.drain(..self.pos.min(self.buf.len()));
            self.pos = 0;
            let old = self.buf.len();
            self.buf.resize(old + CHUNK.max(want), 0);
            let got = match self.space.read(VirtAddr(self.next), self.buf.get_mut(old..).unwrap_or_default())
            {
                Ok(got) => got,
                Err(fault) => {
                    self.fault = Some(fault);
                    0
                }
            };
            self.buf.truncate(old + got);
            self.next = self.next.saturating_add(got as u64);
            if self.buf.len() < want && self.fault.is_none() {
                return self.peek(want);
            }
        }
        let end = self.buf.len().min(self.pos + want);
        self.buf.get(self.pos..end).unwrap_or_default()
    }
}

/// The undecoded addresses.
struct Raw {
    offsets: Holed,
    addresses: Holed,
    base: Option<u64>,
    trouble: Option<String>,
}

impl Raw {
    fn read(space: &dyn AddressSpace, tables: &Tables, count: usize) -> Self {
        let mut trouble = None;
        let base = tables.relative_base.and_then(|at| match space.read_u64(VirtAddr(at)) {
            Ok(base) => Some(base),
            Err(fault) => {
                trouble = Some(format!("kallsyms_relative_base cannot be read: {fault}"));
                None
            }
        });
        let mut table = |name: &str, at: Option<u64>, len| {
            let read = at.map_or_else(Holed::default, |at| memory::read_holed(space, VirtAddr(at), len));
            if let Some(lost) = read.sentence() {
                trouble.get_or_insert_with(|| format!("of {name} {lost}"));
            }
            read
        };
        let offsets = table("kallsyms_offsets", tables.offsets, count * 4);
        let addresses = table("kallsyms_addresses", tables.addresses, count * 8);
        Self { offsets, addresses, base, trouble }
    }

    /// Behind the last symbol whose address is there.
    fn reach(&self) -> usize {
        self.offsets.reach().div_ceil(4).max(self.addresses.reach().div_ceil(8))
    }

    fn address(&self, encoding: Encoding, tables: &Tables, at: usize) -> Option<u64> {
        if encoding == Encoding::Absolute {
            return bytes::u64_at(self.addresses.get(at * 8, 8)?, 0);
        }
        let value = bytes::u32_at(self.offsets.get(at * 4, 4)?, 0)?;
        let signed = i64::from(value.cast_signed());
        Some(match encoding {
            Encoding::Absolute => return None,
            Encoding::BaseRelative => self.base?.wrapping_add(u64::from(value)),
            Encoding::AbsolutePercpu if signed >= 0 => u64::from(value),
            Encoding::AbsolutePercpu => self.base?.wrapping_sub(1).wrapping_add_signed(-signed),
            Encoding::PlaceRelative => {
                tables.offsets?.wrapping_add(at as u64 * 4).wrapping_add_signed(signed)
            }
        })
    }

    /// The addresses of all symbols. One that is lost is taken to lie right behind the
    /// symbol before it: symbols are in the order of their addresses, and so none is
    /// said to cover what a lost one may.
    fn addresses(&self, encoding: Encoding, tables: &Tables, count: usize) -> Vec<Option<u64>> {
        (0..count).map(|at| self.address(encoding, tables, at)).collect()
    }

    /// The form under which symbol `at` (`_stext`) has its true address. A lost
    /// `relative_base` is the one that gives it.
    fn encoding(&mut self, tables: &Tables, at: usize, stext: Option<u64>) -> Option<Encoding> {
        use Encoding::{Absolute, AbsolutePercpu, BaseRelative, PlaceRelative};
        if let (None, Some(_), Some(stext)) = (self.base, tables.relative_base, stext) {
            let value = bytes::u32_at(self.offsets.get(at * 4, 4)?, 0)?.cast_signed();
            self.base = Some(match value {
                ..0 => stext.wrapping_add(1).wrapping_add_signed(value.into()),
                _ => stext.wrapping_sub(u64::from(value.cast_unsigned())),
            });
        }
        [BaseRelative, AbsolutePercpu, PlaceRelative, Absolute].into_iter().find(|&encoding| {
            self.address(encoding, tables, at).is_some_and(|address| match stext {
                Some(stext) => address == stext,
                None => is_text_start(address),
            })
        })
    }

    /// The form under which one symbol is at `stext`, be its address lost, and most lie in the kernel's
    /// image, each behind the one before it.
    fn encoding_of_most(&self, tables: &Tables, count: usize, stext: u64) -> Option<Encoding> {
        use Encoding::{Absolute, AbsolutePercpu, BaseRelative, PlaceRelative};
        let addresses = |encoding| (0..count).filter_map(move |at| self.address(encoding, tables, at));
        let ascend = |encoding: &Encoding| {
            let mut before = 0;
            let behind = |at: &u64| map::is_in_image(*at) && std::mem::replace(&mut before, *at) <= *at;
            addresses(*encoding).filter(behind).count()
        };
        let holed = self.trouble.is_some();
        [BaseRelative, AbsolutePercpu, PlaceRelative, Absolute]
            .into_iter()
            .filter(|&encoding| holed || addresses(encoding).any(|at| at == stext))
            .max_by_key(ascend)
            .filter(|encoding| ascend(encoding) * 2 > addresses(*encoding).count())
    }
}

/// Where the x86-64 kernel can start: the image area, page-aligned.
pub(super) fn is_text_start(address: u64) -> bool {
    map::is_in_image(address) && address & 0xfff == 0
}

#[cfg(test)]
#[path = "tests/kallsyms.rs"]
mod tests;
