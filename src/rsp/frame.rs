//! Frames: `$body#cs`, acknowledgements and the interrupt byte, as bytes in and
//! events out; no input or output happens here.
//!
//! Source: the gdb manual, "Remote Protocol" / "Overview". The body of a frame
//! is escaped with `}` (the next byte was xored with 0x20) and summed before it
//! is unescaped. Run-length coding (`0*~`: another 97 zeros) is sent where much of what
//! is sent is padding, see [`Runs`].

use crate::hex;

/// Longest frame body that is taken from a client, before unescaping. It is
/// twice what [`PACKET_SIZE`] invites.
pub(crate) const FRAME_CAP: usize = 0x2_0000;

/// The `PacketSize` that is announced: the longest frame a client should send
/// and the longest reply it gets. gdb allocates this much and fills it when it
/// reads files ahead; 64 KiB was the best of those measured.
pub(crate) const PACKET_SIZE: usize = 0x1_0000;

/// What a client sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A packet with its body unescaped. `good` is false when the sum is wrong.
    Packet { body: Vec<u8>, good: bool },
    /// A packet beyond [`FRAME_CAP`]; its bytes were dropped.
    TooLong,
    /// `+`
    Ack,
    /// `-`
    Nack,
    /// `\x03` between packets.
    Interrupt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Between,
    Body,
    Overlong,
    Sum(Option<u8>),
    OverlongSum(bool),
}

/// Cuts a stream of bytes into [`Event`]s. Garbage between frames is skipped.
#[derive(Debug)]
pub(crate) struct Framer {
    input: Vec<u8>,
    at: usize,
    state: State,
    body: Vec<u8>,
}

impl Framer {
    pub(crate) fn new() -> Self {
        Self { input: Vec::new(), at: 0, state: State::Between, body: Vec::new() }
    }

    /// Appends what was read.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        if self.at == self.input.len() {
            self.input.clear();
            self.at = 0;
        }
        self.input.extend_from_slice(bytes);
    }

    /// The next event, or `None` when more bytes are needed.
    pub(crate) fn next(&mut self) -> Option<Event> {
        while let Some(&byte) = self.input.get(self.at) {
            self.at += 1;
            if let Some(event) = self.step(byte) {
                return Some(event);
            }
        }
        None
    }

    fn step(&mut self, byte: u8) -> Option<Event> {
        match (self.state, byte) {
            (State::Between, b'$') => self.begin(),
            (State::Between, b'+') => return Some(Event::Ack),
            (State::Between, b'-') => return Some(Event::Nack),
            (State::Between, 3) => return Some(Event::Interrupt),
            (State::Between, _) => {}
            // A frame never holds a bare `$`: the one before it was cut off.
            (State::Body | State::Sum(_) | State::Overlong, b'$') => self.begin(),
            (State::Body, b'#') => self.state = State::Sum(None),
            (State::Body, _) => {
                if self.body.len() < FRAME_CAP {
                    self.body.push(byte);
                } else {
                    self.body = Vec::new();
                    self.state = State::Overlong;
                }
            }
            (State::Overlong, b'#') => self.state = State::OverlongSum(false),
            (State::Overlong, _) => {}
            (State::OverlongSum(false), _) => self.state = State::OverlongSum(true),
            (State::OverlongSum(true), _) => {
                self.state = State::Between;
                return Some(Event::TooLong);
            }
            (State::Sum(None), _) => self.state = State::Sum(Some(byte)),
            (State::Sum(Some(high)), low) => {
                self.state = State::Between;
                let sum = self.body.iter().fold(0u8, |sum, b| sum.wrapping_add(*b));
                let said = hex::digit(high).zip(hex::digit(low)).map(|(h, l)| h << 4 | l);
                let body = unescape(&self.body);
                self.body.clear();
                return Some(Event::Packet { body, good: said == Some(sum) });
            }
        }
        None
    }

    fn begin(&mut self) {
        self.body.clear();
        self.state = State::Body;
    }
}

