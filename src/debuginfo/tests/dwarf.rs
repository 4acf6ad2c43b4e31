#![allow(clippy::print_stderr, reason = "measurements and skipped tests are said")]

use proptest::prelude::*;

use super::*;
use crate::bytes::source::InMemory;
use crate::debuginfo::btf::{Btf, Kind, TypeId};
use crate::debuginfo::vmlinux;

/// Paths of all members of a type, anonymous ones passed through, with the
/// members of embedded structs down to `depth`.
fn paths(btf: &Btf, id: TypeId, prefix: &str, depth: usize, out: &mut Vec<String>) {
    let Some(t) = btf.strip(id) else { return };
    for member in t.members() {
        if member.name.is_empty() {
            paths(btf, member.type_id, prefix, depth, out);
            continue;
        }
        let path = format!("{prefix}{}", member.name);
        if depth > 0 {
            paths(btf, member.type_id, &format!("{path}."), depth - 1, out);
        }
        out.push(path);
    }
}

#[test]
fn dwarf_says_what_btf_says() {
    for (release, path) in vmlinux::all() {
        let file = Arc::new(Vmlinux::open(&path).unwrap());
        let btf = file.section_data(".BTF").unwrap().unwrap().into_owned();
        let btf = Btf::parse(btf, "BTF").unwrap();
        let start = std::time::Instant::now();
        let dwarf = DwarfTypes::new(file).unwrap();
        let opened = start.elapsed();
        assert!(dwarf.size_of("task_struct").unwrap() > 1000);
        let first = start.elapsed();
        assert_eq!(dwarf.size_of("struct no_such_struct"), None);
        let all = start.elapsed();
        eprintln!(
            "{release}: {} units, open {opened:?}, first name {first:?}, all {all:?}",
            dwarf.units.len()
        );

        // Names that mean one thing only; others may differ by which comes first.
        let named: Vec<(TypeId, &str)> = btf
            .own_ids()
            .filter_map(|id| Some((id, btf.get(id)?)))
            .filter(|(_, t)| matches!(t.kind, Kind::Struct | Kind::Union) && !t.name().is_empty())
            .filter(|(id, t)| btf.named(t.name(), t.kind).eq([*id]) && btf.find(t.name()) == Some(*id))
            .map(|(id, t)| (id, t.name()))
            .collect();
        let (mut structs, mut members, mut local, mut wrong) = (0, 0, 0, Vec::new());
        let always =
            ["task_struct", "mm_struct", "module", "rq", "signal_struct", "page", "file", "pcpu_hot"];
        for (n, (id, name)) in named.iter().enumerate() {
            if n % (named.len() / 400) != 0 && !always.contains(name) {
                continue;
            }
            structs += 1;
            if dwarf.size_of(name).is_none() {
                // Declared within a function: not at the top level of its unit.
                local += 1;
                continue;
            }
            if dwarf.size_of(name) != Types::size_of(&btf, name) {
                wrong.push(format!(
                    "sizeof {name}: {:?}, {:?}",
                    dwarf.size_of(name),
                    Types::size_of(&btf, name)
                ));
            }
            let mut all = Vec::new();
            paths(&btf, *id, "", 1, &mut all);
            for path in all {
                members += 1;
                let (ours, theirs) = (dwarf.field(name, &path), btf.field(name, &path));
                let lens = (dwarf.array_len(name, &path), btf.array_len(name, &path));
                if ours != theirs || lens.0 != lens.1 {
                    wrong.push(format!("{name}.{path}: {ours:?}, {theirs:?}, {lens:?}"));
                }
            }
        }
        eprintln!("{release}: {structs} structs, {members} members compared in {:?}", start.elapsed() - all);
        assert!(wrong.is_empty(), "{} wrong: {:#?}", wrong.len(), &wrong[..wrong.len().min(20)]);
        assert!(structs > 400 && local * 50 < structs, "{local} of {structs} are unknown");

        let mut enumerators: HashMap<&str, Vec<i64>> = HashMap::new();
        for e in btf.own_types().flat_map(|t| t.enumerators()) {
            enumerators.entry(e.name).or_default().push(e.value);
        }
        // A name may stand for several values, in different files. BTF also has the
        // few enums that are declared within a function.
        let (mut local, mut wrong) = (0, Vec::new());
        for (name, values) in &enumerators {
            match dwarf.enumerator(name) {
                Some(ours) if values.contains(&ours) => {}
                None => local += 1,
                ours => wrong.push(format!("{name}: {ours:?}, {values:?}")),
            }
        }
        eprintln!("{release}: {} enumerators compared, {local} only in BTF", enumerators.len());
        assert!(local * 500 < enumerators.len());
        assert!(wrong.is_empty(), "{} wrong: {:#?}", wrong.len(), &wrong[..wrong.len().min(20)]);
    }
}

