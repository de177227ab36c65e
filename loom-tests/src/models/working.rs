//! Workers come and go, or cannot be had, and user code runs on them.

use std::sync::Arc;
use std::time::Duration;

use super::{SOON, check, check_within, spawn, spawn_with};
use crate::config::{Breaker, BreakerChoice, Config, IdleOrder};
use crate::dialer::Blocking;
use crate::guard::PooledConnection;
use crate::pool::Pool;
use crate::report::error::GetError;
use crate::runtime::sync;
use crate::server::{
    Act, Scripted, Server, assert_at_rest, finish, never_due, pool, pool_observed, pool_with,
};

/// Two dials, one after the other: the second comes as the worker of the first goes to rest, rests,
/// or goes.
#[test]
fn a_job_is_never_given_to_a_worker_that_has_gone() {
    check(|| {
        let (pool, server) = pool(1, &[]);
        PooledConnection::discard(pool.get().unwrap());
        PooledConnection::discard(pool.get().unwrap());
        assert_at_rest(&pool, &server, 0);
        assert_eq!(server.books().dials, 2);
    });
}

/// Two threads dial as a worker rests: one of them has it. A model has room for three workers.
#[test]
fn a_resting_worker_is_given_one_job() {
    check_within(1, || {
        sync::limit_spawns(3);
        let (pool, server) = pool(2, &[]);
        PooledConnection::discard(pool.get().unwrap());
        let caller = spawn_with(&pool, |pool| drop(pool.get().unwrap()));
        drop(pool.get().unwrap());
        caller.join().unwrap();
        finish(&pool, &server);
    });
}

/// ACC-05: no thread can start for the dial of one of two callers. A dial fails, or both are
/// served by the one there is; no slot is lost.
#[test]
fn a_thread_that_cannot_be_had_fails_a_dial_and_no_more() {
    check_within(2, || {
        let (pool, server) = pool(2, &[]);
        sync::limit_spawns(1);
        let get = |pool: &crate::pool::Pool<_>| match pool.get() {
            Ok(connection) => drop(connection),
            Err(GetError::Unreachable { failure, .. }) => assert!(failure.error().is_none()),
            Err(error) => panic!("{error}"),
        };
        let caller = spawn_with(&pool, move |pool| get(&pool));
        get(&pool);
        caller.join().unwrap();
        sync::limit_spawns(1);
        drop(pool.get().unwrap());
        assert!(pool.drain(sync::never()).is_complete());
        // A dial for which there was no thread never reached the server.
        let (stats, books) = (pool.stats(), server.books());
        assert_eq!(stats.dialed_total, u64::from(books.dials));
        assert_eq!(stats.dials_total, stats.dialed_total + stats.dial_failed_total);
    });
}

/// QUIET, ACC-05: one thread can be started, and two pools dial. The second to come waits for it.
#[test]
fn two_pools_are_served_by_one_thread() {
    check_within(2, || {
        sync::limit_spawns(1);
        sync::rest_for_ever();
        let [(one, of_one), (other, of_other)] = [(); 2].map(|()| pool(1, &[]));
        let caller = spawn({
            let other = other.clone();
            move || drop(other.get().unwrap())
        });
        drop(one.get().unwrap());
        caller.join().unwrap();
        finish(&one, &of_one);
        finish(&other, &of_other);
    });
}

/// ACC-05, ACC-21: a close that may block, and no thread for it: it runs on the thread that
/// discards, and the slot serves the waiter.
#[test]
fn a_close_without_a_thread_runs_where_it_is_ordered() {
    check(|| {
        let (pool, server) = pool_with(never_due(1), &[], Blocking::default().close(true));
        let held = pool.get().unwrap();
        sync::limit_spawns(0);
        let caller = spawn_with(&pool, |pool| match pool.get() {
            Ok(connection) => assert_eq!(connection.number, 2),
            Err(GetError::Unreachable { failure, .. }) => assert!(failure.error().is_none()),
            Err(error) => panic!("{error}"),
        });
        PooledConnection::discard(held);
        caller.join().unwrap();
        assert!(pool.drain(sync::never()).is_complete());
        assert_eq!(server.books().open, 0);
    });
}

/// LOCK-04, LOCK-05, WAK-14: a close hangs that begins while the only waiter sleeps. The waiter is
/// served once `close_timeout` has passed, although nobody comes and nothing else ever happens.
#[test]
fn a_close_that_hangs_strands_nobody() {
    check_within(2, || {
        sync::rest_for_ever();
        let config = Config { close_timeout: SOON, ..never_due(1) };
        let (pool, server) = pool_with(config, &[], Blocking::default().close(true));
        let held = pool.get().unwrap();
        server.fall_silent(true);
        let caller = spawn({
            let (pool, server) = (pool.clone(), Arc::clone(&server));
            move || {
                let connection = pool.get().unwrap();
                assert_eq!(connection.number, 2);
                server.let_go();
                drop(PooledConnection::detach(connection));
            }
        });
        PooledConnection::discard(held);
        caller.join().unwrap();
        server.fall_silent(false);
        // Not `finish`: a drain does not wait longer for a close than `close_timeout` either.
        assert!(pool.drain(sync::never()).is_complete());
    });
}

