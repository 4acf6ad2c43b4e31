//! What the mappings without a file are: stacks, what lies below them, Go's heap.
//!
//! The kernel's `[stack]` is the mapping above whose top the kernel put the
//! arguments (`AT_RANDOM`, `AT_EXECFN`). The stack of another thread is the mapping
//! that holds what `fs_base` points to: glibc and musl put a thread's control block
//! at its top, so that it is found also where the thread runs on another stack. If that is
//! one for signal handlers, a frame on it tells where it is ([`super::sigframe`]).

use std::ops::Range;

use super::sigframe::{FRAMES, SigFrame};
use super::{Process, ThreadNotes, unwind};
use crate::addr::PAGE_SIZE;
use crate::arch::{Register, map};
use crate::memory::segments::Segment;

const AT_RANDOM: u64 = 25;
const AT_EXECFN: u64 = 31;
const AT_SYSINFO_EHDR: u64 = 33;
/// How far below a stack an access still tells of one that was too small: glibc's
/// guard is a page, the kernel's gap below the main stack 256 pages.
const BELOW: u64 = 1 << 20;
/// Where Go's heap begins (`runtime/malloc.go`, `arenaBaseOffset`, hints), and how much
/// of the address space is taken for it.
const GO_HEAP: Range<u64> = 0xc0_0000_0000..0xc4_0000_0000;

/// Threads off their stacks that are walked to learn why: all of Go's may be.
const WALKED: usize = 200;

/// The stack of one thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stack {
    /// Whose.
    pub tid: u32,
    /// Whether it is the process's first.
    pub main: bool,
    /// Where.
    pub range: Range<u64>,
    /// The mapping directly below it that allows no access.
    pub guard: Option<Range<u64>>,
}

/// A stack for signal handlers, and a thread that stands on it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SignalStack {
    tid: u32,
    range: Range<u64>,
}

impl SignalStack {
    fn of(process: &Process, thread: &ThreadNotes) -> Option<Self> {
        let frames = unwind::stack(process, thread, FRAMES).frames;
        let top = frames.first()?.sp;
        let frame = SigFrame::running(process, &frames).next()?;
        let range = frame.own_stack().filter(|r| r.contains(&top) && r.contains(&frame.at))?;
        Some(Self { tid: thread.tid, range })
    }
}

/// What is known of the mappings.
#[derive(Debug, Default)]
pub struct Labels {
    /// In the order of their addresses.
    stacks: Vec<Stack>,
    signal_stacks: Vec<SignalStack>,
    vdso: Option<u64>,
    go: bool,
}

impl Labels {
    /// Looks at all threads.
    #[must_use]
    pub fn of(process: &Process) -> Self {
        let stored = process.memory().stored();
        let range = |s: &Segment| s.start..s.end;
        let arguments = [AT_RANDOM, AT_EXECFN].iter().find_map(|&k| process.auxv_entry(k));
        let main = arguments.and_then(|at| stored.segment(at)).map(range);
        let has_go = |f: &super::found::FoundFile| f.elf.section(".go.buildinfo").is_some();
        let go = process.program().and_then(|i| i.file.as_ref()?.served()).is_some_and(has_go);
        // Go keeps a thread's control block, and the stacks of its goroutines, in its heap.
        let alone = |s: &&Segment| process.file_at(s.start).is_none() && !(go && GO_HEAP.contains(&s.start));
        let (mut stacks, mut off): (Vec<Stack>, Vec<_>) = Default::default();
        for thread in process.threads() {
            let Some(regs) = process.general_regs(thread) else { continue };
            let own =
                |register| regs.get(register).and_then(|at| stored.segment(at)).filter(|s| s.writable());
            let is_main = thread.tid == process.pid();
            let found = if is_main {
                main.clone().or_else(|| own(Register::Rsp).map(range))
            } else {
                own(Register::FsBase).filter(alone).map(range)
            };
            let Some(found) = found else {
                off.push(thread);
                continue;
            };
            if regs.get(Register::Rsp).is_some_and(|sp| !found.contains(&sp)) {
                off.push(thread);
            }
            let below = found.start.checked_sub(1).and_then(|at| stored.segment(at));
            let guard = below.filter(|s| s.flags & 7 == 0 && s.end == found.start).map(range);
            stacks.push(Stack { tid: thread.tid, main: is_main, range: found, guard });
        }
        stacks.sort_by_key(|s| s.range.start);
        stacks.dedup_by_key(|s| s.range.start);
        let signal_stacks =
            off.into_iter().take(WALKED).filter_map(|t| SignalStack::of(process, t)).collect();
        Self { stacks, signal_stacks, vdso: process.auxv_entry(AT_SYSINFO_EHDR), go }
    }

    /// What the mapping `range`, without a file, is; empty where nothing is known.
    #[must_use]
    pub fn of_mapping(&self, range: &Range<u64>) -> String {
        if self.vdso.is_some_and(|at| range.contains(&at)) {
            return "[vdso]".to_owned();
        }
        if range.start == map::VSYSCALL {
            return "[vsyscall]".to_owned();
        }
        let stack = self.near(range.start);
        match stack {
            Some(s) if s.range == *range && s.main => "[stack]".to_owned(),
            Some(s) if s.range == *range => format!("[stack:{}]", s.tid),
            Some(s) if s.guard.as_ref() == Some(range) => format!("[guard of stack:{}]", s.tid),
            _ if self.go && GO_HEAP.contains(&range.start) => "[Go heap]".to_owned(),
            _ => self.with_signal_stack(range),
        }
    }

    /// One of its own is mapped in whole pages, another lies in the heap.
    fn with_signal_stack(&self, range: &Range<u64>) -> String {
        let within = self.signal_stacks.iter().find(|s| range.contains(&s.range.start));
        within.map_or_else(String::new, |s| {
            let is_all = s.range.start - range.start + range.end.saturating_sub(s.range.end) < PAGE_SIZE;
            format!("[{}sigaltstack:{}]", if is_all { "" } else { "with " }, s.tid)
        })
    }

    /// The stack for signal handlers on which a thread stands.
    #[must_use]
    pub fn signal_stack(&self, tid: u32) -> Option<&Range<u64>> {
        self.signal_stacks.iter().find(|s| s.tid == tid).map(|s| &s.range)
    }

    /// In words, what an address in a mapping without a file is in.
    #[must_use]
    pub fn at(&self, addr: u64) -> Option<String> {
        if let Some(s) = self.signal_stacks.iter().find(|s| s.range.contains(&addr)) {
            return Some(format!("on the stack for signal handlers of thread {}", s.tid));
        }
        let stack = self.near(addr).filter(|s| s.range.contains(&addr));
        let go = (self.go && GO_HEAP.contains(&addr)).then(|| "in Go's heap".to_owned());
        stack.map(|s| format!("on the stack of thread {}", s.tid)).or(go)
    }

    /// The stack that ends behind `addr`, next above it.
    fn near(&self, addr: u64) -> Option<&Stack> {
        let after = self.stacks.partition_point(|s| s.range.end <= addr);
        self.stacks.get(after)
    }

    /// The stack that `addr` lies just below: whose overflow it is.
    #[must_use]
    pub fn overflowed(&self, addr: u64) -> Option<&Stack> {
        let stack = self.near(addr)?;
        let guard = stack.guard.as_ref().is_some_and(|g| g.contains(&addr));
        let below = addr < stack.range.start && stack.range.start - addr <= BELOW;
        (guard || below && stack.main).then_some(stack)
    }
}
