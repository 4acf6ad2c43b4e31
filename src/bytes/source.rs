//! Bytes by range: what dumps and ELF files are read from.
//!
//! A [`Source`] is a file of known length that is read at offsets, by any number
//! of clients at once. Dumps are read with `pread`, so that no fault of the medium and
//! nobody who cuts them short ends the program ([`super::served`]). Debug files are mapped:
//! what is read is then the page cache's memory, not ours; those that cannot be mapped
//! (some network and FUSE file systems) are read with `pread`, too. A flattened dump is a
//! source over a source.

use std::borrow::Cow;
use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use crate::error::{Error, Result};

/// A file of known length, read by offset.
pub trait Source: Send + Sync {
    /// Where it came from, for messages.
    fn path(&self) -> &Path;

    /// Bytes in it.
    fn len(&self) -> u64;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads what is there at `offset`, at most `buf.len()` bytes; 0 at the end.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// As [`Self::read_at`], without bringing a mapped file's pages in: for walks that
    /// touch a few bytes here and there.
    fn peek_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.read_at(offset, buf)
    }

    /// The bytes themselves, when they are in memory as they are and all there.
    fn slice(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let _ = (offset, len);
        None
    }

    /// Whether all these bytes were written. A flattened dump that breaks off has
    /// holes that read as zeros and are none.
    fn holds(&self, offset: u64, len: u64) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.len())
    }

    /// Whether all these bytes lie in a hole of the file, and need not be read to be known
    /// as zeros.
    fn is_hole(&self, offset: u64, len: u64) -> bool {
        let _ = (offset, len);
        false
    }

    /// Whether this is a stream of writes put in order.
    fn is_flattened(&self) -> bool {
        false
    }

    /// What was lost on the way here, in words.
    fn damage(&self) -> Option<String> {
        None
    }

    /// What happened to the file since it was opened, in words.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// By what this file, and this version of it, is told from any other on this machine;
    /// `None` for what is no file of its own.
    fn identity(&self) -> Option<String> {
        None
    }

    /// Fills `buf`, or fails with [`io::ErrorKind::UnexpectedEof`].
    fn read_exact_at(&self, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
        while !buf.is_empty() {
            match self.read_at(offset, buf) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    buf = buf.get_mut(n..).unwrap_or_default();
                    offset = offset.checked_add(n as u64).ok_or(io::ErrorKind::UnexpectedEof)?;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// All `len` bytes at `offset`, borrowed if possible. Nothing is allocated
    /// for a range that does not fit in the file.
    fn bytes(&self, offset: u64, len: usize) -> io::Result<Cow<'_, [u8]>> {
        if let Some(bytes) = self.slice(offset, len) {
            return Ok(Cow::Borrowed(bytes));
        }
        if offset.checked_add(len as u64).is_none_or(|end| end > self.len()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // What a header merely claims is not allocated before its end is seen.
        if len > 4096 {
            self.read_exact_at(offset + len as u64 - 1, &mut [0])?;
        }
        let mut buf = vec![0; len];
        self.read_exact_at(offset, &mut buf)?;
        Ok(Cow::Owned(buf))
    }

    /// The bytes at `offset`, at most `len`, fewer where the file ends.
    fn bytes_up_to(&self, offset: u64, len: usize) -> io::Result<Cow<'_, [u8]>> {
        let there = self.len().saturating_sub(offset);
        self.bytes(offset.min(self.len()), usize::try_from(there).map_or(len, |there| there.min(len)))
    }
}

/// A source from front to back.
pub struct Reader {
    source: Arc<dyn Source>,
    at: u64,
    end: u64,
}

impl Reader {
    /// The `range` of `source`, as far as it has it.
    #[must_use]
    pub fn new(source: Arc<dyn Source>, range: Range<u64>) -> Self {
        let end = range.end.min(source.len());
        Self { source, at: range.start, end }
    }
}

impl io::Read for Reader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let n = buf.len().min(left);
        let Some(buf) = buf.get_mut(..n).filter(|b| !b.is_empty()) else { return Ok(0) };
        let n = self.source.peek_at(self.at, buf)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// A source without its front: what stands behind a header of somebody else.
pub struct Tail {
    source: Arc<dyn Source>,
    from: u64,
}

impl Tail {
    /// `source` from `from` on.
    #[must_use]
    pub fn new(source: Arc<dyn Source>, from: u64) -> Self {
        Self { source, from }
    }

