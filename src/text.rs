//! Printable text: what a dump says, on its way to a person's terminal.
//!
//! Names, arguments and messages come from the dump, and one of them may try to
//! talk to the terminal that it is shown on, or to look like a row of its own. So
//! text for people is written as rows to a [`Screen`], and values for machines by
//! [`write_json`]: neither lets a control character through, whoever forgets what.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io::{self, Write};

use serde::Serialize;

/// What stands where a control character stood.
pub(crate) const DOT: char = '.';

/// `text` in one row: every control character but the tab is a dot.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    if text.bytes().all(is_plain) {
        return Cow::Borrowed(text);
    }
    text.chars().map(|c| if c.is_control() && c != '\t' { DOT } else { c }).collect::<String>().into()
}

/// Whether a byte is no control character and does not begin one: U+0080 to
/// U+009F begin with 0xc2, as other signs do.
fn is_plain(byte: u8) -> bool {
    byte == b'\t' || !byte.is_ascii_control() && byte != 0xc2
}

/// The first of `all`, in a list; `None` if there are none.
pub(crate) fn few(all: impl Iterator<Item = String>) -> Option<String> {
    const SHOWN: usize = 8;
    let mut all = all.peekable();
    all.peek()?;
    let shown: Vec<_> = all.by_ref().take(SHOWN).collect();
    Some(shown.join(", ") + if all.next().is_some() { " and more" } else { "" })
}

/// The names of those bits of `value` that have one: `SA_SIGINFO|SA_RESTART`.
pub(crate) fn flag_names(value: u64, names: &[(u64, &str)]) -> Option<String> {
    let set: Vec<_> = names.iter().filter(|(bit, _)| value & bit != 0).map(|&(_, name)| name).collect();
    (!set.is_empty()).then(|| set.join("|"))
}

/// Where text for people goes, row by row. What is formatted cannot end a row.
pub(crate) struct Screen<'w> {
    to: &'w mut dyn Write,
    row: String,
}

impl<'w> Screen<'w> {
    pub(crate) fn new(to: &'w mut dyn Write) -> Self {
        Self { to, row: String::new() }
    }

    /// The beginning of a row, or more of it; `put!` calls it.
    pub(crate) fn put(&mut self, text: fmt::Arguments<'_>) {
        // Writing to a string does not fail; an odd `Display` might.
        let _ = self.row.write_fmt(text);
    }

    /// A row, or the end of one; `row!` calls it.
    pub(crate) fn row(&mut self, text: fmt::Arguments<'_>) -> io::Result<()> {
        self.put(text);
        let row = printable(&self.row);
        self.to.write_all(row.as_bytes())?;
        self.to.write_all(b"\n")?;
        self.row.clear();
        Ok(())
    }

    /// Rows that another screen has made printable already.
    pub(crate) fn paste(&mut self, rows: &Rows) -> io::Result<()> {
        self.to.write_all(&rows.0)
    }

    /// Shows what was written so far.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Rows kept in memory, made on a thread of their own.
#[derive(Debug, Default)]
pub(crate) struct Rows(Vec<u8>);

impl Rows {
    /// What `write` writes.
    pub(crate) fn of(write: impl FnOnce(&mut Screen<'_>) -> io::Result<()>) -> Self {
        let mut rows = Vec::new();
        // Writing to memory does not fail.
        let _ = write(&mut Screen::new(&mut rows));
        Self(rows)
    }

    /// The rows one by one.
    pub(crate) fn lines(&self) -> impl Iterator<Item = Cow<'_, str>> {
        let rows = self.0.strip_suffix(b"\n").into_iter();
        rows.flat_map(|rows| rows.split(|&b| b == b'\n')).map(String::from_utf8_lossy)
    }
}

/// `row!(screen, "{name}: {value}")?`: a row, or the end of the one that `put!` began.
macro_rules! row {
    ($screen:expr) => { $screen.row(format_args!("")) };
    ($screen:expr, $($text:tt)*) => { $screen.row(format_args!($($text)*)) };
}

/// `put!(screen, "{name}: ")`: a part of a row.
macro_rules! put {
    ($screen:expr, $($text:tt)*) => { $screen.put(format_args!($($text)*)) };
}

pub(crate) use {put, row};

/// A value for people, `?` if it is not known.
pub(crate) fn or_unknown<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "?".to_owned(), |value| value.to_string())
}

/// Writes `value` as JSON, with a newline. JSON escapes the control characters of
/// ASCII but DEL; the others are escaped here, or `jq` shows them to the terminal.
pub(crate) fn write_json(value: &impl Serialize, to: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(Escaped(to), value)?;
    writeln!(to)
}

/// JSON without the control characters that serde leaves as they are. Outside of
/// strings JSON has none of them, so the bytes need not be understood.
struct Escaped<'w>(&'w mut dyn Write);

impl Write for Escaped<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write_all(buf)?;
        Ok(buf.len())
    }

    fn write_all(&mut self, buf: &[u8]) -> io::Result<()> {
        if !buf.iter().any(|&b| b == 0x7f || b == 0xc2) {
            return self.0.write_all(buf);
        }
        // serde writes whole characters.
        let mut text = String::with_capacity(buf.len() + 8);
        for c in String::from_utf8_lossy(buf).chars() {
            match c {
                '\u{7f}'..='\u{9f}' => text.push_str(&format!("\\u{:04x}", u32::from(c))),
                c => text.push(c),
            }
        }
        self.0.write_all(text.as_bytes())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_neither_reaches_the_terminal_nor_ends_a_row() {
        let name = "a\x1b[2J\u{9b}31m\r\n> 1\u{7f}\tb\u{a9}\u{e9}";
        let mut out = Vec::new();
        let mut screen = Screen::new(&mut out);
        put!(screen, "[{name}] ");
        row!(screen, "and more").unwrap();
        row!(screen).unwrap();
        let wanted = "[a.[2J.31m..> 1.\tb\u{a9}\u{e9}] and more\n\n";
        assert_eq!(String::from_utf8(out).unwrap(), wanted);
    }

    #[test]
    fn rows_of_other_threads_are_not_made_printable_twice() {
        let rows = Rows::of(|screen| {
            row!(screen, "one\n")?;
            row!(screen, "two")
        });
        let mut out = Vec::new();
        Screen::new(&mut out).paste(&rows).unwrap();
        assert_eq!(out, b"one.\ntwo\n");
    }

    #[test]
    fn json_has_no_control_characters_and_means_the_same() {
        let name = "a\x1b[2J\u{9b}31m\u{7f}\u{80}\u{9f}\u{a0}\u{e9}\n";
        let mut out = Vec::new();
        write_json(&[name], &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.trim_end().lines().all(|l| !l.contains(char::is_control)), "{text}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&text).unwrap(), [name]);
    }
}
