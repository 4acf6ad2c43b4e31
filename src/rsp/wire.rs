//! One client's connection: whole packets in, whole frames out.
//!
//! What came is looked at before each reply and while a command runs, without
//! blocking: gdb does not say that it waits no longer, it only sends its next
//! packet. What that means is [`super::line`]'s to know.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;

use super::frame::Framer;
use super::line::{self, Line, Reaction};
use super::pulse::Pulse;

/// A client that takes nothing for twice this long has lost its session (a write
/// that times out in its middle reports what it did, and is tried again).
const WRITE_TIMEOUT: Duration = Duration::from_secs(15);
/// A silent TCP peer is asked whether it is still there after this long.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
/// Bytes per read.
const READ_SIZE: usize = 0x4000;
/// A running command looks at the wire at most this often.
const POLL_EVERY: Duration = Duration::from_millis(10);
/// So long may a client take to hang up after the last reply.
const LINGER: Duration = Duration::from_secs(1);
/// So long does word that the client has given a reply up take at most, on a network
/// across which somebody works.
const LISTENS: Duration = Duration::from_millis(500);

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
    input: Arc<OwnedFd>,
    output: Pulse,
    framer: Framer,
    line: Line,
    /// How long the client may send nothing.
    patience: Option<Duration>,
    polled: Option<Instant>,
    buffer: Vec<u8>,
}

impl Wire {
    fn new(input: Arc<OwnedFd>, output: Arc<OwnedFd>) -> io::Result<Self> {
        Ok(Self {
            input,
            output: Pulse::new(output)?,
            framer: Framer::new(),
            line: Line::new(),
            patience: None,
            polled: None,
            buffer: vec![0; READ_SIZE],
        })
    }

    /// A TCP client.
    pub(crate) fn tcp(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        // A peer whose machine vanished must not hold its place for ever.
        sockopt::set_socket_keepalive(&stream, true)?;
        sockopt::set_tcp_keepidle(&stream, KEEPALIVE_AFTER)?;
        let socket = Arc::new(OwnedFd::from(stream));
        Self::new(Arc::clone(&socket), socket)
    }

    /// A client on a Unix socket.
    pub(crate) fn unix(stream: UnixStream) -> io::Result<Self> {
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        let socket = Arc::new(OwnedFd::from(stream));
        Self::new(Arc::clone(&socket), socket)
    }

    /// The one client on stdin and stdout.
    pub(crate) fn stdio() -> io::Result<Self> {
        let (input, output) = (io::stdin(), io::stdout());
        Self::new(
            Arc::new(input.as_fd().try_clone_to_owned()?),
            Arc::new(output.as_fd().try_clone_to_owned()?),
        )
    }

    /// The same, for a client that is given up when it sends nothing for `patience`:
    /// [`Self::receive`] fails then with [`io::ErrorKind::WouldBlock`].
    pub(crate) fn with_patience(self, patience: Option<Duration>) -> Self {
        Self { patience, ..self }
    }

    /// The client's socket.
    pub(crate) fn socket(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.input)
    }

    /// What becomes readable when the client sends something, or is gone.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.input.as_fd()
    }

    /// Waits for the first bytes; an error when none will come.
    pub(crate) fn wait(&mut self) -> io::Result<()> {
        self.fill()
    }

    /// The next packet, with `None` for one that was too long.
    pub(crate) fn receive(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if self.line.is_empty() {
                // Also where it is a pipe, which has no timeout of its own.
                if self.patience.is_some_and(|patience| !self.readable(patience)) {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                self.fill()?;
                continue;
            }
            // Copies may have come with it, or word that it is no longer waited for.
            if let Some(packet) = self.line.next() {
                let command = packet.as_deref().is_some_and(line::is_command);
                self.output.begin(self.line.acks(), command);
                return Ok(packet);
            }
        }
    }

    /// Sends the reply to the packet at work, unless the client waits for it no
    /// longer. `payload` is escaped already.
    pub(crate) fn reply(&mut self, payload: &[u8]) -> io::Result<()> {
        let mut heard = self.look();
        let until = Instant::now() + LISTENS;
        while heard.is_ok()
            && self.line.is_doubted()
            && self.line.is_empty()
            && let Some(left) = until.checked_duration_since(Instant::now())
            && self.readable(left)
        {
            heard = self.look();
        }
        match heard {
            // One that hears what it asked for before it hangs up.
            Err(e) if e.kind() != io::ErrorKind::UnexpectedEof => return Err(e),
            _ => {}
        }
        if self.line.superseded() {
            return self.no_reply();
        }
        let sent = self.part(payload);
        self.line.done(true);
        self.output.end();
        sent
    }

    /// Sends a frame before the reply.
    pub(crate) fn part(&mut self, payload: &[u8]) -> io::Result<()> {
        self.line.sent();
        self.output.frame(payload)
    }

    /// The packet at work gets no reply.
    pub(crate) fn no_reply(&mut self) -> io::Result<()> {
        self.line.done(false);
        let acknowledged = if self.line.superseded() { Ok(()) } else { self.output.acknowledge() };
        self.output.end();
        acknowledged
    }

    /// The client is gdb, which passes over notifications.
    pub(crate) fn is_gdb(&self) {
        self.output.is_patient();
    }

    /// The client is LLDB.
    pub(crate) fn is_lldb(&mut self) {
        self.line.is_lldb();
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
        self.line.stop_acks();
    }

    /// Whether the client wants the running command to stop. Looks at the
    /// connection at most every [`POLL_EVERY`].
    pub(crate) fn poll(&mut self) -> Option<Stop> {
        let now = Instant::now();
        if self.polled.is_some_and(|then| now.duration_since(then) < POLL_EVERY) {
            return None;
        }
        self.polled = Some(now);
        if self.look().is_err() {
            return Some(Stop::Closed);
        }
        if self.line.interrupted() {
            return Some(Stop::Interrupt);
        }
        (!self.line.is_empty()).then_some(Stop::NewPacket)
    }

    /// Takes what has come, without blocking.
    fn look(&mut self) -> io::Result<()> {
        // Packets that wait need no company.
        if self.line.is_empty() && self.readable(Duration::ZERO) { self.fill() } else { Ok(()) }
    }

    fn readable(&self, timeout: Duration) -> bool {
        let mut fds = [PollFd::new(&self.input, PollFlags::IN)];
        let timeout = Timespec::try_from(timeout).ok();
        loop {
            match poll(&mut fds, timeout.as_ref()) {
                Err(rustix::io::Errno::INTR) => {}
                readable => return matches!(readable, Ok(1..)),
            }
        }
    }

    /// Reads once, and takes the packets that are whole.
    fn fill(&mut self) -> io::Result<()> {
        loop {
            match rustix::io::read(&self.input, self.buffer.as_mut_slice()) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    self.framer.feed(self.buffer.get(..n).unwrap_or_default());
                    break;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        while let Some(event) = self.framer.next() {
            match self.line.take(event) {
                Reaction::None => {}
                Reaction::Refuse => self.output.refuse()?,
                Reaction::Lost => {
                    return Err(io::Error::other(
                        "the client no longer knows which reply belongs to which packet; it must connect again",
                    ));
                }
            }
        }
        if self.line.wanted_again() && self.output.may_come_by_halves() {
            self.line.sent_again();
            self.output.again()?;
        }
        Ok(())
    }
}
