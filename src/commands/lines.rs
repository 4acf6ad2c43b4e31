//! Source lines of code addresses, where vmlinux or a module's debug file is found.

use crate::addr::VirtAddr;
use crate::linux::Kernel;

/// The files with line tables.
pub(super) struct Lines<'a> {
    _kernel: &'a Kernel,
}

impl<'a> Lines<'a> {
    pub(super) fn new(kernel: &'a Kernel) -> Self {
        Self { _kernel: kernel }
    }

    /// `FILE: LINE` of `addr`, the innermost inlined function first.
    pub(super) fn of(&self, _addr: VirtAddr) -> Vec<String> {
        Vec::new()
    }
}
