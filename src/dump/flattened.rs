//! Flattened dumps: what makedumpfile and QEMU write to a pipe.
//!
//! A pipe cannot seek, so the file is sent as a stream of writes:
//!
//! ```text
//!  0      "makedumpfile\0\0\0\0", i64 type = 1, i64 version = 1, zeros to 4096
//!  4096   i64 offset, i64 size, `size` bytes     the write of a block at an offset
//!  ..     ...
//!  end    i64 -1, i64 -1
//! ```
//!
//! All numbers are big-endian, whatever the machine (makedumpfile `makedumpfile.h`,
//! `struct makedumpfile_header` and `makedumpfile_data_header`; crash
//! `makedumpfile.c`). A later write replaces an earlier one: the header is written
//! again at the end.
//!
//! [`Flattened`] is the file that `makedumpfile -R` would make, without making it: an
//! index of where each write stands in the stream. Making the index walks the
//! stream once, 16 bytes a write; writes have 16 to 64 KiB. A stream that breaks
//! off, as of a dump sent over a network that went down, is read as far as it goes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::mend::blocks::{self, Mended, RECORD_BYTES, Record};
use crate::bytes::array_at;
use crate::bytes::source::Source;
use crate::error::{Error, Result};
use crate::text::few;

/// The first bytes of the stream.
pub(super) const SIGNATURE: &[u8; 16] = b"makedumpfile\0\0\0\0";
/// Where the first write stands.
const HEADER_BYTES: u64 = 4096;
/// More pieces than this would take more memory than putting the file in order takes time.
const PIECES_MAX: usize = 1 << 24;
/// In place of a stream offset: nothing was written here.
const GAP: u64 = u64::MAX;

/// A stream of writes, as the file they make.
pub(super) struct Flattened {
    stream: Arc<dyn Source>,
    /// Sorted `(offset in the file, offset in the stream or GAP)`, each reaching to the
    /// next; the last one is a gap at the end of the file.
    pieces: Vec<(u64, u64)>,
    len: u64,
    /// Where the stream broke off, and blocks whose place is lost.
    broken: Option<String>,
    /// Which headers were put right.
    mended: Option<String>,
}

impl Flattened {
    /// Indexes `stream`.
    pub(super) fn open(stream: Arc<dyn Source>) -> Result<Self> {
        let path = stream.path();
        let bad = |offset: u64, wanted, found| Error::Malformed {
            path: path.to_owned(),
            format: "flattened dump",
            offset,
            wanted,
            found,
        };
        let head = stream.bytes_up_to(0, 32).map_err(|e| Error::io("read", path, e))?;
        let number = |at| array_at(&head, at).map(i64::from_be_bytes);
        if !head.starts_with(SIGNATURE) {
            return Err(bad(0, "`makedumpfile`", "something else".to_owned()));
        }
        if (number(16), number(24)) != (Some(1), Some(1)) {
            let found = format!("{:?} and {:?}", number(16), number(24));
            return Err(bad(16, "type 1 and version 1", found));
        }
        let mut map = BTreeMap::new();
        let mended = blocks::mended(&*stream, HEADER_BYTES);
        let broken = index(&*stream, &mended, &mut map)?;
        if map.is_empty() {
            return Err(bad(HEADER_BYTES, "at least one block", "none".to_owned()));
        }
        let mut pieces = Vec::with_capacity(map.len() + map.len() / 8);
        let mut end = 0;
        for (start, (size, at)) in map {
            if start > end {
                pieces.push((end, GAP));
            }
            pieces.push((start, at));
            end = start + size;
        }
        pieces.push((end, GAP));
        let mended = mended_words(path, &mended);
        Ok(Self { stream, pieces, len: end, broken, mended })
    }

    /// The piece that holds `offset`: where that byte stands in the stream, if anywhere,
    /// and how many follow it.
    fn find(&self, offset: u64) -> Option<(Option<u64>, u64)> {
        let next = self.pieces.partition_point(|p| p.0 <= offset);
        let &(start, at) = self.pieces.get(next.checked_sub(1)?)?;
        let &(end, _) = self.pieces.get(next)?;
        Some(((at != GAP).then(|| at + (offset - start)), end - offset))
    }
}

