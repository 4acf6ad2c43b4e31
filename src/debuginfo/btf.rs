//! BTF, the kernel's own description of its types.
//!
//! Layout: `Documentation/bpf/btf.rst`, `include/uapi/linux/btf.h`. Split BTF
//! (modules) continues the type ids and string offsets of its base.
//!
//! Nothing is built up front but one offset per type: a kernel has 126,000 of
//! them and a session asks for a few hundred. Names are found through a sorted
//! table of hashes, made when the first name is asked for.
//!
//! The bytes come out of a dump and may be anything. [`Btf::parse`] checks that
//! every record lies inside; references between types are checked where they
//! are followed, and every walk has a bound.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use crate::bytes::{u16_at, u32_at};
use crate::debuginfo::{Field, Types};
use crate::error::{Error, Result};
use crate::memory::touches;

pub(crate) mod holed;
mod records;
#[cfg(test)]
#[path = "tests/btf.rs"]
pub(crate) mod tests;

pub use records::{Array, Enumerator, IntEncoding, Kind, Member, Param, SectionVar, Type, TypeId};

/// Longest chain of typedefs and qualifiers that is followed.
const MAX_CHAIN: usize = 64;
/// Deepest nesting of anonymous members.
const MAX_NESTING: usize = 32;
/// Members looked at while one name is searched through anonymous members:
/// contradictory input must not fan out.
const MAX_MEMBERS: usize = 1 << 20;
/// Most types (the kernel has 2^17; libbpf's bound on the section is larger).
const MAX_TYPES: usize = 1 << 22;

/// A parsed `.BTF` section.
pub struct Btf {
    bytes: Arc<[u8]>,
    base: Option<Arc<Btf>>,
    origin: String,
    /// The string section in `bytes`.
    strings: Range<usize>,
    first_string: u32,
    first_id: TypeId,
    /// Where each own type stands in `bytes`; [`holed::LOST`] if it is lost.
    offsets: Vec<u32>,
    /// What is lost of `bytes`.
    holes: Vec<Range<usize>>,
    /// Hash of the name and id of each own named type that has a layout.
    names: OnceLock<Vec<(u32, TypeId)>>,
    /// The same of each own enumerator, with its enumeration.
    enumerators: OnceLock<Vec<(u32, TypeId)>>,
}

impl std::fmt::Debug for Btf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Btf")
            .field("origin", &self.origin)
            .field("first_id", &self.first_id)
            .field("types", &self.offsets.len())
            .finish_non_exhaustive()
    }
}

/// Where types and strings are, by the header, or, where that is lost, by what looks like them.
fn sections(bytes: &[u8], holes: &[Range<usize>]) -> Option<(Range<usize>, Range<usize>)> {
    let header = |at| u32_at(bytes, at).map_or(0, |n| n as usize);
    let part = |at: usize| {
        let start = header(4).checked_add(header(at))?;
        Some(start..start.checked_add(header(at + 4))?)
    };
    let found = match touches(holes, &(0..24)) {
        true => holed::sections(bytes, holes),
        false => part(8).zip(part(16)),
    };
    found.filter(|(types, strings)| {
        types.end <= bytes.len() && strings.end <= bytes.len() && types.start >= 24
    })
}

/// `Some` where magic and version are those of BTF.
fn is_header(bytes: &[u8]) -> Option<()> {
    (u16_at(bytes, 0)? == 0xeb9f && *bytes.get(2)? == 1).then_some(())
}

impl Btf {
    /// Parses the kernel's BTF. `origin` names the source, for messages.
    pub fn parse(bytes: impl Into<Arc<[u8]>>, origin: impl Into<String>) -> Result<Self> {
        Self::scan(bytes.into(), None, origin.into())
    }

    /// Parses a module's BTF, which continues `base`.
    pub fn split(base: &Arc<Self>, bytes: impl Into<Arc<[u8]>>, origin: impl Into<String>) -> Result<Self> {
        Self::scan(bytes.into(), Some(Arc::clone(base)), origin.into())
    }

    /// Parses the kernel's BTF of which `holes` are lost: what is there keeps its numbers,
    /// what is hit is unknown.
    pub fn parse_holed(
        bytes: impl Into<Arc<[u8]>>,
        holes: Vec<Range<usize>>,
        origin: impl Into<String>,
    ) -> Result<Self> {
        let (bytes, origin) = (bytes.into(), origin.into());
        if holes.is_empty() {
            return Self::scan(bytes, None, origin);
        }
        let (types, strings) = sections(&bytes, &holes).ok_or_else(|| Error::Malformed {
            path: PathBuf::from(&origin),
            format: "BTF",
            offset: 0,
            wanted: "a header",
            found: "a lost page, and nothing that makes up for it".to_owned(),
        })?;
        let mut offsets = holed::offsets(&bytes, types, strings.clone(), &holes);
        offsets.truncate(MAX_TYPES);
        Ok(Self {
            bytes,
            base: None,
            origin,
            strings,
            first_string: 0,
            first_id: 1,
            offsets,
            holes,
            names: OnceLock::new(),
            enumerators: OnceLock::new(),
        })
    }

