//! The two headers of a kdump file.
//!
//! Offsets of the 64-bit layout, in bytes (`struct disk_dump_header` and
//! `struct kdump_sub_header` of makedumpfile's `diskdump_mod.h`):
//!
//! | header | | sub-header, block 1 | since |
//! |---|---|---|---|
//! | 0 | signature | 0 phys_base | |
//! | 8 | header_version | 8 dump_level | v1 |
//! | 12 | utsname, 6 x 65 | 12 split | v2 |
//! | 408 | time, 2 x 8 | 16, 24 start_pfn, end_pfn | v2 |
//! | 424 | status | 32, 40 VMCOREINFO offset, size | v3 |
//! | 428 | block_size | 48, 56 notes offset, size | v4 |
//! | 432 | sub_hdr_size in blocks | 64, 72 eraseinfo offset, size | v5 |
//! | 436 | bitmap_blocks, both bitmaps | 80, 88 start_pfn_64, end_pfn_64 | v6 |
//! | 440 | max_mapnr, 32 bits | 96 max_mapnr_64 | v6 |

use std::ops::Range;

use super::notes::Notes;
use super::vmcoreinfo::VmcoreInfo;
use crate::addr::PAGE_SIZE;
use crate::bytes::source::Source;
use crate::bytes::{array_at, cstr, u32_at, u64_at};
use crate::elf::NoteWalk;
use crate::error::{Error, Result};

/// Bytes of a page descriptor: offset, size, flags, page flags.
pub(super) const DESCRIPTOR_BYTES: u64 = 24;

pub(super) const SIGNATURE: &[u8; 8] = b"KDUMP   ";
pub(super) const VERSION: usize = 8;
const UTSNAME: usize = 12;
const UTSNAME_FIELD: usize = 65;
pub(super) const MACHINE: usize = UTSNAME + 4 * UTSNAME_FIELD;
const SECONDS: usize = 408;
const STATUS: usize = 424;
pub(super) const BLOCK_SIZE: usize = 428;
/// Where 32-bit machines have `block_size`.
const BLOCK_SIZE_32BIT: usize = 416;
pub(super) const SUB_HDR_SIZE: usize = 432;
pub(super) const BITMAP_BLOCKS: usize = 436;
pub(super) const MAX_MAPNR: usize = 440;
const HEADER_BYTES: usize = 464;

/// Members of the sub-header, and its sizes.
pub(super) mod sub {
    pub(in crate::dump) const DUMP_LEVEL: usize = 8;
    pub(in crate::dump) const SPLIT: usize = 12;
    pub(in crate::dump) const START_PFN: usize = 16;
    pub(in crate::dump) const END_PFN: usize = 24;
    pub(in crate::dump) const VMCOREINFO: usize = 32;
    pub(in crate::dump) const NOTES: usize = 48;
    pub(in crate::dump) const ERASEINFO: usize = 64;
    pub(in crate::dump) const START_PFN_64: usize = 80;
    pub(in crate::dump) const END_PFN_64: usize = 88;
    pub(in crate::dump) const MAX_MAPNR_64: usize = 96;
    pub(in crate::dump) const END_V3: usize = 48;
    pub(in crate::dump) const END_V4: usize = 64;
    pub(in crate::dump) const END_V5: usize = 80;
    pub(in crate::dump) const END_V6: usize = 104;
}

/// What both headers say.
#[derive(Debug, Clone)]
pub(super) struct Header {
    /// Written by the old diskdump, which has another sub-header.
    pub(super) diskdump: bool,
    pub(super) version: u32,
    /// The dumping kernel's `utsname`: almost empty when QEMU wrote the dump.
    pub(super) utsname: Utsname,
    /// Seconds since 1970, 0 when QEMU wrote the dump.
    pub(super) seconds: i64,
    pub(super) status: u32,
    /// Page frames of the machine, as far as the bitmaps reach.
    pub(super) max_pfn: u64,
    pub(super) bitmaps_at: u64,
    /// The second bitmap; the first where there is one.
    pub(super) dumped_at: u64,
    pub(super) two_bitmaps: bool,
    pub(super) descriptors_at: u64,
    pub(super) phys_base: Option<i64>,
    pub(super) dump_level: Option<u32>,
    pub(super) split: bool,
    /// The page frames of this piece, if split.
    pub(super) pfns: Range<u64>,
    vmcoreinfo: Range<u64>,
    notes: Range<u64>,
    eraseinfo: Range<u64>,
}

/// Page frames of the largest machine that is believed: 64 TiB, `MAX_PHYSMEM_BITS` with
/// four levels of page tables. To count the bitmaps of more takes minutes.
const PFNS_MAX: u64 = 1 << 34;

