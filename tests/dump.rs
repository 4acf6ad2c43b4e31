//! Real dumps in every form: what one form reads, all must read.

use std::path::{Path, PathBuf};

use corestub::addr::PhysAddr;
use corestub::arch::Register;
use corestub::dump::{Kind, PhysicalMemory, Vmcore, sniff};
use corestub::error::ReadFault;

use crate::support::{files, lab_dirs, skip};

/// The files of a name in all scenarios of all kernels of the lab; `ci`, which
/// `scripts/test` makes, has every format.
fn lab_files(name: &str) -> Vec<PathBuf> {
    let found = files(name);
    if found.is_empty() {
        skip(&format!("no {name} in {:?}", lab_dirs()));
    }
    found
}

pub fn open(path: &Path) -> Vmcore {
    Vmcore::open(&[path.to_owned()]).unwrap_or_else(|e| panic!("{e}"))
}

/// Reads one page, or the front of it where a machine's memory ends within a page
/// (0x9fc00 on PCs); the fault if its first byte cannot be read.
pub fn page(dump: &Vmcore, pfn: u64) -> Result<Vec<u8>, ReadFault> {
    let mut page = vec![0xa5; 4096];
    let mut done = 0;
    while done < page.len() {
        match dump.read_phys(PhysAddr(pfn * 4096 + done as u64), &mut page[done..]) {
            Ok(n) => {
                assert!(n > 0);
                done += n;
            }
            Err(fault) if done == 0 => return Err(fault),
            Err(_) => page.truncate(done),
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
                let n = a.len().min(b.len());
                assert!(a[..n] == b[..n], "{name}: page {pfn:#x} differs");
                read += 1;
            }
            (Ok(_), Err(ReadFault::Excluded { phys })) => {
                assert_eq!(phys, pfn * 4096);
                excluded += 1;
            }
            (Err(ReadFault::NoMemory { .. }), Err(ReadFault::NoMemory { .. })) => {}
            // makedumpfile does not take a page that is half memory, /proc/vmcore does.
            (Ok(a), Err(ReadFault::NoMemory { .. })) if a.len() < 4096 => {}
            (a, b) => panic!("{name}: page {pfn:#x}: {:?}, and {:?}", a.err(), b.err()),
        }
    }
    (read, excluded)
}

#[test]
fn every_form_of_a_dump_reads_as_its_raw_elf() {
    for elf in lab_files("vmcore.elf") {
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
        assert!(!at_31.is_empty() && at_31.windows(2).all(|w| w[0] == w[1]), "{at_31:?}");
    }
}

/// Debian's makedumpfile cannot write snappy: this rewrites its raw form, page by page.
fn in_snappy(raw: &[u8]) -> Vec<u8> {
    let u32_at = |at: usize| u32::from_le_bytes(raw[at..at + 4].try_into().unwrap()) as usize;
    let u64_at = |at: usize| u64::from_le_bytes(raw[at..at + 8].try_into().unwrap()) as usize;
    let bitmaps = (1 + u32_at(432)) * 4096;
    let descriptors = bitmaps + u32_at(436) * 4096;
    let second = &raw[bitmaps + (descriptors - bitmaps) / 2..descriptors];
    let pages: usize = second.iter().map(|b| b.count_ones() as usize).sum();
    let mut out = raw[..descriptors + pages * 24].to_vec();
    let mut encoder = snap::raw::Encoder::new();
    for descriptor in (0..pages).map(|i| descriptors + i * 24) {
        let from = u64_at(descriptor);
        let packed = encoder.compress_vec(&raw[from..from + 4096]).unwrap();
        let (data, flags) =
            if packed.len() < 4096 { (&packed[..], 4u32) } else { (&raw[from..from + 4096], 0) };
        let at = out.len() as u64;
        out[descriptor..descriptor + 8].copy_from_slice(&at.to_le_bytes());
        out[descriptor + 8..descriptor + 12].copy_from_slice(&(data.len() as u32).to_le_bytes());
        out[descriptor + 12..descriptor + 16].copy_from_slice(&flags.to_le_bytes());
        out.extend(data);
    }
    out
}

