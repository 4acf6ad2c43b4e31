//! Types from vmlinux's DWARF, for kernels without BTF (3.10, 4.18 and older
//! builds): slower and larger, but always there when vmlinux is.
//!
//! A kernel repeats its types in thousands of units, 160 MB of them. Names are
//! therefore indexed unit by unit, only as far as a name has to be looked for: the
//! first units include most headers. A name that does not exist costs the pass
//! over the rest, in parallel, once. Only the top level of each unit is
//! visited: C declares its types there. Members are decoded when asked for.
//!
//! DWARF 2 to 5 (<https://dwarfstd.org>); type units and alternate files (dwz) are
//! not followed, kernels do not have them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use gimli::{
    Abbreviations, AttributeValue, DebugAbbrev, DebugInfo, DebugInfoOffset, DebugLineStr, DebugStr,
    DebugStrOffsets, DwTag, EndianSlice, LittleEndian, UnitHeader,
};

use attributes::{Strings, is_flag, number, plus_constant, reference, unsigned};

use super::elf::Vmlinux;
use super::{Field, Types};
use crate::error::{Error, Result};
use crate::par;

mod attributes;

type Slice<'a> = EndianSlice<'a, LittleEndian>;
type Die<'a> = gimli::DebuggingInformationEntry<Slice<'a>>;

/// Longest chain of typedefs and qualifiers.
const CHAIN_MAX: usize = 64;
/// Deepest nesting of anonymous members and of array elements.
const NESTING_MAX: usize = 32;
/// Members looked at for one path.
const MEMBERS_MAX: usize = 1 << 20;
/// Names in the index: a kernel has about 100,000, enumerators included.
const NAMES_MAX: usize = 4 << 20;
/// Units that are searched by one thread before all are by many.
const FIRST_UNITS: usize = 24;

/// The DWARF of one vmlinux as a source of types.
pub struct DwarfTypes {
    file: Arc<Vmlinux>,
    sections: [Section; SECTIONS.len()],
    /// Where each unit starts in `.debug_info`.
    units: Vec<usize>,
    origin: String,
    index: Mutex<Index>,
    abbreviations: Mutex<HashMap<usize, Arc<Abbreviations>>>,
}

const SECTIONS: [&str; 5] =
    [".debug_info", ".debug_abbrev", ".debug_str", ".debug_line_str", ".debug_str_offsets"];

/// A section: in the mapped file, or decompressed.
enum Section {
    InFile { offset: u64, len: usize },
    Owned(Vec<u8>),
}

/// What the units visited so far define.
#[derive(Default)]
struct Index {
    names: Names,
    next_unit: usize,
}

/// By kind ([`Class`]) and name: the offset of the definition in `.debug_info`, or
/// the value of an enumerator.
type Names = HashMap<Box<[u8]>, Found>;

/// The earliest unit that knows the name, and what it says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    unit: usize,
    at: u64,
}

/// Name spaces, as a byte in front of the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Class {
    Struct = b's',
    Union = b'u',
    Enum = b'e',
    Typedef = b't',
    Base = b'b',
    Enumerator = b'v',
}

impl Class {
    fn of(tag: DwTag) -> Option<Self> {
        Some(match tag {
            gimli::DW_TAG_structure_type => Self::Struct,
            gimli::DW_TAG_union_type => Self::Union,
            gimli::DW_TAG_enumeration_type => Self::Enum,
            gimli::DW_TAG_typedef => Self::Typedef,
            gimli::DW_TAG_base_type => Self::Base,
            _ => return None,
        })
    }
}

/// What is needed of one entry, with references made absolute.
struct Node {
    tag: DwTag,
    class_name: Option<Box<[u8]>>,
    size: Option<u64>,
    target: Option<usize>,
    declaration: bool,
}

/// A member that a path led to.
#[derive(Clone, Copy)]
struct Located {
    bit_offset: u64,
    target: Option<usize>,
    bits: Option<u8>,
}

