//! What a dumped kernel is read through: its memory, names, types and layouts.
//!
//! A [`View`] keeps nothing of what it reads. Whatever interprets structures of
//! the kernel (tasks, modules, the log ...) needs no more than this, and so can be
//! tested over a few words of made-up memory. What was read once is kept above
//! it, in [`Kernel`](super::Kernel).

use std::sync::Arc;

#[cfg(test)]
use super::layout::KernelVersion;
use super::layout::Layout;
use super::percpu::PerCpu;
use crate::addr::VirtAddr;
use crate::debuginfo::Types;
use crate::debuginfo::symbols::SymbolTable;
use crate::memory::AddressSpace;

/// A kernel's memory and what is known of the things in it.
pub struct View {
    space: Arc<dyn AddressSpace>,
    user_limit: u64,
    symbols: Arc<SymbolTable>,
    types: Arc<dyn Types>,
    layout: Layout,
    percpu: PerCpu,
}

impl View {
    /// The same kernel, read through another space.
    #[must_use]
    pub fn through(&self, space: Arc<dyn AddressSpace>) -> Self {
        Self {
            space,
            user_limit: self.user_limit,
            symbols: self.symbols.clone(),
            types: self.types.clone(),
            layout: self.layout.clone(),
            percpu: self.percpu.clone(),
        }
    }

    /// The view of `space`, where what lies below `user_limit` is not the kernel's.
    /// `Err` names a member that `types` lack and nothing works without.
    #[cfg(test)]
    pub(crate) fn new(
        space: Arc<dyn AddressSpace>,
        user_limit: u64,
        symbols: SymbolTable,
        types: Arc<dyn Types>,
        version: KernelVersion,
    ) -> Result<Self, String> {
        let layout = Layout::resolve(types.as_ref(), version)?;
        Ok(Self::with(space, user_limit, Arc::new(symbols), types, layout))
    }

    /// The view with a layout that may be [`Layout::unknown`].
    pub(super) fn with(
        space: Arc<dyn AddressSpace>,
        user_limit: u64,
        symbols: Arc<SymbolTable>,
        types: Arc<dyn Types>,
        layout: Layout,
    ) -> Self {
        let percpu = PerCpu::read(space.as_ref(), &symbols);
        Self { space, user_limit, symbols, types, layout, percpu }
    }

    /// The kernel's own address space.
    #[must_use]
    pub fn space(&self) -> &dyn AddressSpace {
        self.space.as_ref()
    }

    /// First address that is not a user's.
    #[must_use]
    pub fn user_limit(&self) -> u64 {
        self.user_limit
    }

    /// Symbols of the kernel image at run-time addresses (not those of modules).
    #[must_use]
    pub fn symbols(&self) -> &Arc<SymbolTable> {
        &self.symbols
    }

    /// Run-time address of a symbol.
    #[must_use]
    pub fn symbol(&self, name: &str) -> Option<VirtAddr> {
        self.symbols.by_name(name).map(|s| VirtAddr(s.address))
    }

    /// The kernel's types.
    #[must_use]
    pub fn types(&self) -> &dyn Types {
        self.types.as_ref()
    }

    /// Offsets of the members that corestub itself reads.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Per-CPU offsets and CPU masks.
    #[must_use]
    pub fn percpu(&self) -> &PerCpu {
        &self.percpu
    }

    /// `THREAD_SIZE`, the size of a kernel stack.
    #[must_use]
    pub fn thread_size(&self) -> u64 {
        // `union thread_union` left the debug info with 4.16; the linker script
        // says it too, under another name since 6.10.
        let by_symbols = || {
            [("__start_init_task", "__end_init_task"), ("__start_init_stack", "__end_init_stack")]
                .iter()
                .find_map(|(a, b)| self.symbol(b)?.0.checked_sub(self.symbol(a)?.0))
        };
        let plausible = |n: &u64| n.is_power_of_two() && (0x1000..=0x40000).contains(n);
        by_symbols().filter(plausible).or(self.layout.thread_size.filter(plausible)).unwrap_or(0x4000)
    }
}
