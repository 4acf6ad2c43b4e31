//! Decoded pages, shared by all clients and bounded in bytes.
//!
//! Only pages that had to be decoded are kept: raw ones are read from the map
//! directly, where the system caches them. The key is where the page is stored,
//! not its frame number: makedumpfile stores one page of zeros for all of them.

use std::sync::Arc;

use quick_cache::sync::Cache;

/// Bytes of a page of the dumped machine: x86-64 has no other base page.
pub(super) const PAGE_BYTES: usize = 4096;

/// What the cache may hold of decoded bytes.
const CACHE_BYTES: usize = 16 << 20;

/// One decoded page.
pub(super) type Page = Arc<[u8]>;

/// Where a page is stored: the piece of a split dump, and the offset in it.
pub(super) type Place = (usize, u64);

/// The cache.
pub(super) struct PageCache {
    pages: Cache<Place, Page>,
}

impl Default for PageCache {
    fn default() -> Self {
        Self { pages: Cache::new(CACHE_BYTES / PAGE_BYTES) }
    }
}

impl PageCache {
    /// The page at `place`, made by `decode` if it is not there. Of several clients
    /// that want the same page at once, one decodes it.
    pub(super) fn page<E>(
        &self,
        place: Place,
        decode: impl FnOnce(&mut [u8; PAGE_BYTES]) -> Result<(), E>,
    ) -> Result<Page, E> {
        self.pages.get_or_insert_with(&place, || {
            let mut page = [0; PAGE_BYTES];
            decode(&mut page)?;
            Ok(Arc::from(page.as_slice()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_stays_within_its_bytes_and_does_not_keep_failures() {
        let cache = PageCache::default();
        assert_eq!(cache.page((0, 1), |_| Err(7)), Err(7));
        for i in 0..3 * (CACHE_BYTES / PAGE_BYTES) as u64 {
            let page = cache.page((0, i), |p| {
                p[..8].copy_from_slice(&i.to_le_bytes());
                Ok::<_, ()>(())
            });
            assert_eq!(page.unwrap()[..8], i.to_le_bytes());
        }
        assert!(cache.pages.len() * PAGE_BYTES <= CACHE_BYTES);
    }
}