    fn at(&self, offset: u64) -> io::Result<u64> {
        self.from.checked_add(offset).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

impl Source for Tail {
    fn path(&self) -> &Path {
        self.source.path()
    }

    fn len(&self) -> u64 {
        self.source.len().saturating_sub(self.from)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.source.read_at(self.at(offset)?, buf)
    }

    fn peek_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.source.peek_at(self.at(offset)?, buf)
    }

    fn slice(&self, offset: u64, len: usize) -> Option<&[u8]> {
        self.source.slice(self.at(offset).ok()?, len)
    }

    fn holds(&self, offset: u64, len: u64) -> bool {
        self.at(offset).is_ok_and(|at| self.source.holds(at, len))
    }

    fn identity(&self) -> Option<String> {
        Some(format!("{}-{:x}", self.source.identity()?, self.from))
    }

    fn damage(&self) -> Option<String> {
        self.source.damage()
    }

    fn trouble(&self) -> Option<String> {
        self.source.trouble()
    }
}

/// Opens the file at `path`: mapped if that is possible, else read by `pread`.
pub fn open(path: &Path) -> Result<Arc<dyn Source>> {
    let io = |source| Error::io("open", path, source);
    let meta = std::fs::metadata(path).map_err(io)?;
    check_file_type(path, &meta)?;
    from_file(path, File::open(path).map_err(io)?)
}

/// The open `file`, known as `path` (it may have no name of its own any more).
pub fn from_file(path: &Path, file: File) -> Result<Arc<dyn Source>> {
    let meta = file.metadata().map_err(|source| Error::io("open", path, source))?;
    check_file_type(path, &meta)?;
    check_not_empty(path, &meta)?;
    let path = path.to_owned();
    Ok(match map(&file) {
        Ok(map) => Arc::new(Mapped { path, map, file }),
        Err(error) => {
            tracing::debug!("cannot map {}, reading it by pread: {error}", path.display());
            Arc::new(Plain { path, len: meta.len(), file: Arc::new(file) })
        }
    })
}

/// The open `file` without mapping it: another program may cut it short while we run
/// (a library at an upgrade), and a read of what was mapped of it would end us.
#[must_use]
pub fn unmapped(path: &Path, file: Arc<File>, len: u64) -> Arc<dyn Source> {
    Arc::new(Plain { path: path.to_owned(), len, file })
}

/// Only files: a directory gives EISDIR at a later and odder place, a pipe blocks.
pub(super) fn check_file_type(path: &Path, meta: &Metadata) -> Result<()> {
    let t = meta.file_type();
    let what = match () {
        () if t.is_file() => return Ok(()),
        () if t.is_dir() => "a directory",
        () if t.is_fifo() || t.is_socket() => "a pipe or socket",
        () => "a device",
    };
    Err(Error::Unsupported {
        path: path.to_owned(),
        what: what.to_owned(),
        hint: "give the dump file itself; copy a live or piped one to a file first",
    })
}

pub(super) fn check_not_empty(path: &Path, meta: &Metadata) -> Result<()> {
    let (what, hint) = ("an empty file", "was the disk full, or the dump still being written?");
    match meta.len() {
        0 => Err(Error::Unsupported { path: path.to_owned(), what: what.to_owned(), hint }),
        _ => Ok(()),
    }
}

/// The tree's only unsafe code.
#[allow(unsafe_code, reason = "mapping a file is unsafe by nature")]
fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the map is read-only and private to us. A debug file that shrinks while
    // it is mapped raises SIGBUS at the next read of the lost part, and one that is
    // rewritten changes under us: both are accepted, as gdb and crash accept them; dumps
    // are not mapped.
    unsafe { Mmap::map(file) }
}

struct Mapped {
    path: PathBuf,
    map: Mmap,
    file: File,
}

impl Source for Mapped {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> u64 {
        self.map.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        Ok(copy_at(&self.map, offset, buf))
    }

    fn peek_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn slice(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let offset = usize::try_from(offset).ok()?;
        self.map.get(offset..offset.checked_add(len)?)
    }
}

struct Plain {
    path: PathBuf,
    len: u64,
    file: Arc<File>,
}

impl Source for Plain {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }
}

/// Bytes in memory as a source: for tests and for texts made up on the way.
pub struct InMemory {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl InMemory {
    /// `bytes` under the name `path`.
    pub fn new(path: impl Into<PathBuf>, bytes: Vec<u8>) -> Self {
        Self { path: path.into(), bytes }
    }
}

impl Source for InMemory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        Ok(copy_at(&self.bytes, offset, buf))
    }

    fn slice(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let offset = usize::try_from(offset).ok()?;
        self.bytes.get(offset..offset.checked_add(len)?)
    }
}

/// Copies what `from` has at `offset`; how many bytes.
fn copy_at(from: &[u8], offset: u64, buf: &mut [u8]) -> usize {
    let there = usize::try_from(offset).ok().and_then(|o| from.get(o..)).unwrap_or_default();
    let n = there.len().min(buf.len());
    if let (Some(to), Some(from)) = (buf.get_mut(..n), there.get(..n)) {
        to.copy_from_slice(from);
    }
    n
}

#[cfg(test)]
pub(super) mod tests {
    use std::error::Error as _;

    use super::*;

    fn refused(path: &Path) -> String {
        let error = open(path).err().unwrap();
        format!("{error}{}", error.source().map(|s| format!(": {s}")).unwrap_or_default())
    }

    #[test]
    fn what_is_no_file_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty");
        std::fs::write(&empty, b"").unwrap();
        assert!(refused(dir.path()).contains("a directory"));
        assert!(refused(&empty).contains("an empty file"));
        assert!(refused(&dir.path().join("missing")).contains("No such file"));
        assert!(refused(Path::new("/dev/null")).contains("a device"));
    }

    /// What any source of these ten bytes does.
    pub(in crate::bytes) fn reads_ten_digits(source: &dyn Source) {
        assert_eq!(&*source.bytes(2, 3).unwrap(), b"234");
        assert_eq!(&*source.bytes_up_to(8, 30).unwrap(), b"89");
        assert_eq!(&*source.bytes_up_to(80, 30).unwrap(), b"");
        assert!(source.bytes(8, 3).is_err());
        assert!(source.bytes(u64::MAX, 2).is_err());
        let mut buf = [0; 4];
        assert_eq!(source.read_at(8, &mut buf).unwrap(), 2);
        assert_eq!(source.read_at(10, &mut buf).unwrap(), 0);
    }

    #[test]
    fn mapped_and_plain_read_alike() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"0123456789").unwrap();
        let plain = Plain { path: path.clone(), len: 10, file: Arc::new(File::open(&path).unwrap()) };
        let mapped = open(&path).unwrap();
        assert_eq!(mapped.slice(8, 2), Some(&b"89"[..]));
        assert_eq!(mapped.slice(8, 3), None);
        assert_eq!(mapped.slice(u64::MAX, 1), None);
        for source in [&plain as &dyn Source, &*mapped] {
            reads_ten_digits(source);
        }
    }
}
