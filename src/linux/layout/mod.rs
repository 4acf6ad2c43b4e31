//! Every kernel structure member that corestub depends on, in one table.
//!
//! Offsets come from types found (BTF or DWARF), not from release numbers:
//! distributions backport. Where a name changed, the entry says when; where a
//! meaning changed, [`KernelVersion`] has the answer, and nobody else compares
//! versions.

use crate::arch::{Register, pt_regs};
use crate::debuginfo::{Field, Types};

mod states;
mod version;

pub use version::KernelVersion;

/// `struct task_struct` and what hangs off it.
#[derive(Debug, Clone)]
pub struct TaskLayout {
    /// `pid`, the thread's id.
    pub pid: Field,
    /// `tgid`, the process's id.
    pub tgid: Field,
    /// `comm`.
    pub comm: Field,
    /// `stack`: lowest address of the kernel stack.
    pub stack: Field,
    /// `__state` (5.14 and later) or `state`.
    pub state: Field,
    /// `exit_state`.
    pub exit_state: Field,
    /// `flags` (`PF_KTHREAD` ...).
    pub flags: Field,
    /// `real_parent`.
    pub real_parent: Field,
    /// `mm`; null for kernel threads.
    pub mm: Field,
    /// `on_cpu` (SMP).
    pub on_cpu: Option<Field>,
    /// `thread_info.cpu` (5.16 and later), `cpu` (4.9 and later).
    pub cpu: Option<Field>,
    /// `tasks`: link of all thread group leaders.
    pub tasks: Field,
    /// `signal`.
    pub signal: Field,
    /// `thread_node`, linked from `signal->thread_head` (3.14 and later).
    pub thread_node: Option<Field>,
    /// `thread_group` (until 6.6).
    pub thread_group: Option<Field>,
    /// `pid_links[0]` (4.19 and later) or `pids[0].node`.
    pub pid_link: Option<Field>,
    /// `thread.sp`: saved stack pointer of a task that is not running.
    pub sp: Field,
    /// `thread.usersp` (until 4.0): the user's stack pointer while a system call sleeps.
    pub usersp: Option<Field>,
    /// `thread.fsbase` (4.7 and later) or `thread.fs`.
    pub fsbase: Option<Field>,
    /// `thread.gsbase` or `thread.gs`.
    pub gsbase: Option<Field>,
    /// `start_time`, nanoseconds of the monotonic clock.
    pub start_time: Option<Field>,
}

/// The rest.
#[derive(Debug, Clone)]
pub struct Layout {
    /// What the types do not tell.
    pub version: KernelVersion,
    /// `struct task_struct`.
    pub task: TaskLayout,
    /// `signal_struct.thread_head`.
    pub thread_head: Option<Field>,
    /// `mm_struct.pgd`.
    pub mm_pgd: Option<Field>,
    /// `rq.curr`.
    pub rq_curr: Option<Field>,
    /// `rq.idle`.
    pub rq_idle: Option<Field>,
    /// `pid.tasks[0]`: head of the list of the tasks with this pid (one).
    pub pid_tasks: Option<Field>,
    /// Root of the pid map in `init_pid_ns`: `idr.idr_rt.xa_head` (4.20 and
    /// later; before, `rnode`).
    pub pid_map_head: Option<Field>,
    /// The xarray, or the radix tree that it was.
    pub xarray: Option<XArrayLayout>,
    /// `struct inactive_task_frame` (4.9 and later).
    pub switch_frame: Option<SwitchFrame>,
    /// `struct pt_regs`.
    pub pt_regs_size: u64,
    /// Bytes between `pt_regs` and the top of the stack: 16 where
    /// `struct fred_frame` exists (`CONFIG_X86_FRED`, 6.9 and later), 0 before.
    pub stack_padding: u64,
    /// `THREAD_SIZE` by `union thread_union`, if the types have it.
    pub thread_size: Option<u64>,
}

/// What `__switch_to_asm` leaves on the stack of a task that is switched out
/// (`arch/x86/include/asm/switch_to.h`, 4.9 and later). `thread.sp` points to it.
#[derive(Debug, Clone, Copy)]
pub struct SwitchFrame {
    /// Bytes of the frame: what is added to `thread.sp` to leave it.
    pub size: u64,
    /// Where the callee-saved registers and the return address are.
    pub offsets: [(Register, u64); 7],
}

/// A tree of entries by index (`include/linux/xarray.h`).
#[derive(Debug, Clone, Copy)]
pub struct XArrayLayout {
    /// What the two low bits of a pointer to a node are.
    pub node_mark: u64,
    /// Bits of the index below the node.
    pub shift: Field,
    /// Its entries.
    pub slots: Field,
}

impl XArrayLayout {
    fn resolve(types: &dyn Types) -> Option<Self> {
        // The radix tree became the xarray in 4.20, with another mark.
        let node_mark = if types.field("idr", "idr_rt.xa_head").is_some() { 2 } else { 1 };
        ["xa_node", "radix_tree_node"].into_iter().find_map(|node| {
            Some(Self { node_mark, shift: types.field(node, "shift")?, slots: types.field(node, "slots")? })
        })
    }
}

