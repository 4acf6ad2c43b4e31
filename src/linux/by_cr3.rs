//! Where the kernel lies when no VMCOREINFO says it: by the page tables of a CPU.
//!
//! A hypervisor's dump has CR3 of each CPU (QEMU's notes, migration streams, VMware's states),
//! and a user may know it (`--cr3`). Whatever process ran there, the kernel's half of its tables
//! is the kernel's; of a CPU in user mode with page-table isolation it is the page before
//! (`arch/x86/mm/pti.c`: the user's tables have bit 12 set). In the region of the kernel's image
//! the kernel maps its image alone (`cleanup_highmap`), so what is mapped first there is its
//! first byte, and that gives KASLR's offset and `phys_base`. `Linux version ` in the image
//! (`linux_banner`, `init/version.c`) proves it and has the release. VMCOREINFO is made of that.

use std::sync::Arc;

use super::Options;
use super::place::Place;
use crate::addr::{PAGE_SIZE, PhysAddr, VirtAddr};
use crate::arch::paging::Paging;
use crate::arch::{Levels, map};
use crate::dump::Vmcore;
use crate::dump::vmcoreinfo::VmcoreInfo;
use crate::memory::AddressSpace;
use crate::memory::paging::{Basis, Linear, PageTables};

/// Bits of CR3 that are no address: flags and PCID, and the switch of page-table isolation.
const KERNEL_HALF: u64 = !0x1fff;
/// `CR4.LA57`.
const LA57: u64 = 1 << 12;
/// More CPUs than this tell nothing new.
const TRIES: usize = 16;
/// How far into the image the banner is looked for: it is in .rodata.
const BANNER_WITHIN: u64 = 128 << 20;
const BANNER: &[u8] = b"Linux version ";
/// `__NEW_UTS_LEN`.
const RELEASE_MAX: usize = 64;

/// The kernel, by what the user says or else the CPUs have in CR3.
pub(super) fn locate(dump: &Arc<Vmcore>, options: &Options) -> Option<Place> {
    let cpus = &dump.notes().qemu_cpus;
    let both = |cr3: u64| [Levels::Four, Levels::Five].map(|levels| (cr3, levels));
    let of_cpu = |cr3: u64, cr4: u64| (cr3, if cr4 & LA57 == 0 { Levels::Four } else { Levels::Five });
    let mut tries: Vec<(u64, Levels)> = match options.cr3 {
        Some(cr3) => both(cr3).to_vec(),
        None => cpus.iter().filter(|c| c.cr3 != 0).map(|c| of_cpu(c.cr3, c.cr4)).take(TRIES).collect(),
    };
    tries.dedup();
    let halves = |&(cr3, levels): &(u64, Levels)| {
        [cr3 & KERNEL_HALF, cr3 & !(PAGE_SIZE - 1)].map(|root| (PhysAddr(root), levels))
    };
    let found = tries.iter().flat_map(halves).find_map(|(root, levels)| at(dump, root, levels))?;
    tracing::info!("the kernel is found by the page tables at {}", found.tables.root());
    Some(found)
}

/// The kernel whose tables are at `root`.
fn at(dump: &Arc<Vmcore>, root: PhysAddr, levels: Levels) -> Option<Place> {
    let mut tables = PageTables::new(dump.clone(), root, Paging { levels, sme_mask: 0 });
    let last = VirtAddr(map::KERNEL_MAP.checked_add(map::KERNEL_IMAGE_SIZE - 1)?);
    let mut runs = tables.runs(VirtAddr(map::KERNEL_MAP), last).take(1024);
    let (start, phys) = runs.find_map(|run| Some((run.start, run.to.ok()?.phys)))?;
    drop(runs);
    let phys_base = phys.0.wrapping_sub(start.0 - map::KERNEL_MAP).cast_signed();
    let kaslr_offset = start.0.wrapping_sub(map::LINK_TEXT);
    let release = release(&tables, start)?;
    let five = u8::from(matches!(levels, Levels::Five));
    let text = format!(
        "OSRELEASE={release}\nSYMBOL(_stext)={:x}\nNUMBER(phys_base)={phys_base}\nKERNELOFFSET={kaslr_offset:x}\nNUMBER(pgtable_l5_enabled)={five}\n",
        start.0
    );
    let len = map::KERNEL_IMAGE_SIZE.saturating_sub(start.0 - map::KERNEL_MAP);
    tables.know(Linear { basis: Basis::Image, start, len, phys });
    let vmcoreinfo = Arc::new(VmcoreInfo::parse(text.as_bytes()));
    Some(Place { vmcoreinfo, kaslr_offset, phys_base, tables, known: true })
}

