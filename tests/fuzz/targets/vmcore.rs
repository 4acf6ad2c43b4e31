//! A vmcore of any format: opened, described, and read at both ends.

use std::path::Path;

use corestub::addr::PhysAddr;
use corestub::bytes::packed::Unpack;
use corestub::dump::{Opened, Options, PhysicalMemory, Vmcore, open};

pub fn run(bytes: &[u8]) {
    let path = super::scratch("vmcore");
    if std::fs::write(&path, bytes).is_ok() {
        read(&path);
    }
}

/// Asks the dump in a file, which is unpacked beside it if it is packed.
pub fn ask(path: &Path, of: impl FnOnce(&Vmcore)) {
    // Of this target alone: the test runs all of them at once.
    let folder = path.with_extension("unpacked");
    let unpack = Unpack { limit: 1 << 20, folder: Some(folder.clone()) };
    if let Ok(Opened::Vmcore(dump)) = open(&[path.to_owned()], &Options { unpack, ..Options::default() }) {
        of(&dump);
    }
    // Each input is another file, and none comes again.
    let _ = std::fs::remove_dir_all(folder);
}

/// What can be asked of any.
pub fn read(path: &Path) {
    ask(path, |dump| {
        let mut page = [0; 4096];
        for (start, len) in dump.physical_ranges().into_iter().take(16) {
            let _ = dump.read_phys(start, &mut page);
            let _ = dump.read_phys(PhysAddr(start.0.saturating_add(len / 2)), &mut page);
        }
        let _ = (dump.format(), dump.is_partial(), dump.incomplete());
    });
}

/// Small kdump files of three versions, and the headers and notes of real ELF dumps: the smaller
/// an input, the more of them are tried.
pub fn seeds() -> Vec<Vec<u8>> {
    let kdumps = ["kdump", "kdump-3", "kdump-erased"].map(super::seed);
    let elfs =
        ["k6.1-makedumpfile.elf", "k6.12-qemu.elf"].map(|name| super::fixture(name)[..24 << 10].to_vec());
    kdumps.into_iter().chain(elfs).collect()
}
