//! kallsyms tables in memory that is the input: the first words say where.

use corestub::addr::VirtAddr;
use corestub::bytes::u64_at;
use corestub::debuginfo::kallsyms::{self, Tables};
use corestub::error::ReadFault;
use corestub::memory::AddressSpace;

struct Flat<'a>(&'a [u8]);

impl AddressSpace for Flat<'_> {
    fn read_run(&self, addr: VirtAddr, buf: &mut [u8]) -> Result<usize, ReadFault> {
        let at = usize::try_from(addr.0).ok().and_then(|a| self.0.get(a..)).unwrap_or_default();
        let n = at.len().min(buf.len());
        if n == 0 {
            return Err(ReadFault::NotMapped { addr: addr.0, level: 1 });
        }
        buf[..n].copy_from_slice(&at[..n]);
        Ok(n)
    }
}

pub fn run(bytes: &[u8]) {
    let word = |i: usize| u64_at(bytes, i * 8).unwrap_or(0);
    let tables = Tables {
        names: word(0),
        num_syms: word(1),
        token_table: word(2),
        token_index: word(3),
        addresses: None,
        offsets: Some(word(4)),
        relative_base: Some(word(5)),
    };
    let _ = kallsyms::read(&Flat(bytes), &tables, Some(word(6)), true);
}

/// Two names of one token each; the tables behind the words.
pub fn seeds() -> Vec<Vec<u8>> {
    let words = [64u64, 2, 80, 96, 608, 0xffff_ffff_8100_0000, 0];
    let mut bytes = words.map(u64::to_le_bytes).concat();
    bytes.resize(64, 0);
    bytes.extend([2, b'T', b'a', 2, b'T', b'b']);
    bytes.resize(80, 0);
    bytes.extend((0..=255).flat_map(|_| [b'x', 0]));
    bytes.resize(608, 0);
    bytes.extend([0u32, 16].map(u32::to_le_bytes).concat());
    vec![bytes]
}
