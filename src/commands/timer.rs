//! `timer`: what waits for a time on each CPU.

use std::borrow::Cow;

use clap::Args;
use serde::Serialize;

use super::{Answer, Command, CommandError, Context, Result, Text};
use crate::addr::VirtAddr;
use crate::linux::{Kernel, clock, timers};
use crate::text::{Screen, or_unknown, row};

pub(super) fn command() -> Command {
    Command::of_kernel(
        "timer",
        "the timers that wait on each CPU",
        "TTE is the time to expire, negative for what is late: jiffies, with -r nanoseconds.\n\n\
         Examples:\n  (gdb) monitor timer\n  $ corestub timer vmcore -r -C 1",
        run,
    )
}

#[derive(Args)]
struct Arguments {
    /// High-resolution timers (hrtimer), not those of the wheel
    #[arg(short = 'r')]
    high_resolution: bool,
    /// Only this CPU (repeatable)
    #[arg(short = 'C', value_name = "CPU")]
    cpus: Vec<u32>,
}

#[derive(Serialize)]
struct Wheels {
    jiffies: Option<u64>,
    wheels: Vec<Wheel>,
}

#[derive(Serialize)]
struct Wheel {
    cpu: u32,
    name: &'static str,
    timer_base: VirtAddr,
    timers: Vec<Timer>,
    lost: Option<String>,
}

#[derive(Serialize)]
struct Timer {
    expires: Option<u64>,
    tte: Option<i64>,
    timer_list: VirtAddr,
    function: Option<VirtAddr>,
    name: Option<String>,
}

#[derive(Serialize)]
#[serde(transparent)]
struct Bases(Vec<Base>);

#[derive(Serialize)]
struct Base {
    cpu: u32,
    hrtimer_cpu_base: VirtAddr,
    clocks: Vec<Clock>,
}

#[derive(Serialize)]
struct Clock {
    hrtimer_clock_base: VirtAddr,
    name: &'static str,
    current: Option<i64>,
    timers: Vec<HrTimer>,
    broken: bool,
}

#[derive(Serialize)]
struct HrTimer {
    soft_expires: Option<i64>,
    expires: Option<i64>,
    tte: Option<i64>,
    hrtimer: VirtAddr,
    function: Option<VirtAddr>,
    name: Option<String>,
}

fn run<'d>(kernel: &'d Kernel, args: Arguments, context: Context<'d>) -> Result<Answer<'d>> {
    let present = kernel.percpu().present();
    let cpus = match args.cpus.as_slice() {
        [] => Cow::Borrowed(present),
        cpus => Cow::Borrowed(cpus),
    };
    if let Some(cpu) = cpus.iter().find(|cpu| !present.contains(cpu)) {
        return Err(CommandError::Failed(format!("there is no CPU {cpu}")));
    }
    if args.high_resolution {
        return Ok(Bases(bases(kernel, &cpus, context)?).into());
    }
    let jiffies = ["jiffies_64", "jiffies"].iter().find_map(|name| kernel.symbol(name));
    let jiffies = jiffies.and_then(|at| kernel.space().read_u64(at).ok());
    let timer = |t: timers::Timer| Timer {
        expires: t.expires,
        tte: t.expires.zip(jiffies).map(|(expires, now)| expires.wrapping_sub(now).cast_signed()),
        timer_list: t.at,
        function: t.function,
        name: t.function.and_then(|at| kernel.name_at(at)),
    };
    let mut wheels = Vec::new();
    for &cpu in cpus.iter() {
        context.check()?;
        for wheel in timers::wheels(kernel, cpu).map_err(CommandError::failed)? {
            let timers = wheel.timers.into_iter().map(timer).collect();
            let (name, timer_base, lost) = (wheel.name, wheel.at, wheel.lost);
            wheels.push(Wheel { cpu, name, timer_base, timers, lost });
        }
    }
    Ok(Wheels { jiffies, wheels }.into())
}

