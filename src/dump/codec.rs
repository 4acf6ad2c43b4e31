//! Decompression of single pages.
//!
//! Every page of a kdump file is compressed alone. Contexts (zstd's and zlib's
//! are 50 to 200 KB and slow to make) are pooled: as many exist as clients ever
//! decoded at the same moment.
//!
//! LZO and snappy carry no checksum, so a damaged page may decode to something:
//! the least one can ask is that the result is exactly one page.

use std::sync::{Mutex, PoisonError};

use flate2::{Decompress, FlushDecompress, Status};

use super::page_cache::PAGE_BYTES;

/// How a page is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Codec {
    /// As it is.
    Raw,
    /// zlib stream.
    Zlib,
    /// LZO1X block.
    Lzo,
    /// Raw snappy block.
    Snappy,
    /// One zstd frame.
    Zstd,
}

impl Codec {
    /// From the flags of a page descriptor (`DUMP_DH_COMPRESSED_*` in
    /// makedumpfile's `diskdump_mod.h`). `None` for none that is known.
    pub(super) fn from_flags(flags: u32) -> Option<Self> {
        match flags {
            0 => Some(Self::Raw),
            0x1 => Some(Self::Zlib),
            0x2 => Some(Self::Lzo),
            0x4 => Some(Self::Snappy),
            0x20 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// The name a person knows it by.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Zlib => "zlib",
            Self::Lzo => "lzo",
            Self::Snappy => "snappy",
            Self::Zstd => "zstd",
        }
    }
}

#[derive(Default)]
struct Contexts {
    zlib: Option<Decompress>,
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

/// Decoders, shared by all clients.
#[derive(Default)]
pub(super) struct Decoders {
    idle: Mutex<Vec<Contexts>>,
}

impl Decoders {
    /// Decodes `data` into exactly one page. `None` if it does not.
    pub(super) fn decode(&self, codec: Codec, data: &[u8], page: &mut [u8; PAGE_BYTES]) -> Option<()> {
        let n = match codec {
            Codec::Raw => {
                page.copy_from_slice(data.get(..).filter(|d| d.len() == PAGE_BYTES)?);
                PAGE_BYTES
            }
            Codec::Lzo => lzokay::decompress::decompress(data, page).ok()?,
            Codec::Snappy => {
                // A length that is wrong is known before any work.
                if snap::raw::decompress_len(data).ok()? != PAGE_BYTES {
                    return None;
                }
                snap::raw::Decoder::new().decompress(data, page).ok()?
            }
            Codec::Zlib | Codec::Zstd => {
                let mut contexts =
                    self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
                let n = match codec {
                    Codec::Zlib => {
                        inflate(contexts.zlib.get_or_insert_with(|| Decompress::new(true)), data, page)
                    }
                    _ => unzstd(&mut contexts.zstd, data, page),
                };
                self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(contexts);
                n?
            }
        };
        (n == PAGE_BYTES).then_some(())
    }
}

fn inflate(zlib: &mut Decompress, data: &[u8], page: &mut [u8]) -> Option<usize> {
    zlib.reset(true);
    // A truncated stream is `Ok` with another status.
    let status = zlib.decompress(data, page, FlushDecompress::Finish).ok()?;
    (status == Status::StreamEnd).then(|| usize::try_from(zlib.total_out()).ok()).flatten()
}

fn unzstd(
    zstd: &mut Option<zstd::bulk::Decompressor<'static>>,
    data: &[u8],
    page: &mut [u8],
) -> Option<usize> {
    let context = match zstd {
        Some(context) => context,
        None => zstd.insert(zstd::bulk::Decompressor::new().ok()?),
    };
    context.decompress_to_buffer(data, page).ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    #[allow(clippy::cast_possible_truncation, reason = "a pattern")]
    fn page() -> [u8; PAGE_BYTES] {
        std::array::from_fn(|i| ((i * i) >> 7) as u8)
    }

    fn packed(codec: Codec) -> Vec<u8> {
        let page = page();
        match codec {
            Codec::Raw => page.to_vec(),
            Codec::Zlib => {
                let mut e = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
                e.write_all(&page).unwrap();
                e.finish().unwrap()
            }
            Codec::Lzo => lzokay::compress::compress(&page).unwrap(),
            Codec::Snappy => snap::raw::Encoder::new().compress_vec(&page).unwrap(),
            Codec::Zstd => zstd::bulk::compress(&page, 1).unwrap(),
        }
    }

    const ALL: [Codec; 5] = [Codec::Raw, Codec::Zlib, Codec::Lzo, Codec::Snappy, Codec::Zstd];

    #[test]
    fn every_codec_gives_the_page_back_and_contexts_are_reused() {
        let decoders = Decoders::default();
        for codec in ALL.into_iter().chain(ALL) {
            let mut out = [0; PAGE_BYTES];
            assert_eq!(decoders.decode(codec, &packed(codec), &mut out), Some(()), "{codec:?}");
            assert!(out == page(), "{codec:?}");
        }
        assert_eq!(decoders.idle.lock().unwrap().len(), 1);
    }

    #[test]
    fn cut_or_long_pages_are_refused() {
        let decoders = Decoders::default();
        let mut out = [0; PAGE_BYTES];
        for codec in ALL {
            let whole = packed(codec);
            for cut in [0, 1, whole.len() / 2, whole.len() - 1] {
                assert_eq!(decoders.decode(codec, &whole[..cut], &mut out), None, "{codec:?} cut to {cut}");
            }
        }
        let two = [page(), page()].concat();
        assert_eq!(decoders.decode(Codec::Zstd, &zstd::bulk::compress(&two, 1).unwrap(), &mut out), None);
        assert_eq!(
            decoders.decode(Codec::Snappy, &snap::raw::Encoder::new().compress_vec(&two).unwrap(), &mut out),
            None
        );
        assert_eq!(decoders.decode(Codec::Lzo, &lzokay::compress::compress(&two).unwrap(), &mut out), None);
        // and after all that the contexts still work
        assert_eq!(decoders.decode(Codec::Zlib, &packed(Codec::Zlib), &mut out), Some(()));
    }

    proptest! {
        #[test]
        fn mutated_pages_are_survived(which in 0usize..5, at in any::<prop::sample::Index>(), to in any::<u8>(), noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            let decoders = Decoders::default();
            let mut data = packed(ALL[which]);
            let at = at.index(data.len());
            data[at] = to;
            let mut out = [0; PAGE_BYTES];
            let _ = decoders.decode(ALL[which], &data, &mut out);
            let _ = decoders.decode(ALL[which], &noise, &mut out);
        }
    }
}
