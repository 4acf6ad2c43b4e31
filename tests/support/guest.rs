//! What a guest recorded of itself before it was dumped (`oracle/` beside the dumps, by
//! scripts/lab/guest/init): no reader of dumps had part in it.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::{files, skip};

/// A dump of every guest that left the record `name`, with the folder of that: of QEMU's
/// dumps and makedumpfile's one each.
pub fn recorded(name: &str) -> Vec<(PathBuf, PathBuf)> {
    let mut found = Vec::new();
    for record in files(name) {
        let folder = record.ancestors().nth(2).unwrap();
        // Of 7.x, the makedumpfile of today leaves slab pages out by -d 31.
        let by_makedumpfile = ["l17.kdump", "z31.kdump", "l31.kdump"].map(|name| folder.join(name));
        let by_qemu = folder.join("qemu.elf");
        let one = by_makedumpfile.into_iter().find(|path| path.exists());
        let both = one.into_iter().chain(by_qemu.exists().then_some(by_qemu));
        found.extend(both.map(|dump| (dump, record.parent().unwrap().to_owned())));
    }
    if found.is_empty() {
        skip(&format!("no dump of a guest that recorded {name} (scripts/test makes them)"));
    }
    found
}

/// A line of the guest's /proc/kallsyms.
pub struct Symbol {
    pub address: u64,
    pub name: String,
    pub module: Option<String>,
}

/// The guest's /proc/kallsyms, if it was recorded.
pub fn kallsyms(folder: &Path) -> Option<Vec<Symbol>> {
    let file = std::fs::File::open(folder.join("oracle/kallsyms.gz")).ok()?;
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).ok()?;
    let line = |text: &str| {
        let mut words = text.split_whitespace();
        let (address, _, name) = (words.next()?, words.next()?, words.next()?);
        let address = u64::from_str_radix(address, 16).ok()?;
        Some(Symbol { address, name: name.to_owned(), module: words.next().map(str::to_owned) })
    };
    Some(text.lines().filter_map(line).collect())
}

/// A task as /proc had it.
pub struct Task {
    pub tid: u32,
    pub comm: String,
    pub state: char,
    /// Its kernel stack, innermost first, without the scheduler's functions: name and offset.
    pub stack: Vec<(String, u64)>,
}

/// The guest's tasks.
pub fn tasks(folder: &Path) -> Option<Vec<Task>> {
    let text = String::from_utf8_lossy(&std::fs::read(folder.join("oracle/tasks")).ok()?).into_owned();
    let block = |block: &str| {
        let (head, stack) = block.split_once('\n')?;
        let (tid, head) = head.split_once(" tid ")?.1.split_once(" comm ")?;
        let (comm, state) = head.rsplit_once(" state ")?;
        // "[<0>] kthread+0x11b/0x140 [module]"
        let frame = |line: &str| {
            let (name, at) = line.strip_prefix("[<0>] ")?.split_once("+0x")?;
            Some((name.to_owned(), u64::from_str_radix(at.split('/').next()?, 16).ok()?))
        };
        Some(Task {
            tid: tid.parse().ok()?,
            comm: comm.to_owned(),
            state: state.chars().next()?,
            stack: stack.lines().filter_map(frame).collect(),
        })
    };
    Some(text.split("== ").filter_map(block).collect())
}
