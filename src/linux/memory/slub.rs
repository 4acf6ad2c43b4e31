//! The slab allocator's caches, and where each keeps its free objects.
//!
//! A cache's free objects hang on lists through the objects themselves, one list for each
//! slab and one for each CPU. Where the kernel is hardened
//! (`CONFIG_SLAB_FREELIST_HARDENED`) a link is stored mixed with the cache's random number
//! and its own place.
//!
//! | kernel | free objects | a link |
//! |---|---|---|
//! | until 4.13 | `kmem_cache_cpu.freelist` and its `page`, `partial`; `page.freelist` of `node[].partial` | plain |
//! | 4.14 - 5.6 | the same | `^ random ^ place` |
//! | 5.7 and later | the same; `struct slab` for `page` since 5.17 | `^ random ^ swab(place)` |
//! | 6.18 and later | arrays of objects beside them: `slub_percpu_sheaves`, `node_barn` | the same |
//! | 7.x | no `kmem_cache_cpu` any more; `per_node[]` for `node[]` | the same |
//!
//! Which holds is told by the types; which mixing, by which one gives objects. Sources:
//! `mm/slub.c`, `mm/slab.h`, `include/linux/slub_def.h`.

use super::super::View;
use super::super::list::{Broken, List};
use super::super::object::{Object, number};
use super::marks::{Flags, Marks};
use super::pages::PageMap;
use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::debuginfo::Field;

/// Caches that are believed: with memory cgroups a machine had thousands until 5.9.
const MAX_CACHES: usize = 1 << 16;
/// Nodes (`MAX_NUMNODES`).
const MAX_NODES: u64 = 1024;
/// Longest name of a cache.
const NAME_MAX: usize = 128;
/// No slab has more pages (`slub_max_order` is 3; huge objects take up to `MAX_PAGE_ORDER`).
const MAX_ORDER: u32 = 11;
/// Slabs on one list.
pub(super) const MAX_SLABS: usize = 1 << 20;
/// Lists whose first link decides how links are stored.
const SAMPLE: usize = 256;

/// How a link is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    Plain,
    Mixed,
    MixedSwapped,
}

impl Coding {
    /// The link that is stored at `at` as `stored`. Decoding and encoding are one.
    #[must_use]
    pub(crate) fn decode(self, stored: u64, random: u64, at: VirtAddr) -> u64 {
        match self {
            Self::Plain => stored,
            Self::Mixed => stored ^ random ^ at.0,
            Self::MixedSwapped => stored ^ random ^ at.0.swap_bytes(),
        }
    }
}

/// What the types say.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    cache: Field,
    pub(super) freelist: Field,
    inuse: Field,
    objects: Field,
    frozen: Option<Field>,
    /// Its link in a list of slabs.
    pub(super) link: Field,
    /// The next of a CPU's partial slabs.
    pub(super) next: Option<Field>,
}

impl Layout {
    fn resolve(view: &View) -> Option<Self> {
        let types = view.types();
        let slab = if types.field("slab", "slab_cache").is_some() { "slab" } else { "page" };
        let field = |paths: &[&str]| paths.iter().find_map(|p| types.field(slab, p));
        Some(Self {
            cache: field(&["slab_cache", "slab"])?,
            freelist: field(&["freelist"])?,
            inuse: field(&["inuse"])?,
            objects: field(&["objects"])?,
            frozen: field(&["frozen"]),
            link: field(&["slab_list", "lru"])?,
            next: field(&["next"]),
        })
    }
}

/// Something of each node, by the node's number.
type ByNode = Vec<(u32, VirtAddr)>;

/// One cache.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    /// Its `struct kmem_cache`.
    pub(crate) addr: VirtAddr,
    pub(crate) name: String,
    /// Bytes from one object to the next, and those that its user asked for.
    pub(crate) size: u64,
    pub(crate) object_size: u64,
    /// Where a free object has its link.
    pub(crate) offset: u64,
    /// Bytes in front of the first object (`SLAB_RED_ZONE`).
    pub(crate) pad: u64,
    /// Pages of a slab: 2 to the power of this.
    pub(crate) order: u32,
    random: u64,
    /// What `slub_debug` had it mark.
    pub(super) marks: Option<Marks>,
    /// Per-CPU pointers: `cpu_slab`, `cpu_sheaves`.
    pub(super) cpu_slab: Option<VirtAddr>,
    pub(super) cpu_sheaves: Option<VirtAddr>,
    /// `struct kmem_cache_node` and `struct node_barn` of each node.
    pub(super) nodes: ByNode,
    pub(super) barns: ByNode,
}

