//! One user process, as a userspace core shows it.
//!
//! ```text
//!  core_file   ELF header, segments, notes      rules       .eh_frame of one image
//!  notes       what the notes hold
//!  files       mapped files: found, proven      link_map    the dynamic linker's list, TLS
//!  image       programs and libraries in memory signal      siginfo in words
//!  procfs      /proc/PID as gdb wants it        verify      the core against its files
//!  unwind      stacks for a quick look          frames      of which these are made
//!  places      where files are looked for       proof       without a build-id
//!  inferred    the files of a core without      debug_link  .gnu_debuglink
//!              a list of them                   python      frames of Python
//!  names       of functions, as in the source    labels      of mappings without a file
//!  last_words  abort's message, an exception    skeleton    stands for a file that is missing
//!  found       a file that a name led to     sigframe    what a handler interrupted
//!  no_rules    callers without unwind rules    functions    symbol tables
//!  go          a program of Go, its calls to C  disasm      one instruction
//! ```
//!
//! Memory is the core, and where the core has nothing the mapped file, but only
//! if it is proven to be the file that was mapped (see [`files`]).

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::addr::VirtAddr;
use crate::arch::{Register, Registers};
use crate::dump::notes::PrStatus;
use crate::elf::BuildId;
use crate::error::{ReadFault, Result};
use crate::memory::AddressSpace;
use crate::memory::segments::{Backing, FileRange, Segments, Stored};

pub mod core_file;
pub mod debug_link;
pub mod disasm;
pub mod files;
pub mod found;
pub mod frames;
mod functions;
pub mod go;
pub mod image;
mod inferred;
pub mod labels;
pub mod last_words;
pub mod link_map;
pub mod names;
mod no_rules;
pub mod notes;
pub mod places;
pub mod procfs;
pub mod proof;
pub mod python;
pub mod rules;
pub mod sigframe;
pub mod signal;
pub mod skeleton;
pub mod unwind;
pub mod verify;

use core_file::{CoreFile, ThreadNotes};
use files::MappedFile;
use found::FoundFile;
use image::Image;
use labels::Labels;
use link_map::{LinkMap, Walked};
use notes::FileNote;
use places::Places;
use proof::Given;
use python::Python;

/// Where mapped files and their debug files are looked for.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The root of the dead process's file system; without it, our own.
    pub sysroot: Option<PathBuf>,
    /// Folders with `.build-id` trees, such as `/usr/lib/debug`.
    pub debug_dirs: Vec<PathBuf>,
    /// Folders with files that may be the mapped ones, by build-id, name and content.
    pub search_dirs: Vec<PathBuf>,
    /// Files by the user's word.
    pub given: Given,
}

/// Where the kernel says that the program's headers and first instruction are.
const AT_PHDR: u64 = 3;
const AT_ENTRY: u64 = 9;

/// An opened userspace core.
pub struct Process {
    core: CoreFile,
    places: Arc<Places>,
    memory: Segments,
    private_memory: bool,
    files: Vec<Arc<MappedFile>>,
    /// Start, and places in `files` and its ranges, in the order of the addresses.
    by_address: Vec<(u64, usize, usize)>,
    /// Those of each file, read when they are asked for: a stack passes few of a process's libraries.
    images: Vec<OnceLock<Vec<Image>>>,
    vdso: OnceLock<Option<Image>>,
    link_map: OnceLock<Walked>,
    python: OnceLock<Option<Result<Python, String>>>,
    labels: OnceLock<Labels>,
}

impl Process {
    /// Opens the core at `path`.
    pub fn open(path: &Path, options: &Options) -> Result<Self> {
        Ok(Self::new(CoreFile::open(path)?, options))
    }

    /// The process in an opened core.
    #[must_use]
    pub fn new(core: CoreFile, options: &Options) -> Self {
        let places = Arc::new(Places::new(options, &core.path));
        let listed = !core.files.is_empty();
        let process = Self::with_files(core, Arc::clone(&places));
        if listed {
            return process;
        }
        let found = inferred::file_notes(&process);
        let mut core = process.core;
        let names: HashSet<&[u8]> = found.iter().map(|f| f.name.as_slice()).collect();
        core.complaints.push(match names.len() {
            0 => "the core has no list of mapped files (NT_FILE), and its memory shows none".to_owned(),
            n => format!(
                "the core has no list of mapped files (NT_FILE): {n} programs and libraries were found by their ELF \
                 headers in memory and by the dynamic linker's list; other files are not known"
            ),
        });
        core.files = found;
        Self::with_files(core, places)
    }

