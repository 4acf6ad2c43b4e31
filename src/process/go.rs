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
use crate::text::printable;

/// What only programs of Go have.
const SECTION: &str = ".go.buildinfo";
/// Where the goroutine and the depth lie: until Go 1.20, and since.
const KEPT: [(u64, u64); 2] = [(48, 40), (8, 0)];

/// The version of Go that the program is built with (1.18 and later write it into the file itself:
/// `debug/buildinfo`), or nothing where it is no program of Go. Before that it is an empty text.
#[must_use]
pub fn version(process: &Process) -> Option<String> {
    const MAGIC: &[u8] = b"\xff Go buildinf:";
    /// Flags behind the magic and the size of a pointer: the texts stand in line.
    const INLINE: u8 = 2;
    let file = process.program()?.file.as_ref()?.served()?;
    let raw = file.elf.section_data(SECTION).ok()??;
    let rest = raw.strip_prefix(MAGIC)?;
    let inline = rest.get(1).is_some_and(|flags| flags & INLINE != 0);
    // At 32; its length is less than 128, and so one byte.
    let text = raw.get(32).filter(|_| inline).and_then(|&len| raw.get(33..33 + usize::from(len & 0x7f)));
    Some(printable(&String::from_utf8_lossy(text.unwrap_or_default())).into_owned())
}

/// The caller of `runtime.asmcgocall`, if that is what `lookup` is in.
pub(super) fn caller_of_c(process: &Process, regs: &Registers, lookup: u64) -> Option<Registers> {
    let image = process.image_at(lookup)?;
    image.file.as_ref()?.served()?.elf.section(SECTION)?;
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
