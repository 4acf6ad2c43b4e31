//! The kernel's log: what `dmesg` would have shown.
//!
//! | kernel | ring | source |
//! |---|---|---|
//! | 5.10 and later | descriptors, infos and text in three rings, `prb` | `kernel/printk/printk_ringbuffer.h` |
//! | 3.5 - 5.9 | records of variable length in `log_buf` | `struct printk_log`, `kernel/printk/printk.c` |
//! | before | text alone, ending at `log_end` | `kernel/printk.c` |

use super::View;
use super::object::Object;
use crate::addr::VirtAddr;
use crate::debuginfo::Field;

/// More records than this are not believed (`CONFIG_LOG_BUF_SHIFT` is at most 25).
const MAX_RECORDS: u64 = 1 << 22;
/// A record's text is a u16.
const MAX_TEXT: u64 = 1 << 16;
/// All texts together: 8 times what the largest ring holds.
const MAX_TEXTS: usize = 256 << 20;
/// The flat ring of old kernels.
const MAX_FLAT: u64 = 1 << 25;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its number, where the ring has one.
    pub seq: Option<u64>,
    /// Nanoseconds since boot, where the ring has them.
    pub time: Option<u64>,
    /// 0 (emergency) to 7 (debug).
    pub level: Option<u8>,
    /// The syslog facility; 0 is the view.
    pub facility: Option<u8>,
    /// `T` and a pid, or `C` and a CPU (5.10 and later).
    pub caller: Option<String>,
    /// The text, which may have several lines.
    pub text: String,
}

/// The log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Log {
    /// The oldest first.
    pub records: Vec<Record>,
    /// Records that are damaged or not in the dump.
    pub lost: usize,
    /// Why there are no records at all.
    pub missing: Option<String>,
}

/// Reads the log.
#[must_use]
pub fn read(view: &View) -> Log {
    let log = if view.symbol("prb").is_some() {
        lockless(view).ok_or("the printk ring (prb) cannot be read")
    } else if view.symbol("log_first_idx").is_some() {
        records(view).ok_or("the printk record buffer cannot be read")
    } else {
        flat(view).ok_or("there is no log buffer that is known")
    };
    log.unwrap_or_else(|missing| Log { missing: Some(missing.to_owned()), ..Log::default() })
}

fn word(view: &View, symbol: &str) -> Option<u64> {
    view.space().read_u64(view.symbol(symbol)?).ok()
}

fn half(view: &View, symbol: &str) -> Option<u64> {
    view.space().read_u32(view.symbol(symbol)?).ok().map(u64::from)
}

/// 5.10 and later. Descriptor `id` lies at `id % count`; its state, in the top
/// two bits of `state_var`, must be committed (1) or finalized (2), and the rest
/// of it the id itself.
fn lockless(view: &View) -> Option<Log> {
    const ID: u64 = !(3 << 62);
    let ring = Object::new(view, "printk_ringbuffer", VirtAddr(word(view, "prb")?));
    let bits = |path| ring.number(path).filter(|&bits| bits < 32);
    let count = 1u64 << bits("desc_ring.count_bits")?;
    let text_size = 1u64 << bits("text_data_ring.size_bits")?;
    let (descs, infos) = (ring.pointer("desc_ring.descs")?, ring.pointer("desc_ring.infos")?);
    let data = ring.pointer("text_data_ring.data")?;
    let head = ring.number("desc_ring.head_id")? & ID;
    let tail = ring.number("desc_ring.tail_id")? & ID;
    let (desc_size, info_size) = (view.types().size_of("prb_desc")?, view.types().size_of("printk_info")?);
    let of_desc = |path| view.types().field("prb_desc", path);
    let [state_var, begin, next] = ["state_var", "text_blk_lpos.begin", "text_blk_lpos.next"].map(of_desc);
    let of_info = |path| view.types().field("printk_info", path);
    let [text_len, caller_id, seq, ts_nsec, level, facility] =
        ["text_len", "caller_id", "seq", "ts_nsec", "level", "facility"].map(of_info);
    let mut log = Log::default();
    let mut texts = 0usize;
    let total = head.wrapping_sub(tail) & ID;
    for i in 0..=total.min(count).min(MAX_RECORDS) {
        let id = tail.wrapping_add(i) & ID;
        let at = |base: VirtAddr, size: u64| base.checked_add((id % count).checked_mul(size)?);
        let (Some(desc), Some(info)) = (at(descs, desc_size), at(infos, info_size)) else { break };
        let desc = Object::new(view, "prb_desc", desc);
        let info = Object::new(view, "printk_info", info);
        let Some(state) = state_var.and_then(|field| desc.value(field)) else {
            log.lost += 1;
            continue;
        };
        if state & ID != id || !matches!(state >> 62, 1 | 2) {
            continue;
        }
        let text = (|| {
            let begin = desc.value(begin?)?;
            let next = desc.value(next?)?;
            if begin & next & 1 != 0 {
                // BLK_DATALESS: the marks of a block without text are odd.
                return Some(String::new());
            }
            let begin = begin % text_size;
            // In recent kernels a block may end where the ring ends; before, it was
            // moved to the start then, so none ended at 0.
            let next = match next % text_size {
                0 => text_size,
                next => next,
            };
            // A block that does not fit before the end lies at the start.
            let begin = if begin > next { 0 } else { begin };
            // In front of the text stands the id.
            let len = info.value(text_len?)?.min((next - begin).checked_sub(8)?);
            read_text(view, data.checked_add(begin + 8)?, len)
        })();
        let Some(text) = text.filter(|_| texts < MAX_TEXTS) else {
            log.lost += 1;
            continue;
        };
        texts += text.len();
        let number = |field: Option<Field>| info.value(field?);
        let caller = number(caller_id).map(|id| match id & 0x8000_0000 {
            0 => format!("T{id}"),
            cpu => format!("C{}", id & !cpu),
        });
        log.records.push(Record {
            seq: number(seq),
            time: number(ts_nsec),
            level: number(level).and_then(|l| u8::try_from(l).ok()),
            facility: number(facility).and_then(|f| u8::try_from(f).ok()),
            caller,
            text,
        });
    }
    Some(log)
}

