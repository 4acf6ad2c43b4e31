//! A slab cache in made-up memory, whole and smashed.

use super::machine::Machine;
use crate::addr::VirtAddr;
use crate::linux::View;
use crate::linux::memory::freelists::{Place, Usage, Why, Wrong};
use crate::linux::memory::marked::Zone;
use crate::linux::memory::pages::{Bases, PageMap};
use crate::linux::memory::slub::{Coding, Slub};

const DIRECT: u64 = 0xffff_8880_0000_0000;
const VMEMMAP: u64 = 0xffff_ea00_0000_0000;
const HEAD: u64 = 0xffff_ffff_8200_0000;
const CACHE: u64 = DIRECT + 0x1000;
const NODE: u64 = DIRECT + 0x2000;
const CPU_SLAB: u64 = DIRECT + 0x3000;
/// The frame of the CPU's slab, and of one on the node's list.
const OF_CPU: u64 = 0x10;
const OF_NODE: u64 = 0x11;
const SIZE: u64 = 0x40;
const LINK: u64 = 0x20;
const OBJECTS: u64 = 64;
const RANDOM: u64 = 0x1122_3344_5566_7788;

fn page(pfn: u64) -> u64 {
    VMEMMAP + pfn * 64
}

fn object(pfn: u64, i: u64) -> u64 {
    DIRECT + (pfn << 12) + i * SIZE
}

/// What stands in memory for a link to `to`.
fn stored(at: u64, to: u64) -> u64 {
    let mut place = at.to_le_bytes();
    place.reverse();
    to ^ RANDOM ^ u64::from_le_bytes(place)
}

/// Lets the objects be free, in this order.
fn free(m: &mut Machine, pfn: u64, objects: &[u64]) {
    for (i, n) in objects.iter().enumerate() {
        let at = object(pfn, *n) + LINK;
        let next = objects.get(i + 1).map_or(0, |next| object(pfn, *next));
        m.word(at, stored(at, next));
    }
}

/// A cache of one CPU and one node: five objects free on the CPU's list, three on the
/// node's.
fn machine() -> Machine {
    let mut m = Machine::new();
    for (path, offset, size) in [
        ("cpu_slab", 0x00, 8),
        ("size", 0x08, 4),
        ("object_size", 0x0c, 4),
        ("offset", 0x10, 4),
        ("oo.x", 0x14, 4),
        ("name", 0x18, 8),
        ("list", 0x20, 16),
        ("random", 0x30, 8),
        ("node", 0x38, 8),
    ] {
        m.member("kmem_cache", path, offset, size);
    }
    for (path, offset, size) in [
        ("slab_cache", 0x08, 8),
        ("slab_list", 0x10, 16),
        ("next", 0x10, 8),
        ("freelist", 0x20, 8),
        ("inuse", 0x28, 2),
        ("objects", 0x2a, 2),
    ] {
        m.member("slab", path, offset, size);
    }
    for (path, offset) in [("freelist", 0), ("slab", 0x10), ("partial", 0x18)] {
        m.member("kmem_cache_cpu", path, offset, 8);
    }
    m.member("kmem_cache_node", "partial", 0x08, 16);
    m.member("kmem_cache_node", "nr_slabs.counter", 0x18, 8);
    m.member("kmem_cache_node", "total_objects.counter", 0x20, 8);
    m.member("page", "flags", 0, 8);
    m.size("page", 64);
    m.size("kmem_cache", 0x40);
    m.symbol("slab_caches", HEAD);
    m.symbol("max_pfn", HEAD + 0x100);
    m.word(HEAD + 0x100, 0x100);

    m.circle(HEAD, &[m.at(CACHE, "kmem_cache", "list")]);
    m.set(CACHE, "kmem_cache", "cpu_slab", CPU_SLAB);
    for (path, value) in [("size", SIZE), ("object_size", 60), ("offset", LINK), ("oo.x", OBJECTS)] {
        m.set(CACHE, "kmem_cache", path, value);
    }
    m.write(CACHE + 0x80, b"kmalloc-64\0");
    m.set(CACHE, "kmem_cache", "name", CACHE + 0x80);
    m.set(CACHE, "kmem_cache", "random", RANDOM);
    m.set(CACHE, "kmem_cache", "node", NODE);
    m.set(NODE, "kmem_cache_node", "nr_slabs.counter", 2);
    m.set(NODE, "kmem_cache_node", "total_objects.counter", 2 * OBJECTS);
    for pfn in [OF_CPU, OF_NODE] {
        m.write(page(pfn), &[0; 64]);
        m.write(DIRECT + (pfn << 12), &[0; 4096]);
        m.set(page(pfn), "slab", "slab_cache", CACHE);
        m.set(page(pfn), "slab", "objects", OBJECTS);
    }
    // The CPU has taken all objects of its slab.
    m.set(page(OF_CPU), "slab", "inuse", OBJECTS);
    free(&mut m, OF_CPU, &[3, 9, 4, 60, 1]);
    m.set(CPU_SLAB, "kmem_cache_cpu", "freelist", object(OF_CPU, 3));
    m.set(CPU_SLAB, "kmem_cache_cpu", "slab", page(OF_CPU));
    m.set(CPU_SLAB, "kmem_cache_cpu", "partial", 0);
    m.set(page(OF_NODE), "slab", "inuse", OBJECTS - 3);
    free(&mut m, OF_NODE, &[7, 8, 2]);
    m.set(page(OF_NODE), "slab", "freelist", object(OF_NODE, 7));
    m.circle(NODE + 0x08, &[m.at(page(OF_NODE), "slab", "slab_list")]);
    m
}

