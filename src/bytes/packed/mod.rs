//! Files that were compressed as a whole: gzip, xz, bzip2, zstd, lz4, and zlib by LiME itself.
//!
//! A dump is read by offset, a compressed file from front to back. Where its format has an
//! index of parts that were compressed alone, the parts that are asked for are unpacked
//! ([`parts`]): bgzip's blocks, xz with blocks (`xz -T0`), seekable zstd. All others are
//! unpacked once into the cache folder ([`cache`]), where the next opening finds them.
//!
//! What comes through a pipe (`-`, `<(...)`) is unpacked or copied there, too, into a file
//! that vanishes with us.
//!
//! A stream that breaks off gives what came before, and [`Source::damage`] says so.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod bgzf;
mod cache;
pub(crate) mod parts;
mod seekable_zstd;
pub(crate) mod snappy;
mod xz_index;

use super::served;
use super::source::{Reader, Source};
use crate::error::{Error, Result};

/// What a stream may need of memory to be unpacked: zstd's window, xz's dictionary. More
/// is asked for by `zstd --long=28` and beyond only.
const WINDOW_LOG: u32 = 27;
const XZ_MEMORY_KIB: u32 = 192 << 10;
/// Wrappers in wrappers.
const DEPTH: usize = 3;
/// Bytes by which a wrapper is known; zlib's first block may begin with its codes.
const HEAD: usize = 1024;

/// How much may be unpacked, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpack {
    /// Bytes on the disk: runs of zeros take no place.
    pub limit: u64,
    /// Where to; `None` is the user's cache folder.
    pub folder: Option<PathBuf>,
}

impl Default for Unpack {
    fn default() -> Self {
        Self { limit: 64 << 30, folder: None }
    }
}

/// By what a file was compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// gzip, pigz, bgzip.
    Gzip,
    /// xz.
    Xz,
    /// bzip2.
    Bzip2,
    /// zstd.
    Zstd,
    /// lz4's frames.
    Lz4,
    /// A zlib stream: `insmod lime.ko ... compress=1`.
    Zlib,
    /// snappy's frames: never a whole file, but AVML's ranges.
    Snappy,
}

impl Packing {
    /// By the first bytes of a file.
    #[must_use]
    pub fn of(head: &[u8]) -> Option<Self> {
        const SIGNATURES: [(&[u8], Packing); 6] = [
            (b"\x1f\x8b\x08", Packing::Gzip),
            (b"\xfd7zXZ\0", Packing::Xz),
            (b"\x28\xb5\x2f\xfd", Packing::Zstd),
            (b"\x04\x22\x4d\x18", Packing::Lz4),
            // The frames of lz4 -l.
            (b"\x02\x21\x4c\x18", Packing::Lz4),
            (b"BZh", Packing::Bzip2),
        ];
        let Some(&(_, found)) = SIGNATURES.iter().find(|(magic, _)| head.starts_with(magic)) else {
            return zlib_of_lime(head).then_some(Self::Zlib);
        };
        // Three letters are little: its block size and its first block's mark follow.
        let bzip2 = || matches!(head.get(3..10), Some([b'1'..=b'9', mark @ ..]) if *mark == *b"\x31\x41\x59\x26\x53\x59");
        (found != Self::Bzip2 || bzip2()).then_some(found)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Bzip2 => "bzip2",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
            Self::Zlib => "zlib",
            Self::Snappy => "snappy",
        }
    }

    /// What is in `from`.
    fn unpacked<'a>(self, from: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(from)),
            Self::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(buffered(from), true, XZ_MEMORY_KIB)),
            Self::Bzip2 => Box::new(bzip2::read::MultiBzDecoder::new(from)),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::new(from)?;
                decoder.window_log_max(WINDOW_LOG)?;
                Box::new(decoder)
            }
            Self::Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(buffered(from))),
            Self::Zlib => Box::new(flate2::read::ZlibDecoder::new(from)),
            Self::Snappy => Box::new(snap::read::FrameDecoder::new(from)),
        })
    }
}

/// Two bytes are no signature: what they unpack to must begin as LiME's files do.
fn zlib_of_lime(head: &[u8]) -> bool {
    let check = head.first_chunk().map(|word| u16::from_be_bytes(*word));
    let mut first = [0; 4];
    check.is_some_and(|word| word & 0x8f20 == 0x0800 && word % 31 == 0)
        && flate2::read::ZlibDecoder::new(head).read_exact(&mut first).is_ok()
        && &first == b"EMiL"
}

