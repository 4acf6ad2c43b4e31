//! A file of this machine that is opened because a core names it, or why not.
//!
//! The names of a core lead anywhere: only regular files are opened, and read only if
//! they are ELF files. Whether one is the file that was mapped is not decided here
//! ([`super::proof`]).

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

use crate::bytes::source;
use crate::elf::{self, BuildId};

/// `O_NONBLOCK` and `O_NOCTTY` (`include/uapi/asm-generic/fcntl.h`): no wait for the writer of a
/// FIFO that took the file's place, no terminal.
const OPEN_FLAGS: i32 = 0o4000 | 0o400;

/// Why no file supplies a mapping's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The name is not one that a regular file on a disk has.
    Name(&'static str),
    /// No candidate exists.
    Missing,
    /// The best candidate is not a regular file.
    NotRegular(PathBuf, &'static str),
    /// It is there and cannot be opened.
    Unreadable(PathBuf, io::ErrorKind),
    /// Its build-id is another.
    OtherBuildId(PathBuf, BuildId),
    /// It has no build-id, the core's mapping has.
    NoBuildId(PathBuf),
    /// The core shows another first page than it has, and no build-id.
    OtherHeader(PathBuf),
    /// The core shows no headers, and its parts are not mapped as it says.
    OtherLayout(PathBuf),
    /// The core holds no ELF header for it: a data file, which nothing can prove.
    NotElf,
}

/// An opened ELF file.
pub struct FoundFile {
    /// The file.
    pub file: Arc<File>,
    /// Its tables.
    pub elf: elf::File,
    /// Where it was found.
    pub path: PathBuf,
    /// Its length when it was opened.
    pub len: u64,
}

impl FoundFile {
    /// Opens the ELF file at `path`. It is not mapped: an upgrade may replace it.
    pub fn open(path: &Path) -> Result<Self, Refusal> {
        let (file, len) = open_regular(path)?;
        let file = Arc::new(file);
        let bytes = source::unmapped(path, Arc::clone(&file), len);
        // Without section headers (some packers) it is still what was mapped.
        let elf = elf::File::read(Arc::clone(&bytes)).or_else(|_| elf::File::read_image(bytes));
        let elf = elf.map_err(|_| Refusal::NoBuildId(path.to_owned()))?;
        Ok(Self { file, elf, path: path.to_owned(), len })
    }

    /// Fills `buf` from `offset`; false when any byte of it is not there.
    #[must_use]
    pub fn fill(&self, offset: u64, buf: &mut [u8]) -> bool {
        self.file.read_exact_at(buf, offset).is_ok()
    }
}

/// Opens a regular file and nothing else: looked at before it is opened, since
/// opening a device may already do something, and again after.
fn open_regular(path: &Path) -> Result<(File, u64), Refusal> {
    let refused = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Refusal::Missing,
        kind => Refusal::Unreadable(path.to_owned(), kind),
    };
    let kind = |meta: &fs::Metadata| {
        use std::os::unix::fs::FileTypeExt;
        let t = meta.file_type();
        match () {
            () if t.is_file() => None,
            () if t.is_dir() => Some("a directory"),
            () if t.is_fifo() => Some("a FIFO"),
            () if t.is_socket() => Some("a socket"),
            () => Some("a device"),
        }
    };
    let before = fs::metadata(path).map_err(refused)?;
    if let Some(what) = kind(&before) {
        return Err(Refusal::NotRegular(path.to_owned(), what));
    }
    let file = OpenOptions::new().read(true).custom_flags(OPEN_FLAGS).open(path).map_err(refused)?;
    let after = file.metadata().map_err(refused)?;
    if kind(&after).is_some() || (before.dev(), before.ino()) != (after.dev(), after.ino()) {
        return Err(Refusal::NotRegular(path.to_owned(), "a file that changed while it was opened"));
    }
    Ok((file, after.len()))
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(why) => write!(f, "the name is not looked for: {why}"),
            Self::Missing => write!(f, "the file is not found"),
            Self::NotRegular(path, what) => write!(f, "{} is {what}", path.display()),
            Self::Unreadable(path, kind) => write!(f, "{} cannot be opened: {kind}", path.display()),
            Self::OtherBuildId(path, id) => write!(f, "{} has build-id {id}", path.display()),
            Self::NoBuildId(path) => write!(f, "{} has no build-id", path.display()),
            Self::OtherHeader(path) => write!(
                f,
                "{} is not it: the core has no build-id for it, and another first page",
                path.display()
            ),
            Self::OtherLayout(path) => write!(
                f,
                "{} is not it: the core has no ELF header for it, and its parts are mapped otherwise",
                path.display()
            ),
            Self::NotElf => {
                write!(f, "the core holds no ELF header for it, so no file can be proven to be it")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        assert!(matches!(open_regular(&fifo), Err(Refusal::NotRegular(_, "a FIFO"))));
        assert!(matches!(open_regular(dir.path()), Err(Refusal::NotRegular(_, "a directory"))));
        assert!(matches!(open_regular(Path::new("/dev/null")), Err(Refusal::NotRegular(_, "a device"))));
        assert!(matches!(open_regular(&dir.path().join("none")), Err(Refusal::Missing)));
    }
}
