//! Who called a function that has no unwind rules (musl's libc, assembly, generated code):
//! what its instructions tell ([`crate::arch::by_code`]), else a guess, which is called one.

use gimli::UnwindContext;

use super::Process;
use super::frames::Kind;
use super::signal::SigInfo;
use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::arch::Register::{Rbp, Rip, Rsp};
use crate::arch::{Registers, by_code, disasm, map};
use crate::bytes::u64_at;
use crate::debuginfo::cfi::Step;
use crate::memory::AddressSpace;

/// Functions whose instructions are followed in one walk.
const TRIES: usize = 1024;
/// Compilers align functions so.
const ALIGNED: u64 = 16;
/// A function's beginning is looked for so far in front of a place in it.
const SEARCHED: u64 = 4096;

/// The search in one walk.
pub(super) struct Callers<'p> {
    process: &'p Process,
    tries: usize,
}

impl<'p> Callers<'p> {
    pub(super) fn new(process: &'p Process) -> Self {
        Self { process, tries: TRIES }
    }

    /// The caller by the function's own instructions. Where it begins a symbol tells, else
    /// the call that led to it: one whose return address lies where these instructions say.
    pub(super) fn by_code(&mut self, regs: &Registers, lookup: u64) -> Option<Registers> {
        let process = self.process;
        process.memory().stored().segment(lookup).filter(|s| s.executable())?;
        let named = process.image_at(lookup)?.symbol(process, lookup);
        // What a compiler split off is entered with a frame.
        let start = named.filter(|(name, _)| !name.contains(".cold")).map(|(_, into)| lookup - into);
        let by_symbol = start.and_then(|start| self.with_start(regs, start, lookup));
        if let Some(caller) = by_symbol.filter(|c| c.get(Rip).is_some_and(|ra| is_returned_to(process, ra))) {
            return Some(caller);
        }
        stack_words(process, regs.get(Rsp)?)?.into_iter().find_map(|(at, ra)| {
            let caller = self.with_start(regs, called_before(process, ra)?, lookup)?;
            (caller.get(Rsp) == at.checked_add(8)).then_some(caller)
        })
    }

    /// The caller of the function at `start`, which is at `lookup`.
    fn with_start(&mut self, regs: &Registers, start: u64, lookup: u64) -> Option<Registers> {
        /// A function is read so far in front of the place, and behind it.
        const BEFORE: u64 = 1 << 16;
        const BEHIND: u64 = 4096;
        let into = lookup.checked_sub(start).filter(|&into| into <= BEFORE)?;
        self.tries = self.tries.checked_sub(1)?;
        let memory = self.process.memory();
        let mut code = vec![0; usize::try_from(into + BEHIND).ok()?];
        let n = memory.read(VirtAddr(start), &mut code).ok()?;
        let frame = by_code::Frame::of(code.get(..n)?, usize::try_from(into).ok()?)?;
        frame.caller(regs, &mut |at| memory.read_u64(VirtAddr(at)).ok())
    }

    /// A jump to where nothing runs has left the return address on top of the stack; elsewhere
    /// the frame pointer may be one, the function's own or that of one of its callers, and if it
    /// is none some word on the stack is the return address.
    pub(super) fn guess(&mut self, regs: &Registers, lookup: u64, kind: Kind) -> Option<(Registers, Kind)> {
        let process = self.process;
        let pc = regs.get(Rip)?;
        let word = |at: u64| process.memory().read_u64(VirtAddr(at)).ok();
        let executable = |at: u64| process.memory().stored().segment(at).is_some_and(|s| s.executable());
        let sp = regs.get(Rsp)?;
        let nothing_runs = |pc| !executable(pc) || pc & !(PAGE_SIZE - 1) == map::VSYSCALL;
        let was_jumped_to =
            || fetch_failed(process, pc) && word(sp).is_some_and(|ra| is_behind_a_call(process, ra));
        if kind == Kind::Regs && (nothing_runs(pc) || was_jumped_to()) {
            let mut next = *regs;
            next.set(Rip, word(sp).filter(|&ra| executable(ra)));
            next.set(Rsp, sp.checked_add(8));
            return next.get(Rip).map(|_| (next, Kind::StackTop));
        }
        let by_pointer = || {
            let rbp = regs.get(Rbp).filter(|&rbp| rbp >= sp && rbp - sp < 1 << 24)?;
            let mut next = Registers::default();
            next.set(Rbp, word(rbp));
            next.set(Rip, word(rbp.checked_add(8)?).filter(|&ra| executable(ra)));
            next.set(Rsp, rbp.checked_add(16));
            next.get(Rip).map(|_| (next, Kind::FramePointer))
        };
        if let Some(caller) = self.aligned(regs, lookup) {
            return Some(caller);
        }
        let Some(frame) = by_pointer() else { return scan(process, regs, sp) };
        // What made a call has most likely a frame of its own.
        let exact = matches!(kind, Kind::Regs | Kind::Signal);
        let owner = if exact { owner(process, regs, lookup, &frame.0, &mut self.tries) } else { None };
        Some(owner.unwrap_or(frame))
    }

