//! What an observer is told, in which order, and that nothing it does harms the pool.

mod common;

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::*;
use latebind::{CloseReason, Event, Observer, Pool, PooledConnection};

/// Notes every event in a few words.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    /// What has been noted since the last time.
    #[track_caller]
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    fn note(&self, what: impl fmt::Display) {
        self.0.lock().unwrap().push(what.to_string());
    }

    /// Waits until `last` has been noted, and takes all.
    #[track_caller]
    fn take_until(&self, last: &str) -> Vec<String> {
        await_that(last, || self.0.lock().unwrap().iter().any(|note| note == last));
        self.take()
    }
}

impl Observer<Refused> for Notes {
    fn observe(&self, event: &Event<'_, Refused>) {
        match event {
            Event::Closed { reason, .. } => self.note(format_args!("closed: {reason}")),
            Event::DialFailed { failure, .. } => self.note(format_args!("dial failed: {failure}")),
            _ => {}
        }
    }
}

#[test]
fn every_way_out_of_the_pool_has_its_reason() {
    let notes = Notes::default();
    let (pool, server) =
        pool(|b| b.max_open(2).max_idle(1).check_after(Duration::ZERO).observer(notes.clone()));
    PooledConnection::discard(pool.get().unwrap());
    assert_eq!(notes.take(), ["closed: discarded"]);

    server.on_is_broken([Act::Fail]);
    drop(pool.get().unwrap());
    assert_eq!(notes.take(), ["closed: broken"], "at its return");
    drop(pool.get().unwrap());
    server.on_is_broken([Act::Fail]);
    drop(pool.get().unwrap());
    assert_eq!(notes.take_until("closed: broken"), ["closed: broken"], "at its checkout");

    server.on_check([Act::Fail]);
    drop(pool.get().unwrap());
    assert_eq!(notes.take_until("closed: check failed"), ["closed: check failed"]);

    server.on_reset([Act::Fail]);
    drop(pool.get().unwrap());
    assert_eq!(notes.take(), ["closed: reset failed"]);

    let two = [pool.get().unwrap(), pool.get().unwrap()];
    drop(two);
    assert_eq!(notes.take(), ["closed: surplus"]);

    let panicked = std::thread::spawn({
        let pool = pool.clone();
        move || {
            let _held = pool.get().unwrap();
            panic_quietly();
        }
    });
    assert!(panicked.join().is_err());
    assert_eq!(notes.take(), ["closed: panicked"]);

    let held = pool.get().unwrap();
    pool.flush();
    drop(held);
    assert_eq!(notes.take(), ["closed: flushed"]);

    drop(pool.get().unwrap());
    pool.close();
    assert_eq!(notes.take(), ["closed: pool closed"]);
    await_rest(&pool, &server);
}

#[test]
fn a_connection_that_comes_back_long_after_it_was_written_off_is_closed_for_the_same_reason() {
    for (flushes, expected) in [(true, "closed: flushed"), (false, "closed: check or reset late")] {
        let notes = Notes::default();
        let limit = if flushes { LONG } else { SHORT };
        let (pool, server) = pool_that(
            |blocking| blocking.reset(true),
            |b| b.max_open(1).check_timeout(limit).close_timeout(SHORT).observer(notes.clone()),
        );
        let gate = Gate::new();
        server.on_reset([gate.then(Act::Succeed)]);
        drop(pool.get().unwrap());
        gate.await_arrivals(1);
        if flushes {
            pool.flush();
        }
        // Its slot has been given up, too.
        await_that("another is dialed", || pool.get_timeout(SHORT).is_ok());
        assert_eq!(pool.stats().close_timeouts_total, 1);
        assert!(notes.take().is_empty());
        gate.open();
        assert_eq!(notes.take_until(expected), [expected]);
    }
}

#[test]
fn a_failed_dial_is_told_with_its_reason() {
    let notes = Notes::default();
    let (pool, server) = pool(|b| b.observer(notes.clone()));
    server.on_dial([Act::Fail, Act::Panic]);
    assert!(pool.get().is_err());
    assert_eq!(notes.take(), ["dial failed: refused (dial 1)"]);
    assert!(pool.get().is_err());
    assert_eq!(notes.take(), ["dial failed: the dialer panicked"]);
    await_rest(&pool, &server);
}

/// STAT-05, LOCK-07.
#[test]
fn an_observer_that_panics_harms_nothing() {
    let panics = |_: &Event<'_, _>| panic_quietly();
    let (pool, server) = pool(|b| b.max_open(1).observer(panics));
    server.on_dial([Act::Fail]);
    assert!(pool.get().is_err());
    assert_eq!(pool.stats().panics_total, 1);
    PooledConnection::discard(pool.get().unwrap());
    assert_eq!(pool.stats().panics_total, 2);
    drop(pool.get().unwrap());
    await_rest(&pool, &server);
}

/// A closure, with the connection's age and the error's type.
#[test]
fn a_closure_observes() {
    let ages = Arc::new(Mutex::new(Vec::new()));
    let (dialer, server) = Scripted::new();
    let observer = {
        let ages = Arc::clone(&ages);
        move |event: &Event<'_, Refused>| {
            if let Event::Closed { reason: CloseReason::Discarded, age, .. } = event {
                ages.lock().unwrap().push(*age);
            }
        }
    };
    let pool = Pool::builder(dialer).observer(observer).build().unwrap();
    let held = pool.get().unwrap();
    let at_least = PooledConnection::age(&held);
    PooledConnection::discard(held);
    let ages = ages.lock().unwrap().clone();
    assert!(ages.len() == 1 && ages[0] >= at_least, "{ages:?}");
    await_rest(&pool, &server);
}
