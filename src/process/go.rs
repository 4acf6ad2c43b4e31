//! Go's calls into C: these run on the thread's own stack, and the goroutine goes on on its.
//!
//! `runtime.asmcgocall` (`runtime/asm_amd64.s`) keeps on the thread's stack the goroutine
//! (`struct g` begins with `stack.lo` and `stack.hi`) and how deep below `stack.hi` its
//! stack pointer was.

use super::Process;
use super::no_rules::is_behind_a_call;
use crate::addr::VirtAddr;
use crate::arch::Register::{Rip, Rsp};
use crate::arch::Registers;
use crate::memory::AddressSpace;

/// Where the goroutine and the depth lie: until Go 1.20, and since.
const KEPT: [(u64, u64); 2] = [(48, 40), (8, 0)];

/// The caller of `runtime.asmcgocall`, if that is what `lookup` is in.
pub(super) fn caller_of_c(process: &Process, regs: &Registers, lookup: u64) -> Option<Registers> {
    let image = process.image_at(lookup)?;
    image.file.as_ref()?.served()?.elf.section(".go.buildinfo")?;
    let (name, _) = image.symbol(process, lookup)?;
    if !name.starts_with("runtime.asmcgocall") {
        return None;
    }
    let word = |at: u64| process.memory().read_u64(VirtAddr(at)).ok();
    let sp = regs.get(Rsp)?;
    KEPT.into_iter().find_map(|(goroutine, depth)| {
        let goroutine = word(sp.checked_add(goroutine)?)?;
        let (low, high) = (word(goroutine)?, word(goroutine.checked_add(8)?)?);
        let at = high.checked_sub(word(sp.checked_add(depth)?)?).filter(|at| (low..high).contains(at))?;
        let ra = word(at).filter(|&ra| is_behind_a_call(process, ra))?;
        let mut next = Registers::default();
        next.set(Rip, Some(ra));
        next.set(Rsp, at.checked_add(8));
        Some(next)
    })
}
