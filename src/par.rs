//! Work over many items on all cores, its results in the order of the items.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{OnceLock, mpsc};
use std::thread;

/// Items that a thread takes at once.
const CHUNK: usize = 32;
/// More threads than this only wait for each other's pages.
const THREADS_MAX: usize = 8;

/// How many threads work at once. To ask the system takes it several files.
pub(crate) fn threads() -> usize {
    static THREADS: OnceLock<usize> = OnceLock::new();
    *THREADS.get_or_init(|| thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX))
}

/// Works on all `parts` at once, as many as [`threads`] says are sensible: on the first of them
/// here, so that one alone costs no thread. The results are in the order of the parts.
pub(crate) fn parts<T: Send, R: Send + Default>(
    parts: impl IntoIterator<Item = T>,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let (mut parts, work) = (parts.into_iter(), &work);
    let Some(own) = parts.next() else { return Vec::new() };
    thread::scope(|scope| {
        let others: Vec<_> = parts.map(|part| scope.spawn(move || work(part))).collect();
        let own = work(own);
        let others = others.into_iter().map(|other| other.join().unwrap_or_default());
        std::iter::once(own).chain(others).collect()
    })
}

/// Why not all items were worked on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stopped<E> {
    /// The caller gave up.
    Cancelled,
    /// A result was not taken.
    Refused(E),
}

/// Runs `make` on each item on all cores and hands the results to `take`, in the
/// order of the items, as soon as they are complete. Every thread has its own
/// state from `state`. Stops early when `cancelled` says so, or `take` fails.
pub(crate) fn ordered<T: Sync, S, R: Send, E>(
    items: &[T],
    state: impl Fn() -> S + Sync,
    make: impl Fn(&mut S, usize, &T) -> R + Sync,
    cancelled: &dyn Fn() -> bool,
    take: &mut dyn FnMut(R) -> Result<(), E>,
) -> Result<(), Stopped<E>> {
    let threads = threads().min(items.len().div_ceil(CHUNK));
    if threads <= 1 {
        let mut state = state();
        for (i, item) in items.iter().enumerate() {
            if cancelled() {
                return Err(Stopped::Cancelled);
            }
            take(make(&mut state, i, item)).map_err(Stopped::Refused)?;
        }
        return Ok(());
    }
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let (sender, receiver) = mpsc::sync_channel::<(usize, Vec<R>)>(threads * 2);
    thread::scope(|scope| {
        for _ in 0..threads {
            let sender = sender.clone();
            let (next, stop, make, state) = (&next, &stop, &make, &state);
            scope.spawn(move || {
                let mut state = state();
                loop {
                    let chunk = next.fetch_add(1, Ordering::Relaxed);
                    let first = chunk.saturating_mul(CHUNK);
                    let Some(part) = items.get(first..).filter(|p| !p.is_empty()) else { return };
                    let mut made = Vec::with_capacity(CHUNK);
                    for (i, item) in part.iter().take(CHUNK).enumerate() {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        made.push(make(&mut state, first + i, item));
                    }
                    if sender.send((chunk, made)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let taken = collect(&receiver, cancelled, take);
        stop.store(true, Ordering::Relaxed);
        // A thread that waits to send goes on to see that nobody listens.
        drop(receiver);
        taken
    })
}

fn collect<R, E>(
    receiver: &mpsc::Receiver<(usize, Vec<R>)>,
    cancelled: &dyn Fn() -> bool,
    take: &mut dyn FnMut(R) -> Result<(), E>,
) -> Result<(), Stopped<E>> {
    let mut early = BTreeMap::new();
    let mut turn = 0;
    for (chunk, made) in receiver {
        if cancelled() {
            return Err(Stopped::Cancelled);
        }
        early.insert(chunk, made);
        while let Some(made) = early.remove(&turn) {
            made.into_iter().try_for_each(&mut *take).map_err(Stopped::Refused)?;
            turn += 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn parts_come_back_in_order_and_one_alone_is_worked_on_here() {
        let here = thread::current().id();
        assert_eq!(parts([7], |n| (n, thread::current().id() == here)), [(7, true)]);
        assert_eq!(parts(0..5, |n| n * n), [0, 1, 4, 9, 16]);
        assert!(parts(0..0, |n| n).is_empty());
    }

    #[test]
    fn the_results_are_in_order_whatever_the_threads_do() {
        let items: Vec<u32> = (0..1000).collect();
        let mut taken = Vec::new();
        let make = |(): &mut (), i: usize, n: &u32| {
            assert_eq!(u32::try_from(i).unwrap(), *n);
            if n.is_multiple_of(97) {
                thread::sleep(Duration::from_millis(3));
            }
            *n
        };
        let mut take = |n| {
            taken.push(n);
            Ok::<_, ()>(())
        };
        ordered(&items, || (), make, &|| false, &mut take).unwrap();
        assert_eq!(taken, items);
    }

    #[test]
    fn giving_up_ends_the_threads() {
        // Nobody takes what they make, so that they cannot have made all before.
        let items = vec![0; 10_000];
        let done = AtomicUsize::new(0);
        let make = |(): &mut (), _: usize, _: &i32| {
            done.fetch_add(1, Ordering::Relaxed);
        };
        let gave_up = ordered(&items, || (), make, &|| true, &mut |()| Ok::<_, ()>(()));
        assert_eq!(gave_up, Err(Stopped::Cancelled));
        assert!(done.load(Ordering::Relaxed) < items.len());
        let refused = ordered(&items, || (), make, &|| false, &mut |()| Err("full"));
        assert_eq!(refused, Err(Stopped::Refused("full")));
        assert!(done.load(Ordering::Relaxed) < 2 * items.len());
    }
}
