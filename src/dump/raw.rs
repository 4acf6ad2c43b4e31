//! Memory as it is, from its first byte to its last: `--raw[=BASE]`.
//!
//! `pmemsave` of QEMU, Firecracker's and Cloud Hypervisor's memory files, /dev/mem copied
//! page by page, VMware's .vmem of a small machine. Nothing says where memory of the
//! machine ends and holes begin; the file is one run.

use std::sync::Arc;

use super::extents::{Extent, Extents};
use super::notes::Notes;
use super::{Form, Memory};
use crate::bytes::source::Source;
use crate::error::{Error, Result};

/// A raw image.
pub(super) struct Raw(Extents);

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
        Ok(Self(Extents::all(source, vec![Extent { start: base, len, offset: 0 }])))
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

    fn memory(&self) -> &dyn Memory {
        &self.0
    }
}
