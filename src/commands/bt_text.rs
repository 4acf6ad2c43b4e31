//! The text of one stack, in crash's columns.

use std::io;

use super::{Place, Style, place};
use crate::addr::VirtAddr;
use crate::arch::{Register, pt_regs};
use crate::commands::entry;
use crate::commands::lines::Lines;
use crate::linux::registers::{self, Source, TaskRegisters};
use crate::linux::stacks::{self, Kind, Stack};
use crate::linux::{Kernel, Task, switch_frame};
use crate::text::{Screen, put, row};
use crate::unwind::{self, End, Frame, FrameKind, Trace};

/// Words of one frame that `-f` shows at most: 16 KiB.
const FULL_MAX: u64 = 2048;

/// crash's first line of a task.
pub(in crate::commands) fn heading(task: &Task, screen: &mut Screen<'_>) -> io::Result<()> {
    row!(
        screen,
        "PID: {:<7}  TASK: {:016x}  CPU: {:<3}  COMMAND: \"{}\"",
        task.pid_text(),
        task.addr.0,
        task.cpu_text(),
        task.comm
    )
}

/// The stack of `task`.
pub(in crate::commands) fn write_task(
    kernel: &Kernel,
    task: &Task,
    style: Style,
    lines: Option<&Lines<'_>>,
    screen: &mut Screen<'_>,
) -> io::Result<()> {
    heading(task, screen)?;
    let trace = unwind::with_crash_path(kernel, task);
    write_trace(kernel, task, &trace, style, lines, screen)
}

/// The frames of `trace`.
pub(in crate::commands) fn write_trace(
    kernel: &Kernel,
    task: &Task,
    trace: &Trace,
    style: Style,
    lines: Option<&Lines<'_>>,
    screen: &mut Screen<'_>,
) -> io::Result<()> {
    let mut number = 0;
    let mut stack: Option<Stack> = None;
    for (i, frame) in trace.frames.iter().enumerate() {
        if frame.kind == FrameKind::Call || i > 0 && frame.pt_regs.is_none() {
            write_frame(kernel, task, number, frame, lines, screen)?;
            number += 1;
        } else {
            let regs = saved(kernel, task, frame, i == 0);
            let mut before = stack.clone();
            // The registers lie on another stack than the handler's frame: as crash, the
            // entry is named there once more.
            let at = frame.pt_regs.and_then(|at| kernel.stacks().of(kernel, task, at.0));
            if i > 0
                && left(before.as_ref(), at.as_ref())
                && let (Some(entry), Some(regs)) = (trace.frames.get(i - 1), frame.pt_regs)
            {
                leave(before.as_ref(), at.as_ref(), screen)?;
                let again = Frame { sp: regs.0.wrapping_add(8), ..*entry };
                write_frame(kernel, task, number, &again, lines, screen)?;
                number += 1;
                before = at;
            }
            if frame.kind == FrameKind::User {
                if let Some(regs) = regs {
                    registers_block(&regs, screen)?;
                }
                break;
            }
            let place = place(kernel, frame.pc);
            let by = i.checked_sub(1).and_then(|entry| trace.frames.get(entry));
            let how = came_here(kernel, by);
            match place {
                Some(p) if p.offset == 0 => row!(screen, "    [{how} RIP: {}]", p.name)?,
                Some(p) => row!(screen, "    [{how} RIP: {}+{}]", p.name, p.offset)?,
                None => row!(screen, "    [{how} RIP: unknown or invalid address]")?,
            }
            for line in lines.map(|l| l.of(VirtAddr(frame.pc))).unwrap_or_default() {
                row!(screen, "    {line}")?;
            }
            if let Some(regs) = regs {
                registers_block(&regs, screen)?;
            }
            let now = unwind::stack_of(kernel, task, frame);
            // On the same stack, and where registers come from the dump's notes,
            // crash goes on with the caller.
            if left(before.as_ref(), now.as_ref()) {
                leave(before.as_ref(), now.as_ref(), screen)?;
                write_frame(kernel, task, number, frame, lines, screen)?;
                number += 1;
            }
            stack = now;
            if style.full {
                words(kernel, frame, trace.frames.get(i + 1), stack.as_ref(), screen)?;
            }
            continue;
        }
        let now = unwind::stack_of(kernel, task, frame);
        let next = trace.frames.get(i + 1);
        if style.full {
            words(kernel, frame, next, now.as_ref(), screen)?;
        }
        // A call that crosses stacks: named when the caller is reached.
        let above =
            next.filter(|n| n.kind == FrameKind::Call).and_then(|n| unwind::stack_of(kernel, task, n));
        if above.is_some() {
            leave(now.as_ref(), above.as_ref(), screen)?;
        }
        stack = now;
    }
    // A process that has not been in user mode yet ends at ret_from_fork; where
    // it will go is at the top of its stack all the same.
    let ended = trace.frames.last().is_some_and(|f| f.kind != FrameKind::User);
    if trace.end == End::Complete
        && ended
        && let Some(regs) = registers::user(kernel, task).filter(TaskRegisters::in_user_mode)
    {
        registers_block(&Saved { regs, partial: false, noted: false }, screen)?;
    }
    if let Some(below) = trace.frames.iter().find_map(|f| stacks::overflow(task, f.sp)) {
        row!(screen, "(the stack has overflowed: a frame begins {below} bytes below it)")?;
    }
    if let Some(why) = trace.incomplete(kernel) {
        if task.stack.0 == 0 {
            row!(screen, "(no stack)")?;
        } else {
            row!(screen, "({why})")?;
        }
    }
    Ok(())
}

