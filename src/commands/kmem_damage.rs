//! What is wrong with a slab cache, as machines and people are told.

use std::io;

use serde::Serialize;

use crate::addr::VirtAddr;
use crate::commands::rd::{ascii, is_printable};
use crate::hex;
use crate::linux::Kernel;
use crate::linux::memory::freelists::{Finding, Smashed, Wrong};
use crate::linux::memory::marked::{self, Overwritten, Track, Zone};
use crate::linux::memory::slub::{Cache, Slub};
use crate::text::{Screen, row};

/// Bytes of an object that are shown.
const SHOWN: usize = 48;

/// More findings than this are of a dump that is damaged itself, or of a kernel that
/// nobody understands.
pub(in crate::commands) const MANY: usize = 64;

/// One finding.
#[derive(Debug, Clone, Serialize)]
pub(in crate::commands) struct Damage {
    pub(in crate::commands) cache: String,
    pub(in crate::commands) place: String,
    /// A sentence.
    pub(in crate::commands) what: String,
    pub(in crate::commands) slab: Option<VirtAddr>,
    /// The free object whose link was overwritten, and the link: as it is stored and
    /// what it means.
    pub(in crate::commands) object: Option<Neighbour>,
    pub(in crate::commands) link_at: Option<VirtAddr>,
    pub(in crate::commands) stored: Option<VirtAddr>,
    pub(in crate::commands) value: Option<VirtAddr>,
    pub(in crate::commands) looks: Option<String>,
    /// Where a red zone or poison was first written over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::commands) marks_at: Option<VirtAddr>,
    /// The object in front, which may have run over its end.
    pub(in crate::commands) before: Option<Neighbour>,
}

/// An object that is shown.
#[derive(Debug, Clone, Serialize)]
pub(in crate::commands) struct Neighbour {
    pub(in crate::commands) at: VirtAddr,
    pub(in crate::commands) allocated: bool,
    /// Where the bytes are from: of the object in front its end.
    pub(in crate::commands) from: VirtAddr,
    pub(in crate::commands) hex: String,
    /// Who had it, where `slub_debug` keeps that.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(in crate::commands) owners: Vec<Track>,
    #[serde(skip)]
    bytes: Vec<u8>,
}

impl Damage {
    pub(in crate::commands) fn of(kernel: &Kernel, slub: &Slub, cache: &Cache, finding: &Finding) -> Self {
        let mut damage = Self {
            cache: cache.name.clone(),
            place: finding.place.to_string(),
            what: String::new(),
            slab: None,
            object: None,
            link_at: None,
            stored: None,
            value: None,
            looks: None,
            marks_at: None,
            before: None,
        };
        match &finding.wrong {
            Wrong::Link(smashed) => damage.link(kernel, slub, cache, smashed),
            Wrong::List(broken) => damage.what = format!("the list of partial slabs is broken: {broken}"),
            Wrong::Slab(at, why) => {
                damage.slab = Some(*at);
                damage.what = format!("{at} is {why}");
            }
            Wrong::Marks(marks) => damage.marks(kernel, slub, cache, marks),
            Wrong::Count { slab, listed, counted } => {
                damage.slab = Some(*slab);
                damage.what = format!("slab {slab} counts {counted} free objects and lists {listed}");
            }
        }
        damage
    }

    fn link(&mut self, kernel: &Kernel, slub: &Slub, cache: &Cache, smashed: &Smashed) {
        let Smashed { slab, at, stored, value, why, .. } = smashed;
        let free = slub.free_in(kernel, cache, slab);
        let neighbour = |index: u64, end: bool| {
            let object = slab.nth(cache, index)?;
            Some(Neighbour::of(kernel, cache, object, !free.contains_key(&object), end))
        };
        let holder = smashed.holder().and_then(|object| slab.holding(cache, object.0));
        self.slab = Some(slab.at);
        self.object = holder.and_then(|(_, index)| neighbour(index, false));
        self.before = holder.and_then(|(_, index)| neighbour(index.checked_sub(1)?, true));
        (self.link_at, self.stored, self.value) =
            (Some(*at), Some(VirtAddr(*stored)), Some(VirtAddr(*value)));
        self.looks = smashed.looks();
        let link = match (smashed.object, smashed.from) {
            (Some(object), _) => format!("the link in its free object {object}"),
            (None, Some(from)) if smashed.inferred => {
                format!("its head, by its text the link that free object {from} had,")
            }
            (None, Some(from)) => format!("its head, the link that free object {from} had,"),
            (None, None) => "its head".to_owned(),
        };
        let looks = self.looks.as_ref().map(|looks| format!(": {looks}")).unwrap_or_default();
        let stored = if stored == value { String::new() } else { format!(" (stored as {stored:#x})") };
        self.what = format!("{link} leads to {value:#x}{stored}, {why}{looks}");
    }

