//! The notes of a userspace core, beside `NT_PRSTATUS` (see [`crate::dump::notes`]).
//!
//! Sources: `include/uapi/linux/elf.h` (types), `include/linux/elfcore.h`
//! (`struct elf_prpsinfo`), `fs/binfmt_elf.c` (`fill_files_note`).

use crate::bytes::{self, Cursor, cstr, u32_at};

/// `NT_FPREGSET`.
pub const NT_FPREGSET: u32 = 2;
/// `NT_PRPSINFO`.
pub const NT_PRPSINFO: u32 = 3;
/// `NT_AUXV`.
pub const NT_AUXV: u32 = 6;
/// `NT_X86_XSTATE`.
pub const NT_X86_XSTATE: u32 = 0x202;
/// `NT_X86_XSAVE_LAYOUT` (Linux 6.12).
pub const NT_X86_XSAVE_LAYOUT: u32 = 0x205;
/// `NT_FILE`: "FILE".
pub const NT_FILE: u32 = 0x4649_4c45;
/// `NT_SIGINFO`: "SIGI".
pub const NT_SIGINFO: u32 = 0x5349_4749;

/// `struct elf_prpsinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PsInfo {
    /// The state's letter: `R`, `S`, `D`, ...
    pub state: char,
    /// Whether it was a zombie.
    pub zombie: bool,
    /// Nice value.
    pub nice: i8,
    /// Kernel flags of the task (`PF_*`).
    pub flags: u64,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Process id.
    pub pid: u32,
    /// Parent.
    pub ppid: u32,
    /// Process group.
    pub pgrp: u32,
    /// Session.
    pub sid: u32,
    /// `comm` of the process's first thread.
    pub name: String,
    /// The command line's first 79 bytes, blanks between the words.
    pub args: String,
}

impl PsInfo {
    /// Bytes of the structure.
    pub const SIZE: usize = 136;

    /// Decodes the descriptor.
    #[must_use]
    pub fn parse(desc: &[u8]) -> Option<Self> {
        let desc = desc.get(..Self::SIZE)?;
        let state = char::from(*desc.get(1)?);
        Some(Self {
            state: if state.is_ascii_alphabetic() { state } else { '?' },
            zombie: *desc.get(2)? != 0,
            nice: i8::from_le_bytes([*desc.get(3)?]),
            flags: bytes::u64_at(desc, 8)?,
            uid: u32_at(desc, 16)?,
            gid: u32_at(desc, 20)?,
            pid: u32_at(desc, 24)?,
            ppid: u32_at(desc, 28)?,
            pgrp: u32_at(desc, 32)?,
            sid: u32_at(desc, 36)?,
            name: cstr(desc.get(40..56)?).into_owned(),
            args: cstr(desc.get(56..136)?).trim_end().to_owned(),
        })
    }
}

/// One row of `NT_FILE`: a range of addresses and the file it maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileNote {
    /// First address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// The file's name as the kernel wrote it.
    pub name: Vec<u8>,
}

/// Decodes `NT_FILE`: count, unit of the offsets, `{start, end, offset}` each, then
/// the names. A count that does not fit in the note is refused.
pub fn parse_files(desc: &[u8]) -> Result<Vec<FileNote>, String> {
    let mut c = Cursor::new(desc);
    let (Ok(count), Ok(unit)) = (c.u64(), c.u64()) else {
        return Err(format!("an NT_FILE note of {} bytes is too short", desc.len()));
    };
    let room = (desc.len().saturating_sub(16) / 25) as u64;
    if count > room {
        return Err(format!(
            "the NT_FILE note claims {count} mappings and has room for {room}: it is not used"
        ));
    }
    let mut rows = Vec::new();
    for _ in 0..count {
        let (Ok(start), Ok(end), Ok(offset)) = (c.u64(), c.u64(), c.u64()) else { break };
        rows.push((start, end, offset));
    }
    let mut names = c.rest().split(|&b| b == 0);
    let mut files = Vec::new();
    let unit = if in_bytes(&rows, unit) { 1 } else { unit };
    for (start, end, offset) in rows {
        let offset = offset.saturating_mul(unit);
        files.push(FileNote { start, end, offset, name: Vec::new() });
    }
    for file in &mut files {
        file.name = names.next().unwrap_or_default().to_vec();
    }
    files
        .retain(|f| f.start < f.end && f.offset.checked_add(f.end - f.start).is_some() && !f.name.is_empty());
    Ok(files)
}

/// Whether the offsets are bytes although the note says that they count in `unit`s:
/// .NET's createdump writes them so (dotnet/runtime, `crashinfo.cpp`).
/// Told by parts of a file that follow each other in memory: their distance in the
/// file is their distance in memory.
fn in_bytes(rows: &[(u64, u64, u64)], unit: u64) -> bool {
    let votes = |unit: u64| {
        let follows = |w: &[(u64, u64, u64)]| match w {
            [(start, end, from), (next, _, to)] => {
                end == next && to > from && (to - from).checked_mul(unit) == Some(end.wrapping_sub(*start))
            }
            _ => false,
        };
        rows.windows(2).filter(|w| follows(w)).count()
    };
    unit > 1 && votes(1) > votes(unit)
}

/// The value of an `AT_*` entry of the auxiliary vector.
#[must_use]
pub fn auxv_entry(auxv: &[u8], key: u64) -> Option<u64> {
    auxv.chunks_exact(16)
        .take_while(|e| bytes::u64_at(e, 0) != Some(0))
        .find(|e| bytes::u64_at(e, 0) == Some(key))
        .and_then(|e| bytes::u64_at(e, 8))
}
