//! Words of QEMU's monitor that existing gdb scripts send and parse.
//!
//! The kernel's own `scripts/gdb` take a server for QEMU, and `thread - 1` for
//! the CPU, when `monitor info version` prints anything (`linux/utils.py`); gef
//! and pwndbg read registers and physical memory with `info registers`, `xp`,
//! `gva2gpa`. The formats are those that QEMU prints (`monitor/hmp-cmds*.c`,
//! `target/i386/cpu-dump.c`). They are in no list of commands: people have
//! better ones.

use std::io::Write;

use super::{CommandError, Request};
use crate::addr::{PhysAddr, VirtAddr};
use crate::arch::Register;
use crate::linux::{Kernel, Task, registers, tasks};

/// More than this at once is a mistyped count.
const LONGEST: u64 = 1 << 20;

/// Runs `name` if it is one of QEMU's words.
pub(super) fn run(
    kernel: &Kernel,
    name: &str,
    request: &Request<'_>,
    out: &mut dyn Write,
) -> Option<Result<(), CommandError>> {
    let first = request.args.first().map(String::as_str);
    Some(match (name, first) {
        ("info", Some(what)) => info(kernel, what, request, out),
        ("info", None) => Err(CommandError::Failed("info version, registers, cpus or mtree".to_owned())),
        ("gva2gpa", Some(addr)) => gva2gpa(kernel, addr, request, out),
        ("gpa2hva", Some(_)) => Err(CommandError::Failed("a dump has no host addresses".to_owned())),
        _ => {
            let format = name.strip_prefix("xp").filter(|rest| rest.is_empty() || rest.starts_with('/'))?;
            let (format, addr) = match (format, first) {
                ("", Some(f)) if f.starts_with('/') => (f, request.args.get(1)),
                (f, _) => (f, request.args.first()),
            };
            xp(kernel, format, addr.map(String::as_str), out)
        }
    })
}

fn info(kernel: &Kernel, what: &str, request: &Request<'_>, out: &mut dyn Write) -> Result<(), CommandError> {
    match what {
        "version" => writeln!(out, "corestub {} (a dump, not a machine)", env!("CARGO_PKG_VERSION"))?,
        "registers" => {
            let all = request.args.iter().any(|a| a == "-a");
            for &cpu in kernel.percpu().online() {
                let Some(task) = tasks::current(kernel, cpu).and_then(|t| kernel.tasks().by_address(t))
                else {
                    continue;
                };
                if all || selected_cpu(kernel, request) == Some(cpu) {
                    registers_of(kernel, cpu, task, out)?;
                }
            }
        }
        "cpus" => {
            let selected = selected_cpu(kernel, request);
            for &cpu in kernel.percpu().online() {
                let mark = if selected == Some(cpu) { '*' } else { ' ' };
                writeln!(out, "{mark} CPU #{cpu}: thread_id={}", cpu + 1)?;
            }
        }
        "mtree" => {
            writeln!(out, "FlatView #0\n AS \"memory\", root: system\n Root memory region: system")?;
            for (start, len) in kernel.dump().physical_ranges() {
                let end = start.0.saturating_add(len.saturating_sub(1));
                writeln!(out, "  {:016x}-{end:016x} (prio 0, ram): pc.ram", start.0)?;
            }
        }
        other => return Err(CommandError::Failed(format!("{other} is not in a dump"))),
    }
    Ok(())
}

/// The CPU of the selected thread; the first one's if it runs on none.
fn selected_cpu(kernel: &Kernel, request: &Request<'_>) -> Option<u32> {
    let task = request.task.and_then(|t| kernel.tasks().by_address(t)).filter(|t| t.on_cpu);
    task.map(|t| t.cpu).or_else(|| kernel.percpu().online().first().copied())
}

/// In QEMU's order; what the dump does not hold is left out, not zero.
fn registers_of(kernel: &Kernel, cpu: u32, task: &Task, out: &mut dyn Write) -> Result<(), CommandError> {
    use Register::{
        Cr0, Cr2, Cr3, Cr4, Cs, Ds, Efer, Eflags, Es, Fs, Gs, R8, R9, R10, R11, R12, R13, R14, R15, Rax, Rbp,
        Rbx, Rcx, Rdi, Rdx, Rip, Rsi, Rsp, Ss,
    };
    let regs = registers::of(kernel, task);
    writeln!(out, "\nCPU#{cpu}")?;
    let mut row = |names: &[(&str, Register)], digits: usize| {
        let known = names.iter().filter_map(|&(shown, register)| Some((shown, regs.get(register)?)));
        let words: Vec<String> = known.map(|(shown, v)| format!("{shown}={v:0digits$x}")).collect();
        if words.is_empty() { Ok(()) } else { writeln!(out, "{}", words.join(" ")) }
    };
    row(&[("RAX", Rax), ("RBX", Rbx), ("RCX", Rcx), ("RDX", Rdx)], 16)?;
    row(&[("RSI", Rsi), ("RDI", Rdi), ("RBP", Rbp), ("RSP", Rsp)], 16)?;
    row(&[("R8 ", R8), ("R9 ", R9), ("R10", R10), ("R11", R11)], 16)?;
    row(&[("R12", R12), ("R13", R13), ("R14", R14), ("R15", R15)], 16)?;
    row(&[("RIP", Rip), ("RFL", Eflags)], 8)?;
    for segment in [("ES ", Es), ("CS ", Cs), ("SS ", Ss), ("DS ", Ds), ("FS ", Fs), ("GS ", Gs)] {
        row(&[segment], 4)?;
    }
    row(&[("CR0", Cr0), ("CR2", Cr2), ("CR3", Cr3), ("CR4", Cr4)], 8)?;
    row(&[("EFER", Efer)], 16)?;
    Ok(())
}

