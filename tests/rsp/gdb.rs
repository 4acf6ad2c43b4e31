//! Stock gdb, as a person drives it.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use corestub::rsp::Options;

use super::synthetic::{HOLE, MEMORY, PID, Synthetic, word_at};
use super::{serve, until};
use crate::support::program::{Signal, have_gdb, patient, remote_timeout, signal};

/// Runs gdb on commands; what it printed, both streams.
pub fn gdb(commands: &[&str]) -> String {
    let mut gdb = patient("gdb");
    gdb.args(["-nx", "-batch", "-iex", &remote_timeout(), "-ex", "set debuginfod enabled off"]);
    for command in commands {
        gdb.args(["-ex", command]);
    }
    let output = gdb.stdin(Stdio::null()).output().unwrap();
    let text = [output.stdout, output.stderr].map(|t| String::from_utf8_lossy(&t).into_owned()).concat();
    assert!(output.status.code().is_some_and(|c| c < 100), "gdb did not end by itself:\n{text}");
    text
}

/// Commands behind `target remote`.
fn remote(address: SocketAddr, commands: &[&str]) -> String {
    let connect = format!("target remote {address}");
    let all: Vec<&str> = std::iter::once(connect.as_str()).chain(commands.iter().copied()).collect();
    gdb(&all)
}

#[track_caller]
pub fn has(text: &str, wanted: &[&str]) {
    for wanted in wanted {
        assert!(text.contains(wanted), "no {wanted:?} in\n{text}");
    }
}

#[test]
fn a_person_connects_and_looks_around() {
    if !have_gdb() {
        return;
    }
    let address = serve(Synthetic::new(3), Options::default());
    let text = remote(
        address,
        &[
            "info threads",
            "thread",
            &format!("x/2gx {:#x}", MEMORY.start),
            &format!("x/2gx {:#x}", HOLE.start - 8),
            "monitor why",
            "monitor help",
            "p $rbx",
            "p $rax",
            "p $_siginfo",
            "info os",
            "info os made-up",
            "info inferiors",
            "info line made_up_function",
            "info sharedlibrary",
            "maintenance packet qC",
            "detach",
        ],
    );
    let id = |tid: u32| format!("Thread {PID}.{tid}");
    has(&text, &[&id(1), &id(2), &id(3), "\"kworker/0:1\"", "(pid 3 S)", "\"<bad>&\"name\".\" (pid 2 S)"]);
    has(&text, &[&format!("{:#018x}", word_at(MEMORY.start)), &format!("{:#018x}", word_at(HOLE.start - 8))]);
    has(&text, &[&format!("Cannot access memory at address {:#x}", HOLE.start)]);
    has(&text, &["is not mapped: its PTE", "a made-up target, thread Some(3)"]);
    has(&text, &["$1 = 3", "$2 = <unavailable>", "4711", "A table", "target:/virtual/program"]);
    has(&text, &["[Inferior 1 (process 5242880) detached]"]);
    assert!(!text.contains("warning: Can not parse"), "{text}");
}

#[test]
fn nothing_is_changed_and_nothing_runs() {
    if !have_gdb() {
        return;
    }
    let address = serve(Synthetic::new(3), Options::default());
    let addr = format!("{:#x}", MEMORY.start);
    let text = remote(
        address,
        &[
            &format!("set {{int}}{addr} = 1"),
            &format!("p {{int}}{addr} = 5"),
            "p $rbx = 7",
            "stepi",
            "continue",
            &format!("break *{addr}"),
            "continue",
            "info program",
            "jump *$pc",
            "delete",
            "stepi",
            "run",
            "p $rbx",
            &format!("x/gx {addr}"),
            "kill",
        ],
    );
    // Of what can be read it is not said that it cannot be accessed.
    has(&text, &["Writing to flash memory forbidden", "Could not write register \"rbx\""]);
    assert!(!text.contains("Cannot access memory") && !text.contains("Cannot insert"), "{text}");
    // `stepi` and `continue` without a breakpoint and with one.
    assert_eq!(text.matches("it cannot be resumed").count(), 5, "{text}");
    has(
        &text,
        &["this is a post-mortem dump; it cannot be resumed", &format!("{:#018x}", word_at(MEMORY.start))],
    );
    assert!(!text.contains("= 5\n") && !text.contains("= 7\n"), "a write was taken for done:\n{text}");
    has(&text, &["$1 = 3", "killed"]);
}

