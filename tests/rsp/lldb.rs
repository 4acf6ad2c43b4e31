//! LLDB, where it is installed.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use corestub::rsp::Options;

use super::gdb::has;
use super::serve;
use super::synthetic::{MEMORY, Synthetic};

#[test]
fn lldb_looks_around_and_cannot_go_on() {
    let runs = |name: &&str| {
        let mut lldb = Command::new(name);
        lldb.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
    };
    let Some(lldb) = ["lldb", "lldb-14"].into_iter().find(runs) else {
        eprintln!("skipped: no lldb");
        return;
    };
    let address = serve(Synthetic::new(5), Options::default());
    let start = Instant::now();
    // Not `-o`: with that LLDB ends at the first stop by a signal.
    let commands = [
        &format!("gdb-remote {address}"),
        "thread list",
        &format!("memory read -f x -s 8 -c 1 {:#x}", MEMORY.start),
        "process plugin packet monitor help",
        "thread select 5",
        "register read rbx",
        "thread step-inst",
        "continue",
        "thread select 3",
        "register read rbx rip",
        &format!("memory write {:#x} 1", MEMORY.start),
        "detach",
        "quit",
    ];
    let mut child = Command::new("timeout")
        .args(["-k", "5", "60", lldb, "-x", "--no-use-colors"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for command in commands {
        writeln!(stdin, "{command}").unwrap();
        // LLDB does not wait for a stop by itself.
        if matches!(command, "thread step-inst" | "continue") || command.starts_with("gdb-remote") {
            std::thread::sleep(Duration::from_secs(3));
        }
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].map(|t| String::from_utf8_lossy(&t).into_owned()).concat();
    has(&text, &["tid = 0x0003", "name = 'task-5'", "0x0706050403020100", "made-up target"]);
    has(&text, &["memory write failed", "rbx = 0x0000000000000005", "signal SIGSTOP", "detached"]);
    has(&text, &["rbx = 0x0000000000000002", "rip = 0xffff800000000120"]);
    assert!(!text.contains("lost connection"), "{text}");
    assert!(start.elapsed() < Duration::from_secs(50), "{text}");
}
