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
    };
    assert_eq!(skeleton.lowest(), Some(text));
    let bytes = skeleton.build();
    let elf = object::read::elf::ElfFile64::<object::LittleEndian>::parse(&*bytes).unwrap();
    assert_eq!(elf.entry(), 1);
    assert_eq!(elf.build_id().unwrap(), Some(&[1, 2, 3, 4, 5][..]));
    assert_eq!(elf.gnu_debuglink().unwrap(), Some((&b"x.debug"[..], 0x1234_5678)));
    assert!(elf.section_by_name(".data..percpu").is_none());
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
