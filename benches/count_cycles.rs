//! Checks a connection out and in as many times as its argument says, for `instructions` to count.

mod support;

use std::env;
use std::hint::black_box;
use std::time::Duration;

use latebind::Pool;
use support::Pause;

/// Never inlined, so that the count does not depend on the caller.
#[inline(never)]
fn cycle(pool: &Pool<Pause>) {
    let connection = pool.get().expect("ten are idle");
    black_box(&*connection);
}

fn main() {
    let cycles = env::args().nth(1).and_then(|n| n.parse::<u32>().ok());
    let cycles = cycles.expect("how many cycles is the first argument");
    let pool = Pool::new(Pause(Duration::ZERO));
    pool.warm_up(10).expect("a number can always be dialed");
    for _ in 0..cycles {
        cycle(&pool);
    }
}
