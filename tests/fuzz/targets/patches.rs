//! Changes to memory that is sound, so that what is read of it goes deep: of the pages
//! that a reader touches, some words become others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

use corestub::addr::VirtAddr;
use corestub::error::ReadFault;
use corestub::linux::{Kernel, Options};
use corestub::memory::AddressSpace;

const PAGE: u64 = 4096;
/// Bytes of a change: page, offset, how, the word.
const CHANGE: usize = 13;
/// Changes of one input.
const CHANGES: usize = 64;

/// A change as bytes, and no change at all.
pub fn seeds() -> Vec<Vec<u8>> {
    let change = |page: u16, offset: u16, how: u16, word: u64| {
        [&page.to_le_bytes()[..], &offset.to_le_bytes(), &how.to_le_bytes()[..1], &word.to_le_bytes()]
            .concat()
    };
    vec![
        Vec::new(),
        [change(0, 8, 0, u64::MAX), change(1, 16, 1, 1 << 63)].concat(),
        [change(2, 0, 2, 3), change(3, 0x80, 3, 1)].concat(),
    ]
}

/// The kernel of a fixture, or of the dump that CORESTUB_FUZZ_DUMP names, opened once for all that read it.
fn kernel() -> &'static Kernel {
    static KERNEL: OnceLock<Kernel> = OnceLock::new();
    KERNEL.get_or_init(|| {
        let other = std::env::var_os("CORESTUB_FUZZ_DUMP").map(PathBuf::from);
        let path = other.unwrap_or_else(|| super::fixture_file("k6.1-zstd.kdump"));
        let dump = corestub::dump::Vmcore::open(&[path]).expect("the fixture");
        Kernel::open(dump, Options::default()).expect("the fixture")
    })
}

/// A reader of sound memory, and the pages that it reads there, so that they are neither
/// translated nor unpacked again for each input.
pub struct Sound {
    reader: Box<dyn Fn(&Kernel) + Send + Sync>,
    pages: OnceLock<Pages>,
}

/// By where they begin.
struct Pages {
    starts: Vec<u64>,
    bytes: HashMap<u64, Box<[u8]>>,
}

impl Sound {
    pub fn new(reader: impl Fn(&Kernel) + Send + Sync + 'static) -> Self {
        Self { reader: Box::new(reader), pages: OnceLock::new() }
    }

    fn pages(&self) -> &Pages {
        self.pages.get_or_init(|| {
            let kernel = kernel();
            let seen = Arc::new(Recorder { tables: Arc::clone(kernel.tables()), pages: Mutex::default() });
            (self.reader)(&kernel.through(Arc::clone(&seen) as Arc<dyn AddressSpace>));
            let starts: Vec<_> =
                std::mem::take(&mut *seen.pages.lock().expect("one thread")).into_iter().collect();
            let bytes = |&page: &u64| Some((page, whole(page)?.into()));
            Pages { bytes: starts.iter().filter_map(bytes).collect(), starts }
        })
    }

    /// Reads what these changes make of it.
    pub fn run(&'static self, bytes: &[u8]) {
        let mut changed = BTreeMap::new();
        for change in bytes.chunks(CHANGE).take(CHANGES) {
            self.change(&mut changed, change);
        }
        let space = Changed { tables: Arc::clone(kernel().tables()), sound: self.pages(), changed };
        (self.reader)(&kernel().through(Arc::new(space)));
    }

    fn change(&self, pages: &mut BTreeMap<u64, Option<Vec<u8>>>, change: &[u8]) {
        let &[p0, p1, o0, o1, how, ref word @ ..] = change else { return };
        let all = &self.pages().starts;
        let page = usize::from(u16::from_le_bytes([p0, p1])).checked_rem(all.len());
        let Some(&page) = page.and_then(|page| all.get(page)) else { return };
        let bytes = pages.entry(page).or_insert_with(|| whole(page));
        if how == 0xff {
            *bytes = None;
        }
        let at = usize::from(u16::from_le_bytes([o0, o1])) % PAGE as usize;
        let Some(place) = bytes.as_mut().and_then(|bytes| bytes.get_mut(at..)) else { return };
        let own = u64::from_le_bytes(std::array::from_fn(|i| word.get(i).copied().unwrap_or(0)));
        let there = u64::from_le_bytes(std::array::from_fn(|i| place.get(i).copied().unwrap_or(0)));
        let (word, len) = match how % 8 {
            0 => (own, 8),
            1 => (there ^ own, 8),
            2 => (own, 4),
            3 => (there.wrapping_add(own), 8),
            4 => (own, 1),
            // A pointer to one of the pages.
            5 => (all[own as usize % all.len()] + (own >> 48) % PAGE, 8),
            6 => (own, 2),
            _ => (there.wrapping_sub(own), 8),
        };
        let len = len.min(place.len());
        place[..len].copy_from_slice(&word.to_le_bytes()[..len]);
    }
}

/// A page as it is in the dump.
fn whole(page: u64) -> Option<Vec<u8>> {
    kernel().tables().read_vec(VirtAddr(page), PAGE as usize).ok()
}

/// Remembers which pages are read.
struct Recorder {
    tables: Arc<corestub::memory::paging::PageTables>,
    pages: Mutex<BTreeSet<u64>>,
}

impl AddressSpace for Recorder {
    fn read_run(&self, addr: VirtAddr, buf: &mut [u8]) -> Result<usize, ReadFault> {
        let read = self.tables.read_run(addr, buf)?;
        self.pages.lock().expect("one thread").insert(addr.0 & !(PAGE - 1));
        Ok(read)
    }
}

/// The same memory with other pages.
struct Changed {
    tables: Arc<corestub::memory::paging::PageTables>,
    sound: &'static Pages,
    changed: BTreeMap<u64, Option<Vec<u8>>>,
}

impl AddressSpace for Changed {
    fn read_run(&self, addr: VirtAddr, buf: &mut [u8]) -> Result<usize, ReadFault> {
        let (page, at) = (addr.0 & !(PAGE - 1), (addr.0 % PAGE) as usize);
        let len = buf.len().min(PAGE as usize - at);
        let bytes = match self.changed.get(&page) {
            Some(None) => return Err(ReadFault::NotMapped { addr: addr.0, level: 1 }),
            Some(Some(bytes)) => bytes,
            None => match self.sound.bytes.get(&page) {
                Some(bytes) => &bytes[..],
                None => return self.tables.read_run(addr, &mut buf[..len]),
            },
        };
        buf[..len].copy_from_slice(&bytes[at..at + len]);
        Ok(len)
    }
}
