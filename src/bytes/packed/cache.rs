//! Where dumps are unpacked to: `$XDG_CACHE_HOME/corestub/unpacked`, else `~/.cache/...`.
//!
//! A file there is named by what tells one file from another: device, inode, length and
//! time of the packed one. It is 0600, as dumps hold secrets, and sparse: runs of zeros are
//! holes. It appears under its name when it is whole, so that a reader never sees half of it;
//! two that unpack the same dump do it one behind the other. What nobody opened for two weeks
//! is removed when something else is unpacked.
//!
//! No bomb fills the disk: beside the limit that the user sets, a part of the file system
//! is left free.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{FlockOperation, flock, fstatvfs};

use super::{Broken, Packing, Unpack, served};
use crate::bytes::is_zero;
use crate::bytes::source::{Reader, Source};

const CHUNK: usize = 1 << 16;
/// Most bytes in all: 16 TiB, more than ext4 allows in one file.
const LENGTH_MAX: u64 = 1 << 44;
/// How often room on the file system is asked for.
const ROOM_EVERY: u64 = 64 << 20;
/// What is left free of a file system: one part of so many, and not more than this.
const LEFT_FREE: u64 = 20;
const LEFT_FREE_MAX: u64 = 2 << 30;
/// How long what nobody opens is kept.
const KEPT: Duration = Duration::from_secs(14 * 24 * 3600);
/// What takes longer is told of.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is in `source`, from the cache or unpacked into it.
pub(super) fn unpacked(
    source: &Arc<dyn Source>,
    packing: Packing,
    how: &Unpack,
) -> io::Result<Arc<dyn Source>> {
    let path = source.path();
    let stream = || packing.unpacked(Reader::new(Arc::clone(source), 0..u64::MAX));
    let Some(name) = source.identity() else { return copied(path, stream()?, how) };
    let dir = match folder(how) {
        Ok(dir) => dir,
        Err(why) => {
            tracing::info!("{why}; {} is unpacked into a file that is not kept", path.display());
            return copied(path, stream()?, how);
        }
    };
    let (whole, part) = (dir.join(&name), dir.join(format!("{name}.part")));
    if let Some(found) = kept(path, &whole)? {
        return Ok(found);
    }
    let file = private().truncate(false).create(true).open(&part)?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        tracing::info!("{}: another corestub is unpacking it", path.display());
        flock(&file, FlockOperation::LockExclusive)?;
        // It is there now, unless that one failed.
        if let Some(found) = kept(path, &whole)? {
            return Ok(found);
        }
    }
    file.set_len(0)?;
    remove_old(&dir);
    let start = Instant::now();
    let filled =
        fill(path, &file, &dir, stream()?, how).inspect_err(|_| drop(std::fs::remove_file(&part)))?;
    if let Some(damage) = &filled.damage {
        std::fs::write(told(&whole), damage)?;
    }
    std::fs::rename(&part, &whole)?;
    if start.elapsed() > PATIENCE {
        let on_disk = file.metadata().map_or(filled.written, |meta| meta.blocks() * 512);
        let (mib, of) = (on_disk >> 20, filled.length >> 20);
        tracing::info!(
            "{} unpacked to {}: {mib} MiB on disk of {of} MiB, for the next time; removed when not opened for 14 days",
            path.display(),
            whole.display()
        );
    }
    Ok(with_damage(served::stand_in(path, file)?, filled.damage))
}

/// What comes from `from`, in a file without a name.
pub(super) fn copied(path: &Path, from: impl Read, how: &Unpack) -> io::Result<Arc<dyn Source>> {
    let (file, dir) = nameless(how)?;
    let filled = fill(path, &file, &dir, from, how)?;
    Ok(with_damage(served::stand_in(path, file)?, filled.damage))
}