    /// Gaps between functions are filled: of the places that look so, the nearest whose
    /// instructions say where on the stack something is that is behind a call.
    pub(super) fn aligned(&mut self, regs: &Registers, lookup: u64) -> Option<(Registers, Kind)> {
        let process = self.process;
        let first = lookup & !(ALIGNED - 1);
        let from = first.saturating_sub(SEARCHED).max(process.image_at(lookup)?.start);
        let code = process.memory().read_vec(VirtAddr(from), usize::try_from(first.checked_sub(from)?).ok()?);
        let code = code.ok()?;
        let before = |start: u64| code.get(usize::try_from((start - from).checked_sub(1)?).ok()?);
        // ret, nops of one byte and of more, int3
        let begins = |&start: &u64| matches!(before(start), Some(0xc3 | 0x90 | 0x00 | 0xcc));
        let starts = (0..SEARCHED / ALIGNED).map(|i| first.saturating_sub(i * ALIGNED));
        let starts = starts.take_while(|&start| start > from).filter(begins);
        let mut callers = starts.filter_map(|start| self.with_start(regs, start, lookup));
        let caller = callers.find(|caller| caller.get(Rip).is_some_and(|ra| is_returned_to(process, ra)))?;
        Some((caller, Kind::Scan))
    }
}

/// The caller, where the frame pointer is not the function's own: the first up the stack from which
/// rules lead to the frame that `by_pointer` has. A function built without frame pointers keeps
/// its caller's, and following that would leave the caller out.
fn owner(
    process: &Process,
    regs: &Registers,
    lookup: u64,
    by_pointer: &Registers,
    tries: &mut usize,
) -> Option<(Registers, Kind)> {
    /// Callers without frame pointers, on the way to one that has one.
    const STEPS: usize = 8;
    let (mut context, sp) = (UnwindContext::new(), regs.get(Rsp)?);
    let end = by_pointer.get(Rsp)?;
    let mut word = |at: u64| process.memory().read_u64(VirtAddr(at)).ok();
    let mut step = |regs: &Registers| {
        let lookup = regs.get(Rip)?.checked_sub(1)?;
        let image = process.image_at(lookup)?;
        let file = image.file.as_deref();
        match image.rules(process).step(process, file, &mut context, regs, lookup, &mut word) {
            Step::To(next, false) => Some(next),
            _ => None,
        }
    };
    let same = |next: &Registers| [Rip, Rsp].iter().all(|&r| next.get(r) == by_pointer.get(r));
    let mut leads_there = |caller: &Registers| {
        let mut at = *caller;
        for _ in 0..STEPS {
            match step(&at) {
                Some(next) if same(&next) => return true,
                Some(next) if next.get(Rsp) > at.get(Rsp) && next.get(Rsp) < Some(end) => at = next,
                _ => return false,
            }
        }
        false
    };
    let words = stack_words(process, sp)?.into_iter().take_while(|&(at, _)| at < end.saturating_sub(16));
    let calls = words.filter(|&(_, ra)| is_behind_a_call(process, ra) && may_lead(process, ra, lookup));
    let mut callers = calls.map(|(at, ra)| {
        let mut caller = *regs;
        caller.set(Rip, Some(ra));
        caller.set(Rsp, at.checked_add(8));
        caller
    });
    let caller = callers.find_map(|caller| {
        let left = tries.checked_sub(1).map(|left| *tries = left);
        (left.is_none() || leads_there(&caller)).then_some(left.map(|()| caller))
    });
    Some((caller??, Kind::Scan))
}

/// Whether the call that ends at `ra` can have led to the function around `pc`: to one of the same
/// file, or to another file's by a stub of the linker. Generated code is never called by name.
fn may_lead(process: &Process, ra: u64, pc: u64) -> bool {
    /// `endbr64`, and `bnd` before the jump, where there are such.
    const JUMPS: [&[u8]; 3] = [b"\xff\x25", b"\xf3\x0f\x1e\xfa\xff\x25", b"\xf3\x0f\x1e\xfa\xf2\xff\x25"];
    let Some(target) = called_before(process, ra) else { return true };
    let file = |at: u64| process.file_at(at).map(|(file, _)| file.first().map(|range| range.start));
    let mut code = [0; 8];
    let n = process.memory().read(VirtAddr(target), &mut code).unwrap_or(0);
    let is_stub = || JUMPS.iter().any(|jump| code.get(..n).is_some_and(|code| code.starts_with(jump)));
    file(pc).is_some_and(|of_pc| file(target) == Some(of_pc) || is_stub())
}

