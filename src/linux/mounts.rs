//! What is mounted: the mounts of a namespace.
//!
//! Until 6.7 they hang in a list, in which a reader of /proc/mounts has a mark since 5.8 (commit
//! 9f6c61f96f2d), since 6.8 in a tree (2eea9ce4310d). Source: `fs/mount.h`.

use serde::Serialize;

use super::list::List;
use super::object::Object;
use super::rbtree::RbTree;
use super::{View, paths};
use crate::addr::VirtAddr;

/// Mounts that are looked at (`fs.mount-max` is 100,000 unless somebody raised it).
const MOST: usize = 1 << 20;
/// A type's name, a device's.
const NAME_MAX: usize = 256;
/// `MNT_READONLY`, `MNT_CURSOR` (`include/linux/mount.h`), `SB_RDONLY`.
const MNT_READONLY: u64 = 0x40;
const MNT_CURSOR: u64 = 0x1000_0000;
const SB_RDONLY: u64 = 1;

/// One of them.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Mount {
    #[serde(rename = "mount")]
    pub(crate) at: VirtAddr,
    pub(crate) superblock: Option<VirtAddr>,
    /// The file system's, as /proc/mounts has it: `ext4`, `fuse.sshfs`.
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    pub(crate) device: Option<String>,
    pub(crate) path: Option<String>,
    /// Whether the mount or the file system is.
    pub(crate) read_only: Option<bool>,
}

/// Those of one namespace.
pub(crate) struct Mounts {
    pub(crate) namespace: VirtAddr,
    pub(crate) list: Vec<Mount>,
    /// Why some may be missing.
    pub(crate) broken: Option<String>,
}

/// What the task at `task` sees mounted, or why that is not known.
pub(crate) fn of(view: &View, task: VirtAddr) -> Result<Mounts, String> {
    let field = |ty: &str, name| {
        view.types().field(ty, name).ok_or_else(|| format!("the layout of struct {ty} is not known"))
    };
    let task = Object::new(view, "task_struct", task);
    field("task_struct", "nsproxy")?;
    let namespaces = match task.number("nsproxy") {
        Some(0) => return Err("the task has ended, and left its namespace of mounts".to_owned()),
        _ => task.follow("nsproxy", "nsproxy"),
    };
    let namespace = namespaces.and_then(|all| all.follow("mnt_ns", "mnt_namespace"));
    let namespace = namespace.ok_or("the task's namespace of mounts (nsproxy.mnt_ns) cannot be read")?;
    let (all, broken) = match namespace.number("mounts.rb_node") {
        Some(root) => {
            let node = field("mount", "mnt_node")?.offset;
            let root = (root != 0).then_some(VirtAddr(root));
            let mut tree = RbTree::new(view, root, MOST);
            let all: Vec<_> = tree.by_ref().map(|at| VirtAddr(at.0.wrapping_sub(node))).collect();
            (all, tree.broken().then(|| "a branch of the tree of mounts cannot be followed".to_owned()))
        }
        None => {
            let link = field("mount", "mnt_list")?.offset;
            let head = namespace.address("list").ok_or("the layout of struct mnt_namespace is not known")?;
            let mut list = List::circular(view, head, link, MOST);
            (
                list.by_ref().collect(),
                list.broken().map(|why| format!("the list of mounts is damaged: {why}")),
            )
        }
    };
    let all = all.into_iter().map(|at| Object::new(view, "mount", at));
    let marks = |m: &Object<'_>| m.number("mnt.mnt_flags").is_some_and(|flags| flags & MNT_CURSOR != 0);
    Ok(Mounts { namespace: namespace.base, list: all.filter(|m| !marks(m)).map(read).collect(), broken })
}

fn read(mount: Object<'_>) -> Mount {
    let text = |at: VirtAddr| mount.view().space().read_cstr(at, NAME_MAX).ok();
    let superblock = mount.follow("mnt.mnt_sb", "super_block");
    let kind = superblock.and_then(|sb| text(sb.follow("s_type", "file_system_type")?.pointer("name")?));
    let more = superblock.and_then(|sb| text(sb.pointer("s_subtype")?));
    let flags = [mount.number("mnt.mnt_flags"), superblock.and_then(|sb| sb.number("s_flags"))];
    Mount {
        at: mount.base,
        superblock: superblock.map(|sb| sb.base),
        kind: kind.map(|kind| more.map_or_else(|| kind.clone(), |more| format!("{kind}.{more}"))),
        device: mount.pointer("mnt_devname").and_then(text),
        path: paths::of_mount(mount),
        read_only: match flags {
            [Some(own), _] if own & MNT_READONLY != 0 => Some(true),
            [Some(_), Some(all)] => Some(all & SB_RDONLY != 0),
            _ => None,
        },
    }
}
