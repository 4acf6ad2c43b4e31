//! Opening a kernel: its page tables, symbols and types, each from the first
//! source that has it.

use std::path::PathBuf;
use std::sync::Arc;

use super::layout::{KernelVersion, Layout};
use super::place::Place;
use super::{View, derived, kaslr, own_vmcoreinfo, task_scan, utsname, vmalloc};
use crate::addr::{PhysAddr, VirtAddr};
use crate::arch::map;
use crate::debuginfo::btf::{Btf, holed};
use crate::debuginfo::dwarf::DwarfTypes;
use crate::debuginfo::elf::Vmlinux;
use crate::debuginfo::symbols::{Builder, SymbolTable};
use crate::debuginfo::vmcoreinfo_types::VmcoreInfoTypes;
use crate::debuginfo::{Types, kallsyms, kallsyms_scan};
use crate::dump::Vmcore;
use crate::dump::vmcoreinfo::VmcoreInfo;
use crate::elf::BuildId;
use crate::error::{Error, Result};
use crate::memory::paging::PageTables;
use crate::memory::{self, AddressSpace};

/// Largest BTF that is believed (today's kernels have 5 to 10 MB).
const BTF_MAX: u64 = 256 << 20;

const UNKNOWN: &str = "where the kernel lies is not known";
const NO_TYPES: &str = "give --vmlinux FILE, the vmlinux with DWARF of this kernel";

/// What the user says about a kernel dump.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// A vmlinux with symbols, BTF or DWARF.
    pub vmlinux: Option<PathBuf>,
    /// Where separate debug files are looked for.
    pub debug_dirs: Vec<PathBuf>,
    /// The text of VMCOREINFO in a file, instead of the dump's own.
    pub vmcoreinfo: Option<PathBuf>,
    /// How far KASLR moved the kernel.
    pub kaslr_offset: Option<u64>,
    /// `phys_base`.
    pub phys_base: Option<i64>,
    /// Where the kernel's page tables are.
    pub cr3: Option<u64>,
}

/// What was found at opening.
pub(super) struct Opened {
    pub(super) dump: Arc<Vmcore>,
    pub(super) options: Options,
    pub(super) vmcoreinfo: Arc<VmcoreInfo>,
    pub(super) kaslr_offset: u64,
    pub(super) phys_base: i64,
    pub(super) tables: Arc<PageTables>,
    pub(super) vmlinux: Option<Arc<Vmlinux>>,
    pub(super) btf: Option<Arc<Btf>>,
    pub(super) view: View,
    /// What more than memory, log and symbols lacks.
    pub(super) lack: Option<Error>,
    /// What is said of a VMCOREINFO of which bits were turned back.
    pub(super) mended: Option<String>,
}

impl Opened {
    /// The same, read through another space; what it lacks is not told again.
    pub(super) fn through(&self, space: Arc<dyn AddressSpace>) -> Self {
        let Self { dump, options, vmcoreinfo, tables, vmlinux, btf, mended, .. } = self;
        Self {
            dump: dump.clone(),
            options: options.clone(),
            vmcoreinfo: vmcoreinfo.clone(),
            kaslr_offset: self.kaslr_offset,
            phys_base: self.phys_base,
            tables: tables.clone(),
            vmlinux: vmlinux.clone(),
            btf: btf.clone(),
            view: self.view.through(space),
            lack: None,
            mended: mended.clone(),
        }
    }
}

#[cfg(test)]
impl Opened {
    /// An opened dump without a byte of memory, whose kernel is read through `view`.
    pub(super) fn made_up(view: View) -> Self {
        use crate::addr::PhysAddr;
        use crate::arch::{Levels, paging::Paging};
        use crate::dump::elf_core;

        // 256 bytes of memory, of which none is in the file
        let file = elf_core(&[(1, 0, 0, 0, 0, 256)], 64, &[]);
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&path, file).unwrap();
        let dump = Arc::new(Vmcore::open(&[path.path().to_owned()]).unwrap());
        let paging = Paging { levels: Levels::Four, sme_mask: 0 };
        Self {
            tables: Arc::new(PageTables::new(dump.clone(), PhysAddr(0), paging)),
            dump,
            options: Options::default(),
            vmcoreinfo: Arc::new(VmcoreInfo::parse(b"OSRELEASE=made-up\n")),
            kaslr_offset: 0,
            phys_base: 0,
            vmlinux: None,
            btf: None,
            view,
            lack: None,
            mended: None,
        }
    }
}