fn slub(view: &View) -> Slub {
    let pages = PageMap::read(view, Bases { vmemmap: VMEMMAP, direct: DIRECT }, None).unwrap();
    Slub::read(view, pages).unwrap()
}

/// What is found after `damage`.
fn of(damage: impl FnOnce(&mut Machine)) -> Usage {
    let mut m = machine();
    damage(&mut m);
    let view = m.view();
    let slub = slub(&view);
    assert_eq!(slub.coding, Coding::MixedSwapped);
    slub.usage(&view, &slub.caches[0], &mut 10_000)
}

/// The one link that is wrong.
fn link(usage: &Usage) -> (Place, Option<VirtAddr>, u64, Why) {
    let [finding] = usage.findings.as_slice() else { panic!("{:?}", usage.findings) };
    let Wrong::Link(smashed) = &finding.wrong else { panic!("{finding:?}") };
    (finding.place, smashed.holder(), smashed.stored, smashed.why)
}

#[test]
fn a_whole_cache_is_counted() {
    let usage = of(|_| ());
    assert_eq!(usage.findings, []);
    assert_eq!((usage.slabs, usage.total, usage.free, usage.allocated()), (Some(2), Some(128), 8, Some(120)));
    let view = machine().view();
    let slub = slub(&view);
    assert_eq!(slub.caches[0].name, "kmalloc-64");
    let (cache, slab) = slub.holding(&view, VirtAddr(object(OF_CPU, 9) + 5)).unwrap();
    let free = slub.free_in(&view, cache, &slab);
    assert_eq!(free.get(&VirtAddr(object(OF_CPU, 9))), Some(&Place::Cpu(0)));
    assert_eq!((free.len(), free.get(&VirtAddr(object(OF_CPU, 10)))), (5, None));
}

#[test]
fn free_objects_are_the_same_by_slab_and_all_at_once() {
    const SHEAVES: u64 = DIRECT + 0x4000;
    const SHEAF: u64 = DIRECT + 0x5000;
    let mut m = machine();
    m.member("kmem_cache", "cpu_sheaves", 0x40, 8);
    m.member("slub_percpu_sheaves", "main", 0, 8);
    m.member("slab_sheaf", "size", 0, 4);
    m.member("slab_sheaf", "objects", 8, 0);
    m.set(CACHE, "kmem_cache", "cpu_sheaves", SHEAVES);
    m.set(SHEAVES, "slub_percpu_sheaves", "main", SHEAF);
    m.set(SHEAF, "slab_sheaf", "size", 3);
    for (i, object) in [object(OF_NODE, 63), object(OF_CPU, 0), object(OF_CPU, 5) + 1].into_iter().enumerate()
    {
        m.word(SHEAF + 8 + i as u64 * 8, object);
    }
    let view = m.view();
    let slub = slub(&view);
    let cache = &slub.caches[0];
    let slabs = slub.slabs(&view, cache);
    let counts: Vec<_> = slabs.iter().map(|(place, _, free)| (*place, free.len())).collect();
    assert_eq!(counts, [(Place::Cpu(0), 6), (Place::Node(0), 4)]);
    for (_, slab, free) in &slabs {
        assert_eq!(*free, slub.free_in(&view, cache, slab));
    }
}

