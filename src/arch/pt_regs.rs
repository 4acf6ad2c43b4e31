//! How the kernel stores registers in memory.
//!
//! `struct pt_regs` (`arch/x86/include/asm/ptrace.h`) is what every entry into the
//! kernel leaves on its stack; `struct user_regs_struct` (`asm/user_64.h`), which
//! notes of crashed CPUs and threads hold, is the same with six words behind it.

use super::{Register, Registers};
use crate::bytes::u64_at;

/// The members of `struct pt_regs` in their order, a word each, by the kernel's names.
pub const MEMBERS: [(Register, &str); 21] = [
    (Register::R15, "r15"),
    (Register::R14, "r14"),
    (Register::R13, "r13"),
    (Register::R12, "r12"),
    (Register::Rbp, "bp"),
    (Register::Rbx, "bx"),
    (Register::R11, "r11"),
    (Register::R10, "r10"),
    (Register::R9, "r9"),
    (Register::R8, "r8"),
    (Register::Rax, "ax"),
    (Register::Rcx, "cx"),
    (Register::Rdx, "dx"),
    (Register::Rsi, "si"),
    (Register::Rdi, "di"),
    (Register::OrigRax, "orig_ax"),
    (Register::Rip, "ip"),
    (Register::Cs, "cs"),
    (Register::Eflags, "flags"),
    (Register::Rsp, "sp"),
    (Register::Ss, "ss"),
];

/// Bytes of `struct pt_regs`.
pub const SIZE: usize = 8 * MEMBERS.len();

/// The first of [`MEMBERS`] that the CPU itself pushes; those before it are saved by code.
pub const HARDWARE: usize = 16;

/// What `struct user_regs_struct` has behind the members of `struct pt_regs`.
const OF_USER: [Register; 6] =
    [Register::FsBase, Register::GsBase, Register::Ds, Register::Es, Register::Fs, Register::Gs];

/// Offset of `register` in `struct pt_regs`; [`SIZE`] for one that is not in it.
#[must_use]
pub const fn offset(register: Register) -> u64 {
    let mut rest: &[(Register, &str)] = &MEMBERS;
    let mut at = 0;
    while let [(member, _), more @ ..] = rest {
        if *member as usize == register as usize {
            break;
        }
        at += 8;
        rest = more;
    }
    at
}

/// Reads a `struct pt_regs` at the front of `data`.
#[must_use]
pub fn parse(data: &[u8]) -> Option<Registers> {
    let mut regs = words(data, MEMBERS.iter().map(|m| m.0))?;
    // With FRED the upper halves of cs and ss hold the event's data (6.9).
    for selector in [Register::Cs, Register::Ss] {
        regs.set(selector, regs.get(selector).map(|v| v & 0xffff));
    }
    Some(regs)
}

/// Reads a `struct user_regs_struct` at the front of `data`.
#[must_use]
pub fn parse_user(data: &[u8]) -> Option<Registers> {
    words(data, MEMBERS.iter().map(|m| m.0).chain(OF_USER))
}

fn words(data: &[u8], order: impl Iterator<Item = Register>) -> Option<Registers> {
    order.enumerate().map(|(i, register)| Some((register, u64_at(data, i * 8)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a compiler lays the structures out.
    #[test]
    fn members_are_where_the_kernel_has_them() {
        assert_eq!(SIZE, 168);
        for (register, at) in
            [(Register::R15, 0), (Register::Rax, 80), (Register::Rip, 128), (Register::Rsp, 152)]
        {
            assert_eq!(offset(register), at);
        }
        assert_eq!(offset(Register::Cr3), 168);
        assert_eq!(MEMBERS.get(HARDWARE).map(|m| m.1), Some("ip"));
        let words: Vec<u8> = (0..27u64).flat_map(|n| (n << 16 | n).to_le_bytes()).collect();
        let (kernel, user) = (parse(&words).unwrap(), parse_user(&words).unwrap());
        assert_eq!((kernel.get(Register::Cs), user.get(Register::Cs)), (Some(17), Some(17 << 16 | 17)));
        assert_eq!((kernel.get(Register::Gs), user.get(Register::Gs)), (None, Some(26 << 16 | 26)));
        assert_eq!(user.get(Register::FsBase), Some(21 << 16 | 21));
        assert_eq!((parse(&words[..167]), parse_user(&words[..215])), (None, None));
    }
}
