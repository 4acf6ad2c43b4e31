//! Single packets over a raw socket.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use corestub::rsp::Options;
use proptest::prelude::*;

use super::synthetic::{HOLE, MEMORY, PID, PROCESS, Synthetic, byte_at};
use super::{Client, hex, serve, unhex};
use crate::support::PATIENCE;

const GDB13: &str = "qSupported:multiprocess+;swbreak+;hwbreak+;qRelocInsn+;fork-events+;vfork-events+;exec-events+;\
                     vContSupported+;QThreadEvents+;no-resumed+;memory-tagging+;xmlRegisters=i386";

pub fn client(threads: u32) -> Client {
    Client::connect(serve(Synthetic::new(threads), Options::default()))
}

/// One that speaks as gdb 13 does.
fn gdb13(threads: u32) -> Client {
    let mut client = client(threads);
    client.ask(GDB13);
    client
}

/// A `qXfer` object, read as gdb reads it.
fn object(client: &mut Client, name: &str, annex: &str) -> Vec<u8> {
    let mut all: Vec<u8> = Vec::new();
    loop {
        let reply = client.ask_bytes(&format!("qXfer:{name}:read:{annex}:{:x},1000", all.len()));
        let (kind, data) = reply.split_first().unwrap();
        let mut bytes = data.iter();
        while let Some(&b) = bytes.next() {
            all.push(if b == b'}' { bytes.next().unwrap() ^ 0x20 } else { b });
        }
        match kind {
            b'l' => return all,
            b'm' => assert!(!data.is_empty()),
            _ => panic!("{}", reply.escape_ascii()),
        }
    }
}

#[test]
fn the_features_that_are_offered() {
    let mut gdb = client(3);
    insta::assert_snapshot!(gdb.ask(GDB13), @"PacketSize=10000;qXfer:features:read+;qXfer:threads:read+;qXfer:exec-file:read+;qXfer:auxv:read+;qXfer:siginfo:read+;qXfer:osdata:read+;binary-upload+;qEcho+;qXfer:memory-map:read+;qXfer:vmcoreinfo:read+;multiprocess+");
    let mut gdb16 = client(3);
    let features = format!("{GDB13};error-message+");
    assert!(gdb16.ask(&features).ends_with(";multiprocess+;error-message+"));
    let mut plain = client(3);
    let reply = plain.ask("qSupported");
    for absent in
        ["multiprocess", "error-message", "QStartNoAckMode", "vContSupported", "libraries", "memory-map"]
    {
        assert!(!reply.contains(absent), "{reply}");
    }
    assert_eq!(plain.ask("QStartNoAckMode"), "");
    assert_eq!(plain.ask("vMustReplyEmpty"), "");
    assert_eq!(plain.ask("vCont?"), "");
    assert_eq!(plain.ask("qAttached:500000"), "1");
}

#[test]
fn the_target_description() {
    let mut client = gdb13(3);
    let xml = String::from_utf8(object(&mut client, "features", "target.xml")).unwrap();
    insta::assert_snapshot!(xml);
    assert_eq!(client.ask("qXfer:features:read:other.xml:0,1000"), "E00");
}

#[test]
fn acks_stop_only_where_they_are_offered_to() {
    let options = Options { no_ack: true, ..Options::default() };
    let mut client = Client::connect(serve(Synthetic::new(3), options));
    assert!(client.ask("qSupported").ends_with(";QStartNoAckMode+"));
    assert_eq!(client.ask("QStartNoAckMode"), "OK");
    client.send("qC");
    assert_eq!(client.frame(), b"QC3");
}

#[test]
fn an_idle_interrupt_gets_no_reply() {
    let mut client = client(3);
    assert_eq!(client.ask("?"), "T00thread:3;");
    client.raw(b"\x03");
    assert!(client.silent());
    assert_eq!(client.ask("qC"), "QC3");
}