/// For decoders that read a few bytes at once.
fn buffered<R: Read>(from: R) -> io::BufReader<R> {
    io::BufReader::with_capacity(1 << 18, from)
}

/// Opens the dump at `path`, whatever it is compressed by; `-` is stdin.
///
/// # Errors
/// It cannot be read, unpacked, or there is no room.
pub fn open(path: &Path, how: &Unpack) -> Result<Arc<dyn Source>> {
    let cannot = |e| Error::io("open", path, e);
    let source = if path == Path::new("-") {
        from_pipe(path, io::stdin().lock(), how)?
    } else if std::fs::metadata(path).map_err(cannot)?.file_type().is_fifo() {
        from_pipe(path, File::open(path).map_err(cannot)?, how)?
    } else {
        served::open_dump(path)?
    };
    unwrap(source, how)
}

/// What is in `source`, if that is a compressed file; else itself.
///
/// # Errors
/// As [`open`].
pub fn unwrap(mut source: Arc<dyn Source>, how: &Unpack) -> Result<Arc<dyn Source>> {
    for _ in 0..DEPTH {
        let head = source.bytes_up_to(0, HEAD).map_err(|e| Error::io("read", source.path(), e))?;
        let Some(packing) = Packing::of(&head) else { break };
        drop(head);
        source = unpack(&source, packing, how)?;
    }
    Ok(source)
}

/// The first bytes of what is in the file at `path`, without unpacking more of it, and
/// without touching a pipe.
#[must_use]
pub fn head(path: &Path, len: usize) -> Option<Vec<u8>> {
    let source = served::open_dump(path).ok()?;
    let head = source.bytes_up_to(0, HEAD).ok()?;
    let mut out = Vec::new();
    match Packing::of(&head) {
        None => out.extend_from_slice(&source.bytes_up_to(0, len).ok()?),
        Some(packing) => {
            let all = Reader::new(Arc::clone(&source), 0..u64::MAX);
            // What breaks off has a front, too.
            let _ = packing.unpacked(all).ok()?.take(len as u64).read_to_end(&mut out);
        }
    }
    Some(out)
}

fn unpack(source: &Arc<dyn Source>, packing: Packing, how: &Unpack) -> Result<Arc<dyn Source>> {
    let index = match packing {
        Packing::Gzip => bgzf::index(&**source),
        Packing::Xz => xz_index::index(&**source),
        Packing::Zstd => seekable_zstd::index(&**source),
        Packing::Bzip2 | Packing::Lz4 | Packing::Zlib | Packing::Snappy => None,
    };
    let cannot = |e| Error::io("unpack", source.path(), e);
    if let Some(index) = index.filter(|index| index.parts.len() > 1)
        && let Some(parts) = parts::Parts::open(Arc::clone(source), index, how).map_err(cannot)?
    {
        return Ok(Arc::new(parts));
    }
    cache::unpacked(source, packing, how).map_err(cannot)
}

/// Everything that a pipe gives, unpacked if it is compressed.
fn from_pipe(path: &Path, mut pipe: impl Read, how: &Unpack) -> Result<Arc<dyn Source>> {
    let cannot = |e| Error::io("read", path, e);
    let mut head = Vec::new();
    pipe.by_ref().take(HEAD as u64).read_to_end(&mut head).map_err(cannot)?;
    if head.is_empty() {
        let (what, hint) = ("an empty stream".to_owned(), "nothing came through the pipe");
        return Err(Error::Unsupported { path: path.to_owned(), what, hint });
    }
    let packing = Packing::of(&head);
    let all = io::Cursor::new(head).chain(pipe);
    let from = match packing {
        Some(packing) => packing.unpacked(all).map_err(cannot)?,
        None => Box::new(all),
    };
    cache::copied(path, from, how).map_err(cannot)
}

/// An unpacked stream, and where it broke off.
struct Broken {
    source: Arc<dyn Source>,
    damage: String,
}

impl Source for Broken {
    fn path(&self) -> &Path {
        self.source.path()
    }

    fn len(&self) -> u64 {
        self.source.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.source.read_at(offset, buf)
    }

    fn peek_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.source.peek_at(offset, buf)
    }

    fn damage(&self) -> Option<String> {
        Some(self.damage.clone())
    }

    fn trouble(&self) -> Option<String> {
        self.source.trouble()
    }
}

#[cfg(test)]
mod tests;