#[test]
fn a_link_that_was_written_over_is_named() {
    let text = u64::from_le_bytes(*b"V\0i\0r\0t\0");
    let (third, eighth) = (object(OF_CPU, 4), object(OF_NODE, 8));
    let usage = of(|m| m.word(third + LINK, text));
    let (place, holder, raw, why) = link(&usage);
    assert_eq!((place, holder, raw), (Place::Cpu(0), Some(VirtAddr(third)), text));
    assert_eq!(why, Why::NoAddress);
    assert_eq!(usage.allocated(), Some(122), "the two behind it are lost");
    let (place, holder, ..) = link(&of(|m| m.word(eighth + LINK, text)));
    assert_eq!((place, holder), (Place::Node(0), Some(VirtAddr(eighth))));
}

#[test]
fn links_lead_to_objects_of_their_slab_and_once() {
    let at = object(OF_CPU, 4) + LINK;
    for (to, wanted) in [
        (object(OF_CPU, 3), Why::Again),
        (object(OF_CPU, 5) + 8, Why::BetweenObjects),
        (object(OF_NODE, 7), Why::Elsewhere),
        (0x1000, Why::NoAddress),
    ] {
        let (.., why) = link(&of(|m| m.word(at, stored(at, to))));
        assert_eq!(why, wanted);
    }
}

#[test]
fn the_object_is_named_though_its_link_went_to_the_head() {
    let text = u64::from_le_bytes(*b"V\0i\0r\0t\0");
    let taken = object(OF_CPU, 3);
    let head = text ^ stored(taken + LINK, 0);
    // The link is still there.
    let kept = |m: &mut Machine| {
        m.word(taken + LINK, text);
        m.set(CPU_SLAB, "kmem_cache_cpu", "freelist", head);
    };
    assert_eq!(link(&of(kept)).1, Some(VirtAddr(taken)));
    // It was wiped out, but the object in front ends with the same text.
    let wiped = |m: &mut Machine| {
        m.word(taken + LINK, 0);
        m.word(taken - 8, text);
        m.set(CPU_SLAB, "kmem_cache_cpu", "freelist", head);
    };
    let usage = of(wiped);
    assert_eq!((link(&usage).1, link(&usage).2), (Some(VirtAddr(taken)), text));
    // Without that it is not guessed.
    let bare = |m: &mut Machine| m.set(CPU_SLAB, "kmem_cache_cpu", "freelist", head);
    assert_eq!(link(&of(bare)).1, None);
}

/// The cache with red zones in front of objects (8 bytes) and behind them (8), poison, and owners:
/// the objects are 16 bytes long, and in the node's slab numbers 0 to 62.
fn marked() -> Machine {
    let mut m = machine();
    for (path, offset) in [("flags", 0x40), ("inuse", 0x44), ("red_left_pad", 0x48)] {
        m.member("kmem_cache", path, offset, 4);
    }
    m.member("kmem_cache_node", "full", 0x30, 16);
    for (path, offset) in [("pid", 0), ("addr", 4)] {
        m.member("track", path, offset, if path == "pid" { 4 } else { 8 });
    }
    m.member("track", "cpu", 12, 0);
    m.size("track", 12);
    // SLAB_RED_ZONE, SLAB_STORE_USER, __OBJECT_POISON
    for (path, value) in
        [("flags", 0x8001_0400), ("inuse", 24), ("red_left_pad", 8), ("object_size", 16), ("offset", 24)]
    {
        m.set(CACHE, "kmem_cache", path, value);
    }
    m.set(NODE, "kmem_cache_node", "nr_slabs.counter", 1);
    m.circle(NODE + 0x30, &[]);
    m.set(CPU_SLAB, "kmem_cache_cpu", "freelist", 0);
    m.set(CPU_SLAB, "kmem_cache_cpu", "slab", 0);
    m.set(page(OF_NODE), "slab", "objects", 63);
    m.set(page(OF_NODE), "slab", "inuse", 60);
    m.set(page(OF_NODE), "slab", "freelist", object(OF_NODE, 7) + 8);
    for i in 0..63 {
        let free = [7, 8, 2].contains(&i);
        let (at, red) = (object(OF_NODE, i), if free { 0xbb } else { 0xcc });
        m.write(at, &[red; 8]);
        m.write(at + 8, &if free { [[0x6b; 15].as_slice(), &[0xa5]].concat() } else { vec![b'x'; 16] });
        m.write(at + 24, &[red; 8]);
    }
    for (i, next) in [(7, Some(8)), (8, Some(2)), (2, None)] {
        let at = object(OF_NODE, i) + 8 + 24;
        m.word(at, stored(at, next.map_or(0, |next| object(OF_NODE, next) + 8)));
    }
    m
}

