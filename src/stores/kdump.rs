//! Folders that a crash kernel writes: `/var/crash/127.0.0.1-DATE/vmcore` (kexec-tools of RHEL and
//! Fedora), `/var/crash/DATE/vmcore` (SUSE), `/var/crash/DATE/dump.DATE` (Debian's kdump-tools).

use std::fs;
use std::path::{Path, PathBuf};

use super::{Folder, Keeper, Kept, regular, unpacked};

pub(super) const FOLDERS: [Folder; 1] = [("var/crash", by_kdump)];
/// Files in one of them that are looked at: the dump, the log, a README.
const BESIDE: usize = 100;

/// The vmcore in a folder.
pub(super) fn vmcore_in(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten().take(BESIDE);
    let is_dump = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).map(unpacked).unwrap_or_default();
        let named = matches!(name, "vmcore" | "vmcore.flat" | "vmcore-incomplete");
        (named || name.starts_with("dump.")) && regular(path).is_some()
    };
    entries.map(|entry| entry.path()).filter(is_dump).min()
}

fn by_kdump(folder: &Path) -> Option<Kept> {
    fs::symlink_metadata(folder).ok().filter(fs::Metadata::is_dir)?;
    let path = vmcore_in(folder)?;
    Some(Kept::of(Keeper::Kdump, path.clone(), &regular(&path)?))
}
