//! Dump files: bytes to physical pages and notes.
//!
//! ```text
//!   source      a file by offset                  notes, vmcoreinfo    what the dump says of itself
//!     v                                                  ^
//!   flattened   a stream put in order again              |
//!     v                                                  |
//!   open        which format it is; foreign: what it is instead
//!     v                                                  |
//!   elf, kdump, lime, migration, vmware, raw             |
//!               headers, where each page is  ------------+
//!     v
//!   extents     memory in runs of the file
//!   codec, page_cache   pages decoded and kept
//! ```
//!
//! Opening reads headers and notes only; everything else is found when it is asked
//! for. What cannot be read says why ([`ReadFault`]), and nothing that is missing
//! is ever read as zeros.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod bitmap;
mod codec;
mod elf;
mod extents;
mod flattened;
mod foreign;
mod kdump;
mod kdump_header;
mod kdump_image;
mod kdump_index;
mod lime;
mod mend;
mod migration;
pub mod notes;
mod open;
mod page_cache;
mod raw;
pub mod vmcoreinfo;
mod vmware;

use crate::bytes::source::Source;
#[cfg(test)]
pub(crate) use elf::tests::core as elf_core;
use kdump_header::Header;
pub use kdump_header::Utsname;
use notes::Notes;
pub use open::{Kind, Opened, Options, is_piece, open, sniff};
use vmcoreinfo::VmcoreInfo;

use crate::addr::{PAGE_SIZE, PhysAddr};
use crate::error::{ReadFault, Result};

/// Physical memory of the dumped machine.
pub trait PhysicalMemory: Send + Sync {
    /// Reads from `addr` to at most the end of its page: at least one byte on success
    /// (for a `buf` that is not empty).
    fn read_phys(&self, addr: PhysAddr, buf: &mut [u8]) -> Result<usize, ReadFault>;
}

/// The memory in a dump, whatever its format.
trait Memory: PhysicalMemory {
    /// The machine's memory, in at most `max` ranges.
    fn physical_ranges(&self, max: usize) -> Vec<(PhysAddr, u64)>;

    /// What of it the file has bytes for, in `max` ranges or as many as the file is made of.
    fn stored_ranges(&self, max: usize) -> Vec<(PhysAddr, u64)>;

    /// What happened to each file since it was opened.
    fn trouble(&self) -> Vec<String>;
}

/// What every format of a machine's dump tells.
trait Form: Send + Sync {
    /// The format, for people.
    fn name(&self) -> String;

    /// What it says beside the memory.
    fn notes(&self) -> Notes;

    /// What was lost when the dump was written or copied, in words.
    fn incomplete(&self) -> Option<String>;

    /// What else it is to be known of the file, in words.
    fn remarks(&self) -> Vec<String> {
        Vec::new()
    }

    /// The memory itself.
    fn memory(&self) -> &dyn Memory;

    /// Asks the file again where its pages are, as they make no sense; whether any of them moved.
    fn look_closer(&self) -> bool {
        false
    }

    /// See [`Vmcore::phys_base_hint`].
    fn phys_base(&self) -> Option<i64> {
        None
    }

    /// See [`Vmcore::direct_map_hint`].
    fn direct_map(&self) -> Option<u64> {
        None
    }

    /// Where the kernel says that all memory is mapped: what pages tell of their places is held against it.
    fn know_direct_map(&self, _base: u64) {}

    /// The header of a kdump file.
    fn header(&self) -> Option<&Header> {
        None
    }
}

/// The dump of a machine.
pub struct Vmcore {
    paths: Vec<PathBuf>,
    flattened: bool,
    /// What was lost before the format's own eyes.
    damage: Option<String>,
    form: Box<dyn Form>,
    notes: Notes,
    vmcoreinfo: Option<VmcoreInfo>,
}

impl Vmcore {
    /// More ranges than this say nothing to anybody.
    const RANGES_MAX: usize = 4096;

    /// The dump that `form` read in `sources`.
    fn new(sources: &[Arc<dyn Source>], form: Box<dyn Form>) -> Self {
        let paths = sources.iter().map(|s| s.path().to_owned()).collect();
        let flattened = sources.iter().any(|s| s.is_flattened());
        let damage: Vec<String> = sources.iter().filter_map(|s| s.damage()).collect();
        let damage = (!damage.is_empty()).then(|| damage.join("; "));
        let notes = form.notes();
        let vmcoreinfo = notes.vmcoreinfo.as_deref().map(VmcoreInfo::parse);
        Self { paths, flattened, damage, form, notes, vmcoreinfo }
    }

