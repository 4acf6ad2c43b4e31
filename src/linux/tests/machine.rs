//! A made-up kernel: bytes at addresses, symbols, and types with layouts of its
//! own. It writes members by its own tables, never by those of the reader, so
//! that a wrong layout cannot confirm itself.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::addr::VirtAddr;
use crate::debuginfo::elf::Vmlinux;
use crate::debuginfo::symbols::Builder;
use crate::debuginfo::{Field, Types};
use crate::error::ReadFault;
use crate::linux::{Kernel, KernelVersion, View};
use crate::memory::AddressSpace;

/// Where user space ends.
pub(crate) const LIMIT: u64 = 1 << 47;

/// What a machine has; what was not written is not in its dump.
pub(crate) struct Machine {
    memory: BTreeMap<u64, u8>,
    symbols: Vec<(u64, u64, u8, &'static str)>,
    members: Of<(u64, u64)>,
    bits: Of<(u8, u8)>,
    sizes: Vec<(&'static str, u64)>,
    release: &'static str,
    lacks_names: bool,
}

/// Members as no kernel has them: type, path, offset, size.
const MEMBERS: &[(&str, &str, u64, u64)] = &[
    ("task_struct", "tasks", 0x08, 16),
    ("task_struct", "pid", 0x20, 4),
    ("task_struct", "tgid", 0x28, 4),
    ("task_struct", "thread_node", 0x30, 16),
    ("task_struct", "pid_links", 0x40, 64),
    ("task_struct", "comm", 0x80, 16),
    ("task_struct", "stack", 0x90, 8),
    ("task_struct", "__state", 0x98, 4),
    ("task_struct", "exit_state", 0x9c, 4),
    ("task_struct", "flags", 0xa0, 4),
    ("task_struct", "on_cpu", 0xa4, 4),
    ("task_struct", "cpu", 0xa8, 4),
    ("task_struct", "real_parent", 0xb0, 8),
    ("task_struct", "mm", 0xb8, 8),
    ("task_struct", "signal", 0xc0, 8),
    ("task_struct", "children", 0xd0, 16),
    ("task_struct", "sibling", 0xe0, 16),
    ("task_struct", "thread.sp", 0xc8, 8),
    ("inactive_task_frame", "r15", 0x00, 8),
    ("inactive_task_frame", "r14", 0x08, 8),
    ("inactive_task_frame", "r13", 0x10, 8),
    ("inactive_task_frame", "r12", 0x18, 8),
    ("inactive_task_frame", "bx", 0x28, 8),
    ("inactive_task_frame", "bp", 0x20, 8),
    ("inactive_task_frame", "ret_addr", 0x30, 8),
    ("signal_struct", "thread_head", 0x18, 16),
    ("mm_struct", "pgd", 0x10, 8),
    ("rq", "curr", 0x30, 8),
    ("rq", "idle", 0x38, 8),
    ("pid", "tasks", 0x10, 32),
    ("pid_namespace", "idr.idr_rt.xa_head", 0x08, 8),
    ("idr", "idr_rt.xa_head", 0x00, 8),
    ("xa_node", "shift", 0x00, 1),
    ("xa_node", "slots", 0x28, 512),
    ("module", "list", 0x08, 16),
    ("module", "name", 0x18, 56),
    ("printk_ringbuffer", "desc_ring.count_bits", 0x04, 4),
    ("printk_ringbuffer", "desc_ring.descs", 0x10, 8),
    ("printk_ringbuffer", "desc_ring.infos", 0x18, 8),
    ("printk_ringbuffer", "desc_ring.head_id", 0x20, 8),
    ("printk_ringbuffer", "desc_ring.tail_id", 0x28, 8),
    ("printk_ringbuffer", "text_data_ring.size_bits", 0x30, 4),
    ("printk_ringbuffer", "text_data_ring.data", 0x38, 8),
    ("prb_desc", "text_blk_lpos.begin", 0x00, 8),
    ("prb_desc", "text_blk_lpos.next", 0x08, 8),
    ("prb_desc", "state_var", 0x10, 8),
    ("printk_info", "ts_nsec", 0x00, 8),
    ("printk_info", "text_len", 0x0a, 2),
    ("printk_info", "level", 0x0c, 1),
    ("printk_info", "caller_id", 0x10, 4),
    ("printk_log", "ts_nsec", 0x00, 8),
    ("printk_log", "len", 0x08, 2),
    ("printk_log", "text_len", 0x0a, 2),
];

/// Members that are gone today.
const OLD_MEMBERS: &[(&str, &str, u64, u64)] = &[
    ("task_struct", "thread.usersp", 0xd0, 8),
    ("task_struct", "thread_group", 0x30, 16),
    ("thread_info", "cpu", 0x1c, 4),
    ("thread_info", "flags", 0x14, 4),
    ("pid", "numbers", 0x38, 0x20),
    ("upid", "ns", 0x10, 8),
    ("upid", "pid_chain", 0x18, 16),
];

/// Types whose size matters.
const SIZES: [(&str, u64); 4] =
    [("inactive_task_frame", 0x38), ("prb_desc", 0x18), ("printk_info", 0x18), ("printk_log", 0x10)];

impl Machine {
    pub(crate) fn new() -> Self {
        let members = MEMBERS.iter().map(|&(ty, path, offset, size)| ((ty, path), (offset, size))).collect();
        Self {
            memory: BTreeMap::new(),
            symbols: Vec::new(),
            members,
            bits: HashMap::new(),
            sizes: SIZES.to_vec(),
            release: "6.1.0",
            lacks_names: false,
        }
    }

    /// A machine with a kernel as before 4.1: its structures, and nothing of later ones.
    pub(crate) fn old() -> Self {
        let mut old = Self { release: "3.10.0", ..Self::new() };
        let later = ["inactive_task_frame", "pid_namespace", "idr", "xa_node"];
        old.members
            .retain(|(ty, path), _| !later.contains(ty) && !["thread_node", "on_cpu", "cpu"].contains(path));
        old.members.extend(OLD_MEMBERS.iter().map(|&(ty, path, offset, size)| ((ty, path), (offset, size))));
        old.sizes.retain(|(ty, _)| !later.contains(ty));
        old
    }

    /// A member of another type.
    pub(crate) fn member(&mut self, ty: &'static str, path: &'static str, offset: u64, size: u64) {
        self.members.insert((ty, path), (offset, size));
    }

    /// A bit-field of four bytes: its first bit, and how many.
    pub(crate) fn bit_field(&mut self, ty: &'static str, path: &'static str, start: u8, width: u8) {
        self.members.insert((ty, path), (u64::from(start / 8), 4));
        self.bits.insert((ty, path), (start % 8, width));
    }

    /// The member's type is not known: where it is, and not how large.
    pub(crate) fn lose_size(&mut self, ty: &'static str, path: &'static str) {
        self.members.entry((ty, path)).or_default().1 = 0;
    }

    pub(crate) fn lose_member(&mut self, ty: &'static str, path: &'static str) {
        self.members.remove(&(ty, path));
    }

    pub(crate) fn size(&mut self, ty: &'static str, size: u64) {
        self.sizes.push((ty, size));
    }

    pub(crate) fn symbol(&mut self, name: &'static str, at: u64) {
        self.symbols.push((at, 8, b'D', name));
    }

    /// Another name stands for one that is lost.
    pub(crate) fn lose_name(&mut self, name: &str) {
        self.symbols.iter_mut().filter(|s| s.3 == name).for_each(|s| s.3 = "another");
        self.lacks_names = true;
    }

    /// Says that there were more symbols.
    pub(crate) fn lose_names(&mut self) {
        self.lacks_names = true;
    }

    /// A function of these bytes.
    pub(crate) fn function(&mut self, name: &'static str, at: u64, code: &[u8]) {
        self.symbols.push((at, code.len() as u64, b'T', name));
        self.write(at, code);
    }

    pub(crate) fn write(&mut self, at: u64, bytes: &[u8]) {
        self.memory.extend((at..).zip(bytes.iter().copied()));
    }

    pub(crate) fn word(&mut self, at: u64, value: u64) {
        self.write(at, &value.to_le_bytes());
    }

    /// Takes `len` bytes out of the dump.
    pub(crate) fn forget(&mut self, at: u64, len: u64) {
        self.memory.retain(|a, _| !(at..at + len).contains(a));
    }

    /// Address of a member of the `ty` at `base`.
    pub(crate) fn at(&self, base: u64, ty: &'static str, path: &'static str) -> u64 {
        base + self.members[&(ty, path)].0
    }

    /// Writes a member, in its size.
    pub(crate) fn set(&mut self, base: u64, ty: &'static str, path: &'static str, value: u64) {
        let size = self.members[&(ty, path)].1.min(8) as usize;
        self.write(self.at(base, ty, path), &value.to_le_bytes()[..size]);
    }

    /// A circle through `head` and `links`, in this order.
    pub(crate) fn circle(&mut self, head: u64, links: &[u64]) {
        let mut at = head;
        for &link in links.iter().chain([&head]) {
            self.word(at, link);
            self.word(link + 8, at);
            at = link;
        }
    }

    /// An `xa_node` at `base` with these slots; returns how it is pointed to.
    pub(crate) fn node(&mut self, base: u64, shift: u8, slots: &[(u64, u64)]) -> u64 {
        self.write(base, &[0; 0x28 + 512]);
        self.set(base, "xa_node", "shift", shift.into());
        for &(slot, entry) in slots {
            self.word(self.at(base, "xa_node", "slots") + slot * 8, entry);
        }
        base | 2
    }

    /// A task at `base` alone in its thread group, its `struct pid` at `pid_at`.
    pub(crate) fn task(&mut self, base: u64, pid: u32, comm: &str) {
        self.write(base, &[0; 0x100]);
        for path in ["pid", "tgid"] {
            self.set(base, "task_struct", path, pid.into());
        }
        self.write(self.at(base, "task_struct", "comm"), comm.as_bytes());
        self.set(base, "task_struct", "stack", base + 0x10_0000);
        let signal = base + 0x100;
        self.set(base, "task_struct", "signal", signal);
        if self.members.contains_key(&("task_struct", "thread_node")) {
            self.circle(signal + 0x18, &[self.at(base, "task_struct", "thread_node")]);
        } else {
            self.circle(self.at(base, "task_struct", "thread_group"), &[]);
        }
    }

    /// A `struct pid` at `base` whose first task is `task`.
    pub(crate) fn pid(&mut self, base: u64, task: u64) -> u64 {
        let link = self.at(task, "task_struct", "pid_links");
        self.set(base, "pid", "tasks", link);
        base
    }

    pub(crate) fn view(self) -> View {
        let mut symbols = Builder::new("made up");
        for &(at, size, kind, name) in &self.symbols {
            symbols.push(at, size, kind, name.as_bytes());
        }
        if self.lacks_names {
            symbols.lacks_names();
        }
        let (space, types) = (Memory(self.memory), Members(self.members, self.sizes, self.bits));
        let version = KernelVersion::parse(self.release);
        View::new(Arc::new(space), LIMIT, symbols.finish(), Arc::new(types), version).unwrap()
    }

    /// The same as an opened dump. Its file holds nothing: all is read through the view.
    pub(crate) fn kernel(self) -> Kernel {
        Kernel::made_up(self.view(), None)
    }

    /// The same with a vmlinux beside it.
    pub(crate) fn kernel_with(self, vmlinux: Vmlinux) -> Kernel {
        Kernel::made_up(self.view(), Some(vmlinux))
    }
}

struct Memory(BTreeMap<u64, u8>);

impl AddressSpace for Memory {
    fn read_run(&self, addr: VirtAddr, buf: &mut [u8]) -> Result<usize, ReadFault> {
        let bytes = (addr.0..).map_while(|at| self.0.get(&at));
        let read = buf.iter_mut().zip(bytes).map(|(to, from)| *to = *from).count();
        if read == 0 { Err(ReadFault::NotMapped { addr: addr.0, level: 1 }) } else { Ok(read) }
    }
}

type Of<T> = HashMap<(&'static str, &'static str), T>;
struct Members(Of<(u64, u64)>, Vec<(&'static str, u64)>, Of<(u8, u8)>);

impl Types for Members {
    fn size_of(&self, name: &str) -> Option<u64> {
        self.1.iter().find(|(ty, _)| *ty == name).map(|&(_, size)| size)
    }

    fn field(&self, name: &str, path: &str) -> Option<Field> {
        let (key, &(offset, size)) = self.0.iter().find(|(key, _)| **key == (name, path))?;
        Some(Field { offset, size, bits: self.2.get(key).copied() })
    }

    fn enumerator(&self, _: &str) -> Option<i64> {
        None
    }

    fn array_len(&self, _: &str, _: &str) -> Option<u64> {
        None
    }

    fn origin(&self) -> &str {
        "made-up types"
    }
}
