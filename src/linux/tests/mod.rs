//! Tests of what stands on a [`View`](super::View), over made-up memory.

mod lists;
mod log;
pub(crate) mod machine;
mod tasks;
