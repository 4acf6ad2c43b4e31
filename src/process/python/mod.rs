//! The Python frames of a process: CPython 3.8 to 3.13, read from its memory.
//!
//! ```text
//!  layout  where the members are, by version      lines  the line of an instruction
//! ```
//!
//! `_PyRuntime` → interpreters → threads → frames → code objects. A thread of
//! Python is one of the process by its pthread (`fs_base`), or by its id since
//! 3.11. One call of the interpreter (`_PyEval_EvalFrameDefault`) runs one Python
//! function before 3.11, and since then also those which it calls: a frame tells
//! whether a C call began with it.
//!
//! Read from CPython's headers (`Include/internal/pycore_*.h`, PSF licence) for
//! where things are; what they mean as py-spy and pystack, too, understand it.

use object::elf::PT_INTERP;
use serde::Serialize;

use super::core_file::ThreadNotes;
use super::{Process, image::Image};
use crate::addr::VirtAddr;
use crate::arch::Register;
use crate::bytes::u64_at;
use crate::memory::AddressSpace;
use crate::text::printable;

mod layout;
mod lines;

use layout::{Frames, Layout};

/// Python's own limit of recursion is 1,000 unless a program sets another.
const FRAMES_MAX: usize = 1 << 14;
const THREADS_MAX: usize = 1 << 16;
const INTERPRETERS_MAX: usize = 256;
const TEXT_MAX: u64 = 4096;
const TABLE_MAX: u64 = 1 << 20;

/// The function in C that runs Python's.
pub const EVAL: &str = "_PyEval_EvalFrameDefault";

/// All that the interpreter knows hangs on it.
const RUNTIME: &str = "_PyRuntime";

/// One Python function that was running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Frame {
    /// Its name, with the names of classes since 3.11.
    pub function: String,
    /// Its source file.
    pub file: String,
    /// The line that it was at.
    pub line: Option<u32>,
    /// Whether the C function that runs it began with it.
    #[serde(skip)]
    pub entry: bool,
}

/// The Python in a process.
pub struct Python {
    /// `3.11`
    pub version: (u8, u8),
    layout: Layout,
    /// `fs_base`, thread id if known, and the thread's state.
    threads: Vec<(u64, Option<u32>, u64)>,
}

impl Python {
    /// Finds the interpreter; nothing where there is none, and a sentence where it is
    /// one whose frames cannot be read.
    pub(super) fn find(process: &Process) -> Option<Result<Self, String>> {
        let named = |name: &str| name.rsplit('/').next().is_some_and(|base| base.contains("python"));
        let mut own = process.images_named(named).filter_map(|i| Some((i, i.variable(process, RUNTIME)?)));
        // Any program may have Python within itself. One that is linked dynamically exports it for
        // the modules in C: of a large one the whole table of symbols is so not looked through.
        let within = || {
            let program = process.program()?;
            let found = match program.phdr(PT_INTERP) {
                Some(_) => program.exported(RUNTIME),
                None => program.variable(process, RUNTIME),
            };
            Some((program, found?))
        };
        let (image, runtime) = own.next().or_else(within)?;
        Some(Self::at(process, image, runtime))
    }

    fn at(process: &Process, image: &Image, runtime: u64) -> Result<Self, String> {
        let version = version(process, image, runtime).ok_or("the version of Python is not known")?;
        let layout = Layout::of(process, version, runtime)
            .ok_or_else(|| format!("Python {}.{} is not one whose frames are known", version.0, version.1))?;
        let mut python = Self { version, layout, threads: Vec::new() };
        python.threads = python.find_threads(process, runtime);
        if python.threads.is_empty() {
            return Err(format!("Python {}.{} has no threads that can be read", version.0, version.1));
        }
        Ok(python)
    }

    fn find_threads(&self, process: &Process, runtime: u64) -> Vec<(u64, Option<u32>, u64)> {
        let l = &self.layout;
        let word = |at: u64, offset: u64| word(process, at.checked_add(offset)?);
        let mut found = Vec::new();
        let mut interpreter = word(runtime, l.interpreters);
        for _ in 0..INTERPRETERS_MAX {
            let Some(at) = interpreter.filter(|&at| at != 0) else { break };
            let mut thread = word(at, l.interpreter_threads);
            while let Some(state) = thread.filter(|&t| t != 0 && found.len() < THREADS_MAX) {
                // Each thread names its interpreter: another layout would not.
                if word(state, l.thread_interpreter) != Some(at) {
                    break;
                }
                let native = l.thread_native.and_then(|o| word(state, o)).and_then(|n| u32::try_from(n).ok());
                found.push((word(state, l.thread_pthread).unwrap_or(0), native, state));
                thread = word(state, l.thread_next);
            }
            interpreter = word(at, l.interpreter_next);
        }
        found
    }

    /// The Python frames of a thread, innermost first; nothing if it is none of Python's.
    #[must_use]
    pub fn stack(&self, process: &Process, thread: &ThreadNotes) -> Option<Vec<Frame>> {
        let fs_base = process.general_regs(thread)?.get(Register::FsBase);
        let own = |(pthread, native, _): &&(u64, Option<u32>, u64)| {
            Some(*pthread) == fs_base || (*native == Some(thread.tid) && fs_base.is_none())
        };
        let &(.., state) = self.threads.iter().find(own)?;
        Some(self.frames(process, state))
    }

