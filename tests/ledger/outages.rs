//! Callers while dials fail: failed at once, kept waiting, allowed to retry, refused.

use std::time::Duration;

use crate::config::{Backoff, Breaker, BreakerChoice, Config, OnDialFailure};
use crate::harness::{Harness, SECOND, ageless};
use crate::ledger::{Reply, Ticket, Verdict};
use crate::slips::Failure;

const MILLISECOND: Duration = Duration::from_millis(1);
const PROBE_EVERY: Duration = Duration::from_millis(90);

fn retrying(max_open: u32) -> Harness {
    let on_dial_failure = OnDialFailure::Retry(Backoff::default());
    Harness::with(Config { max_open, on_dial_failure, ..ageless() })
}

fn breaking(failures: u32) -> Config {
    let breaker = BreakerChoice::On(Breaker::new(failures, PROBE_EVERY));
    Config { max_open: 5, breaker, ..ageless() }
}

impl Harness {
    /// Turns the clock to the time when a sleeper wakes by itself, and ticks.
    fn sleep_and_tick(&mut self, ticket: Ticket) {
        let until = self.sleep(ticket).expect("there is something to wake for");
        assert!(until > self.now, "no spinning");
        self.now = until;
        self.tick();
    }

    /// A caller who is refused at once, and the failure that it gets.
    fn refused_at_once(&mut self) -> Failure {
        let dials = self.dials.len();
        let ticket = self.queue(0);
        assert_eq!(self.dials.len(), dials, "no dial is begun for it");
        self.failure(ticket)
    }
}

// ---- A failed dial and its caller ----------------------------------------------------

#[test]
fn a_caller_may_be_told_at_once_whatever_is_in_use() {
    let on_dial_failure = OnDialFailure::Fail;
    let mut harness = Harness::with(Config { max_open: 2, on_dial_failure, ..ageless() });
    let _held = harness.dial_and_get();
    let ticket = harness.queue(1);
    let id = harness.refused();
    assert_eq!(harness.failure(ticket), Failure::Of(id));
}

/// CAN-13: by default the caller keeps its place while something is in use.
#[test]
fn a_caller_whose_dial_has_failed_may_yet_be_served_by_a_return() {
    let mut harness = Harness::new(2);
    let held = harness.dial_and_get();
    let ticket = harness.queue(1);
    harness.refused();
    assert!(harness.collect(ticket).is_none());
    harness.give_back(held);
    assert_eq!(harness.granted(ticket).connection, 1);
}

// ---- Retry -------------------------------------------------------------------------------------

#[test]
fn a_caller_who_retries_is_served_when_the_server_is_back() {
    let mut harness = retrying(1);
    let ticket = harness.queue(1);
    for _ in 0..20 {
        harness.refused();
        assert!(harness.dials.is_empty(), "not without a pause");
        assert_eq!(harness.stats().open(), 0, "a pause holds no slot");
        harness.sleep_and_tick(ticket);
        assert_eq!(harness.dials.len(), 1);
    }
    harness.dialed();
    assert_eq!(harness.granted(ticket).connection, 1);
}

#[test]
fn pauses_grow_to_their_most_and_differ() {
    let mut harness = retrying(1);
    let ticket = harness.queue(1);
    let mut pauses = Vec::new();
    for _ in 0..12 {
        let failed = harness.now;
        harness.refused();
        harness.sleep_and_tick(ticket);
        pauses.push(harness.now - failed);
    }
    let (first, most) = (10 * MILLISECOND, 100 * MILLISECOND);
    assert!((first / 2..=first).contains(&pauses[0]), "{pauses:?}");
    assert!(pauses[5..].iter().all(|pause| (most / 2..=most).contains(pause)), "{pauses:?}");
    let longest = pauses.iter().max().expect("some");
    let shortest = pauses[5..].iter().min().expect("some");
    assert!(*longest - *shortest > 10 * MILLISECOND, "{pauses:?}");
}

/// HEAL-04: no storm, however many wait.
#[test]
fn retrying_callers_dial_one_at_a_time_until_a_dial_succeeds() {
    let mut harness = retrying(8);
    let tickets: Vec<_> = (0..8).map(|caller| harness.queue(caller)).collect();
    assert_eq!(harness.dials.len(), 8, "each has its own first dial");
    for _ in 0..8 {
        harness.refused();
    }
    let began = harness.now;
    let mut retries = 0;
    while harness.now < began + 5 * SECOND {
        assert!(harness.dials.is_empty());
        harness.sleep_and_tick(tickets[0]);
        assert_eq!(harness.dials.len(), 1);
        harness.refused();
        retries += 1;
    }
    assert!((50..=110).contains(&retries), "{retries} in 5 s");
    harness.sleep_and_tick(tickets[0]);
    harness.dialed();
    assert_eq!(harness.dials.len(), 7, "the server is back: all of them dial");
    (0..7).for_each(|_| harness.dialed());
    for ticket in tickets {
        drop(harness.granted(ticket));
    }
}