#[test]
fn malformed_packets_are_refused_and_the_session_goes_on() {
    let mut client = gdb13(3);
    for packet in [
        "m",
        "m,",
        "m1",
        "m1,",
        "mzz,4",
        "m10000000000000000,4",
        "m0,-1",
        "m0,0",
        "mffffffffffffffff,ffffffffffffffff",
        "x",
        "x1",
        "H",
        "Hg",
        "Hgz",
        "Hgp",
        "Hgp.",
        "Hgp1.",
        "Hx1",
        "Hg80000000",
        "Hgffffffffffffffff",
        "T",
        "Tz",
        "p",
        "pzz",
        "pffff",
        "pffffffffffffffff",
        "qXfer",
        "qXfer:features:read",
        "qXfer:features:read::0,10",
        "qXfer:features:read:target.xml:0",
        "qXfer:features:read:target.xml:,",
        "qXfer:features:read:a:b:0,10",
        "qXfer:features:write:target.xml:0:00",
        "qXfer:auxv:read:x:0,10",
        "qXfer:exec-file:read:zz:0,10",
        "qXfer:exec-file:read:12345:0,10",
        "qXfer:auxv:read::ffffffffffffffff,10",
        "qXfer:nothing:read::0,10",
        "qXfer:threads:read::10000000000000000,10",
        "qXfer:osdata:read:nothing:0,10",
        "qXfer:siginfo:read::0,10",
        "qRcmd,z",
        "qRcmd,616",
        "qRcmdx",
        "vFile:open:zz,0,0",
        "vFile:open:",
        "vFile:open",
        "vFile:pread:1,2",
        "vFile:fstat:",
        "vFile:close:ffffffffffffffff",
        "vFile:setfs:z",
        "vFile:nothing:1",
        "vFile:",
        "vFile",
        "vAttach;",
        "vAttach;z",
        "vAttach;1ffffffff",
        "vAttach;4e",
        "D;z1",
        "D1",
        "qThreadExtraInfo",
        "qThreadExtraInfo,z",
        "qGetTLSAddr:1",
        "qGetTLSAddr:",
        "qGetTLSAddr:p500000.1,0,0",
        "Z0,1",
        "z5,1,1",
        "Z0,z,1",
        "M0,1:00",
        "X0,1:a",
        "Gzz",
        "P0=zz",
        "\u{1}",
        "zzz",
        "t1",
        "qThreadExtraInfo,pz.1",
        "jThreadsInf",
        "Hgp-1.-z",
        "b",
        "bz",
        "vRunx",
        "!!",
        "??",
    ] {
        let reply = client.ask(packet);
        let refused = reply.is_empty() || reply.starts_with('E') || reply.starts_with("F-1,");
        assert!(refused, "{packet:?} -> {reply:?}");
    }
    assert_eq!(client.ask("Hgp0.0"), "OK");
    assert_eq!(client.ask("qC"), "QCp500000.3");
    assert_eq!(client.ask("D"), "OK");
    assert!(client.closed(), "D of everything ends the session");
}

#[test]
fn a_frame_without_end_is_refused() {
    let mut client = client(3);
    client.raw(b"$");
    for _ in 0..40 {
        client.raw(&[b'A'; 0x1_0000]);
    }
    client.raw(b"#00");
    assert_eq!(client.reply(), b"E01");
    assert_eq!(client.ask("qC"), "QC3");
}

#[test]
fn memory_is_read_as_far_as_it_goes() {
    let mut client = client(3);
    let wanted = |range: std::ops::Range<u64>| range.map(byte_at).collect::<Vec<u8>>();
    let at = HOLE.start - 3;
    assert_eq!(unhex(&client.ask(&format!("m{at:x},10"))), wanted(at..HOLE.start));
    assert_eq!(client.ask(&format!("m{:x},10", HOLE.start)), "E0e");
    assert_eq!(client.ask(&format!("x{:x},10", HOLE.start)), "E01");
    assert_eq!(client.ask("mffffffffffffffff,4"), "E0e");
    // Longer than a packet holds: as much as it does hold.
    let reply = client.ask(&format!("m{:x},100000", HOLE.end));
    assert!(reply.len() > 0xf000 && reply.len() <= 0x1_0000, "{:#x}", reply.len());
    assert_eq!(unhex(&reply), wanted(HOLE.end..HOLE.end + reply.len() as u64 / 2));

    let reply = client.ask_bytes(&format!("x{:x},200", HOLE.end));
    let mut data = Vec::new();
    let mut bytes = reply.strip_prefix(b"b").unwrap().iter();
    while let Some(&b) = bytes.next() {
        data.push(if b == b'}' { bytes.next().unwrap() ^ 0x20 } else { b });
    }
    assert_eq!(data, wanted(HOLE.end..HOLE.end + 0x200));
    assert_eq!(client.ask("x0,0"), "", "LLDB's probe");
}

#[test]
fn errors_carry_words_only_for_those_who_know_them() {
    let mut client = client(3);
    client.ask("qSupported:error-message+");
    let reply = client.ask(&format!("x{:x},10", HOLE.start));
    assert!(reply.starts_with("E.") && reply.contains("not mapped"), "{reply}");
    assert!(client.ask("M0,1:00").starts_with("E.this is a post-mortem dump"));
}

