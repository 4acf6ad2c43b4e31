//! ELF images that are served to gdb, made from what the dump holds.
//!
//! gdb is given an exec-file and a list of libraries, and takes the first unwind
//! rule it finds in their order; the separate debug file that it finds for an
//! image stands before that image. So there are two arrangements:
//!
//! | real DWARF | exec-file | its debug file | libraries |
//! |---|---|---|---|
//! | not known | build-id, symbols, a debug link | types from BTF | modules, unwind |
//! | known | symbols, only the rows at which DWARF is wrong | none | `vmlinux` again (build-id; gdb finds the DWARF for it), modules, unwind |
//!
//! The last library holds all of the kernel's ORC and the rules for the world
//! outside. There it also serves who starts `gdb vmlinux`: gdb then takes that
//! for the exec-file, and its DWARF knows no assembly code.
//!
//! Types from BTF are named by `.gnu_debuglink`, not by the build-id: gdb keeps the
//! index of a file under its build-id (`set index-cache`), and would some day use
//! that of the real DWARF for ours, or ours for the real one, and crash (gdb 13:
//! "internal-error: set_length"). By the build-id it looks first, so real DWARF
//! that gdb has and we do not know of still wins.
//!
//! A client that read our types of the kernel has no debug info of that kernel, so it
//! will not look for any of the modules': it gets their types within their images
//! ([`whole_module`]), without build-id and link. gdb announces each file that it opens
//! or only looks for; of 20 modules these were 60 lines more. LLDB, which knows nothing
//! of links, gets the kernel so, too ([`whole_kernel`]).
//!
//! Everything here is a function of borrowed parts: what the parts are, and when
//! the images are made, is the kernel inferior's business.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::thread;

use crate::arch::map;
use crate::debuginfo::btf::Btf;
use crate::debuginfo::orc::OrcTable;
use crate::debuginfo::symbols::SymbolTable;
use crate::xml::push_escaped;

pub mod cfi;
mod debug_frame;
pub mod dwarf_types;
mod fallback;
pub mod files;
mod frame_pointers;
mod leb;
pub mod skeleton;
#[cfg(test)]
#[path = "tests/kernel.rs"]
pub(crate) mod tests;

use cfi::Override;
pub use debug_frame::Fdes;
use debug_frame::Frames;
use dwarf_types::Dwarf;
pub use frame_pointers::Code;
use skeleton::{ElfSymbols, Section, SectionKind, Skeleton};

/// A made image.
#[derive(Debug, Clone)]
pub struct Image {
    /// The ELF file.
    pub bytes: Arc<[u8]>,
    /// Its lowest address, for `<segment>` in the library list.
    pub segment: u64,
}

/// What the kernel's images are made from.
#[derive(Debug, Clone, Copy)]
pub struct KernelParts<'a> {
    /// All symbols, at run-time addresses.
    pub symbols: &'a SymbolTable,
    /// The kernel's build-id.
    pub build_id: Option<&'a [u8]>,
    /// Sections of the real vmlinux at run-time addresses, if one was found;
    /// empty to go by the symbols.
    pub sections: &'a [Section],
    /// The unwind table.
    pub orc: Option<&'a OrcTable>,
    /// The types.
    pub btf: Option<&'a Btf>,
    /// Functions that ORC leaves out (see [`cfi::frame_by_caller`]).
    pub overrides: &'a [Override],
    /// The code of a kernel that keeps frame pointers.
    pub code: Code<'a>,
    /// Whether gdb will find real DWARF by the build-id.
    pub real_dwarf: bool,
}

/// The kernel's images.
#[derive(Debug, Clone)]
pub struct KernelImages {
    /// The exec-file.
    pub exec: Image,
    /// To be served beside the exec-file as [`KERNEL_TYPES`].
    pub debug: Option<Image>,
    /// To be the first library, before the modules: gdb finds real DWARF for it.
    pub dwarf: Option<Image>,
    /// To be the last library: unwind rules.
    pub unwind: Image,
}

/// What the kernel's images hold.
struct KernelContents<'a> {
    sections: Cow<'a, [Section]>,
    symbols: ElfSymbols,
    frames: Frames,
    types: Option<Dwarf>,
}

impl<'a> KernelContents<'a> {
    fn new(parts: &KernelParts<'a>, types: bool, fdes: Fdes) -> Self {
        let sections = match parts.sections {
            [] => Cow::Owned(skeleton::kernel_sections(parts.symbols)),
            known => Cow::Borrowed(known),
        };
        let text = text_range(&sections);
        let whole = sections
            .iter()
            .fold(text.clone(), |r, s| r.start.min(s.range.start)..r.end.max(s.range.end.min(map::FIXMAP)));
        let (symbols, (frames, types)) = thread::scope(|scope| {
            let symbols = scope.spawn(|| skeleton::symbol_table(parts.symbols, &sections));
            let frames = cfi::world(parts.orc, parts.symbols, parts.overrides, parts.code, &whole, fdes);
            let types = parts.btf.filter(|_| types).map(|btf| {
                dwarf_types::dwarf(&dwarf_types::Input {
                    btf,
                    symbols: parts.symbols,
                    text: &text,
                    signal_ranges: &frames.signal_ranges,
                    name: "vmlinux",
                })
            });
            (symbols.join().unwrap_or_default(), (frames, types.filter(|t| !t.is_empty())))
        });
        Self { sections, symbols, frames, types }
    }
}

