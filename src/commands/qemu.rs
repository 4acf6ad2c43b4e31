//! Words of QEMU's monitor that existing gdb scripts send and parse.
//!
//! The kernel's own `scripts/gdb` take a server for QEMU, and `thread - 1` for
//! the CPU, when `monitor info version` prints anything (`linux/utils.py`); gef
//! and pwndbg read registers, mappings and physical memory with `info registers`,
//! `info mem`, `xp`, `gva2gpa`. The formats are those that QEMU prints (`monitor/hmp-cmds*.c`,
//! `target/i386/cpu-dump.c`). They are in no list of commands: people have
//! better ones.

use super::{CommandError, Context, Result};
use crate::addr::{PhysAddr, VirtAddr};
use crate::arch::Register;
use crate::arch::paging::Rights;
use crate::dump::notes::Segment;
use crate::error::ReadFault;
use crate::linux::system_registers::DescriptorTables;
use crate::linux::{Kernel, Task, registers, tasks};
use crate::number::unsigned;
use crate::text::{Screen, put, row};

/// More than this at once is a mistyped count.
const LONGEST: u64 = 1 << 20;

/// Runs `name` if it is one of QEMU's words.
pub(super) fn run(
    kernel: &Kernel,
    name: &str,
    words: &[String],
    context: Context<'_>,
    screen: &mut Screen<'_>,
) -> Result<()> {
    let first = words.first().map(String::as_str);
    match (name, first) {
        ("info", Some("registers")) => {
            info_registers(kernel, context, words.iter().any(|w| w == "-a"), screen)
        }
        ("info", Some("mem")) => info_mem(kernel, context, screen),
        ("info", Some("tlb")) => info_tlb(kernel, context, screen),
        ("info", Some(what)) => info(kernel, what, context, screen),
        ("info", None) => Err(CommandError::failed("info version, registers, mem, tlb, cpus or mtree")),
        ("gva2gpa", Some(addr)) => gva2gpa(kernel, addr, context, screen),
        ("gpa2hva", Some(_)) => Err(CommandError::failed("a dump has no host addresses")),
        _ => {
            let format = name.strip_prefix("xp").filter(|rest| rest.is_empty() || rest.starts_with('/'));
            let (format, addr) = match (format.ok_or_else(|| CommandError::unknown(name))?, first) {
                ("", Some(f)) if f.starts_with('/') => (f, words.get(1)),
                (f, _) => (f, words.first()),
            };
            xp(kernel, format, addr.map(String::as_str), screen)
        }
    }
}

/// Of the selected CPU, or of all.
fn info_registers(kernel: &Kernel, context: Context<'_>, all: bool, screen: &mut Screen<'_>) -> Result<()> {
    for &cpu in kernel.percpu().online() {
        let task = tasks::current(kernel, cpu).and_then(|t| kernel.tasks().by_address(t));
        if let Some(task) = task.filter(|_| all || selected_cpu(kernel, context) == Some(cpu)) {
            registers_of(kernel, cpu, task, screen)?;
        }
    }
    Ok(())
}

/// What is mapped where the selected task runs: addresses, bytes, rights.
fn info_mem(kernel: &Kernel, context: Context<'_>, screen: &mut Screen<'_>) -> Result<()> {
    let task = context.task.and_then(|t| kernel.tasks().by_address(t));
    let own = task.and_then(|t| kernel.task_space(t));
    let mut range: Option<(VirtAddr, VirtAddr, Rights)> = None;
    let line = |screen: &mut Screen<'_>, range| match range {
        Some((VirtAddr(start), VirtAddr(last), rights)) => {
            let Rights { user, write, .. } = rights;
            let (user, write) = (if user { 'u' } else { '-' }, if write { 'w' } else { '-' });
            let end = last.wrapping_add(1);
            row!(screen, "{start:016x}-{end:016x} {:016x} {user}r{write}", end.wrapping_sub(start))
        }
        None => Ok(()),
    };
    for run in own.as_ref().unwrap_or_else(|| kernel.tables()).runs(VirtAddr(0), VirtAddr(u64::MAX)) {
        context.check()?;
        let here = run.to.ok().map(|to| to.rights).filter(|rights| rights.read);
        match (&mut range, here) {
            (Some((_, last, rights)), Some(here)) if *rights == here => *last = run.last,
            _ => {
                line(screen, range.take())?;
                range = here.map(|rights| (run.start, run.last, rights));
            }
        }
        if let Err(fault @ ReadFault::Endless { .. }) = run.to {
            row!(screen, "({fault})")?;
        }
    }
    Ok(line(screen, range)?)
}