/// Walks the stream; says where it broke off, if it did, and what is lost.
fn index(
    stream: &dyn Source,
    mended: &Mended,
    map: &mut BTreeMap<u64, (u64, u64)>,
) -> Result<Option<String>> {
    let path = stream.path();
    let mut lost = Vec::new();
    let mut at = HEADER_BYTES;
    let end = loop {
        let record = Record::read(stream, at);
        let (offset, size) = match (mended.get(&at), record) {
            (Some(&(offset, size)), _) => (offset, size),
            (None, None) => break Some(format!("breaks off at {at:#x} without an end mark")),
            (None, Some(Record::End)) => break None,
            (None, Some(Record::Unsound { .. })) => {
                break Some(format!("has no sound block at {at:#x}: what follows is lost"));
            }
            (None, Some(Record::Block { offset, size })) => (Some(offset), size),
        };
        let data = at + RECORD_BYTES;
        // All are below 2^63: no sum overflows.
        let there = size.min(stream.len().saturating_sub(data));
        match offset {
            Some(offset) => write(map, offset, there, data),
            None => lost.push((at, size)),
        }
        if blocks::are_small(map.len(), data) || map.len() > PIECES_MAX {
            return Err(Error::Unsupported {
                path: path.to_owned(),
                what: format!("a flattened dump in so many small blocks ({} in {data:#x} bytes)", map.len()),
                hint: "put it in order first: makedumpfile -R NEW < FLAT",
            });
        }
        if there < size {
            break Some(format!("breaks off at {:#x} within a block", stream.len()));
        }
        at = data + size;
    };
    let lost = few(lost.iter().map(|(at, size)| format!("{at:#x} ({size} bytes)")))
        .map(|blocks| format!("has damaged headers, which do not tell where the blocks at {blocks} belong"));
    let all: Vec<String> =
        [end, lost].into_iter().flatten().map(|what| format!("{} {what}", path.display())).collect();
    Ok((!all.is_empty()).then(|| all.join("; ")))
}

fn mended_words(path: &Path, mended: &Mended) -> Option<String> {
    let right = mended.iter().filter(|(_, (offset, _))| offset.is_some()).map(|(at, _)| format!("{at:#x}"));
    few(right).map(|blocks| {
        format!(
            "{}: the headers of blocks at {blocks} were damaged; what they said is known by the blocks about them",
            path.display()
        )
    })
}

/// Puts `size` bytes at `at` of the stream over what `map` has at `offset`.
fn write(map: &mut BTreeMap<u64, (u64, u64)>, offset: u64, size: u64, at: u64) {
    if size == 0 {
        return;
    }
    let end = offset + size;
    // What begins before and reaches in keeps its front, and its back if it goes beyond.
    if let Some((&start, &(len, from))) = map.range(..offset).next_back()
        && start + len > offset
    {
        map.insert(start, (offset - start, from));
        if start + len > end {
            map.insert(end, (start + len - end, from + (end - start)));
        }
    }
    while let Some((&start, &(len, from))) = map.range(offset..end).next() {
        map.remove(&start);
        if start + len > end {
            map.insert(end, (start + len - end, from + (end - start)));
        }
    }
    map.insert(offset, (size, at));
}

impl Source for Flattened {
    fn path(&self) -> &Path {
        self.stream.path()
    }

    fn len(&self) -> u64 {
        self.len
    }

