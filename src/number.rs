//! Numbers as people type them, on the command line and in `monitor`.

/// `0x` and hexadecimal digits, else decimal ones.
pub(crate) fn unsigned(text: &str) -> Result<u64, String> {
    let parsed = match hex_digits(text) {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("{text} is not a number (0x for hexadecimal)"))
}

/// Bytes: [`unsigned`], or that with `K`, `M`, `G` or `T`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    const UNITS: [(char, u32); 4] = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];
    let unit = UNITS.iter().find_map(|&(unit, shift)| Some((text.strip_suffix(unit)?, shift)));
    let (digits, shift) = unit.unwrap_or((text, 0));
    unsigned(digits)?.checked_mul(1 << shift).ok_or_else(|| format!("{text} is too large"))
}

/// [`unsigned`], or that with a minus.
pub(crate) fn signed(text: &str) -> Result<i64, String> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |d| (true, d));
    let too_large = |_| format!("{text} is too large");
    let n = i64::try_from(unsigned(digits)?).map_err(too_large)?;
    Ok(if negative { -n } else { n })
}

/// An address: hexadecimal digits, with `0x` or, as crash takes them, without.
pub(crate) fn address(text: &str) -> Option<u64> {
    u64::from_str_radix(hex_digits(text).unwrap_or(text), 16).ok()
}

fn hex_digits(text: &str) -> Option<&str> {
    text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_and_without_0x() {
        assert_eq!(unsigned("0x10"), Ok(16));
        assert_eq!(unsigned("10"), Ok(10));
        assert_eq!(signed("-0x10"), Ok(-16));
        assert_eq!((size("0x10"), size("3K"), size("2T")), (Ok(16), Ok(3072), Ok(2 << 40)));
        assert!(size("G").is_err() && size("99999999T").is_err() && size("1k").is_err());
        assert_eq!(address("10"), Some(16));
        assert_eq!(address("0Xff"), Some(255));
        for text in ["", "0x", "$cr3", "1.5", "0x1_0", "18446744073709551616"] {
            assert!(unsigned(text).is_err(), "{text}");
        }
        assert!(signed("0x8000000000000000").is_err());
        assert_eq!(address("xyz"), None);
    }
}
