//! Words of a stack, with the page of the last one kept: a walk reads three
//! words a frame, nearly always of the same page.

use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::bytes::u64_at;
use crate::linux::View;

const PAGE: usize = 4096;

pub(super) struct StackMemory<'a> {
    view: &'a View,
    page: u64,
    len: usize,
    bytes: Box<[u8; PAGE]>,
}

impl<'a> StackMemory<'a> {
    pub(super) fn new(view: &'a View) -> Self {
        // No page begins at 1.
        Self { view, page: 1, len: 0, bytes: Box::new([0; PAGE]) }
    }

    /// The word at `at`; `None` if it is not in the dump, or a user's.
    pub(super) fn word(&mut self, at: u64) -> Option<u64> {
        if at < self.view.user_limit() {
            return None;
        }
        let page = at & !(PAGE_SIZE - 1);
        let offset = usize::try_from(at - page).ok()?;
        if offset + 8 > PAGE {
            return self.view.space().read_u64(VirtAddr(at)).ok();
        }
        if page != self.page {
            self.len = self.view.space().read(VirtAddr(page), self.bytes.as_mut_slice()).unwrap_or(0);
            self.page = page;
        }
        u64_at(self.bytes.get(..self.len)?, offset)
    }
}
