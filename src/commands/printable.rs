//! Text for people is text: names, arguments and messages come from the dump,
//! and one of them may try to talk to the terminal that they are shown on.

use std::io::{self, Write};

/// Passes text on with every control character but the newline and the tab
/// replaced by a dot.
pub(super) struct Printable<'a>(pub(super) &'a mut dyn Write);

/// `text` without control characters.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { '.' } else { c }).collect()
}

/// The first byte of U+0080 to U+009F, and of the signs behind them.
const C1: u8 = 0xc2;

impl Write for Printable<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let plain = |b: &u8| matches!(b, b'\n' | b'\t') || !b.is_ascii_control() && *b != C1;
        if buf.iter().all(plain) {
            return self.0.write(buf);
        }
        self.0.write_all(printable(&String::from_utf8_lossy(buf)).as_bytes())?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_does_not_reach_the_terminal() {
        let mut out = Vec::new();
        write!(Printable(&mut out), "a\x1b[2J\u{9b}31m\r\u{7f}\tb\u{a9}\u{e9}\n").unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "a.[2J.31m..\tb\u{a9}\u{e9}\n");
    }
}
