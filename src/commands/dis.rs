//! `dis`: code as instructions, with what the faulting one worked with.

use clap::Args;
use serde::Serialize;

use super::lines::{LineFiles, Lines};
use super::{Answer, Command, CommandError, Context, Result, Text, address, select};
use crate::addr::VirtAddr;
use crate::arch::Register;
use crate::arch::disasm::{self, Instruction, LONGEST};
use crate::error::ReadFault;
use crate::linux::memory::what::{self, What};
use crate::linux::registers::{self, TaskRegisters};
use crate::linux::sites::Sites;
use crate::linux::{Kernel, Task};
use crate::number;
use crate::text::{Screen, put, row};

pub(super) fn command() -> Command {
    Command::of_kernel(
        "dis",
        "disassemble, the faulting instruction with its operands",
        "A symbol, or the address of one, is the whole function; another address is one instruction. What \
         the kernel rewrites while it runs (ftrace, jump labels, static calls, probes) is named; \
         alternatives are not known. The operands of the selected task's instruction are evaluated \
         by its registers.\n\n\
         Examples:\n  \
           (gdb) monitor dis -r $pc\n  \
           $ corestub dis vmcore -l schedule 20",
        run,
    )
}

#[derive(Args)]
struct Arguments {
    #[arg(value_name = "ADDRESS|SYMBOL", help = address::HELP)]
    address: String,
    /// How many instructions
    #[arg(value_parser = number::unsigned)]
    count: Option<u64>,
    /// From the start of the function to the address
    #[arg(short, conflicts_with = "count")]
    reverse: bool,
    /// Source lines
    #[arg(short)]
    lines: bool,
}

/// Instructions that one call shows at most.
const MAX: u64 = 20_000;
/// Bytes of a function.
const MAX_FUNCTION: u64 = 1 << 18;

#[derive(Serialize)]
struct Row {
    address: VirtAddr,
    symbol: Option<String>,
    offset: Option<u64>,
    text: String,
    target: Option<String>,
    /// What may rewrite it.
    site: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lines: Vec<String>,
    /// Whether the selected task is there.
    here: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    operands: Vec<Operand>,
}

/// A value that an instruction worked with.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Operand {
    /// A register, or `address` for where its memory operand is.
    pub(super) name: String,
    pub(super) value: VirtAddr,
    /// What is odd about it.
    pub(super) note: Option<String>,
    /// Whether it is, or is part of, the address of the memory operand.
    #[serde(skip)]
    pub(super) of_address: bool,
}

#[derive(Serialize)]
#[serde(transparent)]
struct Listing {
    rows: Vec<Row>,
    #[serde(skip)]
    fault: Option<String>,
}

fn run<'d>(kernel: &'d Kernel, args: Arguments, context: Context<'d>) -> Result<Answer<'d>> {
    let at = address::of_kernel(kernel, context, &args.address)?;
    let place = kernel.symbolise(at);
    let function = place.as_ref().map(|(symbol, ..)| {
        let size = if symbol.size > 0 { symbol.size } else { 1 };
        symbol.address..symbol.address.saturating_add(size.min(MAX_FUNCTION))
    });
    let none = || CommandError::Failed(format!("no function holds {at}"));
    let (start, end, most) = match (args.count, &function) {
        (Some(count), _) => (at.0, u64::MAX, count.min(MAX)),
        (None, Some(f)) if args.reverse => (f.start, at.0.saturating_add(1), MAX),
        (None, None) if args.reverse => return Err(none()),
        (None, Some(f)) if f.start == at.0 => (f.start, f.end, MAX),
        (None, _) => (at.0, u64::MAX, 1),
    };
    let task = select::current(kernel, context).ok();
    let listed = List { kernel, context, task, lines: args.lines };
    let (rows, fault) = listed.instructions(start, end, most)?;
    if rows.is_empty() {
        let why = fault.map_or_else(|| "nothing is there".to_owned(), |f| f.to_string());
        return Err(CommandError::Failed(why));
    }
    Ok(Listing { rows, fault: fault.map(|f| f.to_string()) }.into())
}

struct List<'d> {
    kernel: &'d Kernel,
    context: Context<'d>,
    task: Option<&'d Task>,
    lines: bool,
}

