//! One machine's memory in every form: each page of a fixture is written by a converter that
//! shares nothing with the reader, and read again. The table in docs/formats.md is made here.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use corestub::bytes::packed::Unpack;
use corestub::dump::{self, Opened, Options, Vmcore};

use crate::dump::{open, page};
use crate::support::files;
use crate::support::fixtures::fixture;

/// Pages in a row: the first one's number, and their bytes.
type Run = (u64, Vec<u8>);

/// All pages of a dump.
fn runs(dump: &Vmcore) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (start, len) in dump.stored_ranges() {
        for pfn in start.0 / 4096..(start.0 + len).div_ceil(4096) {
            let Ok(bytes) = page(dump, pfn) else { continue };
            if bytes.len() < 4096 {
                continue;
            }
            match runs.last_mut() {
                Some((first, all)) if *first + all.len() as u64 / 4096 == pfn => all.extend(bytes),
                Some((first, all)) if *first + all.len() as u64 / 4096 > pfn => {}
                _ => runs.push((pfn, bytes)),
            }
        }
    }
    runs
}

fn lime(runs: &[Run]) -> Vec<u8> {
    let mut out = Vec::new();
    for (first, bytes) in runs {
        out.extend(b"EMiL\x01\0\0\0");
        let start = first * 4096;
        [start, start + bytes.len() as u64 - 1, 0].iter().for_each(|n| out.extend(n.to_le_bytes()));
        out.extend(bytes);
    }
    out
}

fn avml(runs: &[Run]) -> Vec<u8> {
    let mut out = Vec::new();
    for (first, bytes) in runs {
        out.extend(b"AVML\x02\0\0\0");
        let start = first * 4096;
        [start, start + bytes.len() as u64 - 1, 0].iter().for_each(|n| out.extend(n.to_le_bytes()));
        let mut to = snap::write::FrameEncoder::new(Vec::new());
        to.write_all(bytes).unwrap();
        let frames = to.into_inner().unwrap();
        out.extend(&frames);
        out.extend((frames.len() as u64).to_le_bytes());
    }
    out
}

/// All memory from 0 on, as a sparse file.
fn raw(path: &Path, runs: &[Run]) {
    use std::os::unix::fs::FileExt;

    let file = std::fs::File::create(path).unwrap();
    for (first, bytes) in runs {
        file.write_all_at(bytes, first * 4096).unwrap();
    }
}

/// A state without regions: memory begins at 0.
fn vmss() -> Vec<u8> {
    let mut out = [0xbed2_bed2u32, 8, 1].map(u32::to_le_bytes).concat();
    let mut group = b"memory".to_vec();
    group.resize(64, 0);
    group.extend((12u64 + 80).to_le_bytes());
    group.extend(2u64.to_le_bytes());
    out.extend(group);
    out.extend([0, 0]);
    out
}

/// The pages as QEMU sends them: those of one byte as that byte.
fn migration(runs: &[Run]) -> Vec<u8> {
    let named = |out: &mut Vec<u8>, name: &str| {
        out.push(name.len() as u8);
        out.extend(name.as_bytes());
    };
    let mut out = b"QEVM\0\0\0\x03\x07\0\0\0\x0apc-q35-7.2\x01\0\0\0\x02".to_vec();
    named(&mut out, "ram");
    out.extend([0, 0, 0, 0, 0, 0, 0, 4]);
    let len = runs.iter().map(|(first, bytes)| first * 4096 + bytes.len() as u64).max().unwrap();
    out.extend((len | 4).to_be_bytes());
    named(&mut out, "pc.ram");
    out.extend(len.to_be_bytes());
    out.extend(0x10u64.to_be_bytes());
    out.extend(b"\x7e\0\0\0\x02\x03\0\0\0\x02");
    let mut next = 0;
    for (first, bytes) in runs {
        for (i, page) in bytes.chunks(4096).enumerate() {
            let fill = page.iter().all(|&b| b == page[0]);
            let at = (first + i as u64) << 12;
            out.extend((at | if fill { 2 } else { 8 } | if next > 0 { 0x20 } else { 0 }).to_be_bytes());
            if next == 0 {
                named(&mut out, "pc.ram");
            }
            next += 1;
            out.extend(if fill { &page[..1] } else { page });
        }
    }
    out.extend(0x10u64.to_be_bytes());
    out.push(0);
    out
}

