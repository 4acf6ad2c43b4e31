//! Walks by frame pointers over a made-up kernel as before 4.1.

use super::*;
use crate::addr::VirtAddr;
use crate::arch::Register::*;
use crate::arch::pt_regs;
use crate::linux::tasks;
use crate::linux::tests::machine::Machine;

const TEXT: u64 = 0xffff_ffff_8100_0000;
const TASK: u64 = 0xffff_8800_0100_0000;
const TOP: u64 = TASK + 0x10_4000;
const IRQ_TOP: u64 = 0xffff_8800_0300_4000;

const PAGE_FAULT: u64 = TEXT + 0x2000;
const TIMER: u64 = TEXT + 0x3000;
const FASTPATH: u64 = TEXT + 0x3100;
const FROM_FORK: u64 = TEXT + 0x3200;
/// Functions with frames, of 0x40 bytes each.
const HANDLER: u64 = TEXT + 0x100;
const SYSTEM_CALL: u64 = TEXT + 0x140;
const VICTIM: u64 = TEXT + 0x180;
/// One without.
const PUT_USER: u64 = TEXT + 0x200;

fn machine() -> Machine {
    let mut m = Machine::old();
    m.task(TASK, 7, "task");
    for top in [TOP, IRQ_TOP] {
        m.write(top - 0x4000, &[0; 0x4000]);
    }
    m.set(TASK, "task_struct", "mm", TASK + 0x8000);
    m.symbol("_text", TEXT);
    m.symbol("_etext", TEXT + 0x4000);
    for (name, at) in [("kprobes", PAGE_FAULT), ("entry", TIMER)] {
        m.symbol(if name == "entry" { "__entry_text_start" } else { "__kprobes_text_start" }, at);
        m.symbol(if name == "entry" { "__entry_text_end" } else { "__kprobes_text_end" }, at + 0x1000);
    }
    for (name, at) in [
        ("page_fault", PAGE_FAULT),
        ("apic_timer_interrupt", TIMER),
        ("system_call_fastpath", FASTPATH),
        ("ret_from_fork", FROM_FORK),
    ] {
        m.function(name, at, &[0x90; 0x80]);
    }
    let mut framed = vec![0x0f, 0x1f, 0x44, 0, 0, 0x55, 0x48, 0x89, 0xe5];
    framed.resize(0x40, 0x90);
    for (name, at) in [("handler", HANDLER), ("sys_wait", SYSTEM_CALL), ("victim", VICTIM)] {
        m.function(name, at, &framed);
    }
    // It calls put_user: the return address is 0x20 into it.
    let rel = PUT_USER.wrapping_sub(SYSTEM_CALL + 0x20).to_le_bytes();
    m.write(SYSTEM_CALL + 0x1b, &[0xe8]);
    m.write(SYSTEM_CALL + 0x1c, &rel[..4]);
    m.function("__put_user_4", PUT_USER, &[0x65, 0x48, 0x8b, 0x90, 0x90, 0xc3]);
    m.symbol("irq_stack_ptr", TEXT + 0x5000);
    m.word(TEXT + 0x5000, IRQ_TOP - 64);
    // The system call at the bottom of the stack.
    pt_regs(&mut m, TOP - 168, &[(Rip, 0x40_0000), (Rbx, FASTPATH + 0x16), (OrigRax, 61)]);
    m.set(TASK, "task_struct", "thread.usersp", 0x7fff_0000);
    frame(&mut m, TOP - 0x140, 0x7fff_1000, FASTPATH + 0x16);
    m
}

/// What a function with a frame at `bp` holds there.
fn frame(m: &mut Machine, bp: u64, caller: u64, pc: u64) {
    m.word(bp, caller);
    m.word(bp + 8, pc);
}

fn pt_regs(m: &mut Machine, at: u64, words: &[(Register, u64)]) {
    let plain = [(Cs, 0x10), (Eflags, 0x1_0246), (Ss, 0x18), (OrigRax, u64::MAX)];
    for (i, (register, _)) in (0u64..).zip(pt_regs::MEMBERS) {
        let value = words.iter().chain(&plain).find(|w| w.0 == register).map_or(0, |w| w.1);
        m.word(at + i * 8, value);
    }
}

/// pc, sp and kind of the frames of a walk from `pc`, `sp` and `bp`.
fn walked(m: Machine, pc: u64, sp: u64, bp: u64) -> (Vec<(u64, u64, FrameKind)>, End) {
    let kernel = m.kernel();
    let task = tasks::read(&kernel, VirtAddr(TASK)).unwrap();
    let regs = [(Rbp, bp)].into_iter().collect();
    let trace = walk(&kernel, &task, &Start { pc, sp, regs, exact: true });
    (trace.frames.iter().map(|f| (f.pc, f.sp, f.kind)).collect(), trace.end)
}

const USER: (u64, u64, FrameKind) = (0x40_0000, 0x7fff_0000, FrameKind::User);
const SYSCALL: (u64, u64, FrameKind) = (FASTPATH + 0x16, TOP - 0x130, FrameKind::Call);

