//! Mapped files: the files of `NT_FILE`, searched on the disk and trusted only
//! when proven.
//!
//! A core is written by the process that died, and its names lead anywhere. So a
//! file is opened only if it is a regular one, read only if it is an ELF file
//! that belongs to the core, and is memory only if it is proven: its build-id equals
//! the one that the core holds in the first page of the mapping, or where there is
//! none all pages of it that the core holds are equal (see [`super::proof`]). What
//! is half proven lends gdb its symbols, but its bytes are not presented as the
//! process's memory.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::{fs, io};

use super::found::{FoundFile, Refusal};
use super::notes::FileNote;
use super::places::Places;
use super::proof::{self, Compared, Doubt, Proof};
use crate::addr::PAGE_SIZE;
use crate::bytes::source::Source;
use crate::elf::{self, BuildId};
use crate::memory::segments::{Backing, Stored};
use crate::text::printable;

/// Whether a file was found, and how good the proof is.
pub enum Lookup {
    /// The file that was mapped, and by which proof.
    Proven(FoundFile, Proof),
    /// Most likely it: good for symbols.
    Doubtful(FoundFile, Doubt),
    /// None.
    Refused(Refusal),
}

/// One file that the process had mapped.
pub struct MappedFile {
    /// The name in the core, as text; control characters and broken UTF-8 are replaced.
    pub name: String,
    /// Its mappings, in the order of their addresses.
    pub ranges: Vec<FileNote>,
    stored: Arc<Stored>,
    places: Arc<Places>,
    private_memory: bool,
    raw_name: Vec<u8>,
    is_program: bool,
    // Boxed: a core can name any number of files, of which few are found.
    image: OnceLock<Option<Box<elf::File>>>,
    lookup: OnceLock<Box<Lookup>>,
    debug: OnceLock<Option<Box<FoundFile>>>,
}

impl MappedFile {
    /// The file with these mappings, all of the same name. `private_memory` tells
    /// whether the core holds what the process wrote to private mappings,
    /// `is_program` whether the kernel's auxiliary vector points into it.
    #[must_use]
    pub fn new(
        ranges: Vec<FileNote>,
        stored: Arc<Stored>,
        places: Arc<Places>,
        private_memory: bool,
        is_program: bool,
    ) -> Self {
        let raw_name = ranges.first().map(|r| r.name.clone()).unwrap_or_default();
        let name = printable(&String::from_utf8_lossy(&raw_name)).into_owned();
        let (image, lookup, debug) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Self { name, ranges, stored, places, private_memory, raw_name, is_program, image, lookup, debug }
    }

    /// The lowest mapping of the file's start.
    #[must_use]
    pub fn first(&self) -> Option<&FileNote> {
        self.ranges.iter().find(|r| r.offset == 0)
    }

    /// The ELF headers at the file's start, if the core shows them.
    #[must_use]
    pub fn image(&self) -> Option<&elf::File> {
        self.image
            .get_or_init(|| elf::File::read_image(Arc::new(self.in_core())).ok().map(Box::new))
            .as_deref()
    }

    fn in_core(&self) -> InCore {
        let len = self.ranges.iter().map(|r| r.offset.saturating_add(r.end - r.start)).max().unwrap_or(0);
        let (name, ranges) = (PathBuf::from(&self.name), self.ranges.clone());
        InCore { name, ranges, stored: Arc::clone(&self.stored), len }
    }

    /// Whether the core shows an ELF header at the file's start.
    #[must_use]
    pub fn is_elf(&self) -> bool {
        self.image().is_some()
    }

    /// The build-id in the core.
    #[must_use]
    pub fn expected(&self) -> Option<&BuildId> {
        self.image()?.build_id()
    }

    /// The build-id in the core, else that of the file that was found.
    #[must_use]
    pub fn build_id(&self) -> Option<&BuildId> {
        self.expected().or_else(|| self.served()?.elf.build_id())
    }

    /// Finds the file; the search is made once.
    #[must_use]
    pub fn lookup(&self) -> &Lookup {
        self.lookup.get_or_init(|| Box::new(self.search()))
    }

    /// The file whose bytes are the mapping's.
    #[must_use]
    pub fn proven(&self) -> Option<&FoundFile> {
        match self.lookup() {
            Lookup::Proven(found, _) => Some(found),
            _ => None,
        }
    }

