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
    /// Made in memory, most of it zeros.
    Sparse(Arc<Sparse>),
}

/// A file of a few pieces, and zeros between them.
#[derive(Debug, Clone, Default)]
pub struct Sparse {
    /// Where each piece begins, in any order; a later one lies over an earlier one.
    pub pieces: Vec<(u64, Vec<u8>)>,
    /// Length of the whole.
    pub len: u64,
}

impl Sparse {
    /// Fills `buf` with what stands at `offset`.
    fn fill(&self, offset: u64, buf: &mut [u8]) {
        buf.fill(0);
        let end = offset.saturating_add(buf.len() as u64);
        for (at, piece) in &self.pieces {
            let piece_end = at.saturating_add(piece.len() as u64);
            let (from, to) = (offset.max(*at), end.min(piece_end));
            if from >= to {
                continue;
            }
            let within = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
            let there = piece.get(within(from - at)..within(to - at));
            let here = buf.get_mut(within(from - offset)..within(to - offset));
            if let (Some(there), Some(here)) = (there, here) {
                here.copy_from_slice(there);
            }
        }
    }

    /// Writes it to the disk, holes left out.
    pub fn write(&self, to: &File) -> io::Result<()> {
        to.set_len(self.len)?;
        self.pieces.iter().try_for_each(|(at, piece)| to.write_all_at(piece, *at))
    }
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
            Self::Sparse(sparse) => sparse.len,
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
            Self::Sparse(sparse) => {
                let mut buf = vec![0; len];
                sparse.fill(offset, &mut buf);
                Ok(buf)
            }
        }
    }
}
