//! Text of a dump inside of XML documents.

use crate::text::DOT;

/// Appends `text` so that any of it can stand in XML 1.0, which has no way at
/// all to write most control characters.
pub(crate) fn push_escaped(xml: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => xml.push_str("&amp;"),
            '<' => xml.push_str("&lt;"),
            '>' => xml.push_str("&gt;"),
            '"' => xml.push_str("&quot;"),
            '\'' => xml.push_str("&apos;"),
            '\u{fffe}' | '\u{ffff}' => xml.push(DOT),
            c if c.is_control() => xml.push(DOT),
            c => xml.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_safe() {
        let mut xml = String::new();
        push_escaped(&mut xml, "a<b>&\"'\x01\n\u{7f}\u{fffe}é/0:1");
        assert_eq!(xml, "a&lt;b&gt;&amp;&quot;&apos;....é/0:1");
    }
}
