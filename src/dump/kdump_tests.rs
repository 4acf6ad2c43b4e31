//! kdump files made by a writer that shares nothing with the reader.
#![allow(clippy::cast_possible_truncation, reason = "sizes of test data")]

use std::collections::BTreeMap;
use std::io::Write;

use proptest::prelude::*;

use super::*;
use crate::bytes::source::InMemory;

/// What to do with a page: the machine has it, the dump leaves it out; or it is stored.
#[derive(Clone)]
enum Put {
    Left,
    Page(Box<[u8; 4096]>),
    /// Bytes, size and flags as they are.
    As(Vec<u8>, u32, u32),
    /// A descriptor of zeros.
    Lost,
}

#[derive(Clone)]
struct Writer {
    magic: &'static [u8; 8],
    version: u32,
    flags: u32,
    max_pfn: u64,
    pages: BTreeMap<u64, Put>,
    one_bitmap: bool,
    piece: Option<(u64, u64)>,
    status: u32,
}

fn put(v: &mut [u8], at: usize, bytes: &[u8]) {
    v[at..at + bytes.len()].copy_from_slice(bytes);
}

fn pattern(seed: u64) -> [u8; 4096] {
    std::array::from_fn(|i| ((i as u64 / 24).wrapping_mul(seed | 1) >> 3) as u8)
}

fn compress(flags: u32, page: &[u8]) -> Vec<u8> {
    match flags {
        0x1 => {
            let mut e = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
            e.write_all(page).unwrap();
            e.finish().unwrap()
        }
        0x2 => lzokay::compress::compress(page).unwrap(),
        0x4 => snap::raw::Encoder::new().compress_vec(page).unwrap(),
        0x20 => zstd::bulk::compress(page, 3).unwrap(),
        _ => page.to_vec(),
    }
}