#[test]
fn the_snappy_form_reads_as_the_raw_form() {
    for path in lab_files("raw31.kdump") {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("snappy.kdump");
        std::fs::write(&file, in_snappy(&std::fs::read(&path).unwrap())).unwrap();
        let (truth, form) = (open(&path), open(&file));
        assert_eq!((form.format().as_str(), form.incomplete()), ("kdump-compressed v6 (snappy)", None));
        let (read, excluded) = compare_exactly(&truth, &form);
        eprintln!("{} in snappy: {read} pages alike, {excluded} left out of both", path.display());
        assert!(read > 1000);
    }
}

#[test]
fn flattened_dumps_read_in_place() {
    for (flat, truth, format) in [
        ("F31.flat", "c31.kdump", "kdump-compressed v6 (zlib), flattened"),
        ("FE31.flat", "E31.elf", "ELF (makedumpfile), flattened"),
        ("qemu-zlib.flat", "qemu-zlib.kdump", "kdump-compressed v6 (zlib), flattened"),
    ] {
        for path in lab_files(flat) {
            let truth = open(&path.with_file_name(truth));
            let form = open(&path);
            assert_eq!((form.format().as_str(), form.incomplete()), (format, None), "{}", path.display());
            assert_eq!(form.notes().prstatus, truth.notes().prstatus);
            assert_eq!(form.vmcoreinfo().map(|v| v.text()), truth.vmcoreinfo().map(|v| v.text()));
            let (read, excluded) = compare_exactly(&truth, &form);
            eprintln!("{}: {read} pages alike, {excluded} left out of both", path.display());
        }
    }
}

/// Both read and fault alike, page by page.
fn compare_exactly(a: &Vmcore, b: &Vmcore) -> (usize, usize) {
    let (mut read, mut excluded) = (0, 0);
    for pfn in frames(a) {
        match (page(a, pfn), page(b, pfn)) {
            (Ok(a), Ok(b)) => {
                let n = a.len().min(b.len());
                assert!(a[..n] == b[..n], "page {pfn:#x} differs");
                read += 1;
            }
            // makedumpfile does not take a page that is half memory, /proc/vmcore does.
            (Ok(a), Err(ReadFault::NoMemory { .. })) if a.len() < 4096 => {}
            (a, b) => {
                assert_eq!(a.err(), b.err(), "page {pfn:#x}");
                excluded += 1;
            }
        }
    }
    (read, excluded)
}

#[test]
fn the_pieces_of_a_split_dump_are_one_dump_and_each_opens_alone() {
    for first in lab_files("split.1") {
        let piece = |n: u32| first.with_file_name(format!("split.{n}"));
        let truth = open(&first.with_file_name("l31.kdump"));
        for order in [[1, 2, 3], [3, 1, 2]] {
            let all = Vmcore::open(&order.map(piece)).unwrap();
            assert_eq!(all.format(), "kdump-compressed v6 (lzo, 3 pieces of a split dump)");
            assert_eq!(all.incomplete(), None);
            eprintln!("{:?}", compare_exactly(&truth, &all));
        }
        for n in 1..=3 {
            let alone = open(&piece(n));
            for pfn in frames(&truth) {
                match (page(&truth, pfn), page(&alone, pfn)) {
                    (Ok(a), Ok(b)) => assert!(a == b, "page {pfn:#x} of piece {n} differs"),
                    (Ok(_), Err(ReadFault::OtherPiece { .. })) => {}
                    (a, b) => assert_eq!(a.err(), b.err(), "page {pfn:#x} of piece {n}"),
                }
            }
        }
        let error = |paths: &[PathBuf]| Vmcore::open(paths).err().unwrap().to_string();
        assert!(error(&[piece(1), piece(1)]).contains("again"));
        assert!(error(&[piece(1), truth.path().to_owned()]).contains("split"));
        let elf = first.with_file_name("vmcore.elf");
        assert!(error(&[piece(1), elf]).contains("ELF file among the pieces"));
    }
}

