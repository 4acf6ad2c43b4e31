//! What `slub_debug` leaves around and in objects: red zones, poison, and who had each last.
//!
//! ```text
//!  red_left_pad     object_size        inuse                              size
//!  | left red zone | object | right red zone | link | two tracks | rest |
//! ```
//!
//! A red zone is filled with 0xcc while the object is allocated, else with 0xbb; a free object
//! with 0x6b, its last byte 0xa5. The link stands behind `inuse` where the object itself is
//! poisoned. A `struct track` says who allocated the object last, the one behind it who freed
//! it. Sources: `mm/slub.c` (`calculate_sizes()`, `init_object()`, `get_track()`),
//! `include/linux/poison.h`.

use super::super::View;
use super::super::object::Object;

/// What a cache was asked to mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marks {
    pub(super) red_zone: bool,
    pub(super) poison: bool,
    /// Where in an object its first track is, and how large one is.
    pub(super) tracks: Option<(u64, u64)>,
    /// Where the right red zone ends.
    pub(super) inuse: u64,
}

/// Which bits of `kmem_cache.flags` say that.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flags {
    red_zone: u64,
    poison: u64,
    store_user: u64,
    /// Bytes of a `struct track`.
    track: Option<u64>,
}

impl Flags {
    /// By the types, once for all caches.
    pub(super) fn of(view: &View) -> Self {
        // They are numbered by an enumeration since 6.9 (cc61eb851461).
        let bit = |name: &str, before: u64| {
            let bit = view.types().enumerator(name);
            bit.and_then(|bit| 1u64.checked_shl(u32::try_from(bit).ok()?)).unwrap_or(before)
        };
        Self {
            red_zone: bit("_SLAB_RED_ZONE", 0x400),
            poison: bit("_SLAB_OBJECT_POISON", 0x8000_0000),
            store_user: bit("_SLAB_STORE_USER", 0x1_0000),
            track: view.types().size_of("track"),
        }
    }
}

impl Marks {
    /// Of the cache whose `struct kmem_cache` is `cache`. `None` where it marks nothing.
    pub(super) fn of(
        cache: &Object<'_>,
        bits: Flags,
        offset: u64,
        object_size: u64,
        size: u64,
    ) -> Option<Self> {
        let flags = cache.number("flags")?;
        let set = |bit: u64| flags & bit != 0;
        let inuse = cache.number("inuse").filter(|inuse| (object_size..=size).contains(inuse))?;
        // Whether the link stands behind the object (freeptr_outside_object()).
        let outside = offset != 0 && offset >= inuse;
        let tracks = set(bits.store_user).then(|| {
            let length = bits.track?;
            let at = if outside { inuse + 8 } else { inuse };
            let end = length.checked_mul(2)?.checked_add(at)?;
            (end <= size).then_some((at, length))
        });
        let marks =
            Self { red_zone: set(bits.red_zone), poison: set(bits.poison), tracks: tracks.flatten(), inuse };
        (marks.red_zone || marks.poison || marks.tracks.is_some()).then_some(marks)
    }
}
