//! What dials that fail do to callers: failures, second attempts and the breaker, by a hand-turned
//! clock.

use std::time::Duration;

use crate::config::{Backoff, Breaker, Config, OnDialFailure};
use crate::desk::{Desk, SECOND, ageless};
use crate::ledger::{Request, Ticket};

const MILLISECOND: Duration = Duration::from_millis(1);

fn retrying() -> Config {
    let backoff = Backoff::new(10 * MILLISECOND, 100 * MILLISECOND);
    Config { on_dial_failure: OnDialFailure::Retry(backoff), ..ageless() }
}

fn broken_off(probe_every: Duration) -> Desk {
    let breaker = Some(Breaker::new(2, probe_every));
    let mut desk = Desk::with(Config { breaker, ..ageless() });
    for caller in 1..=2 {
        let ticket = desk.queue(caller);
        desk.refused();
        desk.failure(ticket);
    }
    desk
}

fn queue_three(desk: &mut Desk) -> [Ticket; 3] {
    [1, 2, 3].map(|caller| desk.queue(caller))
}

#[test]
fn a_caller_may_be_failed_at_once_although_a_connection_is_in_use() {
    let mut desk = Desk::with(Config { on_dial_failure: OnDialFailure::Fail, ..ageless() });
    let _held = desk.dial_and_get();
    let ticket = desk.queue(1);
    desk.refused();
    desk.failure(ticket);
}

#[test]
fn one_caller_at_a_time_dials_again_and_once_it_succeeds_all_do() {
    let mut desk = Desk::with(retrying());
    let tickets = queue_three(&mut desk);
    for _ in 0..3 {
        desk.refused();
    }
    for _ in 0..5 {
        assert!(desk.dials.is_empty(), "after a pause");
        let until = desk.sleep(tickets[0]).expect("somebody wakes to dial again");
        let pause = until - desk.now;
        assert!((5 * MILLISECOND..=100 * MILLISECOND).contains(&pause), "{pause:?}");
        desk.now = until - MILLISECOND;
        desk.look();
        assert!(desk.dials.is_empty(), "not yet");
        desk.now = until;
        desk.look();
        assert_eq!(desk.dials.len(), 1);
        desk.refused();
    }
    desk.now += SECOND;
    desk.look();
    desk.dialed();
    desk.granted(tickets[0]);
    assert_eq!(desk.dials.len(), 2);
}

#[test]
fn a_breaker_lets_one_dial_at_a_time_try_after_each_pause() {
    let mut desk = broken_off(SECOND);
    for _ in 0..3 {
        let turned_away = desk.queue(3);
        desk.failure(turned_away);
        assert!(desk.dials.is_empty(), "broken off");
        desk.now += SECOND;
        let probing = desk.queue(4);
        let turned_away = desk.queue(5);
        assert_eq!(desk.dials.len(), 1, "one at a time");
        desk.failure(turned_away);
        desk.refused();
        desk.failure(probing);
    }
    desk.now += SECOND;
    let probing = desk.queue(4);
    desk.dialed();
    desk.granted(probing);
    queue_three(&mut desk);
    assert_eq!(desk.dials.len(), 3, "the outage is over");
}

#[test]
fn a_breaker_that_never_tries_again_does_not_try_at_once() {
    let mut desk = broken_off(Duration::MAX);
    desk.now += 1_000_000 * SECOND;
    assert!(matches!(desk.request(3, None), Request::Queued(_)));
    assert!(desk.dials.is_empty());
}
