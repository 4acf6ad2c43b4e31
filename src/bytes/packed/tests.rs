//! Files packed by writers that share nothing with the readers of indexes here.
#![allow(clippy::cast_possible_truncation, reason = "sizes of test data")]

use std::io::Write;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::bytes::source::InMemory;

/// What compresses, with a hole of zeros.
static CONTENT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let noise = |i: u32| (i.wrapping_mul(0x9e37_79b9) >> 13).wrapping_mul(i | 1) >> 7;
    let mut bytes: Vec<u8> = (0..400_000).map(|i| if i % 4 == 0 { 5 } else { noise(i) as u8 }).collect();
    bytes[130_000..260_000].fill(0);
    bytes
});

fn pack(packing: Packing, bytes: &[u8]) -> Vec<u8> {
    match packing {
        Packing::Gzip => {
            let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            to.write_all(bytes).unwrap();
            to.finish().unwrap()
        }
        Packing::Xz => xz(bytes, None),
        Packing::Bzip2 => {
            let mut to = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            to.write_all(bytes).unwrap();
            to.finish().unwrap()
        }
        Packing::Zstd => zstd::encode_all(bytes, 1).unwrap(),
        Packing::Lz4 => {
            let small = lz4_flex::frame::FrameInfo::new().block_size(lz4_flex::frame::BlockSize::Max64KB);
            let mut to = lz4_flex::frame::FrameEncoder::with_frame_info(small, Vec::new());
            to.write_all(bytes).unwrap();
            to.finish().unwrap()
        }
        Packing::Zlib => {
            let mut to = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
            to.write_all(bytes).unwrap();
            to.finish().unwrap()
        }
        Packing::Snappy => unreachable!(),
    }
}

fn xz(bytes: &[u8], block: Option<u64>) -> Vec<u8> {
    let mut options = lzma_rust2::XzOptions::with_preset(0);
    // A block is a dictionary at least.
    options.lzma_options.dict_size = 1 << 15;
    options.set_block_size(block.and_then(std::num::NonZeroU64::new));
    let mut to = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    to.write_all(bytes).unwrap();
    to.finish().unwrap()
}

/// Blocks as bgzip writes them.
fn bgzf(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in bytes.chunks(60_000).chain([&[][..]]) {
        let mut to = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        to.write_all(chunk).unwrap();
        let data = to.finish().unwrap();
        let mut crc = flate2::Crc::new();
        crc.update(chunk);
        out.extend(b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x06\0BC\x02\0");
        out.extend((data.len() as u16 + 25).to_le_bytes());
        out.extend(data);
        out.extend(crc.sum().to_le_bytes());
        out.extend((chunk.len() as u32).to_le_bytes());
    }
    out
}

/// Frames and a table of them, with checksums or without.
fn seekable(bytes: &[u8], frame: usize, checksums: bool) -> Vec<u8> {
    let (mut out, mut table, mut frames) = (Vec::new(), Vec::new(), 0u32);
    for chunk in bytes.chunks(frame) {
        let mut to = zstd::bulk::Compressor::new(1).unwrap();
        to.include_checksum(true).unwrap();
        let packed = to.compress(chunk).unwrap();
        table.extend((packed.len() as u32).to_le_bytes());
        table.extend((chunk.len() as u32).to_le_bytes());
        if checksums {
            table.extend([0; 4]);
        }
        out.extend(packed);
        frames += 1;
    }
    out.extend(0x184d_2a5e_u32.to_le_bytes());
    out.extend((table.len() as u32 + 9).to_le_bytes());
    out.extend(table);
    out.extend(frames.to_le_bytes());
    out.push(if checksums { 0x80 } else { 0 });
    out.extend(0x8f92_eab1_u32.to_le_bytes());
    out
}

struct Bench {
    dir: tempfile::TempDir,
    how: Unpack,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("cache");
        std::fs::create_dir(&cache).unwrap();
        Self { dir, how: Unpack { folder: Some(cache), ..Unpack::default() } }
    }

    fn open(&self, bytes: &[u8]) -> Result<Arc<dyn Source>> {
        let path = self.dir.path().join("dump");
        std::fs::write(&path, bytes).unwrap();
        open(&path, &self.how)
    }

    fn cached(&self) -> Vec<PathBuf> {
        let dir = self.how.folder.as_ref().unwrap();
        let mut all: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
        all.sort();
        all
    }
}

const STREAMS: [Packing; 5] = [Packing::Gzip, Packing::Xz, Packing::Bzip2, Packing::Zstd, Packing::Lz4];

fn same(source: &dyn Source, content: &[u8]) {
    assert_eq!(source.len(), content.len() as u64);
    assert!(*source.bytes(0, content.len()).unwrap() == *content);
    for at in [0, 65_279, 129_999, content.len() - 5] {
        let mut buf = [0; 5];
        source.read_exact_at(at as u64, &mut buf).unwrap();
        assert_eq!(buf, content[at..at + 5]);
    }
    assert_eq!(source.read_at(content.len() as u64, &mut [0; 4]).unwrap(), 0);
}

