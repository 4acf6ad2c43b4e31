//! `triage --full`: everything at length.

use std::io;

use super::{Culprit, More, Triage, last_words};
use crate::addr::VirtAddr;
use crate::commands::Result;
use crate::commands::bt::{self, Places, Style};
use crate::commands::log::{Form, write_record};
use crate::linux::{Kernel, taint};
use crate::text::{Screen, put, row};
use crate::unwind::{self, FrameKind};

/// Frames of other CPUs that are shown.
const SHORT: usize = 8;
/// Bytes of code before the instruction that crashed, and from it on: those of an oops.
const BEFORE: u64 = 42;
const AFTER: u64 = 22;
/// Lines of the log at the end.
const LINES: usize = 12;

impl Triage<'_> {
    pub(super) fn full(&self, screen: &mut Screen<'_>) -> Result<()> {
        let More { kernel, context, blocked, .. } = &self.more;
        self.what_happened(screen)?;
        self.crashed_stack(screen)?;
        context.check()?;
        self.other_cpus(screen)?;
        context.check()?;
        if !blocked.is_empty() {
            row!(screen)?;
            row!(screen, "BLOCKED (state D): {} tasks", blocked.len())?;
            self.deadlocks(screen)?;
            let groups = bt::collapse(kernel, blocked, *context)?;
            bt::write_groups(kernel, &groups, screen)?;
        }
        row!(screen)?;
        row!(screen, "LAST MESSAGES")?;
        let records = last_words(kernel.log(), LINES);
        Ok(records.iter().try_for_each(|record| write_record(record, Form::default(), screen))?)
    }

    fn what_happened(&self, screen: &mut Screen<'_>) -> io::Result<()> {
        let More { kernel, crashed, taints, .. } = self.more;
        self.which(None, screen)?;
        row!(screen)?;
        self.death().iter().try_for_each(|line| row!(screen, "{line}"))?;
        if let Some(t) = crashed {
            row!(screen, "in pid {} \"{}\" on CPU {}", t.pid_text(), t.comm, t.cpu_text())?;
        }
        for (letter, why) in taint::set(taints) {
            row!(screen, "tainted {letter}: {why}")?;
        }
        if let Some(lost) = kernel.dump().incomplete() {
            row!(screen, "THE DUMP IS INCOMPLETE: {lost}")?;
        }
        Ok(())
    }

    fn crashed_stack(&self, screen: &mut Screen<'_>) -> io::Result<()> {
        let More { kernel, shown: Some((task, trace)), .. } = &self.more else { return Ok(()) };
        if let Some(by) = self.by() {
            row!(screen, "by {by}")?;
        }
        self.hung.iter().try_for_each(|task| row!(screen, "HUNG: {task}"))?;
        self.shortage(true, screen)?;
        if let Some(culprit) = &self.culprit {
            self.accuse(culprit, screen)?;
        }
        row!(screen)?;
        row!(screen, "STACK")?;
        bt::heading(task, screen)?;
        bt::write_trace(kernel, task, trace, Style::default(), None, screen)?;
        if let Some(at) = self.interrupted() {
            row!(screen, "{}", code(kernel, at.rip, BEFORE, AFTER))?;
            at.odd_operands(kernel).iter().try_for_each(|operand| row!(screen, "{operand}"))?;
        }
        self.smashed(screen)
    }

    fn accuse(&self, culprit: &Culprit<'_>, screen: &mut Screen<'_>) -> io::Result<()> {
        let kernel = self.more.kernel;
        row!(screen)?;
        put!(screen, "LIKELY CULPRIT: {}", Self::suspect(culprit));
        if let Some(module) = culprit.module {
            let taints = kernel.modules().iter().find(|m| m.name == module).map_or(0, |m| m.taints);
            let why: Vec<&str> = taint::set(taints).map(|(_, why)| why).collect();
            if !why.is_empty() {
                put!(screen, " ({})", why.join("; "));
            }
        }
        row!(screen)?;
        row!(screen, "    by rule: {}", culprit.rule)?;
        self.lines(culprit).iter().try_for_each(|line| row!(screen, "    {line}"))
    }

    fn other_cpus(&self, screen: &mut Screen<'_>) -> io::Result<()> {
        let kernel = self.more.kernel;
        let mut places = Places::default();
        row!(screen)?;
        row!(screen, "OTHER CPUS")?;
        for task in self.others() {
            let trace = unwind::task(kernel, task);
            put!(screen, "CPU {:<3} pid {:<7} {:<16}", task.cpu_text(), task.pid_text(), task.comm);
            if trace.frames.first().is_some_and(|f| f.kind == FrameKind::User) {
                row!(screen, " in user mode")?;
                continue;
            }
            let names: Vec<String> = trace
                .frames
                .iter()
                .filter(|f| f.kind != FrameKind::User)
                .take(SHORT)
                .map(|f| places.of(kernel, f).map_or_else(|| format!("{:#x}", f.pc), |p| p.name.to_owned()))
                .collect();
            match trace.end.sentence() {
                Some(why) if names.is_empty() => row!(screen, " ({why})")?,
                _ => row!(screen, " {}", names.join(" < "))?,
            }
        }
        Ok(())
    }
}

/// The bytes around the instruction, as an oops has them.
pub(super) fn code(kernel: &Kernel, rip: u64, before: u64, after: u64) -> String {
    let mut text = String::from("Code:");
    for at in rip.saturating_sub(before)..rip.saturating_add(after) {
        let mut byte = [0];
        match kernel.space().read_exact(VirtAddr(at), &mut byte) {
            Ok(()) if at == rip => text.push_str(&format!(" <{:02x}>", byte[0])),
            Ok(()) => text.push_str(&format!(" {:02x}", byte[0])),
            Err(fault) if at == rip => return format!("Code: not known: {fault}"),
            Err(_) => text.push_str(" ??"),
        }
    }
    text
}
