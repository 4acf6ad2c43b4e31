#![allow(clippy::single_range_in_vec_init, reason = "one hole")]
use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::debuginfo::vmlinux;

fn row(sp: i16, bp: i16, flags: u16) -> [u8; 6] {
    let [a, b] = sp.to_le_bytes();
    let [c, d] = bp.to_le_bytes();
    let [e, f] = flags.to_le_bytes();
    [a, b, c, d, e, f]
}

/// Two sections at 0x1000 from (address, row).
fn sections(rows: &[(u64, [u8; 6])]) -> (Vec<u8>, Vec<u8>) {
    let ip = rows.iter().enumerate().flat_map(|(i, (at, _))| {
        let here = 0x1000 + 4 * i as i64;
        i32::try_from(at.cast_signed() - here).unwrap().to_le_bytes()
    });
    (ip.collect(), rows.iter().flat_map(|(_, r)| *r).collect())
}

fn one(layout: Layout, r: [u8; 6]) -> OrcEntry {
    let (ip, entries) = sections(&[(0x2000, r)]);
    OrcTable::parse(layout, &ip, 0x1000, &entries, 0x2010, "t").unwrap().lookup(0x2000)
}

#[test]
fn each_layout_reads_its_flags() {
    let call = OrcEntry {
        sp_base: Base::Sp,
        sp_offset: 16,
        bp_base: Base::PrevSp,
        bp_offset: -16,
        kind: Kind::Call,
        signal: false,
    };
    assert_eq!(one(Layout::V4_14, row(16, -16, 0x015)), call);
    assert_eq!(one(Layout::V6_3, row(16, -16, 0x015)), call);
    assert_eq!(one(Layout::V6_4, row(16, -16, 0x215)), call);
    assert_eq!(one(Layout::V7_1, row(16, -16, 0x283)), call);

    let regs = OrcEntry { bp_base: Base::Undefined, bp_offset: 0, kind: Kind::Regs, signal: true, ..call };
    assert_eq!(one(Layout::V4_14, row(16, 0, 0x105)), regs);
    assert_eq!(one(Layout::V6_3, row(16, 0, 0x505)), regs);
    assert_eq!(one(Layout::V6_4, row(16, 0, 0xb05)), regs);
    assert_eq!(one(Layout::V6_4, row(16, 0, 0xc05)), OrcEntry { kind: Kind::RegsPartial, ..regs });

    for (layout, end) in [(Layout::V4_14, 0x400), (Layout::V6_3, 0x800), (Layout::V6_4, 0x100)] {
        assert_eq!(one(layout, row(0, 0, end)).kind, Kind::End, "{layout:?}");
        assert_eq!(one(layout, row(0, 0, 0)), OrcEntry::UNDEFINED, "{layout:?}");
        assert_eq!(one(layout, row(0, 0, 0xf)), OrcEntry::UNDEFINED, "{layout:?}");
    }
}

#[test]
fn a_header_that_is_not_known_is_refused() {
    assert_eq!(Layout::detect(None, Layout::V6_3).unwrap(), Layout::V6_3);
    assert!(Layout::detect(Some(&[7; 20]), Layout::V6_4).unwrap_err().to_string().contains("0707"));
}

#[test]
fn unsorted_rows_are_sorted_and_end_marks_yield() {
    let call = row(8, 0, 0x205);
    let (ip, entries) = sections(&[
        (0x3000, call),
        (0x2000, row(24, 0, 0x205)),
        (0x2800, row(0, 0, 0)),
        (0x3000, row(0, 0, 0)),
        (0x3800, row(0, 0, 0)),
    ]);
    let t = OrcTable::parse(Layout::V6_4, &ip, 0x1000, &entries, 0x3800, "t").unwrap();
    assert_eq!(t.lookup(0x2000).sp_offset, 24);
    assert_eq!(t.lookup(0x27ff).sp_offset, 24);
    assert_eq!(t.lookup(0x2800), OrcEntry::UNDEFINED);
    assert_eq!(t.lookup(0x3000).sp_offset, 8);
    assert_eq!(t.lookup(0x1fff), OrcEntry::UNDEFINED);
    assert_eq!(t.lookup(0x3800), OrcEntry::UNDEFINED);
    let ranges: Vec<_> = t.rows().map(|r| r.range).collect();
    assert_eq!(ranges, [0x2000..0x2800, 0x2800..0x3000, 0x3000..0x3800]);
}

#[test]
fn sections_that_do_not_match_are_refused() {
    let text = |ip: &[u8], e: &[u8]| OrcTable::parse(Layout::V6_4, ip, 0, e, 0, "t").unwrap_err().to_string();
    assert!(text(&[0; 8], &[0; 6]).contains("4 bytes of address for every 6 of entry, found 8 and 6"));
    assert!(text(&[0; 3], &[]).contains("found 3 and 0"));
}

