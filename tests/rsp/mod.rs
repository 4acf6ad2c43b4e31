//! The protocol room over a made-up target: raw sockets for framing, stock gdb
//! for what a person sees.

mod clients;
mod gdb;
mod line;
mod lldb;
mod manners;
mod packets;
mod places;
mod synthetic;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use corestub::rsp::{Endpoint, Listener, Options};
use synthetic::Synthetic;

use crate::support::{PATIENCE, until};

/// Starts a server that lives as long as the test program.
fn serve(target: Synthetic, options: Options) -> SocketAddr {
    let listener = Listener::bind(&Endpoint::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
    let address = listener.local().to_str().unwrap().parse().unwrap();
    std::thread::spawn(move || listener.serve(Arc::new(target), &options).unwrap());
    address
}

fn sum(body: &[u8]) -> u8 {
    body.iter().fold(0u8, |sum, b| sum.wrapping_add(*b))
}

/// A client that frames by hand.
struct Client {
    stream: TcpStream,
}

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream }
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    fn send(&mut self, body: &str) {
        self.send_bytes(body.as_bytes());
    }

    fn send_bytes(&mut self, body: &[u8]) {
        let mut frame = b"$".to_vec();
        frame.extend_from_slice(body);
        frame.extend_from_slice(format!("#{:02x}", sum(body)).as_bytes());
        self.raw(&frame);
    }

    fn byte(&mut self) -> u8 {
        let mut byte = [0];
        self.stream.read_exact(&mut byte).unwrap();
        byte[0]
    }

    /// Reads one frame, which must start here, without acknowledging it.
    fn frame(&mut self) -> Vec<u8> {
        assert_eq!(self.byte(), b'$');
        let mut body = Vec::new();
        loop {
            match self.byte() {
                b'#' => break,
                b => body.push(b),
            }
        }
        let said = String::from_utf8(vec![self.byte(), self.byte()]).unwrap();
        assert_eq!(u8::from_str_radix(&said, 16).unwrap(), sum(&body));
        body
    }

    /// `+` and a reply, which is acknowledged.
    fn reply(&mut self) -> Vec<u8> {
        assert_eq!(self.byte(), b'+');
        let body = self.frame();
        self.raw(b"+");
        body
    }

    fn ask(&mut self, body: &str) -> String {
        self.send(body);
        String::from_utf8(self.reply()).unwrap()
    }

    fn ask_bytes(&mut self, body: &str) -> Vec<u8> {
        self.send(body);
        self.reply()
    }

    /// Whether nothing comes for a while.
    fn silent(&mut self) -> bool {
        self.stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut byte = [0];
        let n = self.stream.read(&mut byte);
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        n.is_err()
    }

    /// Whether the server ended the session.
    fn closed(&mut self) -> bool {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).is_ok()
    }
}

fn hex(text: &str) -> String {
    text.bytes().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
}