#[test]
fn a_process_is_attached_beside_the_kernel() {
    if !have_gdb() {
        return;
    }
    let address = serve(Synthetic::new(3), Options::default());
    let text = gdb(&[
        &format!("target extended-remote {address}"),
        "add-inferior",
        "inferior 2",
        "attach 78",
        "attach 77",
        "info threads",
        "info inferiors",
        "p $_siginfo",
        "info program",
        "inferior 1",
        "info threads",
        "inferior 2",
        "detach",
        "inferior 1",
        "p $rbx",
        "kill",
        "info inferiors",
        "attach 5242880",
        "p $rbx",
    ]);
    has(&text, &["Attaching to process 78 failed", "Thread 77.77", "\"init\"", "process 77", "SIGSEGV"]);
    has(&text, &["$2 = 1", "$3 = 3"]);
}

#[test]
fn connecting_again_finds_everything_in_place() {
    if !have_gdb() {
        return;
    }
    let address = serve(Synthetic::new(3), Options::default());
    let connect = format!("target remote {address}");
    let text = remote(
        address,
        &["disconnect", &connect, "thread 1", "p $rbx", "detach", &connect, "p $rbx", "monitor lines"],
    );
    has(&text, &["$1 = 1", "$2 = 3", "line 19999"]);
}

#[test]
fn fifty_thousand_threads() {
    if !have_gdb() {
        return;
    }
    let address = serve(Synthetic::new(50_000), Options::default());
    let text =
        remote(address, &["thread find task-49999", "p $_inferior_thread_count", "thread 50000", "p $rbx"]);
    has(&text, &["has target name 'task-49999'", "$2 = 50000"]);
}

/// gdb's user gives a command up with Ctrl-C: what is asked next must be
/// answered by its own reply, not by what is left of the command's output.
#[test]
fn ctrl_c_in_a_command_is_followed_by_right_answers() {
    if !have_gdb() {
        return;
    }
    for command in ["endless", "silent"] {
        let target = Synthetic::new(3);
        let (started, cancelled) = (Arc::clone(&target.started), Arc::clone(&target.cancelled));
        let address = serve(target, Options::default());
        let mut gdb = Command::new("gdb")
            .args(["-nx", "-q", "-ex", "set debuginfod enabled off", "-ex", "set pagination off"])
            .args(["-ex", "set confirm off", "-ex", &format!("target remote {address}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut input = gdb.stdin.take().unwrap();
        let mut output = gdb.stdout.take().unwrap();
        let reader = std::thread::spawn(move || {
            let mut text = Vec::new();
            output.read_to_end(&mut text).map(|_| String::from_utf8_lossy(&text).into_owned())
        });
        writeln!(input, "monitor {command}").unwrap();
        until("the command runs", || started.load(Ordering::SeqCst) > 0);
        signal(gdb.id(), Signal::INT).unwrap();
        writeln!(input, "x/gx {:#x}\nthread 2\np $rbx\npython print(gdb.execute(\"monitor help\", to_string=True))\ndetach\nquit", MEMORY.start).unwrap();
        drop(input);
        until("gdb ends", || gdb.try_wait().unwrap().is_some());
        let text = reader.join().unwrap().unwrap();
        let tail = text.get(text.len().saturating_sub(1500)..).unwrap_or(&text);
        has(tail, &[&format!("{:#018x}", word_at(MEMORY.start)), "$1 = 2", "thread Some(2)", "detached]"]);
        assert_eq!(cancelled.load(Ordering::SeqCst), 1, "{command}");
    }
}

#[test]
fn a_long_silence_is_borne() {
    if !have_gdb() {
        return;
    }
    let address = serve(Synthetic::new(3), Options::default());
    let text =
        remote(address, &["set remotetimeout 2", "monitor slow", "p $rbx", "monitor broken", "p $rbx"]);
    has(&text, &["step 3", "$1 = 3", "error: made-up failure", "$2 = 3"]);
}