/// What saved the registers of a frame, by the frame that was entered from it. crash
/// calls all of them exceptions.
fn came_here(kernel: &Kernel, entry: Option<&Frame>) -> &'static str {
    let Some(entry) = entry else { return "saved" };
    let name = place(kernel, entry.lookup_pc()).map(|p| p.name);
    if name.and_then(entry::exception).is_some() { "exception" } else { "interrupted" }
}

fn left(from: Option<&Stack>, to: Option<&Stack>) -> bool {
    from.zip(to).is_some_and(|(a, b)| a.range != b.range)
}

fn leave(from: Option<&Stack>, now: Option<&Stack>, screen: &mut Screen<'_>) -> io::Result<()> {
    match from {
        Some(stack) if left(from, now) && stack.kind != Kind::Task => {
            row!(screen, "--- <{}> ---", stack.kind.title())
        }
        _ => Ok(()),
    }
}

fn write_frame(
    kernel: &Kernel,
    task: &Task,
    number: usize,
    frame: &Frame,
    lines: Option<&Lines<'_>>,
    screen: &mut Screen<'_>,
) -> io::Result<()> {
    // Before 4.9 the innermost frame of a sleeping task has no return address: crash shows
    // where it was switched out.
    let switched = number == 0 && frame.sp == task.sp.wrapping_add(16) && !switch_frame::exists(kernel);
    let at = match frame.kind {
        _ if switched => task.sp,
        FrameKind::Call => frame.sp.wrapping_sub(8),
        _ => frame.sp,
    };
    let name = place(kernel, frame.lookup_pc());
    let (name, module) = match name {
        Some(Place { name, module, .. }) => (name, module),
        None => ("(unknown)", None),
    };
    put!(screen, "{:>3} [{at:016x}] {name} at {:x}", format!("#{number}"), frame.pc);
    if let Some(module) = module {
        put!(screen, " [{module}]");
    }
    row!(screen)?;
    if let Some(lines) = lines {
        for line in lines.of(VirtAddr(frame.lookup_pc())) {
            row!(screen, "    {line}")?;
        }
    }
    Ok(())
}

/// The registers that belong to an exact frame.
fn saved(kernel: &Kernel, task: &Task, frame: &Frame, first: bool) -> Option<Saved> {
    if let Some(at) = frame.pt_regs {
        let all = registers::of_entry(kernel, task, at);
        if all.is_some() || !frame.partial {
            return all.map(|regs| Saved { regs, partial: frame.partial, noted: false });
        }
        return None;
    }
    let regs = registers::of(kernel, task);
    let noted =
        matches!(regs.source, Source::PrStatus | Source::PrStatusByStack | Source::PrStatusByPosition);
    (first && !matches!(regs.source, Source::Nowhere(_))).then_some(Saved { regs, partial: false, noted })
}

