//! One client: what it has selected and opened, and the loop that takes its
//! packets one at a time.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use gdbstub::conn::Connection;
use gdbstub::stub::GdbStub;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use tracing::{debug, trace};

use super::Options;
use super::front::{Answer, Id};
use super::host_io::Files;
use super::served::Served;
use super::wire::{Stop, Wire};
use super::{frame, xfer};
use crate::addr::VirtAddr;
use crate::error::ReadFault;
use crate::target::{Inferior, RegisterFile, Tid};

/// Buffers of the two state machines: gdbstub uses one buffer for the packet and
/// for what it reads, and looks through all of it after each packet. So the
/// many small packets have a machine of their own; the other takes the largest.
/// (None keeps anything from one packet to the next: the selection is ours.)
const SMALL_BUFFER: usize = 0x800;
const LARGE_BUFFER: usize = frame::FRAME_CAP + frame::PACKET_SIZE;
/// What a frame needs around the packet and the room.
const MARGIN: usize = 0x20;

/// What a client said it can do, or showed by what it asked.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Client {
    /// Thread ids are `pPID.TID`.
    pub(crate) multiprocess: bool,
    /// `E.text` is understood in every reply (gdb 16).
    pub(crate) error_messages: bool,
    /// `target extended-remote`.
    pub(crate) extended: bool,
    /// It asked things that only LLDB asks.
    pub(crate) lldb: bool,
    /// Addresses of `m` are physical: QEMU's `Qqemu.PhyMemMode:1`.
    pub(crate) physical: bool,
}

/// The inferior and thread of the last `H`.
#[derive(Clone)]
pub(crate) struct Selected {
    pub(crate) served: Arc<Served>,
    /// `None` when the client chose a thread that does not exist. gdb does not
    /// look at the refusal; what it then asks for must fail, not come from
    /// another thread.
    pub(crate) tid: Option<Tid>,
}

impl Selected {
    pub(crate) fn inferior(&self) -> &dyn Inferior {
        self.served.inferior()
    }
}

/// What the connection and a running command share with the loop.
pub(crate) struct LinkState {
    pub(crate) wire: Wire,
    /// Frames go out as soon as they are whole: a command is running.
    pub(crate) live: bool,
    /// What stopped the command that runs.
    pub(crate) stop: Option<Stop>,
    /// Why a frame of a running command did not go out.
    pub(crate) broken: Option<io::Error>,
}

/// The connection, shared by the loop and by gdbstub's side of it.
pub(crate) type Link = Rc<RefCell<LinkState>>;

/// Everything that one client changes.
pub(crate) struct State {
    pub(crate) options: Options,
    pub(crate) client: Client,
    /// What the server was started for.
    pub(crate) main: Arc<Served>,
    /// What this client is attached to, the main inferior first.
    pub(crate) inferiors: Vec<Arc<Served>>,
    pub(crate) selected: Option<Selected>,
    /// What the last `Hc` chose.
    pub(crate) resume: Option<(Id, Id)>,
    pub(crate) last_fault: Option<(VirtAddr, ReadFault)>,
    pub(crate) registers: Option<(u32, Tid, Arc<RegisterFile>)>,
    pub(crate) files: Files,
    pub(crate) documents: xfer::Documents,
    /// Where `qsThreadInfo` goes on: an inferior and one of its threads.
    pub(crate) thread_cursor: (usize, usize),
    pub(crate) link: Link,
}

impl State {
    pub(crate) fn new(main: &Arc<Served>, options: &Options, device: u32, link: Link) -> Self {
        let tid = main.inferior().initial_thread();
        Self {
            options: *options,
            client: Client::default(),
            main: Arc::clone(main),
            inferiors: vec![Arc::clone(main)],
            selected: Some(Selected { served: Arc::clone(main), tid: Some(tid) }),
            resume: None,
            last_fault: None,
            registers: None,
            files: Files::new(device),
            documents: xfer::Documents::default(),
            thread_cursor: (0, 0),
            link,
        }
    }

    /// The selected inferior and thread, if there is one.
    pub(crate) fn thread(&self) -> Option<(&Arc<Served>, Tid)> {
        let selected = self.selected.as_ref()?;
        Some((&selected.served, selected.tid?))
    }

    /// The selected inferior.
    pub(crate) fn inferior(&self) -> Option<&dyn Inferior> {
        Some(self.selected.as_ref()?.inferior())
    }

    /// The registers of the selected thread. The last ones are kept: LLDB asks
    /// for them one at a time.
    pub(crate) fn registers(&mut self) -> Option<Arc<RegisterFile>> {
        let (served, tid) = self.thread()?;
        let pid = served.inferior().pid();
        if let Some((p, t, registers)) = &self.registers
            && (*p, *t) == (pid, tid)
        {
            return Some(Arc::clone(registers));
        }
        let registers = Arc::new(served.inferior().registers(tid)?);
        self.registers = Some((pid, tid, Arc::clone(&registers)));
        Some(registers)
    }

    /// Reads memory as the selected thread sees it, and remembers a failure.
    pub(crate) fn read_memory(&mut self, addr: u64, buf: &mut [u8]) -> Option<usize> {
        let addr = VirtAddr(addr);
        let (served, tid) = self.thread()?;
        let inferior = served.inferior();
        let read = match self.client.physical {
            true => inferior.read_physical(addr.0, buf),
            false => inferior.read_memory(tid, addr, buf),
        };
        match read {
            Ok(n) => (n > 0).then_some(n.min(buf.len())),
            Err(fault) => {
                trace!(%addr, %fault, "unreadable");
                self.last_fault = Some((addr, fault));
                None
            }
        }
    }
}

