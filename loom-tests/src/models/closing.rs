//! The pool is closed, or its last handle dropped, while others are at it.

use super::{SOON, check, check_within, spawn, spawn_with};
use crate::dialer::Blocking;
use crate::guard::OwnedConnection;
use crate::report::error::GetError;
use crate::runtime::sync::{never, rest_for_ever};
use crate::server::{Act, assert_at_rest, finish, never_due, pool, pool_with};

/// SHUT-01: one connection in use, two who wait for it, and a close. They are told at once.
#[test]
fn a_close_turns_every_waiter_away() {
    check_within(2, || {
        let (pool, server) = pool(1, &[]);
        let held = pool.get().unwrap();
        let callers = [(); 2].map(|()| {
            let pool = pool.clone();
            spawn(move || assert!(matches!(pool.get(), Err(GetError::Closed))))
        });
        pool.close();
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        drop(held);
        assert_at_rest(&pool, &server, 0);
    });
}

/// SHUT-03, BIND-04: a caller's dial is under way as the pool is closed. Either the caller was
/// served first, or it is told; and what was dialed is closed.
#[test]
fn a_close_during_a_dial_turns_the_caller_away_and_closes_what_is_dialed() {
    check(|| {
        let (pool, server) = pool(1, &[]);
        let caller = spawn_with(&pool, |pool| match pool.get() {
            Ok(connection) => drop(connection),
            Err(error) => assert!(matches!(error, GetError::Closed), "{error}"),
        });
        pool.close();
        assert!(matches!(pool.try_get(), Err(GetError::Closed)));
        caller.join().unwrap();
        finish(&pool, &server);
    });
}

/// SHUT-03: the same with a dial that fails, and a warm-up that waits for it.
#[test]
fn a_close_during_a_warm_up_ends_it() {
    check(|| {
        let (pool, server) = pool(2, &[Act::Refuse]);
        let warming = spawn_with(&pool, |pool| match pool.warm_up(2) {
            Ok(()) => panic!("one of its dials is refused"),
            Err(GetError::Closed | GetError::Unreachable { .. }) => {}
            Err(error) => panic!("{error}"),
        });
        pool.close();
        warming.join().unwrap();
        finish(&pool, &server);
    });
}

/// SHUT-15: the pool is closed as a dial says how it can be ended. It is ended, or it would wait for
/// ever.
#[test]
fn a_close_ends_a_dial_that_says_how() {
    check(|| {
        let (pool, server) = pool(1, &[Act::Linger]);
        let caller = spawn_with(&pool, |pool| assert!(matches!(pool.get(), Err(GetError::Closed))));
        pool.close();
        caller.join().unwrap();
        finish(&pool, &server);
    });
}

/// SHUT-02: a connection comes back as the pool is closed.
#[test]
fn a_return_racing_a_close_leaks_no_connection() {
    check(|| {
        let (pool, server) = pool(1, &[]);
        let held = pool.get_owned().unwrap();
        let returning = spawn(move || drop(held));
        pool.close();
        returning.join().unwrap();
        assert_at_rest(&pool, &server, 0);
    });
}

/// ACC-14: one connection that its holder discards as others flush and close the pool. It is closed
/// once, and counted once.
#[test]
fn a_discard_a_flush_and_a_close_end_a_connection_once() {
    check(|| {
        let (pool, server) = pool(1, &[]);
        let held = pool.get_owned().unwrap();
        let discarding = spawn(move || OwnedConnection::discard(held));
        let flushing = spawn_with(&pool, |pool| pool.flush());
        pool.close();
        discarding.join().unwrap();
        flushing.join().unwrap();
        assert_at_rest(&pool, &server, 0);
        assert_eq!(pool.stats().retired_total, 1);
    });
}

/// SHUT-04, SHUT-06: one connection in use and one dial under way as the pool is drained.
#[test]
fn a_drain_returns_when_everything_has_ended() {
    check_within(2, || {
        let (pool, server) = pool(2, &[]);
        let held = pool.get_owned().unwrap();
        let returning = spawn(move || drop(held));
        let caller = spawn_with(&pool, |pool| drop(pool.get()));
        assert!(pool.drain(never()).is_complete());
        let books = server.books();
        assert_eq!((books.open, books.opened), (0, books.closed), "{books:?}");
        returning.join().unwrap();
        caller.join().unwrap();
    });
}

/// SHUT-06: a drain gives up as the last connection comes back. It says truly whether it was done.
#[test]
fn a_drain_that_gives_up_says_what_is_out() {
    check(|| {
        let (pool, server) = pool(1, &[]);
        let held = pool.get_owned().unwrap();
        let returning = spawn(move || drop(held));
        let drained = pool.drain((crate::runtime::sync::now() + SOON).into());
        assert!(drained.in_use + drained.closing <= 1 && drained.dialing == 0, "{drained:?}");
        assert!(!drained.is_complete() || server.books().open == 0, "{drained:?}");
        returning.join().unwrap();
        assert_at_rest(&pool, &server, 0);
    });
}

/// SHUT-07, SHUT-08: two threads close at once, with a connection and a worker at rest, which would
/// rest for ever.
#[test]
fn two_closes_are_one() {
    check(|| {
        rest_for_ever();
        let (pool, server) = pool(1, &[]);
        drop(pool.get().unwrap());
        let closing = spawn_with(&pool, |pool| pool.close());
        pool.close();
        closing.join().unwrap();
        assert_at_rest(&pool, &server, 0);
    });
}

/// SHUT-09: the last handle goes, with its user's deadline, while the dial that was begun runs. The
/// worker is left alone with the pool, closes what it has dialed, and ends.
#[test]
fn the_last_handle_may_go_while_a_dial_runs() {
    check(|| {
        let (pool, _server) = pool(1, &[]);
        let hasty = spawn(move || drop(pool.get_timeout(SOON)));
        hasty.join().unwrap();
        // The dialer's drop tells whether everything was closed; `check`, whether it was dropped.
    });
}

/// SHUT-07, SHUT-09: the last handle goes inside a close that runs on the pool's own thread, with
/// another of them at rest.
#[test]
fn the_last_handle_may_go_on_a_thread_of_the_pools_own() {
    check(|| {
        rest_for_ever();
        let blocking = Blocking::default().close(true);
        let (pool, _server) = pool_with(never_due(1), &[], blocking);
        let mut held = pool.get_owned().unwrap();
        held.keeps = Some(pool);
        OwnedConnection::discard(held);
    });
}