#[test]
fn a_zlib_stream_is_taken_for_limes_alone() {
    let bench = Bench::new();
    let other = pack(Packing::Zlib, &CONTENT);
    assert_eq!(Packing::of(&other), None);
    same(&*bench.open(&other).unwrap(), &other);
    let content = [&b"EMiL"[..], &CONTENT[..]].concat();
    let mut lime = pack(Packing::Zlib, &content);
    // LiME has a window of 2 KiB.
    lime[..2].copy_from_slice(b"\x38\x8d");
    assert_eq!(Packing::of(&lime), Some(Packing::Zlib));
    same(&*bench.open(&lime).unwrap(), &content);
}

#[test]
fn streams_are_unpacked_once_and_found_again() {
    let content = &*CONTENT;
    for packing in STREAMS {
        let bench = Bench::new();
        let packed = pack(packing, content);
        assert_eq!(Packing::of(&packed), Some(packing));
        let source = bench.open(&packed).unwrap();
        same(&*source, content);
        assert_eq!((source.damage(), source.trouble()), (None, None));
        let [cached] = &bench.cached()[..] else { panic!("{:?}", bench.cached()) };
        // What is taken the second time is that file: not unpacked again.
        let mut other = content.clone();
        other[7] ^= 1;
        std::fs::write(cached, &other).unwrap();
        same(&*open(&bench.dir.path().join("dump"), &bench.how).unwrap(), &other);
        // Another dump under the same name is unpacked.
        other.truncate(300_000);
        same(&*bench.open(&pack(packing, &other)).unwrap(), &other);
        assert_eq!(bench.cached().len(), 2);
        assert!(head(&bench.dir.path().join("dump"), 100).unwrap() == other[..100]);
    }
}

#[test]
fn files_of_the_cache_are_private_and_sparse() {
    use std::os::unix::fs::MetadataExt;

    let bench = Bench::new();
    let mut content = vec![0; 8 << 20];
    content[7 << 20] = 1;
    same(&*bench.open(&pack(Packing::Zstd, &content)).unwrap(), &content);
    let meta = std::fs::metadata(&bench.cached()[0]).unwrap();
    assert_eq!(meta.mode() & 0o777, 0o600);
    assert!(meta.blocks() * 512 < 1 << 20);
}

#[test]
fn a_stream_that_breaks_off_gives_what_came_before_each_time() {
    let content = &*CONTENT;
    for packing in STREAMS {
        let bench = Bench::new();
        let packed = pack(packing, content);
        let cut = &packed[..packed.len() / 10 * 9];
        for source in [bench.open(cut).unwrap(), open(&bench.dir.path().join("dump"), &bench.how).unwrap()] {
            let len = usize::try_from(source.len()).unwrap();
            assert!(len < content.len(), "{packing:?}");
            assert!(*source.bytes(0, len).unwrap() == content[..len], "{packing:?}");
            assert!(source.damage().unwrap().contains("breaks off after"), "{packing:?}");
        }
        assert!(bench.open(&packed[..10]).is_err(), "{packing:?}");
    }
}

#[test]
fn no_bomb_fills_the_disk() {
    let mut bench = Bench::new();
    bench.how.limit = 200_000;
    for packing in STREAMS {
        let error = bench.open(&pack(packing, &CONTENT)).err().unwrap();
        let why = std::error::Error::source(&error).unwrap().to_string();
        assert!(why.contains("--unpack-limit"), "{why}");
        assert_eq!(bench.cached(), Vec::<PathBuf>::new());
    }
    // Zeros are free.
    let zeros = vec![0; 10 << 20];
    same(&*bench.open(&pack(Packing::Gzip, &zeros)).unwrap(), &zeros);
}

#[test]
fn indexed_files_are_read_in_parts() {
    let content = &*CONTENT;
    let two_streams =
        [xz(&content[..150_000], Some(40_000)), vec![0; 8], xz(&content[150_000..], Some(1 << 16))];
    for packed in [
        bgzf(content),
        seekable(content, 50_000, false),
        seekable(content, 70_000, true),
        xz(content, Some(1 << 15)),
        two_streams.concat(),
    ] {
        let bench = Bench::new();
        let source = bench.open(&packed).unwrap();
        same(&*source, content);
        assert_eq!(bench.cached(), Vec::<PathBuf>::new(), "{:x?} is not unpacked", &packed[..32]);
        // A byte that is wrong costs its part, not the others: whatever part it is of.
        let mut damaged = packed.clone();
        damaged[packed.len() / 2] ^= 0x55;
        let source = bench.open(&damaged).unwrap();
        if bench.cached().is_empty() {
            let read = |at: usize| source.bytes(at as u64, 1).map(|b| b[0]);
            let lost = (0..content.len()).step_by(4096).filter(|&at| read(at).is_err()).count();
            assert!((1..content.len() / 4096).contains(&lost), "{lost}");
            assert!(
                (0..content.len())
                    .step_by(4096)
                    .all(|at| read(at).is_err() || read(at).unwrap() == content[at])
            );
        }
        // Without its end there is no index: the stream is unpacked.
        let cut = bench.open(&packed[..packed.len() - 40]).unwrap();
        assert!(!bench.cached().is_empty() && !cut.is_empty());
    }
}

