//! A connection comes back while callers come, wait and give up.

use super::{SOON, check, check_within, spawn, spawn_with};
use crate::guard::{OwnedConnection, PooledConnection};
use crate::report::error::GetError;
use crate::runtime::sync;
use crate::server::{assert_at_rest, finish, pool};

/// WAK-01, WAK-14: one connection, one caller who comes as it is given back, and nobody else ever.
#[test]
fn a_caller_who_comes_during_a_return_is_served() {
    check(|| {
        sync::search_finely();
        let (pool, server) = pool(1, &[]);
        let held = pool.get().unwrap();
        let caller = spawn_with(&pool, |pool| drop(pool.get().unwrap()));
        drop(held);
        caller.join().unwrap();
        assert_at_rest(&pool, &server, 1);
    });
}

/// WAK-06: one connection, given back as the only waiter's deadline passes.
#[test]
fn a_deadline_racing_a_return_loses_no_connection() {
    check(|| {
        let (pool, server) = pool(1, &[]);
        let held = pool.get().unwrap();
        let hasty = spawn_with(&pool, |pool| match pool.get_timeout(SOON) {
            Ok(connection) => drop(connection),
            Err(error) => assert!(matches!(error, GetError::Exhausted { .. }), "{error}"),
        });
        drop(held);
        hasty.join().unwrap();
        assert_at_rest(&pool, &server, 1);
    });
}

/// WAK-05, CAN-01, CAN-07: one connection, given back as one waiter's deadline passes and another
/// waits without one. The patient one is served in each order.
#[test]
fn a_cancelled_waiter_passes_the_connection_on() {
    check_within(2, || {
        let (pool, server) = pool(1, &[]);
        let held = pool.get().unwrap();
        let hasty = spawn_with(&pool, |pool| drop(pool.get_timeout(SOON)));
        let patient = spawn_with(&pool, |pool| drop(pool.get().unwrap()));
        drop(held);
        hasty.join().unwrap();
        patient.join().unwrap();
        assert_at_rest(&pool, &server, 1);
        assert_eq!(server.books().dials, 1, "NO-DEMAND-NO-DIAL");
    });
}

/// WAK-07: one connection, and a waiter who wakes twice for no reason.
#[test]
fn a_spurious_wake_up_neither_fails_nor_serves_anybody() {
    check(|| {
        let (pool, server) = pool(1, &[]);
        let held = pool.get().unwrap();
        sync::wake_spuriously(2);
        let caller = spawn_with(&pool, |pool| drop(pool.get().unwrap()));
        drop(held);
        caller.join().unwrap();
        assert_at_rest(&pool, &server, 1);
    });
}

/// WAK-02, ACC-06: one connection that its holder discards; one waits, and the holder comes again.
#[test]
fn a_discard_serves_the_waiter_by_one_new_dial() {
    check_within(2, || {
        let (pool, server) = pool(1, &[]);
        let held = pool.get().unwrap();
        let caller = spawn_with(&pool, |pool| drop(pool.get().unwrap()));
        PooledConnection::discard(held);
        drop(pool.get().unwrap());
        caller.join().unwrap();
        assert_at_rest(&pool, &server, 1);
        assert_eq!(server.books().dials, 2, "NO-DEMAND-NO-DIAL");
    });
}

/// ACC-07, ACC-14: two connections, discarded by two threads at once, one of whom then waits.
#[test]
fn two_discards_free_two_slots() {
    check_within(2, || {
        let (pool, server) = pool(2, &[]);
        let (one, other) = (pool.get_owned().unwrap(), pool.get().unwrap());
        let discarding = spawn(move || OwnedConnection::discard(one));
        PooledConnection::discard(other);
        let third = pool.get().unwrap();
        discarding.join().unwrap();
        assert_eq!(third.number, 3);
        assert_eq!(pool.stats().open(), 1);
        drop(third);
        assert_at_rest(&pool, &server, 1);
    });
}

/// ACC-20: one connection that its holder keeps for good, and one caller who waits.
#[test]
fn a_detached_connection_leaves_its_slot_to_the_waiter() {
    check(|| {
        let (pool, server) = pool(1, &[]);
        let held = pool.get().unwrap();
        let caller = spawn_with(&pool, |pool| assert_eq!(pool.get().unwrap().number, 2));
        server.let_go();
        drop(PooledConnection::detach(held));
        caller.join().unwrap();
        assert_at_rest(&pool, &server, 1);
    });
}

