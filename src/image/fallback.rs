//! The borders of the world: unwind rules for addresses that belong to no image.
//! They are in the last of gdb's libraries, so that any image's own come first.
//!
//! Without them gdb guesses, and the backtrace of every user task ends in
//! "previous frame inner to this frame (corrupt stack?)".

use std::ops::Range;

use super::debug_frame::Writer;
use crate::arch::{Levels, map};

/// Where the library itself stands: in the last page, which the kernel keeps free
/// for error numbers in pointers.
pub(super) const ADDRESS: u64 = map::LAST_PAGE;

/// `kernel` is the kernel's text. The rules:
///
/// * user space: the stack ends (its frames belong to the process inferior);
/// * 0, and wild addresses below the kernel: a call through a bad pointer, with
///   the return address at rsp (the kernel's ORC treats 0 the same);
/// * above the kernel up to the fixmap, modules' and BPF's area: frame pointers
///   (`orc_fp_entry`). Modules' own rules come first in gdb's order.
pub(super) fn add(writer: &mut Writer, kernel: &Range<u64>) {
    // Of five levels, whatever the machine has: the hole of four is nobody's.
    let levels = Levels::Five;
    writer.call(0..1, 8);
    writer.end(1..levels.user_end());
    if kernel.start < kernel.end {
        writer.call(levels.kernel_start().0..kernel.start, 8);
        writer.frame_pointer(kernel.end..map::FIXMAP);
    }
}
