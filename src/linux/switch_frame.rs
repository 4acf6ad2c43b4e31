//! What a task that is not running left on its stack, since 4.9: the frame of
//! `__switch_to_asm`, be its type (`struct inactive_task_frame`) in the dump or lost.
//! Before 4.9 see [`super::old_switch`].

use super::View;
use super::layout::{SWITCH_FRAME, SwitchFrame};
use crate::arch::Register::{self, R12, R13, R14, R15, Rbp, Rbx, Rip};

/// Bytes that the pushes at its start take at most.
const PUSHES: usize = 16;

/// The frame's layout: by its type, else by the code that writes it, else as all kernels
/// have it since the flags went out of it.
pub(super) fn of(view: &View) -> Option<SwitchFrame> {
    let version = &view.layout().version;
    let by_code = || {
        let code = view.space().read_vec(view.symbol("__switch_to_asm")?, PUSHES).ok()?;
        pushed_by(&code)
    };
    let usual =
        || version.switch_frame_is_plain().then(|| layout(&SWITCH_FRAME.map(|(register, _)| register)));
    view.layout().switch_frame.or_else(by_code).or_else(usual)
}

/// Whether the kernel has such a frame.
pub(crate) fn exists(view: &View) -> bool {
    view.layout().switch_frame.is_some() || view.layout().version.has_thread_info_in_task()
}

/// What the pushes at the start of `code` leave, with the return address above them.
fn pushed_by(code: &[u8]) -> Option<SwitchFrame> {
    let (mut code, mut pushed) = (code, vec![Rip]);
    loop {
        let (register, rest) = match code {
            [0x55, rest @ ..] => (Rbp, rest),
            [0x53, rest @ ..] => (Rbx, rest),
            [0x41, 0x54, rest @ ..] => (R12, rest),
            [0x41, 0x55, rest @ ..] => (R13, rest),
            [0x41, 0x56, rest @ ..] => (R14, rest),
            [0x41, 0x57, rest @ ..] => (R15, rest),
            [0x9c, rest @ ..] => (Register::Eflags, rest),
            _ => break,
        };
        pushed.push(register);
        code = rest;
    }
    pushed.reverse();
    let once = |r: Register| pushed.iter().filter(|p| **p == r).count() == 1;
    SWITCH_FRAME.iter().all(|(register, _)| once(*register)).then(|| layout(&pushed))
}

/// The layout of a frame of these words.
fn layout(words: &[Register]) -> SwitchFrame {
    let at = |register| words.iter().position(|w| *w == register).unwrap_or_default() as u64 * 8;
    SwitchFrame {
        size: words.len() as u64 * 8,
        offsets: SWITCH_FRAME.map(|(register, _)| (register, at(register))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(frame: SwitchFrame, register: Register) -> u64 {
        frame.offsets.iter().find(|(r, _)| *r == register).unwrap().1
    }

    #[test]
    fn the_code_tells_the_frame() {
        // push rbp, rbx, r12 to r15; mov [rdi + ...], rsp
        let code = [0x55, 0x53, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57, 0x48, 0x89, 0xa7, 0, 0x1b, 0];
        let frame = pushed_by(&code).unwrap();
        assert_eq!((frame.size, at(frame, R15), at(frame, Rbp), at(frame, Rip)), (0x38, 0, 0x28, 0x30));
        assert_eq!(frame.offsets, layout(&[R15, R14, R13, R12, Rbx, Rbp, Rip]).offsets);
        // 5.1 to 5.7 push the flags as well.
        let mut flags = code;
        (flags[10], flags[11]) = (0x9c, 0x48);
        let frame = pushed_by(&flags).unwrap();
        assert_eq!((frame.size, at(frame, R15), at(frame, Rip)), (0x40, 8, 0x38));
        // Anything else is not believed.
        assert!(pushed_by(&code[2..]).is_none());
        assert!(pushed_by(&[0x55; 16]).is_none());
    }
}
