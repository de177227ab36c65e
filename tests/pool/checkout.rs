//! Checkouts as values: their limits, their cancellation, and their three ways to a connection.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::common;
use crate::common::{
    Connection, Gate, LONG, Refused, SHORT, Scripted, await_rest, await_waiting, pool,
};
use latebind::{Cancel, GetError, KeyedPool};

#[test]
fn a_checkout_that_is_told_nothing_waits_for_as_long_as_the_pool_says() {
    let (pool, server) = pool(|b| b.max_open(1).get_timeout(SHORT));
    let held = pool.get_timeout(LONG).unwrap();
    let asked = Instant::now();
    assert!(matches!(pool.checkout().get(), Err(GetError::Exhausted { .. })));
    assert!(asked.elapsed() >= SHORT && asked.elapsed() < LONG);
    drop(held);
    assert_eq!(pool.checkout().timeout(LONG).get().unwrap().id, 1);
    await_rest(&pool, &server);
}

#[test]
fn the_limit_that_was_named_last_holds_and_a_checkout_begins_when_it_is_carried_out() {
    let (pool, server) = pool(|b| b.max_open(1).get_timeout(LONG));
    let held = pool.get().unwrap();
    let past = Instant::now();
    let asked = Instant::now();
    assert!(pool.checkout().deadline(past).timeout(SHORT).get().is_err());
    assert!(asked.elapsed() >= SHORT, "the timeout was named last");
    assert!(pool.checkout().timeout(LONG).deadline(past).get().is_err());
    assert!(asked.elapsed() < LONG, "the deadline was named last");
    let patient = pool.checkout().timeout(SHORT);
    let later = Instant::now() + 2 * SHORT;
    common::await_that("it has been kept for a while", || Instant::now() > later);
    let asked = Instant::now();
    assert!(patient.get().is_err());
    assert!(asked.elapsed() >= SHORT, "it had its whole time");
    drop(held);
    await_rest(&pool, &server);
}

#[test]
fn a_checkout_is_cancelled_before_it_begins_and_while_it_waits() {
    let (pool, server) = pool(|b| b.max_open(1));
    let cancel = Cancel::new();
    let held = pool.checkout().cancel(&cancel).get().unwrap();
    thread::scope(|scope| {
        let by_ref = scope.spawn(|| pool.checkout().cancel(&cancel).get().map(drop));
        let owned = scope.spawn(|| pool.checkout().cancel(&cancel).get_owned().map(drop));
        await_waiting(&pool, 2);
        cancel.cancel();
        for caller in [by_ref, owned] {
            assert!(matches!(caller.join().unwrap(), Err(GetError::Cancelled)));
        }
    });
    drop(held);
    let too_late = pool.checkout().cancel(&cancel);
    assert!(matches!(too_late.get(), Err(GetError::Cancelled)), "although one is idle");
    assert_eq!(pool.stats().cancelled_total, 3);
    await_rest(&pool, &server);
}

#[test]
fn work_that_fails_with_a_checkout_of_its_own_closes_the_connection() {
    let (pool, server) = pool(|b| b.max_open(1));
    let failed: Result<(), GetError<Refused>> =
        pool.checkout().timeout(LONG).with(|_| Err(GetError::Closed));
    assert!(failed.is_err());
    let id: Result<u32, GetError<Refused>> =
        pool.checkout().timeout(LONG).with(|connection| Ok(connection.id));
    assert_eq!((id.unwrap(), server.dials()), (2, 2));
    await_rest(&pool, &server);
}

#[test]
fn a_holder_is_told_where_its_checkout_began() {
    let (pool, server) = pool(|b| b.max_open(1));
    let (line, checkout) = (line!(), pool.checkout());
    let held = checkout.get_owned().unwrap();
    assert_eq!(pool.holders()[0].location.line(), line);
    drop(held);
    await_rest(&pool, &server);
}

#[test]
fn a_checkout_of_a_key_has_all_that_one_of_a_pool_has() {
    let (dialer, server) = Scripted::new();
    let for_all = dialer.clone();
    let pool = KeyedPool::builder(move |_: &u8| for_all.clone()).max_open(1).build().unwrap();
    let cancel = Cancel::new();
    assert!(pool.try_get_owned(&1).is_err(), "nothing has been dialed yet");
    let held = pool.checkout(&1).cancel(&cancel).timeout(LONG).get_owned().unwrap();
    assert!(pool.checkout(&1).timeout(SHORT).get().is_err());
    assert!(pool.checkout(&1).deadline(Instant::now()).get().is_err());
    drop(held);
    let idle = pool.try_get_owned(&1).unwrap();
    thread::spawn(move || drop(idle)).join().unwrap();
    let id: Result<u32, GetError<Refused>> = pool.checkout(&1).with(|connection| Ok(connection.id));
    assert_eq!((id.unwrap(), server.dials()), (1, 1));
    // One that needs a dial, and whose wait is cancelled meanwhile.
    let gate = Gate::new();
    server.on_dial([gate.then(common::Act::Succeed)]);
    thread::scope(|scope| {
        let caller = scope.spawn(|| pool.checkout(&2).cancel(&cancel).get().map(drop));
        gate.await_arrivals(1);
        cancel.cancel();
        assert!(matches!(caller.join().unwrap(), Err(GetError::Cancelled)));
        gate.open();
    });
    assert!(pool.checkout(&3).cancel(&cancel).timeout(Duration::MAX).get().is_err());
    assert_eq!(server.dials.load(SeqCst), 2, "nothing is dialed for who is cancelled already");
}