/// A file that vanishes with us, and the folder it is in.
pub(super) fn nameless(how: &Unpack) -> io::Result<(File, PathBuf)> {
    // /tmp is often memory; a dump does not belong there.
    let other = || std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    let dirs = [folder(how).ok(), Some(other()), Some(std::env::temp_dir())];
    let mut why = io::Error::from(io::ErrorKind::NotFound);
    for dir in dirs.into_iter().flatten() {
        let path = dir.join(format!(".corestub-{}-{:?}", std::process::id(), std::thread::current().id()));
        match private().create_new(true).open(&path) {
            Ok(file) => {
                std::fs::remove_file(&path)?;
                return Ok((file, dir));
            }
            Err(e) => why = io::Error::new(e.kind(), format!("in {}: {e}", dir.display())),
        }
    }
    Err(why)
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

/// The cache folder, made if it is not there.
fn folder(how: &Unpack) -> io::Result<PathBuf> {
    if let Some(dir) = &how.folder {
        return Ok(dir.clone());
    }
    let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let base = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    let base = base.ok_or_else(|| io::Error::other("neither XDG_CACHE_HOME nor HOME is set"))?;
    let dir = base.join("corestub/unpacked");
    DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
    Ok(dir)
}

/// The sentence on what was lost of the file at `whole`, beside it.
fn told(whole: &Path) -> PathBuf {
    whole.with_extension("told")
}

/// What was unpacked before.
fn kept(path: &Path, whole: &Path) -> io::Result<Option<Arc<dyn Source>>> {
    let file = match private().open(whole) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    // So that it is kept.
    let _ = file.set_modified(SystemTime::now());
    tracing::debug!("{} was unpacked before: {}", path.display(), whole.display());
    let damage = std::fs::read_to_string(told(whole)).ok();
    Ok(Some(with_damage(served::stand_in(path, file)?, damage)))
}

fn with_damage(source: Arc<dyn Source>, damage: Option<String>) -> Arc<dyn Source> {
    match damage {
        Some(damage) => Arc::new(Broken { source, damage }),
        None => source,
    }
}

/// Removes what nobody opened for long, and what was never finished.
fn remove_old(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let old = entry
            .metadata()
            .and_then(|meta| meta.modified())
            .is_ok_and(|at| at.elapsed().is_ok_and(|age| age > KEPT));
        if old && std::fs::remove_file(entry.path()).is_ok() {
            tracing::debug!("removed {}, which nobody opened for long", entry.path().display());
        }
    }
}

/// What was put into a file.
struct Filled {
    length: u64,
    written: u64,
    damage: Option<String>,
}

/// Copies `from` into `file`, which is in `dir`.
fn fill(path: &Path, file: &File, dir: &Path, mut from: impl Read, how: &Unpack) -> io::Result<Filled> {
    let mut buf = vec![0; CHUNK];
    let mut filled = Filled { length: 0, written: 0, damage: None };
    let (mut told, mut asked) = (Instant::now(), None);
    loop {
        let (n, end) = read_full(&mut from, &mut buf);
        match end {
            Some(error) if filled.length == 0 && n == 0 => return Err(error),
            Some(error) => {
                let after = filled.length + n as u64;
                filled.damage =
                    Some(format!("what {} holds breaks off after {after:#x} bytes: {error}", path.display()));
            }
            None if n == 0 => break,
            None => {}
        }
        let chunk = buf.get(..n).unwrap_or_default();
        if !is_zero(chunk) {
            if asked.is_none_or(|at| filled.written - at >= ROOM_EVERY) {
                asked = Some(filled.written);
                check_room(file, dir)?;
            }
            file.write_all_at(chunk, filled.length).map_err(|e| in_folder(dir, &e))?;
            filled.written += n as u64;
        }
        filled.length += n as u64;
        if filled.written > how.limit || filled.length > LENGTH_MAX {
            let text = format!(
                "it holds more than {} MiB that are not zeros: --unpack-limit allows more",
                filled.written >> 20
            );
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        if filled.damage.is_some() {
            break;
        }
        if told.elapsed() > PATIENCE {
            told = Instant::now();
            tracing::info!(
                "unpacking {} into {}: {} MiB",
                path.display(),
                dir.display(),
                filled.length >> 20
            );
        }
    }
    if filled.length == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "nothing is in it"));
    }
    file.set_len(filled.length)?;
    Ok(filled)
}

/// Fails where too little of the file system is free.
fn check_room(file: &File, dir: &Path) -> io::Result<()> {
    let Ok(stat) = fstatvfs(file) else { return Ok(()) };
    let block = stat.f_frsize.max(1);
    let left_free = (stat.f_blocks / LEFT_FREE).min(LEFT_FREE_MAX / block);
    if stat.f_bavail < left_free + ROOM_EVERY / block {
        return Err(in_folder(dir, &io::Error::from(io::ErrorKind::StorageFull)));
    }
    Ok(())
}

fn in_folder(dir: &Path, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{e} in {} (XDG_CACHE_HOME names another place)", dir.display()))
}

/// Reads until `buf` is full or the stream ends, so that zeros are found by chunk: how
/// much, and what ended it.
fn read_full(from: &mut impl Read, buf: &mut [u8]) -> (usize, Option<io::Error>) {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|r| !r.is_empty()) {
        match from.read(rest) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return (done, Some(e)),
        }
    }
    (done, None)
}
