//! Whom the kernel killed for its memory, and who has most, of a made-up machine.

use super::machine::Machine;
use crate::linux::memory::oom;

const INIT: u64 = 0xffff_ffff_8200_0000;
const ROOM: u64 = 0xffff_8880_0100_0000;

fn task_at(pid: u64) -> u64 {
    ROOM + pid * 0x1000
}

/// Processes 1 to 4; the third shares the memory of the second (vfork()).
fn machine() -> Machine {
    let mut m = Machine::new();
    m.member("mm_struct", "total_vm", 0x18, 8);
    m.member("mm_struct", "rss_stat.count", 0x20, 32);
    m.member("signal_struct", "oom_mm", 0x30, 8);
    m.symbol("init_task", INIT);
    m.task(INIT, 0, "swapper/0");
    for pid in 1..=4 {
        let (task, mm) = (task_at(pid), task_at(if pid == 3 { 2 } else { pid }) + 0x400);
        m.task(task, u32::try_from(pid).unwrap(), &format!("task {pid}"));
        m.set(task, "task_struct", "mm", mm);
        m.set(mm, "mm_struct", "total_vm", 1000);
        // File, anonymous and swap pages.
        for (i, pages) in [pid, pid * 10, if pid == 1 { 100 } else { 0 }, 0].into_iter().enumerate() {
            m.word(mm + 0x20 + i as u64 * 8, pages);
        }
        m.set(task + 0x100, "signal_struct", "oom_mm", 0);
    }
    let links = [1, 2, 3, 4].map(|pid| m.at(task_at(pid), "task_struct", "tasks"));
    m.circle(m.at(INIT, "task_struct", "tasks"), &links);
    m
}

#[test]
fn the_largest_come_first_and_once() {
    let all = oom::largest(&machine().kernel(), 3);
    let all: Vec<_> = all.into_iter().map(|h| (h.comm, h.rss_kib, h.swap_kib)).collect();
    let named = |name: &str| name.to_owned();
    // What the third wrote last is the second's.
    assert_eq!(
        all,
        [(named("task 1"), 44, Some(400)), (named("task 4"), 176, Some(0)), (named("task 2"), 132, Some(0))]
    );
}

#[test]
fn a_victim_that_lives_is_told_without_the_log() {
    let mut m = machine();
    m.set(task_at(4) + 0x100, "signal_struct", "oom_mm", task_at(4) + 0x400);
    // What lies outside of the kernel's half is no memory of a process.
    m.set(task_at(2) + 0x100, "signal_struct", "oom_mm", 0x1000);
    let kills = oom::kills(&m.kernel());
    let [kill] = kills.as_slice() else { panic!("{kills:?}") };
    assert_eq!((kill.pid, kill.comm.as_str(), kill.alive, kill.rss_kib), (4, "task 4", true, None));
}
