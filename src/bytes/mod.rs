//! A bounded cursor over untrusted bytes, and little-endian reads at offsets.
//!
//! Everything corestub serves is little-endian (x86-64). Only the flattened
//! format's framing and QEMU's streams are big-endian and read themselves. [`source`] is where the bytes come from.

pub mod packed;
pub mod served;
pub mod source;

/// The bytes end before the value does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Short {
    /// Offset at which the value was to start.
    pub at: usize,
    /// How many bytes it needs.
    pub need: usize,
}

/// Reads little-endian integers front to back.
#[derive(Debug, Clone)]
pub struct Cursor<'a> {
    data: &'a [u8],
    pos: usize,
}

impl<'a> Cursor<'a> {
    /// A cursor at the front of `data`.
    #[must_use]
    pub fn new(data: &'a [u8]) -> Self {
        Self { data, pos: 0 }
    }

    /// How many bytes have been consumed.
    #[must_use]
    pub fn pos(&self) -> usize {
        self.pos
    }

    /// What is left.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.data.get(self.pos..).unwrap_or_default()
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Short> {
        let short = Short { at: self.pos, need: len };
        let end = self.pos.checked_add(len).ok_or(short)?;
        let out = self.data.get(self.pos..end).ok_or(short)?;
        self.pos = end;
        Ok(out)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        let short = Short { at: self.pos, need: N };
        self.take(N)?.try_into().map_err(|_| short)
    }

    /// The next byte.
    pub fn u8(&mut self) -> Result<u8, Short> {
        self.array::<1>().map(|[b]| b)
    }

    /// The next 16-bit integer.
    pub fn u16(&mut self) -> Result<u16, Short> {
        self.array().map(u16::from_le_bytes)
    }

    /// The next 32-bit integer.
    pub fn u32(&mut self) -> Result<u32, Short> {
        self.array().map(u32::from_le_bytes)
    }

    /// The next 64-bit integer.
    pub fn u64(&mut self) -> Result<u64, Short> {
        self.array().map(u64::from_le_bytes)
    }

    /// Skips to the next multiple of `to`, a power of two.
    pub fn align(&mut self, to: usize) -> Result<(), Short> {
        self.take(self.pos.wrapping_neg() & to.wrapping_sub(1)).map(drop)
    }
}

/// The `N` bytes at `offset` of `data`.
#[must_use]
pub fn array_at<const N: usize>(data: &[u8], offset: usize) -> Option<[u8; N]> {
    data.get(offset..offset.checked_add(N)?)?.try_into().ok()
}

/// The 16-bit integer at `offset` of `data`.
#[must_use]
pub fn u16_at(data: &[u8], offset: usize) -> Option<u16> {
    array_at(data, offset).map(u16::from_le_bytes)
}

/// The 32-bit integer at `offset` of `data`.
#[must_use]
pub fn u32_at(data: &[u8], offset: usize) -> Option<u32> {
    array_at(data, offset).map(u32::from_le_bytes)
}

/// The 64-bit integer at `offset` of `data`.
#[must_use]
pub fn u64_at(data: &[u8], offset: usize) -> Option<u64> {
    array_at(data, offset).map(u64::from_le_bytes)
}

/// How many zeros `data` begins with. Ranges that were never written have gigabytes of them.
#[must_use]
pub fn leading_zeros(data: &[u8]) -> usize {
    const BLOCK: &[u8] = &[0; 4096];
    let blocks = data.chunks_exact(BLOCK.len()).take_while(|block| *block == BLOCK).count() * BLOCK.len();
    let rest = data.get(blocks..).unwrap_or_default();
    blocks + rest.iter().position(|&b| b != 0).unwrap_or(rest.len())
}

/// Whether there is nothing but zeros.
#[must_use]
pub fn is_zero(data: &[u8]) -> bool {
    leading_zeros(data) == data.len()
}

/// The bytes up to the first NUL (or all), as text; invalid UTF-8 is replaced.
#[must_use]
pub fn cstr(data: &[u8]) -> std::borrow::Cow<'_, str> {
    let end = data.iter().position(|&b| b == 0).unwrap_or(data.len());
    String::from_utf8_lossy(data.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_read_says_where_and_how_much() {
        let mut c = Cursor::new(&[1, 2, 3]);
        assert_eq!(c.u16(), Ok(0x0201));
        assert_eq!(c.u32(), Err(Short { at: 2, need: 4 }));
        assert_eq!(c.rest(), [3]);
    }

    #[test]
    fn zeros_are_counted_to_the_first_other_byte() {
        for (len, other) in
            [(0, None), (1, None), (5000, None), (8192, None), (9000, Some(8191)), (9000, Some(8999))]
        {
            let mut data = vec![0; len];
            other.into_iter().for_each(|at: usize| data[at..].fill(1));
            assert_eq!(leading_zeros(&data), other.unwrap_or(len));
            assert_eq!(is_zero(&data), other.is_none());
        }
    }

    #[test]
    fn text_ends_at_the_first_nul() {
        assert_eq!(cstr(b"swapper/0\0\0x"), "swapper/0");
        assert_eq!(cstr(b"no end"), "no end");
    }
}
