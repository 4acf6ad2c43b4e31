//! Stacks that the kernel keeps once for all who have the same (`lib/stackdepot.c`).
//!
//! ```text
//!  handle      pool (since 6.9 and one) | offset in it, in 16 bytes | more
//!  the pools   an array of pointers, a variable (later a pointer to the array)
//!  a record    struct stack_record: ..., size, handle, entries[size]
//! ```
//!
//! A record knows its own handle. So what differs between kernels is tried, and the record
//! that has the handle is the right one.

use super::super::View;
use super::super::object::Object;
use crate::addr::VirtAddr;
use crate::bytes::u64_at;
use crate::debuginfo::Field;

/// `DEPOT_STACK_ALIGN`, before 6.3 `STACK_ALLOC_ALIGN`.
const ALIGN: u32 = 4;
/// Entries of one stack (`CONFIG_STACKDEPOT_MAX_FRAMES`).
const DEEPEST: u64 = 64;
/// The array of pools: its names since 6.3 and before.
const POOLS: [&str; 2] = ["stack_pools", "stack_slabs"];
/// Which pool, in a handle: since 6.10 (6.9 counts from one by the old name), 6.3, and before.
const POOL: [&str; 3] = ["pool_index_plus_1", "pool_index", "slabindex"];

/// The return addresses of the stack with this handle, the innermost first. `None` where it is
/// not found.
#[must_use]
pub(super) fn stack(view: &View, handle: u64) -> Option<Vec<VirtAddr>> {
    let handle = u32::try_from(handle).ok().filter(|&handle| handle != 0)?;
    let types = view.types();
    let part = |name: &str| bits(handle, types.field("handle_parts", name)?);
    let pool = POOL.into_iter().find_map(part)?;
    let offset = u64::from(part("offset")?) << ALIGN;
    // What other users of the depot keep for themselves in a handle is not in the record's.
    let extra = types.field("handle_parts", "extra").map_or(0, mask);
    let array = POOLS.into_iter().find_map(|name| view.symbol(name))?;
    let behind = view.space().read_u64(array).ok().map(VirtAddr);
    let indexes = [Some(pool), pool.checked_sub(1)];
    let arrays = [Some(array), behind.filter(|at| at.0 >= view.user_limit())];
    let places = arrays.into_iter().flatten().flat_map(|at| indexes.iter().flatten().map(move |i| (at, *i)));
    places.into_iter().find_map(|(array, index)| {
        let slot = array.checked_add(u64::from(index).checked_mul(8)?)?;
        let pool = VirtAddr(view.space().read_u64(slot).ok()?);
        let record = Object::new(view, "stack_record", pool.checked_add(offset)?);
        let own = u32::try_from(record.number("handle.handle").or_else(|| record.number("handle"))?).ok()?;
        if own & !extra != handle & !extra {
            return None;
        }
        let size = record.number("size").filter(|size| (1..=DEEPEST).contains(size))?;
        words(view, record.address("entries")?, size)
    })
}

/// `count` addresses, up to the first that is none of the kernel's.
#[must_use]
pub(super) fn words(view: &View, at: VirtAddr, count: u64) -> Option<Vec<VirtAddr>> {
    let count = usize::try_from(count.min(DEEPEST)).ok()?;
    let bytes = view.space().read_vec(at, count * 8).ok()?;
    let all = (0..count).filter_map(|i| u64_at(&bytes, i * 8));
    Some(all.take_while(|&at| at >= view.user_limit()).map(VirtAddr).collect())
}

/// The bits of a handle that `field` is.
fn mask(field: Field) -> u32 {
    let Some((start, width)) = field.bits else { return 0 };
    let low = u64::from(start).saturating_add(field.offset.saturating_mul(8)).min(32);
    let ones = (1u64 << width.min(32)) - 1;
    u32::try_from((ones << low) & u64::from(u32::MAX)).unwrap_or(0)
}

fn bits(handle: u32, field: Field) -> Option<u32> {
    let mask = mask(field);
    (mask != 0).then(|| (handle & mask) >> mask.trailing_zeros())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::tests::machine::{LIMIT, Machine};

    const ARRAY: u64 = LIMIT + 0xffff_0000_0000_0000;
    const POOL_AT: u64 = ARRAY + 0x1000;
    const CODE: u64 = ARRAY + 0x9000;

    /// A record of three entries in the second pool, 0x40 into it. Members as no kernel has
    /// them; the pool's number in the handle is the caller's.
    fn machine(pool_name: &'static str, pool_in_handle: u32) -> (Machine, u64) {
        let mut m = Machine::new();
        m.bit_field("handle_parts", pool_name, 0, 12);
        m.bit_field("handle_parts", "offset", 12, 10);
        m.bit_field("handle_parts", "extra", 27, 5);
        m.member("stack_record", "size", 0x08, 4);
        m.member("stack_record", "handle.handle", 0x0c, 4);
        m.member("stack_record", "entries", 0x20, 0);
        let handle = u64::from(pool_in_handle | 4 << 12);
        m.write(ARRAY, &[0; 0x40]);
        m.word(ARRAY + 8, POOL_AT);
        m.write(POOL_AT, &[0; 0x200]);
        m.set(POOL_AT + 0x40, "stack_record", "size", 3);
        m.set(POOL_AT + 0x40, "stack_record", "handle.handle", handle);
        for i in 0..3 {
            m.word(POOL_AT + 0x60 + i * 8, CODE + i);
        }
        (m, handle)
    }

    fn found(m: Machine, handle: u64) -> Option<Vec<u64>> {
        Some(stack(&m.view(), handle)?.into_iter().map(|at| at.0).collect())
    }

    #[test]
    fn a_stack_is_found_by_its_handle() {
        let all = vec![CODE, CODE + 1, CODE + 2];
        for (name, symbol, number) in [
            ("slabindex", "stack_slabs", 1),
            ("pool_index", "stack_pools", 1),
            ("pool_index", "stack_pools", 2),
        ] {
            let (mut m, handle) = machine(name, number);
            m.symbol(symbol, ARRAY);
            // A user's own bits are not the record's.
            assert_eq!(found(m, handle | 3 << 27), Some(all.clone()), "{name} {number}");
        }
        let (mut m, handle) = machine("pool_index_plus_1", 2);
        m.symbol("stack_pools", ARRAY - 0x100);
        m.word(ARRAY - 0x100, ARRAY);
        assert_eq!(found(m, handle), Some(all));
    }

    #[test]
    fn what_is_no_record_is_none() {
        let with = |change: &dyn Fn(&mut Machine, u64)| {
            let (mut m, handle) = machine("pool_index", 1);
            m.symbol("stack_pools", ARRAY);
            change(&mut m, handle);
            found(m, handle)
        };
        let record = POOL_AT + 0x40;
        assert_eq!(with(&|m, handle| m.set(record, "stack_record", "handle.handle", handle + 1)), None);
        assert_eq!(with(&|m, _| m.set(record, "stack_record", "size", 65)), None);
        assert_eq!(with(&|m, _| m.forget(POOL_AT, 0x1000)), None);
        assert_eq!(with(&|m, _| m.lose_member("handle_parts", "offset")), None);
        // Entries that are no addresses end it.
        assert_eq!(with(&|m, _| m.word(record + 0x28, 7)), Some(vec![CODE]));
        assert_eq!(found(machine("pool_index", 1).0, 0), None);
    }
}
