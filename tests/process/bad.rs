//! Cores that are cut, packed, foreign, or that lie.

use super::*;

fn refused(core: &Path, why: &str) {
    let (ok, _, err) = corestub(&["sys", text(core)]);
    assert!(!ok && err.contains(why), "{}: {err}", core.display());
}

#[test]
fn packed_cores_are_opened_as_they_are() {
    let Some(p) = programs() else { return };
    let core = p.core("dies", DEFAULT);
    let raw = fs::read(&core).unwrap();
    let (zst, lz4) = (p.path("core.zst"), p.path("core.lz4"));
    fs::write(&zst, zstd::encode_all(&raw[..], 1).unwrap()).unwrap();
    let mut frame = lz4_flex::frame::FrameEncoder::new(Vec::new());
    frame.write_all(&raw).unwrap();
    fs::write(&lz4, frame.finish().unwrap()).unwrap();
    let stacks = |core: &Path| json(&["bt", text(core), "-a"]);
    assert_eq!(stacks(&zst), stacks(&core));
    assert_eq!(stacks(&lz4), stacks(&core));
    // Half of the stream gives what it holds, as a truncated core.
    let packed = fs::read(&zst).unwrap();
    fs::write(&zst, &packed[..packed.len() / 2]).unwrap();
    assert!(json(&["sys", text(&zst)])["lost_bytes"].as_u64().unwrap() > 0);
    fs::write(&zst, &packed[..12]).unwrap();
    assert!(!corestub(&["sys", text(&zst)]).0);
}

#[test]
fn a_truncated_core_says_how_much_is_missing() {
    let Some(p) = programs() else { return };
    let core = p.core("dies", DEFAULT);
    let raw = fs::read(&core).unwrap();
    let cut = p.path("cut.core");
    fs::write(&cut, &raw[..raw.len() - 100_000]).unwrap();
    let sys = json(&["sys", text(&cut)]);
    // The stack is last but for the vsyscall page: both are lost.
    assert_eq!(sys["lost_bytes"], 100_000);
    let (_, told, _) = corestub(&["sys", text(&cut)]);
    assert!(told.contains("the core is truncated: 100000 "), "{told}");
    // The first program header is that of the notes.
    let word = |at: usize| usize::try_from(u64::from_le_bytes(raw[at..at + 8].try_into().unwrap())).unwrap();
    fs::write(&cut, &raw[..word(72) + word(96) / 2]).unwrap();
    let (_, told, _) = corestub(&["sys", text(&cut)]);
    assert!(told.contains("the file ends within its notes: ") && !told.contains("malformed"), "{told}");
    fs::write(&cut, &raw[..2000]).unwrap();
    assert!(!corestub(&["sys", text(&cut)]).0);
}

#[test]
fn foreign_cores_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, class: u8, order: u8, machine: u8| {
        let mut raw = vec![0; 4096];
        raw[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, order, 1]);
        (raw[16], raw[18], raw[20]) = (4, machine, 1);
        (raw[52], raw[54]) = (64, 56);
        let path = dir.path().join(name);
        fs::write(&path, raw).unwrap();
        path
    };
    refused(&write("i386", 1, 1, 3), "32-bit");
    refused(&write("arm", 2, 1, 183), "183");
    refused(&write("big", 2, 2, 62), "endian");
}

/// Replaces bytes everywhere in a core; the lengths are the same.
fn replace(core: &Path, to: &Path, what: &str, with: &str) {
    assert_eq!(what.len(), with.len());
    let mut raw = fs::read(core).unwrap();
    let mut from = 0;
    let mut found = 0;
    // The notes come first; nothing after 1 MiB is one.
    let end = raw.len().min(1 << 20);
    while let Some(at) = raw[from..end].windows(what.len()).position(|w| w == what.as_bytes()) {
        raw[from + at..from + at + what.len()].copy_from_slice(with.as_bytes());
        from += at + what.len();
        found += 1;
    }
    assert!(found > 0, "no {what}");
    fs::write(to, raw).unwrap();
}

#[test]
fn hostile_names_open_nothing_and_do_not_hang() {
    let Some(p) = programs() else { return };
    let core = p.core("dies", DEFAULT);
    let library = text(&p.path("libdoom.so")).to_owned();
    let hostile = p.path("hostile.core");
    let fifo = library.replace("libdoom", "libfifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    fs::create_dir(library.replace("libdoom", "libfold")).unwrap();
    let pad = |name: &str| format!("{name:/<width$}", width = library.len());
    let slashes = |name: &str, last: &str| {
        format!("{name}{}{last}", "/".repeat(library.len() - name.len() - last.len()))
    };
    let cases = [
        (fifo.clone(), "is a FIFO"),
        (library.replace("libdoom", "libfold"), "is a directory"),
        (library.replace("libdoom", "lib\x1b[1m"), "control characters"),
        (slashes("/tmp/..", "etc/passwd"), "`..`"),
        (slashes("/dev", "zero"), "not a file on a disk"),
        (slashes("/proc", "self/mem"), "not a file on a disk"),
        (slashes("/etc", "passwd"), "has no build-id"),
        (pad("relative"), "not an absolute path"),
    ];
    for (name, why) in cases {
        replace(&core, &hostile, &library, &name);
        let rows = json(&["verify", text(&hostile)]);
        let told: Vec<_> = rows.as_array().unwrap().iter().filter_map(|r| r["why"].as_str()).collect();
        assert!(told.iter().any(|t| t.contains(why)), "{name:?}: {told:?}");
        let (_, sys, _) = corestub(&["sys", text(&hostile)]);
        assert!(!sys.contains('\x1b'), "{sys}");
    }
    // And gdb cannot get such a file through the server: what stands for a file that is
    // missing is made of the core.
    let name = slashes("/etc", "passwd");
    replace(&core, &hostile, &library, &name);
    let server = Server::start(&[], &hostile);
    let stolen = p.path("stolen-passwd");
    let mut gdb = patient("gdb");
    gdb.args(["-nx", "-batch", "-iex", "set debuginfod enabled off", "-ex"]);
    gdb.arg(format!("target remote {}", server.address)).arg("-ex");
    gdb.arg(format!("remote get {name} {}", stolen.display())).output().unwrap();
    assert!(fs::read(&stolen).is_ok_and(|got| got.starts_with(b"\x7fELF")));
}

#[test]
fn a_mapping_that_starts_within_a_page_is_no_trap() {
    let Some(p) = programs() else { return };
    let core = p.core("dies", WITH_TEXT);
    let rows = json(&["maps", text(&core)]);
    let code = rows.as_array().unwrap().iter().find(|r| {
        r["name"].as_str().unwrap().ends_with("libdoom.so") && r["perms"].as_str().unwrap().contains('x')
    });
    let address = |key: &str| {
        let digits = code.unwrap()[key].as_str().unwrap().trim_start_matches("0x");
        u64::from_str_radix(digits, 16).unwrap().to_le_bytes()
    };
    // The row of NT_FILE: start, end, page.
    let row = [address("start"), address("end")].concat();
    let mut raw = fs::read(&core).unwrap();
    let at = raw.windows(16).position(|w| w == row).unwrap();
    raw[at] += 1;
    let odd = p.path("odd.core");
    fs::write(&odd, raw).unwrap();
    let (ok, _, err) = corestub(&["verify", text(&odd)]);
    assert!(ok, "{err}");
}
