//! Streams made by a writer that shares nothing with the reader.

use std::io::Write;

use proptest::prelude::*;

use super::*;
use crate::arch::Register;
use crate::bytes::source::InMemory;

/// What is sent of a page.
#[derive(Clone, Copy)]
enum Sent {
    Page(u8),
    Fill(u8),
    Zlib(u8),
}

fn name(out: &mut Vec<u8>, name: &str) {
    out.push(u8::try_from(name.len()).unwrap());
    out.extend(name.as_bytes());
}

fn section(out: &mut Vec<u8>, kind: u8, id: u32, named: Option<(&str, u32)>) {
    out.push(kind);
    out.extend(id.to_be_bytes());
    if let Some((text, instance)) = named {
        name(out, text);
        out.extend(instance.to_be_bytes());
        out.extend(4u32.to_be_bytes());
    }
}

fn head(machine: &str, capabilities: &[&str]) -> Vec<u8> {
    let mut out = b"QEVM\0\0\0\x03\x07".to_vec();
    out.extend(u32::try_from(machine.len()).unwrap().to_be_bytes());
    out.extend(machine.as_bytes());
    if !capabilities.is_empty() {
        out.push(5);
        name(&mut out, "configuration/capabilities");
        out.extend(1u32.to_be_bytes());
        out.extend(u32::try_from(capabilities.len()).unwrap().to_be_bytes());
        capabilities.iter().for_each(|c| name(&mut out, c));
    }
    out
}

/// Memory of `blocks`; pages as `(block, page, what)`.
fn memory(out: &mut Vec<u8>, blocks: &[(&str, u64)], pages: &[(&str, u64, Sent)]) {
    section(out, 1, 2, Some(("ram", 0)));
    out.extend((blocks.iter().map(|b| b.1).sum::<u64>() | 4).to_be_bytes());
    for (text, len) in blocks {
        name(out, text);
        out.extend(len.to_be_bytes());
    }
    out.extend(0x10u64.to_be_bytes());
    out.push(0x7e);
    out.extend(2u32.to_be_bytes());
    section(out, 3, 2, None);
    let mut last = "";
    for &(block, page, sent) in pages {
        let same = if block == last { 0x20 } else { 0 };
        let kind = match sent {
            Sent::Page(_) => 8,
            Sent::Fill(_) => 2,
            Sent::Zlib(_) => 0x100,
        };
        out.extend((page << 12 | kind | same).to_be_bytes());
        if same == 0 {
            name(out, block);
        }
        last = block;
        match sent {
            Sent::Page(byte) => out.extend([byte; 4096]),
            Sent::Fill(byte) => out.push(byte),
            Sent::Zlib(byte) => {
                let mut to = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
                to.write_all(&[byte; 4096]).unwrap();
                let data = to.finish().unwrap();
                out.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
                out.extend(data);
            }
        }
    }
    out.extend(0x10u64.to_be_bytes());
    out.push(0x7e);
    out.extend(2u32.to_be_bytes());
}

