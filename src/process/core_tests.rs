//! Cores made here, byte by byte, by code that shares nothing with the parser.

use std::sync::Arc;

use gimli::UnwindContext;
use proptest::prelude::*;

use super::*;
use crate::arch::{Register, Registers};
use crate::bytes::source::InMemory;
use crate::debuginfo::cfi::Step;
use crate::elf::{PT_GNU_EH_FRAME, PT_LOAD, ProgramHeader};
use crate::process::rules::Rules;
use crate::process::{Options, Process, skeleton};

fn note(name: &str, kind: u32, desc: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let len = |n: usize| u32::try_from(n).unwrap();
    for word in [len(name.len()) + 1, len(desc.len()), kind] {
        out.extend(word.to_le_bytes());
    }
    for part in [[name.as_bytes(), b"\0"].concat(), desc.to_vec()] {
        out.extend(&part);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    out
}

fn prstatus(pid: u32, signal: u8) -> Vec<u8> {
    let mut desc = vec![0; 336];
    desc[12] = signal;
    desc[32..36].copy_from_slice(&pid.to_le_bytes());
    desc[112 + 16 * 8..112 + 17 * 8].copy_from_slice(&0x1000u64.to_le_bytes());
    note("CORE", 1, &desc)
}

/// `{start, end, page offset}` rows and names.
fn nt_file(count: u64, rows: &[(u64, u64, u64, &str)]) -> Vec<u8> {
    let mut desc = [count.to_le_bytes(), 4096u64.to_le_bytes()].concat();
    for (start, end, page, _) in rows {
        for word in [start, end, page] {
            desc.extend(word.to_le_bytes());
        }
    }
    rows.iter().for_each(|r| desc.extend([r.3.as_bytes(), b"\0"].concat()));
    note("CORE", 0x4649_4c45, &desc)
}

/// `{address, memory size, bytes}` of each segment, after the notes.
fn core(notes: &[u8], segments: &[(u64, u64, &[u8])], phnum: u16) -> Vec<u8> {
    let count = segments.len() + 1;
    let mut raw = b"\x7fELF\x02\x01\x01".to_vec();
    raw.resize(64, 0);
    raw[16] = 4;
    raw[18] = 62;
    raw[20] = 1;
    raw[32] = 64;
    raw[52] = 64;
    raw[54] = 56;
    raw[56..58].copy_from_slice(&phnum.to_le_bytes());
    let mut offset = (64 + 56 * count) as u64;
    let mut header = |kind: u32, vaddr: u64, filesz: u64, memsz: u64| {
        raw.extend([kind.to_le_bytes(), 6u32.to_le_bytes()].concat());
        for word in [offset, vaddr, 0, filesz, memsz, 4096] {
            raw.extend(word.to_le_bytes());
        }
        offset += filesz;
    };
    header(4, 0, notes.len() as u64, 0);
    segments.iter().for_each(|s| header(1, s.0, s.2.len() as u64, s.1));
    raw.extend(notes);
    segments.iter().for_each(|s| raw.extend(s.2));
    raw
}

fn parse(raw: Vec<u8>) -> Result<CoreFile> {
    CoreFile::parse(Path::new("core"), Arc::new(InMemory::new("core", raw)))
}

#[test]
fn segments_and_threads_are_found() {
    let notes = [prstatus(7, 11), prstatus(8, 0)].concat();
    let parsed = parse(core(&notes, &[(0x1000, 0x3000, &[1; 0x1000])], 2)).unwrap();
    assert_eq!(parsed.threads.iter().map(|t| (t.tid, t.signal)).collect::<Vec<_>>(), [(7, 11), (8, 0)]);
    assert_eq!((parsed.segments[0].end, parsed.segments[0].stored, parsed.lost), (0x4000, 0x1000, 0));
    assert!(parsed.complaints.is_empty());
}

#[test]
fn offsets_in_bytes_are_told_from_those_in_pages() {
    let files = |rows: &[(u64, u64, u64, &str)]| {
        let parsed =
            parse(core(&[prstatus(7, 11), nt_file(rows.len() as u64, rows)].concat(), &[], 1)).unwrap();
        parsed.files.iter().map(|f| f.offset).collect::<Vec<_>>()
    };
    let name = "/lib/x.so";
    let pages = [(0x1000, 0x3000, 0, name), (0x3000, 0x7000, 2, name), (0x7000, 0x8000, 6, name)];
    let bytes = [(0x1000, 0x3000, 0, name), (0x3000, 0x7000, 0x2000, name), (0x7000, 0x8000, 0x6000, name)];
    assert_eq!(files(&pages), [0, 0x2000, 0x6000]);
    assert_eq!(files(&bytes), [0, 0x2000, 0x6000]);
    // Where nothing tells, the note is believed.
    assert_eq!(files(&[(0x1000, 0x3000, 5, name)]), [0x5000]);
}

#[test]
fn a_core_of_another_system_is_refused_by_its_name() {
    let refused = |notes: &[u8]| parse(core(notes, &[], 1)).err().unwrap().to_string();
    let freebsd = refused(&note("FreeBSD", 1, &[0; 200]));
    assert!(freebsd.contains("a core of a process of FreeBSD"), "{freebsd}");
    let netbsd = refused(&note("NetBSD-CORE@1", 33, &[0; 200]));
    assert!(netbsd.contains("of NetBSD"), "{netbsd}");
    let mut raw = core(&prstatus(7, 11), &[], 1);
    (raw[4], raw[18]) = (1, 3);
    let narrow = parse(raw).err().unwrap().to_string();
    assert!(narrow.contains("32-bit") && narrow.contains("i386"), "{narrow}");
}

#[test]
fn memory_that_is_not_there_says_why() {
    let mut raw =
        core(&prstatus(7, 11), &[(0x1000, 0x3000, &[1; 0x1000]), (0x8000, 0x1000, &[2; 0x1000])], 3);
    raw.truncate(raw.len() - 0x800);
    let process = Process::new(parse(raw).unwrap(), &Options::default());
    let read = |addr: u64| {
        let mut buf = [0; 4];
        crate::memory::AddressSpace::read(process.memory(), crate::addr::VirtAddr(addr), &mut buf)
    };
    use crate::error::ReadFault;
    assert_eq!(read(0x1ffe), Ok(2));
    assert_eq!(read(0x2000), Err(ReadFault::NotInCore { addr: 0x2000 }));
    assert_eq!(read(0x8800), Err(ReadFault::Truncated { addr: 0x8800 }));
    assert_eq!(read(0x5000), Err(ReadFault::NoSegment { addr: 0x5000 }));
    assert_eq!(process.core().lost, 0x800);
}

#[test]
fn notes_that_lie_are_left_out_and_told() {
    let rows = [(0x1000, 0x2000, 0, "/lib/x.so")];
    for count in [2, 1 << 40, u64::MAX] {
        let parsed = parse(core(&[prstatus(7, 11), nt_file(count, &rows)].concat(), &[], 1)).unwrap();
        assert!(parsed.files.is_empty());
        assert!(
            parsed.complaints[0].contains(&format!("claims {count} mappings")),
            "{:?}",
            parsed.complaints
        );
    }
    assert_eq!(parse(core(&[prstatus(7, 11), nt_file(1, &rows)].concat(), &[], 1)).unwrap().files.len(), 1);
    // A descriptor larger than the segment, a thread that is none, a short PRSTATUS.
    let mut long = note("CORE", 6, &[0; 16]);
    long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    let parsed = parse(core(&[prstatus(7, 11), long].concat(), &[], 1)).unwrap();
    assert!(parsed.complaints[0].contains("malformed"), "{:?}", parsed.complaints);
    assert!(parse(core(&prstatus(0, 11), &[], 1)).is_err());
    assert!(parse(core(&note("CORE", 1, &[0; 100]), &[], 1)).is_err());
}

#[test]
fn more_segments_than_the_header_can_count() {
    let segments: Vec<(u64, u64, &[u8])> = (0..70_000u64).map(|i| (i << 13, 0x1000, &[][..])).collect();
    let mut raw = core(&prstatus(7, 11), &segments, 0xffff);
    // As truncation leaves it, without the section header that counts them.
    let parsed = parse(raw.clone()).unwrap();
    assert_eq!(parsed.segments.len(), 70_000);
    assert!(parsed.complaints[0].contains("70001 are assumed"), "{:?}", parsed.complaints);
    let shoff = raw.len() as u64;
    raw[40..48].copy_from_slice(&shoff.to_le_bytes());
    let mut section = [0; 64];
    section[44..48].copy_from_slice(&70_001u32.to_le_bytes());
    raw.extend(section);
    let parsed = parse(raw).unwrap();
    assert_eq!((parsed.segments.len(), parsed.complaints.len()), (70_000, 0));
}

#[test]
fn overlapping_and_wrapping_segments_do_no_harm() {
    let raw = core(
        &prstatus(7, 11),
        &[(0x1000, u64::MAX, &[1; 16]), (0x1800, 0x100, &[2; 16]), (u64::MAX, 1, &[3])],
        4,
    );
    let process = Process::new(parse(raw).unwrap(), &Options::default());
    let maps = crate::process::procfs::mappings(&process);
    assert!(maps.len() < 8, "{maps:?}");
    assert!(crate::process::procfs::smaps(&process).len() < 10_000);
}

/// Everything that is made of a core, once.
fn exercise(raw: Vec<u8>) {
    let Ok(parsed) = parse(raw) else { return };
    let process = Arc::new(Process::new(parsed, &Options::default()));
    for thread in process.threads().iter().take(4) {
        let _ = crate::process::unwind::stack(&process, thread, 16);
        let _ = crate::process::link_map::tls_address(&process, thread, 0, 0x1000);
    }
    let _ = process.link_map();
    let _ = process.explain(0x1000);
    for file in process.files().iter().take(4) {
        let _ = crate::process::verify::compare(&process, file, &|| false);
    }
    let _ = crate::process::procfs::cmdline(&process);
    let _ = crate::process::procfs::stat(&process);
    use crate::inferior::Inferior;
    let inferior = crate::inferior::process::ProcessInferior::new(Arc::clone(&process));
    for thread in inferior.threads() {
        inferior.registers(thread.tid);
        inferior.siginfo(thread.tid);
    }
    inferior.exec_file();
}

fn rich() -> Vec<u8> {
    let auxv: Vec<u8> = [3, 0x1040, 5, 2, 9, 0x1000, 25, 0x1800, 33, 0x9000, 0, 0]
        .iter()
        .flat_map(|w: &u64| w.to_le_bytes())
        .collect();
    let mut xsave = vec![0; 2696];
    xsave[464] = 0xe7;
    xsave[465] = 2;
    xsave[512] = 0xe7;
    let notes = [
        prstatus(7, 11),
        note("CORE", 3, &[b'x'; 136]),
        note("CORE", 0x5349_4749, &[11; 128]),
        note("CORE", 6, &auxv),
        nt_file(2, &[(0x1000, 0x2000, 0, "/nowhere/a"), (0x9000, 0xa000, 0, "/nowhere/b")]),
        note("CORE", 2, &[1; 512]),
        note("LINUX", 0x202, &xsave),
    ]
    .concat();
    let mut image = b"\x7fELF\x02\x01\x01".to_vec();
    image.resize(4096, 0);
    (image[16], image[18], image[32], image[54], image[56]) = (3, 62, 64, 56, 2);
    (image[64], image[64 + 56]) = (1, 2);
    core(&notes, &[(0x1000, 0x2000, &image), (0x9000, 0x1000, &image)], 3)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_bytes_make_it_panic(raw in proptest::collection::vec(any::<u8>(), 0..512)) {
        exercise(raw);
    }

    #[test]
    fn no_change_makes_it_panic(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..24), cut in any::<prop::sample::Index>(), whole in any::<bool>()) {
        let mut raw = rich();
        for (at, byte) in &changes {
            let at = at.index(raw.len());
            raw[at] = *byte;
        }
        if !whole {
            raw.truncate(cut.index(raw.len()));
        }
        exercise(raw);
    }

    #[test]
    fn no_header_makes_it_panic(changes in proptest::collection::vec((0usize..64 + 56 * 4, prop::sample::select(vec![0u8, 1, 0x7f, 0x80, 0xff])), 1..12)) {
        let mut raw = rich();
        for (at, byte) in changes {
            raw[at] = byte;
        }
        exercise(raw);
    }
}

