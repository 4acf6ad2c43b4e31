//! Where clients connect: a TCP port, a Unix socket, one that systemd made, or stdin
//! and stdout. What becomes of them is [`super::server`]'s.

use std::ffi::{OsStr, OsString};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use rustix::fs::{Mode, chmod, fchmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

use super::Endpoint;
use super::wire::Wire;
use crate::error::{Error, Result};

/// Clients that may wait to be accepted.
const BACKLOG: i32 = 128;
/// Who may use a Unix socket: whoever connects reads the dump.
const OWNER_ONLY: Mode = Mode::RUSR.union(Mode::WUSR);

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
    Stdio,
}

/// A place where clients can connect.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    local: OsString,
    /// The name that is ours to remove.
    made: Option<PathBuf>,
}

impl Listener {
    /// Starts listening; clients that connect now wait for [`Listener::serve`].
    pub fn bind(endpoint: &Endpoint) -> Result<Self> {
        match endpoint {
            Endpoint::Tcp(address) => Self::tcp(*address),
            Endpoint::Unix(path) => Self::unix(path),
            Endpoint::Passed => Self::passed(),
            Endpoint::Stdio => Ok(Self::new(Socket::Stdio, "stdin and stdout")),
        }
    }

    fn new(socket: Socket, local: impl Into<OsString>) -> Self {
        Self { socket, local: local.into(), made: None }
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
        Ok(Self::new(Socket::Tcp(listener), local))
    }

    fn unix(path: &Path) -> Result<Self> {
        let refused = |hint: &'static str| {
            move |source: io::Error| Error::Listen { endpoint: path.display().to_string(), hint, source }
        };
        let listener = match unix_listener(path) {
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
                unix_listener(path)
            }
            bound => bound,
        };
        let listener = listener.map_err(refused("the folder must exist and be writable, the path short"))?;
        let mut bound = Self::new(Socket::Unix(listener), path);
        bound.made = Some(path.to_owned());
        Ok(bound)
    }

    /// The socket that this program was started with (sd_listen_fds(3)).
    fn passed() -> Result<Self> {
        let refused = |source: io::Error| Error::Listen {
            endpoint: "fd://".to_owned(),
            hint: "systemd, or systemd-socket-activate, passes the socket: one, that takes connections",
            source,
        };
        let none = || io::Error::new(io::ErrorKind::NotFound, "LISTEN_FDS and LISTEN_PID name no socket");
        let mut passed = ListenFd::from_env();
        if passed.len() > 1 {
            return Err(refused(io::Error::new(io::ErrorKind::InvalidInput, "several sockets were passed")));
        }
        if let Ok(unix) = passed.take_unix_listener(0) {
            let listener = unix.ok_or_else(none).map_err(refused)?;
            let local = listener.local_addr().map_err(refused)?;
            let local = local.as_pathname().map_or_else(|| "a passed socket".into(), Path::to_path_buf);
            return Ok(Self::new(Socket::Unix(listener), local));
        }
        let listener = passed.take_tcp_listener(0).map_err(refused)?.ok_or_else(none).map_err(refused)?;
        let local = listener.local_addr().map_err(refused)?.to_string();
        Ok(Self::new(Socket::Tcp(listener), local))
    }

    /// Where clients connect: `127.0.0.1:1234`, or the path of the socket.
    #[must_use]
    pub fn local(&self) -> &OsStr {
        &self.local
    }

    /// Whether other machines may reach it.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().is_ok_and(|address| !is_local(address.ip())),
            Socket::Unix(_) | Socket::Stdio => false,
        }
    }

    /// The path of the socket that is to be removed at the end.
    #[must_use]
    pub fn made(&self) -> Option<&Path> {
        self.made.as_deref()
    }

    /// What becomes readable when a client is there; on stdin and stdout it is there already.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.socket {
            Socket::Tcp(listener) => Some(listener.as_fd()),
            Socket::Unix(listener) => Some(listener.as_fd()),
            Socket::Stdio => None,
        }
    }

    /// From now on [`Self::accept`] does not wait for a client that is gone again.
    pub(super) fn never_wait(&self) -> io::Result<()> {
        match &self.socket {
            Socket::Tcp(listener) => listener.set_nonblocking(true),
            Socket::Unix(listener) => listener.set_nonblocking(true),
            Socket::Stdio => Ok(()),
        }
    }

    pub(super) fn accept(&self) -> io::Result<(Wire, String)> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, peer) = listener.accept()?;
                Ok((Wire::tcp(stream)?, peer.to_string()))
            }
            Socket::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                Ok((Wire::unix(stream)?, self.local.display().to_string()))
            }
            Socket::Stdio => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(path) = &self.made {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Whether only this machine reaches the address.
#[must_use]
pub fn is_local(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// A socket that is its owner's alone from the first moment, whatever the umask: a
/// name in the file system gets the mode of the socket (unix(7)), less the umask.
fn unix_listener(path: &Path) -> io::Result<UnixListener> {
    let address = SocketAddrUnix::new(path)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    fchmod(&socket, OWNER_ONLY)?;
    bind(&socket, &address)?;
    // A umask may have taken more than it should.
    chmod(path, OWNER_ONLY)?;
    listen(&socket, BACKLOG)?;
    Ok(UnixListener::from(socket))
}
