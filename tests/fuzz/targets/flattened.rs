//! A flattened vmcore: the blocks of a real dump, in an order and with places that the input says.

use std::sync::OnceLock;

/// What a block is cut of.
const PIECE: usize = 4096;
/// Bytes that say what a block is: how, which piece, how long, where.
const BLOCK: usize = 12;

pub fn run(bytes: &[u8]) {
    static DUMP: OnceLock<Vec<u8>> = OnceLock::new();
    let dump = DUMP.get_or_init(|| super::fixture("k6.1-zstd.kdump")[..64 << 10].to_vec());
    let mut file = b"makedumpfile\0\0\0\0".to_vec();
    file.extend([1u64, 1].map(u64::to_be_bytes).concat());
    file.resize(4096, 0);
    for block in bytes.chunks_exact(BLOCK) {
        let &[how, piece, l0, l1, ref place @ ..] = block else { continue };
        let place = i64::from_le_bytes(std::array::from_fn(|i| place[i]));
        let piece = usize::from(piece) % (dump.len() / PIECE);
        let (len, own) = (usize::from(u16::from_le_bytes([l0, l1])), (piece * PIECE) as i64);
        let (at, said, held) = match how % 8 {
            // As makedumpfile writes it.
            0..=3 => (own, PIECE as i64, PIECE),
            4 => (place, PIECE as i64, PIECE),
            5 => (own, len as i64, len.min(PIECE)),
            6 => (place % (1 << 20), len as i64, len.min(PIECE)),
            // The end mark, or nonsense.
            _ => (-1, if len % 2 == 0 { -1 } else { place }, 0),
        };
        file.extend([at, said].map(i64::to_be_bytes).concat());
        file.extend(&dump[piece * PIECE..][..held]);
    }
    let path = super::scratch("flattened");
    if std::fs::write(&path, file).is_ok() {
        super::vmcore::read(&path);
    }
}

/// In order, backwards, and with a hole.
pub fn seeds() -> Vec<Vec<u8>> {
    let block = |how: u8, piece: u8| [how, piece, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let end = block(7, 0);
    let list = |pieces: &mut dyn Iterator<Item = u8>| {
        pieces.flat_map(|piece| block(0, piece)).chain(end).collect::<Vec<u8>>()
    };
    vec![list(&mut (0..16)), list(&mut (0..16).rev()), list(&mut (0..16).filter(|piece| piece % 5 != 4))]
}
