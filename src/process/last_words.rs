//! What a process said as it died: the message of `abort`, the C++ exception that
//! nothing caught.

use super::core_file::ThreadNotes;
use super::frames::Frame;
use super::{Process, names, unwind};
use crate::addr::VirtAddr;
use crate::arch::Register;
use crate::bytes::u64_at;
use crate::memory::AddressSpace;
use crate::text::printable;

/// Frames in which the cause of an abort is looked for.
const FRAMES: usize = 32;
/// How far up the stack a pointer to an exception is looked for.
const SEARCHED: usize = 64 << 10;
const TEXT_MAX: usize = 4096;

/// What glibc kept of its last message for just this reader: `__abort_msg`
/// (`assert/assert.c`, `sysdeps/posix/libc_fatal.c`): of `assert`, a damaged heap, a
/// smashed stack.
#[must_use]
pub fn abort_message(process: &Process) -> Option<String> {
    let is_libc = |name: &str| name.rsplit('/').next().is_some_and(|base| base.starts_with("libc"));
    let mut libc = process.images_named(is_libc).chain(process.program());
    let pointer = libc.find_map(|i| i.variable(process, "__abort_msg"))?;
    let at = process.memory().read_u64(VirtAddr(pointer)).ok().filter(|&at| at != 0)?;
    // `struct abort_msg_s { unsigned int size; char msg[]; }`
    let text = process.memory().read_cstr(VirtAddr(at.checked_add(4)?), TEXT_MAX).ok()?;
    Some(printable(text.trim_end()).into_owned()).filter(|t| !t.is_empty())
}

/// The type of the C++ exception for which `std::terminate` was called, and its
/// `what()` where that is a plain string.
///
/// The exception is found by what its header ends with, the class of the exception
/// (Itanium C++ ABI, exception handling, 1.2.1: "GNUCC++\0"): `struct __cxa_exception`
/// starts 80 bytes before that with a pointer to the `type_info`.
#[must_use]
pub fn exception(process: &Process, thread: &ThreadNotes) -> Option<(String, Option<String>)> {
    const CLASS: u64 = 0x474e_5543_432b_2b00;
    let stack = unwind::stack(process, thread, FRAMES);
    let terminates = |f: &Frame| {
        let pc = f.pc.wrapping_sub(1);
        let symbol = process.image_at(pc).and_then(|i| i.symbol(process, pc));
        symbol.is_some_and(|(name, _)| name == "_ZSt9terminatev" || name.starts_with("__cxa_throw"))
    };
    if !stack.frames.iter().any(terminates) {
        return None;
    }
    let word = |at: u64| process.memory().read_u64(VirtAddr(at)).ok();
    let sp = process.general_regs(thread)?.get(Register::Rsp)?;
    let mut raw = vec![0; SEARCHED];
    let n = process.memory().read(VirtAddr(sp), &mut raw).ok()?;
    raw.truncate(n);
    let writable = |at: u64| process.memory().stored().segment(at).is_some_and(|s| s.writable());
    let mut pointers = (0..raw.len()).step_by(8).filter_map(|i| u64_at(&raw, i));
    let header = pointers.find(|&p| p % 8 == 0 && writable(p) && word(p) == Some(CLASS))?;
    let type_info = word(header.checked_sub(80)?)?;
    let mangled = process.memory().read_cstr(VirtAddr(word(type_info.checked_add(8)?)?), TEXT_MAX).ok()?;
    let mangled = mangled.trim_start_matches('*');
    let name = names::plain(&format!("_ZTI{mangled}")).into_owned();
    let name = name.strip_prefix("typeinfo for ").unwrap_or(mangled).to_owned();
    let what = || {
        // The object stands behind the header: a vtable, then the message of these.
        let at = HAVE_TEXT.contains(&mangled).then(|| word(header.checked_add(40)?))??;
        process.memory().read_cstr(VirtAddr(at), TEXT_MAX).ok().map(|t| printable(&t).into_owned())
    };
    Some((printable(&name).into_owned(), what()))
}

/// What has `std::runtime_error` or `std::logic_error` at its beginning (libstdc++
/// `<stdexcept>`, `<system_error>`).
const HAVE_TEXT: [&str; 10] = [
    "St13runtime_error",
    "St11range_error",
    "St14overflow_error",
    "St15underflow_error",
    "St12system_error",
    "St11logic_error",
    "St12domain_error",
    "St16invalid_argument",
    "St12length_error",
    "St12out_of_range",
];
