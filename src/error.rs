//! The two error families of the crate.
//!
//! * [`Error`]: opening and decoding a dump. Rare and read by a person: it owns
//!   its text and names the file, the offset and what was expected there.
//! * [`ReadFault`]: one address could not be read. Common (gdb probes null
//!   pointers): `Copy`, owns nothing, never logged above `trace`.

use std::path::{Path, PathBuf};
use std::{fmt, io};

/// What opening and decoding report.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A dump, or something that belongs to it, cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {what} {}{}", path.display(), permission_hint(source))]
    Io {
        /// The verb: `open`, `read`, `listen on`.
        what: &'static str,
        /// What it was tried on.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Clients cannot be listened for.
    #[error("cannot listen on {endpoint} ({hint})")]
    Listen {
        /// Address and port, or path.
        endpoint: String,
        /// What to do next.
        hint: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// The bytes contradict the format.
    #[error("{}: malformed {format} at offset {offset:#x}: expected {wanted}, found {found}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The structure that was being decoded, e.g. `kdump header`.
        format: &'static str,
        /// Where in the file.
        offset: u64,
        /// What the format asks for.
        wanted: &'static str,
        /// What stands there.
        found: String,
    },
    /// Well formed, but not something this version serves.
    #[error("{}: {what} is not supported ({hint})", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it holds.
        what: String,
        /// What to do next.
        hint: &'static str,
    },
    /// Something the work cannot go on without is neither in the dump nor given.
    #[error("{}: {what} ({hint})", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What is missing.
        what: String,
        /// Which option supplies it.
        hint: &'static str,
    },
    /// A build-id differs: the file belongs to another kernel or program.
    #[error("{}: build-id {found} does not match the dump's {wanted} (give the file of that build, or none)", path.display())]
    WrongBuildId {
        /// The file that was offered.
        path: PathBuf,
        /// The build-id of the dump.
        wanted: String,
        /// The build-id of the file.
        found: String,
    },
}

impl Error {
    /// The sentence without file and hint.
    #[must_use]
    pub fn what(&self) -> String {
        match self {
            Self::Missing { what, .. } => what.clone(),
            other => other.to_string(),
        }
    }

    /// An [`Error::Io`] on `path`.
    pub fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { what, path: path.to_owned(), source }
    }
}

/// What to do where permission is lacking: the kernel writes dumps for root alone.
fn permission_hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => " (dumps belong to root as a rule: use sudo, or change the mode)",
        _ => "",
    }
}

/// Why a page of physical memory is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absence {
    /// The machine has no memory there.
    NoMemory,
    /// The dump's filter left it out.
    Excluded,
    /// It was to be in the dump, and was never written or has been cut off.
    Lost,
    /// It is in a piece of the split dump that was not given.
    OtherPiece,
    /// Its bytes do not decode.
    Corrupt,
    /// The dump's bitmap is damaged there.
    Misplaced,
    /// The file cannot be read there.
    Unread,
}

impl Absence {
    /// Whether the dump was to have it.
    #[must_use]
    pub fn is_damage(self) -> bool {
        matches!(self, Self::Lost | Self::Corrupt | Self::Misplaced | Self::Unread)
    }
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoMemory => "the machine has no memory there",
            Self::Excluded => "the dump's filter left it out",
            Self::Lost => "it was never written, or cut off",
            Self::OtherPiece => "it is in a piece of the split dump that was not given",
            Self::Corrupt => "it does not decompress",
            Self::Misplaced => "the dump's bitmap is damaged there, and which page is which is not known",
            Self::Unread => "the file cannot be read there",
        })
    }
}

impl ReadFault {
    /// What the fault of a physical read says of the page.
    #[must_use]
    pub fn absence(self) -> Absence {
        match self {
            Self::Excluded { .. } => Absence::Excluded,
            Self::Truncated { .. } | Self::Shrunk { .. } => Absence::Lost,
            Self::Unread { .. } => Absence::Unread,
            Self::OtherPiece { .. } => Absence::OtherPiece,
            Self::Corrupt { .. } => Absence::Corrupt,
            Self::Misplaced { .. } => Absence::Misplaced,
            _ => Absence::NoMemory,
        }
    }
}

