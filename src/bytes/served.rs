//! A file that is read while others may cut it short, replace it, or lose it to a bad disk.
//!
//! Nothing of it is mapped: a read of what a map has lost would end the program and all
//! its clients, where `pread` gives an error that costs one read. A few bytes here and
//! there (headers, bitmaps, page tables) are kept in blocks, which makes up for the map.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::source::{Source, check_file_type, check_not_empty};
use crate::error::{Error, Result};

/// Bytes that are kept together.
const BLOCK: usize = 16 << 10;
/// How many of them: 4 MiB.
const SLOTS: usize = 256;
/// Larger reads go to the file.
const SMALL: usize = 512;

/// Opens the dump at `path`: never mapped.
pub fn open_dump(path: &Path) -> Result<Arc<dyn Source>> {
    let io = |source| Error::io("open", path, source);
    check_file_type(path, &std::fs::metadata(path).map_err(io)?)?;
    let file = File::open(path).map_err(io)?;
    let meta = file.metadata().map_err(io)?;
    check_file_type(path, &meta)?;
    check_not_empty(path, &meta)?;
    Ok(Arc::new(Served::new(path.to_owned(), file, &meta)))
}

/// What was unpacked of the dump at `path`, or came through a pipe: a file with another
/// name, or none.
///
/// # Errors
/// It cannot be asked for its length.
pub fn stand_in(path: &Path, file: File) -> io::Result<Arc<dyn Source>> {
    let meta = file.metadata()?;
    Ok(Arc::new(Served { named: false, ..Served::new(path.to_owned(), file, &meta) }))
}

/// The file.
struct Served {
    path: PathBuf,
    /// Whether the file has that name.
    named: bool,
    file: File,
    opened: Identity,
    /// /proc/kcore, of which one thread reads at a time: before 6.4 its readers share a page
    /// through which their bytes go, and get each other's.
    live: Option<Mutex<()>>,
    blocks: Vec<Mutex<Block>>,
    /// Reads that failed, and where the first of them was.
    failed: AtomicU64,
    first: AtomicU64,
}

/// By what a change of a file is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    inode: (u64, u64),
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

#[derive(Default)]
struct Block {
    /// Its number and one, 0 for none.
    number: u64,
    bytes: Vec<u8>,
}

impl Identity {
    fn of(meta: &Metadata) -> Self {
        Self {
            inode: (meta.dev(), meta.ino()),
            len: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

impl Served {
    fn new(path: PathBuf, file: File, meta: &Metadata) -> Self {
        let blocks = (0..SLOTS).map(|_| Mutex::default()).collect();
        let (failed, first) = (AtomicU64::new(0), AtomicU64::new(0));
        let live = is_kcore(&path, &file).then(Mutex::default);
        Self { path, named: true, file, opened: Identity::of(meta), live, blocks, failed, first }
    }

    /// Reads from the file itself, once.
    fn read_once(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let _alone = self.live.as_ref().map(|live| live.lock().unwrap_or_else(PoisonError::into_inner));
        self.file.read_at(buf, offset)
    }

    /// Reads from the file itself.
    fn pread(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.read_once(offset, buf) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    if self.failed.fetch_add(1, Ordering::Relaxed) == 0 {
                        self.first.store(offset, Ordering::Relaxed);
                    }
                    return Err(e);
                }
                Ok(n) => return Ok(n),
            }
        }
    }

    /// Reads a few bytes from a block; `None` if it has not all of them.
    fn read_kept(&self, offset: u64, buf: &mut [u8]) -> Option<()> {
        let number = offset / BLOCK as u64;
        let slot = self.blocks.get(usize::try_from(number).ok()? % SLOTS)?;
        let mut block = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if block.number != number + 1 {
            block.number = 0;
            block.bytes.resize(BLOCK, 0);
            // A bad sector of the block is not one of these bytes.
            let got = self.read_once(number * BLOCK as u64, &mut block.bytes).ok()?;
            block.bytes.truncate(got);
            block.number = number + 1;
        }
        let at = usize::try_from(offset % BLOCK as u64).ok()?;
        buf.copy_from_slice(block.bytes.get(at..at.checked_add(buf.len())?)?);
        Some(())
    }
}

