//! What x86-64 itself prescribes: the ground floor under memory, stacks and gdb.
//!
//! Every fact of the machine, and of how Linux lays itself out on it, stands here
//! once: names and numbers of registers ([`registers`]), how the kernel stores
//! them ([`pt_regs`]), what lies at which address ([`map`]), instructions ([`disasm`]), what
//! they do to the stack ([`by_code`]), how addresses are translated ([`paging`]). The room knows no dump: it depends on `addr`, `bytes`
//! and `error` alone, so that all others may use it.

pub mod by_code;
pub mod disasm;
pub mod map;
pub mod paging;
pub mod prologue;
pub mod pt_regs;
pub mod registers;
pub mod stub;

pub use map::Levels;
pub use registers::{Register, Registers};
