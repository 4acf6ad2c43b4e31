//! Symbols and debug files of real dumps, through real page tables.

use std::path::{Path, PathBuf};

use corestub::addr::VirtAddr;
use corestub::debuginfo::elf::Vmlinux;
use corestub::debuginfo::kallsyms_scan;
use corestub::debuginfo::locate::Locator;
use corestub::dump::Vmcore;
use corestub::linux::{Kernel, Options};

use crate::support::{lab_dirs, skip};

/// One dump of each kernel: `(release, lab, dump)`.
fn dumps() -> Vec<(String, PathBuf, PathBuf)> {
    let mut found = Vec::new();
    for lab in lab_dirs() {
        for entry in std::fs::read_dir(&lab).into_iter().flatten().flatten() {
            let dump = entry.path().join("ci/z31.kdump");
            if dump.is_file() {
                found.push((entry.file_name().to_string_lossy().into_owned(), lab.clone(), dump));
            }
        }
    }
    if found.is_empty() {
        skip("no ci/z31.kdump in the lab");
    }
    found
}

/// A filtered kdump without VMCOREINFO's help gives the same table as with it.
#[test]
fn kallsyms_by_content_in_a_filtered_dump() {
    for (release, _, dump) in dumps() {
        let kernel = Kernel::open(Vmcore::open(&[dump]).unwrap(), Options::default()).unwrap();
        let stext = kernel.symbol("_stext").unwrap();
        let image = [(stext, kernel.symbol("_end").unwrap().0 - stext.0)];
        for known in [Some(stext.0), None] {
            let found = kallsyms_scan::find_and_read(kernel.space(), &image, known, false).unwrap();
            assert!(found.iter().eq(kernel.symbols().iter()), "{release}");
        }
        let nowhere = kallsyms_scan::find(kernel.space(), &[(VirtAddr(0), 1 << 20)], None, false);
        assert!(nowhere.unwrap_err().contains("no kallsyms token table"));
    }
}

/// Every module and the kernel have their debug file in the unpacked packages.
#[test]
fn debug_files_by_build_id() {
    for (release, lab, dump) in dumps() {
        let root = lab.join(format!("root-{release}"));
        if !root.is_dir() {
            skip(&format!("no {}", root.display()));
            continue;
        }
        let kernel = Kernel::open(Vmcore::open(&[dump]).unwrap(), Options::default()).unwrap();
        let own = lab.join(format!("build-{release}/debug"));
        let locator = Locator::new(vec![root.join("usr/lib/debug"), own], Path::new("/nonexistent/vmcore"));
        let id = kernel.vmcoreinfo().build_id().unwrap();
        let vmlinux = locator.vmlinux(&release, &id).found.unwrap();
        let file = Vmlinux::open(&vmlinux).unwrap();
        assert!(file.has_dwarf());
        assert_eq!(file.build_id(), Some(&id));
        let slide = kernel.kaslr_offset();
        let symbols = file.symbols(slide).unwrap();
        for name in ["_stext", "init_task", "schedule", "__per_cpu_offset"] {
            assert_eq!(symbols.address(name), kernel.symbol(name).map(|at| at.0), "{release} {name}");
        }
        let mut without = Vec::new();
        for module in kernel.modules() {
            let search = locator.module(&release, &module.name, module.build_id.as_ref());
            match &search.found {
                Some(path) => assert!(Vmlinux::open(path).unwrap().has_dwarf(), "{}", path.display()),
                None => without.push((&module.name, search)),
            }
        }
        assert!(!kernel.modules().is_empty() && without.is_empty(), "{without:#?}");
    }
}
