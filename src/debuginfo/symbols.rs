//! A table of symbols: 160,000 to 250,000 names in a few megabytes.
//!
//! It is filled once, from kallsyms or from an ELF `.symtab`, and never changes.
//! Names lie in one arena, entries are 16 bytes, sorted by address; the index by
//! name is made at the first lookup by name.
//!
//! Several names often share an address. The best one comes first, by the rule
//! that the kernel itself uses when it sorts kallsyms (`scripts/kallsyms.c`,
//! `compare_symbols`): strong before weak, real symbols before those of linker
//! scripts, fewer leading underscores first. So the names here are those that an
//! oops prints, but that of global and static names the global one is taken.

use std::sync::OnceLock;

/// The gap behind a symbol is no size above this: nothing in a kernel is larger,
/// and the next symbol lies in another region.
const GAP_MAX: u64 = 16 << 20;
/// Size of a symbol that has no neighbour within [`GAP_MAX`].
const LAST_SIZE: u32 = 4096;
/// Longer names are dropped; those of C++ have thousands of bytes.
const NAME_MAX: usize = 1 << 14;
/// All names together, against hostile tables.
pub(super) const ARENA_MAX: usize = 256 << 20;

/// One symbol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symbol<'a> {
    /// Where it lies on the dumped machine.
    pub address: u64,
    /// Bytes, as the ELF file says, else up to the next symbol (capped).
    pub size: u64,
    /// The letter that `nm` and `/proc/kallsyms` print: `T`, `t`, `D`, `A`...
    pub kind: u8,
    /// The name.
    pub name: &'a str,
}

impl Symbol<'_> {
    /// Code rather than data.
    #[must_use]
    pub fn is_text(&self) -> bool {
        matches!(self.kind, b't' | b'T' | b'w' | b'W')
    }
}

/// `name+0x10`, and the name alone at its start.
#[must_use]
pub(crate) fn plus(name: &str, offset: u64) -> String {
    if offset == 0 { name.to_owned() } else { format!("{name}+{offset:#x}") }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    address: u64,
    /// Start of the name in the arena.
    name: u32,
    len: u16,
    kind: u8,
}

/// All symbols of one image, sorted by address.
#[derive(Debug)]
pub struct SymbolTable {
    origin: String,
    arena: String,
    entries: Vec<Entry>,
    sizes: Vec<u32>,
    index: OnceLock<Index>,
    /// Some entries have no name, as it is lost: they end the symbol before them.
    lacks_names: bool,
}

impl SymbolTable {
    /// A table without symbols, from `origin`.
    #[must_use]
    pub fn empty(origin: impl Into<String>) -> Self {
        Builder::new(origin).finish()
    }

