//! Rules written here byte by byte.

use std::collections::HashMap;
use std::sync::Arc;

use object::write::Object;
use object::{Architecture, BinaryFormat, Endianness, SectionKind};

use super::*;
use crate::bytes::source::InMemory;

/// An entry of `.debug_frame`: length, CIE's offset or its mark, body padded with nops.
fn entry(id: u32, body: &[u8]) -> Vec<u8> {
    let mut body = [&id.to_le_bytes()[..], body].concat();
    body.resize(body.len().next_multiple_of(8), 0);
    [&u32::try_from(body.len()).unwrap().to_le_bytes()[..], &body].concat()
}

/// A module's file with these rules: functions of 0x20 bytes, each with its instructions.
pub(crate) fn file(functions: &[(u64, &[u8])]) -> Vmlinux {
    // Version 1, no augmentation, factors 1 and -8, return address in 16; then: the CFA is
    // rsp + 8, the return address at CFA - 8.
    let mut bytes = entry(u32::MAX, &[1, 0, 1, 0x78, 16, 0x0c, 7, 8, 0x90, 1]);
    for (start, instructions) in functions {
        let place = [start.to_le_bytes(), 0x20u64.to_le_bytes()].concat();
        bytes.extend(entry(0, &[&place[..], instructions].concat()));
    }
    let mut object = Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
    let section = object.add_section(Vec::new(), b".debug_frame".to_vec(), SectionKind::Debug);
    object.append_section_data(section, &bytes, 8);
    Vmlinux::from_source(Arc::new(InMemory::new("rules.ko", object.write().unwrap()))).unwrap()
}

fn caller(
    rules: &FrameRules,
    pc: u64,
    memory: &[(u64, u64)],
) -> Option<(Option<u64>, Option<u64>, Option<u64>)> {
    let memory: HashMap<u64, u64> = memory.iter().copied().collect();
    let regs = [(Rsp, 0x8000), (Rbp, 0x8800), (Rbx, 5)].into_iter().collect();
    match rules.step(&regs, pc, &mut |at| memory.get(&at).copied()) {
        Step::To(next, false) => {
            assert_eq!(next.get(Rbx), Some(5));
            Some((next.get(Rip), next.get(Rsp), next.get(Rbp)))
        }
        _ => None,
    }
}

#[test]
fn a_caller_is_found_by_the_row_of_its_pc() {
    // push rbp; sub rsp, 0x10. Then one whose CFA is in memory, as gcc realigns stacks.
    let pushed = [0x41, 0x0e, 16, 0x86, 2, 0x44, 0x0e, 32];
    let realigned = [0x0f, 3, 0x76, 0x78, 0x06];
    let rules = FrameRules::read(&file(&[(0x2000, &realigned), (0x1000, &pushed)]), &|_| 0).unwrap();
    let at = |pc, memory: &[(u64, u64)]| caller(&rules, pc, memory);
    assert_eq!(at(0x1000, &[(0x8000, 0x77)]), Some((Some(0x77), Some(0x8008), Some(0x8800))));
    assert_eq!(at(0x1001, &[(0x8000, 6), (0x8008, 0x77)]), Some((Some(0x77), Some(0x8010), Some(6))));
    assert_eq!(at(0x101f, &[(0x8010, 6), (0x8018, 0x77)]), Some((Some(0x77), Some(0x8020), Some(6))));
    let whole = [(0x87f8, 0x9000), (0x8ff8, 0x77)];
    assert_eq!(at(0x2010, &whole), Some((Some(0x77), Some(0x9000), Some(0x8800))));
    // Behind and between the functions, and where the stack is not in the dump.
    assert_eq!((at(0x1020, &whole), at(0xfff, &whole), at(0x2010, &[])), (None, None, None));
}

#[test]
fn damaged_rules_say_nothing() {
    let whole = file(&[(0x1000, &[0x41, 0x0e, 16]), (0x2000, &[0x41, 0x0e, 16])]);
    let bytes = whole.section_data(".debug_frame").unwrap().unwrap().into_owned();
    for at in 0..bytes.len() {
        for flip in [1, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            for exceptions in [false, true] {
                let rules = FrameRules::parse(damaged.clone(), exceptions, 0);
                let _ = caller_anywhere(&rules);
            }
        }
        assert!(FrameRules::parse(bytes[..at].to_vec(), false, 0).functions.len() < 2);
    }
}

fn caller_anywhere(rules: &FrameRules) -> usize {
    let regs = [(Rsp, 0x8000)].into_iter().collect();
    let step = |pc| rules.step(&regs, pc, &mut |_| Some(0x77));
    (0x1000..0x1020).filter(|&pc| matches!(step(pc), Step::To(..))).count()
}
