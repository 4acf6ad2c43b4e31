//! A server that is late: stopped, swapped out, behind a slow network. What a
//! client is told must be what it would be told at once, or an error.
//!
//! A proxy between client and server counts the bytes that pass, and at counts
//! that a seed chooses it stops the server, or holds back what passes, for longer
//! than the client waits. `CORESTUB_LATE_SEEDS` says how many seeds are run, and
//! from which one on (`300`, `100..200`).

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::support;
use crate::support::program::{Server, Signal, have_gdb, lldb, signal};

/// Runs at the same time: most of their time is waiting.
const AT_ONCE: usize = 8;

/// One time out.
#[derive(Debug, Clone, Copy)]
struct Stop {
    /// After so many bytes, of 1,000 of those of a run without stops.
    at: u64,
    length: Duration,
    /// The server is stopped; else the line is.
    server: bool,
}

/// A few of them, by chance.
fn stops(seed: u64, longest: u64) -> Vec<Stop> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let mut stops: Vec<Stop> = (0..1 + random(3))
        .map(|_| Stop {
            at: random(1000),
            length: Duration::from_millis(2100 + random(longest - 2100)),
            server: random(2) == 0,
        })
        .collect();
    stops.sort_by_key(|stop| stop.at);
    // Two in one reply are longer than any client waits: an error, not an answer.
    stops.dedup_by_key(|stop| stop.at / 100);
    stops.dedup_by(|next, stop| next.at - stop.at < 50);
    stops
}

struct Shared {
    passed: u64,
    stops: Vec<(u64, Stop)>,
    until: Option<Instant>,
}

/// A line to `server` with these stops. Tells how many bytes have passed.
struct Proxy {
    port: u16,
    shared: Arc<Mutex<Shared>>,
    ends: Arc<AtomicBool>,
}

impl Proxy {
    fn start(server: &Server, stops: Vec<(u64, Stop)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Mutex::new(Shared { passed: 0, stops, until: None }));
        let ends = Arc::new(AtomicBool::new(false));
        let (address, pid) = (server.address.clone(), server.pid());
        let (line, over) = (Arc::clone(&shared), Arc::clone(&ends));
        std::thread::spawn(move || {
            let Ok((client, _)) = listener.accept() else { return };
            let server = TcpStream::connect(address).unwrap();
            for stream in [&client, &server] {
                stream.set_nodelay(true).unwrap();
            }
            let there = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let (line2, over2) = (Arc::clone(&line), Arc::clone(&over));
            std::thread::spawn(move || pass(there.0, there.1, &line2, &over2, pid));
            pass(server, client, &line, &over, pid);
        });
        Self { port, shared, ends }
    }

    fn passed(&self) -> u64 {
        self.shared.lock().unwrap().passed
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, shared: &Mutex<Shared>, ends: &AtomicBool, pid: u32) {
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        let until = {
            let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
            shared.passed += n as u64;
            if shared.stops.first().is_some_and(|(at, _)| *at <= shared.passed) {
                let (_, stop) = shared.stops.remove(0);
                if stop.server {
                    signal(pid, Signal::STOP).unwrap();
                    std::thread::spawn(move || {
                        std::thread::sleep(stop.length);
                        // It may have ended meanwhile.
                        let _ = signal(pid, Signal::CONT);
                    });
                } else {
                    shared.until = Some(Instant::now() + stop.length);
                }
            }
            shared.until
        };
        if let Some(wait) = until.and_then(|until| until.checked_duration_since(Instant::now())) {
            std::thread::sleep(wait);
        }
        if ends.load(Ordering::SeqCst) || to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}

/// A client and the way to ask it.
struct Asker {
    name: &'static str,
    program: PathBuf,
    options: &'static [&'static str],
    run: fn(&Path, u16) -> String,
    /// It waits at most so long without giving up.
    longest: u64,
    /// It gets over a reply whose second half is late.
    halves: bool,
    /// It hangs up rather than wait: fewer answers are no wrong ones.
    hangs_up: bool,
}

impl Asker {
    /// Whether `text` holds an answer that `right` does not, or lacks one that this
    /// client should have got.
    fn differs(&self, right: &str, text: &str) -> bool {
        let known: HashSet<&str> = right.lines().collect();
        match self.hangs_up {
            true => text.lines().any(|line| line.contains("0x") && !known.contains(line)),
            false => right != text,
        }
    }
}

const QUESTIONS: [&str; 9] = [
    "bt",
    "p init_task.pid",
    "p init_task.comm",
    "x/s linux_banner",
    "p $task",
    "info threads",
    "thread apply all -q bt 3",
    "info sharedlibrary",
    "x/16gx $rsp",
];