/// What `info mem` tells, and where it is in physical memory: a line for all that lies
/// there in a row, where QEMU has one for each page.
fn info_tlb(kernel: &Kernel, context: Context<'_>, screen: &mut Screen<'_>) -> Result<()> {
    let task = context.task.and_then(|t| kernel.tasks().by_address(t));
    let own = task.and_then(|t| kernel.task_space(t));
    for run in own.as_ref().unwrap_or_else(|| kernel.tables()).runs(VirtAddr(0), VirtAddr(u64::MAX)) {
        context.check()?;
        let (VirtAddr(start), VirtAddr(last)) = (run.start, run.last);
        match run.to {
            Ok(to) if to.rights.read => {
                let (user, write) =
                    (if to.rights.user { 'U' } else { '-' }, if to.rights.write { 'W' } else { '-' });
                row!(screen, "{start:016x}-{last:016x}: {:016x} {user}{write}", to.phys.0)?;
            }
            Err(fault @ ReadFault::Endless { .. }) => row!(screen, "({fault})")?,
            _ => {}
        }
    }
    Ok(())
}

fn info(kernel: &Kernel, what: &str, context: Context<'_>, screen: &mut Screen<'_>) -> Result<()> {
    match what {
        "version" => row!(screen, "corestub {} (a dump, not a machine)", env!("CARGO_PKG_VERSION"))?,
        "kvm" => row!(screen, "kvm support: disabled")?,
        "cpus" => {
            let selected = selected_cpu(kernel, context);
            for &cpu in kernel.percpu().online() {
                let mark = if selected == Some(cpu) { '*' } else { ' ' };
                row!(screen, "{mark} CPU #{cpu}: thread_id={}", cpu + 1)?;
            }
        }
        "mtree" => {
            row!(screen, "FlatView #0")?;
            row!(screen, " AS \"memory\", root: system")?;
            row!(screen, " Root memory region: system")?;
            for (start, len) in kernel.dump().physical_ranges() {
                let end = start.0.saturating_add(len.saturating_sub(1));
                row!(screen, "  {:016x}-{end:016x} (prio 0, ram): pc.ram", start.0)?;
            }
        }
        other => return Err(CommandError::Failed(format!("{other} is not in a dump"))),
    }
    Ok(())
}

/// The CPU of the selected thread; the first one's if it runs on none.
fn selected_cpu(kernel: &Kernel, context: Context<'_>) -> Option<u32> {
    let task = context.task.and_then(|t| kernel.tasks().by_address(t));
    task.and_then(|t| t.running_on()).or_else(|| kernel.percpu().online().first().copied())
}

