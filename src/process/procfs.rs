//! `/proc/PID` of the dead process, as far as gdb reads it over vFile:
//! `info proc`, and `generate-core-file`, which without `maps` would try to call
//! a function of the process.
//!
//! Formats: proc(5); kernel `fs/proc/task_mmu.c`, `fs/proc/array.c`.

use std::fmt::Write;
use std::ops::Range;

use super::Process;
use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::bytes::u64_at;
use crate::memory::AddressSpace;
use crate::text::printable;

/// One line of `maps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
    /// `PF_R` 4, `PF_W` 2, `PF_X` 1; a mapping that only `NT_FILE` tells has none.
    pub flags: u32,
    /// Offset in the file.
    pub offset: u64,
    /// The file's name in the core, or what [`super::labels`] says.
    pub name: String,
    /// Whether a file is mapped.
    pub file: bool,
    /// How many bytes from the start on are in the core.
    pub stored: u64,
}

/// All mappings, from the segments of the core and from `NT_FILE`.
#[must_use]
pub fn mappings(process: &Process) -> Vec<Mapping> {
    let labels = process.labels();
    let mut all = Vec::new();
    // Segments that do not overlap are cut at most twice by each file mapping.
    let ranges: usize = process.files().iter().map(|f| f.ranges.len()).sum();
    let most = process.memory().stored().segments().len() + 2 * ranges;
    for s in process.memory().stored().segments() {
        // A segment may span several mappings (gcore joins none, other writers may).
        let mut start = s.start;
        while start < s.end && all.len() < most {
            let stored = s.present.saturating_sub(start - s.start);
            let (end, offset, name, file) = match process.file_at(start) {
                Some((file, range)) => {
                    (range.end.min(s.end), range.offset + (start - range.start), file.name.clone(), true)
                }
                None => {
                    let end = process.next_file_mapping(start).unwrap_or(u64::MAX).min(s.end);
                    (end, 0, labels.of_mapping(&(start..end)), false)
                }
            };
            all.push(Mapping {
                start,
                end,
                flags: s.flags,
                offset,
                name,
                file,
                stored: stored.min(end - start),
            });
            start = end;
        }
    }
    for file in process.files() {
        for r in file.ranges.iter().filter(|r| process.memory().stored().segment(r.start).is_none()) {
            let (name, offset) = (file.name.clone(), r.offset);
            all.push(Mapping { start: r.start, end: r.end, flags: 0, offset, name, file: true, stored: 0 });
        }
    }
    all.sort_by_key(|m| m.start);
    all
}

/// The mapping's permissions as `maps` writes them.
#[must_use]
pub fn permissions(flags: u32) -> String {
    let bit = |mask, letter| if flags & mask != 0 { letter } else { '-' };
    [bit(4, 'r'), bit(2, 'w'), bit(1, 'x'), 'p'].iter().collect()
}

/// One line of `maps`, or the first of a piece of `smaps`.
pub(crate) struct Line<'a> {
    /// What it is of.
    pub(crate) range: Range<u64>,
    /// `r-xp`
    pub(crate) permissions: String,
    /// Of the first address in the file.
    pub(crate) offset: u64,
    /// Major and minor number, and inode, of the file.
    pub(crate) file: Option<(u64, u64, u64)>,
    /// Of the file, or what it is instead.
    pub(crate) name: &'a str,
}

