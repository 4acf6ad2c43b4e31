//! The kernel's view of a vmcore: symbols, layouts, tasks, registers, modules.
//!
//! Two floors. A [`View`] is what a kernel is read through, and keeps nothing;
//! what interprets dumped structures stands on it: [`tasks`], [`modules`],
//! [`log`], [`stacks`] and the rest, over one [`list`] and one [`xarray`] walk.
//! [`Kernel`] is an opened dump above it, which keeps what was read once.
//! [`layout`] alone knows what differs between versions.

pub mod clock;
pub mod debug_files;
pub mod kaslr;
mod kernel;
pub mod layout;
pub mod list;
pub mod log;
pub mod modules;
pub mod object;
mod open;
pub mod orc;
pub mod percpu;
pub mod registers;
pub mod stacks;
pub mod taint;
pub mod tasks;
pub mod usage;
pub mod utsname;
mod view;
pub mod xarray;

#[cfg(test)]
mod tests;

pub use kernel::Kernel;
pub use layout::{KernelVersion, Layout};
pub use modules::Module;
pub use open::Options;
pub use registers::TaskRegisters;
pub use tasks::{Task, TaskList};
pub use utsname::Utsname;
pub use view::View;
