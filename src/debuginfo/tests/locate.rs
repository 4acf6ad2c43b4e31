#![allow(clippy::print_stderr, reason = "skipped tests are said")]

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;
use crate::debuginfo::vmlinux;
use crate::lab::PATIENCE;

const ID: [u8; 4] = [0xab, 0xcd, 0xef, 0x01];
const OTHER: [u8; 4] = [0x11, 0x22, 0x33, 0x44];
const REL: &str = "6.1.0-9-amd64";

fn id(bytes: [u8; 4]) -> BuildId {
    BuildId::new(&bytes).unwrap()
}

/// A small ELF file with a build-id, with or without DWARF.
fn image(id: &[u8; 4], dwarf: bool) -> Vec<u8> {
    let mut object = object::write::Object::new(
        object::BinaryFormat::Elf,
        object::Architecture::X86_64,
        object::Endianness::Little,
    );
    let note = object.add_section(Vec::new(), b".notes".to_vec(), object::SectionKind::Note);
    let head: Vec<u8> = [4_u32, 4, 3].iter().flat_map(|w| w.to_le_bytes()).collect();
    object.append_section_data(note, &[&head[..], b"GNU\0", id].concat(), 4);
    if dwarf {
        let info = object.add_section(Vec::new(), b".debug_info".to_vec(), object::SectionKind::Debug);
        object.append_section_data(info, &[0; 16], 1);
    }
    object.write().unwrap()
}

struct Tree {
    dir: tempfile::TempDir,
}

