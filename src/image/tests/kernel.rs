//! Images made from the lab's vmlinux files, looked at by other programs.

#![allow(clippy::print_stderr, reason = "times, for whoever looks")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::*;
use crate::debuginfo::symbols::Builder;
use crate::debuginfo::vmlinux;
use crate::lab::not_here;

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
    let parts = KernelParts {
        symbols: &symbols,
        build_id: Some(&[0xab; 20]),
        sections: &[],
        orc: Some(&orc),
        btf: Some(&btf),
        overrides: &[],
        code: Code::default(),
        real_dwarf: false,
    };
    let images = kernel(&parts);
    let debug = images.debug.clone().unwrap();
    eprintln!("{release}: {:?}, {} + {} bytes", begun.elapsed(), images.exec.bytes.len(), debug.bytes.len());
    let exec = dir.join(format!("{release}.exec"));
    let file = dir.join(format!("{release}.debug"));
    std::fs::write(&exec, &images.exec.bytes).unwrap();
    std::fs::write(&file, &debug.bytes).unwrap();
    let unwind = dir.join(format!("{release}.unwind"));
    std::fs::write(&unwind, &images.unwind.bytes).unwrap();
    std::fs::write(dir.join(format!("{release}.whole")), &whole_kernel(&parts).bytes).unwrap();
    (exec, file, unwind)
}

#[test]
fn readelf_and_llvm_have_no_complaints() {
    let keep = std::env::var_os("CORESTUB_KEEP").map(PathBuf::from);
    let temp = tempfile::tempdir().unwrap();
    let dir = keep.as_deref().unwrap_or(temp.path());
    let verifier = Command::new("llvm-dwarfdump").arg("--version").output().is_ok();
    if !verifier {
        not_here("llvm-dwarfdump is missing (package llvm): readelf alone is asked");
    }
    for (release, path) in vmlinux::all() {
        let (exec, debug, unwind) = make(&release, &path, dir);
        let whole = dir.join(format!("{release}.whole"));
        for (file, args) in [
            (&whole, &["-aW", "--debug-dump=frames"][..]),
            (&exec, &["-aW"]),
            (&unwind, &["-aW", "--debug-dump=frames"]),
            (&debug, &["-aW", "--debug-dump=info"]),
        ] {
            let out = Command::new("readelf").args(args).arg(file).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&out.stderr), "", "readelf {args:?} {}", file.display());
            assert!(out.stdout.len() > 1 << 16);
        }
        for file in [&debug, &unwind, &whole].into_iter().filter(|_| verifier) {
            let out = Command::new("llvm-dwarfdump").arg("--verify").arg(file).output().unwrap();
            let text = String::from_utf8_lossy(&out.stdout);
            assert!(out.status.success() && text.contains("No errors."), "{text}");
        }
    }
}

/// Prints size and members (name, bit offset, bit size, size, kind) of types.
const LAYOUTS: &str = r#"
import gdb, json, os
def members(t):
    out = []
    for f in t.fields():
        if not hasattr(f, "bitpos"):
            continue
        of = f.type.strip_typedefs()
        one = [f.name, f.bitpos, f.bitsize, f.type.sizeof, of.code]
        if not f.name and of.code in (gdb.TYPE_CODE_STRUCT, gdb.TYPE_CODE_UNION):
            one.append(members(of))
        out.append(one)
    return out
out = {}
for name in open(os.environ["NAMES"]).read().split("\n"):
    try:
        t = gdb.lookup_type(name)
        out[name] = [t.sizeof, members(t)]
    except gdb.error:
        out[name] = None
json.dump(out, open(os.environ["OUT"], "w"))
"#;

fn layouts(dir: &Path, file: &Path, names: &str) -> serde_json::Map<String, serde_json::Value> {
    let (script, list, out) = (dir.join("layouts.py"), dir.join("names"), dir.join("out.json"));
    std::fs::write(&script, LAYOUTS).unwrap();
    std::fs::write(&list, names).unwrap();
    let status = Command::new("gdb")
        .args(["-nx", "-batch", "-iex", "set debuginfod enabled off", "-ex"])
        .arg(format!("symbol-file {}", file.display()))
        .arg("-x")
        .arg(&script)
        .envs([("NAMES", &list), ("OUT", &out)])
        .output()
        .unwrap();
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap()
}

#[test]
fn gdb_sees_the_same_structures_as_with_dwarf() {
    let temp = tempfile::tempdir().unwrap();
    for (release, path) in vmlinux::all() {
        let btf = Btf::parse(vmlinux::section(&path, ".BTF").unwrap().bytes, "BTF").unwrap();
        let mut names =
            vec!["struct task_struct", "struct page", "struct rq", "struct sk_buff", "struct mm_struct"];
        let mut by_name: std::collections::BTreeMap<&str, usize> = std::collections::BTreeMap::new();
        for t in btf.own_types().filter(|t| t.kind == crate::debuginfo::btf::Kind::Struct) {
            *by_name.entry(t.name()).or_default() += 1;
        }
        // Of two structures with one name each gdb may show another.
        let unique: Vec<String> = by_name
            .iter()
            .filter(|(n, count)| **count == 1 && !n.is_empty())
            .map(|(n, _)| format!("struct {n}"))
            .collect();
        names.extend(unique.iter().step_by(unique.len() / 250).map(String::as_str));
        let (_, debug, _) = make(&release, &path, temp.path());
        let names = names.join("\n");
        let (ours, real) = (layouts(temp.path(), &debug, &names), layouts(temp.path(), &path, &names));
        // Structures local to a function cannot be looked up with DWARF.
        let both: Vec<_> = real.iter().filter(|(_, layout)| !layout.is_null()).collect();
        assert!(both.len() > 200, "{release}: {}", both.len());
        for (name, layout) in both {
            assert_eq!(&ours[name], layout, "{release}: {name}");
        }
    }
}
