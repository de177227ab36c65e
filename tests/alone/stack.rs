//! Panics one after the other are not panics one inside the other. A stack that overflows ends the process.

use std::fmt;
use std::panic::resume_unwind;
use std::time::{Duration, Instant};

use latebind::{Blocking, DialContext, Dialer, Pool};

#[derive(Debug)]
struct Never;

impl fmt::Display for Never {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("never")
    }
}

impl std::error::Error for Never {}

/// Dials at once, and panics in each check, which it says does not block.
struct Fragile;

impl Dialer for Fragile {
    type Connection = ();
    type Error = Never;

    fn dial(&self, _: &DialContext) -> Result<(), Never> {
        Ok(())
    }

    fn is_broken(&self, _: &mut ()) -> bool {
        false
    }

    fn check(&self, (): &mut (), _deadline: Instant) -> Result<(), Never> {
        resume_unwind(Box::new("as the test says"))
    }

    fn blocking(&self) -> Blocking {
        Blocking::default().check(false)
    }
}

/// ACC-15, LOCK-02: one checkout meets thousands of connections whose check panics.
#[test]
fn a_caller_survives_as_many_panicking_checks_as_there_are_connections() {
    in_a_process!();
    const MANY: u32 = 2_000;
    let pool = Pool::builder(Fragile).max_open(MANY).check_after(Duration::ZERO).build().unwrap();
    let held: Vec<_> = (0..MANY).map(|_| pool.get().unwrap()).collect();
    drop(held);

    let _connection = pool.get().unwrap();
    let stats = pool.stats();
    assert_eq!(stats.open(), stats.idle + 1);
    assert_eq!(stats.panics_total, stats.check_failed_total);
}
