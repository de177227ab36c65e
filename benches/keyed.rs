//! Connections of many keys: the cost of one key, and of many.
//!
//! Compared with the usual substitute, a map of r2d2 pools behind a lock.

mod support;

use std::collections::HashMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use latebind::KeyedPool;
use scheduled_thread_pool::ScheduledThreadPool;

use crate::support::{Pause, Start, announce, heading, is_measuring, is_named, is_wanted, row};

/// A key as in an HTTP client.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    host: String,
    port: u16,
    is_secure: bool,
}

fn key(nth: usize) -> Key {
    Key { host: format!("host-{nth}.example.com"), port: 443, is_secure: true }
}

/// Pools found by key.
trait Keyed: Sync {
    /// Opens a pool with `each` idle connections for each key.
    fn open(keys: &[Key], each: u32, by: By) -> Self;

    fn cycle(&self, key: &Key);
}

impl Keyed for KeyedPool<Key, Pause> {
    fn open(keys: &[Key], each: u32, by: By) -> Self {
        let total = keys.len() as u32 * each;
        let builder = Self::builder(|_: &Key| Pause(Duration::ZERO));
        let builder = builder.max_open(each).max_open_total(total);
        let builder = match by {
            By::Itself => builder,
            // Too short for the coarse clock.
            By::PreciseClock => builder.check_after(Duration::from_millis(40)),
        };
        let pool = builder.build().expect("it is sound");
        for key in keys {
            pool.warm_up(key, each).expect("a pause does not fail");
        }
        pool
    }

    fn cycle(&self, key: &Key) {
        drop(self.get(key).expect("a pause does not fail"));
    }
}

struct Map(RwLock<HashMap<Key, r2d2::Pool<Pause>>>);

impl Map {
    fn pool(&self, key: &Key, each: u32) -> r2d2::Pool<Pause> {
        let found = self.0.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned();
        found.unwrap_or_else(|| {
            let builder = r2d2::Pool::builder().max_size(each).min_idle(Some(each));
            let builder = builder.thread_pool(threads());
            let pool = builder.build(Pause(Duration::ZERO)).expect("a pause does not fail");
            let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
            map.entry(key.clone()).or_insert(pool).clone()
        })
    }
}

/// One set of threads for all of r2d2's pools, rather than three for each.
fn threads() -> Arc<ScheduledThreadPool> {
    static THREADS: LazyLock<Arc<ScheduledThreadPool>> =
        LazyLock::new(|| Arc::new(ScheduledThreadPool::new(3)));
    Arc::clone(&THREADS)
}

impl Keyed for Map {
    fn open(keys: &[Key], each: u32, _by: By) -> Self {
        let map = Self(RwLock::default());
        for key in keys {
            map.pool(key, each);
        }
        map
    }

    fn cycle(&self, key: &Key) {
        drop(self.pool(key, 1).get().expect("a pause does not fail"));
    }
}

/// Whether checkouts take the lock.
#[derive(Clone, Copy)]
enum By {
    Itself,
    /// A `check_after` below 50 ms, for which each loan reads the precise clock. r2d2 is unchanged.
    PreciseClock,
}

/// The keys that a thread uses in turn.
#[derive(Clone, Copy)]
enum Round {
    /// All threads use the same keys, each from another one on.
    Shared,
    /// Each thread has keys of its own.
    Own,
}

struct Setting {
    name: &'static str,
    threads: usize,
    keys: usize,
    round: Round,
    by: By,
}

const fn setting(name: &'static str, threads: usize, keys: usize, round: Round, by: By) -> Setting {
    Setting { name, threads, keys, round, by }
}