/// Why one address cannot be read. [`fmt::Display`] gives the sentence that
/// `monitor why` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadFault {
    /// Not canonical, or past the end of the address space.
    NonCanonical {
        /// The virtual address.
        addr: u64,
    },
    /// A page-table entry on the way is not present.
    NotMapped {
        /// The virtual address.
        addr: u64,
        /// Level of the empty entry: 1 is the page table, 5 the PML5.
        level: u8,
    },
    /// The page was swapped out: the entry holds a swap slot.
    Swapped {
        /// The virtual address.
        addr: u64,
        /// The raw page-table entry.
        pte: u64,
    },
    /// The page table itself cannot be read.
    PageTable {
        /// The virtual address that was being translated.
        addr: u64,
        /// Level of the table: 1 is the page table, 5 the PML5.
        level: u8,
        /// Physical address of the entry.
        phys: u64,
        /// Why it is not there.
        why: Absence,
    },
    /// Nothing tells where the page tables are: the dump's kernel was not recognised.
    NoTables {
        /// The virtual address.
        addr: u64,
    },
    /// More is mapped than any machine has: the tables are damaged.
    Endless {
        /// The first virtual address that was not looked at.
        addr: u64,
    },
    /// The machine has no memory at this physical address.
    NoMemory {
        /// The physical address.
        phys: u64,
    },
    /// The page exists on the machine, but the dump filter left it out (in an
    /// ELF dump it may also have been a page of zeros: the format cannot tell).
    Excluded {
        /// The physical address.
        phys: u64,
    },
    /// The page was to be in the dump, but the file ends before it.
    Truncated {
        /// The physical address, or the virtual address in a userspace core.
        addr: u64,
    },
    /// The file cannot be read where the page is.
    Unread {
        /// The physical address, or the virtual address in a userspace core.
        addr: u64,
        /// The system's error number.
        errno: i32,
    },
    /// The file was cut short since it was opened.
    Shrunk {
        /// The physical address, or the virtual address in a userspace core.
        addr: u64,
    },
    /// The dump is split, and the piece with this page was not given.
    OtherPiece {
        /// The physical address.
        phys: u64,
    },
    /// The page is in the dump, but its bytes do not decode.
    Corrupt {
        /// The physical address.
        phys: u64,
    },
    /// The bitmap of a kdump is damaged, and which of some pages is this one is not known.
    Misplaced {
        /// The physical address.
        phys: u64,
    },
    /// No segment of the core covers the address.
    NoSegment {
        /// The virtual address.
        addr: u64,
    },
    /// The core left the bytes out, and no file with the right build-id was found.
    NotInCore {
        /// The virtual address.
        addr: u64,
    },
    /// The selected thread has no user address space (a kernel thread).
    NoUserSpace {
        /// The virtual address.
        addr: u64,
    },
}

impl fmt::Display for ReadFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const TABLES: [&str; 6] = ["?", "PTE", "PMD", "PUD", "P4D/PGD", "PGD"];
        let table = |level: u8| TABLES.get(usize::from(level)).copied().unwrap_or("?");
        match *self {
            Self::NonCanonical { addr } => write!(f, "{addr:#x} is not a canonical address"),
            Self::NotMapped { addr, level } => {
                write!(
                    f,
                    "{addr:#x} is not mapped: its {} (level {level}) entry is not present",
                    table(level)
                )
            }
            Self::Swapped { addr, pte } => {
                write!(f, "the page of {addr:#x} was swapped out (page-table entry {pte:#x})")
            }
            Self::Endless { addr } => write!(
                f,
                "{addr:#x} was not looked at: the page tables below it map more than any machine has"
            ),
            Self::PageTable { addr, level, phys, why } => write!(
                f,
                "the {} (level {level}) table for {addr:#x} at physical {phys:#x} is not in the dump: {why}",
                table(level)
            ),
            Self::NoTables { addr } => {
                write!(f, "{addr:#x} cannot be translated: where the kernel's page tables are is not known")
            }
            Self::NoMemory { phys } => write!(f, "the machine has no memory at physical {phys:#x}"),
            Self::Excluded { phys } => {
                write!(f, "the page at physical {phys:#x} was left out of the dump by its filter")
            }
            Self::Truncated { addr } => {
                write!(f, "the dump file is truncated: the page of {addr:#x} is lost")
            }
            Self::Unread { addr, errno } => {
                let why = io::Error::from_raw_os_error(errno);
                write!(f, "the dump file cannot be read where the page of {addr:#x} is: {why}")
            }
            Self::Shrunk { addr } => {
                write!(f, "the dump file was cut short since it was opened: the page of {addr:#x} is lost")
            }
            Self::OtherPiece { phys } => {
                write!(f, "the page at physical {phys:#x} is in a piece of the split dump that was not given")
            }
            Self::Corrupt { phys } => {
                write!(f, "the page at physical {phys:#x} is in the dump, but does not decompress")
            }
            Self::Misplaced { phys } => {
                write!(
                    f,
                    "the dump's bitmap is damaged about physical {phys:#x}: which of some pages is this one is not known"
                )
            }
            Self::NoSegment { addr } => write!(f, "no mapping of the process covers {addr:#x}"),
            Self::NotInCore { addr } => {
                write!(f, "the core left out the page of {addr:#x}, and no matching file supplies it")
            }
            Self::NoUserSpace { addr } => {
                write!(f, "{addr:#x} is a user address, and the selected thread has no user memory")
            }
        }
    }
}
