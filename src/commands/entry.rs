//! How a CPU came into the kernel, by the name of the code that it came through.

/// The exceptions whose entries had their plain names until 5.7
/// (`arch/x86/entry/entry_64.S`; `asm_exc_*` is of `arch/x86/include/asm/idtentry.h`).
const BEFORE_5_8: [&str; 18] = [
    "page_fault",
    "async_page_fault",
    "general_protection",
    "invalid_op",
    "divide_error",
    "double_fault",
    "stack_segment",
    "machine_check",
    "debug",
    "int3",
    "overflow",
    "bounds",
    "device_not_available",
    "invalid_TSS",
    "segment_not_present",
    "coprocessor_error",
    "alignment_check",
    "simd_coprocessor_error",
];

/// The exception that enters the kernel by the function `name`: `page_fault`. The NMI
/// is an interrupt, although its entry is named like one.
pub(super) fn exception(name: &str) -> Option<&str> {
    let of_now = name.strip_prefix("asm_exc_").filter(|n| !n.contains("nmi"));
    of_now.or_else(|| BEFORE_5_8.contains(&name).then_some(name))
}

#[cfg(test)]
mod tests {
    use super::exception;

    #[test]
    fn exceptions_are_not_interrupts() {
        assert_eq!(exception("asm_exc_page_fault"), Some("page_fault"));
        assert_eq!(exception("general_protection"), Some("general_protection"));
        for other in
            ["asm_exc_nmi", "asm_sysvec_apic_timer_interrupt", "apic_timer_interrupt", "do_syscall_64"]
        {
            assert_eq!(exception(other), None, "{other}");
        }
    }
}
