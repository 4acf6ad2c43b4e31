//! Where this kernel lies: VMCOREINFO, physical base, KASLR offset, and the top
//! of its page tables.
//!
//! Source: `kernel/vmcore_info.c` and `arch/x86/kernel/vmcore_info_64.c` (which
//! keys are written), `arch/x86/include/asm/page_64_types.h`.

use std::path::Path;
use std::sync::Arc;

use super::{KernelVersion, Options};
use crate::addr::{PAGE_SIZE, Pfn, PhysAddr, VirtAddr};
use crate::arch::paging::Paging;
use crate::arch::{Levels, map};
use crate::debuginfo::symbols::SymbolTable;
use crate::dump::vmcoreinfo::VmcoreInfo;
use crate::dump::{PhysicalMemory, Vmcore};
use crate::error::{Absence, Error, ReadFault, Result};
use crate::memory::AddressSpace;
use crate::memory::paging::{Basis, Linear, PageTables};

/// Pages looked at for a lost VMCOREINFO: 4 TiB of them.
const SEARCH_PAGES: u64 = 1 << 30;

/// Where the kernel is.
pub(super) struct Place {
    pub(super) vmcoreinfo: Arc<VmcoreInfo>,
    pub(super) kaslr_offset: u64,
    pub(super) phys_base: i64,
    pub(super) tables: PageTables,
}

/// Finds the kernel in `dump`.
pub(super) fn locate(dump: &Arc<Vmcore>, options: &Options) -> Result<Place> {
    let path = dump.path();
    let vmcoreinfo = vmcoreinfo(dump, options)?;
    let missing = |what: &str, hint| Error::Missing { path: path.to_owned(), what: what.to_owned(), hint };

    let kaslr_offset = options.kaslr_offset.or_else(|| vmcoreinfo.kaslr_offset()).unwrap_or(0);
    let hinted = options
        .phys_base
        .or_else(|| vmcoreinfo.number("phys_base"))
        .or_else(|| dump.phys_base_hint())
        .ok_or_else(|| missing("its VMCOREINFO has no NUMBER(phys_base)", "give --phys-base"))?;
    let top = ["init_top_pgt", "init_level4_pgt", "swapper_pg_dir"]
        .iter()
        .find_map(|name| vmcoreinfo.symbol(name))
        .ok_or_else(|| {
            missing("its VMCOREINFO names no page tables (SYMBOL(swapper_pg_dir))", "give --vmcoreinfo FILE")
        })?;
    let tables = |phys_base| tables(dump, &vmcoreinfo, top, phys_base);
    // The kernel's own name tells whether the tables are the right ones.
    let proof = |tables: &PageTables| {
        let Some(at) = vmcoreinfo.symbol("init_uts_ns") else {
            return tables.walk(VirtAddr(top), &mut |_| ()).is_ok();
        };
        let mut head = [0; 64];
        tables
            .read(VirtAddr(at), &mut head)
            .is_ok_and(|n| head.get(..n).unwrap_or_default().windows(5).any(|w| w == b"Linux"))
    };
    let mut found = (hinted, tables(hinted));
    if !proof(&found.1) && options.phys_base.is_none() {
        // QEMU's kdump sub-header and some old kernels disagree with VMCOREINFO.
        if let Some(other) = dump.phys_base_hint().filter(|&h| h != hinted) {
            let second = tables(other);
            if proof(&second) {
                found = (other, second);
            }
        }
    }
    let (phys_base, tables) = found;
    match tables.walk(VirtAddr(top), &mut |_| ()) {
        Ok(_) => {}
        // Where the image lies is known without them; that it lies there is proven.
        Err(ReadFault::PageTable { why: Absence::Lost | Absence::Corrupt, .. }) if proof(&tables) => {}
        Err(fault @ ReadFault::PageTable { why: Absence::Lost | Absence::Corrupt, .. }) => {
            let lost = dump.incomplete().map(|lost| format!("; {lost}")).unwrap_or_default();
            return Err(missing(
                &format!("{fault}, and nothing proves where the kernel lies{lost}"),
                "copy or make the dump again",
            ));
        }
        Err(fault) => {
            return Err(missing(
                &format!(
                    "the kernel's page tables are not where phys_base {phys_base:#x} and swapper_pg_dir {top:#x} put them: {fault}"
                ),
                "give --phys-base, or --vmcoreinfo FILE of this kernel",
            ));
        }
    }
    Ok(Place { vmcoreinfo, kaslr_offset, phys_base, tables })
}

fn vmcoreinfo(dump: &Arc<Vmcore>, options: &Options) -> Result<Arc<VmcoreInfo>> {
    if let Some(file) = &options.vmcoreinfo {
        return VmcoreInfo::from_file(file).map(Arc::new);
    }
    if let Some(own) = dump.vmcoreinfo() {
        return Ok(Arc::new(own.clone()));
    }
    tracing::warn!(
        "no VMCOREINFO note in {}; looking for the kernel's own copy in memory",
        dump.path().display()
    );
    search(dump).map(Arc::new).ok_or_else(|| no_vmcoreinfo(dump.path()))
}

fn no_vmcoreinfo(path: &Path) -> Error {
    Error::Missing {
        path: path.to_owned(),
        what: "no VMCOREINFO note, and no copy of it in the dumped memory".to_owned(),
        hint: "give --vmcoreinfo FILE: /sys/kernel/vmcoreinfo names where the running kernel keeps it, \
               makedumpfile -g writes one; or dump with QEMU's -device vmcoreinfo",
    }
}

