//! What gdbstub lacks, or answers in a way that hurts, is answered here; the
//! rest is checked and passed on in one canonical form, because gdbstub ends
//! the session at the first malformed packet.
//!
//! The rule for refusals (measured with gdb 13.1 and LLDB 14): an empty reply
//! means "not supported" and makes gdb hang in `continue` and take a write for
//! done; a stop reply makes gdb's `step` loop. So gdb gets an error, in words
//! where it prints them. LLDB drops the connection on an error to `continue`,
//! so it gets a stop reply, whose signal is not SIGTRAP: at that its `step` would
//! go on until the program counter moves.
//!
//! Breakpoints and watchpoints are taken: nothing runs, so none is ever hit, and
//! `continue` gets to be told so. Were they refused, gdb would say of the place that
//! it cannot be accessed, and never come to ask for more.
//!
//! gdb has no words of ours for a write to memory (it says "Cannot access memory" for
//! any error to `M` and `X`, of addresses that it just has read), so it is given a
//! memory map of flash, to which it knows itself that it does not write.

use std::sync::Arc;

use tracing::{debug, info};

use super::answer::{Answer, Id, PIECE, split, thread_id};
use super::frame::{self, PACKET_SIZE, number};
use super::selection::Selected;
use super::served::Served;
use super::signal;
use super::state::State;
use crate::addr::VirtAddr;
use crate::hex;
use crate::inferior::{Inferior, Tid};
use crate::text::printable;

/// What a refused read is told as.
const EFAULT: u8 = 14;
/// gdb's number of SIGSTOP.
const SIGSTOP: u8 = 17;
/// Refusal of everything that would resume the target.
const NO_RESUME: &str = "this is a post-mortem dump; it cannot be resumed";
/// Refusal of everything that would change it.
const NO_WRITE: &str = "this is a post-mortem dump; it cannot be changed";
/// Refusal of `run`.
const NO_RUN: &str = "this is a post-mortem dump; nothing can be run in it";

impl State {
    /// Answers one packet.
    pub(crate) fn answer(&mut self, packet: &[u8]) -> Answer {
        let Some((&kind, rest)) = packet.split_first() else { return Answer::empty() };
        match kind {
            b'q' | b'Q' => self.query(packet),
            b'v' => self.verbose(packet),
            b'j' => self.lldb_query(packet),
            b'?' | b'!' | b'g' | b'k' if !rest.is_empty() => Answer::empty(),
            b'?' => self.stop_reason(),
            b'!' => {
                self.client.extended = true;
                Answer::ok()
            }
            b'g' => match self.selection.registers() {
                Some(_) => Answer::pass("g", 0),
                None => Answer::error(),
            },
            b'p' => self.one_register(rest),
            b'm' => self.memory(rest, false),
            b'x' => self.memory(rest, true),
            b'H' => self.select(rest),
            b'T' => match thread_id(rest).and_then(|id| self.selection.find(id)) {
                Some(Selected { tid: Some(_), .. }) => Answer::ok(),
                _ => Answer::error(),
            },
            b'D' => self.detach(rest),
            b'k' => Answer::End(self.client.lldb.then(|| b"X09".to_vec())),
            b'c' | b'C' | b's' | b'S' | b'i' | b'I' => self.refuse_resume(),
            b'b' if matches!(packet, b"bc" | b"bs") => self.refuse_resume(),
            b'P' | b'G' => self.refuse_in_words(NO_WRITE),
            b'z' | b'Z' => Self::breakpoint(rest),
            b'M' | b'X' => self.refuse(NO_WRITE),
            // Restart: the protocol has no reply to it.
            b'R' => Answer::None,
            _ => Answer::empty(),
        }
    }

    /// An error, with its words for a client that takes them in any reply.
    pub(crate) fn refuse(&self, why: &str) -> Answer {
        if self.client.error_messages { Answer::text(format!("E.{why}")) } else { Answer::error() }
    }

    /// An error where gdb of any age prints the words.
    fn refuse_in_words(&self, why: &str) -> Answer {
        if self.client.lldb { Answer::error() } else { Answer::text(format!("E.{why}")) }
    }

