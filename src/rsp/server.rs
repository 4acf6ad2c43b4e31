//! The clients: each has a thread and a session of its own over the shared inferior;
//! whatever it does ends that session at worst.
//!
//! There are so many places and no more: whoever comes then is told so, in the reply to
//! its first packets, which gdb prints. The log hears of that once a minute.
//!
//! The server ends in order when SIGTERM or SIGINT come, if it is asked to: nobody is
//! accepted any more, the socket's name is removed, each client has the reply to what it asked.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::{Shutdown, shutdown};
use tracing::{info, warn};

use super::Options;
use super::end::{End, Ended, Event};
use super::listen::Listener;
use super::served::Served;
use super::session::Session;
use super::wire::Wire;
use crate::error::{Error, Result};
use crate::inferior::Inferior;

/// So many clients at once are told why they are refused; more are only hung up on.
const REFUSING: u32 = 8;
/// Packets of a refused client that are answered: gdb prints what it hears to its
/// first, a warning, and to its second, an error that ends its attempt.
const REFUSALS: u32 = 2;
/// How long a refused client may take for its next packet.
const REFUSED_PATIENCE: Duration = Duration::from_secs(2);
/// What goes wrong with strangers is logged at most this often.
const LOG_EVERY: Duration = Duration::from_secs(60);
/// How long the sessions have to end.
const GRACE: Duration = Duration::from_secs(2);

impl Listener {
    /// Serves `inferior` to every client: for ever, or with `once` (and on
    /// stdin and stdout) until the first one leaves.
    pub fn serve(self, inferior: Arc<dyn Inferior>, options: &Options) -> Result<()> {
        self.serve_until(&End::unsignalled()?, inferior, options)
    }

    /// The same, at most until `end`.
    pub fn serve_until(self, end: &End, inferior: Arc<dyn Inferior>, options: &Options) -> Result<()> {
        Server::new(inferior, options).run(self, end)
    }
}

/// Serves one inferior.
#[derive(Clone)]
struct Server {
    served: Arc<Served>,
    options: Options,
    device: u32,
    places: Arc<Places>,
    refusing: Arc<AtomicU32>,
    refused: Arc<Seldom>,
    failed: Arc<Seldom>,
}

impl Server {
    fn new(inferior: Arc<dyn Inferior>, options: &Options) -> Self {
        Self {
            served: Arc::new(Served::new(inferior)),
            options: *options,
            device: device(),
            places: Arc::default(),
            refusing: Arc::default(),
            refused: Arc::default(),
            failed: Arc::default(),
        }
    }

