//! The list of modules where its name is lost: any module on it leads to its head.
//!
//! A module proves itself: its neighbours in the list point back to it, it has a name, and
//! it lies in memory that is its own. The link of the list that is no module's is the head.

use std::iter;

use super::{View, modules};
use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::bytes::{u32_at, u64_at};
use crate::error::ReadFault;

/// Where modules can be, with and without KASLR (`Documentation/arch/x86/x86_64/mm.rst`).
const AREA: (u64, u64) = (0xffff_ffff_a000_0000, 0xffff_ffff_ff00_0000);
/// `struct module` is aligned to a line of the cache.
const ALIGNED: usize = 64;
/// What one entry of a table of level 2 maps.
const LARGE: u64 = 2 << 20;
/// Pages that are read: modules of a distribution's kernel, all loaded, take a third of it.
const PAGES_MAX: u32 = 1 << 16;
/// What may be a module, and is asked.
const ASKED_MAX: u32 = 1 << 16;

/// The head of the list whose links lie at `link` of each module.
pub(super) fn head(view: &View, link: u64) -> Option<VirtAddr> {
    let first = first(view, link)?;
    // On from it, and back if that breaks off.
    [0, 8].into_iter().find_map(|word| {
        let on = |at: &VirtAddr| view.space().read_u64(at.checked_add(word)?).ok().map(VirtAddr);
        let links = iter::successors(first.checked_add(link), on).skip(1).take(modules::MAX_MODULES);
        let mut heads = links.take_while(|at| at.0 >= view.user_limit());
        heads.find(|at| at.0.checked_sub(link).is_none_or(|at| modules::read(view, VirtAddr(at)).is_none()))
    })
}

/// The module that is found first.
fn first(view: &View, link: u64) -> Option<VirtAddr> {
    let (mut at, end) = AREA;
    let mut page = [0; 4096];
    let (mut pages, mut asked) = (PAGES_MAX, ASKED_MAX);
    while at < end {
        match view.space().read(VirtAddr(at), &mut page) {
            Ok(read) => {
                let words = page.get(..read)?;
                let found = (0..read)
                    .step_by(ALIGNED)
                    .filter(|&i| may_be(view, words.get(i..).unwrap_or_default(), link));
                for module in found.map(|i| VirtAddr(at + i as u64)) {
                    asked = asked.checked_sub(1)?;
                    if is_module(view, module, link) {
                        return Some(module);
                    }
                }
                pages = pages.checked_sub(1)?;
                at += PAGE_SIZE;
            }
            Err(ReadFault::NotMapped { level: 2.., .. }) => at = (at | (LARGE - 1)) + 1,
            Err(_) => at += PAGE_SIZE,
        }
    }
    None
}

/// Whether the words of a `struct module` may begin here: its state, and the list.
fn may_be(view: &View, words: &[u8], link: u64) -> bool {
    const UNFORMED: u32 = 3;
    let word = |at: u64| u64_at(words, usize::try_from(at).ok()?);
    let leads = |at| word(at).is_some_and(|to| to >= view.user_limit() && to.is_multiple_of(8));
    u32_at(words, 0).is_some_and(|state| state <= UNFORMED) && leads(link) && leads(link.saturating_add(8))
}

/// Whether a module is at `at`.
fn is_module(view: &View, at: VirtAddr, link: u64) -> bool {
    let word = |at: VirtAddr| view.space().read_u64(at).ok();
    let own = || {
        let link = at.checked_add(link)?;
        let (next, previous) = (VirtAddr(word(link)?), VirtAddr(word(link.checked_add(8)?)?));
        let back = word(next.checked_add(8)?)? == link.0 && word(previous)? == link.0;
        back.then(|| modules::read(view, at))?.filter(|module| module.contains(at))
    };
    own().is_some()
}