    /// Where the symbols came from, e.g. `kallsyms in the dump`.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The table with these names, too, where it lacks them.
    #[must_use]
    pub fn and<'n>(self, more: impl IntoIterator<Item = (&'n str, u64)>) -> Self {
        let lacking: Vec<_> = more.into_iter().filter(|(name, _)| self.by_name(name).is_none()).collect();
        let mut builder = Builder { table: Self { index: OnceLock::new(), ..self } };
        // Sizes are those of the gaps, anew.
        builder.table.sizes.fill(0);
        for (name, address) in lacking {
            builder.push(address, 0, b'D', name.as_bytes());
        }
        builder.finish()
    }

    /// Adds to the origin how the symbols were come by.
    pub fn note_origin(&mut self, note: &str) {
        self.origin = format!("{} ({note})", self.origin);
    }

    /// How many symbols there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// No symbol at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether names are lost: what a table without a name says is then no proof.
    #[must_use]
    pub fn lacks_names(&self) -> bool {
        self.lacks_names
    }

    /// All symbols by ascending address; of one address, the best name first.
    pub fn iter(&self) -> impl Iterator<Item = Symbol<'_>> {
        let named = self.entries.iter().zip(&self.sizes).filter(|(entry, _)| entry.len > 0);
        named.map(|(entry, &size)| self.symbol(entry, size))
    }

    /// The symbol of that name. Of several, a global one, else the lowest address.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<Symbol<'_>> {
        let mut first = None;
        for symbol in self.all_by_name(name) {
            if symbol.kind.is_ascii_uppercase() {
                return Some(symbol);
            }
            first = first.or(Some(symbol));
        }
        first
    }

    /// Every symbol of that name by ascending address: static functions repeat.
    pub fn all_by_name<'s>(&'s self, name: &str) -> impl Iterator<Item = Symbol<'s>> {
        let index = self.index.get_or_init(|| Index::new(self));
        index
            .chain(name)
            .filter_map(|at| self.at(at))
            .filter(move |symbol| symbol.name == name)
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// The address of the symbol of that name.
    #[must_use]
    pub fn address(&self, name: &str) -> Option<u64> {
        self.by_name(name).map(|symbol| symbol.address)
    }

    /// The best symbol at or before `address` that still reaches it, and the
    /// offset into it. The padding behind an ELF symbol belongs to it.
    #[must_use]
    pub fn by_address(&self, address: u64) -> Option<(Symbol<'_>, u64)> {
        self.around(address).filter(|(symbol, _)| !symbol.name.is_empty())
    }

    /// Where the symbol around `address` begins, be its name lost.
    #[must_use]
    pub fn start_of(&self, address: u64) -> Option<u64> {
        self.around(address).map(|(symbol, _)| symbol.address)
    }

    fn around(&self, address: u64) -> Option<(Symbol<'_>, u64)> {
        let after = self.entries.partition_point(|entry| entry.address <= address);
        let found = self.entries.get(after.checked_sub(1)?)?.address;
        let first = self.entries.partition_point(|entry| entry.address < found);
        let symbol = self.at(first)?;
        let offset = address - found;
        let reach = self.gap(&symbol).unwrap_or(symbol.size);
        (offset < reach.max(1)).then_some((symbol, offset))
    }

    /// Bytes from a symbol to the next one, where there is one near.
    pub(crate) fn gap(&self, symbol: &Symbol<'_>) -> Option<u64> {
        let after = self.entries.partition_point(|entry| entry.address <= symbol.address);
        let gap = self.entries.get(after)?.address - symbol.address;
        (gap <= GAP_MAX).then_some(gap)
    }

    /// Bytes of memory that the table holds.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.arena.capacity()
            + self.entries.capacity() * size_of::<Entry>()
            + self.sizes.capacity() * 4
            + self.index.get().map_or(0, |index| (index.heads.len() + index.next.len()) * 4)
    }

    fn at(&self, index: usize) -> Option<Symbol<'_>> {
        Some(self.symbol(self.entries.get(index)?, *self.sizes.get(index)?))
    }

    fn symbol(&self, entry: &Entry, size: u32) -> Symbol<'_> {
        Symbol {
            address: entry.address,
            size: u64::from(size),
            kind: entry.kind,
            name: name_of(&self.arena, entry),
        }
    }
}

fn name_of<'a>(arena: &'a str, entry: &Entry) -> &'a str {
    let start = entry.name as usize;
    arena.get(start..start + usize::from(entry.len)).unwrap_or_default()
}

/// Chained hash index: a table of a million equal names costs a long chain, not
/// a quadratic build.
#[derive(Debug)]
struct Index {
    /// By hash: 1 + the first entry, 0 for none.
    heads: Vec<u32>,
    /// By entry: 1 + the next one of the same bucket.
    next: Vec<u32>,
}

impl Index {
    fn new(table: &SymbolTable) -> Self {
        let mut index = Self {
            heads: vec![0; table.entries.len().next_power_of_two().max(2)],
            next: vec![0; table.entries.len()],
        };
        // Backwards, so that each chain ascends.
        for (at, entry) in table.entries.iter().enumerate().rev() {
            let bucket = index.bucket(name_of(&table.arena, entry));
            let head = index.heads.get_mut(bucket);
            if let (Some(head), Some(next), Ok(link)) = (head, index.next.get_mut(at), u32::try_from(at + 1))
            {
                *next = std::mem::replace(head, link);
            }
        }
        index
    }

