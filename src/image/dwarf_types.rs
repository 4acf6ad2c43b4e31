//! BTF as DWARF, so that stock gdb knows the kernel's types.
//!
//! BTF: `Documentation/bpf/btf.rst`; DWARF 4 (gdb and LLVM read it without
//! `.debug_rnglists` and the like). One compilation unit for everything: gdb
//! expands it at the first lookup in 0.2 s, and pieces cost more.
//!
//! The bytes are written by hand: BTF's types stand in an order in which each
//! DIE can be written once, with references patched at the end; and BTF's
//! string section is `.debug_str` as it is. `gimli::write` keeps every DIE and
//! attribute as an object: for 6.1 that took 145 MB and twice the time (here 8 MB),
//! and all images together are to take 64 MiB.
//!
//! A module's BTF continues the kernel's. Its DWARF holds its own types; of the
//! kernel's, what it has by value is copied, and what it points to is declared:
//! gdb finds the definition by name in the kernel's DWARF.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::leb::{Put, len32};
use crate::debuginfo::btf::{Btf, Kind, Type, TypeId};
use crate::debuginfo::symbols::SymbolTable;

mod abbrev;
mod functions;
mod globals;
#[cfg(test)]
#[path = "tests/dwarf_types.rs"]
mod tests;

use abbrev::Abbrev;

/// Longest chain of typedefs and qualifiers; one that does not end would hang gdb.
const MAX_CHAIN: usize = 64;
/// Types looked at within one that is as large as what it is in: beyond, it is
/// taken to hold itself.
const MAX_WITHIN: usize = 1024;
/// Types within types and symbols by name that are looked at in all (6.12: 124,856),
/// and types that wait to be at once.
const MAX_LOOKS: u32 = 1 << 22;
const MAX_WAITING: usize = 1 << 16;
/// Largest unit (6.12: 3.6 MB). BTF that makes a larger one is not the kernel's.
const MAX_INFO: usize = 64 << 20;
/// Bytes of the unit's header.
const HEADER: usize = 11;
/// DW_LANG_C99
const C99: u8 = 0x0c;

/// What the DWARF of a kernel or module is made from.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// The types.
    pub btf: &'a Btf,
    /// Where functions and variables are.
    pub symbols: &'a SymbolTable,
    /// From the first address of code to the last: gdb finds the unit by it.
    pub text: &'a Range<u64>,
    /// Interrupted frames that are to show their function's name.
    pub signal_ranges: &'a [Range<u64>],
    /// `vmlinux`, or the module's name.
    pub name: &'a str,
}

/// The sections.
#[derive(Debug, Default)]
pub struct Dwarf {
    info: Vec<u8>,
    abbrev: Vec<u8>,
    strings: Vec<u8>,
    line: Vec<u8>,
    ranges: Vec<u8>,
}

impl Dwarf {
    /// Names and contents, as an ELF file holds them.
    #[must_use]
    pub fn sections(&self) -> [(&'static str, &[u8]); 5] {
        [
            (".debug_info", &self.info),
            (".debug_abbrev", &self.abbrev),
            (".debug_str", &self.strings),
            (".debug_line", &self.line),
            (".debug_ranges", &self.ranges),
        ]
    }

    /// Bytes in all.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sections().iter().map(|(_, b)| b.len()).sum()
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.info.is_empty()
    }
}

/// Makes the DWARF; none of BTF that is beyond belief.
#[must_use]
pub fn dwarf(input: &Input<'_>) -> Dwarf {
    let mut w = Writer::new(input);
    w.header();
    for t in input.btf.own_types() {
        if w.is_too_much() {
            break;
        }
        w.own_type(&t);
    }
    w.functions();
    w.globals();
    w.base_types();
    if w.is_too_much() {
        tracing::warn!("the BTF of {} is too large or too deep: no types are made of it", input.name);
        return Dwarf::default();
    }
    w.finish()
}

/// A reference that is to be patched: a type, and whether a declaration of it
/// will do (only for types of the base of split BTF).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Target {
    id: TypeId,
    declared: bool,
}

