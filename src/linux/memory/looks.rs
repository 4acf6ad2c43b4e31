//! What a word looks like that is no address.
//!
//! A pointer that something overwrote tells by its bytes what: a text of a driver, the
//! pattern that an allocator fills freed memory with, the value that a removed list entry
//! is given, an error number that nobody checked. Patterns: `include/linux/poison.h`,
//! `include/linux/err.h`.

/// `MAX_ERRNO`: the last so many values of a pointer are error numbers.
const MAX_ERRNO: u64 = 4095;
/// `POISON_POINTER_DELTA` on x86-64: no address begins so.
const POINTER_DELTA: u64 = 0xdead_0000_0000_0000;

/// Patterns of eight equal bytes.
const FILLED: [(u8, &str); 9] = [
    (0x6b, "freed slab memory (POISON_FREE, 6b): used after it was freed"),
    (0x5a, "slab memory never written (POISON_INUSE, 5a)"),
    (0xa5, "the end of freed slab memory (POISON_END, a5)"),
    (0xbb, "a slab's red zone around a free object (bb)"),
    (0xcc, "a slab's red zone (cc), or int3 instructions"),
    (0xaa, "a freed page (PAGE_POISON, aa)"),
    (0x7e, "pattern 7e of freed init memory"),
    (0xfe, "memory never written (KMSAN, fe)"),
    (0xff, "all ones"),
];

/// Values with a meaning of their own.
const VALUES: [(u64, &str); 8] = [
    (POINTER_DELTA | 0x100, "LIST_POISON1: the list entry was removed already"),
    (POINTER_DELTA | 0x122, "LIST_POISON2: the list entry was removed already"),
    (POINTER_DELTA | 0x200, "LIST_POISON2 (before 4.16): the list entry was removed already"),
    (POINTER_DELTA | 0x300, "TIMER_ENTRY_STATIC"),
    (POINTER_DELTA | 0x400, "a page pool's signature (PP_SIGNATURE 0x40 is added)"),
    (0xdead_4ead, "SPINLOCK_MAGIC"),
    (0x57ac_6e9d, "STACK_END_MAGIC: the end of a kernel stack"),
    (0xdead_beef, "0xdeadbeef"),
];

/// Numbers of the errors that pointers carry most (`include/uapi/asm-generic/errno-base.h`).
const ERRORS: [(u64, &str); 17] = [
    (1, "EPERM"),
    (2, "ENOENT"),
    (4, "EINTR"),
    (5, "EIO"),
    (6, "ENXIO"),
    (9, "EBADF"),
    (11, "EAGAIN"),
    (12, "ENOMEM"),
    (13, "EACCES"),
    (14, "EFAULT"),
    (16, "EBUSY"),
    (17, "EEXIST"),
    (19, "ENODEV"),
    (22, "EINVAL"),
    (28, "ENOSPC"),
    (95, "EOPNOTSUPP"),
    (517, "EPROBE_DEFER"),
];

/// What `value` looks like, if it looks like anything.
#[must_use]
pub(crate) fn looks(value: u64) -> Option<String> {
    error(value).or_else(|| pattern(value)).or_else(|| text(value))
}

/// Whether all of `value` is text, in whichever form.
#[must_use]
pub(super) fn is_text(value: u64) -> bool {
    let bytes = value.to_le_bytes();
    let wide = bytes.chunks(2).all(|unit| matches!(unit, [letter, 0] if plain(*letter)));
    wide || bytes.into_iter().all(plain)
}

/// A letter, digit or sign.
fn plain(byte: u8) -> bool {
    (0x20..0x7f).contains(&byte)
}

/// An error number in a pointer (`IS_ERR()`).
fn error(value: u64) -> Option<String> {
    let number = value.wrapping_neg();
    if !(1..=MAX_ERRNO).contains(&number) {
        return None;
    }
    let name = ERRORS.iter().find(|(n, _)| *n == number).map(|(_, name)| format!(", {name}"));
    Some(format!("an error number (-{number}{})", name.unwrap_or_default()))
}

