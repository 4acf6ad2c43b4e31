//! Dump files: bytes to physical pages and notes.

pub mod notes;
pub mod source;
