//! One symbol table of a file: the function at an address, the address of a name. Names stay
//! in the file, as few of them are ever asked for, and a table is sorted when it is asked often: the
//! stack of one thread asks a large program (node: 110,000 symbols, 7 MB of names) some ten times.

use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use object::elf::{
    SHN_LORESERVE, SHN_UNDEF, STB_LOCAL, STT_FUNC, STT_GNU_IFUNC, STT_NOTYPE, STT_OBJECT, SectionType,
};

use super::found::FoundFile;
use crate::bytes::source::Source;
use crate::bytes::{cstr, u32_at};
use crate::elf::{self, Section, Symbol, Symbols};

/// How far a function reaches that tells no size: assembly.
const LABEL_REACH: u64 = 4096;
/// Functions that may have ended between an address and the one that covers it.
const INNER_MAX: usize = 16;
/// Longer names are cut; those of C++ have thousands of bytes.
const NAME_MAX: usize = 1 << 14;
/// Most names are shorter.
const NAME_SHORT: usize = 256;
/// Sorting costs as much as so many looks through the whole table.
const LOOKS_MAX: usize = 24;

/// Whether the file may export that name, by the filter of its `.gnu.hash` (the layout is
/// that of glibc's `elf/dl-setup_hash.c`): large tables are so not read for nothing.
pub(super) fn may_export(file: &FoundFile, name: &str) -> Option<bool> {
    let section = file.elf.section(".gnu.hash")?;
    let mut header = [0; 16];
    let read = file.fill(section.offset, &mut header);
    let (words, shift) = (u64::from(u32_at(&header, 8)?), u32_at(&header, 12)?);
    let hash = name.bytes().fold(5381_u32, |hash, byte| hash.wrapping_mul(33).wrapping_add(byte.into()));
    let at = section.offset.checked_add(16 + u64::from(hash / 64).checked_rem(words)? * 8)?;
    let mut word = [0; 8];
    let bit = |hash: u32| 1 << (hash % 64);
    let mask = bit(hash) | bit(hash.checked_shr(shift).unwrap_or(0));
    (read && file.fill(at, &mut word)).then(|| u64::from_le_bytes(word) & mask == mask)
}

/// One symbol table.
pub(super) struct Table {
    /// `Elf64_Sym`
    rows: Vec<u8>,
    names: Names,
    /// Where each section ends at link time, nothing where it holds no code; by its number.
    ends: Vec<Option<u64>>,
    /// In their order, once it is asked often.
    sorted: OnceLock<Vec<Function>>,
    looks: AtomicUsize,
}

/// Address, size and number of a function.
type Function = (u64, u64, usize);

impl Table {
    /// The file's table of that kind, if it has one.
    pub(super) fn of(file: &elf::File, kind: SectionType) -> Option<Self> {
        let (rows, names) = file.symbol_table(kind).ok()??;
        let rows = file.data(rows).ok()?.into_owned();
        let names = Names::of(file, names)?;
        let last = file.sections().iter().map(|s| s.index).max().map_or(0, |last| last + 1);
        let mut ends = vec![Some(u64::MAX); last];
        for section in file.sections() {
            let end = section.is_code().then(|| section.address.saturating_add(section.size));
            ends.get_mut(section.index).map(|known| *known = end).unwrap_or_default();
        }
        Some(Self { rows, names, ends, sorted: OnceLock::new(), looks: AtomicUsize::new(0) })
    }

    /// The innermost function that covers a link-time address, and how far into it that is.
    /// What lies behind a function is not its own, and one that has ended may stand within
    /// another. Of several at one address the largest counts, the last in the table.
    pub(super) fn covering(&self, address: u64) -> Option<(String, u64)> {
        let often = self.sorted.get().is_some() || self.looks.fetch_add(1, Ordering::Relaxed) >= LOOKS_MAX;
        let (start, _, number) = if often { self.by_order(address) } else { self.by_look(address) }?;
        let name = self.names.get(self.symbols().get(number)?.name_at);
        // `clock_nanosleep@@GLIBC_2.17`: the version is the linker's business.
        let plain = name.split('@').next().filter(|n| !n.is_empty()).unwrap_or(&name);
        (!plain.is_empty()).then(|| (plain.to_owned(), address - start))
    }

