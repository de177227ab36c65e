//! `Stamp`: a moment in one word. An `Instant` takes two, and many are kept for each connection.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Nanoseconds after the first moment that was ever made a stamp, or before it. They last for 292
/// years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stamp(i64);

static FIRST: OnceLock<Instant> = OnceLock::new();

impl From<Instant> for Stamp {
    fn from(moment: Instant) -> Self {
        let first = *FIRST.get_or_init(|| moment);
        let nanoseconds = |span: Duration| i64::try_from(span.as_nanos()).unwrap_or(i64::MAX);
        match moment.checked_duration_since(first) {
            Some(after) => Self(nanoseconds(after)),
            None => Self(-nanoseconds(first - moment)),
        }
    }
}

impl From<Stamp> for Instant {
    fn from(stamp: Stamp) -> Self {
        let first = *FIRST.get().expect("a stamp is made of a moment");
        let span = Duration::from_nanos(stamp.0.unsigned_abs());
        let moment = if stamp.0 < 0 { first.checked_sub(span) } else { first.checked_add(span) };
        moment.expect("a stamp is of a moment that there was")
    }
}
