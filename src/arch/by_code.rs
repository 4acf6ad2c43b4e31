//! Where a function keeps its return address and its caller's registers, told by its
//! instructions: for code without unwind rules (musl's libc, assembly).
//!
//! All ways from a compiled function's first instruction to one of its others move the
//! stack pointer alike. So one way is followed: over pushes, pops, what is added to the
//! stack pointer, and the frame pointer.

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register as Iced};

use super::{Register, Registers};

/// Instructions that are followed in one function.
const STEPS_MAX: usize = 8_000;

/// Registers that a function gives back as it got them (psABI, figure 3.4).
const KEPT: [(Iced, Register); 6] = [
    (Iced::RBX, Register::Rbx),
    (Iced::RBP, Register::Rbp),
    (Iced::R12, Register::R12),
    (Iced::R13, Register::R13),
    (Iced::R14, Register::R14),
    (Iced::R15, Register::R15),
];

/// What one instruction finds; places are relative to where the return address lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// The stack pointer.
    sp: Option<i64>,
    /// The frame pointer, if the function uses it as one.
    bp: Option<i64>,
    /// Where the registers of [`KEPT`] are saved.
    saved: [Option<i64>; KEPT.len()],
}

/// Where the code goes on behind an instruction.
enum Way {
    On,
    /// There, or on as well.
    To(u64, bool),
    /// To where a table leads.
    ByTable,
    Ends,
}

impl Frame {
    /// As it is in front of the instruction of `code`, a function from its start, that
    /// covers `offset`.
    #[must_use]
    pub fn of(code: &[u8], offset: usize) -> Option<Self> {
        let entry = Self { sp: Some(0), bp: None, saved: [None; KEPT.len()] };
        let (mut seen, mut steps, mut by_table) = (vec![false; code.len()], 0, None);
        let (mut ways, mut decoder) = (vec![(0, entry)], decoder(code));
        loop {
            while let Some((mut at, mut frame)) = ways.pop() {
                while steps < STEPS_MAX
                    && let Some(seen) = seen.get_mut(at).filter(|seen| !**seen)
                {
                    (*seen, steps) = (true, steps + 1);
                    let Some(found) = decode(&mut decoder, at) else { break };
                    let next = at + found.len();
                    if (at..next).contains(&offset) {
                        return Some(frame).filter(|f| f.sp.or(f.bp).is_some_and(|d| d <= 0));
                    }
                    let inside = |to: u64| usize::try_from(to).ok().filter(|&to| to < code.len());
                    match frame.step(&found, next) {
                        Way::On => at = next,
                        Way::To(to, also_on) => {
                            let to = inside(to);
                            match (to, also_on) {
                                (Some(to), true) => ways.push((to, frame)),
                                (Some(to), false) => at = to,
                                (None, true) => {}
                                (None, false) => break,
                            }
                            if also_on {
                                at = next;
                            }
                        }
                        Way::ByTable => {
                            by_table = by_table.or(Some(frame));
                            break;
                        }
                        Way::Ends => break,
                    }
                }
            }
            // The cases of a `switch` begin behind what nothing runs past.
            let frame = by_table.take()?;
            let behind = ends(code).into_iter().filter(|&at| seen.get(at) == Some(&false));
            ways = behind.map(|at| (at, frame)).collect();
        }
    }

    /// The caller's registers, as far as the function keeps them.
    #[must_use]
    pub fn caller(&self, regs: &Registers, word: &mut dyn FnMut(u64) -> Option<u64>) -> Option<Registers> {
        let entry = match (self.sp, self.bp) {
            (Some(below), _) => regs.get(Register::Rsp)?.wrapping_add_signed(-below),
            (None, Some(below)) => regs.get(Register::Rbp)?.wrapping_add_signed(-below),
            (None, None) => return None,
        };
        let mut next = Registers::default();
        next.set(Register::Rip, Some(word(entry)?));
        next.set(Register::Rsp, entry.checked_add(8));
        for ((_, register), saved) in KEPT.iter().zip(self.saved) {
            let value = match saved {
                Some(below) => word(entry.wrapping_add_signed(below)),
                None => regs.get(*register),
            };
            next.set(*register, value);
        }
        Some(next)
    }

