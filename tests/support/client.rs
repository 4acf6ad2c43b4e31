//! A client of the protocol that shares no line with the server: what gdb would
//! send to read memory, without gdb's caches.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;

use super::PATIENCE;

pub struct Client {
    from: BufReader<TcpStream>,
    to: TcpStream,
}

impl Client {
    pub fn connect(address: &str) -> Self {
        let to = TcpStream::connect(address).unwrap();
        to.set_nodelay(true).unwrap();
        to.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { from: BufReader::new(to.try_clone().unwrap()), to }
    }

    fn byte(&mut self) -> u8 {
        let mut byte = [0];
        self.from.read_exact(&mut byte).unwrap();
        byte[0]
    }

    /// One packet and its reply.
    pub fn ask(&mut self, body: &str) -> String {
        let sum = body.bytes().fold(0u8, u8::wrapping_add);
        self.to.write_all(format!("${body}#{sum:02x}").as_bytes()).unwrap();
        assert_eq!(self.byte(), b'+', "no ack for {body}");
        self.reply()
    }

    fn reply(&mut self) -> String {
        assert_eq!(self.byte(), b'$');
        let mut reply = Vec::new();
        loop {
            match self.byte() {
                b'#' => break,
                byte => reply.push(byte),
            }
        }
        self.byte();
        self.byte();
        self.to.write_all(b"+").unwrap();
        String::from_utf8(reply).unwrap()
    }

    /// What a `monitor` command prints.
    pub fn monitor(&mut self, line: &str) -> String {
        let line: String = line.bytes().map(|b| format!("{b:02x}")).collect();
        let mut reply = self.ask(&format!("qRcmd,{line}"));
        let mut text = Vec::new();
        while let Some(hex) = reply.strip_prefix('O').filter(|rest| *rest != "K") {
            let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            text.extend((0..hex.len()).step_by(2).map(byte));
            reply = self.reply();
        }
        assert_eq!(reply, "OK");
        String::from_utf8(text).unwrap()
    }

    /// Reads memory; as hex, as far as it goes.
    pub fn read(&mut self, address: u64, size: usize) -> String {
        let reply = self.ask(&format!("m{address:x},{size:x}"));
        if reply.starts_with('E') { String::new() } else { reply }
    }

    /// A whole document, `threads:read:` say.
    pub fn document(&mut self, name: &str) -> String {
        let mut all = String::new();
        loop {
            let reply = self.ask(&format!("qXfer:{name}:{:x},1000", all.len()));
            let Some(part) = reply.strip_prefix(['m', 'l']) else { return reply };
            all += &unescaped(part);
            if reply.starts_with('l') {
                return all;
            }
        }
    }
}

/// What `}` hides: the byte behind it, with one bit turned.
fn unescaped(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        out.push(if byte == b'}' { bytes.next().unwrap() ^ 0x20 } else { byte });
    }
    String::from_utf8(out).unwrap()
}
