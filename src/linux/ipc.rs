//! System V IPC: the shared memory, semaphores and message queues of a namespace.
//!
//! A namespace has three tables (`ids`), each an IDR of objects that begin with a
//! `struct kern_ipc_perm`. A segment's memory is a file without a name, of tmpfs or of
//! hugetlbfs. Sources: `include/linux/ipc_namespace.h`, `ipc/util.h`, `ipc/shm.c`,
//! `ipc/sem.c`, `ipc/msg.c`, `include/linux/shmem_fs.h`.

use serde::Serialize;

use super::object::Object;
use super::xarray::XArray;
use super::{Task, View};
use crate::addr::VirtAddr;

/// Objects of one table (2^15, `IPCMNI`, unless `ipcmni_extend` was given).
const MOST: usize = 1 << 18;
/// Permissions in `mode`.
const PERMISSIONS: u64 = 0o777;
/// `SHM_DEST`, `SHM_LOCKED` of `mode`.
const DESTROYED: u64 = 0o1000;
const LOCKED: u64 = 0o2000;

/// Which table: its place in `ipc_namespace.ids`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Semaphores = 0,
    Messages = 1,
    Memory = 2,
}

impl Kind {
    /// The structure, and its member that the table leads to.
    fn structure(self) -> (&'static str, &'static str) {
        match self {
            Self::Semaphores => ("sem_array", "sem_perm"),
            Self::Messages => ("msg_queue", "q_perm"),
            Self::Memory => ("shmid_kernel", "shm_perm"),
        }
    }
}

/// What all three have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Common {
    pub(crate) at: VirtAddr,
    pub(crate) key: Option<u64>,
    pub(crate) id: Option<u64>,
    pub(crate) uid: Option<u64>,
    /// As `chmod` takes them.
    pub(crate) perms: Option<u64>,
}

/// A segment of shared memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Memory {
    #[serde(flatten)]
    pub(crate) common: Common,
    pub(crate) bytes: Option<u64>,
    pub(crate) attached: Option<u64>,
    /// It goes with the last that detaches.
    pub(crate) destroyed: bool,
    /// It is never swapped out.
    pub(crate) locked: bool,
    pub(crate) inode: Option<VirtAddr>,
    pub(crate) pages: Option<Pages>,
}

/// What of a segment there is: tmpfs counts a page that is resident or swapped as allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Pages {
    pub(crate) allocated: u64,
    pub(crate) resident: u64,
    pub(crate) swapped: u64,
}

/// A set of semaphores.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Semaphores {
    #[serde(flatten)]
    pub(crate) common: Common,
    pub(crate) semaphores: Option<u64>,
}

/// A queue of messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Messages {
    #[serde(flatten)]
    pub(crate) common: Common,
    pub(crate) bytes: Option<u64>,
    pub(crate) messages: Option<u64>,
}

/// The objects of one table.
#[derive(Debug)]
pub(crate) struct Table<T> {
    pub(crate) objects: Vec<T>,
    /// What of it could not be followed.
    pub(crate) lost: Option<&'static str>,
}

/// The namespace that a task is in, `None` for one that has ended or cannot be read.
#[must_use]
pub(crate) fn namespace(view: &View, task: &Task) -> Option<VirtAddr> {
    Object::new(view, "task_struct", task.addr).follow("nsproxy", "nsproxy")?.pointer("ipc_ns")
}

/// Segments of the namespace at `ns`. `None` where the types do not tell.
#[must_use]
pub(crate) fn memory(view: &View, ns: VirtAddr) -> Option<Table<Memory>> {
    table(view, ns, Kind::Memory, |object, common, mode| {
        let file = object.follow("shm_file", "file");
        let inode = file.and_then(|file| file.follow("f_inode", "inode"));
        Memory {
            common,
            bytes: object.number("shm_segsz"),
            attached: object.number("shm_nattch"),
            destroyed: mode & DESTROYED != 0,
            locked: mode & LOCKED != 0,
            inode: inode.map(|inode| inode.base),
            pages: inode.filter(|inode| is_tmpfs(view, inode)).and_then(|inode| pages(view, &inode)),
        }
    })
}

/// Sets of semaphores of the namespace at `ns`.
#[must_use]
pub(crate) fn semaphores(view: &View, ns: VirtAddr) -> Option<Table<Semaphores>> {
    table(view, ns, Kind::Semaphores, |object, common, _| Semaphores {
        common,
        semaphores: object.number("sem_nsems"),
    })
}

/// Queues of messages of the namespace at `ns`.
#[must_use]
pub(crate) fn messages(view: &View, ns: VirtAddr) -> Option<Table<Messages>> {
    table(view, ns, Kind::Messages, |object, common, _| Messages {
        common,
        bytes: object.number("q_cbytes"),
        messages: object.number("q_qnum"),
    })
}

fn table<T>(
    view: &View,
    ns: VirtAddr,
    kind: Kind,
    of: impl Fn(&Object<'_>, Common, u64) -> T,
) -> Option<Table<T>> {
    let layout = view.layout().xarray?;
    let types = view.types();
    let one = types.size_of("ipc_ids").filter(|&size| size > 0)?;
    let first = Object::new(view, "ipc_namespace", ns).address("ids")?;
    let ids = Object::new(view, "ipc_ids", first.checked_add(one.checked_mul(kind as u64)?)?);
    // The radix tree became the xarray in 4.20. What is before 4.11 is another tree.
    let root = ["ipcs_idr.idr_rt.xa_head", "ipcs_idr.idr_rt.rnode"];
    let root = root.into_iter().find(|path| ids.field(path).is_some())?;
    let Some(root) = ids.number(root) else {
        return Some(Table { objects: Vec::new(), lost: Some("cannot be read") });
    };
    let (structure, member) = kind.structure();
    let inside = types.field(structure, member)?.offset;
    let (mut objects, mut unread) = (Vec::new(), false);
    let mut tree = XArray::new(view, layout, root);
    for (_, entry) in tree.by_ref().take(MOST) {
        let at = VirtAddr(entry.wrapping_sub(inside));
        let perm = Object::new(view, "kern_ipc_perm", VirtAddr(entry));
        let Some(mode) = perm.number("mode").filter(|_| entry >= view.user_limit()) else {
            unread = true;
            continue;
        };
        let common = Common {
            at,
            key: perm.number("key"),
            id: perm.number("id"),
            uid: perm.number("uid.val").or_else(|| perm.number("uid")),
            perms: Some(mode & PERMISSIONS),
        };
        objects.push(of(&Object::new(view, structure, at), common, mode));
    }
    let lost = if objects.len() >= MOST {
        Some("there are too many")
    } else if tree.unread > 0 || unread {
        Some("some cannot be read")
    } else if !tree.again.is_empty() {
        Some("it leads in a circle")
    } else {
        None
    };
    Some(Table { objects, lost })
}

/// Whether the inode is of tmpfs, whose inodes know of their pages.
fn is_tmpfs(view: &View, inode: &Object<'_>) -> bool {
    let ops = inode.pointer("i_op");
    ops.is_some() && ops == view.symbol("shmem_inode_operations")
}

fn pages(view: &View, inode: &Object<'_>) -> Option<Pages> {
    let inside = view.types().field("shmem_inode_info", "vfs_inode")?.offset;
    let info = Object::new(view, "shmem_inode_info", VirtAddr(inode.base.0.checked_sub(inside)?));
    let resident = inode.follow("i_mapping", "address_space")?.number("nrpages")?;
    Some(Pages { allocated: info.number("alloced")?, resident, swapped: info.number("swapped")? })
}