    /// `TYPE,ADDR,KIND`, perhaps with conditions behind.
    fn breakpoint(args: &[u8]) -> Answer {
        let place = match args {
            [b'0'..=b'4', b',', place @ ..] => Some(place),
            _ => None,
        };
        let numbers = place.and_then(|place| {
            let (addr, kind) = split(place, b',')?;
            number(addr).zip(number(kind.split(|&b| b == b';').next()?))
        });
        if numbers.is_some() { Answer::ok() } else { Answer::error() }
    }

    fn refuse_resume(&self) -> Answer {
        if !self.client.lldb {
            return self.refuse_in_words(NO_RESUME);
        }
        // LLDB walks all threads by `Hg`; the one that it steps came with `Hc`.
        let chosen = self
            .selection
            .resume
            .and_then(|id| self.selection.find(id))
            .or_else(|| self.selection.selected().cloned());
        let Some(Selected { served, .. }) = &chosen else { return Answer::error() };
        let tid = match self.selection.resume {
            Some((_, Id::One(_))) => chosen.as_ref().and_then(|c| c.tid),
            _ => None,
        };
        self.stopped(SIGSTOP, served, tid.unwrap_or_else(|| served.inferior().initial_thread()))
    }

    fn query(&mut self, packet: &[u8]) -> Answer {
        let (name, args) = match packet.iter().position(|b| matches!(b, b':' | b',')) {
            Some(at) => (packet.get(..at).unwrap_or_default(), packet.get(at + 1..).unwrap_or_default()),
            None => (packet, &[][..]),
        };
        match name {
            b"qSupported" => self.supported(args),
            b"qXfer" => self.transfer(args),
            b"qRcmd" => match hex::decode(args) {
                Some(line) => Answer::pass([b"qRcmd,".as_slice(), hex::encode(&line).as_bytes()].concat(), 0),
                None => Answer::error(),
            },
            b"qOffsets" if self.options.qemu_dialect => Answer::empty(),
            // LLDB (14) moves the user's file *by* this, gdb *to* it.
            b"qOffsets" if self.client.lldb => match self.selection.inferior().and_then(Inferior::slide) {
                Some(slide) => Answer::text(format!("TextSeg={slide:x}")),
                None => Answer::empty(),
            },
            b"qOffsets" => match self.selection.inferior().and_then(Inferior::text_segment) {
                Some(_) => Answer::pass("qOffsets", 0),
                None => Answer::empty(),
            },
            b"qAttached" => Answer::text("1"),
            b"qC" => match self.selection.thread() {
                Some((served, tid)) => Answer::text(format!("QC{}", self.thread_id(served, tid))),
                None => Answer::error(),
            },
            b"qfThreadInfo" => {
                self.documents.first_page();
                self.thread_page()
            }
            b"qsThreadInfo" => self.thread_page(),
            b"qThreadExtraInfo" => self.thread_extra(args),
            b"qModuleInfo" => self.module_info(args),
            b"qGetTLSAddr" => self.tls_address(args),
            b"QStartNoAckMode" if self.options.no_ack => Answer::NoMoreAcks,
            // Refused by silence, but it tells who asks.
            b"QStartNoAckMode" | b"QThreadSuffixSupported" | b"QListThreadsInStopReply" => {
                self.client.lldb |= name != b"QStartNoAckMode";
                Answer::empty()
            }
            // LLDB finds out by this which replies are still on their way.
            b"qEcho" => {
                let mut reply = Vec::new();
                frame::escape(&mut reply, packet);
                Answer::Reply(reply)
            }
            b"qGDBServerVersion" => {
                Answer::text(concat!("name:corestub;version:", env!("CARGO_PKG_VERSION"), ";"))
            }
            b"qqemu.sstepbits" | b"Qqemu.sstepbits" if self.options.qemu_dialect => {
                Answer::text("ENABLE=1,NOIRQ=2,NOTIMER=4")
            }
            b"qqemu.PhyMemMode" => Answer::text(if self.selection.physical { "1" } else { "0" }),
            b"Qqemu.PhyMemMode" => {
                self.selection.physical = args == b"1";
                Answer::text("OK")
            }
            _ => Answer::empty(),
        }
    }

