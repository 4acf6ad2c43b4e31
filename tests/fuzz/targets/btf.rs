//! BTF, the questions asked of it, and the DWARF made from it.
#![no_main]

use corestub::debuginfo::Types;
use corestub::debuginfo::btf::Btf;
use corestub::debuginfo::symbols::Builder;
use corestub::image::dwarf_types::{Input, dwarf};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(btf) = Btf::parse(bytes.to_vec(), "fuzz") else { return };
    let _ = (btf.size_of("task_struct"), btf.field("task_struct", "thread.sp"), btf.enumerator("MOD_TEXT"));
    let mut symbols = Builder::new("fuzz");
    symbols.push(0xffff_ffff_8100_0000, 64, b'T', b"start_kernel");
    let text = 0xffff_ffff_8100_0000..0xffff_ffff_8200_0000;
    let symbols = symbols.finish();
    let _ = dwarf(&Input { btf: &btf, symbols: &symbols, text: &text, signal_ranges: &[], name: "vmlinux" });
});
