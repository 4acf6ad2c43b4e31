//! Kernels before 4.1: what a task left where, and the pid hash.

use super::machine::Machine;
use crate::addr::VirtAddr;
use crate::arch::Register::{self, *};
use crate::arch::pt_regs;
use crate::linux::registers::{self, Source};
use crate::linux::tasks::Scanned;
use crate::linux::{TaskList, tasks};

const INIT: u64 = 0xffff_ffff_8180_0000;
const NAMESPACE: u64 = 0xffff_ffff_8190_0000;
const HASH: u64 = 0xffff_8800_0200_0000;
const TASK: u64 = 0xffff_8800_0100_0000;
const STACK: u64 = TASK + 0x10_0000;
const TOP: u64 = STACK + 0x4000;
const TEXT: u64 = 0xffff_ffff_8100_0000;

fn machine() -> Machine {
    let mut m = Machine::old();
    m.symbol("init_task", INIT);
    m.task(INIT, 0, "swapper/0");
    m.task(TASK, 1, "init");
    m.set(TASK, "task_struct", "mm", TASK + 0x8000);
    m
}

/// `call`, to `target`, at the end of a function of 32 bytes.
fn calling(at: u64, target: u64) -> Vec<u8> {
    let mut code = vec![0x90; 27];
    code.push(0xe8);
    code.extend(&target.wrapping_sub(at + 32).to_le_bytes()[..4]);
    code
}

fn switched_out(damage: impl FnOnce(&mut Machine)) -> registers::TaskRegisters {
    let mut m = machine();
    m.function("__switch_to", TEXT, &[0xc3]);
    m.function("__schedule", TEXT + 0x100, &calling(TEXT + 0x100, TEXT));
    m.function("ret_from_fork", TEXT + 0x200, &[0x90]);
    m.set(STACK, "thread_info", "flags", 0);
    m.set(TASK, "task_struct", "thread.sp", TOP - 0x400);
    m.word(TOP - 0x400, TOP - 0x300);
    m.word(TOP - 0x3f8, 0x246);
    damage(&mut m);
    let view = m.view();
    registers::switched_out(&view, &tasks::read(&view, VirtAddr(TASK)).unwrap())
}

#[test]
fn a_task_goes_on_behind_the_call_of_switch_to() {
    let regs = switched_out(|_| ());
    let values = [Rip, Rsp, Rbp].map(|r| regs.get(r).unwrap());
    assert_eq!(values, [TEXT + 0x120, TOP - 0x3f0, TOP - 0x300]);
    assert_eq!(regs.source, Source::SwitchFrame);
    // Of two calls neither is the one.
    let mut twice = calling(TEXT + 0x100, TEXT);
    twice[..5].copy_from_slice(&[0xe8, 0xfb, 0xfe, 0xff, 0xff]);
    let regs = switched_out(|m| m.write(TEXT + 0x100, &twice));
    assert_eq!(regs.source, Source::Nowhere("this kernel's context switch is not known"));
    // A label says it, too.
    let regs = switched_out(|m| {
        m.write(TEXT + 0x100, &twice);
        m.symbol("thread_return", TEXT + 0x110);
    });
    assert_eq!(regs.get(Rip), Some(TEXT + 0x110));
}

#[test]
fn a_task_that_never_ran_begins_at_ret_from_fork() {
    let regs = switched_out(|m| {
        m.set(STACK, "thread_info", "flags", 1 << 18);
        m.set(TASK, "task_struct", "thread.sp", TOP - 168);
    });
    assert_eq!((regs.get(Rip), regs.get(Rsp), regs.get(Rbp)), (Some(TEXT + 0x200), Some(TOP - 168), None));
    assert_eq!(regs.source, Source::NewBorn);
}

/// Every word of the `pt_regs` at the top of the stack holds 0x1000 + its offset.
fn with_pt_regs(entry: &[(Register, u64)]) -> Machine {
    let mut m = machine();
    m.set(TASK, "task_struct", "thread.usersp", 0x7fff_0000);
    for (i, &(register, _)) in pt_regs::MEMBERS.iter().enumerate() {
        let value = entry.iter().find(|e| e.0 == register).map_or(0x1000 + i as u64 * 8, |e| e.1);
        m.word(TOP - 168 + i as u64 * 8, value);
    }
    for (name, at) in
        [("system_call_fastpath", 0), ("tracesys", 0x20), ("ia32_do_call", 0x40), ("retint_careful", 0x60)]
    {
        m.function(name, TEXT + at, &[0x90; 0x20]);
    }
    m.function("sys_frame", TEXT + 0x100, &[0x0f, 0x1f, 0x44, 0, 0, 0x55, 0x48, 0x89, 0xe5]);
    m.function("sys_bare", TEXT + 0x120, &[0x53, 0x55]);
    m.function("schedule_user", TEXT + 0x140, &[0x55, 0x48, 0x89, 0xe5]);
    m.symbol("sys_call_table", TEXT + 0x1000);
    m.word(TEXT + 0x1000, TEXT + 0x100);
    m.word(TEXT + 0x1008, TEXT + 0x120);
    m
}

fn user(entry: &[(Register, u64)]) -> [Option<u64>; 21] {
    let view = with_pt_regs(entry).view();
    let task = tasks::read(&view, VirtAddr(TASK)).unwrap();
    let regs = registers::of_entry(&view, &task, VirtAddr(TOP - 168)).unwrap();
    pt_regs::MEMBERS.map(|(register, _)| regs.get(register))
}

