//! The kernel's view of a vmcore. (stub)

/// An opened kernel dump with its symbols and layouts.
pub struct Kernel;
