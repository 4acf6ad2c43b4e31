#![allow(clippy::cast_possible_truncation, clippy::print_stderr, reason = "test data")]
#![allow(clippy::single_range_in_vec_init, reason = "one hole")]

use proptest::prelude::*;

use super::*;
use crate::debuginfo::lab::{Flat, Guest, Holey, guest_kallsyms, scenarios};

const BASE: u64 = 0xffff_ffff_8200_0000;
const STEXT: u64 = 0xffff_ffff_8100_0000;

/// Lays out tables as `scripts/kallsyms.c` does, one token per character and a
/// few for pairs.
pub(crate) struct Image {
    bytes: Vec<u8>,
}

pub(crate) fn image(symbols: &[(u64, u8, &str)], encoding: Encoding, long: bool) -> (Flat, Tables) {
    let pairs = ["__", "st", "ex"];
    let mut out = Image { bytes: vec![0; 16] };
    let num_syms = out.put(&(symbols.len() as u32).to_le_bytes());
    let mut names = Vec::new();
    for &(_, kind, name) in symbols {
        let whole = [&[kind], name.as_bytes()].concat();
        let (mut code, mut rest) = (Vec::new(), &whole[..]);
        while let [first, tail @ ..] = rest {
            match pairs.iter().position(|p| rest.starts_with(p.as_bytes())) {
                Some(p) => {
                    code.push(0x80 + p as u8);
                    rest = &rest[2..];
                }
                None => {
                    code.push(*first);
                    rest = tail;
                }
            }
        }
        if long && code.len() > 127 {
            names.extend([(code.len() & 0x7f) as u8 | 0x80, (code.len() >> 7) as u8]);
        } else {
            names.push(u8::try_from(code.len()).unwrap());
        }
        names.extend(code);
    }
    let mut markers = Vec::new();
    let (mut at, mut rest) = (0u32, &names[..]);
    for number in 0..symbols.len() {
        if number % 256 == 0 {
            markers.extend(at.to_le_bytes());
        }
        let (len, prefix) = name_length(rest, long).unwrap();
        (at, rest) = (at + (len + prefix) as u32, &rest[len + prefix..]);
    }
    let names = out.put(&names);
    out.put(&markers);
    let (mut text, mut index) = (Vec::new(), Vec::new());
    for token in 0..=255_u8 {
        index.extend((text.len() as u16).to_le_bytes());
        match pairs.get(usize::from(token).wrapping_sub(0x80)) {
            Some(pair) => text.extend_from_slice(pair.as_bytes()),
            None if token.is_ascii_graphic() => text.push(token),
            None => {}
        }
        text.push(0);
    }
    let token_table = out.put(&text);
    let token_index = out.put(&index);
    let relative_base = out.put(&STEXT.to_le_bytes());
    let here = BASE + out.bytes.len().next_multiple_of(8) as u64;
    let mut offsets = Vec::new();
    let mut addresses = Vec::new();
    for (i, &(address, ..)) in symbols.iter().enumerate() {
        let value = match encoding {
            Encoding::Absolute => 0,
            Encoding::BaseRelative => address.wrapping_sub(STEXT) as u32,
            Encoding::AbsolutePercpu if address < 1 << 31 => address as u32,
            Encoding::AbsolutePercpu => (STEXT as i64 - 1 - address as i64) as u32,
            Encoding::PlaceRelative => (address.wrapping_sub(here + 4 * i as u64)) as u32,
        };
        offsets.extend(value.to_le_bytes());
        addresses.extend(address.to_le_bytes());
    }
    let absolute = encoding == Encoding::Absolute;
    let offsets = (!absolute).then(|| out.put(&offsets));
    let addresses = absolute.then(|| out.put(&addresses));
    let relative_base =
        (!matches!(encoding, Encoding::Absolute | Encoding::PlaceRelative)).then_some(relative_base);
    let tables = Tables { names, num_syms, token_table, token_index, addresses, offsets, relative_base };
    (Flat { base: BASE, bytes: out.bytes }, tables)
}

impl Image {
    fn put(&mut self, data: &[u8]) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        let at = BASE + self.bytes.len() as u64;
        self.bytes.extend_from_slice(data);
        at
    }
}

fn symbols(percpu: bool) -> Vec<(u64, u8, &'static str)> {
    let mut all =
        vec![(STEXT, b'T', "_stext"), (STEXT + 0x40, b't', "next_st"), (STEXT + 0x1234, b'D', "init_task")];
    if percpu {
        all.insert(0, (0x1000, b'A', "cpu_debug_store"));
    }
    all
}

