//! Taints: what has happened to a kernel or module that its makers do not answer for.
//!
//! The letters are in the kernel itself (`taint_flags[]`, 4.10 and later,
//! `kernel/panic.c`); the meanings are those of
//! `Documentation/admin-guide/tainted-kernels.rst`.

use super::View;

/// Letter and meaning by bit.
const FLAGS: [(char, &str); 20] = [
    ('P', "proprietary module was loaded"),
    ('F', "module was force loaded"),
    ('S', "kernel running on an out of specification system"),
    ('R', "module was force unloaded"),
    ('M', "processor reported a machine check exception"),
    ('B', "bad page referenced or unexpected page flags"),
    ('U', "taint requested by a userspace application"),
    ('D', "kernel died recently: there was an oops or BUG"),
    ('A', "ACPI table overridden by the user"),
    ('W', "kernel issued a warning"),
    ('C', "staging driver was loaded"),
    ('I', "workaround for a bug in platform firmware applied"),
    ('O', "externally built (out-of-tree) module was loaded"),
    ('E', "unsigned module was loaded"),
    ('L', "soft lockup occurred"),
    ('K', "kernel was live patched"),
    ('X', "auxiliary taint, defined by the distribution"),
    ('T', "kernel was built with the struct randomization plugin"),
    ('N', "an in-kernel test was run"),
    ('J', "userspace used a mutating debug operation in fwctl"),
];

/// The kernel's taint bits.
#[must_use]
pub(crate) fn of_kernel(view: &View) -> Option<u64> {
    if let Some(at) = view.symbol("tainted_mask") {
        return view.space().read_u64(at).ok();
    }
    view.space().read_u32(view.symbol("tainted")?).ok().map(u64::from)
}

/// The letters of the bits that are set.
#[must_use]
pub(crate) fn letters(taints: u64) -> String {
    set(taints).map(|(letter, _)| letter).collect()
}

/// Letter and meaning of each bit that is set.
pub(crate) fn set(taints: u64) -> impl Iterator<Item = (char, &'static str)> {
    (0u32..64).filter(move |bit| taints >> bit & 1 != 0).map(|bit| {
        FLAGS.get(bit as usize).copied().unwrap_or(('?', "a taint that is newer than this program"))
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn bits_have_the_letters_of_an_oops() {
        // "Tainted: G           OE" in the lab's oopses.
        assert_eq!(super::letters(1 << 12 | 1 << 13), "OE");
        assert_eq!(super::letters(1 << 40), "?");
    }
}