#[test]
fn a_guard_outlives_the_key_and_the_cancellation_of_its_checkout() {
    let (pool, server) = pool(|b| b.max_open(1));
    let guard = {
        let cancel = Cancel::new();
        pool.checkout().cancel(&cancel).get().unwrap()
    };
    assert_eq!(guard.id, 1);
    drop(guard);
    await_rest(&pool, &server);

    let (dialer, _server) = Scripted::new();
    let pool = KeyedPool::new(move |_: &String| dialer.clone());
    let guard = {
        let (key, cancel) = (String::from("of its own"), Cancel::new());
        pool.checkout(&key).cancel(&cancel).get().unwrap()
    };
    assert_eq!(guard.id, 1);
}

// ---- Once more ----------------------------------------------------------------------------------

/// The result of the work of these tests.
#[derive(Debug, PartialEq, Eq)]
enum Failure {
    Unsent,
    Sent,
    Get,
}

impl From<GetError<Refused>> for Failure {
    fn from(_: GetError<Refused>) -> Self {
        Self::Get
    }
}

/// The connections that some work has had.
type Seen = Arc<Mutex<Vec<u32>>>;

/// Work that fails in turn as it is told to, then succeeds; with the connections that it has had.
fn failing(
    failures: impl IntoIterator<Item = Failure>,
) -> (impl FnMut(&mut Connection) -> Result<u32, Failure>, Seen) {
    let (mut failures, had) = (failures.into_iter(), Seen::default());
    let noted = Arc::clone(&had);
    let work = move |connection: &mut Connection| {
        noted.lock().unwrap().push(connection.id);
        failures.next().map_or(Ok(connection.id), Err)
    };
    (work, had)
}

fn was_unsent(failure: &Failure) -> bool {
    *failure == Failure::Unsent
}

#[test]
fn work_on_a_dead_connection_is_done_once_more_on_one_that_has_proved_alive() {
    let (pool, server) = pool(|b| b.max_open(3).check_after(LONG));
    let [one, two] = [(); 2].map(|()| pool.get().unwrap());
    drop((one, two));
    let (work, had) = failing([Failure::Unsent]);
    let served = pool.retrying(work, was_unsent).unwrap();
    let had = had.lock().unwrap().clone();
    assert_eq!((had.len(), had[1]), (2, served));
    assert_ne!(had[0], had[1]);
    assert_eq!((server.checks.load(SeqCst), server.dials()), (1, 2), "the other is checked first");
    await_rest(&pool, &server);
}

#[test]
fn work_is_done_once_more_at_most_and_only_if_nothing_was_sent() {
    let (pool, server) = pool(|b| b.max_open(2).check_after(LONG));
    for (failures, attempts, outcome) in [
        (vec![Failure::Unsent, Failure::Unsent], 2, Failure::Unsent),
        (vec![Failure::Unsent, Failure::Sent], 2, Failure::Sent),
        (vec![Failure::Sent], 1, Failure::Sent),
    ] {
        drop(pool.get().unwrap());
        let (work, had) = failing(failures);
        assert_eq!(pool.retrying(work, was_unsent), Err(outcome));
        assert_eq!(had.lock().unwrap().len(), attempts);
        await_rest(&pool, &server);
        assert_eq!(pool.stats().open(), 0, "what work has failed with is closed");
    }
}

#[test]
fn work_on_a_connection_that_was_dialed_for_it_is_not_repeated() {
    let (pool, server) = pool(|b| b.max_open(1));
    let (work, had) = failing([Failure::Unsent]);
    assert_eq!(pool.retrying(work, was_unsent), Err(Failure::Unsent));
    assert_eq!(had.lock().unwrap().len(), 1);
    await_rest(&pool, &server);
}

// ---- Probes -------------------------------------------------------------------------------------

#[test]
fn a_ping_checks_a_connection_however_lately_it_was_used() {
    let (pool, server) = pool(|b| b.max_open(1).check_after(Duration::MAX));
    for checks in 0..3 {
        pool.ping(LONG).unwrap();
        assert_eq!((server.checks.load(SeqCst), server.dials()), (checks, 1));
    }
    assert_eq!(pool.stats().idle, 1);
    await_rest(&pool, &server);
}

#[test]
fn a_ping_closes_what_fails_its_check_and_tries_the_next() {
    let (pool, server) = pool(|b| b.max_open(2).check_after(Duration::MAX));
    pool.warm_up(2).unwrap();
    server.on_check([common::Act::Fail]);
    pool.ping(LONG).unwrap();
    assert_eq!(pool.stats().check_failed_total, 1);
    server.on_check([common::Act::Panic]);
    pool.ping(LONG).unwrap();
    await_rest(&pool, &server);
}

#[test]
fn a_ping_of_a_pool_that_serves_nobody_fails_in_time() {
    let (pool, server) = pool(|b| b.max_open(1));
    let held = pool.get().unwrap();
    let asked = Instant::now();
    assert!(matches!(pool.ping(SHORT), Err(GetError::Exhausted { .. })));
    assert!(asked.elapsed() >= SHORT && asked.elapsed() < LONG);
    drop(held);
    server.last_dead.store(u32::MAX, SeqCst);
    server.refuses.store(true, SeqCst);
    assert!(pool.ping(SHORT).is_err(), "none passes its check, and none can be dialed");
    // A worker may still be at the close.
    common::await_that("nothing is left open", || pool.stats().open() == 0);
}

/// HEAL-01: a check may leave a sign that only `is_broken` reads.
#[test]
fn a_ping_takes_a_connection_that_its_check_has_broken_for_no_proof() {
    let (pool, server) = pool(|b| b.max_open(1).check_after(Duration::MAX));
    drop(pool.get().unwrap());
    server.on_is_broken([common::Act::Succeed, common::Act::Fail]);
    pool.ping(LONG).unwrap();
    assert_eq!((server.checks.load(SeqCst), server.dials()), (1, 2), "by the next");
    await_rest(&pool, &server);
}
