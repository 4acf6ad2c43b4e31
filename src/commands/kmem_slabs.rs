//! `kmem -s` and `-S`: the slab caches, every list of free objects walked.

use serde::Serialize;

use super::damage::Damage;
use super::unknown;
use crate::addr::VirtAddr;
use crate::commands::{Answer, CommandError, Context, Result, Text};
use crate::linux::Kernel;
use crate::linux::memory::freelists::{Free, Place};
use crate::linux::memory::slub::{Cache, Slab, Slub};
use crate::text::{Screen, row};

/// Objects of one slab that are shown.
const MAX_OBJECTS: u64 = 4096;

#[derive(Serialize)]
struct Row {
    cache: VirtAddr,
    name: String,
    objsize: u64,
    size: u64,
    allocated: Option<u64>,
    total: Option<u64>,
    slabs: Option<u64>,
    ssize: u64,
    free: u64,
    damage: Vec<Damage>,
    /// Findings that are not among `damage`.
    more_damage: usize,
    /// Slabs and links that could not be read.
    unread: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    listed: Option<Vec<Listed>>,
}

/// A slab on a list.
#[derive(Serialize)]
struct Listed {
    place: String,
    slab: VirtAddr,
    memory: VirtAddr,
    total: u64,
    allocated: u64,
    free: u64,
    objects: Vec<Object>,
}

#[derive(Serialize)]
struct Object {
    object: VirtAddr,
    free: Option<String>,
}

#[derive(Serialize)]
#[serde(transparent)]
struct Caches {
    rows: Vec<Row>,
    #[serde(skip)]
    remarks: Vec<String>,
}

pub(super) fn run<'d>(
    kernel: &'d Kernel,
    names: &[String],
    objects: bool,
    context: Context<'d>,
) -> Result<Answer<'d>> {
    let slub = kernel.memory().slub(kernel).map_err(unknown)?;
    let wanted = |cache: &&Cache| names.is_empty() || names.contains(&cache.name);
    let caches: Vec<&Cache> = slub.caches.iter().filter(wanted).collect();
    if let Some(name) = names.iter().find(|n| !caches.iter().any(|c| c.name == **n)) {
        return Err(CommandError::Failed(format!("there is no slab cache {name}; `kmem -s` lists them")));
    }
    let row = |cache: &&Cache| {
        context.check()?;
        let usage = slub.usage(kernel, cache, &mut usize::MAX.clone());
        Ok(Row {
            cache: cache.addr,
            name: cache.name.clone(),
            objsize: cache.object_size,
            size: cache.size,
            allocated: usage.allocated(),
            total: usage.total,
            slabs: usage.slabs,
            ssize: 4096 << cache.order,
            free: usage.free,
            damage: usage.findings.iter().map(|f| Damage::of(kernel, slub, cache, f)).collect(),
            more_damage: usage.more,
            unread: usage.unread,
            listed: objects.then(|| listed(kernel, slub, cache)),
        })
    };
    let rows = caches.iter().map(row).collect::<Result<_>>()?;
    Ok(Caches { rows, remarks: slub.remarks.clone() }.into())
}

fn listed(kernel: &Kernel, slub: &Slub, cache: &Cache) -> Vec<Listed> {
    let one = |(place, slab, free): (Place, Slab, Free)| {
        let all = (0..slab.objects.min(MAX_OBJECTS)).filter_map(|i| slab.nth(cache, i));
        Listed {
            place: place.to_string(),
            slab: slab.at,
            memory: slab.base,
            total: slab.objects,
            allocated: slab.objects.saturating_sub(free.len() as u64),
            free: free.len() as u64,
            objects: all
                .map(|object| Object { object, free: free.get(&object).map(ToString::to_string) })
                .collect(),
        }
    };
    slub.slabs(kernel, cache).into_iter().map(one).collect()
}

impl Text for Caches {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        row!(screen, "CACHE             OBJSIZE  ALLOCATED     TOTAL  SLABS  SSIZE  NAME")?;
        let number = |n: Option<u64>| n.map_or("?".to_owned(), |n| n.to_string());
        for r in &self.rows {
            let (allocated, total, slabs) = (number(r.allocated), number(r.total), number(r.slabs));
            let (cache, size) = (r.cache.0, r.ssize >> 10);
            row!(
                screen,
                "{cache:016x} {:>8} {allocated:>10} {total:>9} {slabs:>6} {size:>5}k  {}",
                r.objsize,
                r.name
            )?;
            for slab in r.listed.iter().flatten() {
                slab.text(screen)?;
            }
        }
        for remark in &self.remarks {
            row!(screen, "({remark})")?;
        }
        let lost = self.rows.iter().filter(|r| r.unread > 0).count();
        if lost > 0 {
            row!(screen, "(of {lost} caches not every list of free objects can be read)")?;
        }
        for r in self.rows.iter().filter(|r| !r.damage.is_empty()) {
            row!(screen)?;
            r.damage.iter().try_for_each(|damage| damage.text(screen))?;
            if r.more_damage > 0 {
                row!(screen, "({} more of {})", r.more_damage, r.name)?;
            }
        }
        Ok(())
    }

    fn failure(&self) -> Option<String> {
        let damaged: Vec<&str> =
            self.rows.iter().filter(|r| !r.damage.is_empty()).map(|r| r.name.as_str()).collect();
        (!damaged.is_empty()).then(|| format!("slab caches are damaged: {}", damaged.join(", ")))
    }
}

impl Listed {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        row!(screen, "  {}", self.place)?;
        row!(screen, "  SLAB              MEMORY            TOTAL  ALLOCATED  FREE")?;
        row!(
            screen,
            "  {:016x}  {:016x}  {:>5}  {:>9}  {:>4}",
            self.slab.0,
            self.memory.0,
            self.total,
            self.allocated,
            self.free
        )?;
        row!(screen, "  FREE / [ALLOCATED]")?;
        for Object { object, free } in &self.objects {
            match free {
                Some(place) => row!(screen, "   {:016x}  ({place})", object.0)?,
                None => row!(screen, "  [{:016x}]", object.0)?,
            }
        }
        Ok(())
    }
}
