//! ELF notes: what the dump tells beside its memory.
//!
//! They stand in a `PT_NOTE` segment, or the note area of a kdump file.
//!
//! | name | type | descriptor |
//! |---|---|---|
//! | `CORE` | 1 | `struct elf_prstatus` (`include/linux/elfcore.h`): one a CPU in a vmcore, one a thread in a core |
//! | `VMCOREINFO` | 0 | text, see [`super::vmcoreinfo`] |
//! | `QEMU` | 0 | `QEMUCPUState` (QEMU `target/i386/arch_dump.c`): one a CPU, whole system state |
//! | `ERASEINFO` | 0 | makedumpfile: which symbols `--config` wiped |

use crate::arch::{Register, Registers, pt_regs};
use crate::bytes::{self, Cursor};
use crate::elf;

/// `NT_PRSTATUS`.
pub const NT_PRSTATUS: u32 = 1;

/// `struct elf_prstatus`: the registers of one CPU or thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrStatus {
    /// Process or thread id. In a vmcore that of the task on the CPU, but 0 for
    /// every idle task, and CPU number + 1 when QEMU wrote it.
    pub pid: u32,
    /// `pr_cursig`: the signal that stopped it.
    pub signal: u16,
    /// Its registers.
    pub regs: Registers,
}

impl PrStatus {
    /// Bytes of the structure.
    pub const SIZE: usize = 336;
    const CURSIG: usize = 12;
    const PID: usize = 32;
    const REGS: usize = 112;

    /// Decodes the descriptor of an `NT_PRSTATUS` note.
    #[must_use]
    pub fn parse(desc: &[u8]) -> Option<Self> {
        Some(Self {
            pid: bytes::u32_at(desc, Self::PID)?,
            signal: bytes::u16_at(desc, Self::CURSIG)?,
            regs: pt_regs::parse_user(desc.get(Self::REGS..)?)?,
        })
    }
}

/// `QEMUCPUSegment`: a segment register with its hidden part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Segment {
    /// The visible selector.
    pub selector: u32,
    /// Limit in bytes.
    pub limit: u32,
    /// Descriptor attributes as QEMU keeps them.
    pub flags: u32,
    /// Linear base address.
    pub base: u64,
}

/// `QEMUCPUState`: the whole system state of one virtual CPU. Other hypervisors' files
/// tell less of it: what they do not have is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "the registers' own names")]
pub struct QemuCpu {
    /// The structure's version, 1 so far.
    pub version: u32,
    /// The general registers with the selectors and the bases of fs and gs.
    pub regs: Registers,
    pub cs: Segment,
    pub ds: Segment,
    pub es: Segment,
    pub fs: Segment,
    pub gs: Segment,
    pub ss: Segment,
    pub ldt: Segment,
    pub tr: Segment,
    pub gdt: Segment,
    pub idt: Segment,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    /// `MSR_KERNEL_GS_BASE`, since QEMU 3.0: told by the structure's size.
    pub kernel_gs_base: Option<u64>,
}

impl QemuCpu {
    /// Bytes up to and with the control registers.
    const WITHOUT_KERNEL_GS: usize = 432;

    /// Decodes the descriptor of a `QEMU` note.
    #[must_use]
    pub fn parse(desc: &[u8]) -> Option<Self> {
        use Register::{
            Cs, Ds, Eflags, Es, Fs, FsBase, Gs, GsBase, R8, R9, R10, R11, R12, R13, R14, R15, Rax, Rbp, Rbx,
            Rcx, Rdi, Rdx, Rip, Rsi, Rsp, Ss,
        };
        const GENERAL: [Register; 18] =
            [Rax, Rbx, Rcx, Rdx, Rsi, Rdi, Rsp, Rbp, R8, R9, R10, R11, R12, R13, R14, R15, Rip, Eflags];
        let mut c = Cursor::new(desc);
        let version = c.u32().ok()?;
        let size = usize::try_from(c.u32().ok()?).ok()?;
        if size < Self::WITHOUT_KERNEL_GS {
            return None;
        }
        let mut regs = Registers::default();
        for register in GENERAL {
            regs.set(register, Some(c.u64().ok()?));
        }
        let mut segment = || {
            let (selector, limit, flags, _pad) = (c.u32().ok()?, c.u32().ok()?, c.u32().ok()?, c.u32().ok()?);
            Some(Segment { selector, limit, flags, base: c.u64().ok()? })
        };
        let (cs, ds, es, fs, gs, ss) =
            (segment()?, segment()?, segment()?, segment()?, segment()?, segment()?);
        let (ldt, tr, gdt, idt) = (segment()?, segment()?, segment()?, segment()?);
        let selectors = [cs, ds, es, fs, gs, ss].map(|s| u64::from(s.selector));
        regs.extend([Cs, Ds, Es, Fs, Gs, Ss].into_iter().zip(selectors));
        regs.extend([(FsBase, fs.base), (GsBase, gs.base)]);
        let (cr0, _cr1, cr2, cr3, cr4) =
            (c.u64().ok()?, c.u64().ok()?, c.u64().ok()?, c.u64().ok()?, c.u64().ok()?);
        let kernel_gs_base = (size >= Self::WITHOUT_KERNEL_GS + 8)
            .then(|| bytes::u64_at(desc, Self::WITHOUT_KERNEL_GS))
            .flatten();
        #[rustfmt::skip]
        return Some(Self {
            version, regs, cs, ds, es, fs, gs, ss, ldt, tr, gdt, idt, cr0, cr2, cr3, cr4, kernel_gs_base,
        });
    }
}

