//! Every list of free objects, walked and checked.
//!
//! A link leads to the start of another object of the same slab, or is null. Whatever it
//! says else was written over it: by a user of the object after it was freed, or by whoever
//! ran over the end of the object in front. So a finding names the cache, whose list it is,
//! the object, and what the smashed link looks like.

use std::collections::{HashMap, HashSet};
use std::fmt;

use super::super::View;
use super::super::list::Broken;
use super::super::object::Object;
use super::looks::{self, looks};
use super::marked::{self, Overwritten};
use super::slub::{Cache, Coding, MAX_SLABS, Slab, Slub, listed};
use crate::addr::VirtAddr;

/// Findings of one cache that are told.
const MAX_FINDINGS: usize = 16;
/// Slabs on a CPU's list of partial ones (`cpu_partial` is at most 120 objects).
const MAX_CPU_PARTIAL: usize = 4096;
/// Objects in a sheaf, and sheaves in a barn (`MAX_FULL_SHEAVES` is 10).
const MAX_SHEAF: u64 = 4096;
const MAX_SHEAVES: usize = 1024;

/// Takes each slab: whose it is, and of a CPU's own where the head of the CPU's list
/// stands, and the head. Says whether to go on.
type Take<'a> = &'a mut dyn FnMut(&mut Usage, Place, &Slab, Option<(VirtAddr, u64)>) -> bool;

/// Free objects, and where each is free.
pub(crate) type Free = HashMap<VirtAddr, Place>;

/// Whose list of free objects it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// The one that CPU allocates from.
    Cpu(u32),
    /// A slab that the CPU keeps for later.
    CpuPartial(u32),
    /// An array of objects of a CPU.
    Sheaf(u32),
    /// A slab on a node's list.
    Node(u32),
    /// A slab without free objects, of which a node has a list where owners are stored.
    Full(u32),
    /// An array of objects of a node.
    Barn(u32),
    /// An array of objects of a CPU that wait for RCU.
    Rcu(u32),
    /// A slab's own that is on no list which was found.
    Slab,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu(cpu) => write!(f, "CPU {cpu}'s free list"),
            Self::CpuPartial(cpu) => write!(f, "a partial slab of CPU {cpu}"),
            Self::Sheaf(cpu) => write!(f, "a sheaf of CPU {cpu}"),
            Self::Node(node) => write!(f, "a partial slab of node {node}"),
            Self::Full(node) => write!(f, "a full slab of node {node}"),
            Self::Barn(node) => write!(f, "a sheaf of node {node}"),
            Self::Rcu(cpu) => write!(f, "objects of CPU {cpu} that wait for RCU"),
            Self::Slab => f.write_str("its slab's free list"),
        }
    }
}

/// What is wrong with a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// A link leads to no object of its slab.
    Link(Smashed),
    /// A list of slabs is broken.
    List(Broken),
    /// This is no slab of the cache.
    Slab(VirtAddr, &'static str),
    /// Somebody wrote where nobody may.
    Marks(Overwritten),
    /// So many objects of a slab are free by its list, and so many by its count.
    Count { slab: VirtAddr, listed: u64, counted: u64 },
}

/// A link that was overwritten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Smashed {
    /// The slab whose list it is.
    pub(crate) slab: Slab,
    /// The free object that has it; `None`: the head of the list.
    pub(crate) object: Option<VirtAddr>,
    /// Where it stands, what is stored there, and what that means.
    pub(crate) at: VirtAddr,
    pub(crate) stored: u64,
    pub(crate) value: u64,
    pub(crate) why: Why,
    /// The object that the head was taken from: it has this very link, or had it by all
    /// that the head says.
    pub(crate) from: Option<VirtAddr>,
    pub(crate) inferred: bool,
}

/// Why a link cannot be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    NoAddress,
    Elsewhere,
    BetweenObjects,
    Again,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoAddress => "no address of the kernel",
            Self::Elsewhere => "outside of its slab",
            Self::BetweenObjects => "not the start of an object",
            Self::Again => "an object that is on the list already",
        })
    }
}