impl Writer {
    fn new(flags: u32) -> Self {
        let mut pages = BTreeMap::new();
        for pfn in [0, 1, 5, 63, 64, 4095, 4096, 4097, 20_000] {
            pages.insert(pfn, Put::Page(Box::new(pattern(pfn + 3))));
        }
        for pfn in [2, 65, 19_999] {
            pages.insert(pfn, Put::Left);
        }
        Self {
            magic: b"KDUMP   ",
            version: 6,
            flags,
            max_pfn: 20_001,
            pages,
            one_bitmap: false,
            piece: None,
            status: 0,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let bitmap_blocks = self.max_pfn.div_ceil(8).div_ceil(4096);
        let all_blocks = bitmap_blocks * if self.one_bitmap { 1 } else { 2 };
        let mut f = vec![0; 4096 * (2 + all_blocks as usize)];
        put(&mut f, 0, self.magic);
        put(&mut f, 8, &self.version.to_le_bytes());
        put(&mut f, 12 + 2 * 65, b"6.1.0-test");
        put(&mut f, 12 + 4 * 65, b"x86_64");
        put(&mut f, 408, &1_700_000_000u64.to_le_bytes());
        put(&mut f, 424, &self.status.to_le_bytes());
        put(&mut f, 428, &4096u32.to_le_bytes());
        put(&mut f, 432, &1u32.to_le_bytes());
        put(&mut f, 436, &(all_blocks as u32).to_le_bytes());
        // Since version 6 this field is obsolete, and cut to 32 bits.
        let old_max = if self.version >= 6 { 7 } else { self.max_pfn as u32 };
        put(&mut f, 440, &old_max.to_le_bytes());
        put(&mut f, 4096, &(-0x20_0000i64).to_le_bytes());
        put(&mut f, 4096 + 8, &31u32.to_le_bytes());
        if let Some((start, end)) = self.piece {
            put(&mut f, 4096 + 12, &1u32.to_le_bytes());
            let at = if self.version >= 6 { 80 } else { 16 };
            put(&mut f, 4096 + at, &start.to_le_bytes());
            put(&mut f, 4096 + at + 8, &end.to_le_bytes());
        }
        if self.version >= 6 {
            put(&mut f, 4096 + 96, &self.max_pfn.to_le_bytes());
        }
        let second = if self.one_bitmap { 8192 } else { 8192 + 4096 * bitmap_blocks as usize };
        let mut stored = Vec::new();
        for (&pfn, page) in &self.pages {
            f[8192 + pfn as usize / 8] |= 1 << (pfn % 8);
            if !matches!(page, Put::Left) {
                f[second + pfn as usize / 8] |= 1 << (pfn % 8);
                if self.piece.is_none_or(|(start, end)| (start..end).contains(&pfn)) {
                    stored.push(page.clone());
                }
            }
            assert!(!(self.one_bitmap && matches!(page, Put::Left)));
        }
        let mut descriptor = f.len();
        f.resize(f.len() + stored.len() * 24, 0);
        for page in stored {
            let (bytes, size, flags) = match page {
                Put::Page(page) => {
                    let bytes = compress(self.flags, &*page);
                    let size = bytes.len() as u32;
                    (bytes, size, self.flags)
                }
                Put::As(bytes, size, flags) => (bytes, size, flags),
                Put::Lost | Put::Left => {
                    descriptor += 24;
                    continue;
                }
            };
            let offset = f.len() as u64;
            put(&mut f, descriptor, &offset.to_le_bytes());
            put(&mut f, descriptor + 8, &size.to_le_bytes());
            put(&mut f, descriptor + 12, &flags.to_le_bytes());
            descriptor += 24;
            f.extend(bytes);
        }
        f
    }
}

fn open(files: Vec<Vec<u8>>) -> Result<Vmcore> {
    let source = |(i, bytes)| Arc::new(InMemory::new(format!("piece{i}"), bytes)) as Arc<dyn Source>;
    open::vmcore(files.into_iter().enumerate().map(source).collect(), &Options::default())
}

fn refused(bytes: Vec<u8>) -> String {
    open(vec![bytes]).err().expect("an error").to_string()
}

fn page(dump: &Vmcore, pfn: u64) -> Result<[u8; 4096], ReadFault> {
    let mut page = [0xa5; 4096];
    assert_eq!(dump.read_phys(PhysAddr(pfn << 12), &mut page)?, 4096);
    Ok(page)
}

#[test]
fn every_codec_version_and_magic_reads_the_same() {
    for flags in [0, 1, 2, 4, 0x20] {
        for (magic, version) in (1..=6).map(|v| (b"KDUMP   ", v)).chain([(b"DISKDUMP", 2)]) {
            let w = Writer { magic, version, ..Writer::new(flags) };
            let dump = open(vec![w.bytes()]).unwrap();
            assert!(dump.is_partial());
            assert_eq!(dump.incomplete(), None);
            assert_eq!(dump.timestamp_hint(), Some(1_700_000_000));
            assert_eq!(dump.utsname_hint().unwrap().release, "6.1.0-test");
            let sub = magic == b"KDUMP   ";
            assert_eq!(dump.phys_base_hint(), sub.then_some(-0x20_0000));
            assert_eq!(dump.dump_level(), sub.then_some(31));
            for pfn in 0..20_010 {
                let expected = match w.pages.get(&pfn) {
                    Some(Put::Page(bytes)) => Ok(**bytes),
                    Some(_) => Err(ReadFault::Excluded { phys: pfn << 12 }),
                    None => Err(ReadFault::NoMemory { phys: pfn << 12 }),
                };
                assert!(page(&dump, pfn) == expected, "v{version} flags {flags} pfn {pfn}");
            }
            let mut few = [0; 100];
            assert_eq!(dump.read_phys(PhysAddr(5 * 4096 + 4090), &mut few).unwrap(), 6);
            assert_eq!(few[..6], pattern(8)[4090..]);
            assert_eq!(dump.read_phys(PhysAddr(0), &mut []), Ok(0));
            assert_eq!(
                dump.read_phys(PhysAddr(u64::MAX), &mut few),
                Err(ReadFault::NoMemory { phys: u64::MAX })
            );
        }
    }
    assert_eq!(open(vec![Writer::new(4).bytes()]).unwrap().format(), "kdump-compressed v6 (snappy)");
}

#[test]
fn memory_is_told_in_runs() {
    let dump = open(vec![Writer::new(0).bytes()]).unwrap();
    let p = |pfn: u64, n: u64| (PhysAddr(pfn << 12), n << 12);
    assert_eq!(dump.physical_ranges(), [p(0, 3), p(5, 1), p(63, 3), p(4095, 3), p(19_999, 2)]);
}

#[test]
fn with_one_bitmap_nothing_is_left_out() {
    let mut w = Writer { one_bitmap: true, ..Writer::new(1) };
    w.pages.retain(|_, p| !matches!(p, Put::Left));
    let dump = open(vec![w.bytes()]).unwrap();
    assert!(!dump.is_partial());
    assert_eq!(page(&dump, 4097), Ok(pattern(4100)));
    assert_eq!(page(&dump, 2), Err(ReadFault::NoMemory { phys: 0x2000 }));
}

#[test]
fn what_is_lost_or_damaged_says_which() {
    let mut w = Writer::new(0x20);
    let good = compress(0x20, &pattern(9));
    let size = good.len() as u32;
    let mut bad = good.clone();
    bad[0] ^= 0xff;
    for (pfn, put) in [
        (100, Put::As(bad, size, 0x20)),
        (101, Put::As(good.clone(), size, 0x40)),
        (102, Put::As(good.clone(), size, 0x21)),
        (103, Put::As(vec![0; 100], 100, 0)),
        (104, Put::As(vec![0; 9000], 9000, 0x20)),
        (105, Put::As(good.clone(), 0, 0x20)),
        (106, Put::As(good[..20].to_vec(), 20, 0x20)),
        (107, Put::Lost),
    ] {
        w.pages.insert(pfn, put);
    }
    let dump = open(vec![w.bytes()]).unwrap();
    for pfn in 100..107 {
        assert_eq!(page(&dump, pfn), Err(ReadFault::Corrupt { phys: pfn << 12 }), "{pfn}");
    }
    assert_eq!(page(&dump, 107), Err(ReadFault::Truncated { addr: 107 << 12 }));
    assert!(dump.incomplete().unwrap().contains("lacks 1 of its last pages: they were never written"));
    assert_eq!(page(&dump, 20_000), Ok(pattern(20_003)));
}

/// A page behind it is there: the file was not cut short.
#[test]
fn a_descriptor_that_points_nowhere_is_no_cut() {
    let mut bytes = Writer::new(0x20).bytes();
    // The third: pages are by frame.
    put(&mut bytes, 8192 + 2 * 4096 + 3 * 24, &(1u64 << 40).to_le_bytes());
    let dump = open(vec![bytes]).unwrap();
    assert!(dump.incomplete().unwrap().contains("lacks 1 of its last pages"), "{:?}", dump.incomplete());
}

/// Two bits of the bitmap that turned over near each other: the count is right, and no page between
/// them was asked when the dump was opened.
#[test]
fn a_page_that_says_that_it_is_another_is_not_served() {
    let stored = |pfn: &u64| pfn % 7 != 3;
    let dump = turned(stored, &[1015, 1053]);
    let page_of = telling;
    assert_eq!((dump.incomplete(), dump.trouble()), (None, None));
    let wrong = || (0..4000).filter(stored).filter(|&pfn| page(&dump, pfn).is_ok_and(|p| p != page_of(pfn)));
    assert!(wrong().count() < 3);
    assert_eq!(wrong().count(), 0, "not those either that were read before");
    let refused = (0..4000).filter(stored).filter(|&pfn| page(&dump, pfn).is_err());
    assert!(refused.count() < 10);
    assert!(dump.trouble().unwrap().contains("was found as pages were read"));
    assert!(dump.incomplete().unwrap().contains("which are lost; what is behind them was found by"));
}

/// Where nothing was left out, a bit that is not set can only be the wrong one; so can one that is, where
/// the machine has no memory.
#[test]
fn a_bit_that_is_the_only_one_to_be_wrong_is_turned_back() {
    let stored = |pfn: &u64| !(700..900).contains(pfn);
    for bits in [&[1016][..], &[1017], &[2000, 2002], &[3999], &[16]] {
        let dump = turned(stored, bits);
        let wrong = (0..4000).filter(stored).find(|&pfn| page(&dump, pfn) != Ok(telling(pfn)));
        assert_eq!(wrong, None, "{bits:?}");
        assert_eq!(dump.incomplete(), None, "{bits:?}");
        let said = format!("is wrong about page frame {:#x}", bits[0]);
        assert!(dump.trouble().unwrap().contains(&said), "{:?}", dump.trouble());
    }
    let dump = turned(|pfn| pfn % 7 != 3, &[1004 + 7 * 5]);
    assert!(dump.incomplete().unwrap().contains("which are lost"), "any page may have been left out");
}

/// Pages that are left out alone are common where a machine ran for a while.
#[test]
fn a_bit_that_was_added_among_set_ones_makes_no_page_another() {
    let made = |pfn: u64| if pfn.is_multiple_of(300) { telling(pfn) } else { pattern(pfn) };
    let stored = |pfn: &u64| pfn % 20 != 3;
    let dump = turned_of(stored, made, &[1003]);
    let wrong = (0..4000).filter(stored).find(|&pfn| page(&dump, pfn).is_ok_and(|page| page != made(pfn)));
    assert_eq!(wrong, None);
    assert!(dump.incomplete().unwrap().contains("0x385..0x4b0, which are lost"), "{:?}", dump.incomplete());
}

/// Too few pages tell their addresses, until the kernel says where all memory is mapped.
#[test]
fn pages_are_held_against_the_direct_map_of_the_kernel() {
    let made = |pfn: u64| if (1020..1040).contains(&pfn) { telling(pfn) } else { pattern(pfn) };
    let stored = |pfn: &u64| pfn % 7 != 3;
    let dump = turned_of(stored, made, &[1015, 1053]);
    assert_eq!(dump.direct_map_hint(), None);
    assert!(page(&dump, 1028) != Ok(made(1028)) && dump.trouble().is_none(), "nothing tells");
    dump.know_direct_map(DIRECT_MAP);
    assert_eq!(dump.direct_map_hint(), Some(DIRECT_MAP));
    let wrong = |dump: &Vmcore| {
        (0..4000).filter(stored).filter(|&pfn| page(dump, pfn).is_ok_and(|page| page != made(pfn))).count()
    };
    assert!((1..1010).all(|pfn| !stored(&pfn) || page(&dump, pfn).is_ok()));
    assert!(wrong(&dump) < 20);
    assert!(dump.trouble().unwrap().contains("was found as pages were read"));
    assert_eq!(wrong(&dump), 0);
}

const DIRECT_MAP: u64 = 0xffff_9234_4000_0000;

/// Every third page tells its address.
fn telling(pfn: u64) -> [u8; 4096] {
    let mut page = pattern(pfn);
    for at in [64, 1024].into_iter().filter(|_| pfn.is_multiple_of(3)) {
        let own = DIRECT_MAP + (pfn << 12) + at;
        put(&mut page, at as usize, &[own.to_le_bytes(), own.to_le_bytes()].concat());
    }
    page
}

/// A dump in whose second bitmap `bits` are wrong, of a machine of 4000 pages without those that are not `stored`.
fn turned(stored: impl Fn(&u64) -> bool, bits: &[usize]) -> Vmcore {
    turned_of(stored, telling, bits)
}

fn turned_of(stored: impl Fn(&u64) -> bool, made: impl Fn(u64) -> [u8; 4096], bits: &[usize]) -> Vmcore {
    let mut w = Writer::new(0x20);
    w.max_pfn = 4000;
    w.pages = (0..4000)
        .map(|pfn| (pfn, if stored(&pfn) { Put::Page(Box::new(made(pfn))) } else { Put::Left }))
        .collect();
    let mut bytes = w.bytes();
    for pfn in bits {
        bytes[8192 + 4096 + pfn / 8] ^= 1 << (pfn % 8);
    }
    open(vec![bytes]).unwrap()
}

/// What compression makes larger is stored so by libkdumpfile's makers of test files.
#[test]
fn a_page_may_be_larger_packed_than_it_is() {
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let noise: [u8; 4096] = std::array::from_fn(|_| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as u8
    });
    let packed = lzokay::compress::compress(&noise).unwrap();
    assert!(packed.len() > 4096);
    let mut w = Writer::new(2);
    w.pages.insert(100, Put::As(packed.clone(), packed.len() as u32, 2));
    assert!(page(&open(vec![w.bytes()]).unwrap(), 100) == Ok(noise));
}

