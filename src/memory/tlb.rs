//! A small cache of translations, one for each address space.
//!
//! A dump never changes, so nothing is ever invalidated. Sharded locks keep
//! clients out of each other's way; a lost race costs one more walk.

use std::sync::{Mutex, PoisonError};

const SHARDS: usize = 8;
const WAYS: usize = 64;

/// Page address -> frame address, direct-mapped.
pub(super) struct Tlb {
    shards: [Mutex<[(u64, u64); WAYS]>; SHARDS],
}

impl Default for Tlb {
    fn default() -> Self {
        // No page address is odd, so 1 marks an empty place.
        Self { shards: std::array::from_fn(|_| Mutex::new([(1, 0); WAYS])) }
    }
}

impl Tlb {
    fn place(page: u64) -> (usize, usize) {
        #[allow(clippy::cast_possible_truncation, reason = "a hash: any bits do")]
        let n = (page >> 12) as usize;
        (n % SHARDS, n / SHARDS % WAYS)
    }

    /// The frame of `page`, if it is remembered.
    pub(super) fn find(&self, page: u64) -> Option<u64> {
        let (shard, way) = Self::place(page);
        let shard = self.shards.get(shard)?.lock().unwrap_or_else(PoisonError::into_inner);
        shard.get(way).filter(|e| e.0 == page).map(|e| e.1)
    }

    /// Remembers that `page` is at `frame`.
    pub(super) fn insert(&self, page: u64, frame: u64) {
        let (shard, way) = Self::place(page);
        let Some(shard) = self.shards.get(shard) else { return };
        if let Some(e) = shard.lock().unwrap_or_else(PoisonError::into_inner).get_mut(way) {
            *e = (page, frame);
        }
    }
}
