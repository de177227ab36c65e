//! Measures an idle pool: its bytes on the heap, those of each connection, and its threads.

#[path = "../tests/counting/mod.rs"]
mod counting;
mod support;

use std::fs;
use std::thread;
use std::time::Duration;

use latebind::{KeyedPool, Pool};

use crate::counting::live_bytes;
use crate::support::{Pause, Peer};

/// How long a pool is left alone before it is measured, so that its idle threads end.
const REST: Duration = Duration::from_secs(6);

const FEW: u32 = 10;
const MANY: u32 = 1_000;

/// The heap memory and threads that one pool adds.
struct Weight {
    bytes: usize,
    threads: Option<usize>,
}

fn main() {
    println!("Memory: a full pool, all idle, {REST:?} after it was opened; connections are u64.\n");
    println!("{:<10} {:>16} {:>18} {:>8}", "", "bytes for 10", "per connection", "threads");
    print::<Pool<Pause>>();
    print::<r2d2::Pool<Pause>>();
    print_keyed();
}

/// A keyed pool, with one connection to each key.
fn print_keyed() {
    let before = live_bytes();
    let builder = KeyedPool::builder(|_: &u32| Pause(Duration::ZERO)).max_open_total(MANY);
    let pool = builder.build().expect("it is sound");
    for key in 0..MANY {
        drop(pool.get(&key).expect("a pause does not fail"));
    }
    thread::sleep(REST);
    let bytes = live_bytes().saturating_sub(before);
    println!("\n{MANY} keys with a connection each: {} bytes per key", bytes / MANY as usize);
}

fn print<P: Peer>() {
    weigh::<P>(MANY); // Allocates what a process allocates once, so that it is not counted.
    let (few, many) = (weigh::<P>(FEW), weigh::<P>(MANY));
    let each = (many.bytes as f64 - few.bytes as f64) / f64::from(MANY - FEW);
    let threads = few.threads.map_or("not known".to_owned(), |threads| threads.to_string());
    println!("{:<10} {:>16} {each:>18.0} {threads:>8}", P::NAME, few.bytes);
}

fn weigh<P: Peer>(connections: u32) -> Weight {
    let (bytes, threads) = (live_bytes(), running());
    let pool = P::open(connections, connections, Duration::ZERO);
    thread::sleep(REST);
    assert_eq!(pool.opened(), connections, "the pool is full");
    let weight = Weight {
        bytes: live_bytes().saturating_sub(bytes),
        threads: running().zip(threads).map(|(now, before)| now.saturating_sub(before)),
    };
    drop(pool);
    thread::sleep(REST); // So that nothing of this pool is left when the next is measured.
    weight
}

/// The number of threads of this process, if the system tells.
fn running() -> Option<usize> {
    fs::read_dir("/proc/self/task").ok().map(Iterator::count)
}