#[test]
fn a_new_callers_first_dial_waits_for_no_pause() {
    let mut harness = retrying(2);
    let first = harness.queue(1);
    harness.refused();
    let second = harness.queue(2);
    assert_eq!(harness.dials.len(), 1);
    harness.dialed();
    drop(harness.granted(first));
    harness.dialed();
    drop(harness.granted(second));
}

/// REASON: the deadline holds, and its error has a cause.
#[test]
fn a_caller_who_retries_in_vain_gets_the_reason_at_its_deadline() {
    let mut harness = retrying(1);
    let ticket = harness.queue_for(1, SECOND);
    let began = harness.now;
    let mut latest = harness.refused();
    while harness.now < began + SECOND {
        let until = harness.ledger.sleep(ticket, Some(began + SECOND));
        harness.now = until.expect("it has a deadline");
        harness.tick();
        if harness.now < began + SECOND {
            latest = harness.refused();
        }
    }
    match harness.collect(ticket) {
        Some(Verdict::Late(failure)) => {
            assert_eq!(failure, Some(Failure::Of(latest)));
        }
        None => assert_eq!(harness.leave(ticket), Some(Failure::Of(latest))),
        other => panic!("not late: {other:?}"),
    }
    assert!(harness.dials.is_empty(), "NO-DEMAND-NO-DIAL");
    harness.now += 60 * SECOND;
    harness.tick();
    assert!(harness.dials.is_empty(), "NO-DEMAND-NO-DIAL");
}

#[test]
fn a_retrying_caller_takes_a_connection_that_is_returned_meanwhile() {
    let mut harness = retrying(2);
    let held = harness.dial_and_get();
    let ticket = harness.queue(1);
    harness.refused();
    harness.give_back(held);
    assert_eq!(harness.granted(ticket).connection, 1);
}

/// Callers who sleep must be woken for the next attempt although it is nobody's job.
#[test]
fn one_of_those_who_sleep_wakes_for_the_next_attempt() {
    let mut harness = retrying(2);
    let (first, second) = (harness.queue(1), harness.queue(2));
    assert!(harness.sleep(first).is_some() && harness.sleep(second).is_none());
    let failed = harness.now;
    for _ in 0..2 {
        harness.refused();
    }
    assert_eq!(harness.woken, [2], "both would sleep beyond the next attempt");
    let until = harness.sleep(second).expect("the next attempt");
    assert!(until <= failed + 20 * MILLISECOND);
}

/// NO-STRANDED-WAITER. A caller that was served on its way to sleep finds that out when it looks, and so
/// does not wake for the others.
#[test]
fn one_who_has_been_served_watches_for_nobody() {
    let mut harness = retrying(2);
    let (first, second) = (harness.queue(1), harness.queue(2));
    harness.dialed();
    assert!(harness.sleep(first).is_none());
    assert!(harness.sleep(second).is_some(), "for the end of its own dial");
    drop(harness.granted(first));
}

// ---- The breaker -------------------------------------------------------------------------------

#[test]
fn after_so_many_failures_callers_are_refused_at_once_with_the_latest() {
    let mut harness = Harness::with(breaking(3));
    for _ in 0..3 {
        let ticket = harness.queue(1);
        let id = harness.refused();
        assert_eq!(harness.failure(ticket), Failure::Of(id));
    }
    let latest = harness.ledger.last_failure().expect("dials have failed");
    for _ in 0..10 {
        assert_eq!(harness.refused_at_once(), latest);
        harness.now += MILLISECOND;
    }
    assert_eq!((harness.begun, harness.stats().open()), (3, 0));
}

#[test]
fn one_at_a_time_probes_and_the_others_are_refused_meanwhile() {
    let mut harness = Harness::with(breaking(1));
    let ticket = harness.queue(1);
    harness.refused();
    harness.failure(ticket);
    harness.now += PROBE_EVERY - MILLISECOND;
    harness.refused_at_once();
    harness.now += MILLISECOND;
    let probe = harness.queue(1);
    assert_eq!(harness.dials.len(), 1, "its turn has come");
    harness.refused_at_once();
    harness.now += SECOND;
    harness.refused_at_once();
    harness.dialed();
    let entry = harness.granted(probe);
    // It is closed again.
    let other = harness.queue(2);
    assert_eq!(harness.dials.len(), 1);
    harness.dialed();
    drop((entry, harness.granted(other)));
}

