//! Notes of a dump, and the text of VMCOREINFO.
#![no_main]

use corestub::dump::notes::Notes;
use corestub::dump::vmcoreinfo::VmcoreInfo;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = Notes::parse(bytes);
    let info = VmcoreInfo::parse(bytes);
    let _ = (info.symbol("_stext"), info.number("phys_base"), info.build_id(), info.kaslr_offset());
});
