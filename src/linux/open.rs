//! Opening a kernel: its page tables, symbols and types, each from the first
//! source that has it.

use std::path::PathBuf;
use std::sync::Arc;

use super::layout::KernelVersion;
use super::{View, derived, kaslr, vmalloc};
use crate::addr::VirtAddr;
use crate::arch::map;
use crate::debuginfo::btf::Btf;
use crate::debuginfo::dwarf::DwarfTypes;
use crate::debuginfo::elf::Vmlinux;
use crate::debuginfo::symbols::SymbolTable;
use crate::debuginfo::{Types, kallsyms, kallsyms_scan};
use crate::dump::Vmcore;
use crate::dump::vmcoreinfo::VmcoreInfo;
use crate::elf::BuildId;
use crate::error::{Error, Result};
use crate::memory::paging::PageTables;
use crate::memory::{self, AddressSpace};

/// Largest BTF that is believed (today's kernels have 5 to 10 MB).
const BTF_MAX: u64 = 256 << 20;

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
}

#[cfg(test)]
impl Opened {
    /// An opened dump without a byte of memory, whose kernel is read through `view`.
    pub(super) fn made_up(view: View) -> Self {
        use crate::addr::PhysAddr;
        use crate::arch::{Levels, paging::Paging};

        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(64 + 56, 0);
        for (at, half) in [(16, 4u16), (18, 62), (32, 64), (54, 56), (56, 1), (64, 1)] {
            file[at..at + 2].copy_from_slice(&half.to_le_bytes());
        }
        file[64 + 41] = 1; // p_memsz: 256 bytes, of which none is in the file
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
        }
    }
}

/// `Err` says what is missing and which option supplies it.
pub(super) fn open(dump: Vmcore, options: Options) -> Result<Opened> {
    let dump = Arc::new(dump);
    let place = kaslr::locate(&dump, &options)?;
    tracing::debug!(kaslr_offset = format_args!("{:#x}", place.kaslr_offset), "page tables found");
    let version = KernelVersion::parse(place.vmcoreinfo.release().unwrap_or_default());
    let vmlinux = options.vmlinux.as_deref().map(Vmlinux::open).transpose()?.map(Arc::new);
    if let Some(vmlinux) = &vmlinux {
        check_build_id(vmlinux, version.build_id(&place.vmcoreinfo))?;
    }
    let symbols = symbols(&dump, &place, &version, vmlinux.as_deref())?;
    tracing::debug!(symbols = symbols.len(), origin = symbols.origin(), "symbols read");
    let mut tables = place.tables;
    kaslr::know_direct_map(&dump, &mut tables, &symbols, &version);
    let (types, btf) = types(&dump, &tables, &place.vmcoreinfo, &symbols, vmlinux.as_ref())?;
    tracing::debug!(origin = types.origin(), "types read");
    let tables = Arc::new(tables);
    let user_limit = tables.paging().levels.user_end();
    let view = View::new(tables.clone(), user_limit, symbols, types, version)
        .map_err(|what| Error::Missing { path: dump.path().to_owned(), what, hint: NO_TYPES })?;
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
    })
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
    place: &kaslr::Place,
    version: &KernelVersion,
    vmlinux: Option<&Vmlinux>,
) -> Result<SymbolTable> {
    let (vmcoreinfo, tables) = (&place.vmcoreinfo, &place.tables);
    let long_names = version.marks_long_names();
    let stext = vmcoreinfo.symbol("_stext");
    let own = kallsyms::Tables::from_lookup(&|name| vmcoreinfo.symbol(name))
        .ok_or_else(|| "VMCOREINFO does not name its kallsyms tables (kernels before 6.0)".to_owned())
        .and_then(|t| kallsyms::read(tables, &t, stext, long_names))
        .or_else(|why| {
            // Found by what they look like, and proven by `_stext`.
            tracing::info!("{why}; looking for kallsyms in the kernel image");
            let image = (VirtAddr(stext.unwrap_or(map::KERNEL_MAP)), map::KERNEL_IMAGE_SIZE);
            kallsyms_scan::find_and_read(tables, &[image], stext, long_names)
                .map_err(|scan| format!("{why}; {scan}"))
        });
    let why = match own {
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

/// The types, and the BTF if they are that.
type Found = (Arc<dyn Types>, Option<Arc<Btf>>);

fn types(
    dump: &Vmcore,
    space: &dyn AddressSpace,
    info: &VmcoreInfo,
    symbols: &SymbolTable,
    vmlinux: Option<&Arc<Vmlinux>>,
) -> Result<Found> {
    let btf = |btf: Btf| {
        let btf = Arc::new(btf);
        (btf.clone() as Arc<dyn Types>, Some(btf))
    };
    match btf_of_dump(space, symbols) {
        Ok(found) => return Ok(btf(found)),
        Err(why) => tracing::info!("no BTF in {}: {why}", dump.path().display()),
    }
    let Some(vmlinux) = vmlinux else {
        let derived = derived::types(space, symbols, info);
        let derived = derived.map_err(|why| Error::Missing {
            path: dump.path().to_owned(),
            what: format!("this kernel carries no BTF, so the layout of its structures is unknown ({why})"),
            hint: NO_TYPES,
        })?;
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

fn btf_of_dump(space: &dyn AddressSpace, symbols: &SymbolTable) -> Result<Btf, String> {
    let at = |name: &str| symbols.by_name(name).map(|s| s.address).ok_or_else(|| format!("no symbol {name}"));
    let (start, stop) = (at("__start_BTF")?, at("__stop_BTF")?);
    let len = stop.checked_sub(start).filter(|n| (24..BTF_MAX).contains(n)).ok_or("its bounds contradict")?;
    let len = usize::try_from(len).map_err(|e| e.to_string())?;
    let bytes = memory::read_large(space, VirtAddr(start), len).map_err(|fault| fault.to_string())?;
    Btf::parse(bytes, "BTF in the dump").map_err(|e| e.to_string())
}
