//! How a server treats strangers, those who stay silent, and its own end.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use corestub::rsp::Options;

use super::gdb::{gdb, has};
use super::places::ask;
use super::synthetic::Synthetic;
use super::{Client, serve, until};
use crate::support::fixtures::fixture;
use crate::support::program::{Server, Signal, corestub, have_gdb, output};

#[test]
fn only_so_many_clients() {
    let address = serve(Synthetic::new(3), Options { max_clients: 3, ..Options::default() });
    let mut clients: Vec<Client> = (0..3).map(|_| Client::connect(address)).collect();
    for client in &mut clients {
        assert_eq!(client.ask("qC"), "QC3");
    }
    let mut refused = Client::connect(address);
    let why = refused.ask("qSupported:multiprocess+");
    assert!(why.starts_with("E.corestub serves 3 clients already"), "{why}");
    assert_eq!(refused.ask("vMustReplyEmpty"), why);
    assert!(refused.closed(), "the fourth was let in");
    if have_gdb() {
        let text = gdb(&[&format!("target remote {address}")]);
        has(&text, &["corestub serves 3 clients already (--max-clients); try again later"]);
    }
    // Strangers that say nothing cost nobody his place, nor keep the next from hearing why.
    let silent: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(address).unwrap()).collect();
    assert_eq!(clients[0].ask("qC"), "QC3");
    drop(silent);
    clients.truncate(1);
    until("a place becomes free", || {
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"$qC#b4").unwrap();
        let mut reply = [0; 6];
        client.read_exact(&mut reply).is_ok() && &reply == b"+$QC3#"
    });
}

#[test]
fn who_asks_nothing_loses_the_place() {
    let idle_timeout = Some(Duration::from_millis(600));
    let address = serve(Synthetic::new(3), Options { idle_timeout, ..Options::default() });
    let mut silent = Client::connect(address);
    assert_eq!(silent.ask("qC"), "QC3");
    let mut asking = Client::connect(address);
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1500) {
        assert_eq!(asking.ask("qC"), "QC3");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(silent.closed());
    assert_eq!(asking.ask("qC"), "QC3");
}

/// So it is where no socket brings a timeout.
#[test]
fn who_asks_nothing_through_a_pipe_is_left_too() {
    let mut server = corestub();
    server.args(["serve", "--stdio", "--idle-timeout", "1"]).arg(fixture("plain.core"));
    let mut server = server.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut questions = server.stdin.take().unwrap();
    questions.write_all(b"$qAttached#8f").unwrap();
    let mut answers = String::new();
    server.stdout.take().unwrap().read_to_string(&mut answers).unwrap();
    assert_eq!(answers, "+$1#31");
    assert!(server.wait().unwrap().success());
    drop(questions);
}

/// `corestub serve` with a shell's words before it.
fn serve_after(before: &str, options: &[&str], stdin: Stdio) -> Server {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("{before} exec \"$@\"")).arg("sh");
    shell.arg(corestub().get_program()).arg("serve").args(options).arg(fixture("plain.core"));
    Server::spawn(shell.stdin(stdin).stderr(Stdio::piped())).unwrap()
}

#[test]
fn a_unix_socket_is_its_owners_alone_and_gone_after_the_end() {
    for (umask, signal) in [("000", Signal::TERM), ("377", Signal::INT)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gdb.sock");
        let server =
            serve_after(&format!("umask {umask};"), &["--unix", path.to_str().unwrap()], Stdio::null());
        assert_eq!(Path::new(&server.address), path);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600, "umask {umask}");
        let mut client = ask(&path, b"$qAttached#8f", b"+$1#31");
        let (well, said) = server.end(signal);
        assert!(well && said.is_empty(), "{signal:?}: {said}");
        assert!(!path.exists(), "{signal:?}");
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "{signal:?}");
    }
}

#[test]
fn other_machines_are_let_in_on_request_only() {
    let refused = corestub().args(["serve", "-l", "0.0.0.0:0"]).arg(fixture("plain.core")).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    has(&String::from_utf8_lossy(&refused.stderr), &["--allow-remote"]);
    let server = serve_after("", &["-l", "0.0.0.0:0", "--allow-remote"], Stdio::null());
    let (well, said) = server.end(Signal::TERM);
    assert!(well);
    has(&said, &["warning: 0.0.0.0:", "who reaches it reads the dump"]);
}

#[test]
fn a_socket_that_was_passed_is_served() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let pass = "exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$;";
    let server = serve_after(pass, &["-l", "fd://"], Stdio::from(OwnedFd::from(listener)));
    assert_eq!(server.address, address.to_string());
    assert_eq!(Client::connect(address).ask("qAttached"), "1");
    assert!(server.end(Signal::TERM).0);

    let none = output(corestub().args(["serve", "-l", "fd://"]).arg(fixture("plain.core"))).unwrap_err();
    has(&none, &["LISTEN_FDS", "systemd-socket-activate"]);
}

#[test]
fn the_server_is_in_a_sandbox_unless_told_otherwise() {
    for (options, mode) in [(&["-l", "0"][..], "2"), (&["-l", "0", "--no-sandbox"], "0")] {
        let server = serve_after("unset DEBUGINFOD_URLS;", options, Stdio::null());
        assert_eq!(server.status("Seccomp").as_deref(), Some(mode), "{options:?}");
    }
}
