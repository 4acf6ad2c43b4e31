//! Tests of what stands on a [`View`](super::View), over made-up memory.

mod derived;
mod devices;
mod ipc;
mod lists;
mod log;
pub(crate) mod machine;
mod mappings;
mod net;
mod old;
mod oom;
mod slub;
mod stacks;
mod tasks;