impl Line<'_> {
    pub(crate) fn write(&self, out: &mut String) {
        let Self { range, permissions, offset, .. } = self;
        // A mapping of device 0:0, inode 0 is anonymous; gdb looks at the name only.
        let (major, minor, inode) = self.file.unwrap_or_default();
        let (start, end) = (range.start, range.end);
        let head = format!("{start:x}-{end:x} {permissions} {offset:08x} {major:02x}:{minor:02x} {inode}");
        // A line break in a file's name is written like this by the kernel, too.
        let name = self.name.replace('\n', "\\012");
        let _ = match name.as_str() {
            "" => writeln!(out, "{head} "),
            name => writeln!(out, "{head:<72} {name}"),
        };
    }

    /// The same in `smaps`, with what gdb's `generate-core-file` decides by: "Anonymous"
    /// above 0 is written, `dd` ("do not dump") is not.
    pub(crate) fn write_piece(&self, out: &mut String, kept: bool, anonymous: u64) {
        self.write(out);
        let may = |right, text| if self.permissions.contains(right) { text } else { "" };
        let _ = writeln!(
            out,
            "Size: {} kB\nAnonymous: {} kB\nSwap: 0 kB\nVmFlags:{}{}{}{} mr mw me{}",
            (self.range.end - self.range.start) >> 10,
            anonymous >> 10,
            may('r', " rd"),
            may('w', " wr"),
            may('x', " ex"),
            may('s', " sh"),
            if kept { "" } else { " dd" },
        );
    }
}

fn line(start: u64, end: u64, m: &Mapping) -> Line<'_> {
    let offset = if m.file { m.offset + (start - m.start) } else { 0 };
    let file = m.file.then_some((0, 1, 1));
    Line { range: start..end, permissions: permissions(m.flags), offset, file, name: &m.name }
}

/// `/proc/PID/maps`.
#[must_use]
pub fn maps(process: &Process) -> String {
    let mut out = String::new();
    mappings(process).iter().for_each(|m| line(m.start, m.end, m).write(&mut out));
    out
}

/// `/proc/PID/smaps`: tells gdb's `generate-core-file` which mappings this core
/// holds ("Anonymous" above 0) and which nothing supplies (`dd`, "do not dump"),
/// so that the new core has the holes of the old one, and no made-up zeros.
#[must_use]
pub fn smaps(process: &Process) -> String {
    let mut out = String::new();
    for m in mappings(process) {
        let held = m.stored.next_multiple_of(PAGE_SIZE).min(m.end - m.start);
        let cut = m.start + held;
        let readable = |at: u64| process.memory().read_run(VirtAddr(at), &mut [0]).is_ok();
        let rest_readable = cut < m.end && readable(cut);
        let mut piece = |start: u64, end: u64, kept: bool, anonymous: u64| {
            if start < end {
                line(start, end, &m).write_piece(&mut out, kept, anonymous);
            }
        };
        // File pages that only the file supplies: not anonymous, so gdb leaves them out as the kernel did.
        if rest_readable && m.file {
            let changed = if m.flags & 2 != 0 { held } else { 0 };
            piece(m.start, m.end, true, changed);
        } else {
            piece(m.start, cut, true, held);
            piece(cut, m.end, false, 0);
        }
    }
    out
}

/// `/proc/PID/cmdline`: the words, each ended by a NUL.
#[must_use]
pub fn cmdline(process: &Process) -> Vec<u8> {
    if let Some(words) = arguments(process) {
        return words.iter().flat_map(|w| w.iter().copied().chain([0])).collect();
    }
    let args = process.core().psinfo.as_ref().map(|p| p.args.clone()).unwrap_or_default();
    args.split_whitespace().flat_map(|w| w.bytes().chain([0])).collect()
}

