//! Text of the dump inside of the page.

use crate::xml::push_escaped;

/// Appends text that may be the dump's. What turns the direction of writing is a dot, too.
pub(super) fn push(page: &mut String, text: &str) {
    let turns =
        |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}');
    push_escaped(page, &text.replace('\t', " ").replace(turns, "."));
}