/// A device of no interest, two CPUs, the end, and the description of them.
fn devices(out: &mut Vec<u8>) {
    section(out, 4, 7, Some(("timer", 0)));
    out.extend([0xaa; 24]);
    out.push(5);
    name(out, "timer/icount");
    out.extend(1u32.to_be_bytes());
    out.extend([1; 8]);
    for cpu in 0..2u32 {
        section(out, 4, 10 + cpu, Some(("cpu", cpu)));
        for register in 0..16u64 {
            out.extend((register + 100 * u64::from(cpu)).to_be_bytes());
        }
        out.extend(0xffff_ffff_8100_0042u64.to_be_bytes());
        out.extend(0x246u64.to_be_bytes());
        for segment in 0..7u32 {
            out.extend((segment * 8).to_be_bytes());
            out.extend((0x1000 + u64::from(segment)).to_be_bytes());
            out.extend([0xff; 8]);
        }
        for control in [0x8005_0033u64, 0x1234_5000] {
            out.extend(control.to_be_bytes());
        }
    }
    out.push(0);
    let cpu = |n: u32| {
        format!(
            r#"{{"name":"cpu","instance_id":{n},"vmsd_name":"cpu","version":12,"fields":[
{{"name":"env.regs","array_len":16,"type":"uint64","size":8}},{{"name":"env.eip","type":"uint64","size":8}},
{{"name":"env.eflags","type":"uint64","size":8}},
{{"name":"env.segs","array_len":6,"type":"struct","struct":{{"vmsd_name":"segment","fields":[
{{"name":"selector","type":"uint32","size":4}},{{"name":"base","type":"uint64","size":8}},
{{"name":"limit","type":"uint32","size":4}},{{"name":"flags","type":"uint32","size":4}}]}},"size":20}},
{{"name":"env.idt","type":"struct","struct":{{"vmsd_name":"segment","fields":[
{{"name":"selector","type":"uint32","size":4}},{{"name":"base","type":"uint64","size":8}}]}},"size":20}},
{{"name":"env.cr[0]","type":"uint64","size":8}},{{"name":"env.cr[3]","type":"uint64","size":8}}]}}"#
        )
    };
    let json = format!(
        r#"{{"configuration":{{}},"page_size":4096,"devices":[{{"name":"timer","instance_id":0,"vmsd_name":"timer","version":2,
"fields":[{{"name":"a","type":"uint64","size":8}},{{"name":"b","array_len":2,"type":"uint64","size":8}}],
"subsections":[{{"vmsd_name":"timer/icount","version":1,"fields":[{{"name":"c","type":"int64","size":8}}]}}]}},{},{}]}}"#,
        cpu(0),
        cpu(1)
    );
    out.push(6);
    out.extend(u32::try_from(json.len()).unwrap().to_be_bytes());
    out.extend(json.as_bytes());
}

fn open(bytes: Vec<u8>) -> Result<Migration> {
    Migration::open(Arc::new(InMemory::new("mig", bytes)), &Unpack::default())
}

fn byte(dump: &Migration, phys: u64) -> Result<u8, ReadFault> {
    let mut buf = [0; 8192];
    let n = dump.memory().read_phys(PhysAddr(phys), &mut buf)?;
    assert_eq!(n as u64, 4096 - phys % 4096);
    assert!(buf[..n].iter().all(|&b| b == buf[0]));
    Ok(buf[0])
}

const BLOCKS: [(&str, u64); 2] = [("pc.ram", 0x20_0000), ("vga.vram", 0x1000)];
const PAGES: [(&str, u64, Sent); 7] = [
    ("pc.ram", 0, Sent::Page(1)),
    ("pc.ram", 1, Sent::Fill(0)),
    ("pc.ram", 2, Sent::Zlib(3)),
    ("vga.vram", 0, Sent::Page(9)),
    ("pc.ram", 0x100, Sent::Page(4)),
    ("pc.ram", 0x101, Sent::Fill(5)),
    // Sent again, as it changed.
    ("pc.ram", 0, Sent::Page(6)),
];

fn whole() -> Vec<u8> {
    let mut out = head("pc-q35-7.2", &[]);
    memory(&mut out, &BLOCKS, &PAGES);
    devices(&mut out);
    out
}

#[test]
fn the_last_of_each_page_is_read() {
    let dump = open(whole()).unwrap();
    assert_eq!((dump.name().as_str(), dump.incomplete()), ("QEMU migration stream (pc-q35-7.2)", None));
    for (phys, wanted) in [(0, 6), (0x1010, 0), (0x2fff, 3), (0x10_0000, 4), (0x10_1fff, 5)] {
        assert_eq!(byte(&dump, phys), Ok(wanted), "{phys:#x}");
    }
    assert_eq!(byte(&dump, 0x3000), Err(ReadFault::Truncated { addr: 0x3000 }));
    for phys in [0xa_0000, 0x20_0000, 1 << 32, u64::MAX] {
        assert_eq!(byte(&dump, phys), Err(ReadFault::NoMemory { phys }));
    }
    assert_eq!(dump.memory().physical_ranges(9), [(PhysAddr(0), 0xa_0000), (PhysAddr(0xc_0000), 0x14_0000)]);
}