#[test]
fn registers_are_honest() {
    let mut client = client(3);
    let all = client.ask("g");
    assert_eq!(&all[..16], "xxxxxxxxxxxxxxxx");
    assert_eq!(&all[16..32], "0300000000000000");
    assert_eq!(client.ask("p0"), "xxxxxxxxxxxxxxxx");
    assert_eq!(client.ask("p1"), "0300000000000000");
    assert_eq!(client.ask("Hg2"), "OK");
    assert_eq!(client.ask("p1"), "0200000000000000");
    // gdb does not look at the refusal: what follows must not come from thread 2.
    assert_eq!(client.ask("Hg9"), "E01");
    assert_eq!(client.ask("g"), "E01");
    assert_eq!(client.ask(&format!("m{:x},8", MEMORY.start)), "E01");
    assert_eq!(client.ask("Hg0"), "OK");
    assert_eq!(client.ask("qC"), "QC3");
}

#[test]
fn nothing_changes_and_nothing_runs() {
    let mut client = gdb13(3);
    for packet in
        ["c", "s", "C05", "S05", "vCont;c", "vCont;s:p500000.1", "bc", "bs", "vRun;", "G00", "P0=00"]
    {
        assert!(client.ask(packet).starts_with("E.this is a post-mortem dump"), "{packet}");
    }
    for packet in ["M0,1:00", "X0,0:"] {
        assert_eq!(client.ask(packet), "E01", "{packet}");
    }
    // None of these is ever hit.
    for packet in ["Z0,0,1", "z0,0,1", "Z2,0,8", "Z0,1,1;X3,220027"] {
        assert_eq!(client.ask(packet), "OK", "{packet}");
    }
    let map = String::from_utf8(object(&mut client, "memory-map", "")).unwrap();
    assert_eq!(map.matches("type=\"flash\"").count(), 2, "{map}");
    // LLDB would drop the connection at an error.
    assert_eq!(client.ask("QThreadSuffixSupported"), "");
    assert_eq!(client.ask("c"), "T11thread:p500000.3;");
    assert_eq!(client.ask("Hg1"), "OK");
    assert_eq!(client.ask("Hc-1"), "OK");
    assert_eq!(client.ask("c"), "T11thread:p500000.3;");
    assert_eq!(client.ask("Hc2"), "OK");
    assert_eq!(client.ask("s"), "T11thread:p500000.2;");
    assert_eq!(client.ask("P0=00"), "E01");
    client.send("k");
    assert_eq!(client.reply(), b"X09");
    assert!(client.closed());
}

#[test]
fn every_thread_is_listed_in_pages_and_in_the_document() {
    let mut client = gdb13(50_000);
    let mut ids = Vec::new();
    let mut page = client.ask("qfThreadInfo");
    let mut pages = 0;
    while let Some(list) = page.strip_prefix('m') {
        assert!(page.len() <= 0x1_0000);
        ids.extend(list.split(',').map(str::to_owned));
        page = client.ask("qsThreadInfo");
        pages += 1;
    }
    assert_eq!(page, "l");
    assert!(pages > 10);
    assert_eq!(ids.len(), 50_000);
    assert_eq!((ids[0].as_str(), ids[49_999].as_str()), ("p500000.1", "p500000.c350"));

    let xml = String::from_utf8(object(&mut client, "threads", "")).unwrap();
    assert_eq!(xml.matches("<thread ").count(), 50_000);
    assert!(xml.contains(
        "<thread id=\"p500000.2\" core=\"2\" name=\"&lt;bad&gt;&amp;&quot;name&quot;.\">pid 2 S</thread>"
    ));
    assert_eq!(unhex(&client.ask("qThreadExtraInfo,p500000.c350")), b"task-50000 pid 50000 S");
    // gdb prints this as it comes: nothing of it may reach for the terminal.
    assert_eq!(unhex(&client.ask("qThreadExtraInfo,p500000.2")), b"<bad>&\"name\". pid 2 S");
    assert_eq!(client.ask("Tp500000.c350"), "OK");
    assert_eq!(client.ask("Tp500000.c351"), "E01");
}