/// Its end in the file is 8 bytes below the end of all numbers.
#[test]
fn a_program_without_an_end_in_its_file_has_no_skeleton() {
    let image = |offset: u64, filesz: u64| {
        let mut page = b"\x7fELF\x02\x01\x01".to_vec();
        page.resize(64, 0);
        (page[16], page[18], page[20], page[32], page[52], page[54], page[56]) = (3, 62, 1, 64, 64, 56, 2);
        for (offset, vaddr, filesz) in [(0u64, 0u64, 0x1000u64), (offset, 0x1000, filesz)] {
            page.extend([1u32.to_le_bytes(), 4u32.to_le_bytes()].concat());
            for word in [offset, vaddr, vaddr, filesz, 0x1000, 0x1000] {
                page.extend(word.to_le_bytes());
            }
        }
        page.resize(0x1000, 0);
        let rows = [(0x40_0000, 0x40_1000, 0, "/none/x"), (0x40_1000, 0x40_2000, 1, "/none/x")];
        let notes = [prstatus(7, 11), nt_file(2, &rows)].concat();
        let raw = core(&notes, &[(0x40_0000, 0x1000, &page), (0x40_1000, 0x1000, &[])], 3);
        Process::new(parse(raw).unwrap(), &Options::default())
    };
    let made =
        |process: Process| process.images().into_iter().find_map(|i| skeleton::of(&process, i)).is_some();
    assert!(made(image(0x1000, 0x1000)));
    assert!(!made(image(0xffff_ffff_ffff_f000, 0xff8)));
}