#[test]
fn a_cut_file_keeps_its_front() {
    let w = Writer::new(1);
    let whole = w.bytes();
    let dump = open(vec![whole[..whole.len() - 1].to_vec()]).unwrap();
    assert_eq!(page(&dump, 4097), Ok(pattern(4100)));
    assert_eq!(page(&dump, 20_000), Err(ReadFault::Truncated { addr: 20_000 << 12 }));
    assert!(dump.incomplete().unwrap().contains("cut short"));
    // within the descriptors, within the second bitmap, within the first
    for cut in [4096 * 4 + 30, 4096 * 3 + 10, 8192 + 9] {
        let dump = open(vec![whole[..cut].to_vec()]).unwrap();
        assert!(dump.incomplete().is_some());
        assert_eq!(page(&dump, 4097), Err(ReadFault::Truncated { addr: 4097 << 12 }), "cut at {cut}");
        let _ = dump.physical_ranges();
    }
    let marked = open(vec![Writer { status: 8, ..w }.bytes()]).unwrap();
    assert!(marked.incomplete().unwrap().contains("marked incomplete"));
}

#[test]
fn pieces_make_one_dump_in_any_order_and_with_any_missing() {
    for version in [2, 6] {
        let w = Writer { version, ..Writer::new(2) };
        let piece = |start, end| Writer { piece: Some((start, end)), ..w.clone() }.bytes();
        let (a, b, c) = (piece(0, 60), piece(60, 4097), piece(4097, 20_001));
        let all = open(vec![c.clone(), a.clone(), b.clone()]).unwrap();
        assert_eq!(all.incomplete(), None);
        for (pfn, put) in &w.pages {
            let Put::Page(bytes) = put else { continue };
            assert!(page(&all, *pfn) == Ok(**bytes), "v{version} {pfn}");
        }
        let two = open(vec![a.clone(), c.clone()]).unwrap();
        assert_eq!(two.format(), format!("kdump-compressed v{version} (lzo, 2 pieces of a split dump)"));
        assert!(two.incomplete().unwrap().contains("0x3c..0x1001 was not given"), "{:?}", two.incomplete());
        assert_eq!(page(&two, 4097), Ok(pattern(4100)));
        assert_eq!(page(&two, 64), Err(ReadFault::OtherPiece { phys: 64 << 12 }));
        assert_eq!(page(&two, 65), Err(ReadFault::Excluded { phys: 65 << 12 }));
        assert_eq!(page(&two, 70), Err(ReadFault::NoMemory { phys: 70 << 12 }));
        let last = open(vec![c.clone()]).unwrap();
        assert_eq!(page(&last, 20_000), Ok(pattern(20_003)));
        assert_eq!(page(&last, 0), Err(ReadFault::OtherPiece { phys: 0 }));
        let twice = open(vec![a.clone(), a.clone()]).err().unwrap().to_string();
        assert!(twice.contains("piece1") && twice.contains("again, as in piece0"), "{twice}");
        let other = Writer { max_pfn: 20_002, piece: Some((60, 4097)), ..w.clone() }.bytes();
        assert!(open(vec![a.clone(), other]).err().unwrap().to_string().contains("another dump"));
    }
}

