//! How many packets a client sent, of which kind, and how much it was sent: the log's
//! (`-vv`) when it has left. What makes a client slow is mostly seen in this.

use std::collections::BTreeMap;

use tracing::{Level, debug, enabled};

/// Kinds that are told apart; a client may make up more.
const KINDS: usize = 64;
/// Longest name of a kind.
const NAME: usize = 32;

/// What one client asked for.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    kinds: BTreeMap<Vec<u8>, u64>,
    others: u64,
    bytes: u64,
}

impl Tally {
    pub(crate) fn packet(&mut self, packet: &[u8]) {
        if !enabled!(Level::DEBUG) {
            return;
        }
        let (kind, known) = (kind(packet), self.kinds.len());
        match self.kinds.get_mut(kind) {
            Some(count) => *count += 1,
            None if known < KINDS => {
                self.kinds.insert(kind.to_vec(), 1);
            }
            None => self.others += 1,
        }
    }

    pub(crate) fn reply(&mut self, reply: &[u8]) {
        self.bytes = self.bytes.saturating_add(reply.len() as u64);
    }
}

/// `qXfer:OBJECT`, `vFile:OPERATION`, the name of another packet that has one, else its
/// letter.
fn kind(packet: &[u8]) -> &[u8] {
    let named = matches!(packet.first(), Some(b'q' | b'Q' | b'v' | b'j'));
    let parts = if packet.starts_with(b"qXfer:") || packet.starts_with(b"vFile:") { 2 } else { 1 };
    let end = packet.iter().enumerate().filter(|(_, b)| matches!(b, b':' | b',' | b';')).nth(parts - 1);
    let end = if named { end.map_or(packet.len(), |(at, _)| at) } else { 1 };
    packet.get(..end.min(NAME)).unwrap_or(packet)
}

impl Drop for Tally {
    fn drop(&mut self) {
        let all: u64 = self.others + self.kinds.values().sum::<u64>();
        if all == 0 {
            return;
        }
        let mut kinds: Vec<_> =
            self.kinds.iter().map(|(kind, count)| (*count, kind.escape_ascii())).collect();
        kinds.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
        let mut text: Vec<String> = kinds.iter().map(|(count, kind)| format!("{kind} {count}")).collect();
        text.extend((self.others > 0).then(|| format!("others {}", self.others)));
        debug!("{all} packets, {} bytes of replies: {}", self.bytes, text.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_packets() {
        let kinds =
            |packets: &[&str]| packets.iter().map(|p| kind(p.as_bytes()).to_vec()).collect::<Vec<_>>();
        assert_eq!(
            kinds(&[
                "m12,4",
                "qXfer:threads:read::0,1000",
                "vFile:pread:0,1,2",
                "qfThreadInfo",
                "",
                "vCont;c"
            ]),
            [&b"m"[..], b"qXfer:threads", b"vFile:pread", b"qfThreadInfo", b"", b"vCont"]
        );
    }
}