/// Looks for the page in which the kernel keeps VMCOREINFO (it begins with
/// `OSRELEASE=`). A kdump kernel's own copy may be there too: the one that
/// names page tables which really translate wins. Segments can share their bytes,
/// so the search has an end of its own.
fn search(dump: &Arc<Vmcore>) -> Option<VmcoreInfo> {
    let mut head = [0; 10];
    let mut budget = SEARCH_PAGES;
    for (start, len) in dump.stored_ranges() {
        let first = start.0.div_ceil(PAGE_SIZE);
        let end = start.0.saturating_add(len).div_ceil(PAGE_SIZE);
        for pfn in first..end {
            budget = budget.checked_sub(1)?;
            let page = Pfn(pfn).address()?;
            if dump.read_phys(page, &mut head) != Ok(head.len()) || &head != b"OSRELEASE=" {
                continue;
            }
            let mut text = vec![0; 4096];
            if dump.read_phys(page, &mut text).is_err() {
                continue;
            }
            let end = text.iter().position(|&b| b == 0).unwrap_or(text.len());
            text.truncate(end);
            let info = VmcoreInfo::parse(&text);
            if info.symbol("swapper_pg_dir").is_some() && translates(dump, &info) {
                tracing::info!("VMCOREINFO found in memory at physical {page}");
                return Some(info);
            }
        }
    }
    None
}

fn translates(dump: &Arc<Vmcore>, info: &VmcoreInfo) -> bool {
    let (Some(top), Some(base)) = (info.symbol("swapper_pg_dir"), info.number("phys_base")) else {
        return false;
    };
    let tables = tables(dump, info, top, base);
    tables.translate(VirtAddr(top)).is_ok_and(|phys| phys == tables.root())
}

/// The page tables at `top` in the image of a kernel that lies at `phys_base`.
fn tables(dump: &Arc<Vmcore>, info: &VmcoreInfo, top: u64, phys_base: i64) -> PageTables {
    let five = info.number("pgtable_l5_enabled").unwrap_or(0) != 0;
    let paging = Paging {
        levels: if five { Levels::Five } else { Levels::Four },
        sme_mask: info.number("sme_mask").map_or(0, i64::cast_unsigned),
    };
    let in_image = |addr: u64| PhysAddr(addr.wrapping_sub(map::KERNEL_MAP).wrapping_add_signed(phys_base));
    let mut tables = PageTables::new(dump.clone(), in_image(top), paging);
    // From the first byte of the kernel on: below it phys_base may be negative.
    let start = info.symbol("_stext").map_or(map::KERNEL_MAP, |stext| stext & !(PAGE_SIZE - 1));
    let room = info.number("KERNEL_IMAGE_SIZE").map_or(map::KERNEL_IMAGE_SIZE, i64::cast_unsigned);
    let len = map::KERNEL_MAP.saturating_add(room).saturating_sub(start);
    tables.know(Linear { basis: Basis::Image, start: VirtAddr(start), len, phys: in_image(start) });
    tables
}

/// Tells `tables` where all memory is mapped in a row, by `page_offset_base`; where that
/// cannot be read, by the first address there that they still map.
pub(super) fn know_direct_map(
    dump: &Vmcore,
    tables: &mut PageTables,
    symbols: &SymbolTable,
    version: &KernelVersion,
) {
    let levels = tables.paging().levels;
    let start = match symbols.address("page_offset_base") {
        Some(at) => tables.read_u64(VirtAddr(at)).ok().or_else(|| first_mapped(tables)),
        // Without CONFIG_RANDOMIZE_MEMORY it is always in one place.
        None => Some(version.direct_map(levels)),
    };
    let Some(start) = start.map(VirtAddr).filter(|s| s.0 >= levels.kernel_start().0) else { return };
    let len = dump.physical_ranges().last().map_or(0, |(at, len)| at.0.saturating_add(*len));
    tables.know(Linear { basis: Basis::DirectMap, start, len, phys: PhysAddr(0) });
}

/// Where physical address 0 would be in the direct map, by its first page that is mapped.
fn first_mapped(tables: &PageTables) -> Option<u64> {
    let levels = tables.paging().levels;
    let last = VirtAddr(levels.vmemmap());
    let mut runs = tables.runs(levels.kernel_start(), last).take(1024);
    // The map begins at a multiple of 1 GiB, and with the first memory of the machine.
    let run = runs.find(|run| run.start.0 >= levels.direct_map() && run.to.is_ok())?;
    let base = run.start.0.checked_sub(run.to.ok()?.phys.0)?;
    base.is_multiple_of(1 << 30).then_some(base)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::Kernel;

    /// Segments that claim all of the address space, and its very end.
    #[test]
    fn the_search_for_vmcoreinfo_ends_whatever_the_headers_claim() {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(64, 0);
        for (at, half) in [(16, 4u16), (18, 62), (54, 56), (56, 2)] {
            file[at..at + 2].copy_from_slice(&half.to_le_bytes());
        }
        file[32] = 64;
        for (start, memory) in [(0x1000, 1 << 63), (0xffff_ffff_ffff_e001, 0xffe)] {
            file.extend([1, 0, 0, 0, 7, 0, 0, 0]);
            for word in [4096u64, 0, start, 16, memory, 0] {
                file.extend(word.to_le_bytes());
            }
        }
        file.resize(8192, b'A');
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vmcore");
        std::fs::write(&path, file).unwrap();
        let error = Kernel::open(Vmcore::open(&[path]).unwrap(), Options::default()).err().unwrap();
        assert!(error.to_string().contains("no VMCOREINFO"), "{error}");
    }
}