    fn by_order(&self, address: u64) -> Option<Function> {
        let all = self.sorted.get_or_init(|| {
            let mut functions: Vec<_> = functions(&self.symbols()).collect();
            functions.sort_unstable();
            functions
        });
        let after = all.partition_point(|&(start, ..)| start <= address);
        let near = all.get(after.saturating_sub(INNER_MAX)..after)?;
        near.iter().rev().find(|function| self.covers(function, address)).copied()
    }

    /// The same, from the table as it is.
    fn by_look(&self, address: u64) -> Option<Function> {
        let mut near: Vec<Function> = Vec::with_capacity(INNER_MAX + 1);
        for (number, symbol) in self.symbols().iter().enumerate() {
            let function = (symbol.value, symbol.size, number);
            // First what nearly all fail.
            let lowest = near.first().filter(|_| near.len() == INNER_MAX);
            if symbol.value > address || lowest.is_some_and(|lowest| function < *lowest) || !is_code(&symbol)
            {
                continue;
            }
            near.insert(near.partition_point(|other| *other < function), function);
            if near.len() > INNER_MAX {
                near.remove(0);
            }
        }
        near.iter().rev().find(|function| self.covers(function, address)).copied()
    }

    /// One that tells no size ends with its section; and a label of data is no function.
    fn covers(&self, &(start, size, number): &Function, address: u64) -> bool {
        let section = self.symbols().get(number).and_then(|s| self.ends.get(usize::from(s.section.0)));
        let end = section.copied().unwrap_or(Some(u64::MAX));
        match size {
            0 => address - start < LABEL_REACH && end.is_some_and(|end| address < end),
            size => address - start < size && end.is_some(),
        }
    }

    /// The link-time address of a function. Of several a global one, else the lowest.
    pub(super) fn function(&self, name: &str) -> Option<u64> {
        let symbols = Symbols::new(self.rows.as_slice(), self.names.all());
        let mut named: Vec<_> = functions(&symbols)
            .filter_map(|(start, size, number)| Some((start, size, number, symbols.get(number)?)))
            .filter(|(.., symbol)| symbol.is_named(name))
            .collect();
        named.sort_unstable_by_key(|&(start, size, number, _)| (start, size, number));
        let global = named.iter().find(|(.., symbol)| symbol.info.st_bind() != STB_LOCAL);
        global.or(named.first()).map(|&(start, ..)| start)
    }

    /// The link-time address of a variable.
    pub(super) fn variable(&self, name: &str) -> Option<u64> {
        let is_it =
            |s: &Symbol<'_>| s.info.st_type() == STT_OBJECT && s.section != SHN_UNDEF && s.is_named(name);
        Symbols::new(self.rows.as_slice(), self.names.all()).iter().find(is_it).map(|s| s.value)
    }

    /// The symbols without their names.
    fn symbols(&self) -> Symbols<'_> {
        Symbols::new(self.rows.as_slice(), &[][..])
    }
}

fn functions<'s>(symbols: &'s Symbols<'_>) -> impl Iterator<Item = Function> + 's {
    let all = symbols.iter().enumerate().filter(|(_, s)| is_code(s));
    all.map(|(number, s)| (s.value, s.size, number))
}

/// STT_NOTYPE: assembly.
fn is_code(s: &Symbol<'_>) -> bool {
    matches!(s.info.st_type(), STT_NOTYPE | STT_FUNC | STT_GNU_IFUNC)
        && s.section != SHN_UNDEF
        && s.section.0 < SHN_LORESERVE
        && s.name_at != 0
}

/// The names of a table, in the file until all of them are wanted.
struct Names {
    source: Arc<dyn Source>,
    at: u64,
    size: u64,
    all: OnceLock<Vec<u8>>,
}

impl Names {
    fn of(file: &elf::File, section: &Section) -> Option<Self> {
        let names = Self {
            source: Arc::clone(file.source()),
            at: section.offset,
            size: section.size,
            all: OnceLock::new(),
        };
        if section.size > elf::DATA_MAX {
            return None;
        }
        if section.is_compressed() {
            let _ = names.all.set(file.data(section).ok()?.into_owned());
        }
        Some(names)
    }

