//! The line against gdb's own loops (`putpkt_binary` and `getpkt` of gdb 13), in
//! made-up time: a server that stops for as long as it likes, a network that
//! delays, a user who presses Ctrl-C.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::rsp::frame::{self, Framer};

fn packet(body: &[u8]) -> Event {
    Event::Packet { body: body.to_vec(), good: true }
}

/// A line on which `p` was asked and is at work.
fn asked(p: &[u8]) -> Line {
    let mut line = Line::new();
    assert_eq!(line.take(Event::Ack), Reaction::None);
    assert_eq!(line.take(packet(p)), Reaction::None);
    assert_eq!(line.next(), Some(Some(p.to_vec())));
    line
}

/// The same, and its reply was sent.
fn answered(p: &[u8]) -> Line {
    let mut line = asked(p);
    line.done(true);
    line
}

#[test]
fn copies_and_refusals_are_passed_over() {
    let mut line = asked(b"m0,4");
    assert_eq!(line.take(packet(b"m0,4")), Reaction::None);
    assert_eq!(line.take(Event::Nack), Reaction::None);
    assert!(line.is_empty() && !line.superseded());
    line.done(true);
    assert_eq!(line.take(packet(b"m0,4")), Reaction::None);
    assert!(line.is_empty(), "the reply is not acknowledged: still a copy");
    line.take(Event::Ack);
    line.take(packet(b"m0,4"));
    assert_eq!(line.next(), Some(Some(b"m0,4".to_vec())), "a new question");
}

#[test]
fn what_is_no_longer_waited_for_is_superseded() {
    let mut line = asked(b"g");
    line.take(packet(b"m0,4"));
    assert!(line.superseded(), "Ctrl-C");
    let mut line = asked(b"g");
    (0..3).for_each(|_| assert_eq!(line.take(Event::Nack), Reaction::None));
    assert!(!line.superseded());
    line.take(Event::Ack);
    assert!(line.superseded(), "given up");
    line.take(packet(b"g"));
    assert!(line.superseded(), "given up, and asked anew");
}

#[test]
fn a_packet_that_crosses_a_reply_is_refused_until_that_is_acknowledged() {
    let mut line = answered(b"g");
    assert_eq!(line.take(packet(b"m0,4")), Reaction::Refuse);
    line.take(Event::Ack);
    assert_eq!(line.take(packet(b"m0,4")), Reaction::None);
    assert_eq!(line.next(), Some(Some(b"m0,4".to_vec())));

    let mut line = answered(b"g");
    line.is_lldb();
    assert_eq!(line.take(packet(b"m0,4")), Reaction::Lost);
}

#[test]
fn scripts_that_send_ahead_are_answered() {
    // Acknowledged ahead of time, or not at all.
    for before in [&b"+"[..], b""] {
        let mut line = Line::new();
        for body in [&b"qC"[..], b"qC", b"g"] {
            before.iter().for_each(|_| assert_eq!(line.take(Event::Ack), Reaction::None));
            assert_eq!(line.take(packet(body)), Reaction::None);
        }
        for body in [&b"qC"[..], b"qC", b"g"] {
            assert_eq!(line.next(), Some(Some(body.to_vec())));
            assert!(!line.superseded());
            line.done(true);
        }
    }
}

#[test]
fn without_acknowledgements_only_a_client_that_gave_up_is_left() {
    let mut line = asked(b"g");
    line.stop_acks();
    line.take(packet(b"g"));
    assert!(!line.superseded());
    line.next();
    (0..3).for_each(|_| assert_eq!(line.take(Event::Nack), Reaction::None));
    line.take(packet(b"m0,4"));
    assert!(line.superseded());
    let mut line = answered(b"g");
    line.stop_acks();
    let last = [Event::Nack, Event::Nack, Event::Nack].map(|e| line.take(e));
    assert_eq!(last, [Reaction::None, Reaction::None, Reaction::Lost]);
}

/// Bytes on their way, each piece with the time of its arrival.
#[derive(Default)]
struct Channel(VecDeque<(u64, Vec<u8>)>);

impl Channel {
    fn send(&mut self, at: u64, bytes: &[u8]) {
        self.0.push_back((at, bytes.to_vec()));
    }

