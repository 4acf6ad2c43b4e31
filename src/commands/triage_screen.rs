//! `triage`: one screen of 100 columns, 24 to 40 lines. What, where, culprit, a short
//! stack, evidence; `--full` has the rest.

use std::borrow::Cow;
use std::io;
use std::ops::RangeInclusive;

use super::{CUT, More, Triage, full, last_words};
use crate::arch::Register;
use crate::arch::disasm::Instruction;
use crate::commands::Result;
use crate::commands::bt::{self, Places};
use crate::commands::locks::Blocked;
use crate::commands::log::{Form, write_record};
use crate::linux::memory::looks::looks;
use crate::linux::registers::TaskRegisters;
use crate::linux::taint;
use crate::text::{Rows, Screen, row};
use crate::unwind::{self, Frame, FrameKind};

/// The screen; the last messages fill it.
const COLUMNS: usize = 100;
const ROWS: RangeInclusive<usize> = 24..=40;
/// Source lines of the culprit: more are those of inlined functions.
const SOURCE: usize = 1;
/// Frames of the stack.
const FRAMES: usize = 7;
/// Tasks that hung.
const HUNG: usize = 3;
/// CPUs that are not idle.
const CPUS: usize = 2;
/// Different stacks of blocked tasks.
const GROUPS: usize = 2;
/// Messages where there is no room for more.
const FEW: usize = 2;
/// Messages, where there is room, and the rows around them.
const LINES: usize = 8;
const AROUND: usize = 4;
/// Bytes of code before the instruction that crashed, and from it on.
const BEFORE: u64 = 14;
const AFTER: u64 = 16;

