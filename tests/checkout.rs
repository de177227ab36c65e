//! Checkouts as values: their limits, their cancellation, and their three ways to a connection.

mod common;

use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use common::{Gate, LONG, Refused, SHORT, Scripted, await_rest, await_waiting, pool};
use latebind::{Cancel, GetError, KeyedPool};

#[test]
fn a_checkout_that_is_told_nothing_waits_for_as_long_as_the_pool_says() {
    let (pool, server) = pool(|b| b.max_open(1).get_timeout(SHORT));
    let held = pool.get().unwrap();
    let asked = Instant::now();
    assert!(matches!(pool.checkout().get(), Err(GetError::Exhausted { .. })));
    assert!(asked.elapsed() >= SHORT && asked.elapsed() < LONG);
    drop(held);
    assert_eq!(pool.checkout().get().unwrap().id, 1);
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
