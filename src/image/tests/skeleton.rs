use object::{Object, ObjectSection, ObjectSymbol};

use super::*;
use crate::debuginfo::symbols::Builder;

#[test]
fn a_skeleton_is_an_elf_file_with_these_sections_and_symbols() {
    let text = 0xffff_ffff_8100_0000_u64;
    let mut b = Builder::new("t");
    for (at, kind, name) in [
        (0x31980, b'D', "per_cpu_thing"),
        (text, b'T', "start"),
        (text + 0x10, b't', "inner"),
        (text + 0x100, b'D', "data"),
        (text + 0x200, b'A', "data_end"),
        (text + 0x9000, b'w', "outside"),
    ] {
        b.push(at, 0, kind, name.as_bytes());
    }
    let symbols = b.finish();
    let section = |name: &str, range, kind| Section { name: name.to_owned(), range, kind };
    let sections = [
        section(".text", text..text + 0x100, SectionKind::Text),
        section(".data..percpu", 0..0x1000, SectionKind::Data),
        section(".data", text + 0x100..text + 0x200, SectionKind::Data),
    ];
    let symtab = symbol_table(&symbols, &sections);
    let skeleton = Skeleton {
        sections: &sections,
        build_id: Some(&[1, 2, 3, 4, 5]),
        symbols: Some(&symtab),
        debug_link: Some(("x.debug", 0x1234_5678)),
        contents: &[(".debug_frame", &[9; 24])],
        shared: false,
    };
    assert_eq!(lowest(&sections), Some(text));
    let bytes = skeleton.build();
    let elf = object::read::elf::ElfFile64::<object::LittleEndian>::parse(&*bytes).unwrap();
    assert_eq!(elf.entry(), 1);
    assert_eq!(elf.build_id().unwrap(), Some(&[1, 2, 3, 4, 5][..]));
    assert_eq!(elf.gnu_debuglink().unwrap(), Some((&b"x.debug"[..], 0x1234_5678)));
    assert!(elf.section_by_name(".data..percpu").is_none());
    let flags =
        |name| elf.section_by_name(name).unwrap().elf_section_header().sh_flags.get(object::LittleEndian);
    assert!([".text", ".data"].iter().all(|name| flags(name).contains(elf::SHF_WRITE)));
    assert_eq!(elf.section_by_name(".debug_frame").unwrap().data().unwrap(), [9; 24]);
    let found: Vec<_> = elf
        .symbols()
        .map(|s| (s.name().unwrap().to_owned(), s.address() - text, s.section_index().map(|i| i.0)))
        .collect();
    let of = |n: &str, at, s| (n.to_owned(), at, s);
    assert_eq!(
        found,
        [
            of("inner", 0x10, Some(1)),
            of("start", 0, Some(1)),
            of("data", 0x100, Some(2)),
            of("data_end", 0x200, Some(2)),
            of("outside", 0x9000, None),
        ]
    );
}

/// A section of data that begins without a name has the symbol before it, too, and
/// data reaches to the next symbol or to the end of its section; code does neither.
#[test]
fn every_byte_of_data_behind_a_symbol_has_its_name() {
    let text = 0xffff_ffff_c000_0000_u64;
    let mut b = Builder::new("t");
    for (at, size, kind, name) in [
        (text, 3, b't', "function"),
        (text + 0x1010, 1, b'r', "__kstrtabns_x"),
        (text + 0x1030, 8, b'd', "variable"),
        (text + 0x1038, 1, b'b', "last"),
    ] {
        b.push(at, size, kind, name.as_bytes());
    }
    let symbols = b.finish();
    let section = |name: &str, from: u64, to: u64, kind| Section {
        name: name.to_owned(),
        range: text + from..text + to,
        kind,
    };
    let sections = [
        section(".text", 0, 0x1000, SectionKind::Text),
        section(".note", 0x1000, 0x1010, SectionKind::Data),
        section("__ksymtab_strings", 0x1010, 0x1011, SectionKind::Data),
        section("__mcount_loc", 0x1011, 0x1020, SectionKind::Data),
        section(".rodata.str1.1", 0x1020, 0x1030, SectionKind::Data),
        section(".data", 0x1030, 0x1038, SectionKind::Data),
        section(".bss", 0x1038, 0x1080, SectionKind::Data),
        section(".far", 0x2000, 0x2010, SectionKind::Data),
    ];
    let symtab = symbol_table(&symbols, &sections);
    let bytes = Skeleton { sections: &sections, symbols: Some(&symtab), ..Skeleton::default() }.build();
    let elf = object::read::elf::ElfFile64::<object::LittleEndian>::parse(&*bytes).unwrap();
    let mut found: Vec<_> = elf
        .symbols()
        .map(|s| {
            let section = elf.section_by_index(s.section_index().unwrap()).unwrap();
            (s.name().unwrap().to_owned(), s.address() - text, s.size(), section.name().unwrap().to_owned())
        })
        .collect();
    found.sort_by_key(|f| f.1);
    let of = |n: &str, at, size, s: &str| (n.to_owned(), at, size, s.to_owned());
    assert_eq!(
        found,
        [
            of("function", 0, 3, ".text"),
            of("__kstrtabns_x", 0x1010, 0x20, "__ksymtab_strings"),
            of("__kstrtabns_x", 0x1010, 0x20, "__mcount_loc"),
            of("__kstrtabns_x", 0x1010, 0x20, ".rodata.str1.1"),
            of("variable", 0x1030, 8, ".data"),
            of("last", 0x1038, 0x48, ".bss"),
        ]
    );
}
