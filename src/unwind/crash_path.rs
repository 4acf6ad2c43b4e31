//! The frames above those at which the dump's registers begin.
//!
//! A crashing kernel saves for each CPU the registers of the code that was
//! interrupted, and then goes on: into `machine_kexec`, or on other CPUs into the
//! handler of the NMI that stopped them. How the CPU got there (the exception's
//! entry, its registers on the stack) is still below. Such a path is taken for
//! real only if walking it leads to the very frame that the registers name.

use super::{Frame, Start, Trace, walk};
use crate::addr::VirtAddr;
use crate::arch::Register;
use crate::bytes::u64_at;
use crate::linux::registers::{self, Source};
use crate::linux::stacks::{self, Kind};
use crate::linux::{Kernel, Task};

/// Where a CPU of a crashing kernel ends: the panicking one, and those it stops
/// (`arch/x86/kernel/crash.c`, `arch/x86/kernel/reboot.c`). The third has returned to the
/// second, where that is a function of its own.
const ENDS: [&str; 3] = ["machine_kexec", "crash_nmi_callback", "kdump_nmi_callback"];
/// Return addresses that are tried on one stack.
const TRIES: usize = 64;

pub(super) fn find(kernel: &Kernel, task: &Task, known: &Trace) -> Option<Trace> {
    let regs = registers::of(kernel, task);
    if !task.on_cpu || !matches!(regs.source, Source::CrashNote | Source::PrStatusByStack) {
        return None;
    }
    let ends = ENDS.iter().filter_map(|name| kernel.symbols().by_name(name));
    let mut ends = ends.map(|s| (s.address, s.address.saturating_add(s.size)));
    ends.find_map(|end| leading_from(kernel, task, known, end))
}

/// The path from within the function `end`.
fn leading_from(kernel: &Kernel, task: &Task, known: &Trace, end: (u64, u64)) -> Option<Trace> {
    let of_cpu = kernel.stacks().all().iter().filter(|s| s.cpu == task.cpu && s.kind != Kind::Entry);
    for stack in stacks::of_task(kernel, task).iter().chain(of_cpu) {
        let len = usize::try_from(stack.range.end - stack.range.start).ok()?.min(1 << 18);
        let mut bytes = vec![0; len];
        let read = kernel.space().read(VirtAddr(stack.range.start), &mut bytes).unwrap_or(0);
        let slots = (0..read / 8).filter_map(|i| Some((i, u64_at(&bytes, i * 8)?)));
        let ends_at = |pc: u64| end.0 < pc && pc <= end.1;
        for (i, pc) in slots.filter(|&(_, pc)| ends_at(pc)).take(TRIES) {
            let sp = stack.range.start + (i as u64 + 1) * 8;
            // Where rbp leads the walk, the function that was called pushed it: first of
            // all, or behind rbx (relocate_kernel).
            for pushed in pushed_rbp(kernel, &bytes, i) {
                let regs = pushed.map(|rbp| (Register::Rbp, rbp)).into_iter().collect();
                let trace = walk(kernel, task, &Start { pc, sp, regs, exact: false });
                if leads_to(&trace, known) {
                    return Some(trace);
                }
            }
        }
    }
    None
}

/// The values that rbp may have had in the caller whose return address is word `i`.
fn pushed_rbp(kernel: &Kernel, stack: &[u8], i: usize) -> Vec<Option<u64>> {
    if kernel.orc().of_kernel().is_some() {
        return vec![None];
    }
    (1..=2).map(|below| u64_at(stack, i.checked_sub(below)? * 8)).collect()
}

/// Whether `trace` comes to the frames of `known`.
fn leads_to(trace: &Trace, known: &Trace) -> bool {
    if trace.frames.len() <= known.frames.len() {
        return false;
    }
    // In a panic the registers are those of __crash_kexec itself, whose pc is
    // another one by the time it calls on; its callers are the same.
    let same = |skip: usize| {
        let known: Vec<&Frame> = known.frames.iter().skip(skip).collect();
        let from = trace.frames.len().saturating_sub(known.len());
        !known.is_empty()
            && trace.frames.iter().skip(from).zip(known).all(|(a, b)| (a.pc, a.sp) == (b.pc, b.sp))
    };
    same(0) || same(1)
}
