//! The list of leaders of thread groups, whose place in a task is not known.

use super::{Finder, Pages, SAMPLE, Sample, TASK_MAX, kernel};
use crate::bytes::u64_at;
use crate::linux::task_scan::{PAGE, STEP};

/// Places of links that are tried in all memory at most: a hostile first task has hundreds.
const LINKS_MAX: usize = 16;

impl Finder<'_> {
    /// The circle of leaders through the first task: its offset, and they.
    pub(super) fn circle(&self, first: &Sample, comm: usize) -> Option<(usize, Vec<u64>)> {
        let walk = |offset: usize| {
            let (mut found, whole) = self.along(first, offset, comm, [0, 8])?;
            if !whole {
                self.holed?;
                found.extend(self.along(first, offset, comm, [8, 0])?.0);
            }
            (found.len() > 2).then_some((offset, found))
        };
        let by_links = (0..TASK_MAX).step_by(8).find_map(walk);
        by_links.or_else(|| self.searched(first, comm, self.holed.map(|_| self.pages)?))
    }

    /// The same where the links end at once, for the neighbours of the first task are lost, or theirs:
    /// by tasks that are linked to each other, in all memory.
    fn searched(&self, first: &Sample, comm: usize, pages: Pages<'_>) -> Option<(usize, Vec<u64>)> {
        // Slabs of tasks are aligned.
        let links = |at: u64, o: usize| kernel(at) && at.wrapping_sub(o as u64).is_multiple_of(STEP as u64);
        // Whether a neighbour of `link` at `offset` leads back to it and has a name; `None` if it is lost.
        let mutual = |link: u64, at: u64, o: usize, back: u64| {
            let led = self.word(at.checked_add(back)?)?;
            Some(led == link && self.named(at.wrapping_sub(o as u64), comm)?)
        };
        let may_lead = |o: &usize| {
            let (head, word) = (first.at.wrapping_add(*o as u64), |at| first.word(o + at).unwrap_or(0));
            [(word(0), 8), (word(8), 0)]
                .into_iter()
                .all(|(at, back)| at != head && links(at, *o) && mutual(head, at, *o, back) != Some(false))
        };
        let offsets: Vec<usize> = (0..TASK_MAX).step_by(8).filter(may_lead).take(LINKS_MAX).collect();
        if offsets.is_empty() {
            return None;
        }
        let visit = |page: u64, bytes: &[u8; PAGE], found: &mut Vec<(usize, u64)>| {
            for at in (0..PAGE).step_by(8) {
                let (link, Some(next)) = (page.wrapping_add(at as u64), u64_at(bytes, at)) else { continue };
                for &o in offsets.iter().filter(|&&o| next != link && links(link, o) && links(next, o)) {
                    let task = link.wrapping_sub(o as u64);
                    let before = self.word(link.wrapping_add(8)).unwrap_or(0);
                    let leads = mutual(link, next, o, 8) == Some(true)
                        || links(before, o) && mutual(link, before, o, 0) == Some(true);
                    if leads && self.named(task, comm) == Some(true) {
                        found.push((o, task));
                    }
                }
            }
        };
        let mut found = pages(&visit);
        found.sort_unstable();
        let of = |o: usize| found.iter().filter(move |(of, task)| *of == o && *task != first.at);
        let most = offsets.into_iter().rev().max_by_key(|&o| of(o).count()).filter(|&o| of(o).count() > 2)?;
        Some((most, of(most).map(|&(_, task)| task).take(SAMPLE).collect()))
    }

    /// The tasks of the circle with its links at `offset`, by the word of a link that leads on
    /// and that which leads back; whether they are all, or enough. `None` if it is no circle.
    fn along(
        &self,
        first: &Sample,
        offset: usize,
        comm: usize,
        [on, back]: [u64; 2],
    ) -> Option<(Vec<u64>, bool)> {
        let head = first.at.checked_add(offset as u64)?;
        let (mut link, mut before, mut found) = (self.word(head.checked_add(on)?)?, head, Vec::new());
        while link != head {
            let task = link.wrapping_sub(offset as u64);
            if !kernel(link) {
                return None;
            }
            match (self.word(link.checked_add(back)?), self.named(task, comm)) {
                (Some(to), Some(true)) if to == before => found.push(task),
                (None, _) | (_, None) => return Some((found, false)),
                _ => return None,
            }
            if found.len() >= SAMPLE {
                break;
            }
            let Some(next) = self.word(link.checked_add(on)?) else { return Some((found, false)) };
            (before, link) = (link, next);
        }
        Some((found, true))
    }
}
