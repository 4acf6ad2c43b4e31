//! Unwind rules for kernels that keep frame pointers and have no table.
//!
//! gdb would read a function's first instructions by itself, but not past the function
//! tracer's; and of entry code, which it knows nothing of, the rules are those of
//! [`Stub`]. vmlinux's own rules for interrupts are wrong in kernels before 4.1: behind the
//! call of the handler they count from another place (8 bytes off), and gdb goes on at
//! `orig_ax`.

use std::ops::Range;

use super::cfi::{at_rsp_plus, cfa_expression};
use super::debug_frame::{Cfa, Class, RSP, Rule, UNDEFINED, Writer, number, pt_regs};
use crate::arch::stub::Stub;
use crate::arch::{Register, pt_regs as saved};

/// Rules for all of `text`.
pub(super) fn add(writer: &mut Writer, text: &Range<u64>, stubs: &[(Range<u64>, Stub)]) {
    let mut at = text.start;
    for (range, stub) in stubs.iter().filter(|(r, _)| text.start <= r.start && r.end <= text.end) {
        if range.start < at {
            continue;
        }
        writer.frame_pointer(at..range.start);
        match stub {
            Stub::Exception => writer.row(range, &exception()),
            Stub::Interrupt => writer.row(range, &interrupt()),
            Stub::Other => writer.end(range.clone()),
        }
        at = range.end;
    }
    writer.frame_pointer(at..text.end);
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