    /// Where nothing was written there are zeros, as in the file that `-R` makes;
    /// [`Source::holds`] tells them from written ones.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let Some((at, left)) = self.find(offset) else { return Ok(0) };
        let n = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
        let buf = buf.get_mut(..n).unwrap_or_default();
        match at {
            Some(at) => self.stream.read_at(at, buf),
            None => {
                buf.fill(0);
                Ok(n)
            }
        }
    }

    fn slice(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let (at, left) = self.find(offset)?;
        self.stream.slice(at?, usize::try_from(left).map_or(Some(len), |left| (len <= left).then_some(len))?)
    }

    /// A few bytes can claim to be written far out, so that most of the file is a hole:
    /// no more is allocated than the stream has.
    fn bytes(&self, offset: u64, len: usize) -> io::Result<Cow<'_, [u8]>> {
        if let Some(bytes) = self.slice(offset, len) {
            return Ok(Cow::Borrowed(bytes));
        }
        let fits = offset.checked_add(len as u64).is_some_and(|end| end <= self.len);
        if !fits || len as u64 > self.stream.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut buf = vec![0; len];
        self.read_exact_at(offset, &mut buf)?;
        Ok(Cow::Owned(buf))
    }

    fn holds(&self, mut offset: u64, len: u64) -> bool {
        let Some(end) = offset.checked_add(len) else { return false };
        while offset < end {
            match self.find(offset) {
                Some((Some(_), left)) => offset += left,
                _ => return false,
            }
        }
        true
    }

    fn is_flattened(&self) -> bool {
        true
    }

    fn damage(&self) -> Option<String> {
        self.broken.clone()
    }

    fn trouble(&self) -> Option<String> {
        let all: Vec<String> = [self.mended.clone(), self.stream.trouble()].into_iter().flatten().collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::bytes::source::InMemory;

    /// A stream of these writes, and the file they make.
    fn stream(writes: &[(u64, Vec<u8>)]) -> (Vec<u8>, Vec<u8>, Vec<bool>) {
        let mut s = b"makedumpfile\0\0\0\0".to_vec();
        s.extend(1i64.to_be_bytes());
        s.extend(1i64.to_be_bytes());
        s.resize(4096, 0);
        let (mut file, mut written) = (Vec::new(), Vec::new());
        for (offset, data) in writes {
            s.extend(offset.to_be_bytes());
            s.extend((data.len() as u64).to_be_bytes());
            s.extend(data);
            let (start, end) =
                (usize::try_from(*offset).unwrap(), usize::try_from(*offset).unwrap() + data.len());
            if !data.is_empty() && file.len() < end {
                file.resize(end, 0);
                written.resize(end, false);
            }
            if !data.is_empty() {
                file[start..end].copy_from_slice(data);
                written[start..end].fill(true);
            }
        }
        s.extend([0xff; 16]);
        (s, file, written)
    }

    fn flattened(bytes: Vec<u8>) -> Result<Flattened> {
        Flattened::open(Arc::new(InMemory::new("flat", bytes)))
    }

    #[test]
    fn a_stream_that_breaks_off_is_read_as_far_as_it_goes() {
        let (s, ..) = stream(&[(0, vec![1; 100]), (100, vec![2; 100])]);
        let whole = flattened(s.clone()).unwrap();
        assert_eq!((whole.len(), whole.damage()), (200, None));
        let cut = flattened(s[..s.len() - 16].to_vec()).unwrap();
        assert!(cut.len() == 200 && cut.damage().unwrap().contains("end mark"));
        let cut = flattened(s[..s.len() - 66].to_vec()).unwrap();
        assert!(cut.len() == 150 && cut.damage().unwrap().contains("within a block"));
        assert!(cut.holds(0, 150) && !cut.holds(0, 151));
        assert!(flattened(s[..4096].to_vec()).is_err());
        assert!(flattened(s[..20].to_vec()).is_err());
    }

    #[test]
    fn a_hole_is_neither_allocated_nor_believed() {
        let mut s = stream(&[(0, vec![0xff; 1000])]).0;
        s.truncate(s.len() - 16);
        s.extend((1u64 << 60).to_be_bytes());
        s.extend(1u64.to_be_bytes());
        s.push(7);
        s.extend([0xff; 16]);
        let f = flattened(s).unwrap();
        assert_eq!(f.len(), (1 << 60) + 1);
        assert!(f.bytes(900, 1 << 40).is_err());
        assert_eq!(f.bytes(900, 200).unwrap()[..], [[0xff; 100], [0; 100]].concat());
        let bits = crate::dump::bitmap::Bitmap::new(0, 1 << 50);
        assert_eq!((bits.bit(&f, 7999), bits.bit(&f, 8000)), (Some(true), None));
        assert_eq!((bits.rank(&f, 4096), bits.rank(&f, 1 << 40)), (Some(4096), None));
    }

    proptest! {
        #[test]
        fn later_writes_win(writes in proptest::collection::vec((0u64..300, proptest::collection::vec(any::<u8>(), 0..60)), 1..40), at in 0u64..400, len in 0usize..100) {
            let (s, file, written) = stream(&writes);
            prop_assume!(!file.is_empty());
            let f = flattened(s).unwrap();
            // Few and little numbers may look like others that are damaged.
            prop_assume!(f.trouble().is_none() && f.damage().is_none());
            prop_assert_eq!(f.len(), file.len() as u64);
            prop_assert_eq!(&*f.bytes(0, file.len()).unwrap(), &file[..]);
            let from = usize::try_from(at).unwrap().min(file.len());
            let to = (from + len).min(file.len());
            prop_assert_eq!(&*f.bytes_up_to(at, len).unwrap(), &file[from..to]);
            if from + len <= file.len() {
                prop_assert_eq!(f.holds(from as u64, len as u64), written[from..to].iter().all(|&w| w));
            }
        }

        #[test]
        fn mutated_streams_are_survived(at in 4090usize..4400, to in any::<u64>(), cut in 0usize..4500) {
            let (mut s, ..) = stream(&[(0, vec![1; 100]), (50, vec![2; 100]), (7, vec![3; 20])]);
            let at = at.min(s.len() - 8);
            s[at..][..8].copy_from_slice(&to.to_be_bytes());
            s.truncate(cut.max(4000));
            if let Ok(f) = flattened(s) {
                let _ = (f.holds(0, 1000), f.holds(u64::MAX - 5, 3), f.slice(40, 20));
                let mut buf = [0; 64];
                for offset in [0, 45, 149, f.len().wrapping_sub(1), to, u64::MAX] {
                    let _ = f.read_at(offset, &mut buf);
                }
            }
        }
    }
}
