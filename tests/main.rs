//! One test binary: real dumps through the real program and real gdb.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, clippy::print_stderr, unreachable_pub)]

mod attached;
mod commands;
mod crash_kernel;
mod damage;
mod debuginfo;
mod dump;
mod editors;
mod forms;
mod frontends;
mod fuzz;
mod globals;
mod images;
mod install;
mod kernels;
mod late;
mod linux;
mod lx;
mod machine;
mod matrix;
mod process;
mod rsp;
mod support;
mod symbols;
mod vmcore;
