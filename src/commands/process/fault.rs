//! What the processor refused, where the signal does not say: a general protection fault
//! carries no address, so a wild pointer's SIGSEGV has none (`SI_KERNEL`), and that of a
//! mapping does not say which permission it lacks. The instruction and the registers tell
//! the one, the core's segments the other.

use crate::addr::VirtAddr;
use crate::arch::disasm::{self, LONGEST};
use crate::arch::{Levels, Register, Registers};
use crate::linux::memory::looks;
use crate::memory::AddressSpace;
use crate::process::signal::SigInfo;
use crate::process::{Process, procfs};

const SIGSEGV: u32 = 11;

/// One sentence on what the instruction at `pc` wanted, if more is known than the signal says.
pub(super) fn explain(process: &Process, regs: &Registers, info: &SigInfo) -> Option<String> {
    let pc = regs.get(Register::Rip)?;
    match (info.signal, info.code_name?, info.address) {
        (SIGSEGV, "SI_KERNEL", None) => protection(process, regs, pc),
        (SIGSEGV, "SEGV_ACCERR", Some(at)) => permission(process, at, pc),
        _ => None,
    }
}

/// Which mapping does not allow the access to `at`.
fn permission(process: &Process, at: u64, pc: u64) -> Option<String> {
    let mapping = procfs::mappings(process).into_iter().find(|m| (m.start..m.end).contains(&at))?;
    let name = if mapping.name.is_empty() { "without a name" } else { &mapping.name };
    // NT_FILE alone tells no permissions.
    let known = process.memory().stored().segment(at).is_some();
    let run = if at == pc { "code was to run in " } else { "" };
    known.then(|| format!("{run}a mapping that is {}: {name}", procfs::permissions(mapping.flags)))
}

/// Where an instruction wanted to go that names no address the processor can have.
fn protection(process: &Process, regs: &Registers, pc: u64) -> Option<String> {
    let memory = process.memory();
    let mut code = [0; LONGEST];
    let n = memory.read(VirtAddr(pc), &mut code).ok()?;
    let instruction = disasm::decode(code.get(..n)?, pc)?;
    let word = |at: u64| memory.read_u64(VirtAddr(at)).ok();
    let value = |register| regs.get(register);
    if instruction.privileged {
        return Some(format!("an instruction that only the kernel may run: {}", instruction.text));
    }
    if let Some(operand) = instruction.memory {
        let at = operand.address(&value)?;
        if wild(at) {
            return Some(sentence("an access to", at));
        }
        if at % operand.alignment != 0 {
            return Some(format!(
                "an access to {at:#x}, which is no multiple of {}, as this instruction wants it",
                operand.alignment
            ));
        }
    }
    let to = match (instruction.memory, instruction.registers.first()) {
        _ if instruction.returns => word(value(Register::Rsp)?)?,
        _ if !instruction.call && !instruction.ends => return None,
        (Some(operand), _) => word(operand.address(&value)?)?,
        (None, Some(register)) => value(*register)?,
        (None, None) => return None,
    };
    let how = if instruction.returns { "a return to" } else { "a jump to" };
    wild(to).then(|| sentence(how, to))
}

/// Whether no page table can have the address. A processor with five levels takes more of them, but
/// then their fault is one of pages, and has an address.
fn wild(at: u64) -> bool {
    !Levels::Four.canonical(VirtAddr(at))
}

fn sentence(what: &str, at: u64) -> String {
    let looks = looks::text(at).map(|looks| format!("; it looks like {looks}")).unwrap_or_default();
    format!("{what} {at:#x}, which can be no address (not canonical){looks}")
}