impl Smashed {
    /// What the link looks like: as it is stored, then as it is meant.
    #[must_use]
    pub(crate) fn looks(&self) -> Option<String> {
        looks(self.stored).or_else(|| looks(self.value))
    }

    /// The object that holds the smashed link, as far as that is known.
    #[must_use]
    pub(crate) fn holder(&self) -> Option<VirtAddr> {
        self.object.or(self.from)
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) place: Place,
    pub(crate) wrong: Wrong,
}

/// What a cache has, and what is wrong with it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Usage {
    /// By the nodes' counters; `None` without `CONFIG_SLUB_DEBUG`.
    pub(crate) slabs: Option<u64>,
    pub(crate) total: Option<u64>,
    /// Free objects: on the CPUs' lists, in partial slabs, in sheaves.
    pub(crate) free: u64,
    pub(crate) findings: Vec<Finding>,
    /// Findings beyond those, and whether the bound on links ended the walk.
    pub(crate) more: usize,
    pub(crate) cut: bool,
    /// What could not be read: then nobody knows what is behind it.
    pub(crate) unread: usize,
}

impl Usage {
    /// Objects in use; not known where something could not be read.
    #[must_use]
    pub(crate) fn allocated(&self) -> Option<u64> {
        self.total?.checked_sub(self.free).filter(|_| self.unread == 0 && !self.cut)
    }

    fn find(&mut self, place: Place, wrong: Wrong) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(Finding { place, wrong });
        } else {
            self.more += 1;
        }
    }
}

/// Free objects of one list, as far as it is whole.
#[derive(Debug, Default)]
pub(crate) struct Walked {
    pub(crate) objects: Vec<VirtAddr>,
    pub(crate) smashed: Option<Smashed>,
    /// The last object's link cannot be read.
    pub(crate) unread: bool,
}

impl Slub {
    /// Follows a list of `slab`'s free objects from `head`, which stands at `at`. A slab
    /// has no more objects than `slab.objects`, which its caller found plausible.
    #[must_use]
    pub(crate) fn walk(&self, view: &View, cache: &Cache, slab: &Slab, at: VirtAddr, head: u64) -> Walked {
        let mut walked = Walked::default();
        let mut seen = HashSet::new();
        let (mut object, mut at, mut stored, mut value) = (None, at, head, head);
        while value != 0 {
            let smashed =
                |why| Smashed { slab: *slab, object, at, stored, value, why, from: None, inferred: false };
            let next = match slab.object(cache, value) {
                Some(next) if !seen.insert(next) => Err(Why::Again),
                Some(next) => Ok(next),
                None if value < view.user_limit() || !canonical(value) => Err(Why::NoAddress),
                None if slab.holding(cache, value).is_some() => Err(Why::BetweenObjects),
                None => Err(Why::Elsewhere),
            };
            let next = match next {
                Ok(next) => next,
                Err(why) => {
                    walked.smashed = Some(smashed(why));
                    break;
                }
            };
            walked.objects.push(next);
            let Some((place, word)) = self.stored(view, cache, next) else {
                walked.unread = true;
                break;
            };
            (object, at, stored) = (Some(next), place, word);
            value = self.decode(cache, word, place);
        }
        if let Some(smashed) = walked.smashed.as_mut().filter(|s| s.object.is_none()) {
            self.blame(view, cache, smashed);
        }
        walked
    }

