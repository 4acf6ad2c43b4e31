//! Userspace cores: programs made and killed here, the real program, stock gdb.

mod bad;
mod cases;
mod gdb;
mod kept;
mod kinds;
mod session;
mod verify;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

use crate::support::program::patient;

/// Bits of coredump_filter: the default, and that with the text of files.
const DEFAULT: &str = "0x33";
const WITH_TEXT: &str = "0x3f";

struct Programs {
    dir: tempfile::TempDir,
}

impl Programs {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The core that `program` leaves with a filter; made once.
    fn core(&self, program: &str, filter: &str) -> PathBuf {
        let core = self.path(&format!("{program}.{filter}.core"));
        static MAKING: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let _one = MAKING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !core.exists() {
            let library = if program == "dies-textrel" { "libtextrel.so" } else { "libdoom.so" };
            kill(&self.path(program), filter, &self.path(library), &core);
        }
        core
    }
}

/// The core of a program that died here.
pub fn some_core() -> Option<PathBuf> {
    Some(programs()?.core("dies", DEFAULT))
}

fn compile(to: &Path, args: &[&str]) {
    let support = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support");
    let mut gcc = Command::new("gcc");
    let out = gcc.current_dir(support).args(["-g", "-O1", "-o"]).arg(to).args(args).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// The programs, or nothing where there is no compiler or no gdb.
fn programs() -> Option<&'static Programs> {
    static PROGRAMS: OnceLock<Option<Programs>> = OnceLock::new();
    let made = PROGRAMS.get_or_init(|| {
        let there = |tool: &str| Command::new(tool).arg("--version").output().is_ok();
        if !there("gcc") || !there("gdb") {
            return None;
        }
        let p = Programs { dir: tempfile::tempdir().unwrap() };
        compile(&p.path("dies"), &["dies.c", "-pthread"]);
        compile(&p.path("dies-nopie"), &["-no-pie", "-fno-pie", "dies.c", "-pthread"]);
        compile(&p.path("dies-static"), &["-static", "-DSTATIC", "dies.c", "-pthread"]);
        compile(&p.path("dies-textrel"), &["dies.c", "-pthread"]);
        compile(&p.path("libdoom.so"), &["-shared", "-fPIC", "doom.c"]);
        let no_pic = ["-fno-pic", "-mcmodel=large", "-Wl,-z,notext", "-DNO_TLS", "doom.c"];
        compile(&p.path("libtextrel.so"), &[&["-shared"][..], &no_pic].concat());
        Some(p)
    });
    if made.is_none() {
        crate::support::skip("gcc and gdb are needed to make userspace cores");
    }
    made.as_ref()
}

/// Runs a program to its death and keeps its core: the kernel's if it writes
/// plain files, else one that gdb writes by the same rules.
fn kill(program: &Path, filter: &str, library: &Path, core: &Path) {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    if pattern.trim() == "core" {
        let dir = tempfile::tempdir().unwrap();
        let script = "ulimit -c unlimited && exec \"$@\"";
        let mut shell = Command::new("bash");
        shell.args(["-c", script, "bash"]).arg(program).arg(filter).arg(library).current_dir(dir.path());
        let out = shell.output().unwrap();
        let written = fs::read_dir(dir.path()).unwrap().flatten().next();
        let written = written.unwrap_or_else(|| panic!("no core: {}", String::from_utf8_lossy(&out.stderr)));
        fs::copy(written.path(), core).unwrap();
    } else {
        let mut gdb = Command::new("gdb");
        gdb.args(["-nx", "-batch", "-ex", "run", "-ex"])
            .arg(format!("generate-core-file {}", core.display()));
        gdb.arg("--args").arg(program).arg(filter).arg(library);
        gdb.output().unwrap();
    }
    assert!(core.exists(), "no core of {}", program.display());
}

/// The program, serving one client; killed when dropped.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(args: &[&str], core: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_corestub"));
        command.args(["serve", "-l", "127.0.0.1:0"]).args(args).arg(core);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").expect("the ready line").to_owned();
        Self { child, address }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the program; (success, stdout, stderr). It must end.
fn corestub(args: &[&str]) -> (bool, String, String) {
    let out = patient(env!("CARGO_BIN_EXE_corestub")).args(args).output().unwrap();
    assert!(out.status.code().is_some_and(|c| c < 100), "corestub {args:?}: {:?}", out.status);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (out.status.success(), text(out.stdout), text(out.stderr))
}

/// The JSON answer of a command.
fn json(args: &[&str]) -> Value {
    let (name, rest) = args.split_first().unwrap();
    let (ok, out, err) = corestub(&[&[name, "--json"], rest].concat());
    assert!(ok, "{args:?}: {err}");
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{args:?}: {e}: {out}"))
}

/// Writes a copy of `core` in which the bytes at an address are others.
fn patch(core: &Path, to: &Path, addr: u64, bytes: &[u8]) {
    let mut raw = fs::read(core).unwrap();
    let u64_at = |raw: &[u8], at: usize| u64::from_le_bytes(raw[at..at + 8].try_into().unwrap());
    let phoff = u64_at(&raw, 32) as usize;
    let count = usize::from(u16::from_le_bytes([raw[56], raw[57]]));
    for i in 0..count {
        let phdr = phoff + 56 * i;
        let (kind, offset) = (raw[phdr], u64_at(&raw, phdr + 8));
        let (vaddr, filesz) = (u64_at(&raw, phdr + 16), u64_at(&raw, phdr + 32));
        if kind == 1 && vaddr <= addr && addr + bytes.len() as u64 <= vaddr + filesz {
            let at = (offset + addr - vaddr) as usize;
            raw[at..at + bytes.len()].copy_from_slice(bytes);
            fs::File::create(to).unwrap().write_all(&raw).unwrap();
            return;
        }
    }
    panic!("{addr:#x} is not in the core");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn number(value: &Value) -> u64 {
    u64::from_str_radix(value.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}
