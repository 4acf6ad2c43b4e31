//! Out of memory: whom the kernel killed for it, and which processes have the memory.
//!
//! Kills are told by the log (`mm/oom_kill.c`, `__oom_kill_process()`), and as long as the
//! victim has not ended by itself: `signal_struct.oom_mm` is set (4.9 and later,
//! 26db62f179d1). What each process has is counted in its `mm_struct`; the log's own table of
//! tasks is one that may have been switched off (`vm.oom_dump_tasks`) or have left the ring.

use std::collections::HashSet;

use serde::Serialize;

use super::super::log::Log;
use super::super::object::Object;
use super::super::usage::Usages;
use super::super::{Kernel, Task};

/// Kills that are kept, the last ones.
const KILLS: usize = 64;

/// A process that was killed for its memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Kill {
    pub(crate) pid: u32,
    pub(crate) comm: String,
    /// What it had in memory, by the log.
    pub(crate) rss_kib: Option<u64>,
    /// Whether it was the memory of its group (cgroup) that had run out.
    pub(crate) of_group: bool,
    /// Whether it had not ended yet.
    pub(crate) alive: bool,
}

/// What the process that got no memory asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Request {
    pub(crate) comm: String,
    /// Pages: 2 to the power of this.
    pub(crate) order: Option<u32>,
}

/// A process with what it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Holder {
    pub(crate) pid: Option<u32>,
    pub(crate) comm: String,
    pub(crate) rss_kib: u64,
    pub(crate) swap_kib: Option<u64>,
}

/// Whether a kernel that panicked with these words was out of memory.
#[must_use]
pub(crate) fn is_fatal(panic: &str) -> bool {
    // The second since 4.19 (3100dab2aa09), the first before, and with `vm.panic_on_oom`.
    ["Out of memory", "System is deadlocked on memory"].iter().any(|words| panic.contains(words))
}

/// Who was killed, in the order of the log, and those who are still to end.
#[must_use]
pub(crate) fn kills(kernel: &Kernel) -> Vec<Kill> {
    let victims: Vec<&Task> = leaders(kernel).filter(|task| is_victim(kernel, task)).collect();
    let mut kills = told(kernel.log());
    for victim in victims {
        match kills.iter_mut().rev().find(|kill| kill.pid == victim.tgid) {
            Some(kill) => kill.alive = true,
            None => kills.push(Kill {
                pid: victim.tgid,
                comm: victim.comm.clone(),
                rss_kib: None,
                of_group: false,
                alive: true,
            }),
        }
    }
    kills
}

/// One task of each process.
fn leaders(kernel: &Kernel) -> impl Iterator<Item = &Task> {
    kernel.tasks().all().iter().map(AsRef::as_ref).filter(|task| !task.unread && task.pid == task.tgid)
}

fn is_victim(kernel: &Kernel, task: &Task) -> bool {
    let signal = Object::new(kernel, "task_struct", task.addr).follow("signal", "signal_struct");
    signal.is_some_and(|signal| signal.pointer("oom_mm").is_some())
}

/// The kills of the log.
fn told(log: &Log) -> Vec<Kill> {
    let lines = log.records.iter().rev().flat_map(|record| record.text.lines());
    let mut kills: Vec<Kill> = lines.filter_map(kill).take(KILLS).collect();
    kills.reverse();
    kills
}

/// `Out of memory: Killed process 286 (tail) total-vm:..kB, anon-rss:..kB, file-rss:..kB, ...`
fn kill(line: &str) -> Option<Kill> {
    let (before, after) = line.split_once("Killed process ")?;
    let digits = after.split(|c: char| !c.is_ascii_digit()).next()?;
    // A name may have brackets of its own.
    let (_, named) = after.split_once('(')?;
    let (comm, sizes) = named.rsplit_once(") total-vm:").or_else(|| named.rsplit_once("), UID"))?;
    let size = |name: &str| {
        let (_, size) = sizes.split_once(name)?;
        size.split("kB").next()?.parse::<u64>().ok()
    };
    let parts = ["anon-rss:", "file-rss:", "shmem-rss:"];
    let rss = parts.iter().filter_map(|name| size(name)).reduce(u64::saturating_add);
    Some(Kill {
        pid: digits.parse().ok()?,
        comm: comm.to_owned(),
        rss_kib: rss,
        of_group: before.contains("cgroup"),
        alive: false,
    })
}