#[test]
fn a_fault_within_a_fault_leads_back_to_user_mode() {
    let mut m = machine();
    // A fault in put_user, which keeps no frame, and one in the handler of that.
    let (outer, inner) = (TOP - 0x300, TOP - 0x500);
    m.word(TOP - 0x180, SYSTEM_CALL + 0x20);
    pt_regs(&mut m, outer, &[(Rip, PUT_USER + 4), (Rsp, TOP - 0x180), (Rbp, TOP - 0x140)]);
    frame(&mut m, outer - 16, TOP - 0x140, PAGE_FAULT + 40);
    pt_regs(&mut m, inner, &[(Rip, HANDLER + 0x20), (Rsp, outer - 0x40), (Rbp, outer - 16)]);
    frame(&mut m, inner - 16, outer - 16, PAGE_FAULT + 40);
    let (frames, end) = walked(m, HANDLER + 0x30, inner - 0x40, inner - 16);
    let wanted = [
        (HANDLER + 0x30, inner - 0x40, FrameKind::Regs),
        (PAGE_FAULT + 40, inner, FrameKind::Call),
        (HANDLER + 0x20, outer - 0x40, FrameKind::Regs),
        (PAGE_FAULT + 40, outer, FrameKind::Call),
        (PUT_USER + 4, TOP - 0x180, FrameKind::Regs),
        (SYSTEM_CALL + 0x20, TOP - 0x178, FrameKind::Call),
        SYSCALL,
        USER,
    ];
    assert_eq!((frames, end), (wanted.to_vec(), End::Complete));
}

#[test]
fn an_interrupt_is_left_by_the_word_above_its_return_address() {
    let build = |irq: u64| {
        let mut m = machine();
        let saved = TOP - 0x300;
        let regs = [(Rip, VICTIM + 0x20), (Rsp, TOP - 0x200), (Rbp, TOP - 0x1c0), (OrigRax, !0xef)];
        pt_regs(&mut m, saved, &regs);
        frame(&mut m, TOP - 0x1c0, TOP - 0x140, SYSTEM_CALL + 0x20);
        frame(&mut m, irq - 24, 0, TIMER + 0x6d);
        m.word(irq - 8, saved + 0x20);
        walked(m, HANDLER + 0x30, irq - 0x40, irq - 24)
    };
    // On the stack for interrupts, and where that was in use already.
    for irq in [IRQ_TOP - 64, TOP - 0x300 + 0x20] {
        let (frames, end) = build(irq);
        let wanted = [
            (HANDLER + 0x30, irq - 0x40, FrameKind::Regs),
            (TIMER + 0x6d, irq - 8, FrameKind::Call),
            (VICTIM + 0x20, TOP - 0x200, FrameKind::Regs),
            (SYSTEM_CALL + 0x20, TOP - 0x1b0, FrameKind::Call),
            SYSCALL,
            USER,
        ];
        assert_eq!((frames, end), (wanted.to_vec(), End::Complete));
    }
}

#[test]
fn what_cannot_be_a_pt_regs_is_not_taken_for_one() {
    let saved = TOP - 0x300;
    let good = [(Rip, VICTIM + 0x20), (Rsp, TOP - 0x200), (Rbp, TOP - 0x140)];
    for bad in [(Cs, 0x18), (Eflags, 0), (Eflags, 1 << 40 | 2), (Ss, 0x33), (Rsp, 0x1000)] {
        let mut m = machine();
        pt_regs(&mut m, saved, &[&[bad], &good[..]].concat());
        frame(&mut m, saved - 16, 0x1, PAGE_FAULT + 40);
        let (frames, _) = walked(m, HANDLER + 0x30, saved - 0x40, saved - 16);
        assert!(frames.iter().all(|f| f.0 != VICTIM + 0x20), "{bad:x?}: {frames:x?}");
    }
}

#[test]
fn a_function_without_its_frame_yet_has_its_caller() {
    // At the tracer's nop, at push, at mov, within: the caller is the same.
    for (offset, sp) in [(0, TOP - 0x148 - 0x20), (5, TOP - 0x168), (6, TOP - 0x170), (0x20, TOP - 0x190)] {
        let mut m = machine();
        m.word(TOP - 0x168, SYSTEM_CALL + 0x18);
        m.word(TOP - 0x170, TOP - 0x140);
        let bp = if offset == 0x20 { TOP - 0x170 } else { TOP - 0x140 };
        let (frames, end) = walked(m, VICTIM + offset, sp, bp);
        let wanted = [
            (VICTIM + offset, sp, FrameKind::Regs),
            (SYSTEM_CALL + 0x18, TOP - 0x160, FrameKind::Call),
            SYSCALL,
            USER,
        ];
        assert_eq!((frames, end), (wanted.to_vec(), End::Complete), "{offset:#x}");
    }
    // A call of nothing.
    let mut m = machine();
    m.word(TOP - 0x168, SYSTEM_CALL + 0x18);
    let (frames, _) = walked(m, 0, TOP - 0x168, TOP - 0x140);
    assert_eq!(frames[1..], [(SYSTEM_CALL + 0x18, TOP - 0x160, FrameKind::Call), SYSCALL, USER]);
}

#[test]
fn a_kernel_thread_ends_where_it_began() {
    let mut m = machine();
    m.set(TASK, "task_struct", "mm", 0);
    // rbp of ret_from_fork is the thread's argument, on somebody's stack.
    frame(&mut m, TOP - 0x100, TOP - 0x50, FROM_FORK + 0x7c);
    frame(&mut m, TOP - 0x50, 0, VICTIM + 0x20);
    let (frames, end) = walked(m, VICTIM + 0x20, TOP - 0x140, TOP - 0x100);
    assert_eq!(frames[1..], [(FROM_FORK + 0x7c, TOP - 0xf0, FrameKind::Call)]);
    assert_eq!(end, End::Complete);
}

/// A chain that leads nowhere is no whole stack, though user mode's registers are known.
#[test]
fn a_broken_chain_is_said_to_be_broken() {
    let mut m = machine();
    frame(&mut m, TOP - 0x200, 0x1234, VICTIM + 0x20);
    let (frames, end) = walked(m, HANDLER + 0x30, TOP - 0x240, TOP - 0x200);
    assert_eq!((frames.len(), end), (2, End::NoRule));
}