/// Appends `payload`, which is escaped already, as a frame.
pub(crate) fn frame(out: &mut Vec<u8>, payload: &[u8]) {
    enclose(out, b'$', payload);
}

/// Appends `payload` as a notification, which gdb neither acknowledges nor takes
/// for a reply.
pub(crate) fn notification(out: &mut Vec<u8>, payload: &[u8]) {
    enclose(out, b'%', payload);
}

fn enclose(out: &mut Vec<u8>, mark: u8, payload: &[u8]) {
    let sum = payload.iter().fold(0u8, |sum, b| sum.wrapping_add(*b));
    out.push(mark);
    out.extend_from_slice(payload);
    out.push(b'#');
    hex::push(out, &[sum]);
}

/// Whether a byte of binary data is escaped. The first four must be. The others
/// would mean something in the second half of a frame whose first half gdb has
/// dropped: a notification, acknowledgements.
fn special(byte: u8) -> bool {
    matches!(byte, b'#' | b'$' | b'}' | b'*') || meaningful(byte)
}

fn meaningful(byte: u8) -> bool {
    matches!(byte, b'%' | b'+' | b'-')
}

/// Escapes what [`escape`] does and gdbstub does not, from `start` on.
pub(crate) fn escape_more(reply: &[u8], start: usize) -> Vec<u8> {
    let (head, data) = reply.split_at_checked(start).unwrap_or((reply, &[]));
    let mut out = Vec::with_capacity(reply.len() + reply.len() / 32);
    out.extend_from_slice(head);
    for &byte in data {
        match meaningful(byte) {
            true => out.extend_from_slice(&[b'}', byte ^ 0x20]),
            false => out.push(byte),
        }
    }
    out
}

/// Appends `data`, escaped.
pub(crate) fn escape(out: &mut Vec<u8>, data: &[u8]) {
    escape_within(out, data, usize::MAX, Runs::AsTheyAre);
}

/// What becomes of runs of equal bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runs {
    /// They are sent, as all else.
    AsTheyAre,
    /// For gdb: one of them, `*` and how many more, 29 added. It takes its time for each byte
    /// that comes (some 20 ns), and an ELF file is padded, in its tables and to pages.
    Shortened,
}

/// The shortest run that pays off, and the longest whose count is printable.
const RUN: std::ops::RangeInclusive<usize> = 4..=98;

/// Appends `data`, escaped, as far as that fits into `room`, in which a run takes the place of
/// all its bytes: how many of the data's bytes did.
pub(crate) fn escape_within(out: &mut Vec<u8>, data: &[u8], room: usize, runs: Runs) -> usize {
    let (mut rest, mut room) = (data, room);
    loop {
        let (plain, behind) = rest.split_at(plain(rest, runs).min(room));
        out.extend_from_slice(plain);
        room -= plain.len();
        let Some((&byte, one_less)) = behind.split_first() else { return data.len() };
        if special(byte) {
            if room < 2 {
                return data.len() - behind.len();
            }
            out.extend_from_slice(&[b'}', byte ^ 0x20]);
            room -= 2;
            rest = one_less;
            continue;
        }
        let most = room.min(*RUN.end());
        let run = behind.iter().take(most).take_while(|&&b| b == byte).count();
        let Some((run, code)) = (*RUN.start()..=run).rev().find_map(|run| Some((run, code(run)?))) else {
            // It is plain after all: the room ends within what would be a run.
            let (tail, behind) = behind.split_at(run);
            out.extend_from_slice(tail);
            return data.len() - behind.len();
        };
        out.extend_from_slice(&[byte, b'*', code]);
        room -= run;
        rest = behind.get(run..).unwrap_or_default();
    }
}

/// How a run of so many is written; not every count can be.
fn code(run: usize) -> Option<u8> {
    u8::try_from(run + 28).ok().filter(|&code| code == b'*' || !special(code))
}