/// Whether the thread died because the code at `pc` could not be had: SIGSEGV or SIGBUS of its
/// own address.
fn fetch_failed(process: &Process, pc: u64) -> bool {
    const SIGBUS: u32 = 7;
    const SIGSEGV: u32 = 11;
    let info =
        process.threads().first().and_then(|t| SigInfo::parse(&process.core().note(t.siginfo.as_ref()?)));
    info.is_some_and(|i| matches!(i.signal, SIGBUS | SIGSEGV) && i.address == Some(pc))
}

/// The first word up the stack that a call, or the kernel for a signal handler, could have left there.
pub(super) fn scan(process: &Process, regs: &Registers, sp: u64) -> Option<(Registers, Kind)> {
    let (at, ra) = stack_words(process, sp)?.into_iter().find(|&(_, ra)| is_returned_to(process, ra))?;
    let mut next = *regs;
    next.set(Rip, Some(ra));
    next.set(Rsp, at.checked_add(8));
    Some((next, Kind::Scan))
}

/// The words from `sp` on, and where they lie.
fn stack_words(process: &Process, sp: u64) -> Option<Vec<(u64, u64)>> {
    /// A frame larger than this is not looked through.
    const SEARCHED: usize = 2048;
    let mut raw = vec![0; SEARCHED];
    let n = process.memory().read(VirtAddr(sp), &mut raw).ok()?;
    raw.truncate(n);
    let words = (0..raw.len()).step_by(8).filter_map(|i| Some((sp.checked_add(i as u64)?, u64_at(&raw, i)?)));
    Some(words.collect())
}

/// Where the call leads that ends at `ra`, if that is in the instruction itself.
fn called_before(process: &Process, ra: u64) -> Option<u64> {
    let from = ra.checked_sub(5).filter(|_| is_behind_a_call(process, ra))?;
    let mut code = [0; 5];
    let n = process.memory().read(VirtAddr(from), &mut code).ok()?;
    disasm::decode(code.get(..n)?, from).filter(|found| found.call && found.len == 5)?.target
}

/// Whether the code at `pc` is `mov $15, %eax; syscall`.
pub(super) fn returns_from_a_signal(process: &Process, pc: u64) -> bool {
    const RT_SIGRETURN: [&[u8]; 2] = [b"\x48\xc7\xc0\x0f\0\0\0\x0f\x05", b"\xb8\x0f\0\0\0\x0f\x05"];
    let mut code = [0; 9];
    let n = process.memory().read(VirtAddr(pc), &mut code).unwrap_or(0);
    RT_SIGRETURN.iter().any(|c| code.get(..n).is_some_and(|code| code.starts_with(c)))
}

/// Whether a function returns to `ra`.
fn is_returned_to(process: &Process, ra: u64) -> bool {
    is_behind_a_call(process, ra) || returns_from_a_signal(process, ra)
}

/// Whether a call instruction ends at `ra`: `e8 rel32`, or `ff /2` in its forms of 2, 3,
/// 4, 6 and 7 bytes, a REX before it or not.
pub(super) fn is_behind_a_call(process: &Process, ra: u64) -> bool {
    let executable = process.memory().stored().segment(ra).is_some_and(|s| s.executable());
    let mut code = [0; 7];
    let Some(from) = ra.checked_sub(7).filter(|_| executable) else { return false };
    if process.memory().read(VirtAddr(from), &mut code).ok() != Some(code.len()) {
        return false;
    }
    let indirect = |len: usize| {
        let at = code.len() - len;
        let (op, modrm) = (code.get(at), code.get(at + 1).copied().unwrap_or(0));
        let (mode, rm) = (modrm >> 6, modrm & 7);
        let expected = match (mode, rm) {
            (3, _) => 2,
            (0, 5) | (2, 0..=3 | 5..) => 6,
            (0, 4) => 3,
            (0, _) => 2,
            (1, 4) => 4,
            (1, _) => 3,
            _ => 7,
        };
        op == Some(&0xff) && modrm >> 3 & 7 == 2 && expected == len
    };
    code.get(2) == Some(&0xe8) || [2, 3, 4, 6, 7].into_iter().any(indirect)
}
