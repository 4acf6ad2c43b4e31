//! All tasks of a made-up machine, from sources of which one or the other is damaged.

use std::collections::HashSet;

use super::machine::Machine;
use crate::addr::VirtAddr;
use crate::arch::Register;
use crate::linux::registers::{self, Source};
use crate::linux::task::{FoundBy, Task};
use crate::linux::tasks::{Panicked, Scanned};
use crate::linux::usage::{Usage, Usages};
use crate::linux::{TaskList, tasks};

const INIT: u64 = 0xffff_ffff_8200_0000;
const RUNQUEUES: u64 = 0xffff_ffff_8300_0000;
const NAMESPACE: u64 = 0xffff_ffff_8400_0000;
const ROOM: u64 = 0xffff_8880_0100_0000;

fn task_at(pid: u32) -> u64 {
    ROOM + u64::from(pid) * 0x1000
}

/// The idle task, and pids 1, 2 and 70, in the list and in the pid map.
fn machine() -> Machine {
    let mut m = Machine::new();
    m.symbol("init_task", INIT);
    m.task(INIT, 0, "swapper/0");
    m.symbol("runqueues", RUNQUEUES);
    m.set(RUNQUEUES, "rq", "idle", INIT);
    m.set(RUNQUEUES, "rq", "curr", task_at(2));
    let mut entries = Vec::new();
    for pid in [1, 2, 70] {
        m.task(task_at(pid), pid, &format!("task {pid}"));
        m.set(task_at(pid), "task_struct", "real_parent", if pid == 1 { INIT } else { task_at(1) });
        entries.push((u64::from(pid), m.pid(task_at(pid) + 0x800, task_at(pid))));
    }
    m.set(task_at(2), "task_struct", "on_cpu", 1);
    let links = [1, 2, 70].map(|pid| m.at(task_at(pid), "task_struct", "tasks"));
    m.circle(m.at(INIT, "task_struct", "tasks"), &links);
    m.symbol("init_pid_ns", NAMESPACE);
    let low = m.node(NAMESPACE + 0x1000, 0, &entries[..2]);
    let high = m.node(NAMESPACE + 0x2000, 0, &[(6, entries[2].1)]);
    let root = m.node(NAMESPACE + 0x3000, 6, &[(0, low), (1, high)]);
    m.set(NAMESPACE, "pid_namespace", "idr.idr_rt.xa_head", root);
    m
}

fn collect(damage: impl FnOnce(&mut Machine)) -> TaskList {
    let mut m = machine();
    damage(&mut m);
    tasks::collect(&m.view(), &|_| Scanned::default())
}

fn pids(list: &TaskList) -> Vec<u32> {
    list.all().iter().map(|t| t.pid).collect()
}

#[test]
fn tasks_are_found_once_and_in_order() {
    let list = collect(|_| ());
    assert_eq!((pids(&list), list.skipped, &list.remarks[..]), (vec![0, 1, 2, 70], 0, &[][..]));
    let running = list.by_address(VirtAddr(task_at(2))).unwrap();
    assert_eq!(
        (running.comm.as_str(), running.ppid, running.on_cpu, running.state),
        ("task 2", Some(1), true, 'R')
    );
    assert_eq!(list.all()[0].idle_of, Some(0));
}

#[test]
fn the_list_or_the_pid_map_is_enough() {
    let link = |m: &Machine, pid| m.at(task_at(pid), "task_struct", "tasks");
    let list = collect(|m| m.word(link(m, 1), link(m, 1)));
    assert_eq!(pids(&list), [0, 1, 2, 70]);
    assert!(list.remarks[0].starts_with("task list: the list comes back to "), "{:?}", list.remarks);
    let list = collect(|m| m.forget(NAMESPACE, 0x5000));
    assert_eq!(pids(&list), [0, 1, 2, 70]);
    assert_eq!(list.remarks, ["the pid map's root is not in the dump"]);
    // Both: the list is walked from its end, too.
    let list = collect(|m| {
        m.forget(NAMESPACE, 0x5000);
        m.word(link(m, 1), 0);
    });
    assert_eq!(pids(&list), [0, 1, 2, 70]);
}

