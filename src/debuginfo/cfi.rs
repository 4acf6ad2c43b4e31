//! Unwind rules as compilers write them (DWARF's call frame information), in
//! `.debug_frame` or `.eh_frame`: one step from a frame to its caller, and the rules of
//! a kernel's own file.
//!
//! DWARF 5, 6.4 (<https://dwarfstd.org>); `.eh_frame` is the psABI's variant of it.

use gimli::{
    BaseAddresses, CfaRule, CieOrFde, DebugFrame, EhFrame, EndianSlice, Evaluation, EvaluationResult,
    Expression, FrameDescriptionEntry, LittleEndian, RegisterRule, UnwindContext, UnwindOffset,
    UnwindSection, Value,
};
use object::elf::ET_REL;

use super::elf::Vmlinux;
use crate::arch::Register::{self, R12, R13, R14, R15, Rbp, Rbx, Rip, Rsp};
use crate::arch::Registers;
use crate::elf::Section;

pub(crate) type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// An expression that runs longer goes in circles.
const STEPS_MAX: u32 = 4096;
/// More functions than this are not believed (a kernel with everything built in has 300,000).
const FUNCTIONS_MAX: usize = 1 << 22;
/// No file's unwind rules are larger.
const RULES_MAX: u64 = 256 << 20;

/// What rules say of the caller.
#[allow(clippy::large_enum_variant, reason = "one at a time, on the stack")]
pub(crate) enum Step {
    /// Its registers; and whether the frame was made by a signal or an exception, so that
    /// they are those of an interrupted instruction.
    To(Registers, bool),
    /// There is none: this is the outermost frame.
    End,
    /// Nothing is said.
    NoRules,
}

/// The caller of the function at `pc` with the registers `regs`, by its entry `fde` of
/// `section`; `word` reads memory.
pub(crate) fn step<'a, S>(
    section: &S,
    bases: &BaseAddresses,
    fde: &FrameDescriptionEntry<Slice<'a>>,
    context: &mut UnwindContext<usize>,
    regs: &Registers,
    pc: u64,
    word: &mut dyn FnMut(u64) -> Option<u64>,
) -> Step
where
    S: UnwindSection<Slice<'a>>,
    S::Offset: UnwindOffset<usize>,
{
    let Ok(row) = fde.unwind_info_for_address(section, bases, context, pc) else { return Step::NoRules };
    let expression =
        |e: gimli::UnwindExpression<usize>, initial, word: &mut dyn FnMut(u64) -> Option<u64>| {
            evaluate(regs, e.get(section).ok()?, fde.cie().encoding(), initial, word)
        };
    let cfa = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => {
            by_number(regs, *register).map(|v| v.wrapping_add_signed(*offset))
        }
        CfaRule::Expression(e) => expression(*e, None, word),
    };
    // It counts from a register that is not known here.
    let Some(cfa) = cfa else { return Step::NoRules };
    let mut next = *regs;
    for &register in Register::of_frame() {
        let rule = register.dwarf().and_then(|n| row.register(gimli::Register(n.into())));
        let Some(rule) = rule else {
            // No rule: the psABI's callee-saved registers are unchanged.
            let value = match register {
                Rsp => Some(cfa),
                Rbx | Rbp | R12 | R13 | R14 | R15 => regs.get(register),
                _ => None,
            };
            next.set(register, value);
            continue;
        };
        let value = match rule {
            RegisterRule::Undefined if register == Rip => return Step::End,
            RegisterRule::SameValue => regs.get(register),
            RegisterRule::Offset(n) => word(cfa.wrapping_add_signed(n)),
            RegisterRule::ValOffset(n) => Some(cfa.wrapping_add_signed(n)),
            RegisterRule::Register(r) => by_number(regs, r),
            RegisterRule::Expression(e) => expression(e, Some(cfa), word).and_then(&mut *word),
            RegisterRule::ValExpression(e) => expression(e, Some(cfa), word),
            RegisterRule::Constant(v) => Some(v),
            _ => None,
        };
        next.set(register, value);
    }
    if next.get(Rip).is_none() {
        return Step::End;
    }
    Step::To(next, fde.is_signal_trampoline())
}

fn by_number(regs: &Registers, number: gimli::Register) -> Option<u64> {
    regs.get(Register::from_dwarf(number.0)?)
}

