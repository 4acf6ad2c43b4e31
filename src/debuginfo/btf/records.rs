//! The records of BTF's type section: `struct btf_type` and what follows it.

use super::Btf;
use crate::bytes::u32_at;

/// Number of a type. 0 is `void`.
pub type TypeId = u32;

/// What a type record describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names of btf.rst")]
pub enum Kind {
    Int,
    Ptr,
    Array,
    Struct,
    Union,
    Enum,
    Fwd,
    Typedef,
    Volatile,
    Const,
    Restrict,
    Func,
    FuncProto,
    Var,
    Datasec,
    Float,
    DeclTag,
    TypeTag,
    Enum64,
}

impl Kind {
    pub(super) fn from_number(n: u32) -> Option<Self> {
        const KINDS: [Kind; 19] = [
            Kind::Int,
            Kind::Ptr,
            Kind::Array,
            Kind::Struct,
            Kind::Union,
            Kind::Enum,
            Kind::Fwd,
            Kind::Typedef,
            Kind::Volatile,
            Kind::Const,
            Kind::Restrict,
            Kind::Func,
            Kind::FuncProto,
            Kind::Var,
            Kind::Datasec,
            Kind::Float,
            Kind::DeclTag,
            Kind::TypeTag,
            Kind::Enum64,
        ];
        KINDS.get(usize::try_from(n.checked_sub(1)?).ok()?).copied()
    }

    /// Bytes that follow the 12 of the record.
    pub(super) fn extra(self, vlen: usize) -> usize {
        match self {
            Self::Int | Self::Var | Self::DeclTag => 4,
            Self::Array => 12,
            Self::Struct | Self::Union | Self::Datasec | Self::Enum64 => 12 * vlen,
            Self::Enum | Self::FuncProto => 8 * vlen,
            _ => 0,
        }
    }

    /// A struct or a union.
    #[must_use]
    pub fn is_composite(self) -> bool {
        matches!(self, Self::Struct | Self::Union)
    }

    /// A typedef, qualifier or tag: has the layout of the type it names.
    #[must_use]
    pub fn is_transparent(self) -> bool {
        matches!(self, Self::Typedef | Self::Volatile | Self::Const | Self::Restrict | Self::TypeTag)
    }
}

/// One type record.
#[derive(Debug, Clone, Copy)]
pub struct Type<'a> {
    pub(super) btf: &'a Btf,
    /// Its number.
    pub id: TypeId,
    /// What it is.
    pub kind: Kind,
    /// `kind_flag`: bit-field members, signed enum, union `Fwd`.
    pub flag: bool,
    pub(super) name_off: u32,
    pub(super) size_or_type: u32,
    pub(super) extra: &'a [u8],
}

/// A member of a struct or union.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member<'a> {
    /// Empty if anonymous.
    pub name: &'a str,
    /// Offset of the name among the strings.
    pub name_offset: u32,
    /// Its type.
    pub type_id: TypeId,
    /// Offset in bits from the start of the struct.
    pub bit_offset: u32,
    /// Width, if it is a bit-field.
    pub bits: Option<u8>,
}

/// A constant of an enumeration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enumerator<'a> {
    /// Its name.
    pub name: &'a str,
    /// Offset of the name among the strings.
    pub name_offset: u32,
    /// Its value; read as unsigned if `signed` is false.
    pub value: i64,
    /// Whether the enumeration is signed.
    pub signed: bool,
}

/// A parameter of a function prototype.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Param<'a> {
    /// May be empty.
    pub name: &'a str,
    /// Offset of the name among the strings.
    pub name_offset: u32,
    /// Its type; 0 in last place stands for `...`.
    pub type_id: TypeId,
}

/// Element type and count of an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Array {
    /// Type of an element.
    pub element: TypeId,
    /// Type of the index.
    pub index: TypeId,
    /// Number of elements; 0 for a flexible array.
    pub len: u32,
}

/// A variable of a data section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SectionVar {
    /// The `Var` record.
    pub type_id: TypeId,
    /// Offset in the section.
    pub offset: u32,
    /// Size in bytes.
    pub size: u32,
}

impl<'a> Type<'a> {
    /// Offset of its name among the strings, 0 if it has none.
    #[must_use]
    pub fn name_offset(&self) -> u32 {
        self.name_off
    }

