//! Disks with requests on their way, handlers of interrupts, and trees, sound and damaged.

use super::machine::Machine;
use crate::addr::VirtAddr;
use crate::linux::rbtree::RbTree;
use crate::linux::{disks, irqs};

const BASE: u64 = 0xffff_8880_0001_0000;
const SB: u64 = BASE;
const INODES: u64 = BASE + 0x1000;
const DISK: u64 = BASE + 0x2000;
const QUEUE: u64 = BASE + 0x3000;
const HARDWARE: u64 = BASE + 0x4000;
const TAGS: u64 = BASE + 0x5000;
const TABLE: u64 = BASE + 0x6000;
const REQUESTS: u64 = BASE + 0x7000;
const ARRAY: u64 = BASE + 0x8000;

/// Members as no kernel has them.
const MEMBERS: [(&str, &str, u64, u64); 20] = [
    ("super_block", "s_inodes", 0x10, 16),
    ("inode", "i_sb_list", 0x18, 16),
    ("bdev_inode", "vfs_inode", 0x40, 64),
    ("bdev_inode", "bdev", 0x08, 32),
    ("block_device", "bd_disk", 0x18, 8),
    ("gendisk", "disk_name", 0x08, 32),
    ("gendisk", "major", 0x30, 4),
    ("gendisk", "queue", 0x38, 8),
    ("request_queue", "nr_hw_queues", 0x04, 4),
    ("request_queue", "queue_hw_ctx", 0x10, 8),
    ("blk_mq_hw_ctx", "tags", 0x20, 8),
    ("blk_mq_tags", "nr_tags", 0x08, 4),
    ("blk_mq_tags", "rqs", 0x18, 8),
    ("request", "q", 0x08, 8),
    ("request", "cmd_flags", 0x10, 4),
    ("request", "state", 0x14, 4),
    ("request", "__sector", 0x18, 8),
    ("request", "__data_len", 0x20, 4),
    ("request", "start_time_ns", 0x28, 8),
    ("irq_desc", "irq_data.irq", 0x08, 4),
];

/// Two inodes of one disk, a whole and a partition; three requests, of which the second is on its way.
fn machine() -> Machine {
    let mut machine = Machine::new();
    for (ty, path, offset, size) in MEMBERS {
        machine.member(ty, path, offset, size);
    }
    for page in 0..9 {
        machine.write(BASE + page * 0x1000, &[0; 0x200]);
    }
    machine.symbol("blockdev_superblock", BASE + 0x9000);
    machine.word(BASE + 0x9000, SB);
    let links = [0u64, 0x100].map(|i| INODES + i + 0x40 + 0x18);
    machine.circle(SB + 0x10, &links);
    for i in [0, 0x100] {
        machine.word(INODES + i + 0x08 + 0x18, DISK);
    }
    machine.write(DISK + 0x08, b"vda\0");
    machine.set(DISK, "gendisk", "major", 254);
    machine.set(DISK, "gendisk", "queue", QUEUE);
    machine.set(HARDWARE, "blk_mq_hw_ctx", "tags", TAGS);
    machine.set(TAGS, "blk_mq_tags", "nr_tags", 4);
    machine.set(TAGS, "blk_mq_tags", "rqs", TABLE);
    for i in 0..3 {
        let at = REQUESTS + i * 0x40;
        machine.word(TABLE + i * 8, at);
        machine.set(at, "request", "q", QUEUE);
        machine.set(at, "request", "cmd_flags", 0x1_0001);
        machine.set(at, "request", "state", i % 2);
        machine.set(at, "request", "__sector", 2048 + i);
        machine.set(at, "request", "__data_len", 4096);
        machine.set(at, "request", "start_time_ns", 5);
    }
    machine
}

/// The hardware queues in an array.
fn with_array(queues: &[u64]) -> Machine {
    let mut machine = machine();
    machine.set(QUEUE, "request_queue", "nr_hw_queues", queues.len() as u64);
    machine.set(QUEUE, "request_queue", "queue_hw_ctx", ARRAY);
    for (i, &queue) in queues.iter().enumerate() {
        machine.word(ARRAY + i as u64 * 8, queue);
    }
    machine
}

/// Names of disks with the sectors of their requests, and what was not read.
fn met(machine: Machine) -> Vec<(String, Vec<u64>, usize)> {
    let (disks, lost) = disks::all(&machine.view()).unwrap();
    assert_eq!(lost, None);
    let sectors = |disk: &disks::Disk| disk.requests.iter().map(|r| r.sector.unwrap()).collect();
    disks.iter().map(|disk| (disk.name.clone().unwrap(), sectors(disk), disk.unread)).collect()
}

