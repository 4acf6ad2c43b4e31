//! Typed addresses.
//!
//! A kernel debugger mixes virtual addresses, physical addresses and page frame
//! numbers all day; a type for each keeps a PFN from being read as an address.

use std::fmt;

use serde::{Serialize, Serializer};

/// log2 of the x86-64 base page.
pub const PAGE_SHIFT: u32 = 12;
/// Bytes of the x86-64 base page.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;

/// A virtual address of the dumped machine or process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct VirtAddr(pub u64);

/// A physical address of the dumped machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PhysAddr(pub u64);

/// A page frame number: a physical address in units of [`PAGE_SIZE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Pfn(pub u64);

impl VirtAddr {
    /// `self + bytes`, or `None` past the end of the address space.
    #[must_use]
    pub fn checked_add(self, bytes: u64) -> Option<Self> {
        self.0.checked_add(bytes).map(Self)
    }

    /// Offset within its base page.
    #[must_use]
    pub fn page_offset(self) -> u64 {
        self.0 & (PAGE_SIZE - 1)
    }
}

impl PhysAddr {
    /// The page frame that holds this address.
    #[must_use]
    pub fn pfn(self) -> Pfn {
        Pfn(self.0 >> PAGE_SHIFT)
    }

    /// Offset within its base page.
    #[must_use]
    pub fn page_offset(self) -> u64 {
        self.0 & (PAGE_SIZE - 1)
    }

    /// `self + bytes`, or `None` past the end of the address space.
    #[must_use]
    pub fn checked_add(self, bytes: u64) -> Option<Self> {
        self.0.checked_add(bytes).map(Self)
    }
}

impl Pfn {
    /// First byte of the page frame; `None` when it lies beyond 64 bits.
    #[must_use]
    pub fn address(self) -> Option<PhysAddr> {
        self.0.checked_mul(PAGE_SIZE).map(PhysAddr)
    }
}

impl fmt::Display for VirtAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for PhysAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// As a `"0x..."` string: JSON's numbers end at 2^53 for many readers.
impl Serialize for VirtAddr {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// As a `"0x..."` string.
impl Serialize for PhysAddr {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}
