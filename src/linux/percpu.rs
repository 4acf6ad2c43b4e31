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
    present: Vec<u32>,
}

impl PerCpu {
    /// Reads `nr_cpu_ids`, `__per_cpu_offset` and `__cpu_online_mask`.
    pub(super) fn read(space: &dyn AddressSpace, symbols: &SymbolTable) -> Self {
        let at = |name: &str| symbols.by_name(name).map(|s| VirtAddr(s.address));
        let Some(table) = symbols.by_name("__per_cpu_offset") else {
            if symbols.lacks_names() {
                return Self::default();
            }
            // Without CONFIG_SMP there is one copy, where its symbol says.
            return Self { offsets: vec![0], online: vec![0], present: vec![0] };
        };
        // Kernels for a fixed number of CPUs have no variable for it
        // (CONFIG_FORCE_NR_CPUS, 6.1): then the table has that many places.
        let places = u32::try_from(table.size / 8).unwrap_or(1);
        let word =
            |name: &str, i: u32| at(name)?.checked_add(u64::from(i) * 8).and_then(|a| space.read_u64(a).ok());
        let offset = |i| word("__per_cpu_offset", i);
        // Where there can be no CPU all places have one value (`BOOT_PERCPU_OFFSET`).
        let told = || {
            let none = offset(places.checked_sub(2)?).filter(|none| offset(places - 1) == Some(*none))?;
            let used = (0..places.min(MAX_CPUS)).take_while(|&i| offset(i).is_some_and(|o| o != none));
            u32::try_from(used.count()).ok().filter(|&n| n > 0)
        };
        let known = at("nr_cpu_ids").and_then(|a| space.read_u32(a).ok()).or_else(told);
        let ids = known.unwrap_or(places).clamp(1, MAX_CPUS);
        let offsets = (0..ids).map_while(offset).collect();
        // cpu_online_bits until 4.4, then __cpu_online_mask.
        let mask = ["__cpu_online_mask", "cpu_online_bits"].into_iter().find(|n| at(n).is_some());
        let online = |cpu: u32| match mask.and_then(|m| word(m, cpu / 64)) {
            Some(bits) => bits >> (cpu % 64) & 1 != 0,
            None => known.is_some() || cpu == 0,
        };
        // The same names.
        let mask = ["__cpu_present_mask", "cpu_present_bits"].into_iter().find(|n| at(n).is_some());
        let present =
            |cpu: u32| mask.and_then(|m| word(m, cpu / 64)).is_some_and(|b| b >> (cpu % 64) & 1 != 0);
        let all = |there: &dyn Fn(u32) -> bool| (0..ids).filter(|&cpu| there(cpu)).collect();
        Self { online: all(&online), present: all(&|cpu| online(cpu) || present(cpu)), offsets }
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

    /// The CPUs that the machine has, ascending: those that were online, and those that
    /// were not, or no longer: a panic without a kdump kernel stops all but one.
    #[must_use]
    pub fn present(&self) -> &[u32] {
        &self.present
    }

    /// Number of CPU ids, online or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether there can be a CPU of this number.
    #[must_use]
    pub fn can_be(&self, cpu: u32) -> bool {
        let known = u32::try_from(self.len()).unwrap_or(MAX_CPUS);
        cpu < if self.is_empty() { MAX_CPUS } else { known }
    }

    /// Whether nothing is known of per-CPU memory.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debuginfo::symbols::Builder;
    use crate::error::ReadFault;

    /// Words by address.
    struct Words(&'static [(u64, u64)]);

    impl AddressSpace for Words {
        fn read_run(&self, addr: VirtAddr, buf: &mut [u8]) -> Result<usize, ReadFault> {
            let fault = ReadFault::NotMapped { addr: addr.0, level: 1 };
            let word = self.0.iter().find(|w| w.0 == addr.0).ok_or(fault)?.1.to_le_bytes();
            let len = buf.len().min(8);
            buf[..len].copy_from_slice(&word[..len]);
            Ok(len)
        }
    }

    fn read(words: &'static [(u64, u64)], symbols: &[(u64, &str)]) -> PerCpu {
        let mut table = Builder::new("test");
        for (address, name) in symbols {
            table.push(*address, 32, b'D', name.as_bytes());
        }
        PerCpu::read(&Words(words), &table.finish())
    }

    #[test]
    fn a_kernel_for_one_cpu_has_its_variables_where_the_symbols_say() {
        let percpu = read(&[], &[(0x500, "runqueues")]);
        assert_eq!((percpu.online(), percpu.len()), (&[0][..], 1));
        assert_eq!(percpu.address(VirtAddr(0x500), 0), Some(VirtAddr(0x500)));
    }

    #[test]
    fn without_nr_cpu_ids_the_table_tells() {
        const WORDS: &[(u64, u64)] =
            &[(0x100, 10), (0x108, 20), (0x110, 30), (0x118, 40), (0x200, 0b101), (0x208, 0b11)];
        let symbols = [(0x100, "__per_cpu_offset"), (0x200, "__cpu_online_mask")];
        let percpu = read(WORDS, &symbols);
        assert_eq!((percpu.online(), percpu.len()), (&[0, 2][..], 4));
        assert_eq!(percpu.present(), percpu.online());
        let present = read(WORDS, &[&symbols[..], &[(0x208, "__cpu_present_mask")]].concat());
        assert_eq!((present.online(), present.present()), (&[0, 2][..], &[0, 1, 2][..]));
        assert_eq!(percpu.address(VirtAddr(1), 2), Some(VirtAddr(31)));
        // Its places that no CPU has are alike.
        const UNUSED: &[(u64, u64)] = &[(0x100, 10), (0x108, 20), (0x110, 7), (0x118, 7)];
        assert_eq!(read(UNUSED, &symbols).online(), [0, 1]);
        // What is known of neither is not made up.
        assert_eq!(read(WORDS, &symbols[..1]).online(), [0]);
    }
}
