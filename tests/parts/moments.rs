//! Moments by themselves: an `Instant` in one word, what that word cannot say, and the clock that is
//! read for it.

use std::time::{Duration, Instant};

use crate::runtime::moment::Moment;
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

/// Calls `f` with the time at each of so many ticks of the coarse clock.
fn while_it_ticks(times: u32, mut f: impl FnMut(Moment)) {
    let mut last = Moment::coarse_now();
    for _ in 0..times {
        while Moment::coarse_now() == last {
            std::hint::spin_loop();
        }
        last = Moment::coarse_now();
        f(last);
    }
}

/// Its `Debug` is the only way to see what an `Instant` is of, and stable in practice.
#[cfg(unix)]
#[test]
fn the_clock_is_that_of_instant() {
    let (before, instant, after) = (Moment::now(), Instant::now(), Moment::now());
    let text = format!("{instant:?}");
    let numbers: Vec<u64> = text
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect();
    let [seconds, nanoseconds] = numbers[..] else { panic!("{text}") };
    let raw = seconds * 1_000_000_000 + nanoseconds;
    assert!((before.as_nanos()..=after.as_nanos()).contains(&raw), "{before:?} {text} {after:?}");
}

#[test]
fn an_instant_becomes_the_moment_at_which_it_was_read() {
    let (before, instant, after) = (Moment::now(), Instant::now(), Moment::now());
    let moment = Moment::from(instant);
    // Some time may lie between the two readings by which they are converted.
    let off = Duration::from_millis(1);
    assert!(before.before(off).unwrap() <= moment && moment <= after, "{moment:?} {after:?}");
}

/// The systems have ticks of 10 ms at most.
#[test]
fn a_coarse_reading_is_late_by_a_tick_at_most_and_never_early() {
    let (mut least, mut last) = (Duration::MAX, Moment::FIRST);
    while_it_ticks(20, |_| {
        let (before, coarse, after) = (Moment::now(), Moment::coarse_now(), Moment::now());
        assert!(coarse <= after, "{coarse:?} is ahead of {after:?}");
        assert!(coarse >= last, "{coarse:?} is behind {last:?}");
        last = coarse;
        // A machine that is busy elsewhere ticks late now and then, but not always.
        least = least.min(before.since(coarse));
    });
    assert!(least <= Duration::from_millis(10), "late by {least:?}");
}

#[cfg(any(target_os = "linux", target_os = "android"))]
#[test]
fn whatever_the_coarse_clock_tells_apart_is_a_tick_apart() {
    let mut last = Moment::coarse_now();
    while_it_ticks(20, |next| {
        assert!(next.is_a_tick_after(last), "{:?}", next.since(last));
        assert!(!last.is_a_tick_after(next));
        last = next;
    });
}

#[test]
fn every_reading_lies_between_the_first_moment_and_the_last() {
    for moment in [Moment::now(), Moment::coarse_now()] {
        assert!(Moment::FIRST < moment && moment < Moment::LAST);
        assert_eq!(Moment::FIRST.since(moment), Duration::ZERO);
        assert_eq!((Moment::FIRST.as_nanos(), Moment::LAST.after(SECOND)), (0, None));
    }
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
