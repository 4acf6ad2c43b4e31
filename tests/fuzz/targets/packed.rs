//! A dump in a wrapper: unpacked by an index of parts, or as a whole.

use corestub::addr::PhysAddr;
use corestub::bytes::packed::Unpack;
use corestub::dump::{Opened, Options, PhysicalMemory, open};

pub fn run(bytes: &[u8]) {
    let (path, folder) = (super::scratch("packed"), super::scratch("packed-cache"));
    let unpack = Unpack { limit: 1 << 20, folder: Some(folder.clone()) };
    if std::fs::write(&path, bytes).is_ok()
        && let Ok(Opened::Vmcore(dump)) = open(&[path], &Options { unpack, ..Options::default() })
    {
        let mut page = [0; 4096];
        for at in [0x1000, 0x2000, 0x10_0000, 0x10_2000] {
            let _ = dump.read_phys(PhysAddr(at), &mut page);
        }
        let _ = (dump.format(), dump.incomplete());
    }
    // Each input is another file, and none comes again.
    let _ = std::fs::remove_dir_all(folder);
}

/// An image of LiME's by each packer; in several parts where the format has them.
pub fn seeds() -> Vec<Vec<u8>> {
    let packers = ["bgzf", "bzip2", "gzip", "lz4", "lz4-legacy", "xz", "zstd"];
    packers.map(|packer| super::seed(&format!("packed-{packer}"))).into()
}
