#![allow(clippy::cast_possible_truncation, clippy::print_stderr, reason = "test data")]

use object::write::{Object, StandardSection, Symbol, SymbolSection};
use object::{Architecture, BinaryFormat, Endianness, SymbolFlags, SymbolKind, SymbolScope};
use proptest::prelude::*;

use super::*;
use crate::bytes::source::InMemory;
use crate::debuginfo::lab::{lab_files, scenarios};

fn sample() -> Vec<u8> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
    let text = object.section_id(StandardSection::Text);
    object.append_section_data(text, &[0x90; 64], 16);
    let note = object.add_section(Vec::new(), b".note.gnu.build-id".to_vec(), object::SectionKind::Note);
    let mut bytes = Vec::new();
    for word in [4_u32, 4, 3] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend_from_slice(b"GNU\0\xde\xad\xbe\xef");
    object.append_section_data(note, &bytes, 4);
    for (name, value, scope, weak) in [
        ("global", 0, SymbolScope::Linkage, false),
        ("weak", 16, SymbolScope::Linkage, true),
        ("local", 32, SymbolScope::Compilation, false),
        ("__crc_global", 0, SymbolScope::Linkage, false),
    ] {
        object.add_symbol(Symbol {
            name: name.into(),
            value,
            size: 8,
            kind: SymbolKind::Text,
            scope,
            weak,
            section: SymbolSection::Section(text),
            flags: SymbolFlags::None,
        });
    }
    object.write().unwrap()
}

fn open(bytes: Vec<u8>) -> Result<Vmlinux> {
    Vmlinux::from_source(Arc::new(InMemory::new("sample.ko", bytes)))
}

#[test]
fn a_module_is_read() {
    let file = open(sample()).unwrap();
    assert_eq!(file.kind(), ET_REL);
    assert_eq!(file.build_id().unwrap().to_string(), "deadbeef");
    assert_eq!(file.data(file.section(".text").unwrap()).unwrap().len(), 64);
    let table = file
        .symbols_placed(&|value, section| (section?.name == ".text").then_some(0xffff_ffff_c000_0000 + value))
        .unwrap();
    let listed: Vec<_> = table.iter().map(|s| (s.address & 0xff, s.kind, s.name)).collect();
    assert_eq!(listed, [(0, b'T', "global"), (16, b'W', "weak"), (32, b't', "local")]);
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let refused = |bytes: Vec<u8>| open(bytes).unwrap_err().to_string();
    assert!(refused(b"MZ and more".to_vec()).contains("expected an ELF header"));
    let mut arm = sample();
    arm[18] = 183;
    assert!(refused(arm).contains("machine of type 183 (AArch64)"));
    let mut cut = sample();
    cut.truncate(200);
    assert!(refused(cut).contains("section headers within the file"));
    let stripped = open(sample()).unwrap();
    let text = Section { size: 1 << 40, ..stripped.section(".text").unwrap().clone() };
    assert!(stripped.data(&text).unwrap_err().to_string().contains("past the end"));
}

/// Debian's vmlinux against the guest that ran it.
#[test]
fn vmlinux_symbols_are_those_of_the_guest() {
    for scenario in scenarios("oracle/kallsyms.gz").into_iter().filter(|s| s.ends_with("ci")) {
        let release = scenario.parent().unwrap().file_name().unwrap().to_str().unwrap();
        let Some(path) = lab_files(&[&format!("usr/lib/debug/boot/vmlinux-{release}")]).pop() else {
            crate::lab::skip(&format!("no vmlinux of {release}"));
            continue;
        };
        let start = std::time::Instant::now();
        let file = Vmlinux::open(&path).unwrap();
        let opened = start.elapsed();
        assert!(file.has_dwarf() && file.section_data(".BTF").unwrap().unwrap().starts_with(&[0x9f, 0xeb]));
        let guest = crate::debuginfo::lab::guest_kallsyms(&scenario);
        let stext = guest.iter().find(|s| s.2 == "_stext").unwrap().0;
        let slide = stext - file.first_load_vaddr().unwrap();
        let table = file.symbols(slide).unwrap();
        eprintln!("{}: open {opened:?}, {} symbols {:?}", path.display(), table.len(), start.elapsed());
        let mut missing = Vec::new();
        for (address, _, name) in &guest {
            // Programs, trampolines and modules built in by the guest at run time have no line there.
            if !table.all_by_name(name).any(|symbol| symbol.address == *address) {
                missing.push(name.clone());
            }
        }
        assert!(missing.len() * 1000 < guest.len(), "{} of {}: {missing:?}", missing.len(), guest.len());
        eprintln!("not in vmlinux: {missing:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn never_panics(noise in proptest::collection::vec((0_usize..2000, any::<u8>()), 0..30), cut in 0_usize..2000) {
        let mut bytes = sample();
        bytes.truncate(cut);
        for (at, byte) in noise {
            if let Some(to) = bytes.get_mut(at) { *to = byte; }
        }
        if let Ok(file) = open(bytes) {
            let _ = file.symbols(0x1000);
            for section in file.sections() { let _ = file.data(section); }
        }
    }
}