/// The notes of a vmcore, sorted by kind, each kind in the order of the file.
#[derive(Debug, Clone, Default)]
pub struct Notes {
    /// One for each CPU that saved its registers: CPUs that were offline or deaf
    /// to the NMI leave none, so the index is *not* the CPU number.
    pub prstatus: Vec<PrStatus>,
    /// One for each virtual CPU, when QEMU wrote the dump; the index is the CPU number.
    pub qemu_cpus: Vec<QemuCpu>,
    /// The first VMCOREINFO text.
    pub vmcoreinfo: Option<Vec<u8>>,
    /// Further ones: QEMU adds its guest's to a dump that already has one, and a
    /// dump of a kdump kernel can hold both kernels'.
    pub other_vmcoreinfos: Vec<Vec<u8>>,
    /// makedumpfile's list of what `--config` wiped.
    pub eraseinfo: Option<String>,
}

impl Notes {
    /// Texts longer than this are not VMCOREINFO (the kernel's buffer is one page).
    pub const TEXT_MAX: usize = 1 << 20;
    /// `CONFIG_NR_CPUS` is at most 8,192.
    const CPUS_MAX: usize = 1 << 15;
    /// More VMCOREINFOs than this are noise.
    const OTHERS_MAX: usize = 8;

    /// Sorts the notes in `data`, one `PT_NOTE` segment.
    #[must_use]
    pub fn parse(data: &[u8]) -> Self {
        let mut notes = Self::default();
        elf::notes(data, 4).for_each(|note| notes.add(&note));
        notes
    }

    /// Sorts in one more.
    pub fn add(&mut self, note: &elf::Note<'_>) {
        match (note.name, note.kind) {
            (b"CORE", NT_PRSTATUS) if self.prstatus.len() < Self::CPUS_MAX => {
                self.prstatus.extend(PrStatus::parse(note.desc));
            }
            (b"QEMU", 0) if self.qemu_cpus.len() < Self::CPUS_MAX => {
                self.qemu_cpus.extend(QemuCpu::parse(note.desc));
            }
            (b"VMCOREINFO", 0) => self.add_vmcoreinfo(note.desc),
            (b"ERASEINFO", 0) => self.add_eraseinfo(note.desc),
            _ => {}
        }
    }

    /// Takes a VMCOREINFO text, unless it is there already.
    pub fn add_vmcoreinfo(&mut self, text: &[u8]) {
        let text = text.get(..text.len().min(Self::TEXT_MAX)).unwrap_or_default();
        // Padding after the text is no part of it.
        let end = text.iter().rposition(|&b| b != 0).map_or(0, |i| i + 1);
        let text = text.get(..end).unwrap_or_default();
        match &self.vmcoreinfo {
            _ if text.is_empty() => {}
            None => self.vmcoreinfo = Some(text.to_vec()),
            Some(first) if first == text => {}
            _ if self.other_vmcoreinfos.len() >= Self::OTHERS_MAX => {}
            Some(_) => self.other_vmcoreinfos.push(text.to_vec()),
        }
    }

    /// Takes makedumpfile's text of erased symbols.
    pub fn add_eraseinfo(&mut self, text: &[u8]) {
        let text = bytes::cstr(text.get(..text.len().min(Self::TEXT_MAX)).unwrap_or_default());
        let room = Self::TEXT_MAX.saturating_sub(self.eraseinfo.as_ref().map_or(0, String::len));
        if !text.is_empty() && text.len() <= room {
            self.eraseinfo.get_or_insert_default().push_str(&text);
        }
    }
}

#[cfg(test)]
#[path = "notes_tests.rs"]
mod tests;
