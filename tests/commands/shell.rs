//! Commands as they are typed in a shell: what is the dump, what an argument, where
//! an address lies, and what the exit code says.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Output, Stdio};

use serde_json::Value;

use crate::process::some_core;
use crate::support::client::Client;
use crate::support::dumps;
use crate::support::program::{Server, corestub, have_gdb, patient};

/// A small vmcore of a crash.
pub(super) fn vmcore() -> Option<PathBuf> {
    let dumps = dumps::all().into_iter().map(|d| d.path);
    let kdumps = dumps.filter(|p| p.extension().is_some_and(|e| e == "kdump") && !p.ends_with("qemu.kdump"));
    kdumps.min_by_key(|p| std::fs::metadata(p).map_or(u64::MAX, |m| m.len()))
}

/// Exit code, stdout, stderr. Without debug files, which take time to find.
fn run<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> (i32, String, String) {
    let mut args = args.into_iter();
    let mut command = corestub();
    command.args(args.next()).args(["--debug-dir", "/nonexistent"]).args(args);
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn json(args: &[&str]) -> Value {
    let (_, out, err) = run(args.iter().chain(&["--json"]));
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{args:?}: {e}: {out}{err}"))
}

macro_rules! vmcore {
    () => {
        match vmcore() {
            Some(path) => path.to_str().unwrap().to_owned(),
            None => return,
        }
    };
}

#[test]
fn the_dump_comes_first_and_options_anywhere() {
    let dump = &vmcore!();
    let (code, all, err) = run(["ps", "-A", dump]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(run(["ps", dump, "-A"]).1, all);
    let (_, one, _) = run(["ps", dump, "1"]);
    assert_eq!(one.lines().count(), 2, "{one}");
    assert_eq!(run(["ps", dump, "--", "1"]).1, one);
    // A word that names a file is an argument all the same, also if it is the dump.
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("1"), "no dump").unwrap();
    let here = corestub().args(["ps", dump, "1"]).current_dir(dir.path()).output().unwrap();
    assert_eq!(String::from_utf8(here.stdout).unwrap(), one);
    std::os::unix::fs::symlink(dump, dir.path().join("kthreadd")).unwrap();
    let (_, one, _) = run(["ps", dump, "kthreadd"]);
    let here = corestub().args(["ps", dump, "--", "kthreadd"]).current_dir(dir.path()).output().unwrap();
    assert_eq!(String::from_utf8(here.stdout).unwrap(), one);
    // Directly behind the dump, too: of a dump that is not split there are no pieces.
    let here = corestub().args(["ps", dump, "kthreadd"]).current_dir(dir.path()).output().unwrap();
    assert_eq!(String::from_utf8(here.stdout).unwrap(), one);
}

#[test]
fn paths_need_not_be_text() {
    let dump = vmcore!();
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join(OsStr::from_bytes(b"dump-\xff-\xc3\xa9"));
    std::os::unix::fs::symlink(&dump, &link).unwrap();
    let (code, out, err) = run([OsStr::new("ps"), link.as_os_str(), OsStr::new("-A")]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(out, run(["ps", &dump, "-A"]).1);
    // A vmlinux in such a folder is found, and a socket is where it was asked for.
    let named = |name: &[u8]| dir.path().join(OsStr::from_bytes(name));
    let (folder, socket) = (named(b"debug-\xff"), named(b"socket-\xff"));
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("vmlinux"), "no vmlinux").unwrap();
    let sys = [OsStr::new("sys"), OsStr::new("--debug-dir"), folder.as_os_str(), OsStr::new(&dump)];
    let said = corestub().args(sys).output().unwrap();
    assert!(String::from_utf8_lossy(&said.stdout).contains("vmlinux: malformed ELF file"), "{said:?}");
    let mut serve = corestub();
    serve.arg("serve").arg("--unix").arg(&socket).arg(&link).stdout(Stdio::piped());
    let mut child = serve.spawn().unwrap();
    let mut line = Vec::new();
    BufReader::new(child.stdout.take().unwrap()).read_until(b'\n', &mut line).unwrap();
    assert_eq!(line, [b"listening on ", socket.as_os_str().as_bytes(), b"\n"].concat());
    assert!(UnixStream::connect(&socket).is_ok());
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A vmcore that was compressed as a whole reads as itself, from a file, a pipe and stdin; it is
/// unpacked once.
#[test]
fn compressed_vmcores_are_opened_as_they_are() {
    let dump = &vmcore!();
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let plain = std::fs::read(dump).unwrap();
    let packed = dir.path().join("a dump.zst");
    let bytes = zstd::stream::encode_all(&plain[..], 1).unwrap();
    std::fs::write(&packed, &bytes).unwrap();
    let ps = |dump: &OsStr, stdin: Stdio| {
        let mut ps = corestub();
        ps.env("XDG_CACHE_HOME", &cache).args([OsStr::new("ps"), OsStr::new("--json"), dump]).stdin(stdin);
        let out = ps.output().unwrap();
        (String::from_utf8(out.stdout).unwrap(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let truth = ps(OsStr::new(dump), Stdio::null()).0;
    let unpacked = || std::fs::read_dir(cache.join("corestub/unpacked")).unwrap().count();
    for _ in 0..2 {
        assert_eq!(ps(packed.as_os_str(), Stdio::null()).0, truth);
        assert_eq!(unpacked(), 1);
    }
    let stdin = || Stdio::from(std::fs::File::open(&packed).unwrap());
    assert_eq!(ps(OsStr::new("-"), stdin()).0, truth);
    assert_eq!(unpacked(), 1);
    // What is too much is not unpacked.
    let limited = [OsStr::new("ps"), OsStr::new("--unpack-limit=1M"), packed.as_os_str()];
    let out = corestub().env("XDG_CACHE_HOME", dir.path().join("other")).args(limited).output().unwrap();
    assert!(String::from_utf8_lossy(&out.stderr).contains("--unpack-limit allows more"), "{out:?}");
    std::fs::write(&packed, &bytes[..bytes.len() / 2]).unwrap();
    let (half, said) = ps(packed.as_os_str(), Stdio::null());
    assert!(half.len() < truth.len() || said.contains("breaks off"), "{said}");
}

/// What gdb shows of `target remote | corestub serve --stdio ...` that fails.
#[test]
fn what_cannot_be_opened_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let packed = dir.path().join("a dump.gz");
    std::fs::write(&packed, b"\x1f\x8b\x08").unwrap();
    let (code, out, err) = run([OsStr::new("sys"), packed.as_os_str()]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("cannot unpack"), "{err}");
    if !have_gdb() {
        return;
    }
    for args in ["/nonexistent/vmcore", "--no-such-option"] {
        let serve = format!("target remote | {} serve --stdio {args}", corestub().get_program().display());
        let gdb =
            patient("gdb").args(["-nx", "-batch", "-ex", &serve]).stdin(Stdio::null()).output().unwrap();
        let said = [gdb.stderr, gdb.stdout].map(|t| String::from_utf8_lossy(&t).into_owned()).concat();
        assert!(said.contains(args), "{said}");
    }
    // Nobody has to wait who is no gdb.
    let alone = corestub().args(["serve", "--stdio", "/nonexistent"]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(alone.status.code(), Some(1));
}

/// What fails says so by its exit code, and on stderr alone.
#[test]
fn failures_have_their_exit_codes() {
    let dump = &vmcore!();
    let text = run(["sym", dump, "_text"]).1;
    let text = text.split(' ').next().unwrap();
    for (args, code, wanted) in [
        (vec!["rd", dump, "0x10"], 1, "is not mapped"),
        (vec!["rd", "-k", dump, "ffff800000000000"], 1, "is not mapped"),
        (vec!["search", dump, "-s", text, "-l", "1000", "-c", "no such text"], 1, "not found"),
        (vec!["sym", dump, "no_such_symbol"], 1, "is no symbol"),
        (vec!["ps", dump, "no_such_task"], 1, "is no pid"),
        (vec!["maps", dump], 2, "for process cores only; this is a vmcore, of which `vm` tells the like"),
        (vec!["rd", dump, text, "ffffffff"], 1, "ffffffff is not a number"),
        (vec!["rd", dump, text, "0xffffffff"], 2, "read them in parts"),
        (vec!["why", dump], 1, "why ADDRESS asks for one"),
    ] {
        let code = if wanted.contains("not a number") { 2 } else { code };
        let (exit, out, err) = run(&args);
        assert_eq!((exit, out.as_str()), (code, ""), "{args:?}: {err}");
        assert!(err.contains(wanted), "{args:?}: {err}");
        assert!(
            wanted.contains("not a number") || err.starts_with(&format!("corestub {}: ", args[0])),
            "{err}"
        );
    }
    let (exit, _, err) = run(["threads", dump, "no_such_task"]);
    assert_eq!((exit, err.as_str()), (1, "corestub threads: no thread is no_such_task\n"));
    // What was read before the fault is shown, and JSON has the reason, too.
    let (exit, out, _) = run(["rd", dump, "--json", "0x10"]);
    assert_eq!(exit, 1);
    let value: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value["hex"], "");
    assert!(value["fault"].as_str().unwrap().contains("is not mapped"), "{value}");
}

/// `why`, `rd` and `vtop` look at one address space: the kernel's, and for user
/// addresses that of the task that panicked.
#[test]
fn every_command_looks_at_the_same_memory() {
    let dump = &vmcore!();
    for address in ["$user_rsp", "$user_rip", "0x10", "ffff800000000000", "$rsp"] {
        let why = json(&["why", dump, address]);
        let rd = json(&["rd", dump, address]);
        let vtop = json(&["vtop", dump, address])[0].clone();
        assert_eq!(why["addr"], rd["address"], "{address}");
        assert_eq!(why["addr"], vtop["address"], "{address}");
        assert_eq!(why["readable"], Value::Bool(rd["fault"].is_null()), "{address}: {why} {rd}");
        assert_eq!(rd["fault"], vtop["fault"], "{address}");
        if why["readable"] == false {
            assert_eq!(why["why"], rd["fault"], "{address}");
        }
    }
}

#[test]
fn addresses_are_symbols_registers_or_digits() {
    let dump = &vmcore!();
    assert_eq!(json(&["why", dump, "jiffies"])["readable"], true);
    let at = |word: &str| json(&["vtop", dump, word])[0]["address"].clone();
    assert_eq!(at("jiffies+0x10"), at("jiffies+16"));
    let rip = json(&["bt", dump])[0]["frames"][0]["pc"].clone();
    assert_eq!(at("$rip"), rip);
    assert_eq!(at("$pc"), rip);
    assert_eq!(json(&["why", dump, "$rip"])["readable"], true);
    let (code, _, err) = run(["why", dump, "$rap"]);
    assert_eq!(code, 1);
    assert!(err.contains("$rap is no register"), "{err}");
}

/// `-u` and `-k` choose whose page tables are walked.
#[test]
fn u_and_k_are_not_ignored() {
    let dump = &vmcore!();
    for command in ["rd", "vtop"] {
        let fault = |args: &[&str]| {
            let value = json(&[&[command, dump][..], args].concat());
            let value = value.get(0).unwrap_or(&value);
            value["fault"].clone()
        };
        // The kernel's half is in both.
        assert_eq!(fault(&["-u", "jiffies"]), Value::Null);
        // The user's half is in the task's only.
        let (user, kernel) = (fault(&["$user_rsp"]), fault(&["-k", "$user_rsp"]));
        assert_eq!(fault(&["-u", "$user_rsp"]), user);
        assert!(kernel.as_str().unwrap().contains("is not mapped"), "{kernel}");
        assert_ne!(user, kernel);
        let (code, _, err) = run([command, dump, "-u", "-k", "0"]);
        assert_eq!(code, 2, "{err}");
    }
    let kernel_thread = json(&["ps", dump, "kthreadd"])[0]["pid"].to_string();
    let (code, _, err) = run(["vtop", dump, "-u", "-c", &kernel_thread, "0"]);
    assert_eq!(code, 1);
    assert!(err.contains("has no user memory"), "{err}");
}

#[test]
fn sizes_of_words_are_written_as_crash_does() {
    let dump = &vmcore!();
    for (bits, digits) in [("8", 2), ("16", 4), ("32", 8), ("64", 16)] {
        let (code, out, err) = run(["rd", dump, &format!("-{bits}"), "linux_banner"]);
        assert_eq!((code, err.as_str()), (0, ""), "{bits}");
        assert_eq!(out.split_whitespace().nth(1).unwrap().len(), digits, "{out}");
        assert_eq!(run(["rd", dump, "--bits", bits, "linux_banner"]).1, out);
    }
    assert_eq!(run(["rd", dump, "-17", "linux_banner"]).0, 2);
}

/// Warnings look as errors do, and stay plain; `-v` says more whatever `RUST_LOG` says.
#[test]
fn the_log_is_plain_and_v_is_obeyed() {
    let dump = vmcore!();
    let said = |args: &[&str], log: &str| {
        let mut command = corestub();
        command.args(["ps", "-A", "--debug-dir", "/nonexistent", &dump]).args(args);
        let out = command.env("RUST_LOG", log).env("CLICOLOR_FORCE", "1").output().unwrap();
        String::from_utf8(out.stderr).unwrap()
    };
    assert_eq!(said(&[], "off"), "");
    let told = said(&["-vv"], "off");
    assert!(told.lines().any(|l| l.starts_with("corestub: debug: ")), "{told}");
    for line in told.lines() {
        assert!(line.starts_with("corestub: ") && !line.contains('\x1b'), "{line:?}");
    }
    let (_, _, err) = run(["ps", "no\x1b[2Jsuch\ndump"]);
    assert!(err.starts_with("corestub: cannot open no.[2Jsuch.dump"), "{err:?}");
}

#[test]
fn every_answer_is_json_too() {
    let dump = &vmcore!();
    let parents = json(&["ps", dump, "-p", "2"]);
    assert_eq!(parents[0]["pid"], 2);
    assert_eq!(parents[0]["parents"][0]["pid"], 0);
    let words = json(&["ps", dump, "-a", "1", "2"]);
    assert_eq!((&words[0]["user"], &words[1]["user"]), (&Value::Bool(true), &Value::Bool(false)));
    assert!(words[0]["arguments"].is_array() || words[0]["arguments"]["fault"].is_string(), "{words}");
    assert!(json(&["why", dump, "0"])["why"].as_str().unwrap().contains("is not mapped"));
    assert!(json(&["log", dump, "-n", "3"]).as_array().unwrap().len() == 3);
    assert!(json(&["threads", dump, "active"])[0]["number"] == 1);
}

#[test]
fn a_process_refuses_what_only_a_kernel_has() {
    let Some(core) = some_core() else { return };
    let core = core.to_str().unwrap();
    for (args, what) in [
        (&["bt", core, "-f"][..], "-f is "),
        (&["bt", core, "-l"], "-l is "),
        (&["bt", core, "--summary"], "--summary is "),
        (&["ps", core, "-k"], "-k is "),
        (&["ps", core, "-a"], "-a is "),
        (&["triage", core], ""),
    ] {
        let (code, out, err) = run(args);
        assert_eq!((code, out.as_str()), (2, ""), "{args:?}");
        assert_eq!(err, format!("corestub {}: {what}for vmcores only; this is a process core\n", args[0]));
    }
    for args in [["ps", core, "no-such"], ["bt", core, "99999999"], ["verify", core, "no-such"]] {
        let (code, _, err) = run(args);
        assert_eq!(code, 1, "{args:?}: {err}");
    }
    let pc = json(&["sys", core])["pc"].clone();
    assert_eq!(json(&["why", core, "$rip"])["addr"], pc);
    assert_eq!(json(&["why", core, "divide+5"])["addr"], pc);
    assert_eq!(json(&["bt", core, "--all"]), json(&["bt", core, "-a"]));
}

/// gdb's `monitor` parses with the same declaration, quotes included.
#[test]
fn monitor_takes_what_a_shell_takes() {
    let dump = vmcore!();
    let server = Server::start(dump.as_ref(), &["--debug-dir", "/nonexistent"]).unwrap();
    let mut gdb = Client::connect(&server.address);
    let (_, shell, _) = run(["search", &dump, "-c", "Linux version", "-s", "linux_banner", "-l", "0x100"]);
    assert!(shell.contains(": Linux version "), "{shell}");
    assert_eq!(gdb.monitor("search -c \"Linux version\" -s linux_banner -l 0x100"), shell);
    assert_eq!(gdb.monitor("search -c 'no such text' -s linux_banner -l 10"), "search: not found\n");
    assert!(gdb.monitor("rd 0x10").starts_with("rd: 0x10 is not mapped"));
    assert!(gdb.monitor("why $rip").contains(" is readable: code"));
    assert!(gdb.monitor("xp /2gx 0x1000").starts_with("0000000000001000:"));
}
