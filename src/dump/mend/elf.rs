//! The file header of an ELF vmcore.
//!
//! Of its 64 bytes a dump of x86-64 leaves open only where the program headers stand and
//! how many they are, and these say so themselves: the first segment is that of the notes,
//! which are known by their names, and in most dumps begins where the table ends. Of the
//! machine and the kind of file one bit is believed to have turned over, no more: an ELF file
//! of another kind or machine that has Linux's notes is two bits away at least.

use super::{Header, bits_between};
use crate::bytes::source::Source;
use crate::bytes::{u16_at, u64_at};
use crate::elf::{self, PT_LOAD, PT_NOTE, ProgramHeader};

const HEADER: usize = 64;
const HEADER_BYTES: u64 = 64;
const ENTRY: u64 = 56;
/// Where the table is told to stand and how many entries it has.
const PHOFF: usize = 32;
const PHNUM: usize = 56;
/// A table with more entries is not held against its number.
const COUNTED: u16 = 4096;
/// How many headers are looked at for the notes.
const LOOKED_AT: u64 = 8;

/// By whom the first note of a dump is.
const NAMES: [&[u8]; 3] = [b"CORE", b"VMCOREINFO", b"QEMU"];

/// Name, place, what stands there, and how many bits are believed to have turned over.
const KNOWN: [(&str, usize, &[u8], u32); 7] = [
    ("its signature", 0, &object::elf::ELFMAG, 2),
    ("EI_CLASS", 4, &[2], 1),
    ("EI_DATA", 5, &[1], 1),
    ("EI_VERSION", 6, &[1], 8),
    ("e_type", 16, &[4, 0], 1),
    ("e_machine", 18, &[62, 0], 1),
    ("e_phentsize", 54, &[56, 0], 16),
];

/// A table of program headers, of which the notes prove that it is one.
struct Table {
    at: u64,
    /// Where the notes begin.
    notes: u64,
}

pub(super) fn mend(source: &dyn Source) -> Option<Header> {
    let mut header = Header::of(source, HEADER)?;
    for (name, at, bytes, most) in KNOWN {
        let there = header.front.get_mut(at..at + bytes.len())?;
        match bits_between(there, bytes) {
            0 => {}
            bits if bits <= most => {
                there.copy_from_slice(bytes);
                header.said.push(format!("{name} was damaged"));
            }
            _ => return None,
        }
    }
    let told = u64_at(&header.front, PHOFF)?;
    // Where it is told to be others may stand before the notes; elsewhere none do.
    let near = (0..64).map(|bit| (told ^ 1 << bit, 1));
    let places = [(told, LOOKED_AT), (HEADER_BYTES, 1)].into_iter().chain(near);
    let within = HEADER_BYTES..source.len();
    let table =
        places.filter(|(at, _)| within.contains(at)).find_map(|(at, most)| Table::find(source, at, most))?;
    if table.at != told {
        header.put(PHOFF, table.at.to_le_bytes());
        header.said.push(format!("e_phoff was {told:#x}, and the program headers are at {:#x}", table.at));
    }
    let count = u16_at(&header.front, PHNUM)?;
    if let Some(found) = table.count(source, count) {
        header.put(PHNUM, found.to_le_bytes());
        header.said.push(format!("e_phnum was {count}, and there are {found} program headers"));
    }
    header.changed()
}

/// The program header at `at`.
fn entry(source: &dyn Source, at: u64) -> Option<ProgramHeader> {
    let bytes = source.bytes(at, usize::try_from(ENTRY).ok()?).ok()?;
    ProgramHeader::parse_all(&bytes).first().copied()
}

/// Whether `header` can be one of a dump, a bit of it perhaps turned over.
fn is_plausible(header: &ProgramHeader) -> bool {
    // An empty one is none.
    let most = if header.filesz == 0 && header.memsz == 0 { 0 } else { 1 };
    let near = |kind: u32| (header.kind.0 ^ kind).count_ones() <= most;
    let within = [header.paddr, header.memsz].iter().any(|&n| n < 1 << 52);
    (near(PT_LOAD.0) || near(PT_NOTE.0)) && header.flags <= 7 && within
}

impl Table {
    /// The table at `at`, if one of its first headers leads to the notes of a machine or process.
    fn find(source: &dyn Source, at: u64, most: u64) -> Option<Self> {
        (0..most).find_map(|i| {
            let header = entry(source, at.checked_add(i * ENTRY)?)?;
            if (header.kind.0 ^ PT_NOTE.0).count_ones() > 1 {
                return None;
            }
            let front = source.bytes_up_to(header.offset, 4096).ok()?;
            let first = elf::notes(&front, 4).next()?.name;
            let is_ours = |name: &&[u8]| name.len() == first.len() && bits_between(name, first) <= 1;
            NAMES.iter().any(is_ours).then_some(Self { at, notes: header.offset })
        })
    }

