//! Where systems keep dumps: `corestub list`, and a name or a pid in the place of a path.
//!
//! ```text
//!  systemd    systemd-coredump's folder, and apport's, whose names have that form
//!  problems   problem folders of ABRT and of apport-unpack, apport's reports
//!  kdump      what kdump-tools, kexec-tools and SUSE's kdump leave in /var/crash
//! ```
//!
//! Some of these folders are open to all users: what is in them is hostile. Links are not
//! followed, only regular files are opened, and of these no more than a head is read.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

use crate::error::{Error, Result};

mod kdump;
mod problems;
mod systemd;

/// Entries of one folder that are looked at.
const LISTED_MAX: usize = 100_000;
/// Stands for `/`: tests, and a dead machine's disk that is mounted somewhere.
const ROOT: &str = "CORESTUB_ROOT";
/// How the endings of packed dumps are.
const PACKED: [&str; 5] = [".zst", ".lz4", ".xz", ".gz", ".bz2"];

/// Who keeps a dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Keeper {
    /// systemd-coredump.
    Systemd,
    /// ABRT.
    Abrt,
    /// Ubuntu's apport.
    Apport,
    /// kdump, in any distribution's form.
    Kdump,
}

/// One dump that the system keeps. What nobody has written down is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// Who keeps it.
    pub keeper: Keeper,
    /// When it was written, in seconds since 1970.
    pub time: Option<i64>,
    /// The process that died.
    pub pid: Option<u32>,
    /// Its user.
    pub uid: Option<u32>,
    /// The signal, as a number or by its name.
    pub signal: Option<String>,
    /// The name of the thread that died.
    pub comm: Option<String>,
    /// The program.
    pub exe: Option<String>,
    /// Bytes of the file.
    pub size: u64,
    /// Where it is.
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
    /// A report of apport: the core is inside and must be unpacked first.
    pub report: bool,
}

fn lossy<S: Serializer>(path: &Path, to: S) -> std::result::Result<S::Ok, S::Error> {
    to.serialize_str(&path.to_string_lossy())
}

impl Kept {
    fn of(keeper: Keeper, path: PathBuf, file: &Metadata) -> Self {
        Self {
            keeper,
            time: Some(file.mtime()),
            pid: None,
            uid: None,
            signal: None,
            comm: None,
            exe: None,
            size: file.len(),
            path,
            report: false,
        }
    }

    /// Whether a word of the command line means it. A thread's name has 15 bytes at most,
    /// the program's may be longer.
    #[must_use]
    pub fn is_called(&self, word: &str) -> bool {
        let program = self.exe.as_deref().and_then(|exe| exe.rsplit('/').next());
        self.comm.as_deref() == Some(word)
            || program == Some(word)
            || self.pid.is_some() && self.pid == word.parse().ok()
    }
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// The newest first.
    pub kept: Vec<Kept>,
    /// Folders that could not be read, and why.
    pub unread: Vec<(PathBuf, io::Error)>,
}

/// All dumps that are kept below `root`; without one, below `CORESTUB_ROOT` or `/`.
#[must_use]
pub fn all(root: Option<&Path>) -> Found {
    let named = || std::env::var_os(ROOT).filter(|root| !root.is_empty()).map(PathBuf::from);
    let root = root.map(Path::to_owned).or_else(named).unwrap_or_else(|| "/".into());
    let mut found = Found::default();
    for (folder, look) in systemd::FOLDERS.iter().chain(&problems::FOLDERS).chain(&kdump::FOLDERS) {
        let folder = root.join(folder);
        match fs::read_dir(&folder) {
            Ok(entries) => {
                let paths = entries.flatten().map(|entry| entry.path()).take(LISTED_MAX);
                found.kept.extend(paths.filter_map(|path| look(&path)));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => found.unread.push((folder, e)),
        }
    }
    found.kept.sort_by(|a, b| (b.time, b.pid, &a.path).cmp(&(a.time, a.pid, &b.path)));
    found
}

/// A folder below the root, and what finds a dump in an entry of it.
type Folder = (&'static str, fn(&Path) -> Option<Kept>);

/// The dump that a word of the command line means, where that is no file by itself.
pub fn find(word: &Path) -> Result<Option<PathBuf>> {
    find_in(word, || all(None))
}

fn find_in(word: &Path, all: impl FnOnce() -> Found) -> Result<Option<PathBuf>> {
    if word.is_dir() {
        return problems::core_in(word).or_else(|| kdump::vmcore_in(word)).map(Some).ok_or_else(|| Error::Missing {
            path: word.to_owned(),
            what: "a folder without a dump".to_owned(),
            hint: "a problem folder of ABRT has `coredump`, one that apport-unpack made `CoreDump`, kdump's `vmcore`",
        });
    }
    if word.exists() {
        return if problems::is_report(word) { Err(packed_report(word)) } else { Ok(None) };
    }
    let Some(name) = word.to_str().filter(|w| !w.contains('/')) else { return Ok(None) };
    let mut called = all().kept.into_iter().filter(|kept| kept.is_called(name));
    let Some(newest) = called.next() else { return Ok(None) };
    if newest.report {
        return Err(packed_report(&newest.path));
    }
    let others = match called.count() {
        0 => String::new(),
        n => format!(", the newest of {}", n + 1),
    };
    tracing::info!("{name}: {}{others}", newest.path.display());
    Ok(Some(newest.path))
}

fn packed_report(path: &Path) -> Error {
    Error::Unsupported {
        path: path.to_owned(),
        what: "a report of apport".to_owned(),
        hint: "unpack it: apport-unpack REPORT FOLDER, then give the folder",
    }
}

/// A regular file, no link.
fn regular(path: &Path) -> Option<Metadata> {
    fs::symlink_metadata(path).ok().filter(Metadata::is_file)
}

/// The first bytes of a regular file.
fn head(path: &Path, most: u64) -> Option<Vec<u8>> {
    regular(path)?;
    // Should it have become a link or a pipe by now, it is not opened, or does not block.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = File::options().read(true).custom_flags(flags).open(path).ok()?;
    let mut head = Vec::new();
    file.take(most).read_to_end(&mut head).ok()?;
    Some(head)
}

/// `name` without the ending of a packed file.
fn unpacked(name: &str) -> &str {
    PACKED.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name)
}

#[cfg(test)]
mod tests;
