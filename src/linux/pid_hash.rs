//! The pid hash of kernels before 4.15 (95846ecf9dac made it an idr).
//!
//! `pid_hash` points to `1 << pidhash_shift` chains of `struct upid`, one for each
//! namespace that a `struct pid` is known in; those of the initial namespace are the
//! first of their pid's `numbers`. Source: `kernel/pid.c`, `include/linux/pid.h`.

use super::View;
use super::list::List;
use super::object::Object;
use crate::addr::VirtAddr;

/// Chains that are believed: `alloc_large_system_hash` was given 2^12 to 2^18 of them.
const MAX_SHIFT: u32 = 20;

/// Walks the hash: gives each `struct pid` of the initial namespace to `found`, and how
/// many chains were not whole back. `None` where there is no such hash.
pub(super) fn walk(view: &View, max: usize, mut found: impl FnMut(VirtAddr)) -> Option<usize> {
    let (table, shift) = (view.symbol("pid_hash")?, view.symbol("pidhash_shift")?);
    let table = VirtAddr(view.space().read_u64(table).ok().filter(|&at| at >= view.user_limit())?);
    let shift = view.space().read_u32(shift).ok().filter(|&n| n <= MAX_SHIFT)?;
    let chain = view.types().field("upid", "pid_chain")?;
    let numbers = view.types().field("pid", "numbers")?;
    let initial = view.symbol("init_pid_ns")?;
    let (mut broken, mut left) = (0, max);
    for i in 0..1u64 << shift {
        let mut upids = List::chain(view, table.checked_add(i * 8)?, chain.offset, left);
        for upid in upids.by_ref() {
            if Object::new(view, "upid", upid).pointer("ns") == Some(initial) {
                found(VirtAddr(upid.0.wrapping_sub(numbers.offset)));
            }
        }
        left = upids.steps_left();
        broken += usize::from(upids.broken().is_some());
    }
    Some(broken)
}
