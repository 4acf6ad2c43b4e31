//! Instructions: their text, in gdb's style, and what they work with.

use iced_x86::{Code, Decoder, DecoderOptions, EncodingKind, Formatter, GasFormatter, Mnemonic, OpKind};

use super::Register;

/// Longest instruction of the architecture.
pub const LONGEST: usize = 15;

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// Where it stands, and how long it is.
    pub at: u64,
    /// Bytes.
    pub len: usize,
    /// As gdb writes it.
    pub text: String,
    /// Where it jumps to or calls, if that is in the instruction itself.
    pub target: Option<u64>,
    /// Whether it is a call (of whatever kind).
    pub call: bool,
    /// Whether nothing runs into the next instruction: a return, a jump, ud2.
    pub ends: bool,
    /// Whether it goes on at what lies on top of the stack.
    pub returns: bool,
    /// Whether only the kernel may run it: cli, hlt, in.
    pub privileged: bool,
    /// The registers that its operands name, each once, the destination's first.
    pub registers: Vec<Register>,
    /// The memory that it works with.
    pub memory: Option<Memory>,
}

/// A memory operand: `displacement(base,index,scale)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    base: Option<Register>,
    index: Option<Register>,
    scale: u32,
    displacement: u64,
    segment: Option<Register>,
    /// The operand is where the next instruction is, plus a number, or has no registers.
    absolute: bool,
    /// The address has to be a multiple of so many bytes, or the processor refuses it.
    pub alignment: u64,
}

impl Memory {
    /// The address, by the values of registers. `None` where one is not known.
    #[must_use]
    pub fn address(&self, value: &dyn Fn(Register) -> Option<u64>) -> Option<u64> {
        let of = |register: Option<Register>| register.map_or(Some(0), value);
        let index = of(self.index)?.wrapping_mul(self.scale.into());
        let sum = of(self.base)?.wrapping_add(index).wrapping_add(self.displacement);
        Some(sum.wrapping_add(of(self.segment)?))
    }

    /// Whether the register takes part in the address.
    #[must_use]
    pub fn uses(&self, register: Register) -> bool {
        self.base == Some(register) || self.index == Some(register)
    }

    /// The address, if no register takes part in it.
    #[must_use]
    pub fn absolute(&self) -> Option<u64> {
        (self.absolute && self.segment.is_none()).then_some(self.displacement)
    }
}

/// The instruction at the front of `code`, which stands at `at`. Bytes that are none are
/// one of length 1. `None` if there are no bytes.
#[must_use]
pub fn decode(code: &[u8], at: u64) -> Option<Instruction> {
    if code.is_empty() {
        return None;
    }
    let instruction = Decoder::with_ip(64, code, at, DecoderOptions::NONE).decode();
    if instruction.is_invalid() {
        let (text, registers) = ("(bad)".to_owned(), Vec::new());
        return Some(Instruction {
            at,
            len: 1,
            text,
            target: None,
            call: false,
            ends: false,
            returns: false,
            privileged: false,
            registers,
            memory: None,
        });
    }
    let mut text = String::new();
    let mut formatter = GasFormatter::new();
    formatter.options_mut().set_uppercase_hex(false);
    formatter.format(&instruction, &mut text);
    let mut registers = Vec::new();
    let mut memory = None;
    for i in 0..instruction.op_count() {
        match instruction.op_kind(i) {
            OpKind::Register => {
                named(instruction.op_register(i)).map(|r| registers.push(r)).unwrap_or_default()
            }
            OpKind::Memory => memory = Some(explicit(&instruction)),
            OpKind::MemorySegRSI => memory = memory.or(Some(through(Register::Rsi))),
            OpKind::MemoryESRDI => memory = memory.or(Some(through(Register::Rdi))),
            _ => {}
        }
    }
    if let Some(memory) = memory.filter(|m| !m.absolute) {
        registers.extend([memory.base, memory.index].into_iter().flatten());
    }
    // Of a `lea` or a long nop the operand is no memory.
    let memory = memory.filter(|_| !matches!(instruction.mnemonic(), Mnemonic::Lea | Mnemonic::Nop));
    let mut seen = Vec::new();
    registers.retain(|r| {
        let new = !seen.contains(r);
        seen.push(*r);
        new
    });
    let near = matches!(instruction.op0_kind(), OpKind::NearBranch64);
    Some(Instruction {
        at,
        len: instruction.len(),
        text,
        target: near.then(|| instruction.near_branch_target()),
        call: instruction.mnemonic() == Mnemonic::Call,
        ends: matches!(
            instruction.mnemonic(),
            Mnemonic::Ret | Mnemonic::Jmp | Mnemonic::Ud2 | Mnemonic::Iretq
        ),
        returns: instruction.mnemonic() == Mnemonic::Ret,
        privileged: instruction.is_privileged(),
        registers,
        memory,
    })
}

