//! The two paths that everything else stands on: reads through page tables, and
//! the unwinder. `cargo bench` runs them on the first dump that is there:
//! `CORESTUB_BENCH`, the fixtures, or one that `scripts/test` made.
#![allow(missing_docs, clippy::expect_used, clippy::panic, reason = "a program for developers")]

use std::path::PathBuf;
use std::sync::LazyLock;

use corestub::addr::VirtAddr;
use corestub::dump::Vmcore;
use corestub::linux::{Kernel, Options};
use corestub::unwind;
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};

const PAGE: usize = 4096;

static DUMP: LazyLock<PathBuf> = LazyLock::new(|| {
    let named = std::env::var_os("CORESTUB_BENCH").map(PathBuf::from);
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache"),
        PathBuf::from,
    );
    let found = || find(&fixtures, 1, "kdump").or_else(|| find(&cache.join("corestub/lab"), 3, "kdump"));
    named.or_else(found).expect("no dump: CORESTUB_BENCH=DUMP names one, scripts/test makes some")
});

/// The first file with this extension in `folder`, by name, at most `depth` folders down.
fn find(folder: &std::path::Path, depth: u32, extension: &str) -> Option<PathBuf> {
    let mut entries: Vec<_> = std::fs::read_dir(folder).ok()?.flatten().map(|e| e.path()).collect();
    entries.sort();
    entries.into_iter().find_map(|path| {
        if path.is_dir() && depth > 1 {
            find(&path, depth - 1, extension)
        } else {
            path.extension().is_some_and(|e| e == extension).then_some(path)
        }
    })
}

fn open() -> Kernel {
    // No vmlinux and no debug files: the dump alone.
    let options = Options { debug_dirs: Vec::new(), ..Options::default() };
    Kernel::open(Vmcore::open(std::slice::from_ref(&*DUMP)).expect("a vmcore"), options).expect("a kernel")
}

/// The kernel with everything read that the unwinder asks for.
static KERNEL: LazyLock<Kernel> = LazyLock::new(open);

/// The first 256 pages of the kernel's image that the dump has.
static PAGES: LazyLock<Vec<VirtAddr>> = LazyLock::new(|| {
    let start = KERNEL.text_start().0;
    let pages = (0..8192_u64).map(|i| VirtAddr(start + i * PAGE as u64));
    pages.filter(|page| KERNEL.space().read_u64(*page).is_ok()).take(256).collect()
});

fn read_pages(kernel: &Kernel) -> usize {
    let mut page = [0; PAGE];
    PAGES.iter().filter(|addr| kernel.space().read_exact(**addr, &mut page).is_ok()).count()
}

/// What gdb's first look at memory costs: walks, and each page decoded.
#[divan::bench(sample_count = 20, sample_size = 1)]
fn pages_cold(bencher: Bencher<'_, '_>) {
    let size = BytesCount::new(PAGES.len() * PAGE);
    bencher.with_inputs(open).input_counter(move |_| size).bench_refs(|kernel| read_pages(kernel));
}

/// The same pages again: translation and page come from the caches.
#[divan::bench]
fn pages_warm(bencher: Bencher<'_, '_>) {
    let size = BytesCount::new(PAGES.len() * PAGE);
    read_pages(&KERNEL);
    bencher.counter(size).bench(|| read_pages(&KERNEL));
}

/// Words of one page each, as a walk along a list reads them.
#[divan::bench]
fn words_warm(bencher: Bencher<'_, '_>) {
    let words = ItemsCount::new(PAGES.len());
    read_pages(&KERNEL);
    bencher.counter(words).bench(|| {
        PAGES.iter().filter_map(|addr| KERNEL.space().read_u64(*addr).ok()).fold(0, u64::wrapping_add)
    });
}

/// The stack of the task that died.
#[divan::bench]
fn stack_of_one(bencher: Bencher<'_, '_>) {
    let task = KERNEL.panic_task().expect("a dump of a crash");
    // The first walk reads the ORC tables.
    let _ = unwind::task(&KERNEL, task);
    bencher.bench(|| unwind::task(&KERNEL, task).frames.len());
}

/// Every task's stack, one after the other.
#[divan::bench(sample_count = 20)]
fn stacks_of_all(bencher: Bencher<'_, '_>) {
    let tasks = KERNEL.tasks().all();
    let count = ItemsCount::new(tasks.len());
    tasks.iter().for_each(|t| drop(unwind::task(&KERNEL, t)));
    bencher
        .counter(count)
        .bench(|| tasks.iter().map(|t| unwind::task(&KERNEL, t).frames.len()).sum::<usize>());
}

fn main() {
    divan::main();
}
