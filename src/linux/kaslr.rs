//! Where this kernel lies: VMCOREINFO, physical base, KASLR offset, and the top
//! of its page tables.
//!
//! Source: `kernel/vmcore_info.c` and `arch/x86/kernel/vmcore_info_64.c` (which
//! keys are written), `arch/x86/include/asm/page_64_types.h`.

use std::path::Path;
use std::sync::Arc;

use super::place::Place;
use super::{KernelVersion, Options, by_cr3};
use crate::addr::{PAGE_SIZE, Pfn, PhysAddr, VirtAddr};
use crate::arch::paging::Paging;
use crate::arch::{Levels, map};
use crate::debuginfo::symbols::SymbolTable;
use crate::dump::vmcoreinfo::VmcoreInfo;
use crate::dump::{PhysicalMemory, Vmcore};
use crate::error::{Error, ReadFault, Result};
use crate::memory::AddressSpace;
use crate::memory::paging::{Basis, Linear, PageTables};

/// Pages looked at for a lost VMCOREINFO: 4 TiB of them.
const SEARCH_PAGES: u64 = 1 << 30;

/// More kernels than the one that crashed and the one that dumps are noise.
const KERNELS_MAX: usize = 8;

/// `CONFIG_PHYSICAL_ALIGN` is at least this.
const IMAGE_ALIGN: i64 = 2 << 20;
/// Places that are tried for the image: the first 8 GiB of memory.
const PLACES: i64 = 4096;

