//! The kernel's view of a vmcore: symbols, layouts, tasks, registers, modules.
//!
//! Two floors. A [`View`] is what a kernel is read through, and keeps nothing;
//! what interprets dumped structures stands on it: [`tasks`], [`modules`],
//! [`log`], [`stacks`] and the rest, over one [`list`] and one [`xarray`] walk.
//! [`Kernel`] is an opened dump above it, which keeps what was read once.
//! [`layout`] alone knows what differs between versions.

mod by_cr3;
mod cfi;
pub(crate) mod clock;
pub(crate) mod debug_files;
mod derived;
pub(crate) mod disks;
pub(crate) mod entry_text;
pub(crate) mod ipc;
pub(crate) mod irqs;
pub(crate) mod kaslr;
mod kernel;
pub(crate) mod layout;
pub(crate) mod list;
pub(crate) mod locks;
pub mod log;
pub(crate) mod maple;
pub(crate) mod memory;
mod module_scan;
pub mod modules;
pub(crate) mod mounts;
pub(crate) mod net;
pub(crate) mod object;
mod old_switch;
mod open;
pub(crate) mod open_files;
pub(crate) mod orc;
mod own_vmcoreinfo;
pub(crate) mod paths;
pub(crate) mod percpu;
mod pid_hash;
mod place;
pub(crate) mod rbtree;
pub mod registers;
pub(crate) mod signals;
pub(crate) mod sites;
pub(crate) mod stacks;
pub(crate) mod swap;
pub(crate) mod switch_frame;
mod syscall_entry;
pub mod system_registers;
pub(crate) mod taint;
pub mod task;
mod task_scan;
pub mod tasks;
pub(crate) mod timers;
pub(crate) mod unread;
pub(crate) mod usage;
pub(crate) mod utsname;
mod view;
mod vmalloc;
pub(crate) mod vmas;
pub(crate) mod xarray;

#[cfg(test)]
pub(crate) mod tests;

pub use kernel::Kernel;
pub use layout::{KernelVersion, Layout};
pub use modules::Module;
pub use open::Options;
pub use registers::TaskRegisters;
pub use task::Task;
pub use tasks::{Panicked, TaskList};
pub use utsname::Utsname;
pub use view::View;
