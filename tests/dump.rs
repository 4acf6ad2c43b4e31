//! Real dumps in every form: what one form reads, all must read.

use std::path::{Path, PathBuf};

use corestub::addr::PhysAddr;
use corestub::dump::{Kind, PhysicalMemory, Vmcore, sniff};
use corestub::error::ReadFault;

use crate::support::lab_dirs;

/// The files of a name in all scenarios of all kernels of the lab.
fn lab_files(scenario: &str, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for lab in lab_dirs() {
        let kernels = std::fs::read_dir(&lab).into_iter().flatten().flatten();
        found.extend(kernels.map(|k| k.path().join(scenario).join(name)).filter(|p| p.exists()));
    }
    found.sort();
    if found.is_empty() {
        assert!(std::env::var_os("CI").is_none(), "no {scenario}/{name} in {:?}", lab_dirs());
        eprintln!("SKIPPED: no {scenario}/{name} in {:?}", lab_dirs());
    }
    found
}

fn open(path: &Path) -> Vmcore {
    Vmcore::open(&[path.to_owned()]).unwrap_or_else(|e| panic!("{e}"))
}

/// Reads one page; the fault if its first byte cannot be read.
fn page(dump: &Vmcore, pfn: u64) -> Result<Vec<u8>, ReadFault> {
    let mut page = vec![0xa5; 4096];
    let mut done = 0;
    while done < page.len() {
        match dump.read_phys(PhysAddr(pfn * 4096 + done as u64), &mut page[done..]) {
            Ok(n) => {
                assert!(n > 0);
                done += n;
            }
            Err(fault) if done == 0 => return Err(fault),
            Err(fault) => panic!("{fault} after {done} bytes of page {pfn:#x}"),
        }
    }
    Ok(page)
}

/// Frames of the machine, by the ranges of `dump`, and a few around them.
fn frames(dump: &Vmcore) -> Vec<u64> {
    let mut all = Vec::new();
    for (start, len) in dump.physical_ranges() {
        let (first, last) = (start.0.div_ceil(4096), (start.0 + len) / 4096);
        all.extend(first.saturating_sub(2)..last + 2);
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// Every page that `form` has reads as in `truth`; returns how many it has and how
/// many it leaves out.
fn compare(truth: &Vmcore, form: &Vmcore) -> (usize, usize) {
    let (mut read, mut excluded) = (0, 0);
    let name = form.path().display();
    for pfn in frames(truth) {
        match (page(truth, pfn), page(form, pfn)) {
            (Ok(a), Ok(b)) => {
                assert!(a == b, "{name}: page {pfn:#x} differs");
                read += 1;
            }
            (Ok(_), Err(ReadFault::Excluded { phys })) => {
                assert_eq!(phys, pfn * 4096);
                excluded += 1;
            }
            (Err(ReadFault::NoMemory { .. }), Err(ReadFault::NoMemory { .. })) => {}
            (a, b) => panic!("{name}: page {pfn:#x}: {:?}, and {:?}", a.err(), b.err()),
        }
    }
    (read, excluded)
}

#[test]
fn every_form_of_a_dump_reads_as_its_raw_elf() {
    for elf in lab_files("kdump-sysrq", "vmcore.elf") {
        let dir = elf.parent().unwrap();
        let truth = open(&elf);
        assert_eq!((truth.format().as_str(), truth.is_partial(), truth.incomplete()), ("ELF", false, None));
        let mut at_31 = Vec::new();
        for (name, format) in [
            ("c31.kdump", "kdump-compressed v6 (zlib)"),
            ("l31.kdump", "kdump-compressed v6 (lzo)"),
            ("z31.kdump", "kdump-compressed v6 (zstd)"),
            ("raw31.kdump", "kdump-compressed v6 (raw)"),
            ("E31.elf", "ELF (makedumpfile)"),
            ("c0.kdump", "kdump-compressed v6 (zlib)"),
            ("l1.kdump", "kdump-compressed v6 (lzo)"),
            ("z1.kdump", "kdump-compressed v6 (zstd)"),
        ] {
            let path = dir.join(name);
            if !path.exists() {
                eprintln!("SKIPPED: no {}", path.display());
                continue;
            }
            let form = open(&path);
            assert_eq!(sniff(&path).unwrap(), Kind::Vmcore);
            assert_eq!(form.format(), format, "{}", path.display());
            assert_eq!(form.incomplete(), None);
            assert_eq!(form.is_partial(), name.ends_with("kdump"));
            let same = |f: fn(&Vmcore) -> Option<String>| assert_eq!(f(&form), f(&truth));
            same(|d| d.vmcoreinfo().map(|v| v.text().to_owned()));
            assert_eq!(form.notes().prstatus, truth.notes().prstatus);
            let (read, excluded) = compare(&truth, &form);
            eprintln!("{}: {read} pages alike, {excluded} left out", path.display());
            match name {
                "c0.kdump" => assert_eq!(excluded, 0),
                _ if name.contains("31.k") => at_31.push((read, excluded)),
                _ => assert!(read > 1000),
            }
        }
        assert!(at_31.windows(2).all(|w| w[0] == w[1]), "{at_31:?}");
    }
}