#[test]
fn without_lists_a_task_is_found_by_its_parent_and_says_so() {
    let link = |m: &Machine, pid| m.at(task_at(pid), "task_struct", "tasks");
    let broken = |m: &mut Machine| {
        m.forget(NAMESPACE, 0x5000);
        for pid in [1, 2] {
            m.forget(link(m, pid), 16);
        }
        m.forget(m.at(INIT, "task_struct", "tasks"), 16);
        m.circle(m.at(INIT, "task_struct", "children"), &[m.at(task_at(1), "task_struct", "sibling")]);
        m.circle(m.at(task_at(1), "task_struct", "children"), &[m.at(task_at(70), "task_struct", "sibling")]);
        m.circle(m.at(task_at(70), "task_struct", "children"), &[]);
    };
    let list = collect(broken);
    let found: Vec<_> = list.all().iter().map(|t| (t.pid, t.found_by)).collect();
    use FoundBy::{Children, RunQueue};
    assert_eq!(found, [(0, RunQueue), (1, Children), (2, RunQueue), (70, Children)]);
    assert!(list.remarks.iter().any(|r| r.contains("2 were found as children")), "{:?}", list.remarks);
    // Of a parent that cannot be read nothing is said.
    let list = collect(|m| m.forget(m.at(task_at(1), "task_struct", "pid"), 4));
    assert_eq!(list.by_pid(70).next().unwrap().ppid, None);
}