impl DwarfTypes {
    /// Over the DWARF of `file`. Reads the unit headers only.
    ///
    /// # Errors
    /// The file has no `.debug_info`, or a section contradicts the file.
    pub fn new(file: Arc<Vmlinux>) -> Result<Self> {
        if !file.has_dwarf() {
            return Err(Error::Missing {
                path: file.path().to_owned(),
                what: "no DWARF (.debug_info)".to_owned(),
                hint: "install the kernel's debug package, or give its vmlinux with --vmlinux",
            });
        }
        let sections = [
            Section::of(&file, SECTIONS[0])?,
            Section::of(&file, SECTIONS[1])?,
            Section::of(&file, SECTIONS[2])?,
            Section::of(&file, SECTIONS[3])?,
            Section::of(&file, SECTIONS[4])?,
        ];
        let origin = format!("DWARF of {}", file.path().display());
        let mut types = Self {
            file,
            sections,
            units: Vec::new(),
            origin,
            index: Mutex::default(),
            abbreviations: Mutex::default(),
        };
        let mut units = Vec::new();
        let mut headers = types.info().units();
        // A broken header ends the list; what stands before it is served.
        while let Ok(Some(header)) = headers.next() {
            units.extend(header.debug_info_offset().map(|offset| offset.0));
        }
        types.units = units;
        Ok(types)
    }

