//! Signal numbers of stop replies: they are gdb's own, equal to Linux's only for
//! the oldest ones.
//!
//! Source: gdb `include/gdb/signals.def` and Linux `asm-generic/signal.h`.

/// gdb's number for a Linux signal; 0 (no signal) for what it has no number for.
pub(crate) fn from_linux(signal: u8) -> u8 {
    match signal {
        // HUP INT QUIT ILL TRAP ABRT, FPE KILL, SEGV, PIPE ALRM TERM, XCPU XFSZ VTALRM PROF WINCH
        1..=6 | 8 | 9 | 11 | 13..=15 | 24..=28 => signal,
        7 => 10,                // BUS
        10 => 30,               // USR1
        12 => 31,               // USR2
        17 => 20,               // CHLD
        18 => 19,               // CONT
        19 => 17,               // STOP
        20 => 18,               // TSTP
        21 => 21,               // TTIN
        22 => 22,               // TTOU
        23 => 16,               // URG
        29 => 23,               // IO
        30 => 32,               // PWR
        31 => 12,               // SYS
        32 => 77,               // real time: 32 stands alone,
        33..=63 => signal + 12, // 33 is 45,
        64 => 78,               // and 64 stands alone.
        _ => 0,
    }
}
