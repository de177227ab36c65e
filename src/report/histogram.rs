//! `Histogram`: how often something took how long, in buckets of powers of two.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::config::nanoseconds;

/// The number of buckets of a histogram. The nth, from 0, ends at 2^(n + 1) µs; the last one has no
/// end.
const BUCKETS: usize = 32;

/// The first bucket that is reported of `hold`, which ends at 1.024 ms: it holds all loans shorter
/// than a tick of the clock that measures them.
const LEAST_HOLD: usize = 9;

/// How long waits, dials and loans took: see [`Pool::histograms`](crate::Pool::histograms).
///
/// # Examples
///
/// ```
/// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
/// # let pool = latebind::Pool::new(latebind::net::TcpDialer::from(listener.local_addr()?));
/// drop(pool.get()?);
/// let histograms = pool.histograms();
/// println!("{}", histograms.wait); // 1 time: half within 65.536ms, 99 % within 65.536ms, ...
/// assert_eq!((histograms.wait.count(), histograms.dial.count()), (1, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Histograms {
    /// From a checkout's call to its connection, or to its error for callers that queued and got
    /// none. A caller that was served without queueing counts as a wait of less than 2 µs.
    pub wait: Histogram,
    /// From a dial's beginning to its connection. Failed dials are not counted.
    pub dial: Histogram,
    /// From a checkout to the connection's return, discard or detachment. Measured by a clock that
    /// ticks every 1 to 10 ms, depending on the system: one loan may be off by a tick, the sum of
    /// many is not.
    pub hold: Histogram,
}

impl Histograms {
    /// Nothing measured.
    pub(crate) fn none() -> Self {
        Timings::default().histograms(|| (0, 0))
    }

    /// Adds what another pool has measured.
    pub(crate) fn add(&mut self, other: &Self) {
        let Self { wait, dial, hold } = other;
        self.wait.add(wait);
        self.dial.add(dial);
        self.hold.add(hold);
    }
}

/// How often something took how long.
///
/// Its `Display` is one line: `120 times: half within 512µs, 99 % within 8.192ms, all within
/// 32.768ms`.
#[derive(Clone, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; BUCKETS],
    least: usize,
    sum: Duration,
}

impl Histogram {
    /// Each bucket's upper bound and the number of times in that bucket alone, shortest first.
    ///
    /// Each bound is twice the one before: from 2 µs (for `hold`, from 1.024 ms) to 36 minutes. The
    /// last is `Duration::MAX`.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        self.counts.iter().enumerate().skip(self.least).map(|(at, count)| (bound(at), *count))
    }

    /// How many times were measured.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The sum of all times.
    #[must_use]
    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// The time within which the fraction `q` of all ended: 0.5 for half of them, 1.0 for all.
    ///
    /// It is the upper bound of a bucket, so at most twice the true value. `None` if nothing has
    /// been measured. A `q` below 0 counts as 0, one above 1 as 1.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let count = self.count();
        let rank = ((q * count as f64).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0;
        self.buckets().find_map(|(bound, count)| {
            seen += count;
            (seen >= rank).then_some(bound)
        })
    }
}

impl Histogram {
    /// Adds another of the same kind.
    fn add(&mut self, other: &Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(count, more)| *count += more);
        self.sum += other.sum;
    }
}

impl fmt::Display for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.count();
        write!(f, "{count} {}", if count == 1 { "time" } else { "times" })?;
        for (q, share) in [(0.5, ": half"), (0.99, ", 99 %"), (1.0, ", all")] {
            match self.quantile(q) {
                Some(Duration::MAX) => write!(f, "{share} longer than {:?}", bound(BUCKETS - 2))?,
                Some(bound) => write!(f, "{share} within {bound:?}")?,
                None => {}
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let taken = self.buckets().filter(|(_, count)| *count > 0);
        f.debug_map().entries(taken).finish()
    }
}

fn bound(bucket: usize) -> Duration {
    if bucket == BUCKETS - 1 { Duration::MAX } else { Duration::from_micros(2 << bucket) }
}