fn read_text(view: &View, at: VirtAddr, len: u64) -> Option<String> {
    let len = usize::try_from(len.min(MAX_TEXT)).ok()?;
    let bytes = view.space().read_vec(at, len).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// 3.5 to 5.9: `struct printk_log` (before 3.11 `struct log`) followed by its
/// text; length 0 sends the reader back to the start.
fn records(view: &View) -> Option<Log> {
    let ty = ["printk_log", "log"].into_iter().find(|ty| view.types().size_of(ty).is_some())?;
    let header = view.types().size_of(ty)?;
    let buffer = VirtAddr(word(view, "log_buf")?);
    let size = half(view, "log_buf_len")?;
    let (first, next) = (half(view, "log_first_idx")?, half(view, "log_next_idx")?);
    let mut seq = word(view, "log_first_seq");
    let mut log = Log::default();
    let mut at = first;
    let mut wrapped = false;
    let mut texts = 0usize;
    // A record is not smaller than its header, so the ring bounds the walk.
    for _ in 0..(2 * size / header.max(8) + 2).min(MAX_RECORDS) {
        if at == next && (wrapped || !log.records.is_empty() || first == next) {
            break;
        }
        let record = Object::new(view, ty, buffer.checked_add(at)?);
        let Some(len) = record.number("len") else {
            log.lost += 1;
            break;
        };
        if len == 0 || at >= size {
            if wrapped {
                break;
            }
            (at, wrapped) = (0, true);
            continue;
        }
        let text =
            record.number("text_len").and_then(|len| read_text(view, record.base.checked_add(header)?, len));
        match text {
            Some(text) if texts < MAX_TEXTS => {
                texts += text.len();
                log.records.push(Record {
                    seq,
                    time: record.number("ts_nsec"),
                    level: record.number("level").and_then(|l| u8::try_from(l).ok()),
                    facility: record.number("facility").and_then(|f| u8::try_from(f).ok()),
                    caller: None,
                    text,
                });
            }
            _ => log.lost += 1,
        }
        seq = seq.map(|n| n.wrapping_add(1));
        at = at.saturating_add(len);
    }
    Some(log)
}

/// Before 3.5: bytes, of which the last `logged_chars` before `log_end` count.
fn flat(view: &View) -> Option<Log> {
    let buffer = VirtAddr(word(view, "log_buf")?);
    let size = half(view, "log_buf_len").filter(|&n| n > 0 && n <= MAX_FLAT)?;
    let (end, logged) = (half(view, "log_end")?, half(view, "logged_chars")?.min(size));
    let bytes = view.space().read_vec(buffer, usize::try_from(size).ok()?).ok()?;
    let start = usize::try_from(end.wrapping_sub(logged) % size).ok()?;
    let text: Vec<u8> =
        bytes.iter().cycle().skip(start).take(usize::try_from(logged).ok()?).copied().collect();
    let records = String::from_utf8_lossy(&text)
        .lines()
        .map(|line| {
            // <4>[    1.234567] text
            let (level, rest) = line
                .strip_prefix('<')
                .and_then(|l| l.split_once('>'))
                .and_then(|(l, rest)| Some((l.parse::<u8>().ok()? & 7, rest)))
                .map_or((None, line), |(l, rest)| (Some(l), rest));
            let (time, text) = rest
                .strip_prefix('[')
                .and_then(|r| r.split_once("] "))
                .and_then(|(t, text)| Some((seconds(t.trim())?, text)))
                .map_or((None, rest), |(t, text)| (Some(t), text));
            Record { seq: None, time, level, facility: None, caller: None, text: text.to_owned() }
        })
        .collect();
    Some(Log { records, ..Log::default() })
}

/// Nanoseconds of `12.345678`.
fn seconds(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.')?;
    let micros: u64 = part.parse().ok().filter(|_| part.len() == 6)?;
    whole.parse::<u64>().ok()?.checked_mul(1_000_000_000)?.checked_add(micros * 1000)
}

/// Words by which the line that tells of a crash is known, the surest first
/// (crash's list, `task.c`).
const PANIC: [&str; 20] = [
    "SysRq : Crash",
    "SysRq : Trigger a crash",
    "SysRq : Netdump",
    "Kernel panic: ",
    "Kernel panic - ",
    "Kernel BUG at",
    "kernel BUG at",
    "Unable to handle kernel paging request",
    "Unable to handle kernel NULL pointer dereference",
    "BUG: unable to handle kernel ",
    "general protection fault: ",
    "double fault: ",
    "kernel stack overflow ",
    "divide error: ",
    "stack segment: ",
    "[Hardware Error]: ",
    "Bad mode in ",
    "Oops: ",
    "stack guard page: ",
    // What else `die()` is called for.
    " [#1]",
];

/// The line of the log that says why the kernel died.
#[must_use]
pub(crate) fn panic_message(log: &Log) -> Option<&str> {
    let lines = || log.records.iter().flat_map(|r| r.text.lines());
    PANIC.iter().find_map(|words| lines().find(|line| line.contains(words)))
}

/// Of whom a report in the log is (`dump_stack_print_info()`, `lib/dump_stack.c`).
pub(crate) struct Report<'l> {
    pub(crate) cpu: u32,
    pub(crate) pid: u32,
    pub(crate) comm: &'l str,
    /// `CPU: 0 PID: 1 Comm: init`
    pub(crate) text: &'l str,
}

