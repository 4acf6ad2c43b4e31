//! The protocol: stock gdb (and LLDB) on one side, a [`crate::inferior::Inferior`]
//! on the other.
//!
//! ```text
//!   listen   where clients connect     server  one thread and one session for each
//!     v
//!   wire     bytes in and out          frame   $body#cs, escapes, hexadecimal
//!     |                                line    which packets still want an answer
//!     |                                pulse   keeps a client waiting that would give up
//!     v
//!   session  takes a packet, sends its reply
//!     v
//!   front    answers, or checks and passes on        xfer    documents in slices
//!     v                                              host_io   files (vFile)
//!     |                                              lldb      what only LLDB asks
//!   gdbstub's state machine -> stub (its traits)
//!     v
//!   state    one client: its selection, open_files, documents
//!   served   what all clients share    answer   what becomes of a packet
//!   tally    how many packets of which kind
//! ```
//!
//! The protocol is described in the gdb manual, "Remote Protocol". What gdb
//! 13.1 and LLDB 14 make of each possible answer was measured; the comments say
//! so where an answer is not the obvious one. This room knows nothing of Linux
//! or of dumps.

mod answer;
mod documents;
mod end;
mod frame;
mod front;
mod host_io;
mod line;
mod listen;
mod lldb;
mod open_files;
mod pulse;
mod selection;
mod served;
mod server;
mod session;
mod signal;
mod state;
mod stub;
mod tally;
mod wire;
mod xfer;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use end::End;
pub use listen::{Listener, is_local};

/// Where clients connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A TCP address; port 0 picks a free one.
    Tcp(SocketAddr),
    /// A Unix socket at this path.
    Unix(PathBuf),
    /// The socket that systemd passed.
    Passed,
    /// One client on stdin and stdout: gdb's `target remote | corestub ...`.
    Stdio,
}

/// How clients are served.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// End when the first client leaves.
    pub once: bool,
    /// Offer `QStartNoAckMode`. Without acknowledgements gdb shows wrong data
    /// after a Ctrl-C in a long command; they cost nothing on a local line.
    pub no_ack: bool,
    /// Answer what gef and pwndbg ask to recognise QEMU's system emulator.
    pub qemu_dialect: bool,
    /// Clients that are served at the same time.
    pub max_clients: usize,
    /// A client that asks nothing for so long loses its place.
    pub idle_timeout: Option<Duration>,
}

impl Options {
    /// Clients that are served at the same time, unless told otherwise.
    pub const MAX_CLIENTS: usize = 64;
}

impl Default for Options {
    fn default() -> Self {
        Self {
            once: false,
            no_ack: false,
            qemu_dialect: false,
            max_clients: Self::MAX_CLIENTS,
            idle_timeout: None,
        }
    }
}
