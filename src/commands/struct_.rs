//! `struct`: a structure's members, with the values that they have somewhere.

use clap::Args;
use serde_json::{Map, Value};

use super::{Answer, Command, CommandError, Context, Result, Text, address};
use crate::addr::VirtAddr;
use crate::debuginfo::Field;
use crate::debuginfo::btf::{Btf, Kind, Located, Type, TypeId};
use crate::linux::Kernel;
use crate::linux::object::number;
use crate::text::{Screen, row};

pub(super) fn command() -> Command {
    Command::of_kernel(
        "struct",
        "the members of a structure, and their values at an address or of each CPU",
        "ADDRESS:a is the copy of every CPU of what per-CPU memory has there, ADDRESS:1,3 those of two.\n\n\
         Examples:\n  \
           (gdb) monitor struct task_struct.comm,pid init_task\n  \
           $ corestub struct vmcore rq.nr_running,curr runqueues:a\n  \
           $ corestub struct vmcore -o list_head",
        run,
    )
}

#[derive(Args)]
struct Arguments {
    /// The structure or union, and which of its members
    #[arg(value_name = "NAME[.MEMBER,...]")]
    name: String,
    #[arg(value_name = "ADDRESS|SYMBOL[:CPUS]", help = address::HELP)]
    address: Option<String>,
    /// Offsets of the members
    #[arg(short)]
    offsets: bool,
}

/// Lines of one structure.
const MAX_LINES: usize = 20_000;
/// Structures in structures.
const MAX_DEPTH: usize = 12;
/// Elements of an array.
const MAX_ELEMENTS: u64 = 1024;
/// Letters of a text that a pointer leads to (gdb's `print elements`).
const MAX_TEXT: usize = 200;
/// Values of one structure: arrays of structures with arrays multiply.
const MAX_VALUES: usize = 1 << 18;
/// In place of a name or a type whose page of BTF is lost.
const LOST: &str = "(lost)";

/// What is shown: rows for people, values for machines.
struct Shown {
    rows: Vec<String>,
    json: Value,
}

impl serde::Serialize for Shown {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        self.json.serialize(to)
    }
}

impl Text for Shown {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        Ok(self.rows.iter().try_for_each(|line| row!(screen, "{line}"))?)
    }
}

/// A structure or union by name, and which of its members: `NAME[.MEMBER,...]`.
pub(super) struct Shape<'k> {
    kernel: &'k Kernel,
    btf: &'k Btf,
    id: TypeId,
    name: String,
    members: Vec<String>,
}

impl<'k> Shape<'k> {
    pub(super) fn named(kernel: &'k Kernel, text: &str) -> Result<Self> {
        let btf = kernel
            .btf()
            .ok_or_else(|| CommandError::failed("the kernel has no BTF; gdb's `print` knows DWARF"))?;
        let (name, members) = text.split_once('.').unwrap_or((text, ""));
        let id = [format!("struct {name}"), format!("union {name}"), name.to_owned()]
            .iter()
            .find_map(|name| btf.find(name))
            .ok_or_else(|| missing(btf, format!("there is no structure {name}")))?;
        let members: Vec<String> = members.split(',').filter(|m| !m.is_empty()).map(str::to_owned).collect();
        if let Some(unknown) = members.iter().find(|member| btf.member(id, member).is_none()) {
            return Err(missing(btf, format!("{name} has no member {unknown}")));
        }
        Ok(Self { kernel, btf, id, name: name.to_owned(), members })
    }

    /// The rows of the one at `at`, and its values.
    pub(super) fn at(&self, at: VirtAddr) -> Result<(Vec<String>, Value)> {
        let mut writer = self.writer(false);
        let value = writer.one(self.id, &self.name, &self.members, Some(at))?;
        Ok((writer.rows, value))
    }

    fn writer(&self, offsets: bool) -> Writer<'k> {
        let Self { kernel, btf, .. } = *self;
        Writer { kernel, btf, offsets, rows: Vec::new(), base: None, left: 0 }
    }
}

