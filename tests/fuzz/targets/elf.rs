//! A vmlinux or module file, with its symbols and DWARF types.

use std::sync::Arc;

use corestub::bytes::source::InMemory;
use corestub::debuginfo::Types;
use corestub::debuginfo::dwarf::DwarfTypes;
use corestub::debuginfo::elf::Vmlinux;

pub fn run(bytes: &[u8]) {
    let Ok(file) = Vmlinux::from_source(Arc::new(InMemory::new("vmlinux", bytes.to_vec()))) else { return };
    let _ = (file.symbols(0x1000_0000), file.first_load_vaddr(), file.section_data(".BTF"));
    if let Ok(types) = DwarfTypes::new(Arc::new(file)) {
        let _ = (types.size_of("task_struct"), types.field("task_struct", "thread.sp"));
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    vec![
        super::fixture("root/tmp/corestub-fixtures/plain"),
        super::fixture("root/tmp/corestub-fixtures/threads"),
    ]
}
