//! Program headers of which bits turned over, turned back where their neighbours prove it.
//!
//! Writers of vmcores put the segments into the file one behind the other, and all that
//! one mapping has lies at the same distance from its memory. Each pair of neighbours so
//! makes two equations. Where nearly all of a table hold, a bit whose turning makes more of
//! them hold, and more than any other bit does, was turned over. A header that one bit
//! would put right, and nothing tells which, is not believed. A header that leads out of its
//! memory or the file, or is of no kind, may have lost two. Of writers that do otherwise
//! (QEMU with paging) few equations hold, and nothing is touched; neither is a segment whose
//! header is lost altogether.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use object::elf::ProgramType;

use crate::addr::PAGE_SIZE;
use crate::elf::{PT_LOAD, PT_NOTE, ProgramHeader};

/// Marks a header that is not believed.
const LEFT_OUT: ProgramType = ProgramType(u32::MAX);
/// A table in which more pairs contradict each other is beyond help.
const MAX: usize = 128;
/// Guesses about one header; a sound neighbourhood offers few.
const GUESSES_MAX: usize = 256;
/// Headers on either side that one is held against: some without bytes may stand between.
const REACH: usize = 8;

/// A member that can be damaged, by its name in `elf(5)`.
struct Member {
    name: &'static str,
    of: fn(&mut ProgramHeader) -> &mut u64,
    /// What it must be for an equation between this header and another to hold.
    wanted: fn(&ProgramHeader, &ProgramHeader) -> [u64; 2],
}

/// Those that stand in an equation.
const MEMBERS: [Member; 4] = [
    Member {
        name: "p_offset",
        of: |h| &mut h.offset,
        wanted: |h, other| [stored_end(other), other.offset.wrapping_sub(h.filesz)],
    },
    Member {
        name: "p_vaddr",
        of: |h| &mut h.vaddr,
        wanted: |h, other| [h.paddr.wrapping_add(distance_of(other)); 2],
    },
    Member {
        name: "p_paddr",
        of: |h| &mut h.paddr,
        wanted: |h, other| [h.vaddr.wrapping_sub(distance_of(other)); 2],
    },
    Member {
        name: "p_filesz",
        of: |h| &mut h.filesz,
        // A segment without bytes is in nobody's order.
        wanted: |h, other| [other.offset.wrapping_sub(h.offset), 0],
    },
];

impl Member {
    /// What of `header` can have turned over, at most `most` bits of it, so that an equation with
    /// one of `near` would hold.
    fn turnable(&self, header: &ProgramHeader, near: &[ProgramHeader], most: u32) -> Vec<u64> {
        let now = *(self.of)(&mut header.clone());
        let differ = near.iter().flat_map(|other| (self.wanted)(header, other)).map(|wanted| wanted ^ now);
        let mut bits: Vec<u64> = differ.filter(|bits| (1..=most).contains(&bits.count_ones())).collect();
        // With bytes it joins the order, wherever it ends.
        if self.name == "p_filesz" && now == 0 {
            bits.extend((0..64).map(|bit| 1 << bit));
        }
        bits.sort_unstable();
        bits.dedup();
        bits
    }
}

/// One member or two.
type Members = (&'static str, Option<&'static str>);

fn words((one, other): Members) -> String {
    other.map_or_else(|| one.to_owned(), |other| format!("{one} and {other}"))
}

/// What a header was, perhaps.
#[derive(Clone, Copy)]
struct Guess {
    members: Members,
    bits: u32,
    header: ProgramHeader,
}

