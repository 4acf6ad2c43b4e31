//! corestub itself, and gdb on it.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

use super::{PATIENCE, skip};

/// The program under test: the one cargo built, or `CORESTUB_BIN`.
/// What it keeps for the next time is not put into the user's cache.
pub fn corestub() -> Command {
    let built = || env!("CARGO_BIN_EXE_corestub").into();
    let mut command = Command::new(std::env::var_os("CORESTUB_BIN").unwrap_or_else(built));
    command.env("XDG_CACHE_HOME", concat!(env!("CARGO_TARGET_TMPDIR"), "/cache"));
    command
}

/// Sends a signal to a process that runs: with no program, as kill(1) is not everywhere.
pub fn signal(pid: u32, signal: Signal) -> std::io::Result<()> {
    let pid = pid.try_into().ok().and_then(Pid::from_raw);
    Ok(kill_process(pid.expect("a process id"), signal)?)
}

/// stdout of a command that must succeed.
pub fn output(command: &mut Command) -> Result<String, String> {
    let out = command.stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
    if !out.status.success() {
        return Err(format!("{:?}: {}", out.status, String::from_utf8_lossy(&out.stderr)));
    }
    String::from_utf8(out.stdout).map_err(|e| e.to_string())
}

/// `corestub serve`, killed when dropped.
pub struct Server {
    child: Child,
    /// What it listens on: `127.0.0.1:PORT`, or the path of a socket.
    pub address: String,
}

impl Server {
    /// On a port of its own.
    pub fn start(dump: &Path, options: &[&str]) -> Result<Self, String> {
        let mut serve = corestub();
        serve.args(["serve", "--listen", "127.0.0.1:0"]).args(options).arg(dump);
        serve.stdin(Stdio::null()).stderr(Stdio::null());
        Self::spawn(&mut serve)
    }

    /// By a command that becomes `corestub serve`, once it says where it listens.
    pub fn spawn(serve: &mut Command) -> Result<Self, String> {
        let mut child = serve.stdout(Stdio::piped()).spawn().map_err(|e| e.to_string())?;
        let (tx, rx) = mpsc::channel();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            let mut line = String::new();
            let _ = lines.read_line(&mut line);
            let _ = tx.send(line);
        });
        let line = rx.recv_timeout(PATIENCE).unwrap_or_default();
        let mut server = Self { child, address: String::new() };
        server.address = line
            .trim()
            .strip_prefix("listening on ")
            .ok_or_else(|| format!("serve said {line:?}, not `listening on ADDR`"))?
            .to_owned();
        Ok(server)
    }

    pub fn port(&self) -> &str {
        self.address.rsplit(':').next().unwrap_or_default()
    }

    /// Ends it by a signal: whether it ended well, and what it said where stderr is piped.
    pub fn end(mut self, with: Signal) -> (bool, String) {
        signal(self.pid(), with).unwrap();
        let mut said = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut said).unwrap();
        }
        (self.child.wait().unwrap().success(), said)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A line of its `/proc/PID/status`.
    pub fn status(&self, name: &str) -> Option<String> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let value = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
        Some(value.trim().to_owned())
    }

    /// Anonymous memory of the server now, in KiB.
    pub fn rss_anon(&self) -> Option<u64> {
        self.status("RssAnon")?.trim_end_matches(" kB").parse().ok()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a program starts.
fn starts(name: &OsStr) -> bool {
    let mut program = Command::new(name);
    program.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    program.status().is_ok()
}

/// Whether a program or a file of the tools is there.
pub fn have(what: &Path) -> bool {
    let found = if what.is_absolute() { what.exists() } else { starts(what.as_os_str()) };
    if !found {
        skip(&format!("{} is missing (scripts/test installs what it can)", what.display()));
    }
    found
}

/// Whether there is a gdb.
pub fn have_gdb() -> bool {
    have(Path::new("gdb"))
}

/// Any LLDB: which ones there are differs from Debian to Debian.
pub fn lldb() -> Option<PathBuf> {
    let names = ["lldb".to_owned()].into_iter().chain((14..40).rev().map(|v| format!("lldb-{v}")));
    let found = names.map(PathBuf::from).find(|name| starts(name.as_os_str()));
    if found.is_none() {
        skip("lldb is missing (scripts/lab/frontends installs it)");
    }
    found
}

/// A program that is ended when it does not end by itself.
pub fn patient(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-k", "5", &PATIENCE.as_secs().to_string()]).arg(program);
    command
}

/// How long gdb is to wait for an answer: the program under test is not optimised,
/// and the machine may be busy. What gdb does when it waits no longer is tests/late.rs's.
pub fn remote_timeout() -> String {
    format!("set remotetimeout {}", PATIENCE.as_secs())
}

/// gdb without any configuration, which ends by itself.
pub struct Gdb {
    command: Command,
}

impl Gdb {
    /// `file`: the program that gdb is started on, if any.
    pub fn new(file: Option<&Path>) -> Self {
        let mut command = patient("gdb");
        command.args(["-nx", "-q", "-batch"]);
        command.args(["-ex", "set debuginfod enabled off", "-ex", "set pagination off"]);
        command.args(["-iex", "set debug-file-directory /nonexistent"]);
        command.args(["-iex", &remote_timeout()]);
        command.env_remove("DEBUGINFOD_URLS").stdin(Stdio::null());
        if let Some(file) = file {
            command.arg(file);
        }
        Self { command }
    }

    pub fn ex(mut self, text: &str) -> Self {
        self.command.args(["-ex", text]);
        self
    }

    pub fn connect(self, server: &Server) -> Self {
        self.ex(&format!("target remote {}", server.address))
    }

    /// In a further inferior, attached to a process of a vmcore.
    pub fn attach(self, server: &Server, pid: u32) -> Self {
        self.ex(&format!("target extended-remote {}", server.address))
            .ex("add-inferior")
            .ex("inferior 2")
            .ex(&format!("attach {pid}"))
    }

    /// What it printed, both streams.
    pub fn run(mut self) -> Result<String, String> {
        let out = self.command.output().map_err(|e| e.to_string())?;
        let text = [out.stdout, out.stderr].map(|t| String::from_utf8_lossy(&t).into_owned()).concat();
        match out.status.code() {
            Some(0 | 1) => Ok(text),
            code => Err(format!("gdb ended with {code:?}:\n{text}")),
        }
    }
}

/// Whether `said` has all of `wanted`.
pub fn expect(said: &str, wanted: &[&str]) -> Result<(), String> {
    let lacking: Vec<_> = wanted.iter().filter(|text| !said.contains(**text)).collect();
    if lacking.is_empty() { Ok(()) } else { Err(format!("no {lacking:?} in:\n{said}")) }
}

/// A thread as gdb walks it.
#[derive(serde::Deserialize)]
pub struct Walked {
    pub tid: u32,
    pub name: Option<String>,
    /// Program counter, stack pointer, function; without inlined frames.
    pub frames: Vec<(Option<u64>, Option<u64>, Option<String>)>,
    pub error: Option<String>,
}

/// Walks every thread's stack within gdb.
pub fn walk(server: &Server, vmlinux: Option<&Path>) -> Result<Vec<Walked>, String> {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("walk.json");
    let script: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/support/walk.py"].iter().collect();
    let mut gdb = Gdb::new(vmlinux).connect(server).ex(&format!("source {}", script.display()));
    gdb.command.env("WALK_OUT", &out);
    let said = gdb.run()?;
    let json = std::fs::read(&out).map_err(|_| format!("walk.py wrote nothing; gdb said:\n{said}"))?;
    serde_json::from_slice(&json).map_err(|e| e.to_string())
}