#[test]
fn a_panicked_task_that_is_lost_is_said_to_be() {
    let panicked = |damage: &dyn Fn(&mut Machine)| {
        let mut m = machine();
        m.symbol("panic_cpu", NAMESPACE + 0x8000);
        m.write(NAMESPACE + 0x8000, &0u32.to_le_bytes());
        m.symbol("current_task", NAMESPACE + 0x9000);
        m.word(NAMESPACE + 0x9000, task_at(2));
        damage(&mut m);
        let view = m.view();
        tasks::panicked(&view, |cpu| tasks::listed(&view).running_on(cpu))
    };
    let named = |found: Panicked| match found {
        Panicked::Task(task) => Some((task.pid, task.found_by)),
        _ => None,
    };
    let why = |found: Panicked| match found {
        Panicked::Unreadable(why) => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(named(panicked(&|_| ())), Some((2, FoundBy::RunQueue)));
    assert_eq!(named(panicked(&|m| m.forget(RUNQUEUES, 0x1000))), Some((2, FoundBy::PerCpu)));
    let no_queue = |m: &mut Machine| {
        m.forget(RUNQUEUES, 0x1000);
        m.forget(NAMESPACE + 0x9000, 8);
    };
    assert_eq!(named(panicked(&no_queue)), Some((2, FoundBy::PidMap)));
    // Another that is about to run there, too: nothing tells which.
    let two = why(panicked(&|m| (no_queue(m), m.set(task_at(70), "task_struct", "on_cpu", 1)).1));
    assert!(two.starts_with("CPU 0 panicked, its run queue is not in the dump"), "{two}");
    let nobody = |m: &mut Machine| m.write(NAMESPACE + 0x8000, &[0xff; 4]);
    assert_eq!(panicked(&nobody), Panicked::Nobody);
    // 3.10 begins with 0 in the other, be there a panic or not.
    let other = |m: &mut Machine| {
        m.symbol("crashing_cpu", NAMESPACE + 0x8100);
        m.write(NAMESPACE + 0x8100, &[0; 4]);
    };
    assert_eq!(panicked(&|m| (nobody(m), other(m)).1), Panicked::Nobody);
    assert_eq!(
        named(panicked(&|m| (m.write(NAMESPACE + 0x8000, &[0x7f; 4]), other(m)).1)),
        Some((2, FoundBy::RunQueue))
    );
    let Panicked::Task(lost) = panicked(&|m| m.forget(task_at(2), 0x1000)) else { panic!() };
    assert_eq!((lost.known_pid(), lost.cpu, lost.addr), (None, Some(0), VirtAddr(task_at(2))));
    let lost = why(panicked(&|m| m.forget(NAMESPACE + 0x8000, 4)));
    assert!(lost.starts_with("panic_cpu cannot be read: "), "{lost}");
}

/// A page of the types can be lost: where the CPU lies is not known then, and 0 would be a lie.
#[test]
fn a_cpu_that_nothing_tells_is_unknown() {
    let list = collect(|m| m.lose_member("task_struct", "cpu"));
    let cpus: Vec<_> = list.all().iter().map(|t| (t.pid, t.cpu, t.running_on())).collect();
    assert_eq!(cpus, [(0, None, None), (1, None, None), (2, Some(0), Some(0)), (70, None, None)]);
}

/// makedumpfile 1.7.8 does so to a third of the tasks of 7.1 and later.
#[test]
fn a_cpu_whose_task_is_lost_still_has_a_thread() {
    let list = collect(|m| {
        m.symbol("cpu_current_top_of_stack", NAMESPACE + 0x9000);
        m.word(NAMESPACE + 0x9000, task_at(2) + 0x10_4000 - 16);
        m.forget(task_at(2), 0x1000);
    });
    let lost = list.by_address(VirtAddr(task_at(2))).unwrap();
    assert_eq!((lost.cpu, lost.on_cpu, lost.unread, lost.state), (Some(0), true, true, '?'));
    assert_eq!((lost.known_pid(), &lost.pid_text()[..], &lost.comm[..]), (None, "?", "(task not readable)"));
    assert_eq!((lost.known_tgid(), lost.known_comm(), lost.known_state()), (None, None, None));
    assert_eq!(lost.stack, VirtAddr(task_at(2) + 0x10_0000));
    // It is none of the tasks with pid 0, and is told apart from the CPU's idle task.
    assert_eq!((list.by_pid(0).count(), list.skipped), (1, 1));
    assert!(list.remarks.iter().any(|r| r.starts_with("the task on CPU 0 is at 0xffff888001002000: ")));
    let ids: HashSet<_> = list.all().iter().map(|t| crate::session::threads::id(t)).collect();
    assert_eq!(ids.len(), list.all().len());
    // Where nothing tells its stack it has none.
    let list = collect(|m| m.forget(task_at(2), 0x1000));
    assert_eq!(list.by_address(VirtAddr(task_at(2))).unwrap().stack, VirtAddr(0));
}

/// Zeros would be a kernel thread's.
#[test]
fn what_a_lost_task_uses_is_not_known() {
    let kernel = Machine::new().kernel();
    let lost = crate::linux::unread::on_cpu(&kernel, 0, VirtAddr(task_at(2)), FoundBy::RunQueue);
    assert_eq!(Usages::new(&kernel).of(&lost), None);
    let ended = Task { unread: false, ..lost };
    assert_eq!(Usages::new(&kernel).of(&ended), Some(Usage::default()));
}

#[test]
fn what_is_no_task_is_skipped_and_counted() {
    let list = collect(|m| m.set(task_at(70), "task_struct", "pid", 1 << 30));
    assert_eq!((pids(&list), list.skipped), (vec![0, 1, 2], 1));
    // A struct pid whose list leads into user space; its task is in the other list.
    let list = collect(|m| m.set(task_at(70) + 0x800, "pid", "tasks", 0x1234));
    assert_eq!((pids(&list), list.skipped), (vec![0, 1, 2, 70], 1));
}

#[test]
fn a_type_that_is_lost_costs_no_task() {
    let sound = collect(|_| ());
    let same = |list: TaskList| {
        for (task, was) in list.all().iter().zip(sound.all()) {
            assert_eq!(
                (task.pid, &task.comm, task.ppid, task.on_cpu),
                (was.pid, &was.comm, was.ppid, was.on_cpu)
            );
        }
        assert_eq!(list.all().len(), sound.all().len());
    };
    // The types of the members, and with them their sizes.
    let types =
        ["pid", "tgid", "comm", "stack", "__state", "exit_state", "flags", "real_parent", "mm", "on_cpu"];
    same(collect(|m| types.into_iter().for_each(|path| m.lose_size("task_struct", path))));
    // Structures beside the task's.
    same(collect(|m| ["curr", "idle"].into_iter().for_each(|path| m.lose_member("rq", path))));
    // What has no size is no 0.
    let mut m = machine();
    m.lose_size("task_struct", "group_leader");
    let view = m.view();
    let task = crate::linux::object::Object::new(&view, "task_struct", VirtAddr(task_at(2)));
    assert_eq!((task.number("group_leader"), task.number("pid")), (None, Some(2)));
}

#[test]
fn threads_are_found_by_their_group() {
    let list = collect(|m| {
        m.task(task_at(71), 71, "thread");
        m.set(task_at(71), "task_struct", "tgid", 70);
        let links = [70, 71].map(|pid| m.at(task_at(pid), "task_struct", "thread_node"));
        m.circle(task_at(70) + 0x118, &links);
    });
    assert_eq!(pids(&list), [0, 1, 2, 70, 71]);
    assert_eq!(list.by_pid(71).next().unwrap().tgid, 70);
}

#[test]
fn a_task_that_was_switched_out_has_the_registers_of_its_frame() {
    let stack = task_at(1) + 0x10_0000;
    let frame = stack + 0x3f00;
    let damaged = |sp: u64, return_address: u64, whole: bool, damage: &dyn Fn(&mut Machine)| {
        let mut m = machine();
        damage(&mut m);
        m.symbol("ret_from_fork", 0xffff_ffff_8100_0100);
        m.set(task_at(1), "task_struct", "thread.sp", sp);
        for (word, value) in
            (0u64..).zip([15, 14, 13, 12, 5, 3, return_address]).take(if whole { 7 } else { 5 })
        {
            m.word(frame + word * 8, value);
        }
        let view = m.view();
        registers::switched_out(&view, &tasks::read(&view, VirtAddr(task_at(1))).unwrap())
    };
    let registers = |sp, return_address, whole| damaged(sp, return_address, whole, &|_| ());
    let regs = registers(frame, 0xffff_ffff_8100_0200, true);
    assert_eq!(regs.source, Source::SwitchFrame);
    for (register, value) in
        [(Register::R12, 12), (Register::Rbx, 3), (Register::Rbp, 5), (Register::Rsp, frame + 0x38)]
    {
        assert_eq!(regs.get(register), Some(value), "{register:?}");
    }
    assert_eq!(regs.get(Register::Rax), None);
    assert_eq!(registers(frame, 0xffff_ffff_8100_0100, true).source, Source::NewBorn);
    // Not whole in the dump; not in its stack.
    for regs in [registers(frame, 0, false), registers(stack - 8, 0, true)] {
        assert!(matches!(regs.source, Source::Nowhere(_)) && regs.get(Register::Rip).is_none(), "{regs:?}");
    }
    // Its type is lost: the code tells the frame, and nothing of kernels before 4.9 does.
    let lost = |m: &mut Machine| {
        m.lose_member("inactive_task_frame", "ret_addr");
        m.symbol("thread_return", 0xffff_ffff_8100_0300);
        // push rbx, rbp, r12 to r15, as this machine has them.
        let code = [0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57, 0x48, 0x89, 0xa7, 0, 0, 0];
        m.function("__switch_to_asm", 0xffff_ffff_8100_0400, &code);
    };
    assert_eq!(damaged(frame, 0xffff_ffff_8100_0200, true, &lost), regs);
}
