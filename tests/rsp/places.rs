//! Where clients connect, and what happens when they cannot.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use corestub::rsp::{Endpoint, Listener, Options};

use super::synthetic::Synthetic;
use crate::support::PATIENCE;
use crate::support::program::have_gdb;

fn once() -> Options {
    Options { once: true, ..Options::default() }
}

#[test]
fn a_taken_port_is_told() {
    let first = Listener::bind(&Endpoint::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
    let taken = Endpoint::Tcp(first.local().to_str().unwrap().parse().unwrap());
    let error = Listener::bind(&taken).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(first.local().to_str().unwrap()) && text.contains("port 0 for a free one"),
        "{text}"
    );
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("in use"));
}

/// One question over a Unix socket, as the bytes that go and come.
pub fn ask(path: &Path, question: &[u8], answer: &[u8]) -> UnixStream {
    let mut client = UnixStream::connect(path).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(question).unwrap();
    let mut reply = vec![0; answer.len()];
    client.read_exact(&mut reply).unwrap();
    assert_eq!(reply, answer);
    client
}

#[test]
fn a_unix_socket_is_served_once_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("corestub.sock");
    let endpoint = Endpoint::Unix(path.clone());
    let listener = Listener::bind(&endpoint).unwrap();
    assert_eq!(listener.local(), path);
    let text = Listener::bind(&endpoint).unwrap_err().to_string();
    assert!(text.contains("another server listens there"), "{text}");
    let server = std::thread::spawn(move || listener.serve(Arc::new(Synthetic::new(3)), &once()));
    // The bind that was refused above connected once: it does not count.
    ask(&path, b"$qC#b4", b"+$QC3#c7");
    server.join().unwrap().unwrap();
    assert!(!path.exists());
}

#[test]
fn the_socket_of_a_dead_server_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("corestub.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let listener = Listener::bind(&Endpoint::Unix(path.clone())).unwrap();
    std::thread::spawn(move || listener.serve(Arc::new(Synthetic::new(3)), &once()));
    ask(&path, b"$qC#b4", b"+$QC3#c7");

    let file = folder.path().join("file");
    std::fs::write(&file, "not a socket").unwrap();
    let text = Listener::bind(&Endpoint::Unix(file.clone())).unwrap_err().to_string();
    assert!(text.contains("the path is taken"), "{text}");
    assert_eq!(std::fs::read(&file).unwrap(), b"not a socket", "a file was removed");
    let text = Listener::bind(&Endpoint::Unix("/nonexistent/socket".into())).unwrap_err().to_string();
    assert!(text.contains("the folder must exist"), "{text}");
}

/// The server of the next test, in a process whose stdin and stdout are the client.
#[test]
#[ignore = "not a test of its own: the next one runs it"]
fn stdio_server() {
    let listener = Listener::bind(&Endpoint::Stdio).unwrap();
    listener.serve(Arc::new(Synthetic::new(3)), &Options::default()).unwrap();
}

#[test]
fn the_client_on_stdin_and_stdout() {
    let program = std::env::current_exe().unwrap();
    let mut child = Command::new(&program)
        .args(["--ignored", "--exact", "--nocapture", "rsp::places::stdio_server"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"$qC#b4$D#44").unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("+$QC3#c7+$OK#9a"), "{text}");
    assert!(output.status.success());

    if have_gdb() {
        let text = super::gdb::gdb(&[
            &format!(
                "target remote | {} --ignored --exact --nocapture rsp::places::stdio_server",
                program.display()
            ),
            "p $rbx",
            "monitor help",
            "detach",
        ]);
        super::gdb::has(&text, &["$1 = 3", "made-up target", "detached"]);
    }
}
