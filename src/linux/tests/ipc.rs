//! System V IPC of a made-up machine, whole and damaged.

use super::machine::Machine;
use crate::addr::VirtAddr;
use crate::linux::ipc::{self, Pages};

const NS: u64 = 0xffff_8880_0001_0000;
const NODE: u64 = NS + 0x1000;
const SHM: u64 = NS + 0x2000;
const SEM: u64 = NS + 0x3000;
const MSG: u64 = NS + 0x4000;
const FILE: u64 = NS + 0x5000;
const INODE: u64 = NS + 0x6000;
const MAPPING: u64 = NS + 0x7000;
const OPS: u64 = NS + 0x8000;

/// Members as no kernel has them.
const MEMBERS: [(&str, &str, u64, u64); 22] = [
    ("ipc_namespace", "ids", 0x20, 0x120),
    ("ipc_ids", "ipcs_idr.idr_rt.xa_head", 0x18, 8),
    ("kern_ipc_perm", "key", 0x04, 4),
    ("kern_ipc_perm", "id", 0x08, 4),
    ("kern_ipc_perm", "uid.val", 0x0c, 4),
    ("kern_ipc_perm", "mode", 0x10, 2),
    ("shmid_kernel", "shm_perm", 0x40, 0x20),
    ("shmid_kernel", "shm_segsz", 0x00, 8),
    ("shmid_kernel", "shm_nattch", 0x08, 8),
    ("shmid_kernel", "shm_file", 0x10, 8),
    ("sem_array", "sem_perm", 0x00, 0x20),
    ("sem_array", "sem_nsems", 0x28, 4),
    ("msg_queue", "q_perm", 0x08, 0x20),
    ("msg_queue", "q_cbytes", 0x30, 8),
    ("msg_queue", "q_qnum", 0x38, 8),
    ("file", "f_inode", 0x20, 8),
    ("inode", "i_op", 0x08, 8),
    ("inode", "i_mapping", 0x10, 8),
    ("address_space", "nrpages", 0x18, 8),
    ("shmem_inode_info", "vfs_inode", 0x40, 0x100),
    ("shmem_inode_info", "alloced", 0x08, 8),
    ("shmem_inode_info", "swapped", 0x10, 8),
];

/// Where the namespace has the root of a table.
fn root(table: u64) -> u64 {
    NS + 0x20 + table * 0x60 + 0x18
}

/// A segment that is to go and is locked, two sets of semaphores, a queue.
fn machine() -> Machine {
    let mut m = Machine::new();
    for (ty, path, offset, size) in MEMBERS {
        m.member(ty, path, offset, size);
    }
    m.size("ipc_ids", 0x60);
    m.symbol("shmem_inode_operations", OPS);
    for page in 0..9 {
        m.write(NS + page * 0x1000, &[0; 0x300]);
    }
    // One object hangs in the table itself; more of them in a node, by the index of their IDs.
    m.word(root(2), SHM + 0x40);
    m.word(root(0), NODE | 2);
    m.word(NODE + 0x28, SEM);
    m.word(NODE + 0x28 + 8, SEM + 0x100);
    perm(&mut m, SHM + 0x40, [0x1234_5678, 32769, 1000, 0o3640]);
    m.set(SHM, "shmid_kernel", "shm_segsz", 90_000);
    m.set(SHM, "shmid_kernel", "shm_nattch", 3);
    m.set(SHM, "shmid_kernel", "shm_file", FILE);
    m.set(FILE, "file", "f_inode", INODE + 0x40);
    m.set(INODE + 0x40, "inode", "i_op", OPS);
    m.set(INODE + 0x40, "inode", "i_mapping", MAPPING);
    m.set(MAPPING, "address_space", "nrpages", 5);
    m.set(INODE, "shmem_inode_info", "alloced", 7);
    m.set(INODE, "shmem_inode_info", "swapped", 2);
    perm(&mut m, SEM, [0, 0, 0, 0o600]);
    m.set(SEM, "sem_array", "sem_nsems", 4);
    perm(&mut m, SEM + 0x100, [0, 1, 0, 0o600]);
    m.word(root(1), MSG + 0x08);
    perm(&mut m, MSG + 0x08, [7, 0, 0, 0o600]);
    m.set(MSG, "msg_queue", "q_cbytes", 300);
    m.set(MSG, "msg_queue", "q_qnum", 3);
    m
}

