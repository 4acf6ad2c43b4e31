//! A dump in a wrapper: unpacked by an index of parts, or as a whole.

use corestub::addr::PhysAddr;
use corestub::dump::PhysicalMemory;

pub fn run(bytes: &[u8]) {
    let path = super::scratch("packed");
    if std::fs::write(&path, bytes).is_ok() {
        super::vmcore::ask(&path, |dump| {
            let mut page = [0; 4096];
            for at in [0x1000, 0x2000, 0x10_0000, 0x10_2000] {
                let _ = dump.read_phys(PhysAddr(at), &mut page);
            }
            let _ = (dump.format(), dump.incomplete());
        });
    }
}

/// An image of LiME's by each packer; in several parts where the format has them.
pub fn seeds() -> Vec<Vec<u8>> {
    let packers = ["bgzf", "bzip2", "gzip", "lz4", "lz4-legacy", "xz", "zstd"];
    packers.map(|packer| super::seed(&format!("packed-{packer}"))).into()
}