    fn step(&mut self, found: &Instruction, next: usize) -> Way {
        let (op0, op1) = (found.op0_register(), found.op1_register());
        let is_imm = found.op_count() == 2 && found.op1_kind() >= OpKind::Immediate8;
        let branch = (found.op0_kind() == OpKind::NearBranch64).then(|| found.near_branch_target());
        match found.mnemonic() {
            Mnemonic::Jmp => return branch.map_or(Way::ByTable, |to| Way::To(to, false)),
            Mnemonic::Ret | Mnemonic::Ud2 | Mnemonic::Iretq => return Way::Ends,
            // A call of the next instruction asks for its address.
            Mnemonic::Call if branch == Some(next as u64) => self.push(None),
            Mnemonic::Call => {}
            _ if branch.is_some() => return Way::To(branch.unwrap_or_default(), true),
            Mnemonic::Push => self.push(KEPT.iter().position(|k| k.0 == op0)),
            Mnemonic::Pushfq => self.push(None),
            Mnemonic::Pop => self.pop(op0),
            Mnemonic::Popfq => self.pop(Iced::None),
            Mnemonic::Sub if op0 == Iced::RSP && is_imm => self.add(-(found.immediate(1).cast_signed())),
            Mnemonic::Add if op0 == Iced::RSP && is_imm => self.add(found.immediate(1).cast_signed()),
            Mnemonic::Lea if matches!(op0, Iced::RSP | Iced::RBP) => {
                let from = match (found.memory_base(), found.memory_index()) {
                    (Iced::RSP, Iced::None) => self.sp,
                    (Iced::RBP, Iced::None) => self.bp,
                    _ => None,
                };
                let by = found.memory_displacement64().cast_signed();
                self.put(op0, from.and_then(|from| from.checked_add(by)));
            }
            Mnemonic::Mov if op0 == Iced::RSP && op1 == Iced::RBP => self.sp = self.bp,
            Mnemonic::Mov if op0 == Iced::RBP && op1 == Iced::RSP => self.bp = self.sp,
            Mnemonic::Leave => {
                self.sp = self.bp;
                self.pop(Iced::RBP);
            }
            Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Bt | Mnemonic::Nop => {}
            _ => self.put(op0, None),
        }
        Way::On
    }

    fn add(&mut self, bytes: i64) {
        self.sp = self.sp.and_then(|sp| sp.checked_add(bytes));
    }

    fn push(&mut self, kept: Option<usize>) {
        self.add(-8);
        if let Some(slot) = kept.and_then(|i| self.saved.get_mut(i)) {
            *slot = slot.or(self.sp);
        }
    }

    fn pop(&mut self, register: Iced) {
        let from = self.sp;
        self.put(register, None);
        let kept = KEPT.iter().position(|k| k.0 == register);
        if let Some(slot) = kept.and_then(|i| self.saved.get_mut(i)).filter(|slot| **slot == from) {
            *slot = None;
        }
        if register != Iced::RSP {
            self.add(8);
        }
    }

    fn put(&mut self, register: Iced, value: Option<i64>) {
        match register {
            Iced::RSP | Iced::ESP | Iced::SP | Iced::SPL => self.sp = value,
            Iced::RBP | Iced::EBP | Iced::BP | Iced::BPL => self.bp = value,
            _ => {}
        }
    }
}

/// Addresses are offsets into `code`.
fn decoder(code: &[u8]) -> Decoder<'_> {
    Decoder::new(64, code, DecoderOptions::NONE)
}

fn decode(decoder: &mut Decoder<'_>, at: usize) -> Option<Instruction> {
    decoder.set_position(at).ok()?;
    decoder.set_ip(at as u64);
    let found = decoder.decode();
    (!found.is_invalid()).then_some(found)
}