#[test]
fn registers_are_found_by_the_description() {
    let notes = open(whole()).unwrap().notes();
    let got = |r| notes.prstatus[1].regs.get(r);
    assert_eq!(
        (got(Register::Rax), got(Register::Rsp), got(Register::R15)),
        (Some(100), Some(104), Some(115))
    );
    assert_eq!(
        (got(Register::Rip), got(Register::Cs), got(Register::GsBase)),
        (Some(0xffff_ffff_8100_0042), Some(8), Some(0x1005))
    );
    let cpu = notes.qemu_cpus[0];
    assert_eq!(
        (notes.qemu_cpus.len(), cpu.cr0, cpu.cr3, cpu.idt.base),
        (2, 0x8005_0033, 0x1234_5000, 0x1006)
    );
    // Without the description memory is all there.
    let mut bytes = whole();
    bytes.truncate(bytes.len() - 100);
    let dump = open(bytes).unwrap();
    assert!(dump.notes().prstatus.is_empty() && dump.incomplete().is_none() && byte(&dump, 0) == Ok(6));
}

#[test]
fn a_stream_that_breaks_off_has_what_came_before() {
    let mut bytes = head("pc-i440fx-7.2", &[]);
    memory(&mut bytes, &BLOCKS, &PAGES);
    bytes.truncate(bytes.len() - 1000);
    let dump = open(bytes).unwrap();
    assert!(dump.incomplete().unwrap().contains("breaks off at"));
    assert_eq!((byte(&dump, 0), byte(&dump, 0x10_1000)), (Ok(1), Ok(5)));
    assert!(open(head("pc", &[])).is_err());
}

#[test]
fn memory_beyond_the_hole_lies_at_4_gib() {
    for (machine, low) in [("pc-q35-9.0", 0x8000_0000u64), ("pc-i440fx-9.0", 0xc000_0000)] {
        let mut bytes = head(machine, &[]);
        memory(
            &mut bytes,
            &[("pc.ram", 5 << 30)],
            &[("pc.ram", (low >> 12) - 1, Sent::Page(1)), ("pc.ram", low >> 12, Sent::Page(2))],
        );
        let dump = open(bytes).unwrap();
        assert_eq!((byte(&dump, low - 4096), byte(&dump, 1 << 32)), (Ok(1), Ok(2)));
        assert_eq!(byte(&dump, low), Err(ReadFault::NoMemory { phys: low }));
        assert_eq!(dump.memory().physical_ranges(9).last(), Some(&(PhysAddr(1 << 32), (5 << 30) - low)));
    }
    // Nodes one behind the other, by their names.
    let mut bytes = head("pc-q35-9.0", &[]);
    let nodes = [("/objects/ram10", 0x100_0000), ("/objects/ram9", 0x100_0000)];
    memory(&mut bytes, &nodes, &[("/objects/ram9", 0, Sent::Page(9)), ("/objects/ram10", 0, Sent::Page(10))]);
    let dump = open(bytes).unwrap();
    assert_eq!((byte(&dump, 0), byte(&dump, 0x100_0000)), (Ok(9), Ok(10)));
    let mut other = head("virt", &[]);
    memory(&mut other, &[("mach-virt.ram", 4096)], &[]);
    assert!(open(other).err().unwrap().to_string().contains("pc.ram"));
}

/// Two blocks; what stands behind `front` bytes.
fn mapped(front: u64) -> Vec<u8> {
    let mut out = vec![0; usize::try_from(front).unwrap()];
    out.extend(head("pc-q35-9.1", &["mapped-ram"]));
    section(&mut out, 1, 2, Some(("ram", 0)));
    out.extend(0x20_1004u64.to_be_bytes());
    for (text, len, set) in [("pc.ram", 0x20_0000u64, &[0usize, 0x101][..]), ("vga.vram", 0x1000, &[0])] {
        name(&mut out, text);
        out.extend(len.to_be_bytes());
        out.extend(1u32.to_be_bytes());
        out.extend(4096u64.to_be_bytes());
        let bitmap = out.len() + 16;
        let pages = (bitmap + 64).next_multiple_of(0x1000);
        out.extend((bitmap as u64).to_be_bytes());
        out.extend((pages as u64).to_be_bytes());
        out.resize(pages + usize::try_from(len).unwrap(), 0);
        for &page in set {
            out[bitmap + page / 8] |= 1 << (page % 8);
            out[pages + page * 4096..][..4096].fill(7 + u8::try_from(page & 0xff).unwrap());
        }
    }
    out.extend(0x10u64.to_be_bytes());
    out.push(0x7e);
    out.extend(2u32.to_be_bytes());
    section(&mut out, 3, 2, None);
    out.extend(0x10u64.to_be_bytes());
    devices(&mut out);
    out
}

