//! A kdump-compressed file with other pages, lost pages, a lost end, or flattened: in a
//! copy. Shares no code with the reader: the layout is `struct disk_dump_header` and
//! what follows it (makedumpfile).

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

    /// The page was never written, as when the disk is full.
    pub fn lose(&mut self, phys: u64) {
        let at = self.descriptor(phys).unwrap();
        self.bytes[at..at + 24].fill(0);
    }

    /// The file ends before a page: all pages behind it in physical memory are lost, too.
    pub fn end_before(&mut self, phys: u64) {
        let at = self.descriptor(phys).unwrap();
        let end = u64::from_le_bytes(self.bytes[at..][..8].try_into().unwrap());
        self.bytes.truncate(end as usize);
    }

    /// The address of a symbol in VMCOREINFO.
    pub fn in_vmcoreinfo(&self, symbol: &str) -> u64 {
        let wanted = format!("\nSYMBOL({symbol})=");
        let at = self.bytes.windows(wanted.len()).position(|w| w == wanted.as_bytes()).unwrap();
        let digits = self.bytes[at + wanted.len()..].iter().take_while(|b| b.is_ascii_hexdigit());
        let digits: String = digits.map(|&b| char::from(b)).collect();
        u64::from_str_radix(&digits, 16).unwrap()
    }

    /// As `makedumpfile -F` writes it to a pipe: pieces with their places, here the last first.
    pub fn flatten(&mut self) {
        const PIECE: usize = 100_000;
        let mut flat = Vec::from(b"makedumpfile\0\0\0\0");
        flat.extend([1i64, 1].map(i64::to_be_bytes).concat());
        flat.resize(4096, 0);
        for (i, piece) in self.bytes.chunks(PIECE).enumerate().collect::<Vec<_>>().into_iter().rev() {
            flat.extend([(i * PIECE) as i64, piece.len() as i64].map(i64::to_be_bytes).concat());
            flat.extend(piece);
        }
        flat.extend([-1i64, -1].map(i64::to_be_bytes).concat());
        self.bytes = flat;
    }

    pub fn write(&self, to: &Path) {
        fs::write(to, &self.bytes).unwrap();
    }
}
