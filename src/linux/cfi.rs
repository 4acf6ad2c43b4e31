//! The compiler's unwind rules of a dumped kernel, where its vmlinux and its modules'
//! files with DWARF are found. ORC has holes (code that objtool did not follow, functions
//! marked as not standard), and these tell of them; assembly they describe badly.

use std::sync::OnceLock;

use super::Kernel;
use crate::addr::VirtAddr;
use crate::arch::Registers;
use crate::debuginfo::cfi::{FrameRules, Step};
use crate::debuginfo::elf::Vmlinux;

/// The rules, each file's read at first use.
#[derive(Default)]
pub(super) struct Rules {
    kernel: OnceLock<Option<FrameRules>>,
    modules: OnceLock<Vec<OnceLock<Option<FrameRules>>>>,
}

impl Kernel {
    /// The registers of the caller of the function around `pc`, if the rules of the
    /// compiler tell them; those of an exception's frame do not count.
    pub(crate) fn caller_by_cfi(
        &self,
        regs: &Registers,
        pc: u64,
        word: &mut dyn FnMut(u64) -> Option<u64>,
    ) -> Option<Registers> {
        let module = self.modules().iter().position(|m| m.contains(VirtAddr(pc)));
        let step = match module {
            // A module's were relocated to where it was loaded.
            Some(index) => self.rules_of_module(index)?.step(regs, pc, word),
            None => self.rules_of_kernel()?.step(regs, pc.wrapping_sub(self.kaslr_offset()), word),
        };
        match step {
            Step::To(next, false) => Some(next),
            _ => None,
        }
    }

    fn rules_of_kernel(&self) -> Option<&FrameRules> {
        let read = || {
            // Before others are looked for.
            let given = self.vmlinux().and_then(|file| FrameRules::read(file, &|_| 0));
            given.or_else(|| FrameRules::read(self.debug_files().vmlinux.as_ref()?, &|_| 0))
        };
        self.cfi().kernel.get_or_init(read).as_ref()
    }

    fn rules_of_module(&self, index: usize) -> Option<&FrameRules> {
        let all = self.cfi().modules.get_or_init(|| self.modules().iter().map(|_| OnceLock::new()).collect());
        let read = || {
            let path = self.debug_files().modules.get(index)?.as_ref()?;
            let module = self.modules().get(index)?;
            let file = Vmlinux::open(path).inspect_err(|e| tracing::warn!("{e}")).ok()?;
            FrameRules::read(&file, &|section| module.section(&section.name).map_or(0, |at| at.0))
        };
        all.get(index)?.get_or_init(read).as_ref()
    }
}
