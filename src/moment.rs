//! `Moment`: a moment of the precise clock in one word. An `Instant` takes two, to reckon with which
//! takes ten times as long; and many are kept for each connection.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Nanoseconds after the first moment that was ever asked for, or before it. They last for 292 years,
/// the last of which stands for all that come after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(i64);

static FIRST: OnceLock<Instant> = OnceLock::new();

impl Moment {
    /// The moment `span` after this one; `None`, which is never, if that is too far to say.
    #[inline]
    pub(crate) fn after(self, span: Duration) -> Option<Self> {
        self.0.checked_add(signed(span)?).map(Self)
    }

    /// The moment `span` before this one; `None` if that is too far to say.
    #[inline]
    pub(crate) fn before(self, span: Duration) -> Option<Self> {
        self.0.checked_sub(signed(span)?).map(Self)
    }

    /// Nanoseconds after that first moment; none if it is before.
    #[inline]
    pub(crate) fn as_nanos(self) -> u64 {
        self.0.try_into().unwrap_or(0)
    }

    /// How long after `earlier` this is: not at all, if it is before.
    #[inline]
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0).try_into().unwrap_or(0))
    }
}

impl From<Instant> for Moment {
    fn from(instant: Instant) -> Self {
        let first = *FIRST.get_or_init(|| instant);
        let signed = |span| signed(span).unwrap_or(i64::MAX);
        match instant.checked_duration_since(first) {
            Some(after) => Self(signed(after)),
            None => Self(-signed(first - instant)),
        }
    }
}

impl From<Moment> for Instant {
    fn from(moment: Moment) -> Self {
        let first = *FIRST.get_or_init(Self::now);
        let span = Duration::from_nanos(moment.0.unsigned_abs());
        let instant = if moment.0 < 0 { first.checked_sub(span) } else { first.checked_add(span) };
        // What came before a platform's clock began is taken for the first; no clock ends that soon.
        instant.unwrap_or(first)
    }
}

/// A span in nanoseconds, if they can say it.
#[inline]
fn signed(span: Duration) -> Option<i64> {
    i64::try_from(span.as_nanos()).ok()
}