struct Writer<'a> {
    input: &'a Input<'a>,
    btf: &'a Btf,
    info: Vec<u8>,
    strings: Vec<u8>,
    ranges: Vec<u8>,
    /// Where each own type stands; 0: not written.
    own: Vec<u32>,
    /// Where types of the base stand.
    base: HashMap<Target, u32>,
    /// Types of the base that are still to be written.
    wanted: Vec<Target>,
    patches: Vec<(u32, Target)>,
    /// Names of the base that have been copied, and texts that are in no BTF.
    names: HashMap<u32, u32>,
    texts: HashMap<&'a str, u32>,
    /// How many types and symbols were looked at where the input decides how often.
    looks: Cell<u32>,
    /// Variables that scripts name by their file, too.
    of_files: Vec<globals::OfFile>,
}

impl<'a> Writer<'a> {
    fn new(input: &'a Input<'a>) -> Self {
        let btf = input.btf;
        let mut strings = Vec::with_capacity(btf.own_strings().len() + 4096);
        // Offset 0 is the empty string, and a NUL ends the last one, whatever
        // the input says.
        strings.push(0);
        strings.extend(btf.own_strings());
        strings.push(0);
        let types = btf.own_ids().len();
        Self {
            input,
            btf,
            info: Vec::with_capacity(types * 24),
            strings,
            ranges: Vec::new(),
            own: vec![0; types],
            base: HashMap::new(),
            wanted: Vec::new(),
            patches: Vec::with_capacity(types * 2),
            names: HashMap::new(),
            texts: HashMap::new(),
            looks: Cell::new(0),
            of_files: Vec::new(),
        }
    }

    fn look(&self, at: usize) {
        self.looks.set(self.looks.get().saturating_add(len32(at)));
    }

    /// Whether the input asks for more than any kernel's: work and memory are bounded.
    fn is_too_much(&self) -> bool {
        self.info.len() > MAX_INFO || self.looks.get() > MAX_LOOKS
    }

    fn header(&mut self) {
        self.unit_header();
        self.abbrev(Abbrev::CompileUnit);
        self.text(concat!("corestub ", env!("CARGO_PKG_VERSION"), " (from BTF)"));
        self.text(self.input.name);
        self.info.push(C99);
        self.info.u32(0);
        self.address_range(self.input.text);
    }

    /// With its length to be patched.
    fn unit_header(&mut self) {
        self.info.u32(0);
        self.info.u16(4);
        self.info.u32(0);
        self.info.push(8);
    }

    fn finish(mut self) -> Dwarf {
        self.abbrev(Abbrev::End);
        for (at, target) in std::mem::take(&mut self.patches) {
            let place = match target.id.checked_sub(self.btf.first_id()) {
                Some(own) => self.own.get(own as usize).copied(),
                None => self.base.get(&target).copied(),
            };
            // Everything that is referred to has been written; a hole would be
            // the unit itself, which no debugger takes for a type.
            self.info.patch_u32(at as usize, place.unwrap_or(len32(HEADER)));
        }
        let length = len32(self.info.len() - 4);
        self.info.patch_u32(0, length);
        self.file_units();
        Dwarf {
            info: self.info,
            abbrev: abbrev::section(),
            strings: self.strings,
            line: line_header(self.input.name),
            ranges: self.ranges,
        }
    }

    // ---- attributes

    fn abbrev(&mut self, a: Abbrev) {
        self.info.push(a as u8);
    }

    /// A name by its offset in BTF.
    fn name(&mut self, offset: u32) {
        let at = match offset.checked_sub(self.btf.first_string()) {
            _ if offset == 0 => 0,
            Some(own) if (own as usize) < self.btf.own_strings().len() => own + 1,
            Some(_) => 0,
            None => {
                let (strings, btf) = (&mut self.strings, self.btf);
                *self.names.entry(offset).or_insert_with(|| {
                    let at = len32(strings.len());
                    strings.cstr(btf.string(offset));
                    at
                })
            }
        };
        self.info.u32(at);
    }

