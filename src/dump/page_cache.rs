//! Decoded pages, shared by all clients and bounded in bytes.
//!
//! The key is where the page is stored, not its frame number: makedumpfile stores
//! one page of zeros for all of them.

use std::sync::{Arc, Mutex, PoisonError};

use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, UnitWeighter};

/// Bytes of a page of the dumped machine: x86-64 has no other base page.
pub(super) const PAGE_BYTES: usize = 4096;

/// What the cache may hold of decoded bytes.
const CACHE_BYTES: usize = 16 << 20;

/// One decoded page.
pub(super) type Page = Arc<[u8; PAGE_BYTES]>;

/// Where a page is stored: the piece of a split dump, and the offset in it.
pub(super) type Place = (usize, u64);

/// The cache.
pub(super) struct PageCache {
    pages: Cache<Place, Page, UnitWeighter, DefaultHashBuilder, Recycled>,
    spare: Recycled,
}

/// Evicted pages, used again for the next ones: freed and allocated by turns in
/// several threads they would fill every thread's arena (measured: 44 MB instead of
/// 17 with four clients).
#[derive(Clone, Default)]
struct Recycled(Arc<Mutex<Vec<Page>>>);

impl Recycled {
    /// More than the clients that decode at one moment are not worth keeping.
    const MAX: usize = 64;

    /// A page that nobody else has.
    fn take(&self) -> Page {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.unwrap_or_else(|| Arc::new([0; PAGE_BYTES]))
    }

    fn put(&self, mut page: Page) {
        if Arc::get_mut(&mut page).is_some() {
            let mut pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if pages.len() < Self::MAX {
                pages.push(page);
            }
        }
    }
}

impl Lifecycle<Place, Page> for Recycled {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _place: Place, page: Page) {
        self.put(page);
    }
}

impl Default for PageCache {
    fn default() -> Self {
        let items = CACHE_BYTES / PAGE_BYTES;
        let spare = Recycled::default();
        let pages =
            Cache::with(items, items as u64, UnitWeighter, DefaultHashBuilder::default(), spare.clone());
        Self { pages, spare }
    }
}

impl PageCache {
    /// The page at `place`, made by `decode` if it is not there. Of several clients
    /// that want the same page at once, one decodes it. `decode` must fill the whole
    /// page: it may hold another one's bytes.
    pub(super) fn page<E>(
        &self,
        place: Place,
        decode: impl FnOnce(&mut [u8; PAGE_BYTES]) -> Result<(), E>,
    ) -> Result<Page, E> {
        self.pages.get_or_insert_with(&place, || {
            let mut page = self.spare.take();
            match decode(Arc::make_mut(&mut page)) {
                Ok(()) => Ok(page),
                Err(e) => {
                    self.spare.put(page);
                    Err(e)
                }
            }
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
                p.fill(0);
                p[..8].copy_from_slice(&i.to_le_bytes());
                Ok::<_, ()>(())
            });
            assert_eq!(page.unwrap()[..8], i.to_le_bytes());
        }
        assert!(cache.pages.len() * PAGE_BYTES <= CACHE_BYTES);
    }
}
