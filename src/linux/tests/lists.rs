//! Lists and trees, whole and damaged.

use super::machine::Machine;
use crate::addr::VirtAddr;
use crate::linux::list::{Broken, List, both_ways};
use crate::linux::xarray::XArray;
use crate::linux::{View, modules};

const HEAD: u64 = 0xffff_8880_0000_0000;

/// Where the links of these elements are.
const LINK: u64 = 0x40;

fn element(i: u64) -> u64 {
    HEAD + 0x1000 * i
}

/// The links of elements 1 to `n`.
fn links(n: u64) -> Vec<u64> {
    (1..=n).map(|i| element(i) + LINK).collect()
}

fn walked(list: &mut List<'_>) -> Vec<u64> {
    list.map(|at| (at.0 - HEAD) / 0x1000).collect()
}

/// Elements met on a circle of five after `damage`, and how the walk ended.
fn of_five(damage: impl FnOnce(&mut Machine)) -> (Vec<u64>, Option<Broken>) {
    let mut machine = Machine::new();
    machine.circle(HEAD, &links(5));
    damage(&mut machine);
    let view = machine.view();
    let mut list = List::circular(&view, VirtAddr(HEAD), LINK, 100);
    let met = walked(&mut list);
    assert_eq!(list.next(), None, "an ended walk stays so");
    (met, list.broken())
}

#[test]
fn a_whole_list_ends_at_its_head() {
    assert_eq!(of_five(|_| ()), (vec![1, 2, 3, 4, 5], None));
    let mut machine = Machine::new();
    machine.circle(HEAD, &[]);
    let view = machine.view();
    assert_eq!(List::circular(&view, VirtAddr(HEAD), LINK, 100).next(), None);
}

#[test]
fn a_circle_that_misses_the_head_is_left() {
    let third = element(3) + LINK;
    for to in [1, 2, 3] {
        let met = of_five(|m| m.word(third, element(to) + LINK));
        assert_eq!(met, (vec![1, 2, 3], Some(Broken::Circle(element(to) + LINK))));
    }
}

#[test]
fn a_broken_link_ends_the_list_and_is_named() {
    let third = element(3) + LINK;
    for to in [0, 0x1234, u64::from(u32::MAX)] {
        let met = of_five(|m| m.word(third, to));
        assert_eq!(met, (vec![1, 2, 3], Some(Broken::Stray(VirtAddr(third), to))));
    }
    let (met, broken) = of_five(|m| m.forget(third, 8));
    assert_eq!(met, [1, 2, 3]);
    let text = broken.unwrap().to_string();
    assert!(text.starts_with(&format!("link {}: ", VirtAddr(third))), "{text}");
}

#[test]
fn steps_are_bounded_and_shared() {
    let mut machine = Machine::new();
    machine.circle(HEAD, &links(5));
    let view = machine.view();
    let whole = both_ways(&view, VirtAddr(HEAD), LINK, 7);
    assert_eq!((whole.elements.len(), whole.broken, whole.steps), (5, None, 2));
    let mut list = List::circular(&view, VirtAddr(HEAD), LINK, whole.steps);
    assert_eq!((walked(&mut list), list.broken()), (vec![1, 2], Some(Broken::TooLong)));
}

#[test]
fn a_broken_circle_is_walked_from_its_other_end() {
    let both = |damage: &dyn Fn(&mut Machine)| {
        let mut machine = Machine::new();
        machine.circle(HEAD, &links(5));
        damage(&mut machine);
        let walked = both_ways(&machine.view(), VirtAddr(HEAD), LINK, 100);
        let met: Vec<_> = walked.elements.iter().map(|at| (at.0 - HEAD) / 0x1000).collect();
        (met, walked.broken.is_some())
    };
    assert_eq!(both(&|_| ()), (vec![1, 2, 3, 4, 5], false));
    // One lost link costs nothing, two what lies between them.
    assert_eq!(both(&|m| m.forget(element(3) + LINK, 16)), (vec![1, 2, 3, 4, 5], true));
    let two = |m: &mut Machine| {
        m.forget(element(2) + LINK, 16);
        m.forget(element(4) + LINK, 16);
    };
    assert_eq!(both(&two), (vec![1, 2, 4, 5], true));
    // Backwards, too, no circle is endless.
    let mad = |m: &mut Machine| {
        m.word(element(1) + LINK, 0);
        m.word(element(4) + LINK + 8, element(5) + LINK);
    };
    assert_eq!(both(&mad), (vec![1, 4, 5], true));
    // The head itself.
    assert_eq!(both(&|m| m.forget(HEAD, 8)), (vec![1, 2, 3, 4, 5], true));
}

#[test]
fn a_chain_ends_with_null() {
    let mut machine = Machine::new();
    machine.word(HEAD, element(2) + LINK);
    machine.word(element(2) + LINK, element(1) + LINK);
    machine.word(element(1) + LINK, 0);
    let view = machine.view();
    let mut list = List::chain(&view, VirtAddr(HEAD), LINK, 100);
    assert_eq!((walked(&mut list), list.broken()), (vec![2, 1], None));
}