/// The bucket of so many nanoseconds. A bound belongs to the bucket that it ends.
fn bucket(nanoseconds: u64) -> usize {
    let microseconds = nanoseconds.div_ceil(1000);
    let doublings = microseconds.next_power_of_two().trailing_zeros();
    (doublings.saturating_sub(1) as usize).min(BUCKETS - 1)
}

/// The counts behind a pool's histograms.
///
/// The fast path writes nothing here. Loans without a wait, and those that end within a tick of the
/// clock, are computed by subtracting the others from all loans.
#[derive(Debug, Default)]
pub(crate) struct Timings {
    waits: Record,
    dials: Record,
    holds: Record,
    /// Waits that ended in an error.
    vain_waits: Counter,
    /// Loans that never reached the caller: the connection was broken, and the caller got another.
    vain_loans: Counter,
}

impl Timings {
    /// The wait of a caller that queued has ended after so many nanoseconds, served or not.
    pub(crate) fn note_wait(&self, waited: u64, is_served: bool) {
        self.waits.add(waited);
        if !is_served {
            self.vain_waits.add(1);
        }
    }

    pub(crate) fn note_dial(&self, took: Duration) {
        self.dials.add(nanoseconds(took));
    }

    /// A loan that lasted a tick or longer has ended.
    #[cold]
    pub(crate) fn note_hold(&self, held: Duration) {
        self.holds.add(nanoseconds(held));
    }

    pub(crate) fn note_vain_loan(&self) {
        self.vain_loans.add(1);
    }

    /// The histograms, given how many loans have begun and how many of them have not ended.
    pub(crate) fn histograms(&self, loans: impl FnOnce() -> (u64, u32)) -> Histograms {
        // Read before the loans, so that each of these is among the loans that are counted after
        // it.
        let (mut wait, mut hold) = (self.waits.histogram(0), self.holds.histogram(LEAST_HOLD));
        let (vain_waits, vain_loans) = (self.vain_waits.get(), self.vain_loans.get());
        let (loans, in_hands) = loans();
        let loans = loans.saturating_sub(vain_loans);
        let served = wait.count().saturating_sub(vain_waits);
        wait.counts[0] += loans.saturating_sub(served);
        let ended = loans.saturating_sub(u64::from(in_hands));
        hold.counts[LEAST_HOLD] += ended.saturating_sub(hold.count());
        Histograms { wait, dial: self.dials.histogram(0), hold }
    }
}

/// A count. No decision depends on it, so it does not go through `sync` to be searched by the
/// models.
#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Counter {
    /// Returns what it was before.
    fn add(&self, more: u64) -> u64 {
        self.0.fetch_add(more, Ordering::Relaxed)
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One more nanosecond than a counter can count.
const WRAP: Duration = Duration::new(18_446_744_073, 709_551_616);

/// The counts of one histogram, allocated when there is something to count. A pointer also keeps
/// them off the cache lines that the fast path reads.
#[derive(Debug, Default)]
struct Record(OnceLock<Box<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    nanoseconds: Counter,
    /// How often these have gone beyond all numbers: with 1,000 connections always lent, every 213 days.
    wraps: Counter,
    buckets: [Counter; BUCKETS],
}

impl Record {
    /// Adds a time in nanoseconds.
    fn add(&self, time: u64) {
        let counts = self.0.get_or_init(Box::default);
        counts.buckets[bucket(time)].add(1);
        if counts.nanoseconds.add(time).checked_add(time).is_none() {
            counts.wraps.add(1);
        }
    }

    fn histogram(&self, least: usize) -> Histogram {
        let mut histogram = Histogram { counts: [0; BUCKETS], least, sum: Duration::ZERO };
        if let Some(counts) = self.0.get() {
            histogram.counts = counts.buckets.each_ref().map(Counter::get);
            let wraps = u32::try_from(counts.wraps.get()).unwrap_or(u32::MAX);
            histogram.sum = WRAP * wraps + Duration::from_nanos(counts.nanoseconds.get());
        }
        histogram
    }
}