    /// The first file.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.paths.first().map_or(Path::new(""), PathBuf::as_path)
    }

    /// All files, in the order they were given.
    #[must_use]
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// What the dump says beside its memory.
    #[must_use]
    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// VMCOREINFO, if the dump has one.
    #[must_use]
    pub fn vmcoreinfo(&self) -> Option<&VmcoreInfo> {
        self.vmcoreinfo.as_ref()
    }

    /// `phys_base` as the kdump sub-header has it, or the segments of an ELF file: a
    /// hint, since QEMU writes 0 there when it does not know it.
    #[must_use]
    pub fn phys_base_hint(&self) -> Option<i64> {
        self.form.phys_base()
    }

    /// Where all memory is mapped in a row, by the virtual addresses that the segments of an
    /// ELF file have, or by what pages of a kdump file tell: a hint, as some writers put nothing there.
    #[must_use]
    pub fn direct_map_hint(&self) -> Option<u64> {
        self.form.direct_map()
    }

    /// The `uname` of the dumped machine, if the format has it and its writer knew it.
    #[must_use]
    pub fn utsname_hint(&self) -> Option<&Utsname> {
        self.header().map(|h| &h.utsname).filter(|u| !u.release.is_empty())
    }

    /// When the dump was made, in seconds since 1970, if the format has it and
    /// its writer filled it in.
    #[must_use]
    pub fn timestamp_hint(&self) -> Option<i64> {
        self.header().map(|h| h.seconds).filter(|&s| s > 0)
    }

    /// makedumpfile's `-d`, if the format has it.
    #[must_use]
    pub fn dump_level(&self) -> Option<u32> {
        self.header()?.dump_level
    }

    /// The format, for people: `kdump-compressed v6 (zstd)`. Counts the bitmap of a kdump.
    #[must_use]
    pub fn format(&self) -> String {
        let format = self.form.name();
        if self.flattened { format!("{format}, flattened") } else { format }
    }

    /// What crash calls `[PARTIAL DUMP]`: a kdump file with two bitmaps, that is one
    /// that *can* leave pages out, at whatever `-d` it was made.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.header().is_some_and(|h| h.two_bitmaps)
    }

    /// What was lost when the dump was written or copied, in words; `None` if nothing
    /// was. Counts the bitmap of a kdump, so it is not quite free.
    #[must_use]
    pub fn incomplete(&self) -> Option<String> {
        let own = self.form.incomplete();
        match (&self.damage, own) {
            (Some(damage), Some(own)) => Some(format!("{damage}; {own}")),
            (Some(damage), None) => Some(damage.clone()),
            (None, own) => own,
        }
    }

    /// The machine's memory, as `(start, bytes)`, sorted and disjoint. At most a few
    /// thousand ranges; what is beyond them is covered by the last one. Walks the
    /// bitmap of a kdump.
    #[must_use]
    pub fn physical_ranges(&self) -> Vec<(PhysAddr, u64)> {
        self.form.memory().physical_ranges(Self::RANGES_MAX)
    }

    /// The part of [`Self::physical_ranges`] that the file has bytes for: headers can
    /// claim any amount of memory, so this is what a search goes through.
    #[must_use]
    pub fn stored_ranges(&self) -> Vec<(PhysAddr, u64)> {
        self.form.memory().stored_ranges(Self::RANGES_MAX)
    }

    /// What was put right when the files were opened, and what happened to them since, in words.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let all = [self.form.remarks(), self.form.memory().trouble()].concat();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// Whether QEMU wrote the dump: it has the whole state of each CPU.
    #[must_use]
    pub fn is_qemu(&self) -> bool {
        !self.notes.qemu_cpus.is_empty()
    }

    /// Asks the file again where its pages are, as no kernel is found in them; whether any moved.
    pub(crate) fn look_closer(&self) -> bool {
        self.form.look_closer()
    }

    /// Tells where the kernel says that all memory is mapped.
    pub(crate) fn know_direct_map(&self, base: u64) {
        self.form.know_direct_map(base);
    }

    fn header(&self) -> Option<&Header> {
        self.form.header()
    }
}

impl PhysicalMemory for Vmcore {
    fn read_phys(&self, addr: PhysAddr, buf: &mut [u8]) -> Result<usize, ReadFault> {
        self.form.memory().read_phys(addr, buf)
    }
}

/// Why the bytes of the page at `addr` could not be read, which the file had when it was
/// opened.
fn unread(addr: PhysAddr, error: &io::Error) -> ReadFault {
    match error.raw_os_error() {
        Some(errno) => ReadFault::Unread { addr: addr.0, errno },
        None => ReadFault::Shrunk { addr: addr.0 },
    }
}

/// The last of `sorted` whose `start` is not behind `at`.
pub(crate) fn last_from<T>(sorted: &[T], at: u64, start: impl Fn(&T) -> u64) -> Option<&T> {
    let after = sorted.partition_point(|one| start(one) <= at);
    sorted.get(after.checked_sub(1)?)
}

/// Bytes from `addr` to the end of its page.
fn to_page_end(addr: PhysAddr) -> u64 {
    PAGE_SIZE - addr.page_offset()
}

#[cfg(test)]
#[path = "kdump_tests.rs"]
mod kdump_tests;
