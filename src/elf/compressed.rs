//! Sections that are compressed: `Elf64_Chdr` and the stream behind it.

use std::io::Read;

use object::LittleEndian as LE;
use object::elf::{CompressionHeader64, ELFCOMPRESS_ZLIB, ELFCOMPRESS_ZSTD};
use object::pod::from_bytes;

use super::DATA_MAX;

/// Compressed sections may grow by this factor; zlib's limit is about 1030.
const EXPANSION_MAX: u64 = 1100;

/// The contents, or what is wrong with them.
pub(super) fn decompress(raw: &[u8]) -> Result<Vec<u8>, String> {
    let Ok((header, stream)) = from_bytes::<CompressionHeader64<LE>>(raw) else {
        return Err("a cut compression header".into());
    };
    let size = header.ch_size.get(LE);
    if size > DATA_MAX || size / EXPANSION_MAX > stream.len() as u64 {
        // zstd can do better than zlib on long runs, but debug sections do not.
        return Err(format!("a size of {size:#x} from {:#x} bytes", stream.len()));
    }
    let mut out = Vec::new();
    match header.ch_type.get(LE) {
        ELFCOMPRESS_ZLIB => flate2::read::ZlibDecoder::new(stream).take(size).read_to_end(&mut out),
        ELFCOMPRESS_ZSTD => zstd::stream::read::Decoder::with_buffer(stream)
            .and_then(|decoder| decoder.take(size).read_to_end(&mut out)),
        other => return Err(format!("compression {}", other.0)),
    }
    .map_err(|error| error.to_string())?;
    if out.len() as u64 != size {
        return Err(format!("{:#x} bytes instead of {size:#x}", out.len()));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compressed(kind: u32, size: u64, stream: &[u8]) -> Vec<u8> {
        let mut out = [kind, 0].iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>();
        out.extend([size, 1].iter().flat_map(|w| w.to_le_bytes()));
        out.extend_from_slice(stream);
        out
    }

    #[test]
    fn compressed_sections_of_both_kinds() {
        let plain = b"debug info ".repeat(100);
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut zlib, &plain).unwrap();
        let zlib = zlib.finish().unwrap();
        let zstd = zstd::stream::encode_all(&plain[..], 3).unwrap();
        let size = plain.len() as u64;
        assert_eq!(decompress(&compressed(1, size, &zlib)).unwrap(), plain);
        assert_eq!(decompress(&compressed(2, size, &zstd)).unwrap(), plain);
        assert!(decompress(&compressed(2, size + 1, &zstd)).unwrap_err().contains("instead of"));
        assert!(decompress(&compressed(1, 1 << 40, &zlib)).unwrap_err().contains("a size of"));
        assert!(decompress(&compressed(7, size, &zlib)).unwrap_err().contains("compression 7"));
        assert!(decompress(&[1, 0, 0]).is_err());
    }
}