fn listed(table: &SymbolTable) -> Vec<(u64, u8, &str)> {
    table.iter().map(|s| (s.address, s.kind, s.name)).collect()
}

#[test]
fn every_encoding_is_told_by_stext() {
    for (encoding, percpu) in [
        (Encoding::Absolute, true),
        (Encoding::BaseRelative, false),
        (Encoding::AbsolutePercpu, true),
        (Encoding::PlaceRelative, true),
    ] {
        let all = symbols(percpu);
        let (space, tables) = image(&all, encoding, true);
        for stext in [Some(STEXT), None] {
            let table = read(&space, &tables, stext, true).unwrap();
            assert_eq!(listed(&table), all, "{encoding}");
            assert_eq!(table.origin(), "kallsyms in the dump");
        }
        let refused = read(&space, &tables, Some(STEXT + 0x1000), true).unwrap_err();
        assert!(refused.contains("no known encoding"), "{refused}");
    }
}

#[test]
fn long_names_are_told_by_what_decodes() {
    let name = "a".repeat(200);
    let mut all = symbols(false);
    all.push((STEXT + 0x2000, b't', &name));
    all.push((STEXT + 0x3000, b't', "after"));
    for long in [false, true] {
        let (space, tables) = image(&all, Encoding::BaseRelative, long);
        for hint in [false, true] {
            assert_eq!(listed(&read(&space, &tables, Some(STEXT), hint).unwrap()), all, "{long} {hint}");
        }
    }
}

#[test]
fn an_odd_kind_does_not_end_the_table() {
    let mut all = symbols(false);
    all.push((STEXT + 0x2000, b'?', "__nosave_begin"));
    all.push((STEXT + 0x3000, b't', "after"));
    let (space, tables) = image(&all, Encoding::BaseRelative, true);
    assert_eq!(listed(&read(&space, &tables, Some(STEXT), true).unwrap()), all);
}

#[test]
fn what_precedes_a_lost_page_is_kept() {
    let names: Vec<String> = (0..2000).map(|i| format!("function_{i}")).collect();
    let mut all = symbols(false);
    all.extend(names.iter().enumerate().map(|(i, n)| (STEXT + 0x2000 + i as u64 * 16, b't', n.as_str())));
    let (mut space, tables) = image(&all, Encoding::BaseRelative, true);
    let keep = (tables.offsets.unwrap() - BASE) as usize + 4 * 500;
    space.bytes.truncate(keep);
    let table = read(&space, &tables, Some(STEXT), true).unwrap();
    assert_eq!(listed(&table), all[..500]);
    assert!(table.origin().contains("500 of 2003"), "{}", table.origin());
    // A name table that turns to garbage: the next block is whole again.
    let (mut space, tables) = image(&all, Encoding::BaseRelative, true);
    let from = (tables.names - BASE) as usize + 4000;
    space.bytes[from..from + 100].fill(0);
    let table = read(&space, &tables, Some(STEXT), true).unwrap();
    let named = listed(&table);
    assert!(named.len() > 1700 && named.len() < 2000, "{}", named.len());
    assert!(table.origin().contains("does not decode"), "{}", table.origin());
}

/// Whatever page is lost: what is named is named right, and next to nothing else is lost.
#[test]
fn names_and_addresses_go_on_behind_a_lost_page() {
    let names: Vec<String> = (0..4000).map(|i| format!("function_{}_{i}", i * 7919 % 1000)).collect();
    let mut all = symbols(false);
    all.extend(names.iter().enumerate().map(|(i, n)| (STEXT + 0x2000 + i as u64 * 16, b't', n.as_str())));
    for encoding in [Encoding::BaseRelative, Encoding::PlaceRelative, Encoding::Absolute] {
        let (space, tables) = image(&all, encoding, true);
        let end = BASE + space.bytes.len() as u64;
        for page in (BASE..end).step_by(4096) {
            let lost = vec![page..page + 4096];
            let holes = |at: u64, len: u64| at < page + 4096 && page < at + len;
            let holey = Holey { space: &space, lost };
            // Without its tokens no name can be read.
            if holes(tables.token_table, 256) || holes(tables.num_syms, 4) {
                continue;
            }
            let table = read(&holey, &tables, Some(STEXT), true).unwrap();
            let known = listed(&table);
            assert!(known.iter().all(|symbol| all.contains(symbol)), "{encoding} {page:#x}");
            assert!(known.len() + 1300 > all.len(), "{encoding} {page:#x}: {}", known.len());
            assert_eq!(known.len() < all.len(), table.lacks_names(), "{encoding} {page:#x}");
            // A lost one is not named by its neighbour.
            for (address, _, name) in all.iter().filter(|(at, ..)| *at > STEXT + 0x2000) {
                if let Some((symbol, 0)) = table.by_address(*address) {
                    assert_eq!(symbol.name, *name);
                } else {
                    assert_eq!(table.by_address(*address + 2), None, "{name}");
                }
            }
        }
    }
}