/// What `header` was, perhaps: at most `most` of its bits turned over, or two where it is of no kind.
fn guesses(header: &ProgramHeader, near: &[ProgramHeader], most: u32) -> Vec<Guess> {
    let turned = |base: &ProgramHeader, most: u32| {
        let mut all = Vec::new();
        for member in &MEMBERS {
            for bits in member.turnable(base, near, most) {
                let mut header = *base;
                *(member.of)(&mut header) ^= bits;
                all.push(Guess { members: (member.name, None), bits: bits.count_ones(), header });
            }
        }
        all
    };
    let mut all = turned(header, most);
    let mut firsts: Vec<_> = all.iter().filter(|guess| guess.bits < most).copied().collect();
    if (header.kind.0 ^ PT_LOAD.0).is_power_of_two() {
        let header = ProgramHeader { kind: PT_LOAD, ..*header };
        let as_load = Guess { members: ("p_type", None), bits: 1, header };
        all.push(as_load);
        firsts.push(as_load);
    }
    for first in firsts.into_iter().take(GUESSES_MAX / 16) {
        let others = turned(&first.header, 1).into_iter().filter(|other| other.members != first.members);
        all.extend(others.map(|other| Guess {
            members: (first.members.0, Some(other.members.0)),
            bits: 2,
            ..other
        }));
    }
    all.truncate(GUESSES_MAX);
    all
}

/// Where the bytes of a segment end.
fn stored_end(header: &ProgramHeader) -> u64 {
    header.offset.wrapping_add(header.filesz)
}

/// How far a segment's memory is from where it is mapped.
fn distance_of(header: &ProgramHeader) -> u64 {
    header.vaddr.wrapping_sub(header.paddr)
}

/// Two neighbours by their places in the table, and whether their equation holds.
type Pair = (usize, usize, bool);

/// The equations of a table, as far as its writer kept to them.
#[derive(Clone, Copy)]
struct Rules {
    /// Segments follow each other in the file.
    order: bool,
    /// They are at one distance from their memory.
    distance: bool,
}

/// What [`Rules::turns`] said of headers, until one changes that they were held against.
type Known = BTreeMap<usize, Vec<Turn>>;

/// A bit turned back, or two: how many more equations hold then, and hints besides.
#[derive(Clone)]
struct Turn {
    at: usize,
    gain: (i64, i64, Reverse<u32>),
    header: ProgramHeader,
    members: Members,
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn loads(headers: &[ProgramHeader]) -> impl Iterator<Item = (usize, &ProgramHeader)> + Clone {
    headers.iter().enumerate().filter(|(_, h)| h.kind == PT_LOAD)
}

/// Each two neighbours that are stored, and whether they follow each other.
fn order(headers: &[ProgramHeader]) -> impl Iterator<Item = Pair> {
    let stored = loads(headers).filter(|(_, h)| h.filesz > 0);
    let pairs = stored.clone().zip(stored.skip(1));
    pairs.map(|((i, a), (j, b))| (i, j, stored_end(a) == b.offset))
}

/// Each two neighbours, and whether they are at one distance.
fn distance(headers: &[ProgramHeader]) -> impl Iterator<Item = Pair> {
    let pairs = loads(headers).zip(loads(headers).skip(1));
    pairs.map(|((i, a), (j, b))| (i, j, distance_of(a) == distance_of(b)))
}

impl Rules {
    fn of(headers: &[ProgramHeader]) -> Self {
        let most = |pairs: &mut dyn Iterator<Item = Pair>| {
            let (held, broken): (Vec<_>, Vec<_>) = pairs.partition(|pair| pair.2);
            held.len() > broken.len() && broken.len() <= MAX
        };
        Self { order: most(&mut order(headers)), distance: most(&mut distance(headers)) }
    }

    /// All pairs that count.
    fn pairs(self, headers: &[ProgramHeader]) -> impl Iterator<Item = Pair> {
        order(headers).filter(move |_| self.order).chain(distance(headers).filter(move |_| self.distance))
    }

    /// How many equations hold.
    fn held(self, headers: &[ProgramHeader]) -> i64 {
        count(self.pairs(headers).filter(|pair| pair.2).count())
    }