type Machine = GdbStubStateMachine<'static, State, Outbox>;

/// One client's session.
pub(crate) struct Session {
    link: Link,
    state: State,
    small: Option<Machine>,
    large: Option<Machine>,
}

/// A state machine of gdbstub that waits for packets.
fn machine(state: &mut State, buffer: usize) -> io::Result<Machine> {
    let outbox = Outbox { bytes: Vec::new(), link: Rc::clone(&state.link) };
    let built = GdbStub::builder(outbox).packet_buffer_size(buffer).build();
    built
        .map_err(|e| io::Error::other(e.to_string()))?
        .run_state_machine(state)
        .map_err(|e| io::Error::other(e.to_string()))
}

impl Session {
    /// A session on `wire`. `device` is the device number of the files it serves.
    pub(crate) fn new(wire: Wire, main: &Arc<Served>, options: &Options, device: u32) -> io::Result<Self> {
        let link = Rc::new(RefCell::new(LinkState { wire, live: false, stop: None, broken: None }));
        let mut state = State::new(main, options, device, Rc::clone(&link));
        let small = Some(machine(&mut state, SMALL_BUFFER)?);
        let large = Some(machine(&mut state, LARGE_BUFFER)?);
        Ok(Self { link, state, small, large })
    }

    /// Serves the client until it leaves.
    pub(crate) fn run(mut self) -> io::Result<()> {
        loop {
            let packet = match self.link.borrow_mut().wire.receive() {
                Ok(packet) => packet,
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(e) => return Err(e),
            };
            let answer = match packet {
                Some(packet) => {
                    trace!(packet = %Shown(&packet), "from the client");
                    self.state.answer(&packet)
                }
                None => {
                    debug!("a packet over {:#x} bytes was refused", frame::FRAME_CAP);
                    Answer::Reply(b"E01".to_vec())
                }
            };
            let reply = match answer {
                Answer::Reply(reply) => Some(reply),
                Answer::Pass { packet, room } => self.pass(&packet, room)?,
                Answer::None => None,
                Answer::NoMoreAcks => {
                    self.send(b"OK")?;
                    self.link.borrow_mut().wire.stop_acks();
                    None
                }
                Answer::End(reply) => {
                    let sent = reply.map_or(Ok(()), |reply| self.send(&reply));
                    self.link.borrow_mut().wire.linger();
                    return sent;
                }
            };
            if let Some(reply) = reply {
                self.send(&reply)?;
            }
        }
    }

    fn send(&self, reply: &[u8]) -> io::Result<()> {
        trace!(reply = %Shown(reply), "to the client");
        self.link.borrow_mut().wire.send(reply)
    }

    /// Lets gdbstub answer `packet`, which the front has checked. `None` when
    /// no reply is to be sent.
    fn pass(&mut self, packet: &[u8], room: usize) -> io::Result<Option<Vec<u8>>> {
        let lost = || io::Error::other("gdbstub left its idle state");
        let small = packet.len().saturating_add(room) <= SMALL_BUFFER - MARGIN;
        let place = if small { &mut self.small } else { &mut self.large };
        let mut machine = place.take().ok_or_else(lost)?;
        for byte in frame::frame(packet) {
            let GdbStubStateMachine::Idle(idle) = machine else { return Err(lost()) };
            machine = idle
                .incoming_data(&mut self.state, byte)
                .map_err(|e| io::Error::other(format!("gdbstub: {e} (packet {})", Shown(packet))))?;
        }
        let GdbStubStateMachine::Idle(idle) = &mut machine else { return Err(lost()) };
        let captured = std::mem::take(&mut idle.borrow_conn().bytes);
        *place = Some(machine);

        let mut link = self.link.borrow_mut();
        if let Some(e) = link.broken.take() {
            return Err(e);
        }
        match link.stop.take() {
            Some(Stop::NewPacket) => return Ok(None),
            Some(Stop::Closed) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Some(Stop::Interrupt) | None => {}
        }
        payload(&captured).map(|reply| Some(reply.to_vec())).ok_or_else(lost)
    }
}

/// What gdbstub wrote, held back until the frame is whole.
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    link: Link,
}

impl Connection for Outbox {
    type Error = Infallible;

    fn write(&mut self, byte: u8) -> Result<(), Infallible> {
        self.bytes.push(byte);
        Ok(())
    }

    fn write_all(&mut self, buf: &[u8]) -> Result<(), Infallible> {
        self.bytes.extend_from_slice(buf);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        let mut link = self.link.borrow_mut();
        if !link.live {
            return Ok(());
        }
        let unwanted = matches!(link.stop, Some(Stop::NewPacket | Stop::Closed)) || link.broken.is_some();
        if !unwanted
            && let Some(reply) = payload(&self.bytes)
            && let Err(e) = link.wire.send(reply)
        {
            link.broken = Some(e);
        }
        self.bytes.clear();
        Ok(())
    }
}

/// The payload of the one frame in `captured`: gdbstub writes its `+` before it.
fn payload(captured: &[u8]) -> Option<&[u8]> {
    let frame = captured.strip_prefix(b"+").unwrap_or(captured).strip_prefix(b"$")?;
    frame.get(..frame.len().checked_sub(3)?)
}

/// A packet for the log: short and printable.
struct Shown<'a>(&'a [u8]);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const SHOWN: usize = 80;
        write!(f, "{}", self.0.get(..SHOWN).unwrap_or(self.0).escape_ascii())?;
        if self.0.len() > SHOWN { write!(f, "... ({} bytes)", self.0.len()) } else { Ok(()) }
    }
}