    fn with_files(core: CoreFile, places: Arc<Places>) -> Self {
        let stored = Arc::new(Stored::new(Arc::clone(&core.source), core.segments.clone()));
        let private_memory = holds_private_memory(&core, &stored);
        let files = group_by_name(&core, &stored, &places, private_memory);
        let range = |file: &Arc<MappedFile>, note: &FileNote| FileRange {
            start: note.start,
            end: note.end,
            offset: note.offset,
            file: Arc::clone(file) as Arc<dyn Backing>,
        };
        let ranges = files.iter().flat_map(|f| f.ranges.iter().map(move |r| range(f, r))).collect();
        let memory = Segments::new(stored, ranges);
        let starts = |(i, file): (usize, &Arc<MappedFile>)| -> Vec<_> {
            file.ranges.iter().enumerate().map(|(j, r)| (r.start, i, j)).collect()
        };
        let mut by_address: Vec<_> = files.iter().enumerate().flat_map(starts).collect();
        by_address.sort_unstable();
        Self {
            by_address,
            core,
            places,
            memory,
            private_memory,
            images: files.iter().map(|_| OnceLock::new()).collect(),
            files,
            vdso: OnceLock::new(),
            link_map: OnceLock::new(),
            python: OnceLock::new(),
            labels: OnceLock::new(),
        }
    }

    /// The core's headers and notes.
    #[must_use]
    pub fn core(&self) -> &CoreFile {
        &self.core
    }

    /// Where files are looked for.
    #[must_use]
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Looks for the mapped files and their debug files ahead of the questions.
    pub fn find_files(&self) {
        for file in &self.files {
            let _ = file.lookup();
            file.build_id().map(|id| self.places.locator.debug_file(id));
        }
    }

    /// The debug file with that build-id.
    #[must_use]
    pub fn debug_file(&self, id: &BuildId) -> Option<FoundFile> {
        FoundFile::open(&self.places.locator.debug_file(id)?).ok()
    }