impl Triage<'_> {
    pub(super) fn screen(&self, screen: &mut Screen<'_>) -> Result<()> {
        let More { kernel, context, .. } = &self.more;
        let mut places = Places::default();
        let rows = Rows::of(|all| {
            self.which(Some(COLUMNS), all)?;
            self.what_and_where(all)?;
            self.short_stack(&mut places, all)?;
            self.evidence(all)?;
            self.smashed(all)
        });
        let mut used = fit(rows.lines(), screen)?;
        context.check()?;
        used += fit(Rows::of(|all| self.others_at_a_glance(&mut places, all)).lines(), screen)?;
        context.check()?;
        used += fit(self.blocked_at_a_glance()?.lines(), screen)?;
        let room = |rows: usize| rows.saturating_sub(used + AROUND);
        let lines = room(*ROWS.end()).min(room(*ROWS.start()).max(LINES)).max(FEW);
        row!(screen)?;
        row!(screen, "LAST MESSAGES")?;
        let records = last_words(kernel.log(), lines);
        let rows = Rows::of(|all| records.iter().try_for_each(|r| write_record(r, Form::default(), all)));
        // A record may have several lines.
        let skipped = rows.lines().count().saturating_sub(lines);
        fit(rows.lines().skip(skipped), screen)?;
        row!(screen)?;
        Ok(row!(screen, "`triage --full` has whole stacks, registers and more messages.")?)
    }

    fn what_and_where(&self, screen: &mut Screen<'_>) -> io::Result<()> {
        let More { kernel, crashed, taints, .. } = self.more;
        row!(screen)?;
        self.death().iter().try_for_each(|line| row!(screen, "{line}"))?;
        if let Some(by) = self.by() {
            row!(screen, "by {by}")?;
        }
        if let Some(t) = crashed {
            row!(screen, "in pid {} \"{}\" on CPU {}", t.pid_text(), t.comm, t.cpu_text())?;
        }
        if taints != 0 {
            let why: Vec<&str> = taint::set(taints).map(|(_, why)| why).collect();
            row!(screen, "tainted {}: {}", self.taint, why.join("; "))?;
        }
        if let Some(lost) = kernel.dump().incomplete() {
            row!(screen, "THE DUMP IS INCOMPLETE: {lost}")?;
        }
        self.hung.iter().take(HUNG).try_for_each(|task| row!(screen, "HUNG: {task}"))?;
        self.shortage(false, screen)?;
        let Some(culprit) = &self.culprit else { return Ok(()) };
        row!(screen)?;
        row!(screen, "LIKELY CULPRIT: {}", Self::suspect(culprit))?;
        row!(screen, "    by rule: {}", culprit.rule)?;
        self.lines(culprit).iter().take(SOURCE).try_for_each(|line| row!(screen, "    {line}"))
    }

    /// From the culprit outward: what is inward of it reported the crash.
    fn short_stack<'a>(&'a self, places: &mut Places<'a>, screen: &mut Screen<'_>) -> io::Result<()> {
        let More { kernel, shown: Some((task, trace)), .. } = &self.more else { return Ok(()) };
        row!(screen)?;
        row!(screen, "STACK of pid {} \"{}\"", task.pid_text(), task.comm)?;
        let frames: Vec<&Frame> = trace.frames.iter().skip(self.more.innermost).collect();
        // What is smashed says more than who called.
        let shown = if self.slab_damage.is_empty() { FRAMES } else { FRAMES - 2 };
        for frame in frames.iter().take(shown) {
            if frame.kind == FrameKind::User {
                row!(screen, "    user mode, {:#x}", frame.pc)?;
                continue;
            }
            match places.of(kernel, frame) {
                Some(p) => {
                    let module = p.module.map(|m| format!(" [{m}]")).unwrap_or_default();
                    row!(screen, "    {}+{:#x}{module}", p.name, p.offset)?;
                }
                None => row!(screen, "    {:#x}", frame.pc)?,
            }
        }
        match (frames.len().saturating_sub(shown), trace.end.sentence()) {
            (0, None) => Ok(()),
            (0, Some(why)) => row!(screen, "    ({why})"),
            (more, _) => row!(screen, "    ({more} more)"),
        }
    }

    /// The instruction, and what it worked with.
    fn evidence(&self, screen: &mut Screen<'_>) -> io::Result<()> {
        let kernel = self.more.kernel;
        let Some(at) = self.interrupted() else { return Ok(()) };
        row!(screen)?;
        if let Some(found) = &at.instruction {
            row!(screen, "INSTRUCTION: {}", with_registers(found, &at.regs))?;
        }
        row!(screen, "{}", full::code(kernel, at.rip, BEFORE, AFTER))?;
        if let Some(looks) = looks(at.rip).filter(|_| at.instruction.is_none()) {
            row!(screen, "    {:#x} looks like {looks}", at.rip)?;
        }
        at.odd_operands(kernel).iter().try_for_each(|operand| row!(screen, "    {operand}"))
    }

    fn others_at_a_glance<'a>(&'a self, places: &mut Places<'a>, screen: &mut Screen<'_>) -> io::Result<()> {
        let kernel = self.more.kernel;
        let (idle, busy): (Vec<_>, Vec<_>) = self.others().partition(|task| task.known_pid() == Some(0));
        if idle.is_empty() && busy.is_empty() {
            return Ok(());
        }
        row!(screen)?;
        match idle.len() {
            0 => row!(screen, "OTHER CPUS")?,
            n => row!(screen, "OTHER CPUS: {n} idle")?,
        }
        for task in busy.iter().take(CPUS) {
            let trace = unwind::task(kernel, task);
            let names: Vec<String> = trace
                .frames
                .iter()
                .map(|f| match places.of(kernel, f) {
                    Some(p) => p.name.to_owned(),
                    None if f.kind == FrameKind::User => "user mode".to_owned(),
                    None => format!("{:#x}", f.pc),
                })
                .collect();
            let doing =
                if names.is_empty() { trace.end.sentence().unwrap_or_default() } else { names.join(" < ") };
            row!(
                screen,
                "    CPU {:<3} pid {:<7} {:<15} {doing}",
                task.cpu_text(),
                task.pid_text(),
                task.comm
            )?;
        }
        match busy.len().saturating_sub(CPUS) {
            0 => Ok(()),
            more => row!(screen, "    ({more} more)"),
        }
    }

    fn blocked_at_a_glance(&self) -> Result<Rows> {
        let More { kernel, context, blocked, .. } = &self.more;
        if blocked.is_empty() {
            return Ok(Rows::default());
        }
        let groups = bt::collapse(kernel, blocked, *context)?;
        Ok(Rows::of(|all| {
            row!(all)?;
            row!(all, "BLOCKED (state D): {} tasks, {} different stacks", blocked.len(), groups.len())?;
            self.deadlocks(all)?;
            let groups =
                groups.iter().take(if self.locks.iter().any(Blocked::is_stuck) { 1 } else { GROUPS });
            groups.into_iter().try_for_each(|group| row!(all, "    {}", group.glance(kernel)))
        }))
    }
}

/// Writes rows, none of them wider than the screen; how many.
fn fit<'r>(rows: impl Iterator<Item = Cow<'r, str>>, screen: &mut Screen<'_>) -> io::Result<usize> {
    let mut written = 0;
    for line in rows {
        written += 1;
        if line.chars().count() <= COLUMNS {
            row!(screen, "{line}")?;
        } else {
            let kept: String = line.chars().take(COLUMNS - CUT.len()).collect();
            row!(screen, "{kept}{CUT}")?;
        }
    }
    Ok(written)
}

/// `movsbl 0xb(%rsi),%eax  (rsi 0)`: an instruction, and the registers in it.
fn with_registers(found: &Instruction, regs: &TaskRegisters) -> String {
    let text = &found.text;
    let named = |r: &&Register| text.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == r.name());
    let values = Register::of_frame().iter().filter(|r| **r != Register::Rip).filter(named);
    let values: Vec<String> =
        values.filter_map(|r| Some(format!("{} {:#x}", r.name(), regs.get(*r)?))).collect();
    if values.is_empty() { text.clone() } else { format!("{text}  ({})", values.join(", ")) }
}
