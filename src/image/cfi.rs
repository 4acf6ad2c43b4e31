//! ORC rows as `.debug_frame`, so that stock gdb unwinds the kernel.
//!
//! ORC: `arch/x86/kernel/unwind_orc.c`; CFI: DWARF 4, 6.4. What gdb makes of a
//! rule that is legal in both decides here:
//!
//! * A frame is an interrupted one only by the `S` augmentation of its CIE; then
//!   its caller's pc is looked up exactly, not at pc - 1.
//! * gdb stops with "previous frame inner to this frame" where the stack goes
//!   down between two ordinary frames: leaving the IRQ stack must look otherwise.
//! * A register without a rule keeps its value in gdb. ORC knows nothing of the
//!   callee-saved ones: they are made undefined, else outer frames would show
//!   frame 0's.

use std::collections::HashMap;
use std::ops::Range;

use super::fallback;
use super::leb::{Put, len32};
use crate::arch::{Register, map, pt_regs};
use crate::debuginfo::orc::{Base, Kind, OrcEntry, OrcTable, Row};
use crate::debuginfo::symbols::SymbolTable;

#[cfg(test)]
#[path = "tests/cfi.rs"]
mod tests;

/// Rows in one FDE: gdb runs them from its start at each lookup.
const MAX_ROWS: usize = 64;
/// Largest section (6.12: 2.6 MB). What a larger table holds behind that is left out.
const MAX_BYTES: usize = 64 << 20;
/// An undefined row up to this long is padding between functions. Longer ones
/// are functions that ORC leaves out, and end the stack.
const MAX_PADDING: u64 = 64;

/// The call rule to be used in place of ORC, for functions that it leaves out
/// (`__crash_kexec` in every panic): the caller's stack pointer is rsp + `cfa`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallOverride {
    /// The function.
    pub range: Range<u64>,
    /// Bytes from rsp to the caller's stack pointer.
    pub cfa: u32,
}

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
enum Class {
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

const RBP: u8 = number(Register::Rbp);
const RSP: u8 = number(Register::Rsp);

const fn number(register: Register) -> u8 {
    match register.dwarf() {
        Some(number) => number,
        // Of none that ORC or pt_regs name but orig_rax, which is no register.
        None => u8::MAX,
    }
}

const DEF_CFA: u8 = 0x0c;
const DEF_CFA_OFFSET: u8 = 0x0e;
const DEF_CFA_EXPRESSION: u8 = 0x0f;
const EXPRESSION: u8 = 0x10;
const OFFSET_EXTENDED_SF: u8 = 0x11;
const DEF_CFA_SF: u8 = 0x12;
const VAL_EXPRESSION: u8 = 0x16;
const UNDEFINED: u8 = 0x07;
const SAME_VALUE: u8 = 0x08;
const OFFSET: u8 = 0x80;
const ADVANCE: u8 = 0x40;

const OP_DEREF: u8 = 0x06;
const OP_CONSTS: u8 = 0x11;
const OP_PLUS: u8 = 0x22;
const OP_BREG0: u8 = 0x70;

/// What a row does to the unwinder's state.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    class: Class,
    cfa: Cfa,
    /// Instructions for the other registers; they replace each other whole.
    registers: Vec<u8>,
    /// May not share an FDE: it changes rules that no other row sets back.
    alone: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Cfa {
    Register(u8, u64),
    Other(Vec<u8>),
}

/// Converts a whole table. `symbols` decides which rows are system-call entry
/// and which leave the IRQ stack; `overrides` come in place of ORC's rows.
#[must_use]
pub fn frames(orc: &OrcTable, symbols: &SymbolTable, overrides: &[CallOverride]) -> Frames {
    let mut writer = Writer::new();
    add(&mut writer, orc, symbols, overrides);
    writer.finish()
}

fn add(writer: &mut Writer, orc: &OrcTable, symbols: &SymbolTable, overrides: &[CallOverride]) {
    let mut rules = Rules { symbols, known: HashMap::new(), last: None };
    for row in orc.rows() {
        for part in outside(&row.range, overrides) {
            rules.apply(writer, &Row { range: part, entry: row.entry });
        }
    }
    for o in overrides {
        writer.row(&o.range, &call_rule(u64::from(o.cfa)));
    }
}

/// All that the kernel's own unwind library holds: its table, and the rules for
/// addresses outside `kernel` and the modules.
#[must_use]
pub fn world(
    orc: Option<&OrcTable>,
    symbols: &SymbolTable,
    overrides: &[CallOverride],
    kernel: &Range<u64>,
) -> Frames {
    let mut writer = Writer::new();
    if let Some(orc) = orc {
        add(&mut writer, orc, symbols, overrides);
    }
    fallback::add(&mut writer, kernel);
    writer.finish()
}

/// Converts only the rows at which vmlinux's own DWARF is wrong: the inline
/// switches to and from the IRQ stack.
#[must_use]
pub fn switch_frames(orc: &OrcTable, symbols: &SymbolTable) -> Frames {
    let mut writer = Writer::new();
    let mut rules = Rules { symbols, known: HashMap::new(), last: None };
    for row in orc.rows().filter(|r| r.entry.sp_base == Base::SpIndirect) {
        rules.apply(&mut writer, &row);
    }
    writer.finish()
}

/// One of the 37 or so rows that a Python unwinder needs beside vmlinux's DWARF:
/// the caller's stack pointer is `*(rsp) + offset`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switch {
    /// The code.
    pub range: Range<u64>,
    /// Added to the word at rsp.
    pub offset: i16,
    /// Whether rbp is saved at the caller's stack pointer + this.
    pub rbp: Option<i16>,
}

