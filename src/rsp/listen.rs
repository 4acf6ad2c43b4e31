//! Waiting for clients: TCP, a Unix socket, or the one on stdin and stdout.
//!
//! Each client has a thread and a session of its own over the shared inferior;
//! whatever it does ends that session at worst.

use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tracing::{info, warn};

use super::served::Served;
use super::session::Session;
use super::wire::Wire;
use super::{Endpoint, Options};
use crate::error::{Error, Result};
use crate::inferior::Inferior;

/// Clients that are served at the same time.
const CLIENTS: usize = 64;

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
    Stdio,
}

/// A place where clients can connect.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    local: OsString,
}

impl Listener {
    /// Starts listening; clients that connect now wait for [`Listener::serve`].
    pub fn bind(endpoint: &Endpoint) -> Result<Self> {
        match endpoint {
            Endpoint::Tcp(address) => Self::tcp(*address),
            Endpoint::Unix(path) => Self::unix(path),
            Endpoint::Stdio => Ok(Self { socket: Socket::Stdio, local: "stdin and stdout".into() }),
        }
    }

    fn tcp(address: SocketAddr) -> Result<Self> {
        let refused = |source: io::Error| Error::Listen {
            endpoint: address.to_string(),
            hint: match source.kind() {
                io::ErrorKind::AddrInUse => {
                    "something else listens there: choose another port, or port 0 for a free one"
                }
                io::ErrorKind::PermissionDenied => "ports below 1024 need privileges: choose a higher one",
                io::ErrorKind::AddrNotAvailable => {
                    "no network interface has this address: try 127.0.0.1 or 0.0.0.0"
                }
                _ => "choose another address or a Unix socket",
            },
            source,
        };
        let listener = TcpListener::bind(address).map_err(refused)?;
        let local = listener.local_addr().map_err(refused)?.to_string();
        Ok(Self { socket: Socket::Tcp(listener), local: local.into() })
    }

    fn unix(path: &Path) -> Result<Self> {
        let refused = |hint: &'static str| {
            move |source: io::Error| Error::Listen { endpoint: path.display().to_string(), hint, source }
        };
        let listener = match UnixListener::bind(path) {
            // A server that was killed leaves its socket behind.
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                // Only a socket may be removed: connecting to a plain file is refused, too.
                let socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
                match UnixStream::connect(path) {
                    Ok(_) => Err(e).map_err(refused("another server listens there: choose another path"))?,
                    Err(dead) if socket && dead.kind() == io::ErrorKind::ConnectionRefused => {
                        std::fs::remove_file(path)
                            .map_err(refused("the socket of a dead server cannot be removed"))?;
                    }
                    Err(_) => Err(e).map_err(refused("the path is taken: choose another one"))?,
                }
                UnixListener::bind(path)
            }
            bound => bound,
        };
        let listener = listener.map_err(refused("the folder must exist and be writable, the path short"))?;
        Ok(Self { socket: Socket::Unix(listener, path.to_owned()), local: path.into() })
    }

    /// Where clients connect: `127.0.0.1:1234`, or the path of the socket.
    #[must_use]
    pub fn local(&self) -> &OsStr {
        &self.local
    }

    /// Serves `inferior` to every client: for ever, or with `once` (and on
    /// stdin and stdout) until the first one leaves.
    pub fn serve(self, inferior: Arc<dyn Inferior>, options: &Options) -> Result<()> {
        let server = Server {
            served: Arc::new(Served::new(inferior)),
            options: *options,
            device: device(),
            clients: Arc::new(AtomicUsize::new(0)),
        };
        let listening = |source| Error::Listen {
            endpoint: self.local.display().to_string(),
            hint: "the socket stopped working",
            source,
        };
        if matches!(self.socket, Socket::Stdio) {
            let wire = Wire::stdio().map_err(listening)?;
            server.session(wire, "stdin and stdout");
            return Ok(());
        }
        loop {
            match self.accept() {
                Ok((mut wire, peer)) if options.once => {
                    // One that only tried whether somebody listens is no client.
                    if wire.wait().is_err() {
                        continue;
                    }
                    // Nobody else is to wait in the queue.
                    drop(self);
                    server.session(wire, &peer);
                    return Ok(());
                }
                Ok((wire, peer)) => server.start(wire, peer),
                Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotConnected) => {
                    return Err(listening(e));
                }
                // A client that is gone again, or no free descriptor: the others go on.
                Err(e) => {
                    warn!(error = %e, "a client could not be accepted");
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }

    fn accept(&self) -> io::Result<(Wire, String)> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, peer) = listener.accept()?;
                Ok((Wire::tcp(stream)?, peer.to_string()))
            }
            Socket::Unix(listener, path) => {
                let (stream, _) = listener.accept()?;
                Ok((Wire::unix(stream)?, path.display().to_string()))
            }
            Socket::Stdio => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Socket::Unix(_, path) = &self.socket {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A device number that two servers are unlikely to share.
fn device() -> u32 {
    let [a, b, c, d, ..] = RandomState::new().hash_one(std::process::id()).to_ne_bytes();
    u32::from_ne_bytes([a, b, c, d])
}

#[derive(Clone)]
struct Server {
    served: Arc<Served>,
    options: Options,
    device: u32,
    clients: Arc<AtomicUsize>,
}

/// One of the places; it is free again when this is dropped, however the
/// session ends.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Server {
    /// Serves a client on a thread of its own, if there is a place left.
    fn start(&self, wire: Wire, peer: String) {
        let taken = self.clients.fetch_add(1, Ordering::AcqRel);
        let place = Place(Arc::clone(&self.clients));
        if taken >= CLIENTS {
            warn!(peer, "refused: {CLIENTS} clients are connected already");
            return;
        }
        let server = self.clone();
        let session = move || {
            let _place = place;
            server.session(wire, &peer);
        };
        if let Err(e) = std::thread::Builder::new().name("client".to_owned()).spawn(session) {
            warn!(error = %e, "no thread for a client");
        }
    }

    fn session(&self, wire: Wire, peer: &str) {
        info!(peer, "client connected");
        let session = Session::new(wire, &self.served, &self.options, self.device);
        match session.and_then(Session::run) {
            Ok(()) => info!(peer, "client left"),
            Err(e) => info!(peer, error = %e, "client lost"),
        }
    }
}