/// Makes the kernel's images.
#[must_use]
pub fn kernel(parts: &KernelParts<'_>) -> KernelImages {
    let KernelContents { sections, symbols, frames, types } =
        KernelContents::new(parts, !parts.real_dwarf, Fdes::Long);
    let sections = sections.as_ref();

    let image = |build_id, symbols, frames: Option<&Frames>, types: Option<&Image>| {
        let mut contents: Vec<(&'static str, &[u8])> = Vec::new();
        if let Some(f) = frames.filter(|f| f.count > 0) {
            contents.push((".debug_frame", &f.bytes));
        }
        let debug_link = types.map(|t| (KERNEL_TYPES, checksum(&t.bytes)));
        build(&Skeleton { sections, build_id, symbols, debug_link, contents: &contents, shared: false })
    };
    let unwind = unwind_image(&frames);
    if parts.real_dwarf {
        let corrections = match parts.orc {
            Some(orc) => cfi::switch_frames(orc, parts.symbols),
            None => cfi::interrupt_frames(parts.code, parts.symbols),
        };
        return KernelImages {
            exec: image(None, Some(&symbols), Some(&corrections), None),
            debug: None,
            dwarf: Some(image(parts.build_id, None, None, None)),
            unwind,
        };
    }
    let debug = types.map(|d| types_image(sections, &d));
    KernelImages {
        exec: image(parts.build_id, Some(&symbols), None, debug.as_ref()),
        debug,
        dwarf: None,
        unwind,
    }
}

/// The kernel in one image: symbols, types and unwind rules.
#[must_use]
pub fn whole_kernel(parts: &KernelParts<'_>) -> Image {
    let KernelContents { sections, symbols, frames, types } =
        KernelContents::new(parts, true, Fdes::PerFunction);
    whole(&sections, &symbols, types.as_ref(), &frames)
}

fn whole(sections: &[Section], symbols: &ElfSymbols, types: Option<&Dwarf>, frames: &Frames) -> Image {
    let mut contents: Vec<(&'static str, &[u8])> = Vec::new();
    if frames.count > 0 {
        contents.push((".debug_frame", &frames.bytes));
    }
    contents.extend(types.iter().flat_map(|t| t.sections()));
    let symbols = Some(symbols);
    build(&Skeleton { sections, symbols, contents: &contents, shared: true, ..Skeleton::default() })
}

/// Name of the kernel's debug file made from BTF.
pub const KERNEL_TYPES: &str = "vmlinux.btf.debug";

/// Name of a module's debug file made from BTF.
#[must_use]
pub fn module_types(name: &str) -> String {
    format!("{name}.btf.debug")
}

fn types_image(sections: &[Section], dwarf: &Dwarf) -> Image {
    build(&Skeleton { sections, contents: &dwarf.sections(), ..Skeleton::default() })
}

/// As `.gnu_debuglink` has it.
fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// What a module's image is made from.
#[derive(Debug, Clone, Copy)]
pub struct ModuleParts<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its symbols, at run-time addresses.
    pub symbols: &'a SymbolTable,
    /// Its build-id, by which gdb looks for debug info.
    pub build_id: Option<&'a [u8]>,
    /// Its sections (or memory areas, where the sections are not known).
    pub sections: &'a [Section],
    /// Its unwind table.
    pub orc: Option<&'a OrcTable>,
    /// Its code, if it keeps frame pointers.
    pub code: Code<'a>,
    /// Its split BTF; not to be given to [`module`] if gdb will find real DWARF.
    pub btf: Option<&'a Btf>,
}

/// A module's images.
#[derive(Debug, Clone)]
pub struct ModuleImages {
    /// The library.
    pub library: Image,
    /// To be served beside it under the name of [`module_types`].
    pub debug: Option<Image>,
}

struct ModuleContents {
    symbols: ElfSymbols,
    frames: Frames,
    types: Option<Dwarf>,
}

impl ModuleContents {
    fn new(parts: &ModuleParts<'_>, fdes: Fdes) -> Self {
        let text = text_range(parts.sections);
        let frames = match parts.orc {
            Some(orc) => cfi::frames(orc, parts.symbols, &[], fdes),
            None if parts.code.functions.is_empty() => Frames::default(),
            None => cfi::module_frames(parts.code, parts.symbols, &text, fdes),
        };
        let types = parts.btf.map(|btf| {
            dwarf_types::dwarf(&dwarf_types::Input {
                btf,
                symbols: parts.symbols,
                text: &text,
                signal_ranges: &frames.signal_ranges,
                // gdb reads a word that is a unit's name as a file: `struct zram` would
                // be a syntax error while a module zram is loaded.
                name: &format!("{}.ko", parts.name),
            })
        });
        let symbols = skeleton::symbol_table(parts.symbols, parts.sections);
        Self { symbols, frames, types: types.filter(|t| !t.is_empty()) }
    }
}

/// Makes a module's images.
#[must_use]
pub fn module(parts: &ModuleParts<'_>) -> ModuleImages {
    let ModuleContents { symbols, frames, types } = ModuleContents::new(parts, Fdes::Long);
    let mut contents: Vec<(&'static str, &[u8])> = Vec::new();
    if frames.count > 0 {
        contents.push((".debug_frame", &frames.bytes));
    }
    let debug = types.map(|d| types_image(parts.sections, &d));
    let name = module_types(parts.name);
    let library = build(&Skeleton {
        sections: parts.sections,
        build_id: parts.build_id,
        symbols: Some(&symbols),
        debug_link: debug.as_ref().map(|d| (name.as_str(), checksum(&d.bytes))),
        contents: &contents,
        shared: false,
    });
    ModuleImages { library, debug }
}

/// A module in one image: symbols, types and unwind rules.
#[must_use]
pub fn whole_module(parts: &ModuleParts<'_>) -> Image {
    let ModuleContents { symbols, frames, types } = ModuleContents::new(parts, Fdes::PerFunction);
    whole(parts.sections, &symbols, types.as_ref(), &frames)
}

/// Its one section is tiny and out of the way: gdb would print the name of a
/// library that covers the kernel behind every frame without a source line.
fn unwind_image(frames: &Frames) -> Image {
    let sections = [Section {
        name: ".text".to_owned(),
        range: fallback::ADDRESS..fallback::ADDRESS + 16,
        kind: SectionKind::Text,
    }];
    build(&Skeleton {
        sections: &sections,
        contents: &[(".debug_frame", &frames.bytes)],
        ..Skeleton::default()
    })
}

fn build(skeleton: &Skeleton<'_>) -> Image {
    Image { bytes: skeleton.build().into(), segment: skeleton::lowest(skeleton.sections).unwrap_or(0) }
}

/// From the first section with code to the last.
fn text_range(sections: &[Section]) -> Range<u64> {
    let text = || sections.iter().filter(|s| s.kind == SectionKind::Text && s.range.start != 0);
    let start = text().map(|s| s.range.start).min().unwrap_or(0);
    start..text().map(|s| s.range.end).max().unwrap_or(0)
}

/// The sections of a module from their starts alone (name, address), within the
/// module's memory `ranges` (and whether each holds code). Where the starts are
/// not known the ranges themselves are the sections.
#[must_use]
pub fn module_sections<'a>(
    starts: impl IntoIterator<Item = (&'a str, u64)>,
    ranges: &[(Range<u64>, bool)],
) -> Vec<Section> {
    // A skeleton has its own note, and the per-CPU section is elsewhere.
    const LEFT_OUT: [&str; 2] = [".note.gnu.build-id", ".data..percpu"];
    let mut starts: Vec<_> = starts.into_iter().collect();
    starts.sort_by_key(|(_, at)| *at);
    let mut out = Vec::new();
    for (i, (name, at)) in starts.iter().enumerate() {
        let Some((range, _)) = ranges.iter().find(|(r, _)| r.contains(at)) else { continue };
        let next = starts.get(i + 1..).unwrap_or_default().iter().map(|(_, a)| *a).find(|a| a > at);
        let end = next.map_or(range.end, |n| n.min(range.end));
        if !LEFT_OUT.contains(name) {
            out.push(Section { name: (*name).to_owned(), range: *at..end, kind: kind_by_name(name) });
        }
    }
    if out.iter().any(|s| s.kind == SectionKind::Text) {
        return out;
    }
    let (mut texts, mut others) = (0, 0);
    ranges
        .iter()
        .filter(|(r, _)| r.start < r.end)
        .map(|(range, text)| {
            let (name, kind, n) = match text {
                true => (".text", SectionKind::Text, &mut texts),
                false => (".data", SectionKind::Data, &mut others),
            };
            *n += 1;
            let name = if *n == 1 { name.to_owned() } else { format!("{name}.{n}") };
            Section { name, range: range.clone(), kind }
        })
        .collect()
}

fn kind_by_name(name: &str) -> SectionKind {
    if name.contains(".text")
        || matches!(name, ".altinstr_replacement" | ".altinstr_aux" | ".plt" | ".init.plt")
    {
        SectionKind::Text
    } else {
        SectionKind::Data
    }
}

/// The `<library-list>` document, in gdb's order. What is said of a lowest address is
/// `segment` for gdb; LLDB knows only `section`, of which it takes the first.
#[must_use]
pub fn library_list<'a>(libraries: impl IntoIterator<Item = (&'a str, u64)>, at: &str) -> String {
    let mut out = String::from("<library-list>\n");
    for (name, lowest) in libraries {
        let mut escaped = String::with_capacity(name.len());
        push_escaped(&mut escaped, name);
        out.push_str(&format!("<library name=\"{escaped}\"><{at} address=\"{lowest:#x}\"/></library>\n"));
    }
    out.push_str("</library-list>\n");
    out
}
