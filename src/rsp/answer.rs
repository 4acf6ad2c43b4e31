//! What becomes of a packet, and the forms that its arguments have.

use super::frame::{PACKET_SIZE, number};

/// What becomes of a packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// This, escaped already where it is binary.
    Reply(Vec<u8>),
    /// gdbstub's answer to this packet, for which it needs so much room.
    Pass { packet: Vec<u8>, room: usize },
    /// Nothing at all.
    None,
    /// `OK`, and no acknowledgements from then on.
    NoMoreAcks,
    /// This, and the end of the session.
    End(Option<Vec<u8>>),
}

impl Answer {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Reply(text.into().into_bytes())
    }

    pub(crate) fn ok() -> Self {
        Self::text("OK")
    }

    pub(crate) fn error() -> Self {
        Self::text("E01")
    }

    pub(crate) fn errno(number: u8) -> Self {
        Self::text(format!("E{number:02x}"))
    }

    pub(crate) fn pass(packet: impl Into<Vec<u8>>, room: usize) -> Self {
        Self::Pass { packet: packet.into(), room }
    }

    /// Not supported.
    pub(crate) fn empty() -> Self {
        Self::Reply(Vec::new())
    }
}

/// Most bytes of one `m`, `x` or `qXfer`: they fit into a packet even as
/// hexadecimal, or if each must be escaped.
pub(crate) const PIECE: usize = PACKET_SIZE / 2 - 16;

/// A thread id as clients write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Id {
    /// 0 or -1: whichever.
    Any,
    /// This one.
    One(u64),
}

impl Id {
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        if let Some(negative) = text.strip_prefix(b"-") {
            return number(negative).map(|_| Self::Any);
        }
        Some(match number(text)? {
            0 => Self::Any,
            n => Self::One(n),
        })
    }
}

/// `TID`, `pPID` or `pPID.TID`.
pub(crate) fn thread_id(text: &[u8]) -> Option<(Id, Id)> {
    let Some(text) = text.strip_prefix(b"p") else { return Some((Id::Any, Id::parse(text)?)) };
    match split(text, b'.') {
        Some((pid, tid)) => Some((Id::parse(pid)?, Id::parse(tid)?)),
        None => Some((Id::parse(text)?, Id::Any)),
    }
}

/// Both sides of the first `at`.
pub(crate) fn split(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let place = text.iter().position(|&b| b == at)?;
    Some((text.get(..place)?, text.get(place + 1..)?))
}
