//! The frames of a thread, how each was found, and why there are no more: what
//! [`unwind`](super::unwind) tells, whoever walked.

use serde::Serialize;

use crate::error::ReadFault;

/// How a frame was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The thread's own registers.
    Regs,
    /// A call, by unwind rules.
    Call,
    /// What a signal interrupted, by unwind rules.
    Signal,
    /// A call, by what the instructions of the callee did to the stack.
    Code,
    /// A call that went on on another stack: Go's of C.
    Switch,
    /// A call, by frame pointers: a guess where the compiler used none.
    FramePointer,
    /// The return address on top of the stack, after a jump to nowhere: a guess.
    StackTop,
    /// The first word up the stack that is behind a call: a guess.
    Scan,
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Where it is.
    pub pc: u64,
    /// Its stack pointer.
    pub sp: u64,
    /// How it was found.
    pub kind: Kind,
}

/// Why a walk ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The rules say that it is the outermost frame, or it has no return address.
    Outermost,
    /// There are more frames.
    Cut,
    /// The core has no registers of the thread.
    NoRegisters,
    /// Nothing tells who called this frame: no rules, and no frame pointer that leads on.
    NoRules,
    /// The return address of this frame cannot be read.
    Unreadable(ReadFault),
    /// The caller would be below its callee on the stack: it is damaged, or the
    /// rules do not fit.
    NoProgress,
}

/// A thread's stack.
pub struct Stack {
    /// Innermost first.
    pub frames: Vec<Frame>,
    /// Why there are no more.
    pub end: End,
}
