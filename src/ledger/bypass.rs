//! The bound of BOUNDED-BYPASS: for how long newcomers may be served before the first in the queue. The
//! literature calls this *barging*.
//!
//! Newcomers pass while a connection is on its way to a caller who has not woken yet. To wake takes a
//! change of threads, and longer if the processors are overloaded. The least bound (`config::BYPASS`)
//! suits loans of microseconds. If callers wait for longer than that even in strict order, every
//! connection would be handed over. So the bound is `STRETCH` times the wait in strict order if that is
//! more, and at most `MOST` times the least bound.
//!
//! Measured on two cores that PostgreSQL shares, with 32 threads on 8 connections, each kept for a select
//! of 0.4 ms, so that strict order takes 1.4 ms (`back-ends`, with no check at a return; r2d2: 1, and 15
//! to 16 ms):
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
use crate::runtime::moment::Moment;

/// The bound, as a multiple of the wait in strict order.
const STRETCH: u64 = 5;

/// The largest bound, as a multiple of the least.
const MOST: u64 = 5;

/// For how long loans are counted before their rate is used. It is long because the loans of
/// connections that seldom pass the ledger are counted late.
const WINDOW: u64 = 10_000_000; // nanoseconds

/// How fast connections are lent while callers wait.
#[derive(Debug, Default)]
pub(super) struct Bypass {
    /// When the counting began, and the number of loans by then.
    began: Option<(Moment, u64)>,
    /// The time from one loan to the next, as it was last measured, in nanoseconds.
    loan_interval: u64,
}

impl Bypass {
    /// Callers wait, and there have been `loans` loans.
    #[inline]
    pub(super) fn note_loans(&mut self, loans: u64, now: Moment) {
        let (began, before) = *self.began.get_or_insert((now, loans));
        let passed = now.nanos_since(began);
        if passed >= WINDOW && loans > before {
            self.loan_interval = passed / (loans - before);
            self.began = Some((now, loans));
        }
    }

    /// Nobody waits any more.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// For how long the first of `waiting` callers may be passed, in nanoseconds.
    pub(super) fn bound(&self, least: Duration, waiting: u32) -> u64 {
        let least = nanoseconds(least);
        let strict = self.loan_interval.saturating_mul(u64::from(waiting));
        least.max(strict.saturating_mul(STRETCH).min(least.saturating_mul(MOST)))
    }
}
