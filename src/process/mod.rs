//! One user process: threads, mappings, link map, TLS. (stub)

/// An opened userspace core.
pub struct Process;