    fn frames(&self, process: &Process, state: u64) -> Vec<Frame> {
        let l = &self.layout;
        let word = |at: u64, offset: u64| word(process, at.checked_add(offset)?);
        let mut next = match l.thread_cframe {
            Some((cframe, current)) => word(state, cframe).and_then(|c| word(c, current)),
            None => word(state, l.thread_frame),
        };
        let mut frames: Vec<Frame> = Vec::new();
        for _ in 0..FRAMES_MAX {
            let Some(at) = next.filter(|&at| at != 0) else { break };
            next = word(at, l.frame_previous);
            let byte = |offset: u64| {
                let mut byte = [0];
                process.memory().read(VirtAddr(at.checked_add(offset)?), &mut byte).ok()?;
                byte.first().copied()
            };
            let entry = match l.frames {
                Frames::OnePerCall => true,
                Frames::Entry(offset) => byte(offset) != Some(0),
                Frames::Owner(offset) => {
                    // FRAME_OWNED_BY_CSTACK: no function, the mark of where C called Python.
                    if byte(offset) == Some(3) {
                        if let Some(last) = frames.last_mut() {
                            last.entry = true;
                        }
                        continue;
                    }
                    false
                }
            };
            let Some(code) = word(at, l.frame_code) else { break };
            let Some(mut frame) = self.function(process, at, code) else { break };
            frame.entry = entry;
            frames.push(frame);
        }
        frames
    }

    fn function(&self, process: &Process, frame: u64, code: u64) -> Option<Frame> {
        let l = &self.layout;
        let member = |offset: u64| word(process, code.checked_add(offset)?);
        let text = |offset: u64| self.text(process, member(offset)?);
        let function = text(l.code_name)?;
        let line = || {
            let first = u32::try_from(member(l.code_first_line)? & 0xffff_ffff).ok()?;
            let at = self.instruction(process, frame, code)?;
            lines::line(l.lines, &self.bytes(process, member(l.code_lines)?)?, first, at)
        };
        Some(Frame { function, file: text(l.code_file).unwrap_or_default(), line: line(), entry: false })
    }

    /// How many bytes into its code a frame is.
    fn instruction(&self, process: &Process, frame: u64, code: u64) -> Option<u64> {
        let l = &self.layout;
        let at = word(process, frame.checked_add(l.frame_instruction)?)?;
        match l.code_bytes {
            Some(offset) => at.checked_sub(code.checked_add(offset)?),
            // An `int`; -1 before the first instruction.
            None => u64::try_from((at & 0xffff_ffff) as i32).ok()?.checked_mul(l.instruction_size),
        }
    }

    /// A `str`.
    fn text(&self, process: &Process, at: u64) -> Option<String> {
        let head = process.memory().read_vec(VirtAddr(at), 40).ok()?;
        let (len, state) = (u64_at(&head, 16)?, u64_at(&head, 32)?);
        // interned 2 bits, kind 3, compact 1, ascii 1.
        let (kind, compact, ascii) = (state >> 2 & 7, state >> 5 & 1 == 1, state >> 6 & 1 == 1);
        if !compact || len > TEXT_MAX {
            return None;
        }
        let data =
            at.checked_add(if ascii { self.layout.ascii_header } else { self.layout.compact_header })?;
        let width = if ascii { 1 } else { kind };
        let raw = process.memory().read_vec(VirtAddr(data), usize::try_from(len * width).ok()?).ok()?;
        let number = |c: &[u8]| c.iter().rev().fold(0u32, |n, &b| n << 8 | u32::from(b));
        let text: String = match width {
            1 | 2 | 4 => raw
                .chunks_exact(usize::try_from(width).ok()?)
                .map(|c| char::from_u32(number(c)).unwrap_or(char::REPLACEMENT_CHARACTER))
                .collect(),
            _ => return None,
        };
        Some(printable(&text).into_owned())
    }

    /// A `bytes`.
    fn bytes(&self, process: &Process, at: u64) -> Option<Vec<u8>> {
        let len = word(process, at.checked_add(16)?)?;
        let len = usize::try_from(len).ok().filter(|_| len <= TABLE_MAX)?;
        process.memory().read_vec(VirtAddr(at.checked_add(32)?), len).ok()
    }
}

fn word(process: &Process, at: u64) -> Option<u64> {
    process.memory().read_u64(VirtAddr(at)).ok()
}

/// Major and minor version: from the debug offsets of 3.13 and later, else
/// `Py_Version` (3.11), else the names of the files.
fn version(process: &Process, image: &Image, runtime: u64) -> Option<(u8, u8)> {
    let of_hex =
        |hex: u64| Some((u8::try_from(hex >> 24 & 0xff).ok()?, u8::try_from(hex >> 16 & 0xff).ok()?));
    let head = process.memory().read_vec(VirtAddr(runtime), 16).ok()?;
    if head.starts_with(layout::COOKIE) {
        return of_hex(u64_at(&head, 8)?);
    }
    if let Some(hex) = image.variable(process, "Py_Version").and_then(|at| word(process, at)) {
        return of_hex(hex);
    }
    let named = |name: &str| {
        let (_, rest) = name.rsplit_once("python3.")?;
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        Some((3, digits.parse().ok()?))
    };
    named(&image.name).or_else(|| process.files().iter().find_map(|f| named(&f.name)))
}
