//! Little writers that CFI, DWARF and ELF share.

/// Appends bytes in the forms of DWARF.
pub(crate) trait Put {
    /// A 16-bit integer.
    fn u16(&mut self, value: u16);
    /// A 32-bit integer.
    fn u32(&mut self, value: u32);
    /// A 64-bit integer.
    fn u64(&mut self, value: u64);
    /// An unsigned LEB128.
    fn uleb(&mut self, value: u64);
    /// A signed LEB128.
    fn sleb(&mut self, value: i64);
    /// Text and its NUL.
    fn cstr(&mut self, text: &str);
    /// Overwrites the 32 bits at `at`; nothing if they are not there.
    fn patch_u32(&mut self, at: usize, value: u32);
}

impl Put for Vec<u8> {
    fn u16(&mut self, value: u16) {
        self.extend(value.to_le_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.extend(value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.extend(value.to_le_bytes());
    }

    fn uleb(&mut self, mut value: u64) {
        loop {
            let [low, ..] = (value & 0x7f).to_le_bytes();
            value >>= 7;
            if value == 0 {
                self.push(low);
                return;
            }
            self.push(low | 0x80);
        }
    }

    fn sleb(&mut self, mut value: i64) {
        loop {
            let [low, ..] = (value & 0x7f).to_le_bytes();
            value >>= 7;
            let sign = low & 0x40 != 0;
            if (value == 0 && !sign) || (value == -1 && sign) {
                self.push(low);
                return;
            }
            self.push(low | 0x80);
        }
    }

    fn cstr(&mut self, text: &str) {
        self.extend(text.bytes().filter(|b| *b != 0));
        self.push(0);
    }

    fn patch_u32(&mut self, at: usize, value: u32) {
        if let Some(to) = self.get_mut(at..at.saturating_add(4)) {
            to.copy_from_slice(&value.to_le_bytes());
        }
    }
}

/// The length of something made here, in DWARF's 32-bit format.
pub(crate) fn len32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