fn ask_gdb(program: &Path, port: u16) -> String {
    let mut gdb = Command::new("timeout");
    gdb.args(["-k", "5", "300"]).arg(program).args(["-nx", "-q", "-batch"]);
    let settings =
        ["debuginfod enabled off", "pagination off", "width 0", "debug-file-directory /nonexistent"];
    for setting in settings {
        gdb.args(["-ex", &format!("set {setting}")]);
    }
    gdb.args(["-ex", &format!("target remote 127.0.0.1:{port}")]);
    for question in QUESTIONS {
        gdb.args(["-ex", &format!("echo @@{question}\\n"), "-ex", question]);
    }
    let out = gdb.stdin(Stdio::null()).stderr(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    // What it prints while it connects is about progress.
    text.find("@@").map(|at| text[at..].to_owned()).unwrap_or(text)
}

fn ask_lldb(program: &Path, port: u16) -> String {
    let mut lldb = Command::new("timeout");
    lldb.args(["-k", "5", "300"]).arg(program).args(["--no-lldbinit", "--batch"]);
    let commands = [
        &format!("gdb-remote 127.0.0.1:{port}"),
        "register read rip rsp rbp rbx",
        "memory read --format x --size 8 --count 64 $rsp",
        "thread list",
        "process plugin packet monitor sym jiffies",
        "memory read --format x --size 8 --count 64 $rsp+512",
    ];
    for command in commands {
        lldb.args(["-o", command]);
    }
    let out = lldb.stdin(Stdio::null()).stderr(Stdio::null()).output().unwrap();
    String::from_utf8_lossy(&out.stdout).lines().filter(|l| !l.contains("gdb-remote")).fold(
        String::new(),
        |mut text, line| {
            let _ = writeln!(text, "{line}");
            text
        },
    )
}

fn seeds() -> std::ops::Range<u64> {
    let text = std::env::var("CORESTUB_LATE_SEEDS").unwrap_or_else(|_| "3".to_owned());
    match text.split_once("..") {
        Some((from, to)) => from.parse().unwrap()..to.parse().unwrap(),
        None => 0..text.parse().unwrap(),
    }
}

/// All seeds for one client: how many runs, and what differed.
fn run(asker: &Asker, dump: &Path) -> (usize, Vec<String>) {
    let run = |stops: &[Stop], bytes: u64| {
        let server = Server::start(dump, asker.options).unwrap();
        let at = |stop: &Stop| (stop.at * bytes / 1000, *stop);
        let proxy = Proxy::start(&server, stops.iter().map(at).collect());
        let text = (asker.run)(&asker.program, proxy.port);
        signal(server.pid(), Signal::CONT).unwrap();
        (text, proxy.passed())
    };
    let (right, bytes) = run(&[], 0);
    assert!(right.lines().count() > 12, "{}: {right}", asker.name);
    let seeds = seeds();
    let next = Mutex::new(seeds.clone());
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(seed) = { next.lock().unwrap().next() } {
                    let mut stops = stops(seed, asker.longest);
                    stops.iter_mut().for_each(|stop| stop.server |= !asker.halves);
                    let (text, _) = run(&stops, bytes);
                    if asker.differs(&right, &text) {
                        let pairs = right.lines().zip(text.lines()).filter(|(a, b)| a != b);
                        let mut diff =
                            format!("{} lines for {}\n", text.lines().count(), right.lines().count());
                        pairs.take(5).for_each(|(a, b)| _ = writeln!(diff, "- {a}\n+ {b}"));
                        let told = format!("{} seed {seed} {stops:?}\n{diff}", asker.name);
                        eprintln!("{told}");
                        wrong.lock().unwrap().push(told);
                    }
                }
            });
        }
    });
    (seeds.count(), wrong.into_inner().unwrap())
}

#[test]
fn late_answers_are_the_right_ones() {
    if !have_gdb() {
        return;
    }
    let Some(dump) = support::files("z31.kdump").into_iter().next() else {
        return support::skip("no z31.kdump");
    };
    let mut askers = vec![
        Asker {
            name: "gdb",
            program: "gdb".into(),
            options: &[],
            run: ask_gdb,
            longest: 5000,
            halves: true,
            hangs_up: false,
        },
        Asker {
            name: "gdb without acks",
            program: "gdb".into(),
            options: &["--no-ack"],
            run: ask_gdb,
            longest: 5000,
            halves: false,
            hangs_up: false,
        },
    ];
    let program = support::frontends().join("venv/bin/gdb");
    if program.exists() {
        askers.push(Asker {
            name: "current gdb",
            program,
            options: &[],
            run: ask_gdb,
            longest: 5000,
            halves: true,
            hangs_up: false,
        });
    }
    if let Some(program) = lldb() {
        askers.push(Asker {
            name: "lldb",
            program,
            options: &[],
            run: ask_lldb,
            longest: 4000,
            halves: true,
            hangs_up: true,
        });
    }
    if let Ok(only) = std::env::var("CORESTUB_LATE_CLIENT") {
        askers.retain(|asker| asker.name == only);
    }
    let mut wrong = Vec::new();
    for asker in &askers {
        let (runs, differ) = run(asker, &dump);
        eprintln!("{}: {runs} runs, {} with another answer", asker.name, differ.len());
        wrong.extend(differ);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