/// The command line for people. `NT_PRPSINFO` has its first 79 bytes only, the
/// stack has all of it.
#[must_use]
pub fn command_line(process: &Process) -> Option<String> {
    let words = arguments(process).map(|words| {
        let quote = |w: &Vec<u8>| {
            let text = String::from_utf8_lossy(w).replace('\n', "\\n").replace('\t', "\\t");
            let text = printable(&text).into_owned();
            let plain = !text.is_empty()
                && !text.contains(|c: char| c.is_whitespace() || "'\"\\$&|;<>*?".contains(c));
            if plain { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
        };
        words.iter().map(quote).collect::<Vec<_>>().join(" ")
    });
    words.or_else(|| process.core().psinfo.as_ref().map(|p| printable(&p.args).into_owned()))
}

/// `argv` from the stack: the kernel lays `argc, argv.., 0, envp.., 0, auxv` there,
/// and the auxiliary vector is known.
fn arguments(process: &Process) -> Option<Vec<Vec<u8>>> {
    const AT_RANDOM: u64 = 25;
    const AT_EXECFN: u64 = 31;
    const WORDS_MAX: usize = 1 << 16;
    const SEARCHED: u64 = 1 << 20;
    let auxv = &process.core().auxv;
    let above = process.auxv_entry(AT_RANDOM).or_else(|| process.auxv_entry(AT_EXECFN))?;
    let segment = process.memory().stored().segment(above)?;
    let from = above.saturating_sub(SEARCHED).max(segment.start) & !7;
    let raw = process.memory().read_vec(VirtAddr(from), usize::try_from(above - from).ok()?).ok()?;
    let key = auxv.get(..32)?;
    let at = (0..raw.len().saturating_sub(32)).step_by(8).rev().find(|&i| raw.get(i..i + 32) == Some(key))?;
    let word = |i: usize| u64_at(&raw, i);
    // Back over the environment's end, the environment, the arguments' end.
    let mut i = at.checked_sub(8).filter(|&i| word(i) == Some(0))?;
    i = i.checked_sub(8)?;
    while word(i)? != 0 {
        i = i.checked_sub(8)?;
    }
    let end = i;
    let mut count = 0usize;
    loop {
        i = i.checked_sub(8)?;
        if word(i)? == count as u64 {
            break;
        }
        count += 1;
        if count > WORDS_MAX {
            return None;
        }
    }
    let pointers = (i + 8..end).step_by(8).filter_map(word);
    let read = |at: u64| process.memory().read_cstr(VirtAddr(at), 4096).ok().map(String::into_bytes);
    let words: Option<Vec<_>> = pointers.map(read).collect();
    words.filter(|w| !w.is_empty())
}

/// `/proc/PID/stat`: gdb makes the `NT_PRPSINFO` of a new core from it.
#[must_use]
pub fn stat(process: &Process) -> String {
    let p = process.core().psinfo.as_ref();
    let (pid, threads) = (process.pid(), process.threads().len());
    let name = p.map(|p| p.name.replace(|c: char| c.is_control(), "?")).unwrap_or_default();
    let (state, ppid, pgrp, sid) = p.map_or(('t', 0, 0, 0), |p| (p.state, p.ppid, p.pgrp, p.sid));
    let (flags, nice) = p.map_or((0, 0), |p| (p.flags, p.nice));
    // 52 fields; those that the core does not hold are 0 as for a process that hides them.
    let mut out = format!(
        "{pid} ({name}) {state} {ppid} {pgrp} {sid} 0 -1 {flags} 0 0 0 0 0 0 0 0 {} {nice} {threads}",
        20 + i32::from(nice)
    );
    (21..=52).for_each(|_| out.push_str(" 0"));
    out.push('\n');
    out
}

/// `/proc/PID/status`.
#[must_use]
pub fn status(process: &Process) -> String {
    let p = process.core().psinfo.as_ref();
    let pid = process.pid();
    let name = p.map(|p| printable(&p.name)).unwrap_or_default();
    let mut out =
        format!("Name:\t{name}\nState:\t{} (dead)\nTgid:\t{pid}\nPid:\t{pid}\n", p.map_or('?', |p| p.state));
    if let Some(p) = p {
        let _ = writeln!(out, "PPid:\t{}\nTracerPid:\t0", p.ppid);
        let _ = writeln!(out, "Uid:\t{0}\t{0}\t{0}\t{0}\nGid:\t{1}\t{1}\t{1}\t{1}", p.uid, p.gid);
    }
    let _ = writeln!(out, "Threads:\t{}", process.threads().len());
    out
}