#[test]
fn headers_that_cannot_be_served_say_what_and_where() {
    let good = Writer::new(1).bytes();
    // QEMU 10 does not name the guest's machine.
    let mut unnamed = good.clone();
    put(&mut unnamed, 12 + 4 * 65, b"Unknown\0");
    assert!(open(vec![unnamed]).is_ok());
    let with = |at: usize, bytes: &[u8]| {
        let mut f = good.clone();
        put(&mut f, at, bytes);
        refused(f)
    };
    for (message, wanted) in [
        (with(428, &8192u32.to_le_bytes()), "block_size 4096"),
        (with(8, &0u32.to_le_bytes()), "header_version in 1..=6"),
        (with(8, &7u32.to_le_bytes()), "found 7"),
        (with(8, &6u32.to_be_bytes()), "big-endian"),
        (with(12 + 4 * 65, b"aarch64\0"), "aarch64"),
        (with(4096 + 96, &40_000_000u64.to_le_bytes()), "2 blocks for 0x2625a00 frames"),
        (with(436, &0u32.to_le_bytes()), "at least 1"),
        (with(432, &u32::MAX.to_le_bytes()), "sub_hdr_size"),
        (with(0, b"KDUMPED!"), "found `KDUMPED!`"),
        (with(0, b"PAGEDU64"), "a Windows crash dump"),
        (refused(good[..300].to_vec()), "464 bytes"),
        (refused(good[..5000].to_vec()), "sub-header"),
        (refused(vec![b'K']), "found `K`"),
    ] {
        assert!(message.contains(wanted), "{message}");
    }
    let mut old = good.clone();
    put(&mut old, 428, &0u32.to_le_bytes());
    put(&mut old, 416, &4096u32.to_le_bytes());
    assert!(refused(old).contains("32-bit"));
}