/// One slab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slab {
    /// Its `struct slab` or `struct page`.
    pub(crate) at: VirtAddr,
    /// Its memory.
    pub(crate) base: VirtAddr,
    /// The cache it says it belongs to.
    pub(crate) cache: VirtAddr,
    pub(crate) objects: u64,
    pub(crate) inuse: u64,
    /// Whether a CPU has it.
    pub(crate) frozen: bool,
    /// The first of its free objects, or 0.
    pub(crate) freelist: u64,
}

impl Slab {
    /// The object at `addr`, if one begins there.
    #[must_use]
    pub(crate) fn object(&self, cache: &Cache, addr: u64) -> Option<VirtAddr> {
        let (start, _) = self.holding(cache, addr)?;
        (start.0 == addr).then_some(start)
    }

    /// The object in which `addr` lies, with what belongs to it, and its number.
    #[must_use]
    pub(crate) fn holding(&self, cache: &Cache, addr: u64) -> Option<(VirtAddr, u64)> {
        let first = self.base.0.checked_add(cache.pad)?;
        let index = addr.checked_sub(first)?.checked_div(cache.size)?;
        (index < self.objects).then(|| (VirtAddr(first + index * cache.size), index))
    }

    /// Where the object of this number is.
    #[must_use]
    pub(crate) fn nth(&self, cache: &Cache, index: u64) -> Option<VirtAddr> {
        let at = self.base.0.checked_add(cache.pad)?.checked_add(index.checked_mul(cache.size)?)?;
        (index < self.objects).then_some(VirtAddr(at))
    }
}

/// All caches of a kernel.
pub(crate) struct Slub {
    pub(super) layout: Layout,
    pub(crate) pages: PageMap,
    /// In the kernel's order: the newest first.
    pub(crate) caches: Vec<Cache>,
    /// What ended the list of caches too early, and elements that are no caches.
    pub(crate) remarks: Vec<String>,
    pub(crate) coding: Coding,
}

impl Slub {
    /// Reads the list of caches. `Err` says why not.
    pub(crate) fn read(view: &View, pages: PageMap) -> Result<Self, String> {
        let types = view.types();
        let origin = || types.origin().to_owned();
        let Some(head) = view.symbol("slab_caches") else {
            return Err("the kernel has no list slab_caches".to_owned());
        };
        let known = |path| types.field("kmem_cache", path);
        if known("cpu_slab").is_none() && known("cpu_sheaves").is_none() {
            return Err(match types.size_of("kmem_cache") {
                Some(_) => "the kernel's slab allocator is not SLUB".to_owned(),
                None => format!("{} does not describe struct kmem_cache", origin()),
            });
        }
        let link = known("list").ok_or_else(|| format!("{} has no kmem_cache.list", origin()))?;
        let layout = Layout::resolve(view).ok_or_else(|| format!("{} does not describe slabs", origin()))?;
        let bits = Flags::of(view);
        let mut list = List::circular(view, head, link.offset, MAX_CACHES);
        let (mut caches, mut remarks) = (Vec::new(), Vec::new());
        for at in list.by_ref() {
            match cache(view, bits, at) {
                Some(cache) => caches.push(cache),
                None => remarks.push(format!("the cache at {at} cannot be read, or makes no sense")),
            }
        }
        if let Some(broken) = list.broken() {
            remarks.push(format!("the list of caches is broken: {broken}"));
        }
        let mut slub = Self { layout, pages, caches, remarks, coding: Coding::Plain };
        if known("random").is_some() {
            slub.coding = slub.detect(view);
        }
        Ok(slub)
    }