    fn scan(bytes: Arc<[u8]>, base: Option<Arc<Self>>, origin: String) -> Result<Self> {
        let bad = |offset: usize, wanted, found: String| Error::Malformed {
            path: PathBuf::from(&origin),
            format: "BTF",
            offset: offset as u64,
            wanted,
            found,
        };
        let short = || bad(0, "a header of 24 bytes", format!("{} bytes", bytes.len()));
        let magic = u16_at(&bytes, 0).ok_or_else(short)?;
        if magic != 0xeb9f {
            return Err(bad(0, "the magic number 0xeb9f", format!("{magic:#x}")));
        }
        let version = *bytes.get(2).ok_or_else(short)?;
        if version != 1 {
            return Err(bad(2, "version 1", version.to_string()));
        }
        let header = |at| u32_at(&bytes, at).ok_or_else(short);
        let header_len = header(4)? as usize;
        let section = |offset: u32, len: u32, wanted| {
            let start = header_len.checked_add(offset as usize);
            let end = start.and_then(|s| s.checked_add(len as usize));
            match (start, end) {
                (Some(s), Some(e)) if header_len >= 24 && e <= bytes.len() => Ok(s..e),
                _ => Err(bad(8, wanted, format!("{offset:#x} + {len:#x} of {:#x}", bytes.len()))),
            }
        };
        let types = section(header(8)?, header(12)?, "types inside the section")?;
        let strings = section(header(16)?, header(20)?, "strings inside the section")?;

        let mut offsets = Vec::with_capacity((types.len() / 24).min(MAX_TYPES));
        let mut at = types.start;
        while at < types.end {
            if offsets.len() >= MAX_TYPES {
                return Err(bad(at, "at most 2^22 types", "more".into()));
            }
            let info = u32_at(&bytes, at.saturating_add(4)).unwrap_or(0);
            let number = info >> 24 & 0x1f;
            let kind = Kind::from_number(number)
                .ok_or_else(|| bad(at, "a kind from 1 to 19", number.to_string()))?;
            let end = at + 12 + kind.extra((info & 0xffff) as usize);
            if end > types.end {
                return Err(bad(
                    at,
                    "a record inside the type section",
                    format!("one that ends at {end:#x}"),
                ));
            }
            offsets.push(
                u32::try_from(at).map_err(|_| bad(at, "a section below 4 GiB", "a larger one".into()))?,
            );
            at = end;
        }
        let (first_id, first_string) =
            base.as_ref().map_or((1, 0), |b| (b.end_id(), b.first_string.saturating_add(b.string_bytes())));
        if u32::try_from(offsets.len()).ok().and_then(|n| first_id.checked_add(n)).is_none() {
            return Err(bad(0, "type ids below 2^32", "more".into()));
        }
        Ok(Self {
            bytes,
            base,
            origin,
            strings,
            first_string,
            first_id,
            offsets,
            holes: Vec::new(),
            names: OnceLock::new(),
            enumerators: OnceLock::new(),
        })
    }

    fn string_bytes(&self) -> u32 {
        u32::try_from(self.strings.len()).unwrap_or(u32::MAX)
    }

    /// Where it is from, and what of it is lost; `None` if it is whole.
    #[must_use]
    pub fn lost(&self) -> Option<&str> {
        (!self.holes.is_empty()).then_some(self.origin.as_str())
    }

    /// The base of split BTF.
    #[must_use]
    pub fn base(&self) -> Option<&Arc<Self>> {
        self.base.as_ref()
    }

    /// First id of this BTF itself: 1, or the first that its base does not have.
    #[must_use]
    pub fn first_id(&self) -> TypeId {
        self.first_id
    }

    /// One past the last id.
    #[must_use]
    pub fn end_id(&self) -> TypeId {
        self.first_id.saturating_add(u32::try_from(self.offsets.len()).unwrap_or(u32::MAX))
    }

    /// The ids of this BTF itself, without its base.
    #[must_use]
    pub fn own_ids(&self) -> Range<TypeId> {
        self.first_id..self.end_id()
    }