    /// `qSupported`: what the client can do comes in, what we can goes out.
    fn supported(&mut self, args: &[u8]) -> Answer {
        for feature in args.split(|&b| b == b';') {
            match feature {
                b"multiprocess+" => self.client.multiprocess = true,
                b"error-message+" => self.client.error_messages = true,
                // Only gdb offers this, since 7.0.
                b"qRelocInsn+" => {
                    self.client.gdb = true;
                    self.link.borrow().wire.is_gdb();
                }
                _ => {}
            }
        }
        self.documents.forget();
        let mut reply = format!(
            "PacketSize={PACKET_SIZE:x};qXfer:features:read+;qXfer:threads:read+;qXfer:exec-file:read+;\
             qXfer:auxv:read+;qXfer:siginfo:read+;qXfer:osdata:read+;binary-upload+;qEcho+"
        );
        let main = self.selection.main().inferior();
        let optional = [
            (self.client.gdb, ";qXfer:memory-map:read+"),
            (main.has_libraries(), ";qXfer:libraries:read+"),
            (main.has_libraries_svr4(), ";qXfer:libraries-svr4:read+"),
            (main.vmcoreinfo().is_some(), ";qXfer:vmcoreinfo:read+"),
            (self.client.multiprocess, ";multiprocess+"),
            (self.client.error_messages, ";error-message+"),
            (self.options.no_ack, ";QStartNoAckMode+"),
        ];
        optional.iter().filter(|(offered, _)| *offered).for_each(|(_, text)| reply.push_str(text));
        Answer::text(reply)
    }

    fn verbose(&mut self, packet: &[u8]) -> Answer {
        if let Some(rest) = packet.strip_prefix(b"vFile:") {
            return self.file(rest);
        }
        if let Some(pid) = packet.strip_prefix(b"vAttach;") {
            return self.attach(pid);
        }
        if packet.starts_with(b"vCont;") {
            return self.refuse_resume();
        }
        if packet.starts_with(b"vRun") {
            return self.refuse_in_words(NO_RUN);
        }
        if packet.starts_with(b"vKill") {
            if let Some(Id::One(pid)) = packet.strip_prefix(b"vKill;").and_then(Id::parse) {
                self.leave(pid);
            }
            return Answer::ok();
        }
        // `vMustReplyEmpty`, `vCont?` and all others.
        Answer::empty()
    }

    // --- threads ---------------------------------------------------------

    /// A thread id as this client writes them.
    pub(super) fn thread_id(&self, served: &Served, tid: Tid) -> String {
        served.thread_id(self.client.multiprocess, tid)
    }

    fn thread_page(&mut self) -> Answer {
        Answer::text(self.documents.page(&self.selection, self.client.multiprocess))
    }

    /// `Hg` selects; `Hc` is only remembered, as nothing runs.
    fn select(&mut self, args: &[u8]) -> Answer {
        let Some((&operation, id)) = args.split_first() else { return Answer::error() };
        let Some(id) = thread_id(id) else { return Answer::error() };
        match operation {
            b'c' => {
                self.selection.resume = Some(id);
                Answer::ok()
            }
            b'g' if self.selection.select(id) => Answer::ok(),
            _ => Answer::error(),
        }
    }

    fn stop_reason(&mut self) -> Answer {
        if self.selection.thread().is_none() {
            self.selection.select((Id::Any, Id::Any));
        }
        match self.selection.thread() {
            Some((served, tid)) if self.client.lldb => self.lldb_stop_reason(served, tid),
            Some((served, tid)) => {
                self.stopped(signal::from_linux(served.inferior().stop_signal()), served, tid)
            }
            // Only an extended-remote client that left everything gets here.
            _ => Answer::text("W00"),
        }
    }

    fn stopped(&self, signal: u8, served: &Served, tid: Tid) -> Answer {
        Answer::text(format!("T{signal:02x}thread:{};", self.thread_id(served, tid)))
    }

    fn thread_extra(&self, id: &[u8]) -> Answer {
        let Some(Selected { served, tid: Some(tid) }) = thread_id(id).and_then(|id| self.selection.find(id))
        else {
            return Answer::error();
        };
        let said = match served.thread(tid) {
            Some(thread) if thread.extra.is_empty() => thread.name.clone(),
            Some(thread) => format!("{} {}", thread.name, thread.extra),
            None => return Answer::error(),
        };
        let text = printable(&said);
        let cut = text.as_bytes().get(..PIECE).unwrap_or(text.as_bytes());
        Answer::text(hex::encode(cut))
    }

