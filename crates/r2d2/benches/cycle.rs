//! How long a checkout and its return take, of r2d2 and of the drop-in, in one run.
//!
//! ```sh
//! cargo bench -p r2d2@0.8.100        # cycles in a millisecond, and their ratio
//! # Instructions of 10,000 cycles of each, in the lines of `cycles_of_`:
//! valgrind --tool=callgrind --callgrind-out-file=counts target/release/deps/cycle-* count
//! callgrind_annotate --inclusive=yes counts
//! ```

use std::convert::Infallible;
use std::env;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

struct Manager;

macro_rules! pool {
    ($pool:ident, $cycles:ident) => {
        impl $pool::ManageConnection for Manager {
            type Connection = u64;
            type Error = Infallible;

            fn connect(&self) -> Result<u64, Infallible> {
                Ok(0)
            }

            fn is_valid(&self, _: &mut u64) -> Result<(), Infallible> {
                Ok(())
            }

            fn has_broken(&self, _: &mut u64) -> bool {
                false
            }
        }

        #[inline(never)]
        fn $cycles(pool: &$pool::Pool<Manager>, cycles: u32) {
            for _ in 0..cycles {
                *pool.get().expect("connections come back") += 1;
            }
        }
    };
}

pool!(r2d2, cycles_of_drop_in);
pool!(original, cycles_of_r2d2);

/// How long each measurement takes, and how often it is made.
const SPAN: Duration = Duration::from_millis(300);
const ROUNDS: usize = 9;

/// Cycles in a millisecond, of all threads together.
fn pace(threads: u32, cycles: impl Fn(u32) + Sync) -> f64 {
    let ready = Barrier::new(threads as usize);
    let work = || {
        ready.wait();
        let (start, mut done) = (Instant::now(), 0_u32);
        while start.elapsed() < SPAN {
            cycles(100);
            done += 100;
        }
        f64::from(done) / start.elapsed().as_secs_f64() / 1000.0
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("it does not panic")).sum()
    })
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

fn main() {
    let ours = r2d2::Pool::builder().max_size(4).build(Manager).expect("it opens");
    let theirs = original::Pool::builder().max_size(4).build(Manager).expect("it opens");
    if env::args().any(|argument| argument == "count") {
        cycles_of_drop_in(&ours, 10_000);
        cycles_of_r2d2(&theirs, 10_000);
        return;
    }
    println!("get and drop, 4 connections: cycles in a millisecond, medians of {ROUNDS}");
    println!("| threads | r2d2 | drop-in | ratio |\n| --- | --- | --- | --- |");
    for threads in [1, 16] {
        // In turn, so that the machine's other work meets both.
        let rounds = (0..ROUNDS).map(|_| {
            let theirs = pace(threads, |cycles| cycles_of_r2d2(&theirs, cycles));
            (theirs, pace(threads, |cycles| cycles_of_drop_in(&ours, cycles)))
        });
        let rounds: Vec<_> = rounds.collect();
        let ratio = median(rounds.iter().map(|(theirs, ours)| ours / theirs).collect());
        let (theirs, ours): (Vec<_>, Vec<_>) = rounds.into_iter().unzip();
        let (theirs, ours) = (median(theirs), median(ours));
        println!("| {threads} | {theirs:.0} | {ours:.0} | {ratio:.2} |");
    }
}
