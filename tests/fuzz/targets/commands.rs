//! What people ask of a kernel, whose memory is changed: lists that have no end, counts that nothing has.

use std::io;
use std::sync::LazyLock;

use corestub::commands::{Subject, monitor};
use corestub::linux::Kernel;
use corestub::session::CommandContext;

use super::patches::{self, Sound};

/// Each reads what no other does.
const LINES: [&str; 36] = [
    "triage",
    "sys",
    "log -T -c",
    "ps -a",
    "ps -p",
    "bt --all",
    "bt -a -f",
    "bt --summary",
    "task 1",
    "files -a",
    "vm -a",
    "mount",
    "sig 1 2",
    "swap",
    "threads",
    "runq",
    "locks -a",
    "dev -d",
    "kmem -s",
    "irq",
    "irq -s",
    "timer",
    "timer -r",
    "net -n",
    "net -s -a",
    "ipcs -M",
    "ipcs -s -q",
    "mod -t",
    "kmem -i",
    "kmem -S task_struct",
    "why init_task",
    "kmem init_task",
    "whatis init_task",
    "struct task_struct init_task",
    "walk task_struct.tasks -h init_task -s task_struct.pid,comm",
    "tree -t xarray init_pid_ns -p",
];

static SOUND: LazyLock<Vec<Sound>> =
    LazyLock::new(|| LINES.map(|line| Sound::new(move |kernel| ask(kernel, line))).into());

/// The first byte says which of them.
pub fn run(bytes: &[u8]) {
    let Some((&which, changes)) = bytes.split_first() else { return };
    if let Some(sound) = SOUND.get(usize::from(which) % LINES.len()) {
        sound.run(changes);
    }
}

fn ask(kernel: &Kernel, line: &str) {
    let context = CommandContext { thread: None, last_fault: None, cancelled: &|| false };
    let asked = monitor(Subject::Kernel(kernel), &context, kernel.symbol("init_task"), line, &mut io::sink());
    asked.expect("nothing refuses what is written");
}

/// Every line, with a few changes.
pub fn seeds() -> Vec<Vec<u8>> {
    (0..LINES.len()).map(|which| [vec![which as u8], patches::seeds().concat()].concat()).collect()
}
