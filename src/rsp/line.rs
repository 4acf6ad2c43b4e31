//! Which packets of a client still want an answer.
//!
//! The protocol was made for serial lines, which lose bytes. TCP, Unix sockets
//! and pipes lose none, but either side may be late: a stopped or swapped-out
//! server, a slow network. gdb sends a packet again when its `+` does not come
//! in `remotetimeout` (2 s), up to three times; then refuses the reply by `-` each
//! time it does not come whole in that time, and after the third goes on without
//! it, with a `+` that acknowledges nothing (gdb 13 and 18, `putpkt_binary` and
//! `getpkt`). Whoever answered all of that would be one reply ahead from then on,
//! and gdb would show the answer to one question as that to the next. So:
//!
//! - a packet equal to the last one, with no `+` between them, is a copy;
//! - another packet, when the last one has no answer yet, means that the client
//!   waits for that one no longer: it is carried out and not answered;
//! - a `-` asks for what is on its way already. Only a long reply is sent again: gdb
//!   may have dropped the half of it that came in time. If it did not, it passes
//!   over the second, and acknowledges it after its next packet: one `+` more than
//!   is due may come from then on;
//! - another packet, when the last reply is on its way but not acknowledged: the
//!   client may or may not take that reply for this packet's. It is refused by a
//!   `-`. gdb sends it again if it still waits, which brings both together.
//!
//! - a reply that was refused twice before it was ready waits a moment for the third `-`,
//!   with which it is given up: the server may have stood still meanwhile.
//!
//! Without acknowledgements there is nothing of this to go by, and a reply that is
//! given up under way ends the session.
//!
//! A client that acknowledges nothing, as scripts do that write several packets
//! at once, is answered packet by packet.

use std::collections::VecDeque;

use super::frame::Event;

/// gdb gives a reply up when it has refused this many.
const GIVES_UP: u32 = 3;
/// So often is a packet refused for the sake of an older reply. gdb sends it
/// three times more; a client that does not acknowledge every reply is served then, or
/// after twice as many refusals of whatever it sends.
const REFUSALS: u32 = 3;

/// Whether this packet runs a `monitor` command. gdb never gives its output up: it
/// waits anew, until its user presses Ctrl-C (`remote_rcmd`).
pub(crate) fn is_command(packet: &[u8]) -> bool {
    packet.starts_with(b"qRcmd,")
}

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
    /// `+` that came since then, for a reply or a part of it.
    acknowledged: u32,
    /// So many of these may be for frames that were sent before.
    doubtful: u32,
    /// Frames that were sent for it, and those of them that were sent once more.
    frames: u32,
    again: u32,
    /// A `+` came ever.
    acknowledges: bool,
    /// `-` that came since the last packet arrived.
    refused: u32,
    /// `-` that were sent since then.
    refusals: u32,
    /// The packet that was refused last, and how often in a row.
    turned_away: Option<Vec<u8>>,
    in_a_row: u32,
    /// The client gave up waiting for the reply to the last packet.
    gave_up: bool,
    interrupted: bool,
    /// The last frame was refused, and what came since leaves it wanted.
    wanted_again: bool,
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
            acknowledged: 0,
            doubtful: 0,
            frames: 0,
            again: 0,
            acknowledges: false,
            refused: 0,
            refusals: 0,
            turned_away: None,
            in_a_row: 0,
            gave_up: false,
            interrupted: false,
            wanted_again: false,
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

    /// A frame goes out.
    pub(crate) fn sent(&mut self) {
        self.frames = self.frames.saturating_add(1);
    }

    /// The last frame goes out once more.
    pub(crate) fn sent_again(&mut self) {
        self.sent();
        self.again = self.again.saturating_add(1);
    }

    /// Whether the last frame is to be sent once more, if it may have come by halves. To be
    /// asked when all is taken that has come: behind a `-` may lie word that the client
    /// waits no longer, and the frame would be taken for the next reply.
    pub(crate) fn wanted_again(&mut self) -> bool {
        std::mem::take(&mut self.wanted_again)
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

    /// Whether word may be on its way that the client has given up the reply to the packet at
    /// work: it has refused it so often that once more is the last time.
    pub(crate) fn is_doubted(&self) -> bool {
        self.refused + 1 >= GIVES_UP && !self.given_up()
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
                if self.refused < GIVES_UP || self.gave_up {
                    self.acknowledged = self.acknowledged.saturating_add(1);
                } else if self.last.as_deref().is_some_and(is_command) {
                    self.refused = 0;
                } else {
                    self.gave_up = true;
                }
                Reaction::None
            }
            Event::Nack => {
                self.refused = self.refused.saturating_add(1);
                let idle = self.replied && self.queue.is_empty();
                self.wanted_again = self.acks && idle && self.refused < GIVES_UP;
                // Nothing makes it pass over the reply that is on its way.
                match !self.acks && idle && self.refused == GIVES_UP {
                    true => Reaction::Lost,
                    false => Reaction::None,
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
        self.wanted_again = false;
        let certain = self.acknowledged > self.doubtful;
        let crosses = self.acks && self.acknowledges && !certain && self.last.is_some();
        let idle = self.replied && self.queue.is_empty();
        let equal = !self.gave_up && self.last == packet;
        if crosses && equal && self.acknowledged == 0 {
            return Reaction::None;
        }
        // Of this packet: one like it that was answered has its own.
        let in_a_row = if crosses && self.turned_away == packet { self.in_a_row } else { 0 };
        if crosses && (idle || equal) && in_a_row < REFUSALS && self.refusals < 2 * REFUSALS {
            self.refusals += 1;
            (self.turned_away, self.in_a_row) = (packet, in_a_row + 1);
            return if self.lldb { Reaction::Lost } else { Reaction::Refuse };
        }
        let instead = crosses || self.given_up();
        let expected = self.frames.saturating_add(self.doubtful).saturating_sub(self.acknowledged);
        self.doubtful = match idle {
            // Whoever sends it a fourth time has nothing else to acknowledge.
            _ if in_a_row == REFUSALS => 0,
            true => expected.min(self.again.saturating_add(self.doubtful)),
            false => self.doubtful.saturating_sub(self.acknowledged),
        };
        self.last.clone_from(&packet);
        self.queue.push_back(Waiting { packet, instead });
        (self.acknowledged, self.frames, self.again) = (0, 0, 0);
        (self.refused, self.refusals, self.gave_up) = (0, 0, false);
        (self.turned_away, self.in_a_row) = (None, 0);
        Reaction::None
    }
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