fn exercise(bytes: Vec<u8>) {
    let Ok(dump) = open(vec![bytes]) else { return };
    let _ = (dump.format(), dump.incomplete(), dump.physical_ranges());
    let mut buf = [0; 4096];
    for pfn in [0, 1, 2, 3, 64, 4096, 4097, 20_000, 20_001, 1 << 32, u64::MAX >> 12] {
        if let Ok(n) = dump.read_phys(PhysAddr(pfn << 12), &mut buf) {
            assert!((1..=4096).contains(&n));
        }
    }
}

proptest! {
    #[test]
    fn mutated_headers_are_survived(version in 1u32..=6, writes in proptest::collection::vec((0usize..560, prop_oneof![Just(0u64), Just(u64::MAX), 0..100_000u64, any::<u64>()]), 1..4), cut in 0usize..40_000) {
        let mut f = Writer { version, piece: Some((0, 20_001)), ..Writer::new(0x20) }.bytes();
        for (at, value) in writes {
            // the header's fields, the sub-header's, or the descriptors
            let at = match at { 0..400 => 100 + at, 400..500 => 4096 + at - 400, _ => 4096 * 4 + (at - 500) * 4 };
            put(&mut f, at, &value.to_le_bytes());
        }
        exercise(f.clone());
        f.truncate(cut);
        exercise(f);
    }
}
