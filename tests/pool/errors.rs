//! An error says why, with the numbers of that moment and the dialer's own error.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;

use crate::common::{
    Act, Gate, LONG, Refused, SHORT, await_rest, await_that, await_waiting, failed_dial, pool,
};
use latebind::{Cancel, DialContext, Dialer, GetError, KeyedPool, Pool, PooledConnection};

/// HEAL-04.
#[test]
fn where_nothing_can_help_the_dialer_s_own_error_comes_at_once() {
    let (pool, server) = pool(|b| b.max_open(2).get_timeout(Duration::MAX));
    server.refuses.store(true, SeqCst);
    let error = pool.get().unwrap_err();
    let GetError::Unreachable { stats, failure, waited, .. } = &error else { panic!("{error:?}") };
    assert_eq!((stats.open(), stats.max_open, stats.dial_failed_total), (0, 2, 1));
    assert!(*waited < LONG);
    assert_eq!(failure.error(), Some(&Refused(1)));
    assert_eq!(error.dial_error(), Some(&Refused(1)));
    let source = error.source().expect("there is a reason");
    assert_eq!(source.downcast_ref::<Refused>(), Some(&Refused(1)));
    assert!(source.source().is_none());
    assert_eq!(server.dials(), 1);
}

/// CAN-11.
#[test]
fn everyone_who_times_out_while_dials_fail_is_told_of_the_latest_failure() {
    // One slot beside the one in use, so that the dials come one after the other.
    let (pool, server) = pool(|b| b.max_open(2));
    let held = pool.get().unwrap();
    server.refuses.store(true, SeqCst);
    thread::scope(|scope| {
        // With one in use, each keeps its place although its dial has failed.
        let callers: Vec<_> =
            (0..8).map(|_| scope.spawn(|| pool.get_timeout(25 * SHORT).unwrap_err())).collect();
        await_that("all dials have failed", || pool.stats().dial_failed_total == 8);
        for caller in callers {
            let error = caller.join().unwrap();
            let GetError::Exhausted { stats, failure: Some(failure), waited, .. } = &error else {
                panic!("{error:?}");
            };
            assert_eq!((stats.in_use, stats.dialing, stats.max_open), (1, 0, 2));
            assert!(*waited >= 25 * SHORT);
            assert!(failure.error().is_some_and(|refused| (2..=9).contains(&refused.0)));
        }
    });
    // One who began no dial is told of the latest of the others.
    assert_eq!(failed_dial(&pool.get_timeout(Duration::ZERO).unwrap_err()), Some(9));
    assert_eq!(failed_dial(&pool.try_get().unwrap_err()), Some(9));
    drop(held);
    await_rest(&pool, &server);
}

/// CAN-11.
#[test]
fn a_failure_is_no_reason_any_more_once_a_dial_has_succeeded() {
    let (pool, server) = pool(|b| b.max_open(1));
    server.on_dial([Act::Fail]);
    assert!(pool.get().is_err());
    let held = pool.get().unwrap();
    let error = pool.get_timeout(SHORT).unwrap_err();
    assert!(matches!(error, GetError::Exhausted { failure: None, .. }), "{error:?}");
    assert!(error.source().is_none());
    drop(held);
    await_rest(&pool, &server);
}

/// CAN-11.
#[test]
fn out_of_connections_and_out_of_reach_are_two_errors() {
    let (pool, server) = pool(|b| b.max_open(1));
    let held = pool.get().unwrap();
    assert!(matches!(pool.get_timeout(SHORT), Err(GetError::Exhausted { .. })));
    server.refuses.store(true, SeqCst);
    PooledConnection::discard(held);
    assert!(matches!(pool.get_timeout(LONG), Err(GetError::Unreachable { .. })));

    // The same if a dial hangs for longer than the caller waits, after one has failed.
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Fail)]);
    let error = pool.get_timeout(SHORT).unwrap_err();
    assert!(matches!(error, GetError::Unreachable { .. }), "{error:?}");
    assert_eq!(failed_dial(&error), Some(2));
    gate.open();
    await_rest(&pool, &server);
}