/// Else the sum over its fields would be made for each, and a small file take hours.
#[test]
fn a_device_has_one_section() {
    /// Bytes of the section `timer`, which is the first.
    const TIMER: usize = 69;
    let cpus = |times: usize| {
        let mut out = head("pc-q35-7.2", &[]);
        memory(&mut out, &BLOCKS, &PAGES);
        let mut all = Vec::new();
        devices(&mut all);
        (1..times).for_each(|_| out.extend(&all[..TIMER]));
        out.extend(all);
        let dump = open(out).unwrap();
        assert_eq!((byte(&dump, 0), dump.incomplete()), (Ok(6), None));
        dump.notes().qemu_cpus.len()
    };
    assert_eq!((cpus(1), cpus(2)), (2, 0));
}

#[test]
fn mapped_ram_is_read_where_it_lies() {
    let libvirt = |mut bytes: Vec<u8>, version: u32| {
        bytes[..16].copy_from_slice(LIBVIRT);
        bytes[16..20].copy_from_slice(&version.to_le_bytes());
        let xml = u32::try_from(4096 - LIBVIRT_HEADER).unwrap();
        bytes[20..24].copy_from_slice(&xml.to_le_bytes());
        bytes
    };
    for bytes in [mapped(0), libvirt(mapped(4096), 3)] {
        let dump = open(bytes).unwrap();
        assert!(dump.name().contains("pc-q35-9.1, mapped-ram") && dump.incomplete().is_none());
        assert_eq!((byte(&dump, 0), byte(&dump, 0x1000), byte(&dump, 0x10_1000)), (Ok(7), Ok(0), Ok(8)));
        assert_eq!(dump.notes().prstatus.len(), 2);
    }
}

#[test]
fn libvirts_saves_are_unwrapped() {
    let dir = tempfile::tempdir().unwrap();
    let how = Unpack { folder: Some(dir.path().to_owned()), ..Unpack::default() };
    let save = |format: u32, stream: &[u8]| {
        let xml = b"<domain/>\0";
        let mut out = LIBVIRT.to_vec();
        for n in [2, 10, 1, format, 0] {
            out.extend(n.to_le_bytes());
        }
        out.resize(92, 0);
        out.extend(xml);
        out.extend(stream);
        Migration::open(Arc::new(InMemory::new("save", out)), &how)
    };
    let zstd = zstd::encode_all(&whole()[..], 1).unwrap();
    for (format, stream) in [(0, whole()), (5, zstd)] {
        let dump = save(format, &stream).unwrap();
        assert_eq!((dump.name().as_str(), byte(&dump, 0)), ("libvirt save (pc-q35-7.2)", Ok(6)));
    }
    assert!(save(4, b"x").err().unwrap().to_string().contains("lzop"));
    assert!(save(0, b"nothing").is_err());
}

proptest! {
    #[test]
    fn mutated_streams_are_survived(mapped_ram: bool, at in any::<prop::sample::Index>(), near: bool, to in any::<[u8; 8]>(), cut in any::<prop::sample::Index>()) {
        let mut bytes = if mapped_ram { mapped(0) } else { whole() };
        let at = at.index(if near { 200 } else { bytes.len() - 8 });
        bytes[at..at + 8].copy_from_slice(&to);
        if to[0] % 3 == 0 {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(dump) = open(bytes) {
            let _ = (dump.notes(), dump.incomplete(), dump.memory().physical_ranges(9), dump.name());
            let mut buf = [0; 4096];
            for phys in [0, 0x2000, 0x10_0000, 1 << 32, u64::from_le_bytes(to)] {
                let _ = dump.memory().read_phys(PhysAddr(phys), &mut buf);
            }
        }
    }
}
