//! LLDB, where it is installed.

use std::io::{Read, Write};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use corestub::rsp::Options;

use super::gdb::has;
use super::synthetic::{MEMORY, Synthetic};
use super::{serve, until};
use crate::support::PATIENCE;
use crate::support::program::{lldb, patient};

#[test]
fn lldb_looks_around_and_cannot_go_on() {
    let Some(lldb) = lldb() else { return };
    let address = serve(Synthetic::new(5), Options::default());
    let packets = format!("settings set plugin.process.gdb-remote.packet-timeout {}", PATIENCE.as_secs());
    // Not `-o`: with that LLDB ends at the first stop by a signal.
    let commands = [
        packets.as_str(),
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
    let mut child = patient(lldb)
        .args(["-x", "--no-use-colors"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let said = Arc::new(Mutex::new(Vec::new()));
    let reader = std::thread::spawn({
        let said = Arc::clone(&said);
        move || {
            let mut some = [0; 4096];
            while let Ok(n @ 1..) = stdout.read(&mut some) {
                said.lock().unwrap().extend_from_slice(&some[..n]);
            }
        }
    });
    let said = || String::from_utf8_lossy(&said.lock().unwrap()).into_owned();
    let mut stops = 0;
    for command in commands {
        writeln!(stdin, "{command}").unwrap();
        // LLDB does not wait for a stop by itself.
        if command.starts_with("gdb-remote") {
            until("the first stop", || said().contains(" stopped\n"));
        } else if matches!(command, "thread step-inst" | "continue") {
            stops += 1;
            until("a stop", || said().matches("stop reason = ").count() == stops);
        }
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    reader.join().unwrap();
    let text = said() + &String::from_utf8_lossy(&output.stderr);
    has(&text, &["tid = 0x0003", "name = 'task-5'", "0x0706050403020100", "made-up target"]);
    has(&text, &["memory write failed", "rbx = 0x0000000000000005", "signal SIGSTOP", "detached"]);
    has(&text, &["rbx = 0x0000000000000002", "rip = 0xffff800000000120"]);
    assert!(!text.contains("lost connection"), "{text}");
}
