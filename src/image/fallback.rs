//! The borders of the world: unwind rules for addresses that belong to no image.
//! They are in the last of gdb's libraries, so that any image's own come first.
//!
//! Without them gdb guesses, and the backtrace of every user task ends in
//! "previous frame inner to this frame (corrupt stack?)".

use std::ops::Range;

use super::cfi::Writer;

/// Where the library itself stands: in the last page, which the kernel keeps free
/// for error numbers in pointers.
pub(super) const ADDRESS: u64 = 0xffff_ffff_ffff_f000;

/// `kernel` is the kernel's text. The rules:
///
/// * user space: the stack ends (its frames belong to the process inferior);
/// * 0, and wild addresses below the kernel: a call through a bad pointer, with
///   the return address at rsp (the kernel's ORC treats 0 the same);
/// * above the kernel up to the fixmap, modules' and BPF's area: frame pointers
///   (`orc_fp_entry`). Modules' own rules come first in gdb's order.
pub(super) fn add(writer: &mut Writer, kernel: &Range<u64>) {
    const USER_END: u64 = 1 << 56;
    const KERNEL_HALF: u64 = 0xff00_0000_0000_0000;
    const FIXMAP: u64 = 0xffff_ffff_ff00_0000;
    writer.call(0..1, 8);
    writer.end(1..USER_END);
    if kernel.start < kernel.end {
        writer.call(KERNEL_HALF..kernel.start, 8);
        writer.frame_pointer(kernel.end..FIXMAP);
    }
}
