//! Notes: what a file tells beside its contents.
//!
//! A row of `{u32 namesz, u32 descsz, u32 type, name, desc}`, name and descriptor
//! padded (`include/uapi/linux/elf.h`, `Elf64_Nhdr`). Sizes in notes lie in real
//! dumps (a CPU that died while it wrote leaves zeros) and in hostile ones.

use std::io;
use std::ops::Range;

use object::LittleEndian as LE;
use object::elf::FileHeader64;
use object::read::elf::NoteIterator;

use crate::bytes::source::Source;
use crate::bytes::{leading_zeros, u32_at};

/// One note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Note<'a> {
    /// The originator, without its NUL: `CORE`, `GNU`, `LINUX`, `VMCOREINFO`, `QEMU`.
    pub name: &'a [u8],
    /// What the originator calls it.
    pub kind: u32,
    /// The descriptor.
    pub desc: &'a [u8],
}

/// The notes in `data`, up to the first that does not fit; what precedes it stays.
///
/// `align` is that of the section or segment. Only 8 makes a difference
/// (`.note.gnu.property`): dumps pad to four bytes, whatever their headers say.
pub fn notes(data: &[u8], align: u64) -> impl Iterator<Item = Note<'_>> {
    let align = if align == 8 { 8 } else { 4 };
    NoteIterator::<FileHeader64<LE>>::new(LE, align, data)
        .into_iter()
        .flatten()
        .map_while(|note| note.ok())
        // /proc/vmcore pads the notes of a CPU that saved nothing with zeros: each
        // twelve of them are an empty note. The next CPU's come after them.
        .filter(|note| note.n_namesz(LE) != 0 || note.n_descsz(LE) != 0)
        .map(|note| Note { name: note.name(), kind: note.n_type(LE).0, desc: note.desc() })
}

/// Walks the notes of a dump, which may be many and large, in a window of its file.
pub struct Walk<'a> {
    source: &'a dyn Source,
    /// Bytes that may still be read and walked over: of all segments together, of which there may be
    /// a million, the same one or each elsewhere.
    budget: u64,
    window: Vec<u8>,
    /// The offset of the window.
    at: u64,
}

impl<'a> Walk<'a> {
    /// All threads of the largest processes, read and walked over: a thread with AMX has 11 KiB of notes.
    const BUDGET: u64 = 2 << 30;
    /// Longer names are none, and a descriptor's first bytes do: `NT_FILE` has at most 16 MiB
    /// (`fs.core_file_note_size_limit`), a dump of a device's memory (`LINUX`, 0x700) any size.
    const NAME_MAX: u64 = 256;
    const DESC_MAX: u64 = 64 << 20;
    const WINDOW: u64 = 64 << 10;

    /// Over the notes of `source`.
    #[must_use]
    pub fn new(source: &'a dyn Source) -> Self {
        Self { source, budget: Self::BUDGET, window: Vec::new(), at: 0 }
    }

    /// Hands out each note of a segment with the place of its descriptor, up to the first that does
    /// not fit, which is at the offset that is returned.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn each(
        &mut self,
        segment: Range<u64>,
        mut each: impl FnMut(Note<'_>, Range<u64>),
    ) -> io::Result<u64> {
        let end = segment.end.min(self.source.len()).saturating_sub(segment.start).min(self.budget);
        // Padding counts from the segment's start.
        let mut at = 0;
        while at < end {
            let header = self.bytes(segment.start + at, 12.min(end - at))?;
            let [Some(name), Some(desc), Some(kind)] = [0, 4, 8].map(|field| u32_at(header, field)) else {
                break;
            };
            let front = 12 + u64::from(name).next_multiple_of(4);
            let next = at + front + u64::from(desc);
            if u64::from(name) > Self::NAME_MAX || next > end {
                break;
            }
            if [name, desc, kind] == [0; 3] {
                let zeros = self.zeros(segment.start + at) / 12 * 12;
                at = (at + zeros.max(12)).min(end);
                continue;
            }
            if name != 0 || desc != 0 {
                let place = segment.start + at + front..segment.start + next;
                let whole = self.bytes(segment.start + at, front + u64::from(desc).min(Self::DESC_MAX))?;
                let (head, desc) =
                    whole.split_at_checked(usize::try_from(front).unwrap_or(0)).unwrap_or_default();
                let name = head.get(12..).and_then(|padded| padded.get(..name as usize)).unwrap_or_default();
                let len = name.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
                each(Note { name: name.get(..len).unwrap_or_default(), kind, desc }, place);
            }
            at = next.next_multiple_of(4).min(end);
        }
        self.budget = self.budget.saturating_sub(at);
        Ok(segment.start.saturating_add(at))
    }