    fn arrived(&mut self, now: u64) -> Option<Vec<u8>> {
        if self.0.front().is_some_and(|(at, _)| *at <= now) { self.0.pop_front().map(|p| p.1) } else { None }
    }
}

/// gdb's `remotetimeout`, in milliseconds.
const TIMEOUT: u64 = 2000;

enum Doing {
    Put { copies: u32, deadline: u64 },
    Get { tries: u32, deadline: u64 },
    Idle { until: u64 },
}

/// gdb, asking one question after the other.
struct Gdb {
    acks: bool,
    doing: Doing,
    framer: Framer,
    question: Vec<u8>,
    right: usize,
    given_up: usize,
    wrong: usize,
}

impl Gdb {
    fn ask(&mut self, now: u64, question: &[u8], to: &mut Channel, delay: u64) {
        self.question = question.to_vec();
        self.put(now, to, delay);
        self.doing = match self.acks {
            true => Doing::Put { copies: 0, deadline: now + TIMEOUT },
            false => Doing::Get { tries: 1, deadline: now + TIMEOUT },
        };
    }

    fn put(&self, now: u64, to: &mut Channel, delay: u64) {
        let mut framed = Vec::new();
        frame::frame(&mut framed, &self.question);
        to.send(now + delay, &framed);
    }

    fn step(&mut self, now: u64, to: &mut Channel, delay: u64, think: u64) {
        // What does not belong to what it does stays unread.
        if let Doing::Idle { .. } = self.doing {
            return;
        }
        while let Some(event) = self.framer.next() {
            match (&mut self.doing, event) {
                (Doing::Put { .. }, Event::Ack) => {
                    self.doing = Doing::Get { tries: 1, deadline: now + TIMEOUT };
                }
                (Doing::Put { copies, deadline }, Event::Nack) => {
                    *copies += 1;
                    *deadline = now + TIMEOUT;
                    match *copies > 3 {
                        true => self.doing = Doing::Get { tries: 1, deadline: now + TIMEOUT },
                        false => self.put(now, to, delay),
                    }
                }
                (Doing::Put { deadline, .. }, Event::Packet { .. }) => {
                    to.send(now + delay, b"+");
                    *deadline = now + TIMEOUT;
                }
                (Doing::Get { .. }, Event::Packet { body, .. }) => {
                    if self.acks {
                        to.send(now + delay, b"+");
                    }
                    match body == answer(&self.question) {
                        true => self.right += 1,
                        false => self.wrong += 1,
                    }
                    self.doing = Doing::Idle { until: now + think };
                    return;
                }
                _ => {}
            }
        }
        match &mut self.doing {
            Doing::Put { copies, deadline } if now >= *deadline => {
                *copies += 1;
                *deadline = now + TIMEOUT;
                match *copies > 3 {
                    true => self.doing = Doing::Get { tries: 1, deadline: now + TIMEOUT },
                    false => self.put(now, to, delay),
                }
            }
            Doing::Get { tries, deadline } if now >= *deadline => {
                to.send(now + delay, b"-");
                *tries += 1;
                *deadline = now + TIMEOUT;
                if *tries > 3 {
                    if self.acks {
                        to.send(now + delay, b"+");
                    }
                    self.given_up += 1;
                    self.doing = Doing::Idle { until: now + think };
                }
            }
            _ => {}
        }
    }
}

fn answer(question: &[u8]) -> Vec<u8> {
    [b"to:", question].concat()
}

#[derive(Debug, Clone)]
struct Script {
    acks: bool,
    /// One way, in milliseconds.
    delay: u64,
    /// The server gets no CPU: from, for how long.
    stops: Vec<(u64, u64)>,
    /// What is asked; how long the answer takes; how long the user thinks
    /// afterwards; after how long he presses Ctrl-C.
    questions: Vec<(u8, u64, u64, Option<u64>)>,
}

