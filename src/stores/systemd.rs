//! systemd-coredump's folder.
//!
//! Names, as systemd writes them (`src/coredump/coredump.c`, `make_filename`):
//! `core.COMM.UID.BOOT_ID.PID.MICROSECONDS`, odd characters of COMM as `\xHH`, and an
//! ending of a compressed file. What else was known is in extended attributes
//! (`fix_xattr` there), each a text.
//!
//! apport keeps cores beside its reports under names of this form (`apport/fileutils.py`,
//! `get_core_path`), the program's path with `_` for COMM, and the time not that of a calendar.

use std::path::Path;

use super::{Folder, Keeper, Kept, regular, unpacked};

pub(super) const FOLDERS: [Folder; 2] =
    [("var/lib/systemd/coredump", by_systemd), ("var/lib/apport/coredump", by_apport)];
/// Longest attribute that is of use: a path.
const LONGEST: usize = 4096;

fn by_systemd(path: &Path) -> Option<Kept> {
    let (kept, comm, micros) = named(path, Keeper::Systemd)?;
    Some(Kept {
        time: Some(micros.parse::<i64>().ok()? / 1_000_000),
        comm: Some(unescape(comm)),
        signal: attribute(path, "user.coredump.signal"),
        exe: attribute(path, "user.coredump.exe"),
        ..kept
    })
}

fn by_apport(path: &Path) -> Option<Kept> {
    let (kept, program, _ticks) = named(path, Keeper::Apport)?;
    // `_usr_bin_my_tool`: only the last part that has no `_` of its own comes out whole.
    Some(Kept { comm: program.rsplit('_').next().map(ToOwned::to_owned), ..kept })
}

fn named(path: &Path, keeper: Keeper) -> Option<(Kept, &str, &str)> {
    let name = unpacked(path.file_name()?.to_str()?.strip_prefix("core.")?);
    let mut parts = name.rsplitn(5, '.');
    let (time, pid, _boot, uid, comm) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let kept = Kept::of(keeper, path.to_owned(), &regular(path)?);
    Some((Kept { pid: Some(pid.parse().ok()?), uid: Some(uid.parse().ok()?), ..kept }, comm, time))
}

fn attribute(path: &Path, name: &str) -> Option<String> {
    let mut value = vec![0; LONGEST];
    let length = rustix::fs::lgetxattr(path, name, &mut value).ok()?;
    value.truncate(length);
    String::from_utf8(value).ok().filter(|value| !value.is_empty())
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
