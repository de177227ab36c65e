//! When each address is tried: the rules of RFC 8305 with a simulated clock and no socket.

use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use crate::race::Fault;
use crate::race::Race;
use crate::race::Step;
use crate::race::interleave;
use crate::race::partial_deadline;
use proptest::prelude::*;

const DELAY: Duration = Duration::from_millis(250);

fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// So many addresses of one family.
fn some(count: u16) -> Vec<SocketAddr> {
    (1..=count).map(|port| ([192, 0, 2, 1], port).into()).collect()
}

fn milliseconds(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn race(count: u16, delay: Duration, now: Instant, time: Duration) -> Race {
    Race::new(some(count), delay, false, now, now + time)
}

#[test]
fn families_take_turns_and_the_first_address_stays_first() {
    let mixed = addresses(&["[::1]:1", "[::2]:1", "[::3]:1", "0.0.0.1:1", "0.0.0.2:1"]);
    let turns = addresses(&["[::1]:1", "0.0.0.1:1", "[::2]:1", "0.0.0.2:1", "[::3]:1"]);
    assert_eq!(interleave(mixed), turns);

    let four_first = addresses(&["0.0.0.1:1", "[::1]:1", "[::2]:1"]);
    assert_eq!(interleave(four_first.clone()), four_first);
    assert_eq!(interleave(some(3)), some(3));
    assert_eq!(interleave(vec![]), vec![]);
}

/// The table of Go's `TestDialerPartialDeadline` (`TCP-07`).
#[test]
fn addresses_tried_in_turn_share_the_deadline() {
    let now = Instant::now() + Duration::from_secs(3600);
    let seconds = |count| now + Duration::from_secs(count);
    let table = [
        (now, seconds(12), 1, Some(seconds(12))),
        (now, seconds(12), 2, Some(seconds(6))),
        (now, seconds(12), 3, Some(seconds(4))),
        (now, seconds(12), 999, Some(seconds(2))),
        (now, now + milliseconds(1900), 999, Some(now + milliseconds(1900))),
        (now - milliseconds(1), now, 1, Some(now)),
        (now, now, 1, None),
        (now + milliseconds(1), now, 1, None),
    ];
    for (now, deadline, left, expected) in table {
        assert_eq!(partial_deadline(now, deadline, left), expected, "{left} left");
    }
}

proptest! {
    /// The parts never add up to more than the whole, none is empty, and where there is time for
    /// two seconds each the last address gets its two seconds (`TCP-07`).
    #[test]
    fn shares_of_a_deadline_fit_into_it(count in 1..40_usize, time in 1..120_000_u64) {
        let start = Instant::now();
        let deadline = start + milliseconds(time);
        let mut now = start;
        let mut last = Duration::ZERO;
        for left in (1..=count).rev() {
            let Some(until) = partial_deadline(now, deadline, left) else { break };
            prop_assert!(now < until && until <= deadline);
            last = until - now;
            now = until;
        }
        if milliseconds(time) >= Duration::from_secs(2) * u32::try_from(count).unwrap() {
            prop_assert!(last >= Duration::from_secs(2));
        }
    }

    /// Every address is tried where the deadline allows 10 ms each, whichever of them fail or stay silent.
    /// None is tried more often than three times, and the race ends at the deadline or before.
    #[test]
    fn every_address_has_its_turn(
        count in 1..12_u16,
        time in 1..2_000_u64,
        delay in prop_oneof![Just(Duration::MAX), (0..500_u64).prop_map(milliseconds)],
        fates in prop::collection::vec(0..4_u64, 64),
    ) {
        let start = Instant::now();
        let (mut now, deadline) = (start, start + milliseconds(time));
        let mut race = Race::new(some(count), delay, false, now, deadline);
        let mut starts = vec![0; usize::from(count)];
        let mut fates = fates.into_iter().cycle();
        let mut failing: Vec<(Instant, usize, Fault)> = vec![];
        loop {
            match race.step(now) {
                Step::Start(index) => {
                    starts[index] += 1;
                    match fates.next().unwrap() {
                        0 => failing.push((now, index, Fault::Address)),
                        1 => failing.push((now, index, Fault::LocalPort)),
                        2 => failing.push((now + milliseconds(37), index, Fault::Address)),
                        _ => {} // silence
                    }
                }
                Step::Abandon(index) => {
                    failing.retain(|&(_, failing, _)| failing != index);
                    race.failed(index, Fault::Address, now);
                }
                Step::Wait(until) => {
                    prop_assert!(until > now, "a wait that does not wait would spin");
                    prop_assert!(until <= deadline);
                    failing.sort_by_key(|&(at, ..)| at);
                    if failing.first().is_some_and(|&(at, ..)| at <= until) {
                        let (at, index, fault) = failing.remove(0);
                        now = now.max(at);
                        race.failed(index, fault, now);
                    } else {
                        now = until;
                    }
                }
                Step::Lost => break,
            }
        }
        prop_assert!(now <= deadline);
        prop_assert!(starts.iter().all(|&tries| tries <= 3));
        if delay != Duration::MAX && milliseconds(time) >= milliseconds(20) * u32::from(count) {
            prop_assert!(starts.iter().all(|&tries| tries > 0), "{starts:?}");
            prop_assert!(race.untried().is_empty());
        }
    }
}

#[test]
fn a_silent_address_leaves_the_next_one_to_start_after_the_delay() {
    let now = Instant::now();
    let mut race = race(2, DELAY, now, Duration::from_secs(30));
    assert_eq!(race.step(now), Step::Start(0));
    assert_eq!(race.step(now), Step::Wait(now + DELAY));
    assert_eq!(race.step(now + DELAY), Step::Start(1));
    // Nobody is given up: both run until the deadline.
    assert_eq!(race.step(now + DELAY), Step::Wait(now + Duration::from_secs(30)));
    assert_eq!(race.step(now + Duration::from_secs(30)), Step::Lost);
}

#[test]
fn a_refused_address_leaves_the_next_one_to_start_at_once() {
    let now = Instant::now();
    let mut race = race(3, DELAY, now, Duration::from_secs(30));
    assert_eq!(race.step(now), Step::Start(0));
    assert_eq!(race.step(now), Step::Wait(now + DELAY));
    assert_eq!(race.step(now + DELAY), Step::Start(1));
    let later = now + DELAY + milliseconds(3);
    assert!(!race.failed(0, Fault::Address, later));
    assert_eq!(race.step(later), Step::Start(2));
    assert!(!race.failed(1, Fault::Address, later));
    assert!(!race.failed(2, Fault::Address, later));
    assert_eq!(race.step(later), Step::Lost);
}

/// Under a deadline of 300 ms three addresses start 100 ms apart (`TCP-07`).
#[test]
fn under_a_short_deadline_the_delays_shrink() {
    let now = Instant::now();
    let mut race = race(3, DELAY, now, milliseconds(300));
    assert_eq!(race.step(now), Step::Start(0));
    assert_eq!(race.step(now), Step::Wait(now + milliseconds(100)));
    assert_eq!(race.step(now + milliseconds(100)), Step::Start(1));
    assert_eq!(race.step(now + milliseconds(200)), Step::Start(2));
    assert_eq!(race.step(now + milliseconds(200)), Step::Wait(now + milliseconds(300)));
}

#[test]
fn one_at_a_time_gives_an_address_up_when_its_share_is_over() {
    let now = Instant::now();
    let mut race = race(2, Duration::MAX, now, Duration::from_secs(12));
    let half = now + Duration::from_secs(6);
    assert_eq!(race.step(now), Step::Start(0));
    assert_eq!(race.step(now), Step::Wait(half));
    assert_eq!(race.step(half), Step::Abandon(0));
    assert!(!race.failed(0, Fault::Address, half));
    assert_eq!(race.step(half), Step::Start(1));
    assert_eq!(race.step(half), Step::Wait(now + Duration::from_secs(12)));
    assert_eq!(race.step(now + Duration::from_secs(12)), Step::Lost);
}

/// Twice in a row the kernel's choice of a port fails, and the third attempt is still made; a
/// third failure is the error. With a port of the caller's own choice the first is (`TCP-02`).
#[test]
fn an_unlucky_local_port_is_tried_again_twice() {
    let now = Instant::now();
    let deadline = now + Duration::from_secs(30);
    let mut kernels = Race::new(some(1), DELAY, false, now, deadline);
    for again in [true, true, false] {
        assert_eq!(kernels.step(now), Step::Start(0));
        assert_eq!(kernels.failed(0, Fault::LocalPort, now), again);
    }
    assert_eq!(kernels.step(now), Step::Lost);

    let mut ours = Race::new(some(1), DELAY, true, now, deadline);
    assert_eq!(ours.step(now), Step::Start(0));
    assert!(!ours.failed(0, Fault::LocalPort, now));
    assert_eq!(ours.step(now), Step::Lost);
}

/// The last failure before the deadline is the one reported: no address goes unaccounted for.
#[test]
fn an_attempt_promised_is_made_even_at_the_deadline() {
    let now = Instant::now();
    let deadline = now + Duration::from_secs(30);
    let mut race = Race::new(some(1), DELAY, false, now, deadline);
    assert_eq!(race.step(now), Step::Start(0));
    assert!(race.failed(0, Fault::LocalPort, deadline - milliseconds(1)));
    assert_eq!(race.step(deadline), Step::Start(0));
    assert!(!race.failed(0, Fault::LocalPort, deadline), "no time is left to try again");
    assert_eq!(race.step(deadline), Step::Lost);
}

#[test]
fn what_had_no_turn_is_said() {
    let now = Instant::now();
    let mut race = race(3, DELAY, now, Duration::from_secs(30));
    assert_eq!(race.step(now), Step::Start(0));
    assert_eq!(race.step(now + Duration::from_secs(30)), Step::Lost);
    assert_eq!(race.untried(), [race.address(1), race.address(2)]);
}