#[test]
fn the_kernels_own() {
    for (release, path) in vmlinux::all() {
        let t = vmlinux::orc(&release, &path);
        assert!(t.starts.is_sorted());
        let mut kinds: HashMap<_, usize> = HashMap::new();
        let mut bases: HashMap<_, usize> = HashMap::new();
        for r in t.rows.iter().map(|r| unpack(*r)) {
            *kinds.entry(r.kind).or_default() += 1;
            *bases.entry(r.sp_base).or_default() += 1;
        }
        if release.starts_with("6.1.") {
            // Counted by a reader of its own (in Python).
            assert_eq!(t.len(), 368_456);
            assert_eq!((kinds[&Kind::Regs], kinds[&Kind::RegsPartial], kinds[&Kind::End]), (188, 778, 81));
            assert_eq!((bases[&Base::SpIndirect], bases[&Base::R10], bases[&Base::Sp]), (37, 228, 322_092));
        }
    }
}

proptest! {
    #[test]
    fn noise_never_panics(
        rows in prop::collection::vec((any::<i32>(), any::<[u8; 6]>()), 0..40),
        at in any::<u64>(), end in any::<u64>(), pc in any::<u64>(), layout in 0..4usize,
    ) {
        let layout = [Layout::V4_14, Layout::V6_3, Layout::V6_4, Layout::V7_1][layout];
        let ip: Vec<u8> = rows.iter().flat_map(|(d, _)| d.to_le_bytes()).collect();
        let entries: Vec<u8> = rows.iter().flat_map(|(_, r)| *r).collect();
        if let Ok(t) = OrcTable::parse(layout, &ip, at, &entries, end, "t") {
            let _ = t.lookup(pc);
            for r in t.rows() {
                prop_assert!(r.range.start < r.range.end);
                prop_assert_eq!(t.lookup(r.range.start), r.entry);
                prop_assert_eq!(t.lookup(r.range.end - 1), r.entry);
            }
        }
    }
}

#[test]
fn rows_of_a_lost_page_are_lost_and_no_others() {
    let all: Vec<_> = (0x2000..).step_by(16).zip((8..108).map(|sp| row(sp, 0, 0x205))).collect();
    let (ip, entries) = sections(&all);
    let whole = OrcTable::parse(Layout::V6_4, &ip, 0x1000, &entries, 0x2640, "t").unwrap();
    let holed = |ip_holes: &[Range<usize>], entry_holes: &[Range<usize>]| {
        let (mut ip, mut entries) = (ip.clone(), entries.clone());
        ip_holes.iter().for_each(|h| ip[h.clone()].fill(0));
        entry_holes.iter().for_each(|h| entries[h.clone()].fill(0));
        let text = 0x2000..0x2640;
        OrcTable::parse_holed(Layout::V6_4, (&ip, ip_holes), 0x1000, (&entries, entry_holes), text, "t")
            .unwrap()
    };
    let lost = |table: &OrcTable| {
        let lost: Vec<u64> = (0x2000..0x2640).filter(|&pc| table.is_lost(pc)).collect();
        for pc in (0x2000..0x2640).filter(|pc| !lost.contains(pc)) {
            assert_eq!(table.lookup(pc), whole.lookup(pc), "{pc:#x}");
        }
        lost
    };
    assert_eq!(lost(&whole).len(), 0);
    // Rules 10 to 19 (6 bytes each); a rule that is hit in part is lost.
    assert_eq!(lost(&holed(&[], &[61..119])), (0x20a0..0x2140).collect::<Vec<_>>());
    // Addresses 10 to 19 (4 bytes each): the row in front ends nobody knows where.
    assert_eq!(lost(&holed(&[40..80], &[])), (0x2091..0x2140).collect::<Vec<_>>());
    // The first and the last ones.
    assert_eq!(lost(&holed(&[0..40], &[])), (0x2000..0x20a0).collect::<Vec<_>>());
    assert_eq!(lost(&holed(&[360..400], &[])), (0x2591..0x2640).collect::<Vec<_>>());
}

#[test]
fn pages_of_others_among_the_addresses_are_found() {
    let all: Vec<_> = (0x20_0000..).step_by(16).map(|at| (at, row(8, 0, 0x205))).take(12_000).collect();
    let (ip, _) = sections(&all);
    let found = |ip: &[u8], holes: &[Range<usize>]| foreign(ip, holes, 0x1000);
    assert_eq!(found(&ip, &[]), None);
    for fill in [0x00, 0x41, 0xff] {
        let mut ip = ip.clone();
        ip[4096..8192].fill(fill);
        assert_eq!(found(&ip, &[]), Some(vec![4096..8192]), "{fill:#x}");
        assert_eq!(found(&ip, &[4096..8192]), None);
        ip[12288..12300].fill(0);
        assert_eq!(found(&ip, &[12288..12300]), Some(vec![4096..8192, 12288..12300]), "{fill:#x}");
        ip[16384..32768].fill(fill);
        assert_eq!(found(&ip, &[12288..12300]), None, "too many");
    }
    let mut last = ip.clone();
    last[40_960..45_056].fill(0x41);
    assert_eq!(found(&last, &[]), Some(vec![40_960..45_056]), "the one before the last");
    // Rows of the same table, which ascend, too.
    for (from, to) in [(8, 3), (3, 8), (5, 0), (0, 9)] {
        let mut ip = ip.clone();
        ip.copy_within(from * 4096..(from + 1) * 4096, to * 4096);
        assert_eq!(found(&ip, &[]), Some(vec![to * 4096..(to + 1) * 4096]), "{from} at {to}");
    }
    // Kernels before 5.6 are not sorted.
    let mut unsorted = all;
    unsorted.reverse();
    assert_eq!(found(&sections(&unsorted).0, &[]), None);
}
