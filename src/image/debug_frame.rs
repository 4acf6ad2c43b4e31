//! `.debug_frame`: unwind rules as CIEs and FDEs, row by row.
//!
//! DWARF 4, 6.4. Rows that follow each other share an FDE as long as their class
//! and its length allow; only what a row changes is written.

use std::collections::HashMap;
use std::ops::Range;

use super::leb::{Put, len32};
use crate::arch::{Register, pt_regs as saved};
use crate::debuginfo::symbols::{Symbol, SymbolTable};

/// Rows in one FDE: gdb runs them from its start at each lookup.
const MAX_ROWS: usize = 64;
/// Largest section (6.12: 2.6 MB). What a larger table holds behind that is left out.
const MAX_BYTES: usize = 64 << 20;
/// A `.debug_frame` section, and where in it interrupted frames are.
#[derive(Debug, Default)]
pub struct Frames {
    /// The section.
    pub bytes: Vec<u8>,
    /// Code whose FDE has the `S` augmentation, in order: gdb shows no name for
    /// these frames unless an inlined subroutine covers them.
    pub signal_ranges: Vec<Range<u64>>,
    /// How many FDEs there are.
    pub count: usize,
}

/// The kinds of CIE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Class {
    Call,
    /// pt_regs of an exception, interrupt or NMI.
    Regs,
    /// pt_regs of a system call: the caller is user space, and the frame keeps
    /// its name.
    Entry,
    /// The outermost frame.
    End,
    /// A call that leaves the IRQ stack: the check against going down is off.
    CallS,
}

impl Class {
    fn is_signal(self) -> bool {
        matches!(self, Self::Regs | Self::CallS)
    }
}

pub(super) const RBP: u8 = number(Register::Rbp);
pub(super) const RSP: u8 = number(Register::Rsp);

pub(super) const fn number(register: Register) -> u8 {
    match register.dwarf() {
        Some(number) => number,
        // Of none that ORC or pt_regs name but orig_rax, which is no register.
        None => u8::MAX,
    }
}

const DEF_CFA: u8 = 0x0c;
const DEF_CFA_OFFSET: u8 = 0x0e;
const DEF_CFA_EXPRESSION: u8 = 0x0f;
pub(super) const EXPRESSION: u8 = 0x10;
const OFFSET_EXTENDED_SF: u8 = 0x11;
pub(super) const DEF_CFA_SF: u8 = 0x12;
const VAL_OFFSET: u8 = 0x14;
pub(super) const VAL_EXPRESSION: u8 = 0x16;
pub(super) const UNDEFINED: u8 = 0x07;
pub(super) const SAME_VALUE: u8 = 0x08;
pub(super) const OFFSET: u8 = 0x80;
const ADVANCE: u8 = 0x40;

pub(super) const OP_DEREF: u8 = 0x06;
pub(super) const OP_CONSTS: u8 = 0x11;
pub(super) const OP_PLUS: u8 = 0x22;
const OP_BREG0: u8 = 0x70;

/// What a row does to the unwinder's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) class: Class,
    pub(super) cfa: Cfa,
    /// Instructions for the other registers; they replace each other whole.
    pub(super) registers: Vec<u8>,
    /// May not share an FDE: it changes rules that no other row sets back.
    pub(super) alone: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cfa {
    Register(u8, u64),
    Other(Vec<u8>),
}

pub(super) fn call_rule(cfa: u64) -> Rule {
    Rule { class: Class::Call, cfa: Cfa::Register(RSP, cfa), registers: vec![SAME_VALUE, RBP], alone: false }
}

pub(super) fn pt_regs() -> Vec<u8> {
    let mut out = Vec::new();
    words_at_cfa(&mut out, &saved::MEMBERS);
    out
}

/// Registers saved in consecutive words from the CFA up. (The signed form: CFI's
/// own direction is down.)
pub(super) fn words_at_cfa(out: &mut Vec<u8>, members: &[(Register, &str)]) {
    for (register, i) in members.iter().map(|m| m.0.dwarf()).zip(0..) {
        if let Some(register) = register {
            out.extend([OFFSET_EXTENDED_SF, register]);
            out.sleb(-i);
        }
    }
}

pub(super) fn block(out: &mut Vec<u8>, ops: &[u8]) {
    out.uleb(ops.len() as u64);
    out.extend(ops);
}

pub(super) fn breg(register: u8, offset: i64) -> Vec<u8> {
    let mut ops = vec![OP_BREG0 + register];
    ops.sleb(offset);
    ops
}

/// How much code an FDE is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fdes {
    /// As much as can be. gdb looks for the FDE of an address.
    Long,
    /// A function each. LLDB looks for the FDE of a function's first byte, and takes its
    /// rows to be counted from there.
    PerFunction,
}