/// Registers that were saved, whole or only the hardware's part.
pub(in crate::commands) struct Saved {
    regs: TaskRegisters,
    partial: bool,
    /// From a note that QEMU wrote.
    noted: bool,
}

/// crash's block of registers.
pub(in crate::commands) fn registers_block(saved: &Saved, screen: &mut Screen<'_>) -> io::Result<()> {
    use Register::{
        Cs, Eflags, OrigRax, R8, R9, R10, R11, R12, R13, R14, R15, Rax, Rbp, Rbx, Rcx, Rdi, Rdx, Rip, Rsi,
        Rsp, Ss,
    };
    let v = |register: Register, width: usize| match saved.regs.get(register) {
        Some(value) if width == 4 => format!("{:04x}", value & 0xffff),
        Some(value) if width == 8 => format!("{value:08x}"),
        Some(value) => format!("{value:016x}"),
        None => "(not known)".to_owned(),
    };
    let w = |register: Register| v(register, 16);
    row!(screen, "    RIP: {}  RSP: {}  RFLAGS: {}", w(Rip), w(Rsp), v(Eflags, 8))?;
    if saved.partial {
        return row!(screen, "    CS: {}  SS: {}", v(Cs, 4), v(Ss, 4));
    }
    for [a, b, c] in [[Rax, Rbx, Rcx], [Rdx, Rsi, Rdi], [Rbp, R8, R9], [R10, R11, R12], [R13, R14, R15]] {
        let word = |r: Register| format!("{:>3}: {}", r.name().to_uppercase(), w(r));
        row!(screen, "    {}  {}  {}", word(a), word(b), word(c))?;
    }
    // QEMU's notes have the member, but nothing is in it.
    if saved.noted {
        return row!(screen, "    CS: {}  SS: {}", v(Cs, 4), v(Ss, 4));
    }
    row!(screen, "    ORIG_RAX: {}  CS: {}  SS: {}", w(OrigRax), v(Cs, 4), v(Ss, 4))
}

/// The words from a frame's stack pointer to its caller's.
fn words(
    kernel: &Kernel,
    frame: &Frame,
    next: Option<&Frame>,
    stack: Option<&Stack>,
    screen: &mut Screen<'_>,
) -> io::Result<()> {
    let Some(end_of_stack) = stack.map(|s| s.range.end) else { return Ok(()) };
    let end = next.map(|n| n.sp).filter(|&sp| sp > frame.sp && sp <= end_of_stack).unwrap_or(end_of_stack);
    let regs = next.and_then(|n| n.pt_regs.map(|at| (at.0, n.partial)));
    let mut at = frame.sp;
    while at < end && at - frame.sp < FULL_MAX * 8 {
        let Ok(word) = kernel.space().read_u64(VirtAddr(at)) else {
            return row!(screen, "    {at:016x}: not in the dump");
        };
        put!(screen, "    {at:016x}: {word:016x}");
        let register = regs.and_then(|(start, partial)| {
            let i = usize::try_from(at.checked_sub(start)? / 8).ok()?;
            pt_regs::MEMBERS.get(i).filter(|_| !partial || i >= pt_regs::HARDWARE)
        });
        if let Some((_, name)) = register {
            put!(screen, "  pt_regs.{name}");
        }
        match place(kernel, word).filter(|_| word >> 63 != 0) {
            Some(Place { name, offset, module }) => {
                put!(screen, "  {name}+{offset}");
                if let Some(module) = module {
                    put!(screen, " [{module}]");
                }
            }
            None if word >= kernel.user_limit() => {
                if let Some(cache) = kernel.memory().cache_of(kernel, VirtAddr(word)) {
                    put!(screen, "  [{cache}]");
                }
            }
            None => {}
        }
        row!(screen)?;
        at = at.saturating_add(8);
    }
    Ok(())
}