/// As much of the kernel as can be made out. `Err` is for what the user said, and for
/// files that cannot be read; what the dump lacks is in [`Opened::lack`].
pub(super) fn open(dump: Vmcore, options: Options) -> Result<Opened> {
    opened(Arc::new(dump), options)
}

fn opened(dump: Arc<Vmcore>, options: Options) -> Result<Opened> {
    let (mut place, mut lack) = match or_missing(kaslr::locate(&dump, &options))? {
        Ok(place) => (place, None),
        Err(why) => (Place::unknown(&dump), Some(why)),
    };
    tracing::debug!(kaslr_offset = format_args!("{:#x}", place.kaslr_offset), "page tables found");
    let version =
        KernelVersion::parse(&utsname::release(&place.tables, &place.vmcoreinfo, dump.utsname_hint()));
    let vmlinux = options.vmlinux.as_deref().map(Vmlinux::open).transpose()?.map(Arc::new);
    if let Some(vmlinux) = &vmlinux {
        check_build_id(vmlinux, version.build_id(&place.vmcoreinfo))?;
    }
    let symbols = or_missing(symbols(&dump, &place, &version, vmlinux.as_deref()))?.unwrap_or_else(|why| {
        let few = few_symbols(&place, &why);
        lack.get_or_insert(why);
        few
    });
    if lack.is_some() && dump.look_closer() {
        return opened(dump, options);
    }
    tracing::debug!(symbols = symbols.len(), origin = symbols.origin(), "symbols read");
    let mut tables = place.tables;
    kaslr::know_direct_map(&dump, &mut tables, &symbols, &version);
    let own = dump.vmcoreinfo().and_then(|note| own_vmcoreinfo::mended(note, &tables, &symbols));
    let mended = own.filter(|_| options.vmcoreinfo.is_none()).map(|(own, said)| {
        place.kaslr_offset = kaslr::offset(&options, &own);
        place.vmcoreinfo = Arc::new(own);
        said
    });
    let found = types(&dump, &tables, &place.vmcoreinfo, &symbols, vmlinux.as_ref(), &version, place.known);
    let (types, btf) = match or_missing(found)? {
        Ok((types, btf)) => (Ok(types), btf),
        Err(why) => (Err(why), None),
    };
    let tables = Arc::new(tables);
    let user_limit = tables.paging().levels.user_end();
    let info = place.vmcoreinfo.clone();
    let (types, layout) = match types {
        Ok(types) => {
            let layout = Layout::resolve(types.as_ref(), version.clone()).map_err(|what| {
                let path = dump.path().to_owned();
                Error::Missing { path, what, hint: NO_TYPES }
            });
            (Ok(types), layout)
        }
        Err(why) => (Err(why.what()), Err(why)),
    };
    let types: Arc<dyn Types> =
        Arc::new(VmcoreInfoTypes::new(types.as_ref().map_err(|w| &**w).cloned(), info));
    tracing::debug!(origin = types.origin(), "types read");
    let layout = match layout {
        Ok(layout) => {
            // With types, tasks are found even without a name.
            lack = lack.filter(|_| !place.known);
            layout
        }
        Err(why) => {
            lack.get_or_insert(why);
            Layout::unknown(version)
        }
    };
    let view = View::with(tables.clone(), user_limit, Arc::new(symbols), types, layout);
    tracing::debug!("layout resolved");
    vmalloc::know_pages(&tables, &view);
    Ok(Opened {
        dump,
        options,
        vmcoreinfo: place.vmcoreinfo,
        kaslr_offset: place.kaslr_offset,
        phys_base: place.phys_base,
        tables,
        vmlinux,
        btf,
        view,
        lack,
        mended,
    })
}