/// From the first failure on one dial at a time is under way, however many are wanted.
#[test]
fn while_dials_fail_no_more_than_one_is_in_flight() {
    let mut harness = Harness::with(breaking(3));
    let tickets: Vec<_> = (0..5).map(|caller| harness.queue(caller)).collect();
    assert_eq!(harness.dials.len(), 5, "nothing has failed yet");
    for _ in 0..2 {
        harness.refused();
    }
    let sixth = harness.queue(6);
    assert_eq!(harness.dials.len(), 3, "no other is begun");
    for _ in 0..3 {
        harness.refused();
    }
    assert!(harness.dials.is_empty());
    for ticket in tickets.into_iter().chain([sixth]) {
        harness.failure(ticket);
    }
}

#[test]
fn the_breaker_bounds_dials_however_many_callers_ask() {
    let mut harness =
        Harness::with(Config { breaker: BreakerChoice::On(Breaker::default()), ..ageless() });
    let began = harness.now;
    while harness.now < began + 5 * SECOND {
        let ticket = harness.queue(1);
        while !harness.dials.is_empty() {
            harness.refused();
        }
        harness.failure(ticket);
        harness.now += MILLISECOND;
    }
    assert!((50..=60).contains(&harness.begun), "{} dials in 5 s", harness.begun);
}

/// CAN-13 holds for refused callers as well: something in use may serve them.
#[test]
fn a_caller_whom_a_return_can_serve_is_not_refused() {
    let mut harness = Harness::with(breaking(1));
    let held = harness.dial_and_get();
    let ticket = harness.queue(1);
    harness.refused();
    let late = harness.queue(2);
    assert!(harness.dials.is_empty());
    harness.give_back(held);
    let entry = harness.granted(ticket);
    harness.give_back(entry);
    let entry = harness.granted(late);
    // The last one that could serve them is lost.
    let third = harness.queue(3);
    harness.retire(entry);
    harness.failure(third);
}

/// Nothing but a lowered limit leaves a pool full while its dials fail.
#[test]
fn the_breaker_refuses_callers_of_a_pool_that_is_full_as_well() {
    let config = Config { on_dial_failure: OnDialFailure::Fail, ..breaking(1) };
    let mut harness = Harness::with(config);
    let _held = harness.dial_and_get();
    let ticket = harness.queue(1);
    harness.refused();
    harness.failure(ticket);
    harness.resize(1);
    harness.refused_at_once();
}

/// A caller who was refused a dial and waits for a return gets a dial once the server is back.
#[test]
fn when_a_probe_succeeds_those_who_wait_for_a_return_may_dial() {
    let mut harness = Harness::with(breaking(1));
    let _held = harness.dial_and_get();
    let first = harness.queue(1);
    harness.refused();
    let second = harness.queue(2);
    assert!(harness.dials.is_empty());
    harness.now += PROBE_EVERY;
    let third = harness.queue(3);
    assert_eq!(harness.dials.len(), 1, "the probe");
    harness.dialed();
    drop(harness.granted(first));
    assert_eq!(harness.dials.len(), 2);
    for ticket in [second, third] {
        harness.dialed();
        drop(harness.granted(ticket));
    }
}

/// NO-STRANDED-WAITER. One who was refused a dial and waits for a return is the next probe if nobody else
/// comes: nothing may ever come back.
#[test]
fn one_who_waits_for_a_return_probes_when_nobody_else_does() {
    let mut harness = Harness::with(breaking(1));
    let _held = harness.dial_and_get();
    let first = harness.queue(1);
    harness.refused();
    let second = harness.queue(2);
    assert!(harness.dials.is_empty() && harness.collect(first).is_none());
    for _ in 0..3 {
        let before = harness.now;
        harness.sleep_and_tick(second);
        assert_eq!((harness.now - before, harness.dials.len()), (PROBE_EVERY, 1));
        harness.refused();
    }
    harness.sleep_and_tick(second);
    harness.dialed();
    drop(harness.granted(first));
    harness.dialed();
    drop(harness.granted(second));
}

/// Where trying again cannot help, nobody who waits for a return tries.
#[test]
fn one_who_waits_for_a_return_probes_no_server_that_refuses_for_good() {
    let mut harness = Harness::with(breaking(1));
    let _held = harness.dial_and_get();
    let ticket = harness.queue(1);
    harness.refused_as(true);
    assert_eq!(harness.ledger.sleep(ticket, None), None, "there is nothing to wake up for");
    harness.now += 2 * PROBE_EVERY;
    harness.tick();
    assert!(harness.dials.is_empty());
}

