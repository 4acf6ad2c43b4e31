//! State files made by a writer that shares nothing with the reader.

use proptest::prelude::*;

use super::*;
use crate::addr::PhysAddr;
use crate::bytes::source::InMemory;

/// A number of an item, as `(name, indices, value)`.
type Item<'a> = (&'a str, &'a [u32], Vec<u8>);

fn item(out: &mut Vec<u8>, (name, indices, value): &Item<'_>) {
    out.push(u8::try_from(indices.len() << 6 | value.len()).unwrap());
    out.push(u8::try_from(name.len()).unwrap());
    out.extend(name.as_bytes());
    indices.iter().for_each(|i| out.extend(i.to_le_bytes()));
    out.extend(value);
}

fn block(out: &mut Vec<u8>, name: &str, indices: &[u32], value: &[u8], kind: u8) {
    out.push(u8::try_from(indices.len() << 6).unwrap() | kind);
    out.push(u8::try_from(name.len()).unwrap());
    out.extend(name.as_bytes());
    indices.iter().for_each(|i| out.extend(i.to_le_bytes()));
    out.extend((value.len() as u64).to_le_bytes());
    out.extend((value.len() as u64).to_le_bytes());
    out.extend([3, 0, 9, 9, 9]);
    out.extend(value);
}

fn word(n: u32) -> Vec<u8> {
    n.to_le_bytes().to_vec()
}

/// A state with these regions, two CPUs, and perhaps the memory.
fn state(regions: &[(u32, u32, u32)], memory: Option<(&[u8], u8)>) -> Vec<u8> {
    let mut of_memory = Vec::new();
    item(&mut of_memory, &("align_mask", &[0], word(0xffff)));
    item(&mut of_memory, &("regionsCount", &[], word(u32::try_from(regions.len()).unwrap())));
    for (i, &(page, frame, pages)) in (0..).zip(regions) {
        item(&mut of_memory, &("regionPageNum", &[i], word(page)));
        item(&mut of_memory, &("regionPPN", &[i], word(frame)));
        item(&mut of_memory, &("regionSize", &[i], word(pages)));
    }
    if let Some((bytes, kind)) = memory {
        block(&mut of_memory, "Memory", &[0], bytes, kind);
    }
    of_memory.extend([0, 0]);
    let mut of_cpu = Vec::new();
    item(&mut of_cpu, &("cpu:numVCPUs", &[], word(2)));
    for cpu in 0..2u32 {
        let general: Vec<u8> = (0..16).flat_map(|r| (u64::from(cpu) * 100 + r).to_le_bytes()).collect();
        block(&mut of_cpu, "gpregs", &[cpu], &general, 63);
        for (n, value) in [(0, 0x8005_0033), (3, 0x1234_5000 + u64::from(cpu)), (4, 0x6f0u64)] {
            item(&mut of_cpu, &("CR64", &[cpu, n], value.to_le_bytes().to_vec()));
        }
        block(
            &mut of_cpu,
            "IDTR",
            &[cpu],
            &[&[0xff, 0xf][..], &0xffff_fe00_0000_0000u64.to_le_bytes()].concat(),
            63,
        );
        item(&mut of_cpu, &("rip", &[cpu], 0xffff_ffff_8100_0042u64.to_le_bytes().to_vec()));
        item(&mut of_cpu, &("eflags", &[cpu], word(0x246)));
    }
    of_cpu.extend([0, 0]);
    let mut out = [0xbed2_bed2u32, 8, 3].map(u32::to_le_bytes).concat();
    let mut at = 12 + 3 * 80;
    for (name, data) in [("other", &vec![1; 10]), ("cpu", &of_cpu), ("memory", &of_memory)] {
        let mut row = name.as_bytes().to_vec();
        row.resize(64, 0);
        out.extend(row);
        out.extend((at as u64).to_le_bytes());
        out.extend((data.len() as u64).to_le_bytes());
        at += data.len();
    }
    [out, vec![1; 10], of_cpu, of_memory].concat()
}

/// A page whose bytes are its place in the file.
fn memory(pages: u8) -> Vec<u8> {
    (0..pages).flat_map(|n| [n; 4096]).collect()
}

fn source(name: &str, bytes: Vec<u8>) -> Arc<dyn Source> {
    Arc::new(InMemory::new(name, bytes))
}

fn none(path: &Path) -> Result<Arc<dyn Source>> {
    Err(Error::io("open", path, std::io::ErrorKind::NotFound.into()))
}

