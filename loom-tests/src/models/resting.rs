//! Connections rest in places and are taken from there, without the lock.

use std::time::Duration;

use super::{SOON, check, check_within, spawn, spawn_with};
use crate::config::Config;
use crate::dialer::Blocking;
use crate::runtime::sync::advance;
use crate::server::{assert_at_rest, finish, never_due, pool, pool_with};
use crate::shell::cancel::Cancel;

/// Take against take: one connection at rest, and two callers. It is lent to one after the other.
#[test]
fn one_connection_at_rest_is_never_lent_to_two() {
    check(|| {
        let (pool, server) = pool(1, &[]);
        drop(pool.get().unwrap());
        let caller = spawn_with(&pool, |pool| drop(pool.get().unwrap()));
        drop(pool.get().unwrap());
        caller.join().unwrap();
        assert_at_rest(&pool, &server, 1);
        assert_eq!(server.books().dials, 1);
    });
}

/// Put against put: two connections come back at once, and both find the same place free.
#[test]
fn two_connections_put_down_in_one_place_both_come_to_rest() {
    check(|| {
        let (pool, server) = pool(2, &[]);
        let (one, other) = (pool.get_owned().unwrap(), pool.get().unwrap());
        let returning = spawn(move || drop(one));
        drop(other);
        returning.join().unwrap();
        assert_at_rest(&pool, &server, 2);
    });
}

/// WAK-01. Put against queue-up, without a lock: one connection is used in turn by two threads, and
/// a third looks at the numbers, for which the places are swept.
#[test]
fn who_sweeps_the_places_strands_nobody() {
    check_within(2, || {
        let (pool, server) = pool(1, &[]);
        drop(pool.get().unwrap());
        let caller = spawn_with(&pool, |pool| drop(pool.get().unwrap()));
        let observer = spawn_with(&pool, |pool| {
            let stats = pool.stats();
            assert_eq!(stats.open(), 1, "{stats}");
        });
        drop(pool.get().unwrap());
        caller.join().unwrap();
        observer.join().unwrap();
        assert_at_rest(&pool, &server, 1);
    });
}

/// STAT-02. A glance at the numbers against whoever sweeps the places and puts connections back:
/// what is open is open in every reading.
#[test]
fn a_glance_at_the_numbers_misses_no_connection() {
    check(|| {
        let (pool, server) = pool(1, &[]);
        drop(pool.get().unwrap());
        assert_eq!(pool.stats().open(), 1, "the event that opened it is over");
        let sweeper = spawn_with(&pool, |pool| assert_eq!(pool.stats().open(), 1));
        let reader = spawn_with(&pool, |pool| {
            let stats = pool.recent_stats();
            assert_eq!((stats.idle + stats.in_use, stats.open()), (1, 1), "{stats}");
        });
        drop(pool.get().unwrap());
        sweeper.join().unwrap();
        reader.join().unwrap();
        assert_eq!(pool.recent_stats().idle, 1);
        assert_at_rest(&pool, &server, 1);
    });
}

/// STAT-02. A glance at the numbers while others hold the lock: what rests does so in every reading,
/// although it is swept and laid out again meanwhile.
#[test]
fn who_holds_the_lock_hides_no_idle_connection() {
    check(|| {
        let (pool, server) = pool(1, &[]);
        drop(pool.get().unwrap());
        assert_eq!(pool.stats().idle, 1);
        let reader = spawn_with(&pool, |pool| {
            let stats = pool.recent_stats();
            assert_eq!((stats.idle, stats.in_use), (1, 0), "{stats}");
        });
        assert_eq!(pool.stats().idle, 1);
        reader.join().unwrap();
        assert_at_rest(&pool, &server, 1);
    });
}

/// STAT-02. The same of what the ledger counts: it is told as it was a moment ago, and not as of the last dial.
#[test]
fn who_holds_the_lock_hides_nothing_that_was_counted_a_while_ago() {
    check(|| {
        let (pool, server) = pool(1, &[]);
        drop(pool.get().unwrap());
        advance(SOON);
        let cancel = Cancel::new();
        cancel.cancel();
        assert!(pool.checkout().cancel(&cancel).get().is_err());
        let reader = spawn_with(&pool, |pool| assert_eq!(pool.recent_stats().cancelled_total, 1));
        assert_eq!(pool.stats().cancelled_total, 1);
        reader.join().unwrap();
        finish(&pool, &server);
    });
}

/// SHUT-02. Put against close: the connection put down as the pool is closed is closed too.
#[test]
fn nothing_rests_in_a_closed_pool() {
    check(|| {
        let (pool, server) = pool(1, &[]);
        let held = pool.get_owned().unwrap();
        let closing = spawn_with(&pool, |pool| pool.close());
        drop(held);
        closing.join().unwrap();
        finish(&pool, &server);
        assert_eq!(server.books().closed, 1);
    });
}

/// BOUNDED-BYPASS: while a connection is on its way to the first of two waiters, the gate is open
/// to newcomers. Neither waiter is left behind by that.
#[test]
fn who_may_be_passed_is_served_all_the_same() {
    check_within(2, || {
        let config = Config { bypass: Duration::MAX, ..never_due(1) };
        let (pool, server) = pool_with(config, &[], Blocking::default());
        let held = pool.get().unwrap();
        let waiters = [(); 2].map(|()| {
            let pool = pool.clone();
            spawn(move || drop(pool.get().unwrap()))
        });
        drop(held);
        drop(pool.get().unwrap());
        for waiter in waiters {
            waiter.join().unwrap();
        }
        assert_at_rest(&pool, &server, 1);
        assert_eq!(server.books().dials, 1, "NO-DEMAND-NO-DIAL");
    });
}

/// BOUNDED-BYPASS: two connections come back to two waiters, and the second may lie at rest until
/// the first waiter has woken. Both keep what they get, so nobody else ever serves the second.
#[test]
fn who_has_been_passed_is_served_once_the_first_has_woken() {
    check_within(2, || {
        let config = Config { bypass: Duration::MAX, ..never_due(2) };
        let (pool, server) = pool_with(config, &[], Blocking::default());
        let (one, other) = (pool.get().unwrap(), pool.get().unwrap());
        let waiters = [(); 2].map(|()| {
            let pool = pool.clone();
            spawn(move || pool.get_owned().unwrap())
        });
        drop(one);
        drop(other);
        let kept = waiters.map(|waiter| waiter.join().unwrap());
        assert_eq!(pool.stats().in_use, 2);
        drop(kept);
        assert_at_rest(&pool, &server, 2);
    });
}
