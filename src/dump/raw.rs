//! Memory as it is, from its first byte to its last: `--raw[=BASE]`.
//!
//! `pmemsave` of QEMU, Firecracker's and Cloud Hypervisor's memory files, /dev/mem copied
//! page by page, VMware's .vmem of a small machine. Nothing says where memory of the
//! machine ends and holes begin; the file is one run.

use std::sync::Arc;

use super::Form;
use super::extents::{Extent, Extents};
use super::notes::Notes;
use crate::addr::PhysAddr;
use crate::bytes::source::Source;
use crate::error::{Error, ReadFault, Result};

/// A raw image.
pub(super) struct Raw {
    source: Arc<dyn Source>,
    extents: Extents,
}

impl Raw {
    /// `source` as the memory from `base` on.
    pub(super) fn open(source: Arc<dyn Source>, base: u64) -> Result<Self> {
        let len = source.len();
        if base.checked_add(len).is_none() {
            return Err(Error::Malformed {
                path: source.path().to_owned(),
                format: "raw memory",
                offset: 0,
                wanted: "memory that ends within 64 bits of addresses",
                found: format!("{len:#x} bytes from --raw={base:#x} on"),
            });
        }
        let extents = Extents::all(vec![Extent { start: base, len, offset: 0 }]);
        Ok(Self { source, extents })
    }
}

impl Form for Raw {
    fn name(&self) -> String {
        "raw memory".to_owned()
    }

    fn notes(&self) -> Notes {
        Notes::default()
    }

    fn incomplete(&self) -> Option<String> {
        None
    }

    fn physical_ranges(&self, max: usize) -> Vec<(PhysAddr, u64)> {
        self.extents.physical_ranges(max)
    }

    fn stored_ranges(&self, _max: usize) -> Vec<(PhysAddr, u64)> {
        self.extents.stored_ranges(&*self.source)
    }

    fn read_phys(&self, addr: PhysAddr, buf: &mut [u8]) -> Result<usize, ReadFault> {
        self.extents.read_phys(&*self.source, addr, buf)
    }

    fn trouble(&self) -> Vec<String> {
        self.source.trouble().into_iter().collect()
    }
}
