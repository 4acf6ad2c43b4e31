#![allow(clippy::cast_possible_truncation, clippy::print_stderr, reason = "test data")]

use proptest::prelude::*;

use super::*;
use crate::debuginfo::kallsyms::Encoding;
use crate::debuginfo::lab::{Flat, Guest, scenarios};

const BASE: u64 = 0xffff_ffff_81a0_0000;
const STEXT: u64 = 0xffff_ffff_8100_0000;

/// The layouts of other kernels than the lab's: 3.10 and 4.4 (absolute, wide
/// markers and count), 4.18 and 5.x (in front), 7.0 (place-relative, behind).
fn piece(encoding: Encoding, wide: bool, behind: bool) -> (Flat, Vec<(u64, String)>) {
    let symbols: Vec<(u64, String)> = std::iter::once((0x1000, "Acpu_info".to_owned()))
        .filter(|_| encoding == Encoding::AbsolutePercpu)
        .chain([(STEXT, "T_stext".to_owned())])
        .chain((0..1500).map(|i| (STEXT + 64 + 16 * i, format!("tfunction_number_{i}"))))
        .collect();
    let mut out = vec![0xcc; 4096];
    let align = |out: &mut Vec<u8>| out.resize(out.len().next_multiple_of(8), 0);
    let offsets = |out: &mut Vec<u8>| {
        align(out);
        let here = BASE + out.len() as u64;
        for (i, (address, _)) in symbols.iter().enumerate() {
            match encoding {
                Encoding::Absolute => out.extend(address.to_le_bytes()),
                Encoding::BaseRelative => out.extend((address.wrapping_sub(STEXT) as u32).to_le_bytes()),
                Encoding::AbsolutePercpu if *address < STEXT => out.extend((*address as u32).to_le_bytes()),
                Encoding::AbsolutePercpu => {
                    out.extend((STEXT.wrapping_sub(address + 1) as u32).to_le_bytes());
                }
                Encoding::PlaceRelative => {
                    out.extend((address.wrapping_sub(here + 4 * i as u64) as u32).to_le_bytes());
                }
            }
        }
        align(out);
        if matches!(encoding, Encoding::BaseRelative | Encoding::AbsolutePercpu) {
            out.extend(STEXT.to_le_bytes());
        }
    };
    if !behind {
        offsets(&mut out);
    }
    out.extend((symbols.len() as u64).to_le_bytes());
    let (mut names, mut markers) = (Vec::new(), Vec::new());
    for (i, (_, name)) in symbols.iter().enumerate() {
        if i % 256 == 0 {
            markers.push(names.len());
        }
        let code = name.replace("function_", "\u{1}");
        names.push(code.len() as u8);
        names.extend(code.bytes());
    }
    out.extend(names);
    align(&mut out);
    for marker in markers {
        if wide {
            out.extend((marker as u64).to_le_bytes())
        } else {
            out.extend((marker as u32).to_le_bytes())
        }
    }
    align(&mut out);
    let mut index = Vec::new();
    let table = out.len();
    for token in 0..=255_u8 {
        index.extend(((out.len() - table) as u16).to_le_bytes());
        match token {
            1 => out.extend(b"function_"),
            t if t.is_ascii_graphic() => out.push(t),
            _ => {}
        }
        out.push(0);
    }
    align(&mut out);
    out.extend(index);
    if behind {
        offsets(&mut out);
    }
    out.extend([0xcc; 4096]);
    (Flat { base: BASE, bytes: out }, symbols)
}

#[test]
fn the_layouts_of_all_kernels() {
    for (encoding, wide, behind) in [
        (Encoding::Absolute, true, false),
        (Encoding::Absolute, false, false),
        (Encoding::AbsolutePercpu, true, false),
        (Encoding::AbsolutePercpu, false, false),
        (Encoding::BaseRelative, false, true),
        (Encoding::PlaceRelative, false, true),
    ] {
        let (space, symbols) = piece(encoding, wide, behind);
        let range = [(VirtAddr(BASE), space.bytes.len() as u64)];
        for stext in [Some(STEXT), None] {
            let table = find_and_read(&space, &range, stext, false).unwrap();
            let found: Vec<(u64, String)> =
                table.iter().map(|s| (s.address, format!("{}{}", char::from(s.kind), s.name))).collect();
            assert!(found == symbols, "{encoding} {wide}");
            assert_eq!(table.origin(), "kallsyms in the dump (found by content)");
        }
        let why = find(&space, &range, Some(STEXT + 0x1000), false).unwrap_err();
        assert!(why.contains("no addresses give _stext"), "{why}");
    }
    let empty = Flat { base: BASE, bytes: vec![0; 8192] };
    assert!(
        find(&empty, &[(VirtAddr(BASE), 8192)], None, false).unwrap_err().contains("no kallsyms token table")
    );
}

#[test]
fn the_lab_kernels_without_their_vmcoreinfo() {
    for scenario in scenarios("qemu.elf") {
        let guest = Guest::open(&scenario);
        let named = Tables::from_lookup(&|name| guest.symbol(name)).unwrap();
        let stext = guest.symbol("_stext").unwrap();
        for stext_known in [Some(stext), None] {
            let start = std::time::Instant::now();
            let found = find(&guest, &[(VirtAddr(stext), 64 << 20)], stext_known, false).unwrap();
            eprintln!("{}: {:?}", scenario.display(), start.elapsed());
            assert_eq!(found, named);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn never_panics(noise in proptest::collection::vec((0_usize..60_000, any::<u8>()), 0..20), cut in 0_usize..60_000) {
        let (mut space, _) = piece(Encoding::AbsolutePercpu, false, false);
        space.bytes.truncate(cut.max(4096));
        for (at, byte) in noise {
            if let Some(to) = space.bytes.get_mut(at) { *to = byte; }
        }
        let _ = find_and_read(&space, &[(VirtAddr(BASE), 1 << 17), (VirtAddr(u64::MAX - 5000), 1 << 20)], None, false);
    }
}