fn byte(dump: &Vmware, phys: u64) -> Option<u8> {
    let mut buf = [0; 1];
    dump.memory().read_phys(PhysAddr(phys), &mut buf).ok().map(|_| buf[0])
}

#[test]
fn regions_say_where_memory_lies() {
    let regions = [(0, 0, 4), (4, 0x10_0000, 6)];
    let open = |sources| Vmware::open(sources, none).unwrap();
    let (file, vmem) = (state(&regions, None), memory(10));
    for order in [[0, 1], [1, 0]] {
        let both = [source("a.vmss", file.clone()), source("a.vmem", vmem.clone())];
        let dump = open(order.map(|i| Arc::clone(&both[i])).to_vec());
        assert_eq!((byte(&dump, 0x3fff), byte(&dump, 0x4000)), (Some(3), None));
        assert_eq!((byte(&dump, 0x1_0000_0000), byte(&dump, 0x1_0000_5fff)), (Some(4), Some(9)));
        assert_eq!(
            dump.memory().physical_ranges(9),
            [(PhysAddr(0), 0x4000), (PhysAddr(0x1_0000_0000), 0x6000)]
        );
        assert_eq!((dump.incomplete(), dump.name().as_str()), (None, "VMware"));
    }
    // Regions without sizes reach to the next; memory in the state itself.
    let inside = open(vec![source("a.vmsn", state(&[(0, 0, 0), (4, 0x10_0000, 0)], Some((&vmem, 63))))]);
    assert_eq!((byte(&inside, 0x3fff), byte(&inside, 0x4000)), (Some(3), None));
    assert_eq!(byte(&inside, 0x1_0000_5fff), Some(9));
    let plain = open(vec![source("a.vmss", state(&[], None)), source("b", vmem)]);
    assert_eq!((byte(&plain, 0x9fff), byte(&plain, 0xa000)), (Some(9), None));
}

#[test]
fn registers_of_each_cpu_are_read() {
    let dump = Vmware::open(vec![source("a.vmss", state(&[], None)), source("b", memory(1))], none).unwrap();
    let notes = dump.notes();
    let got = |r| notes.prstatus[1].regs.get(r);
    assert_eq!(
        (got(Register::Rax), got(Register::Rbp), got(Register::Rsp)),
        (Some(100), Some(104), Some(105))
    );
    assert_eq!((got(Register::Rip), got(Register::Eflags)), (Some(0xffff_ffff_8100_0042), Some(0x246)));
    assert_eq!((got(Register::Cs), notes.prstatus[1].pid), (None, 2));
    let cpu = notes.qemu_cpus[1];
    assert_eq!(
        (cpu.cr0, cpu.cr3, cpu.cr4, cpu.idt.base),
        (0x8005_0033, 0x1234_5001, 0x6f0, 0xffff_fe00_0000_0000)
    );
}

#[test]
fn what_is_missing_or_compressed_is_said() {
    let refused = |sources: Vec<Arc<dyn Source>>| Vmware::open(sources, none).err().unwrap().to_string();
    assert!(refused(vec![source("a.vmss", state(&[], None))]).contains("no .vmem beside it"));
    assert!(refused(vec![source("a.vmss", state(&[], Some((&[1; 64], 62))))]).contains("compressed memory"));
    assert!(refused(vec![source("/x/a.vmem", memory(1))]).contains("--raw"));
    let mut old = state(&[], None);
    old[..4].copy_from_slice(&0xbed0_bed0u32.to_le_bytes());
    assert!(refused(vec![source("a.vmss", old)]).contains("vmss2core"));
}

proptest! {
    #[test]
    fn mutated_states_are_survived(at in any::<prop::sample::Index>(), to in any::<u32>(), cut in any::<prop::sample::Index>()) {
        let mut bytes = state(&[(0, 0, 4), (4, 0x10_0000, 6)], Some((&memory(10), 63)));
        let at = at.index(1200.min(bytes.len() - 4));
        bytes[at..at + 4].copy_from_slice(&to.to_le_bytes());
        if to % 3 == 0 {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(dump) = Vmware::open(vec![source("a.vmss", bytes), source("b", memory(10))], none) {
            let _ = (dump.notes(), dump.incomplete(), dump.memory().stored_ranges(4));
            for phys in [0, 0x3000, 0x1_0000_0000, u64::from(to) << 12] {
                let _ = byte(&dump, phys);
            }
        }
    }
}
