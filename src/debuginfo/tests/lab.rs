//! Test address spaces: flat bytes, and kernel text of a QEMU ELF dump.

#![allow(clippy::cast_possible_truncation, reason = "test data")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::addr::VirtAddr;
use crate::bytes;
use crate::error::ReadFault;
use crate::lab::{dirs, skip};
use crate::memory::AddressSpace;

/// `bytes` at `base`, and nothing else.
pub(crate) struct Flat {
    pub(crate) base: u64,
    pub(crate) bytes: Vec<u8>,
}

impl AddressSpace for Flat {
    fn read_run(&self, addr: VirtAddr, buf: &mut [u8]) -> Result<usize, ReadFault> {
        let fault = ReadFault::NotMapped { addr: addr.0, level: 1 };
        let at = usize::try_from(addr.0.checked_sub(self.base).ok_or(fault)?).map_err(|_| fault)?;
        let rest = self.bytes.get(at..).filter(|rest| !rest.is_empty()).ok_or(fault)?;
        let n = rest.len().min(buf.len()).min(4096);
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
}

/// The same, of which some addresses are lost.
pub(crate) struct Holey<'a> {
    pub(crate) space: &'a Flat,
    pub(crate) lost: Vec<std::ops::Range<u64>>,
}

impl AddressSpace for Holey<'_> {
    fn read_run(&self, addr: VirtAddr, buf: &mut [u8]) -> Result<usize, ReadFault> {
        if self.lost.iter().any(|lost| lost.contains(&addr.0)) {
            return Err(ReadFault::Truncated { addr: addr.0 });
        }
        let next = self.lost.iter().map(|lost| lost.start).filter(|start| *start > addr.0).min();
        let len = buf.len().min(next.map_or(usize::MAX, |next| (next - addr.0) as usize));
        self.space.read_run(addr, &mut buf[..len])
    }
}

/// Kernel image addresses of a QEMU dump, by `phys_base` alone.
pub(crate) struct Guest {
    file: File,
    /// Physical start, length, file offset.
    loads: Vec<(u64, u64, u64)>,
    pub(crate) vmcoreinfo: String,
    phys_base: i64,
}

impl Guest {
    pub(crate) fn open(scenario: &Path) -> Self {
        let file = File::open(scenario.join("qemu.elf")).unwrap();
        let mut head = vec![0; 4096];
        file.read_exact_at(&mut head, 0).unwrap();
        let phoff = bytes::u64_at(&head, 32).unwrap() as usize;
        let phnum = usize::from(bytes::u16_at(&head, 56).unwrap());
        let loads = (0..phnum)
            .map(|i| phoff + i * 56)
            .filter(|&at| bytes::u32_at(&head, at) == Some(1))
            .map(|at| {
                let get = |o| bytes::u64_at(&head, at + o).unwrap();
                (get(24), get(32), get(8))
            })
            .collect();
        let place = std::fs::read_to_string(scenario.join("oracle/vmcoreinfo")).unwrap();
        let (at, len) = place.trim().split_once(' ').unwrap();
        let at = u64::from_str_radix(at.trim_start_matches("0x"), 16).unwrap();
        let mut guest = Self { file, loads, vmcoreinfo: String::new(), phys_base: 0 };
        let mut note = vec![0; usize::from_str_radix(len, 16).unwrap().max(4096)];
        assert!(guest.physical(at, &mut note).is_some());
        let text = &note[12 + 12..];
        guest.vmcoreinfo = bytes::cstr(text).into_owned();
        guest.phys_base = guest.get("NUMBER(phys_base)").unwrap().parse().unwrap();
        guest
    }

    fn physical(&self, at: u64, buf: &mut [u8]) -> Option<usize> {
        let &(start, len, offset) = self.loads.iter().find(|(s, l, _)| at >= *s && at < s + l)?;
        let n = buf.len().min((start + len - at) as usize);
        self.file.read_exact_at(&mut buf[..n], offset + at - start).ok()?;
        Some(n)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.vmcoreinfo.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    }

    pub(crate) fn symbol(&self, name: &str) -> Option<u64> {
        u64::from_str_radix(self.get(&format!("SYMBOL({name})"))?, 16).ok()
    }
}

impl AddressSpace for Guest {
    fn read_run(&self, addr: VirtAddr, buf: &mut [u8]) -> Result<usize, ReadFault> {
        let fault = ReadFault::NotMapped { addr: addr.0, level: 1 };
        let offset = addr.0.checked_sub(0xffff_ffff_8000_0000).filter(|o| *o < 1 << 30).ok_or(fault)?;
        self.physical(offset.wrapping_add_signed(self.phys_base), buf).ok_or(fault)
    }
}

/// The lab's folders that hold `file`; none, said aloud, where there is no lab.
pub(crate) fn scenarios(file: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for root in dirs() {
        for kernel in std::fs::read_dir(&root).into_iter().flatten().flatten() {
            for scenario in std::fs::read_dir(kernel.path()).into_iter().flatten().flatten() {
                if scenario.path().join(file).exists() && scenario.path().join(".done").exists() {
                    found.push(scenario.path());
                }
            }
        }
    }
    found.sort();
    if found.is_empty() {
        skip(&format!("no {file} in {:?}", dirs()));
    }
    found
}

/// `(address, kind, name)` of the guest's own /proc/kallsyms, modules left out.
pub(crate) fn guest_kallsyms(scenario: &Path) -> Vec<(u64, u8, String)> {
    let file = File::open(scenario.join("oracle/kallsyms.gz")).unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::MultiGzDecoder::new(file), &mut text).unwrap();
    text.lines()
        .filter(|line| !line.contains('['))
        .map(|line| {
            let mut words = line.split_whitespace();
            let address = u64::from_str_radix(words.next().unwrap(), 16).unwrap();
            (address, words.next().unwrap().as_bytes()[0], words.next().unwrap().to_owned())
        })
        .collect()
}

/// Files of the lab's `root-KVER` trees (unpacked Debian packages) by path.
pub(crate) fn lab_files(paths: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for root in dirs().iter().flat_map(std::fs::read_dir).flatten().flatten() {
        found.extend(paths.iter().map(|path| root.path().join(path)).filter(|path| path.is_file()));
    }
    found.sort();
    found
}