/// Whether a five-byte nop stands at the front, as the kernel puts where it may patch a
/// call or a jump in.
#[must_use]
pub fn is_site(code: &[u8]) -> bool {
    let found = Decoder::new(64, code, DecoderOptions::NONE).decode();
    found.len() == 5 && matches!(found.code(), Code::Nop_rm32 | Code::Nop_rm16 | Code::Nop_rm64)
}

fn explicit(instruction: &iced_x86::Instruction) -> Memory {
    let segment = match instruction.memory_segment() {
        iced_x86::Register::GS => Some(Register::GsBase),
        iced_x86::Register::FS => Some(Register::FsBase),
        _ => None,
    };
    let relative = instruction.is_ip_rel_memory_operand();
    let base = named(instruction.memory_base()).filter(|_| !relative);
    let index = named(instruction.memory_index());
    Memory {
        base,
        index,
        scale: instruction.memory_index_scale(),
        // iced gives the address itself where it is relative to rip.
        displacement: instruction.memory_displacement64(),
        segment,
        absolute: base.is_none() && index.is_none(),
        alignment: alignment(instruction),
    }
}

/// SDM, volume 1, 4.1.1: operands of 16 bytes and more whose moves say "aligned" or "non-temporal", and
/// those of 16 bytes of all other instructions of SSE, which were before AVX and do not say "unaligned".
fn alignment(instruction: &iced_x86::Instruction) -> u64 {
    use Mnemonic as M;
    let size = instruction.memory_size().size() as u64;
    let aligned = match instruction.mnemonic() {
        M::Vmovaps | M::Vmovapd | M::Vmovdqa | M::Vmovdqa32 | M::Vmovdqa64 => true,
        M::Vmovntps | M::Vmovntpd | M::Vmovntdq | M::Vmovntdqa => true,
        M::Movups | M::Movupd | M::Movdqu | M::Lddqu => false,
        // cmpxchg16b is none of SSE, and wants it, too.
        M::Cmpxchg16b => true,
        _ => instruction.code().encoding() == EncodingKind::Legacy && instruction.memory_size().is_packed(),
    };
    if aligned && size >= 16 { size } else { 1 }
}

/// What `rep movs` and its like work with.
fn through(register: Register) -> Memory {
    Memory {
        base: Some(register),
        index: None,
        scale: 1,
        displacement: 0,
        segment: None,
        absolute: false,
        alignment: 1,
    }
}

