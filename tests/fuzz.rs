//! Every fuzz target, on its seeds and on as many inputs made of them: what `scripts/fuzz`
//! would find at once is found here. The inputs are the same in each run.

#[path = "fuzz/targets/mod.rs"]
mod targets;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use targets::TARGETS;

/// Inputs of each target, if that takes no longer than [`TIME`].
const INPUTS: usize = 400;
const TIME: Duration = Duration::from_secs(2);

/// Random enough (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// A few changes to `bytes`, as libFuzzer makes them.
    fn change(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        for _ in 0..=self.below(8) {
            let at = self.below(bytes.len());
            match self.below(6) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                1 if !bytes.is_empty() => bytes[at] = self.next() as u8,
                2 => {
                    let word = [0, 1, u64::MAX, 1 << 63, 0xffff_8880_0000_0000][self.below(5)].to_le_bytes();
                    bytes.iter_mut().skip(at).zip(word).for_each(|(byte, new)| *byte = new);
                }
                3 => bytes.truncate(at),
                4 => {
                    let copied = bytes[at..bytes.len().min(at + self.below(64))].to_vec();
                    let to = self.below(bytes.len());
                    bytes.splice(to..to, copied);
                }
                _ => bytes.extend((0..self.below(32)).map(|_| self.next() as u8)),
            }
        }
        bytes
    }
}

/// Sessions run on threads of the server, whose panics end only these.
fn panics() -> &'static AtomicU64 {
    static PANICS: AtomicU64 = AtomicU64::new(0);
    static HOOK: std::sync::Once = std::sync::Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if matches!(std::thread::current().name(), Some("client" | "pulse" | "refused")) {
                PANICS.fetch_add(1, Ordering::SeqCst);
            }
            before(info);
        }));
    });
    &PANICS
}

#[test]
fn no_input_ends_a_target() {
    let panics = panics();
    std::thread::scope(|scope| {
        for target in &TARGETS {
            scope.spawn(|| {
                let seeds = (target.seeds)();
                seeds.iter().for_each(|seed| (target.run)(seed));
                let (mut random, began, mut done) = (Random(0x9e37_79b9_7f4a_7c15), Instant::now(), 0);
                while done < INPUTS && began.elapsed() < TIME {
                    let seed = seeds[random.below(seeds.len())].clone();
                    (target.run)(&random.change(seed));
                    done += 1;
                }
                eprintln!("{}: {done} inputs", target.name);
            });
        }
    });
    targets::clear();
    assert_eq!(panics.load(Ordering::SeqCst), 0, "a session panicked");
}
