//! Memory that lies in runs of a file: which run, and where.
//!
//! ELF dumps, LiME, VMware's and raw images differ in how they name their runs, and in
//! nothing else. Runs may overlap, so the list is sorted and made disjoint when it is made:
//! of overlapping runs the one that begins first counts, what is stored counts before what
//! is not, and what joins in memory and in the file is joined.

use std::sync::Arc;

use super::{Memory, PhysicalMemory};
use crate::addr::PhysAddr;
use crate::bytes::source::Source;
use crate::error::ReadFault;

/// Physical memory that is stored in one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) start: u64,
    pub(super) len: u64,
    pub(super) offset: u64,
}

impl Extent {
    pub(super) fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }
}

/// Where a file has which memory.
pub(super) struct Extents {
    source: Arc<dyn Source>,
    /// What the file stores: sorted, disjoint.
    stored: Vec<Extent>,
    /// What the machine has: sorted, disjoint, `(start, len)`.
    memory: Vec<(u64, u64)>,
}

impl Extents {
    /// Runs that `source` has, and memory of the machine as `(start, len)`, in any order.
    /// No run and no range goes beyond the end of its numbers.
    pub(super) fn new(source: Arc<dyn Source>, stored: Vec<Extent>, memory: Vec<(u64, u64)>) -> Self {
        Self { source, stored: disjoint(stored), memory: union(memory) }
    }

    /// Memory of which the file has all.
    pub(super) fn all(source: Arc<dyn Source>, stored: Vec<Extent>) -> Self {
        let memory = stored.iter().map(|e| (e.start, e.len)).collect();
        Self::new(source, stored, memory)
    }

    /// Whether the machine has more memory than the file.
    pub(super) fn excludes(&self) -> bool {
        let sum = |lens: &mut dyn Iterator<Item = u64>| lens.fold(0u64, u64::saturating_add);
        sum(&mut self.memory.iter().map(|m| m.1)) > sum(&mut self.stored.iter().map(|e| e.len))
    }

    /// Bytes that are to be in the file, and lie behind its end.
    pub(super) fn lost(&self) -> u64 {
        let end = self.source.len();
        let lost = |e: &Extent| e.offset.saturating_add(e.len).saturating_sub(e.offset.max(end));
        self.stored.iter().map(lost).fold(0, u64::saturating_add)
    }

    /// What is lost behind the end of the file, in words.
    pub(super) fn incomplete(&self) -> Option<String> {
        let lost = Some(self.lost()).filter(|&lost| lost > 0)?;
        let (path, end, mib) = (self.source.path().display(), self.source.len(), lost.div_ceil(1 << 20));
        Some(format!("{path} ends at {end:#x}, and {mib} MiB of memory after that are lost"))
    }
}

impl Memory for Extents {
    fn physical_ranges(&self, max: usize) -> Vec<(PhysAddr, u64)> {
        let mut ranges: Vec<_> = self.memory.iter().map(|&(start, len)| (PhysAddr(start), len)).collect();
        if let Some(&(last, len)) = ranges.last().filter(|_| ranges.len() > max) {
            ranges.truncate(max);
            if let Some(to) = ranges.last_mut() {
                to.1 = last.0 + len - to.0.0;
            }
        }
        ranges
    }

    fn stored_ranges(&self, _max: usize) -> Vec<(PhysAddr, u64)> {
        let end = self.source.len();
        let there = |e: &Extent| e.len.min(end.saturating_sub(e.offset));
        self.stored.iter().map(|e| (PhysAddr(e.start), there(e))).filter(|&(_, len)| len > 0).collect()
    }

    fn trouble(&self) -> Vec<String> {
        self.source.trouble().into_iter().collect()
    }
}

impl PhysicalMemory for Extents {
    fn read_phys(&self, addr: PhysAddr, buf: &mut [u8]) -> Result<usize, ReadFault> {
        let source = &*self.source;
        let phys = addr.0;
        let to_page_end = super::to_page_end(addr);
        let extent = super::last_from(&self.stored, phys, |e| e.start).filter(|e| phys < e.end());
        let Some(extent) = extent else {
            let range = super::last_from(&self.memory, phys, |m| m.0);
            return Err(match range.filter(|m| phys - m.0 < m.1) {
                Some(_) => ReadFault::Excluded { phys },
                None => ReadFault::NoMemory { phys },
            });
        };
        let within = phys - extent.start;
        let n = usize::try_from((extent.len - within).min(to_page_end)).unwrap_or(0).min(buf.len());
        let Some(buf) = buf.get_mut(..n).filter(|b| !b.is_empty()) else { return Ok(0) };
        let truncated = ReadFault::Truncated { addr: phys };
        let at = extent.offset + within;
        // The file may end within the page; a hole in a flattened stream reads as zeros.
        let there = source.len().saturating_sub(at).min(n as u64);
        if !source.holds(at, there) {
            return Err(truncated);
        }
        match source.read_at(at, buf) {
            Ok(n) if n > 0 => Ok(n),
            Ok(_) if at < source.len() => Err(ReadFault::Shrunk { addr: phys }),
            Ok(_) => Err(truncated),
            Err(e) => Err(super::unread(addr, &e)),
        }
    }
}

/// Makes `extents` sorted, disjoint and joined: the first to begin keeps what it has.
fn disjoint(mut extents: Vec<Extent>) -> Vec<Extent> {
    // The longest first where several begin at one place.
    extents.sort_by(|a, b| a.start.cmp(&b.start).then(b.len.cmp(&a.len)));
    let mut out: Vec<Extent> = Vec::new();
    for mut e in extents {
        if let Some(last) = out.last_mut() {
            let overlap = last.end().saturating_sub(e.start);
            if overlap >= e.len {
                continue;
            }
            e = Extent { start: e.start + overlap, len: e.len - overlap, offset: e.offset + overlap };
            if last.end() == e.start && last.offset + last.len == e.offset {
                last.len += e.len;
                continue;
            }
        }
        out.push(e);
    }
    out.shrink_to_fit();
    out
}

/// The union of `(start, len)` ranges, sorted.
fn union(mut ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    let mut out: Vec<(u64, u64)> = Vec::new();
    for (start, len) in ranges {
        match out.last_mut() {
            Some(last) if start <= last.0 + last.1 => last.1 = last.1.max(start + len - last.0),
            _ => out.push((start, len)),
        }
    }
    out.shrink_to_fit();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_leave_each_byte_in_one_place() {
        let e = |start, len, offset| Extent { start, len, offset };
        let got = disjoint(vec![
            e(0x3000, 0x2000, 0x9000),
            e(0x1000, 0x1000, 0x100),
            e(0x1000, 0x3000, 0x4000),
            e(0x2000, 0x800, 0x5000),
        ]);
        // The longer of the two at 0x1000 wins; the one at 0x3000 keeps only its second page.
        assert_eq!(got, [e(0x1000, 0x3000, 0x4000), e(0x4000, 0x1000, 0xa000)]);
        // What joins in memory and in the file is one.
        assert_eq!(
            disjoint(vec![e(0x2000, 0x1000, 0x6000), e(0x1000, 0x1000, 0x5000)]),
            [e(0x1000, 0x2000, 0x5000)]
        );
        assert_eq!(disjoint(vec![e(0x2000, 0x1000, 0x7000), e(0x1000, 0x1000, 0x5000)]).len(), 2);
        assert_eq!(union(vec![(5, 5), (0, 5), (20, 1), (21, 4), (6, 1)]), [(0, 10), (20, 5)]);
    }
}
