//! `Moment`: a moment of the system's clock in one word. An `Instant` is two words and ten times
//! slower to compute with, and many moments are kept for each connection.
//!
//! # One clock
//!
//! Every moment is read from the clock that is behind `Instant` on that system, precisely or coarsely.
//! So any two moments can be compared, whichever way each was read; no step of the wall clock changes
//! one, and sleep counts for all or for none.
//!
//! | system | clock | coarse reading | its tick | counts sleep |
//! | --- | --- | --- | --- | --- |
//! | Linux, Android | `CLOCK_MONOTONIC` | `CLOCK_MONOTONIC_COARSE` | 1 to 10 ms (`CONFIG_HZ`) | no |
//! | macOS and its like | `CLOCK_UPTIME_RAW` | `CLOCK_UPTIME_RAW_APPROX` | 10 ms at most | no |
//! | FreeBSD, DragonFly | `CLOCK_MONOTONIC` | `CLOCK_MONOTONIC_FAST` | 1 to 10 ms (`kern.hz`) | as both do |
//! | OpenBSD | `CLOCK_MONOTONIC` | the clock itself | none | yes |
//! | NetBSD, other Unix | `CLOCK_MONOTONIC` | the clock itself | none | as it does |
//! | Windows, others | `Instant` | the clock itself | none | yes, on Windows |
//!
//! The coarse clocks of Windows (`GetTickCount64`, `QueryUnbiasedInterruptTime`) do not run at the
//! rate of its precise one, so they are not used.

#[path = "moment/sys.rs"] // Also where a test compiles this file by its path.
mod sys;

use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Nanoseconds of the clock, which began when the system did. They last for 292 years, the last of
/// which stands for all that come after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(i64);

/// One moment, in both forms.
static SAME: LazyLock<(Instant, Moment)> = LazyLock::new(|| {
    loop {
        let (before, instant, after) = (sys::precise(), Instant::now(), sys::precise());
        // Longer, and the thread was interrupted between the readings.
        if after - before < 1_000_000 {
            return (instant, Moment(before));
        }
    }
});

/// By how much a coarse reading is late at most: the tick of the slowest kernel's timer (100 Hz).
pub(crate) const TICK_MOST: Duration = Duration::from_millis(10);

impl Moment {
    /// Before any that the clock reads.
    pub(crate) const FIRST: Self = Self(i64::MIN);
    /// After any that the clock reads.
    pub(crate) const LAST: Self = Self(i64::MAX);

    /// The clock, read precisely.
    #[inline]
    pub(crate) fn now() -> Self {
        Self(sys::precise())
    }

    /// The clock, read in a few nanoseconds: late by a tick at most, never early.
    #[inline]
    pub(crate) fn coarse_now() -> Self {
        Self(sys::coarse())
    }

    /// The moment `span` after this one; `None`, which is never, if that is too far to say.
    #[inline]
    pub(crate) fn after(self, span: Duration) -> Option<Self> {
        self.0.checked_add(signed(span)?).map(Self)
    }

    /// The moment so many nanoseconds after this one; `LAST`, which is never, if that is too far to
    /// say.
    #[inline]
    pub(crate) fn after_nanos(self, span: u64) -> Self {
        Self(i64::try_from(span).map_or(i64::MAX, |span| self.0.saturating_add(span)))
    }

    /// The moment `span` before this one; `None` if that is too far to say.
    #[inline]
    pub(crate) fn before(self, span: Duration) -> Option<Self> {
        self.0.checked_sub(signed(span)?).map(Self)
    }

    /// Nanoseconds since the clock began; none if it is before.
    #[inline]
    pub(crate) fn as_nanos(self) -> u64 {
        self.0.try_into().unwrap_or(0)
    }

    /// How long after `earlier` this is: not at all, if it is before.
    #[inline]
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanos_since(earlier))
    }

    /// The same in nanoseconds, which costs no division.
    #[inline]
    pub(crate) fn nanos_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0).try_into().unwrap_or(0)
    }

    /// Whether this is no more than so many nanoseconds after `earlier`, or before it. Both are
    /// readings of the clock, which are no 292 years apart.
    #[inline]
    pub(crate) fn is_within(self, span: u64, earlier: Self) -> bool {
        self.0.wrapping_sub(earlier.0) <= i64::try_from(span).unwrap_or(i64::MAX)
    }

    /// Whether a coarse reading tells this moment from `earlier`, and by no less than a tick of the
    /// fastest kernel's timer (1024 Hz) where the clock has no tick.
    #[inline]
    pub(crate) fn is_a_tick_after(self, earlier: Self) -> bool {
        !self.is_within(1_000_000_000 / 1024 - 1, earlier)
    }
}

impl From<Instant> for Moment {
    fn from(instant: Instant) -> Self {
        let (same_instant, same) = *SAME;
        match instant.checked_duration_since(same_instant) {
            Some(span) => same.after(span).unwrap_or(Self::LAST),
            None => same.before(same_instant - instant).unwrap_or(Self::FIRST),
        }
    }
}

impl From<Moment> for Instant {
    fn from(moment: Moment) -> Self {
        let (instant, same) = *SAME;
        let exact = if moment < same {
            instant.checked_sub(same.since(moment))
        } else {
            instant.checked_add(moment.since(same))
        };
        // No platform's clock ends that soon, and none tells what came before it began.
        exact.unwrap_or(instant)
    }
}

/// A span in nanoseconds, if they can say it.
#[inline]
fn signed(span: Duration) -> Option<i64> {
    i64::try_from(span.as_nanos()).ok()
}
