//! Finds the kernel's ORC tables by content, where the names of their bounds are lost.
//!
//! Nothing else in an image is so long an array of words each of which, added to its own
//! address, leads into the code, in the order of the code; and behind it stand the rules,
//! one for each (`ORC_UNWIND_TABLE`, `include/asm-generic/vmlinux.lds.h`). The first is that
//! of the kernel's entry, which has no caller: its offsets are 0.

use std::ops::Range;

use crate::addr::{PAGE_SHIFT, PAGE_SIZE, VirtAddr};
use crate::bytes::{u16_at, u32_at};
use crate::memory::AddressSpace;

const PAGE: usize = 4096;
/// Rules behind a table that are looked at.
const LOOK: usize = 512;

/// Where the tables are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    /// `__start_orc_unwind_ip`.
    pub ip: VirtAddr,
    /// `__start_orc_unwind`.
    pub rows: VirtAddr,
    /// How many rows there are.
    pub count: u64,
    /// Where the code begins that the last row, which ends them, is for.
    pub end: u64,
}

/// Finds the tables in an image of `len` bytes that begins with code at `start`.
#[must_use]
pub fn find(space: &dyn AddressSpace, start: VirtAddr, len: u64) -> Option<Tables> {
    let last = start.0.checked_add(len)?;
    let scan = Scan { space, image: start.0..last };
    let mut at = start.0 & !(PAGE_SIZE - 1);
    while at < last {
        let Some(first) = scan.first(at) else {
            at = at.checked_add(PAGE_SIZE)?;
            continue;
        };
        let (stop, end) = scan.stop(at);
        let found = Tables { ip: VirtAddr(first), rows: VirtAddr(stop), count: (stop - first) / 4, end };
        if scan.are_rows(found.rows) {
            return Some(found);
        }
        at = (stop & !(PAGE_SIZE - 1)).checked_add(PAGE_SIZE)?;
    }
    None
}

struct Scan<'a> {
    space: &'a dyn AddressSpace,
    image: Range<u64>,
}

impl Scan<'_> {
    fn page(&self, at: u64) -> Option<[u8; PAGE]> {
        let mut page = [0; PAGE];
        self.space.read_exact(VirtAddr(at), &mut page).ok().map(|()| page)
    }

    /// Where the word at `at` leads, if that is elsewhere in the image.
    fn target(&self, at: u64, page: &[u8], offset: usize) -> Option<u64> {
        let delta = u32_at(page, offset)?.cast_signed();
        let to = at.wrapping_add(offset as u64).wrapping_add_signed(delta.into());
        (delta.unsigned_abs() >= 1 << PAGE_SHIFT && self.image.contains(&to)).then_some(to)
    }

    /// The first row of the table that fills the page at `at`, if one does.
    fn first(&self, at: u64) -> Option<u64> {
        let page = self.page(at)?;
        let mut next = 0;
        for offset in (0..PAGE).step_by(4) {
            next = self.target(at, &page, offset).filter(|to| *to >= next)?;
        }
        let (mut first, mut next) = (at, self.target(at, &page, 0)?);
        // It begins in the page before; a lost one has the first rows, and how many is not known.
        let before = at.checked_sub(PAGE_SIZE)?;
        let page = self.page(before)?;
        for offset in (0..PAGE).step_by(4).rev() {
            let Some(to) = self.target(before, &page, offset).filter(|to| *to <= next) else {
                return Some(first);
            };
            (first, next) = (before + offset as u64, to);
        }
        None
    }

    /// Where the table that fills the page at `at` stops, and where its last row leads.
    fn stop(&self, at: u64) -> (u64, u64) {
        let mut next = 0;
        let mut here = at;
        while here < self.image.end {
            if let Some(page) = self.page(here) {
                for offset in (0..PAGE).step_by(4) {
                    let Some(to) = self.target(here, &page, offset).filter(|to| *to >= next) else {
                        return (here + offset as u64, next);
                    };
                    next = to;
                }
            }
            here = here.saturating_add(PAGE_SIZE);
        }
        (here, next)
    }

    /// Whether rules begin at `at`: offsets are multiples of eight, but for a few, and most stack pointers
    /// come from a register (the low bits of the third half in each layout). Zeros, as behind the table of
    /// return sites, are none.
    fn are_rows(&self, at: VirtAddr) -> bool {
        let mut bytes = [0; LOOK * 6];
        let read = self.space.read(at, &mut bytes).unwrap_or(0);
        let rows = bytes.get(..read).unwrap_or_default().chunks_exact(6);
        let count = rows.len();
        let half = |row, at| u16_at(row, at).unwrap_or(1);
        let sound = rows.clone().filter(|row| half(row, 0) % 8 == 0 && half(row, 2) % 8 == 0);
        let with_register = rows.filter(|row| half(row, 4) & 0xf != 0);
        count >= LOOK / 8 && sound.count() * 20 >= count * 19 && with_register.count() * 2 >= count
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "one hole")]
mod tests {
    use super::*;
    use crate::debuginfo::lab::{Flat, Holey};

    const BASE: u64 = 0xffff_ffff_8100_0000;
    const ROWS: u64 = 5000;
    /// Where the table begins, not at the start of a page.
    const IP: u64 = BASE + 0x1_4a40;

    /// An image: code, a page of return sites, and the tables between other data.
    fn image() -> Flat {
        let mut bytes = vec![0xcc; 0x1_0000];
        let row = |bytes: &mut Vec<u8>, to: u64| {
            let delta = to.wrapping_sub(BASE + bytes.len() as u64) as i64;
            bytes.extend(i32::try_from(delta).unwrap().to_le_bytes());
        };
        (0..2048).for_each(|i| row(&mut bytes, BASE + 16 * i));
        bytes.resize(bytes.len() + 0x1000, 0);
        bytes.resize(usize::try_from(IP - BASE).unwrap(), 0x22);
        (0..ROWS).for_each(|i| row(&mut bytes, BASE + 8 * i));
        for i in 0..ROWS {
            let offset = u8::try_from(8 * (i % 30)).unwrap();
            bytes.extend([offset, 0, if i == 0 { 0 } else { 0xf0 }, if i == 0 { 0 } else { 0xff }, 0x15, 0]);
        }
        bytes.resize(bytes.len() + 0x2000, 0x33);
        Flat { base: BASE, bytes }
    }

    #[test]
    fn the_tables_are_found_by_what_they_are() {
        let image = image();
        let rows = VirtAddr(IP + 4 * ROWS);
        let whole = Tables { ip: VirtAddr(IP), rows, count: ROWS, end: BASE + 8 * (ROWS - 1) };
        assert_eq!(find(&image, VirtAddr(BASE), 1 << 20), Some(whole.clone()));
        let lost = |at: u64| {
            let page = at & !(PAGE_SIZE - 1);
            find(&Holey { space: &image, lost: vec![page..page + PAGE_SIZE] }, VirtAddr(BASE), 1 << 20)
        };
        // A page of rows, or of rules, may be lost: not that with the first row.
        assert_eq!(lost(IP + 0x2000), Some(whole.clone()));
        assert_eq!(lost(rows.0 + 0x2000), Some(whole));
        assert_eq!(lost(IP), None);
        assert_eq!(find(&Flat { base: BASE, bytes: vec![0; 0x1_0000] }, VirtAddr(BASE), 1 << 20), None);
    }
}
