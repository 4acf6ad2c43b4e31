#![allow(clippy::cast_possible_truncation, reason = "small sizes of the test itself")]
#![allow(clippy::single_range_in_vec_init, reason = "one hole")]

use proptest::prelude::*;

use super::*;
use crate::debuginfo::vmlinux;

/// Writes BTF records; shares nothing with the parser.
#[derive(Default)]
pub(crate) struct Records {
    types: Vec<u8>,
    strings: Vec<u8>,
    string_base: u32,
}

impl Records {
    pub(crate) fn new() -> Self {
        Self { strings: vec![0], ..Self::default() }
    }

    fn continuing(string_base: u32) -> Self {
        Self { string_base, ..Self::default() }
    }

    pub(crate) fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let at = self.string_base + self.strings.len() as u32;
        self.strings.extend(name.as_bytes());
        self.strings.push(0);
        at
    }

    pub(crate) fn record(&mut self, name: &str, info: u32, size: u32, words: &[u32]) {
        let name = self.name(name);
        for w in [name, info, size].iter().chain(words) {
            self.types.extend(w.to_le_bytes());
        }
    }

    pub(crate) fn finish(&self) -> Vec<u8> {
        let mut out = vec![0x9f, 0xeb, 1, 0];
        let types = self.types.len() as u32;
        for w in [24, 0, types, types, self.strings.len() as u32] {
            out.extend(w.to_le_bytes());
        }
        out.extend(&self.types);
        out.extend(&self.strings);
        out
    }
}

/// int; struct inner {int a; int b:3, c:5}; union with inner; struct outer.
fn sample() -> Vec<u8> {
    let mut w = Records::new();
    w.record("int", 1 << 24, 4, &[1 << 24 | 32]); // 1
    let (a, b, c) = (w.name("a"), w.name("b"), w.name("c"));
    // 2: bit-fields with kind_flag
    w.record("inner", 1 << 31 | 4 << 24 | 3, 8, &[a, 1, 0, b, 1, 3 << 24 | 32, c, 1, 5 << 24 | 35]);
    w.record("inner_t", 8 << 24, 2, &[]); // 3
    w.record("", 3 << 24, 0, &[3, 1, 4]); // 4: inner_t[4]
    let (x, arr) = (w.name("x"), w.name("arr"));
    w.record("", 5 << 24 | 2, 32, &[x, 1, 0, arr, 4, 0]); // 5: union
    let head = w.name("head");
    w.record("outer", 4 << 24 | 2, 40, &[head, 7, 0, 0, 5, 64]); // 6
    w.record("", 2 << 24, 6, &[]); // 7: struct outer *
    let (neg, big) = (w.name("NEG"), w.name("BIG"));
    w.record("signed_e", 1 << 31 | 6 << 24 | 1, 4, &[neg, 0xffff_fffe]); // 8
    w.record("big_e", 19 << 24 | 1, 8, &[big, 0, 0x8000_0000]); // 9
    w.finish()
}

#[test]
fn members_are_found_through_anonymous_unions() {
    let btf = Btf::parse(sample(), "sample").unwrap();
    assert_eq!(btf.size_of("struct outer"), Some(40));
    assert_eq!(btf.field("outer", "head"), Some(Field { offset: 0, size: 8, bits: None }));
    assert_eq!(btf.field("outer", "arr"), Some(Field { offset: 8, size: 32, bits: None }));
    assert_eq!(btf.array_len("outer", "arr"), Some(4));
    assert_eq!(btf.field("inner_t", "c"), Some(Field { offset: 4, size: 4, bits: Some((3, 5)) }));
    assert_eq!(btf.field("inner", "nope"), None);
    assert_eq!(btf.enumerator("NEG"), Some(-2));
    assert_eq!(btf.enumerator("BIG"), Some(i64::MIN));
}