    fn section(&self, which: usize) -> Slice<'_> {
        let bytes = match self.sections.get(which) {
            Some(Section::InFile { offset, len }) => self.file.source().slice(*offset, *len),
            Some(Section::Owned(bytes)) => Some(&bytes[..]),
            None => None,
        };
        EndianSlice::new(bytes.unwrap_or_default(), LittleEndian)
    }

    fn info(&self) -> DebugInfo<Slice<'_>> {
        DebugInfo::from(self.section(0))
    }

    /// The unit that holds this offset, and its abbreviations.
    fn unit_of(&self, offset: usize) -> Option<(UnitHeader<Slice<'_>>, Arc<Abbreviations>)> {
        let at = self.units.partition_point(|&start| start <= offset).checked_sub(1)?;
        self.unit(*self.units.get(at)?)
    }

    fn unit(&self, start: usize) -> Option<(UnitHeader<Slice<'_>>, Arc<Abbreviations>)> {
        let header = self.info().header_from_offset(DebugInfoOffset(start)).ok()?;
        let key = header.debug_abbrev_offset().0;
        let mut cache = self.abbreviations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = cache.get(&key) {
            return Some((header, Arc::clone(known)));
        }
        let parsed = Arc::new(header.abbreviations(&DebugAbbrev::from(self.section(1))).ok()?);
        if cache.len() >= 64 {
            cache.clear();
        }
        cache.insert(key, Arc::clone(&parsed));
        Some((header, parsed))
    }

    fn strings(&self) -> Strings<'_> {
        Strings {
            str: DebugStr::from(self.section(2)),
            line_str: DebugLineStr::from(self.section(3)),
            offsets: DebugStrOffsets::from(self.section(4)),
            base: None,
            format: gimli::Format::Dwarf32,
        }
    }

    /// Adds what one unit defines at its top level.
    fn index_unit(&self, start: usize, names: &mut Names) -> Option<()> {
        let header = self.info().header_from_offset(DebugInfoOffset(start)).ok()?;
        let abbreviations = header.abbreviations(&DebugAbbrev::from(self.section(1))).ok()?;
        let mut entries = header.entries(&abbreviations);
        entries.next_entry().ok()?;
        let strings = self.strings().of_unit(&header, entries.current()?);
        entries.next_entry().ok()?;
        let mut key = Vec::new();
        let mut next = entries.current();
        while let Some(die) = next {
            if let Some(class) = Class::of(die.tag())
                && !is_flag(die, gimli::DW_AT_declaration)
                && names.len() < NAMES_MAX
            {
                if let (Some(name), Some(at)) = (
                    die.attr_value_raw(gimli::DW_AT_name).and_then(|name| strings.get(&name)),
                    die.offset().to_debug_info_offset(&header),
                ) {
                    key.clear();
                    key.push(class as u8);
                    key.extend_from_slice(name);
                    if !names.contains_key(&key[..]) {
                        names.insert(key.as_slice().into(), Found { unit: start, at: at.0 as u64 });
                    }
                }
                if class == Class::Enum {
                    let enumerators = header.entries_at_offset(&abbreviations, die.offset()).ok()?;
                    index_enumerators(enumerators, start, &strings, names);
                }
            }
            next = entries.next_sibling().ok()?;
        }
        Some(())
    }

    /// Visits further units until `wanted` is known, or all have been.
    fn lookup(&self, wanted: &[&[u8]]) -> Option<u64> {
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        let find = |names: &Names| wanted.iter().find_map(|key| names.get(*key).copied());
        // A preferred name in a later unit loses against a lesser one in an
        // earlier unit; C code that uses one name for both does not mix them so.
        loop {
            if let Some(found) = find(&index.names) {
                return Some(found.at);
            }
            let &start = self.units.get(index.next_unit)?;
            if index.next_unit < FIRST_UNITS {
                self.index_unit(start, &mut index.names);
                index.next_unit += 1;
            } else {
                let rest = self.units.get(index.next_unit..).unwrap_or_default();
                self.index_all(rest, &mut index.names);
                index.next_unit = self.units.len();
            }
        }
    }

    fn index_all(&self, units: &[usize], names: &mut Names) {
        let began = std::time::Instant::now();
        let next = AtomicUsize::new(0);
        let parts = par::parts(0..par::threads(), |_| {
            let mut part = Names::new();
            while let Some(&start) = units.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.index_unit(start, &mut part);
            }
            part
        });
        // The earliest unit wins, whichever thread saw it: results do not vary.
        for (name, found) in parts.into_iter().flatten() {
            names.entry(name).and_modify(|known| *known = found.min(*known)).or_insert(found);
        }
        tracing::debug!(
            "{}: {} names of {} units in {:?}",
            self.origin,
            names.len(),
            self.units.len(),
            began.elapsed()
        );
    }

    /// The offset of the type of that name.
    fn find(&self, name: &str) -> Option<usize> {
        use Class::{Base, Enum, Struct, Typedef, Union};
        let (classes, name): (&[Class], &str) = if let Some(rest) = name.strip_prefix("struct ") {
            (&[Struct], rest)
        } else if let Some(rest) = name.strip_prefix("union ") {
            (&[Union], rest)
        } else if let Some(rest) = name.strip_prefix("enum ") {
            (&[Enum], rest)
        } else {
            (&[Struct, Typedef, Union, Enum, Base], name)
        };
        let keys: Vec<Vec<u8>> = classes.iter().map(|class| key(*class, name.trim().as_bytes())).collect();
        let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        self.lookup(&keys).and_then(|at| usize::try_from(at).ok())
    }

    fn node(&self, offset: usize) -> Option<Node> {
        let (header, abbreviations) = self.unit_of(offset)?;
        let at = DebugInfoOffset(offset).to_unit_offset(&header)?;
        let die = header.entry(&abbreviations, at).ok()?;
        let declaration = is_flag(&die, gimli::DW_AT_declaration);
        // The name matters only where the definition lies elsewhere.
        let class_name = declaration
            .then(|| {
                let root = header.entry(&abbreviations, header.root_offset()).ok()?;
                let strings = self.strings().of_unit(&header, &root);
                let name = strings.get(&die.attr_value_raw(gimli::DW_AT_name)?)?;
                Some(key(Class::of(die.tag())?, name).into_boxed_slice())
            })
            .flatten();
        Some(Node {
            tag: die.tag(),
            class_name,
            size: number(&die, gimli::DW_AT_byte_size),
            target: reference(&die, &header),
            declaration,
        })
    }

    /// The type behind typedefs, qualifiers and forward declarations.
    fn strip(&self, mut offset: usize) -> Option<(usize, Node)> {
        for _ in 0..CHAIN_MAX {
            let node = self.node(offset)?;
            offset = match node.tag {
                gimli::DW_TAG_typedef
                | gimli::DW_TAG_const_type
                | gimli::DW_TAG_volatile_type
                | gimli::DW_TAG_restrict_type
                | gimli::DW_TAG_atomic_type => node.target?,
                _ if node.declaration => {
                    usize::try_from(self.lookup(&[node.class_name.as_deref()?])?).ok()?
                }
                _ => return Some((offset, node)),
            };
        }
        None
    }

    fn size(&self, offset: usize, depth: usize) -> Option<u64> {
        let (at, node) = self.strip(offset)?;
        match node.tag {
            gimli::DW_TAG_pointer_type => Some(node.size.unwrap_or(8)),
            gimli::DW_TAG_array_type if node.size.is_none() => {
                let element = self.size(node.target?, depth.checked_sub(1)?)?;
                self.dimensions(at)?.into_iter().try_fold(element, u64::checked_mul)
            }
            _ => node.size,
        }
    }

    /// Elements per dimension, the outermost first; 0 for `[]`.
    fn dimensions(&self, array: usize) -> Option<Vec<u64>> {
        let mut dimensions = Vec::new();
        self.children(array, |die, _, _| {
            if die.tag() == gimli::DW_TAG_subrange_type && dimensions.len() < NESTING_MAX {
                let count = number(die, gimli::DW_AT_count).or_else(|| {
                    let last = number(die, gimli::DW_AT_upper_bound)?;
                    // `[0]` has the upper bound -1, in 32 or 64 bits.
                    Some(if last == u64::from(u32::MAX) { 0 } else { last.wrapping_add(1) })
                });
                dimensions.push(count.unwrap_or(0));
            }
            true
        })?;
        Some(dimensions)
    }

    /// Visits the children of one entry until `visit` says `false`.
    fn children<'s>(
        &'s self,
        offset: usize,
        mut visit: impl FnMut(&Die<'s>, &UnitHeader<Slice<'s>>, &Strings<'s>) -> bool,
    ) -> Option<()> {
        let (header, abbreviations) = self.unit_of(offset)?;
        let root = header.entry(&abbreviations, header.root_offset()).ok()?;
        let strings = self.strings().of_unit(&header, &root);
        let at = DebugInfoOffset(offset).to_unit_offset(&header)?;
        let mut entries = header.entries_at_offset(&abbreviations, at).ok()?;
        entries.next_entry().ok()?;
        if !entries.current()?.has_children() {
            return Some(());
        }
        entries.next_entry().ok()?;
        let mut next = entries.current();
        while let Some(die) = next {
            if !visit(die, &header, &strings) {
                break;
            }
            next = entries.next_sibling().ok()?;
        }
        Some(())
    }

    /// A member by path, as its offset from the type's start, type and width.
    fn member(&self, name: &str, path: &str) -> Option<Located> {
        let mut at = Located { bit_offset: 0, target: Some(self.find(name)?), bits: None };
        let mut budget = MEMBERS_MAX;
        for part in path.split('.') {
            let found = self.step(at.target?, part.as_bytes(), NESTING_MAX, &mut budget)?;
            at = Located { bit_offset: at.bit_offset.checked_add(found.bit_offset)?, ..found };
        }
        Some(at)
    }

    fn step(&self, offset: usize, name: &[u8], depth: usize, budget: &mut usize) -> Option<Located> {
        let depth = depth.checked_sub(1)?;
        let (at, node) = self.strip(offset)?;
        if name.is_empty() || !matches!(node.tag, gimli::DW_TAG_structure_type | gimli::DW_TAG_union_type) {
            return None;
        }
        let mut found = None;
        let mut anonymous = Vec::new();
        self.children(at, |die, header, strings| {
            if die.tag() != gimli::DW_TAG_member || *budget == 0 {
                return *budget != 0;
            }
            *budget -= 1;
            match die.attr_value_raw(gimli::DW_AT_name).map(|value| strings.get(&value)) {
                Some(this) if this == Some(name) => found = Some(self.located(die, header)),
                Some(_) => {}
                None => anonymous.push(self.located(die, header)),
            }
            found.is_none()
        });
        if let Some(found) = found {
            return found;
        }
        anonymous.into_iter().flatten().find_map(|outer| {
            let inner = self.step(outer.target?, name, depth, budget)?;
            Some(Located { bit_offset: inner.bit_offset.checked_add(outer.bit_offset)?, ..inner })
        })
    }

    fn located(&self, die: &Die<'_>, header: &UnitHeader<Slice<'_>>) -> Option<Located> {
        let target = reference(die, header);
        let width = number(die, gimli::DW_AT_bit_size);
        let bits = width.and_then(|width| u8::try_from(width).ok());
        let bytes = match die.attr_value(gimli::DW_AT_data_member_location) {
            None => 0,
            Some(AttributeValue::Exprloc(expression)) => plus_constant(expression.0.slice())?,
            Some(AttributeValue::Block(block)) => plus_constant(block.slice())?,
            Some(value) => unsigned(&value)?,
        };
        let start = bytes.checked_mul(8)?;
        let bit_offset = if let Some(bit) = number(die, gimli::DW_AT_data_bit_offset) {
            start.checked_add(bit)?
        } else if let (Some(width), Some(value)) = (width, die.attr_value(gimli::DW_AT_bit_offset)) {
            // DWARF 2 and 3 count from the most significant bit of the storage unit.
            let storage = number(die, gimli::DW_AT_byte_size).or_else(|| self.size(target?, NESTING_MAX))?;
            let from_top = value.sdata_value()?;
            start
                .checked_add(storage.checked_mul(8)?)?
                .checked_sub(width)?
                .checked_add_signed(from_top.checked_neg()?)?
        } else {
            start
        };
        Some(Located { bit_offset, target, bits })
    }
}