fn run<'d>(kernel: &'d Kernel, args: Arguments, context: Context<'d>) -> Result<Answer<'d>> {
    let shape = Shape::named(kernel, &args.name)?;
    let Shape { id, name, members, .. } = &shape;
    let mut writer = shape.writer(args.offsets);
    let Some(word) = &args.address else {
        let json = writer.one(*id, name, members, None)?;
        return Ok(Shown { rows: writer.rows, json }.into());
    };
    let (word, cpus) = match word.split_once(':') {
        Some((word, cpus)) => (word, Some(cpus_of(kernel, cpus)?)),
        None => (word.as_str(), None),
    };
    let at = address::of_kernel(kernel, context, word)?;
    let Some(cpus) = cpus else {
        let json = writer.one(*id, name, members, Some(at))?;
        return Ok(Shown { rows: writer.rows, json }.into());
    };
    let mut all = Vec::new();
    for cpu in cpus {
        context.check()?;
        let none = || CommandError::Failed(format!("there is no per-CPU memory of CPU {cpu}"));
        let at = kernel.percpu().address(at, cpu).ok_or_else(none)?;
        writer.rows.push(format!("[{cpu}]: {:x}", at.0));
        let mut value = writer.one(*id, name, members, Some(at))?;
        if let Some(object) = value.as_object_mut() {
            object.insert("cpu".to_owned(), cpu.into());
        }
        all.push(value);
    }
    Ok(Shown { rows: writer.rows, json: all.into() }.into())
}

/// `a`: all that were online; else numbers and ranges.
fn cpus_of(kernel: &Kernel, text: &str) -> Result<Vec<u32>> {
    let wrong = || CommandError::Usage(format!("{text} is not `a` and no list of CPUs such as 0,2-3"));
    if matches!(text, "a" | "all") {
        return Ok(kernel.percpu().present().to_vec());
    }
    let mut all = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) =
            first.parse().ok().zip(last.parse().ok()).filter(|(a, b)| a <= b).ok_or_else(wrong)?;
        let there = kernel.percpu().present().iter().filter(|cpu| (first..=last).contains(cpu));
        all.extend(there);
    }
    if all.is_empty() { Err(wrong()) } else { Ok(all) }
}

struct Writer<'k> {
    kernel: &'k Kernel,
    btf: &'k Btf,
    offsets: bool,
    rows: Vec<String>,
    base: Option<VirtAddr>,
    /// How many more values are shown.
    left: usize,
}

