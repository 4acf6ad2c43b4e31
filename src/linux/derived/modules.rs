//! Members of `struct module`, told by what it says of the memory that it lies in.

use super::{Derived, kernel};
use crate::addr::VirtAddr;
use crate::arch::map;
use crate::bytes::{u32_at, u64_at};
use crate::debuginfo::symbols::SymbolTable;
use crate::memory::AddressSpace;

/// No `struct module` is larger.
const MODULE_MAX: usize = 1280;
/// enum state, the list, the name, in this order since the first version.
const LIST: u64 = 8;
const NAME: usize = 24;

/// One module, and the first bytes of its structure.
struct Sample<'a> {
    space: &'a dyn AddressSpace,
    at: u64,
    bytes: Vec<u8>,
}

impl Sample<'_> {
    fn half(&self, offset: usize) -> Option<u64> {
        u32_at(&self.bytes, offset).map(u64::from)
    }

    fn word(&self, offset: usize) -> Option<u64> {
        u64_at(&self.bytes, offset)
    }
}

pub(super) fn find(space: &dyn AddressSpace, symbols: &SymbolTable, out: &mut Derived) {
    let Some(head) = symbols.address("modules") else { return };
    let link = space.read_u64(VirtAddr(head)).ok().filter(|&at| at != head && kernel(at));
    let Some(at) = link.map(|link| link - LIST) else { return };
    let mut bytes = vec![0; MODULE_MAX];
    let Ok(read) = space.read(VirtAddr(at), &mut bytes) else { return };
    bytes.truncate(read);
    let module = Sample { space, at, bytes };
    if before_4_5(&module, out).or_else(|| since_4_5(&module, out)).is_some() {
        out.put("module", "state", 0, 4);
        out.put("module", "list", LIST, 16);
        out.put("module", "name", NAME as u64, 56);
    }
}

/// `module_init`, `module_core`, `init_size`, `core_size`, and the symbols.
fn before_4_5(module: &Sample<'_>, out: &mut Derived) -> Option<()> {
    let (half, word) = (|o| module.half(o), |o| module.word(o));
    let (at, base, size) = (NAME + 56..MODULE_MAX).step_by(8).find_map(|o| {
        let (base, size) = (word(o + 8)?, half(o + 20)?);
        let inside = base % 4096 == 0 && base >= map::KERNEL_MAP && module.at.wrapping_sub(base) < size;
        let freed = word(o) == Some(0) && half(o + 16) == Some(0);
        (inside && freed).then_some((o, base, size))
    })?;
    for (path, offset, size) in
        [("module_init", 0, 8), ("module_core", 8, 8), ("init_size", 16, 4), ("core_size", 20, 4)]
    {
        out.put("module", path, (at + offset) as u64, size);
    }
    // symtab, core_symtab, num_symtab, core_num_syms, strtab, core_strtab.
    let inside = |at: u64| at.wrapping_sub(base) < size;
    let table = (at..MODULE_MAX).step_by(8).find(|&o| {
        let twice = |o: usize| word(o).filter(|&at| inside(at)).is_some_and(|at| word(o + 8) == Some(at));
        twice(o) && twice(o + 24) && half(o + 16).is_some_and(|n| n > 0 && half(o + 20) == Some(n))
    });
    if let Some(at) = table {
        for (path, offset, size) in [("symtab", 0, 8), ("num_symtab", 16, 4), ("strtab", 24, 8)] {
            out.put("module", path, (at + offset) as u64, size);
        }
    }
    Some(())
}

/// `core_layout` of 4.5 (7523e4dc5057) to 6.3: base, size, and sizes of its parts, each of
/// which includes the ones before; then `kallsyms`, and the tables of ORC.
fn since_4_5(module: &Sample<'_>, out: &mut Derived) -> Option<()> {
    let (half, word) = (|o| module.half(o), |o| module.word(o));
    let (at, base, size, text) = (NAME + 56..MODULE_MAX).step_by(8).find_map(|o| {
        let (base, size, text, read_only) = (word(o)?, half(o + 8)?, half(o + 12)?, half(o + 16)?);
        let inside = base % 4096 == 0 && base >= map::KERNEL_MAP && module.at.wrapping_sub(base) < size;
        (inside && text > 0 && text <= read_only && read_only <= size).then_some((o, base, size, text))
    })?;
    out.put("module", "core_layout", at as u64, 8);
    out.put("module", "core_layout.base", at as u64, 8);
    out.put("module", "core_layout.size", at as u64 + 8, 4);
    let inside = |at: u64| at.wrapping_sub(base) < size;
    // A pointer to the tables that stay, which are the next member: symtab, num_symtab,
    // strtab, and since 5.2 (1c7651f43777) typetab.
    let table = (at..MODULE_MAX).step_by(8).find(|&o| {
        word(o) == Some(module.at.wrapping_add(o as u64 + 8))
            && word(o + 8).is_some_and(inside)
            && word(o + 24).is_some_and(inside)
    });
    if let Some(o) = table {
        out.put("module", "kallsyms", o as u64, 8);
        for (path, offset, size) in [("symtab", 0, 8), ("num_symtab", 8, 4), ("strtab", 16, 8)] {
            out.put("mod_kallsyms", path, offset, size);
        }
        if word(o + 32).is_some_and(inside) {
            out.put("mod_kallsyms", "typetab", 24, 8);
        }
    }
    // num_orcs, orc_unwind_ip, orc_unwind (4.14): places of code, counted from each number's own.
    let orc = (at..MODULE_MAX).step_by(8).find(|&o| {
        let (Some(count), Some(ips), Some(rows)) = (half(o), word(o + 8), word(o + 16)) else { return false };
        let fits = |at: u64, each: u64| inside(at) && at - base + count * each <= size;
        // Sorted by address, those of code that was freed with the module's start come first or last.
        let in_text = |row: u64| {
            let ip = ips.wrapping_add(row * 4);
            let rel = module.space.read_u32(VirtAddr(ip));
            rel.is_ok_and(|rel| ip.wrapping_add_signed(rel.cast_signed().into()).wrapping_sub(base) < text)
        };
        count > 0
            && fits(ips, 4)
            && fits(rows, 6)
            && (ips.abs_diff(rows) >= count * if ips < rows { 4 } else { 6 })
            && (in_text(0) || in_text(count - 1))
    });
    if let Some(o) = orc {
        for (path, offset, size) in
            [("arch.num_orcs", 0, 4), ("arch.orc_unwind_ip", 8, 8), ("arch.orc_unwind", 16, 8)]
        {
            out.put("module", path, (o + offset) as u64, size);
        }
    }
    Some(())
}
