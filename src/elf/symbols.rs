//! Symbol tables as files and kernels have them (`Elf64_Sym` and names).

use std::borrow::Cow;

use object::LittleEndian as LE;
use object::elf::{Sym64, SymbolInfo, SymbolSection};

use super::rows;

/// A symbol table and its names.
pub struct Symbols<'a> {
    table: Cow<'a, [u8]>,
    names: Cow<'a, [u8]>,
}

/// One symbol.
#[derive(Debug, Clone, Copy)]
pub struct Symbol<'a> {
    /// The names from its own on, of which few are ever looked at.
    names: &'a [u8],
    /// Where it begins in the table of names; 0 if it has none.
    pub name_at: u32,
    /// Type and binding.
    pub info: SymbolInfo,
    /// Number of its section, or what `SHN_ABS` and its like say.
    pub section: SymbolSection,
    /// Link-time address; in a module an offset into the section.
    pub value: u64,
    /// Bytes; 0 when not told.
    pub size: u64,
}

impl<'a> Symbol<'a> {
    /// Its name; empty if it has none, or none that ends.
    #[must_use]
    pub fn name(&self) -> &'a [u8] {
        let end = memchr::memchr(0, self.names).unwrap_or(0);
        self.names.get(..end).unwrap_or_default()
    }

    /// Whether it has one.
    #[must_use]
    pub fn has_name(&self) -> bool {
        self.names.first().is_some_and(|&b| b != 0)
    }

    /// Whether its name is that, a version of it (`name@@GLIBC_2.17`) or not.
    #[must_use]
    pub fn is_named(&self, name: &str) -> bool {
        let rest = self.names.strip_prefix(name.as_bytes());
        rest.is_some_and(|rest| matches!(rest.first(), Some(0 | b'@')))
    }
}

impl<'a> Symbols<'a> {
    /// A table of `Elf64_Sym` and the names that it points into.
    pub fn new(table: impl Into<Cow<'a, [u8]>>, names: impl Into<Cow<'a, [u8]>>) -> Self {
        Self { table: table.into(), names: names.into() }
    }

    fn rows(&self) -> &[Sym64<LE>] {
        rows(&self.table)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows().len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows().is_empty()
    }

    /// The symbol of that number.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Symbol<'_>> {
        self.rows().get(index).map(|raw| self.symbol(raw))
    }

    /// All of them in the order of the table.
    pub fn iter(&self) -> impl Iterator<Item = Symbol<'_>> {
        self.rows().iter().map(|raw| self.symbol(raw))
    }

    fn symbol(&self, raw: &Sym64<LE>) -> Symbol<'_> {
        Symbol {
            names: self.names.get(raw.st_name.get(LE) as usize..).unwrap_or_default(),
            name_at: raw.st_name.get(LE),
            info: raw.st_info,
            section: raw.st_shndx.get(LE),
            value: raw.st_value.get(LE),
            size: raw.st_size.get(LE),
        }
    }
}
