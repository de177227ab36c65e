//! `Moment`: a moment of the system's clock in one word. An `Instant` is two words and ten times
//! slower to compute with, and many moments are kept for each connection.
//!
//! # One clock
//!
//! Every moment is read from the clock that is behind `Instant` on that system, precisely or
//! coarsely. So any two moments can be compared, however each was read. No step of the wall clock
//! changes a moment, and the time that the system sleeps counts for all of them or for none.
//!
//! | system | clock | coarse reading | its tick | counts sleep |
//! | --- | --- | --- | --- | --- |
//! | Linux, Android | `CLOCK_MONOTONIC` | `CLOCK_MONOTONIC_COARSE` | 1 to 10 ms (`CONFIG_HZ`) | no |
//! | macOS, iOS and others of Apple | `CLOCK_UPTIME_RAW` | `CLOCK_UPTIME_RAW_APPROX` | 10 ms at most | no |
//! | FreeBSD, DragonFly | `CLOCK_MONOTONIC` | `CLOCK_MONOTONIC_FAST` | 1 to 10 ms (`kern.hz`) | as both do |
//! | OpenBSD | `CLOCK_MONOTONIC` | the clock itself | none | yes |
//! | NetBSD, other Unix | `CLOCK_MONOTONIC` | the clock itself | none | as it does |
//! | Windows, others | `Instant` | the clock itself | none | yes, on Windows |
//!
//! The coarse clocks of Windows (`GetTickCount64`, `QueryUnbiasedInterruptTime`) do not run at the
//! rate of its precise one, so they are not used.

#[path = "moment/sys.rs"] // Needed where a test compiles this file by its path.
mod sys;

use std::time::{Duration, Instant};

use crossbeam_utils::atomic::AtomicCell;

/// Nanoseconds of the clock, which began when the system did. They last for 292 years; the largest
/// stands for every later moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(i64);

/// One moment in both forms, to convert between them, once it has been asked for. An atomic pointer: the child of a
/// fork might find a `LazyLock` about to be filled, for ever.
static ANCHOR: AtomicCell<Option<&'static (Instant, Moment)>> = AtomicCell::new(None);
const _: () = assert!(AtomicCell::<Option<&'static (Instant, Moment)>>::is_lock_free());

#[inline]
fn anchor() -> &'static (Instant, Moment) {
    ANCHOR.load().unwrap_or_else(find_anchor)
}

#[cold]
fn find_anchor() -> &'static (Instant, Moment) {
    let read = &*Box::leak(Box::new(read_anchor()));
    // If two threads come first, one of them has read one in vain.
    ANCHOR.compare_exchange(None, Some(read)).err().flatten().unwrap_or(read)
}

fn read_anchor() -> (Instant, Moment) {
    loop {
        let (before, instant, after) = (sys::precise(), Instant::now(), sys::precise());
        // If it took longer, the thread was interrupted between the readings.
        if after - before < 1_000_000 {
            return (instant, Moment(before));
        }
    }
}

/// The most by which a coarse reading is late: the tick of the slowest kernel's timer (100 Hz).
pub(crate) const TICK_MOST: Duration = Duration::from_millis(10);

impl Moment {
    /// Before any that the clock reads.
    pub(crate) const FIRST: Self = Self(i64::MIN);
    /// After any that the clock reads.
    pub(crate) const LAST: Self = Self(i64::MAX);

    /// Reads the clock precisely.
    #[inline]
    pub(crate) fn now() -> Self {
        Self(sys::precise())
    }

    /// Reads the clock in a few nanoseconds: late by a tick at most, never early.
    #[inline]
    pub(crate) fn coarse_now() -> Self {
        Self(sys::coarse())
    }

    /// The moment `span` after this one; `None`, meaning never, if it is out of range.
    #[inline]
    pub(crate) fn after(self, span: Duration) -> Option<Self> {
        self.0.checked_add(signed(span)?).map(Self)
    }

    /// The moment `span` nanoseconds after this one; `LAST`, meaning never, if it is out of range.
    #[inline]
    pub(crate) fn after_nanos(self, span: u64) -> Self {
        Self(self.0.saturating_add_unsigned(span))
    }

    /// The moment `span` before this one; `None` if it is out of range.
    #[inline]
    pub(crate) fn before(self, span: Duration) -> Option<Self> {
        self.0.checked_sub(signed(span)?).map(Self)
    }

    /// Nanoseconds since the clock began; 0 for an earlier moment.
    #[inline]
    pub(crate) fn as_nanos(self) -> u64 {
        self.0.max(0).unsigned_abs()
    }

    /// Whether this is before the moment that `as_nanos` says of another.
    #[inline]
    pub(crate) fn is_before_nanos(self, nanos: u64) -> bool {
        // `LAST` is the largest that `as_nanos` says.
        self.0 < nanos as i64
    }

    /// The time from `earlier` to this; zero if this is before it.
    #[inline]
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanos_since(earlier))
    }

    /// The same in nanoseconds, which costs no division.
    #[inline]
    pub(crate) fn nanos_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0).max(0).unsigned_abs()
    }

    /// Whether this is at most `span` nanoseconds after `earlier`, or before it. Both are readings of
    /// the clock, which are less than 292 years apart, and `span` is no longer.
    #[inline]
    pub(crate) fn is_within(self, span: u64, earlier: Self) -> bool {
        debug_assert!(i64::try_from(span).is_ok(), "longer than two readings can be apart");
        self.0.wrapping_sub(earlier.0) <= span as i64
    }

    /// Whether this moment is at least a tick after `earlier`. Where the clock has no tick, that of
    /// the fastest kernel's timer (1024 Hz) counts.
    #[inline]
    pub(crate) fn is_a_tick_after(self, earlier: Self) -> bool {
        !self.is_within(1_000_000_000 / 1024 - 1, earlier)
    }
}

impl From<Instant> for Moment {
    fn from(instant: Instant) -> Self {
        let (anchor_instant, anchor) = *anchor();
        match instant.checked_duration_since(anchor_instant) {
            Some(span) => anchor.after(span).unwrap_or(Self::LAST),
            None => anchor.before(anchor_instant - instant).unwrap_or(Self::FIRST),
        }
    }
}

impl From<Moment> for Instant {
    fn from(moment: Moment) -> Self {
        let (instant, anchor) = *anchor();
        let exact = if moment < anchor {
            instant.checked_sub(anchor.since(moment))
        } else {
            instant.checked_add(moment.since(anchor))
        };
        // Fails only before the clock's beginning: no platform's clock ends within 292 years.
        exact.unwrap_or(instant)
    }
}

/// A span in nanoseconds, if it fits.
#[inline]
fn signed(span: Duration) -> Option<i64> {
    i64::try_from(span.as_nanos()).ok()
}
