//! A client whose packets are well-formed up to a point: a server of a real core answers
//! it, and then the next one.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use corestub::rsp::{Endpoint, Listener};
use corestub::session::Shown;
use corestub::snapshot::{Options, Snapshot};

/// Packets of one input.
const PACKETS: usize = 64;
/// How a packet begins. `*` stands for bytes of the input, `#` for a number, `@` for text in hex.
const FORMS: [&str; 48] = [
    "*",
    "?",
    "g",
    "p#",
    "m#,#",
    "m7ff#,#",
    "x#,#",
    "Hg#",
    "Hgp#.#",
    "Hc#",
    "T#",
    "D",
    "D;#",
    "k",
    "c",
    "s",
    "vCont;c:#",
    "vCont?",
    "M#,#:*",
    "X#,#:*",
    "G*",
    "P#=*",
    "Z#,#,#",
    "z0,#,#",
    "vRun;@",
    "vKill;#",
    "vAttach;#",
    "qSupported:multiprocess+;*",
    "qXfer:features:read:target.xml:#,#",
    "qXfer:threads:read::#,#",
    "qXfer:exec-file:read:#:#,#",
    "qXfer:auxv:read::#,#",
    "qXfer:siginfo:read::#,#",
    "qXfer:libraries-svr4:read::#,#",
    "qXfer:osdata:read:*:#,#",
    "qXfer:*:read:*:#,#",
    "vFile:open:@,#,#",
    "vFile:pread:#,#,#",
    "vFile:close:#",
    "vFile:fstat:#",
    "vFile:readlink:@",
    "vFile:*",
    "qRcmd,@",
    "qThreadExtraInfo,#",
    "qGetTLSAddr:#,#,#",
    "qfThreadInfo",
    "qsThreadInfo",
    "j*",
];
/// Commands that a client may send; the rest of the text is of the input.
const COMMANDS: [&str; 8] = ["", "help ", "sys ", "bt ", "rd ", "why ", "threads ", "sym "];

pub fn run(bytes: &[u8]) {
    let sent = conversation(bytes);
    let mut client = connect();
    let mut reader = client.try_clone().expect("a descriptor");
    let drained = std::thread::spawn(move || reader.read_to_end(&mut Vec::new()));
    // The server may end the session at any of them.
    let _ = client.write_all(&sent);
    let _ = client.shutdown(Shutdown::Write);
    drained.join().expect("no panic").expect("the server hangs");
    // It goes on.
    let mut next = connect();
    next.write_all(b"$qAttached#8f").expect("the server");
    let mut reply = [0; 6];
    next.read_exact(&mut reply).expect("the server");
    assert_eq!(&reply, b"+$1#31");
}

fn connect() -> UnixStream {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    let place = PLACE.get_or_init(|| {
        let place = super::scratch("socket");
        let core = super::fixture_file("plain.core");
        let mut options = Options::default();
        options.process.sysroot = Some("/nonexistent".into());
        options.process.debug_dirs = vec!["/nonexistent".into()];
        let inferior = Snapshot::open(&[core], options).expect("the fixture").inferior(Shown::Tasks);
        let listener = Listener::bind(&Endpoint::Unix(place.clone())).expect("a socket");
        std::thread::spawn(move || listener.serve(inferior, &corestub::rsp::Options::default()));
        place
    });
    let client = UnixStream::connect(place).expect("the server");
    client.set_read_timeout(Some(Duration::from_secs(60))).expect("a time");
    client
}

/// What the client sends.
fn conversation(mut bytes: &[u8]) -> Vec<u8> {
    let mut sent = Vec::new();
    for _ in 0..PACKETS {
        let Some((&[form, frame], rest)) = bytes.split_first_chunk() else { break };
        bytes = rest;
        if frame == 0xff {
            // Noise, a broken frame, an interrupt.
            sent.extend(take(&mut bytes, usize::from(form % 32)));
            continue;
        }
        let packet = packet(FORMS[usize::from(form) % FORMS.len()], &mut bytes);
        // gdb says that it has the last reply.
        sent.extend([b'+', b'$']);
        let sum = packet.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        sent.extend(packet);
        let sum = if frame == 0xfe { sum.wrapping_add(1) } else { sum };
        sent.extend(format!("#{sum:02x}").bytes());
    }
    sent
}

fn packet(form: &str, bytes: &mut &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    for part in form.bytes() {
        match part {
            b'#' => {
                let [len] = take(bytes, 1)[..] else { continue };
                let number = take(bytes, usize::from(len % 9));
                let number = number.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
                packet.extend(
                    if len & 0x80 == 0 { format!("{number:x}") } else { format!("-{number:x}") }.bytes(),
                );
            }
            b'@' => {
                let [which, len] = take(bytes, 2)[..] else { continue };
                let text = [
                    COMMANDS[usize::from(which) % COMMANDS.len()].as_bytes(),
                    &take(bytes, usize::from(len % 64)),
                ]
                .concat();
                packet.extend(text.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()));
            }
            b'*' => {
                let [len] = take(bytes, 1)[..] else { continue };
                packet.extend(take(bytes, usize::from(len)));
            }
            byte => packet.push(byte),
        }
    }
    packet
}

fn take(bytes: &mut &[u8], len: usize) -> Vec<u8> {
    let (taken, rest) = bytes.split_at(len.min(bytes.len()));
    *bytes = rest;
    taken.to_vec()
}

/// Each form once, and gdb's first words.
pub fn seeds() -> Vec<Vec<u8>> {
    let forms = (0..FORMS.len() as u8).map(|form| vec![form, 0, 3, 1, 0x40, 0, 2, 2, 8, 1, 0x7f]);
    forms.chain([vec![27, 0, 4, b'a', b'+', b';', b'b', 1, 0, 2, 0, 28, 0, 1, 0, 2, 0xff, 0xff]]).collect()
}
