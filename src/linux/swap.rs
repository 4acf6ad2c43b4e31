//! Swap areas: `swap_info[]`, by their number.
//!
//! Source: `struct swap_info_struct` of `include/linux/swap.h`.

use super::object::Object;
use super::{View, paths};
use crate::addr::VirtAddr;

/// `MAX_SWAPFILES`.
const MAX: u64 = 32;
/// `SWP_WRITEOK`: what was switched off keeps its place.
const IN_USE: u64 = 2;
/// `S_IFMT`, `S_IFBLK`.
const KIND: u64 = 0o170_000;
const BLOCK: u64 = 0o060_000;

/// One of them.
pub(crate) struct Area {
    pub(crate) at: VirtAddr,
    /// A block device, else a file.
    pub(crate) partition: Option<bool>,
    pub(crate) pages: u64,
    /// Pages that are taken.
    pub(crate) used: u64,
    pub(crate) priority: Option<i64>,
    /// The path of the file or device.
    pub(crate) name: Option<String>,
}

/// Those that were switched on; `None` in it for one that cannot be read.
#[must_use]
pub(crate) fn areas(view: &View) -> Option<Vec<Option<Area>>> {
    let count = view.space().read_u32(view.symbol("nr_swapfiles")?).ok()?;
    view.symbol("swap_info")?;
    let flags = |i| info(view, i)?.number("flags");
    let on = (0..u64::from(count).min(MAX)).filter(|&i| flags(i).is_none_or(|flags| flags & IN_USE != 0));
    Some(on.map(|i| read(info(view, i)?)).collect())
}

/// The path of the file or device of area `index`.
#[must_use]
pub(crate) fn name(view: &View, index: u64) -> Option<String> {
    path(&info(view, index)?)
}

fn info(view: &View, index: u64) -> Option<Object<'_>> {
    let slot = view.symbol("swap_info")?.checked_add(index.checked_mul(8)?)?;
    let at = view.space().read_u64(slot).ok().filter(|&at| at >= view.user_limit())?;
    Some(Object::new(view, "swap_info_struct", VirtAddr(at)))
}

fn path(info: &Object<'_>) -> Option<String> {
    paths::of_file(info.view(), info.pointer("swap_file")?)
}

fn read(info: Object<'_>) -> Option<Area> {
    let kind =
        || Some(info.follow("swap_file", "file")?.follow("f_inode", "inode")?.number("i_mode")? & KIND);
    // Its highest bit says something else since 6.13 (`SWAP_USAGE_OFFLIST_BIT`).
    let used = info.number("inuse_pages.counter").or_else(|| info.number("inuse_pages"))? & 0xffff_ffff;
    info.number("flags")?;
    Some(Area {
        at: info.base,
        partition: kind().map(|kind| kind == BLOCK),
        pages: info.number("pages")? & 0xffff_ffff,
        used,
        priority: info.signed("prio"),
        name: path(&info),
    })
}
