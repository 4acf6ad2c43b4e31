//! corestub serves crash dumps to stock gdb.
//!
//! The rooms, and who may call whom (arrows run downward only):
//!
//! ```text
//!   rsp        frames, acks, sessions; gdbstub behind a front layer. Knows no Linux.
//!    v
//!   inferior   trait Inferior: threads, registers, memory, images, tables   (commands stand beside it)
//!    v
//!   session    thread ids and their order, what a command may know of a client
//!    v
//!   linux      the kernel's view of a vmcore      process   one process of a userspace core
//!    |  \__ unwind    stacks in Rust (ORC)
//!    |  \__ image     ELF images that are served to gdb
//!    v
//!   debuginfo  names, types, unwind rules         memory    page tables: a virtual address space
//!    v                                             v
//!   dump       bytes -> physical pages or segments, notes
//!    v
//!   elf, arch, bytes, addr, error    the ground floor: ELF files, x86-64, bytes by range, addresses
//!   text, hex, number, par, xml      and what all rooms write, read and count with;
//!   direct_mapped, stores            a small cache by page or frame number; where systems keep dumps
//! ```
//!
//! The life of one `m` packet: `rsp::front` cuts and checks the frame, gdbstub
//! parses it, `rsp::stub` asks [`inferior::Inferior::read_memory`] with the
//! session's thread, the kernel inferior picks that thread's address space,
//! [`memory`] walks the dumped page tables, [`dump`] finds the page by rank,
//! decompresses it into the shared cache, and the bytes go back up. A fault on
//! the way carries its reason ([`error::ReadFault`]) to `monitor why`.
//!
//! An opened dump is an immutable, `Send + Sync` snapshot behind an `Arc`. What
//! changes (selected thread, last failed read) belongs to one client's session.

pub mod addr;
pub mod arch;
pub mod bytes;
pub mod cli;
pub mod commands;
pub mod debuginfo;
mod direct_mapped;
pub mod dump;
pub mod elf;
pub mod error;
pub mod gdb;
mod hex;
pub mod image;
pub mod inferior;
pub mod linux;
pub mod memory;
mod number;
mod par;
pub mod process;
pub mod rsp;
pub mod sandbox;
pub mod session;
pub mod snapshot;
pub mod stores;
pub mod text;
pub mod unwind;
mod xml;

#[cfg(test)]
#[path = "../tests/support/lab.rs"]
mod lab;