impl Writer<'_> {
    fn one(&mut self, id: TypeId, name: &str, members: &[String], at: Option<VirtAddr>) -> Result<Value> {
        (self.base, self.left) = (at, MAX_VALUES);
        if members.is_empty() {
            let found = Located { bit_offset: 0, type_id: id, bits: None };
            let word = self
                .btf
                .strip(id)
                .map_or("struct", |t| if t.kind == Kind::Union { "union" } else { "struct" });
            self.rows.push(format!("{word} {name} {{"));
            let value = self.members(found, 0, 1);
            self.rows.push("}".to_owned());
            if let Some(size) = self.btf.size(id).filter(|_| at.is_none()) {
                self.rows.push(format!("SIZE: {size}"));
            }
            return Ok(value);
        }
        let mut values = Map::new();
        for member in members {
            let found = self
                .btf
                .member(id, member)
                .ok_or_else(|| missing(self.btf, format!("{name} has no member {member}")))?;
            let value = self.member(member, found, 0);
            values.insert(member.clone(), value);
        }
        Ok(values.into())
    }

    /// The members of the structure that `found` is.
    fn members(&mut self, found: Located, depth: usize, indent: usize) -> Value {
        let mut values = Map::new();
        let Some(ty) = self.btf.strip(found.type_id) else { return Value::Null };
        for member in ty.members() {
            let Some(bit_offset) = found.bit_offset.checked_add(member.bit_offset.into()) else { continue };
            let inner = Located { bit_offset, type_id: member.type_id, bits: member.bits };
            if depth >= MAX_DEPTH || self.rows.len() >= MAX_LINES || self.left == 0 {
                self.rows.push(format!("{:width$}...", "", width = indent * 2));
                break;
            }
            self.left -= 1;
            // One without a name that is no structure has lost its name.
            if member.name.is_empty() && self.btf.strip(member.type_id).is_some_and(|t| t.kind.is_composite())
            {
                let value = self.nested("", inner, depth + 1, indent);
                if let Value::Object(inner) = value {
                    values.extend(inner);
                }
                continue;
            }
            let known = !member.name.is_empty() || self.btf.strip(member.type_id).is_none();
            let name = if known { member.name } else { LOST };
            let value = self.shown(name, inner, depth, indent);
            let key = if name.is_empty() { LOST } else { name };
            // Several may have lost their names.
            let again = key == LOST && values.contains_key(key);
            values.insert(if again { format!("{LOST} {bit_offset}") } else { key.to_owned() }, value);
        }
        values.into()
    }

    fn member(&mut self, name: &str, found: Located, depth: usize) -> Value {
        self.shown(name, found, depth, 1)
    }

    /// A member in one row, or in several.
    fn shown(&mut self, name: &str, found: Located, depth: usize, indent: usize) -> Value {
        let Some(ty) = self.btf.strip(found.type_id) else {
            let row = match (self.base, name) {
                (None, "") => format!("{LOST};"),
                (None, _) => format!("{} {name};", declared(self.btf, found.type_id)),
                (Some(_), "") => format!("{LOST},"),
                (Some(_), _) => format!("{name} = {LOST},"),
            };
            self.rows.push(format!("{:width$}{}{row}", "", self.place(found), width = indent * 2));
            return Value::Null;
        };
        if ty.kind.is_composite() && ty.members().len() > 0 {
            return self.nested(name, found, depth + 1, indent);
        }
        let (text, value) = match (self.base, ty.kind) {
            (None, _) => {
                (declared(self.btf, found.type_id), Value::String(declared(self.btf, found.type_id)))
            }
            (Some(_), Kind::Array) => self.array(ty, found, depth),
            (Some(_), _) => self.scalar(ty, found),
        };
        let place = self.place(found);
        let row = match self.base {
            None => format!("{:width$}{place}{text} {name};", "", width = indent * 2),
            Some(_) => format!("{:width$}{place}{name} = {text},", "", width = indent * 2),
        };
        self.rows.push(row);
        value
    }

    fn place(&self, found: Located) -> String {
        if self.offsets { format!("[{}] ", found.bit_offset / 8) } else { String::new() }
    }

    fn nested(&mut self, name: &str, found: Located, depth: usize, indent: usize) -> Value {
        let place = self.place(found);
        let open = match (self.base, name) {
            (Some(_), "") => "{".to_owned(),
            (Some(_), name) => format!("{name} = {{"),
            (None, _) => format!("{} {{", declared(self.btf, found.type_id)),
        };
        self.rows.push(format!("{:width$}{place}{open}", "", width = indent * 2));
        let value = self.members(found, depth, indent + 1);
        let end = if self.base.is_some() { "},".to_owned() } else { format!("}} {name};") };
        self.rows.push(format!("{:width$}{end}", "", width = indent * 2));
        value
    }

    /// An array; equal neighbours are told once.
    fn array(&mut self, ty: Type<'_>, found: Located, depth: usize) -> (String, Value) {
        let unknown = || ("?".to_owned(), Value::Null);
        let Some(array) = ty.array() else { return unknown() };
        let (Some(element), Some(size)) = (self.btf.strip(array.element), self.btf.size(array.element))
        else {
            return unknown();
        };
        // Since 6.2 the kernel is built with -funsigned-char (3bc753c06dd0): then only the
        // name tells a char from a number.
        let named = size == 1 && element.name() == "char";
        if element.int().is_some_and(|int| int.char || named || size == 1 && int.signed) {
            return self.text(found, array.len.into());
        }
        let mut parts: Vec<(String, u64)> = Vec::new();
        let mut values = Vec::new();
        for i in 0..u64::from(array.len).min(MAX_ELEMENTS) {
            let bits = i.checked_mul(size).and_then(|bytes| bytes.checked_mul(8));
            let at = bits.and_then(|bits| found.bit_offset.checked_add(bits));
            let (Some(bit_offset), Some(left)) = (at, self.left.checked_sub(1)) else { break };
            self.left = left;
            let one = Located { bit_offset, type_id: array.element, bits: None };
            let (text, value) = if element.kind.is_composite() {
                let Self { kernel, btf, base, left, .. } = *self;
                let inner = &mut Writer { kernel, btf, offsets: false, rows: Vec::new(), base, left };
                let value = if depth < MAX_DEPTH { inner.members(one, depth + 1, 0) } else { Value::Null };
                self.left = inner.left;
                (format!("{{{}}}", inner.rows.join(" ").trim_end_matches(',')), value)
            } else if element.kind == Kind::Array && depth < MAX_DEPTH {
                self.array(element, one, depth + 1)
            } else {
                self.scalar(element, one)
            };
            values.push(value);
            match parts.last_mut().filter(|(last, _)| *last == text) {
                Some((_, count)) => *count += 1,
                None => parts.push((text, 1)),
            }
        }
        let parts = parts.into_iter().map(|(text, count)| match count {
            1 => text,
            n => format!("{text} <{n} times>"),
        });
        let more = if u64::from(array.len) > values.len() as u64 { ", ..." } else { "" };
        (format!("{{{}{more}}}", parts.collect::<Vec<_>>().join(", ")), values.into())
    }

    fn text(&self, found: Located, len: u64) -> (String, Value) {
        let at = self.base.and_then(|base| base.checked_add(found.bit_offset / 8));
        let len = usize::try_from(len.min(MAX_ELEMENTS)).unwrap_or(0);
        match at.map(|at| self.kernel.space().read_vec(at, len)) {
            Some(Ok(bytes)) => {
                let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
                let text = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned();
                (format!("{text:?}"), text.into())
            }
            Some(Err(fault)) => (format!("<{fault}>"), Value::Null),
            None => ("?".to_owned(), Value::Null),
        }
    }

    /// The text that a pointer to char leads to.
    fn pointed(&self, ty: Type<'_>, at: u64) -> Option<String> {
        let target = self.btf.strip(ty.target()?)?;
        let is_char = target.int().is_some_and(|int| int.char) || target.name() == "char";
        let readable = is_char && at >= self.kernel.user_limit();
        readable.then(|| self.kernel.space().read_cstr(VirtAddr(at), MAX_TEXT).ok()).flatten()
    }

    fn scalar(&self, ty: Type<'_>, found: Located) -> (String, Value) {
        let (Some(base), Some(size)) =
            (self.base, self.btf.size(found.type_id).filter(|s| (1..=8).contains(s)))
        else {
            return ("?".to_owned(), Value::Null);
        };
        // A bit-field is read by the bytes that hold a bit of it.
        let start = u8::try_from(found.bit_offset % 8).unwrap_or(0);
        let bits = found.bits.map(|width| (start, width));
        let size =
            bits.map_or(size, |(start, width)| (u64::from(start) + u64::from(width)).div_ceil(8).min(8));
        let field = Field { offset: found.bit_offset / 8, size, bits };
        let Some(at) = base.checked_add(field.offset) else { return ("?".to_owned(), Value::Null) };
        let Some(raw) = number(self.kernel, at, field) else {
            let fault = self.kernel.space().read_run(at, &mut [0]).err();
            return (fault.map_or("?".to_owned(), |f| format!("<{f}>")), Value::Null);
        };
        let width = bits.map_or(size * 8, |(_, width)| u64::from(width));
        match ty.kind {
            Kind::Ptr => {
                let name =
                    self.kernel.symbolise(VirtAddr(raw)).filter(|_| self.kernel.is_text(VirtAddr(raw)));
                let name = name.map(|(s, offset, _)| format!(" <{}+{offset}>", s.name)).unwrap_or_default();
                let text = self.pointed(ty, raw).map(|text| format!(" {text:?}")).unwrap_or_default();
                (format!("{raw:#x}{name}{text}"), format!("{raw:#x}").into())
            }
            Kind::Enum | Kind::Enum64 => {
                let value = signed(raw, width);
                let named = ty.enumerators().find(|e| e.value == value || e.value.cast_unsigned() == raw);
                match named {
                    Some(e) => (e.name.to_owned(), e.name.into()),
                    None => (value.to_string(), value.into()),
                }
            }
            _ => match ty.int() {
                Some(int) if int.bool => ((raw != 0).to_string(), (raw != 0).into()),
                Some(int) if int.signed => (signed(raw, width).to_string(), signed(raw, width).into()),
                _ => (raw.to_string(), raw.into()),
            },
        }
    }
}