    /// A name that is not in BTF.
    fn text(&mut self, text: &'a str) {
        let strings = &mut self.strings;
        let at = *self.texts.entry(text).or_insert_with(|| {
            let at = len32(strings.len());
            strings.cstr(text);
            at
        });
        self.info.u32(at);
    }

    fn address_range(&mut self, range: &Range<u64>) {
        self.info.u64(range.start);
        let length = u32::try_from(range.end.saturating_sub(range.start)).unwrap_or(u32::MAX);
        self.info.u32(length);
    }

    fn reference(&mut self, id: TypeId, declared: bool) {
        let target = Target { id, declared: declared && id < self.btf.first_id() };
        if id < self.btf.first_id() && !self.base.contains_key(&target) {
            self.base.insert(target, 0);
            self.wanted.push(target);
        }
        self.patches.push((len32(self.info.len()), target));
        self.info.u32(0);
    }

    /// What a reference to `id` is to lead to: tags are skipped, and `void` and
    /// contradictions are `None`.
    fn resolve(&self, mut id: TypeId) -> Option<TypeId> {
        for _ in 0..MAX_CHAIN {
            let t = self.btf.get(id)?;
            match t.kind {
                Kind::TypeTag => id = t.target()?,
                Kind::Func | Kind::Var | Kind::Datasec | Kind::DeclTag => return None,
                _ => return Some(id),
            }
        }
        None
    }

    /// [`Writer::resolve`], for what must not lead back to itself.
    fn resolve_ending(&self, id: TypeId) -> Option<TypeId> {
        let first = self.resolve(id)?;
        let mut t = self.btf.get(first)?;
        for _ in 0..MAX_CHAIN {
            t = match t.kind {
                k if k.is_transparent() => match self.btf.get(t.target()?) {
                    Some(t) => t,
                    None => return Some(first),
                },
                Kind::Array => self.btf.get(t.array()?.element)?,
                _ => return Some(first),
            };
        }
        None
    }

    /// Whether `member` holds `outer` by value, which no type can, and over which
    /// gdb would not come to an end. Only something as large can.
    fn contains(&self, member: TypeId, outer: &Type<'a>) -> bool {
        let size = u64::from(outer.size().unwrap_or(0));
        let mut ids = vec![member];
        let mut seen = HashSet::new();
        while let Some(id) = ids.pop() {
            self.look(1);
            let Some(mut t) = self.btf.strip(id) else { continue };
            for _ in 0..MAX_CHAIN {
                let Some(element) = t.array().and_then(|a| self.btf.strip(a.element)) else { break };
                t = element;
            }
            let endless = seen.len() > MAX_WITHIN || ids.len() > MAX_WAITING;
            if t.id == outer.id || endless || self.looks.get() > MAX_LOOKS {
                return true;
            }
            let large = t.kind.is_composite() && u64::from(t.size().unwrap_or(0)) >= size;
            if large && seen.insert(t.id) {
                self.look(t.members().len());
                ids.extend(t.members().map(|m| m.type_id));
            }
        }
        false
    }

    // ---- types

    fn own_type(&mut self, t: &Type<'a>) {
        if matches!(t.kind, Kind::Func | Kind::Var | Kind::Datasec | Kind::DeclTag | Kind::TypeTag) {
            return;
        }
        let at = len32(self.info.len());
        if let Some(place) = self.own.get_mut((t.id - self.btf.first_id()) as usize) {
            *place = at;
        }
        // A qualifier before a type of the base is nearly always behind a pointer.
        let declared = matches!(t.kind, Kind::Const | Kind::Volatile | Kind::Restrict);
        self.type_die(t, declared);
    }

    /// Writes what is wanted of the base of split BTF, and what that wants.
    fn base_types(&mut self) {
        while let Some(target) = self.wanted.pop().filter(|_| !self.is_too_much()) {
            let at = len32(self.info.len());
            if let Some(t) = self.btf.get(target.id) {
                self.base.insert(target, at);
                self.type_die(&t, target.declared);
            }
        }
    }

