//! Names of open files: a dentry's way up to the root, over mount points.
//!
//! The names are those that the whole machine sees: a process in a container or a
//! chroot sees another root. Sources: `fs/d_path.c`, `fs/mount.h`.

use super::View;
use super::object::Object;
use crate::addr::VirtAddr;

/// Directories of one path that are followed (PATH_MAX holds no more).
const DEEPEST: usize = 2048;
/// A name in a directory (NAME_MAX).
const LONGEST: usize = 255;

/// The name of the open file (`struct file`) at `file`.
#[must_use]
pub(crate) fn of_file(view: &View, file: VirtAddr) -> Option<String> {
    of_path(view, path_in(&Object::new(view, "file", file))?)
}

/// The `struct path` in a `struct file`.
#[must_use]
pub(crate) fn path_in(file: &Object<'_>) -> Option<VirtAddr> {
    // It became private to its accessors in 6.18.
    file.address("f_path").or_else(|| file.address("__f_path"))
}

/// The name that the `struct path` at `path` stands for.
#[must_use]
pub(crate) fn of_path(view: &View, path: VirtAddr) -> Option<String> {
    let path = Object::new(view, "path", path);
    let vfsmount = view.types().field("mount", "mnt")?.offset;
    let mount = VirtAddr(path.pointer("mnt")?.0.wrapping_sub(vfsmount));
    up_from(path.follow("dentry", "dentry")?, Object::new(view, "mount", mount))
}

/// Where `mount` (a `struct mount`) is mounted.
#[must_use]
pub(crate) fn of_mount(mount: Object<'_>) -> Option<String> {
    up_from(mount.follow("mnt.mnt_root", "dentry")?, mount)
}

fn up_from<'v>(mut dentry: Object<'v>, mut mount: Object<'v>) -> Option<String> {
    let view = dentry.view();
    // Unlinked: its name is no longer hashed, and it is no root.
    let alone = |d: &Object<'_>| d.pointer("d_parent") == Some(d.base);
    let deleted = dentry.pointer("d_hash.pprev").is_none() && !alone(&dentry);
    let mut names = Vec::new();
    for _ in 0..DEEPEST {
        if mount.pointer("mnt.mnt_root") == Some(dentry.base) || alone(&dentry) {
            let above = mount.pointer("mnt_parent")?;
            if above == mount.base {
                break;
            }
            dentry = mount.follow("mnt_mountpoint", "dentry")?;
            mount = Object::new(view, "mount", above);
            continue;
        }
        let name = view.space().read_cstr(dentry.pointer("d_name.name")?, LONGEST).ok()?;
        names.push(name);
        dentry = dentry.follow("d_parent", "dentry")?;
    }
    // A file of a file system that the kernel mounted for itself: memfd, shared memory.
    let root = if names.is_empty() {
        let name = view.space().read_cstr(dentry.pointer("d_name.name")?, LONGEST).ok()?;
        if name == "/" { name } else { format!("/{name}") }
    } else {
        names.iter().rev().flat_map(|name| ["/", name]).collect()
    };
    Some(if deleted { root + " (deleted)" } else { root })
}
