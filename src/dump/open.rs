//! From files to what they are: wrappers taken off, the format found by the first bytes.
//!
//! Each file is opened once, whatever asks first: unpacking a compressed one and indexing a
//! flattened one take their time.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::elf::{CoreHeaders, ElfDump};
use super::flattened::{self, Flattened};
use super::kdump::Kdump;
use super::kdump_header::Header;
use super::lime::Lime;
use super::migration::{self, Migration};
use super::raw::Raw;
use super::vmware::{self, Vmware};
use super::{Form, Vmcore, foreign, mend};
use crate::bytes::packed::{self, Unpack};
use crate::bytes::source::{InMemory, Source};
use crate::error::{Error, Result};

/// What a dump file is a dump of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A machine: its physical memory.
    Vmcore,
    /// A process: its mappings.
    Core,
}

/// What the user says about the files.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// How a compressed file is unpacked.
    pub unpack: Unpack,
    /// The file is memory as it is, and begins at this physical address.
    pub raw: Option<u64>,
}

/// An opened dump.
pub enum Opened {
    /// Of a machine.
    Vmcore(Box<Vmcore>),
    /// Of a process: the file, unpacked.
    Core(Arc<dyn Source>),
}

/// What a file is, by its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Magic {
    Elf,
    Kdump,
    Lime,
    Migration,
    Vmware,
}

/// Opens one dump: a file, any of the pieces of a split kdump, or VMware's pair of files.
///
/// # Errors
/// What the file is instead, or what is wrong with it.
pub fn open(paths: &[PathBuf], options: &Options) -> Result<Opened> {
    let sources = paths.iter().map(|p| source(p, options)).collect::<Result<Vec<_>>>()?;
    let Some(first) = sources.first() else {
        return Err(Error::Unsupported {
            path: PathBuf::new(),
            what: "no file".to_owned(),
            hint: "name a dump",
        });
    };
    if let (Some(base), [_]) = (options.raw, &sources[..]) {
        let raw = Raw::open(Arc::clone(first), base)?;
        return Ok(Opened::Vmcore(Box::new(Vmcore::new(&sources, Box::new(raw)))));
    }
    if sources.len() == 1 && kind_of(&**first)? == Kind::Core {
        return Ok(Opened::Core(Arc::clone(first)));
    }
    Ok(Opened::Vmcore(Box::new(vmcore(sources, options)?)))
}

/// Tells what the file at `path` is, by its first bytes and its notes.
///
/// # Errors
/// As [`open`].
pub fn sniff(path: &Path) -> Result<Kind> {
    kind_of(&*source(path, &Options::default())?)
}

fn kind_of(source: &dyn Source) -> Result<Kind> {
    match magic(source)? {
        Magic::Elf if !CoreHeaders::read(source)?.is_machine(source) => Ok(Kind::Core),
        _ => Ok(Kind::Vmcore),
    }
}

/// Whether the file at `path` is a piece of a split kdump. Unpacks no more than its front.
#[must_use]
pub fn is_piece(path: &Path) -> bool {
    /// Both headers, and what precedes them in a flattened stream.
    const FRONT: usize = 64 << 10;
    let Some(head) = packed::head(path, FRONT) else { return false };
    if head.starts_with(flattened::SIGNATURE) {
        let whole = source(path, &Options::default());
        return whole.and_then(|source| Header::read(&*source)).is_ok_and(|header| header.split);
    }
    Header::read(&InMemory::new(path, head)).is_ok_and(|header| header.split)
}

/// The file at `path` without its wrappers.
fn source(path: &Path, options: &Options) -> Result<Arc<dyn Source>> {
    let source = packed::open(path, &options.unpack)?;
    let head = source.bytes_up_to(0, 16).map_err(|e| Error::io("read", path, e))?.into_owned();
    if head.starts_with(flattened::SIGNATURE) {
        return Ok(mend::mend(Arc::new(Flattened::open(source)?)));
    }
    Ok(mend::mend(source))
}

/// The machine in `sources`.
pub(super) fn vmcore(sources: Vec<Arc<dyn Source>>, options: &Options) -> Result<Vmcore> {
    let all = sources.clone();
    let mut kinds = Vec::new();
    for source in &sources {
        // VMware's memory is as it is, and has no first bytes.
        kinds.push(if vmware::is_memory(source.path()) { Magic::Vmware } else { magic(&**source)? });
    }
    let form: Box<dyn Form> = match (&kinds[..], &sources[..]) {
        ([Magic::Elf], [source]) => Box::new(ElfDump::open(Arc::clone(source))?),
        ([Magic::Lime], [source]) => Box::new(Lime::open(Arc::clone(source))?),
        ([Magic::Migration], [source]) => Box::new(Migration::open(Arc::clone(source), &options.unpack)?),
        ([Magic::Vmware, ..], _) if kinds.iter().all(|&k| k == Magic::Vmware) => {
            Box::new(Vmware::open(sources, |path| source(path, options))?)
        }
        _ if kinds.iter().all(|&k| k == Magic::Kdump) => Box::new(Kdump::open(sources)?),
        _ => {
            let odd = kinds.iter().zip(&sources).find(|&(&k, _)| k != Magic::Kdump);
            let path = odd.map_or_else(PathBuf::new, |(_, source)| source.path().to_owned());
            let elf = odd.is_some_and(|(&kind, _)| kind == Magic::Elf);
            let what = if elf { "an ELF file" } else { "a file of another format" };
            return Err(Error::Unsupported {
                path,
                what: format!("{what} among the pieces of a dump"),
                hint: "only kdump files can be split; give other dumps alone",
            });
        }
    };
    Ok(Vmcore::new(&all, form))
}

impl Vmcore {
    /// Opens the dump of a machine: a file, or any of the pieces of a split kdump.
    ///
    /// # Errors
    /// As [`open`].
    pub fn open(paths: &[PathBuf]) -> Result<Self> {
        let options = Options::default();
        let sources = paths.iter().map(|p| source(p, &options)).collect::<Result<Vec<_>>>()?;
        vmcore(sources, &options)
    }
}

fn magic(source: &dyn Source) -> Result<Magic> {
    let path = || source.path().to_owned();
    let head = source.bytes_up_to(0, foreign::HEAD).map_err(|e| Error::io("read", source.path(), e))?;
    let found = match () {
        () if crate::elf::Header::is_elf(&head) => Some(Magic::Elf),
        () if Header::is_kdump(&head) => Some(Magic::Kdump),
        () if Lime::is_lime(&head) => Some(Magic::Lime),
        () if migration::is_migration(&head) => Some(Magic::Migration),
        () if vmware::is_state(&head) || vmware::is_memory(source.path()) => Some(Magic::Vmware),
        () => None,
    };
    if let Some(found) = found {
        return Ok(found);
    }
    if let Some((what, hint)) = foreign::name(&head) {
        return Err(Error::Unsupported { path: path(), what: what.to_owned(), hint });
    }
    Err(Error::Malformed {
        path: path(),
        format: "dump",
        offset: 0,
        wanted: "an ELF core, a kdump file (`KDUMP   `) or another dump; --raw if it is memory as it is",
        found: format!("`{}`", head.get(..8).unwrap_or(&head).escape_ascii()),
    })
}