impl List<'_> {
    /// The instructions from `start` up to `end`, at most so many.
    fn instructions(&self, start: u64, end: u64, most: u64) -> Result<(Vec<Row>, Option<ReadFault>)> {
        let kernel = self.kernel;
        let regs = self.task.map(|task| registers::of(kernel, task)).filter(|r| !r.in_user_mode());
        let here = regs.as_ref().and_then(|r| r.get(Register::Rip));
        let (files, sites) = (LineFiles::new(kernel), Sites::read(kernel));
        let lines = self.lines.then(|| Lines::new(&files));
        let (mut rows, mut at, mut last) = (Vec::new(), start, Vec::new());
        let mut ended = false;
        while at < end && (rows.len() as u64) < most {
            self.context.check()?;
            let mut code = [0; LONGEST];
            let code = match kernel.space().read(VirtAddr(at), &mut code) {
                Ok(n) => code.get(..n).unwrap_or_default(),
                Err(fault) => return Ok((rows, Some(fault))),
            };
            let Some(found) = disasm::decode(code, at) else { break };
            let place = kernel.symbolise(VirtAddr(at));
            let offset = place.as_ref().map(|p| p.1);
            let mut source = lines.as_ref().map(|l| l.of(VirtAddr(at))).unwrap_or_default();
            if source == last {
                source.clear();
            } else {
                last.clone_from(&source);
            }
            let operands = match &regs {
                Some(regs) if here == Some(at) => operands(kernel, regs, &found),
                _ => Vec::new(),
            };
            let ends = found.ends || ended && code.first() == Some(&0xcc);
            rows.push(Row {
                address: VirtAddr(at),
                symbol: place.as_ref().map(|(s, ..)| s.name.to_owned()),
                offset,
                target: target(kernel, &found),
                site: offset.and_then(|offset| sites.at(kernel, at, code, offset, ended)),
                lines: source,
                here: here == Some(at),
                operands,
                text: found.text,
            });
            at = at.saturating_add(found.len as u64);
            ended = ends;
        }
        Ok((rows, None))
    }
}

/// What the instruction jumps to, or has beside rip.
fn target(kernel: &Kernel, found: &Instruction) -> Option<String> {
    let at = found.target.or_else(|| found.memory?.absolute())?;
    kernel.name_at(VirtAddr(at)).filter(|_| at >= kernel.user_limit())
}

/// The registers that the instruction names and the address of its memory operand, by
/// what they held.
pub(super) fn operands(kernel: &Kernel, regs: &TaskRegisters, found: &Instruction) -> Vec<Operand> {
    let value = |register: Register| regs.get(register);
    let registers = found.registers.iter().filter(|r| **r != Register::Rip);
    let mut all: Vec<Operand> = registers
        .filter_map(|r| {
            let value = value(*r)?;
            let of_address = found.memory.is_some_and(|m| m.uses(*r));
            let note = odd(kernel, value);
            Some(Operand { name: r.name().to_owned(), value: VirtAddr(value), note, of_address })
        })
        .collect();
    if let Some(at) = found.memory.and_then(|m| m.address(&value)) {
        let note = odd(kernel, at).or_else(|| {
            let fault = kernel.space().read_run(VirtAddr(at), &mut [0]).err();
            fault.filter(|_| at >= kernel.user_limit()).map(|fault| fault.to_string())
        });
        // `(%rcx)` is said once.
        if note.is_none() || !all.iter().any(|o| o.value == VirtAddr(at)) {
            all.push(Operand { name: "address".to_owned(), value: VirtAddr(at), note, of_address: true });
        }
    }
    all
}

/// What is odd about a value: that it is no address, or means something else.
pub(super) fn odd(kernel: &Kernel, value: u64) -> Option<String> {
    match what::odd(kernel, VirtAddr(value))? {
        What::Looks { looks } => Some(looks),
        none => Some(none.sentence()),
    }
}

impl Text for Listing {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        for r in &self.rows {
            for line in &r.lines {
                row!(screen, "{line}")?;
            }
            put!(screen, "{} {}", if r.here { "=>" } else { "  " }, r.address);
            if let (Some(symbol), Some(offset)) = (&r.symbol, r.offset) {
                put!(screen, " <{symbol}+{offset}>");
            }
            put!(screen, ":  {}", r.text);
            if let Some(target) = &r.target {
                put!(screen, " <{target}>");
            }
            if let Some(site) = &r.site {
                put!(screen, "  [{site}]");
            }
            row!(screen)?;
            for operand in &r.operands {
                row!(screen, "       ; {operand}")?;
            }
        }
        Ok(())
    }

    fn failure(&self) -> Option<String> {
        self.fault.clone()
    }
}

impl std::fmt::Display for Operand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.name, self.value)?;
        match &self.note {
            Some(note) => write!(f, " is {note}"),
            None => Ok(()),
        }
    }
}
