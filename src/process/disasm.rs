//! The instruction at an address, as the core has it and as the file has it.

use iced_x86::{Decoder, DecoderOptions, Instruction};

use super::Process;
use crate::arch::disasm::{self, LONGEST};

/// A function is decoded from its start at most this far, to find where the
/// instructions begin.
const WALKED: u64 = 1 << 16;

/// One place, twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beside {
    /// Where the file's instruction starts.
    pub at: u64,
    /// What the core has there.
    pub core: String,
    /// What the file has there.
    pub file: String,
}

/// The instruction that covers `addr`, in the core and in the file.
#[must_use]
pub fn beside(process: &Process, addr: u64) -> Option<Beside> {
    let stored = process.memory().stored();
    stored.segment(addr).filter(|s| s.executable())?;
    let at = start_of(process, addr).unwrap_or(addr);
    let mut core = [0; LONGEST];
    let n = stored.read_run(at, &mut core).ok()?;
    Some(Beside {
        at,
        core: text(core.get(..n)?, at)?.0,
        file: text(&from_file(process, at, LONGEST)?, at)?.0,
    })
}

/// The text of the instruction at the front of `code`, and its length.
#[must_use]
pub fn text(code: &[u8], at: u64) -> Option<(String, usize)> {
    disasm::decode(code, at).map(|found| (found.text, found.len))
}

fn from_file(process: &Process, addr: u64, len: usize) -> Option<Vec<u8>> {
    let (file, range) = process.file_at(addr)?;
    let bytes = file.served()?.elf.source();
    let code = bytes.bytes_up_to(range.offset + (addr - range.start), len).ok()?;
    Some(code.into_owned()).filter(|code| !code.is_empty())
}

/// Where the file's instruction that covers `addr` starts: decoded from the start of
/// its function on.
fn start_of(process: &Process, addr: u64) -> Option<u64> {
    let (_, into) = process.image_at(addr)?.symbol(process, addr)?;
    let start = addr.checked_sub(into).filter(|_| into <= WALKED)?;
    let code = from_file(process, start, usize::try_from(into).ok()? + LONGEST)?;
    let mut decoder = Decoder::with_ip(64, &code, start, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        let at = decoder.ip();
        decoder.decode_out(&mut instruction);
        if addr < decoder.ip() {
            return Some(at);
        }
    }
    None
}
