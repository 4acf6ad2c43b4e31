//! Where a function keeps its return address, by the bytes it begins with.
//!
//! Code with frame pointers begins `push %rbp; mov %rsp,%rbp`, perhaps with the
//! function tracer's five bytes in front and other instructions between, and ends with
//! `pop %rbp` or `leave` and `ret`. Outside of these two places rbp is still, or again,
//! the caller's.

/// So many bytes of a function are looked at: between `push` and `mov` compilers put a
/// few instructions at most.
pub const REACH: usize = 64;

/// Where the return address of a function that was interrupted lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// At the stack pointer: rbp is the caller's.
    AtSp,
    /// A word above, over the caller's rbp that was just pushed.
    Pushed,
    /// By rbp: it points to the caller's, over which the return address lies.
    ByBp,
    /// The function does not begin so.
    Unknown,
}

/// The first instructions of a function with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prologue {
    /// Where it begins.
    pub start: u64,
    /// Where rbp has been pushed.
    pub pushed: u64,
    /// Where rbp points to its own frame.
    pub framed: u64,
}

impl Prologue {
    /// That of the function at `start` with these first bytes.
    #[must_use]
    pub fn of(start: u64, code: &[u8]) -> Option<Self> {
        let push = Some(marks(code)).filter(|_| begins(code))?;
        // mov %rsp,%rbp, in both of its encodings.
        let is_mov = |w: &[u8]| matches!(w, [0x48, 0x89, 0xe5] | [0x48, 0x8b, 0xec]);
        let mov = code.get(push + 1..)?.windows(3).position(is_mov)?;
        let at = |offset: usize| start.checked_add(offset as u64);
        Some(Self { start, pushed: at(push + 1)?, framed: at(push + 1 + mov + 3)? })
    }
}

/// The five-byte nops that stand in place of the function tracer's call
/// (`arch/x86/include/asm/nops.h`: the second on CPUs that the kernel takes for old).
const NOPS: [[u8; 5]; 2] = [[0x0f, 0x1f, 0x44, 0x00, 0x00], [0x66, 0x66, 0x66, 0x66, 0x90]];

/// Bytes of the marks in front of a function's own instructions: `endbr64`, and the call
/// of the function tracer or a nop in its place.
#[must_use]
pub fn marks(code: &[u8]) -> usize {
    let endbr = if code.starts_with(&[0xf3, 0x0f, 0x1e, 0xfa]) { 4 } else { 0 };
    let rest = code.get(endbr..).unwrap_or_default();
    let tracer = rest.first() == Some(&0xe8) || NOPS.iter().any(|nop| rest.starts_with(nop));
    endbr + if tracer { 5 } else { 0 }
}

/// Whether the function with these first bytes pushes rbp before all else.
#[must_use]
pub fn begins(code: &[u8]) -> bool {
    code.get(marks(code)) == Some(&0x55)
}

/// How a function with these first bytes keeps its return address when it is about to
/// run the instruction at `offset`; `around` are the last byte before that instruction and
/// its first.
#[must_use]
pub fn frame(code: &[u8], offset: u64, around: Option<[u8; 2]>) -> Frame {
    match (Prologue::of(0, code), around) {
        (None, _) => Frame::Unknown,
        (Some(first), _) if offset < first.pushed => Frame::AtSp,
        (Some(first), _) if offset < first.framed => Frame::Pushed,
        // At `ret`, and where a call in the last place became a jump.
        (_, Some([_, 0xc3 | 0xc2] | [0x5d | 0xc9, 0xe9 | 0xeb | 0xff])) => Frame::AtSp,
        _ => Frame::ByBp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_instruction_of_a_function_has_its_frame() {
        // nop; push %rbp; xor %eax,%eax; mov %rsp,%rbp; inc %eax; pop %rbp; ret; pop %rbp; jmp
        let code = [
            0x0f, 0x1f, 0x44, 0x00, 0x00, 0x55, 0x31, 0xc0, 0x48, 0x89, 0xe5, 0xff, 0xc0, 0x5d, 0xc3, 0x5d,
            0xe9, 0, 0, 0, 0,
        ];
        let at = |offset: usize| {
            let around = offset.checked_sub(1).map(|before| [code[before], code[offset]]);
            frame(&code, offset as u64, around)
        };
        assert_eq!([at(0), at(5)], [Frame::AtSp; 2]);
        assert_eq!([at(6), at(8)], [Frame::Pushed; 2]);
        assert_eq!([at(11), at(13), at(15)], [Frame::ByBp; 3]);
        assert_eq!([at(14), at(16)], [Frame::AtSp; 2]);
        assert_eq!(frame(&code, 0x1000, None), Frame::ByBp);
        assert!(begins(&code) && begins(&code[5..]) && !begins(&code[6..]));
        assert!(begins(&[0x66, 0x66, 0x66, 0x66, 0x90, 0x55]) && begins(&[0xe8, 1, 2, 3, 4, 0x55]));
        // Code that is not a compiler's, and none at all.
        for bare in [&[0x31, 0xc0, 0x55, 0xc3][..], &[]] {
            assert_eq!(frame(bare, 0, None), Frame::Unknown);
        }
    }
}