    fn bucket(&self, name: &str) -> usize {
        // FxHash over 8-byte words; the high bits are the good ones.
        let mut hash = 0_u64;
        for chunk in name.as_bytes().chunks(8) {
            let word = chunk.iter().fold(0, |word, &byte| word << 8 | u64::from(byte));
            hash = (hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
        let bits = self.heads.len().trailing_zeros();
        usize::try_from(hash >> (64 - bits)).unwrap_or(0)
    }

    fn chain(&self, name: &str) -> impl Iterator<Item = usize> {
        let mut link = self.heads.get(self.bucket(name)).copied().unwrap_or(0);
        std::iter::from_fn(move || {
            let at = (link as usize).checked_sub(1)?;
            link = self.next.get(at).copied().unwrap_or(0);
            Some(at)
        })
    }
}

/// Fills a [`SymbolTable`].
#[derive(Debug)]
pub struct Builder {
    table: SymbolTable,
}

impl Builder {
    /// An empty table from `origin`.
    #[must_use]
    pub fn new(origin: impl Into<String>) -> Self {
        Self {
            table: SymbolTable {
                origin: origin.into(),
                arena: String::new(),
                entries: Vec::new(),
                sizes: Vec::new(),
                index: OnceLock::new(),
                lacks_names: false,
            },
        }
    }

    /// From names that lie one behind the other, each with its kind in front, and
    /// their addresses; no name is copied. An empty one is lost. A symbol whose address
    /// is lost is left out, and what lies behind the one before it then has no name: they
    /// are in the order of their addresses. `None` if the bytes are no text.
    pub(super) fn adopt(text: Vec<u8>, ends: &[u32], addresses: &[Option<u64>]) -> Option<Self> {
        let mut builder = Self::new(String::new());
        builder.table.arena = String::from_utf8(text).ok()?;
        builder.table.entries.reserve_exact(addresses.len());
        let bytes = builder.table.arena.as_bytes();
        let mut start = 0;
        let nameless = |address| Entry { address, name: 0, len: 0, kind: b'?' };
        let mut before = None;
        for (&end, &address) in ends.iter().zip(addresses) {
            let lost = match address {
                Some(address) => (end == start).then_some(address),
                None => before.take(),
            };
            if let Some(address) = lost {
                builder.table.entries.push(nameless(address));
            }
            let Some(address) = address.filter(|_| end > start) else {
                builder.table.lacks_names = true;
                start = end;
                continue;
            };
            before = Some(address.saturating_add(1));
            let (kind, name) = (*bytes.get(start as usize)?, start + 1);
            let len = u16::try_from(end.checked_sub(name)?).ok()?;
            builder.table.entries.push(Entry { address, name, len, kind });
            start = end;
        }
        builder.table.sizes = vec![0; builder.table.entries.len()];
        Some(builder)
    }

    /// Says that there were more symbols than these.
    pub fn lacks_names(&mut self) {
        self.table.lacks_names = true;
    }

    /// How many symbols have a name.
    pub(super) fn named(&self) -> usize {
        self.table.entries.iter().filter(|e| e.len > 0).count()
    }

    /// Makes room for that many symbols.
    pub fn reserve(&mut self, symbols: usize) {
        self.table.entries.reserve_exact(symbols);
        self.table.sizes.reserve_exact(symbols);
        self.table.arena.reserve_exact(symbols.saturating_mul(26));
    }

    /// Adds one symbol; `size` 0 stands for "up to the next". Names that are
    /// empty, longer than [`NAME_MAX`], or past the bounds of the whole are
    /// dropped: `false`.
    pub fn push(&mut self, address: u64, size: u64, kind: u8, name: &[u8]) -> bool {
        let table = &mut self.table;
        if name.is_empty() || name.len() > NAME_MAX || table.arena.len() + 3 * name.len() > ARENA_MAX {
            return false;
        }
        let start = table.arena.len();
        match std::str::from_utf8(name) {
            Ok(name) => table.arena.push_str(name),
            Err(_) => table.arena.push_str(&String::from_utf8_lossy(name)),
        }
        let (Ok(name), Ok(len)) = (u32::try_from(start), u16::try_from(table.arena.len() - start)) else {
            return false;
        };
        table.entries.push(Entry { address, name, len, kind });
        table.sizes.push(u32::try_from(size).unwrap_or(u32::MAX));
        true
    }

    /// Changes the origin after the fact, when more is known.
    pub fn origin(&mut self, origin: impl Into<String>) {
        self.table.origin = origin.into();
    }

    /// The sorted table.
    #[must_use]
    pub fn finish(self) -> SymbolTable {
        let mut table = self.table;
        sort(&mut table);
        fill_sizes(&mut table);
        call_data_data(&mut table);
        table.arena.shrink_to_fit();
        table
    }
}

fn sort_by<K: Ord>(table: &mut SymbolTable, key: impl Fn(&Entry, u32) -> K) {
    let mut both: Vec<(Entry, u32)> =
        table.entries.iter().copied().zip(table.sizes.iter().copied()).collect();
    both.sort_by_key(|(entry, size)| key(entry, *size));
    (table.entries, table.sizes) = both.into_iter().unzip();
}

fn sort(table: &mut SymbolTable) {
    if !table.entries.is_sorted_by_key(|entry| entry.address) {
        sort_by(table, |entry, _| entry.address);
    }
    // Of each address, the best name first: most addresses have one name only.
    let mut start = 0;
    while let Some(first) = table.entries.get(start).map(|entry| entry.address) {
        let rest = table.entries.get(start..).unwrap_or_default();
        let len = rest.iter().take_while(|entry| entry.address == first).count().max(1);
        let range = start..start + len;
        if len > 1
            && let (Some(entries), Some(sizes)) =
                (table.entries.get_mut(range.clone()), table.sizes.get_mut(range))
        {
            let mut both: Vec<(u32, Entry, u32)> = entries
                .iter()
                .zip(sizes.iter())
                .map(|(entry, &size)| (rank(entry.kind, name_of(&table.arena, entry)), *entry, size))
                .collect();
            both.sort_by_key(|(rank, ..)| *rank);
            for (((_, entry, size), to), to_size) in both.into_iter().zip(entries).zip(sizes) {
                *to = entry;
                *to_size = size;
            }
        }
        start += len;
    }
}

/// Lower is better.
fn rank(kind: u8, name: &str) -> u32 {
    let weak = matches!(kind, b'w' | b'W' | b'v' | b'V');
    // Function prefixes for patching; labels of asm and linker script. A system
    // call without arguments has one body: crash names it by the 64-bit entry.
    let prefix = ["__pfx_", "__cfi_", "__ia32_sys_"].iter().any(|p| name.starts_with(p));
    let border = name.starts_with("__start_")
        || name.starts_with("__stop_")
        || name.starts_with("__end_")
        || name.starts_with("__") && (name.ends_with("_start") || name.ends_with("_end"))
        || matches!(name, "_text" | "_stext" | "_etext" | "_sinittext" | "_einittext" | "_end");
    let underscores = name.bytes().take_while(|&b| b == b'_').count().min(7);
    let underscores = u32::try_from(underscores).unwrap_or(7);
    u32::from(name.is_empty()) << 9
        | u32::from(weak) << 8
        | u32::from(prefix) << 7
        | u32::from(border) << 6
        | underscores << 2
        | u32::from(kind.is_ascii_lowercase())
}

/// Gives each symbol without a size the gap to the next address.
fn fill_sizes(table: &mut SymbolTable) {
    let mut next: Option<u64> = None;
    let mut current: Option<u64> = None;
    for (entry, size) in table.entries.iter().zip(&mut table.sizes).rev() {
        if current != Some(entry.address) {
            next = current;
            current = Some(entry.address);
        }
        if *size == 0 {
            *size = match next.map(|next| next - entry.address) {
                Some(gap) if gap <= GAP_MAX => u32::try_from(gap).unwrap_or(LAST_SIZE),
                _ => LAST_SIZE,
            };
        }
    }
}

/// Since 6.16 the kernel's `.data` is writable and executable, and kallsyms calls
/// what lies in it `T` (seen on Debian's 6.16, 7.2 and 7.3).
fn call_data_data(table: &mut SymbolTable) {
    let address = |name| table.entries.iter().find(|e| name_of(&table.arena, e) == name).map(|e| e.address);
    let (Some(start), Some(end)) = (address("_sdata"), address("_edata")) else { return };
    for entry in table.entries.iter_mut().filter(|e| (start..end).contains(&e.address)) {
        entry.kind = match entry.kind {
            b'T' => b'D',
            b't' => b'd',
            other => other,
        };
    }
}

#[cfg(test)]
#[path = "tests/symbols.rs"]
mod tests;
