//! One client's connection: whole frames in, whole frames out, one system call
//! each.
//!
//! Replies are acknowledged by the client, and the last frame is kept for a
//! client that asks for it again. While a command runs, the wire is looked at
//! without blocking: gdb does not say that its user pressed Ctrl-C, it only
//! sends its next packet.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;

use super::frame::{self, Event, Framer};

/// A client that takes nothing for twice this long has lost its session (a write
/// that times out in its middle reports what it did, and is tried again).
const WRITE_TIMEOUT: Duration = Duration::from_secs(15);
/// A silent TCP peer is asked whether it is still there after this long.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
/// Bytes per read.
const READ_SIZE: usize = 0x4000;
/// Bytes that are read ahead at most while a command runs.
const READ_AHEAD: usize = 0x1_0000;
/// A running command looks at the wire at most this often.
const POLL_EVERY: Duration = Duration::from_millis(10);
/// So long may a client take to hang up after the last reply.
const LINGER: Duration = Duration::from_secs(1);
/// So often may a client refuse one frame before it is given up.
const NACK_LIMIT: u32 = 8;

/// Why a running command is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The client sent its next packet: it no longer waits for this reply.
    NewPacket,
    /// The client sent an interrupt: it waits for the end of the reply.
    Interrupt,
    /// The client is gone.
    Closed,
}

/// Frames of one client.
#[derive(Debug)]
pub(crate) struct Wire {
    input: OwnedFd,
    output: OwnedFd,
    framer: Framer,
    last: Vec<u8>,
    nacks: u32,
    acks: bool,
    polled: Option<Instant>,
    buffer: Vec<u8>,
}

impl Wire {
    fn new(input: OwnedFd, output: OwnedFd) -> Self {
        Self {
            input,
            output,
            framer: Framer::new(),
            last: Vec::new(),
            nacks: 0,
            acks: true,
            polled: None,
            buffer: vec![0; READ_SIZE],
        }
    }

    /// A TCP client.
    pub(crate) fn tcp(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        // A peer whose machine vanished must not hold its place for ever.
        sockopt::set_socket_keepalive(&stream, true)?;
        sockopt::set_tcp_keepidle(&stream, KEEPALIVE_AFTER)?;
        let input = OwnedFd::from(stream);
        let output = input.try_clone()?;
        Ok(Self::new(input, output))
    }

    /// A client on a Unix socket.
    pub(crate) fn unix(stream: UnixStream) -> io::Result<Self> {
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        let input = OwnedFd::from(stream);
        let output = input.try_clone()?;
        Ok(Self::new(input, output))
    }

    /// The one client on stdin and stdout.
    pub(crate) fn stdio() -> io::Result<Self> {
        Ok(Self::new(io::stdin().as_fd().try_clone_to_owned()?, io::stdout().as_fd().try_clone_to_owned()?))
    }

    /// Waits for the first bytes; an error when none will come.
    pub(crate) fn wait(&mut self) -> io::Result<()> {
        self.fill()
    }

    /// The next packet, with `None` for one that was too long. The packet is
    /// acknowledged; refusals and interrupts are dealt with here.
    pub(crate) fn receive(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            match self.framer.next() {
                Some(Event::Packet { body, good }) => {
                    if !self.acks {
                        return Ok(Some(body));
                    }
                    if good {
                        self.write(b"+")?;
                        return Ok(Some(body));
                    }
                    self.write(b"-")?;
                }
                Some(Event::TooLong) => {
                    if self.acks {
                        self.write(b"+")?;
                    }
                    return Ok(None);
                }
                Some(Event::Ack) => self.nacks = 0,
                Some(Event::Nack) => {
                    self.nacks += 1;
                    if self.nacks > NACK_LIMIT {
                        return Err(io::Error::other("the client refused the same reply too often"));
                    }
                    let last = std::mem::take(&mut self.last);
                    let sent = self.write(&last);
                    self.last = last;
                    sent?;
                }
                // Idle interrupts get no answer: gdb would take it for the next reply.
                Some(Event::Interrupt) => {}
                None => self.fill()?,
            }
        }
    }

    /// Sends `payload`, which is escaped already.
    pub(crate) fn send(&mut self, payload: &[u8]) -> io::Result<()> {
        let frame = frame::frame(payload);
        let sent = self.write(&frame);
        self.last = frame;
        sent
    }

    /// Waits a moment for the client to hang up first: it still wants to
    /// acknowledge the last reply, and says so if it cannot.
    pub(crate) fn linger(&mut self) {
        let start = Instant::now();
        while start.elapsed() < LINGER {
            if self.readable(POLL_EVERY)
                && !matches!(rustix::io::read(&self.input, self.buffer.as_mut_slice()), Ok(1..))
            {
                return;
            }
        }
    }

    /// No more acknowledgements, either way.
    pub(crate) fn stop_acks(&mut self) {
        self.acks = false;
    }

    /// Whether the client wants the running command to stop. Looks at the
    /// connection at most every [`POLL_EVERY`].
    pub(crate) fn poll(&mut self) -> Option<Stop> {
        let now = Instant::now();
        if self.polled.is_some_and(|then| now.duration_since(then) < POLL_EVERY) {
            return None;
        }
        self.polled = Some(now);
        if self.framer.waiting() < READ_AHEAD && self.readable(Duration::ZERO) && self.fill().is_err() {
            return Some(Stop::Closed);
        }
        if self.framer.take_interrupt() {
            return Some(Stop::Interrupt);
        }
        self.framer.packet_waits().then_some(Stop::NewPacket)
    }

    fn readable(&self, timeout: Duration) -> bool {
        let mut fds = [PollFd::new(&self.input, PollFlags::IN)];
        let timeout = Timespec { tv_sec: 0, tv_nsec: timeout.subsec_nanos().into() };
        matches!(poll(&mut fds, Some(&timeout)), Ok(n) if n > 0)
    }

    fn fill(&mut self) -> io::Result<()> {
        loop {
            match rustix::io::read(&self.input, self.buffer.as_mut_slice()) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    self.framer.feed(self.buffer.get(..n).unwrap_or_default());
                    return Ok(());
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match rustix::io::write(&self.output, bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes no replies"));
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}