/// What a program makes of `bytes`; `None` where it is not installed.
fn piped(program: &[&str], bytes: &[u8]) -> Option<Vec<u8>> {
    let mut child = Command::new(program[0]);
    let mut child = child.args(&program[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
    let mut to = child.stdin.take().unwrap();
    let bytes = bytes.to_owned();
    let writer = std::thread::spawn(move || drop(to.write_all(&bytes)));
    let out = child.wait_with_output().unwrap();
    writer.join().unwrap();
    out.status.success().then_some(out.stdout)
}

/// Every page of `truth`, read from what `open` gives; how many.
fn alike(truth: &[Run], form: &Vmcore) -> usize {
    let mut read = 0;
    for (first, bytes) in truth {
        for (i, wanted) in bytes.chunks(4096).enumerate() {
            let pfn = first + i as u64;
            let got = page(form, pfn).unwrap_or_else(|e| panic!("{}: {e}", form.path().display()));
            assert!(got == wanted, "{}: page {pfn:#x} differs", form.path().display());
            read += 1;
        }
    }
    read
}

#[test]
fn one_machine_reads_alike_in_every_form() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        unpack: Unpack { folder: Some(dir.path().join("cache")), ..Unpack::default() },
        ..Options::default()
    };
    std::fs::create_dir(dir.path().join("cache")).unwrap();
    let opened = |path: PathBuf, options: &Options| match dump::open(&[path], options).unwrap() {
        Opened::Vmcore(vmcore) => *vmcore,
        Opened::Core(core) => panic!("{} is no core", core.path().display()),
    };
    let kdump = fixture("k6.12-zlib.kdump");
    let truth = runs(&open(&kdump));
    let mut table = "| form | as | wrapper | pages alike |\n|---|---|---|---|\n".to_owned();
    let mut row = |form: &str, name: &str, wrapper: &str, dump: &Vmcore| {
        let pages = alike(&truth, dump);
        assert_eq!(dump.format(), name);
        writeln!(table, "| {form} | `{name}` | {wrapper} | {pages} |").unwrap();
    };
    let put = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let zlib = "kdump-compressed v6 (zlib)";
    row("kdump", zlib, "", &open(&kdump));
    row("LiME", "LiME", "", &opened(put("lime", &lime(&truth)), &options));
    row("AVML", "AVML (snappy)", "", &opened(put("avml", &avml(&truth)), &options));
    raw(&dir.path().join("a.vmem"), &truth);
    put("a.vmss", &vmss());
    row("VMware, by its .vmss", "VMware", "", &opened(dir.path().join("a.vmss"), &options));
    row("VMware, by its .vmem", "VMware", "", &opened(dir.path().join("a.vmem"), &options));
    std::fs::rename(dir.path().join("a.vmem"), dir.path().join("raw")).unwrap();
    let as_raw = Options { raw: Some(0), ..options.clone() };
    row("raw (`--raw`)", "raw memory", "", &opened(dir.path().join("raw"), &as_raw));
    let qevm = migration(&truth);
    row("migration", "QEMU migration stream (pc-q35-7.2)", "", &opened(put("qevm", &qevm), &options));
    let bytes = std::fs::read(&kdump).unwrap();
    for program in [
        &["gzip", "-1"][..],
        &["bzip2", "-1"],
        &["xz", "-0", "-T1"],
        &["xz", "-0", "--block-size=1MiB"],
        &["zstd", "-q", "-1"],
        &["lz4", "-q", "-1"],
    ] {
        let Some(packed) = piped(program, &bytes) else {
            crate::support::skip(&format!("{} is not installed", program[0]));
            return;
        };
        row("kdump", zlib, &format!("`{}`", program.join(" ")), &opened(put("packed", &packed), &options));
    }
    let packed = piped(&["zstd", "-q", "-1"], &qevm).unwrap();
    row(
        "migration",
        "QEMU migration stream (pc-q35-7.2)",
        "`zstd -q -1`",
        &opened(put("packed", &packed), &options),
    );
    let docs = include_str!("../docs/formats.md");
    assert!(docs.contains(&table), "docs/formats.md is to hold:\n{table}");
}

/// Of the same stopped guest: pages, registers, as QEMU's two ways of writing them have them.
#[test]
fn a_migration_stream_reads_as_the_dump() {
    for path in files("qemu.mig") {
        let truth = open(&path.with_file_name("qemu.elf"));
        let form = open(&path);
        assert_eq!(form.incomplete(), None);
        let (a, b) = (truth.notes(), form.notes());
        assert_eq!(a.prstatus.len(), b.prstatus.len());
        for (a, b) in a.qemu_cpus.iter().zip(&b.qemu_cpus) {
            assert_eq!(a.regs, b.regs);
            assert_eq!((a.cr0, a.cr2, a.cr3, a.cr4), (b.cr0, b.cr2, b.cr3, b.cr4));
            assert_eq!(
                (a.idt.base, a.gdt.base, a.kernel_gs_base),
                (b.idt.base, b.gdt.base, b.kernel_gs_base)
            );
        }
        let mut read = 0;
        for (start, len) in form.physical_ranges() {
            for pfn in start.0 / 4096..(start.0 + len) / 4096 {
                assert_eq!(page(&truth, pfn), page(&form, pfn), "page {pfn:#x}");
                read += 1;
            }
        }
        eprintln!("{}: {read} pages alike", path.display());
    }
}
