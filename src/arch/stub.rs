//! The assembly code by which a CPU enters a kernel before 4.9, by its symbols
//! (`arch/x86/kernel/entry_64.S`), and what lies on the stack where a handler returns
//! to it.

/// What is at the stack pointer when the handler has returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stub {
    /// All of a `struct pt_regs`.
    Exception,
    /// A pointer to `bp` in a `struct pt_regs`, perhaps on another stack, without rbx and
    /// r12 to r15.
    Interrupt,
    /// Something else: system calls, and the first instructions of a task.
    Other,
}

const EXCEPTIONS: [&str; 22] = [
    "alignment_check",
    "async_page_fault",
    "bounds",
    "coprocessor_error",
    "coprocessor_segment_overrun",
    "debug",
    "device_not_available",
    "divide_error",
    "double_fault",
    "end_repeat_nmi",
    "general_protection",
    "int3",
    "invalid_TSS",
    "invalid_op",
    "machine_check",
    "nmi",
    "overflow",
    "page_fault",
    "segment_not_present",
    "simd_coprocessor_error",
    "spurious_interrupt_bug",
    "stack_segment",
];

impl Stub {
    /// The stub of this name in a section for entry code. With `CONFIG_TRACING` some are there
    /// twice, with Xen, too.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let plain = ["trace_", "xen_"].iter().find_map(|p| name.strip_prefix(p)).unwrap_or(name);
        if EXCEPTIONS.contains(&plain) {
            Self::Exception
        } else if ["_interrupt", "_ipi", "_vector"].iter().any(|end| plain.ends_with(end)) {
            Self::Interrupt
        } else {
            Self::Other
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_was_saved() {
        for name in
            ["page_fault", "trace_page_fault", "spurious_interrupt_bug", "end_repeat_nmi", "xen_debug"]
        {
            assert_eq!(Stub::of(name), Stub::Exception, "{name}");
        }
        for name in
            ["common_interrupt", "apic_timer_interrupt", "trace_reschedule_interrupt", "x86_platform_ipi"]
        {
            assert_eq!(Stub::of(name), Stub::Interrupt, "{name}");
        }
        for name in ["system_call_fastpath", "ret_from_fork", "retint_careful", "stub_clone"] {
            assert_eq!(Stub::of(name), Stub::Other, "{name}");
        }
    }
}