#[test]
fn split_btf_continues_ids_and_strings() {
    let base_bytes = sample();
    let strings = u32_at(&base_bytes, 20).unwrap();
    let base = Arc::new(Btf::parse(base_bytes, "sample").unwrap());
    let mut w = Records::continuing(strings);
    let o = w.name("o");
    w.record("mine", 4 << 24 | 1, 40, &[o, 6, 0]);
    let split = Btf::split(&base, w.finish(), "module").unwrap();
    assert_eq!(split.own_ids(), 10..11);
    assert_eq!(split.field("mine", "o.arr"), Some(Field { offset: 8, size: 32, bits: None }));
    assert_eq!(split.size_of("inner"), Some(8));
    assert_eq!(split.enumerator("NEG"), Some(-2));
}

#[test]
fn a_type_that_contains_itself_ends() {
    let mut w = Records::new();
    w.record("t", 8 << 24, 1, &[]); // typedef of itself
    w.record("s", 4 << 24 | 2, 8, &[0, 2, 0, 0, 2, 0]); // two anonymous selves
    w.record("", 3 << 24, 0, &[3, 3, 9]); // array of itself
    let btf = Btf::parse(w.finish(), "loop").unwrap();
    assert_eq!(btf.size_of("t"), None);
    assert_eq!(btf.field("s", "x"), None);
    assert_eq!(btf.size(3), None);
}

#[test]
fn what_is_wrong_is_said() {
    let cut = sample();
    let text = |b: &[u8]| Btf::parse(b, "F").unwrap_err().to_string();
    assert_eq!(text(&[]), "F: malformed BTF at offset 0x0: expected a header of 24 bytes, found 0 bytes");
    assert!(text(&cut[..cut.len() - 1]).contains("strings inside the section"));
    let mut unknown = cut.clone();
    unknown[24 + 7] = 0x1f;
    assert!(text(&unknown).contains("a kind from 1 to 19, found 31"));
}

#[test]
fn the_kernels_own() {
    for (release, path) in vmlinux::all() {
        let btf = Btf::parse(vmlinux::section(&path, ".BTF").unwrap().bytes, &*release).unwrap();
        // What gdb says from the DWARF.
        let (size, pid, comm) =
            if release.starts_with("6.1.") { (9728, 2416, 2976) } else { (9792, 2432, 2976) };
        assert_eq!(btf.field("task_struct", "tasks").map(|f| f.size), Some(16), "{release}");
        assert_eq!(btf.size_of("list_head"), Some(16));
        assert_eq!(btf.size_of("pt_regs"), Some(168));
        assert_eq!(btf.field("pt_regs", "sp"), Some(Field { offset: 152, size: 8, bits: None }));
        assert_eq!(btf.array_len("task_struct", "comm"), Some(16));
        assert_eq!(btf.enumerator("MODULE_STATE_GOING"), Some(2));
        assert_eq!(
            (
                btf.size_of("task_struct").unwrap(),
                btf.field("task_struct", "pid").unwrap().offset,
                btf.field("task_struct", "comm").unwrap().offset
            ),
            (size, pid, comm),
            "{release}"
        );
    }
}

fn walk(btf: &Btf) {
    for t in btf.own_types() {
        let _ = (t.name(), t.size(), t.target(), t.array(), t.int(), btf.size(t.id));
        let _ = t.members().count() + t.enumerators().count() + t.params().count() + t.section_vars().count();
        for m in t.members().take(4) {
            let _ = btf.member(t.id, m.name);
        }
    }
    let _ = (btf.size_of("outer"), btf.field("outer", "nope"), btf.enumerator("nope"));
}

