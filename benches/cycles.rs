//! Checks a connection out and in, as often as it is told to, for `instructions` to count. With
//! `keyed` as the second argument, one of a key's.

mod support;

use std::env;
use std::hint::black_box;
use std::time::Duration;

use latebind::{KeyedPool, Pool};
use support::Pause;

/// Never part of its caller, so that the count does not follow what the caller looks like.
#[inline(never)]
fn cycle(pool: &Pool<Pause>) {
    let connection = pool.get().expect("ten are idle");
    black_box(&*connection);
}

#[inline(never)]
fn keyed_cycle(pool: &KeyedPool<u64, Pause>) {
    let connection = pool.get(&1).expect("ten are idle");
    black_box(&*connection);
}

fn main() {
    let cycles = env::args().nth(1).and_then(|n| n.parse::<u32>().ok());
    let cycles = cycles.expect("how many cycles is the first argument");
    if env::args().nth(2).is_some_and(|which| which == "keyed") {
        let pool = KeyedPool::new(|_: &u64| Pause(Duration::ZERO));
        pool.warm_up(&1, 10).expect("a number can always be dialed");
        for _ in 0..cycles {
            keyed_cycle(&pool);
        }
    } else {
        let pool = Pool::new(Pause(Duration::ZERO));
        pool.warm_up(10).expect("a number can always be dialed");
        for _ in 0..cycles {
            cycle(&pool);
        }
    }
}