    /// The file that may be served for its symbols.
    #[must_use]
    pub fn served(&self) -> Option<&FoundFile> {
        match self.lookup() {
            Lookup::Proven(found, _) | Lookup::Doubtful(found, _) => Some(found),
            Lookup::Refused(_) => None,
        }
    }

    /// Its debug file, which `find` looks for once.
    pub(super) fn debug_file(&self, find: impl FnOnce() -> Option<FoundFile>) -> Option<&FoundFile> {
        self.debug.get_or_init(|| find().map(Box::new)).as_deref()
    }

    /// Whether it is a program or library: by its header, and where the core has none
    /// because it is mapped executable.
    #[must_use]
    pub fn has_code(&self) -> bool {
        let executable = |r: &FileNote| self.stored.segment(r.start).is_some_and(|s| s.executable());
        self.is_elf() || self.ranges.iter().any(executable)
    }

    /// The first of the candidates that is proven; else the best doubtful one, else what
    /// is to be said of the most telling.
    fn search(&self) -> Lookup {
        let name = clean_name(&self.raw_name);
        if !self.has_code() {
            return Lookup::Refused(name.err().map_or(Refusal::NotElf, Refusal::Name));
        }
        let (mut doubtful, mut refusal) = (None, name.as_ref().err().map(|why| Refusal::Name(why)));
        let mut good = |lookup: Lookup, telling: bool| match lookup {
            found @ Lookup::Proven(..) => Some(found),
            found @ Lookup::Doubtful(..) => {
                doubtful.get_or_insert(found);
                None
            }
            Lookup::Refused(why) => {
                // What the user named is what he wonders about.
                if telling || refusal.is_none() {
                    refusal = Some(why);
                }
                None
            }
        };
        let (id, base) = (self.expected(), Path::new(OsStr::from_bytes(&self.raw_name)).file_name());
        let given = &self.places.given;
        let word =
            given.exec.as_deref().filter(|_| self.is_program).or_else(|| self.places.library(id, base));
        if let Some(found) = word.and_then(|path| good(self.examine(path, Some(Proof::Word)), true)) {
            return found;
        }
        let own = name.ok().and_then(|name| match &self.places.sysroot {
            Some(root) => resolve_within(root, &name),
            None => Some(name),
        });
        let trusted = given.trust_paths.then_some(Proof::Path);
        if let Some(found) = own.and_then(|path| good(self.examine(&path, trusted), word.is_none())) {
            return found;
        }
        let here = base.map(|base| self.places.by_name(base)).unwrap_or_default();
        if let Some(found) = here.iter().find_map(|path| good(self.examine(path, None), false)) {
            return found;
        }
        let mut by_id = || {
            let id = id?;
            let elsewhere = || self.places.locator.executable(id, base);
            let path = self.places.by_build_id(id).map(Path::to_owned).or_else(elsewhere)?;
            good(self.examine(&path, None), false)
        };
        if let Some(found) = by_id() {
            return found;
        }
        doubtful.unwrap_or(Lookup::Refused(refusal.unwrap_or(Refusal::Missing)))
    }

    /// Whether the file at `path` is it. `trusted` is what stands for a proof where there
    /// is none; against a proof that it is another it does not help.
    fn examine(&self, path: &Path, trusted: Option<Proof>) -> Lookup {
        let found = match FoundFile::open(path) {
            Ok(found) => found,
            Err(refusal) => return Lookup::Refused(refusal),
        };
        match (self.expected(), found.elf.build_id()) {
            (Some(wanted), Some(id)) if wanted == id => return Lookup::Proven(found, Proof::BuildId),
            (Some(_), Some(id)) => {
                let id = id.clone();
                return Lookup::Refused(Refusal::OtherBuildId(found.path, id));
            }
            (Some(_), None) => return Lookup::Refused(Refusal::NoBuildId(found.path)),
            (None, _) => {}
        }
        let compared = proof::compare(&found, &self.ranges, &self.stored, self.is_elf());
        match (compared, trusted) {
            (Compared::Equal { compared, of }, _) => Lookup::Proven(found, Proof::Pages { compared, of }),
            (Compared::Differs { .. } | Compared::SameLayout, Some(word)) => Lookup::Proven(found, word),
            (Compared::Differs { differ, compared, first }, None) => {
                Lookup::Doubtful(found, Doubt::Pages { differ, compared, first })
            }
            (Compared::SameLayout, None) => Lookup::Doubtful(found, Doubt::PathOnly),
            (Compared::OtherHeader, _) => Lookup::Refused(Refusal::OtherHeader(found.path)),
            (Compared::OtherLayout, _) => Lookup::Refused(Refusal::OtherLayout(found.path)),
        }
    }
}

