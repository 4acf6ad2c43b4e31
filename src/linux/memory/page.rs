//! What one `struct page` says: whose page it is, and how many use it.

use std::fmt;

use serde::Serialize;

use super::super::object::Object;
use super::super::{Kernel, View};
use super::pages::PageMap;
use crate::addr::{PhysAddr, VirtAddr};

/// Low bits of `mapping` (`PAGE_MAPPING_ANON`, `PAGE_MAPPING_MOVABLE`).
const ANON: u64 = 1;
const MOVABLE: u64 = 2;
/// Free blocks have up to 2^10 pages; some kernels more (`MAX_PAGE_ORDER`).
const MAX_ORDER: u32 = 13;
/// Longest name of a file.
const NAME_MAX: usize = 64;

/// A page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Page {
    /// Its `struct page`.
    pub(crate) page: VirtAddr,
    pub(crate) physical: PhysAddr,
    /// The first of the frames that it is one page with, and how many (a power of 2).
    pub(crate) head: Option<VirtAddr>,
    pub(crate) order: Option<u32>,
    pub(crate) refcount: Option<i64>,
    /// How many page tables map it.
    pub(crate) mapcount: Option<i64>,
    pub(crate) mapping: Option<Mapping>,
    /// Place in what it maps, in pages.
    pub(crate) index: Option<u64>,
    pub(crate) flags: Vec<String>,
    /// `buddy`, `table`, `offline`...
    pub(crate) page_type: Option<String>,
    /// The free block that it is part of: 2 to the power of this.
    pub(crate) free: Option<u32>,
}

/// What a page holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mapping {
    Anonymous,
    Movable,
    File { mapping: VirtAddr, inode: Option<u64>, name: Option<String> },
}

/// The page at `phys`. `None` where the machine has no such frame.
#[must_use]
pub(crate) fn page(view: &Kernel, pages: &PageMap, phys: PhysAddr) -> Option<Page> {
    let at = pages.of_phys(phys)?;
    let flags = pages.flags_of(view, at)?;
    let head = pages.head(view, at).filter(|h| *h != at);
    let first = head.unwrap_or(at);
    let object = Object::new(view, "page", first);
    let count = |paths: &[&str]| paths.iter().find_map(|p| object.signed(p));
    let compound = head.is_some() || pages.has(flags, "head") == Some(true);
    let slab = pages.is_slab(view, first) == Some(true);
    let (free, page_type) = (free_block(view, pages, at), pages.type_of(view, first));
    // A typed page has its type where others count their mappings.
    let counted = !slab && page_type.is_none() && free.is_none();
    let mapcount = count(&["_mapcount.counter"]).map(|n| n + 1).filter(|n| counted && *n >= 0);
    let file = !slab && free.is_none();
    Some(Page {
        page: at,
        physical: PhysAddr(phys.0 & !(crate::addr::PAGE_SIZE - 1)),
        head,
        order: if compound { order(view, pages, first) } else { None },
        refcount: count(&["_refcount.counter", "_count.counter"]),
        mapcount,
        mapping: file.then(|| mapping(view, &object)).flatten(),
        index: ["index", "__folio_index"]
            .iter()
            .find_map(|p| object.number(p))
            .filter(|_| file && object.number("mapping").is_some_and(|m| m != 0)),
        flags: pages.words(flags).into_iter().map(str::to_owned).collect(),
        page_type: page_type.filter(|_| !slab),
        free,
    })
}

fn mapping(view: &View, page: &Object<'_>) -> Option<Mapping> {
    let word = page.number("mapping").filter(|w| *w >= view.user_limit())?;
    if word & ANON != 0 {
        return Some(Mapping::Anonymous);
    }
    if word & MOVABLE != 0 {
        return Some(Mapping::Movable);
    }
    let mapping = Object::new(view, "address_space", VirtAddr(word));
    let inode = mapping.follow("host", "inode");
    let number = inode.as_ref().and_then(|i| i.number("i_ino"));
    let name = inode.as_ref().and_then(|i| name(view, i));
    Some(Mapping::File { mapping: VirtAddr(word), inode: number, name })
}

/// The last part of one of an inode's names.
fn name(view: &View, inode: &Object<'_>) -> Option<String> {
    let link =
        view.types().field("dentry", "d_u.d_alias").or_else(|| view.types().field("dentry", "d_alias"))?;
    let first = inode.pointer("i_dentry.first").or_else(|| inode.pointer("i_dentry"))?;
    let dentry = Object::new(view, "dentry", VirtAddr(first.0.checked_sub(link.offset)?));
    let name = view.space().read_cstr(dentry.pointer("d_name.name")?, NAME_MAX).ok()?;
    (!name.is_empty()).then_some(name)
}

/// How many frames a page has that begins at `head`: 2 to the power of this.
fn order(view: &View, pages: &PageMap, head: VirtAddr) -> Option<u32> {
    let second = head.checked_add(pages.size())?;
    let folio = |path| Object::new(view, "folio", head).number(path);
    let order = folio("_flags_1")
        // 6.6 and later (ebc1baf5c9b4): the low byte of the second frame's flags.
        .filter(|_| view.types().field("folio", "_folio_order").is_none())
        .map(|flags| flags & 0xff)
        .or_else(|| folio("_folio_order"))
        .or_else(|| Object::new(view, "page", second).number("compound_order"))?;
    u32::try_from(order).ok().filter(|o| *o <= 18)
}

/// The order of the free block in which the page lies, if the buddy allocator has it.
fn free_block(view: &View, pages: &PageMap, page: VirtAddr) -> Option<u32> {
    let pfn = pages.pfn(page)?.0;
    (0..=MAX_ORDER).find_map(|order| {
        let first = pages.at(pfn & !((1 << order) - 1))?;
        if !pages.is_buddy(view, first)? {
            return None;
        }
        let size = u32::try_from(Object::new(view, "page", first).number("private")?).ok()?;
        (size >= order && size <= MAX_ORDER).then_some(size)
    })
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {} of physical {}", self.page, self.physical)?;
        if let Some(order) = self.free {
            return write!(f, ": FREE, in a block of {} pages", 1u64 << order);
        }
        if let Some(order) = self.order {
            write!(f, ", one of {} together", 1u64 << order)?;
        }
        if let Some(page_type) = &self.page_type {
            write!(f, ", {page_type}")?;
        }
        match &self.mapping {
            Some(Mapping::Anonymous) => write!(f, ", anonymous")?,
            Some(Mapping::Movable) => write!(f, ", movable")?,
            Some(Mapping::File { inode, name, .. }) => {
                write!(f, ", of file")?;
                if let Some(name) = name {
                    write!(f, " {name:?}")?;
                }
                if let Some(inode) = inode {
                    write!(f, " (inode {inode})")?;
                }
            }
            None => {}
        }
        if let Some(count) = self.refcount {
            write!(f, ", {count} users")?;
        }
        if let Some(count) = self.mapcount.filter(|n| *n > 0) {
            write!(f, ", mapped {count} times")?;
        }
        if !self.flags.is_empty() {
            write!(f, ", {}", self.flags.join(","))?;
        }
        Ok(())
    }
}
