//! One client: the loop that takes its packets one at a time.

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
use super::answer::Answer;
use super::frame;
use super::served::Served;
use super::state::{Link, LinkState, State};
use super::tally::Tally;
use super::wire::{Stop, Wire};

/// Buffers of the two state machines: gdbstub uses one buffer for the packet and
/// for what it reads, and looks through all of it after each packet. So the
/// many small packets have a machine of their own; the other takes the largest.
/// (None keeps anything from one packet to the next: the selection is ours.)
const SMALL_BUFFER: usize = 0x800;
const LARGE_BUFFER: usize = frame::FRAME_CAP + frame::PACKET_SIZE;
/// What a frame needs around the packet and the room.
const MARGIN: usize = 0x20;

type Machine = GdbStubStateMachine<'static, State, Outbox>;

/// One client's session.
pub(crate) struct Session {
    link: Link,
    state: State,
    small: Option<Machine>,
    large: Option<Machine>,
    tally: Tally,
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
        Ok(Self { link, state, small, large, tally: Tally::default() })
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
                    self.tally.packet(&packet);
                    self.state.answer(&packet)
                }
                None => {
                    debug!("a packet over {:#x} bytes was refused", frame::FRAME_CAP);
                    Answer::Reply(b"E01".to_vec())
                }
            };
            if self.state.client.lldb {
                self.link.borrow_mut().wire.is_lldb();
            }
            let reply = match answer {
                Answer::Reply(reply) => Some(reply),
                Answer::Pass { packet, room } => self.pass(&packet, room)?,
                Answer::None => None,
                Answer::NoMoreAcks => {
                    self.send(b"OK")?;
                    self.link.borrow_mut().wire.stop_acks();
                    continue;
                }
                Answer::End(reply) => {
                    let sent = reply.map_or(Ok(()), |reply| self.send(&reply));
                    self.link.borrow_mut().wire.linger();
                    return sent;
                }
            };
            match reply {
                Some(reply) => self.send(&reply)?,
                None => self.link.borrow_mut().wire.no_reply()?,
            }
        }
    }

    fn send(&mut self, reply: &[u8]) -> io::Result<()> {
        trace!(reply = %Shown(reply), "to the client");
        self.tally.reply(reply);
        self.link.borrow_mut().wire.reply(reply)
    }

    /// Lets gdbstub answer `packet`, which the front has checked. `None` when
    /// no reply is to be sent.
    fn pass(&mut self, packet: &[u8], room: usize) -> io::Result<Option<Vec<u8>>> {
        let lost = || io::Error::other("gdbstub left its idle state");
        let small = packet.len().saturating_add(room) <= SMALL_BUFFER - MARGIN;
        let place = if small { &mut self.small } else { &mut self.large };
        let mut machine = place.take().ok_or_else(lost)?;
        let mut framed = Vec::with_capacity(packet.len() + 4);
        frame::frame(&mut framed, packet);
        for byte in framed {
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
        let reply = payload(&captured).ok_or_else(lost)?;
        let start = match packet {
            [b'q', b'X', ..] => 1,
            _ => reply.len(),
        };
        Ok(Some(frame::escape_more(reply, start)))
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
            && let Err(e) = link.wire.part(reply)
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