    /// The types of this BTF itself, without its base.
    pub fn own_types(&self) -> impl Iterator<Item = Type<'_>> {
        self.own_ids().filter_map(|id| self.get(id))
    }

    /// A type by number, from the base where that has it. `None` for 0 (`void`)
    /// and for numbers that do not exist.
    #[must_use]
    pub fn get(&self, id: TypeId) -> Option<Type<'_>> {
        let Some(own) = id.checked_sub(self.first_id) else {
            return self.base.as_ref()?.get(id);
        };
        let at = *self.offsets.get(own as usize)? as usize;
        let record = self.bytes.get(at..)?;
        let info = u32_at(record, 4)?;
        let kind = Kind::from_number(info >> 24 & 0x1f)?;
        let extra = record.get(12..12 + kind.extra((info & 0xffff) as usize))?;
        Some(Type {
            btf: self,
            id,
            kind,
            flag: info >> 31 != 0,
            name_off: u32_at(record, 0)?,
            size_or_type: u32_at(record, 8)?,
            extra,
        })
    }

    /// The string section of this BTF itself.
    #[must_use]
    pub fn own_strings(&self) -> &[u8] {
        self.bytes.get(self.strings.clone()).unwrap_or_default()
    }

    /// The offset by which the first of [`Btf::own_strings`] is named.
    #[must_use]
    pub fn first_string(&self) -> u32 {
        self.first_string
    }

    /// The string at an offset; empty where there is none or it is no text.
    #[must_use]
    pub fn string(&self, offset: u32) -> &str {
        std::str::from_utf8(self.string_bytes_at(offset)).unwrap_or_default()
    }

    fn string_bytes_at(&self, offset: u32) -> &[u8] {
        let Some(own) = offset.checked_sub(self.first_string) else {
            return self.base.as_ref().map_or(&[], |b| b.string_bytes_at(offset));
        };
        let rest = self.own_strings().get(own as usize..).unwrap_or_default();
        let end = memchr::memchr(0, rest.get(..4096).unwrap_or(rest)).unwrap_or(0);
        // A name that goes on in a lost page is none.
        let start = self.strings.start + own as usize;
        if touches(&self.holes, &(start..start + end + 1)) {
            return &[];
        }
        rest.get(..end).unwrap_or_default()
    }

    /// The ids of the types of this name and kind, this BTF's own before its
    /// base's, in the order of their numbers.
    pub fn named<'a>(&'a self, name: &'a str, kind: Kind) -> impl Iterator<Item = TypeId> + 'a {
        std::iter::successors(Some(self), |b| b.base.as_deref()).flat_map(move |b| b.own_named(name, kind))
    }

    fn own_named<'a>(&'a self, name: &'a str, kind: Kind) -> impl Iterator<Item = TypeId> + 'a {
        self.candidates(self.names.get_or_init(|| self.index()), name)
            .filter(move |t| t.kind == kind && t.name() == name)
            .map(|t| t.id)
    }

    /// The types that `index` has for a name, or for others of the same hash.
    fn candidates<'a>(
        &'a self,
        index: &'a [(u32, TypeId)],
        name: &str,
    ) -> impl Iterator<Item = Type<'a>> + use<'a> {
        let hash = hash(name.as_bytes());
        let start = index.partition_point(|(h, _)| *h < hash);
        let rest = index.get(start..).unwrap_or_default();
        rest.iter().take_while(move |(h, _)| *h == hash).filter_map(|(_, id)| self.get(*id))
    }

    /// Functions, a third of all types, are never asked for by name.
    fn index(&self) -> Vec<(u32, TypeId)> {
        let mut index: Vec<_> = self
            .own_types()
            .filter(|t| t.name_off != 0 && t.kind != Kind::Func)
            .map(|t| (hash(self.string_bytes_at(t.name_off)), t.id))
            .collect();
        index.sort_unstable();
        index
    }

    fn index_enumerators(&self) -> Vec<(u32, TypeId)> {
        let all = self.own_types().flat_map(|t| t.enumerators().map(move |e| (e.name_offset, t.id)));
        let mut index: Vec<_> = all.map(|(name, id)| (hash(self.string_bytes_at(name)), id)).collect();
        index.sort_unstable();
        index.dedup();
        index
    }

    /// The type that C calls by this name: `struct X`, `union X`, `enum X`, or a
    /// bare name, which may be any of them, a typedef or a base type.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<TypeId> {
        let (kinds, name): (&[Kind], &str) = if let Some(n) = name.strip_prefix("struct ") {
            (&[Kind::Struct], n)
        } else if let Some(n) = name.strip_prefix("union ") {
            (&[Kind::Union], n)
        } else if let Some(n) = name.strip_prefix("enum ") {
            (&[Kind::Enum, Kind::Enum64], n)
        } else {
            (
                &[Kind::Struct, Kind::Typedef, Kind::Union, Kind::Enum, Kind::Enum64, Kind::Int, Kind::Float],
                name,
            )
        };
        let name = name.trim();
        if name.is_empty() {
            return None;
        }
        kinds.iter().find_map(|k| self.named(name, *k).next())
    }

    /// The type behind typedefs, qualifiers and tags. `None` if there is none,
    /// it is `void`, or the chain does not end.
    #[must_use]
    pub fn strip(&self, id: TypeId) -> Option<Type<'_>> {
        let mut t = self.get(id)?;
        for _ in 0..MAX_CHAIN {
            if !t.kind.is_transparent() {
                return Some(t);
            }
            t = self.get(t.size_or_type)?;
        }
        None
    }

    /// Size of a type in bytes. `None` for `void`, functions, declarations and
    /// contradictions.
    #[must_use]
    pub fn size(&self, id: TypeId) -> Option<u64> {
        let mut id = id;
        let mut count: u64 = 1;
        for _ in 0..MAX_CHAIN {
            let t = self.strip(id)?;
            match t.kind {
                Kind::Array => {
                    let a = t.array()?;
                    count = count.checked_mul(u64::from(a.len))?;
                    id = a.element;
                }
                Kind::Ptr => return count.checked_mul(8),
                Kind::Var => id = t.size_or_type,
                _ => return count.checked_mul(u64::from(t.size()?)),
            }
        }
        None
    }

    /// A member by path from a type: its offset in bits, type, and width if it
    /// is a bit-field.
    #[must_use]
    pub fn member(&self, id: TypeId, path: &str) -> Option<Located> {
        let mut at = Located { bit_offset: 0, type_id: id, bits: None };
        let mut budget = MAX_MEMBERS;
        for part in path.split('.') {
            let found = self.step(at.type_id, part, MAX_NESTING, &mut budget)?;
            at = Located { bit_offset: at.bit_offset.checked_add(found.bit_offset)?, ..found };
        }
        Some(at)
    }

    fn step(&self, id: TypeId, name: &str, depth: usize, budget: &mut usize) -> Option<Located> {
        let t = self.strip(id)?;
        let depth = depth.checked_sub(1)?;
        // Own members before those of anonymous ones: cheap, and C forbids both.
        for m in t.members() {
            *budget = budget.checked_sub(1)?;
            if !name.is_empty() && m.name == name {
                let bits = m.bits.or_else(|| self.old_bit_field(m.type_id));
                return Some(Located { bit_offset: u64::from(m.bit_offset), type_id: m.type_id, bits });
            }
        }
        for m in t.members().filter(|m| m.name.is_empty()) {
            if let Some(found) = self.step(m.type_id, name, depth, budget) {
                let bit_offset = found.bit_offset.checked_add(u64::from(m.bit_offset))?;
                return Some(Located { bit_offset, ..found });
            }
        }
        None
    }

    /// Without `kind_flag`, a bit-field is a member whose `Int` is narrower than
    /// its bytes.
    fn old_bit_field(&self, id: TypeId) -> Option<u8> {
        let t = self.strip(id)?;
        let int = t.int()?;
        (u32::from(int.bits) < t.size()?.saturating_mul(8) && !int.bool).then_some(int.bits)
    }
}