    /// The head of a CPU's list is smashed when the object with the smashed link was
    /// allocated. It may still have that link; or else it was filled with zeros then
    /// (`init_on_alloc`). As a link is mixed with its place, the head tells for each object
    /// what its link must have been: that is a text for a few of them, and the right one is
    /// where the object in front ends with a text, too.
    fn blame(&self, view: &View, cache: &Cache, smashed: &mut Smashed) {
        let slab = smashed.slab;
        let all = (0..slab.objects).filter_map(|i| slab.nth(cache, i));
        let found = all.clone().filter_map(|object| Some((object, self.stored(view, cache, object)?)));
        let mut links = found.filter(|(_, (at, stored))| self.decode(cache, *stored, *at) == smashed.value);
        if let Some((object, (_, stored))) = links.next() {
            (smashed.from, smashed.stored) = (Some(object), stored);
            return;
        }
        if self.coding == Coding::Plain {
            return;
        }
        let mut texts = all.filter_map(|object| {
            let stored = self.decode(cache, smashed.value, object.checked_add(cache.offset)?);
            let end = VirtAddr(object.0.checked_sub(8)?);
            let runs_over = || view.space().read_u64(end).is_ok_and(looks::is_text);
            (looks::is_text(stored) && runs_over()).then_some((object, stored))
        });
        if let (Some((object, stored)), None) = (texts.next(), texts.next()) {
            (smashed.from, smashed.stored, smashed.inferred) = (Some(object), stored, true);
        }
    }

    /// Walks and checks every list of free objects of `cache`, with so many links left.
    #[must_use]
    pub(crate) fn usage(&self, view: &View, cache: &Cache, links: &mut usize) -> Usage {
        let mut usage = Usage::default();
        let add = |part: Option<u64>, to: fn(&mut Usage) -> &mut Option<u64>, usage: &mut Usage| {
            let sum = to(usage).unwrap_or(0).checked_add(part?)?;
            *to(usage) = Some(sum);
            Some(())
        };
        for (_, node) in &cache.nodes {
            let node = Object::new(view, "kmem_cache_node", *node);
            let count = |path| node.number(path).filter(|n| *n < 1 << 40);
            add(count("nr_slabs.counter").or_else(|| count("nr_slabs")), |u| &mut u.slabs, &mut usage);
            let total = count("total_objects.counter").or_else(|| count("total_objects"));
            add(total, |u| &mut u.total, &mut usage);
        }
        self.each_slab(view, cache, &mut usage, &mut |usage, place, slab, head| {
            let mut follow = |usage: &mut Usage, at, head| {
                let walked = self.walk(view, cache, slab, at, head);
                let listed = walked.objects.len();
                *links = links.saturating_sub(listed + 1);
                let whole = walked.smashed.is_none() && !walked.unread;
                usage.unread += usize::from(walked.unread);
                if let Some(smashed) = walked.smashed {
                    usage.find(place, Wrong::Link(smashed));
                }
                (listed as u64, whole)
            };
            // What the CPU took over; what others freed since is on the slab's own list.
            if let Some((at, head)) = head {
                usage.free += follow(usage, at, head).0;
            }
            let counted = slab.objects.saturating_sub(slab.inuse);
            usage.free += counted;
            let (listed, whole) = follow(usage, self.head_of(slab), slab.freelist);
            if whole && listed != counted {
                usage.find(place, Wrong::Count { slab: slab.at, listed, counted });
            }
            if cache.marks.is_some() {
                let lists = (place, head);
                let free = self.free_of(view, cache, slab, lists, []);
                let (all, unread) =
                    marked::overwritten(view, cache, slab, &|object| free.contains_key(&object));
                all.into_iter().for_each(|marks| usage.find(place, Wrong::Marks(marks)));
                usage.unread += unread;
                *links = links.saturating_sub(usize::try_from(slab.objects).unwrap_or(0));
            }
            usage.cut |= *links == 0;
            *links > 0
        });
        let mut sheaved = 0;
        self.each_sheaved(view, cache, &mut |place, object| {
            // Those that wait for RCU may be read yet: the kernel counts them as used.
            sheaved += u64::from(!matches!(place, Place::Rcu(_)));
            match self.holding(view, object) {
                Some((owner, slab)) if owner.addr == cache.addr && slab.object(cache, object.0).is_some() => {
                }
                None if self.is_unread(view, object) => usage.unread += 1,
                _ => usage.find(place, Wrong::Slab(object, "no object of the cache in a sheaf")),
            }
        });
        usage.free += sheaved;
        usage
    }