/// The rows of [`switch_frames`], as numbers.
pub fn switches(orc: &OrcTable) -> impl Iterator<Item = Switch> + '_ {
    orc.rows().filter(|r| r.entry.sp_base == Base::SpIndirect).map(|r| Switch {
        range: r.range,
        offset: r.entry.sp_offset,
        rbp: (r.entry.bp_base == Base::PrevSp).then_some(r.entry.bp_offset),
    })
}

/// Finds the frame of a function that ORC leaves out: the first word `w` of
/// `stack` (the bytes from rsp up) behind a `call rel32` to `function`. `code`
/// reads the five bytes of an instruction. Returns the offset of the caller's
/// stack pointer from rsp.
pub fn frame_by_caller(
    stack: &[u8],
    function: u64,
    mut code: impl FnMut(u64) -> Option<[u8; 5]>,
) -> Option<u32> {
    for (i, word) in stack.chunks_exact(8).take(512).enumerate() {
        let to = u64::from_le_bytes(word.try_into().ok()?);
        // Kernel text is in the top 2 GiB: do not read everywhere.
        let Some(at) = to.checked_sub(5).filter(|a| *a >= map::KERNEL_MAP) else { continue };
        if let Some([0xe8, a, b, c, d]) = code(at)
            && to.wrapping_add_signed(i64::from(i32::from_le_bytes([a, b, c, d]))) == function
        {
            return u32::try_from(i * 8 + 8).ok();
        }
    }
    None
}

/// The parts of `range` that no override covers.
fn outside(range: &Range<u64>, overrides: &[CallOverride]) -> Vec<Range<u64>> {
    let mut parts = vec![range.clone()];
    for o in overrides {
        parts = parts
            .into_iter()
            .flat_map(|p| {
                [p.start..p.end.min(o.range.start), p.start.max(o.range.end)..p.end]
                    .into_iter()
                    .filter(|r| r.start < r.end)
            })
            .collect();
    }
    parts
}

fn call_rule(cfa: u64) -> Rule {
    Rule { class: Class::Call, cfa: Cfa::Register(RSP, cfa), registers: vec![SAME_VALUE, RBP], alone: false }
}

/// From ORC entries to rules: a kernel has 400 different ones.
struct Rules<'a> {
    symbols: &'a SymbolTable,
    known: HashMap<OrcEntry, Rule>,
    last: Option<(OrcEntry, Rule)>,
}

