//! Names of functions as their source has them: C++, Rust. (Go writes them plainly.)

use std::borrow::Cow;
use std::fmt::{self, Write};

use cpp_demangle::{DemangleOptions, ParseOptions, Symbol};

/// A hostile name could unfold without end.
const NAME_MAX: usize = 8 << 10;
const DEPTH_MAX: u32 = 96;

/// `name` demangled, if it is mangled.
#[must_use]
pub fn plain(name: &str) -> Cow<'_, str> {
    if !name.starts_with("_Z") && !name.starts_with("_R") || name.len() > NAME_MAX {
        return Cow::Borrowed(name);
    }
    let mut out = Bounded(String::new());
    if let Ok(rust) = rustc_demangle::try_demangle(name)
        && write!(out, "{rust:#}").is_ok()
    {
        return Cow::Owned(out.0);
    }
    let parse = ParseOptions::default().recursion_limit(DEPTH_MAX);
    let Ok(symbol) = Symbol::new_with_options(name, &parse) else { return Cow::Borrowed(name) };
    // `.cold`, `.part.0`: what a compiler split off.
    let options = DemangleOptions::new().recursion_limit(DEPTH_MAX);
    out.0.clear();
    match symbol.structured_demangle(&mut out, &options) {
        Ok(()) if !out.0.is_empty() => Cow::Owned(out.0),
        _ => Cow::Borrowed(name),
    }
}

struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        if self.0.len() + s.len() > NAME_MAX {
            return Err(fmt::Error);
        }
        self.0.push_str(s);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_source() {
        assert_eq!(plain("_ZN3foo3barEiPKc"), "foo::bar(int, char const*)");
        assert_eq!(
            plain("_ZN4core6option13expect_failed17h0123456789abcdefE"),
            "core::option::expect_failed"
        );
        assert_eq!(plain("_RNvC6_123foo3bar"), "123foo::bar");
        for name in ["main", "_Zebra", "_Z", "_ZN", "_RN"] {
            assert_eq!(plain(name), name);
        }
    }

    #[test]
    fn a_name_that_unfolds_without_end_stays_as_it_is() {
        // Each level names the one before it twice.
        let bomb = (0..60).fold("1a".to_owned(), |s, _| format!("St4pairI{s}S_E"));
        let _ = plain(&format!("_Z1f{bomb}"));
        let deep = format!("_Z1f{}i", "P".repeat(7000));
        assert!(plain(&deep).len() <= NAME_MAX);
    }
}