#[test]
fn processes_come_and_go() {
    let mut client = gdb13(3);
    assert_eq!(client.ask("!"), "OK");
    assert_eq!(client.ask("vAttach;4e"), "E01");
    assert_eq!(client.ask("vAttach;4d"), "T0bthread:p4d.4d;");
    assert_eq!(client.ask("qC"), "QCp4d.4d");
    assert_eq!(client.ask("qOffsets"), "");
    let xml = String::from_utf8(object(&mut client, "features", "target.xml")).unwrap();
    assert!(xml.contains("GNU/Linux"));
    assert_eq!(object(&mut client, "siginfo", ""), [PROCESS as u8; 128]);
    assert_eq!(client.ask("qfThreadInfo"), "mp500000.1,p500000.2,p500000.3,p4d.4d");
    assert_eq!(object(&mut client, "threads", "").windows(8).filter(|w| w == b"<thread ").count(), 4);
    assert_eq!(client.ask("Hgp500000.2"), "OK");
    assert_eq!(client.ask("qOffsets"), format!("TextSeg={:x}", MEMORY.start));
    assert_eq!(client.ask("D;4d"), "OK");
    assert_eq!(client.ask("Hgp4d.4d"), "E01");
    assert_eq!(client.ask("vKill;500000"), "OK");
    assert_eq!(client.ask("?"), "W00");
    assert_eq!(client.ask("qfThreadInfo"), "l");
    assert_eq!(client.ask("g"), "E01");
    assert_eq!(client.ask("vAttach;500000"), "T00thread:p500000.3;");
    assert_eq!(object(&mut client, "threads", "").windows(8).filter(|w| w == b"<thread ").count(), 3);
    assert_eq!(client.ask("D"), "OK");
    assert_eq!(object(&mut client, "threads", "").windows(8).filter(|w| w == b"<thread ").count(), 0);
    assert_eq!(client.ask("vAttach;500000"), "T00thread:p500000.3;");
    assert_eq!(client.ask("p1"), "0300000000000000");
    assert_eq!(PID, 0x50_0000);
}

#[test]
fn tables_notes_and_thread_local_places() {
    let mut client = gdb13(3);
    assert!(object(&mut client, "osdata", "").starts_with(b"<osdata type=\"\">"));
    assert!(object(&mut client, "osdata", "made-up").windows(4).any(|w| w == b"4711"));
    assert_eq!(object(&mut client, "vmcoreinfo", ""), b"OSRELEASE=made-up\n");
    assert_eq!(object(&mut client, "exec-file", "500000"), b"/virtual/program");
    assert_eq!(object(&mut client, "exec-file", ""), b"/virtual/program");
    assert_eq!(client.ask("qGetTLSAddr:p500000.2,10,1000"), "2010");
    assert_eq!(client.ask("qGetTLSAddr:p500000.2,10,0"), "E01");
    let threads: serde_json::Value = {
        let reply = client.ask_bytes("jThreadsInfo");
        let mut json = Vec::new();
        let mut bytes = reply.iter();
        while let Some(&b) = bytes.next() {
            json.push(if b == b'}' { bytes.next().unwrap() ^ 0x20 } else { b });
        }
        serde_json::from_slice(&json).unwrap()
    };
    assert_eq!(threads[2]["name"], "kworker/0:1");
    assert_eq!(client.ask("qHostInfo"), "");
}

