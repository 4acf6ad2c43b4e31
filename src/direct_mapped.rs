//! A small cache of what is derived from a frame's or a page's number.
//!
//! A dump never changes, so nothing is ever invalidated. Sharded locks keep
//! clients out of each other's way; a lost race costs one more look.

use std::sync::{Mutex, PoisonError};

const SHARDS: usize = 8;

type Places<V> = Box<[Option<(u64, V)>]>;

/// Number -> value, direct-mapped, of 8 times `WAYS` places.
pub(crate) struct DirectMapped<V, const WAYS: usize> {
    shards: [Mutex<Places<V>>; SHARDS],
}

impl<V: Copy, const WAYS: usize> Default for DirectMapped<V, WAYS> {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::new(vec![None; WAYS].into())) }
    }
}

impl<V: Copy, const WAYS: usize> DirectMapped<V, WAYS> {
    fn place(number: u64) -> (usize, usize) {
        #[allow(clippy::cast_possible_truncation, reason = "a hash: any bits do")]
        let n = number as usize;
        (n % SHARDS, n / SHARDS % WAYS)
    }

    /// What is remembered of `number`.
    pub(crate) fn find(&self, number: u64) -> Option<V> {
        let (shard, way) = Self::place(number);
        let shard = self.shards.get(shard)?.lock().unwrap_or_else(PoisonError::into_inner);
        let (of, value) = (*shard.get(way)?)?;
        (of == number).then_some(value)
    }

    /// Remembers `value` of `number`.
    pub(crate) fn insert(&self, number: u64, value: V) {
        let (shard, way) = Self::place(number);
        let Some(shard) = self.shards.get(shard) else { return };
        if let Some(place) = shard.lock().unwrap_or_else(PoisonError::into_inner).get_mut(way) {
            *place = Some((number, value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_share_a_place_are_told_apart() {
        let cache = DirectMapped::<u64, 2>::default();
        for number in [0, 1, 16, u64::MAX] {
            assert_eq!(cache.find(number), None);
            cache.insert(number, number ^ 7);
            assert_eq!(cache.find(number), Some(number ^ 7));
        }
        assert_eq!((cache.find(0), cache.find(1)), (None, Some(6)), "16 has the place of 0");
    }
}