fn evaluate(
    regs: &Registers,
    expression: Expression<Slice<'_>>,
    encoding: gimli::Encoding,
    initial: Option<u64>,
    word: &mut dyn FnMut(u64) -> Option<u64>,
) -> Option<u64> {
    let mut evaluation: Evaluation<_> = expression.evaluation(encoding);
    evaluation.set_max_iterations(STEPS_MAX);
    if let Some(initial) = initial {
        evaluation.set_initial_value(initial);
    }
    let mut state = evaluation.evaluate().ok()?;
    for _ in 0..STEPS_MAX {
        state = match state {
            EvaluationResult::Complete => break,
            EvaluationResult::RequiresMemory { address, size, .. } => {
                let whole = word(address)?;
                let kept = 64u32.saturating_sub(u32::from(size.min(8)) * 8);
                let value = whole.checked_shl(kept).and_then(|v| v.checked_shr(kept)).unwrap_or(0);
                evaluation.resume_with_memory(Value::Generic(value)).ok()?
            }
            EvaluationResult::RequiresRegister { register, .. } => {
                let value = by_number(regs, register)?;
                evaluation.resume_with_register(Value::Generic(value)).ok()?
            }
            _ => return None,
        };
    }
    match evaluation.as_result().last()?.location {
        gimli::Location::Address { address } => Some(address),
        _ => None,
    }
}

/// The rules of one file of a kernel: vmlinux, or a module.
pub struct FrameRules {
    bytes: Vec<u8>,
    /// `.eh_frame`, not `.debug_frame`.
    exceptions: bool,
    /// The section's link-time address, from which `.eh_frame` counts.
    address: u64,
    /// By address: first byte of a function, one past its last, and its entry.
    functions: Vec<(u64, u64, usize)>,
}

impl FrameRules {
    /// Reads those of `file`. `base` tells where a section of a module was loaded.
    #[must_use]
    pub fn read(file: &Vmlinux, base: &dyn Fn(&Section) -> u64) -> Option<Self> {
        let names: &[&str] =
            if file.kind() == ET_REL { &[".debug_frame"] } else { &[".debug_frame", ".eh_frame"] };
        names.iter().find_map(|name| {
            let section =
                file.section(name).filter(|s| !s.is_nobits() && (1..=RULES_MAX).contains(&s.size))?;
            let bytes = file.relocated(section, base)?;
            Some(Self::parse(bytes, *name == ".eh_frame", section.address))
                .filter(|r| !r.functions.is_empty())
        })
    }

    /// Rules of which no function is known twice: the first entry counts.
    pub(crate) fn parse(bytes: Vec<u8>, exceptions: bool, address: u64) -> Self {
        let mut rules = Self { bytes, exceptions, address, functions: Vec::new() };
        let mut functions = if exceptions {
            functions(&rules.eh_frame(), &rules.bases())
        } else {
            functions(&rules.debug_frame(), &rules.bases())
        };
        functions.sort_by_key(|f| f.0);
        rules.functions = functions;
        rules
    }

    fn eh_frame(&self) -> EhFrame<Slice<'_>> {
        EhFrame::new(&self.bytes, LittleEndian)
    }

    fn debug_frame(&self) -> DebugFrame<Slice<'_>> {
        let mut section = DebugFrame::new(&self.bytes, LittleEndian);
        section.set_address_size(8);
        section
    }

    fn bases(&self) -> BaseAddresses {
        BaseAddresses::default().set_eh_frame(self.address)
    }

    /// One step from the function around `pc`, an address as in the file.
    pub(crate) fn step(&self, regs: &Registers, pc: u64, word: &mut dyn FnMut(u64) -> Option<u64>) -> Step {
        let after = self.functions.partition_point(|f| f.0 <= pc);
        let entry = after.checked_sub(1).and_then(|i| self.functions.get(i)).filter(|f| pc < f.1);
        let Some(&(_, _, at)) = entry else { return Step::NoRules };
        if self.exceptions {
            by_entry(&self.eh_frame(), &self.bases(), at, regs, pc, word)
        } else {
            by_entry(&self.debug_frame(), &self.bases(), at, regs, pc, word)
        }
    }
}

fn functions<'a, S>(section: &S, bases: &BaseAddresses) -> Vec<(u64, u64, usize)>
where
    S: UnwindSection<Slice<'a>>,
    S::Offset: UnwindOffset<usize>,
{
    let mut out = Vec::new();
    let mut entries = section.entries(bases);
    while let Ok(Some(entry)) = entries.next() {
        let CieOrFde::Fde(partial) = entry else { continue };
        let Ok(fde) = partial.parse(S::cie_from_offset) else { continue };
        if out.len() >= FUNCTIONS_MAX {
            break;
        }
        let start = fde.initial_address();
        out.push((start, start.saturating_add(fde.len()), fde.offset()));
    }
    out
}

fn by_entry<'a, S>(
    section: &S,
    bases: &BaseAddresses,
    at: usize,
    regs: &Registers,
    pc: u64,
    word: &mut dyn FnMut(u64) -> Option<u64>,
) -> Step
where
    S: UnwindSection<Slice<'a>>,
    S::Offset: UnwindOffset<usize>,
{
    let Ok(fde) = section.fde_from_offset(bases, at.into(), S::cie_from_offset) else { return Step::NoRules };
    step(section, bases, &fde, &mut UnwindContext::new(), regs, pc, word)
}

#[cfg(test)]
#[path = "tests/cfi.rs"]
pub(crate) mod tests;