/// A mapped file by its own offsets, as far as the core itself holds it.
struct InCore {
    name: PathBuf,
    ranges: Vec<FileNote>,
    stored: Arc<Stored>,
    len: u64,
}

impl InCore {
    /// Fills `buf`; false when any byte of it is not in the core.
    fn fill(&self, offset: u64, buf: &mut [u8]) -> bool {
        // The same place may be mapped twice and be written to: prefer the read-only view.
        let mut views: Vec<_> = self
            .ranges
            .iter()
            .filter(|r| offset >= r.offset && offset - r.offset < r.end - r.start)
            .map(|r| r.start + (offset - r.offset))
            .collect();
        views.sort_by_key(|&at| self.stored.segment(at).is_some_and(|s| s.writable()));
        views.into_iter().any(|at| self.stored.read(at, buf))
    }
}

impl Source for InCore {
    fn path(&self) -> &Path {
        &self.name
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        Ok(if self.fill(offset, buf) { buf.len() } else { 0 })
    }
}

impl Backing for MappedFile {
    fn read_mapped(&self, offset: u64, buf: &mut [u8]) -> Option<usize> {
        let found = self.proven()?;
        if !self.private_memory && proof::is_written(found, offset) {
            return None;
        }
        read_page_padded(found, offset, buf)
    }
}

/// Reads as a mapping shows the file: zeros from its end to the end of the page,
/// nothing after (there the process had SIGBUS).
fn read_page_padded(found: &FoundFile, offset: u64, buf: &mut [u8]) -> Option<usize> {
    let in_file = usize::try_from(found.len.saturating_sub(offset)).unwrap_or(usize::MAX).min(buf.len());
    if in_file > 0 {
        return found.fill(offset, buf.get_mut(..in_file)?).then_some(in_file);
    }
    let end = found.len.checked_next_multiple_of(PAGE_SIZE)?;
    let pad = usize::try_from(end.saturating_sub(offset)).unwrap_or(0).min(buf.len());
    buf.get_mut(..pad)?.fill(0);
    (pad > 0).then_some(pad)
}

/// The name as a path, or why it is not looked for.
fn clean_name(raw: &[u8]) -> Result<PathBuf, &'static str> {
    let text = std::str::from_utf8(raw).map_err(|_| "it is not UTF-8")?;
    // The kernel's mark of a file that was removed, or replaced by an upgrade.
    let text = text.strip_suffix(" (deleted)").unwrap_or(text);
    if text.chars().any(char::is_control) {
        return Err("it has control characters");
    }
    if text.len() > 4095 {
        return Err("it is longer than a path can be");
    }
    let path = Path::new(text);
    if !path.is_absolute() || text.starts_with("//") {
        return Err("it is not an absolute path");
    }
    if path.components().any(|c| matches!(c, Component::ParentDir)) {
        return Err("it has a `..`");
    }
    let no_disk = ["/dev", "/proc", "/sys"].iter().any(|dir| path.starts_with(dir));
    if no_disk || ["/memfd:", "/SYSV"].iter().any(|mark| text.starts_with(mark)) {
        return Err("it is not a file on a disk");
    }
    Ok(path.to_owned())
}

/// `path` under `root`, symbolic links followed as the dead machine would have:
/// an absolute one starts at `root` again, and nothing climbs above it.
fn resolve_within(root: &Path, path: &Path) -> Option<PathBuf> {
    let mut todo: Vec<PathBuf> = vec![path.to_owned()];
    let mut inside: Vec<std::ffi::OsString> = Vec::new();
    let mut links = 0;
    while let Some(next) = todo.pop() {
        let mut parts = next.components();
        let Some(part) = parts.next() else { continue };
        let rest = parts.as_path().to_owned();
        if !rest.as_os_str().is_empty() {
            todo.push(rest);
        }
        match part {
            Component::RootDir => inside.clear(),
            Component::ParentDir => drop(inside.pop()),
            Component::Normal(name) => {
                inside.push(name.to_owned());
                let here = root.join(inside.iter().collect::<PathBuf>());
                if let Ok(target) = fs::read_link(&here) {
                    links += 1;
                    if links > 40 {
                        return None;
                    }
                    inside.pop();
                    todo.push(target);
                }
            }
            Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Some(root.join(inside.iter().collect::<PathBuf>()))
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
