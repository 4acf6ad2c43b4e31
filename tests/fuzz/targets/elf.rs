//! A vmlinux or module file, with its symbols and DWARF types.
#![no_main]

use std::sync::Arc;

use corestub::debuginfo::Types;
use corestub::debuginfo::dwarf::DwarfTypes;
use corestub::debuginfo::elf::Vmlinux;
use corestub::bytes::source::InMemory;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = Vmlinux::from_source(Arc::new(InMemory::new("vmlinux", bytes.to_vec()))) else { return };
    let _ = (file.symbols(0x1000_0000), file.first_load_vaddr(), file.section_data(".BTF"));
    if let Ok(types) = DwarfTypes::new(Arc::new(file)) {
        let _ = (types.size_of("task_struct"), types.field("task_struct", "thread.sp"));
    }
});
