//! Notes of a dump, and the text of VMCOREINFO.

use corestub::dump::notes::Notes;
use corestub::dump::vmcoreinfo::VmcoreInfo;

pub fn run(bytes: &[u8]) {
    let _ = Notes::parse(bytes);
    let info = VmcoreInfo::parse(bytes);
    let _ = (info.symbol("_stext"), info.number("phys_base"), info.build_id(), info.kaslr_offset());
}

pub fn seeds() -> Vec<Vec<u8>> {
    let dump = super::fixture("k6.1-zstd.kdump");
    let at = dump.windows(10).position(|w| w == b"OSRELEASE=").expect("VMCOREINFO");
    vec![dump[at..at + 2048].to_vec(), dump[at - 0x400..at + 0x400].to_vec()]
}
