//! The log's rings, with what time and damage make of them.

use super::machine::Machine;
use crate::linux::log::{self, Log};

const RING: u64 = 0xffff_ffff_8200_0000;
const DESCS: u64 = RING + 0x1000;
const INFOS: u64 = RING + 0x2000;
const DATA: u64 = RING + 0x3000;

fn texts(log: &Log) -> Vec<&str> {
    log.records.iter().map(|r| r.text.as_str()).collect()
}

/// A descriptor with its info, and a text if it has one: at `begin` to `next`.
fn record(m: &mut Machine, id: u64, state: u64, block: (u64, u64), text: &str) {
    let (desc, info) = (DESCS + id % 8 * 0x18, INFOS + id % 8 * 0x18);
    m.write(info, &[0; 0x18]);
    m.set(desc, "prb_desc", "state_var", state << 62 | id);
    m.set(desc, "prb_desc", "text_blk_lpos.begin", block.0);
    m.set(desc, "prb_desc", "text_blk_lpos.next", block.1);
    m.set(info, "printk_info", "ts_nsec", id * 1000);
    m.set(info, "printk_info", "text_len", text.len() as u64);
    m.set(info, "printk_info", "caller_id", if id.is_multiple_of(2) { 0x8000_0003 } else { 42 });
    let at = if block.0 % 64 > block.1 % 64 && !block.1.is_multiple_of(64) { 0 } else { block.0 % 64 };
    m.write(DATA + at + 8, text.as_bytes());
}

#[test]
fn the_lockless_ring_is_read_from_its_tail() {
    let mut m = Machine::new();
    m.symbol("prb", RING);
    m.word(RING, RING + 0x100);
    for (path, value) in [
        ("desc_ring.count_bits", 3),
        ("desc_ring.descs", DESCS),
        ("desc_ring.infos", INFOS),
        ("desc_ring.tail_id", 21),
        ("desc_ring.head_id", 27),
        ("text_data_ring.size_bits", 6),
        ("text_data_ring.data", DATA),
    ] {
        m.set(RING + 0x100, "printk_ringbuffer", path, value);
    }
    const FINAL: u64 = 2;
    record(&mut m, 21, FINAL, (64 + 16, 64 + 32), "oldest");
    record(&mut m, 22, 1, (64 + 32, 64 + 48), "to come");
    record(&mut m, 23, FINAL, (1, 1), "");
    record(&mut m, 24, 0, (0, 0), ""); // reserved, not yet written
    // It does not fit before the end, and so lies at the start.
    record(&mut m, 25, FINAL, (64 + 56, 128 + 16), "wrapped");
    record(&mut m, 26, FINAL, (128 + 48, 192), "the end");
    // Of the last one the descriptor is not in the dump.
    let log = log::read(&m.view());
    assert_eq!(texts(&log), ["oldest", "to come", "", "wrapped", "the end"]);
    assert_eq!(log.lost, 1);
    let callers: Vec<_> = log.records.iter().filter_map(|r| r.caller.as_deref()).collect();
    assert_eq!(callers, ["T42", "C3", "T42", "T42", "C3"]);
    assert_eq!(log.records[0].time, Some(21_000));
}

#[test]
fn records_of_older_kernels_go_on_at_the_start() {
    let mut m = Machine::new();
    for (i, (name, value)) in [
        ("log_buf", DATA),
        ("log_buf_len", 128),
        ("log_first_idx", 64),
        ("log_next_idx", 32),
        ("log_first_seq", 7),
    ]
    .into_iter()
    .enumerate()
    {
        m.symbol(name, RING + i as u64 * 8);
        m.word(RING + i as u64 * 8, value);
    }
    m.write(DATA, &[0; 128]);
    for (at, text) in [(64, "first"), (0, "second")] {
        m.set(DATA + at, "printk_log", "len", 32);
        m.set(DATA + at, "printk_log", "text_len", text.len() as u64);
        m.write(DATA + at + 0x10, text.as_bytes());
    }
    // A length of 0 behind the first sends the reader back.
    let log = log::read(&m.view());
    assert_eq!((texts(&log), log.lost), (vec!["first", "second"], 0));
    assert_eq!(log.records[1].seq, Some(8));
}