/// How often gdb was answered rightly, not at all, wrongly; and whether the
/// server ended the session.
fn play(script: &Script) -> (usize, usize, usize, bool) {
    const STEP: u64 = 5;
    let (mut up, mut down) = (Channel::default(), Channel::default());
    let mut line = Line::new();
    let mut framer = Framer::new();
    let mut working: Option<(u64, Vec<u8>)> = None;
    let mut gdb = Gdb {
        acks: true,
        doing: Doing::Idle { until: 0 },
        framer: Framer::new(),
        question: Vec::new(),
        right: 0,
        given_up: 0,
        wrong: 0,
    };
    up.send(0, b"+");
    if !script.acks {
        line.stop_acks();
        gdb.acks = false;
    }
    let mut questions = script.questions.iter();
    let (mut think, mut work, mut quit) = (0, 0, None);
    let mut asked_at = 0;
    let mut now = 0;
    loop {
        now += STEP;
        // gdb
        while let Some(bytes) = down.arrived(now) {
            gdb.framer.feed(&bytes);
        }
        gdb.step(now, &mut up, script.delay, think);
        let idle = matches!(gdb.doing, Doing::Idle { until } if now >= until);
        let interrupted =
            !matches!(gdb.doing, Doing::Idle { .. }) && quit.is_some_and(|q| now >= asked_at + q);
        if idle || interrupted {
            let Some((question, w, t, q)) = questions.next() else { break };
            (work, think, quit, asked_at) = (*w, *t, *q, now);
            gdb.ask(now, &[b'q', b'0' + question % 4], &mut up, script.delay);
        }
        // the server
        if script.stops.iter().any(|(from, length)| (*from..from + length).contains(&now)) {
            continue;
        }
        let mut take = |line: &mut Line, down: &mut Channel| {
            while let Some(bytes) = up.arrived(now) {
                framer.feed(&bytes);
            }
            while let Some(event) = framer.next() {
                match line.take(event) {
                    Reaction::None => {}
                    Reaction::Refuse => down.send(now + script.delay, b"-"),
                    Reaction::Lost => return false,
                }
            }
            true
        };
        if working.as_ref().is_some_and(|(until, _)| now >= *until) {
            if !take(&mut line, &mut down) {
                return (gdb.right, gdb.given_up, gdb.wrong, true);
            }
            let replied = !line.superseded();
            if let (true, Some((_, question))) = (replied, &working) {
                let mut framed = if script.acks { b"+".to_vec() } else { Vec::new() };
                frame::frame(&mut framed, &answer(question));
                down.send(now + script.delay, &framed);
            }
            line.done(replied);
            working = None;
        }
        if working.is_none() {
            if !take(&mut line, &mut down) {
                return (gdb.right, gdb.given_up, gdb.wrong, true);
            }
            working = line.next().flatten().map(|packet| (now + work, packet));
        }
    }
    (gdb.right, gdb.given_up, gdb.wrong, false)
}

fn script(acks: bool, delay: impl Strategy<Value = u64>, quits: bool) -> impl Strategy<Value = Script> {
    let quit = prop::option::weighted(0.2, 0u64..9000).prop_map(move |quit| quit.filter(|_| quits));
    let question = (any::<u8>(), 0u64..4000, 0u64..9000, quit);
    let stop = (0u64..60_000, 0u64..25_000);
    (delay, prop::collection::vec(stop, 0..5), prop::collection::vec(question, 3..20))
        .prop_map(move |(delay, stops, questions)| Script { acks, delay, stops, questions })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_server_that_stops_never_answers_another_question(script in script(true, Just(0), true)) {
        let (right, given_up, wrong, lost) = play(&script);
        prop_assert_eq!((wrong, lost), (0, false), "{} right, {} given up", right, given_up);
    }

    #[test]
    fn a_slow_network_is_no_fault(script in script(true, 0u64..900, false)) {
        let script = Script { stops: Vec::new(), ..script };
        let (right, _, wrong, lost) = play(&script);
        prop_assert_eq!((right, wrong, lost), (script.questions.len(), 0, false));
    }

    #[test]
    fn without_acknowledgements_neither(script in script(false, Just(0), false)) {
        let (_, _, wrong, _) = play(&script);
        prop_assert_eq!(wrong, 0);
    }

    #[test]
    fn replies_that_cross_cost_one_answer_at_most(script in script(true, 0u64..900, true)) {
        let (_, given_up, wrong, lost) = play(&script);
        let quits = script.questions.iter().filter(|q| q.3.is_some()).count();
        prop_assert!(!lost && wrong <= given_up + quits, "{} wrong, {} given up", wrong, given_up);
    }
}
