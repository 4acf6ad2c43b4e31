//! The unwind rules of one image: `.eh_frame`, found by `.eh_frame_hdr` in memory,
//! which the mapped files supply as far as they are proven.

use gimli::{BaseAddresses, EhFrame, EhFrameHdr, LittleEndian, UnwindSection};

use super::Process;
use super::files::MappedFile;
use crate::addr::VirtAddr;
use crate::debuginfo::cfi::Slice;
use crate::elf::{PT_GNU_EH_FRAME, PT_LOAD, ProgramHeader};
use crate::memory::AddressSpace;

/// No program's unwind rules are larger.
const RULES_MAX: u64 = 64 << 20;

/// The unwind rules of one image.
#[derive(Debug, Default)]
pub struct Rules {
    header: Vec<u8>,
    header_at: u64,
    pub(super) frames: Vec<u8>,
    frames_at: u64,
}

impl Rules {
    /// Reads the rules of the image with these program headers, whose link-time
    /// addresses are `bias` (wrapping) lower: from memory or, without
    /// `.eh_frame_hdr`, from `file`.
    #[must_use]
    pub fn read(process: &Process, phdrs: &[ProgramHeader], bias: u64, file: Option<&MappedFile>) -> Self {
        let by_header = Self::by_header(process, phdrs, bias);
        by_header.or_else(|| Self::by_section(file?, bias)).unwrap_or_default()
    }

    fn by_header(process: &Process, phdrs: &[ProgramHeader], bias: u64) -> Option<Self> {
        let phdr = phdrs.iter().find(|p| p.kind == PT_GNU_EH_FRAME)?;
        let header_at = bias.wrapping_add(phdr.vaddr);
        let header = read_up_to(process, header_at, phdr.memsz.min(RULES_MAX))?;
        let bases = BaseAddresses::default().set_eh_frame_hdr(header_at);
        let parsed = EhFrameHdr::new(&header, LittleEndian).parse(&bases, 8).ok()?;
        let gimli::Pointer::Direct(frames_at) = parsed.eh_frame_ptr() else { return None };
        let holds = |p: &&ProgramHeader| {
            let start = bias.wrapping_add(p.vaddr);
            p.kind == PT_LOAD && start <= frames_at && frames_at - start < p.filesz
        };
        let load = phdrs.iter().find(holds)?;
        let left = load.filesz - (frames_at - bias.wrapping_add(load.vaddr));
        let frames = read_up_to(process, frames_at, left.min(RULES_MAX))?;
        Some(Self { header, header_at, frames, frames_at })
    }

    fn by_section(file: &MappedFile, bias: u64) -> Option<Self> {
        let file = &file.served()?.elf;
        let section = file.section(".eh_frame").filter(|s| s.size <= RULES_MAX)?;
        let frames = file.data(section).ok()?.into_owned();
        Some(Self { frames, frames_at: bias.wrapping_add(section.address), ..Self::default() })
    }

    pub(super) fn bases(&self) -> BaseAddresses {
        BaseAddresses::default().set_eh_frame_hdr(self.header_at).set_eh_frame(self.frames_at)
    }

    pub(super) fn entry(&self, pc: u64) -> Option<gimli::FrameDescriptionEntry<Slice<'_>>> {
        let bases = self.bases();
        let section = EhFrame::new(&self.frames, LittleEndian);
        if !self.header.is_empty() {
            let header = EhFrameHdr::new(&self.header, LittleEndian).parse(&bases, 8).ok()?;
            if let Some(table) = header.table() {
                return table.fde_for_address(&section, &bases, pc, EhFrame::cie_from_offset).ok();
            }
        }
        section.fde_for_address(&bases, pc, EhFrame::cie_from_offset).ok()
    }
}

fn read_up_to(process: &Process, at: u64, len: u64) -> Option<Vec<u8>> {
    let mut buf = vec![0; usize::try_from(len).ok()?];
    let n = process.memory().read(VirtAddr(at), &mut buf).ok()?;
    buf.truncate(n);
    // What a hostile header claims must not stay allocated for each image.
    buf.shrink_to_fit();
    Some(buf)
}
