//! `struct page`: the array of them, and what one says of its page.
//!
//! The array lies at `vmemmap_base`, one element for each page frame
//! (`CONFIG_SPARSEMEM_VMEMMAP`, which x86-64 has always). A page of several frames is
//! told by its first: the others' `compound_head` (4.5 and later; 7.1 calls it
//! `compound_info`) has the lowest bit set and points there, or is a mask that makes the
//! first of them (7.1 and later, 8c846c879e22, where `struct zone` has `vmemmap_tails` and
//! the size of `struct page` is a power of 2). Source: `include/linux/page-flags.h`.
//!
//! | kernel | a slab page |
//! |---|---|
//! | until 6.9 | the flag `PG_slab` |
//! | 6.10, 6.11 | a bit of `page_type`, set if it is 0 (negated until 6.11) |
//! | 6.12 and later | the top byte of `page_type` is `PGTY_slab` |

use super::super::object::number;
use super::super::{Kernel, View, vmalloc};
use crate::addr::{PAGE_SHIFT, Pfn, PhysAddr, VirtAddr};
use crate::bytes::u64_at;
use crate::debuginfo::Field;
use crate::debuginfo::btf::{Btf, Kind};

/// How a slab page is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SlabMark {
    /// This bit of the flags.
    Flag(u32),
    /// This bit of `page_type` is clear while its top four are those of a type.
    Cleared(u64),
    /// The top byte of `page_type`.
    Type(u64),
}

/// The array, and where its elements have what.
#[derive(Debug, Clone)]
pub(crate) struct PageMap {
    vmemmap: u64,
    direct: u64,
    /// One past the last page frame.
    end: u64,
    size: u64,
    flags: Field,
    head: Option<Field>,
    /// Whether it is a mask.
    masks: bool,
    page_type: Option<Field>,
    mark: Option<SlabMark>,
    /// `PG_head`, `PG_reserved` and their like, by bit.
    names: Vec<(u32, String)>,
    /// `PGTY_buddy` and its like, by the top byte of `page_type` (6.12 and later).
    types: Vec<(u64, String)>,
    /// The bit that marks free blocks in 6.10 and 6.11 (`PG_buddy`).
    buddy: Option<u64>,
}

/// Where the array and the mapping of all memory begin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bases {
    pub(crate) vmemmap: u64,
    pub(crate) direct: u64,
}

impl Bases {
    /// Those of `kernel`: KASLR may have moved both.
    #[must_use]
    pub(crate) fn of(kernel: &Kernel) -> Option<Self> {
        let tables = kernel.tables();
        Some(Self { vmemmap: vmalloc::vmemmap(kernel, tables)?, direct: tables.direct_map()?.0 })
    }
}

impl PageMap {
    /// `None` where the type is not known.
    #[must_use]
    pub(crate) fn read(view: &View, bases: Bases, btf: Option<&Btf>) -> Option<Self> {
        let types = view.types();
        let field = |path| types.field("page", path);
        let size = types.size_of("page").filter(|s| (32..=512).contains(s))?;
        let end = ["max_pfn", "max_low_pfn"].into_iter().find_map(|name| {
            view.space().read_u64(view.symbol(name)?).ok().filter(|n| *n <= 1 << (52 - PAGE_SHIFT))
        });
        // 6.18 made them a structure of one member.
        let flags = field("flags.f").or_else(|| field("flags"))?;
        let names = btf.map(flag_names).unwrap_or_default();
        let named = |name: &str| names.iter().find(|(_, n)| n == name).map(|(bit, _)| *bit);
        let page_type = field("page_type");
        let by_type = types.enumerator("PGTY_slab").map(|n| SlabMark::Type(n.cast_unsigned()));
        let by_flag = || {
            let value = named("slab").map(i64::from).or_else(|| types.enumerator("PG_slab"))?;
            match u32::try_from(value).ok()? {
                bit @ 0..64 => Some(SlabMark::Flag(bit)),
                bit => Some(SlabMark::Cleared(bit.into())),
            }
        };
        Some(Self {
            vmemmap: bases.vmemmap,
            direct: bases.direct,
            end: end.unwrap_or(1 << (46 - PAGE_SHIFT)),
            size,
            flags,
            head: field("compound_head").or_else(|| field("compound_info")),
            masks: field("compound_info").is_some()
                && size.is_power_of_two()
                && types.field("zone", "vmemmap_tails").is_some(),
            page_type,
            mark: by_type.or_else(by_flag),
            names,
            types: btf.map(page_types).unwrap_or_default(),
            buddy: types.enumerator("PG_buddy").map(i64::cast_unsigned),
        })
    }

    /// The `struct page` of a physical address.
    #[must_use]
    pub(crate) fn of_phys(&self, phys: PhysAddr) -> Option<VirtAddr> {
        let pfn = phys.pfn().0;
        let at = self.vmemmap.checked_add(pfn.checked_mul(self.size)?)?;
        (pfn < self.end).then_some(VirtAddr(at))
    }

    /// The `struct page` of an address where all memory is mapped in a row.
    #[must_use]
    pub(crate) fn of(&self, addr: VirtAddr) -> Option<VirtAddr> {
        self.of_phys(PhysAddr(addr.0.checked_sub(self.direct)?))
    }

    /// The frame of the `struct page` at `page`, if one begins there.
    #[must_use]
    pub(crate) fn pfn(&self, page: VirtAddr) -> Option<Pfn> {
        let at = page.0.checked_sub(self.vmemmap)?;
        (at.is_multiple_of(self.size) && at / self.size < self.end).then_some(Pfn(at / self.size))
    }

