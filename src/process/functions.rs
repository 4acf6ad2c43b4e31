//! One symbol table of a file: the function at an address, the address of a name. Names stay
//! where the file has them, as few of them are ever asked for.

use std::sync::OnceLock;

use object::elf::{
    SHN_LORESERVE, SHN_UNDEF, STB_LOCAL, STT_FUNC, STT_GNU_IFUNC, STT_NOTYPE, STT_OBJECT, SectionType,
};

use super::found::FoundFile;
use crate::bytes::u32_at;
use crate::elf::{self, Symbol, Symbols};

/// How far a function reaches that tells no size: assembly.
const LABEL_REACH: u64 = 4096;
/// Functions that may have ended between an address and the one that covers it.
const INNER_MAX: usize = 16;
/// Longer names are cut; those of C++ have thousands of bytes.
const NAME_MAX: usize = 1 << 14;

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
    symbols: Symbols<'static>,
    /// Address, size and number of each function.
    functions: OnceLock<Vec<(u64, u64, usize)>>,
}

impl Table {
    /// The file's table of that kind, if it has one.
    pub(super) fn of(file: &elf::File, kind: SectionType) -> Option<Self> {
        let symbols = file.symbols(kind).ok()??.into_owned();
        Some(Self { symbols, functions: OnceLock::new() })
    }

    /// The innermost function that covers a link-time address, and how far into it that is.
    /// What lies behind a function is not its own, and one that has ended may stand within
    /// another. Of several at one address the largest counts, the last in the table.
    pub(super) fn covering(&self, address: u64) -> Option<(String, u64)> {
        let functions = self.functions();
        let after = functions.partition_point(|&(start, ..)| start <= address);
        let near = functions.get(after.saturating_sub(INNER_MAX)..after)?;
        let covers = |&&(start, size, _): &&(u64, u64, usize)| {
            address - start < if size == 0 { LABEL_REACH } else { size }
        };
        let &(start, _, number) = near.iter().rev().find(covers)?;
        let name = self.symbols.get(number)?.name();
        // `clock_nanosleep@@GLIBC_2.17`: the version is the linker's business.
        let plain = name.split(|&b| b == b'@').next().filter(|n| !n.is_empty()).unwrap_or(name);
        let plain = plain.get(..NAME_MAX).unwrap_or(plain);
        Some((String::from_utf8_lossy(plain).into_owned(), address - start))
    }

    /// The link-time address of a function. Of several a global one, else the lowest.
    pub(super) fn function(&self, name: &str) -> Option<u64> {
        let symbol = |&(_, _, number): &(u64, u64, usize)| self.symbols.get(number);
        let named = || self.functions().iter().filter_map(symbol).filter(|s| s.is_named(name));
        let global = named().find(|s| s.info.st_bind() != STB_LOCAL);
        global.or_else(|| named().next()).map(|s| s.value)
    }

    /// The link-time address of a variable.
    pub(super) fn variable(&self, name: &str) -> Option<u64> {
        let is_it =
            |s: &Symbol<'_>| s.info.st_type() == STT_OBJECT && s.section != SHN_UNDEF && s.is_named(name);
        self.symbols.iter().find(is_it).map(|s| s.value)
    }

    fn functions(&self) -> &[(u64, u64, usize)] {
        self.functions.get_or_init(|| {
            // STT_NOTYPE: assembly.
            let code = |s: &Symbol<'_>| {
                matches!(s.info.st_type(), STT_NOTYPE | STT_FUNC | STT_GNU_IFUNC)
                    && s.section != SHN_UNDEF
                    && s.section.0 < SHN_LORESERVE
                    && s.has_name()
            };
            let all = self.symbols.iter().enumerate().filter(|(_, s)| code(s));
            let mut functions: Vec<_> = all.map(|(number, s)| (s.value, s.size, number)).collect();
            functions.sort_unstable();
            functions
        })
    }
}
