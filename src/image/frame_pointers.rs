//! Unwind rules for kernels that keep frame pointers and have no table.
//!
//! gdb would read a function's first instructions by itself, but not past the function
//! tracer's; and of entry code, which it knows nothing of, the rules are those of
//! [`Stub`]. vmlinux's own rules for interrupts are wrong in kernels before 4.1: behind the
//! call of the handler they count from another place (8 bytes off), and gdb goes on at
//! `orig_ax`.

use std::ops::Range;

use super::debug_frame::{
    Cfa, Class, OFFSET, RBP, RSP, Rule, UNDEFINED, Writer, at_rsp_plus, cfa_expression, number, pt_regs,
};
use crate::arch::prologue::Prologue;
use crate::arch::stub::Stub;
use crate::arch::{Register, pt_regs as saved};

/// What is known of code that keeps frame pointers; nothing of other code.
#[derive(Debug, Clone, Copy, Default)]
pub struct Code<'a> {
    /// Its functions, by address.
    pub functions: &'a [Prologue],
    /// The entry code, by address.
    pub stubs: &'a [(Range<u64>, Stub)],
}

impl Code<'_> {
    /// Whether there is any.
    pub(super) fn is_empty(&self) -> bool {
        self.functions.is_empty() && self.stubs.is_empty()
    }
}

/// Rules for all of `text`.
pub(super) fn add(writer: &mut Writer, text: &Range<u64>, code: Code<'_>) {
    let mut at = text.start;
    for (range, stub) in code.stubs.iter().filter(|(r, _)| text.start <= r.start && r.end <= text.end) {
        if range.start < at {
            continue;
        }
        functions(writer, at..range.start, code.functions);
        match stub {
            Stub::Exception => writer.row(range, &exception()),
            Stub::Interrupt => writer.row(range, &interrupt()),
            Stub::Other => writer.end(range.clone()),
        }
        at = range.end;
    }
    functions(writer, at..text.end, code.functions);
}

fn functions(writer: &mut Writer, range: Range<u64>, all: &[Prologue]) {
    let pushed = Rule {
        class: Class::Call,
        cfa: Cfa::Register(RSP, 16),
        registers: vec![OFFSET | RBP, 2],
        alone: false,
    };
    let mut at = range.start;
    let first = all.partition_point(|p| p.start < at);
    for p in all.iter().skip(first).take_while(|p| p.framed <= range.end) {
        if p.start < at {
            continue;
        }
        writer.frame_pointer(at..p.start);
        writer.call(p.start..p.pushed, 8);
        writer.row(&(p.pushed..p.framed), &pushed);
        at = p.framed;
    }
    writer.frame_pointer(at..range.end);
}

/// The rules for interrupts alone.
pub(super) fn add_interrupts(writer: &mut Writer, stubs: &[(Range<u64>, Stub)]) {
    for (range, _) in stubs.iter().filter(|(_, stub)| *stub == Stub::Interrupt) {
        writer.row(range, &interrupt());
    }
}

fn exception() -> Rule {
    Rule { class: Class::Regs, cfa: Cfa::Register(RSP, 0), registers: pt_regs(), alone: false }
}

fn interrupt() -> Rule {
    let bp = i64::try_from(saved::offset(Register::Rbp)).unwrap_or(0);
    let mut registers = pt_regs();
    for lost in [Register::Rbx, Register::R12, Register::R13, Register::R14, Register::R15] {
        registers.extend([UNDEFINED, number(lost)]);
    }
    Rule { class: Class::Regs, cfa: Cfa::Other(cfa_expression(&at_rsp_plus(-bp))), registers, alone: true }
}
