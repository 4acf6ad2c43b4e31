//! A vmcore of any format: opened, described, and read at both ends.
#![no_main]

use corestub::addr::PhysAddr;
use corestub::dump::{PhysicalMemory, Vmcore};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let path = std::env::temp_dir().join(format!("corestub-fuzz-{}", std::process::id()));
    if std::fs::write(&path, bytes).is_err() {
        return;
    }
    if let Ok(dump) = Vmcore::open(&[path]) {
        let mut page = [0; 4096];
        for (start, len) in dump.physical_ranges().into_iter().take(16) {
            let _ = dump.read_phys(start, &mut page);
            let _ = dump.read_phys(PhysAddr(start.0.saturating_add(len / 2)), &mut page);
        }
        let _ = (dump.format(), dump.is_partial(), dump.incomplete());
    }
});