const SETTINGS: [Setting; 11] = [
    setting("1 thread, 1 key", 1, 1, Round::Shared, By::Itself),
    setting("2 threads, 1 key", 2, 1, Round::Shared, By::Itself),
    setting("16 threads, 1 key", 16, 1, Round::Shared, By::Itself),
    setting("2 threads, a key each", 2, 2, Round::Own, By::Itself),
    setting("16 threads, a key each", 16, 16, Round::Own, By::Itself),
    setting("2 threads, 1 key, check_after of 10 ms", 2, 1, Round::Shared, By::PreciseClock),
    setting("2 threads, a key each, check_after of 10 ms", 2, 2, Round::Own, By::PreciseClock),
    setting("1 thread, 4 keys in turn", 1, 4, Round::Shared, By::Itself),
    // More than a thread keeps at hand.
    setting("1 thread, 8 keys in turn", 1, 8, Round::Shared, By::Itself),
    setting("1 thread, 1,000 keys in turn", 1, 1_000, Round::Shared, By::Itself),
    setting("2 threads, 1,000 keys in turn", 2, 1_000, Round::Shared, By::Itself),
];

fn main() {
    let (rounds, time) = match is_measuring() {
        true => (9, Duration::from_millis(200)),
        false => (1, Duration::from_millis(5)),
    };
    announce(&format!("Keys: medians of {rounds} rounds of {time:?}, both in each round."));
    for setting in SETTINGS.iter().filter(|setting| is_wanted(setting.name)) {
        let keys: Vec<_> = (0..setting.keys).map(key).collect();
        let each = setting.threads as u32;
        let (ours, theirs) =
            (KeyedPool::open(&keys, each, setting.by), Map::open(&keys, each, setting.by));
        let outcomes: Vec<_> = (0..rounds)
            .map(|_| (run(&ours, setting, &keys, time), run(&theirs, setting, &keys, time)))
            .collect();
        heading(setting.name);
        row("checkouts", "1/ms", &outcomes);
    }
    if is_wanted("keys one after the other") {
        one_after_the_other(if is_measuring() { 1_000_000 } else { 10_000 });
    }
    // Takes some eight minutes, so it runs only if named.
    if is_named("ten million keys") {
        one_after_the_other(10_000_000);
    }
}

fn run(pool: &impl Keyed, setting: &Setting, keys: &[Key], time: Duration) -> f64 {
    let start = Start::of(setting.threads);
    let over = AtomicBool::new(false);
    let thread = |number: usize| {
        let keys: Vec<_> = match setting.round {
            // Apart, as the threads of a program are that do not wait for each other.
            Round::Shared => {
                let (before, after) = keys.split_at(number * keys.len() / setting.threads);
                after.iter().chain(before).collect()
            }
            Round::Own => vec![&keys[number]],
        };
        start.wait();
        let mut served = 0_u64;
        while !over.load(Relaxed) {
            for key in &keys {
                pool.cycle(key);
                served += 1;
            }
        }
        served
    };
    thread::scope(|scope| {
        let thread = &thread;
        let threads: Vec<_> =
            (0..setting.threads).map(|number| scope.spawn(move || thread(number))).collect();
        let begun = start.give();
        thread::sleep(time);
        over.store(true, Relaxed);
        let elapsed = begun.elapsed();
        let served: u64 = threads.into_iter().map(|t| t.join().expect("no thread panics")).sum();
        served as f64 / (elapsed.as_secs_f64() * 1e3)
    })
}

/// Distinct keys, each used once, with room for a thousand: each closes the coldest of the others.
fn one_after_the_other(keys: usize) {
    const ROOM: u32 = 1_000;
    let pool = KeyedPool::builder(|_: &u64| Pause(Duration::ZERO)).max_open_total(ROOM).build();
    let pool = pool.expect("it is sound");
    println!("\n{keys} keys one after the other, room for {ROOM} connections");
    let begun = Instant::now();
    let mut resident = Vec::new();
    for nth in 0..keys {
        drop(pool.get(&(nth as u64)).expect("a pause does not fail"));
        if (nth + 1) % (keys / 10) == 0 {
            resident.push(resident_kb());
        }
    }
    let each = begun.elapsed() / u32::try_from(keys).unwrap_or(u32::MAX);
    let stats = pool.stats();
    println!("  each, with its dial and the close of another: {each:?}");
    println!("  keys left {}, open {}, evicted {}", stats.keys, stats.open, stats.evicted_total);
    println!("  resident after each tenth, kB: {resident:?}");
}

/// The resident memory of this process, if the system tells.
fn resident_kb() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}
