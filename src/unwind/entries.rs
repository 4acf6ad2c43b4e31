//! Entries into the kernel, as stacks of kernels before 4.9 show them.
//!
//! An exception's stub (`page_fault`, `general_protection`, `nmi`, ...) saves a whole
//! `struct pt_regs` and calls its handler: it lies right above the return address. An
//! interrupt's (`common_interrupt`, `apic_timer_interrupt`, ...) may change stacks in
//! between, and leaves in that place a pointer to the saved rbp within the `pt_regs`.
//! Both are in sections of their own, and what is taken for a `pt_regs` must look like
//! one: what no entry can have saved is not believed. Source:
//! `arch/x86/kernel/entry_64.S`.

use std::ops::Range;

use super::memory::StackMemory;
use super::{Frame, FrameKind};
use crate::arch::Register::{self, Cs, Eflags, Rbp, Rip, Rsp, Ss};
use crate::arch::pt_regs;
use crate::arch::stub::Stub;
use crate::linux::{Kernel, View};

/// `__KERNEL_CS`, `__USER_CS`, `__USER32_CS`.
const CODE: [u64; 3] = [0x10, 0x33, 0x23];
/// The flag that is always set, and those that never are.
const FLAGS: (u64, u64) = (0x2, !0x3f_7fd7);

/// The entry code of one kernel.
pub(super) struct Entries<'k>(&'k [(Range<u64>, Stub)]);

impl<'k> Entries<'k> {
    pub(super) fn of(kernel: &'k Kernel) -> Self {
        Self(kernel.stubs())
    }

    /// Whether `frame` is one of entry code.
    pub(super) fn contain(&self, frame: &Frame) -> bool {
        let pc = frame.lookup_pc();
        let after = self.0.partition_point(|(range, _)| range.start <= pc);
        after.checked_sub(1).and_then(|i| self.0.get(i)).is_some_and(|(range, _)| range.contains(&pc))
    }

    /// Where the `pt_regs` lie that `frame`, if it is one of entry code, saved.
    pub(super) fn saved_by(
        &self,
        kernel: &Kernel,
        frame: &Frame,
        memory: &mut StackMemory<'_>,
    ) -> Option<u64> {
        if frame.kind != FrameKind::Call || !self.contain(frame) {
            return None;
        }
        if is_pt_regs(kernel, frame.sp, memory) {
            return Some(frame.sp);
        }
        // Since 4.3 (ff467594f2a4) it is a pointer to all of the pt_regs.
        let pointer = memory.word(frame.sp)?;
        let whole = kernel.layout().version.interrupts_save_all();
        let at = if whole { pointer } else { pointer.checked_sub(pt_regs::offset(Rbp))? };
        is_pt_regs(kernel, at, memory).then_some(at)
    }
}

/// Whether the words at `at` can be what an entry saved.
fn is_pt_regs(view: &View, at: u64, memory: &mut StackMemory<'_>) -> bool {
    let mut words = |register: Register| memory.word(at.checked_add(pt_regs::offset(register))?);
    let (Some(ip), Some(cs), Some(flags), Some(sp), Some(ss)) =
        (words(Rip), words(Cs), words(Eflags), words(Rsp), words(Ss))
    else {
        return false;
    };
    let user = cs & 3 == 3;
    CODE.contains(&cs)
        && (flags & FLAGS.0 != 0 && flags & FLAGS.1 == 0)
        && if user { ss & 3 == 3 && ip < view.user_limit() } else { ss <= 0x18 && sp >= view.user_limit() }
}
