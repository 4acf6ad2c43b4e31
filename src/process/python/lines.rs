//! The source line of an instruction, by a code object's table.
//!
//! Formats: CPython's `Objects/lnotab_notes.txt` (to 3.9: pairs of steps in code and
//! lines; 3.10: pairs of a length and a step, -128 for "no line") and
//! `Objects/locations.md` (since 3.11: entries of a kind, a length in code units
//! and varints).

use super::layout::Lines;

/// The line at byte `at` of the code that begins on line `first`.
pub(super) fn line(kind: Lines, table: &[u8], first: u32, at: u64) -> Option<u32> {
    match kind {
        Lines::Lnotab => Some(lnotab(table, first, at)),
        Lines::Ranges => ranges(table, first, at),
        Lines::Locations => locations(table, first, at),
    }
}

fn lnotab(table: &[u8], first: u32, at: u64) -> u32 {
    let (mut code, mut line) = (0u64, first);
    for pair in table.chunks_exact(2) {
        let &[step, lines] = pair else { break };
        code += u64::from(step);
        if code > at {
            break;
        }
        line = line.wrapping_add_signed(i32::from(lines.cast_signed()));
    }
    line
}

fn ranges(table: &[u8], first: u32, at: u64) -> Option<u32> {
    let (mut end, mut line) = (0u64, first);
    for pair in table.chunks_exact(2) {
        let &[len, lines] = pair else { break };
        end += u64::from(len);
        let none = lines == 0x80;
        if !none {
            line = line.wrapping_add_signed(i32::from(lines.cast_signed()));
        }
        if at < end {
            return (!none).then_some(line);
        }
    }
    None
}

fn locations(table: &[u8], first: u32, at: u64) -> Option<u32> {
    let (mut bytes, mut end, mut line) = (table.iter().copied(), 0u64, first);
    while let Some(head) = bytes.next() {
        end += (u64::from(head & 7) + 1) * 2;
        let kind = head >> 3 & 15;
        let mut has_line = true;
        let step = match kind {
            // Short forms: columns only, no step; one-line forms: a step of 0 to 2 and two columns.
            0..=9 => {
                bytes.next();
                0
            }
            10..=12 => {
                bytes.nth(1);
                i32::from(kind) - 10
            }
            13 => signed(varint(&mut bytes)?),
            14 => {
                let step = signed(varint(&mut bytes)?);
                (0..3).try_for_each(|_| varint(&mut bytes).map(drop))?;
                step
            }
            _ => {
                has_line = false;
                0
            }
        };
        line = line.wrapping_add_signed(step);
        if at < end {
            return has_line.then_some(line);
        }
    }
    None
}

/// Six bits a byte, the lowest first; bit 6 says that more follow.
fn varint(bytes: &mut impl Iterator<Item = u8>) -> Option<u32> {
    let (mut value, mut shift) = (0u32, 0);
    loop {
        let byte = bytes.next()?;
        value |= u32::from(byte & 63).checked_shl(shift)?;
        if byte & 64 == 0 {
            return Some(value);
        }
        shift += 6;
    }
}

/// The sign is the lowest bit.
fn signed(value: u32) -> i32 {
    let magnitude = (value >> 1).cast_signed();
    if value & 1 == 1 { magnitude.wrapping_neg() } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The tables are those that the compilers of these versions made of
    // `def f(a):\n    b = a\n\n    return (b +\n            a)\n`, printed with `dis.findlinestarts` beside them.
    #[test]
    fn a_step_back_in_lines_is_followed() {
        // 3.8: code 0 line 2, 4 line 4, 6 line 5, 8 line 4.
        let table = [0, 1, 4, 2, 2, 1, 2, 255];
        let lines = [0, 2, 4, 6, 8, 10].map(|at| line(Lines::Lnotab, &table, 1, at));
        assert_eq!(lines, [2, 2, 4, 5, 4, 4].map(Some));
    }

    #[test]
    fn a_range_without_a_line_has_none() {
        let table = [4, 1, 2, 0x80, 4, 2];
        let lines = [0, 4, 6, 9, 10].map(|at| line(Lines::Ranges, &table, 10, at));
        assert_eq!(lines, [Some(11), None, Some(13), Some(13), None]);
    }

    #[test]
    fn every_kind_of_location_is_stepped_over() {
        // Two units with a step of +1 and two columns; one unit short; one unit without a
        // line; one unit long with a step of -2; one unit without columns and a step of +70.
        let table = [
            0x80 | 11 << 3 | 1,
            0,
            0,
            0x80 | 2 << 3,
            0x11,
            0x80 | 15 << 3,
            0x80 | 14 << 3,
            5,
            1,
            1,
            1,
            0x80 | 13 << 3,
            0x40 | 12,
            2,
        ];
        let lines = [0, 2, 4, 6, 8, 10, 12].map(|at| line(Lines::Locations, &table, 100, at));
        assert_eq!(lines, [Some(101), Some(101), Some(101), None, Some(99), Some(169), None]);
    }

    #[test]
    fn a_table_that_ends_early_ends_the_search() {
        assert_eq!(line(Lines::Locations, &[0x80 | 13 << 3, 0x40], 1, 0), None);
        assert_eq!(
            line(Lines::Locations, &[0x80 | 13 << 3, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f], 1, 0),
            None
        );
    }
}