fn bases(kernel: &Kernel, cpus: &[u32], context: Context<'_>) -> Result<Vec<Base>> {
    let now = clock::read(kernel).map(|clock| clock.monotonic);
    let mut bases = Vec::new();
    for &cpu in cpus {
        context.check()?;
        let (hrtimer_cpu_base, clocks) = timers::clocks(kernel, cpu).map_err(CommandError::failed)?;
        let clock = |clock: timers::Clock| {
            let current = now.zip(clock.offset).and_then(|(now, offset)| now.checked_add(offset));
            let timer = |t: timers::HrTimer| HrTimer {
                soft_expires: t.soft,
                expires: t.hard,
                tte: t.hard.zip(current).and_then(|(at, now)| at.checked_sub(now)),
                hrtimer: t.at,
                function: t.function,
                name: t.function.and_then(|at| kernel.name_at(at)),
            };
            let timers = clock.timers.into_iter().map(timer).collect();
            Clock { hrtimer_clock_base: clock.at, name: clock.name, current, timers, broken: clock.broken }
        };
        bases.push(Base { cpu, hrtimer_cpu_base, clocks: clocks.into_iter().map(clock).collect() });
    }
    Ok(bases)
}

/// `ffffffff954b79d0  <delayed_work_timer_fn>`
fn function(at: Option<VirtAddr>, name: Option<&String>) -> String {
    let at = or_unknown(at.map(|at| format!("{:016x}", at.0)));
    name.map_or(at.clone(), |name| format!("{at}  <{name}>"))
}

impl Text for Wheels {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        row!(screen, "JIFFIES")?;
        row!(screen, "{}", or_unknown(self.jiffies))?;
        for (i, wheel) in self.wheels.iter().enumerate() {
            if i == 0 || self.wheels.get(i - 1).is_some_and(|before| before.cpu != wheel.cpu) {
                row!(screen)?;
            }
            wheel.text(screen)?;
        }
        Ok(())
    }

    fn failure(&self) -> Option<String> {
        let lost = self.wheels.iter().find_map(|wheel| Some((wheel, wheel.lost.as_ref()?)));
        lost.map(|(wheel, why)| format!("timers of CPU {} are missing: {why}", wheel.cpu))
    }
}

impl Text for Wheel {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        row!(screen, "TIMER_BASES[{}][{}]: {:x}", self.cpu, self.name, self.timer_base.0)?;
        row!(screen, "{:^12}  {:^9}  {:^16}  FUNCTION", "EXPIRES", "TTE", "TIMER_LIST")?;
        for timer in &self.timers {
            row!(
                screen,
                "{:>12}  {:>9}  {:016x}  {}",
                or_unknown(timer.expires),
                or_unknown(timer.tte),
                timer.timer_list.0,
                function(timer.function, timer.name.as_ref())
            )?;
        }
        if self.timers.is_empty() && self.lost.is_none() {
            row!(screen, "  (none)")?;
        }
        Ok(())
    }
}

impl Text for Bases {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        for base in &self.0 {
            row!(screen, "CPU: {}  HRTIMER_CPU_BASE: {:x}", base.cpu, base.hrtimer_cpu_base.0)?;
            for (i, clock) in base.clocks.iter().enumerate() {
                row!(
                    screen,
                    "  CLOCK: {i}  HRTIMER_CLOCK_BASE: {:x}  [{}]",
                    clock.hrtimer_clock_base.0,
                    clock.name
                )?;
                clock.text(screen)?;
                row!(screen)?;
            }
        }
        Ok(())
    }

    fn failure(&self) -> Option<String> {
        let broken = self.0.iter().find(|base| base.clocks.iter().any(|clock| clock.broken))?;
        Some(format!("timers of CPU {} are missing: a tree is broken", broken.cpu))
    }
}

impl Text for Clock {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        if self.timers.is_empty() {
            return Ok(row!(screen, "  {}", if self.broken { "(not readable)" } else { "(empty)" })?);
        }
        row!(screen, "  {:^19}", "CURRENT")?;
        row!(screen, "  {:>19}", or_unknown(self.current))?;
        row!(
            screen,
            "  {:^19}  {:^19}  {:^19}  {:^16}  FUNCTION",
            "SOFTEXPIRES",
            "EXPIRES",
            "TTE",
            "HRTIMER"
        )?;
        for timer in &self.timers {
            row!(
                screen,
                "  {:>19}  {:>19}  {:>19}  {:016x}  {}",
                or_unknown(timer.soft_expires),
                or_unknown(timer.expires),
                or_unknown(timer.tte),
                timer.hrtimer.0,
                function(timer.function, timer.name.as_ref())
            )?;
        }
        Ok(())
    }
}