/// Members of `struct inactive_task_frame`, from its lowest address up.
pub(super) const SWITCH_FRAME: [(Register, &str); 7] = [
    (Register::R15, "r15"),
    (Register::R14, "r14"),
    (Register::R13, "r13"),
    (Register::R12, "r12"),
    (Register::Rbx, "bx"),
    (Register::Rbp, "bp"),
    (Register::Rip, "ret_addr"),
];

impl Layout {
    /// The layout where no types are known: what is asked for is nowhere.
    #[must_use]
    pub fn unknown(version: KernelVersion) -> Self {
        let nowhere = Field::NOWHERE;
        let task = TaskLayout {
            pid: nowhere,
            tgid: nowhere,
            comm: nowhere,
            stack: nowhere,
            state: nowhere,
            exit_state: nowhere,
            flags: nowhere,
            real_parent: nowhere,
            mm: nowhere,
            on_cpu: None,
            cpu: None,
            tasks: nowhere,
            signal: nowhere,
            thread_node: None,
            thread_group: None,
            pid_link: None,
            sp: nowhere,
            fsbase: None,
            gsbase: None,
            start_time: None,
            usersp: None,
        };
        Self {
            version,
            task,
            thread_head: None,
            mm_pgd: None,
            rq_curr: None,
            rq_idle: None,
            pid_tasks: None,
            pid_map_head: None,
            xarray: None,
            switch_frame: None,
            pt_regs_size: pt_regs::SIZE as u64,
            stack_padding: 0,
            thread_size: None,
        }
    }

    /// Looks every member up. `Err` names the first that cannot be done without.
    pub fn resolve(types: &dyn Types, version: KernelVersion) -> Result<Self, String> {
        let need = |ty: &str, paths: &[&str]| {
            paths
                .iter()
                .find_map(|p| types.field(ty, p))
                .ok_or_else(|| format!("{} has no member {} of {ty}", types.origin(), paths.join(" or ")))
        };
        let t = |paths: &[&str], size| Ok::<_, String>(need("task_struct", paths)?.or_size(size));
        let maybe = |paths: &[&str], size| {
            paths.iter().find_map(|p| types.field("task_struct", p)).map(|field| field.or_size(size))
        };
        let state_size = if types.field("task_struct", "__state").is_some() { 4 } else { 8 };
        let task = TaskLayout {
            pid: t(&["pid"], 4)?,
            tgid: t(&["tgid"], 4)?,
            comm: t(&["comm"], 16)?,
            stack: t(&["stack"], 8)?,
            state: t(&["__state", "state"], state_size)?,
            exit_state: t(&["exit_state"], 4)?,
            flags: t(&["flags"], 4)?,
            real_parent: t(&["real_parent"], 8)?,
            mm: t(&["mm"], 8)?,
            on_cpu: maybe(&["on_cpu"], 4),
            cpu: maybe(&["thread_info.cpu", "cpu"], 4),
            tasks: t(&["tasks"], 16)?,
            signal: t(&["signal"], 8)?,
            thread_node: maybe(&["thread_node"], 16),
            thread_group: maybe(&["thread_group"], 16),
            pid_link: maybe(&["pid_links", "pids"], 0),
            sp: t(&["thread.sp"], 8)?,
            usersp: maybe(&["thread.usersp"], 8),
            fsbase: maybe(&["thread.fsbase", "thread.fs"], 8),
            gsbase: maybe(&["thread.gsbase", "thread.gs"], 8),
            start_time: maybe(&["start_time"], 8),
        };
        let switch_frame = types.size_of("inactive_task_frame").and_then(|size| {
            let mut offsets = SWITCH_FRAME.map(|(register, _)| (register, 0));
            for ((_, slot), (_, name)) in offsets.iter_mut().zip(SWITCH_FRAME) {
                *slot = types.field("inactive_task_frame", name)?.offset;
            }
            Some(SwitchFrame { size, offsets })
        });
        Ok(Self {
            version,
            task,
            thread_head: types.field("signal_struct", "thread_head"),
            mm_pgd: types.field("mm_struct", "pgd"),
            rq_curr: types.field("rq", "curr"),
            rq_idle: types.field("rq", "idle"),
            pid_tasks: types.field("pid", "tasks"),
            pid_map_head: types
                .field("pid_namespace", "idr.idr_rt.xa_head")
                .or_else(|| types.field("pid_namespace", "idr.idr_rt.rnode")),
            xarray: XArrayLayout::resolve(types),
            switch_frame,
            pt_regs_size: types.size_of("pt_regs").unwrap_or(pt_regs::SIZE as u64),
            stack_padding: if types.size_of("fred_frame").is_some() { 16 } else { 0 },
            thread_size: types.size_of("thread_union"),
        })
    }
}