    /// The debug file of a mapped file: by build-id, else by `.gnu_debuglink`.
    #[must_use]
    pub fn debug_file_of<'f>(&self, file: &'f MappedFile) -> Option<&'f FoundFile> {
        file.debug_file(|| {
            let by_id = file.build_id().and_then(|id| self.debug_file(id));
            by_id.or_else(|| debug_link::find(&self.places, file))
        })
    }

    /// The process's memory.
    #[must_use]
    pub fn memory(&self) -> &Segments {
        &self.memory
    }

    /// The mapped files, in the order in which `NT_FILE` names them first.
    #[must_use]
    pub fn files(&self) -> &[Arc<MappedFile>] {
        &self.files
    }

    /// The file mapped at `addr`, and the mapping.
    #[must_use]
    pub fn file_at(&self, addr: u64) -> Option<(&Arc<MappedFile>, &FileNote)> {
        let (file, range) = self.mapping_from(addr)?;
        let file = self.files.get(file)?;
        file.ranges.get(range).filter(|r| addr < r.end).map(|r| (file, r))
    }

    /// The last file mapping that starts at or below `addr`: places in `files` and its ranges.
    fn mapping_from(&self, addr: u64) -> Option<(usize, usize)> {
        let after = self.by_address.partition_point(|&(start, ..)| start <= addr);
        self.by_address.get(after.checked_sub(1)?).map(|&(_, file, range)| (file, range))
    }

    /// The first address above `addr` at which a file mapping starts.
    #[must_use]
    pub fn next_file_mapping(&self, addr: u64) -> Option<u64> {
        let after = self.by_address.partition_point(|&(start, ..)| start <= addr);
        self.by_address.get(after).map(|&(start, ..)| start)
    }

    /// The process id; when the core does not tell it, the first thread's.
    #[must_use]
    pub fn pid(&self) -> u32 {
        let told = self.core.psinfo.as_ref().map(|p| p.pid).filter(|&pid| pid != 0 && pid <= 0x7fff_ffff);
        told.or_else(|| self.core.threads.first().map(|t| t.tid)).unwrap_or(1)
    }

    /// The threads, the one that died first.
    #[must_use]
    pub fn threads(&self) -> &[ThreadNotes] {
        &self.core.threads
    }

    /// The thread with this id.
    #[must_use]
    pub fn thread(&self, tid: u32) -> Option<&ThreadNotes> {
        self.core.threads.iter().find(|t| t.tid == tid)
    }

    /// The thread's name: the core has only that of the process's first thread.
    #[must_use]
    pub fn thread_name(&self, tid: u32) -> Option<&str> {
        self.core.psinfo.as_ref().filter(|p| p.pid == tid).map(|p| p.name.as_str())
    }

    /// The thread's general registers.
    #[must_use]
    pub fn general_regs(&self, thread: &ThreadNotes) -> Option<Registers> {
        Some(PrStatus::parse(&self.core.note(&thread.prstatus))?.regs)
    }

    /// An entry of the auxiliary vector.
    #[must_use]
    pub fn auxv_entry(&self, key: u64) -> Option<u64> {
        notes::auxv_entry(&self.core.auxv, key)
    }

    /// Programs and libraries in memory, in the order of their addresses.
    #[must_use]
    pub fn images(&self) -> Vec<&Image> {
        let mut all: Vec<_> = self.images_named(|_| true).chain(self.vdso()).collect();
        all.sort_by_key(|image| image.start);
        all
    }

    /// Those whose file has such a name.
    pub fn images_named<'p>(&'p self, is: impl Fn(&str) -> bool + 'p) -> impl Iterator<Item = &'p Image> {
        let named = move |&i: &usize| self.files.get(i).is_some_and(|file| is(&file.name));
        (0..self.files.len()).filter(named).flat_map(|i| self.images_of(i))
    }

    fn images_of(&self, file: usize) -> &[Image] {
        let (Some(file), Some(images)) = (self.files.get(file), self.images.get(file)) else { return &[] };
        images.get_or_init(|| image::of_file(self, file))
    }

    fn vdso(&self) -> Option<&Image> {
        self.vdso.get_or_init(|| image::vdso(self)).as_ref()
    }

    /// The program or library that covers `addr`.
    #[must_use]
    pub fn image_at(&self, addr: u64) -> Option<&Image> {
        let covers = |i: &&Image| i.start <= addr && addr < i.end;
        // Variables without initial values lie behind an image's last mapping.
        let own = self.mapping_from(addr).map_or(&[][..], |(file, _)| self.images_of(file));
        let mapped = || own.first().filter(|_| self.file_at(addr).is_some());
        own.iter().find(covers).or_else(mapped).or_else(|| self.vdso().filter(covers))
    }

    /// The main program: the one whose program headers the kernel named.
    #[must_use]
    pub fn program(&self) -> Option<&Image> {
        [AT_PHDR, AT_ENTRY].iter().find_map(|&key| self.image_at(self.auxv_entry(key)?))
    }

    /// The dynamic linker's list of loaded objects.
    #[must_use]
    pub fn link_map(&self) -> &[LinkMap] {
        &self.walked().objects
    }

    /// Whether nothing is missing in [`Process::link_map`].
    #[must_use]
    pub fn link_map_is_whole(&self) -> bool {
        self.walked().whole
    }

    fn walked(&self) -> &Walked {
        self.link_map.get_or_init(|| link_map::walk(self))
    }

    /// The Python interpreter in it, or why its frames cannot be read; nothing if there
    /// is none.
    #[must_use]
    pub fn python(&self) -> Option<Result<&Python, &str>> {
        let found = self.python.get_or_init(|| Python::find(self)).as_ref()?;
        Some(found.as_ref().map_err(String::as_str))
    }

    /// What the mappings without a file are.
    #[must_use]
    pub fn labels(&self) -> &Labels {
        self.labels.get_or_init(|| Labels::of(self))
    }

    /// Whether the core holds what the process wrote to private mappings.
    #[must_use]
    pub fn holds_private_memory(&self) -> bool {
        self.private_memory
    }

    /// Why `addr` can or cannot be read, in full.
    #[must_use]
    pub fn explain(&self, addr: u64) -> String {
        if let Some(stack) = self.labels().overflowed(addr) {
            return format!("{addr:#x} is just below the stack of thread {}: a stack overflow", stack.tid);
        }
        let mut probe = [0];
        let readable = self.memory.read_run(VirtAddr(addr), &mut probe);
        let stored = self.memory.stored().read_run(addr, &mut probe).is_ok();
        let mapping = self.file_at(addr).map(|(file, range)| {
            (
                file,
                format!(
                    "{addr:#x} maps {} at file offset {:#x}",
                    file.name,
                    range.offset + (addr - range.start)
                ),
            )
        });
        match (readable, mapping) {
            (Ok(_), Some((_, text))) if stored => format!("{text}; the byte is in the core"),
            (Ok(_), Some((file, text))) => {
                let (path, how) = match file.lookup() {
                    files::Lookup::Proven(f, proof) => (f.path.display().to_string(), proof.to_string()),
                    _ => Default::default(),
                };
                let how = file.expected().map_or(how, |id| format!("build-id {id}, as in the core"));
                format!("{text}; the core left it out, and {path} supplies it ({how})")
            }
            (Ok(_), None) => match self.labels().at(addr) {
                Some(label) => format!("{addr:#x} is in the core, {label}"),
                None => format!("{addr:#x} is in the core, in a mapping without a file"),
            },
            (Err(ReadFault::NotInCore { .. }), Some((file, text))) => {
                let expected = file.expected().map_or_else(
                    || "the core does not hold its build-id".to_owned(),
                    |id| format!("expected build-id {id}"),
                );
                let why = match file.lookup() {
                    files::Lookup::Refused(why) => why.to_string(),
                    files::Lookup::Doubtful(f, doubt) => format!("{}: {doubt}", f.path.display()),
                    files::Lookup::Proven(f, _) if !self.holds_private_memory() => format!(
                        "{} is that file, but the core was written without private memory, and the process may have changed this page",
                        f.path.display()
                    ),
                    files::Lookup::Proven(f, _) => format!("{} ends before this offset", f.path.display()),
                };
                format!("{text}; the core left it out; {expected}; {why}")
            }
            (Err(ReadFault::NotInCore { .. }), None) => format!(
                "{addr:#x} is in a mapping without a file that the core left out (never touched, or excluded by coredump_filter or MADV_DONTDUMP)"
            ),
            (Err(fault), _) => fault.to_string(),
        }
    }
}

