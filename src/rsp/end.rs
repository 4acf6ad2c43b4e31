//! When a server ends. Signals are watched for from before anybody hears where it
//! listens: who ends it right then finds it in order, too.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::error::{Error, Result};

/// What a server waits for.
pub(super) enum Event {
    /// A client may be there.
    Client,
    /// The server is to end.
    End,
}

/// Becomes readable when the server is to end: by a signal, or since the one client
/// that is served has left.
#[derive(Debug)]
pub struct End {
    heard: UnixStream,
    signal: UnixStream,
}

impl End {
    /// No signal ends the server.
    pub fn unsignalled() -> Result<Self> {
        let (heard, signal) = UnixStream::pair().map_err(refused)?;
        Ok(Self { heard, signal })
    }

    /// SIGTERM and SIGINT end the server in order, from now on.
    pub fn by_signals() -> Result<Self> {
        let end = Self::unsignalled()?;
        for which in [SIGTERM, SIGINT] {
            let socket = end.signal.try_clone().map_err(refused)?;
            signal_hook::low_level::pipe::register(which, socket).map_err(refused)?;
        }
        Ok(end)
    }

    /// What says that the end has come when it is dropped, as a signal's handler does by a byte.
    pub(super) fn signal(&self) -> io::Result<Ended> {
        Ok(Ended(self.signal.try_clone()?))
    }

    /// Waits for the end, or until `fd` can be read.
    pub(super) fn or(&self, fd: BorrowedFd<'_>) -> io::Result<Event> {
        let mut fds = [
            PollFd::from_borrowed_fd(self.heard.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(fd, PollFlags::IN),
        ];
        loop {
            match poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
                Ok(_) => break,
            }
        }
        let [end, _] = fds;
        Ok(if end.revents().is_empty() { Event::Client } else { Event::End })
    }

    pub(super) fn wait(&self) -> io::Result<()> {
        (&self.heard).read(&mut [0]).map(|_| ())
    }
}

/// See [`End::signal`].
pub(super) struct Ended(UnixStream);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = io::Write::write(&mut self.0, b".");
    }
}

fn refused(source: io::Error) -> Error {
    let hint = "nothing would end the server: are too many files open?";
    Error::Listen { endpoint: "signals".to_owned(), hint, source }
}
