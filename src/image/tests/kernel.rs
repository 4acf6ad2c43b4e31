//! Images made from the lab's vmlinux files, looked at by other programs.

#![allow(clippy::print_stderr, reason = "times, for whoever looks")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::*;
use crate::debuginfo::symbols::Builder;
use crate::debuginfo::vmlinux;

/// The symbols of `nm`, as kallsyms would have them.
pub(crate) fn nm(path: &Path) -> SymbolTable {
    let out = Command::new("nm").arg(path).output().unwrap();
    let mut builder = Builder::new("nm");
    for line in String::from_utf8(out.stdout).unwrap().lines() {
        let mut words = line.split_whitespace();
        if let (Some(at), Some(kind), Some(name)) = (words.next(), words.next(), words.next())
            && let Ok(at) = u64::from_str_radix(at, 16)
        {
            builder.push(at, 0, kind.as_bytes()[0], name.as_bytes());
        }
    }
    builder.finish()
}

fn make(release: &str, path: &Path, dir: &Path) -> (PathBuf, PathBuf, PathBuf) {
    let symbols = nm(path);
    let btf = Btf::parse(vmlinux::section(path, ".BTF").unwrap().bytes, "BTF").unwrap();
    let orc = vmlinux::orc(release, path);
    let begun = Instant::now();
    let images = kernel(&KernelParts {
        symbols: &symbols,
        build_id: Some(&[0xab; 20]),
        sections: &[],
        orc: Some(&orc),
        btf: Some(&btf),
        overrides: &[],
        real_dwarf: false,
    });
    let debug = images.debug.clone().unwrap();
    eprintln!("{release}: {:?}, {} + {} bytes", begun.elapsed(), images.exec.bytes.len(), debug.bytes.len());
    let exec = dir.join(format!("{release}.exec"));
    let file = dir.join(format!("{release}.debug"));
    std::fs::write(&exec, &images.exec.bytes).unwrap();
    std::fs::write(&file, &debug.bytes).unwrap();
    let unwind = dir.join(format!("{release}.unwind"));
    std::fs::write(&unwind, &images.unwind.bytes).unwrap();
    (exec, file, unwind)
}

#[test]
fn readelf_and_llvm_have_no_complaints() {
    let keep = std::env::var_os("CORESTUB_KEEP").map(PathBuf::from);
    let temp = tempfile::tempdir().unwrap();
    let dir = keep.as_deref().unwrap_or(temp.path());
    for (release, path) in vmlinux::all() {
        let (exec, debug, unwind) = make(&release, &path, dir);
        for (file, args) in [
            (&exec, &["-aW"][..]),
            (&unwind, &["-aW", "--debug-dump=frames"]),
            (&debug, &["-aW", "--debug-dump=info"]),
        ] {
            let out = Command::new("readelf").args(args).arg(file).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&out.stderr), "", "readelf {args:?} {}", file.display());
            assert!(out.stdout.len() > 1 << 16);
        }
        for file in [&debug, &unwind] {
            // LLVM's verifier is not everywhere.
            if let Ok(out) = Command::new("llvm-dwarfdump").arg("--verify").arg(file).output() {
                let text = String::from_utf8_lossy(&out.stdout);
                assert!(out.status.success() && text.contains("No errors."), "{text}");
            }
        }
    }
}