/// In QEMU's order; what the dump does not hold is left out, not zero.
fn registers_of(kernel: &Kernel, cpu: u32, task: &Task, screen: &mut Screen<'_>) -> Result<()> {
    use Register::{
        Cr0, Cr2, Cr3, Cr4, Cs, Ds, Efer, Eflags, Es, Fs, Gs, R8, R9, R10, R11, R12, R13, R14, R15, Rax, Rbp,
        Rbx, Rcx, Rdi, Rdx, Rip, Rsi, Rsp, Ss,
    };
    let regs = registers::with_system(kernel, task);
    row!(screen)?;
    row!(screen, "CPU#{cpu}")?;
    let line = |screen: &mut Screen<'_>, names: &[(&str, Register)], digits: usize| {
        let known = names.iter().filter_map(|&(shown, register)| Some((shown, regs.get(register)?)));
        let words: Vec<String> = known.map(|(shown, v)| format!("{shown}={v:0digits$x}")).collect();
        if words.is_empty() { Ok(()) } else { row!(screen, "{}", words.join(" ")) }
    };
    line(screen, &[("RAX", Rax), ("RBX", Rbx), ("RCX", Rcx), ("RDX", Rdx)], 16)?;
    line(screen, &[("RSI", Rsi), ("RDI", Rdi), ("RBP", Rbp), ("RSP", Rsp)], 16)?;
    line(screen, &[("R8 ", R8), ("R9 ", R9), ("R10", R10), ("R11", R11)], 16)?;
    line(screen, &[("R12", R12), ("R13", R13), ("R14", R14), ("R15", R15)], 16)?;
    line(screen, &[("RIP", Rip), ("RFL", Eflags)], 8)?;
    line(screen, &[("ES ", Es)], 4)?;
    line(screen, &[("CS ", Cs)], 4)?;
    line(screen, &[("SS ", Ss)], 4)?;
    line(screen, &[("DS ", Ds)], 4)?;
    // A selector, which a crash need not have saved, and the base.
    for (name, selector, base) in [("FS ", Fs, Register::FsBase), ("GS ", Gs, Register::GsBase)] {
        if let Some(base) = regs.get(base) {
            row!(screen, "{name}={:04x} {base:016x} 00000000 00000000", regs.get(selector).unwrap_or(0))?;
        }
    }
    let DescriptorTables { idt, gdt, tr, ldt } = DescriptorTables::of(kernel, task);
    for (name, known) in [("LDT", ldt), ("TR ", tr)] {
        if let Some((Segment { selector, limit, flags, base }, _)) = known {
            row!(screen, "{name}={selector:04x} {base:016x} {limit:08x} {flags:08x}")?;
        }
    }
    for (name, known) in [("GDT", gdt), ("IDT", idt)] {
        if let Some((Segment { limit, base, .. }, _)) = known {
            row!(screen, "{name}=     {base:016x} {limit:08x}")?;
        }
    }
    line(screen, &[("CR0", Cr0), ("CR2", Cr2), ("CR3", Cr3), ("CR4", Cr4)], 8)?;
    line(screen, &[("EFER", Efer)], 16)?;
    Ok(())
}

fn gva2gpa(kernel: &Kernel, addr: &str, context: Context<'_>, screen: &mut Screen<'_>) -> Result<()> {
    let addr = VirtAddr(number(addr)?);
    let task = context.task.and_then(|t| kernel.tasks().by_address(t));
    let user = task.filter(|_| addr.0 < kernel.user_limit()).and_then(|t| kernel.task_space(t));
    match user.as_ref().unwrap_or_else(|| kernel.tables()).translate(addr) {
        Ok(phys) => row!(screen, "gpa: {:#x}", phys.0)?,
        Err(_) => row!(screen, "Unmapped")?,
    }
    Ok(())
}

/// `xp /COUNT FORMAT SIZE ADDR`: physical memory.
fn xp(kernel: &Kernel, format: &str, addr: Option<&str>, screen: &mut Screen<'_>) -> Result<()> {
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
        put!(screen, "{line:016x}:");
        for i in 0..per_line.min(count - at) {
            let mut bytes = [0; 8];
            let place = line.wrapping_add(i * size as u64);
            let value = read(kernel, place, bytes.get_mut(..size).unwrap_or_default())
                .map(|()| u64::from_le_bytes(bytes))
                .map_err(|why| CommandError::Failed(format!("cannot access memory at {place:#x}: {why}")));
            let value = match value {
                Ok(v) => v,
                Err(e) => {
                    row!(screen)?;
                    return Err(e);
                }
            };
            match shape {
                'd' => put!(screen, " {}", signed(value, size)),
                'u' => put!(screen, " {value}"),
                'o' => put!(screen, " {value:#o}"),
                'c' => put!(screen, " '{}'", u8::try_from(value).unwrap_or(0).escape_ascii()),
                _ => put!(screen, " {value:#0width$x}", width = 2 + 2 * size),
            }
        }
        row!(screen)?;
        at += per_line;
    }
    Ok(())
}

/// All of `buf`, over the ends of pages.
fn read(kernel: &Kernel, start: u64, buf: &mut [u8]) -> Result<(), ReadFault> {
    let memory = kernel.tables().memory();
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

fn number(text: &str) -> Result<u64> {
    unsigned(text).map_err(CommandError::Failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_by_size() {
        assert_eq!(signed(0xff, 1), -1);
        assert_eq!(signed(0x7f, 1), 127);
        assert_eq!(signed(u64::MAX, 8), -1);
    }
}