    /// `qGetTLSAddr:THREAD,OFFSET,LINK-MAP`
    fn tls_address(&self, args: &[u8]) -> Answer {
        let mut args = args.split(|&b| b == b',');
        let mut next = || args.next();
        let found = (|| {
            let id = thread_id(next()?)?;
            let (offset, link_map) = (number(next()?)?, number(next()?)?);
            let Selected { served, tid } = self.selection.find(id)?;
            served.inferior().tls_address(tid?, offset, VirtAddr(link_map))
        })();
        match found {
            Some(VirtAddr(addr)) => Answer::text(format!("{addr:x}")),
            None => self.refuse("the thread-local variable's place is not known"),
        }
    }

    // --- attaching and leaving -------------------------------------------

    fn attach(&mut self, pid: &[u8]) -> Answer {
        let pid = match Id::parse(pid) {
            Some(Id::One(pid)) => u32::try_from(pid).ok(),
            _ => None,
        };
        let Some(pid) = pid else { return Answer::error() };
        if !self.client.multiprocess && pid != self.selection.main().inferior().pid() {
            return self.refuse("attaching needs a client that knows multiprocess (target extended-remote)");
        }
        let Some(selected) = self.selection.attach(pid) else {
            debug!(pid, "no such process to attach to");
            return self.refuse(&format!("the dump holds no process {pid} with memory of its own"));
        };
        info!(pid, "attached");
        self.documents.forget();
        let inferior = selected.inferior();
        let (tid, signal) = (inferior.initial_thread(), inferior.stop_signal());
        let served = Arc::clone(&selected.served);
        self.stopped(signal::from_linux(signal), &served, tid)
    }

    fn detach(&mut self, args: &[u8]) -> Answer {
        match (args.is_empty(), args.strip_prefix(b";").and_then(Id::parse)) {
            (true, _) => {
                self.selection.leave_all();
                self.documents.forget();
            }
            (false, Some(Id::One(pid))) => self.leave(pid),
            (false, _) => return Answer::error(),
        }
        if self.selection.attached().is_empty() && !self.client.extended {
            return Answer::End(Some(b"OK".to_vec()));
        }
        Answer::ok()
    }

    fn leave(&mut self, pid: u64) {
        self.selection.leave(pid);
        self.documents.forget();
    }

    // --- registers and memory --------------------------------------------

    /// `p`: gdbstub cannot say that a register is unavailable.
    fn one_register(&mut self, args: &[u8]) -> Answer {
        let place = number(args).and_then(|n| usize::try_from(n).ok()).and_then(|n| {
            let (at, len) = self.selection.inferior()?.description().place_of_number(n)?;
            Some((n, at..at.checked_add(len)?))
        });
        let (Some((n, range)), Some(registers)) = (place, self.selection.registers()) else {
            return Answer::error();
        };
        match registers.bytes().get(range) {
            Some(bytes) if bytes.iter().all(Option::is_some) => Answer::pass(format!("p{n:x}"), bytes.len()),
            Some(bytes) => Answer::text("xx".repeat(bytes.len())),
            None => Answer::error(),
        }
    }

    /// `ADDR,LENGTH` of a memory packet.
    fn range(args: &[u8]) -> Option<(u64, usize)> {
        let (addr, len) = split(args, b',')?;
        Some((number(addr)?, usize::try_from(number(len)?).unwrap_or(usize::MAX).min(PIECE)))
    }

    /// `m` in hexadecimal, and gdb 16's `x` as `b` and the bytes themselves. An older
    /// LLDB's probe `x0,0` means another reply by the same letter: it is told that
    /// there is none.
    fn memory(&mut self, args: &[u8], binary: bool) -> Answer {
        let (addr, len) = match Self::range(args) {
            Some((_, 0)) if binary => return Answer::empty(),
            Some((addr, len @ 1..)) if self.selection.thread().is_some() => (addr, len),
            _ => return Answer::error(),
        };
        let mut buf = vec![0; len];
        let Some(read) = self.selection.read_memory(addr, &mut buf).and_then(|n| buf.get(..n)) else {
            return match (self.client.error_messages, self.selection.last_fault()) {
                (true, Some((VirtAddr(at), fault))) if at == addr && binary => {
                    Answer::text(format!("E.{fault}"))
                }
                _ if binary => Answer::error(),
                _ => Answer::errno(EFAULT),
            };
        };
        if !binary {
            return Answer::text(hex::encode(read));
        }
        let mut reply = b"b".to_vec();
        frame::escape(&mut reply, read);
        Answer::Reply(reply)
    }
}
