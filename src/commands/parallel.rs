//! Work over many tasks at once, with its output in their order.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::{io, thread};

use super::CommandError;

/// Items that a thread takes at once.
const CHUNK: usize = 32;
/// More threads than this only wait for each other's pages.
const THREADS_MAX: usize = 8;

/// Runs `make` on each item on all cores and writes what it made to `out`, in
/// the order of the items, as soon as it is complete. Every thread has its own
/// state from `state`. Stops early when `cancelled` says so, or `out` fails.
pub(super) fn ordered<T: Sync, S>(
    items: &[T],
    state: impl Fn() -> S + Sync,
    make: impl Fn(&mut S, usize, &T, &mut Vec<u8>) + Sync,
    cancelled: &dyn Fn() -> bool,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    let threads = threads.min(items.len().div_ceil(CHUNK));
    if threads <= 1 {
        let mut state = state();
        let mut text = Vec::new();
        for (i, item) in items.iter().enumerate() {
            if cancelled() {
                return Err(interrupted());
            }
            text.clear();
            make(&mut state, i, item, &mut text);
            out.write_all(&text)?;
        }
        return Ok(());
    }
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let (sender, receiver) = mpsc::sync_channel::<(usize, Vec<u8>)>(threads * 2);
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
                    let mut text = Vec::new();
                    for (i, item) in part.iter().take(CHUNK).enumerate() {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        make(&mut state, first + i, item, &mut text);
                    }
                    if sender.send((chunk, text)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let written = collect(&receiver, cancelled, out);
        stop.store(true, Ordering::Relaxed);
        // A thread that waits to send goes on to see that nobody listens.
        drop(receiver);
        written
    })
}

fn collect(
    receiver: &mpsc::Receiver<(usize, Vec<u8>)>,
    cancelled: &dyn Fn() -> bool,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let mut early = BTreeMap::new();
    let mut turn = 0;
    for (chunk, text) in receiver {
        if cancelled() {
            return Err(interrupted());
        }
        early.insert(chunk, text);
        while let Some(text) = early.remove(&turn) {
            out.write_all(&text)?;
            turn += 1;
        }
    }
    Ok(())
}

fn interrupted() -> CommandError {
    CommandError::Output(io::Error::new(io::ErrorKind::Interrupted, "given up"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_output_is_in_order_whatever_the_threads_do() {
        let items: Vec<u32> = (0..1000).collect();
        let mut out = Vec::new();
        ordered(
            &items,
            || (),
            |(), i, n, text| {
                assert_eq!(u32::try_from(i).unwrap(), *n);
                if n % 97 == 0 {
                    thread::sleep(Duration::from_millis(3));
                }
                writeln!(text, "{n}").unwrap();
            },
            &|| false,
            &mut out,
        )
        .unwrap();
        let wanted: String = items.iter().map(|n| format!("{n}\n")).collect();
        assert_eq!(String::from_utf8(out).unwrap(), wanted);
    }

    #[test]
    fn giving_up_ends_the_threads() {
        let items = vec![0; 10_000];
        let done = AtomicUsize::new(0);
        let gave_up = ordered(
            &items,
            || (),
            |(), _, _, _| {
                done.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_micros(50));
            },
            &|| true,
            &mut Vec::new(),
        );
        assert!(gave_up.is_err());
        assert!(done.load(Ordering::Relaxed) < items.len());
    }
}