    /// Its name, empty if it has none.
    #[must_use]
    pub fn name(&self) -> &'a str {
        self.btf.string(self.name_off)
    }

    /// Size in bytes, of the kinds that carry one.
    #[must_use]
    pub fn size(&self) -> Option<u32> {
        match self.kind {
            Kind::Int
            | Kind::Struct
            | Kind::Union
            | Kind::Enum
            | Kind::Enum64
            | Kind::Float
            | Kind::Datasec => Some(self.size_or_type),
            _ => None,
        }
    }

    /// The type it refers to, of the kinds that refer to one: pointee, aliased
    /// type, return type of a prototype, prototype of a function, type of a
    /// variable.
    #[must_use]
    pub fn target(&self) -> Option<TypeId> {
        match self.kind {
            Kind::Ptr
            | Kind::Typedef
            | Kind::Volatile
            | Kind::Const
            | Kind::Restrict
            | Kind::Func
            | Kind::FuncProto
            | Kind::Var
            | Kind::DeclTag
            | Kind::TypeTag => Some(self.size_or_type),
            _ => None,
        }
    }

    /// Members of a struct or union; of anything else none.
    pub fn members(&self) -> impl ExactSizeIterator<Item = Member<'a>> + use<'a> {
        let (btf, flag) = (self.btf, self.flag);
        let extra = if self.kind.is_composite() { self.extra } else { &[] };
        extra.chunks_exact(12).map(move |m| {
            let word = word(m, 8);
            let (bit_offset, width) = if flag { (word & 0xff_ffff, word >> 24) } else { (word, 0) };
            Member {
                name: btf.string(self::word(m, 0)),
                name_offset: self::word(m, 0),
                type_id: self::word(m, 4),
                bit_offset,
                bits: u8::try_from(width).ok().filter(|w| *w > 0),
            }
        })
    }

    /// Constants of an enumeration (32 or 64 bits); of anything else none.
    pub fn enumerators(&self) -> impl ExactSizeIterator<Item = Enumerator<'a>> + use<'a> {
        let (btf, signed) = (self.btf, self.flag);
        let (extra, step) = match self.kind {
            Kind::Enum => (self.extra, 8),
            Kind::Enum64 => (self.extra, 12),
            _ => (Default::default(), 8),
        };
        extra.chunks_exact(step).map(move |e| {
            let low = word(e, 4);
            let value = if step == 12 {
                (u64::from(low) | u64::from(word(e, 8)) << 32).cast_signed()
            } else if signed {
                i64::from(low.cast_signed())
            } else {
                i64::from(low)
            };
            Enumerator { name: btf.string(word(e, 0)), name_offset: word(e, 0), value, signed }
        })
    }

    /// Parameters of a prototype; of anything else none.
    pub fn params(&self) -> impl ExactSizeIterator<Item = Param<'a>> + use<'a> {
        let btf = self.btf;
        let extra = if self.kind == Kind::FuncProto { self.extra } else { &[] };
        extra.chunks_exact(8).map(move |p| Param {
            name: btf.string(word(p, 0)),
            name_offset: word(p, 0),
            type_id: word(p, 4),
        })
    }

    /// Element type and count, of an array.
    #[must_use]
    pub fn array(&self) -> Option<Array> {
        (self.kind == Kind::Array).then(|| Array {
            element: word(self.extra, 0),
            index: word(self.extra, 4),
            len: word(self.extra, 8),
        })
    }

    /// Variables of a data section; of anything else none.
    pub fn section_vars(&self) -> impl ExactSizeIterator<Item = SectionVar> + use<'a> {
        let extra = if self.kind == Kind::Datasec { self.extra } else { &[] };
        extra.chunks_exact(12).map(|v| SectionVar {
            type_id: word(v, 0),
            offset: word(v, 4),
            size: word(v, 8),
        })
    }

    /// Encoding of an `Int`.
    #[must_use]
    pub fn int(&self) -> Option<IntEncoding> {
        (self.kind == Kind::Int).then(|| {
            let word = word(self.extra, 0);
            let [bits, _, offset, flags] = word.to_le_bytes();
            IntEncoding { signed: flags & 1 != 0, char: flags & 2 != 0, bool: flags & 4 != 0, offset, bits }
        })
    }
}

/// Encoding of an `Int`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IntEncoding {
    /// `BTF_INT_SIGNED`.
    pub signed: bool,
    /// `BTF_INT_CHAR` (pahole does not set it).
    pub char: bool,
    /// `BTF_INT_BOOL`.
    pub bool: bool,
    /// First bit of the value (old pahole's way to write bit-fields).
    pub offset: u8,
    /// Width of the value.
    pub bits: u8,
}

fn word(bytes: &[u8], offset: usize) -> u32 {
    u32_at(bytes, offset).unwrap_or(0)
}