/// `struct new_utsname`, as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Utsname {
    /// `Linux`.
    pub sysname: String,
    /// The host's name.
    pub nodename: String,
    /// As `uname -r` says it.
    pub release: String,
    /// As `uname -v` says it.
    pub version: String,
    /// `x86_64`.
    pub machine: String,
}

impl Header {
    /// `DUMP_DH_COMPRESSED_INCOMPLETE`.
    pub(super) const STATUS_INCOMPLETE: u32 = 0x8;

    /// Whether `head` begins like a kdump file.
    pub(super) fn is_kdump(head: &[u8]) -> bool {
        head.starts_with(SIGNATURE) || head.starts_with(b"DISKDUMP")
    }

    /// Reads and checks the headers.
    pub(super) fn read(source: &dyn Source) -> Result<Self> {
        let bad = |offset: usize, wanted: &'static str, found: String| Error::Malformed {
            path: source.path().to_owned(),
            format: "kdump header",
            offset: offset as u64,
            wanted,
            found,
        };
        let other = |what: String, hint: &'static str| Error::Unsupported {
            path: source.path().to_owned(),
            what,
            hint,
        };
        let block = usize::try_from(PAGE_SIZE).unwrap_or(usize::MAX);
        let io = |e| Error::io("read", source.path(), e);
        let head = source.bytes_up_to(0, block).map_err(io)?;
        if !Self::is_kdump(&head) {
            let magic = head.get(..8).unwrap_or(&head).escape_ascii().to_string();
            return Err(bad(0, "`KDUMP   ` or `DISKDUMP`", magic));
        }
        let ends = |found: usize| format!("the end of the file at {found:#x}");
        if head.len() < HEADER_BYTES {
            return Err(bad(head.len(), "a header of 464 bytes", ends(head.len())));
        }
        let word = |at| u32_at(&head, at).unwrap_or(0);
        let utsname = Utsname::parse(head.get(UTSNAME..).unwrap_or_default());
        let version = word(VERSION);
        // QEMU 10 writes that it does not know the guest's.
        let foreign = !matches!(utsname.machine.as_str(), "" | "Unknown" | "x86_64");
        if foreign || (1..=6).contains(&version.swap_bytes()) {
            let machine = if foreign { utsname.machine.as_str() } else { "big-endian" };
            return Err(other(
                format!("a dump of a machine of type {}", machine.escape_debug()),
                "corestub serves x86-64 dumps only",
            ));
        }
        if !(1..=6).contains(&version) {
            return Err(bad(VERSION, "header_version in 1..=6", version.to_string()));
        }
        let block_size = word(BLOCK_SIZE);
        if u64::from(block_size) != PAGE_SIZE {
            if u64::from(word(BLOCK_SIZE_32BIT)) == PAGE_SIZE {
                return Err(other(
                    "a dump of a 32-bit kernel".to_owned(),
                    "corestub serves x86-64 dumps only",
                ));
            }
            return Err(bad(BLOCK_SIZE, "block_size 4096, the page of x86-64", block_size.to_string()));
        }
        let sub_blocks = u64::from(word(SUB_HDR_SIZE));
        let bitmap_blocks = u64::from(word(BITMAP_BLOCKS));
        if sub_blocks > 1 << 20 {
            return Err(bad(SUB_HDR_SIZE, "sub_hdr_size of a few blocks", sub_blocks.to_string()));
        }
        if bitmap_blocks == 0 || bitmap_blocks > u64::from(u32::MAX >> 1) {
            return Err(bad(BITMAP_BLOCKS, "bitmap_blocks of at least 1", bitmap_blocks.to_string()));
        }
        let diskdump = head.starts_with(b"DISKDUMP");
        let sub_header = source.bytes_up_to(PAGE_SIZE, block).map_err(io)?;
        if sub_header.len() < block {
            let end = PAGE_SIZE + sub_header.len() as u64;
            return Err(bad(block, "a sub-header of 4096 bytes", format!("the end of the file at {end:#x}")));
        }
        // diskdump's own sub-header is a task's registers: nothing for us there.
        let since = |v: u32, at: usize| {
            (version >= v && !diskdump && sub_blocks > 0)
                .then(|| u64_at(&sub_header, at))
                .flatten()
                .unwrap_or(0)
        };
        let range = |v, at: usize| {
            let (start, size) = (since(v, at), since(v, at + 8));
            start..start.saturating_add(size)
        };
        let max_mapnr = match since(6, sub::MAX_MAPNR_64) {
            0 => u64::from(word(MAX_MAPNR)),
            n => n,
        };
        if max_mapnr > PFNS_MAX {
            let found = format!("{max_mapnr:#x} page frames");
            return Err(bad(
                block + sub::MAX_MAPNR_64,
                "at most 64 TiB of memory, which Linux on x86-64 can have",
                found,
            ));
        }
        // crash's rule: both bitmaps are there if the blocks suffice for both.
        let needed = max_mapnr.div_ceil(8).div_ceil(PAGE_SIZE);
        let two_bitmaps = bitmap_blocks >= needed.saturating_mul(2);
        let half = if two_bitmaps { bitmap_blocks / 2 } else { bitmap_blocks } * PAGE_SIZE;
        let bitmaps_at = (1 + sub_blocks) * PAGE_SIZE;
        if needed > bitmap_blocks {
            return Err(bad(
                BITMAP_BLOCKS,
                "bitmap_blocks enough for max_mapnr page frames",
                format!("{bitmap_blocks} blocks for {max_mapnr:#x} frames"),
            ));
        }
        let is_split = since(2, sub::DUMP_LEVEL) >> 32 == 1;
        let pfns = match since(6, sub::START_PFN_64)..since(6, sub::END_PFN_64) {
            Range { start: 0, end: 0 } => since(2, sub::START_PFN)..since(2, sub::END_PFN),
            pfns => pfns,
        };
        if is_split && (pfns.start > pfns.end || pfns.end > max_mapnr) {
            let found = format!("{:#x}..{:#x} of {max_mapnr:#x}", pfns.start, pfns.end);
            return Err(bad(
                block + sub::START_PFN_64,
                "the page frames of this piece of a split dump",
                found,
            ));
        }
        Ok(Self {
            diskdump,
            version,
            utsname,
            seconds: array_at(&head, SECONDS).map_or(0, i64::from_le_bytes),
            status: word(STATUS),
            max_pfn: max_mapnr,
            bitmaps_at,
            dumped_at: if two_bitmaps { bitmaps_at + half } else { bitmaps_at },
            two_bitmaps,
            descriptors_at: bitmaps_at + bitmap_blocks * PAGE_SIZE,
            phys_base: (!diskdump && sub_blocks > 0).then(|| since(0, 0).cast_signed()),
            dump_level: (version >= 1 && !diskdump && sub_blocks > 0)
                .then(|| u32_at(&sub_header, sub::DUMP_LEVEL))
                .flatten(),
            split: is_split,
            pfns,
            vmcoreinfo: range(3, sub::VMCOREINFO),
            notes: range(4, sub::NOTES),
            eraseinfo: range(5, sub::ERASEINFO),
        })
    }

    /// What all pieces of one split dump have in common.
    pub(super) fn identity(&self) -> (&Utsname, i64, u64, u32) {
        (&self.utsname, self.seconds, self.max_pfn, self.version)
    }

    /// The notes that the file has, whole or cut.
    pub(super) fn notes(&self, source: &dyn Source) -> Notes {
        let area = |range: &Range<u64>| {
            let len = usize::try_from(range.end - range.start).unwrap_or(0).min(Notes::TEXT_MAX);
            if range.start == 0 { Ok(Default::default()) } else { source.bytes_up_to(range.start, len) }
        };
        let mut notes = Notes::default();
        if self.notes.start != 0 {
            // What cannot be read tells nothing.
            let _ = NoteWalk::new(source).each(self.notes.clone(), |note, _| notes.add(&note));
        }
        // Since v4 the text stands among the notes as well, which tells of damage to where its
        // own place is said to be.
        let text = area(&self.vmcoreinfo).unwrap_or_default();
        let same = |other: &Vec<u8>| text.starts_with(other) || other.starts_with(&text);
        if !notes.vmcoreinfo.as_ref().is_some_and(same) {
            let other = notes.vmcoreinfo.take_if(|_| text.starts_with(VmcoreInfo::FIRST));
            if VmcoreInfo::is_in(&text) {
                notes.add_vmcoreinfo(&text);
            }
            other.into_iter().for_each(|other| notes.add_vmcoreinfo(&other));
        }
        if let Ok(text) = area(&self.eraseinfo) {
            notes.add_eraseinfo(&text);
        }
        notes
    }
}

impl Utsname {
    fn parse(data: &[u8]) -> Self {
        let field = |i: usize| {
            let field = data.get(i * UTSNAME_FIELD..(i + 1) * UTSNAME_FIELD).unwrap_or_default();
            cstr(field).into_owned()
        };
        Self {
            sysname: field(0),
            nodename: field(1),
            release: field(2),
            version: field(3),
            machine: field(4),
        }
    }
}
