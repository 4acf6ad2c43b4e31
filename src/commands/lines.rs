//! Source lines of code addresses, where vmlinux or a module's file with DWARF
//! is found.
//!
//! A module's file is relocatable: its debug sections are put together for the
//! addresses at which the dumped kernel had loaded it (`R_X86_64_64` and `_32` of
//! `.rela.debug_*`; psABI x86-64, 4.4).

use std::borrow::Cow;
use std::sync::{Mutex, OnceLock, PoisonError};

use addr2line::Context;
use gimli::{Dwarf, EndianSlice, LittleEndian};

use crate::addr::VirtAddr;
use crate::debuginfo::elf::Vmlinux;
use crate::linux::{Kernel, Module};

type Slice<'f> = EndianSlice<'f, LittleEndian>;

/// The sections that lines are found by.
const SECTIONS: [&str; 9] = [
    ".debug_abbrev",
    ".debug_addr",
    ".debug_info",
    ".debug_line",
    ".debug_line_str",
    ".debug_ranges",
    ".debug_rnglists",
    ".debug_str",
    ".debug_str_offsets",
];

/// A debug section no longer than this is relocated (xfs.ko's are 30 MB).
const RELOCATED_MAX: u64 = 512 << 20;

/// The debug sections of one file, in the order of [`SECTIONS`].
type Loaded<'k> = Vec<Cow<'k, [u8]>>;

/// The files with DWARF, each loaded when first asked for.
pub(super) struct LineFiles<'k> {
    kernel: &'k Kernel,
    vmlinux: OnceLock<Option<Loaded<'k>>>,
    modules: Vec<OnceLock<Option<Loaded<'k>>>>,
}

impl<'k> LineFiles<'k> {
    pub(super) fn new(kernel: &'k Kernel) -> Self {
        let modules = kernel.modules().iter().map(|_| OnceLock::new()).collect();
        Self { kernel, vmlinux: OnceLock::new(), modules }
    }

    fn of_kernel(&self) -> Option<&Loaded<'k>> {
        self.vmlinux
            .get_or_init(|| {
                let file = self.kernel.debug_files().vmlinux.as_ref()?;
                SECTIONS.iter().map(|name| Some(file.section_data(name).ok()?.unwrap_or_default())).collect()
            })
            .as_ref()
    }

    fn of_module(&self, index: usize) -> Option<&Loaded<'k>> {
        self.modules
            .get(index)?
            .get_or_init(|| {
                let path = self.kernel.debug_files().modules.get(index)?.as_ref()?;
                let module = self.kernel.modules().get(index)?;
                let file = Vmlinux::open(path).inspect_err(|e| tracing::warn!("{e}")).ok()?;
                SECTIONS.iter().map(|name| relocated(&file, module, name).map(Cow::Owned)).collect()
            })
            .as_ref()
    }
}

/// Lines from [`LineFiles`]; one reader of DWARF for each file.
pub(super) struct Lines<'f> {
    files: &'f LineFiles<'f>,
    vmlinux: OnceLock<Option<Mutex<Context<Slice<'f>>>>>,
    modules: Vec<OnceLock<Option<Mutex<Context<Slice<'f>>>>>>,
}

impl<'f> Lines<'f> {
    pub(super) fn new(files: &'f LineFiles<'f>) -> Self {
        let modules = files.modules.iter().map(|_| OnceLock::new()).collect();
        Self { files, vmlinux: OnceLock::new(), modules }
    }

    /// `FILE: LINE` of `addr`, the innermost inlined function first, which has
    /// its name behind it. Nothing where no DWARF is found.
    pub(super) fn of(&self, addr: VirtAddr) -> Vec<String> {
        let kernel = self.files.kernel;
        let module = kernel.modules().iter().position(|m| m.contains(addr));
        let context = match module {
            Some(i) => self
                .modules
                .get(i)
                .and_then(|slot| slot.get_or_init(|| context(self.files.of_module(i)?)).as_ref()),
            None => self.vmlinux.get_or_init(|| context(self.files.of_kernel()?)).as_ref(),
        };
        let Some(context) = context else { return Vec::new() };
        let context = context.lock().unwrap_or_else(PoisonError::into_inner);
        // vmlinux is linked where KASLR found it.
        let probe = if module.is_some() { addr.0 } else { addr.0.wrapping_sub(kernel.kaslr_offset()) };
        lines(&context, probe).unwrap_or_default()
    }
}

fn context<'f>(loaded: &'f Loaded<'_>) -> Option<Mutex<Context<Slice<'f>>>> {
    let section = |id: gimli::SectionId| {
        let found = SECTIONS.iter().position(|name| *name == id.name()).and_then(|i| loaded.get(i));
        Ok::<_, gimli::Error>(EndianSlice::new(found.map_or(&[], |s| s.as_ref()), LittleEndian))
    };
    Context::from_dwarf(Dwarf::load(section).ok()?).ok().map(Mutex::new)
}

fn lines(context: &Context<Slice<'_>>, probe: u64) -> Option<Vec<String>> {
    let mut frames = context.find_frames(probe).skip_all_loads().ok()?;
    let mut found: Vec<(String, Option<String>)> = Vec::new();
    while let Ok(Some(frame)) = frames.next() {
        let Some(place) = frame.location else { continue };
        let (Some(file), Some(line)) = (place.file, place.line) else { continue };
        let name = frame.function.and_then(|f| f.raw_name().ok().map(Cow::into_owned));
        found.push((format!("{file}: {line}"), name));
    }
    let last = found.len().saturating_sub(1);
    let text = |(i, (place, name)): (usize, (String, Option<String>))| match name.filter(|_| i != last) {
        Some(name) => format!("{place}  (inlined {name})"),
        None => place,
    };
    Some(found.into_iter().enumerate().map(text).collect())
}

/// A debug section of a module's file, with its relocations done.
fn relocated(file: &Vmlinux, module: &Module, name: &str) -> Option<Vec<u8>> {
    let Some(section) = file.section(name) else { return Some(Vec::new()) };
    if section.size > RELOCATED_MAX {
        return None;
    }
    file.relocated(section, &|section| module.section(&section.name).map_or(0, |at| at.0))
}