/// A pattern that the kernel writes, or a small step from it: a member of what is
/// filled with it.
fn pattern(value: u64) -> Option<String> {
    let step = |base: u64, reach: u64| value.checked_sub(base).filter(|step| *step < reach);
    let behind = |what: &str, by: u64| match by {
        0 => what.to_owned(),
        by => format!("{what}, plus {by:#x}"),
    };
    if let Some((_, what)) = VALUES.iter().find(|(v, _)| *v == value) {
        return Some((*what).to_owned());
    }
    for (byte, what) in FILLED {
        let filled = u64::from_le_bytes([byte; 8]);
        if value == filled {
            return Some(what.to_owned());
        }
        // Of -1 and what lies below it nothing can be said.
        if byte != 0xff
            && let Some(by) = step(filled, 0x1000)
        {
            return Some(behind(what, by));
        }
        if byte == 0x6b && value == (filled & u64::MAX >> 8 | 0xa5 << 56) {
            return Some(format!("{what}, up to its last byte"));
        }
    }
    let (base, what) = *VALUES
        .iter()
        .rev()
        .filter(|(v, _)| v & POINTER_DELTA == POINTER_DELTA)
        .find(|(v, _)| step(*v, 0x22).is_some())?;
    Some(behind(what, value - base))
}

/// A piece of a text, as bytes or as UTF-16: whatever cannot be shown is a dot.
#[must_use]
pub(crate) fn text(value: u64) -> Option<String> {
    let bytes = value.to_le_bytes();
    // A text may end in this word: then zeros follow.
    let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    let shown = bytes.get(..end)?;
    if end >= 5 && shown.iter().all(|b| plain(*b)) {
        return Some(format!("text {:?}", String::from_utf8_lossy(shown)));
    }
    let units = [0, 2, 4, 6].map(|at| {
        let pair = bytes.get(at..at + 2).unwrap_or_default();
        u16::from_le_bytes([pair.first().copied().unwrap_or(0), pair.get(1).copied().unwrap_or(0)])
    });
    let letter = |unit: &u16| u8::try_from(*unit).ok().filter(|b| plain(*b)).map(char::from);
    let letters = units.iter().filter(|u| letter(u).is_some()).count();
    // What code adds to a pointer changes its lowest bytes: three letters are enough.
    if letters < 3 {
        return None;
    }
    let shown: String = units.iter().filter(|u| **u != 0).map(|u| letter(u).unwrap_or('.')).collect();
    Some(format!("UTF-16 text {shown:?}"))
}

#[cfg(test)]
mod tests {
    use super::looks;

    #[test]
    fn texts_are_recognised() {
        let is = |value: u64, wanted: &str| assert_eq!(looks(value).as_deref(), Some(wanted), "{value:#x}");
        // The word of the write-up: "Vir" and a letter that an addition changed.
        is(0x0072_0069_0056_0338, "UTF-16 text \".Vir\"");
        is(0x0074_0072_0069_0056, "UTF-16 text \"Virt\"");
        is(u64::from_le_bytes(*b"/dev/sda"), "text \"/dev/sda\"");
        is(u64::from_le_bytes(*b"eth0:\0\0\0"), "text \"eth0:\"");
    }

    #[test]
    fn patterns_are_recognised() {
        let begins = |value: u64, wanted: &str| {
            let found = looks(value).unwrap_or_default();
            assert!(found.starts_with(wanted), "{value:#x}: {found}");
        };
        begins(0x6b6b_6b6b_6b6b_6b6b, "freed slab memory");
        begins(
            0x6b6b_6b6b_6b6b_6b93,
            "freed slab memory (POISON_FREE, 6b): used after it was freed, plus 0x28",
        );
        begins(0xa56b_6b6b_6b6b_6b6b, "freed slab memory");
        begins(0xdead_0000_0000_0100, "LIST_POISON1");
        begins(0xdead_0000_0000_0108, "LIST_POISON1");
        begins(0xdead_0000_0000_0122, "LIST_POISON2");
        begins((-12i64).cast_unsigned(), "an error number (-12, ENOMEM)");
        begins((-3000i64).cast_unsigned(), "an error number (-3000)");
    }

    #[test]
    fn addresses_and_numbers_look_like_nothing() {
        for value in [0, 1, 0x1000, 0xffff_8880_1234_5678, 0xffff_ffff_8123_4560, 0x7fff_1234_5678, 0x4141] {
            assert_eq!(looks(value), None, "{value:#x}");
        }
    }
}