#[test]
fn a_file_without_dwarf_says_what_to_do() {
    let mut object = object::write::Object::new(
        object::BinaryFormat::Elf,
        object::Architecture::X86_64,
        object::Endianness::Little,
    );
    object.add_file_symbol(b"x".to_vec());
    let file = Vmlinux::from_source(Arc::new(InMemory::new("vmlinuz", object.write().unwrap()))).unwrap();
    let error = DwarfTypes::new(Arc::new(file)).err().unwrap().to_string();
    assert!(error.contains("vmlinuz: no DWARF") && error.contains("--vmlinux"), "{error}");
}

/// Two units, written by gimli: forward declarations, bit-fields of both styles,
/// anonymous members, arrays of two dimensions and without end.
fn sample() -> Vec<u8> {
    use gimli::write::{AttributeValue as Value, Dwarf, EndianVec, LineProgram, Sections, Unit, UnitEntryId};
    use gimli::*;
    let encoding = Encoding { format: Format::Dwarf32, version: 4, address_size: 8 };
    let mut dwarf = Dwarf::new();
    let mut unit = || dwarf.units.add(Unit::new(encoding, LineProgram::none()));
    let (first, second) = (unit(), unit());
    let text = |s: &str| Value::String(s.as_bytes().to_vec());
    let add = |unit: &mut Unit, parent: UnitEntryId, tag: DwTag, attrs: Vec<(DwAt, Value)>| {
        let id = unit.add(parent, tag);
        for (at, value) in attrs {
            unit.get_mut(id).set(at, value);
        }
        id
    };
    let u = dwarf.units.get_mut(first);
    let root = u.root();
    let int =
        add(u, root, DW_TAG_base_type, vec![(DW_AT_name, text("int")), (DW_AT_byte_size, Value::Udata(4))]);
    let declared = add(
        u,
        root,
        DW_TAG_structure_type,
        vec![(DW_AT_name, text("later")), (DW_AT_declaration, Value::Flag(true))],
    );
    let constant = add(u, root, DW_TAG_const_type, vec![(DW_AT_type, Value::UnitRef(declared))]);
    let grid = add(u, root, DW_TAG_array_type, vec![(DW_AT_type, Value::UnitRef(int))]);
    add(u, grid, DW_TAG_subrange_type, vec![(DW_AT_upper_bound, Value::Udata(2))]);
    add(u, grid, DW_TAG_subrange_type, vec![(DW_AT_count, Value::Udata(5))]);
    let open_end = add(u, root, DW_TAG_array_type, vec![(DW_AT_type, Value::UnitRef(int))]);
    add(u, open_end, DW_TAG_subrange_type, vec![]);
    let union = add(u, root, DW_TAG_union_type, vec![(DW_AT_byte_size, Value::Udata(60))]);
    let at = |n| (DW_AT_data_member_location, Value::Udata(n));
    let of = |id| (DW_AT_type, Value::UnitRef(id));
    let width = |n| (DW_AT_bit_size, Value::Udata(n));
    add(u, union, DW_TAG_member, vec![(DW_AT_name, text("grid")), of(grid)]);
    add(u, union, DW_TAG_member, vec![(DW_AT_name, text("whole")), of(constant)]);
    let s = add(
        u,
        root,
        DW_TAG_structure_type,
        vec![(DW_AT_name, text("s")), (DW_AT_byte_size, Value::Udata(80))],
    );
    let member = |u: &mut Unit, name: &str, attrs: Vec<(DwAt, Value)>| {
        add(u, s, DW_TAG_member, [vec![(DW_AT_name, text(name))], attrs].concat());
    };
    member(u, "plain", vec![at(0), of(int)]);
    // Bits 3..8 of the word at 4, counted from the top as DWARF 2 does, and from the bottom.
    member(u, "old", vec![at(4), of(int), width(5), (DW_AT_bit_offset, Value::Udata(24))]);
    member(u, "new", vec![of(int), width(5), (DW_AT_data_bit_offset, Value::Udata(35))]);
    add(u, s, DW_TAG_member, vec![at(8), of(union)]);
    member(u, "tail", vec![at(80), of(open_end)]);
    let e = add(u, root, DW_TAG_enumeration_type, vec![(DW_AT_byte_size, Value::Udata(4))]);
    for (name, value) in [("MINUS", Value::Sdata(-1)), ("BIG", Value::Data1(200))] {
        add(u, e, DW_TAG_enumerator, vec![(DW_AT_name, text(name)), (DW_AT_const_value, value)]);
    }
    let u = dwarf.units.get_mut(second);
    let root = u.root();
    let int =
        add(u, root, DW_TAG_base_type, vec![(DW_AT_name, text("int")), (DW_AT_byte_size, Value::Udata(4))]);
    let later = add(
        u,
        root,
        DW_TAG_structure_type,
        vec![(DW_AT_name, text("later")), (DW_AT_byte_size, Value::Udata(24))],
    );
    add(u, later, DW_TAG_member, vec![(DW_AT_name, text("deep")), of(int), at(12)]);
    add(u, root, DW_TAG_typedef, vec![(DW_AT_name, text("later_t")), of(later)]);

    let mut sections = Sections::new(EndianVec::new(LittleEndian));
    dwarf.write(&mut sections).unwrap();
    let mut object = object::write::Object::new(
        object::BinaryFormat::Elf,
        object::Architecture::X86_64,
        object::Endianness::Little,
    );
    sections
        .for_each(|id, data| -> Result<()> {
            if !data.slice().is_empty() {
                let kind = object::SectionKind::Debug;
                let section = object.add_section(Vec::new(), id.name().as_bytes().to_vec(), kind);
                object.append_section_data(section, data.slice(), 1);
            }
            Ok(())
        })
        .unwrap();
    object.write().unwrap()
}