    /// What is so of most tables, and decides between two proofs: ranges of memory adjoin, no
    /// segment has more bytes than memory, all are whole pages, notes come first, and the last
    /// segment ends where the file does.
    fn hints(headers: &[ProgramHeader], end: u64) -> i64 {
        let pairs = loads(headers).zip(loads(headers).skip(1));
        let adjoin = pairs.filter(|((_, a), (_, b))| a.paddr.wrapping_add(a.memsz) == b.paddr).count();
        let fit = loads(headers).filter(|(_, h)| h.filesz <= h.memsz).count();
        let pages = |h: &ProgramHeader| (h.paddr | h.filesz | h.memsz).is_multiple_of(PAGE_SIZE);
        let whole = loads(headers).filter(|(_, h)| pages(h)).count();
        let notes = headers.first().filter(|h| h.kind == PT_NOTE);
        let first = loads(headers).find(|(_, h)| h.filesz > 0);
        let behind = notes.zip(first).is_some_and(|(n, (_, h))| stored_end(n) == h.offset);
        let last = loads(headers).filter(|(_, h)| h.filesz > 0).last();
        let at_end = last.is_some_and(|(_, h)| stored_end(h) == end);
        count(adjoin + fit + whole + usize::from(behind) + usize::from(at_end))
    }

    /// The bits of header `at` whose turning makes more equations hold.
    fn turns(self, headers: &[ProgramHeader], at: usize, end: u64) -> Option<Vec<Turn>> {
        let first = at.saturating_sub(REACH);
        let mut near = headers.get(first..headers.len().min(at + REACH + 1))?.to_vec();
        let (held, hints, was) = (self.held(&near), Self::hints(&near, end), *headers.get(at)?);
        // Nothing is turned out of its memory or the file: two that are lost prove nothing.
        let within = |h: &ProgramHeader| h.filesz <= h.memsz && h.offset.saturating_add(h.filesz) <= end;
        // What cannot be may have lost two bits.
        let guesses = guesses(&was, &near, if within(&was) { 1 } else { 2 });
        let mut turns = Vec::new();
        for Guess { members, bits, header } in guesses.into_iter().filter(|guess| within(&guess.header)) {
            *near.get_mut(at - first)? = header;
            let more = self.held(&near) - held;
            // Of two members each is to prove itself.
            if more > i64::from(members.1.is_some()) {
                let gain = (more, Self::hints(&near, end) - hints, Reverse(bits));
                turns.push(Turn { at, gain, header, members });
            }
        }
        Some(turns)
    }

    /// Whether each of two neighbours was turned over, since together they gain all that they gain
    /// alone: of two that explain the same contradiction, one takes back what the other gives.
    fn both(self, headers: &[ProgramHeader], one: &Turn, other: &Turn) -> Option<bool> {
        let (low, high) = (one.at.min(other.at), one.at.max(other.at));
        let first = low.saturating_sub(REACH);
        let mut near = headers.get(first..headers.len().min(high + REACH + 1))?.to_vec();
        let held = self.held(&near);
        for turn in [one, other] {
            *near.get_mut(turn.at - first)? = turn.header;
        }
        Some(self.held(&near) - held >= one.gain.0 + other.gain.0)
    }

