//! The way out to one client, and the sign of life while it waits.
//!
//! gdb takes a `+` that is late for a lost packet, and gives a reply up that does
//! not come within some seconds. Making images or walking five thousand stacks may
//! take longer on a slow disk. So the `+` goes out with the reply, or from a
//! thread beside it when that takes more than a moment; after that, a
//! notification each second: gdb knows none of this name, which it passes over,
//! and goes on waiting (`handle_notification`). While it waits for a command's
//! output it looks for Ctrl-C only between pieces of that: it gets an empty one.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::frame;

/// The thread looks this often while packets come.
const TICK: Duration = Duration::from_millis(500);
/// It sleeps after this many looks at nothing.
const IDLE_TICKS: u32 = 20;
/// So much crosses a network whole.
const SEGMENT: usize = 1400;
/// What says that work goes on.
const BUSY: &[u8] = b"corestub:busy";
/// The same, as output of a command.
const NO_OUTPUT: &[u8] = b"O";

/// The output of one client, shared with the thread that keeps it waiting.
#[derive(Debug)]
pub(crate) struct Pulse {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    out: Mutex<Out>,
    woken: Condvar,
}

#[derive(Debug)]
struct Out {
    fd: Arc<OwnedFd>,
    /// The last frame, and where in it the `$` is.
    last: (Vec<u8>, usize),
    /// A `+` is owed for the packet at work.
    owed: bool,
    /// The packet at work is a command.
    command: bool,
    /// Since when a packet is at work.
    since: Option<Instant>,
    /// The client passes over notifications that it does not know.
    patient: bool,
    asleep: bool,
    closed: bool,
}

impl Pulse {
    pub(crate) fn new(fd: Arc<OwnedFd>) -> io::Result<Self> {
        let out = Out {
            fd,
            last: (Vec::new(), 0),
            owed: false,
            command: false,
            since: None,
            patient: false,
            asleep: false,
            closed: false,
        };
        let shared = Arc::new(Shared { out: Mutex::new(out), woken: Condvar::new() });
        let beside = Arc::clone(&shared);
        std::thread::Builder::new().name("pulse".to_owned()).spawn(move || beside.beat())?;
        Ok(Self { shared })
    }

    /// The client passes over notifications that it does not know.
    pub(crate) fn is_patient(&self) {
        self.shared.lock().patient = true;
    }

    /// A packet is at work; with `owed`, it wants a `+`.
    pub(crate) fn begin(&self, owed: bool, command: bool) {
        let mut out = self.shared.lock();
        (out.owed, out.command) = (owed, command);
        out.since = Some(Instant::now());
        if out.asleep {
            out.asleep = false;
            self.shared.woken.notify_one();
        }
    }

    /// Nothing is at work; the `+` that may still be owed is forgotten.
    pub(crate) fn end(&self) {
        let mut out = self.shared.lock();
        out.owed = false;
        out.since = None;
    }

    /// Sends `payload` as a frame, and before it the `+` that is owed.
    pub(crate) fn frame(&self, payload: &[u8]) -> io::Result<()> {
        let mut out = self.shared.lock();
        let (mut bytes, _) = std::mem::take(&mut out.last);
        bytes.clear();
        if std::mem::take(&mut out.owed) {
            bytes.push(b'+');
        }
        let start = bytes.len();
        frame::frame(&mut bytes, payload);
        let sent = out.write(&bytes);
        out.last = (bytes, start);
        sent
    }

    /// Whether the last frame needs more than one segment of a network.
    pub(crate) fn may_come_by_halves(&self) -> bool {
        self.shared.lock().last.0.len() > SEGMENT
    }

    /// Sends the last frame once more.
    pub(crate) fn again(&self) -> io::Result<()> {
        let out = self.shared.lock();
        let (bytes, start) = &out.last;
        out.write(bytes.get(*start..).unwrap_or_default())
    }

    /// Sends the `+` that is owed, alone.
    pub(crate) fn acknowledge(&self) -> io::Result<()> {
        let mut out = self.shared.lock();
        if std::mem::take(&mut out.owed) { out.write(b"+") } else { Ok(()) }
    }

    /// Sends a `-`.
    pub(crate) fn refuse(&self) -> io::Result<()> {
        self.shared.lock().write(b"-")
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.woken.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn beat(&self) {
        let mut idle = 0;
        let mut out = self.lock();
        while !out.closed {
            idle = if out.since.is_some() { 0 } else { idle + 1 };
            out.asleep = idle > IDLE_TICKS;
            out = if out.asleep {
                self.woken.wait(out).unwrap_or_else(PoisonError::into_inner)
            } else {
                self.woken.wait_timeout(out, TICK).unwrap_or_else(PoisonError::into_inner).0
            };
            let waits = out.since.map_or(Duration::ZERO, |since| since.elapsed());
            if waits < TICK || out.closed {
                continue;
            }
            // An error meets the session, too, at its own next write.
            let _ = if std::mem::take(&mut out.owed) {
                out.write(b"+")
            } else if out.patient {
                out.since = Some(Instant::now());
                let mut bytes = Vec::new();
                match out.command {
                    true => frame::frame(&mut bytes, NO_OUTPUT),
                    false => frame::notification(&mut bytes, BUSY),
                }
                out.write(&bytes)
            } else {
                Ok(())
            };
        }
    }
}

impl Out {
    fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match rustix::io::write(&self.fd, bytes) {
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
