//! Names, types and unwind rules, from whichever source the dump allows.
//!
//! Symbols: kallsyms of the dump, or vmlinux. Types: BTF of the dump, BTF of
//! vmlinux, DWARF of vmlinux, in that order. Each source may be absent.

pub mod btf;
pub mod cfi;
pub mod dwarf;
pub mod elf;
pub mod kallsyms;
pub mod kallsyms_scan;
pub mod locate;
pub mod orc;
pub mod orc_scan;
pub mod symbols;
pub mod vmcoreinfo_types;

#[cfg(test)]
#[path = "tests/lab.rs"]
pub(crate) mod lab;
#[cfg(test)]
#[path = "tests/vmlinux.rs"]
pub(crate) mod vmlinux;

/// Where a member lies in its struct.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Byte offset (for a bit-field: of the first byte that holds a bit of it).
    pub offset: u64,
    /// Size of the member's type in bytes (arrays: the whole array); 0 where that is not known.
    pub size: u64,
    /// For a bit-field: first bit counted from `offset`, and width.
    pub bits: Option<(u8, u8)>,
}

impl Field {
    /// A member of a type that is not known: it is at no address.
    pub const NOWHERE: Self = Self { offset: 1 << 62, size: 8, bits: None };

    /// The same with the size that the member has in every kernel, if the type that
    /// tells it is lost.
    #[must_use]
    pub fn or_size(self, size: u64) -> Self {
        if self.size == 0 && self.bits.is_none() { Self { size, ..self } } else { self }
    }
}

/// A source of types. Names are C's: `task_struct` or `struct task_struct`.
pub trait Types: Send + Sync {
    /// Size of a struct, union, typedef or base type in bytes.
    fn size_of(&self, name: &str) -> Option<u64>;

    /// A member by path, through nested and anonymous members:
    /// `("task_struct", "se.on_rq")`, `("pcpu_hot", "current_task")`.
    fn field(&self, name: &str, path: &str) -> Option<Field>;

    /// The value of an enumerator, by its name alone.
    fn enumerator(&self, name: &str) -> Option<i64>;

    /// Number of elements of an array member.
    fn array_len(&self, name: &str, path: &str) -> Option<u64>;

    /// Where this came from, for `sys`: `BTF in the dump`, `DWARF of PATH`.
    fn origin(&self) -> &str;
}