#[test]
fn a_full_queue_says_how_full() {
    let (pool, server) = pool(|b| b.max_open(1).max_waiting(1));
    let held = pool.get().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| drop(pool.get_timeout(LONG).unwrap()));
        await_waiting(&pool, 1);
        let error = pool.get_timeout(LONG).unwrap_err();
        let GetError::QueueFull { max_waiting: 1, stats, .. } = &error else { panic!("{error:?}") };
        assert_eq!((stats.waiting, stats.in_use, stats.queue_full_total), (1, 1, 1));
        assert!(error.source().is_none() && error.dial_error().is_none());
        assert_eq!(
            error.to_string(),
            "the queue is full: max_waiting is 1 \
             (open 1 of 1: idle 0, in use 1, dialing 0, closing 0; waiting 1)"
        );
        drop(held);
    });
    await_rest(&pool, &server);
}

#[test]
fn a_panic_and_an_overdue_dial_are_reasons_too() {
    let (unlimited, server) = pool(|b| b.max_open(2).dial_timeout(LONG));
    server.on_dial([Act::Panic]);
    let error = unlimited.get().unwrap_err();
    assert!(error.dial_error().is_none());
    assert_eq!(error.source().unwrap().to_string(), "the dialer panicked");

    let (pool, server) = pool(|b| b.max_open(2).dial_timeout(SHORT));
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Fail)]);
    let error = pool.get().unwrap_err();
    assert!(matches!(error, GetError::Unreachable { .. }));
    assert_eq!(error.source().unwrap().to_string(), "the dial did not end within 20ms");
    gate.open();
    await_rest(&pool, &server);
}

#[test]
fn the_messages_say_what_happened_and_why_in_one_line() {
    let (pool, server) = pool(|b| b.max_open(1));
    server.on_dial([Act::Fail]);
    let error = pool.get().unwrap_err();
    let message = error.to_string();
    assert!(message.starts_with("could not open a connection in "), "{message}");
    let stats = "(open 0 of 1: idle 0, in use 0, dialing 0, closing 0; waiting 0)";
    assert!(message.ends_with(&format!("{stats}: refused (dial 1)")), "{message}");
    assert_eq!(error.source().unwrap().to_string(), "refused (dial 1)");
    let short = format!("{error:?}");
    assert!(short.starts_with("Unreachable { waited: "), "{short}");
    assert!(short.ends_with(", failure: Refused(1), .. }"), "{short}");
    let long = format!("{error:#?}");
    assert!(long.contains("dial_failed_total: 1,") && long.contains("Refused("), "{long}");

    let held = pool.get().unwrap();
    let message = pool.get_timeout(SHORT).unwrap_err().to_string();
    assert!(message.starts_with("no connection came free in "), "{message}");
    let stats = "(open 1 of 1: idle 0, in use 1, dialing 0, closing 0; waiting 0)";
    assert!(message.contains(&format!("{stats}; held for ")), "{message}");

    pool.resize(2).unwrap();
    server.refuses.store(true, SeqCst);
    await_that("a caller leaves after its dial has failed", || {
        let message = pool.get_timeout(SHORT).unwrap_err().to_string();
        let says_why = message.contains("; the latest dial failed: refused (dial ");
        says_why && message.contains(" (open 1 of 2: ") && message.ends_with(')')
    });
    drop(held);
    pool.close();
    let error = pool.get().unwrap_err();
    assert_eq!(
        (error.to_string(), format!("{error:?}")),
        ("the pool is closed".into(), "Closed".into())
    );
    assert!(error.source().is_none());
}

#[test]
fn a_warm_up_says_why_it_failed() {
    let (pool, server) = pool(|b| b.max_open(3));
    server.on_dial([Act::Succeed, Act::Fail, Act::Succeed]);
    let error = pool.warm_up(3).unwrap_err();
    assert!(matches!(error, GetError::Unreachable { .. }), "{error:?}");
    assert!(failed_dial(&error).is_some());
    await_that("the others stay", || pool.stats().idle == 2);
    await_rest(&pool, &server);
}

#[test]
fn a_warm_up_that_takes_too_long_is_told_so() {
    let (pool, server) = pool(|b| b.max_open(3).get_timeout(10 * SHORT));
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Succeed)]);
    let error = pool.warm_up(3).unwrap_err();
    let GetError::Exhausted { stats, failure: None, .. } = &error else { panic!("{error:?}") };
    assert!(stats.dialing >= 1);
    gate.open();
    assert_eq!(await_rest(&pool, &server).idle, 3, "and what it has begun goes on");
}

