//! Bytes as pairs of hexadecimal digits, and back.

/// Appends `bytes` as hexadecimal digits.
pub(crate) fn push(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    out.reserve(bytes.len() * 2);
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            out.extend(DIGITS.get(usize::from(digit)));
        }
    }
}

/// `bytes` as hexadecimal digits.
pub(crate) fn encode(bytes: &[u8]) -> String {
    let mut digits = Vec::new();
    push(&mut digits, bytes);
    // They are ASCII.
    String::from_utf8(digits).unwrap_or_default()
}

/// The bytes that pairs of hexadecimal digits (and nothing else) spell.
pub(crate) fn decode(digits: &[u8]) -> Option<Vec<u8>> {
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

/// The value of one hexadecimal digit.
pub(crate) fn digit(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(encode(&all).as_bytes()), Some(all));
        assert_eq!(encode(b"\x00\xaf"), "00af");
        assert_eq!(decode(b"0AfF"), Some(vec![0x0a, 0xff]));
        for wrong in [&b"0"[..], b"0g", b"+1", b" 1"] {
            assert_eq!(decode(wrong), None);
        }
    }
}
