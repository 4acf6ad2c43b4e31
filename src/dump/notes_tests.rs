#![allow(clippy::cast_possible_truncation, reason = "sizes of test data")]

use proptest::prelude::*;

use super::*;

fn note(name: &[u8], kind: u32, desc: &[u8]) -> Vec<u8> {
    let pad = |v: &mut Vec<u8>| v.resize(v.len().next_multiple_of(4), 0);
    let mut v = Vec::new();
    v.extend((name.len() as u32 + 1).to_le_bytes());
    v.extend((desc.len() as u32).to_le_bytes());
    v.extend(kind.to_le_bytes());
    v.extend(name);
    v.push(0);
    pad(&mut v);
    v.extend(desc);
    pad(&mut v);
    v
}

fn prstatus(pid: u32, rip: u64) -> Vec<u8> {
    let mut d = vec![0; 336];
    d[12..14].copy_from_slice(&11u16.to_le_bytes());
    d[32..36].copy_from_slice(&pid.to_le_bytes());
    d[112 + 16 * 8..][..8].copy_from_slice(&rip.to_le_bytes());
    d[112 + 26 * 8..][..8].copy_from_slice(&0x63u64.to_le_bytes());
    d
}

#[test]
fn a_deaf_cpus_zeros_do_not_hide_the_next_cpus_note() {
    let mut data = note(b"CORE", 1, &prstatus(7, 0x1111));
    data.extend([0; 120]);
    data.extend(note(b"CORE", 1, &prstatus(9, 0x2222)));
    data.extend(note(b"VMCOREINFO", 0, b"OSRELEASE=6.1\n\0\0\0"));
    let n = Notes::parse(&data);
    assert_eq!(
        n.prstatus.iter().map(|p| (p.pid, p.regs.get(Register::Rip))).collect::<Vec<_>>(),
        [(7, Some(0x1111)), (9, Some(0x2222))]
    );
    assert_eq!(n.prstatus[0].signal, 11);
    assert_eq!(n.prstatus[0].regs.get(Register::Gs), Some(0x63));
    assert_eq!(n.vmcoreinfo.as_deref(), Some(&b"OSRELEASE=6.1\n"[..]));
}

#[test]
fn a_lying_size_keeps_what_came_before() {
    let mut data = note(b"CORE", 1, &prstatus(7, 1));
    let mut bad = note(b"CORE", 1, &prstatus(8, 2));
    bad[4..8].copy_from_slice(&0xffff_ff00u32.to_le_bytes());
    data.extend(bad);
    assert_eq!(Notes::parse(&data).prstatus.len(), 1);
}

#[test]
fn a_qemu_note_is_read_by_its_size() {
    let mut d = vec![0; 440];
    d[0] = 1;
    d[4..8].copy_from_slice(&432u32.to_le_bytes());
    d[8..16].copy_from_slice(&0xaau64.to_le_bytes()); // rax
    d[8 + 16 * 8..][..8].copy_from_slice(&0xffff_ffff_8100_0000u64.to_le_bytes()); // rip
    d[152..156].copy_from_slice(&0x10u32.to_le_bytes()); // cs
    d[152 + 4 * 24 + 16..][..8].copy_from_slice(&0xffff_8880_0000_0000u64.to_le_bytes()); // gs base
    d[392 + 24..][..8].copy_from_slice(&0x1_2340_0000u64.to_le_bytes()); // cr3
    d[432..440].copy_from_slice(&0x7f00u64.to_le_bytes());
    let old = QemuCpu::parse(&d).unwrap();
    let regs = [Register::Rax, Register::Rip, Register::Cs, Register::GsBase].map(|r| old.regs.get(r));
    assert_eq!(regs, [0xaa, 0xffff_ffff_8100_0000, 0x10, 0xffff_8880_0000_0000].map(Some));
    assert_eq!((old.cr3, old.regs.get(Register::OrigRax)), (0x1_2340_0000, None));
    assert_eq!(old.kernel_gs_base, None);
    d[4..8].copy_from_slice(&440u32.to_le_bytes());
    assert_eq!(QemuCpu::parse(&d).unwrap().kernel_gs_base, Some(0x7f00));
    d[4..8].copy_from_slice(&400u32.to_le_bytes());
    assert_eq!(QemuCpu::parse(&d), None);
}

#[test]
fn the_same_vmcoreinfo_twice_counts_once_and_others_are_kept() {
    let mut n = Notes::default();
    n.add_vmcoreinfo(b"a=1\n");
    n.add_vmcoreinfo(b"a=1\n\0\0");
    n.add_vmcoreinfo(b"b=1\n");
    assert_eq!((n.vmcoreinfo.unwrap().len(), n.other_vmcoreinfos.len()), (4, 1));
}

proptest! {
    #[test]
    fn any_bytes_are_survived(data in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let total: usize = elf::notes(&data, 4).map(|n| n.name.len() + n.desc.len() + 12).sum();
        prop_assert!(total <= data.len() + 12);
        let _ = Notes::parse(&data);
        let _ = QemuCpu::parse(&data);
        let _ = PrStatus::parse(&data);
    }

    #[test]
    fn mutated_notes_are_survived(at in 0usize..1200, value in any::<u32>()) {
        let mut data = [note(b"CORE", 1, &prstatus(7, 1)), note(b"QEMU", 0, &[1; 440]), note(b"CORE", 1, &prstatus(8, 1))].concat();
        let at = at.min(data.len() - 4);
        data[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let _ = Notes::parse(&data);
    }
}