/// Finds the kernel in `dump`.
pub(super) fn locate(dump: &Arc<Vmcore>, options: &Options) -> Result<Place> {
    let path = dump.path();
    if options.cr3.is_some() {
        return by_cr3::locate(dump, options).ok_or_else(|| Error::Missing {
            path: path.to_owned(),
            what: "no kernel's image is mapped by the page tables at --cr3".to_owned(),
            hint: "it is the physical address that CR3 had, or init_top_pgt has",
        });
    }
    let vmcoreinfo = match vmcoreinfo(dump, options) {
        Err(missing @ Error::Missing { .. }) => return by_cr3::locate(dump, options).ok_or(missing),
        found => found?,
    };
    let missing = |what: &str, hint| Error::Missing { path: path.to_owned(), what: what.to_owned(), hint };

    let kaslr_offset = offset(options, &vmcoreinfo);
    let top = top(&vmcoreinfo).ok_or_else(|| {
        missing(
            "its VMCOREINFO names no page tables in the kernel's image (SYMBOL(swapper_pg_dir))",
            "give --vmcoreinfo FILE",
        )
    })?;
    let found = match options.phys_base {
        Some(given) => Some((given, tables(dump, &vmcoreinfo, top, given))),
        None => phys_base(dump, &vmcoreinfo, top),
    };
    let found = found.ok_or_else(|| {
        missing(
            "its VMCOREINFO has no NUMBER(phys_base), and the kernel's page tables are at none of the places where they can be",
            "give --phys-base",
        )
    })?;
    let (phys_base, tables) = found;
    match tables.walk(VirtAddr(top), &mut |_| ()) {
        Ok(_) => {}
        // Where the image lies is known without them; that it lies there is proven.
        Err(ReadFault::PageTable { why, .. })
            if why.is_damage() && (names_itself(&vmcoreinfo, &tables) || said_twice(dump, phys_base)) => {}
        Err(fault @ ReadFault::PageTable { why, .. }) if why.is_damage() => {
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
    Ok(Place { vmcoreinfo, kaslr_offset, phys_base, tables, known: true })
}

fn vmcoreinfo(dump: &Arc<Vmcore>, options: &Options) -> Result<Arc<VmcoreInfo>> {
    if let Some(file) = &options.vmcoreinfo {
        return VmcoreInfo::from_file(file).map(Arc::new);
    }
    let note = dump.vmcoreinfo();
    if let Some(note) = note.filter(|note| top(note).is_some()) {
        return Ok(Arc::new(note.clone()));
    }
    tracing::warn!(
        "no VMCOREINFO note in {}{}; looking for the kernel's own copy in memory",
        dump.path().display(),
        if note.is_some() { " that tells of page tables in the kernel's image" } else { "" }
    );
    // One that breaks off early is still better than none to say what is missing.
    let found = search(dump).or_else(|| note.cloned());
    found.map(Arc::new).ok_or_else(|| no_vmcoreinfo(dump.path()))
}

fn no_vmcoreinfo(path: &Path) -> Error {
    Error::Missing {
        path: path.to_owned(),
        what: "no VMCOREINFO note, and no copy of it in the dumped memory".to_owned(),
        hint: "give --vmcoreinfo FILE: /sys/kernel/vmcoreinfo names where the running kernel keeps it, \
               makedumpfile -g writes one; or dump with QEMU's -device vmcoreinfo",
    }
}

/// The top of the kernel's page tables, if that is in the kernel's image.
fn top(info: &VmcoreInfo) -> Option<u64> {
    let mut all =
        ["init_top_pgt", "init_level4_pgt", "swapper_pg_dir"].iter().filter_map(|name| info.symbol(name));
    all.find(|&at| map::is_in_image(at))
}

/// The first function, if that is in the kernel's image: with a bit of the address turned over all of the
/// kernel's half would be that.
pub(super) fn stext(address: impl Fn(&str) -> Option<u64>) -> Option<u64> {
    address("_stext").filter(|&at| map::is_in_image(at))
}

/// How far the kernel was moved, as it is given or VMCOREINFO says.
pub(super) fn offset(options: &Options, info: &VmcoreInfo) -> u64 {
    options.kaslr_offset.or_else(|| info.kaslr_offset()).unwrap_or(0)
}

/// Where the image lies: as VMCOREINFO says it, as the dump's headers do, or, in
/// kernels before 4.10 (401721ecd1dc) that say it nowhere, at the first place where
/// its page tables prove themselves.
fn phys_base(dump: &Arc<Vmcore>, info: &VmcoreInfo, top: u64) -> Option<(i64, PageTables)> {
    let at = |base| (base, tables(dump, info, top, base));
    // QEMU's kdump sub-header and some old kernels disagree with VMCOREINFO.
    let (named, hint) = (info.number("phys_base"), dump.phys_base_hint());
    let mut said = named.into_iter().chain(hint).map(at);
    if let Some(found) = said.find(|(_, tables)| names_itself(info, tables)) {
        return Some(found);
    }
    if let Some(named) = named {
        return Some(at(named));
    }
    let own = |&(base, ref tables): &(i64, PageTables)| {
        let says = info.symbol("phys_base").and_then(|own| tables.read_u64(VirtAddr(own)).ok());
        says.is_none_or(|says| says.cast_signed() == base)
            && translates_itself(tables, top)
            && names_itself(info, tables)
    };
    // From where a relocated image can begin, by its alignment.
    let first = (top.wrapping_sub(map::KERNEL_MAP).cast_signed() & -IMAGE_ALIGN).wrapping_neg();
    let places = (0..PLACES).map(|i| first.wrapping_add(i * IMAGE_ALIGN));
    std::iter::once(0).chain(places).map(at).find(own)
}

/// Whether these tables lead to themselves.
fn translates_itself(tables: &PageTables, top: u64) -> bool {
    tables.walk(VirtAddr(top), &mut |_| ()).is_ok_and(|mapping| mapping.phys == tables.root())
}

/// Whether the dump's headers say the same of `phys_base` as VMCOREINFO does (QEMU writes 0
/// where it does not know).
fn said_twice(dump: &Vmcore, phys_base: i64) -> bool {
    phys_base != 0 && dump.phys_base_hint() == Some(phys_base)
}

/// Whether the kernel's own name is where these tables put it.
fn names_itself(info: &VmcoreInfo, tables: &PageTables) -> bool {
    let Some(at) = info.symbol("init_uts_ns") else {
        return top(info).is_some_and(|top| tables.walk(VirtAddr(top), &mut |_| ()).is_ok());
    };
    let mut head = [0; 64];
    tables
        .read(VirtAddr(at), &mut head)
        .is_ok_and(|n| head.get(..n).unwrap_or_default().windows(5).any(|w| w == b"Linux"))
}

/// Looks for the kernel's own copy of VMCOREINFO, which begins with `OSRELEASE=`: a
/// page of its own since 4.13, before a variable among others and a note (so the
/// starts of pages are looked at first, and then all of them). A copy that names page tables
/// which really translate is a kernel's. A kdump kernel's may be there, too: the kernel that
/// crashed has written the time of it, and is what the dump is of.
/// Segments can share their bytes, so the search has an end of its own.
fn search(dump: &Arc<Vmcore>) -> Option<VmcoreInfo> {
    const MARK: &[u8] = b"OSRELEASE=";
    let ranges = dump.stored_ranges();
    let mut page = vec![0; 4096];
    for look in [MARK.len(), page.len()] {
        let mut budget = SEARCH_PAGES;
        let mut kernels: Vec<(PhysAddr, VmcoreInfo)> = Vec::new();
        for &(start, len) in &ranges {
            let first = start.0.div_ceil(PAGE_SIZE);
            let end = start.0.saturating_add(len).div_ceil(PAGE_SIZE);
            for pfn in first..end {
                let Some(left) = budget.checked_sub(1) else { break };
                budget = left;
                let Some(at) = Pfn(pfn).address() else { break };
                let seen = page.get_mut(..look)?;
                let Ok(read) = dump.read_phys(at, seen) else { continue };
                let seen = seen.get(..read)?;
                for place in memchr::memmem::find_iter(seen, MARK).filter(|i| look > MARK.len() || *i == 0) {
                    let found = PhysAddr(at.0 + place as u64);
                    kernels.extend(
                        text_at(dump, found).filter(|info| translates(dump, info)).map(|i| (found, i)),
                    );
                }
                if kernels.len() > KERNELS_MAX {
                    break;
                }
            }
        }
        let crashed = kernels.iter().position(|(_, info)| info.crash_time().is_some()).unwrap_or(0);
        for (i, (at, info)) in kernels.iter().enumerate() {
            let taken = if i == crashed { "" } else { ": another kernel's, or an older copy" };
            tracing::info!("VMCOREINFO of {} at physical {at}{taken}", info.release().unwrap_or("?"));
        }
        if crashed < kernels.len() {
            return Some(kernels.swap_remove(crashed).1);
        }
    }
    None
}

/// The text at `at`, up to its end or to the room that it has.
fn text_at(dump: &Vmcore, at: PhysAddr) -> Option<VmcoreInfo> {
    let mut text = vec![0; 4096];
    let mut read = 0;
    while let Some(rest) = text.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match dump.read_phys(PhysAddr(at.0.checked_add(read as u64)?), rest) {
            Ok(n) if n > 0 => read += n,
            _ => break,
        }
    }
    text.truncate(read);
    text.truncate(text.iter().position(|&b| b == 0).unwrap_or(read));
    Some(VmcoreInfo::parse(&text))
}

fn translates(dump: &Arc<Vmcore>, info: &VmcoreInfo) -> bool {
    let Some(top) = top(info).filter(|_| info.symbol("swapper_pg_dir").is_some()) else { return false };
    phys_base(dump, info, top).is_some_and(|(_, tables)| translates_itself(&tables, top))
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
    let start = stext(|name| info.symbol(name)).map_or(map::KERNEL_MAP, |stext| stext & !(PAGE_SIZE - 1));
    let room = info.number("KERNEL_IMAGE_SIZE").map_or(map::KERNEL_IMAGE_SIZE, i64::cast_unsigned);
    let len = map::KERNEL_MAP.saturating_add(room).saturating_sub(start);
    tables.know(Linear { basis: Basis::Image, start: VirtAddr(start), len, phys: in_image(start) });
    tables
}

/// Tells `tables` where all memory is mapped in a row, by `page_offset_base`; where that
/// cannot be read or its name is lost, by the first address there that they still map, else
/// by the segments of the dump.
pub(super) fn know_direct_map(
    dump: &Vmcore,
    tables: &mut PageTables,
    symbols: &SymbolTable,
    version: &KernelVersion,
) {
    let levels = tables.paging().levels;
    let otherwise = || first_mapped(tables).or_else(|| dump.direct_map_hint());
    let start = match symbols.address("page_offset_base") {
        Some(at) => tables.read_u64(VirtAddr(at)).ok().or_else(otherwise),
        None if symbols.lacks_names() => otherwise(),
        // Without CONFIG_RANDOMIZE_MEMORY it is always in one place.
        None => Some(version.direct_map(levels)),
    };
    let Some(start) = start.map(VirtAddr).filter(|s| s.0 >= levels.kernel_start().0) else { return };
    let len = dump.physical_ranges().last().map_or(0, |(at, len)| at.0.saturating_add(*len));
    dump.know_direct_map(start.0);
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
    use crate::debuginfo::symbols::Builder;
    use crate::dump::elf_core;
    use crate::linux::Kernel;

    const IMAGE: u64 = map::LINK_TEXT;
    const MOVED: u64 = 0x60_0000;
    /// Where KASLR put the map of all memory.
    const DIRECT: u64 = 0xffff_9234_4000_0000;

    /// A vmcore with 64 KiB of a kernel's image, moved by [`MOVED`] and mapped there by one
    /// large page: page tables, its name, its `phys_base`, and VMCOREINFO within a page.
    /// `note` is where VMCOREINFO in the notes has the page tables.
    fn vmcore(image_at: u64, note: Option<u64>, own: u64) -> (tempfile::TempDir, Arc<Vmcore>) {
        let phys = IMAGE - map::KERNEL_MAP + MOVED;
        let mut memory = vec![0u8; 0x1_0000];
        let mut put = |at: usize, bytes: &[u8]| memory[at..at + bytes.len()].copy_from_slice(bytes);
        put(511 * 8, &((phys + 0x1000) | 0x63).to_le_bytes());
        put(0x1000 + 510 * 8, &((phys + 0x2000) | 0x63).to_le_bytes());
        put(0x2000 + 8 * 8, &((phys & !0x1f_ffff) | 0x1e3).to_le_bytes());
        put(usize::try_from(DIRECT >> 39 & 511).unwrap() * 8, &((phys + 0x8000) | 0x63).to_le_bytes());
        put(0x8000 + usize::try_from(DIRECT >> 30 & 511).unwrap() * 8, &0x1e3u64.to_le_bytes());
        put(0x3004, b"Linux");
        put(0x3100, &own.to_le_bytes());
        let text = format!(
            "OSRELEASE=3.10.0\nSYMBOL(swapper_pg_dir)={IMAGE:x}\nSYMBOL(init_level4_pgt)={IMAGE:x}\n\
             SYMBOL(init_uts_ns)={:x}\nSYMBOL(phys_base)={:x}\n{}\0",
            IMAGE + 0x3000,
            IMAGE + 0x3100,
            "PADDING=0\n".repeat(200)
        );
        put(0x47b8, text.as_bytes());
        let mut notes = Vec::new();
        if let Some(top) = note {
            let text = text.replace(&format!("{IMAGE:x}"), &format!("{top:x}"));
            notes.extend([11, u32::try_from(text.len()).unwrap(), 0].iter().flat_map(|n| n.to_le_bytes()));
            notes.extend(b"VMCOREINFO\0\0");
            notes.extend(text.as_bytes());
            notes.resize(notes.len().next_multiple_of(4), 0);
        }
        let (in_notes, in_memory) = (64 + 2 * 56, 0x2000);
        let len = notes.len() as u64;
        let phdrs =
            [(4, in_notes as u64, 0, 0, len, len), (1, in_memory as u64, image_at, phys, 0x1_0000, 0x1_0000)];
        let file = elf_core(&phdrs, 64, &[(in_notes, &notes), (in_memory, &memory)]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vmcore");
        std::fs::write(&path, file).unwrap();
        let dump = Vmcore::open(&[path]).unwrap();
        (dir, Arc::new(dump))
    }

    #[test]
    fn an_image_that_says_nowhere_where_it_lies_is_found() {
        // By its segment, by its page tables alone, and without a note.
        let some = Some(IMAGE);
        for (image_at, note) in [(IMAGE, some), (0, some), (0, None)] {
            let (_dir, dump) = vmcore(image_at, note, MOVED);
            let hint = (image_at != 0).then_some(MOVED.cast_signed());
            assert_eq!((dump.phys_base_hint(), dump.vmcoreinfo().is_some()), (hint, note.is_some()));
            let place = locate(&dump, &Options::default()).unwrap();
            assert_eq!((place.phys_base, place.vmcoreinfo.release()), (MOVED.cast_signed(), Some("3.10.0")));
            // The text is whole, though it goes over the end of its page.
            assert!(
                place.vmcoreinfo.text().ends_with("PADDING=0\n") && place.vmcoreinfo.text().len() > 0x848
            );
            assert_eq!(place.tables.read_u64(VirtAddr(IMAGE + 0x3100)), Ok(MOVED));
        }
    }

    /// A bit of the address in the notes turned over: the kernel's own copy has it right.
    #[test]
    fn page_tables_outside_of_the_image_are_not_believed() {
        let (_dir, dump) = vmcore(0, Some(IMAGE ^ 1 << 41), MOVED);
        let place = locate(&dump, &Options::default()).unwrap();
        assert_eq!(place.vmcoreinfo.symbol("swapper_pg_dir"), Some(IMAGE));
        assert_eq!(place.tables.read_u64(VirtAddr(IMAGE + 0x3100)), Ok(MOVED));
    }

    #[test]
    fn an_image_that_contradicts_itself_is_not_believed() {
        let (_dir, dump) = vmcore(0, Some(IMAGE), MOVED + 1);
        let error = locate(&dump, &Options::default()).err().unwrap().to_string();
        assert!(error.contains("no NUMBER(phys_base)") && error.contains("--phys-base"), "{error}");
        // The user knows better.
        let given = Options { phys_base: Some(MOVED.cast_signed()), ..Options::default() };
        assert_eq!(locate(&dump, &given).unwrap().phys_base, MOVED.cast_signed());
    }

    /// It was believed to be where kernels without KASLR have it.
    #[test]
    fn where_the_name_of_page_offset_base_is_lost_the_tables_tell_it() {
        let version = KernelVersion::parse("6.1.0");
        for (lost, wanted) in [(true, DIRECT), (false, 0xffff_8880_0000_0000)] {
            let (_dir, dump) = vmcore(0, Some(IMAGE), MOVED);
            let mut tables = locate(&dump, &Options::default()).unwrap().tables;
            let mut names = Builder::new("test");
            if lost {
                names.lacks_names();
            }
            know_direct_map(&dump, &mut tables, &names.finish(), &version);
            assert_eq!(tables.direct_map(), Some(VirtAddr(wanted)), "{lost}");
        }
    }

    /// As above, and the top of the tables is lost, too.
    #[test]
    fn where_the_tables_are_lost_the_segments_tell_the_direct_map() {
        let (_dir, dump) = vmcore(DIRECT + (IMAGE - map::KERNEL_MAP) + MOVED, Some(IMAGE), MOVED);
        let paging = Paging { levels: Levels::Four, sme_mask: 0 };
        let mut tables = PageTables::new(dump.clone(), PhysAddr(1 << 40), paging);
        let mut names = Builder::new("test");
        names.lacks_names();
        know_direct_map(&dump, &mut tables, &names.finish(), &KernelVersion::parse("6.1.0"));
        assert_eq!(tables.direct_map(), Some(VirtAddr(DIRECT)));
    }

    #[test]
    fn headers_and_vmcoreinfo_prove_phys_base_together() {
        for (image_at, proven) in [(IMAGE, true), (IMAGE + 0x1000, false), (0, false)] {
            let (_dir, dump) = vmcore(image_at, Some(IMAGE), MOVED);
            assert_eq!(said_twice(&dump, MOVED.cast_signed()), proven, "{image_at:#x}");
        }
    }

    /// Segments that claim all of the address space, and its very end.
    #[test]
    fn the_search_for_vmcoreinfo_ends_whatever_the_headers_claim() {
        let claims = [(0x1000, 1 << 63), (0xffff_ffff_ffff_e001, 0xffe)];
        let phdrs = claims.map(|(start, memory)| (1, 4096, 0, start, 16, memory));
        let file = elf_core(&phdrs, 64, &[(4096, &[b'A'; 4096])]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vmcore");
        std::fs::write(&path, file).unwrap();
        let error = Kernel::open(Vmcore::open(&[path]).unwrap(), Options::default()).err().unwrap();
        assert!(error.to_string().contains("no VMCOREINFO"), "{error}");
    }
}