/// The place of `register` as it was written.
fn own(register: Register) -> Option<u64> {
    Some(0x1000 + pt_regs::offset(register))
}

fn expect(got: [Option<u64>; 21], differ: &[(Register, Option<u64>)]) {
    for ((register, name), value) in pt_regs::MEMBERS.into_iter().zip(got) {
        let wanted = differ.iter().find(|d| d.0 == register).map_or(own(register), |d| d.1);
        assert_eq!(value, wanted, "{name}");
    }
}

#[test]
fn the_fast_path_has_what_it_saved_and_what_syscall_left() {
    let lost = [Rbx, R12, R13, R14, R15].map(|r| (r, None));
    let left = [
        (OrigRax, Some(0)),
        (Rsp, Some(0x7fff_0000)),
        (Eflags, own(R11)),
        (Rcx, own(Rip)),
        (Cs, Some(0x33)),
        (Ss, Some(0x2b)),
    ];
    expect(user(&[(Rbx, TEXT + 0x16), (OrigRax, 0)]), &[&lost[..], &left[..]].concat());
    // Interrupted between its entry and the call: its stack pointer lies in r12's place.
    let there = TOP - 168 + pt_regs::offset(R11);
    let before = [&lost[..], &left[..], &[(Rbp, None)]].concat();
    expect(user(&[(Rbx, TEXT + 0x16), (OrigRax, 0), (Rbp, 0x18), (R12, there)]), &before);
    // A handler that does not push rbp first leaves something else there.
    let bare = [&lost[..], &left[1..], &[(OrigRax, Some(1)), (Rbp, None)]].concat();
    expect(user(&[(Rbx, TEXT + 0x16), (OrigRax, 1)]), &bare);
    // A number without a handler proves nothing of rbp.
    let far = [&lost[..], &left[1..], &[(OrigRax, Some(1 << 40)), (Rbp, None)]].concat();
    expect(user(&[(Rbx, TEXT + 0x16), (OrigRax, 1 << 40)]), &far);
}

#[test]
fn other_ways_in_lose_less() {
    let lost = [Rbx, R12, R13, R14, R15].map(|r| (r, None));
    // Traced: all of the frame is right but what the handler is free to use.
    let traced = [(OrigRax, Some(0))];
    expect(user(&[(Rbx, TEXT + 0x20 + 0x10), (OrigRax, 0)]), &[&lost[..], &traced[..]].concat());
    let old_call = [R8, R9, R10, R11].map(|r| (r, None));
    expect(user(&[(Rbx, TEXT + 0x50), (OrigRax, 0)]), &[&lost[..], &old_call[..], &traced[..]].concat());
    // An exception, and clone(), save everything.
    expect(user(&[(OrigRax, u64::MAX)]), &[(OrigRax, Some(u64::MAX))]);
    expect(user(&[(OrigRax, 0)]), &traced);
    // An interrupt, by the vector 0xef; then preempted on its way out.
    let vector = !0xef_u64;
    let interrupt = [&lost[..], &[(OrigRax, Some(vector))]].concat();
    expect(user(&[(OrigRax, vector)]), &interrupt);
    let preempted = [&interrupt[..], &[(Rbp, own(R12))]].concat();
    expect(user(&[(OrigRax, vector), (Rbp, TEXT + 0x70), (Rbx, 0x1000_feff)]), &preempted);
}

/// Three pids in two chains, the last one of another namespace alone.
fn hashed(damage: impl FnOnce(&mut Machine)) -> TaskList {
    let mut m = machine();
    m.symbol("pid_hash", HASH);
    m.symbol("pidhash_shift", HASH + 8);
    m.symbol("init_pid_ns", NAMESPACE);
    m.word(HASH, HASH + 0x100);
    m.word(HASH + 8, 1);
    let pid = |n: u32| TASK + 0x20_0000 + u64::from(n) * 0x100;
    for n in 1..=3 {
        let task = if n == 1 { TASK } else { TASK + u64::from(n) * 0x1000 };
        m.task(task, n, "task");
        m.pid(pid(n), task);
        let upid = m.at(pid(n), "pid", "numbers");
        m.set(upid, "upid", "ns", if n == 3 { NAMESPACE + 0x100 } else { NAMESPACE });
    }
    let link = |m: &Machine, n| m.at(m.at(pid(n), "pid", "numbers"), "upid", "pid_chain");
    let links = [1, 2, 3].map(|n| link(&m, n));
    m.word(HASH + 0x100, links[0]);
    m.word(links[0], links[1]);
    m.word(links[1], 0);
    m.word(HASH + 0x108, links[2]);
    m.word(links[2], 0);
    damage(&mut m);
    tasks::collect(&m.view(), &|_| Scanned::default())
}

#[test]
fn the_pid_hash_tells_tasks_that_no_list_has() {
    let pids = |list: &TaskList| list.all().iter().map(|t| t.pid).collect::<Vec<_>>();
    assert_eq!(pids(&hashed(|_| ())), [0, 1, 2]);
    let list = hashed(|m| m.word(HASH + 0x108, 0x1234));
    assert_eq!(pids(&list), [0, 1, 2]);
    let broken = "1 chains of the pid hash are damaged or not whole in the dump";
    assert!(list.remarks.iter().any(|r| r == broken), "{:?}", list.remarks);
    // A table that cannot be one.
    assert_eq!(pids(&hashed(|m| m.word(HASH + 8, 60))), [0]);
}
