//! Disks, and the requests that their drivers have not answered.
//!
//! Every disk has an inode in the file system of block devices. A request that a driver has is
//! in state `MQ_RQ_IN_FLIGHT`, and in the table of the tags of its hardware queue, where old ones
//! stay, too. Sources: `block/bdev.c`, `block/blk-mq-tag.c`, `include/linux/blk-mq.h`.

use std::collections::HashSet;

use super::View;
use super::list::both_ways;
use super::object::Object;
use super::xarray::XArray;
use crate::addr::VirtAddr;

/// Block devices, partitions among them.
const MOST_DEVICES: usize = 1 << 16;
/// Hardware queues of one disk.
const MOST_QUEUES: usize = 1 << 13;
/// Tags of one hardware queue (`BLK_MQ_MAX_DEPTH`).
const MOST_TAGS: u64 = 10_240;
/// `MQ_RQ_IN_FLIGHT` of `enum mq_rq_state`.
const IN_FLIGHT: u64 = 1;

/// One disk.
pub(crate) struct Disk {
    pub(crate) gendisk: VirtAddr,
    pub(crate) name: Option<String>,
    pub(crate) major: Option<u64>,
    pub(crate) queue: Option<VirtAddr>,
    pub(crate) requests: Vec<Request>,
    /// Queues and requests that cannot be read.
    pub(crate) unread: usize,
}

/// One request on its way.
pub(crate) struct Request {
    pub(crate) at: VirtAddr,
    /// `REQ_OP_...`
    pub(crate) op: Option<u64>,
    pub(crate) sector: Option<u64>,
    pub(crate) bytes: Option<u64>,
    /// When it was made, in nanoseconds of the monotonic clock.
    pub(crate) made: Option<u64>,
}

/// The disks, the oldest first, and what of their list was lost. `Err` says what is missing.
pub(crate) fn all(view: &View) -> Result<(Vec<Disk>, Option<String>), &'static str> {
    let missing = "the file system of block devices is not known";
    let sb =
        view.symbol("blockdev_superblock").and_then(|at| view.space().read_u64(at).ok()).ok_or(missing)?;
    let head = Object::new(view, "super_block", VirtAddr(sb)).address("s_inodes").ok_or(missing)?;
    let link = view.types().field("inode", "i_sb_list").ok_or(missing)?.offset;
    let inode = view.types().field("bdev_inode", "vfs_inode").ok_or(missing)?.offset;
    let devices = both_ways(view, head, link, MOST_DEVICES);
    let (mut seen, mut disks) = (HashSet::new(), Vec::new());
    for at in devices.elements.into_iter().rev() {
        let device = Object::new(view, "bdev_inode", VirtAddr(at.0.wrapping_sub(inode)));
        // Of the file system itself, and before 5.11 of a disk that nobody has open, there is none.
        let disk =
            device.address("bdev").and_then(|at| Object::new(view, "block_device", at).pointer("bd_disk"));
        disks.extend(disk.filter(|disk| seen.insert(*disk)).map(|disk| Disk::read(view, disk)));
    }
    Ok((disks, devices.broken.map(|why| why.to_string())))
}

impl Disk {
    fn read(view: &View, gendisk: VirtAddr) -> Self {
        let object = Object::new(view, "gendisk", gendisk);
        let name = object.address("disk_name").and_then(|at| view.space().read_cstr(at, 32).ok());
        let queue = object.follow("queue", "request_queue");
        let mut disk = Self {
            gendisk,
            name,
            major: object.number("major"),
            queue: queue.map(|queue| queue.base),
            requests: Vec::new(),
            unread: 0,
        };
        if let Some(queue) = queue {
            disk.requests_of(view, queue);
        }
        disk
    }

    fn requests_of(&mut self, view: &View, queue: Object<'_>) {
        let Some(hardware) = hardware_queues(view, queue) else {
            self.unread += 1;
            return;
        };
        let mut seen = HashSet::new();
        for context in hardware {
            let tags = Object::new(view, "blk_mq_hw_ctx", context).follow("tags", "blk_mq_tags");
            // A queue without tags is not mapped to a CPU.
            let Some(tags) = tags else { continue };
            let Some((count, table)) = tags.number("nr_tags").zip(tags.pointer("rqs")) else {
                self.unread += 1;
                continue;
            };
            for i in 0..count.min(MOST_TAGS) {
                let request = table.checked_add(i * 8).and_then(|slot| view.space().read_u64(slot).ok());
                match request {
                    Some(0) => {}
                    Some(at) if at >= view.user_limit() => {
                        if seen.insert(at) {
                            self.requests.extend(Request::of(view, VirtAddr(at), queue.base));
                        }
                    }
                    _ => self.unread += 1,
                }
            }
        }
    }
}

/// The hardware queues: an array, in 5.19 and some later kernels a tree by index.
fn hardware_queues(view: &View, queue: Object<'_>) -> Option<Vec<VirtAddr>> {
    if let Some(root) = queue.number("hctx_table.xa_head") {
        let tree = XArray::new(view, view.layout().xarray?, root);
        return Some(tree.take(MOST_QUEUES).map(|(_, entry)| VirtAddr(entry)).collect());
    }
    let count = usize::try_from(queue.number("nr_hw_queues")?).ok()?.min(MOST_QUEUES);
    if count == 0 {
        // What its driver does without requests: zram, loop before it is set up, device mapper.
        return Some(Vec::new());
    }
    let array = queue.pointer("queue_hw_ctx")?;
    let at = |i: usize| view.space().read_u64(array.checked_add(i as u64 * 8)?).ok();
    (0..count).map(|i| at(i).map(VirtAddr)).collect()
}

impl Request {
    /// The request at `at`, if the driver of `queue` has it.
    fn of(view: &View, at: VirtAddr, queue: VirtAddr) -> Option<Self> {
        let request = Object::new(view, "request", at);
        let there = request.number("state")? == IN_FLIGHT && request.pointer("q") == Some(queue);
        there.then(|| Self {
            at,
            op: request.number("cmd_flags").map(|flags| flags & 0xff),
            sector: request.number("__sector"),
            bytes: request.number("__data_len"),
            // Not noted where nobody counts (`/sys/block/NAME/queue/iostats`).
            made: request.number("start_time_ns").filter(|&at| at != 0),
        })
    }

    /// Whether data goes to the disk: the lowest bit of `REQ_OP_...`.
    #[must_use]
    pub(crate) fn writes(&self) -> Option<bool> {
        self.op.map(|op| op & 1 == 1)
    }
}
