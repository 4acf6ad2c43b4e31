//! Cores as systemd-coredump keeps them: `core.*.zst`, `core.*.lz4`.
//!
//! They are unpacked into a file without a name (it vanishes with us) in
//! `$TMPDIR` or `/var/tmp`, not in memory. Runs of zeros become holes, so a
//! sparse core stays small on the disk, and a bomb of zeros is harmless. A vmcore
//! is not unpacked so: it is too large to be, each time, by surprise.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bytes::served;
use crate::bytes::source::{self, Source};
use crate::dump;
use crate::error::{Error, Result};

const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const LZ4_FRAME: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];

/// Most bytes, beside zeros, that are unpacked: 256 GiB.
const WRITTEN_MAX: u64 = 1 << 38;
/// Most bytes in all: 16 TiB, more than ext4 allows in one file.
const LENGTH_MAX: u64 = 1 << 44;
const CHUNK: usize = 1 << 16;
/// So much of a dump tells its kind: headers and notes.
const HEAD: u64 = 1 << 20;
/// `O_TMPFILE` of Linux (`include/uapi/asm-generic/fcntl.h`, with `O_DIRECTORY`).
const O_TMPFILE: i32 = 0o20_200_000;

/// Whether the file at `path` starts as one of the compressed forms.
#[must_use]
pub fn is_compressed(head: &[u8]) -> bool {
    head.starts_with(&ZSTD) || head.starts_with(&LZ4_FRAME)
}

/// Whether the file at `path` is a compressed core.
pub fn is_compressed_file(path: &Path) -> Result<bool> {
    let source = served::open_dump(path)?;
    let head = source.bytes_up_to(0, 8).map_err(|e| Error::io("read", path, e))?;
    Ok(is_compressed(&head))
}

/// Opens the core at `path`, unpacking it if it is compressed.
pub fn open(path: &Path) -> Result<Arc<dyn Source>> {
    let packed = served::open_dump(path)?;
    let head = packed.bytes_up_to(0, 8).map_err(|e| Error::io("read", path, e))?.into_owned();
    if !is_compressed(&head) {
        return Ok(packed);
    }
    drop(packed);
    let (is_zstd, program) = (head.starts_with(&ZSTD), dump::packed(&head).map_or("", |(_, by)| by));
    let stream = || -> io::Result<Box<dyn Read>> {
        let file = File::open(path)?;
        Ok(if is_zstd {
            Box::new(zstd::stream::read::Decoder::new(file)?)
        } else {
            Box::new(lz4_flex::frame::FrameDecoder::new(file))
        })
    };
    let cannot = |e| Error::io("unpack", path, e);
    let mut head = Vec::new();
    // What breaks off or does not decompress is told of below.
    let _ = stream().map_err(cannot)?.take(HEAD).read_to_end(&mut head);
    if dump::begins_as_vmcore(head) {
        return Err(Error::Packed { path: path.to_owned(), what: "a compressed vmcore", program });
    }
    let unpacked = stream().and_then(|stream| unpack(path, stream));
    source::from_file(path, unpacked.map_err(cannot)?)
}

/// Copies `from` into a file without a name. A stream that breaks off gives what
/// came before, as a truncated core does.
fn unpack(path: &Path, mut from: impl Read) -> io::Result<File> {
    let (file, dir) = nameless_file()?;
    let mut buf = vec![0; CHUNK];
    let (mut length, mut written) = (0u64, 0u64);
    let mut told = Instant::now();
    loop {
        let n = match fill(&mut from, &mut buf) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if length > 0 => {
                tracing::warn!(
                    "{}: the compressed stream breaks off after {length} bytes: {error}",
                    path.display()
                );
                break;
            }
            Err(error) => return Err(error),
        };
        let chunk = buf.get(..n).unwrap_or_default();
        if chunk.iter().any(|&b| b != 0) {
            file.write_all_at(chunk, length).map_err(|e| {
                io::Error::new(
                    e.kind(),
                    format!("{} is full? {e} (TMPDIR names another place)", dir.display()),
                )
            })?;
            written += n as u64;
        }
        length += n as u64;
        if written > WRITTEN_MAX || length > LENGTH_MAX {
            let text = format!("it unpacks to more than {length} bytes: unpack it by hand if that is true");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        if told.elapsed() > Duration::from_secs(1) {
            told = Instant::now();
            tracing::info!("unpacking {}: {} MiB", path.display(), length >> 20);
        }
    }
    file.set_len(length)?;
    tracing::debug!("unpacked {} to {length} bytes in {}", path.display(), dir.display());
    Ok(file)
}

/// Reads until `buf` is full or the stream ends, so that zeros are found by chunk.
/// Bytes that came before an error are given first.
fn fill(from: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|r| !r.is_empty()) {
        match from.read(rest) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) if done > 0 => break,
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

fn nameless_file() -> io::Result<(File, PathBuf)> {
    let dir = std::env::var_os("TMPDIR").map_or_else(
        // /tmp is often memory; a core does not belong there.
        || if Path::new("/var/tmp").is_dir() { PathBuf::from("/var/tmp") } else { std::env::temp_dir() },
        PathBuf::from,
    );
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    if let Ok(file) = options.clone().custom_flags(O_TMPFILE).open(&dir) {
        return Ok((file, dir));
    }
    // The file system knows no O_TMPFILE: make one and take its name away.
    for attempt in 0..16 {
        let path = dir.join(format!(".corestub-{}-{attempt}", std::process::id()));
        match options.clone().create_new(true).open(&path) {
            Ok(file) => {
                std::fs::remove_file(&path)?;
                return Ok((file, dir));
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(io::Error::new(e.kind(), format!("in {}: {e}", dir.display()))),
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("no free name in {}", dir.display())))
}
