//! Places in code that the kernel rewrites while it runs.
//!
//! | what | where it is told | source |
//! |---|---|---|
//! | jump labels | `__start___jump_table`, `module.jump_entries` | `include/linux/jump_label.h` |
//! | static calls | `__start_static_call_sites`, `module.static_call_sites` | `include/linux/static_call_types.h` |
//! | kprobes | `kprobe_table` | `kernel/kprobes.c` |
//! | ftrace | the first instruction of a function | `arch/x86/kernel/ftrace.c` |
//!
//! Alternatives are told nowhere: the kernel frees their table when it has booted.

use std::collections::HashMap;

use super::list::List;
use super::object::Object;
use super::{Kernel, View};
use crate::addr::VirtAddr;
use crate::arch::disasm;
use crate::bytes::{u32_at, u64_at};
use crate::debuginfo::Field;

/// Bytes of one table; a distribution's kernel has 16,000 jump labels of 16 bytes.
const MAX_TABLE: u64 = 16 << 20;
/// Entries of a module's table.
const MAX_ENTRIES: u64 = 1 << 16;
/// `KPROBE_TABLE_SIZE`, and probes in one of its lists.
const PROBE_LISTS: u64 = 64;
const MAX_PROBES: usize = 4096;

/// Where code may change, and by what.
pub(crate) struct Sites {
    jumps: HashMap<u64, u64>,
    calls: HashMap<u64, u64>,
    probes: Vec<u64>,
}

impl Sites {
    /// Reads the tables of the kernel and its modules.
    #[must_use]
    pub(crate) fn read(kernel: &Kernel) -> Self {
        let mut sites = Self { jumps: HashMap::new(), calls: HashMap::new(), probes: probes(kernel) };
        let between = |start: &str, stop: &str| {
            let (start, stop) = (kernel.symbol(start)?, kernel.symbol(stop)?);
            Some((start, stop.0.checked_sub(start.0).filter(|len| *len <= MAX_TABLE)?))
        };
        let of_modules = |table: &str, count: &str, entry: &str| -> Vec<(VirtAddr, u64)> {
            let size = kernel.types().size_of(entry).unwrap_or(0);
            let of = |m: &super::Module| {
                let module = Object::new(kernel, "module", m.addr);
                let count = module.number(count).filter(|n| *n <= MAX_ENTRIES)?;
                Some((module.pointer(table)?, count * size))
            };
            kernel.modules().iter().filter_map(of).collect()
        };
        let jumps = between("__start___jump_table", "__stop___jump_table").into_iter();
        for (at, len) in jumps.chain(of_modules("jump_entries", "num_jump_entries", "jump_entry")) {
            relative(kernel, "jump_entry", ["code", "key"], at, len, &mut sites.jumps);
        }
        let calls = between("__start_static_call_sites", "__stop_static_call_sites").into_iter();
        for (at, len) in
            calls.chain(of_modules("static_call_sites", "num_static_call_sites", "static_call_site"))
        {
            relative(kernel, "static_call_site", ["addr", "key"], at, len, &mut sites.calls);
        }
        sites
    }

    /// What may rewrite the instruction at `at`, which is `code`, `offset` bytes into its
    /// function. An int3 `behind_the_end` of code fills it up.
    #[must_use]
    pub(crate) fn at(
        &self,
        kernel: &Kernel,
        at: u64,
        code: &[u8],
        offset: u64,
        behind_the_end: bool,
    ) -> Option<String> {
        let named = |key: u64| kernel.name_at(VirtAddr(key)).unwrap_or_else(|| format!("{key:#x}"));
        if let Some(key) = self.jumps.get(&at) {
            let state = if code.first() == Some(&0xeb) || code.first() == Some(&0xe9) {
                "jumps"
            } else {
                "does not jump"
            };
            return Some(format!("jump label {}: {state}", named(*key)));
        }
        if let Some(key) = self.calls.get(&at) {
            let name = named(*key);
            return Some(format!("static call {}", name.strip_prefix("__SCK__").unwrap_or(&name)));
        }
        if self.probes.contains(&at) {
            return Some("kprobe".to_owned());
        }
        if code.first() == Some(&0xcc) && !behind_the_end {
            return Some("int3: a probe, or code that was being rewritten".to_owned());
        }
        // endbr64 may stand in front.
        let first = offset == 0 || offset == 4;
        match code.first() {
            Some(0xe8) if first => Some("ftrace: on".to_owned()),
            _ if first && disasm::is_site(code) => Some("ftrace: off".to_owned()),
            _ => None,
        }
    }
}

/// A table of places and keys, each stored as its distance from where it stands (before
/// 4.19 jump labels were stored as they are). The two lowest bits of a key are flags.
fn relative(
    view: &View,
    entry: &str,
    [place, key]: [&str; 2],
    at: VirtAddr,
    len: u64,
    to: &mut HashMap<u64, u64>,
) -> Option<()> {
    let types = view.types();
    let size = usize::try_from(types.size_of(entry).filter(|n| (8..=64).contains(n))?).ok()?;
    let (place, key) = (types.field(entry, place)?, types.field(entry, key)?);
    let bytes = view.space().read_vec(at, usize::try_from(len).ok()?).ok()?;
    let is_relative = place.size == 4;
    for (i, one) in bytes.chunks_exact(size).enumerate() {
        let base = at.0.wrapping_add((i * size) as u64);
        let read = |field: Field| {
            let offset = usize::try_from(field.offset).ok()?;
            let value = match field.size {
                4 => i64::from(u32_at(one, offset)?.cast_signed()).cast_unsigned(),
                _ => u64_at(one, offset)?,
            };
            Some(if is_relative { base.wrapping_add(field.offset).wrapping_add(value) } else { value })
        };
        if let (Some(place), Some(key)) = (read(place), read(key)) {
            to.insert(place, key & !3);
        }
    }
    Some(())
}

/// The addresses that have a kprobe.
fn probes(view: &View) -> Vec<u64> {
    let (Some(table), Some(link)) = (view.symbol("kprobe_table"), view.types().field("kprobe", "hlist"))
    else {
        return Vec::new();
    };
    let heads = (0..PROBE_LISTS).filter_map(|i| table.checked_add(i * 8));
    let probes = heads.flat_map(|head| List::chain(view, head, link.offset, MAX_PROBES));
    probes.filter_map(|at| Object::new(view, "kprobe", at).number("addr")).take(MAX_PROBES).collect()
}
