//! Signals and `siginfo_t` in words.
//!
//! Layout: `include/uapi/asm-generic/siginfo.h`: `si_signo`, `si_errno`, `si_code`,
//! then from 16 on a union.

use serde::Serialize;

use syscalls::x86_64::Sysno;

use crate::bytes::{u32_at, u64_at};

/// `include/uapi/linux/audit.h`: `EM_X86_64 | __AUDIT_ARCH_64BIT | __AUDIT_ARCH_LE`.
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

const NAMES: [(&str, &str); 32] = [
    ("0", "no signal"),
    ("SIGHUP", "hangup"),
    ("SIGINT", "interrupt"),
    ("SIGQUIT", "quit"),
    ("SIGILL", "illegal instruction"),
    ("SIGTRAP", "trace or breakpoint trap"),
    ("SIGABRT", "aborted"),
    ("SIGBUS", "bus error"),
    ("SIGFPE", "arithmetic exception"),
    ("SIGKILL", "killed"),
    ("SIGUSR1", "user signal 1"),
    ("SIGSEGV", "segmentation fault"),
    ("SIGUSR2", "user signal 2"),
    ("SIGPIPE", "broken pipe"),
    ("SIGALRM", "alarm clock"),
    ("SIGTERM", "terminated"),
    ("SIGSTKFLT", "stack fault"),
    ("SIGCHLD", "child status changed"),
    ("SIGCONT", "continued"),
    ("SIGSTOP", "stopped"),
    ("SIGTSTP", "stopped at the terminal"),
    ("SIGTTIN", "stopped, wants terminal input"),
    ("SIGTTOU", "stopped, wants terminal output"),
    ("SIGURG", "urgent I/O condition"),
    ("SIGXCPU", "CPU time limit exceeded"),
    ("SIGXFSZ", "file size limit exceeded"),
    ("SIGVTALRM", "virtual timer expired"),
    ("SIGPROF", "profiling timer expired"),
    ("SIGWINCH", "window size changed"),
    ("SIGIO", "I/O possible"),
    ("SIGPWR", "power failure"),
    ("SIGSYS", "bad system call"),
];

/// The signal's name: `SIGSEGV`, `SIG34`.
#[must_use]
pub fn name(signal: u32) -> String {
    let known = usize::try_from(signal).ok().and_then(|i| NAMES.get(i));
    known.map_or_else(|| format!("SIG{signal}"), |(name, _)| (*name).to_owned())
}

/// What the signal means.
#[must_use]
pub fn meaning(signal: u32) -> &'static str {
    let known = usize::try_from(signal).ok().and_then(|i| NAMES.get(i));
    known.map_or("real-time signal", |(_, text)| text)
}

/// `siginfo_t`, as far as it explains a death.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SigInfo {
    /// The signal.
    pub signal: u32,
    /// `si_code`.
    pub code: i32,
    /// The code's name, if it has one.
    pub code_name: Option<&'static str>,
    /// For faults: the address.
    #[serde(serialize_with = "hex_option")]
    pub address: Option<u64>,
    /// For SIGSYS: the system call's number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syscall: Option<u32>,
    /// For SIGSYS: its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syscall_name: Option<&'static str>,
    /// For signals that were sent: by which process.
    pub sender_pid: Option<u32>,
    /// For signals that were sent: by which user.
    pub sender_uid: Option<u32>,
}

#[allow(clippy::ref_option, reason = "serde's signature")]
fn hex_option<S: serde::Serializer>(value: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
    value.map(|v| format!("{v:#x}")).serialize(to)
}

impl SigInfo {
    /// Decodes an `NT_SIGINFO` descriptor.
    #[must_use]
    pub fn parse(raw: &[u8]) -> Option<Self> {
        let signal = u32_at(raw, 0)?;
        let code = u32_at(raw, 8)?.cast_signed();
        let fault = matches!(signal, 4 | 5 | 7 | 8 | 11) && code > 0 && code != 0x80;
        // `_sigsys`: the address of the call, its number, the AUDIT_ARCH of its table.
        let call = (signal == 31 && code > 0).then(|| Some((u32_at(raw, 24)?, u32_at(raw, 28)?))).flatten();
        let native = call.filter(|&(_, arch)| arch == AUDIT_ARCH_X86_64);
        // An alignment check tells no address.
        let told = |address: &u64| (signal, code, *address) != (7, 1, 0);
        let sent = code <= 0 && !matches!(code, -2 | -3 | -5);
        Some(Self {
            signal,
            code,
            code_name: code_name(signal, code),
            address: if fault { u64_at(raw, 16).filter(told) } else { None },
            syscall: call.map(|(number, _)| number),
            syscall_name: native.and_then(|(number, _)| Some(Sysno::new(number as usize)?.name())),
            sender_pid: if sent { u32_at(raw, 16) } else { None },
            sender_uid: if sent { u32_at(raw, 20) } else { None },
        })
    }