fn perm(m: &mut Machine, at: u64, [key, id, uid, mode]: [u64; 4]) {
    for (member, value) in [("key", key), ("id", id), ("uid.val", uid), ("mode", mode)] {
        m.set(at, "kern_ipc_perm", member, value);
    }
}

#[test]
fn each_table_has_its_own() {
    let view = machine().view();
    let memory = ipc::memory(&view, VirtAddr(NS)).unwrap();
    assert_eq!((memory.objects.len(), memory.lost), (1, None));
    let segment = &memory.objects[0];
    let common = &segment.common;
    assert_eq!(
        (common.at, common.key, common.id, common.uid, common.perms),
        (VirtAddr(SHM), Some(0x1234_5678), Some(32769), Some(1000), Some(0o640))
    );
    assert_eq!((segment.bytes, segment.attached), (Some(90_000), Some(3)));
    assert_eq!((segment.destroyed, segment.locked), (true, true));
    assert_eq!(segment.pages, Some(Pages { allocated: 7, resident: 5, swapped: 2 }));
    let semaphores = ipc::semaphores(&view, VirtAddr(NS)).unwrap();
    let told: Vec<_> = semaphores.objects.iter().map(|s| (s.common.id, s.semaphores)).collect();
    assert_eq!((told, semaphores.lost), (vec![(Some(0), Some(4)), (Some(1), Some(0))], None));
    let queues = ipc::messages(&view, VirtAddr(NS)).unwrap();
    let told: Vec<_> = queues.objects.iter().map(|q| (q.common.at, q.bytes, q.messages)).collect();
    assert_eq!((told, queues.lost), (vec![(VirtAddr(MSG), Some(300), Some(3))], None));
    let mut m = machine();
    m.word(root(1), 0);
    let queues = ipc::messages(&m.view(), VirtAddr(NS)).unwrap();
    assert!(queues.objects.is_empty() && queues.lost.is_none());
}

/// Pages are counted by tmpfs alone: hugetlbfs has other inodes.
#[test]
fn what_is_no_tmpfs_has_no_pages() {
    let mut m = machine();
    m.set(INODE + 0x40, "inode", "i_op", OPS + 8);
    let memory = ipc::memory(&m.view(), VirtAddr(NS)).unwrap();
    assert_eq!((memory.objects[0].inode, memory.objects[0].pages), (Some(VirtAddr(INODE + 0x40)), None));
}

#[test]
fn a_broken_table_gives_what_there_is() {
    let mut m = machine();
    m.word(NODE + 0x28, 0x1234_5678);
    let view = m.view();
    let semaphores = ipc::semaphores(&view, VirtAddr(NS)).unwrap();
    assert_eq!((semaphores.objects.len(), semaphores.lost), (1, Some("some cannot be read")));
    let mut m = machine();
    m.word(NODE + 0x28, NODE | 2);
    assert!(ipc::semaphores(&m.view(), VirtAddr(NS)).unwrap().lost.is_some());
    // The namespace lies in a page that is lost, and so does an object.
    let mut m = machine();
    m.forget(SEM, 0x300);
    let semaphores = ipc::semaphores(&m.view(), VirtAddr(NS)).unwrap();
    assert_eq!((semaphores.objects.len(), semaphores.lost), (0, Some("some cannot be read")));
    let mut m = machine();
    m.forget(NS, 0x300);
    assert_eq!(ipc::messages(&m.view(), VirtAddr(NS)).unwrap().lost, Some("cannot be read"));
}