/// The last report.
#[must_use]
pub(crate) fn last_report(log: &Log) -> Option<Report<'_>> {
    const BEHIND: [&str; 3] = [" Kdump: loaded", " Tainted: ", " Not tainted"];
    let mut lines = log.records.iter().rev().flat_map(|record| record.text.lines());
    lines.find_map(|line| {
        let (cpu, rest) = line.strip_prefix("CPU: ")?.split_once(' ')?;
        // 6.13 and later have the user's id between.
        let (pid, rest) = rest.split_once("PID: ")?.1.split_once(" Comm: ")?;
        let comm = rest.get(..BEHIND.into_iter().filter_map(|behind| rest.find(behind)).min()?)?;
        let text = line.get(..line.len() - rest.len() + comm.len())?;
        Some(Report { cpu: cpu.parse().ok()?, pid: pid.parse().ok()?, comm, text })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(text: &str) -> Record {
        Record { seq: None, time: None, level: None, facility: None, caller: None, text: text.to_owned() }
    }

    #[test]
    fn the_last_report_names_a_task() {
        let of = |texts: &[&str]| {
            let log = Log { records: texts.iter().map(|text| record(text)).collect(), ..Log::default() };
            last_report(&log).map(|r| (r.cpu, r.pid, r.comm.to_owned(), r.text.to_owned()))
        };
        let old = "CPU: 3 PID: 1 Comm: init Kdump: loaded Tainted: G OE 6.1.0 #1";
        let new = "CPU: 0 UID: 5 PID: 99 Comm: a b: c Not tainted 6.13.1 #1";
        let wanted = |cpu, pid, comm: &str, text: &str| Some((cpu, pid, comm.to_owned(), text.to_owned()));
        assert_eq!(of(&[new, old, "CPU: 7 is off"]), wanted(3, 1, "init", "CPU: 3 PID: 1 Comm: init"));
        assert_eq!(of(&[old, new]), wanted(0, 99, "a b: c", "CPU: 0 UID: 5 PID: 99 Comm: a b: c"));
        assert_eq!(of(&["CPU: 3 PID: x Comm: init Tainted: G", "PID: 1"]), None);
    }

    #[test]
    fn the_surest_word_wins_not_the_first_line() {
        let mut log =
            Log { records: vec![record("Oops: 0000 [#1]\nmore"), record("nothing")], ..Log::default() };
        assert_eq!(panic_message(&log), Some("Oops: 0000 [#1]"));
        // 4.18 has words of its own for a double fault by an overflow.
        let by = "kernel stack overflow (double-fault): 0000 [#1] SMP PTI";
        let overflow = Log { records: vec![record(by)], ..Log::default() };
        assert_eq!(panic_message(&overflow), Some(by));
        for by in ["stack guard page: 0000 [#1] PREEMPT SMP NOPTI", "invalid opcode: 0000 [#1] SMP"] {
            let log = Log { records: vec![record("before"), record(by)], ..Log::default() };
            assert_eq!(panic_message(&log), Some(by));
        }
        log.records.push(record("Kernel panic - not syncing: Fatal exception"));
        assert_eq!(panic_message(&log), Some("Kernel panic - not syncing: Fatal exception"));
    }

    #[test]
    fn times_of_old_text_are_read() {
        assert_eq!(seconds("12.345678"), Some(12_345_678_000));
        assert_eq!(seconds("x"), None);
        assert_eq!(seconds("99999999999999999999.000000"), None);
    }
}
