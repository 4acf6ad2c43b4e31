//! A process of a vmcore in gdb (`attach PID`): its `/proc` files against the guest's own,
//! a core made of it, and that nothing a person types there ends gdb.

use std::path::{Path, PathBuf};

use crate::support::dumps::{self, Dump, each};
use crate::support::program::{Gdb, Server, expect, have_gdb};

/// The guest's record of its test program: the dump was made while it ran.
struct Guest {
    pid: u32,
    /// Where the program put words: what, address, text.
    words: Vec<(String, String, String)>,
    oracle: PathBuf,
}

fn guest(dump: &Dump) -> Option<Guest> {
    let oracle = dump.path.with_file_name("oracle");
    let said = std::fs::read_to_string(oracle.join("mtprog.txt")).ok()?;
    let pid = said.lines().find_map(|l| l.strip_prefix("pid ")?.trim().parse().ok())?;
    let word = |l: &str| {
        let mut words = l.strip_prefix("addr ")?.split(' ').map(str::to_owned);
        Some((words.next()?, words.next()?, words.next().filter(|t| t.starts_with("LAB-"))?))
    };
    let words = said.lines().filter_map(word).collect();
    Some(Guest { pid, words, oracle })
}

/// What the kernel itself said in `/proc/PID/maps` stands there byte by byte, and
/// a core that gdb makes has the threads, and the memory that the dump has, and no other.
#[test]
fn a_core_of_an_attached_process_is_whole() {
    if !have_gdb() {
        return;
    }
    each("gcore", &dumps::of_stopped_guests(), |dump| {
        let Some(guest) = guest(dump) else { return Ok(false) };
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name).display().to_string();
        let server = Server::start(&dump.path, &[])?;
        let pid = guest.pid;
        let said = Gdb::new(None)
            .attach(&server, pid)
            .ex("info proc")
            .ex(&format!("remote get /proc/{pid}/maps {}", file("maps")))
            .ex(&format!("gcore {}", file("core")))
            .run()?;
        expect(&said, &["cmdline = 'mtprog'", "cwd = '/'", "exe = '/usr/bin/mtprog'", "Saved corefile"])?;
        let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
        let (ours, theirs) = (read(&folder.path().join("maps")), read(&guest.oracle.join("mtprog.maps")));
        if ours != theirs || theirs.lines().count() < 30 {
            return Err(format!("/proc/{pid}/maps is\n{ours}and was\n{theirs}"));
        }
        let mut gdb = Gdb::new(None).ex(&format!("core-file {}", file("core"))).ex("info threads");
        for (_, at, _) in &guest.words {
            gdb = gdb.ex(&format!("x/s {at}"));
        }
        let said = gdb.run()?;
        let threads = said.lines().filter(|l| l.contains("(LWP ") || l.contains("LWP ")).count();
        if threads < 10 {
            return Err(format!("{threads} threads:\n{said}"));
        }
        for (what, at, text) in &guest.words {
            match what.as_str() {
                // It was swapped out: the dump does not hold it, nor does the core.
                "swapped" => expect(&said, &[&format!("Cannot access memory at address {at}")])?,
                _ => expect(&said, &[text])?,
            }
        }
        Ok(true)
    });
}

/// All that was seen to end gdb, and what is next to it.
const TYPED: [&str; 44] = [
    "info proc all",
    "info auxv",
    "info files",
    "info sharedlibrary",
    "info signals 11",
    "info os processes",
    "info threads",
    "info inferiors",
    "info frame",
    "info registers",
    "info all-registers rip",
    "thread apply all bt 2",
    "p $_siginfo",
    "p $_exitcode",
    "find 0, +100, 1",
    "x/i $pc",
    "call (int)0",
    "continue",
    "stepi",
    "until",
    "finish",
    "jump *0",
    "break *0x1000",
    "watch *(int*)0x1000",
    "tbreak *0x2000",
    "catch syscall",
    "record",
    "checkpoint",
    "signal 0",
    "detach",
    "attach 2",
    "attach 999999",
    "attach 0",
    "attach 5242880",
    "attach 1",
    "attach 1",
    "kill",
    "run",
    "inferior 1",
    "generate-core-file /dev/null",
    "kill",
    "disconnect",
    "info threads",
    "info inferiors",
];

#[test]
fn nothing_typed_in_an_attached_process_ends_gdb() {
    if !have_gdb() {
        return;
    }
    let dumps: Vec<_> = dumps::one_of_each().into_iter().take(1).collect();
    each("walk", &dumps, |dump| {
        let server = Server::start(&dump.path, &[])?;
        let folder = tempfile::tempdir().unwrap();
        let core = format!("gcore {}", folder.path().join("core").display());
        let commands = [core.as_str()].into_iter().chain(TYPED);
        let gdb = Gdb::new(None).attach(&server, 1).ex("set confirm off");
        let said = commands.fold(gdb, |gdb, command| gdb.ex(command)).ex("echo still alive\\n").run()?;
        expect(&said, &["still alive"]).map(|()| true)
    });
}