/// Writes CIEs and FDEs.
pub(super) struct Writer {
    out: Frames,
    /// Addresses at which an FDE has to begin, in order; and it holds all to the next.
    starts: Vec<u64>,
    cies: HashMap<Class, u32>,
    fde: Option<Fde>,
}

/// The FDE that is being written.
struct Fde {
    range: Range<u64>,
    class: Class,
    /// Where its record starts in the section.
    at: usize,
    /// The address that its instructions have advanced to.
    location: u64,
    cfa: Cfa,
    registers: Vec<u8>,
    rows: usize,
    alone: bool,
}

impl Writer {
    pub(super) fn new(symbols: &SymbolTable, fdes: Fdes) -> Self {
        let starts = match fdes {
            Fdes::Long => Vec::new(),
            Fdes::PerFunction => symbols.iter().filter(Symbol::is_text).map(|s| s.address).collect(),
        };
        Self { out: Frames::default(), starts, cies: HashMap::new(), fde: None }
    }

    /// The first of the starts behind `at`.
    fn start_behind(&self, at: u64) -> Option<u64> {
        self.starts.get(self.starts.partition_point(|s| *s <= at)).copied()
    }

    /// A range whose caller's stack pointer is `register` + `offset`, rbp
    /// unchanged.
    pub(super) fn call(&mut self, range: Range<u64>, offset: u64) {
        self.row(&range, &call_rule(offset));
    }

    /// A range of functions with frame pointers.
    pub(super) fn frame_pointer(&mut self, range: Range<u64>) {
        let cfa = Cfa::Register(RBP, 16);
        let rule = Rule { class: Class::Call, cfa, registers: vec![OFFSET | RBP, 2], alone: false };
        self.row(&range, &rule);
    }

    /// A range in which the stack ends.
    pub(super) fn end(&mut self, range: Range<u64>) {
        let cfa = Cfa::Register(RSP, 8);
        self.row(&range, &Rule { class: Class::End, cfa, registers: Vec::new(), alone: false });
    }

    /// Bytes that are never run: the trap behind a return. They belong to the function.
    pub(super) fn padding(&mut self, range: &Range<u64>) {
        if self.starts.is_empty() || self.starts.binary_search(&range.start).is_ok() {
            return;
        }
        let end = self.start_behind(range.start).map_or(range.end, |start| start.min(range.end));
        if let Some(fde) = self.fde.as_mut().filter(|f| f.range.end == range.start) {
            fde.range.end = end;
        }
    }

    pub(super) fn row(&mut self, range: &Range<u64>, rule: &Rule) {
        let mut from = range.start;
        while let Some(start) = self.start_behind(from).filter(|start| *start < range.end) {
            self.part(&(from..start), rule);
            from = start;
        }
        self.part(&(from..range.end), rule);
    }

    /// A row, of one function where these are told apart.
    fn part(&mut self, range: &Range<u64>, rule: &Rule) {
        if range.start >= range.end || self.out.bytes.len() > MAX_BYTES {
            return;
        }
        let fits = self.fde.as_ref().is_some_and(|f| {
            let here = match self.starts.as_slice() {
                [] => f.class == rule.class && f.rows < MAX_ROWS,
                starts => {
                    (f.class == rule.class || !f.class.is_signal() && !rule.class.is_signal())
                        && starts.binary_search(&range.start).is_err()
                }
            };
            here && f.range.end == range.start && !f.alone && !rule.alone
        });
        if !fits {
            self.close();
            let cie = self.cie(rule.class);
            let (cfa, registers) = initial(rule.class);
            let at = self.out.bytes.len();
            self.out.bytes.u32(0);
            self.out.bytes.u32(cie);
            self.out.bytes.u64(range.start);
            self.out.bytes.u64(0);
            self.fde = Some(Fde {
                range: range.clone(),
                class: rule.class,
                at,
                location: range.start,
                cfa,
                registers,
                rows: 0,
                alone: rule.alone,
            });
        }
        let Some(fde) = &mut self.fde else { return };
        let out = &mut self.out.bytes;
        fde.range.end = range.end;
        if fde.class != rule.class || fde.cfa != rule.cfa || fde.registers != rule.registers {
            advance(out, range.start - fde.location);
            fde.location = range.start;
            fde.rows += 1;
        }
        if fde.class != rule.class {
            out.extend(from_scratch(rule.class));
            (fde.class, fde.registers) = (rule.class, initial(rule.class).1);
        }
        if fde.cfa != rule.cfa {
            match (&fde.cfa, &rule.cfa) {
                (Cfa::Register(old, _), Cfa::Register(new, offset)) if old == new => {
                    out.push(DEF_CFA_OFFSET);
                    out.uleb(*offset);
                }
                (_, Cfa::Register(register, offset)) => {
                    out.extend([DEF_CFA, *register]);
                    out.uleb(*offset);
                }
                (_, Cfa::Other(bytes)) => out.extend(bytes),
            }
            fde.cfa.clone_from(&rule.cfa);
        }
        if fde.registers != rule.registers {
            out.extend(&rule.registers);
            fde.registers.clone_from(&rule.registers);
        }
    }

