//! Test support: sections of the lab's vmlinux files.

use std::path::{Path, PathBuf};

use object::read::{ReadCache, elf::ElfFile64};
use object::{Object, ObjectSection};

use crate::debuginfo::orc::{Layout, OrcTable};
use crate::lab::{dirs, skip};

/// Address and bytes of a section.
pub(crate) struct Section {
    pub(crate) address: u64,
    pub(crate) bytes: Vec<u8>,
}

/// vmlinux files of the lab, with their releases; none, said aloud, where there is no lab.
pub(crate) fn all() -> Vec<(String, PathBuf)> {
    let lab = dirs();
    let mut found = Vec::new();
    for entry in lab.iter().flat_map(std::fs::read_dir).flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(release) = name.strip_prefix("root-") {
            let path = entry.path().join("usr/lib/debug/boot").join(format!("vmlinux-{release}"));
            if path.exists() {
                found.push((release.to_owned(), path));
            }
        }
    }
    found.sort();
    if found.is_empty() {
        skip(&format!("no root-KVER with a vmlinux in {lab:?}"));
    }
    found
}

/// The named section of an ELF file.
pub(crate) fn section(path: &Path, name: &str) -> Option<Section> {
    let file = std::fs::File::open(path).unwrap();
    let cache = ReadCache::new(file);
    let elf = ElfFile64::<object::LittleEndian, _>::parse(&cache).unwrap();
    let section = elf.section_by_name(name)?;
    Some(Section { address: section.address(), bytes: section.data().unwrap().to_vec() })
}

/// The ORC table of a vmlinux, at its link addresses.
pub(crate) fn orc(release: &str, path: &Path) -> OrcTable {
    let header = section(path, ".orc_header").map(|s| s.bytes);
    // Of the lab's kernels only 6.1 has no header.
    let layout = Layout::detect(header.as_deref(), Layout::V4_14).unwrap();
    let ip = section(path, ".orc_unwind_ip").unwrap();
    let rows = section(path, ".orc_unwind").unwrap();
    let init = section(path, ".init.text").unwrap();
    let end = init.address + init.bytes.len() as u64;
    OrcTable::parse(layout, &ip.bytes, ip.address, &rows.bytes, end, release).unwrap()
}
