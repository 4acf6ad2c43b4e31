//! A vmcore of any format: opened, described, and read at both ends.

use std::path::Path;

use corestub::addr::PhysAddr;
use corestub::dump::{PhysicalMemory, Vmcore};

pub fn run(bytes: &[u8]) {
    let path = super::scratch("vmcore");
    if std::fs::write(&path, bytes).is_ok() {
        read(&path);
    }
}

/// What can be asked of any.
pub fn read(path: &Path) {
    if let Ok(dump) = Vmcore::open(&[path.to_owned()]) {
        let mut page = [0; 4096];
        for (start, len) in dump.physical_ranges().into_iter().take(16) {
            let _ = dump.read_phys(start, &mut page);
            let _ = dump.read_phys(PhysAddr(start.0.saturating_add(len / 2)), &mut page);
        }
        let _ = (dump.format(), dump.is_partial(), dump.incomplete());
    }
}

/// Small kdump files of three versions, and the headers and notes of real ELF dumps: the smaller
/// an input, the more of them are tried.
pub fn seeds() -> Vec<Vec<u8>> {
    let kdumps = ["kdump", "kdump-3", "kdump-erased"].map(super::seed);
    let elfs =
        ["k6.1-makedumpfile.elf", "k6.12-qemu.elf"].map(|name| super::fixture(name)[..24 << 10].to_vec());
    kdumps.into_iter().chain(elfs).collect()
}
