//! Which page of the kernel's image a page is, by what points into it.
//!
//! Text and constants do not tell their own addresses. But all data are full of pointers
//! to functions, which begin with `endbr64` or with room for the tracer's call; to where
//! calls return, which is behind a `call`; and to strings, which begin behind a zero. Of
//! two pages one is what was pointed to if such things stand in it where they are
//! pointed to, and do not in the other.
//!
//! Sources: `arch/x86/kernel/vmlinux.lds.S`, `arch/x86/include/asm/ftrace.h`, `ibt.h`.

use std::collections::BTreeMap;
use std::ops::Range;

use super::page_cache::PAGE_BYTES;
use crate::addr::PAGE_SIZE;
use crate::arch::map;

/// Pointers to one page that are remembered.
const MAX: usize = 64;
/// And of all: more are not there in what is asked of a real kernel.
const ALL_MAX: usize = 1 << 20;
/// So many must be right.
const ENOUGH: usize = 3;

/// What is pointed to in the pages of the kernel's image.
pub(super) struct Pointers {
    /// Where the image's map begins in memory.
    phys_base: i64,
    /// Places in the page, by page frame.
    into: BTreeMap<u64, Vec<u16>>,
    count: usize,
}

impl Pointers {
    pub(super) fn new(phys_base: i64) -> Self {
        Self { phys_base, into: BTreeMap::new(), count: 0 }
    }

    /// Remembers what `page` points to.
    pub(super) fn collect(&mut self, page: &[u8; PAGE_BYTES]) {
        for &word in page.as_chunks().0 {
            let word = u64::from_le_bytes(word);
            if !map::is_in_image(word) || self.count >= ALL_MAX {
                continue;
            }
            let phys = (word - map::KERNEL_MAP).wrapping_add_signed(self.phys_base);
            let Ok(at) = u16::try_from(phys % PAGE_SIZE) else { continue };
            let all = self.into.entry(phys / PAGE_SIZE).or_default();
            if all.len() < MAX && !all.contains(&at) {
                self.count += 1;
                all.push(at);
            }
        }
    }

    /// Those of the page frames that are pointed into.
    pub(super) fn pfns(&self, among: Range<u64>) -> impl Iterator<Item = u64> {
        self.into.range(among).map(|(&pfn, _)| pfn)
    }

    /// Which of `places`, page frames and what goes with each, is that of `page`.
    pub(super) fn place<T: Copy>(&self, page: &[u8; PAGE_BYTES], places: &[(u64, T)]) -> Option<(u64, T)> {
        let (mut best, mut second) = ((0, None), 0);
        for &(pfn, with) in places {
            let Some(all) = self.into.get(&pfn) else { continue };
            let right = all.iter().filter(|&&at| is_target(page, at.into())).count();
            if right > best.0 {
                second = best.0;
                best = (right, (right * 2 >= all.len()).then_some((pfn, with)));
            } else {
                second = second.max(right);
            }
        }
        best.1.filter(|_| best.0 >= ENOUGH && best.0 >= 4 * second)
    }
}

/// Whether one would point to offset `at` of `page`.
fn is_target(page: &[u8; PAGE_BYTES], at: usize) -> bool {
    const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
    const TRACER_OFF: [u8; 5] = [0x0f, 0x1f, 0x44, 0, 0];
    const CALL: u8 = 0xe8;
    let (before, from) = page.split_at(at);
    let is_function = from.starts_with(&ENDBR64) || from.starts_with(&TRACER_OFF);
    // Within the image calls reach no further than 16 MiB.
    let is_call = |code: &[u8]| matches!(code, [CALL, _, _, _, 0 | 0xff]);
    let is_string = before.last() == Some(&0) && from.iter().take(3).all(|c| (b' '..=b'~').contains(c));
    is_function
        || is_string
        || from.get(..5).is_some_and(is_call)
        || before.last_chunk::<5>().is_some_and(|code| is_call(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_with_functions_where_they_are_pointed_to() {
        let mut functions = [0xcc; PAGE_BYTES];
        let mut strings = [b'x'; PAGE_BYTES];
        let mut ops = [0; PAGE_BYTES];
        let at = |pfn: u64, at: u64| (map::KERNEL_MAP + pfn * PAGE_SIZE + at - 0x20_0000).to_le_bytes();
        for (i, to) in [16usize, 256, 1024, 4080].into_iter().enumerate() {
            functions[to..to + 4].copy_from_slice(&[0xf3, 0x0f, 0x1e, 0xfa]);
            ops[i * 8..][..8].copy_from_slice(&at(0x5000, to as u64));
            strings[to + 1] = 0;
            ops[512 + i * 8..][..8].copy_from_slice(&at(0x5001, to as u64 + 2));
        }
        let mut pointers = Pointers::new(0x20_0000);
        pointers.collect(&ops);
        let both = [(0x5000, 'a'), (0x5001, 'b')];
        assert_eq!(pointers.place(&functions, &both), Some((0x5000, 'a')));
        assert_eq!(pointers.place(&strings, &both), Some((0x5001, 'b')));
        assert_eq!(pointers.place(&ops, &both), None);
        assert_eq!(pointers.place(&functions, &both[1..]), None);
        assert_eq!(pointers.pfns(0..0x5001).collect::<Vec<_>>(), [0x5000]);
    }

    #[test]
    fn the_last_bytes_of_a_page_are_asked_without_harm() {
        for at in 0..PAGE_BYTES {
            assert!(!is_target(&[0xe8; PAGE_BYTES], at));
        }
        assert!(!is_target(&[0; PAGE_BYTES], 4094) && !is_target(&[0; PAGE_BYTES], 4095));
    }
}