    /// Which mixing leads from objects to objects.
    fn detect(&self, view: &View) -> Coding {
        let all = [Coding::MixedSwapped, Coding::Mixed, Coding::Plain];
        let mut votes = [0; 3];
        let mut heads = 0;
        for cache in &self.caches {
            let of_nodes = cache.nodes.iter().filter_map(|(_, node)| {
                let field = view.types().field("kmem_cache_node", "partial")?;
                let head = node.checked_add(field.offset)?;
                let first = List::circular(view, head, self.layout.link.offset, 1).next()?;
                let slab = self.slab(view, first)?;
                Some((slab, slab.freelist))
            });
            let of_cpus = self.cpu_lists(view, cache).0.into_iter();
            let of_cpus = of_cpus.filter_map(|c| Some((self.slab(view, c.slab_at)?, c.freelist)));
            for (slab, first) in of_nodes.chain(of_cpus) {
                let Some(object) = slab.object(cache, first) else { continue };
                let Some((at, stored)) = self.stored(view, cache, object) else { continue };
                heads += 1;
                for (coding, votes) in all.iter().zip(&mut votes) {
                    let next = coding.decode(stored, cache.random, at);
                    *votes += usize::from(next == 0 || slab.object(cache, next).is_some());
                }
            }
            if heads >= SAMPLE {
                break;
            }
        }
        let best = votes.iter().max().copied().unwrap_or(0);
        all.into_iter().zip(votes).find(|(_, v)| *v == best).map_or(Coding::MixedSwapped, |(c, _)| c)
    }

    /// The cache at this address.
    #[must_use]
    pub(crate) fn cache_at(&self, addr: VirtAddr) -> Option<&Cache> {
        self.caches.iter().find(|c| c.addr == addr)
    }

    /// The slab of this `struct slab`, if that makes sense.
    #[must_use]
    pub(crate) fn slab(&self, view: &View, at: VirtAddr) -> Option<Slab> {
        let word = |field: Field| number(view, at.checked_add(field.offset)?, field);
        let base = self.pages.address(at)?;
        let l = &self.layout;
        Some(Slab {
            at,
            base,
            cache: VirtAddr(word(l.cache)?),
            objects: word(l.objects)?,
            inuse: word(l.inuse)?,
            frozen: l.frozen.and_then(word).is_some_and(|f| f != 0),
            freelist: word(l.freelist)?,
        })
    }

    /// The slab and the cache in whose memory `addr` lies.
    #[must_use]
    pub(crate) fn holding(&self, view: &View, addr: VirtAddr) -> Option<(&Cache, Slab)> {
        let head = self.pages.head(view, self.pages.of(addr)?)?;
        if self.pages.is_slab(view, head) == Some(false) {
            return None;
        }
        let slab = self.slab(view, head)?;
        let cache = self.cache_at(slab.cache)?;
        self.plausible(cache, &slab).then_some((cache, slab))
    }

    /// Whether the slab's numbers fit its cache's.
    #[must_use]
    pub(crate) fn plausible(&self, cache: &Cache, slab: &Slab) -> bool {
        let room = (PAGE_SIZE << cache.order).checked_div(cache.size).unwrap_or(0);
        slab.objects >= 1 && slab.objects <= room && slab.inuse <= slab.objects
    }

    /// Where a free object has its link, and what is stored there.
    #[must_use]
    pub(crate) fn stored(&self, view: &View, cache: &Cache, object: VirtAddr) -> Option<(VirtAddr, u64)> {
        let at = object.checked_add(cache.offset)?;
        Some((at, view.space().read_u64(at).ok()?))
    }

    /// What a link stored at `at` means.
    #[must_use]
    pub(crate) fn decode(&self, cache: &Cache, stored: u64, at: VirtAddr) -> u64 {
        self.coding.decode(stored, cache.random, at)
    }

    /// The lists of the CPUs (kernels of 7.x have none), and how many cannot be read.
    #[must_use]
    pub(super) fn cpu_lists(&self, view: &View, cache: &Cache) -> (Vec<CpuList>, usize) {
        let Some(cpu_slab) = cache.cpu_slab else { return (Vec::new(), 0) };
        let of = |cpu: u32| {
            let base = view.percpu().address(cpu_slab, cpu)?;
            let list = Object::new(view, "kmem_cache_cpu", base);
            let at = ["slab", "page"].iter().find_map(|m| list.number(m)).unwrap_or(0);
            let slab = VirtAddr(at);
            Some(CpuList {
                cpu,
                at: list.address("freelist")?,
                freelist: list.number("freelist")?,
                slab_at: slab,
                partial: list.number("partial").unwrap_or(0),
            })
        };
        let cpus = view.percpu().present();
        let lists: Vec<_> = cpus.iter().filter_map(|&cpu| of(cpu)).collect();
        let unread = cpus.len() - lists.len();
        (lists, unread)
    }
}

/// One CPU's `struct kmem_cache_cpu`.
#[derive(Debug, Clone, Copy)]
pub(super) struct CpuList {
    pub(super) cpu: u32,
    /// Where its head is.
    pub(super) at: VirtAddr,
    pub(super) freelist: u64,
    /// The slab that the CPU allocates from, or null.
    pub(super) slab_at: VirtAddr,
    /// The first of its partial slabs.
    pub(super) partial: u64,
}