    fn type_die(&mut self, t: &Type<'a>, declared: bool) {
        match t.kind {
            Kind::Int | Kind::Float => self.base_type(t),
            Kind::Ptr => {
                let to = t.target().and_then(|id| self.resolve_ending(id));
                self.abbrev(if to.is_some() { Abbrev::Pointer } else { Abbrev::PointerVoid });
                self.info.push(8);
                if let Some(id) = to {
                    self.reference(id, true);
                }
            }
            Kind::Const => self.qualifier(t, Abbrev::Const, Abbrev::ConstVoid, declared),
            Kind::Volatile => self.qualifier(t, Abbrev::Volatile, Abbrev::VolatileVoid, declared),
            Kind::Restrict => self.qualifier(t, Abbrev::Restrict, Abbrev::RestrictVoid, declared),
            Kind::Typedef => {
                let to = t.target().and_then(|id| self.resolve_ending(id));
                self.abbrev(if to.is_some() { Abbrev::Typedef } else { Abbrev::TypedefVoid });
                self.name(t.name_offset());
                if let Some(id) = to {
                    self.reference(id, declared);
                }
            }
            Kind::Array => self.array(t),
            Kind::Struct | Kind::Union if declared && !t.name().is_empty() => {
                self.declaration(t, t.kind == Kind::Union);
            }
            Kind::Struct | Kind::Union => self.composite(t),
            Kind::Enum | Kind::Enum64 => self.enumeration(t),
            Kind::Fwd => self.declaration(t, t.flag),
            Kind::FuncProto => self.prototype(t),
            Kind::Func | Kind::Var | Kind::Datasec | Kind::DeclTag | Kind::TypeTag => {}
        }
    }

    fn base_type(&mut self, t: &Type<'a>) {
        let name = t.name();
        let encoding = match t.int() {
            None => 0x04,
            Some(int) if int.bool => 0x02,
            // BTF's own bit for characters is not set.
            Some(_) if matches!(name, "char" | "signed char") => 0x06,
            Some(_) if name == "unsigned char" => 0x08,
            Some(int) if int.signed => 0x05,
            Some(_) => 0x07,
        };
        self.abbrev(Abbrev::Base);
        self.name(t.name_offset());
        let size = t.size().and_then(|s| u8::try_from(s).ok()).unwrap_or(1);
        self.info.push(size);
        self.info.push(encoding);
    }

    fn qualifier(&mut self, t: &Type<'a>, with: Abbrev, void: Abbrev, declared: bool) {
        match t.target().and_then(|id| self.resolve_ending(id)) {
            Some(id) => {
                self.abbrev(with);
                self.reference(id, declared);
            }
            None => self.abbrev(void),
        }
    }

    fn array(&mut self, t: &Type<'a>) {
        let Some(a) = t.array() else { return };
        let (Some(element), Some(index)) =
            (self.resolve_ending(t.id).and(self.resolve(a.element)), self.resolve(a.index))
        else {
            // Nothing that C has: keep a DIE for those that refer to it.
            self.abbrev(Abbrev::ConstVoid);
            return;
        };
        self.abbrev(Abbrev::Array);
        self.reference(element, false);
        self.abbrev(if a.len > 0 { Abbrev::Subrange } else { Abbrev::SubrangeOpen });
        self.reference(index, false);
        if a.len > 0 {
            self.info.uleb(u64::from(a.len));
        }
        self.abbrev(Abbrev::End);
    }

    fn declaration(&mut self, t: &Type<'a>, union: bool) {
        self.abbrev(if union { Abbrev::UnionDeclaration } else { Abbrev::StructDeclaration });
        self.name(t.name_offset());
    }

