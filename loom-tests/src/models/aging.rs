//! Upkeep comes while connections are taken, put down, dialed and closed.

use std::time::Duration;

use loom::thread;

use super::{check_within, spawn, spawn_with};
use crate::config::Config;
use crate::dialer::Blocking;
use crate::runtime::housekeeper;
use crate::runtime::sync::{advance, search_finely};
use crate::server::{Act, assert_at_rest, finish, keyed_pool, never_due, pool_with};

const MINUTE: Duration = Duration::from_secs(60);

/// Connections that live for a minute to the nanosecond.
fn mortal(max_open: u32) -> Config {
    Config { max_lifetime: MINUTE, lifetime_jitter: Some(Duration::ZERO), ..never_due(max_open) }
}

/// LIFE-11. Upkeep against take: as the lifetime of what rests passes, it is lent before that or
/// closed after it.
#[test]
fn what_reaches_its_lifetime_is_lent_or_closed_and_never_both() {
    check_within(2, || {
        let (pool, server) = pool_with(mortal(1), &[], Blocking::default());
        drop(pool.get().unwrap());
        let keeping = spawn(|| {
            advance(MINUTE);
            housekeeper::wake();
        });
        let number = pool.get().unwrap().number;
        keeping.join().unwrap();
        assert!(number <= 2, "one dial for one that has ended");
        assert_eq!(pool.get().unwrap().number, 2, "LIFE-03: the first has ended");
        assert_at_rest(&pool, &server, 1);
        assert_eq!(server.books().closed, 1);
    });
}

/// LIFE-10. The same with the limit of rest: no slot is lost.
#[test]
fn what_has_rested_too_long_is_lent_or_closed_and_never_both() {
    check_within(2, || {
        let config = Config { max_idle_time: MINUTE, ..never_due(1) };
        let (pool, server) = pool_with(config, &[], Blocking::default());
        drop(pool.get().unwrap());
        let keeping = spawn(|| {
            advance(MINUTE);
            housekeeper::wake();
        });
        drop(pool.get().unwrap());
        drop(pool.get().unwrap());
        keeping.join().unwrap();
        finish(&pool, &server);
        let books = server.books();
        assert_eq!(books.dials, books.closed, "{books:?}");
    });
}

/// Upkeep against put: what has come to its end in use does so at its return, and the caller who
/// waits for it has another.
#[test]
fn what_ends_in_use_is_closed_as_it_comes_back_and_serves_nobody() {
    check_within(2, || {
        let (pool, server) = pool_with(mortal(1), &[], Blocking::default());
        let held = pool.get().unwrap();
        advance(MINUTE);
        let caller = spawn_with(&pool, |pool| assert_eq!(pool.get().unwrap().number, 2));
        let keeping = spawn(housekeeper::wake);
        drop(held);
        caller.join().unwrap();
        keeping.join().unwrap();
        assert_at_rest(&pool, &server, 1);
        assert_eq!(server.books().closed, 1);
    });
}

/// Upkeep against put: what comes back with little life left ends in time, whether upkeep has seen it
/// or not.
#[test]
fn what_comes_back_as_upkeep_looks_is_closed_at_its_end() {
    check_within(2, || {
        search_finely();
        let config = Config { max_idle_time: MINUTE * 2 / 3, ..mortal(1) };
        let (pool, server) = pool_with(config, &[], Blocking::default());
        let held = pool.get().unwrap();
        advance(MINUTE * 2 / 3);
        let keeping = spawn(housekeeper::wake_due);
        drop(held);
        keeping.join().unwrap();
        advance(MINUTE / 3);
        housekeeper::wake_due();
        let stats = pool.recent_stats(); // This reading makes no event.
        assert_eq!((stats.idle, stats.in_use), (0, 0), "it is closed, or about to be: {stats}");
        finish(&pool, &server);
    });
}

/// A shorter lifetime holds for what is in use, at its return and out of the ledger's sight after it.
#[test]
fn what_is_in_use_as_its_lifetime_is_shortened_ends_by_the_new_one() {
    check_within(2, || {
        let config = Config { max_lifetime: 60 * MINUTE, ..mortal(1) };
        let (pool, _server) = pool_with(config, &[], Blocking::default());
        drop(pool.get().unwrap());
        let held = pool.get().unwrap();
        pool.shell().reconfigure(|config| Ok(Config { max_lifetime: MINUTE, ..config })).unwrap();
        drop(held);
        drop(pool.get().unwrap());
        advance(MINUTE);
        assert_eq!(pool.get().unwrap().number, 2, "LIFE-03: the first has ended");
        pool.close();
    });
}

/// The same as above where all keys together may have only so much at rest.
#[test]
fn what_comes_back_after_upkeep_has_looked_is_closed_at_its_end_among_keys() {
    check_within(2, || {
        let each = Config { max_idle_time: MINUTE * 2 / 3, ..mortal(1) };
        let (pool, server) = keyed_pool(2, Some(1), each, &[]);
        let held = pool.get(&1).unwrap();
        advance(MINUTE * 2 / 3);
        housekeeper::wake_due();
        drop(held);
        advance(MINUTE / 3);
        housekeeper::wake_due();
        while server.books().open > 0 {
            housekeeper::wake_due(); // It may have been ordered only now.
            thread::yield_now(); // It is closed although nobody calls.
        }
        pool.close();
    });
}

/// ACC-18: `min_idle` is made good as a caller comes and another dials. They claim their slots by
/// the same path.
#[test]
fn a_refill_and_a_caller_share_the_slots() {
    check_within(2, || {
        let config = Config { min_idle: 1, ..never_due(2) };
        let (pool, server) = pool_with(config, &[], Blocking::default());
        let keeping = spawn_with(&pool, |pool| assert!(pool.stats().open() <= 2, "BOUND"));
        drop(pool.get().unwrap());
        keeping.join().unwrap();
        assert!(server.books().dials <= 2, "NO-DEMAND-NO-DIAL");
        finish(&pool, &server);
    });
}

/// LIFE-10, SHUT-10: the first refill fails and is tried again by upkeep, as the pool is closed. Nothing
/// is dialed for a closed pool, and nobody wakes it any more.
#[test]
fn a_refill_racing_a_close_leaves_nothing_open() {
    check_within(2, || {
        let config = Config { min_idle: 1, ..never_due(1) };
        let (pool, server) = pool_with(config, &[Act::Refuse], Blocking::default());
        let keeping = spawn(|| {
            advance(MINUTE);
            housekeeper::wake();
        });
        pool.close();
        keeping.join().unwrap();
        finish(&pool, &server);
        let dials = server.books().dials;
        housekeeper::wake();
        assert_eq!(server.books().dials, dials, "SHUT-10");
        assert_at_rest(&pool, &server, 0);
    });
}

/// Upkeep against take: the check of what rests takes it away for a while, and a caller who comes
/// meanwhile has it after that, without a dial.
#[test]
fn a_check_in_the_background_and_a_caller_share_a_connection() {
    check_within(2, || {
        let config = Config { check_idle_every: MINUTE, ..never_due(1) };
        let (pool, server) = pool_with(config, &[], Blocking::default());
        drop(pool.get().unwrap());
        let keeping = spawn(|| {
            advance(MINUTE);
            housekeeper::wake();
        });
        drop(pool.get().unwrap());
        keeping.join().unwrap();
        drop(pool.get().unwrap());
        assert_eq!(server.books().dials, 1, "NO-DEMAND-NO-DIAL");
        finish(&pool, &server);
    });
}
