//! The mappings of a process: the maple tree, and the list before it.

use super::machine::Machine;
use crate::addr::VirtAddr;
use crate::linux::maple::Maple;
use crate::linux::vmas;

const MM: u64 = 0xffff_8880_0001_0000;
const NODE: u64 = 0xffff_8880_0002_0000;
const AREA: u64 = 0xffff_8880_0004_0000;

fn machine() -> Machine {
    let mut machine = Machine::new();
    machine.member("mm_struct", "map_count", 0x20, 4);
    machine.member("vm_area_struct", "vm_start", 0x08, 8);
    machine.member("vm_area_struct", "vm_end", 0x00, 8);
    machine.member("vm_area_struct", "vm_flags", 0x18, 8);
    machine.write(MM, &[0; 0x100]);
    machine
}

/// Area `i`, of one page.
fn area(machine: &mut Machine, i: u64) -> u64 {
    let at = AREA + i * 0x100;
    machine.set(at, "vm_area_struct", "vm_start", 0x1000 * i);
    machine.set(at, "vm_area_struct", "vm_end", 0x1000 * (i + 1));
    machine.set(at, "vm_area_struct", "vm_flags", i);
    at
}

/// The areas met, by number, and how many the kernel counted.
fn met(machine: Machine) -> (Vec<u64>, Option<u64>) {
    let found = vmas::of(&machine.view(), VirtAddr(MM));
    (found.list.iter().map(|v| v.start >> 12).collect(), found.counted)
}

fn with_list() -> Machine {
    let mut machine = machine();
    machine.member("mm_struct", "mmap", 0x28, 8);
    machine.member("vm_area_struct", "vm_next", 0x20, 8);
    machine.set(MM, "mm_struct", "map_count", 3);
    let areas: Vec<u64> = (1..=3).map(|i| area(&mut machine, i)).collect();
    machine.set(MM, "mm_struct", "mmap", areas[0]);
    for (i, &at) in areas.iter().enumerate() {
        machine.set(at, "vm_area_struct", "vm_next", areas.get(i + 1).copied().unwrap_or(0));
    }
    machine
}

#[test]
fn a_list_of_mappings_is_walked_to_its_end() {
    assert_eq!(met(with_list()), (vec![1, 2, 3], Some(3)));
    // A circle ends, too; a lost link tells by the kernel's count.
    let mut circle = with_list();
    circle.set(AREA + 0x300, "vm_area_struct", "vm_next", AREA + 0x100);
    assert_eq!(met(circle), (vec![1, 2, 3], Some(3)));
    let mut lost = with_list();
    lost.forget(AREA + 0x200, 0x100);
    assert_eq!(met(lost), (vec![1], Some(3)));
}

/// A root of three slots over leaves of 16, 15 and 2 slots. What lies behind the last pivot
/// of a node that is not full is no slot.
fn with_tree() -> Machine {
    let mut machine = machine();
    machine.member("mm_struct", "mm_mt.ma_root", 0x28, 8);
    machine.member("maple_range_64", "pivot", 0x08, 15 * 8);
    machine.member("maple_range_64", "slot", 0x80, 16 * 8);
    machine.member("maple_arange_64", "pivot", 0x08, 9 * 8);
    machine.member("maple_arange_64", "slot", 0x50, 10 * 8);
    machine.set(MM, "mm_struct", "map_count", 30);
    for at in [NODE, NODE + 0x100, NODE + 0x200, NODE + 0x300] {
        machine.write(at, &[0; 0x100]);
    }
    let (arange, leaf) = (3 << 3, 1 << 3);
    // By MAPLE_ENODE_NULL a pointer below the root has bit 2.
    let ends = [0xffff, 0x1_ffff, u64::MAX];
    for (i, end) in (0u64..).zip(ends) {
        machine.word(NODE + 8 + i * 8, end);
        machine.word(NODE + 0x50 + i * 8, (NODE + 0x100 * (i + 1)) | leaf | 4);
    }
    machine.set(MM, "mm_struct", "mm_mt.ma_root", NODE | arange | 2);
    let mut slot = |leaf: u64, i: u64, number: Option<u64>, end: u64| {
        let entry = number.map_or(0, |n| area(&mut machine, n));
        let node = NODE + 0x100 * leaf;
        if i < 15 {
            machine.word(node + 8 + i * 8, end);
        }
        machine.word(node + 0x80 + i * 8, entry);
    };
    // Full: the last slot has no pivot.
    for i in 0..16 {
        slot(1, i, Some(i), 0x1000 * (i + 1) - 1);
    }
    // Fifteen slots, of which some are gaps; what tells the node's end lies in the sixteenth.
    for i in 0..15 {
        let end = if i == 14 { 0x1_ffff } else { 0x1_0fff + 0x1000 * i };
        slot(2, i, (i % 3 != 0).then_some(16 + i), end);
    }
    slot(2, 15, Some(50), 0);
    // Behind the last pivot is what an older state left.
    slot(3, 0, Some(32), 0x2_0fff);
    slot(3, 1, None, u64::MAX);
    slot(3, 2, Some(60), 0);
    machine
}

#[test]
fn a_tree_of_mappings_is_walked_by_its_pivots() {
    let expected: Vec<u64> =
        (0..16).chain((0..15).filter(|i| i % 3 != 0).map(|i| 16 + i)).chain([32]).collect();
    assert_eq!(met(with_tree()), (expected.clone(), Some(30)));

    let root = NODE | 3 << 3 | 2;
    let view = with_tree().view();
    let tree = Maple::with_places(&view, root);
    let places = tree.places.unwrap();
    assert_eq!((places.len(), places.len()), (tree.entries.len(), expected.len()));
    assert_eq!((&places[15], &places[16], &places[26]), (&vec![0, 15], &vec![1, 1], &vec![2, 0]));

    let mut lost = with_tree();
    lost.forget(NODE + 0x200, 0x100);
    let rest: Vec<u64> = expected.iter().copied().filter(|&i| !(16..32).contains(&i)).collect();
    assert_eq!(met(lost).0, rest);

    // A node that is its own child.
    let mut circle = with_tree();
    circle.word(NODE + 0x58, NODE | 3 << 3 | 4);
    assert_eq!(met(circle).0, rest);

    // One mapping hangs in the root itself.
    let mut single = with_tree();
    single.set(MM, "mm_struct", "mm_mt.ma_root", AREA + 0x500);
    assert_eq!(met(single).0, [5]);
}