/// The first caller hangs in something other than its sleep until the next has a connection. Both of these
/// come back meanwhile.
fn the_next_is_served_while_the_first_hangs<T>(
    pool: &Pool<Scripted>,
    server: &Arc<Server>,
    lent: T,
) {
    server.fall_silent(true);
    let first = spawn_with(pool, |pool| drop(pool.get().unwrap()));
    server.await_hanging();
    let next = spawn({
        let (pool, server) = (pool.clone(), Arc::clone(server));
        move || {
            let connection = pool.get().unwrap();
            server.fall_silent(false);
            drop(connection);
        }
    });
    drop(lent);
    first.join().unwrap();
    next.join().unwrap();
}

/// LOCK-05: the first in the queue closes what has aged before it sleeps, and that hangs. It is given a connection
/// meanwhile, and keeps the other one from nobody: only a caller who sleeps comes for its connection at once.
#[test]
fn who_closes_a_connection_before_it_sleeps_keeps_none_from_the_next() {
    check(|| {
        sync::limit_spawns(1);
        sync::rest_for_ever();
        // Without places it is as it asks that the caller closes what has aged.
        let config = Config {
            bypass: 60 * SOON,
            max_idle_time: SOON,
            idle_order: IdleOrder::Fifo,
            ..never_due(3)
        };
        let (pool, server) = pool_with(config, &[], Blocking::default());
        let [one, other, aged] = [(); 3].map(|()| pool.get().unwrap());
        drop(aged);
        sync::advance(SOON);
        the_next_is_served_while_the_first_hangs(&pool, &server, (one, other));
        assert_at_rest(&pool, &server, 2);
        finish(&pool, &server);
    });
}

/// LOCK-05: the first in the queue has slept, and wakes to see that its dial is overdue. That opens the breaker, and the
/// observer who is told of it hangs. The rest is as above.
#[test]
fn who_tells_an_observer_before_it_sleeps_again_keeps_none_from_the_next() {
    check_within(1, || {
        sync::rest_for_ever();
        let config = Config {
            bypass: 60 * SOON,
            breaker: BreakerChoice::On(Breaker::new(1, 60 * SOON)),
            ..never_due(3)
        };
        let script = [Act::Succeed, Act::Succeed, Act::Linger];
        let (pool, server) = pool_observed(config, &script);
        let [one, other] = [(); 2].map(|()| pool.get().unwrap());
        pool.shell().reconfigure(|now| Ok(Config { dial_timeout: SOON, ..now })).unwrap();
        the_next_is_served_while_the_first_hangs(&pool, &server, (one, other));
        finish(&pool, &server);
    });
}

/// LIFE-10, LIFE-11, WAK-06: one idle connection that needs a check. The caller for whom it is made
/// gives up as it ends; another waits.
#[test]
fn a_check_whose_caller_has_left_serves_the_next() {
    check_within(2, || {
        let config = Config { check_after: Duration::ZERO, ..never_due(1) };
        let (pool, server) = pool_with(config, &[], Blocking::default());
        drop(pool.get().unwrap());
        sync::advance(SOON);
        let hasty = spawn_with(&pool, |pool| drop(pool.get_timeout(SOON)));
        assert_eq!(pool.get().unwrap().number, 1);
        hasty.join().unwrap();
        assert_eq!(pool.stats().in_use, 0);
        finish(&pool, &server);
    });
}

/// LOCK-04: a reset that may block runs on a worker while a caller waits for the connection.
#[test]
fn a_connection_being_reset_serves_the_waiter_afterwards() {
    check_within(2, || {
        let (pool, server) = pool_with(never_due(1), &[], Blocking::default().reset(true));
        let held = pool.get().unwrap();
        let caller = spawn_with(&pool, |pool| PooledConnection::discard(pool.get().unwrap()));
        assert_eq!(held.number, 1, "used, and so to be reset");
        drop(held);
        caller.join().unwrap();
        assert_at_rest(&pool, &server, 0);
        assert_eq!(server.books().dials, 1);
    });
}

/// LOCK-01, STAT-02, SHUT-07: every method of the dialer looks at the pool, whose numbers always
/// balance, and one closes it.
#[test]
fn a_dialer_may_use_the_pool_in_each_of_its_methods() {
    check_within(2, || {
        let config = Config { check_after: Duration::ZERO, ..never_due(1) };
        let (pool, server) = pool_with(config, &[], Blocking::default().check(false));
        *pool.dialer().friend.lock().unwrap() = Some(pool.clone());
        // Each uses what it gets, so that it is reset.
        let get = |pool: &Pool<Scripted>| assert!(pool.get().unwrap().keeps.is_none());
        get(&pool);
        sync::advance(SOON);
        let caller = spawn_with(&pool, move |pool| get(&pool));
        get(&pool);
        caller.join().unwrap();
        pool.flush();
        finish(&pool, &server);
        *pool.dialer().friend.lock().unwrap() = None;
    });
}
