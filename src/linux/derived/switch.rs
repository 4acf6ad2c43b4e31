//! What `__switch_to_asm` leaves on the stack of a task that is switched out (4.9 and later):
//! six registers and a return address, from 5.1 to 5.7 (6690e86be83a) with the flags below.

use super::super::layout::SWITCH_FRAME;
use super::{Derived, Sample};
use crate::debuginfo::symbols::SymbolTable;

/// Finds out whether the flags are there: by where the return addresses are.
pub(super) fn find(
    tasks: &[&Sample],
    sp: usize,
    word: &dyn Fn(u64) -> Option<u64>,
    symbols: &SymbolTable,
    out: &mut Derived,
) {
    // Where a task goes on: in the scheduler, or where every task begins.
    let returns = |at: u64| {
        symbols.by_address(at).is_some_and(|(symbol, _)| {
            ["__schedule", "schedule", "ret_from_fork", "ret_from_fork_asm", "__switch_to_asm"].iter().any(
                |name| {
                    symbol.name == *name || symbol.name.strip_prefix(name).is_some_and(|r| r.starts_with('.'))
                },
            )
        })
    };
    let hits = |flags: u64| {
        let at = |task: &&&Sample| task.word(sp)?.checked_add((6 + flags) * 8);
        tasks.iter().filter(|task| at(task).and_then(word).is_some_and(returns)).count()
    };
    // Those that were running when they were sampled hold what is older.
    let Some(flags) = [0, 1].into_iter().find(|&flags| hits(flags) * 4 >= tasks.len() * 3) else { return };
    out.sizes.insert("inactive_task_frame", (7 + flags) * 8);
    for (i, (_, name)) in (flags..).zip(SWITCH_FRAME) {
        out.put("inactive_task_frame", name, i * 8, 8);
    }
}