/// The kernel's release, by the banner in its image.
fn release(tables: &PageTables, image: VirtAddr) -> Option<String> {
    let page = usize::try_from(PAGE_SIZE).ok()?;
    // The banner may go over the end of a page.
    let mut window = vec![0; 2 * page];
    for at in (0..BANNER_WITHIN).step_by(page) {
        window.copy_within(page.., 0);
        let fresh = window.get_mut(page..)?;
        fresh.fill(0);
        let _ = tables.read(image.checked_add(at)?, fresh);
        for found in memchr::memmem::find_iter(&window, BANNER) {
            let rest = window.get(found + BANNER.len()..)?;
            let text = rest.get(..rest.len().min(RELEASE_MAX))?;
            let end = text.iter().position(|&b| b == b' ');
            let Some(text) = end.and_then(|end| std::str::from_utf8(text.get(..end)?).ok()) else { continue };
            if text.starts_with(|c: char| c.is_ascii_digit()) && text.contains('.') {
                return Some(text.to_owned());
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dump::elf_core;

    const PHYS: u64 = 0x160_0000;
    const IMAGE: u64 = map::LINK_TEXT + 0x60_0000;

    /// 64 KiB of a kernel's image at [`PHYS`], with its tables in it and a banner over the
    /// end of a page.
    fn vmcore() -> Arc<Vmcore> {
        let mut memory = vec![0u8; 0x1_0000];
        let mut put = |at: usize, bytes: &[u8]| memory[at..at + bytes.len()].copy_from_slice(bytes);
        put(511 * 8, &((PHYS + 0x1000) | 0x63).to_le_bytes());
        put(0x1000 + 510 * 8, &((PHYS + 0x2000) | 0x63).to_le_bytes());
        put(
            0x2000 + usize::try_from((IMAGE - map::KERNEL_MAP) >> 21).unwrap() * 8,
            &(PHYS | 0x1e3).to_le_bytes(),
        );
        put(0x4000, b"Linux version %s (unusable)");
        put(0x5ff8, b"Linux version 6.1.0-test (someone@somewhere)");
        let file = elf_core(&[(1, 0x1000, 0, PHYS, 0x1_0000, 0x1_0000)], 64, &[(0x1000, &memory)]);
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&path, file).unwrap();
        Arc::new(Vmcore::open(&[path.path().to_owned()]).unwrap())
    }

    #[test]
    fn page_tables_alone_say_where_the_kernel_lies() {
        // As it is, with a PCID, and that of user mode with isolation (tables at PHYS + 4096).
        for cr3 in [PHYS, PHYS | 0x801] {
            let options = Options { cr3: Some(cr3), ..Options::default() };
            let place = locate(&vmcore(), &options).unwrap();
            assert_eq!((place.kaslr_offset, place.phys_base), (0x60_0000, 0));
            assert_eq!(place.vmcoreinfo.release(), Some("6.1.0-test"));
            assert_eq!(place.vmcoreinfo.symbol("_stext"), Some(IMAGE));
            let mut text = [0; 5];
            place.tables.read(VirtAddr(IMAGE + 0x5ff8), &mut text).unwrap();
            assert_eq!(&text, b"Linux");
        }
        for cr3 in [PHYS + 0x2000, 0, u64::MAX] {
            let options = Options { cr3: Some(cr3), ..Options::default() };
            assert!(locate(&vmcore(), &options).is_none(), "{cr3:#x}");
        }
        assert!(locate(&vmcore(), &Options::default()).is_none());
    }
}
