//! The bound of BOUNDED-BYPASS: for how long the first in the queue may be passed by newcomers.
//!
//! Newcomers pass while a connection is on its way to a caller who has not woken yet, as that takes a
//! change of threads and longer where the processors have more to do than they can. The least bound
//! (`config::BYPASS`) is for loans of microseconds. Where callers wait for longer than that even in
//! strict order, it would hand every connection over; so the bound is some times what strict order
//! takes, if that is more, up to a most.
//!
//! Measured on two cores with PostgreSQL on them as well, 32 threads on 8 connections that are kept
//! for a select of 0.4 ms, so that strict order takes 1.4 ms (`back-ends`, with nothing asked at a
//! return; r2d2: 1, and 15 to 16 ms):
//!
//! | the bound | selects | 99th percentile |
//! | --- | --- | --- |
//! | 1.5 ms | 0.84 and 0.85 | 4 and 5 ms |
//! | 4 ms | 0.96 and 0.99 | 7 and 8 ms |
//! | **5 times strict order** | 1.00 and 1.00 | 8 and 8 ms |
//! | 8 ms | 1.02 and 1.03 | 9 and 10 ms |
//! | 8 times strict order, which is the most then | 1.01 and 1.02 | 10 and 10 ms |

use std::time::Duration;

use crate::config::nanoseconds;
use crate::moment::Moment;

/// The bound, as a multiple of what the first in the queue would wait in strict order.
const STRETCH: u64 = 5;

/// The most, as a multiple of the least.
const MOST: u64 = 5;

/// For so long loans are counted before their rate is told: those of connections that pass the
/// ledger seldom are counted late.
const WINDOW: u64 = 10_000_000; // nanoseconds

/// How fast connections are lent while callers wait.
#[derive(Debug, Default)]
pub(super) struct Bypass {
    /// When the counting began, and how many loans there had been by then.
    began: Option<(Moment, u64)>,
    /// The time from one loan to the next, as it was last counted, in nanoseconds.
    each: u64,
}

impl Bypass {
    /// Callers wait, and there have been so many loans.
    pub(super) fn note(&mut self, loans: u64, now: Moment) {
        let (began, before) = *self.began.get_or_insert((now, loans));
        let passed = now.nanos_since(began);
        if passed >= WINDOW && loans > before {
            self.each = passed / (loans - before);
            self.began = Some((now, loans));
        }
    }

    /// Nobody waits any more.
    pub(super) fn rest(&mut self) {
        *self = Self::default();
    }

    /// For how long the first of those who wait may be passed, in nanoseconds.
    pub(super) fn bound(&self, least: Duration, waiting: u32) -> u64 {
        let least = nanoseconds(least);
        let strict = self.each.saturating_mul(u64::from(waiting));
        least.max(strict.saturating_mul(STRETCH).min(least.saturating_mul(MOST)))
    }
}