    /// The bits that can be turned in the headers that are part of a contradiction: those that
    /// gain most, several if nothing tells which of them it was.
    fn best(self, headers: &[ProgramHeader], end: u64, known: &mut Known) -> Vec<Turn> {
        let broken: Vec<Pair> = self.pairs(headers).filter(|pair| !pair.2).collect();
        let of_pairs = broken.iter().flat_map(|&(a, b, _)| [a, b]);
        let unknown =
            headers.iter().enumerate().filter(|(_, h)| ![PT_LOAD, PT_NOTE, LEFT_OUT].contains(&h.kind));
        let mut suspects: Vec<usize> = of_pairs.chain(unknown.map(|(at, _)| at)).take(4 * MAX).collect();
        suspects.sort_unstable();
        suspects.dedup();
        let turns = |at| {
            let turns = known.entry(at).or_insert_with(|| self.turns(headers, at, end).unwrap_or_default());
            turns.clone()
        };
        let mut turns: Vec<Turn> = suspects.into_iter().flat_map(turns).collect();
        let Some((most, at)) = turns.iter().map(|turn| (turn.gain, turn.at)).max() else { return turns };
        // One of the other header of a contradiction would do as well.
        let rival = |other| broken.iter().any(|&(a, b, _)| (a, b) == (at, other) || (a, b) == (other, at));
        turns.retain(|turn| turn.gain == most && (turn.at == at || rival(turn.at)));
        let own: Vec<_> = turns.iter().filter(|turn| turn.at == at).cloned().collect();
        let instead = |other: &Turn| own.iter().any(|turn| self.both(headers, turn, other) != Some(true));
        turns.retain(|turn| turn.at == at || instead(turn));
        turns
    }
}

/// Mends the headers of a dump of `end` bytes. What was done, in words.
pub(in crate::dump) fn mend(headers: &mut [ProgramHeader], end: u64) -> Vec<String> {
    let mut said = Vec::new();
    if !headers.iter().any(|h| h.kind == PT_NOTE)
        && let Some(first) = headers.first_mut().filter(|h| (h.kind.0 ^ PT_NOTE.0).is_power_of_two())
    {
        said.push(format!(
            "program header 0 is damaged: p_type was {:#x}, and is that of notes",
            first.kind.0
        ));
        first.kind = PT_NOTE;
    }
    let (rules, mut known) = (Rules::of(headers), Known::new());
    for _ in 0..MAX {
        let turns = rules.best(headers, end, &mut known);
        match &turns[..] {
            [] => break,
            [turn] => {
                let (at, members) = (turn.at, words(turn.members));
                let one = turn.gain.2 == Reverse(1);
                let (bits, were) = if one { ("a bit of", "was") } else { ("two bits of", "were") };
                said.push(format!(
                    "{bits} {members} of program header {at} {were} turned over, as its neighbours prove"
                ));
                headers.get_mut(at).into_iter().for_each(|h| *h = turn.header);
            }
            several => {
                for Turn { at, members, .. } in several {
                    let Some(header) = headers.get_mut(*at).filter(|h| h.kind != LEFT_OUT) else { continue };
                    let (phys, members) = (header.paddr, words(*members));
                    said.push(format!("program header {at} is damaged, in its {members} or elsewhere: its memory at {phys:#x} is left out"));
                    header.kind = LEFT_OUT;
                }
            }
        }
        for turn in turns {
            known.retain(|&at, _| at.abs_diff(turn.at) > REACH);
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: u64 = 0x4f4_3844;
    const DIRECT: u64 = 0xffff_8f06_0000_0000;

    /// A table as makedumpfile writes it: notes, the kernel's image, and the map of all memory
    /// with a hole in it and a segment without bytes.
    fn table() -> Vec<ProgramHeader> {
        let mut offset = 0x1844;
        let mut load = |vaddr, paddr, filesz, memsz| {
            let at = if filesz == 0 { 0 } else { offset };
            offset += filesz;
            ProgramHeader { kind: PT_LOAD, flags: 7, offset: at, vaddr, paddr, filesz, memsz, align: 0 }
        };
        let image = 0xffff_ffff_8280_0000;
        let mut all = vec![
            ProgramHeader { kind: PT_NOTE, offset: 0x890, filesz: 0xfb4, memsz: 0xfb4, ..load(0, 0, 0, 0) },
            load(image, 0x1400_0000, 0xe3_0000, 0xf8_0000),
            load(image + 0xf8_0000, 0x14f8_0000, 0x8b_0000, 0xa0_0000),
            load(image + 0x198_0000, 0x1598_0000, 0x6e_0000, 0x92_0000),
            load(DIRECT + 0x10_0000, 0x10_0000, 0, 0xf0_0000),
        ];
        for (at, filesz, memsz) in [
            (0x100_0000, 0x84_4000, 0xa5_3000),
            (0x1a5_3000, 0x6a_b000, 0x7a_d000),
            (0x220_0000, 0x45_4000, 0x60_0000),
            (0x280_0000, 0x7_f000, 0x47_d000),
            (0x1400_0000, 0xe3_0000, 0xf8_0000),
            (0x14f8_0000, 0x8b_0000, 0xa0_0000),
            (0x1598_0000, 0x6e_0000, 0x92_0000),
        ] {
            all.push(load(DIRECT + at, at, filesz, memsz));
        }
        all
    }

    #[test]
    fn a_bit_of_a_header_is_turned_back_or_its_memory_left_out() {
        let sound = table();
        let (mut mended, mut left_out) = (0, 0);
        for at in 1..sound.len() {
            for Member { name, of, .. } in &MEMBERS {
                // Nothing proves where the last segment ends.
                for bit in
                    [3, 12, 21, 30, 45].into_iter().filter(|_| *name != "p_filesz" || at + 1 < sound.len())
                {
                    let mut damaged = table();
                    *of(&mut damaged[at]) ^= 1 << bit;
                    let said = mend(&mut damaged, END);
                    if sound[at].filesz == 0 && *name == "p_offset" {
                        continue;
                    }
                    assert_eq!(said.len(), 1, "{name} of {at}, bit {bit}");
                    if damaged[at].kind == LEFT_OUT {
                        damaged[at] = sound[at];
                        left_out += 1;
                    } else {
                        mended += 1;
                    }
                    assert_eq!(damaged, sound, "{name} of {at}, bit {bit}: {said:?}");
                }
            }
        }
        assert!(left_out * 20 < mended, "{left_out} of {mended}");
    }

    /// A bit that is not tried would not have helped.
    #[test]
    fn each_bit_that_makes_an_equation_hold_is_tried() {
        let rules = Rules { order: true, distance: true };
        let check = |near: &[ProgramHeader], at: usize| {
            for member in &MEMBERS {
                let tried = member.turnable(&near[at], near, 1);
                for bit in 0..64 {
                    let mut turned = near.to_vec();
                    *(member.of)(&mut turned[at]) ^= 1 << bit;
                    let helps = rules.held(&turned) > rules.held(near);
                    assert!(!helps || tried.contains(&(1 << bit)), "bit {bit} of {} of {at}", member.name);
                }
            }
        };
        for damaged in 1..table().len() {
            for (member, bit) in (0..MEMBERS.len()).flat_map(|member| [12, 45].map(|bit| (member, bit))) {
                let mut near = table();
                *(MEMBERS[member].of)(&mut near[damaged]) ^= 1 << bit;
                near[(damaged + 3) % 12].filesz = 1 << 13;
                near[(damaged + 5) % 12].offset ^= 1 << 14;
                (0..near.len()).for_each(|at| check(&near, at));
            }
        }
    }

    #[test]
    fn a_kind_is_put_right_and_two_headers_at_once() {
        let sound = table();
        for (at, kind) in [(0, 5), (0, 0x204), (3, 0), (6, 0x8000_0001), (8, 3)] {
            let mut damaged = table();
            damaged[at].kind = ProgramType(kind);
            damaged[2].filesz ^= 1 << 40;
            damaged[10].paddr ^= 1 << 14;
            assert_eq!(mend(&mut damaged, END).len(), 3, "{at} {kind}");
            assert_eq!(damaged, sound);
        }
    }

    /// One that leads out of its memory or the file cannot be right.
    #[test]
    fn two_bits_of_a_header_that_cannot_be_are_turned_back() {
        let sound = table();
        for (at, member, bits) in
            [(2, 3, 1 << 45 | 1 << 51), (6, 0, 1 << 40 | 1 << 13), (9, 3, 1 << 30 | 1 << 12)]
        {
            let mut damaged = table();
            *(MEMBERS[member].of)(&mut damaged[at]) ^= bits;
            let said = mend(&mut damaged, END);
            assert_eq!(damaged, sound, "{said:?}");
            assert!(said[0].starts_with("two bits of"), "{said:?}");
        }
        // Where it might be as it says, or lost three, it stays.
        for (at, member, bits) in [(2, 3, 1 << 13 | 1 << 16), (6, 0, 1 << 40 | 1 << 13 | 1 << 35)] {
            let mut damaged = table();
            *(MEMBERS[member].of)(&mut damaged[at]) ^= bits;
            let before = damaged.clone();
            assert_eq!((mend(&mut damaged, END), damaged), (vec![], before));
        }
    }

    /// Neighbours that are both damaged are none that explain each other, and two members of one
    /// header can be.
    #[test]
    fn neighbours_and_two_members_of_a_header_are_mended() {
        let sound = table();
        for turned in [
            [(7, 2, 1 << 15), (8, 2, 1 << 27)],
            [(7, 3, 1 << 35), (8, 3, 1 << 52)],
            [(7, 0, 1 << 60), (8, 1, 1 << 58)],
            [(9, 0, 1 << 7), (9, 3, 1 << 59)],
        ] {
            let mut damaged = table();
            for (at, member, bit) in turned {
                *(MEMBERS[member].of)(&mut damaged[at]) ^= bit;
            }
            let said = mend(&mut damaged, END);
            assert_eq!(damaged, sound, "{turned:x?}: {said:?}");
        }
        let mut damaged = table();
        damaged[9].kind = ProgramType(0x4000_0001);
        damaged[9].offset ^= 1 << 62;
        let said = mend(&mut damaged, END);
        assert_eq!(damaged, sound, "{said:?}");
        assert_eq!(
            said,
            ["two bits of p_type and p_offset of program header 9 were turned over, as its neighbours prove"]
        );
    }

    /// What was found of one header serves until a neighbour of it changes.
    #[test]
    fn many_headers_of_a_long_table_are_mended() {
        let sound: Vec<_> = (0..800u64)
            .map(|i| {
                let at = i << 12;
                let part = table()[1];
                let (vaddr, paddr) = (DIRECT + at, at);
                ProgramHeader { offset: 0x1844 + at, vaddr, paddr, filesz: 0x1000, memsz: 0x1000, ..part }
            })
            .collect();
        let mut damaged = sound.clone();
        // Some of them within reach of each other.
        for at in (5..300).step_by(5) {
            damaged[at].offset ^= 1 << 13;
        }
        assert_eq!(mend(&mut damaged, END).len(), 59);
        assert_eq!(damaged, sound);
    }

    /// The lost page of a segment, and the tables of other writers, are as they are.
    #[test]
    fn what_is_sound_or_lost_is_not_touched() {
        let mut lost = table();
        let part = lost[6];
        lost[6].filesz = 0x1000;
        lost[6].memsz = 0x1000;
        lost.insert(
            7,
            ProgramHeader {
                offset: 1 << 44,
                vaddr: 0,
                paddr: part.paddr + 0x1000,
                filesz: 4096,
                memsz: 4096,
                ..part
            },
        );
        let more = 0x2000;
        lost.insert(
            8,
            ProgramHeader {
                offset: part.offset + more,
                vaddr: part.vaddr + more,
                paddr: part.paddr + more,
                filesz: part.filesz - more,
                memsz: part.memsz - more,
                ..part
            },
        );
        // Two that are lost behind the segment without bytes, whose offset is 0.
        let mut behind = table();
        for (i, page) in [(5, 0xff_0000), (6, 0xff_1000)] {
            behind.insert(
                i,
                ProgramHeader { offset: 1 << 44, vaddr: 0, paddr: page, filesz: 4096, memsz: 4096, ..part },
            );
        }
        // QEMU without paging: no addresses; with: the same memory many times.
        let mut plain = table();
        plain.iter_mut().for_each(|h| h.vaddr = 0);
        let mut paging = table();
        paging.extend((0..40u64).map(|i| ProgramHeader {
            vaddr: i << 21,
            paddr: (i * 7 % 40) << 21,
            filesz: 1 << 21,
            memsz: 1 << 21,
            offset: 0x1844 + ((i * 7 % 40) << 21),
            ..part
        }));
        for sound in [table(), lost, behind, plain, paging, table()[..2].to_vec(), Vec::new()] {
            let mut same = sound.clone();
            assert_eq!(mend(&mut same, END), Vec::<String>::new());
            assert_eq!(same, sound);
        }
    }
}