/// Elements that point to each other, as `file_system_type.next`.
#[test]
fn pointers_end_with_null_or_at_the_first() {
    let third = element(3) + LINK;
    let behind_first = |last: u64| {
        let mut machine = Machine::new();
        for i in [1, 2] {
            machine.word(element(i) + LINK, element(i + 1));
        }
        machine.word(third, last);
        let view = machine.view();
        let mut list = List::pointers(&view, VirtAddr(element(1)), LINK, 100);
        (walked(&mut list), list.broken())
    };
    assert_eq!(behind_first(0), (vec![2, 3], None));
    assert_eq!(behind_first(element(1)), (vec![2, 3], None));
    assert_eq!(behind_first(element(2)), (vec![2, 3], Some(Broken::Circle(element(2)))));
    assert_eq!(behind_first(7), (vec![2, 3], Some(Broken::Stray(VirtAddr(element(3)), 7))));
}

#[test]
fn a_circle_is_walked_backward() {
    let mut machine = Machine::new();
    machine.circle(HEAD, &links(4));
    let view = machine.view();
    let mut list = List::circular(&view, VirtAddr(HEAD), LINK, 100).backward();
    assert_eq!((walked(&mut list), list.broken()), (vec![4, 3, 2, 1], None));
}

fn entries(view: &View, root: u64) -> (Vec<(u64, u64)>, usize, Vec<VirtAddr>) {
    let mut tree = XArray::new(view, view.layout().xarray.unwrap(), root);
    let entries = tree.by_ref().collect();
    (entries, tree.unread, tree.again)
}

/// Three levels: indexes of 18 bits.
fn tree(machine: &mut Machine) -> u64 {
    let low = machine.node(HEAD, 0, &[(0, 0x8000), (63, 0x8008)]);
    let other = machine.node(HEAD + 0x1000, 0, &[(5, 0x8010), (6, 0x402)]);
    let middle = machine.node(HEAD + 0x2000, 6, &[(0, low), (2, other)]);
    let last = machine.node(HEAD + 0x3000, 6, &[(63, 0x8019)]);
    machine.node(HEAD + 0x4000, 12, &[(0, middle), (3, last)])
}

#[test]
fn an_xarray_of_three_levels_is_walked_in_order() {
    let mut machine = Machine::new();
    let root = tree(&mut machine);
    let view = machine.view();
    // The mark of a retry (0x402) is no entry; a value (0x8019) is one at any level.
    let wanted = [(0, 0x8000), (63, 0x8008), (2 << 6 | 5, 0x8010), (3 << 12 | 63 << 6, 0x8019)];
    assert_eq!(entries(&view, root), (wanted.to_vec(), 0, vec![]));
    assert_eq!(entries(&view, 0), (vec![], 0, vec![]));
    let place = |root, index| XArray::place(&view, view.layout().xarray.unwrap(), root, index);
    assert_eq!(place(root, 2 << 6 | 5), [0, 2, 5]);
    assert_eq!(place(root, 3 << 12 | 63 << 6), [3, 63, 0]);
    assert!(place(0x8000, 0).is_empty());
    assert_eq!(entries(&view, 0x8000).0, [(0, 0x8000)], "a tree of one entry has no node");
}

#[test]
fn what_is_damaged_in_an_xarray_is_counted() {
    let mut machine = Machine::new();
    let root = tree(&mut machine);
    machine.forget(HEAD + 0x1028, 512);
    // A node of its own height below itself: of its slots nothing is true.
    let high = machine.node(HEAD + 0x5000, 6, &[(0, 0x8020)]);
    machine.word(HEAD + 0x2028 + 8, high);
    machine.word(HEAD + 0x4028 + 63 * 8, root);
    let view = machine.view();
    let (found, unread, again) = entries(&view, root);
    assert_eq!(found.iter().map(|e| e.1).collect::<Vec<_>>(), [0x8000, 0x8008, 0x8019]);
    assert_eq!((unread, again), (2, vec![VirtAddr(root & !3)]));
}

#[test]
fn modules_come_newest_first_and_what_is_none_is_skipped() {
    let mut machine = Machine::new();
    machine.symbol("modules", HEAD);
    for (i, name) in [(1, "newest"), (2, "\u{1}"), (3, "oldest")] {
        machine.write(element(i), &[0; 0x80]);
        machine.write(machine.at(element(i), "module", "name"), name.as_bytes());
    }
    machine.circle(HEAD, &(1..=3).map(|i| element(i) + 8).collect::<Vec<_>>());
    let names: Vec<_> = modules::collect(&machine.view()).into_iter().map(|m| m.name).collect();
    assert_eq!(names, ["newest", "oldest"]);
}