    fn get(&self, at: u32) -> String {
        let at = u64::from(at);
        let piece = |len: usize| -> Cow<'_, [u8]> {
            if let Some(all) = self.all.get() {
                return usize::try_from(at).ok().and_then(|at| all.get(at..)).unwrap_or_default().into();
            }
            let left = usize::try_from(self.size.saturating_sub(at)).unwrap_or(usize::MAX);
            self.source.bytes_up_to(self.at.saturating_add(at), left.min(len)).unwrap_or_default()
        };
        let mut bytes = piece(NAME_SHORT);
        if !bytes.contains(&0) {
            bytes = piece(NAME_MAX);
        }
        let bytes = bytes.get(..NAME_MAX).unwrap_or(&bytes);
        cstr(bytes).into_owned()
    }

    fn all(&self) -> &[u8] {
        self.all.get_or_init(|| {
            let len = usize::try_from(self.size).unwrap_or(0);
            self.source.bytes_up_to(self.at, len).map(Cow::into_owned).unwrap_or_default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::source::InMemory;
    use proptest::prelude::*;

    /// `Elf64_Sym`: name, type (2 is a function), other, section, value, size.
    fn row(name: u32, kind: u8, section: u16, value: u64, size: u64) -> Vec<u8> {
        let mut row = [&name.to_le_bytes()[..], &[kind, 0], &section.to_le_bytes()].concat();
        row.extend([value.to_le_bytes(), size.to_le_bytes()].concat());
        row
    }

    fn table(rows: Vec<u8>, names: &[u8]) -> Table {
        let (source, size) = (Arc::new(InMemory::new("names", names.to_vec())), names.len() as u64);
        let names = Names { source, at: 0, size, all: OnceLock::new() };
        // The second holds data.
        let ends = vec![None, Some(4096), None];
        Table { rows, names, ends, sorted: OnceLock::new(), looks: AtomicUsize::new(0) }
    }

    #[test]
    fn a_name_is_read_from_the_file() {
        let long = "x".repeat(NAME_SHORT + 7);
        let names = format!("\0short@@V_1\0{long}\0ends nowhere");
        let rows = [row(1, 2, 1, 16, 8), row(12, 2, 1, 32, 8), row(277, 2, 1, 48, 8), row(9999, 2, 1, 64, 8)];
        let table = table(rows.concat(), names.as_bytes());
        let name = |at| table.covering(at).map(|(name, _)| name);
        assert_eq!(name(20).as_deref(), Some("short"));
        assert_eq!(name(32), Some(long));
        assert_eq!(name(64), None, "its name is not in the table");
        assert_eq!((table.function("short"), table.function("shor")), (Some(16), None));
    }

    #[test]
    fn a_label_reaches_to_the_end_of_its_section_and_names_no_data() {
        let rows = [row(1, 0, 1, 4000, 0), row(7, 0, 2, 5000, 0), row(7, 2, 2, 6000, 8)].concat();
        let table = table(rows, b"\0_fini\0__bss_start\0");
        assert_eq!(table.covering(4095), Some(("_fini".to_owned(), 95)));
        assert_eq!(table.covering(4096), None, "it is another section");
        assert_eq!((table.covering(5008), table.covering(6004)), (None, None), "that is data");
    }

    proptest! {
        /// Sorted or not, the answer is the same: many functions end before an address, start
        /// at one, have no size.
        #[test]
        fn a_look_finds_what_the_order_says(
            rows in prop::collection::vec((0u32..3, 0u8..4, 0u16..3, 0u64..40, 0u64..60), 0..60),
            asked in prop::collection::vec(0u64..120, 1..20),
        ) {
            let rows = rows.into_iter().flat_map(|(n, k, s, v, size)| row(n, k, s, v, size.saturating_sub(20)));
            let table = table(rows.collect(), b"\0a\0");
            for address in asked {
                prop_assert_eq!(table.by_look(address), table.by_order(address), "{}", address);
            }
        }
    }
}
