//! Which packets of a client still want an answer.
//!
//! The protocol was made for serial lines, which lose bytes. TCP, Unix sockets
//! and pipes lose none, but either side may be late: a stopped or swapped-out
//! server, a slow network. gdb sends a packet again when its `+` does not come
//! in `remotetimeout` (2 s), up to three times; then asks for the reply by `-`,
//! also three times, and goes on without it, with a `+` that acknowledges
//! nothing (gdb 13 and 18, `putpkt_binary` and `getpkt`). Whoever answered all of
//! that would be one reply ahead from then on, and gdb would show the answer to
//! one question as that to the next. So, as nothing is ever lost here:
//!
//! - a `-` asks for what is on its way already: nothing is sent again;
//! - a packet equal to the last one, with no `+` between them, is a copy;
//! - another packet, when the last one has no answer yet, means that the client
//!   waits for that one no longer: it is carried out and not answered;
//! - another packet, when the last reply is on its way but not acknowledged: the
//!   client may or may not take that reply for this packet's. It is refused by a
//!   `-`. gdb sends it again if it still waits, which brings both together.
//!
//! A client that acknowledges nothing, as scripts do that write several packets
//! at once, is answered packet by packet.

use std::collections::VecDeque;

use super::frame::Event;

/// gdb gives a reply up when it has refused this many.
const GIVES_UP: u32 = 3;
/// So often is a packet refused for the sake of an older reply. gdb sends it
/// three times more; a client that does not acknowledge every reply is served then.
const REFUSALS: u32 = 3;

/// What is to be done at once about something that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reaction {
    /// Nothing.
    None,
    /// A `-` is to be sent.
    Refuse,
    /// The client can no longer know which reply belongs to which packet.
    Lost,
}

/// A packet that waits for its turn.
#[derive(Debug)]
struct Waiting {
    /// `None` is one that was too long.
    packet: Option<Vec<u8>>,
    /// The client no longer waits for the reply to the packet before it.
    instead: bool,
}

/// What one client has sent and is owed.
#[derive(Debug)]
pub(crate) struct Line {
    acks: bool,
    lldb: bool,
    queue: VecDeque<Waiting>,
    /// A packet is at work: it has no reply yet.
    at_work: bool,
    /// The packet that arrived last got its reply.
    replied: bool,
    /// That packet.
    last: Option<Vec<u8>>,
    /// A `+` came since then, for a reply or a part of it.
    acknowledged: bool,
    /// A `+` came ever.
    acknowledges: bool,
    /// `-` that came since the last packet arrived.
    refused: u32,
    /// `-` that were sent since then.
    refusals: u32,
    /// The client gave up waiting for the reply to the last packet.
    gave_up: bool,
    interrupted: bool,
}

impl Line {
    pub(crate) fn new() -> Self {
        Self {
            acks: true,
            lldb: false,
            queue: VecDeque::new(),
            at_work: false,
            replied: false,
            last: None,
            acknowledged: false,
            acknowledges: false,
            refused: 0,
            refusals: 0,
            gave_up: false,
            interrupted: false,
        }
    }

    pub(crate) fn acks(&self) -> bool {
        self.acks
    }

    /// No more acknowledgements, either way.
    pub(crate) fn stop_acks(&mut self) {
        self.acks = false;
    }

    /// The client is LLDB, which sends nothing again.
    pub(crate) fn is_lldb(&mut self) {
        self.lldb = true;
    }

    /// Whether no packet waits for its turn.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The next packet to be carried out.
    pub(crate) fn next(&mut self) -> Option<Option<Vec<u8>>> {
        let waiting = self.queue.pop_front()?;
        (self.at_work, self.replied, self.interrupted) = (true, false, false);
        Some(waiting.packet)
    }

    /// The packet at work is done, with or without a reply.
    pub(crate) fn done(&mut self, replied: bool) {
        (self.at_work, self.replied) = (false, replied);
    }

    /// Whether the client waits for the packet at work no longer.
    pub(crate) fn superseded(&self) -> bool {
        match self.queue.front() {
            Some(next) => next.instead,
            None => self.given_up(),
        }
    }

    /// Whether the client asked to interrupt the packet at work.
    pub(crate) fn interrupted(&self) -> bool {
        self.interrupted
    }

    /// Takes what came from the client.
    pub(crate) fn take(&mut self, event: Event) -> Reaction {
        match event {
            Event::Ack => {
                self.acknowledges = true;
                match self.refused >= GIVES_UP && !self.gave_up {
                    true => self.gave_up = true,
                    false => self.acknowledged = true,
                }
                Reaction::None
            }
            Event::Nack => {
                self.refused = self.refused.saturating_add(1);
                // Nothing makes it pass over the reply that is on its way.
                if !self.acks && self.refused == GIVES_UP && self.replied {
                    Reaction::Lost
                } else {
                    Reaction::None
                }
            }
            // Between packets gdb would take an answer for the next reply.
            Event::Interrupt => {
                self.interrupted |= self.at_work && self.queue.is_empty();
                Reaction::None
            }
            Event::Packet { good: false, .. } if self.acks => Reaction::Refuse,
            Event::Packet { body, .. } => self.packet(Some(body)),
            Event::TooLong => self.packet(None),
        }
    }

    /// Whether the client stopped waiting for the reply to the last packet.
    fn given_up(&self) -> bool {
        self.gave_up || !self.acks && self.refused >= GIVES_UP
    }

    fn packet(&mut self, packet: Option<Vec<u8>>) -> Reaction {
        let unacknowledged = self.acks && self.acknowledges && !self.acknowledged && self.last.is_some();
        if unacknowledged && !self.gave_up && self.last == packet {
            return Reaction::None;
        }
        if unacknowledged && self.replied && self.queue.is_empty() && self.refusals < REFUSALS {
            self.refusals += 1;
            return if self.lldb { Reaction::Lost } else { Reaction::Refuse };
        }
        let instead = unacknowledged || self.given_up();
        self.last.clone_from(&packet);
        self.queue.push_back(Waiting { packet, instead });
        (self.acknowledged, self.gave_up, self.refused, self.refusals) = (false, false, 0, 0);
        Reaction::None
    }
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