#[test]
fn a_request_that_the_driver_has_is_on_its_way() {
    let vda = |sectors: &[u64], unread| vec![("vda".to_owned(), sectors.to_vec(), unread)];
    assert_eq!(met(with_array(&[HARDWARE])), vda(&[2049], 0));
    // Queues may share their tags; a request counts once.
    assert_eq!(met(with_array(&[HARDWARE, HARDWARE])), vda(&[2049], 0));
    let (disks, _) = disks::all(&with_array(&[HARDWARE]).view()).unwrap();
    let request = &disks[0].requests[0];
    assert_eq!(
        (request.op, request.writes(), request.bytes, request.made),
        (Some(1), Some(true), Some(4096), Some(5))
    );

    // Disks may share tags, too: another's request is not this one's.
    let mut other = with_array(&[HARDWARE]);
    other.set(REQUESTS + 0x40, "request", "q", QUEUE + 8);
    assert_eq!(met(other), vda(&[], 0));

    let mut tree = machine();
    tree.member("request_queue", "hctx_table.xa_head", 0x20, 8);
    let root = tree.node(BASE + 0xa000, 0, &[(0, HARDWARE)]);
    tree.word(QUEUE + 0x20, root);
    assert_eq!(met(tree), vda(&[2049], 0));
}

#[test]
fn a_disk_that_is_damaged_is_told() {
    let mut no_table = with_array(&[HARDWARE]);
    no_table.forget(TABLE, 0x200);
    assert_eq!(met(no_table)[0].2, 4);
    let mut wild = with_array(&[HARDWARE]);
    wild.set(TAGS, "blk_mq_tags", "nr_tags", u64::from(u32::MAX));
    assert!(met(wild)[0].2 >= 1);
    let mut no_queue = with_array(&[HARDWARE]);
    no_queue.forget(ARRAY, 8);
    assert_eq!(met(no_queue)[0].2, 1);
    // Half of the list of inodes still has the disk, and it is said that the list is broken.
    let mut list = with_array(&[HARDWARE]);
    list.word(INODES + 0x40 + 0x18, 1);
    let (disks, lost) = disks::all(&list.view()).unwrap();
    assert!(disks.len() == 1 && lost.is_some());
    let none = Machine::new();
    assert!(disks::all(&none.view()).is_err());
}

/// The nodes of a tree by number, and whether some were lost.
fn nodes(children: &[(u64, u64, u64)]) -> (Vec<u64>, bool) {
    let at = |i: u64| if i == 0 { 0 } else { BASE + i * 0x20 };
    let mut machine = Machine::new();
    machine.member("rb_node", "rb_left", 0x08, 8);
    machine.member("rb_node", "rb_right", 0x00, 8);
    for &(node, left, right) in children {
        machine.word(at(node) + 8, at(left));
        machine.word(at(node), at(right));
    }
    let view = machine.view();
    let mut tree = RbTree::new(&view, Some(VirtAddr(at(1))), 5);
    let found = tree.by_ref().map(|node| (node.0 - BASE) / 0x20).collect();
    (found, tree.broken())
}

#[test]
fn a_red_black_tree_is_walked_in_order() {
    assert_eq!(nodes(&[(1, 2, 3), (2, 0, 4), (3, 0, 0), (4, 0, 0)]), (vec![2, 4, 1, 3], false));
    // A circle ends there, a node that is lost costs what is below it.
    assert_eq!(nodes(&[(1, 2, 3), (2, 1, 0), (3, 0, 1)]), (vec![2, 1, 3], true));
    assert_eq!(nodes(&[(1, 2, 3), (3, 0, 0)]), (vec![2, 1, 3], true));
    // More nodes than are believed.
    let chain: Vec<_> = (1..=9).map(|i| (i, 0, if i < 9 { i + 1 } else { 0 })).collect();
    assert_eq!(nodes(&chain), (vec![1, 2, 3, 4, 5], true));
}

#[test]
fn handlers_in_a_circle_are_each_told_once() {
    let mut machine = machine();
    machine.member("irq_desc", "action", 0x10, 8);
    machine.member("irqaction", "next", 0x08, 8);
    machine.member("maple_tree", "ma_root", 0x08, 8);
    machine.symbol("sparse_irqs", BASE + 0xb000);
    // A tree of one entry has no node.
    machine.word(BASE + 0xb008, BASE);
    machine.set(BASE, "irq_desc", "irq_data.irq", 9);
    machine.set(BASE, "irq_desc", "action", BASE + 0x1000);
    machine.set(BASE + 0x1000, "irqaction", "next", BASE + 0x2000);
    machine.set(BASE + 0x2000, "irqaction", "next", BASE + 0x1000);
    let view = machine.view();
    let (irqs, lost) = irqs::all(&view).unwrap();
    assert_eq!((irqs.len(), lost, irqs[0].number), (1, 0, Some(9)));
    assert_eq!(irqs[0].actions.len(), 2);
    assert_eq!((irqs[0].count(0), irqs[0].chip()), (None, None));
}