#[test]
fn files_are_read_and_nothing_else() {
    let mut client = gdb13(3);
    let open = |path: &str, flags: &str| format!("vFile:open:{},{flags},1c0", hex(path));
    assert_eq!(client.ask("vFile:setfs:0"), "F0");
    assert_eq!(client.ask("vFile:setfs:500000"), "F0");
    assert_eq!(client.ask(&open("just probing", "0")), "F-1,2");
    assert_eq!(client.ask(&open("/etc/passwd", "0")), "F-1,2");
    assert_eq!(client.ask(&open("/virtual/secret", "0")), "F-1,d");
    assert_eq!(client.ask(&open("/virtual/program", "1")), "F-1,1e");
    assert_eq!(client.ask(&open("/virtual/program", "602")), "F-1,1e");
    assert_eq!(client.ask(&open(&"a".repeat(5000), "0")), "F-1,5b");
    assert_eq!(client.ask(&open("/virtual/program", "40000000")), "F0");

    let stat = client.ask_bytes("vFile:fstat:0");
    let mut raw = Vec::new();
    let mut bytes = stat.strip_prefix(b"F40;").unwrap().iter();
    while let Some(&b) = bytes.next() {
        raw.push(if b == b'}' { bytes.next().unwrap() ^ 0x20 } else { b });
    }
    assert_eq!(raw.len(), 64);
    assert_eq!(raw[8..12], 0o100_444_u32.to_be_bytes());
    let size = u64::from_be_bytes(raw[28..36].try_into().unwrap());
    let first = client.ask_bytes("vFile:pread:0,4,0");
    assert_eq!(first, b"F4;\x7fELF");
    let all = client.ask_bytes("vFile:pread:0,ffffffff,0");
    let count = all[1..].split(|b| *b == b';').next().unwrap();
    assert_eq!(u64::from_str_radix(std::str::from_utf8(count).unwrap(), 16), Ok(size));
    assert_eq!(client.ask(&format!("vFile:pread:0,10,{size:x}")), "F0;");
    assert_eq!(client.ask("vFile:pread:0,10,ffffffffffffffff"), "F0;");
    assert_eq!(client.ask("vFile:pread:7,10,0"), "F-1,9");
    assert_eq!(client.ask("vFile:pwrite:0,0,abc"), "F-1,1e");
    assert_eq!(client.ask("vFile:unlink:61"), "F-1,1e");
    assert_eq!(client.ask("vFile:close:0"), "F0");
    assert_eq!(client.ask("vFile:close:0"), "F-1,9");
    assert_eq!(client.ask("vFile:fstat:0"), "F-1,9");
    assert_eq!(client.ask(&format!("vFile:readlink:{}", hex("/proc/77/exe"))), "F10;/virtual/program");
    assert_eq!(client.ask(&format!("vFile:readlink:{}", hex("/proc/78/exe"))), "F-1,2");
    // gdb keeps two files open for each module.
    for fd in 0..4096 {
        let reply = client.ask(&open("/virtual/program", "0"));
        assert_eq!(u32::from_str_radix(&reply[1..], 16), Ok(fd), "{reply}");
    }
    assert_eq!(client.ask(&open("/virtual/program", "0")), "F-1,18");
}

/// Writes `bytes`, and reads until the server has said all it has to say.
fn pour(address: std::net::SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reader = stream.try_clone().unwrap();
    let drain = std::thread::spawn(move || {
        let mut all = Vec::new();
        match reader.read_to_end(&mut all) {
            Ok(_) => true,
            Err(e) => e.kind() == std::io::ErrorKind::ConnectionReset,
        }
    });
    // The server may hang up first.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    assert!(drain.join().unwrap(), "the session did not end");
}

fn packet() -> impl Strategy<Value = Vec<u8>> {
    let starts = prop::sample::select(vec![
        "",
        "m",
        "x",
        "g",
        "p",
        "H",
        "Hg",
        "Hgp",
        "T",
        "?",
        "!",
        "D",
        "c",
        "vCont;",
        "vFile:open:",
        "vFile:pread:",
        "vFile:",
        "vFile:readlink:",
        "vFile:fstat:",
        "vFile:close:",
        "vAttach;",
        "vKill;",
        "qSupported:",
        "qXfer:features:read:target.xml:",
        "qXfer:threads:read::",
        "qXfer:osdata:read:",
        "qXfer:exec-file:read:",
        "qXfer:auxv:read::",
        "qXfer:",
        "qRcmd,",
        "qThreadExtraInfo,",
        "qGetTLSAddr:",
        "qfThreadInfo",
        "qsThreadInfo",
        "qC",
        "qOffsets",
        "jThreadsInfo",
        "QStartNoAckMode",
        "P",
        "G",
        "M",
        "X",
        "Z0,",
        "qAttached",
        "k",
    ]);
    (starts, "[0-9a-fp.,:;+=z#$}-]{0,20}").prop_map(|(start, rest)| {
        let body = format!("{start}{rest}");
        let sum = body.bytes().fold(0u8, u8::wrapping_add);
        format!("${body}#{sum:02x}").into_bytes()
    })
}

#[test]
fn no_bytes_break_the_server() {
    let address = serve(Synthetic::new(100), Options::default());
    let mut runner =
        proptest::test_runner::TestRunner::new(ProptestConfig { cases: 200, ..ProptestConfig::default() });
    let packets = prop::collection::vec(packet(), 1..20).prop_map(|p| p.concat());
    let noise = prop::collection::vec(any::<u8>(), 0..2000);
    runner
        .run(&prop_oneof![packets, noise], |bytes| {
            pour(address, &bytes);
            Ok(())
        })
        .unwrap();
    assert_eq!(Client::connect(address).ask("qC"), "QC3");
}
