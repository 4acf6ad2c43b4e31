//! The dynamic linker's list of loaded objects, and thread-local storage.
//!
//! `AT_PHDR` → `PT_DYNAMIC` → `DT_DEBUG` → `struct r_debug {int version; link_map *map; ...}` →
//! `struct link_map {l_addr, l_name, l_ld, l_next, l_prev, ...}` (glibc and musl
//! `<link.h>`). Version 2 (glibc 2.35, dlmopen) appends `r_next` at 40.
//!
//! TLS on x86-64: the thread pointer is `fs_base`, the DTV pointer stands at
//! `fs_base + 8`, and entry `modid` of the DTV, 16 bytes each, starts with the
//! module's block (glibc `sysdeps/x86_64/nptl/tls.h`, `dl-dtv.h`).

use std::collections::HashSet;

use super::{Process, ThreadNotes};
use crate::addr::VirtAddr;
use crate::arch::Register;
use crate::bytes::u64_at;
use crate::elf::{PT_DYNAMIC, PT_PHDR, PT_TLS, ProgramHeader};
use crate::memory::AddressSpace;
use crate::text::printable;

const AT_PHDR: u64 = 3;
const AT_PHNUM: u64 = 5;
const DT_DEBUG: u64 = 21;
/// No process loads more objects than this.
const OBJECTS_MAX: usize = 1 << 13;
const NAMESPACES_MAX: usize = 64;

/// One loaded object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkMap {
    /// Address of the `struct link_map`.
    pub at: u64,
    /// `l_addr`: difference between run-time and link-time addresses.
    pub bias: u64,
    /// `l_name`, as the program or the linker named it; empty for the main program.
    pub name: String,
    /// `l_ld`: the dynamic section.
    pub dynamic: u64,
    /// Address of the `struct r_debug` of its namespace (dlmopen).
    pub namespace: u64,
}

/// The list, as far as it can be read.
#[derive(Debug, Default)]
pub struct Walked {
    /// The main program, and what was loaded.
    pub objects: Vec<LinkMap>,
    /// It was read to its end.
    pub whole: bool,
}

/// Walks the list.
#[must_use]
pub fn walk(process: &Process) -> Walked {
    let memory = process.memory();
    let word = |at: u64| memory.read_u64(VirtAddr(at)).ok();
    let mut debug = find_r_debug(process);
    let (mut found, mut seen) = (Vec::new(), HashSet::new());
    let mut namespaces = 0;
    let mut whole = debug.is_some_and(|d| d != 0);
    while let Some(r_debug) = debug.filter(|&d| d != 0) {
        let mut next = r_debug.checked_add(8).and_then(word);
        while let Some(at) = next.filter(|&at| at != 0 && seen.insert(at) && found.len() < OBJECTS_MAX) {
            let Ok(raw) = memory.read_vec(VirtAddr(at), 32) else { break };
            let field = |offset| u64_at(&raw, offset).unwrap_or_default();
            let name = memory.read_cstr(VirtAddr(field(8)), 4096);
            whole &= name.is_ok();
            found.push(LinkMap {
                at,
                bias: field(0),
                name: printable(&name.unwrap_or_default()).into_owned(),
                dynamic: field(16),
                namespace: r_debug,
            });
            next = Some(field(24));
        }
        whole &= next == Some(0);
        namespaces += 1;
        let version = memory.read_u32(VirtAddr(r_debug)).unwrap_or_default();
        debug = if version < 2 { Some(0) } else { r_debug.checked_add(40).and_then(word) };
        whole &= debug.is_some_and(|next| next == 0 || namespaces < NAMESPACES_MAX);
        debug = debug.filter(|_| namespaces < NAMESPACES_MAX);
    }
    Walked { objects: found, whole }
}

/// The main program's headers: as the kernel named them, in memory.
fn program_headers(process: &Process) -> Option<(u64, Vec<ProgramHeader>)> {
    let at = process.auxv_entry(AT_PHDR)?;
    let count = usize::try_from(process.auxv_entry(AT_PHNUM)?.min(1024)).ok()?;
    let phdrs = ProgramHeader::parse_all(&process.memory().read_vec(VirtAddr(at), count * 56).ok()?);
    Some((at, phdrs))
}