    /// Where a slab has the head of its own list.
    fn head_of(&self, slab: &Slab) -> VirtAddr {
        VirtAddr(slab.at.0.wrapping_add(self.layout.freelist.offset))
    }

    /// Every slab of `cache` that is on a list of the CPUs or nodes.
    fn each_slab(&self, view: &View, cache: &Cache, usage: &mut Usage, take: Take<'_>) {
        let (lists, unread) = self.cpu_lists(view, cache);
        usage.unread += unread;
        for list in lists {
            let place = Place::Cpu(list.cpu);
            if list.slab_at.0 == 0 {
                if list.freelist != 0 {
                    let why = "no slab, and yet there are free objects";
                    usage.find(place, Wrong::Slab(list.slab_at, why));
                }
            } else if let Some(slab) = self.belonging(view, cache, list.slab_at, place, usage)
                && !take(usage, place, &slab, Some((list.at, list.freelist)))
            {
                return;
            }
            let place = Place::CpuPartial(list.cpu);
            let (mut at, mut seen) = (list.partial, HashSet::new());
            while at != 0 && seen.len() < MAX_CPU_PARTIAL {
                if !seen.insert(at) {
                    usage.find(place, Wrong::List(Broken::Circle(at)));
                    break;
                }
                let Some(slab) = self.belonging(view, cache, VirtAddr(at), place, usage) else { break };
                if !take(usage, place, &slab, None) {
                    return;
                }
                let next = self.layout.next.and_then(|f| VirtAddr(at).checked_add(f.offset));
                at = next.and_then(|next| view.space().read_u64(next).ok()).unwrap_or(0);
            }
        }
        let mut of_nodes: Vec<_> =
            cache.nodes.iter().map(|(id, node)| (Place::Node(*id), *node, "partial")).collect();
        if cache.marks.is_some() {
            of_nodes.extend(cache.nodes.iter().map(|(id, node)| (Place::Full(*id), *node, "full")));
        }
        for (place, node, list) in of_nodes {
            let (slabs, broken) = listed(view, self, node, list);
            for at in slabs {
                if let Some(slab) = self.belonging(view, cache, at, place, usage)
                    && !take(usage, place, &slab, None)
                {
                    return;
                }
            }
            match broken {
                Some(Broken::Unreadable(..)) => usage.unread += 1,
                Some(broken) => usage.find(place, Wrong::List(broken)),
                None => {}
            }
        }
    }

    /// The slab at `at`, if it is one of `cache`.
    fn belonging(
        &self,
        view: &View,
        cache: &Cache,
        at: VirtAddr,
        place: Place,
        usage: &mut Usage,
    ) -> Option<Slab> {
        match self.slab(view, at) {
            Some(slab) if slab.cache == cache.addr && self.plausible(cache, &slab) => return Some(slab),
            None if self.pages.address(at).is_some() => usage.unread += 1,
            _ => usage.find(place, Wrong::Slab(at, "no slab of the cache")),
        }
        None
    }

    /// Whether nothing is known of `object` because its `struct page` is not in the dump.
    fn is_unread(&self, view: &View, object: VirtAddr) -> bool {
        self.pages
            .of(object)
            .is_some_and(|page| self.pages.head(view, page).and_then(|head| self.slab(view, head)).is_none())
    }

