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

use super::debug_frame::{
    Cfa, Class, DEF_CFA_SF, EXPRESSION, Fdes, Frames, OFFSET, OP_CONSTS, OP_DEREF, OP_PLUS, RBP, RSP, Rule,
    SAME_VALUE, VAL_EXPRESSION, Writer, at_rsp_plus, block, breg, call_rule, cfa_expression, number, pt_regs,
    words_at_cfa,
};
use super::fallback;
use super::frame_pointers::{self, Code};
use super::leb::Put;
use crate::arch::{Register, map, pt_regs as saved};
use crate::debuginfo::orc::{Base, Kind, OrcEntry, OrcTable, Row};
use crate::debuginfo::symbols::SymbolTable;

#[cfg(test)]
#[path = "tests/cfi.rs"]
mod tests;

/// An undefined row up to this long is padding between functions. Longer ones
/// are functions that ORC leaves out, and end the stack.
const MAX_PADDING: u64 = 64;

/// The rule to be used in place of ORC, for code that it leaves out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// The code.
    pub range: Range<u64>,
    /// Where its caller is.
    pub from: CalledFrom,
}

/// Who came to code of which ORC says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CalledFrom {
    /// Its caller (`__crash_kexec` has one in every panic), whose stack pointer is rsp + this.
    Call(u32),
    /// User mode, whose registers lie at rsp as a `struct pt_regs`.
    User,
}

/// Converts a whole table. `symbols` decides which rows are system-call entry
/// and which leave the IRQ stack; `overrides` come in place of ORC's rows.
#[must_use]
pub fn frames(orc: &OrcTable, symbols: &SymbolTable, overrides: &[Override], fdes: Fdes) -> Frames {
    let mut writer = Writer::new(symbols, fdes);
    add(&mut writer, orc, symbols, overrides);
    writer.finish()
}

fn add(writer: &mut Writer, orc: &OrcTable, symbols: &SymbolTable, overrides: &[Override]) {
    let mut rules = Rules { symbols, known: HashMap::new(), last: None };
    for row in orc.rows() {
        let entry = match row.entry.kind {
            Kind::Undefined => orc.bridged(row.range.start, symbols).unwrap_or(row.entry),
            _ => row.entry,
        };
        let padding = entry.kind == Kind::Undefined && row.range.end - row.range.start <= MAX_PADDING;
        for part in outside(&row.range, overrides) {
            if padding {
                writer.padding(&part);
            } else {
                rules.apply(writer, &Row { range: part, entry });
            }
        }
    }
    for o in overrides {
        let rule = match o.from {
            CalledFrom::Call(cfa) => call_rule(u64::from(cfa)),
            CalledFrom::User => {
                Rule { class: Class::Entry, cfa: Cfa::Register(RSP, 0), registers: pt_regs(), alone: false }
            }
        };
        writer.row(&o.range, &rule);
    }
}

/// All that the kernel's own unwind library holds: its table, and the rules for
/// addresses outside `kernel` and the modules.
#[must_use]
pub fn world(
    orc: Option<&OrcTable>,
    symbols: &SymbolTable,
    overrides: &[Override],
    code: Code<'_>,
    kernel: &Range<u64>,
    fdes: Fdes,
) -> Frames {
    let mut writer = Writer::new(symbols, fdes);
    match orc {
        Some(orc) => add(&mut writer, orc, symbols, overrides),
        None if !code.is_empty() => frame_pointers::add(&mut writer, kernel, code),
        None => {}
    }
    fallback::add(&mut writer, kernel);
    writer.finish()
}

/// Converts only the rows at which vmlinux's own DWARF is wrong: the inline
/// switches to and from the IRQ stack.
#[must_use]
pub fn switch_frames(orc: &OrcTable, symbols: &SymbolTable) -> Frames {
    let mut writer = Writer::new(symbols, Fdes::Long);
    let mut rules = Rules { symbols, known: HashMap::new(), last: None };
    for row in orc.rows().filter(|r| r.entry.sp_base == Base::SpIndirect) {
        rules.apply(&mut writer, &row);
    }
    writer.finish()
}

/// The same of a kernel without ORC: its interrupts.
#[must_use]
pub fn interrupt_frames(code: Code<'_>, symbols: &SymbolTable) -> Frames {
    let mut writer = Writer::new(symbols, Fdes::Long);
    frame_pointers::add_interrupts(&mut writer, code.stubs);
    writer.finish()
}

/// The rules of a module of such a kernel, whose code is `text`.
#[must_use]
pub fn module_frames(code: Code<'_>, symbols: &SymbolTable, text: &Range<u64>, fdes: Fdes) -> Frames {
    let mut writer = Writer::new(symbols, fdes);
    frame_pointers::add(&mut writer, text, code);
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

/// The first call in the `code` of an entry, which is at `at`, that hands over the user's
/// registers (`mov rdi, rsp` stands in front of `call rel32`), with the byte behind it.
#[must_use]
pub fn call_with_registers(code: &[u8], at: u64) -> Option<Range<u64>> {
    const MOV_AND_CALL: [u8; 4] = [0x48, 0x89, 0xe7, 0xe8];
    let mov = code.windows(8).position(|w| w.starts_with(&MOV_AND_CALL))?;
    let call = at.checked_add(mov as u64)?.checked_add(3)?;
    Some(call..call.checked_add(6)?)
}

/// The parts of `range` that no override covers.
fn outside(range: &Range<u64>, overrides: &[Override]) -> Vec<Range<u64>> {
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

/// From ORC entries to rules: a kernel has 400 different ones.
struct Rules<'a> {
    symbols: &'a SymbolTable,
    known: HashMap<OrcEntry, Rule>,
    last: Option<(OrcEntry, Rule)>,
}

impl Rules<'_> {
    fn apply(&mut self, writer: &mut Writer, row: &Row) {
        let entry = row.entry;
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
            let (code, hardware) = saved::MEMBERS.split_at(saved::HARDWARE);
            let mut registers: Vec<u8> =
                code.iter().filter_map(|m| m.0.dwarf()).flat_map(|r| [SAME_VALUE, r]).collect();
            words_at_cfa(&mut registers, hardware);
            Rule { class: Class::Regs, cfa, registers, alone: false }
        }
    }
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
