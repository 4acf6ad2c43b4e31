//! What of memory speaks of the crash: smashed lists of free objects, the values that the
//! faulting instruction worked with, deadlocks.

use std::io;

use super::oom::CacheSize;
use super::{Culprit, Triage, kmem};
use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::arch::Register;
use crate::arch::disasm::{self, Instruction, LONGEST};
use crate::commands::dis::{self, Operand};
use crate::commands::kmem::damage::Damage;
use crate::commands::locks::Blocked;
use crate::linux::Kernel;
use crate::linux::memory::freelists::{Finding, Wrong};
use crate::linux::registers::TaskRegisters;
use crate::text::{Screen, row};

/// Links of free lists that are followed: those of a machine with 6,000 tasks are 60,000.
const LINKS: usize = 1 << 20;
/// Findings that are told.
const SHOWN: usize = 3;

/// Every smashed list of free objects, and what each cache has. Nothing where the slab caches
/// are not known.
pub(super) fn damage(kernel: &Kernel) -> (Vec<Damage>, Vec<CacheSize>) {
    let Ok(slub) = kernel.memory().slub(kernel) else { return Default::default() };
    let mut links = LINKS;
    let (mut all, mut sizes) = (Vec::new(), Vec::new());
    for cache in &slub.caches {
        // A count that is off by one tells of a CPU that was stopped between two steps.
        let told = |f: &&Finding| !matches!(f.wrong, Wrong::Count { .. });
        let usage = slub.usage(kernel, cache, &mut links);
        let bytes = usage.slabs.and_then(|slabs| slabs.checked_mul(PAGE_SIZE << cache.order));
        sizes.extend(bytes.map(|bytes| CacheSize { cache: cache.name.clone(), bytes }));
        all.extend(usage.findings.iter().filter(told).map(|f| Damage::of(kernel, slub, cache, f)));
        if links == 0 || all.len() > kmem::damage::MANY {
            break;
        }
    }
    (all, sizes)
}

/// Where an exception in the kernel happened.
pub(super) struct Interrupted {
    pub(super) rip: u64,
    pub(super) regs: TaskRegisters,
    pub(super) instruction: Option<Instruction>,
}

impl Interrupted {
    /// The odd values that the instruction worked with. Of a register that is no part of an
    /// address anything may be said.
    pub(super) fn odd_operands(&self, kernel: &Kernel) -> Vec<Operand> {
        let all = self.instruction.as_ref().map(|found| dis::operands(kernel, &self.regs, found));
        let all = all.unwrap_or_default().into_iter();
        all.filter(|operand| operand.of_address && operand.note.is_some()).collect()
    }
}

impl Triage<'_> {
    /// The registers that the exception interrupted.
    pub(in crate::commands) fn registers(&self) -> Vec<(&'static str, VirtAddr)> {
        let Some(regs) = self.at_the_exception() else { return Vec::new() };
        let all = Register::of_frame().iter();
        all.filter_map(|r| Some((r.name(), VirtAddr(regs.get(*r)?)))).collect()
    }

    /// The instruction that the exception interrupted.
    pub(super) fn interrupted(&self) -> Option<Interrupted> {
        let regs = self.at_the_exception()?;
        let rip = regs.get(Register::Rip)?;
        let mut code = [0; LONGEST];
        let read = self.more.kernel.space().read(VirtAddr(rip), &mut code).ok();
        let instruction = read.and_then(|n| disasm::decode(code.get(..n)?, rip));
        Some(Interrupted { rip, regs, instruction })
    }

    /// Links of free lists as they were written over.
    pub(in crate::commands) fn smashed_links(&self) -> impl Iterator<Item = VirtAddr> {
        self.slab_damage.iter().filter_map(|d| d.stored)
    }

    /// Names of slab caches.
    pub(in crate::commands) fn damaged_caches(&self) -> impl Iterator<Item = String> {
        self.slab_damage.iter().map(|d| d.cache.clone())
    }

    /// The culprit with its offset, and its module.
    pub(in crate::commands) fn culprit_and_module(&self) -> (Option<String>, Option<String>) {
        let culprit = self.culprit.as_ref();
        (culprit.and_then(Culprit::place), culprit.and_then(|c| c.module).map(str::to_owned))
    }

    /// Letters of `taint`.
    pub(in crate::commands) fn taint(&self) -> &str {
        &self.taint
    }

    /// A row for each list that is smashed.
    pub(super) fn smashed(&self, screen: &mut Screen<'_>) -> io::Result<()> {
        if self.slab_damage.is_empty() {
            return Ok(());
        }
        row!(screen)?;
        row!(screen, "SLAB CACHES ARE DAMAGED (`kmem -s` has more)")?;
        for damage in self.slab_damage.iter().take(SHOWN) {
            row!(screen, "    {}, {}", damage.cache, damage.place)?;
            match (&damage.looks, damage.value) {
                (Some(looks), Some(value)) => row!(screen, "        a link leads to {value}: {looks}")?,
                _ => row!(screen, "        {}", damage.what)?,
            }
            match (&damage.object, &damage.before) {
                (Some(object), Some(before)) if damage.marks_at.is_none() => {
                    let text = before.letters();
                    row!(screen, "        in object {}; the one in front ends with {text:?}", object.at)?;
                }
                (Some(object), None) if damage.marks_at.is_none() => {
                    row!(screen, "        in object {}", object.at)?;
                }
                _ => {}
            }
            for (words, object) in [("it", &damage.object), ("the one in front", &damage.before)] {
                let owners = object.iter().flat_map(|object| &object.owners);
                for track in owners {
                    row!(screen, "        {words} was {track}")?;
                    let stack = track.in_a_row();
                    stack.map_or(Ok(()), |stack| row!(screen, "            {stack}"))?;
                }
            }
        }
        match self.slab_damage.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => row!(screen, "    ({more} more)"),
        }
    }

    /// A row for each task of a deadlock.
    pub(super) fn deadlocks(&self, screen: &mut Screen<'_>) -> io::Result<()> {
        let stuck: Vec<&Blocked> = self.locks.iter().filter(|b| b.is_stuck()).collect();
        for blocked in stuck.iter().take(SHOWN) {
            row!(screen, "    DEADLOCK: {}", blocked.in_a_row())?;
        }
        match stuck.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => row!(screen, "    ({more} more in deadlocks; `locks` has them)"),
        }
    }
}
