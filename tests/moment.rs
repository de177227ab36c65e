//! Moments by themselves: an `Instant` in one word, and what that word cannot say.

#![allow(dead_code, unreachable_pub)] // The file is the crate's, not this test's.

#[path = "../src/moment.rs"]
mod moment;

use std::time::{Duration, Instant};

use moment::Moment;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

/// Longer than nanoseconds can say, which is 292 years.
const AGES: Duration = Duration::from_secs(300 * 366 * 24 * 60 * 60);

#[test]
fn what_cannot_be_said_is_never_or_the_last_moment() {
    let now = Instant::now();
    let moment = Moment::from(now);
    assert_eq!((moment.after(AGES), moment.before(AGES)), (None, None));
    assert_eq!(moment.after(Duration::MAX), None);

    let last = Moment::from(now + AGES);
    assert_eq!(last, Moment::from(now + 2 * AGES), "one stands for all that come after");
    assert!(moment.after(AGES - 10 * 366 * 24 * 60 * 60 * SECOND).unwrap() < last);
    assert_eq!((last.after(SECOND), moment.since(last)), (None, Duration::ZERO));
    assert!(Instant::from(last) > now + AGES / 2);
}

proptest! {
    /// Before the first moment that was ever asked for and after it.
    #[test]
    fn a_moment_is_its_instant(milliseconds in -1_000_000..1_000_000_i64, span in 0..u64::MAX / 8) {
        let (first, span) = (Instant::now(), Duration::from_nanos(span));
        let _ = Moment::from(first);
        let distance = Duration::from_millis(milliseconds.unsigned_abs());
        let instant = match milliseconds < 0 {
            true => first.checked_sub(distance),
            false => first.checked_add(distance),
        };
        // A machine that has just been started knows no instant before that.
        let Some(instant) = instant else { return Ok(()) };
        let moment = Moment::from(instant);
        prop_assert_eq!(Instant::from(moment), instant);
        let later = moment.after(span).unwrap();
        prop_assert_eq!(Instant::from(later), instant + span);
        prop_assert_eq!((later.since(moment), moment.since(later)), (span, Duration::ZERO));
        prop_assert_eq!(later.before(span), Some(moment));
        prop_assert_eq!(later > moment, !span.is_zero());
        prop_assert!(moment.as_nanos() <= later.as_nanos());
    }
}