/// Whether `file` is the memory of the machine that runs.
fn is_kcore(path: &Path, file: &File) -> bool {
    /// `PROC_SUPER_MAGIC` (`linux/magic.h`).
    const PROC: rustix::fs::FsWord = 0x9fa0;
    path.file_name().is_some_and(|name| name == "kcore")
        && rustix::fs::fstatfs(file).is_ok_and(|fs| fs.f_type == PROC)
}

impl Source for Served {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> u64 {
        self.opened.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        if buf.len() <= SMALL && self.read_kept(offset, buf).is_some() {
            return Ok(buf.len());
        }
        self.pread(offset, buf)
    }

    fn peek_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.pread(offset, buf)
    }

    fn is_hole(&self, offset: u64, len: u64) -> bool {
        // Nobody reads by the file's position, which this moves.
        match rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(offset)) {
            Ok(data) => offset.checked_add(len).is_some_and(|end| end <= data),
            Err(e) => e == rustix::io::Errno::NXIO && offset < self.opened.len,
        }
    }

    fn identity(&self) -> Option<String> {
        let Identity { inode, len, modified, changed } = self.opened;
        let times = format!("{:x}.{:x}-{:x}.{:x}", modified.0, modified.1, changed.0, changed.1);
        self.named.then(|| format!("{:x}-{:x}-{len:x}-{times}", inode.0, inode.1))
    }

    fn trouble(&self) -> Option<String> {
        let mut all = Vec::new();
        let path = self.path.display();
        match self.file.metadata().map(|meta| Identity::of(&meta)) {
            _ if self.live.is_some() => {
                all.push(format!("the machine runs on while {path} is read: not all is of one moment"));
            }
            Ok(now) if now.len != self.opened.len => {
                all.push(format!(
                    "{path} had {} bytes when it was opened, and now has {}",
                    self.opened.len, now.len
                ));
            }
            Ok(now) if now.modified != self.opened.modified => {
                all.push(format!("{path} was written to since it was opened"));
            }
            Ok(_) => {}
            Err(e) => all.push(format!("{path}: {e}")),
        }
        let other = |meta: Metadata| Identity::of(&meta).inode != self.opened.inode;
        if self.named && std::fs::metadata(&self.path).is_ok_and(other) {
            all.push(format!("{path} was replaced since it was opened; the old file is read"));
        }
        let failed = self.failed.load(Ordering::Relaxed);
        if failed > 0 {
            let first = self.first.load(Ordering::Relaxed);
            all.push(format!("{failed} reads of {path} failed, the first at offset {first:#x}"));
        }
        (!all.is_empty()).then(|| all.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::tests::reads_ten_digits;
    use super::*;

    #[test]
    fn it_reads_as_others_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"0123456789").unwrap();
        reads_ten_digits(&*open_dump(&path).unwrap());
    }

    #[test]
    fn holes_are_known_without_a_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let file = File::create(&path).unwrap();
        file.write_at(&[7], 4 << 20).unwrap();
        file.set_len(16 << 20).unwrap();
        let served = open_dump(&path).unwrap();
        assert!(served.is_hole(0, 1 << 20) && served.is_hole(8 << 20, 8 << 20));
        assert!(!served.is_hole(4 << 20, 1) && !served.is_hole(0, 8 << 20) && !served.is_hole(16 << 20, 1));
    }

    /// A mapped file would end the test here.
    #[test]
    fn a_dump_that_is_cut_short_costs_a_read_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dump");
        std::fs::write(&path, vec![7; 100_000]).unwrap();
        let served = open_dump(&path).unwrap();
        assert_eq!((served.trouble(), served.slice(0, 1)), (None, None));
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(30_000).unwrap();
        let mut buf = [0; 8];
        served.read_exact_at(29_992, &mut buf).unwrap();
        for (offset, len) in [(29_995, 8), (90_000, 8), (29_000, 4096)] {
            let error = served.read_exact_at(offset, &mut vec![0; len]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{offset}");
        }
        assert_eq!(served.len(), 100_000);
        assert!(served.trouble().unwrap().contains("had 100000 bytes when it was opened, and now has 30000"));
        let other = dir.path().join("other");
        std::fs::write(&other, b"x").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert!(served.trouble().unwrap().contains("was replaced since it was opened"));
        served.read_exact_at(0, &mut buf).unwrap();
        assert_eq!(buf, [7; 8]);
    }
}