/// The whole of the register, if it is one of the sixteen.
fn named(register: iced_x86::Register) -> Option<Register> {
    use iced_x86::Register as Iced;
    const NAMES: [Register; 16] = [
        Register::Rax,
        Register::Rcx,
        Register::Rdx,
        Register::Rbx,
        Register::Rsp,
        Register::Rbp,
        Register::Rsi,
        Register::Rdi,
        Register::R8,
        Register::R9,
        Register::R10,
        Register::R11,
        Register::R12,
        Register::R13,
        Register::R14,
        Register::R15,
    ];
    // In machine order, a row for each width; of bytes the high halves stand between.
    let rows = [(Iced::RAX, 0), (Iced::EAX, 0), (Iced::AX, 0), (Iced::SPL, 4), (Iced::AH, 0), (Iced::AL, 0)];
    let (first, number) = rows.into_iter().find(|(first, _)| *first <= register)?;
    NAMES.get(register as usize - first as usize + number).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_and_what_it_works_with() {
        // mov 0x0(%rbp,%rax,1),%rbx: the instruction of the write-up.
        let found = decode(&[0x48, 0x8b, 0x5c, 0x05, 0x00, 0xcc], 0x1000).unwrap();
        assert_eq!((found.len, found.text.as_str()), (5, "mov (%rbp,%rax),%rbx"));
        assert_eq!(found.registers, [Register::Rbx, Register::Rbp, Register::Rax]);
        let value = |r| match r {
            Register::Rbp => Some(0x0072_0069_0056_0338),
            Register::Rax => Some(0x20),
            _ => None,
        };
        assert_eq!(found.memory.unwrap().address(&value), Some(0x0072_0069_0056_0358));
        assert_eq!(found.memory.unwrap().address(&|_| None), None, "an unknown register is not zero");
    }

    #[test]
    fn calls_jumps_and_memory_beside_rip() {
        let call = decode(&[0xe8, 0xfb, 0x0f, 0, 0], 0x1000).unwrap();
        assert_eq!((call.target, call.call), (Some(0x2000), true));
        let jump = decode(&[0xeb, 0xfe], 0x1000).unwrap();
        assert_eq!((jump.target, jump.call), (Some(0x1000), false));
        let beside = decode(&[0x48, 0x8b, 0x05, 0x10, 0, 0, 0], 0x1000).unwrap();
        assert_eq!(beside.memory.unwrap().absolute(), Some(0x1017));
        let percpu = decode(&[0x65, 0x48, 0x8b, 0x04, 0x25, 0x40, 0, 0, 0], 0).unwrap();
        let gs = |r| (r == Register::GsBase).then_some(0xffff_8880_0000_0000);
        assert_eq!(percpu.memory.unwrap().address(&gs), Some(0xffff_8880_0000_0040));
        assert_eq!(percpu.memory.unwrap().absolute(), None);
    }

    #[test]
    fn alignment_is_that_of_the_processor() {
        let wants = |code: &[u8]| decode(code, 0).unwrap().memory.unwrap().alignment;
        let rows: [(&[u8], u64); 9] = [
            (&[0x0f, 0x29, 0x04, 0x24], 16),             // movaps %xmm0,(%rsp)
            (&[0x0f, 0x11, 0x04, 0x24], 1),              // movups %xmm0,(%rsp)
            (&[0x66, 0x0f, 0xfe, 0x06], 16),             // paddd (%rsi),%xmm0
            (&[0xf2, 0x0f, 0x58, 0x06], 1),              // addsd (%rsi),%xmm0
            (&[0xc5, 0xf9, 0xfe, 0x06], 1),              // vpaddd (%rsi),%xmm0,%xmm0
            (&[0xc5, 0xfd, 0x6f, 0x06], 32),             // vmovdqa (%rsi),%ymm0
            (&[0x62, 0xf1, 0x7d, 0x48, 0x6f, 0x06], 64), // vmovdqa32 (%rsi),%zmm0
            (&[0x48, 0x0f, 0xc7, 0x0e], 16),             // cmpxchg16b (%rsi)
            (&[0x48, 0x8b, 0x06], 1),                    // mov (%rsi),%rax
        ];
        for (code, bytes) in rows {
            assert_eq!(wants(code), bytes, "{code:02x?}");
        }
    }

    #[test]
    fn strings_nops_and_what_is_no_instruction() {
        let movs = decode(&[0xf3, 0xa4], 0).unwrap();
        assert!(movs.memory.is_some() && movs.registers.contains(&Register::Rdi));
        assert_eq!(decode(&[0x0f, 0x1f, 0x44, 0, 0], 0).unwrap().memory, None);
        assert!(is_site(&[0x0f, 0x1f, 0x44, 0, 0]) && !is_site(&[0xe8, 0, 0, 0, 0]) && !is_site(&[]));
        // mov %ah,%r9b: parts of registers
        assert_eq!(decode(&[0x41, 0x88, 0xc1], 0).unwrap().registers, [Register::R9, Register::Rax]);
        assert_eq!(decode(&[0x88, 0xe3], 0).unwrap().registers, [Register::Rbx, Register::Rax]);
        assert_eq!(decode(&[0x66, 0x44, 0x89, 0xf8], 0).unwrap().registers, [Register::Rax, Register::R15]);
        assert_eq!(decode(&[0x06], 0).unwrap().text, "(bad)");
        assert_eq!(decode(&[], 0), None);
    }
}
