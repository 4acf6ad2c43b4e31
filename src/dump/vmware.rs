//! VMware's suspended machines and snapshots: `.vmss` or `.vmsn`, with `.vmem` beside it.
//!
//! ```text
//!  0   u32 be d2 be d2 or another of its kind, u32 version, u32 number of groups
//!  12  groups: name[64], u64 position, u64 size
//!  a group, at its position: items until a tag of 0
//!      u16 tag: length of the name << 8 | number of indices << 6 | size of the value
//!      name, indices (u32 each), value
//!      size 62 and 63, a block (62: compressed): u64 bytes here, u64 bytes in memory,
//!      u16 padding, the padding, bytes
//! ```
//!
//! Source: crash's `vmware_vmss.h` and `vmware_vmss.c` (by VMware). In the group `memory`
//! regions say which page frames (`regionPPN`, `regionSize`) stand where in the memory
//! (`regionPageNum`); a machine without holes has none of them. Memory is a block `Memory`
//! of this group, or the file `.vmem`, which has no first bytes of its own and is therefore
//! known by its name. The group `cpu` has the registers of each CPU.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::extents::{Extent, Extents};
use super::notes::{Notes, PrStatus, QemuCpu};
use super::{Form, Memory};
use crate::addr::PAGE_SIZE;
use crate::arch::{Register, Registers};
use crate::bytes::source::Source;
use crate::bytes::{array_at, cstr, u32_at, u64_at};
use crate::error::{Error, Result};

const FORMAT: &str = "VMware state";
const GROUP_BYTES: usize = 80;
/// More groups, items or regions than these are noise: there are a hundred, some
/// thousands, and three.
const GROUPS_MAX: u32 = 4096;
const ITEMS_MAX: usize = 1 << 18;
const REGIONS_MAX: usize = 64;
const CPUS_MAX: usize = 4096;
/// What the numbers in it need.
const VALUE_MAX: u64 = 256;

/// A suspended machine.
pub(super) struct Vmware {
    extents: Extents,
    state: State,
}

/// What the state file tells.
#[derive(Default)]
struct State {
    /// `(page in the memory, page frame, pages)`
    regions: Vec<(u64, u64, u64)>,
    /// Where the memory is, if it is in the file itself.
    memory: Option<(u64, u64)>,
    cpus: Vec<Cpu>,
}

#[derive(Clone, Default)]
struct Cpu {
    regs: Registers,
    cr: [u64; 5],
    idt: u64,
}

/// Whether `head` begins like a state file.
pub(super) fn is_state(head: &[u8]) -> bool {
    let magics = [0xbed2_bed2, 0xbed3_bed3, 0xbad1_bad1, 0xbad2_bad2, 0xbed0_bed0];
    u32_at(head, 0).is_some_and(|id| magics.contains(&id))
}

/// Whether the file at `path` is memory of a machine whose state is beside it.
pub(super) fn is_memory(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "vmem") && beside(path, &["vmss", "vmsn"]).is_some()
}

fn beside(path: &Path, extensions: &[&str]) -> Option<PathBuf> {
    extensions.iter().map(|e| path.with_extension(e)).find(|p| p.is_file())
}

impl Vmware {
    /// Opens state, memory, or both in any order; `open` opens the one that is missing.
    pub(super) fn open(
        mut sources: Vec<Arc<dyn Source>>,
        open: impl Fn(&Path) -> Result<Arc<dyn Source>>,
    ) -> Result<Self> {
        let is_state_file = |s: &Arc<dyn Source>| s.bytes_up_to(0, 4).is_ok_and(|head| is_state(&head));
        sources.sort_by_key(|s| !is_state_file(s));
        let mut sources = sources.into_iter();
        let mut first = sources.next().into_iter().collect::<Vec<_>>();
        if !first.iter().any(is_state_file) {
            let memory = first.first().map_or_else(PathBuf::new, |m| m.path().to_owned());
            let state = beside(&memory, &["vmss", "vmsn"]).ok_or_else(|| Error::Missing {
                path: memory,
                what: "no .vmss or .vmsn beside it says where this memory lies".to_owned(),
                hint: "name it, too; or --raw, if the machine has less than 3 GiB",
            })?;
            first.insert(0, open(&state)?);
        }
        let mut all = first.into_iter().chain(sources);
        let (state_file, memory) = (all.next(), all.next());
        let Some(state_file) = state_file else {
            return Err(Error::Unsupported {
                path: PathBuf::new(),
                what: "no file".to_owned(),
                hint: "name one",
            });
        };
        let state = State::read(&*state_file)?;
        let memory = match (memory, state.memory) {
            (Some(memory), _) => memory,
            (None, Some(_)) => Arc::clone(&state_file),
            (None, None) => {
                let path = beside(state_file.path(), &["vmem"]).ok_or_else(|| Error::Missing {
                    path: state_file.path().to_owned(),
                    what: "no memory in it, and no .vmem beside it".to_owned(),
                    hint: "copy the .vmem, too: it has the same name",
                })?;
                open(&path)?
            }
        };
        let inside = state.memory.filter(|_| memory.path() == state_file.path());
        let (base, len) = inside.unwrap_or((0, memory.len()));
        let extents = Extents::all(memory, state.extents(base, len));
        Ok(Self { extents, state })
    }
}