    /// How many zeros are in the window from there on.
    fn zeros(&self, at: u64) -> u64 {
        let from = usize::try_from(at - self.at).unwrap_or(usize::MAX);
        let rest = self.window.get(from..).unwrap_or_default();
        leading_zeros(rest) as u64
    }

    /// Bytes of the file, from the window, which moves if it must; fewer at the file's end.
    fn bytes(&mut self, at: u64, len: u64) -> io::Result<&[u8]> {
        if at < self.at || at + len > self.at + self.window.len() as u64 {
            let size = len.max(Self::WINDOW);
            self.budget = self.budget.saturating_sub(size);
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            self.window = self.source.bytes_up_to(at, size)?.into_owned();
            self.at = at;
        }
        let from = usize::try_from(at - self.at).unwrap_or(usize::MAX);
        let rest = self.window.get(from..).unwrap_or_default();
        Ok(usize::try_from(len).ok().and_then(|len| rest.get(..len)).unwrap_or(rest))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::bytes::source::InMemory;

    fn note(name: &[u8], kind: u32, desc: &[u8]) -> Vec<u8> {
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap().to_le_bytes();
        let mut out = [len(name), len(desc), kind.to_le_bytes()].concat();
        for part in [name, desc] {
            out.extend(part);
            out.resize(out.len().next_multiple_of(4), 0);
        }
        out
    }

    /// Name, kind and descriptor.
    type Parts = (Vec<u8>, u32, Vec<u8>);

    fn walked(file: &[u8], segment: Range<u64>) -> Vec<Parts> {
        let mut all = Vec::new();
        let source = InMemory::new("notes", file.to_vec());
        let walk = Walk::new(&source).each(segment, |note, place| {
            let place = usize::try_from(place.start).unwrap()..usize::try_from(place.end).unwrap();
            assert_eq!(&file[place], note.desc);
            all.push((note.name.to_vec(), note.kind, note.desc.to_vec()));
        });
        walk.unwrap();
        all
    }

    proptest! {
        /// Those in a window of a file are those in its bytes, wherever the segment begins and whatever
        /// stands in it.
        #[test]
        fn a_walk_finds_what_a_slice_has(
            parts in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..9), 0..3u32, 0..40_000usize), 0..12),
            noise in prop::collection::vec(any::<u8>(), 0..30),
            zeros in 0..200usize,
            start in 0..9usize,
        ) {
            let mut file = vec![0xee; start];
            for (name, kind, len) in &parts {
                file.extend(note(name, *kind, &vec![7; *len]));
                file.resize(file.len() + zeros / 12 * 12, 0);
            }
            file.extend(&noise);
            let all = walked(&file, start as u64..file.len() as u64);
            let wanted: Vec<_> =
                notes(&file[start..], 4).map(|n| (n.name.to_vec(), n.kind, n.desc.to_vec())).collect();
            prop_assert_eq!(all, wanted);
        }
    }

    #[test]
    fn the_same_segment_a_million_times_is_walked_as_far_as_is_sensible() {
        let source = InMemory::new("notes", vec![0; 300_000]);
        let mut walk = Walk { budget: 2 << 20, ..Walk::new(&source) };
        let walks = (0..1_000_000).filter(|_| walk.each(0..source.len(), |_, _| panic!()).unwrap() > 0);
        assert_eq!(walks.count(), 4);
    }

    #[test]
    fn many_segments_are_read_as_far_as_is_sensible() {
        let source = InMemory::new("notes", vec![0xff; 10 << 20]);
        let mut walk = Walk { budget: 2 << 20, ..Walk::new(&source) };
        let segments = (0..100).map(|i| i * 100_000..(i + 1) * 100_000);
        let read = segments.filter(|segment| {
            assert_eq!(walk.each(segment.clone(), |_, _| panic!()).unwrap(), segment.start);
            walk.at == segment.start
        });
        assert_eq!(read.count(), 32);
    }
}