    /// Serves whoever comes to `listener`, until `end`.
    fn run(&self, listener: Listener, end: &End) -> Result<()> {
        let local = listener.local().display().to_string();
        let stopped =
            |source| Error::Listen { endpoint: local.clone(), hint: "the socket stopped working", source };
        if listener.fd().is_none() {
            self.session(Wire::stdio().map_err(stopped)?, &local);
            return Ok(());
        }
        listener.never_wait().map_err(stopped)?;
        while let Event::Client = listener.fd().map_or(Ok(Event::End), |fd| end.or(fd)).map_err(stopped)? {
            match listener.accept() {
                Ok((mut wire, peer)) if self.options.once => {
                    match end.or(wire.fd()).map_err(stopped)? {
                        Event::End => break,
                        // One that only tried whether somebody listens is no client.
                        Event::Client if wire.wait().is_err() => continue,
                        Event::Client => {}
                    }
                    // Nobody else is to wait in the queue.
                    drop(listener);
                    self.start(wire, peer, Some(end.signal().map_err(stopped)?));
                    end.wait().map_err(stopped)?;
                    self.end();
                    return Ok(());
                }
                Ok((wire, peer)) => self.start(wire, peer, None),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotConnected) => {
                    return Err(stopped(e));
                }
                // A client that is gone again, or no free descriptor: the others go on.
                Err(e) => {
                    self.failed.tell(|before| warn!(error = %e, before, "a client could not be accepted"));
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
        info!("ending");
        drop(listener);
        self.end();
        Ok(())
    }

    /// Serves a client on a thread of its own, if there is a place left. `then` is told
    /// when it has left.
    fn start(&self, wire: Wire, peer: String, then: Option<Ended>) {
        let Some(place) = Place::take(&self.places, self.options.max_clients, &wire) else {
            return self.refuse(wire, &peer);
        };
        let server = self.clone();
        let session = move || {
            // However the session ends.
            let _ended = (place, then);
            server.session(wire, &peer);
        };
        if let Err(e) = std::thread::Builder::new().name("client".to_owned()).spawn(session) {
            self.failed.tell(|before| warn!(error = %e, before, "no thread for a client"));
        }
    }

    fn session(&self, wire: Wire, peer: &str) {
        info!(peer, "client connected");
        let wire = wire.with_patience(self.options.idle_timeout);
        let session = Session::new(wire, &self.served, &self.options, self.device);
        match session.and_then(Session::run) {
            Ok(()) => info!(peer, "client left"),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => info!(peer, "client dropped: it was idle"),
            Err(e) => info!(peer, error = %e, "client lost"),
        }
    }

    /// Tells a client that there is no place.
    fn refuse(&self, wire: Wire, peer: &str) {
        let most = self.options.max_clients;
        self.refused
            .tell(|before| warn!(peer, before, "refused: {most} clients are connected (--max-clients)"));
        let refusing = Arc::clone(&self.refusing);
        if refusing.fetch_add(1, Ordering::AcqRel) >= REFUSING {
            refusing.fetch_sub(1, Ordering::AcqRel);
            return;
        }
        let tell = move || {
            let why = format!("E.corestub serves {most} clients already (--max-clients); try again later");
            let _ = turn_away(wire, &why);
            refusing.fetch_sub(1, Ordering::AcqRel);
        };
        if std::thread::Builder::new().name("refused".to_owned()).spawn(tell).is_err() {
            self.refusing.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Lets the sessions end: each client has the reply to what it asked, and hears no more.
    fn end(&self) {
        let mut clients = self.places.lock();
        for socket in clients.sockets.values() {
            let _ = shutdown(socket, Shutdown::Read);
        }
        let began = Instant::now();
        while let Some(left) = GRACE.checked_sub(began.elapsed())
            && !clients.sockets.is_empty()
        {
            clients = self.places.left.wait_timeout(clients, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Answers the first packets with `why`.
fn turn_away(wire: Wire, why: &str) -> io::Result<()> {
    let mut wire = wire.with_patience(Some(REFUSED_PATIENCE));
    for _ in 0..REFUSALS {
        wire.receive()?;
        wire.reply(why.as_bytes())?;
    }
    wire.linger();
    Ok(())
}

/// A device number that two servers are unlikely to share.
fn device() -> u32 {
    let [a, b, c, d, ..] = RandomState::new().hash_one(std::process::id()).to_ne_bytes();
    u32::from_ne_bytes([a, b, c, d])
}

/// Who is connected.
#[derive(Default)]
struct Places {
    clients: Mutex<Clients>,
    left: Condvar,
}

#[derive(Default)]
struct Clients {
    next: u64,
    sockets: HashMap<u64, Arc<OwnedFd>>,
}

impl Places {
    fn lock(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the places; it is free again when this is dropped, however the session ends.
struct Place {
    of: Arc<Places>,
    number: u64,
}

impl Place {
    fn take(of: &Arc<Places>, most: usize, wire: &Wire) -> Option<Self> {
        let mut clients = of.lock();
        if clients.sockets.len() >= most {
            return None;
        }
        let number = clients.next;
        clients.next = number.wrapping_add(1);
        clients.sockets.insert(number, wire.socket());
        Some(Self { of: Arc::clone(of), number })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.of.lock().sockets.remove(&self.number);
        self.of.left.notify_all();
    }
}

/// Says what strangers can make happen without end: at most once in [`LOG_EVERY`].
#[derive(Default)]
struct Seldom(Mutex<(Option<Instant>, u64)>);

impl Seldom {
    /// `say` gets how often it happened unsaid.
    fn tell(&self, say: impl FnOnce(u64)) {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, unsaid) = &mut *said;
        if last.is_some_and(|last| last.elapsed() < LOG_EVERY) {
            *unsaid += 1;
            return;
        }
        *last = Some(Instant::now());
        say(std::mem::take(unsaid));
    }
}