#[test]
fn red_zones_and_poison_are_checked() {
    let of = |damage: &dyn Fn(&mut Machine)| {
        let mut m = marked();
        damage(&mut m);
        let view = m.view();
        let slub = slub(&view);
        let usage = slub.usage(&view, &slub.caches[0], &mut 10_000);
        let marks = usage.findings.into_iter().map(|f| match f.wrong {
            Wrong::Marks(m) => (f.place, m.zone, m.object.0, m.at.0, m.wanted, m.found),
            other => panic!("{other:?}"),
        });
        (marks.collect::<Vec<_>>(), usage.unread)
    };
    assert_eq!(of(&|_| ()), (vec![], 0));
    let (fifth, seventh) = (object(OF_NODE, 5) + 8, object(OF_NODE, 7) + 8);
    let node = Place::Node(0);
    // Five bytes too many.
    let (found, _) = of(&|m| m.write(fifth + 16, b"VIRT"));
    let rest = [b"VIRT".as_slice(), &[0xcc; 4]].concat();
    assert_eq!(found, [(node, Zone::Right, fifth, fifth + 16, 0xcc, rest)]);
    let (found, _) = of(&|m| m.write(fifth - 1, b"V"));
    assert_eq!(found, [(node, Zone::Left, fifth, fifth - 1, 0xcc, b"V".to_vec())]);
    // Used after it was freed.
    let (found, _) = of(&|m| m.write(seventh + 14, b"us"));
    let zones: Vec<_> = found.iter().map(|f| (f.1, f.3, f.4)).collect();
    assert_eq!(zones, [(Zone::Poison, seventh + 14, 0x6b)]);
    let (found, _) = of(&|m| m.write(seventh + 15, b"s"));
    assert_eq!((found[0].1, found[0].3, found[0].4), (Zone::Poison, seventh + 15, 0xa5));
    // A slab without free objects is on a list of its own; what is not in the dump is no damage.
    let (found, _) = of(&|m| {
        m.circle(NODE + 0x08, &[]);
        m.circle(NODE + 0x30, &[m.at(page(OF_NODE), "slab", "slab_list")]);
        m.write(fifth + 16, b"V");
    });
    assert_eq!((found.len(), found[0].0), (1, Place::Full(0)));
    let (found, unread) = of(&|m| m.forget(fifth, 8));
    assert_eq!((found, unread), (vec![], 1));
}

#[test]
fn what_is_not_in_the_dump_is_no_damage_and_not_zero() {
    for usage in [
        of(|m| m.forget(object(OF_CPU, 4), 64)),
        of(|m| m.forget(page(OF_NODE), 64)),
        of(|m| m.forget(CPU_SLAB, 0x20)),
    ] {
        assert_eq!((usage.findings.as_slice(), usage.allocated()), (&[][..], None), "{usage:?}");
        assert!(usage.total == Some(128) && usage.unread > 0);
    }
}

#[test]
fn lists_of_slabs_and_wild_counts() {
    let wrong = |damage: &dyn Fn(&mut Machine)| {
        let usage = of(damage);
        assert!(!usage.findings.is_empty());
        usage.findings.into_iter().map(|f| f.wrong).next().unwrap()
    };
    let link = NODE + 0x08;
    assert!(matches!(wrong(&|m| m.word(link, 0x1234)), Wrong::List(_)));
    let strange = page(OF_NODE) + 0x20;
    assert!(matches!(wrong(&|m| m.circle(link, &[strange])), Wrong::Slab(..)), "no struct page begins there");
    assert!(matches!(wrong(&|m| m.set(page(OF_CPU), "slab", "objects", 0xffff)), Wrong::Slab(..)));
    let counted = wrong(&|m| m.set(page(OF_NODE), "slab", "inuse", OBJECTS - 5));
    assert_eq!(counted, Wrong::Count { slab: VirtAddr(page(OF_NODE)), listed: 3, counted: 5 });
    let partial = |m: &mut Machine| {
        m.set(CPU_SLAB, "kmem_cache_cpu", "partial", page(OF_NODE));
        m.set(page(OF_NODE), "slab", "next", page(OF_NODE));
    };
    assert!(matches!(wrong(&partial), Wrong::List(_)), "a slab that is its own next");
    let few = machine().view();
    let slub = slub(&few);
    assert!(slub.usage(&few, &slub.caches[0], &mut 1).cut);
}