impl State {
    fn read(source: &dyn Source) -> Result<Self> {
        let path = || source.path().to_owned();
        let bad =
            |offset, wanted, found| Error::Malformed { path: path(), format: FORMAT, offset, wanted, found };
        let head = source.bytes_up_to(0, 12).map_err(|e| Error::io("read", source.path(), e))?;
        let (Some(id), Some(groups)) = (u32_at(&head, 0), u32_at(&head, 8)) else {
            return Err(bad(0, "a header of 12 bytes", format!("{} bytes", head.len())));
        };
        if id == 0xbed0_bed0 {
            let what = "a state of an old VMware product (32-bit form)".to_owned();
            return Err(Error::Unsupported {
                path: path(),
                what,
                hint: "vmss2core -M makes an ELF dump of it",
            });
        }
        if groups > GROUPS_MAX {
            return Err(bad(8, "at most 4096 groups", groups.to_string()));
        }
        let table = source.bytes_up_to(12, GROUP_BYTES * usize::try_from(groups).unwrap_or(0));
        let table = table.map_err(|e| Error::io("read", source.path(), e))?;
        let mut state = Self::default();
        let mut items = ITEMS_MAX;
        for group in table.chunks_exact(GROUP_BYTES) {
            let (name, at) = (cstr(group.get(..64).unwrap_or_default()), u64_at(group, 64).unwrap_or(0));
            if name == "memory" || name == "cpu" {
                // A group that breaks off has what came before.
                let _ = state.read_group(source, &name, at, &mut items);
            }
        }
        match state.memory {
            Some((at, 0)) => {
                let what = "compressed memory in a state file".to_owned();
                let hint = "vmss2core -M makes an ELF dump of it";
                tracing::debug!("{}: the memory at {at:#x} is compressed", source.path().display());
                Err(Error::Unsupported { path: path(), what, hint })
            }
            _ => Ok(state),
        }
    }

    fn read_group(&mut self, source: &dyn Source, group: &str, mut at: u64, items: &mut usize) -> Option<()> {
        loop {
            *items = items.checked_sub(1)?;
            let tag = u32::from(u16::from_le_bytes(array_at(&source.bytes(at, 2).ok()?, 0)?));
            if tag == 0 {
                return Some(());
            }
            let (name_len, indices, size) = (tag >> 8, tag >> 6 & 3, tag & 0x3f);
            let front = source.bytes(at + 2, usize::try_from(name_len + 4 * indices).ok()?).ok()?;
            let (name, rest) = front.split_at_checked(usize::try_from(name_len).ok()?)?;
            let index = |n: usize| u32_at(rest, n * 4).and_then(|i| usize::try_from(i).ok());
            let mut value_at = at.checked_add(2 + front.len() as u64)?;
            let mut len = u64::from(size);
            if size >= 62 {
                let block = source.bytes(value_at, 18).ok()?;
                let padding = u16::from_le_bytes(array_at(&block, 16)?);
                value_at = value_at.checked_add(18 + u64::from(padding))?;
                len = u64_at(&block, 0)?;
                if (group, name) == ("memory", b"Memory".as_slice()) {
                    // Compressed memory has no length that is known.
                    self.memory = Some((value_at, if size == 62 { 0 } else { u64_at(&block, 8)? }));
                }
            }
            if len <= VALUE_MAX {
                let value = source.bytes(value_at, usize::try_from(len).ok()?).ok()?;
                match group {
                    "memory" => self.region(name, index(0), &value),
                    _ => self.register(name, index(0), index(1), &value),
                };
            }
            at = value_at.checked_add(len)?;
        }
    }

    fn region(&mut self, name: &[u8], index: Option<usize>, value: &[u8]) -> Option<()> {
        let index = index.filter(|&i| i < REGIONS_MAX)?;
        let value = u64::from(u32_at(value, 0)?);
        if self.regions.len() <= index {
            self.regions.resize(index + 1, (0, 0, 0));
        }
        let region = self.regions.get_mut(index)?;
        match name {
            b"regionPageNum" => region.0 = value,
            b"regionPPN" => region.1 = value,
            b"regionSize" => region.2 = value,
            _ => {}
        }
        Some(())
    }

