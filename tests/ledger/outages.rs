//! What becomes of callers while dials fail: told at once, kept waiting, tried again, refused.

use std::time::Duration;

use crate::config::{Backoff, Breaker, Config, OnDialFailure};
use crate::desk::{Desk, SECOND, ageless};
use crate::ledger::{Request, Ticket, Verdict};
use crate::world::Failure;

const MILLISECOND: Duration = Duration::from_millis(1);
const PROBE_EVERY: Duration = Duration::from_millis(90);

fn retrying(max_open: u32) -> Desk {
    let on_dial_failure = OnDialFailure::Retry(Backoff::default());
    Desk::with(Config { max_open, on_dial_failure, ..ageless() })
}

fn breaking(failures: u32) -> Config {
    let breaker = Some(Some(Breaker::new(failures, PROBE_EVERY)));
    Config { max_open: 5, breaker, ..ageless() }
}

impl Desk {
    /// Turns the clock to when a sleeper wakes by itself, and has it look.
    fn sleep_and_look(&mut self, ticket: Ticket) {
        let until = self.sleep(ticket).expect("there is something to wake for");
        assert!(until > self.now, "no spinning");
        self.now = until;
        self.look();
    }

    /// A caller who is turned away at once, and by what.
    fn refused_at_once(&mut self) -> Failure {
        let dials = self.dials.len();
        let ticket = self.queue(0);
        assert_eq!(self.dials.len(), dials, "no dial is begun for it");
        self.failure(ticket)
    }
}

// ---- What a failed dial means for its caller ----------------------------------------------------

#[test]
fn a_caller_may_be_told_at_once_whatever_is_in_use() {
    let on_dial_failure = OnDialFailure::Fail;
    let mut desk = Desk::with(Config { max_open: 2, on_dial_failure, ..ageless() });
    let _held = desk.dial_and_get();
    let ticket = desk.queue(1);
    let id = desk.refused();
    assert_eq!(desk.failure(ticket), Failure::Of(id));
}

/// By default it keeps its place while something is in use (CAN-13).
#[test]
fn a_caller_whose_dial_has_failed_may_yet_be_served_by_a_return() {
    let mut desk = Desk::new(2);
    let held = desk.dial_and_get();
    let ticket = desk.queue(1);
    desk.refused();
    assert!(desk.collect(ticket).is_none());
    desk.give_back(held);
    assert_eq!(desk.granted(ticket).connection, 1);
}

// ---- Retry -------------------------------------------------------------------------------------

#[test]
fn a_caller_who_retries_is_served_when_the_server_is_back() {
    let mut desk = retrying(1);
    let ticket = desk.queue(1);
    for _ in 0..20 {
        desk.refused();
        assert!(desk.dials.is_empty(), "not without a pause");
        assert_eq!(desk.stats().open(), 0, "a pause holds no slot");
        desk.sleep_and_look(ticket);
        assert_eq!(desk.dials.len(), 1);
    }
    desk.dialed();
    assert_eq!(desk.granted(ticket).connection, 1);
}

