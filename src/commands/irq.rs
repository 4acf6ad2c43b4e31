//! `irq`: interrupts, who handles them, how often they came.

use clap::Args;
use serde::Serialize;

use super::{Answer, Command, CommandError, Context, Result, Text};
use crate::addr::VirtAddr;
use crate::linux::{Kernel, irqs};
use crate::text::{Screen, or_unknown, put, row};

pub(super) fn command() -> Command {
    Command::of_kernel(
        "irq",
        "interrupts, their handlers, and how often each CPU had them",
        "Numbers without a descriptor are left out.\n\n\
         Examples:\n  (gdb) monitor irq\n  $ corestub irq vmcore -s",
        run,
    )
}

#[derive(Args)]
struct Arguments {
    /// How often each CPU had it, as /proc/interrupts
    #[arg(short = 's')]
    counts: bool,
    /// Only these
    #[arg(value_name = "NUMBER")]
    numbers: Vec<u64>,
}

#[derive(Serialize)]
struct Irqs {
    #[serde(skip)]
    counts: bool,
    cpus: Vec<u32>,
    irqs: Vec<Irq>,
    /// Parts of the tree of descriptors that cannot be read.
    unread: usize,
}

#[derive(Serialize)]
struct Irq {
    irq: Option<u64>,
    desc: VirtAddr,
    chip: Option<String>,
    actions: Vec<Action>,
    /// By CPU, as `cpus` has them.
    counts: Vec<Option<u32>>,
}

#[derive(Serialize)]
struct Action {
    irqaction: VirtAddr,
    name: Option<String>,
    handler: Option<String>,
}

fn run<'d>(kernel: &'d Kernel, args: Arguments, context: Context<'d>) -> Result<Answer<'d>> {
    let (all, unread) = irqs::all(kernel).map_err(CommandError::Failed)?;
    let cpus = kernel.percpu().present().to_vec();
    let mut rows = Vec::new();
    for irq in all {
        context.check()?;
        if !args.numbers.is_empty() && !irq.number.is_some_and(|n| args.numbers.contains(&n)) {
            continue;
        }
        let action = |a: &irqs::Action| Action {
            irqaction: a.at,
            name: a.name.clone(),
            handler: a.handler.and_then(|at| kernel.name_at(at)),
        };
        rows.push(Irq {
            irq: irq.number,
            desc: irq.desc,
            chip: irq.chip(),
            actions: irq.actions.iter().map(action).collect(),
            counts: cpus.iter().map(|&cpu| irq.count(cpu)).collect(),
        });
    }
    if let Some(missing) = args.numbers.iter().find(|n| !rows.iter().any(|row| row.irq == Some(**n))) {
        return Err(CommandError::Failed(format!("interrupt {missing} has no descriptor")));
    }
    Ok(Irqs { counts: args.counts, cpus, irqs: rows, unread }.into())
}

impl Text for Irqs {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        if self.counts {
            put!(screen, "    ");
            for cpu in &self.cpus {
                put!(screen, " {:>10}", format!("CPU{cpu}"));
            }
            row!(screen)?;
            for irq in self.irqs.iter().filter(|irq| !irq.actions.is_empty()) {
                irq.counted(screen)?;
            }
            return Ok(());
        }
        row!(screen, " IRQ   IRQ_DESC/_DATA      IRQACTION      NAME")?;
        for irq in &self.irqs {
            irq.handled(screen)?;
        }
        Ok(())
    }

    fn failure(&self) -> Option<String> {
        (self.unread > 0).then(|| format!("{} parts of the tree of interrupts cannot be read", self.unread))
    }
}

impl Irq {
    /// A row for each handler.
    fn handled(&self, screen: &mut Screen<'_>) -> Result<()> {
        put!(screen, "{:^5} {:016x}  ", or_unknown(self.irq), self.desc.0);
        if self.actions.is_empty() {
            row!(screen, "    (unused)")?;
        }
        for (i, action) in self.actions.iter().enumerate() {
            let name = action.name.as_deref().unwrap_or("?");
            let indent = if i == 0 { 0 } else { 24 };
            row!(screen, "{:indent$}{:016x}  \"{name}\"", "", action.irqaction.0)?;
        }
        Ok(())
    }

    /// The row of /proc/interrupts.
    fn counted(&self, screen: &mut Screen<'_>) -> Result<()> {
        put!(screen, "{:>3}:", or_unknown(self.irq));
        for count in &self.counts {
            put!(screen, " {:>10}", or_unknown(*count));
        }
        let names: Vec<&str> = self.actions.iter().map(|a| a.name.as_deref().unwrap_or("?")).collect();
        Ok(row!(screen, "  {:<16} {}", or_unknown(self.chip.as_ref()), names.join(","))?)
    }
}