impl Types for DwarfTypes {
    fn size_of(&self, name: &str) -> Option<u64> {
        self.size(self.find(name)?, NESTING_MAX)
    }

    fn field(&self, name: &str, path: &str) -> Option<Field> {
        let member = self.member(name, path)?;
        let bits = match member.bits {
            None => None,
            Some(width) => Some((u8::try_from(member.bit_offset % 8).ok()?, width)),
        };
        let size = member.target.and_then(|target| self.size(target, NESTING_MAX)).unwrap_or(0);
        Some(Field { offset: member.bit_offset / 8, size, bits })
    }

    fn enumerator(&self, name: &str) -> Option<i64> {
        self.lookup(&[&key(Class::Enumerator, name.as_bytes())]).map(u64::cast_signed)
    }

    /// All dimensions together, as BTF has it.
    fn array_len(&self, name: &str, path: &str) -> Option<u64> {
        let (at, node) = self.strip(self.member(name, path)?.target?)?;
        if node.tag != gimli::DW_TAG_array_type {
            return None;
        }
        self.dimensions(at)?.into_iter().try_fold(1, u64::checked_mul)
    }

    fn origin(&self) -> &str {
        &self.origin
    }
}

impl Section {
    fn of(file: &Vmlinux, name: &str) -> Result<Self> {
        let Some(section) = file.section(name).filter(|section| !section.is_nobits()) else {
            return Ok(Self::Owned(Vec::new()));
        };
        Ok(match file.data(section)? {
            std::borrow::Cow::Borrowed(bytes) => Self::InFile { offset: section.offset, len: bytes.len() },
            std::borrow::Cow::Owned(bytes) => Self::Owned(bytes),
        })
    }
}

fn index_enumerators<'a>(
    mut entries: gimli::EntriesCursor<'_, Slice<'a>>,
    unit: usize,
    strings: &Strings<'a>,
    names: &mut Names,
) -> Option<()> {
    entries.next_entry().ok()?;
    if !entries.current()?.has_children() {
        return None;
    }
    let mut name_key = Vec::new();
    entries.next_entry().ok()?;
    let mut next = entries.current();
    while let Some(die) = next {
        if die.tag() == gimli::DW_TAG_enumerator
            && names.len() < NAMES_MAX
            && let Some(name) = die.attr_value_raw(gimli::DW_AT_name).and_then(|name| strings.get(&name))
            && let Some(value) = number(die, gimli::DW_AT_const_value)
        {
            name_key.clear();
            name_key.push(Class::Enumerator as u8);
            name_key.extend_from_slice(name);
            if !names.contains_key(&name_key[..]) {
                names.insert(name_key.as_slice().into(), Found { unit, at: value });
            }
        }
        next = entries.next_sibling().ok()?;
    }
    Some(())
}

fn key(class: Class, name: &[u8]) -> Vec<u8> {
    [&[class as u8], name].concat()
}

#[cfg(test)]
#[path = "tests/dwarf.rs"]
mod tests;