/// The cache at `at`. `None` if its numbers cannot be a cache's.
fn cache(view: &View, bits: Flags, at: VirtAddr) -> Option<Cache> {
    let object = Object::new(view, "kmem_cache", at);
    let (size, offset) = (object.number("size")?, object.number("offset")?);
    let object_size = ["object_size", "objsize"].iter().find_map(|m| object.number(m))?;
    // `struct kmem_cache_order_objects`: the order in the upper half (`OO_SHIFT`).
    let oo = object.number("oo.x")? & 0xffff_ffff;
    // Until 5.9 (32a6f409b693) the order could be changed, and `max` is what it ever was.
    let max = object.number("max.x").map_or(0, |max| (max & 0xffff_ffff) >> 16);
    let (order, objects) = (u32::try_from((oo >> 16).max(max)).ok()?, oo & 0xffff);
    let sane = (8..=PAGE_SIZE << MAX_ORDER).contains(&size) && object_size <= size && offset < size;
    if !sane || order > MAX_ORDER || objects == 0 {
        return None;
    }
    let name = object.pointer("name").and_then(|name| view.space().read_cstr(name, NAME_MAX).ok());
    let (nodes, barns) = nodes(view, &object);
    Some(Cache {
        addr: at,
        name: name.unwrap_or_else(|| "(unknown)".to_owned()),
        size,
        object_size,
        offset,
        pad: object.number("red_left_pad").filter(|pad| *pad < size).unwrap_or(0),
        order,
        random: object.number("random").unwrap_or(0),
        marks: Marks::of(&object, bits, offset, object_size, size),
        cpu_slab: object.number("cpu_slab").filter(|p| *p != 0).map(VirtAddr),
        cpu_sheaves: object.number("cpu_sheaves").filter(|p| *p != 0).map(VirtAddr),
        nodes,
        barns,
    })
}

/// `node[]` with their `struct kmem_cache_node`, and their barns.
fn nodes(view: &View, cache: &Object<'_>) -> (ByNode, ByNode) {
    let ids = view.symbol("nr_node_ids").and_then(|a| view.space().read_u32(a).ok()).unwrap_or(1);
    let types = view.types();
    let (array, stride, node, barn) = match types.size_of("kmem_cache_per_node_ptrs") {
        Some(stride) => {
            let part = |member| types.field("kmem_cache_per_node_ptrs", member).map(|f| f.offset);
            (cache.field("per_node"), stride, part("node"), part("barn"))
        }
        None => (cache.field("node"), 8, Some(0), None),
    };
    let (mut nodes, mut barns) = (Vec::new(), Vec::new());
    let Some(array) = array else { return (nodes, barns) };
    // 1024 pointers of which one is used: the kernel itself does not allocate the rest.
    for id in 0..u64::from(ids).min(MAX_NODES) {
        let pointer = |part: Option<u64>| {
            let at = cache.base.checked_add(array.offset)?.checked_add(id * stride)?.checked_add(part?)?;
            view.space().read_u64(at).ok().filter(|p| *p >= view.user_limit()).map(VirtAddr)
        };
        let id = u32::try_from(id).unwrap_or(0);
        nodes.extend(pointer(node).map(|at| (id, at)));
        barns.extend(pointer(barn).map(|at| (id, at)));
        if barn.is_none()
            && let Some(at) = nodes.last().filter(|(n, _)| *n == id).map(|(_, at)| *at)
        {
            // 6.18 keeps the barn in the node.
            let held = Object::new(view, "kmem_cache_node", at);
            barns.extend(held.pointer("barn").map(|at| (id, at)));
        }
    }
    (nodes, barns)
}

/// The slabs on one of a node's lists, and what broke it: `partial`, or where owners are
/// stored `full`.
pub(super) fn listed(
    view: &View,
    slub: &Slub,
    node: VirtAddr,
    list: &str,
) -> (Vec<VirtAddr>, Option<Broken>) {
    let Some(head) = Object::new(view, "kmem_cache_node", node).address(list) else {
        return (Vec::new(), None);
    };
    let mut list = List::circular(view, head, slub.layout.link.offset, MAX_SLABS);
    let slabs = list.by_ref().collect();
    (slabs, list.broken())
}