    /// The slabs of `cache` that are on a list: whose, and the free objects of each.
    #[must_use]
    pub(crate) fn slabs(&self, view: &View, cache: &Cache) -> Vec<(Place, Slab, Free)> {
        let (mut slabs, mut lists) = (Vec::new(), HashMap::new());
        self.each_slab(view, cache, &mut Usage::default(), &mut |_, place, slab, head| {
            lists.entry(slab.at).or_insert((place, head));
            slabs.push((place, *slab));
            slabs.len() < MAX_SLABS
        });
        let mut sheaved = Vec::new();
        self.each_sheaved(view, cache, &mut |place, object| sheaved.push((place, object)));
        sheaved.sort_by_key(|(_, object)| *object);
        let of = |(place, slab): (Place, Slab)| {
            let list = lists.get(&slab.at).copied().unwrap_or((Place::Slab, None));
            let first = slab.nth(cache, 0).unwrap_or(slab.base);
            let before = sheaved.partition_point(|(_, object)| *object < first);
            let sheaved = sheaved.get(before..).unwrap_or_default().iter().copied();
            let inside = sheaved.take_while(|(_, object)| slab.holding(cache, object.0).is_some());
            (place, slab, self.free_of(view, cache, &slab, list, inside))
        };
        slabs.into_iter().map(of).collect()
    }

    /// Every free object that stands in an array.
    fn each_sheaved(&self, view: &View, cache: &Cache, take: &mut dyn FnMut(Place, VirtAddr)) {
        let mut sheaf = |place, at: VirtAddr| {
            let sheaf = Object::new(view, "slab_sheaf", at);
            let size = sheaf.number("size").filter(|n| *n <= MAX_SHEAF).unwrap_or(0);
            let objects = sheaf.address("objects");
            for i in 0..size {
                let at = objects.and_then(|at| at.checked_add(i * 8));
                if let Some(object) = at.and_then(|at| view.space().read_u64(at).ok()) {
                    take(place, VirtAddr(object));
                }
            }
        };
        if let Some(sheaves) = cache.cpu_sheaves {
            for &cpu in view.percpu().present() {
                let Some(base) = view.percpu().address(sheaves, cpu) else { continue };
                let held = Object::new(view, "slub_percpu_sheaves", base);
                for (path, place) in
                    [("main", Place::Sheaf(cpu)), ("spare", Place::Sheaf(cpu)), ("rcu_free", Place::Rcu(cpu))]
                {
                    if let Some(at) = held.pointer(path) {
                        sheaf(place, at);
                    }
                }
            }
        }
        let link = view.types().field("slab_sheaf", "barn_list");
        for (id, barn) in &cache.barns {
            let head = Object::new(view, "node_barn", *barn).address("sheaves_full");
            let (Some(head), Some(link)) = (head, link) else { continue };
            let full = super::super::list::List::circular(view, head, link.offset, MAX_SHEAVES);
            full.for_each(|at| sheaf(Place::Barn(*id), at));
        }
    }

    /// The free objects of one slab, and where each is free.
    #[must_use]
    pub(crate) fn free_in(&self, view: &View, cache: &Cache, slab: &Slab) -> Free {
        let mut list = (Place::Slab, None);
        self.each_slab(view, cache, &mut Usage::default(), &mut |_, place, at, head| {
            if at.at != slab.at {
                return true;
            }
            list = (place, head);
            false
        });
        let mut sheaved = Vec::new();
        self.each_sheaved(view, cache, &mut |place, object| {
            if slab.object(cache, object.0).is_some() {
                sheaved.push((place, object));
            }
        });
        self.free_of(view, cache, slab, list, sheaved)
    }

    /// The same, by the list that the slab is on and the objects of it in arrays.
    fn free_of(
        &self,
        view: &View,
        cache: &Cache,
        slab: &Slab,
        (place, head): (Place, Option<(VirtAddr, u64)>),
        sheaved: impl IntoIterator<Item = (Place, VirtAddr)>,
    ) -> Free {
        let lists = head.into_iter().chain([(self.head_of(slab), slab.freelist)]);
        let walked = lists.flat_map(|(at, head)| self.walk(view, cache, slab, at, head).objects);
        let mut free: Free = walked.map(|object| (object, place)).collect();
        let sheaved = sheaved.into_iter().filter(|(_, object)| slab.object(cache, object.0).is_some());
        free.extend(sheaved.map(|(place, object)| (object, place)));
        free
    }
}

/// Whether the upper bits are those of a kernel's address, with four levels or five.
fn canonical(value: u64) -> bool {
    value >> 56 == 0xff
}