    fn composite(&mut self, t: &Type<'a>) {
        let empty = t.members().len() == 0;
        let named = t.name_offset() != 0;
        self.abbrev(match (t.kind == Kind::Union, named, empty) {
            (false, true, false) => Abbrev::Struct,
            (false, false, false) => Abbrev::StructAnonymous,
            (false, true, true) => Abbrev::StructEmpty,
            (false, false, true) => Abbrev::StructAnonymousEmpty,
            (true, true, false) => Abbrev::Union,
            (true, false, false) => Abbrev::UnionAnonymous,
            (true, true, true) => Abbrev::UnionEmpty,
            (true, false, true) => Abbrev::UnionAnonymousEmpty,
        });
        if named {
            self.name(t.name_offset());
        }
        self.info.uleb(u64::from(t.size().unwrap_or(0)));
        if empty {
            return;
        }
        for m in t.members() {
            let Some(id) = self.resolve_ending(m.type_id).filter(|id| !self.contains(*id, t)) else {
                continue;
            };
            let mut offset = u64::from(m.bit_offset);
            let mut bits = m.bits;
            // Before kind_flag, a bit-field was an Int with fewer bits than bytes.
            if bits.is_none()
                && let Some(int) = self.btf.get(id).and_then(|t| Some((t.int()?, t.size()?)))
                && u32::from(int.0.bits) < int.1.saturating_mul(8)
                && !int.0.bool
            {
                bits = Some(int.0.bits);
                offset += u64::from(int.0.offset);
            }
            self.abbrev(match (m.name_offset != 0, bits.is_some()) {
                (true, false) => Abbrev::Member,
                (false, false) => Abbrev::MemberAnonymous,
                (true, true) => Abbrev::BitField,
                (false, true) => Abbrev::BitFieldAnonymous,
            });
            if m.name_offset != 0 {
                self.name(m.name_offset);
            }
            self.reference(id, false);
            match bits {
                Some(bits) => {
                    self.info.push(bits);
                    self.info.uleb(offset);
                }
                None => self.info.uleb(offset / 8),
            }
        }
        self.abbrev(Abbrev::End);
    }

    fn enumeration(&mut self, t: &Type<'a>) {
        let named = t.name_offset() != 0;
        if t.enumerators().len() == 0 {
            self.abbrev(Abbrev::EnumerationDeclaration);
            self.name(t.name_offset());
            return;
        }
        self.abbrev(if named { Abbrev::Enumeration } else { Abbrev::EnumerationAnonymous });
        if named {
            self.name(t.name_offset());
        }
        self.info.uleb(u64::from(t.size().unwrap_or(4)));
        for e in t.enumerators() {
            let negative = e.signed && e.value < 0;
            self.abbrev(if negative { Abbrev::EnumeratorNegative } else { Abbrev::EnumeratorUnsigned });
            self.name(e.name_offset);
            if negative {
                self.info.sleb(e.value);
            } else {
                self.info.uleb(e.value.cast_unsigned());
            }
        }
        self.abbrev(Abbrev::End);
    }

    fn prototype(&mut self, t: &Type<'a>) {
        let returns = t.target().and_then(|id| self.resolve_ending(id));
        let empty = t.params().len() == 0;
        self.abbrev(match (returns.is_some(), empty) {
            (true, false) => Abbrev::Prototype,
            (false, false) => Abbrev::PrototypeVoid,
            (true, true) => Abbrev::PrototypeEmpty,
            (false, true) => Abbrev::PrototypeVoidEmpty,
        });
        if let Some(id) = returns {
            self.reference(id, true);
        }
        if !empty {
            self.params(t);
            self.abbrev(Abbrev::End);
        }
    }

    fn params(&mut self, proto: &Type<'a>) {
        for p in proto.params() {
            let Some(id) = self.resolve_ending(p.type_id) else {
                self.abbrev(Abbrev::Ellipsis);
                continue;
            };
            if p.name_offset == 0 {
                self.abbrev(Abbrev::ParameterAnonymous);
            } else {
                self.abbrev(Abbrev::Parameter);
                self.name(p.name_offset);
            }
            self.reference(id, true);
        }
    }
}

/// A line table without lines: its one file is what inlined subroutines name as
/// their caller's.
fn line_header(name: &str) -> Vec<u8> {
    let mut body = vec![1, 1, 1, 0xfb, 14, 13];
    body.extend([0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1]);
    body.push(0);
    body.cstr(name);
    body.extend([0, 0, 0, 0]);
    let mut out = Vec::new();
    out.u32(len32(body.len() + 6));
    out.u16(4);
    out.u32(len32(body.len()));
    out.extend(body);
    out
}