/// What was found, or what the dump lacks for it; other errors end the opening.
fn or_missing<T>(found: Result<T>) -> Result<std::result::Result<T, Error>> {
    match found {
        Err(why @ Error::Missing { .. }) => Ok(Err(why)),
        found => found.map(Ok),
    }
}

/// The symbols that VMCOREINFO names, for want of others.
fn few_symbols(place: &Place, why: &Error) -> SymbolTable {
    let mut few = Builder::new(format!("VMCOREINFO alone ({})", why.what()));
    few.lacks_names();
    for (name, address) in place.vmcoreinfo.symbols() {
        few.push(address, 0, b'D', name.as_bytes());
    }
    few.finish()
}

fn check_build_id(vmlinux: &Vmlinux, wanted: Option<BuildId>) -> Result<()> {
    match (vmlinux.build_id(), wanted) {
        (Some(found), Some(wanted)) if *found != wanted => Err(Error::WrongBuildId {
            path: vmlinux.path().to_owned(),
            wanted: wanted.to_string(),
            found: found.to_string(),
        }),
        _ => Ok(()),
    }
}

fn symbols(
    dump: &Vmcore,
    place: &Place,
    version: &KernelVersion,
    vmlinux: Option<&Vmlinux>,
) -> Result<SymbolTable> {
    let (vmcoreinfo, tables) = (&place.vmcoreinfo, &place.tables);
    let long_names = version.marks_long_names();
    let stext = kaslr::stext(|name| vmcoreinfo.symbol(name));
    let own = || {
        let named = kallsyms::Tables::from_lookup(&|name| vmcoreinfo.symbol(name))
            .ok_or_else(|| "VMCOREINFO does not name its kallsyms tables (kernels before 6.0)".to_owned());
        let read = |stext| kallsyms::read(tables, named.as_ref().map_err(Clone::clone)?, stext, long_names);
        read(stext)
            // A bit of `_stext` itself may have turned over.
            .or_else(|why| read(None).ok().filter(|table| agrees(vmcoreinfo, table)).ok_or(why))
            .or_else(|why| {
                // Found by what they look like, and proven by `_stext`.
                tracing::info!("{why}; looking for kallsyms in the kernel image");
                let image = (VirtAddr(stext.unwrap_or(map::KERNEL_MAP)), map::KERNEL_IMAGE_SIZE);
                kallsyms_scan::find_and_read(tables, &[image], stext, long_names)
                    .map_err(|scan| format!("{why}; {scan}"))
            })
    };
    let own = if place.known { own() } else { Err(UNKNOWN.to_owned()) };
    let why = match own {
        Ok(table) if table.lacks_names() => return Ok(table.and(vmcoreinfo.symbols())),
        Ok(table) => return Ok(table),
        Err(why) => why,
    };
    if let Some(vmlinux) = vmlinux {
        tracing::info!(
            "kallsyms of the dump not usable ({why}); symbols are those of {}",
            vmlinux.path().display()
        );
        return vmlinux.symbols(place.kaslr_offset);
    }
    Err(Error::Missing {
        path: dump.path().to_owned(),
        what: format!("no symbols: {why}"),
        hint: "give --vmlinux FILE, the vmlinux of this kernel",
    })
}

/// Whether nearly all symbols that VMCOREINFO names are where `table` has them.
fn agrees(info: &VmcoreInfo, table: &SymbolTable) -> bool {
    let told = |(name, at): (&str, u64)| Some(table.address(name)? == at);
    let (right, wrong): (Vec<_>, Vec<_>) = info.symbols().filter_map(told).partition(|&same| same);
    right.len() > 3 && right.len() > 2 * wrong.len()
}

/// The types, and the BTF if they are that.
type Found = (Arc<dyn Types>, Option<Arc<Btf>>);