    fn close(&mut self) {
        let Some(fde) = self.fde.take() else { return };
        let out = &mut self.out.bytes;
        pad(out, fde.at);
        let length = fde.range.end - fde.range.start;
        if let Some(to) = out.get_mut(fde.at + 16..fde.at + 24) {
            to.copy_from_slice(&length.to_le_bytes());
        }
        self.out.count += 1;
        if fde.class.is_signal() {
            match self.out.signal_ranges.last_mut() {
                Some(last) if last.end == fde.range.start => last.end = fde.range.end,
                _ => self.out.signal_ranges.push(fde.range),
            }
        }
    }

    fn cie(&mut self, class: Class) -> u32 {
        if let Some(at) = self.cies.get(&class) {
            return *at;
        }
        let out = &mut self.out.bytes;
        let at = out.len();
        out.u32(0);
        out.u32(u32::MAX);
        out.push(3);
        out.cstr(if class.is_signal() { "S" } else { "" });
        out.uleb(1);
        out.sleb(-8);
        out.uleb(16);
        match class {
            Class::Regs | Class::Entry => {
                out.extend([DEF_CFA, RSP, 0]);
                out.extend(pt_regs());
            }
            Class::Call | Class::CallS | Class::End => {
                out.extend([DEF_CFA, RSP, 8]);
                out.extend(call_registers(class));
            }
        }
        pad(out, at);
        let at = len32(at);
        self.cies.insert(class, at);
        at
    }

    pub(super) fn finish(mut self) -> Frames {
        self.close();
        if self.out.bytes.len() > MAX_BYTES {
            tracing::warn!("unwind rules beyond {} MiB are left out", MAX_BYTES >> 20);
        }
        self.out.signal_ranges.sort_by_key(|r| r.start);
        self.out
    }
}

fn call_registers(class: Class) -> Vec<u8> {
    let mut out = Vec::from(if class == Class::End { [UNDEFINED, 16] } else { [OFFSET | 16, 1] });
    for r in (0..16).filter(|r| !matches!(*r, RBP | RSP)) {
        out.extend([UNDEFINED, r]);
    }
    out.extend([SAME_VALUE, RBP]);
    out
}

/// The rules for all registers, whatever they were.
fn from_scratch(class: Class) -> Vec<u8> {
    match class {
        Class::Regs | Class::Entry => pt_regs(),
        Class::Call | Class::CallS | Class::End => [call_registers(class), vec![VAL_OFFSET, RSP, 0]].concat(),
    }
}

/// The state that a CIE leaves behind.
fn initial(class: Class) -> (Cfa, Vec<u8>) {
    match class {
        Class::Regs | Class::Entry => (Cfa::Register(RSP, 0), pt_regs()),
        Class::End => (Cfa::Register(RSP, 8), Vec::new()),
        Class::Call | Class::CallS => (Cfa::Register(RSP, 8), vec![SAME_VALUE, RBP]),
    }
}

/// Fills a record up with no-operations and sets its length.
fn pad(out: &mut Vec<u8>, at: usize) {
    while !(out.len() - at - 4).is_multiple_of(8) {
        out.push(0);
    }
    let length = len32(out.len() - at - 4);
    out.patch_u32(at, length);
}

fn advance(out: &mut Vec<u8>, by: u64) {
    let [a, b, c, d, ..] = by.to_le_bytes();
    match by {
        0 => {}
        1..0x40 => out.push(ADVANCE | a),
        0x40..0x100 => out.extend([0x02, a]),
        0x100..0x1_0000 => out.extend([0x03, a, b]),
        _ => out.extend([0x04, a, b, c, d]),
    }
}

/// `*(rsp) + offset`
pub(super) fn at_rsp_plus(offset: i64) -> Vec<u8> {
    let mut ops = breg(RSP, 0);
    ops.extend([OP_DEREF, OP_CONSTS]);
    ops.sleb(offset);
    ops.push(OP_PLUS);
    ops
}

pub(super) fn cfa_expression(ops: &[u8]) -> Vec<u8> {
    let mut out = vec![DEF_CFA_EXPRESSION];
    block(&mut out, ops);
    out
}
