//! Where the kernel lies, as [`kaslr`](super::kaslr) finds it by VMCOREINFO and
//! [`by_cr3`](super::by_cr3) by the page tables of a CPU.

use std::sync::Arc;

use crate::arch::Levels;
use crate::arch::paging::Paging;
use crate::dump::Vmcore;
use crate::dump::vmcoreinfo::VmcoreInfo;
use crate::memory::paging::PageTables;

/// Where the kernel is.
pub(super) struct Place {
    pub(super) vmcoreinfo: Arc<VmcoreInfo>,
    pub(super) kaslr_offset: u64,
    pub(super) phys_base: i64,
    pub(super) tables: PageTables,
    /// Whether all this is known.
    pub(super) known: bool,
}

impl Place {
    /// What can be said of a dump whose kernel is not recognised.
    pub(super) fn unknown(dump: &Arc<Vmcore>) -> Self {
        let vmcoreinfo = dump.vmcoreinfo().cloned().unwrap_or_else(|| VmcoreInfo::parse(b""));
        let paging = Paging { levels: Levels::Four, sme_mask: 0 };
        let tables = PageTables::unknown(dump.clone(), paging);
        let kaslr_offset = vmcoreinfo.kaslr_offset().unwrap_or(0);
        let phys_base = vmcoreinfo.number("phys_base").unwrap_or(0);
        Self { vmcoreinfo: Arc::new(vmcoreinfo), kaslr_offset, phys_base, tables, known: false }
    }
}