#[test]
fn qemus_files_of_one_guest_read_alike() {
    for plain in lab_files("qemu.elf") {
        let truth = open(&plain);
        assert_eq!(truth.format(), "ELF (QEMU dump-guest-memory)");
        assert!(truth.is_qemu());
        let cpus = &truth.notes().qemu_cpus;
        assert_eq!(cpus.len(), truth.notes().prstatus.len());
        for (cpu, status) in cpus.iter().zip(&truth.notes().prstatus) {
            for register in [Register::Rip, Register::Rsp] {
                assert_eq!(cpu.regs.get(register), status.regs.get(register));
            }
            assert!(cpu.cr3 != 0 && cpu.kernel_gs_base.is_some());
        }
        for name in ["qemu-paging.elf", "qemu-zlib.kdump"] {
            let form = open(&plain.with_file_name(name));
            assert!(form.is_qemu());
            assert_eq!(sniff(form.path()).unwrap(), Kind::Vmcore);
            assert_eq!(form.utsname_hint(), None);
            assert!(form.vmcoreinfo().is_some());
            let (mut same, mut unmapped) = (0, 0);
            for pfn in frames(&truth) {
                match (page(&truth, pfn), page(&form, pfn)) {
                    (Ok(a), Ok(b)) => {
                        assert!(a == b, "{name}: page {pfn:#x} differs");
                        same += 1;
                    }
                    // With paging, only what some page table maps is in the dump.
                    (Ok(_), Err(ReadFault::NoMemory { .. })) if name == "qemu-paging.elf" => unmapped += 1,
                    (a, b) => assert_eq!(a.err(), b.err(), "{name}: page {pfn:#x}"),
                }
            }
            eprintln!("{}: {same} pages alike, {unmapped} unmapped", form.path().display());
            assert!(same > 50 * unmapped);
        }
    }
}

#[test]
fn a_dump_that_was_cut_reads_as_far_as_it_goes() {
    for path in ["z31.kdump", "F31.flat"].into_iter().flat_map(lab_files) {
        let truth = open(&path);
        let len = std::fs::metadata(&path).unwrap().len();
        let dir = tempfile::tempdir().unwrap();
        let cut = dir.path().join("cut");
        std::fs::copy(&path, &cut).unwrap();
        std::fs::OpenOptions::new().write(true).open(&cut).unwrap().set_len(len * 6 / 10).unwrap();
        let cut = open(&cut);
        let told = cut.incomplete().expect("a cut dump is incomplete");
        assert!(told.contains("cut short") || told.contains("breaks off"), "{told}");
        let (mut read, mut lost) = (0, 0);
        for pfn in frames(&truth) {
            match (page(&truth, pfn), page(&cut, pfn)) {
                (Ok(a), Ok(b)) => {
                    assert!(a == b, "page {pfn:#x} differs");
                    read += 1;
                }
                (Ok(_), Err(ReadFault::Truncated { .. })) => lost += 1,
                (a, b) => assert_eq!(a.err(), b.err(), "page {pfn:#x}"),
            }
        }
        eprintln!("{}, cut: {read} pages read, {lost} lost", path.display());
        assert!(read > 1000 && lost > 0); // how many of each: pages compress differently
    }
}

/// Real headers with a few bytes changed: any answer will do, but an answer.
#[test]
fn damaged_real_headers_are_survived() {
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    for name in ["z31.kdump", "vmcore.elf", "qemu.elf", "qemu-zlib.kdump", "qemu-paging.elf", "F31.flat"] {
        let Some(path) = lab_files(name).into_iter().next() else { continue };
        let mut front = vec![0; 1 << 20];
        std::io::Read::read_exact(&mut std::fs::File::open(&path).unwrap(), &mut front).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("damaged");
        for _ in 0..200 {
            let mut damaged = front.clone();
            for _ in 0..1 + next() % 4 {
                let at = (next() % if next() % 2 == 0 { 600 } else { 12_288 }) as usize;
                let value = [0, u64::MAX, 1 << (next() % 64), next()][(next() % 4) as usize];
                damaged[at..at + 8].copy_from_slice(&value.to_le_bytes());
            }
            std::fs::write(&file, &damaged).unwrap();
            let _ = sniff(&file);
            let Ok(dump) = Vmcore::open(std::slice::from_ref(&file)) else { continue };
            let _ = (dump.format(), dump.incomplete(), dump.physical_ranges().len());
            for pfn in [0, 1, 0x9f, 0x100, 0x1000, 0x20_000, 0x2ffdc, next() >> 12] {
                let _ = page(&dump, pfn);
            }
        }
    }
}

#[test]
fn process_cores_are_told_from_machines() {
    let mut cores: Vec<PathBuf> = crate::process::some_core().into_iter().collect();
    for dir in lab_dirs().iter().map(|lab| lab.join("user/cores")) {
        let files = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|f| f.path());
        cores.extend(files.filter(|f| f.extension().is_some_and(|e| e == "core")));
    }
    for core in cores {
        assert_eq!(sniff(&core).unwrap(), Kind::Core, "{}", core.display());
    }
}