/// How many bytes at the start of `data` go out as they are.
fn plain(data: &[u8], runs: Runs) -> usize {
    /// So many bytes are looked at in one step, where there is little to find.
    const STEP: usize = 32;
    const AHEAD: usize = *RUN.start() - 1;
    let shorten = runs == Runs::Shortened;
    let starts_run =
        |w: &[u8]| matches!(w, [a, b, c, d, ..] if shorten & (((a ^ b) | (b ^ c) | (c ^ d)) == 0));
    let by_byte = |data: &[u8], most: usize| {
        let whole = data
            .windows(AHEAD + 1)
            .take(most)
            .position(|w| starts_run(w) || w.first().is_some_and(|&b| special(b)));
        whole.or_else(|| {
            let tail = data.len().saturating_sub(AHEAD).min(most);
            data.get(tail..)
                .unwrap_or_default()
                .iter()
                .take(most - tail)
                .position(|&b| special(b))
                .map(|i| tail + i)
        })
    };
    // In tables it comes every few bytes, in text hardly ever.
    if let Some(at) = by_byte(data, STEP) {
        return at;
    }
    let mut at = STEP.min(data.len());
    let text = data.get(at..).unwrap_or_default();
    for bytes in text.windows(STEP + AHEAD).step_by(STEP) {
        let found = bytes.iter().take(STEP).fold(false, |found, &b| found | special(b));
        if bytes.windows(AHEAD + 1).fold(found, |found, w| found | starts_run(w)) {
            break;
        }
        at += STEP;
    }
    let rest = data.get(at..).unwrap_or_default();
    at + by_byte(rest, rest.len()).unwrap_or(rest.len())
}

fn unescape(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'}' => out.extend(bytes.next().map(|b| b ^ 0x20)),
            _ => out.push(byte),
        }
    }
    out
}

