//! The DWARF as gimli reads it, from the kernels' BTF and from anything.

#![allow(clippy::cast_possible_truncation, reason = "small sizes of the test itself")]

use gimli::{AttributeValue, EndianSlice, LittleEndian};
use proptest::prelude::*;

use super::*;
use crate::debuginfo::symbols::Builder;
use crate::debuginfo::vmlinux;
use crate::image::tests::nm;

type Slice<'a> = EndianSlice<'a, LittleEndian>;

fn read(dwarf: &Dwarf) -> gimli::Dwarf<Slice<'_>> {
    gimli::Dwarf::load(|id| -> Result<_, gimli::Error> {
        let found = dwarf.sections().into_iter().find(|(name, _)| *name == id.name());
        Ok(Slice::new(found.map_or(&[][..], |(_, b)| b), LittleEndian))
    })
    .unwrap()
}

/// Reads every DIE: each reference leads to one, each name is text. Returns how
/// many there are.
fn walk(dwarf: &Dwarf) -> usize {
    let read = read(dwarf);
    let mut units = read.units();
    let mut places = HashSet::new();
    let mut references = Vec::new();
    while let Some(header) = units.next().unwrap() {
        let unit = read.unit(header).unwrap();
        let here = |at: gimli::UnitOffset| at.to_debug_info_offset(&unit.header).unwrap();
        let mut entries = unit.entries();
        while let Some(entry) = entries.next_dfs().unwrap() {
            places.insert(here(entry.offset()));
            for attr in entry.attrs() {
                match attr.value() {
                    AttributeValue::UnitRef(to) => references.push(here(to)),
                    AttributeValue::DebugInfoRef(to) => references.push(to),
                    AttributeValue::DebugStrRef(at) => drop(read.string(at).unwrap().to_string().unwrap()),
                    _ => {}
                }
            }
        }
    }
    for to in references {
        assert!(places.contains(&to), "{to:?} is no DIE");
    }
    places.len()
}

#[test]
fn every_die_of_the_kernels_can_be_read() {
    for (release, path) in vmlinux::all() {
        let btf = Btf::parse(vmlinux::section(&path, ".BTF").unwrap().bytes, "BTF").unwrap();
        let symbols = nm(&path);
        let text = symbols.address("_text").unwrap()..symbols.address("_einittext").unwrap();
        let signal = [symbols.address("asm_exc_page_fault").map(|a| a + 5..a + 16).unwrap()];
        let input =
            Input { btf: &btf, symbols: &symbols, text: &text, signal_ranges: &signal, name: "vmlinux" };
        let dwarf = dwarf(&input);
        assert!(walk(&dwarf) > 200_000, "{release}");
        let known = globals::rows().flat_map(|(_, _, names)| names.split(' '));
        let there = known.filter(|name| symbols.by_name(name).is_some_and(|s| !s.is_text())).count();
        assert!(there > 1500, "{release}: {there} of the globals that are known");
        assert!(dwarf.len() < 8 << 20);
    }
}

#[test]
fn the_line_table_has_the_lengths_it_says() {
    let line = line_header("vmlinux");
    assert_eq!(u32::from_le_bytes(line[..4].try_into().unwrap()) as usize, line.len() - 4);
    assert_eq!(u32::from_le_bytes(line[6..10].try_into().unwrap()) as usize, line.len() - 10);
}

const SYMBOL: u64 = 0xffff_ffff_8100_0000;

type Record = (u8, u32, u32, bool, u32, Vec<u32>);

/// One record: name, kind and its number of elements, flag, size or type, words.
fn record() -> impl Strategy<Value = Record> {
    (0u8..12, 1u32..20, 0u32..6, any::<bool>(), 0u32..40, prop::collection::vec(0u32..40, 18))
}

/// BTF with sound framing and arbitrary contents.
fn bytes(records: &[Record], base_strings: u32) -> Vec<u8> {
    let mut strings = if base_strings == 0 { vec![0u8] } else { Vec::new() };
    let names: Vec<u32> = (0..12)
        .map(|i| {
            let at = base_strings + strings.len() as u32;
            strings.extend(format!("name{i}\0").bytes());
            at
        })
        .collect();
    let mut types = Vec::new();
    for (name, kind, n, flag, size, words) in records {
        let name = names.get(*name as usize).copied().unwrap_or(0) * u32::from(*name > 2);
        let count = match kind {
            1 | 14 | 17 => 1,
            3 => 3,
            4 | 5 | 15 | 19 => n * 3,
            6 | 13 => n * 2,
            _ => 0,
        };
        for w in [name, u32::from(*flag) << 31 | kind << 24 | n, *size] {
            types.extend(w.to_le_bytes());
        }
        for w in words.iter().take(count as usize) {
            types.extend(w.to_le_bytes());
        }
    }
    let mut out = vec![0x9f, 0xeb, 1, 0];
    for w in [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
        out.extend(w.to_le_bytes());
    }
    out.extend(types);
    out.extend(strings);
    out
}

proptest! {
    /// Types that contain themselves, lead nowhere, or make no sense: always
    /// DWARF that can be read.
    #[test]
    fn any_types_give_sound_dwarf(
        kernel in prop::collection::vec(record(), 0..40),
        module in prop::collection::vec(record(), 0..20),
        signal in prop::collection::vec((0u64..0x900, 1u64..0x80), 0..4),
    ) {
        let mut builder = Builder::new("t");
        for i in 0..12u64 {
            builder.push(SYMBOL + i * 0x80, 0, b'T', format!("name{i}").as_bytes());
        }
        let symbols = builder.finish();
        let text = SYMBOL..SYMBOL + 0x800;
        let mut signal: Vec<_> = signal.into_iter().map(|(at, len)| SYMBOL + at..SYMBOL + at + len).collect();
        signal.sort_by_key(|r| r.start);
        signal.dedup_by(|b, a| b.start < a.end);
        let kernel = bytes(&kernel, 0);
        let strings = crate::bytes::u32_at(&kernel, 20).unwrap();
        let kernel = std::sync::Arc::new(Btf::parse(kernel, "kernel").unwrap());
        let module = Btf::split(&kernel, bytes(&module, strings), "module").unwrap();
        for btf in [&*kernel, &module] {
            let input = Input { btf, symbols: &symbols, text: &text, signal_ranges: &signal, name: "n" };
            walk(&dwarf(&input));
        }
    }
}

/// Every type seems to hold every other: to look into all of them from each would
/// take days.
#[test]
fn types_that_all_hold_each_other_are_given_up() {
    const TYPES: u32 = 600;
    let members = |i: u32| (0..TYPES).flat_map(|j| [0, (i + j) % TYPES + 1, 0]).collect();
    let records: Vec<Record> = (0..TYPES).map(|i| (3, 4, TYPES, false, 8, members(i))).collect();
    let btf = Btf::parse(bytes(&records, 0), "kernel").unwrap();
    let symbols = Builder::new("t").finish();
    let text = SYMBOL..SYMBOL + 0x800;
    let input = Input { btf: &btf, symbols: &symbols, text: &text, signal_ranges: &[], name: "n" };
    assert!(dwarf(&input).is_empty());
}