/// Types that are lost may be of what was not found: then it is not said to be unknown to
/// the kernel.
fn missing(btf: &Btf, what: String) -> CommandError {
    CommandError::Failed(match btf.lost() {
        Some(lost) => format!("{what} in what is left of the types: {lost}"),
        None => what,
    })
}

/// The lowest `width` bits as a signed number.
fn signed(raw: u64, width: u64) -> i64 {
    let unused = u32::try_from(64u64.saturating_sub(width)).unwrap_or(0).min(63);
    (raw << unused).cast_signed() >> unused
}

/// A type as C declares it, as far as one row goes.
fn declared(btf: &Btf, id: TypeId) -> String {
    let mut id = id;
    let mut behind = String::new();
    for _ in 0..MAX_DEPTH {
        let Some(ty) = btf.get(id) else {
            let name = if id == 0 { "void" } else { LOST };
            return format!("{name}{}", spaced(&behind));
        };
        match ty.kind {
            Kind::Ptr => {
                behind.insert(0, '*');
                id = ty.target().unwrap_or(0);
            }
            Kind::Array => {
                let Some(array) = ty.array() else { break };
                behind.push_str(&format!("[{}]", array.len));
                id = array.element;
            }
            Kind::Struct => return format!("struct {}{}", ty.name(), spaced(&behind)),
            Kind::Union => return format!("union {}{}", ty.name(), spaced(&behind)),
            Kind::Enum | Kind::Enum64 => return format!("enum {}{}", ty.name(), spaced(&behind)),
            Kind::FuncProto => return format!("function {behind}"),
            _ if !ty.name().is_empty() => return format!("{}{}", ty.name(), spaced(&behind)),
            _ => id = ty.target().unwrap_or(0),
        }
    }
    format!("?{behind}")
}