    fn register(
        &mut self,
        name: &[u8],
        cpu: Option<usize>,
        second: Option<usize>,
        value: &[u8],
    ) -> Option<()> {
        use Register::{
            Eflags, R8, R9, R10, R11, R12, R13, R14, R15, Rax, Rbp, Rbx, Rcx, Rdi, Rdx, Rip, Rsi, Rsp,
        };
        /// The order of `gpregs`.
        const GENERAL: [Register; 16] =
            [Rax, Rcx, Rdx, Rbx, Rbp, Rsp, Rsi, Rdi, R8, R9, R10, R11, R12, R13, R14, R15];
        let index = cpu.filter(|&i| i < CPUS_MAX)?;
        let of_eight = |at: usize| u64_at(value, at * 8);
        let one = || {
            Some(match value.len() {
                4 => u64::from(u32_at(value, 0)?),
                _ => u64_at(value, 0)?,
            })
        };
        let by_name = |name: &[u8]| GENERAL.into_iter().chain([Rip]).find(|r| r.name().as_bytes() == name);
        let known =
            matches!(name, b"gpregs" | b"CR64" | b"IDTR" | b"eflags" | b"EFLAGS") || by_name(name).is_some();
        if !known {
            return None;
        }
        if self.cpus.len() <= index {
            self.cpus.resize(index + 1, Cpu::default());
        }
        let cpu = self.cpus.get_mut(index)?;
        match name {
            b"gpregs" => GENERAL.into_iter().enumerate().for_each(|(i, r)| cpu.regs.set(r, of_eight(i))),
            b"CR64" if value.len() > 8 => {
                cpu.cr.iter_mut().enumerate().for_each(|(i, cr)| *cr = of_eight(i).unwrap_or(0))
            }
            b"CR64" => *cpu.cr.get_mut(second?)? = one()?,
            b"IDTR" if value.len() == 10 => cpu.idt = u64_at(value, 2)?,
            // In two halves, behind the limit.
            b"IDTR" => match second? {
                1 => cpu.idt |= u64::from(u32_at(value, 0)?),
                2 => cpu.idt |= u64::from(u32_at(value, 0)?) << 32,
                _ => {}
            },
            b"eflags" | b"EFLAGS" => cpu.regs.set(Eflags, Some(one()? | cpu.regs.get(Eflags).unwrap_or(0))),
            _ => cpu.regs.set(by_name(name)?, one()),
        }
        Some(())
    }

    /// Where memory lies that begins at `base` of its file and has `len` bytes.
    fn extents(&self, base: u64, len: u64) -> Vec<Extent> {
        let mut regions = self.regions.clone();
        regions.sort_unstable();
        if regions.is_empty() {
            return vec![Extent { start: 0, len, offset: base }];
        }
        let ends = regions.iter().skip(1).map(|r| r.0 * PAGE_SIZE).chain([len]).collect::<Vec<_>>();
        let extent = |(&(page, frame, pages), &end): (&(u64, u64, u64), &u64)| {
            let from = page * PAGE_SIZE;
            let there = end.checked_sub(from)?;
            // Without a size it reaches to the next.
            let len = if pages == 0 { there } else { there.min(pages * PAGE_SIZE) };
            let start = frame * PAGE_SIZE;
            let offset = base.checked_add(from).filter(|at| at.checked_add(len).is_some())?;
            (len > 0).then_some(Extent { start, len, offset })
        };
        regions.iter().zip(&ends).filter_map(extent).collect()
    }
}

impl Form for Vmware {
    fn name(&self) -> String {
        "VMware".to_owned()
    }

    fn notes(&self) -> Notes {
        let mut notes = Notes::default();
        for (cpu, number) in self.state.cpus.iter().zip(1..) {
            let [cr0, _, cr2, cr3, cr4] = cpu.cr;
            notes.prstatus.push(PrStatus { pid: number, signal: 0, regs: cpu.regs });
            let mut state = QemuCpu { regs: cpu.regs, cr0, cr2, cr3, cr4, ..QemuCpu::default() };
            state.idt.base = cpu.idt;
            notes.qemu_cpus.push(state);
        }
        notes
    }

    fn incomplete(&self) -> Option<String> {
        self.extents.incomplete()
    }

    fn memory(&self) -> &dyn Memory {
        &self.extents
    }
}

#[cfg(test)]
#[path = "vmware_tests.rs"]
mod tests;
