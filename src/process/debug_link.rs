//! `.gnu_debuglink`: the name of a file's debug file, and a checksum over that.
//!
//! What gdb calls "separate debug files": beside the file, in `.debug` beside it,
//! and below the debug folders. Two files belong together if their build-ids are
//! equal or, where there are none, if the checksum is right (a CRC-32 over the
//! whole file, `binutils/bfd/opncls.c`).

use std::path::{Path, PathBuf};

use flate2::Crc;

use super::files::MappedFile;
use super::found::FoundFile;
use super::places::Places;
use crate::bytes::u32_at;

/// Larger debug files are not read through for a checksum.
const CHECKED_MAX: u64 = 4 << 30;

/// The debug file that the section in `file` names.
#[must_use]
pub fn find(places: &Places, file: &MappedFile) -> Option<FoundFile> {
    let served = file.served()?;
    let base = served.elf.debug_link()?;
    let named = Path::new(file.name.strip_suffix(" (deleted)").unwrap_or(&file.name)).parent();
    let own = served.path.parent();
    let candidates = own.into_iter().chain(named).flat_map(|dir| self::places(places, dir, &base));
    candidates.filter_map(|path| FoundFile::open(&path).ok()).find(|found| belongs(served, found))
}

/// Where a debug file of that name is looked for, for a file in `dir`.
#[must_use]
pub fn places(places: &Places, dir: &Path, base: &str) -> Vec<PathBuf> {
    let root = places.sysroot.as_deref().unwrap_or(Path::new("/"));
    let relative = dir.strip_prefix("/").unwrap_or(dir);
    let beside = [dir, &root.join(relative)].map(|d| [d.join(base), d.join(".debug").join(base)]);
    let below = places.locator.debug_dirs().iter().map(|d| d.join(relative).join(base));
    beside.into_iter().flatten().chain(below).collect()
}

/// Whether `debug` is the debug file of `file`.
#[must_use]
pub fn belongs(file: &FoundFile, debug: &FoundFile) -> bool {
    match (file.elf.build_id(), debug.elf.build_id()) {
        (Some(one), Some(other)) => one == other,
        (Some(_), None) | (None, Some(_)) => false,
        (None, None) => checksum(file).is_some_and(|wanted| Some(wanted) == crc32(debug)),
    }
}

/// The checksum: the last word of the section, behind the padded name.
fn checksum(file: &FoundFile) -> Option<u32> {
    let raw = file.elf.section_data(".gnu_debuglink").ok()??;
    u32_at(&raw, raw.len().checked_sub(4)?)
}

fn crc32(file: &FoundFile) -> Option<u32> {
    let (mut crc, mut at) = (Crc::new(), 0);
    let mut piece = vec![0; 1 << 20];
    while at < file.len.min(CHECKED_MAX) {
        let len = usize::try_from(file.len - at).unwrap_or(usize::MAX).min(piece.len());
        let piece = piece.get_mut(..len)?;
        file.fill(at, piece).then(|| crc.update(piece))?;
        at += len as u64;
    }
    (at == file.len).then(|| crc.sum())
}