/// Whether the core was written with private anonymous memory (bit 0 of
/// `coredump_filter`), which includes every private file page that the process
/// changed. If not, a writable file mapping that the core lacks may have been
/// changed, and the file is no substitute for it. Told by the stack.
fn holds_private_memory(core: &CoreFile, stored: &Stored) -> bool {
    let regs = core.threads.first().and_then(|t| PrStatus::parse(&core.note(&t.prstatus)));
    regs.and_then(|s| stored.segment(s.regs.get(Register::Rsp)?)).is_none_or(|stack| stack.stored > 0)
}

/// One [`MappedFile`] for each name.
fn group_by_name(
    core: &CoreFile,
    stored: &Arc<Stored>,
    places: &Arc<Places>,
    private_memory: bool,
) -> Vec<Arc<MappedFile>> {
    let mut order: Vec<&[u8]> = Vec::new();
    let mut groups: std::collections::HashMap<&[u8], Vec<FileNote>> = std::collections::HashMap::new();
    for note in &core.files {
        let group = groups.entry(&note.name).or_default();
        if group.is_empty() {
            order.push(&note.name);
        }
        group.push(note.clone());
    }
    let entry: Vec<u64> =
        [AT_PHDR, AT_ENTRY].iter().filter_map(|&k| notes::auxv_entry(&core.auxv, k)).collect();
    let file = |name: &[u8]| {
        let mut ranges = groups.remove(name)?;
        ranges.sort_by_key(|r| r.start);
        let is_program = ranges.iter().any(|r| entry.iter().any(|&at| r.start <= at && at < r.end));
        let (stored, places) = (Arc::clone(stored), Arc::clone(places));
        Some(Arc::new(MappedFile::new(ranges, stored, places, private_memory, is_program)))
    };
    order.into_iter().filter_map(file).collect()
}
