//! Where systems keep cores: systemd-coredump's folder, problem folders of ABRT and
//! of apport-unpack. A name or a pid stands for the newest core in the first, a folder
//! for the core in it.
//!
//! Names, as systemd writes them (`src/coredump/coredump.c`, `make_filename`):
//! `core.COMM.UID.BOOT_ID.PID.MICROSECONDS`, odd characters of COMM as `\xHH`, and an
//! ending of a compressed file.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{Error, Result};

/// systemd-coredump's folder.
pub const SYSTEMD: &str = "/var/lib/systemd/coredump";
/// How the core is called in a problem folder of ABRT, and in one of apport-unpack.
const IN_FOLDERS: [&str; 2] = ["coredump", "CoreDump"];
const LISTED_MAX: usize = 100_000;

/// One core that systemd keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// When it was written, in seconds since 1970.
    pub time: i64,
    /// Whose.
    pub pid: u32,
    /// The user.
    pub uid: u32,
    /// The name of the thread that died.
    pub comm: String,
    /// Bytes on the disk.
    pub size: u64,
    /// Where it is.
    pub path: PathBuf,
}

/// All cores in systemd's folder, the newest first.
#[must_use]
pub fn kept(folder: &Path) -> Vec<Kept> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().take(LISTED_MAX);
    let mut all: Vec<Kept> = entries.filter_map(|e| parse(&e.path(), e.metadata().ok()?.len())).collect();
    all.sort_by_key(|core| std::cmp::Reverse((core.time, core.pid)));
    all
}

fn parse(path: &Path, size: u64) -> Option<Kept> {
    let name = path.file_name()?.to_str()?.strip_prefix("core.")?;
    let name = [".zst", ".lz4", ".xz"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
    let mut parts = name.rsplitn(5, '.');
    let (micros, pid, _boot, uid, comm) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    Some(Kept {
        time: micros.parse::<i64>().ok()? / 1_000_000,
        pid: pid.parse().ok()?,
        uid: uid.parse().ok()?,
        comm: unescape(comm),
        size,
        path: path.to_owned(),
    })
}

/// `a\x2eb` as `a.b`.
fn unescape(comm: &str) -> String {
    let mut parts = comm.split("\\x");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match code.zip(part.get(2..)) {
            Some((byte, rest)) => out.extend([char::from(byte).to_string().as_str(), rest]),
            None => out.extend(["\\x", part]),
        }
    }
    out
}

/// The core that a word of the command line means, where that is no file by itself.
pub fn find(word: &Path) -> Result<Option<PathBuf>> {
    find_in(word, Path::new(SYSTEMD))
}

fn find_in(word: &Path, systemd: &Path) -> Result<Option<PathBuf>> {
    if word.is_dir() {
        let inside = IN_FOLDERS.iter().map(|name| word.join(name)).find(|path| path.is_file());
        return inside.map(Some).ok_or_else(|| Error::Missing {
            path: word.to_owned(),
            what: "a folder without a core".to_owned(),
            hint: "a problem folder of ABRT has `coredump`, one that apport-unpack made has `CoreDump`",
        });
    }
    if word.exists() {
        // A pipe must not be opened twice: its writer would find it closed.
        let report = word.is_file()
            && fs::File::open(word).is_ok_and(|file| {
                let mut head = [0; 12];
                std::os::unix::fs::FileExt::read_exact_at(&file, &mut head, 0).is_ok()
                    && &head == b"ProblemType:"
            });
        if report {
            return Err(Error::Unsupported {
                path: word.to_owned(),
                what: "a report of apport".to_owned(),
                hint: "unpack it: apport-unpack REPORT FOLDER, then give the folder",
            });
        }
        return Ok(None);
    }
    let Some(name) = word.to_str().filter(|w| !w.contains('/')) else { return Ok(None) };
    let is_it = |core: &Kept| core.comm == name || name.parse() == Ok(core.pid);
    Ok(kept(systemd).into_iter().find(is_it).map(|core| core.path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_or_a_pid_stands_for_the_newest_core() {
        let dir = tempfile::tempdir().unwrap();
        let boot = "0123456789abcdef0123456789abcdef";
        let file = |name: String| fs::write(dir.path().join(name), "x").unwrap();
        file(format!("core.my\\x2eapp.1000.{boot}.77.1700000000000000.zst"));
        file(format!("core.my\\x2eapp.1000.{boot}.78.1700000001000000.lz4"));
        file(format!("core.a.b.0.{boot}.5.1600000000000000"));
        file("other".to_owned());
        let all = kept(dir.path());
        let told: Vec<_> = all.iter().map(|c| (c.comm.as_str(), c.pid, c.uid, c.time)).collect();
        assert_eq!(
            told,
            [
                ("my.app", 78, 1000, 1_700_000_001),
                ("my.app", 77, 1000, 1_700_000_000),
                ("a.b", 5, 0, 1_600_000_000)
            ]
        );
        let found = |word: &str| find_in(Path::new(word), dir.path()).unwrap();
        assert_eq!(found("my.app"), Some(all[0].path.clone()));
        assert_eq!(found("77"), Some(all[1].path.clone()));
        assert_eq!(found("nobody"), None);
        assert_eq!(found("./77"), None);
    }

    #[test]
    fn a_problem_folder_stands_for_the_core_in_it_and_a_report_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let refused = find_in(dir.path(), dir.path()).unwrap_err().to_string();
        assert!(refused.contains("a folder without a core"), "{refused}");
        fs::write(dir.path().join("coredump"), "x").unwrap();
        assert_eq!(find_in(dir.path(), dir.path()).unwrap(), Some(dir.path().join("coredump")));
        let report = dir.path().join("_usr_bin_x.0.crash");
        fs::write(&report, "ProblemType: Crash\n").unwrap();
        let refused = find_in(&report, dir.path()).unwrap_err().to_string();
        assert!(refused.contains("apport-unpack"), "{refused}");
    }
}
