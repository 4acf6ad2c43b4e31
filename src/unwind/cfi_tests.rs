//! Walks over a made-up kernel that is told by the compiler's rules alone.

use super::*;
use crate::arch::Register::*;
use crate::debuginfo::cfi::tests::file;
use crate::linux::tasks;
use crate::linux::tests::machine::Machine;

const TEXT: u64 = 0xffff_ffff_8100_0000;
const TASK: u64 = 0xffff_8800_0100_0000;
const TOP: u64 = TASK + 0x10_4000;
/// Calls `LEAF` through a pointer, with two words between its frame and rsp.
const OUTER: u64 = TEXT + 0x100;
const LEAF: u64 = TEXT + 0x200;

fn walked(mut m: Machine) -> (Vec<(u64, u64, By)>, End) {
    m.task(TASK, 7, "task");
    m.write(TOP - 0x4000, &[0; 0x4000]);
    m.symbol("_text", TEXT);
    m.symbol("_etext", TEXT + 0x4000);
    for (name, at) in [("leaf", LEAF), ("outer", OUTER)] {
        m.function(name, at, &[0x90; 0x20]);
    }
    m.word(TOP - 0x100, 1);
    m.word(TOP - 0xf8, OUTER + 0x10);
    m.word(TOP - 0xd8, TEXT + 0x310);
    let rules = file(&[(OUTER, &[0x0e, 32]), (LEAF, &[0x0e, 16])]);
    let kernel = m.kernel_with(rules);
    let task = tasks::read(&kernel, VirtAddr(TASK)).unwrap();
    let regs = [(Rbp, 0x7fff_0000)].into_iter().collect();
    let trace = walk(&kernel, &task, &Start { pc: LEAF + 8, sp: TOP - 0x100, regs, exact: true });
    (trace.frames.iter().map(|f| (f.pc, f.sp, f.by)).collect(), trace.end)
}

const FIRST: (u64, u64, By) = (LEAF + 8, TOP - 0x100, By::Registers);
const SECOND: (u64, u64, By) = (OUTER + 0x10, TOP - 0xf0, By::Cfi);

/// Nothing but the rules leads there: no call of its own name, no frame pointer.
#[test]
fn a_hole_of_orc_is_crossed() {
    let mut m = Machine::new();
    m.symbol("__start_orc_unwind", TEXT + 0x3000);
    let (frames, end) = walked(m);
    assert_eq!(frames, [FIRST, SECOND, (TEXT + 0x310, TOP - 0xd0, By::Cfi)]);
    assert_eq!(end, End::NoRule);
}

/// The entry of 32-bit programs has neither, but stands where the user's registers lie.
#[test]
fn an_entry_without_rules_ends_in_user_mode() {
    let walked = |sp: u64, cs: u64| {
        let mut m = Machine::new();
        m.symbol("__start_orc_unwind", TEXT + 0x3000);
        m.task(TASK, 7, "task");
        m.set(TASK, "task_struct", "mm", TASK + 0x8000);
        m.write(TOP - 0x4000, &[0; 0x4000]);
        m.symbol("_text", TEXT);
        m.symbol("_etext", TEXT + 0x4000);
        m.function("entry_INT80_compat", LEAF, &[0x90; 0x20]);
        // ip, cs, flags, sp, ss: the last five words.
        for (n, word) in (0u64..).zip([0x804_9000, cs, 0x246, 0xffff_d000, 0x2b]) {
            m.word(TOP - 40 + n * 8, word);
        }
        let kernel = m.kernel();
        let task = tasks::read(&kernel, VirtAddr(TASK)).unwrap();
        let trace = walk(&kernel, &task, &Start { pc: LEAF + 8, sp, ..Start::default() });
        (trace.frames.last().map(|f| (f.pc, f.kind, f.by)), trace.end)
    };
    let user = (0x804_9000, FrameKind::User, By::Entry);
    assert_eq!(walked(TOP - 168, 0x23), (Some(user), End::Complete));
    // Elsewhere, or where what lies there is not a user's.
    assert_eq!(walked(TOP - 160, 0x23).1, End::NoRule);
    assert_eq!(walked(TOP - 168, 0x10).1, End::NoRule);
}

#[test]
fn an_interrupted_function_without_a_frame_has_its_caller() {
    let (frames, _) = walked(Machine::old());
    assert_eq!(frames[..2], [FIRST, SECOND]);
}
