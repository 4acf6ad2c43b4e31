//! ORC tables of each layout, and the .debug_frame made from them.

use corestub::debuginfo::orc::{Layout, OrcTable};
use corestub::debuginfo::symbols::Builder;
use corestub::image::{Fdes, cfi};

pub fn run(bytes: &[u8]) {
    let rows = bytes.len() / 10;
    let (ip, rest) = bytes.split_at(rows * 4);
    let entries = &rest[..rows * 6];
    let mut symbols = Builder::new("fuzz");
    for offset in [0, 0x18, 0x40, 0x1000] {
        symbols.push(0xffff_ffff_8300_0000 + offset, 0, b't', b"function");
    }
    let symbols = symbols.finish();
    for layout in [Layout::V4_14, Layout::V6_3, Layout::V6_4, Layout::V7_1] {
        let base = 0xffff_ffff_8300_0000;
        if let Ok(orc) = OrcTable::parse(layout, ip, base, entries, 0xffff_ffff_8400_0000, "fuzz") {
            let _ = orc.lookup(base);
            let _ = cfi::frames(&orc, &symbols, &[], Fdes::Long);
            let _ = cfi::frames(&orc, &symbols, &[], Fdes::PerFunction);
        }
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let ip = (0..8).flat_map(|i| (i * 16i32).to_le_bytes());
    vec![ip.chain((0..8u8).flat_map(|i| [8 + i, 0, 0xf0, 0xff, 0x25, i])).collect()]
}