#[test]
fn pauses_grow_to_their_most_and_differ() {
    let mut desk = retrying(1);
    let ticket = desk.queue(1);
    let mut pauses = Vec::new();
    for _ in 0..12 {
        let failed = desk.now;
        desk.refused();
        desk.sleep_and_look(ticket);
        pauses.push(desk.now - failed);
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
fn of_all_who_retry_one_at_a_time_dials_until_one_has_succeeded() {
    let mut desk = retrying(8);
    let tickets: Vec<_> = (0..8).map(|caller| desk.queue(caller)).collect();
    assert_eq!(desk.dials.len(), 8, "each has its own first dial");
    for _ in 0..8 {
        desk.refused();
    }
    let began = desk.now;
    let mut retries = 0;
    while desk.now < began + 5 * SECOND {
        assert!(desk.dials.is_empty());
        desk.sleep_and_look(tickets[0]);
        assert_eq!(desk.dials.len(), 1);
        desk.refused();
        retries += 1;
    }
    assert!((50..=110).contains(&retries), "{retries} in 5 s");
    desk.sleep_and_look(tickets[0]);
    desk.dialed();
    assert_eq!(desk.dials.len(), 7, "the server is back: all of them dial");
    (0..7).for_each(|_| desk.dialed());
    for ticket in tickets {
        drop(desk.granted(ticket));
    }
}

#[test]
fn a_new_callers_first_dial_waits_for_no_pause() {
    let mut desk = retrying(2);
    let first = desk.queue(1);
    desk.refused();
    let second = desk.queue(2);
    assert_eq!(desk.dials.len(), 1);
    desk.dialed();
    drop(desk.granted(first));
    desk.dialed();
    drop(desk.granted(second));
}

/// REASON: the deadline holds, and its error has a cause.
#[test]
fn who_retries_in_vain_is_told_why_at_the_deadline() {
    let mut desk = retrying(1);
    let ticket = desk.queue_for(1, SECOND);
    let began = desk.now;
    let mut latest = desk.refused();
    while desk.now < began + SECOND {
        let until = desk.ledger.sleep(ticket, Some(began + SECOND));
        desk.now = until.expect("it has a deadline");
        desk.look();
        if desk.now < began + SECOND {
            latest = desk.refused();
        }
    }
    match desk.collect(ticket) {
        Some(Verdict::Late(failure)) => {
            assert_eq!(failure, Some(Failure::Of(latest)));
        }
        None => assert_eq!(desk.leave(ticket), Some(Failure::Of(latest))),
        other => panic!("not late: {other:?}"),
    }
    assert!(desk.dials.is_empty(), "NO-DEMAND-NO-DIAL");
    desk.now += 60 * SECOND;
    desk.look();
    assert!(desk.dials.is_empty(), "NO-DEMAND-NO-DIAL");
}

#[test]
fn who_retries_takes_what_is_returned_meanwhile() {
    let mut desk = retrying(2);
    let held = desk.dial_and_get();
    let ticket = desk.queue(1);
    desk.refused();
    desk.give_back(held);
    assert_eq!(desk.granted(ticket).connection, 1);
}

/// Callers who sleep must be woken for the next attempt although it is nobody's job.
#[test]
fn one_of_those_who_sleep_wakes_for_the_next_attempt() {
    let mut desk = retrying(2);
    let (first, second) = (desk.queue(1), desk.queue(2));
    assert!(desk.sleep(first).is_some() && desk.sleep(second).is_none());
    let failed = desk.now;
    for _ in 0..2 {
        desk.refused();
    }
    assert_eq!(desk.woken, [2], "both would sleep beyond the next attempt");
    let until = desk.sleep(second).expect("the next attempt");
    assert!(until <= failed + 20 * MILLISECOND);
}

// ---- The breaker -------------------------------------------------------------------------------

#[test]
fn after_so_many_failures_callers_are_refused_at_once_with_the_latest() {
    let mut desk = Desk::with(breaking(3));
    for _ in 0..3 {
        let ticket = desk.queue(1);
        let id = desk.refused();
        assert_eq!(desk.failure(ticket), Failure::Of(id));
    }
    let latest = desk.ledger.last_failure().expect("dials have failed");
    for _ in 0..10 {
        assert_eq!(desk.refused_at_once(), latest);
        desk.now += MILLISECOND;
    }
    assert_eq!((desk.begun, desk.stats().open()), (3, 0));
}

#[test]
fn one_at_a_time_probes_and_the_others_are_refused_meanwhile() {
    let mut desk = Desk::with(breaking(1));
    let ticket = desk.queue(1);
    desk.refused();
    desk.failure(ticket);
    desk.now += PROBE_EVERY - MILLISECOND;
    desk.refused_at_once();
    desk.now += MILLISECOND;
    let probe = desk.queue(1);
    assert_eq!(desk.dials.len(), 1, "its turn has come");
    desk.refused_at_once();
    desk.now += SECOND;
    desk.refused_at_once();
    desk.dialed();
    let entry = desk.granted(probe);
    // It is closed again.
    let other = desk.queue(2);
    assert_eq!(desk.dials.len(), 1);
    desk.dialed();
    drop((entry, desk.granted(other)));
}

/// Dials are in flight one at a time from the first failure on, whatever was asked for.
#[test]
fn while_dials_fail_no_more_than_one_is_in_flight() {
    let mut desk = Desk::with(breaking(3));
    let tickets: Vec<_> = (0..5).map(|caller| desk.queue(caller)).collect();
    assert_eq!(desk.dials.len(), 5, "nothing has failed yet");
    for _ in 0..2 {
        desk.refused();
    }
    let sixth = desk.queue(6);
    assert_eq!(desk.dials.len(), 3, "no other is begun");
    for _ in 0..3 {
        desk.refused();
    }
    assert!(desk.dials.is_empty());
    for ticket in tickets.into_iter().chain([sixth]) {
        desk.failure(ticket);
    }
}

#[test]
fn however_many_ask_there_are_no_more_dials_than_the_breaker_says() {
    let mut desk = Desk::with(Config { breaker: Some(Some(Breaker::default())), ..ageless() });
    let began = desk.now;
    while desk.now < began + 5 * SECOND {
        let ticket = desk.queue(1);
        while !desk.dials.is_empty() {
            desk.refused();
        }
        desk.failure(ticket);
        desk.now += MILLISECOND;
    }
    assert!((50..=60).contains(&desk.begun), "{} dials in 5 s", desk.begun);
}

/// CAN-13 holds for them as well: something in use may serve them.
#[test]
fn a_caller_whom_a_return_can_serve_is_not_refused() {
    let mut desk = Desk::with(breaking(1));
    let held = desk.dial_and_get();
    let ticket = desk.queue(1);
    desk.refused();
    let late = desk.queue(2);
    assert!(desk.dials.is_empty());
    desk.give_back(held);
    let entry = desk.granted(ticket);
    desk.give_back(entry);
    let entry = desk.granted(late);
    // The last one that could serve them is lost.
    let third = desk.queue(3);
    desk.retire(entry);
    desk.failure(third);
}

/// Who was refused a dial and waits for a return need not wait for that once the server is back.
#[test]
fn when_a_probe_succeeds_those_who_wait_for_a_return_may_dial() {
    let mut desk = Desk::with(breaking(1));
    let _held = desk.dial_and_get();
    let first = desk.queue(1);
    desk.refused();
    let second = desk.queue(2);
    assert!(desk.dials.is_empty());
    desk.now += PROBE_EVERY;
    let third = desk.queue(3);
    assert_eq!(desk.dials.len(), 1, "the probe");
    desk.dialed();
    drop(desk.granted(first));
    assert_eq!(desk.dials.len(), 2);
    for ticket in [second, third] {
        desk.dialed();
        drop(desk.granted(ticket));
    }
}

/// What rests is lent, breaker or no breaker.
#[test]
fn an_open_breaker_keeps_nobody_from_what_is_idle() {
    let mut desk = Desk::with(breaking(1));
    let (one, other) = (desk.dial_and_get(), desk.dial_and_get());
    let ticket = desk.queue(1);
    desk.refused();
    desk.give_back(one);
    drop(desk.granted(ticket));
    desk.give_back(other);
    assert!(matches!(desk.request(0, None), Request::Granted(..)));
}

#[test]
fn a_warm_up_is_refused_as_callers_are() {
    let mut desk = Desk::with(breaking(1));
    let ticket = desk.queue(1);
    desk.refused();
    desk.failure(ticket);
    let warm_up = desk.warm_up(2, 7);
    desk.failure(warm_up);
    assert!(desk.dials.is_empty());
}

/// With both, callers try again until the breaker opens, and are refused then.
#[test]
fn retries_end_when_the_breaker_opens() {
    let on_dial_failure = OnDialFailure::Retry(Backoff::default());
    let mut desk = Desk::with(Config { on_dial_failure, ..breaking(3) });
    let ticket = desk.queue(1);
    for _ in 0..2 {
        desk.refused();
        assert!(desk.collect(ticket).is_none());
        desk.sleep_and_look(ticket);
    }
    desk.refused();
    desk.failure(ticket);
    desk.refused_at_once();
}

/// A dial that hangs beyond its limit is a failure like any other, and no reason not to probe.
#[test]
fn a_dial_that_hangs_opens_the_breaker_and_a_probe_may_follow() {
    let config = Config { dial_timeout: SECOND, ..breaking(1) };
    let mut desk = Desk::with(config);
    let ticket = desk.queue(1);
    let _hangs = desk.dials.pop();
    desk.now += SECOND;
    desk.look();
    desk.failure(ticket);
    desk.refused_at_once();
    desk.now += PROBE_EVERY;
    let probe = desk.queue(2);
    desk.dialed();
    drop(desk.granted(probe));
}

#[test]
fn a_breaker_that_never_tries_again_does_not_try_at_once() {
    let breaker = Some(Breaker::new(1, Duration::MAX));
    let mut desk = Desk::with(Config { breaker: Some(breaker), ..breaking(1) });
    let ticket = desk.queue(1);
    desk.refused();
    desk.failure(ticket);
    desk.now += 1_000_000 * SECOND;
    desk.refused_at_once();
}

/// A wrong password, say: nobody calls, and only a person can mend it. An outage ends by itself.
#[test]
fn dials_for_min_idle_that_cannot_help_are_tried_ever_less_often() {
    const HOUR: Duration = Duration::from_secs(60 * 60);
    let tried = |is_permanent| {
        let mut desk = Desk::with(Config { min_idle: 5, ..ageless() });
        let began = desk.now;
        desk.look();
        let mut tried = Vec::new();
        while desk.now < began + 2 * HOUR {
            while !desk.dials.is_empty() {
                tried.push(desk.now.since(began));
                desk.refused_as(is_permanent);
            }
            desk.now = desk.alarm.take().expect("another attempt is ordered");
            desk.upkeep();
        }
        tried.partition_point(|at| *at < HOUR)
    };
    assert!((360..800).contains(&tried(false)), "{}", tried(false));
    assert!((10..30).contains(&tried(true)), "{}", tried(true));
}