    fn marks(&mut self, kernel: &Kernel, slub: &Slub, cache: &Cache, marks: &Overwritten) {
        let Overwritten { object, zone, at, wanted, found } = marks;
        let slab = slub.holding(kernel, *object).map(|(_, slab)| slab);
        let free = slab.map(|slab| slub.free_in(kernel, cache, &slab)).unwrap_or_default();
        let neighbour =
            |object: VirtAddr, end| Neighbour::of(kernel, cache, object, !free.contains_key(&object), end);
        self.slab = slab.map(|slab| slab.at);
        self.object = Some(neighbour(*object, false));
        if *zone == Zone::Left {
            // Else the object itself was run over, or used after it was freed.
            let index = slab.and_then(|slab| slab.holding(cache, object.0)?.1.checked_sub(1));
            let before = slab.zip(index).and_then(|(slab, index)| slab.nth(cache, index));
            self.before = before.map(|before| neighbour(before, true));
        }
        self.marks_at = Some(*at);
        let offset = match at.0.checked_sub(object.0) {
            Some(offset) => format!("+{offset:#x}"),
            None => format!("-{:#x}", object.0 - at.0),
        };
        let digits: Vec<String> = found.iter().map(|byte| format!("{byte:02x}")).collect();
        let (digits, text) = (digits.join(" "), ascii(found));
        self.what = format!("{zone} of {object} at {offset}: {digits} ({text}), not {wanted:02x}");
    }

    /// A paragraph.
    pub(in crate::commands) fn text(&self, screen: &mut Screen<'_>) -> io::Result<()> {
        row!(screen, "{} is damaged, {}: {}", self.cache, self.place, self.what)?;
        for (words, object) in [("that object", &self.object), ("the object in front", &self.before)] {
            let Some(object) = object else { continue };
            let state = if object.allocated { "not on a free list" } else { "free" };
            row!(screen, "    {words}, {}, is {state}; from {} on:", object.at, object.from)?;
            object.rows(screen)?;
            for track in &object.owners {
                row!(screen, "        {track}")?;
                track.stack.iter().try_for_each(|frame| row!(screen, "            {frame}"))?;
            }
        }
        Ok(())
    }
}

impl Neighbour {
    /// The object with its first bytes, or the last ones before the next.
    fn of(kernel: &Kernel, cache: &Cache, at: VirtAddr, allocated: bool, end: bool) -> Self {
        let len = SHOWN.min(usize::try_from(cache.size).unwrap_or(SHOWN));
        let skipped = if end { cache.size.saturating_sub(len as u64) } else { 0 };
        let from = VirtAddr(at.0.saturating_add(skipped));
        let mut bytes = vec![0; len];
        let read = kernel.space().read(from, &mut bytes).unwrap_or(0);
        bytes.truncate(read);
        let owners = marked::tracks(kernel, cache, at);
        Self { at, allocated, from, hex: hex::encode(&bytes), owners, bytes }
    }

    /// The bytes as text: those that are none are left out.
    pub(in crate::commands) fn letters(&self) -> String {
        self.bytes.iter().filter(|b| is_printable(b)).map(|b| char::from(*b)).collect()
    }

    fn rows(&self, screen: &mut Screen<'_>) -> io::Result<()> {
        for part in self.bytes.chunks(16) {
            let digits: Vec<String> = part.iter().map(|b| format!("{b:02x}")).collect();
            row!(screen, "        {:<47}  {}", digits.join(" "), ascii(part))?;
        }
        Ok(())
    }
}
