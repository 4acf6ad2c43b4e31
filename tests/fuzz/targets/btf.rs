//! BTF, the questions asked of it, and the DWARF made from it.

use corestub::debuginfo::Types;
use corestub::debuginfo::btf::Btf;
use corestub::debuginfo::symbols::Builder;
use corestub::image::dwarf_types::{Input, dwarf};

pub fn run(bytes: &[u8]) {
    let Ok(btf) = Btf::parse(bytes.to_vec(), "fuzz") else { return };
    let _ = (btf.size_of("task_struct"), btf.field("task_struct", "thread.sp"), btf.enumerator("MOD_TEXT"));
    let mut symbols = Builder::new("fuzz");
    symbols.push(0xffff_ffff_8100_0000, 64, b'T', b"start_kernel");
    let text = 0xffff_ffff_8100_0000..0xffff_ffff_8200_0000;
    let symbols = symbols.finish();
    let _ = dwarf(&Input { btf: &btf, symbols: &symbols, text: &text, signal_ranges: &[], name: "vmlinux" });
}

/// The smallest that is whole: a header, an integer, its name.
pub fn seeds() -> Vec<Vec<u8>> {
    let strings = b"\0int\0task_struct\0sp\0";
    let types: [u32; 4 + 3 + 3] = [1, 1 << 24, 4, 32, 5, 4 << 24 | 1, 8, 17, 1, 0];
    let types = types.map(u32::to_le_bytes).concat();
    let header = [0xeb9f | 1 << 16, 24, 0, types.len() as u32, types.len() as u32, strings.len() as u32];
    vec![[header.map(u32::to_le_bytes).concat(), types, strings.to_vec()].concat()]
}