/// A member that a path led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Located {
    /// From the start of the outermost struct.
    pub bit_offset: u64,
    /// Its type.
    pub type_id: TypeId,
    /// Width, if it is a bit-field.
    pub bits: Option<u8>,
}

/// FNV-1a: short names, no key needed (a bad table only costs this dump time:
/// a run of equal hashes is walked once per lookup).
fn hash(name: &[u8]) -> u32 {
    name.iter().fold(0x811c_9dc5, |h, b| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193))
}

impl Types for Btf {
    fn size_of(&self, name: &str) -> Option<u64> {
        self.size(self.find(name)?)
    }

    fn field(&self, name: &str, path: &str) -> Option<Field> {
        let m = self.member(self.find(name)?, path)?;
        let bits = match m.bits {
            None => None,
            Some(width) => Some((u8::try_from(m.bit_offset % 8).ok()?, width)),
        };
        // A flexible array ends the struct and has no size of its own.
        let size = self.size(m.type_id).unwrap_or(0);
        Some(Field { offset: m.bit_offset / 8, size, bits })
    }

    fn enumerator(&self, name: &str) -> Option<i64> {
        std::iter::successors(Some(self), |b| b.base.as_deref()).find_map(|b| {
            let index = b.enumerators.get_or_init(|| b.index_enumerators());
            b.candidates(index, name).flat_map(|t| t.enumerators()).find(|e| e.name == name).map(|e| e.value)
        })
    }

    fn array_len(&self, name: &str, path: &str) -> Option<u64> {
        let m = self.member(self.find(name)?, path)?;
        Some(u64::from(self.strip(m.type_id)?.array()?.len))
    }

    fn origin(&self) -> &str {
        &self.origin
    }
}