impl Rules<'_> {
    fn apply(&mut self, writer: &mut Writer, row: &Row) {
        let entry = row.entry;
        if entry.kind == Kind::Undefined && row.range.end - row.range.start <= MAX_PADDING {
            return;
        }
        if let Some((last, rule)) = &self.last
            && *last == entry
        {
            writer.row(&row.range, rule);
            return;
        }
        let rule = match entry.kind {
            // These depend on where they are.
            Kind::Regs | Kind::RegsPartial => {
                let mut rule = rule(&entry);
                if is_system_call(self.name(row)) {
                    rule.class = Class::Entry;
                }
                writer.row(&row.range, &rule);
                return;
            }
            Kind::Call if entry.sp_base == Base::SpIndirect => {
                writer.row(&row.range, &switch_rule(&entry, self.name(row)));
                return;
            }
            _ => self.known.entry(entry).or_insert_with(|| rule(&entry)).clone(),
        };
        writer.row(&row.range, &rule);
        self.last = Some((entry, rule));
    }

    fn name(&self, row: &Row) -> &str {
        self.symbols.by_address(row.range.start).map_or("", |(s, _)| s.name)
    }
}

/// System-call entry and the way back: the caller is user space.
fn is_system_call(name: &str) -> bool {
    const PREFIXES: [&str; 10] = [
        "entry_SYSCALL_64",
        "entry_SYSCALL_compat",
        "entry_SYSENTER_compat",
        "entry_INT80",
        "ret_from_fork",
        "swapgs_restore_regs_and_return_to_usermode",
        "syscall_return_via_sysret",
        "sysret32_from_system_call",
        "entry_SYSRETL_compat",
        "asm_fred_entrypoint_user",
    ];
    PREFIXES.iter().any(|p| name.starts_with(p))
}

/// Functions that switch to the IRQ stack and are called from exception entry
/// code, whose frame is a signal frame: gdb compares no stack addresses there.
fn is_interrupt_handler(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or(name);
    stem.starts_with("sysvec_")
        || stem.starts_with("fred_sysvec_")
        || matches!(stem, "common_interrupt" | "spurious_interrupt")
}

fn rule(entry: &OrcEntry) -> Rule {
    let cfa = cfa(entry);
    match entry.kind {
        Kind::Undefined | Kind::End => {
            Rule { class: Class::End, cfa: Cfa::Register(RSP, 8), registers: Vec::new(), alone: false }
        }
        Kind::Call => Rule { class: Class::Call, cfa, registers: saved_rbp(entry), alone: false },
        Kind::Regs => Rule { class: Class::Regs, cfa, registers: pt_regs(), alone: false },
        Kind::RegsPartial => {
            let (code, hardware) = pt_regs::MEMBERS.split_at(pt_regs::HARDWARE);
            let mut registers: Vec<u8> =
                code.iter().filter_map(|m| m.0.dwarf()).flat_map(|r| [SAME_VALUE, r]).collect();
            words_at_cfa(&mut registers, hardware);
            Rule { class: Class::Regs, cfa, registers, alone: false }
        }
    }
}

fn pt_regs() -> Vec<u8> {
    let mut out = Vec::new();
    words_at_cfa(&mut out, &pt_regs::MEMBERS);
    out
}

/// Registers saved in consecutive words from the CFA up. (The signed form: CFI's
/// own direction is down.)
fn words_at_cfa(out: &mut Vec<u8>, members: &[(Register, &str)]) {
    for (register, i) in members.iter().map(|m| m.0.dwarf()).zip(0..) {
        if let Some(register) = register {
            out.extend([OFFSET_EXTENDED_SF, register]);
            out.sleb(-i);
        }
    }
}

fn block(out: &mut Vec<u8>, ops: &[u8]) {
    out.uleb(ops.len() as u64);
    out.extend(ops);
}

fn breg(register: u8, offset: i64) -> Vec<u8> {
    let mut ops = vec![OP_BREG0 + register];
    ops.sleb(offset);
    ops
}

/// `*(rsp) + offset`
fn at_rsp_plus(offset: i64) -> Vec<u8> {
    let mut ops = breg(RSP, 0);
    ops.extend([OP_DEREF, OP_CONSTS]);
    ops.sleb(offset);
    ops.push(OP_PLUS);
    ops
}

