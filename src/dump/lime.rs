//! LiME's and AVML's images: runs of memory, one behind the other.
//!
//! ```text
//!  0   u32 "EMiL" (LiME) or "AVML", u32 version 1 or 2
//!  8   u64 first byte, u64 last byte, u64 0
//!  32  memory; "AVML": snappy frames, and behind them u64 how many bytes they are
//! ```
//!
//! Sources: LiME `doc/README.md` (`lime_mem_range_header`), AVML `src/image.rs`. AVML's
//! version 1 is LiME's. Snappy frames hold 64 KiB each and are unpacked alone, with their
//! checksum, so that the image is read by offset ([`parts`](crate::bytes::packed::parts)).

use std::sync::Arc;

use super::extents::{Extent, Extents};
use super::notes::Notes;
use super::{Form, Memory};
use crate::bytes::packed::Unpack;
use crate::bytes::packed::parts::{Collector, Parts};
use crate::bytes::packed::snappy;
use crate::bytes::source::Source;
use crate::bytes::{u32_at, u64_at};
use crate::error::{Error, Result};

const HEADER: u64 = 32;
/// More ranges than this are noise: a machine has tens, AVML cuts them at 16 MiB.
const RANGES_MAX: usize = 1 << 20;

/// The image.
pub(super) struct Lime {
    /// In the memory, unpacked.
    extents: Extents,
    packed: bool,
    /// Where it breaks off.
    broken: Option<String>,
}

/// The header of a range.
struct Header {
    packed: bool,
    start: u64,
    len: u64,
}

impl Header {
    fn parse(raw: &[u8]) -> Option<Self> {
        let packed = match (raw.get(..4)?, u32_at(raw, 4)?) {
            (b"EMiL", 1) => false,
            (b"AVML", 2) => true,
            _ => return None,
        };
        let (start, last) = (u64_at(raw, 8)?, u64_at(raw, 16)?);
        let len = last.checked_sub(start)?.checked_add(1)?;
        start.checked_add(len)?;
        Some(Self { packed, start, len })
    }
}

impl Lime {
    /// Whether `head` begins like one.
    pub(super) fn is_lime(head: &[u8]) -> bool {
        head.starts_with(b"EMiL") || head.starts_with(b"AVML")
    }

    /// Finds the ranges of `source`.
    pub(super) fn open(source: Arc<dyn Source>) -> Result<Self> {
        let path = source.path();
        let (mut at, mut stored, mut parts) = (0, Vec::new(), Collector::default());
        let mut packed = false;
        let broken = loop {
            if at == source.len() {
                break None;
            }
            let mut raw = [0; 32];
            let header = match source.read_exact_at(at, &mut raw) {
                Ok(()) => Header::parse(&raw).filter(|h| stored.is_empty() || h.packed == packed),
                Err(_) => None,
            };
            let Some(header) = header else {
                if stored.is_empty() {
                    let found = raw.get(..8).unwrap_or_default().escape_ascii().to_string();
                    return Err(Error::Malformed {
                        path: path.to_owned(),
                        format: "LiME or AVML image",
                        offset: at,
                        wanted: "`EMiL` version 1 or `AVML` version 2, and a range of memory",
                        found,
                    });
                }
                break Some(format!(
                    "{} has no range of memory at {at:#x}: what follows is lost",
                    path.display()
                ));
            };
            packed = header.packed;
            if stored.len() >= RANGES_MAX {
                break Some(format!("{} has more than {RANGES_MAX} ranges", path.display()));
            }
            let data = at + HEADER;
            if !packed {
                stored.push(Extent { start: header.start, len: header.len, offset: data });
                let Some(next) = data.checked_add(header.len).filter(|&next| next <= source.len()) else {
                    break Some(format!("{} breaks off within the range at {at:#x}", path.display()));
                };
                at = next;
                continue;
            }
            let offset = parts.unpacked();
            let end = snappy::frames(&*source, data, header.len, &mut parts);
            let len = (parts.unpacked() - offset).min(header.len);
            stored.push(Extent { start: header.start, len, offset });
            match end {
                Some(end) if len == header.len => at = end + 8,
                _ => break Some(format!("{} breaks off within the range at {at:#x}", path.display())),
            }
        };
        let source: Arc<dyn Source> = if packed {
            let index = snappy::index(parts);
            match Parts::open(Arc::clone(&source), index, &Unpack::default()) {
                Ok(Some(parts)) => Arc::new(parts),
                Ok(None) => {
                    return Err(Error::Malformed {
                        path: path.to_owned(),
                        format: "AVML image",
                        offset: HEADER,
                        wanted: "snappy frames of at most 64 KiB",
                        found: "none".to_owned(),
                    });
                }
                Err(e) => return Err(Error::io("read", path, e)),
            }
        } else {
            source
        };
        Ok(Self { extents: Extents::all(source, stored), packed, broken })
    }
}

impl Form for Lime {
    fn name(&self) -> String {
        if self.packed { "AVML (snappy)" } else { "LiME" }.to_owned()
    }

    fn notes(&self) -> Notes {
        Notes::default()
    }

    fn incomplete(&self) -> Option<String> {
        self.broken.clone()
    }

    fn memory(&self) -> &dyn Memory {
        &self.extents
    }
}

#[cfg(test)]
#[path = "lime_tests.rs"]
mod tests;