/// An error of many lines, whose first source it quotes and whose second it does not.
#[derive(Debug)]
struct Wordy(u32);

impl fmt::Display for Wordy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("no route\n  to the host\n"),
            1 => f.write_str("could not connect: no route; to the host"),
            _ => f.write_str("while logging in"),
        }
    }
}

impl Error for Wordy {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self.0 {
            0 => None,
            1 => Some(&Wordy(0)),
            _ => Some(&Wordy(1)),
        }
    }
}

/// Fails as it is told, for good or not.
struct Failing {
    is_permanent: bool,
}

impl Dialer for Failing {
    type Connection = Infallible;
    type Error = Wordy;

    fn dial(&self, _: &DialContext) -> Result<Infallible, Wordy> {
        Err(Wordy(2))
    }

    fn is_permanent(&self, _: &Wordy) -> bool {
        self.is_permanent
    }

    fn is_broken(&self, connection: &mut Infallible) -> bool {
        match *connection {}
    }
}

#[test]
fn the_cause_and_its_causes_are_told_in_one_line_and_once_each() {
    let pool = Pool::builder(Failing { is_permanent: false }).name("orders").build().unwrap();
    let line = pool.get().unwrap_err().to_string();
    assert!(line.starts_with("pool orders: could not open a connection in "), "{line}");
    let cause = ": while logging in: could not connect: no route; to the host";
    assert!(line.ends_with(cause), "{line}");
    assert_eq!(line.lines().count(), 1);
}

#[test]
fn an_error_says_whether_another_try_is_worth_while() {
    for is_permanent in [false, true] {
        let pool = Pool::new(Failing { is_permanent });
        assert_eq!(pool.get().unwrap_err().is_transient(), !is_permanent);
        let failure = pool.last_dial_failure().expect("a dial has failed");
        assert_eq!(failure.is_permanent(), is_permanent);
        pool.close();
        assert!(!pool.get().unwrap_err().is_transient(), "closed");
    }
    let (pool, server) = pool(|b| b.max_open(1).max_waiting(0));
    let held = pool.get().unwrap();
    assert!(pool.get_timeout(LONG).unwrap_err().is_transient(), "the queue is full");
    assert!(pool.get_timeout(Duration::ZERO).unwrap_err().is_transient(), "exhausted");
    pool.suspend();
    assert!(pool.get_timeout(Duration::ZERO).unwrap_err().is_transient(), "suspended");
    let cancel = Cancel::new();
    cancel.cancel();
    assert!(
        !pool.checkout().cancel(&cancel).timeout(LONG).get().unwrap_err().is_transient(),
        "cancelled"
    );
    pool.resume();
    drop(held);
    await_rest(&pool, &server);
}

/// For plain pools and keyed ones, and every reason.
#[test]
fn every_error_with_numbers_names_the_pool() {
    let (pool, server) = pool(|b| b.name("orders").max_open(1).max_waiting(0));
    let keyed =
        KeyedPool::builder(|_: &u8| Failing { is_permanent: false }).name("hosts").build().unwrap();
    let held = pool.get().unwrap();
    let full = pool.get_timeout(LONG).unwrap_err();
    let exhausted = pool.get_timeout(Duration::ZERO).unwrap_err();
    pool.suspend();
    let suspended = pool.get_timeout(Duration::ZERO).unwrap_err();
    pool.resume();
    for error in [full, exhausted, suspended] {
        assert!(error.to_string().starts_with("pool orders: "), "{error}");
        assert!(format!("{error:?}").contains("pool: \"orders\""), "{error:?}");
    }
    let (nothing, refused) = (keyed.try_get(&1).unwrap_err(), keyed.get(&1).unwrap_err());
    for error in [nothing, refused] {
        assert!(error.to_string().starts_with("pool hosts: "), "{error}");
    }
    drop(held);
    await_rest(&pool, &server);
}

/// STAT-01: a caller who is refused without the lock reads the places all the same.
#[test]
fn the_numbers_of_an_error_count_what_rests_as_idle() {
    let (pool, server) = pool(|b| b.max_open(5));
    drop([(); 3].map(|()| pool.get().unwrap()));
    server.on_dial([Act::Fail, Act::Fail]);
    let Err(GetError::Unreachable { stats, .. }) = pool.warm_up(5) else {
        panic!("its dials have failed")
    };
    assert_eq!((stats.idle, stats.in_use), (3, 0));
}
