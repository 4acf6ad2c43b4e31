//! Pages of a kdump-compressed file written anew, in a copy. Shares no code with the
//! reader: the layout is `struct disk_dump_header` and what follows it (makedumpfile).

use std::fs;
use std::io::Read;
use std::path::Path;

const PAGE: u64 = 4096;

/// Where the header's own fields begin, behind the signature and `struct new_utsname`.
const FIELDS: usize = ((12 + 6 * 65 + 7) & !7) + 16;

pub struct Kdump {
    bytes: Vec<u8>,
    /// Where the bitmap of stored pages is, and the table of their descriptors.
    bitmap: usize,
    descriptors: usize,
}

impl Kdump {
    pub fn open(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap();
        let field = |i: usize| u32::from_le_bytes(bytes[FIELDS + 4 * i..][..4].try_into().unwrap()) as usize;
        let (block, sub, map) = (field(1), field(2), field(3));
        let first = block * (1 + sub);
        Self { bitmap: first + block * map / 2, descriptors: first + block * map, bytes }
    }

    /// Where the descriptor of a page is, if it is stored.
    fn descriptor(&self, phys: u64) -> Option<usize> {
        let frame = (phys / PAGE) as usize;
        let bit = |n: usize| self.bytes[self.bitmap + n / 8] >> (n % 8) & 1;
        (bit(frame) == 1).then(|| self.descriptors + 24 * (0..frame).filter(|&n| bit(n) == 1).count())
    }

    /// The page at `phys`, unpacked.
    pub fn page(&self, phys: u64) -> Option<Vec<u8>> {
        let at = self.descriptor(phys)?;
        let word = |i: usize| u32::from_le_bytes(self.bytes[at + i..][..4].try_into().unwrap());
        let offset = u64::from_le_bytes(self.bytes[at..][..8].try_into().unwrap()) as usize;
        let raw = &self.bytes[offset..][..word(8) as usize];
        match word(12) {
            0 => Some(raw.to_vec()),
            1 => {
                let mut page = Vec::new();
                flate2::read::ZlibDecoder::new(raw).read_to_end(&mut page).ok().map(|_| page)
            }
            0x20 => zstd::decode_all(raw).ok(),
            other => panic!("pages of kind {other:#x} are not known here"),
        }
    }

    /// Puts another page there, not packed, at the end of the file.
    pub fn replace(&mut self, phys: u64, page: &[u8]) {
        let at = self.descriptor(phys).unwrap();
        let end = self.bytes.len() as u64;
        self.bytes.extend_from_slice(page);
        self.bytes[at..at + 8].copy_from_slice(&end.to_le_bytes());
        self.bytes[at + 8..at + 12].copy_from_slice(&(page.len() as u32).to_le_bytes());
        self.bytes[at + 12..at + 16].fill(0);
    }

    pub fn write(&self, to: &Path) {
        fs::write(to, &self.bytes).unwrap();
    }
}
