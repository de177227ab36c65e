//! Lends connections in several ways, as many times as its argument says, for `instructions` to
//! count.
//!
//! All ways are in one program, so that the code of a loan has several callers, as in a real one.
//! In `count_cycles` it has one caller, is inlined there, and is some twenty instructions shorter.

mod support;

use std::env;
use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use latebind::Pool;

use crate::support::{Lifelike, Peer, checked, soon_stale};

fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [pool, way, times] = &arguments[..] else { panic!("a pool, a way and a number, please") };
    let times = times.parse().expect("the third argument is how often");
    match (pool.as_str(), way.as_str()) {
        ("latebind", "lifelike") => alone(&full::<Pool<Lifelike>>(10), times),
        ("latebind", "contended") => contended(&full::<Pool<Lifelike>>(4), times),
        ("latebind", "soon stale") => alone(&soon_stale(10), times),
        ("latebind", "checked") => alone(&checked(10), times),
        ("r2d2", "checked") => alone(&full::<r2d2::Pool<Lifelike>>(10), times),
        ("r2d2", "contended") => contended(&full::<r2d2::Pool<Lifelike>>(4), times),
        _ => panic!("{pool} knows no way {way}"),
    }
}

fn full<P: Peer>(connections: u32) -> P {
    P::open(connections, connections, Duration::ZERO)
}

/// One thread alone.
fn alone<P: Peer>(pool: &P, times: u32) {
    for _ in 0..times {
        cycle(pool);
    }
}

/// Sixteen threads. The holder of a connection yields to the others, so that most of them must
/// wait.
fn contended<P: Peer>(pool: &P, times: u32) {
    const THREADS: usize = 16;
    let start = Barrier::new(THREADS);
    // Shared, so that all threads take part until the last loan.
    let left = AtomicU32::new(times);
    let thread = || {
        start.wait();
        while left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
            yielding_cycle(pool);
        }
    };
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(thread);
        }
    });
}

/// Never inlined, so that the count does not depend on the caller.
#[inline(never)]
fn cycle<P: Peer>(pool: &P) {
    let connection = pool.get();
    black_box(&*connection);
}

#[inline(never)]
fn yielding_cycle<P: Peer>(pool: &P) {
    let connection = pool.get();
    black_box(&*connection);
    thread::yield_now();
}