/// Behind each instruction that nothing runs past.
fn ends(code: &[u8]) -> Vec<usize> {
    let mut found = Vec::new();
    let (mut decoder, mut at, mut nothing_runs_here) = (decoder(code), 0, false);
    for _ in 0..STEPS_MAX {
        let Some(instruction) = decode(&mut decoder, at) else { break };
        let padding = matches!(instruction.mnemonic(), Mnemonic::Nop);
        if nothing_runs_here && !padding {
            found.push(at);
        }
        nothing_runs_here = match instruction.mnemonic() {
            Mnemonic::Jmp | Mnemonic::Ret | Mnemonic::Ud2 => true,
            _ => nothing_runs_here && padding,
        };
        at += instruction.len();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const RBP: usize = 1;

    /// musl's `raise`, shortened: push %rbp; push %rbx; mov %edi,%ebx; sub $0x98,%rsp;
    /// mov %rsp,%rbp; jne over the end; add $0x98,%rsp; pop %rbx; pop %rbp; ret; nop; ud2
    const RAISE: [u8; 31] = [
        0x55, 0x53, 0x89, 0xfb, 0x48, 0x81, 0xec, 0x98, 0, 0, 0, 0x48, 0x89, 0xe5, 0x75, 0x0b, 0x48, 0x81,
        0xc4, 0x98, 0, 0, 0, 0x5b, 0x5d, 0xc3, 0x90, 0x0f, 0x0b, 0x90, 0xc3,
    ];

    fn at(code: &[u8], offset: usize) -> Option<(Option<i64>, Option<i64>)> {
        Frame::of(code, offset).map(|f| (f.sp, f.saved[RBP]))
    }

    #[test]
    fn the_stack_pointer_is_followed_through_a_function() {
        assert_eq!(at(&RAISE, 0), Some((Some(0), None)));
        assert_eq!(at(&RAISE, 1), Some((Some(-8), Some(-8))));
        assert_eq!(at(&RAISE, 4), Some((Some(-16), Some(-8))));
        // Within the instruction, too: a return address less one.
        assert_eq!(at(&RAISE, 15), Some((Some(-0xa8), Some(-8))));
        assert_eq!(at(&RAISE, 24), Some((Some(-8), Some(-8))));
        assert_eq!(at(&RAISE, 25), Some((Some(0), None)));
        // Behind the `ret` the way is that of the jump.
        assert_eq!(at(&RAISE, 27), Some((Some(-0xa8), Some(-8))));
        assert_eq!(at(&RAISE, 30), None, "no way leads there");
    }

    #[test]
    fn the_caller_has_what_was_saved() {
        let mut regs = Registers::default();
        regs.set(Register::Rsp, Some(0x1000));
        regs.set(Register::Rbx, Some(1));
        regs.set(Register::R12, Some(12));
        let mut word = |at: u64| Some(at);
        let caller = Frame::of(&RAISE, 15).unwrap().caller(&regs, &mut word).unwrap();
        let values = [Register::Rip, Register::Rsp, Register::Rbp, Register::Rbx, Register::R12];
        let values = values.map(|r| caller.get(r).unwrap());
        assert_eq!(values, [0x10a8, 0x10b0, 0x10a0, 0x1098, 12]);
        assert_eq!(caller.get(Register::Rax), None);
    }

    #[test]
    fn frame_pointers_tables_and_what_is_not_known() {
        // push %rbp; mov %rsp,%rbp; and $-16,%rsp; jmp *%rax; nop; hlt; leave; ret
        let code = [0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xe4, 0xf0, 0xff, 0xe0, 0x90, 0xf4, 0xc9, 0xc3, 0xc3];
        let frame = |offset| Frame::of(&code, offset).map(|f| (f.sp, f.bp));
        assert_eq!(frame(8), Some((None, Some(-8))));
        assert_eq!(frame(11), Some((None, Some(-8))), "where the table leads");
        assert_eq!(frame(13), Some((Some(0), None)));
        // and $-16,%rsp without a frame pointer; pop of the return address; nothing
        assert_eq!(at(&[0x48, 0x83, 0xe4, 0xf0, 0x90], 4), None);
        assert_eq!(at(&[0x5f, 0xff, 0xd1], 1), None);
        assert_eq!(at(&[], 0), None);
        // A loop that never gets there.
        assert_eq!(at(&[0xeb, 0xfe, 0x90], 2), None);
    }
}