#[test]
fn the_name_of_stext_may_be_lost() {
    let names: Vec<String> = (0..2000).map(|i| format!("function_{i}")).collect();
    for encoding in
        [Encoding::BaseRelative, Encoding::AbsolutePercpu, Encoding::PlaceRelative, Encoding::Absolute]
    {
        let mut all = symbols(encoding == Encoding::AbsolutePercpu);
        all.extend(names.iter().enumerate().map(|(i, n)| (STEXT + 0x2000 + i as u64 * 16, b't', n.as_str())));
        let (space, tables) = image(&all, encoding, true);
        let holey = Holey { space: &space, lost: vec![tables.names..tables.names + 64] };
        let table = read(&holey, &tables, Some(STEXT), true).unwrap();
        let known = listed(&table);
        assert!(known.iter().all(|symbol| all.contains(symbol) && symbol.2 != "_stext"), "{encoding}");
        assert!(known.len() > 1400 && table.lacks_names(), "{encoding}: {}", known.len());
        // Where the kernel starts is then not known, either.
        assert!(read(&holey, &tables, None, true).unwrap_err().contains("bytes are lost"), "{encoding}");
    }
}

#[test]
fn tables_tell_what_the_lost_page_of_another_held() {
    let all = symbols(true);
    let (space, mut tables) = image(&all, Encoding::AbsolutePercpu, true);
    let lost = |at: u64, len: u64| {
        let holey = Holey { space: &space, lost: vec![at..at + len] };
        let table = read(&holey, &tables, Some(STEXT), true);
        table.map(|table| listed(&table).iter().map(|s| s.2.to_owned()).collect::<Vec<_>>())
    };
    let names: Vec<_> = all.iter().map(|s| s.2).collect();
    // Where each token begins is told by the tokens, the base by `_stext`.
    assert_eq!(lost(tables.token_index, 512).unwrap(), names);
    assert_eq!(lost(tables.relative_base.unwrap(), 8).unwrap(), names);
    assert!(lost(tables.num_syms, 4).unwrap_err().contains("kallsyms_num_syms cannot be read"));
    // How many there are, by what lies behind the offsets (since 6.4).
    let offsets = tables.offsets.unwrap();
    tables.relative_base = Some(offsets + 4 * all.len() as u64);
    let base = (tables.relative_base.unwrap() - BASE) as usize;
    let mut space = Flat { base: BASE, bytes: space.bytes.clone() };
    space.bytes.resize(base, 0);
    space.bytes.extend(STEXT.to_le_bytes());
    let holey = Holey { space: &space, lost: vec![tables.num_syms..tables.num_syms + 4] };
    assert_eq!(listed(&read(&holey, &tables, Some(STEXT), true).unwrap()), all);
}

/// Without tokens there are no names, and functions begin where they do.
#[test]
fn without_tokens_there_are_addresses() {
    for encoding in [Encoding::BaseRelative, Encoding::AbsolutePercpu, Encoding::PlaceRelative] {
        let all = symbols(encoding == Encoding::AbsolutePercpu);
        let (space, tables) = image(&all, encoding, true);
        let holey = Holey { space: &space, lost: vec![tables.token_table..tables.token_table + 64] };
        let table = read(&holey, &tables, Some(STEXT), true).unwrap();
        assert!(table.lacks_names() && table.iter().next().is_none(), "{encoding}");
        for &(address, ..) in all.iter().filter(|s| s.0 >= STEXT) {
            assert_eq!(table.start_of(address), Some(address), "{encoding}");
        }
        // What VMCOREINFO names has its name again.
        let table = table.and([("_stext", STEXT)]);
        assert_eq!(table.by_address(STEXT).map(|(s, _)| s.name), Some("_stext"), "{encoding}");
        assert!(read(&holey, &tables, None, true).unwrap_err().contains("token_table cannot be read"));
    }
}