    /// One sentence: `SIGSEGV (segmentation fault), SEGV_MAPERR (no mapping there) at 0x0`.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut text = format!("{} ({})", name(self.signal), meaning(self.signal));
        match (self.code_name, self.code) {
            (Some(code), _) => text.push_str(&format!(", {code}{}", explain(self.signal, code))),
            (None, code) => text.push_str(&format!(", si_code {code}")),
        }
        if let Some(address) = self.address {
            text.push_str(&format!(" at {address:#x}"));
        }
        if let Some(number) = self.syscall {
            text.push_str(&format!(": {} ({number})", self.syscall_name.unwrap_or("of no known name")));
        }
        if let (Some(pid), Some(uid)) = (self.sender_pid, self.sender_uid) {
            text.push_str(&format!(", sent by process {pid} of user {uid}"));
        }
        text
    }
}

fn code_name(signal: u32, code: i32) -> Option<&'static str> {
    const ILL: [&str; 8] = [
        "ILL_ILLOPC",
        "ILL_ILLOPN",
        "ILL_ILLADR",
        "ILL_ILLTRP",
        "ILL_PRVOPC",
        "ILL_PRVREG",
        "ILL_COPROC",
        "ILL_BADSTK",
    ];
    const FPE: [&str; 8] = [
        "FPE_INTDIV",
        "FPE_INTOVF",
        "FPE_FLTDIV",
        "FPE_FLTOVF",
        "FPE_FLTUND",
        "FPE_FLTRES",
        "FPE_FLTINV",
        "FPE_FLTSUB",
    ];
    const SEGV: [&str; 4] = ["SEGV_MAPERR", "SEGV_ACCERR", "SEGV_BNDERR", "SEGV_PKUERR"];
    const BUS: [&str; 5] = ["BUS_ADRALN", "BUS_ADRERR", "BUS_OBJERR", "BUS_MCEERR_AR", "BUS_MCEERR_AO"];
    const TRAP: [&str; 5] = ["TRAP_BRKPT", "TRAP_TRACE", "TRAP_BRANCH", "TRAP_HWBKPT", "TRAP_UNK"];
    match code {
        0 => return Some("SI_USER"),
        0x80 => return Some("SI_KERNEL"),
        -1 => return Some("SI_QUEUE"),
        -2 => return Some("SI_TIMER"),
        -6 => return Some("SI_TKILL"),
        _ => {}
    }
    let table: &[&str] = match signal {
        4 => &ILL,
        5 => &TRAP,
        7 => &BUS,
        8 => &FPE,
        11 => &SEGV,
        31 if code == 1 => return Some("SYS_SECCOMP"),
        _ => return None,
    };
    table.get(usize::try_from(code).ok()?.checked_sub(1)?).copied()
}

fn explain(signal: u32, code: &str) -> &'static str {
    match code {
        "SI_USER" => " (kill)",
        "SI_TKILL" => " (raise, abort or tgkill)",
        "SI_KERNEL" => match signal {
            5 => " (by the kernel: a breakpoint instruction)",
            11 => " (by the kernel: a non-canonical address or a general protection fault)",
            _ => " (by the kernel)",
        },
        "SEGV_MAPERR" => " (no mapping there)",
        "SEGV_ACCERR" => " (the mapping does not allow it)",
        "SEGV_PKUERR" => " (a protection key forbids it)",
        "FPE_INTDIV" => " (integer divide by zero, or overflow of a division)",
        "BUS_ADRERR" => " (past the end of a mapped file, or no such physical address)",
        "BUS_MCEERR_AR" => " (hardware memory error)",
        "SYS_SECCOMP" => " (a seccomp filter forbids the system call)",
        "ILL_ILLOPN" | "ILL_ILLOPC" => " (no such instruction)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alignment_check_tells_no_address() {
        let mut raw = [0; 128];
        (raw[0], raw[8]) = (7, 1);
        let info = SigInfo::parse(&raw).unwrap();
        assert_eq!((info.address, info.describe().as_str()), (None, "SIGBUS (bus error), BUS_ADRALN"));
        // The second code has an address, whatever it is.
        raw[8] = 2;
        assert_eq!(SigInfo::parse(&raw).unwrap().address, Some(0));
    }

    #[test]
    fn a_forbidden_system_call_is_named() {
        let mut raw = [0; 128];
        raw[0] = 31;
        raw[8] = 1;
        raw[24] = 39;
        raw[28..32].copy_from_slice(&AUDIT_ARCH_X86_64.to_le_bytes());
        let text = SigInfo::parse(&raw).unwrap().describe();
        assert!(text.ends_with("forbids the system call): getpid (39)"), "{text}");
        // The same number is another call in the 32-bit table.
        raw[28] = 3;
        assert!(SigInfo::parse(&raw).unwrap().describe().ends_with(": of no known name (39)"));
    }

    #[test]
    fn a_fault_names_its_address() {
        let mut raw = [0; 128];
        raw[0] = 11;
        raw[8] = 1;
        raw[16] = 0x10;
        let info = SigInfo::parse(&raw).unwrap();
        assert_eq!(info.describe(), "SIGSEGV (segmentation fault), SEGV_MAPERR (no mapping there) at 0x10");
    }
}