fn cfa(entry: &OrcEntry) -> Cfa {
    let offset = i64::from(entry.sp_offset);
    let plus = |register| match u64::try_from(offset) {
        Ok(offset) => Cfa::Register(register, offset),
        Err(_) if offset % 8 == 0 => {
            let mut out = vec![DEF_CFA_SF, register];
            out.sleb(offset / -8);
            Cfa::Other(out)
        }
        Err(_) => Cfa::Other(cfa_expression(&breg(register, offset))),
    };
    match entry.sp_base {
        Base::Sp | Base::Undefined | Base::PrevSp => plus(RSP),
        Base::Bp => plus(RBP),
        // The kernel ignores the offset of these.
        Base::Ax => Cfa::Register(number(Register::Rax), 0),
        Base::Dx => Cfa::Register(number(Register::Rdx), 0),
        Base::Di => Cfa::Register(number(Register::Rdi), 0),
        Base::R10 => Cfa::Register(number(Register::R10), 0),
        Base::R13 => Cfa::Register(number(Register::R13), 0),
        Base::BpIndirect => {
            let mut ops = breg(RBP, offset);
            ops.push(OP_DEREF);
            Cfa::Other(cfa_expression(&ops))
        }
        Base::SpIndirect => Cfa::Other(cfa_expression(&at_rsp_plus(offset))),
    }
}

fn cfa_expression(ops: &[u8]) -> Vec<u8> {
    let mut out = vec![DEF_CFA_EXPRESSION];
    block(&mut out, ops);
    out
}

/// Where an ordinary call has saved rbp.
fn saved_rbp(entry: &OrcEntry) -> Vec<u8> {
    let offset = i64::from(entry.bp_offset);
    let mut out = Vec::new();
    match entry.bp_base {
        Base::PrevSp if offset % 8 == 0 && offset <= 0 => {
            out.push(OFFSET | RBP);
            out.uleb(offset.unsigned_abs() / 8);
        }
        Base::PrevSp => {
            // The CFA is on the expression's stack.
            out.extend([EXPRESSION, RBP]);
            let mut ops = vec![OP_CONSTS];
            ops.sleb(offset);
            ops.push(OP_PLUS);
            block(&mut out, &ops);
        }
        Base::Bp => {
            out.extend([EXPRESSION, RBP]);
            block(&mut out, &breg(RBP, offset));
        }
        _ => out.extend([SAME_VALUE, RBP]),
    }
    out
}

/// The inline switch to the IRQ stack: the old stack pointer is at its top, and
/// the caller's is that + offset.
fn switch_rule(entry: &OrcEntry, name: &str) -> Rule {
    let offset = i64::from(entry.sp_offset);
    if !is_interrupt_handler(name) {
        let cfa = Cfa::Other(cfa_expression(&at_rsp_plus(offset)));
        return Rule { class: Class::CallS, cfa, registers: saved_rbp(entry), alone: true };
    }
    // The frame stays on the IRQ stack, and the registers come from the other:
    // the caller is a signal frame, so no stack addresses are compared.
    let mut registers = vec![EXPRESSION, 16];
    block(&mut registers, &at_rsp_plus(offset - 8));
    registers.extend([VAL_EXPRESSION, RSP]);
    block(&mut registers, &at_rsp_plus(offset));
    match entry.bp_base {
        Base::PrevSp => {
            registers.extend([EXPRESSION, RBP]);
            block(&mut registers, &at_rsp_plus(offset + i64::from(entry.bp_offset)));
        }
        _ => registers.extend(saved_rbp(entry)),
    }
    Rule { class: Class::Call, cfa: Cfa::Register(RSP, 8), registers, alone: true }
}

/// Writes CIEs and FDEs.
pub(super) struct Writer {
    out: Frames,
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
    pub(super) fn new() -> Self {
        Self { out: Frames::default(), cies: HashMap::new(), fde: None }
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

    fn row(&mut self, range: &Range<u64>, rule: &Rule) {
        if range.start >= range.end || self.out.bytes.len() > MAX_BYTES {
            return;
        }
        let fits = self.fde.as_ref().is_some_and(|f| {
            f.class == rule.class
                && f.range.end == range.start
                && !f.alone
                && !rule.alone
                && f.rows < MAX_ROWS
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
        if fde.cfa != rule.cfa || fde.registers != rule.registers {
            advance(out, range.start - fde.location);
            fde.location = range.start;
            fde.rows += 1;
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
                let ra = if class == Class::End { [UNDEFINED, 16] } else { [OFFSET | 16, 1] };
                out.extend(ra);
                for r in (0..16).filter(|r| !matches!(*r, RBP | RSP)) {
                    out.extend([UNDEFINED, r]);
                }
                out.extend([SAME_VALUE, RBP]);
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
