//! The address map of x86-64 Linux (`Documentation/arch/x86/x86_64/mm.rst`).
//!
//! Where KASLR moves an area, a variable of the kernel tells its place
//! (`page_offset_base`, `vmalloc_base`, `vmemmap_base`); these are the places
//! without it.

use std::ops::Range;

use crate::addr::VirtAddr;

/// `__START_KERNEL_map`: the kernel image is mapped from here.
pub const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
/// Where the image stands there if KASLR did not move it (`CONFIG_PHYSICAL_START`'s
/// default, 16 MiB).
pub const LINK_TEXT: u64 = KERNEL_MAP + 0x100_0000;
/// `KERNEL_IMAGE_SIZE`: so much room KASLR has for the image; modules begin behind it.
pub const KERNEL_IMAGE_SIZE: u64 = 1 << 30;
/// The fixmap ends the area of modules, wherever that begins.
pub const FIXMAP: u64 = 0xffff_ffff_ff00_0000;
/// The vsyscall page, which every process sees.
pub const VSYSCALL: u64 = 0xffff_ffff_ff60_0000;
/// The last page, kept free for error numbers in pointers.
pub const LAST_PAGE: u64 = 0xffff_ffff_ffff_f000;
/// The direct map of kernels before 4.20 (d52888aa2753 moved it for the LDT's sake).
pub const DIRECT_MAP_BEFORE_4_20: u64 = 0xffff_8800_0000_0000;

/// Whether `address` has its place in the kernel's image.
#[must_use]
pub const fn is_in_image(address: u64) -> bool {
    address.wrapping_sub(KERNEL_MAP) < KERNEL_IMAGE_SIZE
}

/// How deep page tables are, and with that how large the address space is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Levels {
    /// 48 bits are translated.
    Four,
    /// 57 bits are (`CONFIG_X86_5LEVEL` on a CPU with LA57).
    Five,
}

impl Levels {
    /// Their number.
    #[must_use]
    pub const fn count(self) -> u8 {
        match self {
            Self::Four => 4,
            Self::Five => 5,
        }
    }

    /// The kernel's name of an entry of `level`.
    #[must_use]
    pub const fn name(self, level: u8) -> &'static str {
        match (level, self) {
            (1, _) => "PTE",
            (2, _) => "PMD",
            (3, _) => "PUD",
            (4, Self::Five) => "P4D",
            _ => "PGD",
        }
    }

    /// One past the last address of the lower half, the user's.
    #[must_use]
    pub const fn user_end(self) -> u64 {
        match self {
            Self::Four => 1 << 47,
            Self::Five => 1 << 56,
        }
    }

    /// The first address of the upper half, the kernel's.
    #[must_use]
    pub const fn kernel_start(self) -> VirtAddr {
        VirtAddr(self.user_end().wrapping_neg())
    }

    /// Whether all bits from the top translated one upwards are alike.
    #[must_use]
    pub const fn canonical(self, addr: VirtAddr) -> bool {
        addr.0 < self.user_end() || addr.0 >= self.kernel_start().0
    }

    /// Where all physical memory is mapped in a row, since 4.20.
    #[must_use]
    pub const fn direct_map(self) -> u64 {
        match self {
            Self::Four => 0xffff_8880_0000_0000,
            Self::Five => 0xff11_0000_0000_0000,
        }
    }

    /// vmalloc and ioremap from `base` on: `VMALLOC_SIZE_TB` is 32 or 12800.
    #[must_use]
    pub const fn vmalloc(self, base: Option<u64>) -> Range<u64> {
        let (plain, size) = match self {
            Self::Four => (0xffff_c900_0000_0000, 32 << 40),
            Self::Five => (0xffa0_0000_0000_0000, 12_800 << 40),
        };
        let base = match base {
            Some(base) => base,
            None => plain,
        };
        base..base.saturating_add(size)
    }

    /// The array of `struct page`.
    #[must_use]
    pub const fn vmemmap(self) -> u64 {
        match self {
            Self::Four => 0xffff_ea00_0000_0000,
            Self::Five => 0xffd4_0000_0000_0000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_halves_and_the_hole_between_them() {
        for (levels, user_last, kernel_first) in [
            (Levels::Four, 0x7fff_ffff_ffff, 0xffff_8000_0000_0000),
            (Levels::Five, 0x00ff_ffff_ffff_ffff, 0xff00_0000_0000_0000),
        ] {
            let canonical = |addr| levels.canonical(VirtAddr(addr));
            assert!(canonical(user_last) && !canonical(user_last + 1));
            assert!(canonical(kernel_first) && !canonical(kernel_first - 1));
            assert!(canonical(0) && canonical(u64::MAX));
            assert!(canonical(levels.direct_map()) && levels.direct_map() < levels.vmalloc(None).start);
            assert!(levels.vmalloc(None).end < levels.vmemmap() && levels.vmemmap() < KERNEL_MAP);
        }
    }
}
