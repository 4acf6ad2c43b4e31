//! The segments of a userspace core as an address space. (stub)