/// FAIR-05: one connection, given back as one waits and another only looks.
#[test]
fn whoever_only_looks_takes_nothing_from_the_waiter() {
    check(|| {
        let (pool, server) = pool(1, &[]);
        let held = pool.get().unwrap();
        let caller = spawn_with(&pool, |pool| drop(pool.get().unwrap()));
        let passer_by = spawn_with(&pool, |pool| drop(pool.try_get()));
        drop(held);
        caller.join().unwrap();
        passer_by.join().unwrap();
        assert_at_rest(&pool, &server, 1);
    });
}

/// SHUT-12, BIND-08, LIFE-11: one connection, given back as another thread flushes.
#[test]
fn nothing_from_before_a_flush_is_lent_after_it() {
    check(|| {
        let (pool, server) = pool(1, &[]);
        let held = pool.get().unwrap();
        let flushing = spawn_with(&pool, |pool| {
            pool.flush();
            assert_eq!(pool.get().unwrap().number, 2);
        });
        drop(held);
        flushing.join().unwrap();
        assert_at_rest(&pool, &server, 1);
    });
}

/// A connection put down as the settings change is neither lost nor closed, and passes the ledger
/// before it is lent again.
#[test]
fn a_change_of_settings_racing_a_return_loses_no_connection() {
    check(|| {
        let (pool, server) = pool(1, &[]);
        let held = pool.get_owned().unwrap();
        let returning = spawn(move || drop(held));
        pool.resize(2).unwrap();
        drop(pool.try_get());
        returning.join().unwrap();
        assert_at_rest(&pool, &server, 1);
        assert_eq!(pool.get().unwrap().number, 1);
        assert_eq!(server.books().closed, 0);
    });
}

/// A connection given back as a predicate is to judge it: no later caller gets it, and it is closed
/// once.
#[test]
fn what_a_predicate_retires_is_not_lent_after_it() {
    check(|| {
        let (pool, server) = pool(1, &[]);
        let held = pool.get_owned().unwrap();
        let returning = spawn(move || drop(held));
        pool.retire_where(|connection| connection.number == 1);
        assert_eq!(pool.get().unwrap().number, 2);
        returning.join().unwrap();
        assert_at_rest(&pool, &server, 1);
        assert_eq!(server.books().closed, 1);
    });
}

/// The same, and nobody comes afterwards: it does not rest until somebody does.
#[test]
fn what_a_predicate_retires_is_closed_when_it_comes_back() {
    check(|| {
        let (pool, server) = pool(1, &[]);
        let held = pool.get_owned().unwrap();
        let returning = spawn(move || drop(held));
        pool.retire_where(|_| true);
        returning.join().unwrap();
        assert_eq!(server.books().closed, 1);
        assert_at_rest(&pool, &server, 0);
    });
}

/// Two predicates at once while a connection is lent and comes back: whichever judges it first
/// retires it, once, and the caller is not left behind.
#[test]
fn two_predicates_and_a_caller_end_a_connection_once() {
    check_within(2, || {
        let (pool, server) = pool(1, &[]);
        drop(pool.get().unwrap());
        let judging = spawn_with(&pool, |pool| pool.retire_where(|it| it.number == 1));
        drop(pool.get().unwrap());
        pool.retire_where(|it| it.number < 3);
        judging.join().unwrap();
        let idle = pool.stats().idle;
        assert_at_rest(&pool, &server, idle);
        assert!(pool.get().unwrap().number > 1);
    });
}

/// ACC-16, ACC-17: two connections; the limit is lowered to one as one of them is given back.
#[test]
fn a_lowered_limit_is_kept_once_enough_has_come_back() {
    check(|| {
        let (pool, server) = pool(2, &[]);
        let (one, other) = (pool.get_owned().unwrap(), pool.get().unwrap());
        let returning = spawn(move || drop(one));
        pool.resize(1).unwrap();
        returning.join().unwrap();
        assert_eq!(pool.stats().open(), 1, "what came back is closed");
        drop(other);
        assert_at_rest(&pool, &server, 1);
        finish(&pool, &server);
    });
}