fn types(
    dump: &Vmcore,
    space: &PageTables,
    info: &VmcoreInfo,
    symbols: &SymbolTable,
    vmlinux: Option<&Arc<Vmlinux>>,
    version: &KernelVersion,
    known: bool,
) -> Result<Found> {
    let btf = |btf: Btf| {
        let btf = Arc::new(btf);
        (btf.clone() as Arc<dyn Types>, Some(btf))
    };
    let pages: derived::Pages<'_> = &|visit| {
        let Some(direct) = space.direct_map() else { return Vec::new() };
        let visit = |phys: PhysAddr, page: &[u8; 4096], found: &mut Vec<_>| {
            visit(direct.0.wrapping_add(phys.0), page, found);
        };
        task_scan::over_memory(dump, "the layout of tasks", visit).0
    };
    let own = if known { btf_of_dump(space, symbols) } else { Err(UNKNOWN.to_owned()) };
    let why = match own {
        Ok((found, false)) if vmlinux.is_none() && Layout::resolve(&found, version.clone()).is_err() => {
            let own = Arc::new(found);
            let over = derived::over(own.clone(), space, symbols, pages);
            let over = over.inspect_err(|why| tracing::warn!("the layout of tasks is lost: {why}"));
            return Ok((over.unwrap_or_else(|_| own.clone()), Some(own)));
        }
        Ok((found, whole)) if whole || vmlinux.is_none() => return Ok(btf(found)),
        Ok((found, _)) => found.origin().to_owned(),
        Err(why) => why,
    };
    tracing::info!("no BTF in {}: {why}", dump.path().display());
    let unknown = |why: String| Error::Missing {
        path: dump.path().to_owned(),
        what: format!("the layout of this kernel's structures is not known: {why}"),
        hint: NO_TYPES,
    };
    let Some(vmlinux) = vmlinux else {
        if !known {
            return Err(unknown(why));
        }
        let derived = derived::types(space, symbols, info, pages);
        let derived = derived.map_err(|more| unknown(format!("{why}; {more}")))?;
        return Ok((Arc::new(derived), None));
    };
    if let Some(bytes) = vmlinux.section_data(".BTF")? {
        match Btf::parse(bytes.into_owned(), format!("BTF of {}", vmlinux.path().display())) {
            Ok(found) => return Ok(btf(found)),
            Err(why) => tracing::warn!("BTF of {} not usable: {why}", vmlinux.path().display()),
        }
    }
    Ok((Arc::new(DwarfTypes::new(vmlinux.clone())?), None))
}

/// The BTF in the dump, and whether it is whole.
fn btf_of_dump(space: &dyn AddressSpace, symbols: &SymbolTable) -> Result<(Btf, bool), String> {
    let at = |name: &str| symbols.address(name);
    let (start, len) = match (at("__start_BTF"), at("__stop_BTF")) {
        (Some(start), Some(stop)) => (start, stop.wrapping_sub(start)),
        _ if symbols.lacks_names() => {
            let image = kaslr::stext(at).ok_or("no symbol __start_BTF")?;
            let found = holed::find(space, VirtAddr(image), map::KERNEL_IMAGE_SIZE);
            found.ok_or("the name __start_BTF is lost, and no BTF was found in the kernel's image")?
        }
        _ => return Err("this kernel carries no BTF (no symbol __start_BTF)".to_owned()),
    };
    if !(24..BTF_MAX).contains(&len) {
        return Err(format!("its BTF has impossible bounds: {start:#x} and {len:#x} bytes"));
    }
    let len = usize::try_from(len).map_err(|e| e.to_string())?;
    let read = memory::read_holed(space, VirtAddr(start), len);
    let mut origin = "BTF in the dump".to_owned();
    if let Some(lost) = read.sentence() {
        origin = format!("{origin}, not whole ({lost})");
        tracing::warn!("{origin}");
    }
    let lost = read.lost();
    let bytes: Arc<[u8]> = read.bytes.into();
    let error = match Btf::parse(Arc::clone(&bytes), origin.clone()) {
        Ok(btf) if lost.is_empty() => return Ok((btf, true)),
        other => other.err(),
    };
    let holes = holed::foreign(&bytes, &lost, start);
    match (holes.len() - lost.len(), error) {
        (0, Some(error)) if lost.is_empty() => return Err(error.to_string()),
        (0, _) => {}
        (pages, _) => {
            origin = format!("{origin}, not whole (in the place of {pages} of its pages stand others)");
            tracing::warn!("{origin}");
        }
    }
    Btf::parse_holed(bytes, holes, origin).map(|btf| (btf, false)).map_err(|e| e.to_string())
}
