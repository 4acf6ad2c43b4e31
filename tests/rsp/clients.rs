//! Several clients at once, and commands that take long.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use corestub::rsp::Options;

use super::synthetic::Synthetic;
use super::{Client, hex, serve, unhex, until};

#[test]
fn clients_do_not_disturb_each_other() {
    let address = serve(Synthetic::new(100), Options::default());
    let mut one = Client::connect(address);
    let mut two = Client::connect(address);
    let mut gone = Client::connect(address);
    assert_eq!(one.ask("Hg1"), "OK");
    assert_eq!(two.ask("Hg2"), "OK");
    gone.send("Hg5");
    drop(gone);
    let mut noise = TcpStream::connect(address).unwrap();
    noise.write_all(&[0x80; 100_000]).unwrap();
    one.send(&format!("qRcmd,{}", hex("silent")));
    assert_eq!(two.ask("p1"), "0200000000000000");
    assert_eq!(one.byte(), b'+');
    one.raw(b"\x03");
    assert_eq!(one.frame(), b"OK");
    one.raw(b"+");
    assert_eq!(one.ask("p1"), "0100000000000000");
}

#[test]
fn a_new_packet_ends_a_running_command_without_reply() {
    for command in ["silent", "endless"] {
        let target = Synthetic::new(3);
        let (started, cancelled) = (Arc::clone(&target.started), Arc::clone(&target.cancelled));
        let mut client = Client::connect(serve(target, Options::default()));
        client.send(&format!("qRcmd,{}", hex(command)));
        assert_eq!(client.byte(), b'+', "{command}");
        match command {
            "endless" => assert_eq!(client.stream.peek(&mut [0]).unwrap(), 1),
            _ => until("the command runs", || started.load(Ordering::SeqCst) == 1),
        }
        // As gdb does after Ctrl-C: its next packet, and it skips whatever comes
        // until that is acknowledged.
        client.send("qC");
        let mut skipped = 0;
        loop {
            match client.byte() {
                b'+' => break,
                b'$' => skipped += 1,
                b => assert!(b != b'K', "{command}: the command's OK was sent"),
            }
        }
        assert_eq!(client.frame(), b"QC3", "{command}");
        assert_eq!(cancelled.load(Ordering::SeqCst), 1, "{command}");
        assert_eq!(skipped > 0, command == "endless");
        client.raw(b"+");
        assert_eq!(client.ask("qC"), "QC3");
    }
}

#[test]
fn a_client_that_leaves_ends_its_command() {
    let target = Synthetic::new(3);
    let cancelled = Arc::clone(&target.cancelled);
    let address = serve(target, Options::default());
    for command in ["silent", "endless"] {
        let mut client = Client::connect(address);
        client.send(&format!("qRcmd,{}", hex(command)));
        assert_eq!(client.byte(), b'+');
    }
    until("the commands are given up", || cancelled.load(Ordering::SeqCst) == 2);
}

#[test]
fn output_of_a_command_comes_while_it_runs() {
    let target = Synthetic::new(3);
    let go_on = Arc::clone(&target.go_on);
    let mut client = Client::connect(serve(target, Options::default()));
    client.send(&format!("qRcmd,{}", hex("waits")));
    assert_eq!(client.byte(), b'+');
    let text = |frame: &[u8]| unhex(std::str::from_utf8(&frame[1..]).unwrap());
    assert_eq!(text(&client.frame()), b"before\n");
    go_on.store(true, Ordering::SeqCst);
    assert_eq!(text(&client.frame()), b"after\n");
    assert_eq!(client.frame(), b"OK");

    client.raw(b"+");
    client.send(&format!("qRcmd,{}", hex("lines")));
    assert_eq!(client.byte(), b'+');
    let mut text = String::new();
    loop {
        let frame = client.frame();
        assert!(frame.len() <= 0x1_0000);
        match frame.as_slice() {
            b"OK" => break,
            output => {
                text.push_str(&String::from_utf8(unhex(std::str::from_utf8(&output[1..]).unwrap())).unwrap())
            }
        }
    }
    assert_eq!(text.lines().count(), 20_000);
}
