//! Per-CPU memory and the CPUs there are.
//!
//! A per-CPU variable of CPU n lies at its symbol plus `__per_cpu_offset[n]`
//! (`arch/x86/include/asm/percpu.h`). Until 6.15 the symbols are small numbers
//! that KASLR does not move; later they are kernel addresses like any other.

use crate::addr::VirtAddr;
use crate::debuginfo::symbols::SymbolTable;
use crate::memory::AddressSpace;

/// Most CPUs that are believed (`NR_CPUS` of distributions is at most 8192).
const MAX_CPUS: u32 = 8192;

/// Offsets and masks.
#[derive(Debug, Clone, Default)]
pub struct PerCpu {
    offsets: Vec<u64>,
    online: Vec<u32>,
}

impl PerCpu {
    /// Reads `nr_cpu_ids`, `__per_cpu_offset` and `__cpu_online_mask`.
    pub(super) fn read(space: &dyn AddressSpace, symbols: &SymbolTable) -> Self {
        let at = |name: &str| symbols.by_name(name).map(|s| VirtAddr(s.address));
        let ids = at("nr_cpu_ids").and_then(|a| space.read_u32(a).ok()).unwrap_or(1).clamp(1, MAX_CPUS);
        let word =
            |name: &str, i: u32| at(name)?.checked_add(u64::from(i) * 8).and_then(|a| space.read_u64(a).ok());
        let offsets = (0..ids).map_while(|i| word("__per_cpu_offset", i)).collect();
        // cpu_online_bits until 4.4, then __cpu_online_mask.
        let mask = ["__cpu_online_mask", "cpu_online_bits"].into_iter().find(|n| at(n).is_some());
        let online =
            |cpu: u32| mask.and_then(|m| word(m, cpu / 64)).is_none_or(|bits| bits >> (cpu % 64) & 1 != 0);
        Self { online: (0..ids).filter(|&cpu| online(cpu)).collect(), offsets }
    }

    /// Where CPU `cpu`'s copy of the variable with this symbol address lies.
    #[must_use]
    pub fn address(&self, symbol: VirtAddr, cpu: u32) -> Option<VirtAddr> {
        self.offset(cpu).map(|offset| VirtAddr(symbol.0.wrapping_add(offset)))
    }

    /// `__per_cpu_offset[cpu]`.
    #[must_use]
    pub fn offset(&self, cpu: u32) -> Option<u64> {
        self.offsets.get(usize::try_from(cpu).ok()?).copied()
    }

    /// The CPUs that were online, ascending.
    #[must_use]
    pub fn online(&self) -> &[u32] {
        &self.online
    }

    /// Number of CPU ids, online or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether nothing is known of per-CPU memory.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }
}