    /// The `struct page` in which `addr` lies.
    #[must_use]
    pub(crate) fn holding(&self, addr: VirtAddr) -> Option<VirtAddr> {
        let index = addr.0.checked_sub(self.vmemmap)? / self.size;
        (index < self.end).then(|| VirtAddr(self.vmemmap + index * self.size))
    }

    /// Where the page of this `struct page` is mapped.
    #[must_use]
    pub(crate) fn address(&self, page: VirtAddr) -> Option<VirtAddr> {
        self.direct.checked_add(self.pfn(page)?.address()?.0).map(VirtAddr)
    }

    /// The first of the frames that are one page with this.
    #[must_use]
    pub(crate) fn head(&self, view: &View, page: VirtAddr) -> Option<VirtAddr> {
        let Some(field) = self.head else { return Some(page) };
        let word = number(view, page.checked_add(field.offset)?, field)?;
        let head = match word & 1 {
            0 => page,
            _ if self.masks => VirtAddr(page.0 & word & !1),
            _ => VirtAddr(word - 1),
        };
        (self.pfn(head)? <= self.pfn(page)?).then_some(head)
    }

    /// Whether it is a page of slabs; `head` is the first of its frames.
    #[must_use]
    pub(crate) fn is_slab(&self, view: &View, head: VirtAddr) -> Option<bool> {
        let kind = || number(view, head.checked_add(self.page_type?.offset)?, self.page_type?);
        Some(match self.mark? {
            SlabMark::Flag(bit) => self.flags_of(view, head)? >> bit & 1 != 0,
            SlabMark::Cleared(bit) => kind()? & (0xf000_0000 | bit) == 0xf000_0000,
            SlabMark::Type(value) => kind()? >> 24 == value,
        })
    }

    /// The word of flags.
    #[must_use]
    pub(crate) fn flags_of(&self, view: &View, page: VirtAddr) -> Option<u64> {
        number(view, page.checked_add(self.flags.offset)?, self.flags)
    }

    /// Names of the flags that are set, the lowest first; bits without a name are left
    /// out (section, node and zone are in the same word).
    #[must_use]
    pub(crate) fn words(&self, flags: u64) -> Vec<&str> {
        self.names.iter().filter(|(bit, _)| flags >> bit & 1 != 0).map(|(_, n)| n.as_str()).collect()
    }

    /// Whether a flag of this name is set; `None` where there is no such name.
    #[must_use]
    pub(crate) fn has(&self, flags: u64, name: &str) -> Option<bool> {
        let (bit, _) = self.names.iter().find(|(_, n)| n == name)?;
        Some(flags >> bit & 1 != 0)
    }

    /// Whether a free block begins with this page.
    #[must_use]
    pub(crate) fn is_buddy(&self, view: &View, page: VirtAddr) -> Option<bool> {
        // Until 4.17 it was a value of the count of mappings.
        let field = self.page_type.or_else(|| view.types().field("page", "_mapcount"))?;
        let value = number(view, page.checked_add(field.offset)?, field)? & 0xffff_ffff;
        if let Some((by, _)) = self.types.iter().find(|(_, name)| name == "buddy") {
            return Some(value >> 24 == *by);
        }
        Some(match self.buddy {
            Some(bit) => value & (0x8000_0000 | bit) == 0x8000_0000,
            // ~PG_buddy of 4.18 to 6.9, and PAGE_BUDDY_MAPCOUNT_VALUE before.
            None => value == 0xffff_ff7f || value == 0xffff_ff80,
        })
    }

    /// Whether the page is nobody's to allocate, by the bytes of its `struct page`.
    #[must_use]
    pub(crate) fn is_reserved(&self, page: &[u8]) -> Option<bool> {
        self.has(u64_at(page, usize::try_from(self.flags.offset).ok()?)?, "reserved")
    }

    /// The name of the page's type, where it has one.
    #[must_use]
    pub(crate) fn type_of(&self, view: &View, page: VirtAddr) -> Option<String> {
        let field = self.page_type.filter(|_| !self.types.is_empty())?;
        let top = number(view, page.checked_add(field.offset)?, field)? >> 24;
        self.types.iter().find(|(value, _)| *value == top).map(|(_, name)| name.clone())
    }

    /// The `struct page` of a frame.
    #[must_use]
    pub(crate) fn at(&self, pfn: u64) -> Option<VirtAddr> {
        self.of_phys(Pfn(pfn).address()?)
    }

    /// Bytes of a `struct page`.
    #[must_use]
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// First and one past the last address of the array.
    #[must_use]
    pub(crate) fn array(&self) -> std::ops::Range<u64> {
        self.vmemmap..self.vmemmap.saturating_add(self.end.saturating_mul(self.size))
    }
}

/// `enum pageflags`, each bit by the first of its names, without `PG_`.
fn flag_names(btf: &Btf) -> Vec<(u32, String)> {
    let ids = btf.named("pageflags", Kind::Enum);
    let mut names: Vec<(u32, String)> = Vec::new();
    for e in ids.filter_map(|id| btf.get(id)).take(1).flat_map(|t| t.enumerators()) {
        let Some(name) = e.name.strip_prefix("PG_") else { continue };
        let Some(bit) = u32::try_from(e.value).ok().filter(|bit| *bit < 64) else { continue };
        if names.iter().all(|(known, _)| *known != bit) {
            names.push((bit, name.to_owned()));
        }
    }
    names
}

/// `enum pagetype` of 6.12 and later, without `PGTY_`.
fn page_types(btf: &Btf) -> Vec<(u64, String)> {
    let ids = btf.named("pagetype", Kind::Enum);
    let all = ids.filter_map(|id| btf.get(id)).take(1).flat_map(|t| t.enumerators());
    let named = all.filter_map(|e| Some((e.value.cast_unsigned(), e.name.strip_prefix("PGTY_")?.to_owned())));
    named.collect()
}