/// What was asked for last: `tail invoked oom-killer: gfp_mask=0x..(..), order=0, ...`
#[must_use]
pub(crate) fn request(log: &Log) -> Option<Request> {
    let lines = log.records.iter().rev().flat_map(|record| record.text.lines());
    lines.filter_map(|line| line.split_once(" invoked oom-killer: ")).next().map(|(comm, rest)| {
        let order = rest.split_once("order=").map(|(_, order)| order);
        let digits = order.and_then(|order| order.split(|c: char| !c.is_ascii_digit()).next());
        Request { comm: comm.to_owned(), order: digits.and_then(|digits| digits.parse().ok()) }
    })
}

/// The processes with the most memory, one of those that share it.
#[must_use]
pub(crate) fn largest(kernel: &Kernel, most: usize) -> Vec<Holder> {
    let mut usages = Usages::new(kernel);
    let mut seen = HashSet::new();
    let mut all: Vec<Holder> = leaders(kernel)
        .filter(|task| task.mm.is_some_and(|mm| seen.insert(mm)))
        .filter_map(|task| {
            let usage = usages.of(task)?;
            let (pid, comm) = (task.known_pid(), task.comm.clone());
            Some(Holder { pid, comm, rss_kib: usage.rss, swap_kib: usage.swap })
        })
        .collect();
    all.sort_by_key(|holder| std::cmp::Reverse(holder.rss_kib.saturating_add(holder.swap_kib.unwrap_or(0))));
    all.truncate(most);
    all
}

#[cfg(test)]
mod tests {
    use super::super::super::log::Record;
    use super::*;

    fn log(texts: &[&str]) -> Log {
        let record = |text: &&str| Record {
            seq: None,
            time: None,
            level: None,
            facility: None,
            caller: None,
            text: (*text).to_owned(),
        };
        Log { records: texts.iter().map(record).collect(), ..Log::default() }
    }

    /// Lines of 3.10, 4.19, and 6.1's of a group; a name with brackets; one that was cut.
    #[test]
    fn kills_are_read_from_the_log() {
        let log = log(&[
            "Killed process 12 (old one) total-vm:70kB, anon-rss:40kB, file-rss:2kB",
            "Killed process 13 (a) b) total-vm:7kB, anon-rss:4kB, file-rss:2kB, shmem-rss:1kB",
            "Memory cgroup out of memory: Killed process 14 (in a group) total-vm:9kB, anon-rss:5kB, \
             file-rss:0kB, shmem-rss:0kB, UID:0 pgtables:48kB oom_score_adj:0",
            "Killed process 15, UID 0, (x",
        ]);
        let all: Vec<_> = told(&log).into_iter().map(|k| (k.pid, k.comm, k.rss_kib, k.of_group)).collect();
        assert_eq!(
            all,
            [
                (12, "old one".to_owned(), Some(42), false),
                (13, "a) b".to_owned(), Some(7), false),
                (14, "in a group".to_owned(), Some(5), true),
            ]
        );
    }

    #[test]
    fn the_last_request_is_told() {
        let line = "invoked oom-killer: gfp_mask=0x140dca(GFP_HIGHUSER_MOVABLE|__GFP_COMP), order=";
        let log = log(&[&format!("one {line}0, oom_score_adj=0"), &format!("my tail {line}3, x=1")]);
        assert_eq!(request(&log), Some(Request { comm: "my tail".to_owned(), order: Some(3) }));
    }

    #[test]
    fn a_panic_of_another_kind_is_none_for_memory() {
        assert!(is_fatal("Kernel panic - not syncing: Out of memory: system-wide panic_on_oom is enabled"));
        assert!(is_fatal("Kernel panic - not syncing: System is deadlocked on memory"));
        assert!(!is_fatal("Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000009"));
    }
}
