//! Files that a client may read: bytes in memory, or one announced file of the
//! disk, opened read-only.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// One file that is served.
#[derive(Debug, Clone)]
pub enum VirtualFile {
    /// Made in memory.
    Bytes(Arc<[u8]>),
    /// A regular file of the disk and its length when it was opened.
    Disk(Arc<File>, u64),
}

impl VirtualFile {
    /// A file with these contents.
    pub fn from_bytes(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self::Bytes(bytes.into())
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(b) => b.len() as u64,
            Self::Disk(_, len) => *len,
        }
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Up to `len` bytes from `offset`; fewer at the end, none past it.
    pub fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let left = usize::try_from(self.len().saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = len.min(left);
        match self {
            Self::Bytes(b) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(b.len());
                Ok(b.get(start..start.saturating_add(len)).unwrap_or_default().to_vec())
            }
            Self::Disk(file, _) => {
                let mut buf = vec![0; len];
                let n = file.read_at(&mut buf, offset)?;
                buf.truncate(n);
                Ok(buf)
            }
        }
    }
}
