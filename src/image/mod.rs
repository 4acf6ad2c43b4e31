//! ELF images that are served to gdb, made from what the dump holds.

pub mod files;