/// Idle connections are lent while the breaker is open.
#[test]
fn an_open_breaker_keeps_nobody_from_idle_connections() {
    let mut harness = Harness::with(breaking(1));
    let (one, other) = (harness.dial_and_get(), harness.dial_and_get());
    let ticket = harness.queue(1);
    harness.refused();
    harness.give_back(one);
    drop(harness.granted(ticket));
    harness.give_back(other);
    assert!(matches!(harness.request(0, None), Reply::Granted(..)));
}

/// QUIET: a caller who waits for a return while the breaker is open sleeps until then.
#[test]
fn a_caller_who_waits_beside_an_open_breaker_sleeps() {
    let mut harness = Harness::with(breaking(1));
    let held = harness.dial_and_get();
    let ticket = harness.queue(1);
    harness.refused();
    harness.tick();
    assert!(harness.collect(ticket).is_none());
    harness.give_back(held);
    drop(harness.granted(ticket));
}

#[test]
fn a_warm_up_is_refused_as_callers_are() {
    let mut harness = Harness::with(breaking(1));
    let ticket = harness.queue(1);
    harness.refused();
    harness.failure(ticket);
    let warm_up = harness.warm_up(2, 7);
    harness.failure(warm_up);
    assert!(harness.dials.is_empty());
}

/// With both, callers try again until the breaker opens, and are refused then.
#[test]
fn retries_end_when_the_breaker_opens() {
    let on_dial_failure = OnDialFailure::Retry(Backoff::default());
    let mut harness = Harness::with(Config { on_dial_failure, ..breaking(3) });
    let ticket = harness.queue(1);
    for _ in 0..2 {
        harness.refused();
        assert!(harness.collect(ticket).is_none());
        harness.sleep_and_tick(ticket);
    }
    harness.refused();
    harness.failure(ticket);
    harness.refused_at_once();
}

/// A dial that hangs beyond its limit counts as a failure, and does not prevent a probe.
#[test]
fn a_dial_that_hangs_opens_the_breaker_and_a_probe_may_follow() {
    let config = Config { dial_timeout: SECOND, ..breaking(1) };
    let mut harness = Harness::with(config);
    let ticket = harness.queue(1);
    let _hangs = harness.dials.pop();
    harness.now += SECOND;
    harness.tick();
    harness.failure(ticket);
    harness.refused_at_once();
    harness.now += PROBE_EVERY;
    let probe = harness.queue(2);
    harness.dialed();
    drop(harness.granted(probe));
}

#[test]
fn a_breaker_that_never_tries_again_does_not_try_at_once() {
    let breaker = BreakerChoice::On(Breaker::new(1, Duration::MAX));
    let mut harness = Harness::with(Config { breaker, ..breaking(1) });
    let ticket = harness.queue(1);
    harness.refused();
    harness.failure(ticket);
    harness.now += 1_000_000 * SECOND;
    harness.refused_at_once();
}

/// A permanent failure, such as a wrong password, needs a person to mend it. An outage ends by itself.
#[test]
fn dials_for_min_idle_that_cannot_help_are_tried_ever_less_often() {
    const HOUR: Duration = Duration::from_secs(60 * 60);
    let tried = |is_permanent| {
        let mut harness = Harness::with(Config { min_idle: 5, ..ageless() });
        let began = harness.now;
        harness.tick();
        let mut tried = Vec::new();
        while harness.now < began + 2 * HOUR {
            while !harness.dials.is_empty() {
                tried.push(harness.now.since(began));
                harness.refused_as(is_permanent);
            }
            harness.now = harness.alarm.take().expect("another attempt is ordered");
            harness.upkeep();
        }
        tried.partition_point(|at| *at < HOUR)
    };
    assert!((360..800).contains(&tried(false)), "{}", tried(false));
    assert!((10..30).contains(&tried(true)), "{}", tried(true));
}

/// An overdue dial keeps its slot. Until that is free, a wake-up for a probe would begin none.
#[test]
fn nobody_wakes_for_a_probe_that_has_no_slot() {
    let breaker = Breaker::new(1, 10 * SECOND);
    let config = Config {
        max_open: 2,
        dial_timeout: 5 * SECOND,
        on_dial_failure: OnDialFailure::AwaitReturn,
        breaker: Some(breaker).into(),
        ..ageless()
    };
    let mut harness = Harness::with(config);
    let _held = harness.dial_and_get();
    let ticket = harness.queue(1);
    harness.now += 5 * SECOND;
    harness.tick();
    let failed = harness.now;
    assert_eq!(harness.sleep(ticket), None);
    harness.now += SECOND;
    harness.refused();
    assert_eq!(harness.sleep(ticket), Some(failed + 10 * SECOND));
}