fn find_r_debug(process: &Process) -> Option<u64> {
    let (at, phdrs) = program_headers(process)?;
    let own = phdrs.iter().find(|p| p.kind == PT_PHDR).map(|p| p.vaddr);
    let bias = own.map_or_else(|| process.program().map_or(0, |i| i.bias), |vaddr| at.wrapping_sub(vaddr));
    let dynamic = phdrs.iter().find(|p| p.kind == PT_DYNAMIC)?;
    let mut entry = bias.wrapping_add(dynamic.vaddr);
    for _ in 0..(dynamic.memsz / 16).min(4096) {
        let raw = process.memory().read_vec(VirtAddr(entry), 16).ok()?;
        match u64_at(&raw, 0)? {
            0 => return None,
            DT_DEBUG => return u64_at(&raw, 8),
            _ => entry = entry.checked_add(16)?,
        }
    }
    None
}

/// Address of the variable at `offset` in a module's thread-local block. A
/// `link_map` of 0 is the main program (gdb knows none for a static one).
#[must_use]
pub fn tls_address(process: &Process, thread: &ThreadNotes, offset: u64, link_map: u64) -> Option<u64> {
    let thread_pointer = process.general_regs(thread)?.get(Register::FsBase)?;
    let module = if link_map == 0 { Module { id: 1, offset: None } } else { module(process, link_map)? };
    let word = |at: u64| process.memory().read_u64(VirtAddr(at)).ok();
    let from_dtv = || {
        let dtv = word(thread_pointer.checked_add(8)?)?;
        // dtv[-1].counter: how many entries there are.
        if module.id == 0 || module.id > word(dtv.checked_sub(16)?)? {
            return None;
        }
        let block = word(dtv.checked_add(module.id.checked_mul(16)?)?)?;
        // TLS_DTV_UNALLOCATED: the thread has not touched the module's variables yet.
        (block != 0 && block != u64::MAX).then_some(block)
    };
    let from_static = || {
        // FORCED_DYNAMIC_TLS_OFFSET -1, NO_TLS_OFFSET 0: no place in the static block.
        let down = module.offset.filter(|&o| o != 0 && o != u64::MAX)?;
        thread_pointer.checked_sub(down)
    };
    from_dtv().or_else(from_static)?.checked_add(offset)
}

struct Module {
    id: u64,
    offset: Option<u64>,
}

/// The TLS fields of a glibc `struct link_map`. Where they stand depends on the
/// version, but what precedes them does not: `l_tls_initimage`,
/// `l_tls_initimage_size`, `l_tls_blocksize`, `l_tls_align` repeat the module's
/// `PT_TLS`; then come `l_tls_firstbyte_offset`, `l_tls_offset`, `l_tls_modid`.
fn module(process: &Process, link_map: u64) -> Option<Module> {
    /// The structure has grown to some 1,150 bytes by glibc 2.40.
    const SEARCHED: usize = 2048;
    // The main program is always module 1. A static-pie's entry is not filled in,
    // and nothing but its symbol leads to it (DT_DEBUG is 0).
    let objects = process.link_map();
    if objects.first().is_none_or(|main| main.at == link_map) {
        return Some(Module { id: 1, offset: None });
    }
    let map = objects.iter().find(|m| m.at == link_map)?;
    let own;
    let phdrs = match process.image_at(map.dynamic) {
        Some(image) => &image.phdrs,
        None => {
            own = program_headers(process)?.1;
            &own
        }
    };
    let tls = phdrs.iter().find(|p| p.kind == PT_TLS)?;
    let pattern = [map.bias.wrapping_add(tls.vaddr), tls.filesz, tls.memsz, tls.align];
    let mut raw = vec![0; SEARCHED];
    let n = process.memory().read(VirtAddr(link_map), &mut raw).ok()?;
    raw.truncate(n);
    let matches = |at: &usize| (0..4).zip(pattern).all(|(i, want)| u64_at(&raw, at + 8 * i) == Some(want));
    let at = (40..raw.len()).step_by(8).find(matches)?;
    Some(Module { id: u64_at(&raw, at + 48)?, offset: u64_at(&raw, at + 40) })
}