/// Where the page of another stands in the place of the tokens' no name is made of it.
#[test]
fn tokens_of_another_page_name_nothing() {
    let all = symbols(true);
    let (sound, tables) = image(&all, Encoding::AbsolutePercpu, true);
    let with = |at: u64, len: usize, other: &[u8]| {
        let mut bytes = sound.bytes.clone();
        let from = (at - BASE) as usize;
        bytes[from..from + len].iter_mut().zip(other.iter().cycle()).for_each(|(to, from)| *to = *from);
        read(&Flat { base: BASE, bytes }, &tables, Some(STEXT), true).unwrap()
    };
    let text = (tables.token_index - tables.token_table) as usize;
    for other in [&b"lear\0"[..], b"sched_process_exit\0", &[0], &[0xff]] {
        let table = with(tables.token_table, text, other);
        assert!(table.lacks_names() && table.iter().next().is_none(), "{other:x?}");
        assert_eq!(table.start_of(STEXT), Some(STEXT));
        let table = with(tables.token_table, text + 512, other);
        assert!(table.lacks_names() && table.iter().next().is_none(), "{other:x?}");
        assert_eq!(listed(&with(tables.token_index, 512, other)), all, "{other:x?}");
    }
}

#[test]
fn a_count_from_a_hostile_dump_is_refused() {
    let (mut space, tables) = image(&symbols(false), Encoding::BaseRelative, true);
    let at = (tables.num_syms - BASE) as usize;
    space.bytes[at..at + 4].fill(0xff);
    assert!(read(&space, &tables, None, false).unwrap_err().contains("not a number of symbols"));
}

#[test]
fn the_guests_own_list_is_read_back() {
    for scenario in scenarios("qemu.elf") {
        let guest = Guest::open(&scenario);
        let tables = Tables::from_lookup(&|name| guest.symbol(name)).unwrap();
        let stext = guest.symbol("_stext");
        let took = (0..5)
            .map(|_| {
                let start = std::time::Instant::now();
                read(&guest, &tables, stext, true).unwrap();
                start.elapsed()
            })
            .min()
            .unwrap();
        let table = read(&guest, &tables, stext, true).unwrap();
        let mut ours: Vec<_> = table.iter().map(|s| (s.address, s.kind, s.name.to_owned())).collect();
        // The guest also lists the ftrace trampolines and BPF programs of the moment.
        let mut theirs = guest_kallsyms(&scenario);
        // Of one address the kernel prints the name that stands first. Ours is the
        // same, but for a few static functions that also have a global name.
        let differ = theirs
            .windows(2)
            .map(|pair| (pair[0].0, &pair[1]))
            .filter(|(before, first)| *before != first.0)
            .filter(|(_, first)| table.by_address(first.0).unwrap().0.name != first.2)
            .count();
        assert!(differ * 1000 < theirs.len(), "{differ}");
        ours.sort();
        theirs.sort();
        assert_eq!(ours.len(), theirs.len(), "{}", scenario.display());
        assert!(ours == theirs, "{}", scenario.display());
        let start = std::time::Instant::now();
        let task = table.address("init_task").unwrap();
        eprintln!(
            "{}: {} symbols in {took:?}, index {:?}, {} KiB, init_task {task:#x}",
            scenario.display(),
            table.len(),
            start.elapsed(),
            table.memory() >> 10
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn never_panics(
        mut noise in proptest::collection::vec((0_usize..4000, any::<u8>()), 0..60),
        starts in proptest::collection::vec(0_u64..5000, 7),
        real in any::<bool>(),
        cut in 0_usize..6000,
    ) {
        let names: Vec<String> = (0..60).map(|i| format!("f_{i}")).collect();
        let mut all = symbols(false);
        all.extend(names.iter().map(|n| (STEXT, b't', n.as_str())));
        let (mut space, mut tables) = image(&all, Encoding::AbsolutePercpu, true);
        if !real {
            let at = |i: usize| BASE + starts[i];
            tables = Tables { names: at(0), num_syms: at(1), token_table: at(2), token_index: at(3),
                addresses: Some(at(4)), offsets: Some(at(5)), relative_base: Some(u64::MAX - starts[6]) };
        }
        space.bytes.truncate(cut);
        noise.retain(|(at, _)| *at < space.bytes.len());
        for (at, byte) in noise { space.bytes[at] = byte; }
        let _ = read(&space, &tables, None, true);
        let _ = read(&space, &tables, Some(STEXT), false);
    }
}
