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
    line.sent();
    line.done(true);
    line
}

#[test]
fn copies_and_refusals_are_passed_over() {
    let mut line = asked(b"m0,4");
    assert_eq!(line.take(packet(b"m0,4")), Reaction::None);
    assert_eq!(line.take(Event::Nack), Reaction::None);
    assert!(line.is_empty() && !line.superseded());
    line.sent();
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
fn a_reply_may_be_sent_again_twice() {
    let mut line = answered(b"g");
    assert_eq!(line.take(Event::Nack), Reaction::None);
    assert!(line.wanted_again() && !line.wanted_again());
    line.sent_again();
    line.take(Event::Ack);
    assert_eq!(line.take(packet(b"m0,4")), Reaction::None);
    line.next();
    line.sent();
    line.done(true);
    line.take(Event::Ack);
    // Either a copy, and the `+` was for the second `g`, or a question.
    assert_eq!(line.take(packet(b"m0,4")), Reaction::Refuse);
    let mut line = answered(b"g");
    let wanted = [Event::Nack, Event::Nack, Event::Nack].map(|e| {
        line.take(e);
        line.wanted_again()
    });
    assert_eq!(wanted, [true, true, false]);
}

#[test]
fn a_reply_is_not_sent_again_to_who_has_gone_on() {
    for behind in [&[Event::Nack, Event::Nack, Event::Ack][..], &[packet(b"m0,4")], &[packet(b"g")]] {
        let mut line = answered(b"g");
        line.take(Event::Nack);
        behind.iter().for_each(|event| assert_ne!(line.take(event.clone()), Reaction::Lost));
        assert!(!line.wanted_again(), "{behind:?}");
    }
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
            line.sent();
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
    /// Nothing overtakes.
    fn send(&mut self, at: u64, bytes: &[u8]) {
        let at = self.0.back().map_or(at, |(before, _)| at.max(*before));
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
    /// What has come and was not read.
    input: VecDeque<u8>,
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

    /// The frame that starts here, if it is whole.
    fn frame(&mut self) -> Option<Vec<u8>> {
        let end = self.input.iter().position(|&b| b == b'#')?;
        if self.input.len() < end + 3 {
            return None;
        }
        let frame: Vec<u8> = self.input.drain(..end + 3).collect();
        Some(frame[1..end].to_vec())
    }

    fn step(&mut self, now: u64, to: &mut Channel, delay: u64, think: u64) {
        loop {
            let first = self.input.front().copied();
            match (&mut self.doing, first) {
                // What comes while it asks nothing stays unread.
                (Doing::Idle { .. }, _) => return,
                (_, None) => break,
                (_, Some(b'$')) => {
                    let Some(body) = self.frame() else { break };
                    if self.acks {
                        to.send(now + delay, b"+");
                    }
                    if let Doing::Put { deadline, .. } = &mut self.doing {
                        *deadline = now + TIMEOUT;
                        continue;
                    }
                    match body == answer(&self.question) {
                        true => self.right += 1,
                        false => self.wrong += 1,
                    }
                    self.doing = Doing::Idle { until: now + think };
                }
                (Doing::Put { .. }, Some(b'+')) => {
                    self.input.pop_front();
                    self.doing = Doing::Get { tries: 1, deadline: now + TIMEOUT };
                }
                (Doing::Put { copies, deadline }, Some(b'-')) => {
                    self.input.pop_front();
                    (*copies, *deadline) = (*copies + 1, now + TIMEOUT);
                    match *copies > 3 {
                        true => self.doing = Doing::Get { tries: 1, deadline: now + TIMEOUT },
                        false => self.put(now, to, delay),
                    }
                }
                (_, Some(_)) => drop(self.input.pop_front()),
            }
        }
        let half = !self.input.is_empty();
        match &mut self.doing {
            Doing::Put { deadline, .. } if now >= *deadline && half => {
                // The frame that it skips does not end.
                *deadline = now + TIMEOUT;
                self.input.clear();
                to.send(now + delay, b"+");
            }
            Doing::Put { copies, deadline } if now >= *deadline => {
                (*copies, *deadline) = (*copies + 1, now + TIMEOUT);
                match *copies > 3 {
                    true => self.doing = Doing::Get { tries: 1, deadline: now + TIMEOUT },
                    false => self.put(now, to, delay),
                }
            }
            Doing::Get { tries, deadline } if now >= *deadline => {
                // The half of a frame that has come is gone.
                self.input.clear();
                to.send(now + delay, b"-");
                (*tries, *deadline) = (*tries + 1, now + TIMEOUT);
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
struct Question {
    what: u8,
    /// How long the answer takes.
    work: u64,
    /// For how long the line stops in the midst of it.
    half: u64,
    /// How long the user thinks afterwards.
    think: u64,
    /// After how long Ctrl-C is pressed.
    quit: Option<u64>,
}

#[derive(Debug, Clone)]
struct Script {
    acks: bool,
    /// One way, in milliseconds.
    delay: u64,
    /// The server gets no CPU: from, for how long.
    stops: Vec<(u64, u64)>,
    questions: Vec<Question>,
}

/// How often gdb was answered rightly, not at all, wrongly; and whether the
/// server ended the session.
fn play(script: &Script) -> (usize, usize, usize, bool) {
    const STEP: u64 = 5;
    let (mut up, mut down) = (Channel::default(), Channel::default());
    let mut line = Line::new();
    let mut framer = Framer::new();
    let mut working: Option<(u64, Vec<u8>)> = None;
    let (mut last, mut half) = (Vec::new(), 0);
    let (mut began, mut owed, mut listened) = (0, false, false);
    let mut gdb = Gdb {
        acks: true,
        doing: Doing::Idle { until: 0 },
        input: VecDeque::new(),
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
    let first = Question { what: 0, work: 0, half: 0, think: 0, quit: None };
    let (mut asked, mut asked_at) = (&first, 0);
    let mut now = 0;
    loop {
        now += STEP;
        // gdb
        while let Some(bytes) = down.arrived(now) {
            if let Doing::Put { deadline, .. } | Doing::Get { deadline, .. } = &mut gdb.doing {
                // Every byte is waited for anew.
                *deadline = (*deadline).max(now + TIMEOUT);
            }
            gdb.input.extend(bytes);
        }
        gdb.step(now, &mut up, script.delay, asked.think);
        let idle = matches!(gdb.doing, Doing::Idle { until } if now >= until);
        let interrupted =
            !matches!(gdb.doing, Doing::Idle { .. }) && asked.quit.is_some_and(|q| now >= asked_at + q);
        if idle || interrupted {
            let Some(question) = questions.next() else { break };
            (asked, asked_at) = (question, now);
            gdb.ask(now, &[b'q', b'0' + question.what % 4], &mut up, script.delay);
        }
        // the server
        if script.stops.iter().any(|(from, length)| (*from..from + length).contains(&now)) {
            continue;
        }
        // As the thread beside the session does.
        if script.acks && working.is_some() && now > began + 500 && std::mem::take(&mut owed) {
            down.send(now + script.delay, b"+");
        }
        let mut take = |line: &mut Line, down: &mut Channel, last: &[u8]| {
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
            if line.wanted_again() {
                line.sent_again();
                down.send(now + script.delay, last);
            }
            true
        };
        if working.as_ref().is_some_and(|(until, _)| now >= *until) {
            if !take(&mut line, &mut down, &last) {
                return (gdb.right, gdb.given_up, gdb.wrong, true);
            }
            if let (true, Some((until, _))) = (line.is_doubted() && !listened, &mut working) {
                (*until, listened) = (now + 500, true);
                continue;
            }
            let replied = !line.superseded();
            if let (true, Some((_, question))) = (replied, &working) {
                last.clear();
                frame::frame(&mut last, &answer(question));
                let (one, two) = last.split_at(3);
                if script.acks && std::mem::take(&mut owed) {
                    down.send(now + script.delay, b"+");
                }
                down.send(now + script.delay, one);
                down.send(now + script.delay + half, two);
                line.sent();
            }
            line.done(replied);
            working = None;
        }
        if working.is_none() {
            if !take(&mut line, &mut down, &last) {
                return (gdb.right, gdb.given_up, gdb.wrong, true);
            }
            working = line.next().flatten().map(|packet| (now + asked.work, packet));
            (half, began, owed, listened) = (asked.half, now, true, false);
        }
    }
    (gdb.right, gdb.given_up, gdb.wrong, false)
}

/// What may happen besides.
#[derive(Debug, Clone, Copy)]
struct Allowed {
    stops: bool,
    halves: bool,
    quits: bool,
}

/// Found by chance in 400,000 scripts.
#[test]
fn rare_ones() {
    let q = |what, work, half, think, quit| Question { what, work, half, think, quit };
    // All that gdb said in 12 s comes at once: a refusal, that it gave up, another question.
    let asked_anew = Script {
        acks: true,
        delay: 0,
        stops: vec![(47162, 16679), (36941, 9405)],
        questions: vec![
            q(0, 0, 0, 751, None),
            q(0, 3536, 0, 7036, None),
            q(0, 1346, 0, 331, None),
            q(0, 2876, 0, 6691, None),
            q(0, 3101, 0, 8701, None),
            q(3, 2501, 0, 0, Some(3911)),
            q(3, 0, 0, 0, None),
            q(0, 0, 0, 0, None),
        ],
    };
    // Copies of one question were refused, then another one comes.
    let copies_refused = Script {
        acks: true,
        delay: 90,
        stops: vec![(58919, 3746), (17398, 4349), (36309, 4414), (453, 4542)],
        questions: vec![
            q(2, 3454, 0, 839, None),
            q(2, 1481, 4712, 5279, None),
            q(3, 2353, 4864, 8732, None),
            q(2, 2809, 0, 6493, None),
            q(1, 1073, 2085, 1432, None),
        ],
    };
    // Copies of one question were refused, then another one once.
    let thrice_but_not_the_same = Script {
        acks: true,
        delay: 178,
        stops: vec![(52199, 3339), (36123, 4466), (57431, 4855)],
        questions: vec![
            q(0, 2564, 0, 4731, None),
            q(2, 3793, 0, 5602, None),
            q(3, 1891, 0, 1954, None),
            q(1, 1109, 0, 2152, None),
            q(0, 1350, 0, 4800, None),
            q(1, 1324, 0, 8803, None),
            q(0, 2727, 0, 3443, None),
            q(2, 2681, 0, 1138, None),
            q(2, 3053, 4992, 8119, None),
            q(3, 3508, 0, 3522, None),
            q(3, 812, 0, 4205, None),
            q(0, 1069, 0, 4061, None),
            q(1, 2074, 0, 8492, None),
        ],
    };
    // Copies of one question were refused, it was answered, and it is asked again.
    let the_same_once_more = Script {
        acks: true,
        delay: 119,
        stops: vec![(18504, 2667), (8050, 4974)],
        questions: vec![
            q(0, 2654, 0, 6132, None),
            q(2, 2509, 0, 3904, None),
            q(2, 2128, 0, 2025, None),
            q(3, 3486, 1611, 2547, None),
            q(2, 2807, 0, 7509, None),
            q(2, 2593, 0, 6535, None),
        ],
    };
    // The last refusal is on its way when the server goes on.
    let given_up_meanwhile = Script {
        acks: true,
        delay: 193,
        stops: vec![(7114, 2499), (31571, 4362), (35481, 3902)],
        questions: vec![
            q(3, 951, 0, 2187, None),
            q(1, 1127, 0, 7662, None),
            q(2, 946, 4192, 2185, None),
            q(3, 2107, 0, 7147, None),
            q(3, 3826, 0, 1982, None),
            q(2, 2779, 0, 2927, None),
        ],
    };
    let copies = [copies_refused, thrice_but_not_the_same, the_same_once_more];
    for script in [asked_anew, given_up_meanwhile].into_iter().chain(copies) {
        let (_, _, wrong, lost) = play(&script);
        assert_eq!((wrong, lost), (0, false), "{script:?}");
    }
}

fn script(acks: bool, delay: u64, allowed: Allowed) -> impl Strategy<Value = Script> {
    let question = (
        any::<u8>(),
        0u64..4000,
        prop::option::weighted(0.2, 0u64..5000),
        0u64..9000,
        prop::option::weighted(0.2, 0u64..9000),
    );
    let question = question.prop_map(move |(what, work, half, think, quit)| Question {
        what,
        work,
        half: half.filter(|_| allowed.halves).unwrap_or_default(),
        think,
        quit: quit.filter(|_| allowed.quits),
    });
    let stop = (0u64..60_000, 0u64..25_000);
    (0..=delay, prop::collection::vec(stop, 0..5), prop::collection::vec(question, 3..20)).prop_map(
        move |(delay, stops, questions)| Script {
            acks,
            delay,
            stops: if allowed.stops { stops } else { Vec::new() },
            questions,
        },
    )
}

const STOPS: Allowed = Allowed { stops: true, halves: false, quits: false };
const QUITS: Allowed = Allowed { quits: true, ..STOPS };
const HALVES: Allowed = Allowed { stops: false, halves: true, quits: false };
const ALL: Allowed = Allowed { stops: true, halves: true, quits: false };

// A fault may be one in 100,000: PROPTEST_CASES asks for more than the default.
proptest! {
    #[test]
    fn a_server_that_stops_never_answers_another_question(script in script(true, 0, QUITS)) {
        let (right, given_up, wrong, lost) = play(&script);
        prop_assert_eq!((wrong, lost), (0, false), "{} right, {} given up", right, given_up);
    }

    #[test]
    fn a_slow_network_is_no_fault(script in script(true, 900, HALVES)) {
        let (right, given_up, wrong, lost) = play(&script);
        prop_assert_eq!((right + given_up, wrong, lost), (script.questions.len(), 0, false));
        prop_assert!(given_up == 0 || script.questions.iter().any(|q| q.half + q.work > 4000));
    }

    #[test]
    fn without_acknowledgements_neither(script in script(false, 0, STOPS)) {
        let (_, _, wrong, _) = play(&script);
        prop_assert_eq!(wrong, 0);
    }

    #[test]
    fn neither_are_both_at_once(script in script(true, 200, ALL)) {
        let stops = script.stops.iter().map(|(from, length)| (*from, length / 5)).collect();
        let (right, given_up, wrong, lost) = play(&Script { stops, ..script });
        prop_assert_eq!((wrong, lost), (0, false), "{} right, {} given up", right, given_up);
    }
}
