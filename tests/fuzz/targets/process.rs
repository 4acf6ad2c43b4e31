//! What people ask of a process's core that is changed here and there: its notes, its link map, its stacks.

use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use corestub::bytes::source::InMemory;
use corestub::commands::{Subject, monitor};
use corestub::process::core_file::CoreFile;
use corestub::process::{Options, Process, unwind};
use corestub::session::CommandContext;

/// Bytes of a change: where, how, the word.
const CHANGE: usize = 13;
/// Changes of one input.
const CHANGES: usize = 64;
/// Where most of them go: headers and notes.
const HEAD: usize = 8 << 10;
/// One of them is asked, by how long the input is.
const LINES: [&str; 6] = ["sys", "maps", "ps", "bt --all", "verify", "why 0x400000"];

pub fn run(bytes: &[u8]) {
    static SOUND: OnceLock<Vec<u8>> = OnceLock::new();
    // With its own files, of which no other machine has the same.
    let own = std::env::var_os("CORESTUB_FUZZ_DUMP");
    let sound = || match &own {
        Some(path) => std::fs::read(path).expect("a core"),
        None => super::fixture("plain.core"),
    };
    let mut core = SOUND.get_or_init(sound).clone();
    for change in bytes.chunks_exact(CHANGE).take(CHANGES) {
        let at = u32::from_le_bytes(std::array::from_fn(|i| change[i])) as usize;
        let (how, word) = (change[4], &change[5..]);
        if how == 0xff {
            core.truncate(at % core.len().max(1));
            continue;
        }
        let at = at % if how & 0x80 == 0 { HEAD } else { core.len().max(1) };
        let len = [1, 2, 4, 8][usize::from(how % 4)];
        if let Some(place) = core.get_mut(at..at + len) {
            place.copy_from_slice(&word[..len]);
        }
    }
    let source = Arc::new(InMemory::new("core", core));
    let Ok(core) = CoreFile::parse(Path::new("core"), source) else { return };
    let options = Options {
        sysroot: own.is_none().then(|| "/nonexistent".into()),
        debug_dirs: vec!["/nonexistent".into()],
        ..Options::default()
    };
    let process = Process::new(core, &options);
    let _ = (process.images().len(), process.link_map().len(), process.explain(0x40_0000));
    for thread in process.threads().iter().take(8) {
        let _ = (process.thread_name(thread.tid), process.general_regs(thread));
        let _ = unwind::stack(&process, thread, 64).frames.len();
    }
    let context = CommandContext { thread: None, last_fault: None, cancelled: &|| false };
    let line = LINES[bytes.len() % LINES.len()];
    let asked = monitor(Subject::Process(&process), &context, None, line, &mut io::sink());
    asked.expect("nothing refuses what is written");
}
