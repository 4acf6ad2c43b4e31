//! A short name for a crash, so that those of one kind can be counted.
//!
//! The rule, stable from the first release: take the stack of the task that crashed, leave
//! out the code that reports a crash, and user mode; of the innermost [`FRAMES`] functions
//! take the names without what compilers append (`.isra.0`, `.cold`), one a line. The
//! *signature* is the FNV-1a hash of that, 64 bits in hexadecimal. Addresses, offsets,
//! versions and modules' load order take no part, so it holds across boots, and across
//! builds as long as the same functions call each other. (ABRT groups by the functions of a
//! kerneloops likewise.) The *coarse* signature is the same of two lines: the exception
//! without its explanation (or `panic`), and the culprit.

/// Functions that count.
pub(super) const FRAMES: usize = 6;

/// The signature of these lines.
#[must_use]
pub(super) fn of<'n>(lines: impl IntoIterator<Item = &'n str>) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for line in lines {
        for byte in plain(line).bytes().chain([b'\n']) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    format!("{hash:016x}")
}

/// A function's name as it is in the source.
#[must_use]
pub(super) fn plain(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::of;

    #[test]
    fn the_signature_is_of_names_alone_and_stable() {
        let one = of(["labcrash_level3", "labcrash_level2.isra.0"]);
        assert_eq!(one, of(["labcrash_level3.cold", "labcrash_level2"]));
        assert_ne!(one, of(["labcrash_level2", "labcrash_level3"]));
        assert_ne!(of(["ab", "c"]), of(["a", "bc"]));
        // FNV-1a's own: of nothing, and of "a\n".
        assert_eq!(of([]), "cbf29ce484222325");
        assert_eq!(of(["a"]), "089bdc07b544e7b2");
    }
}
