//! Attributes of DWARF entries as values: names, numbers, references.

use gimli::{AttributeValue, DebugLineStr, DebugStr, DebugStrOffsets, DebugStrOffsetsBase, DwAt, UnitHeader};

use super::{Die, Slice};

/// The string sections, as one unit sees them.
pub(super) struct Strings<'a> {
    pub(super) str: DebugStr<Slice<'a>>,
    pub(super) line_str: DebugLineStr<Slice<'a>>,
    pub(super) offsets: DebugStrOffsets<Slice<'a>>,
    pub(super) base: Option<DebugStrOffsetsBase>,
    pub(super) format: gimli::Format,
}

impl<'a> Strings<'a> {
    pub(super) fn of_unit(mut self, header: &UnitHeader<Slice<'a>>, root: &Die<'a>) -> Self {
        self.format = header.format();
        self.base = match root.attr_value(gimli::DW_AT_str_offsets_base) {
            Some(AttributeValue::DebugStrOffsetsBase(base)) => Some(base),
            _ => None,
        };
        self
    }

    pub(super) fn get(&self, value: &AttributeValue<Slice<'a>>) -> Option<&'a [u8]> {
        let text = match *value {
            AttributeValue::String(text) => Ok(text),
            AttributeValue::DebugStrRef(at) => self.str.get_str(at),
            AttributeValue::DebugLineStrRef(at) => self.line_str.get_str(at),
            AttributeValue::DebugStrOffsetsIndex(index) => self
                .offsets
                .get_str_offset(self.format, self.base?, index)
                .and_then(|at| self.str.get_str(at)),
            _ => return None,
        };
        text.ok().map(|text| text.slice())
    }
}

pub(super) fn is_flag(die: &Die<'_>, name: DwAt) -> bool {
    matches!(die.attr_value_raw(name), Some(AttributeValue::Flag(true)))
}

pub(super) fn number(die: &Die<'_>, name: DwAt) -> Option<u64> {
    unsigned(&die.attr_value(name)?)
}

/// A constant. `DW_FORM_data*` are unsigned: GCC writes negative ones as `sdata`.
pub(super) fn unsigned(value: &AttributeValue<Slice<'_>>) -> Option<u64> {
    match value {
        AttributeValue::Sdata(value) => Some(value.cast_unsigned()),
        value => value.udata_value(),
    }
}

/// `DW_AT_type` as an offset into `.debug_info`.
pub(super) fn reference(die: &Die<'_>, header: &UnitHeader<Slice<'_>>) -> Option<usize> {
    match die.attr_value(gimli::DW_AT_type)? {
        AttributeValue::UnitRef(at) => Some(at.to_debug_info_offset(header)?.0),
        AttributeValue::DebugInfoRef(at) => Some(at.0),
        _ => None,
    }
}

/// `DW_OP_plus_uconst N`: how DWARF 2 writes a member's offset.
pub(super) fn plus_constant(expression: &[u8]) -> Option<u64> {
    let [0x23, digits @ ..] = expression else { return None };
    let mut value = 0_u64;
    for (at, byte) in digits.iter().enumerate().take(9) {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