    /// How many headers there are, if `told` is not it, and a bit or two of it turned over.
    fn count(&self, source: &dyn Source, told: u16) -> Option<u16> {
        let of = |count: u16| self.at.checked_add(u64::from(count) * ENTRY);
        let room = (self.notes.checked_sub(self.at)? / ENTRY).min(COUNTED.into());
        if of(told) == Some(self.notes) || room == 0 || told == u16::MAX {
            return None;
        }
        let is_header =
            |i: u64| entry(source, self.at + i * ENTRY).is_some_and(|header| is_plausible(&header));
        let mut count = 0;
        // One that is beyond recognition stands between two others.
        while count < room && (is_header(count) || count + 1 < room && is_header(count + 1)) {
            count += 1;
        }
        let count = u16::try_from(count).ok()?;
        // If the last one is damaged, the number can be right.
        let differs = told < count || told > count + 1 || of(count) == Some(self.notes);
        (count > 0 && differs && (told ^ count).count_ones() <= 2).then_some(count)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::mend as mended;
    use crate::bytes::source::InMemory;
    use crate::dump::elf::tests::core;

    /// Notes of a CPU, and VMCOREINFO.
    fn notes() -> Vec<u8> {
        let mut notes = b"\x05\0\0\0\x50\x01\0\0\x01\0\0\0CORE\0\0\0\0".to_vec();
        notes.resize(notes.len() + 0x150, 0);
        notes.extend(b"\x0b\0\0\0\x0e\0\0\0\0\0\0\0VMCOREINFO\0\0OSRELEASE=6.1\n\0\0");
        notes
    }

    /// A dump whose notes begin `gap` bytes behind the table of `loads` and one headers.
    fn dump(loads: u64, phoff: usize, gap: usize) -> Vec<u8> {
        let notes = notes();
        let at = phoff + 56 * (usize::try_from(loads).unwrap() + 1) + gap;
        let first = (at + notes.len()) as u64;
        let mut phdrs = vec![(4, at as u64, 0, 0, notes.len() as u64, 0)];
        phdrs.extend((0..loads).map(|i| (1, first + i * 64, 0, i << 20, 64, 0x1000)));
        let end = usize::try_from(first + loads * 64).unwrap();
        core(&phdrs, phoff, &[(at, &notes), (end - 1, &[0])])
    }

    fn front(bytes: &[u8]) -> (Vec<u8>, Option<String>) {
        let source = mended(Arc::new(InMemory::new("dump", bytes.to_vec())));
        (source.bytes(0, 64).unwrap().into_owned(), source.trouble())
    }

    #[test]
    fn each_bit_of_what_is_known_is_turned_back() {
        for (loads, phoff, gap) in [(5, 64, 0), (28, 64, 0), (28, 64, 0x900), (7, 192, 0)] {
            let sound = dump(loads, phoff, gap);
            assert_eq!(front(&sound), (sound[..64].to_vec(), None));
            for at in [0..7, 16..20, 32..40, 54..58].into_iter().flatten() {
                for bit in 0..8 {
                    let mut damaged = sound.clone();
                    damaged[at] ^= 1 << bit;
                    let (front, said) = front(&damaged);
                    // Of a header more that is empty nothing tells, where there is room for it.
                    let one_more = at == 56 && damaged[56] == sound[56] + 1;
                    if gap == 0 || !one_more {
                        assert_eq!(front, sound[..64], "bit {bit} of {at}, {loads} at {phoff}");
                        assert!(said.is_some());
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_another_file_stays_one() {
        // An executable, a shared library, an object; i386, aarch64, 32 bits, big-endian.
        for (at, byte) in [(16, 2), (16, 3), (16, 1), (18, 3), (18, 183), (4, 1), (5, 2)] {
            let mut other = dump(5, 64, 0);
            other[at] = byte;
            assert_eq!(front(&other).1, None, "{at} {byte}");
        }
        // No notes prove it.
        let mut other = dump(5, 64, 0);
        let at = usize::try_from(64 + 6 * 56 + 12).unwrap();
        other[at..at + 4].copy_from_slice(b"GNU\0");
        other[18] ^= 1;
        assert_eq!(front(&other).1, None);
    }
}