fn types(bytes: Vec<u8>) -> Result<DwarfTypes> {
    DwarfTypes::new(Arc::new(Vmlinux::from_source(Arc::new(InMemory::new("sample", bytes)))?))
}

#[test]
fn members_of_every_style() {
    let types = types(sample()).unwrap();
    let field = |path| types.field("s", path).map(|f| (f.offset, f.size, f.bits));
    assert_eq!(field("plain"), Some((0, 4, None)));
    assert_eq!(field("old"), Some((4, 4, Some((3, 5)))));
    assert_eq!(field("new"), field("old"));
    assert_eq!(field("grid"), Some((8, 60, None)));
    assert_eq!(types.array_len("s", "grid"), Some(15));
    assert_eq!(field("whole.deep"), Some((20, 4, None)));
    assert_eq!(field("tail"), Some((80, 0, None)));
    assert_eq!(types.array_len("s", "tail"), Some(0));
    assert_eq!(types.array_len("s", "plain"), None);
    for missing in ["", "deep", "plain.deep", "grid.x", "whole."] {
        assert_eq!(field(missing), None, "{missing}");
    }
    assert_eq!((types.size_of("struct later"), types.size_of("later_t")), (Some(24), Some(24)));
    assert_eq!((types.size_of("union later"), types.size_of("int")), (None, Some(4)));
    assert_eq!((types.enumerator("MINUS"), types.enumerator("BIG")), (Some(-1), Some(200)));
    assert_eq!(types.enumerator("int"), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn never_panics(noise in proptest::collection::vec((64_usize..1200, any::<u8>()), 0..12)) {
        let mut bytes = sample();
        for (at, byte) in noise {
            if let Some(to) = bytes.get_mut(at) { *to = byte; }
        }
        let Ok(types) = types(bytes) else { return Ok(()) };
        for path in ["plain", "old", "new", "grid", "whole.deep", "tail"] {
            let _ = types.field("s", path);
            let _ = types.array_len("s", path);
        }
        let _ = types.size_of("later_t");
        let _ = types.enumerator("BIG");
    }
}