/// The number that 1 to 16 hexadecimal digits (and nothing else) spell.
pub(crate) fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 16 {
        return None;
    }
    digits.iter().try_fold(0u64, |value, d| Some(value << 4 | u64::from(hex::digit(*d)?)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn events(bytes: &[u8]) -> Vec<Event> {
        let mut framer = Framer::new();
        framer.feed(bytes);
        std::iter::from_fn(|| framer.next()).collect()
    }

    fn good(body: &[u8]) -> Event {
        Event::Packet { body: body.to_vec(), good: true }
    }

    #[test]
    fn cuts_frames_acks_and_interrupts() {
        assert_eq!(
            events(b"garbage+$g#67\x03-$m0,4#fd"),
            vec![Event::Ack, good(b"g"), Event::Interrupt, Event::Nack, good(b"m0,4")]
        );
    }

    #[test]
    fn a_wrong_sum_is_told() {
        assert_eq!(events(b"$g#68"), vec![Event::Packet { body: b"g".to_vec(), good: false }]);
        assert_eq!(events(b"$g#zz"), vec![Event::Packet { body: b"g".to_vec(), good: false }]);
    }

    #[test]
    fn a_new_dollar_restarts() {
        assert_eq!(events(b"$m123$g#67"), vec![good(b"g")]);
        assert_eq!(events(b"$m123#$g#67"), vec![good(b"g")]);
    }

    #[test]
    fn too_long_is_one_event_and_the_stream_goes_on() {
        let mut bytes = b"$".to_vec();
        bytes.resize(FRAME_CAP + 100, b'A');
        bytes.extend_from_slice(b"#00$g#67");
        assert_eq!(events(&bytes), vec![Event::TooLong, good(b"g")]);
    }

    #[test]
    fn escapes_both_ways() {
        let mut out = Vec::new();
        escape(&mut out, b"a#$}*b");
        assert_eq!(out, b"a}\x03}\x04}]}\nb");
        let mut framed = Vec::new();
        frame(&mut framed, &out);
        assert_eq!(events(&framed), vec![good(b"a#$}*b")]);
        let within = |room| {
            let mut out = Vec::new();
            (escape_within(&mut out, b"a#$b", room, Runs::AsTheyAre), out)
        };
        assert_eq!(within(4), (2, b"a}\x03".to_vec()));
        assert_eq!(within(2), (1, b"a".to_vec()));
        assert_eq!(within(6), (4, b"a}\x03}\x04b".to_vec()));
        assert_eq!(within(0), (0, Vec::new()));
        assert_eq!(escape_more(b"la}\x03-%", 1), b"la}\x03}\x0d}\x05");
    }

    /// What gdb makes of bytes with [`Runs::Shortened`], escaped still.
    fn lengthen(short: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut bytes = short.iter();
        while let Some(&byte) = bytes.next() {
            match byte {
                b'*' => {
                    let code = *bytes.next().unwrap();
                    assert!((b' '..=b'~').contains(&code) && !b"#$%+-".contains(&code));
                    out.extend(std::iter::repeat_n(*out.last().unwrap(), usize::from(code - 29)));
                }
                _ => out.push(byte),
            }
        }
        out
    }

    fn shortened(data: &[u8], room: usize) -> (usize, Vec<u8>) {
        let mut out = Vec::new();
        (escape_within(&mut out, data, room, Runs::Shortened), out)
    }

    #[test]
    fn runs_are_shortened() {
        let short = |data: &[u8]| shortened(data, usize::MAX).1;
        assert_eq!(short(b"3;000"), b"3;000");
        assert_eq!(short(b"4;0000a"), b"4;0* a");
        assert_eq!(short(b"####"), b"}\x03}\x03}\x03}\x03");
        for n in 0..300 {
            let run = [vec![b'x'; n], b"yz".to_vec()].concat();
            let short = short(&run);
            assert_eq!(lengthen(&short), run);
            assert!(short.len() <= 3 + 4 + 3 * n.div_ceil(95), "{n}");
        }
        assert_eq!(shortened(b"a00000", 4), (4, b"a000".to_vec()));
        assert_eq!(shortened(b"a00000", 5), (5, b"a0* ".to_vec()));
    }

    #[test]
    fn numbers() {
        assert_eq!(number(b"ffffffffffffffff"), Some(u64::MAX));
        assert_eq!(number(b"10000000000000000"), None);
        assert_eq!(number(b""), None);
        assert_eq!(number(b"-1"), None);
    }

    proptest! {
        #[test]
        fn never_panics(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..20)) {
            let mut framer = Framer::new();
            for chunk in chunks {
                framer.feed(&chunk);
                while framer.next().is_some() {}
            }
        }

        #[test]
        fn what_is_shortened_comes_back(
            runs in proptest::collection::vec((any::<u8>(), prop_oneof![4 => 1usize..3, 1 => 0usize..260]), 0..200),
            room in prop_oneof![Just(usize::MAX), 0usize..2000],
        ) {
            let data: Vec<u8> = runs.into_iter().flat_map(|(byte, n)| std::iter::repeat_n(byte, n)).collect();
            let (fits, out) = shortened(&data, room);
            let mut escaped = Vec::new();
            prop_assert_eq!(escape_within(&mut escaped, &data, room, Runs::AsTheyAre), fits);
            prop_assert_eq!(lengthen(&out), escaped);
        }

        #[test]
        fn frames_come_back(body in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..300) {
            let mut escaped = Vec::new();
            escape(&mut escaped, &body);
            let mut bytes = Vec::new();
            frame(&mut bytes, &escaped);
            let (a, b) = bytes.split_at(cut.min(bytes.len()));
            let mut framer = Framer::new();
            framer.feed(a);
            let first = framer.next();
            framer.feed(b);
            let event = first.or_else(|| framer.next());
            prop_assert_eq!(event, Some(Event::Packet { body, good: true }));
        }
    }
}