/// A million faults in the notes are told by a hundred sentences.
#[test]
fn complaints_have_an_end() {
    let mut notes = prstatus(7, 11);
    notes.extend(note("CORE", 1, &[1, 2, 3, 4]).repeat(5_000));
    let core =
        CoreFile::parse(Path::new("core"), Arc::new(InMemory::new("core", core(&notes, &[], 1)))).unwrap();
    assert_eq!(core.threads.len(), 1);
    assert_eq!(core.complaints.len(), 101);
    assert_eq!(core.complaints[100], "more is wrong with the notes, and not listed");
}

/// The table that finds an image's unwind rules comes from the core's memory.
#[test]
fn a_table_of_unwind_rules_that_lies_is_not_followed() {
    const AT: u32 = 0x40_0000;
    const FRAMES: u32 = AT + 0x100;
    const CODE: u32 = AT + 0x800;
    let relative = |to: u32, from: u32| to.wrapping_sub(from).to_le_bytes();
    // DWARF's words for: the caller's stack is 8 above `rsp`, its address right below.
    let cie = b"\x14\0\0\0\0\0\0\0\x01zR\0\x01\x78\x10\x01\x1b\x0c\x07\x08\x90\x01\0\0";
    let of_fde = FRAMES + 24;
    let parts: [&[u8]; 7] = [
        cie,
        &16u32.to_le_bytes(),
        &relative(of_fde + 4, FRAMES),
        &relative(CODE, of_fde + 8),
        &0x100u32.to_le_bytes(),
        &[0; 4],
        &[0; 4],
    ];
    let frames = parts.concat();
    // What one step finds where the entry is said to be at `entry`, and `count` is how many there are.
    let step = |entry: u32, count: (u8, &[u8])| {
        let row = [relative(CODE, AT), relative(entry, AT)].concat();
        let head = [&[1, 0x1b, count.0, 0x3b][..], &relative(FRAMES, AT + 4), count.1, &row].concat();
        let mut memory = head;
        memory.resize(0x100, 0);
        memory.extend(&frames);
        memory.resize(0x1000, 0);
        let raw = core(&prstatus(7, 11), &[(AT.into(), 0x1000, &memory)], 2);
        let process = Process::new(parse(raw).unwrap(), &Options::default());
        let load = ProgramHeader {
            kind: PT_LOAD,
            flags: 5,
            offset: 0,
            vaddr: AT.into(),
            paddr: 0,
            filesz: 0x1000,
            memsz: 0x1000,
            align: 0,
        };
        let table = ProgramHeader { kind: PT_GNU_EH_FRAME, filesz: 0x100, memsz: 0x100, ..load };
        let rules = Rules::read(&process, &[load, table], 0, None);
        let mut regs = Registers::default();
        regs.set(Register::Rsp, Some(0x7000));
        let pc = u64::from(CODE) + 4;
        let found = rules.step(&process, None, &mut UnwindContext::new(), &regs, pc, &mut |at| Some(at + 1));
        matches!(found, Step::To(caller, _) if caller.get(Register::Rip) == Some(0x7001))
    };
    let one = 1u32.to_le_bytes();
    assert!(step(of_fde, (3, &one)));
    assert!(!step(AT, (3, &one)), "before the rules");
    assert!(!step(0xffff_fff0, (3, &one)), "behind them");
    assert!(!step(of_fde, (0x0b, &[0xff; 4])), "-1 of them");
    assert!(!step(of_fde, (4, &[0xff; 8])), "2^64 of them");
}