/// Zeros without end but for a front and a tail; counts what is read of it.
struct Hole {
    front: Vec<u8>,
    tail: Vec<u8>,
    len: u64,
    read: std::sync::atomic::AtomicU64,
}

impl Source for Hole {
    fn path(&self) -> &Path {
        Path::new("hole")
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.len.saturating_sub(offset).min(buf.len() as u64) as usize;
        self.read.fetch_add(n as u64, std::sync::atomic::Ordering::Relaxed);
        for (byte, at) in buf[..n].iter_mut().zip(offset..) {
            let tail = at.checked_sub(self.len - self.tail.len() as u64);
            let there = tail.map_or(self.front.get(at as usize), |at| self.tail.get(at as usize));
            *byte = there.copied().unwrap_or(0);
        }
        Ok(n)
    }
}

#[test]
fn a_hole_is_no_index_and_is_not_read_through() {
    let hole =
        |front: &[u8], tail: Vec<u8>| Hole { front: front.to_vec(), tail, len: 1 << 28, read: 0.into() };
    let read = |hole: &Hole| hole.read.load(std::sync::atomic::Ordering::Relaxed);
    // Padding behind a stream of xz.
    let xz = hole(&xz(b"x", None), Vec::new());
    assert!(xz_index::index(&xz).is_none());
    assert!(read(&xz) < 4 << 20, "{}", read(&xz));
    // A table of frames that hold nothing, nearly as large as the file.
    let frames = (1u32 << 28) / 8 - 16;
    let mut tail = [0x184d_2a5e, frames * 8 + 9].map(u32::to_le_bytes).concat();
    tail.resize(8 + frames as usize * 8, 0);
    tail.extend([&frames.to_le_bytes()[..], &[0], &0x8f92_eab1u32.to_le_bytes()].concat());
    let zstd = hole(b"\x28\xb5\x2f\xfd", tail);
    assert!(seekable_zstd::index(&zstd).is_none());
    assert!(read(&zstd) < 4096, "{}", read(&zstd));
}

#[test]
fn large_parts_are_unpacked_once() {
    let bench = Bench::new();
    let content: Vec<u8> = CONTENT.iter().cycle().take(7 << 20).copied().collect();
    let source = bench.open(&seekable(&content, 3 << 20, false)).unwrap();
    same(&*source, &content);
    assert_eq!(bench.cached(), Vec::<PathBuf>::new(), "a file without a name");
    std::fs::write(bench.dir.path().join("dump"), b"gone").unwrap();
    same(&*source, &content);
}

#[test]
fn pipes_are_copied_or_unpacked() {
    let bench = Bench::new();
    let content = &*CONTENT;
    for bytes in [content.clone(), pack(Packing::Gzip, content)] {
        let source = from_pipe(Path::new("-"), &bytes[..], &bench.how).unwrap();
        same(&*source, content);
        assert_eq!((source.trouble(), source.identity()), (None, None));
    }
    assert!(from_pipe(Path::new("-"), &b""[..], &bench.how).is_err());
    assert_eq!(bench.cached(), Vec::<PathBuf>::new());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn mutated_files_are_survived(which in 0usize..8, at in any::<prop::sample::Index>(), to in any::<[u8; 4]>(), cut in any::<prop::sample::Index>()) {
        let content = &CONTENT[..60_000];
        let mut packed = match which {
            5 => bgzf(content),
            6 => seekable(content, 9_000, true),
            7 => xz(content, Some(1 << 13)),
            n => pack(STREAMS[n], content),
        };
        // The ends are where indexes are.
        let at = at.index(packed.len() - 4);
        let at = if at % 2 == 0 { packed.len() - 4 - at % 60 } else { at };
        packed[at..at + 4].copy_from_slice(&to);
        if at % 3 == 0 {
            packed.truncate(cut.index(packed.len()) + 1);
        }
        let bench = Bench::new();
        let source: Arc<dyn Source> = Arc::new(InMemory::new("dump", packed));
        if let Ok(source) = unwrap(source, &bench.how) {
            let mut buf = [0; 4096];
            for at in [0, 30_000, 59_999, source.len().wrapping_sub(1), u64::MAX] {
                let _ = source.read_at(at, &mut buf);
            }
        }
    }
}