fn spaced(behind: &str) -> String {
    if behind.is_empty() { String::new() } else { format!(" {behind}") }
}

#[cfg(test)]
mod tests {
    use super::{MAX_VALUES, Writer, declared, signed};
    use crate::addr::VirtAddr;
    use crate::debuginfo::btf::Btf;
    use crate::debuginfo::btf::tests::Records;
    use crate::linux::tests::machine::Machine;

    /// How many values `NAME` has in `records`, and its rows.
    fn shown(records: &Records, name: &str) -> (usize, Vec<String>) {
        let btf = Btf::parse(records.finish(), "test").unwrap();
        let kernel = Machine::new().kernel();
        let mut writer =
            Writer { kernel: &kernel, btf: &btf, offsets: false, rows: Vec::new(), base: None, left: 0 };
        writer.one(btf.find(name).unwrap(), name, &[], Some(VirtAddr(0x1000))).unwrap();
        (MAX_VALUES - writer.left, writer.rows)
    }

    #[test]
    fn arrays_of_structures_with_arrays_end() {
        let mut records = Records::new();
        records.record("int", 1 << 24, 4, &[1 << 24 | 32]);
        let member = records.name("m");
        // Each an array of 1024 of the one before: 2^50 values.
        let mut id = 1;
        for name in ["a", "b", "c", "d", "e"] {
            records.record("", 3 << 24, 0, &[id, 1, 1024]);
            records.record(name, 4 << 24 | 1, 4, &[member, id + 1, 0]);
            id += 2;
        }
        let (values, rows) = shown(&records, "struct e");
        assert_eq!(values, MAX_VALUES);
        assert!(rows.iter().any(|row| row.contains(", ...")), "what is left out is told");
    }

    #[test]
    fn an_array_beyond_all_addresses_is_cut() {
        let mut records = Records::new();
        records.record("byte", 1 << 24, 1, &[8]);
        let member = records.name("m");
        // 2^62 bytes each.
        for (element, len) in [(1, 1 << 31), (2, 1 << 31), (3, 4)] {
            records.record("", 3 << 24, 0, &[element, 1, len]);
        }
        records.record("wide", 4 << 24 | 1, 4, &[member, 4, 0]);
        assert_eq!(shown(&records, "struct wide").1.len(), 3);
    }

    #[test]
    fn members_of_lost_types_are_told() {
        let mut records = Records::new();
        records.record("int", 1 << 24, 4, &[1 << 24 | 32]);
        let (m, n) = (records.name("m"), records.name("n"));
        records.record("", 2 << 24, 99, &[]);
        records.record("s", 4 << 24 | 5, 24, &[m, 99, 0, n, 1, 32, 0, 1, 64, 0, 99, 96, n, 2, 128]);
        let rows = shown(&records, "struct s").1;
        assert_eq!(rows.len(), 7, "{rows:?}");
        assert_eq!(rows.get(1).unwrap(), "  m = (lost),");
        assert!(rows.get(3).unwrap().starts_with("  (lost) = "), "its name is lost: {rows:?}");
        assert_eq!(rows.get(4).unwrap(), "  (lost),");
        let btf = Btf::parse(records.finish(), "test").unwrap();
        assert_eq!((declared(&btf, 99), declared(&btf, 2)), ("(lost)".to_owned(), "(lost) *".to_owned()));
        assert_eq!(declared(&btf, 0), "void");
    }

    #[test]
    fn signs_of_narrow_numbers() {
        assert_eq!((signed(0xff, 8), signed(0x7f, 8), signed(0b101, 3)), (-1, 127, -3));
        assert_eq!((signed(u64::MAX, 64), signed(5, 64)), (-1, 5));
    }
}