fn gva2gpa(
    kernel: &Kernel,
    addr: &str,
    request: &Request<'_>,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let addr = VirtAddr(number(addr)?);
    let task = request.task.and_then(|t| kernel.tasks().by_address(t));
    let user = task.filter(|_| addr.0 < kernel.user_limit()).and_then(|t| kernel.task_space(t));
    match user.as_ref().unwrap_or_else(|| kernel.space()).translate(addr) {
        Ok(phys) => writeln!(out, "gpa: {:#x}", phys.0)?,
        Err(_) => writeln!(out, "Unmapped")?,
    }
    Ok(())
}

/// `xp /COUNT FORMAT SIZE ADDR`: physical memory.
fn xp(kernel: &Kernel, format: &str, addr: Option<&str>, out: &mut dyn Write) -> Result<(), CommandError> {
    let usage = || CommandError::Failed("xp /COUNTxSIZE ADDRESS, for example xp /4gx 0x1000".to_owned());
    let start = number(addr.ok_or_else(usage)?)?;
    let format = format.trim_start_matches('/');
    let digits = format.find(|c: char| !c.is_ascii_digit()).unwrap_or(format.len());
    let (count, letters) = format.split_at_checked(digits).ok_or_else(usage)?;
    let count: u64 = if count.is_empty() { 1 } else { count.parse().map_err(|_| usage())? };
    let (mut size, mut shape) = (4usize, 'x');
    for letter in letters.chars() {
        match letter {
            'b' => size = 1,
            'h' => size = 2,
            'w' => size = 4,
            'g' => size = 8,
            'x' | 'd' | 'u' | 'o' => shape = letter,
            'c' => (shape, size) = (letter, 1),
            _ => return Err(CommandError::Failed(format!("xp has no format {letter} on a dump"))),
        }
    }
    if count.saturating_mul(size as u64) > LONGEST {
        return Err(CommandError::Failed(format!("at most {LONGEST} bytes at once")));
    }
    let per_line = if size == 1 { 8 } else { 16 / size as u64 };
    let mut at = 0;
    while at < count {
        let line = start.wrapping_add(at * size as u64);
        write!(out, "{line:016x}:")?;
        for i in 0..per_line.min(count - at) {
            let mut bytes = [0; 8];
            let place = line.wrapping_add(i * size as u64);
            let value = read(kernel, place, bytes.get_mut(..size).unwrap_or_default())
                .map(|()| u64::from_le_bytes(bytes))
                .map_err(|why| CommandError::Failed(format!("cannot access memory at {place:#x}: {why}")));
            let value = match value {
                Ok(v) => v,
                Err(e) => {
                    writeln!(out)?;
                    return Err(e);
                }
            };
            match shape {
                'd' => write!(out, " {}", signed(value, size))?,
                'u' => write!(out, " {value}")?,
                'o' => write!(out, " {value:#o}")?,
                'c' => write!(out, " '{}'", u8::try_from(value).unwrap_or(0).escape_ascii())?,
                _ => write!(out, " {value:#0width$x}", width = 2 + 2 * size)?,
            }
        }
        writeln!(out)?;
        at += per_line;
    }
    Ok(())
}

/// All of `buf`, over the ends of pages.
fn read(kernel: &Kernel, start: u64, buf: &mut [u8]) -> Result<(), crate::error::ReadFault> {
    let memory = kernel.space().memory();
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|r| !r.is_empty()) {
        done += memory.read_phys(PhysAddr(start.wrapping_add(done as u64)), rest)?.max(1);
    }
    Ok(())
}

fn signed(value: u64, size: usize) -> i64 {
    let unused = 64 - 8 * u32::try_from(size.clamp(1, 8)).unwrap_or(8);
    (value << unused).cast_signed() >> unused
}

/// Numbers as QEMU's monitor takes them: C's prefixes.
fn number(text: &str) -> Result<u64, CommandError> {
    let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| CommandError::Failed(format!("{text} is not a number (0x for hexadecimal)")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_signs() {
        assert_eq!(number("0x10").ok(), Some(16));
        assert_eq!(number("10").ok(), Some(10));
        assert!(number("$cr3").is_err());
        assert_eq!(signed(0xff, 1), -1);
        assert_eq!(signed(0x7f, 1), 127);
        assert_eq!(signed(u64::MAX, 8), -1);
    }
}