proptest! {
    #[test]
    fn mutated_input_never_panics(
        at in prop::collection::vec((0usize..400, any::<u8>()), 0..12), cut in 0usize..420
    ) {
        let mut bytes = sample();
        for (i, v) in at {
            if let Some(b) = bytes.get_mut(i) { *b = v; }
        }
        bytes.truncate(cut);
        if let Ok(btf) = Btf::parse(bytes.clone(), "p") { walk(&btf); }
        let base = Arc::new(Btf::parse(sample(), "p").unwrap());
        if let Ok(btf) = Btf::split(&base, bytes, "p") { walk(&btf); }
    }

    #[test]
    fn noise_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for (i, b) in [0x9f, 0xeb, 1, 0, 24, 0, 0, 0].into_iter().enumerate() {
            if let Some(at) = bytes.get_mut(i) { *at = b; }
        }
        if let Ok(btf) = Btf::parse(bytes, "p") { walk(&btf); }
    }
}

/// Real BTF of which pages are lost: what is known has its own number and its own name.
#[test]
fn types_behind_a_hole_keep_their_numbers() {
    for (release, path) in vmlinux::all() {
        let bytes = vmlinux::section(&path, ".BTF").unwrap().bytes;
        let whole = Btf::parse(&bytes[..], "whole").unwrap();
        let pages = bytes.len() / 4096;
        let several = vec![3, 4, 5, pages / 3, pages / 2, pages - 2];
        for lost in [vec![0], vec![pages / 5], several] {
            let mut left = bytes.clone();
            let holes: Vec<_> = lost.iter().map(|p| p * 4096..(p * 4096 + 4096).min(left.len())).collect();
            holes.iter().for_each(|hole| left[hole.clone()].fill(0));
            let btf = Btf::parse_holed(left, holes, "holed").unwrap();
            let known = btf.own_types().filter(|t| {
                let true_one = whole.get(t.id).unwrap();
                let same = (t.kind, t.size_or_type, t.name_off, t.extra)
                    == (true_one.kind, true_one.size_or_type, true_one.name_off, true_one.extra);
                assert!(same, "{release} without {lost:?}: {} is {:?}", t.id, true_one.name());
                assert!(t.name().is_empty() || t.name() == true_one.name());
                true
            });
            let all = whole.own_ids().len();
            let known = known.count();
            assert!(known + lost.len() * 342 >= all, "{release} without {lost:?}: {known} of {all}");
        }
    }
}

/// Real BTF with pages in whose place others stand: they are told from the sound ones.
#[test]
fn pages_of_others_are_found() {
    for (release, path) in vmlinux::all() {
        let bytes = vmlinux::section(&path, ".BTF").unwrap().bytes;
        assert_eq!(holed::foreign(&bytes, &[], 0), []);
        let pages = bytes.len() / 4096;
        let page = |p: usize| p * 4096 - 0x120..p * 4096 + 4096 - 0x120;
        for other in [vec![0; 4096], bytes[page(pages - 2)].to_vec(), bytes[page(pages / 3)].to_vec()] {
            let mut left = bytes.clone();
            let lost = [page(pages / 6), page(pages / 2)];
            lost.iter().for_each(|hole| left[hole.clone()].copy_from_slice(&other));
            assert_eq!(holed::foreign(&left, &[], 0xffff_ffff_8200_0120), lost, "{release}");
            assert_eq!(holed::foreign(&left, &lost[..1], 0x120), lost, "{release}");
            let btf = Btf::parse_holed(left, lost.to_vec(), "F").unwrap();
            let all = Btf::parse(&bytes[..], "whole").unwrap().own_ids().len();
            assert!(btf.own_types().count() + 2 * 342 >= all, "{release}");
        }
        let mut left = bytes.clone();
        left[..4096].fill(0x20);
        assert_eq!(holed::foreign(&left, &[], 0), [0..4096], "{release}");
    }
}

#[test]
fn a_hole_in_few_types_is_given_up() {
    // Too few references for a count: what lies in front is all.
    let bytes = sample();
    let btf = Btf::parse_holed(bytes, vec![60..80], "F").unwrap();
    assert_eq!(btf.size_of("int"), Some(4));
    assert_eq!(btf.size_of("struct outer"), None);
    assert_eq!(btf.own_types().count(), 1);
}
