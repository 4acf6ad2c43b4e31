//! Where the members of CPython's structures are: x86-64, a release build with the GIL.
//!
//! Measured with `offsetof` on the headers of 3.8.18, 3.9.18, 3.10.13, 3.11.7 and
//! 3.12.1; within a minor version they do not change after its release. Since 3.13
//! the interpreter itself says where they are (`_Py_DebugOffsets`, `pycore_runtime.h`,
//! at the start of `_PyRuntime`).

use crate::addr::VirtAddr;
use crate::bytes::u64_at;
use crate::memory::AddressSpace;
use crate::process::Process;

/// What `_PyRuntime` begins with since 3.13.
pub(super) const COOKIE: &[u8] = b"xdebugpy";

/// How a frame tells whether C called it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Frames {
    /// Each call of Python is one of C.
    OnePerCall,
    /// `is_entry`.
    Entry(u64),
    /// By a frame of `owner` `FRAME_OWNED_BY_CSTACK` behind it.
    Owner(u64),
}

/// How the lines of a code object are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lines {
    /// `co_lnotab`, to 3.9.
    Lnotab,
    /// PEP 626, 3.10.
    Ranges,
    /// The location table, since 3.11.
    Locations,
}

/// Offsets in bytes.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub interpreters: u64,
    pub interpreter_next: u64,
    pub interpreter_threads: u64,
    pub thread_next: u64,
    pub thread_interpreter: u64,
    pub thread_pthread: u64,
    pub thread_native: Option<u64>,
    pub thread_frame: u64,
    /// 3.11 and 3.12: the frame is a member of what this points to.
    pub thread_cframe: Option<(u64, u64)>,
    pub frame_previous: u64,
    pub frame_code: u64,
    pub frame_instruction: u64,
    pub frames: Frames,
    pub code_file: u64,
    pub code_name: u64,
    pub code_first_line: u64,
    pub code_lines: u64,
    /// Where the instructions begin, if a frame points at one; else it counts them.
    pub code_bytes: Option<u64>,
    pub instruction_size: u64,
    pub lines: Lines,
    pub ascii_header: u64,
    pub compact_header: u64,
}

/// 3.8 and 3.9.
const OLD: Layout = Layout {
    interpreters: 32,
    interpreter_next: 0,
    interpreter_threads: 8,
    thread_next: 8,
    thread_interpreter: 16,
    thread_pthread: 176,
    thread_native: None,
    thread_frame: 24,
    thread_cframe: None,
    frame_previous: 24,
    frame_code: 32,
    frame_instruction: 104,
    frames: Frames::OnePerCall,
    code_file: 104,
    code_name: 112,
    code_first_line: 40,
    code_lines: 120,
    code_bytes: None,
    instruction_size: 1,
    lines: Lines::Lnotab,
    ascii_header: 48,
    compact_header: 72,
};

const V3_10: Layout = Layout { frame_instruction: 96, instruction_size: 2, lines: Lines::Ranges, ..OLD };

const V3_11: Layout = Layout {
    interpreters: 40,
    interpreter_threads: 16,
    thread_pthread: 152,
    thread_native: Some(160),
    thread_cframe: Some((56, 8)),
    frame_previous: 48,
    frame_code: 32,
    frame_instruction: 56,
    frames: Frames::Entry(68),
    code_file: 112,
    code_name: 128,
    code_first_line: 72,
    code_lines: 136,
    code_bytes: Some(184),
    lines: Lines::Locations,
    ..OLD
};

const V3_12: Layout = Layout {
    interpreter_threads: 72,
    thread_pthread: 136,
    thread_native: Some(144),
    thread_cframe: Some((56, 0)),
    frame_previous: 8,
    frame_code: 0,
    frames: Frames::Owner(70),
    code_first_line: 68,
    code_bytes: Some(192),
    ascii_header: 40,
    compact_header: 56,
    ..V3_11
};

impl Layout {
    /// The layout of a version whose `_PyRuntime` is at `runtime`.
    pub(super) fn of(process: &Process, version: (u8, u8), runtime: u64) -> Option<Self> {
        match version {
            (3, 8 | 9) => Some(OLD),
            (3, 10) => Some(V3_10),
            (3, 11) => Some(V3_11),
            (3, 12) => Some(V3_12),
            (3, 13) => Self::told(process, runtime),
            _ => None,
        }
    }

    /// As 3.13 tells it.
    fn told(process: &Process, runtime: u64) -> Option<Self> {
        let raw = process.memory().read_vec(VirtAddr(runtime), 568).ok()?;
        // An offset of more would be none of a structure.
        let offset = |at: usize| u64_at(&raw, at).filter(|&o| o < 1 << 24);
        Some(Self {
            interpreters: offset(40)?,
            interpreter_next: offset(64)?,
            interpreter_threads: offset(72)?,
            thread_next: offset(168)?,
            thread_interpreter: offset(176)?,
            thread_frame: offset(184)?,
            thread_cframe: None,
            thread_pthread: offset(192)?,
            thread_native: Some(offset(200)?),
            frame_previous: offset(232)?,
            frame_code: offset(240)?,
            frame_instruction: offset(248)?,
            frames: Frames::Owner(offset(264)?),
            code_file: offset(280)?,
            code_name: offset(296)?,
            code_lines: offset(304)?,
            code_first_line: offset(312)?,
            code_bytes: Some(offset(344)?),
            ascii_header: offset(560)?,
            ..V3_12
        })
    }
}