impl Tree {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn put(&self, path: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Sees nothing outside of the tree.
    fn locator(&self) -> Locator {
        let at = |path: &str| self.dir.path().join(path);
        Locator::with(vec![at("usr/lib/debug"), at("given")], at(""), Some(at("cache")))
    }
}

#[test]
fn vmlinux_at_the_places_of_every_distribution() {
    for place in [
        "usr/lib/debug/.build-id/ab/cdef01.debug".to_owned(),
        format!("usr/lib/debug/boot/vmlinux-{REL}"),
        format!("usr/lib/debug/boot/vmlinux-{REL}.debug"),
        format!("usr/lib/debug/lib/modules/{REL}/vmlinux"),
        format!("usr/lib/debug/usr/lib/modules/{REL}/vmlinux"),
        format!("usr/lib/debug/usr/lib/modules/{REL}/build/vmlinux"),
        format!("usr/lib/modules/{REL}/build/vmlinux"),
        format!("boot/vmlinux-{REL}"),
        "given/vmlinux".to_owned(),
        format!("given/{REL}/vmlinux"),
        format!("given/usr/lib/debug/boot/vmlinux-{REL}"),
    ] {
        let tree = Tree::new();
        let path = tree.put(&place, &image(&ID, true));
        assert_eq!(tree.locator().vmlinux(REL, &id(ID)).found, Some(path), "{place}");
        assert_eq!(tree.locator().vmlinux(REL, &id(OTHER)).found, None, "{place}");
    }
}

#[test]
fn only_what_proves_itself_is_taken() {
    let tree = Tree::new();
    tree.put(&format!("usr/lib/debug/boot/vmlinux-{REL}"), &image(&OTHER, true));
    tree.put(&format!("usr/lib/debug/lib/modules/{REL}/vmlinux"), b"not an ELF file at all");
    let folder = tree.dir.path().join("given/vmlinux");
    fs::create_dir_all(folder).unwrap();
    let locator = tree.locator();
    assert_eq!(locator.vmlinux(REL, &id(ID)).found, None);
    let said = locator.explain();
    for word in ["build-id 11223344 is not abcdef01", "expected an ELF header", "not a regular file"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    // Once decided, not looked for again.
    tree.put(&format!("boot/vmlinux-{REL}"), &image(&ID, true));
    assert_eq!(locator.vmlinux(REL, &id(ID)).found, None);
    assert!(tree.locator().vmlinux(REL, &id(ID)).found.is_some());
    // Without an id there is no proof; names from the dump do not climb.
    assert_eq!(tree.locator().module(REL, "x", None).found, None);
    let climbing = Tree::new();
    climbing.put("usr/lib/debug/x/vmlinux", &image(&ID, true));
    for release in ["../x", "..", "", "a/b", "a\0b"] {
        assert_eq!(climbing.locator().vmlinux(release, &id(ID)).found, None, "{release:?}");
        assert_eq!(climbing.locator().module(release, release, Some(&id(ID))).found, None, "{release:?}");
    }
}

#[test]
fn what_lies_beside_the_dump() {
    for name in ["vmlinux", "vmlinux-test.gz", "anything.debug", ".build-id/ab/cdef01.debug"] {
        let tree = Tree::new();
        let bytes = match name.strip_suffix(".gz") {
            Some(_) => gzip(&image(&ID, true)),
            None => image(&ID, true),
        };
        let path = tree.put(&format!("dump/{name}"), &bytes);
        let beside = || tree.locator().beside(tree.dir.path().join("dump"));
        // Whatever the release is.
        let found = beside().vmlinux("../x", &id(ID)).found.expect(name);
        assert_eq!(found == path, !name.ends_with(".gz"), "{name}");
        assert_eq!(beside().vmlinux(REL, &id(OTHER)).found, None, "{name}");
        assert_eq!(beside().debug_file(&id(ID)).is_some(), found == path || name.ends_with(".gz"), "{name}");
        assert_eq!(beside().debug_file(&id(OTHER)), None, "{name}");
    }
    let tree = Tree::new();
    let module = tree.put("dump/x.ko", &image(&ID, true));
    let program = tree.put("dump/program", &image(&OTHER, false));
    let other = tree.put("dump/vmlinux", &image(&OTHER, true));
    let locator = tree.locator().beside(tree.dir.path().join("dump"));
    assert_eq!(locator.module(REL, "x", Some(&id(ID))).found, Some(module));
    assert_eq!(locator.executable(&id(OTHER), Some(OsStr::new("program"))), Some(program));
    assert_eq!(locator.executable(&id(ID), Some(OsStr::new("program"))), None);
    // Of a vmlinux of another build it is said that it was seen, and of all places
    // where there was none, which they are.
    let search = locator.vmlinux(REL, &id([1, 2, 3, 4]));
    assert_eq!(search.remarks, [format!("{}: build-id 11223344 is not 01020304", other.display())]);
    let of_debian = tree.dir.path().join(format!("usr/lib/debug/boot/vmlinux-{REL}"));
    assert!(search.places.contains(&of_debian), "{:?}", search.places);
    assert!(locator.places().contains("beside the dump; debuginfod not asked"), "{}", locator.places());
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

#[test]
fn dwarf_is_preferred_to_symbols() {
    let tree = Tree::new();
    let plain = tree.put(&format!("usr/lib/debug/boot/vmlinux-{REL}"), &image(&ID, false));
    assert_eq!(tree.locator().vmlinux(REL, &id(ID)).found, Some(plain));
    let full = tree.put(&format!("boot/vmlinux-{REL}"), &image(&ID, true));
    assert_eq!(tree.locator().vmlinux(REL, &id(ID)).found, Some(full));
}

#[test]
fn modules_by_name_compressed_or_not() {
    let bytes = image(&ID, true);
    let gzip = gzip(&bytes);
    let zstd = zstd::stream::encode_all(&bytes[..], 1).unwrap();
    let mut forms =
        vec![("ko", bytes.clone()), ("ko.debug", bytes.clone()), ("ko.gz", gzip), ("ko.zst", zstd)];
    forms.extend(xz(&bytes).map(|xz| ("ko.xz", xz)));
    for (ending, form) in forms {
        for tree_of in ["usr/lib/debug/lib/modules", "usr/lib/debug/usr/lib/modules", "lib/modules"] {
            let tree = Tree::new();
            let place = format!("{tree_of}/{REL}/kernel/sound/pci/hda/snd-hda-intel.{ending}");
            let path = tree.put(&place, &form);
            let found = tree.locator().module(REL, "snd_hda_intel", Some(&id(ID))).found.expect(&place);
            assert_eq!(fs::read(&found).unwrap(), bytes, "{place}");
            assert_eq!(found == path, ending.starts_with("ko.d") || ending == "ko", "{place}");
            assert_eq!(tree.locator().module(REL, "snd_hda_intel", None).found, None);
            assert_eq!(tree.locator().module(REL, "snd_hda_intel", Some(&id(OTHER))).found, None);
            // By its id alone, once it is in the cache or linked.
            assert_eq!(tree.locator().debug_file(&id(ID)).is_some(), found != path);
        }
    }
    let tree = Tree::new();
    tree.put(&format!("lib/modules/{REL}/kernel/x.ko.xz"), b"\xfd7zXZ\0 and nonsense");
    tree.put(
        &format!("lib/modules/{REL}/kernel/x.ko.zst"),
        &zstd::stream::encode_all(&image(&OTHER, true)[..], 1).unwrap(),
    );
    let loose = tree.put("given/x.ko", &bytes);
    let locator = tree.locator();
    assert_eq!(locator.module(REL, "x", Some(&id(ID))).found, Some(loose));
    let said = locator.explain();
    assert!(said.contains("does not decompress") && said.contains("build-id 11223344"), "{said}");
    let left: Vec<_> =
        fs::read_dir(tree.dir.path().join("cache/.build-id/ab")).into_iter().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// By the xz program, for the crate in use does only decode.
fn xz(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut child = Command::new("xz")
        .args(["--check=crc32", "--lzma2=dict=1MiB", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .inspect_err(|_| crate::lab::skip("xz is missing (package xz-utils)"))
        .ok()?;
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    Some(child.wait_with_output().unwrap().stdout)
}

#[test]
fn programs_by_build_id() {
    for place in [
        "usr/lib/debug/.build-id/ab/cdef01",
        "given/.build-id/ab/cdef01",
        "given/usr/lib/debug/.build-id/ab/cdef01",
    ] {
        let tree = Tree::new();
        let program = tree.put(place, &image(&ID, false));
        assert_eq!(tree.locator().debug_file(&id(ID)), None);
        let debug = tree.put(&format!("{place}.debug"), &image(&ID, true));
        let locator = tree.locator();
        assert_eq!(locator.executable(&id(ID), None), Some(program));
        assert_eq!(locator.debug_file(&id(ID)), Some(debug));
        assert_eq!(locator.executable(&id(OTHER), None), None);
    }
    // What is nowhere else is asked of debuginfod, by its kind.
    let tree = Tree::new();
    let text = format!("#!/bin/sh\necho {}/$1\n", tree.dir.path().display());
    let program = tree.put("debuginfod-find", text.as_bytes());
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let (executable, debug) =
        (tree.put("executable", &image(&ID, false)), tree.put("debuginfo", &image(&ID, true)));
    let locator = tree.locator().debuginfod(Some(Debuginfod::new(program, Duration::from_secs(5))));
    assert!(locator.may_be_slow());
    assert_eq!(locator.executable(&id(ID), None), Some(executable));
    assert_eq!(locator.debug_file(&id(ID)), Some(debug));
}

#[test]
fn debuginfod_is_asked_last_and_checked() {
    let tree = Tree::new();
    let answer = tree.put("answer", &image(&ID, true));
    let script = tree.put("debuginfod-find", format!("#!/bin/sh\necho {}\n", answer.display()).as_bytes());
    let ask = |script: &Path, timeout| {
        fs::set_permissions(script, fs::Permissions::from_mode(0o755)).unwrap();
        tree.locator().debuginfod(Some(Debuginfod::new(script, timeout)))
    };
    assert_eq!(ask(&script, PATIENCE).vmlinux(REL, &id(ID)).found, Some(answer));
    let wrong = ask(&script, PATIENCE);
    assert_eq!(wrong.vmlinux(REL, &id(OTHER)).found, None);
    assert!(wrong.explain().contains("build-id abcdef01 is not 11223344"));
    let slow = tree.put("slow", b"#!/bin/sh\nexec sleep 600\n");
    let slow = ask(&slow, Duration::from_millis(100));
    assert_eq!(slow.vmlinux(REL, &id(ID)).found, None);
    assert_eq!(slow.vmlinux(REL, &id(OTHER)).found, None);
    let said = slow.explain();
    assert!(said.contains("did not answer within") && said.contains("not asked again"), "{said}");
    let missing = tree.locator().debuginfod(Some(Debuginfod::new("/no/such/program", PATIENCE)));
    assert_eq!(missing.module(REL, "x", Some(&id(ID))).found, None);
    assert!(missing.explain().contains("not installed"));
}

/// Debian's debug packages, unpacked by the lab.
#[test]
fn debians_packages() {
    for (release, path) in vmlinux::all() {
        let root = path.ancestors().nth(5).unwrap();
        let id = File::open(&path).unwrap().build_id().unwrap().clone();
        for dir in [root.to_owned(), root.join("usr/lib/debug")] {
            let locator = Locator::with(vec![dir], "/nowhere".into(), None);
            assert_eq!(locator.vmlinux(&release, &id).found.as_deref(), Some(path.as_path()));
            let modules = locator.walk(&root.join("usr/lib/debug/lib/modules").join(&release), DEPTH_MAX);
            assert!(!modules.is_empty());
            for (name, paths) in modules.iter().take(20) {
                let id = File::open(&paths[0]).unwrap().build_id().unwrap().clone();
                assert_eq!(locator.module(&release, name, Some(&id)).found.as_ref(), Some(&paths[0]));
            }
        }
    }
}
