//! Close, drain, flush and resize: what ends, when, and what does not.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{
    Act, Connection, Gate, LONG, SHORT, Scripted, await_rest, await_that, await_waiting, finishes,
    leave_a_dial, pool, pool_that, used,
};
use latebind::{GetError, OwnedConnection, Pool};

fn soon() -> Instant {
    Instant::now() + SHORT
}

fn later() -> Instant {
    Instant::now() + LONG
}

/// SHUT-01.
#[test]
fn close_turns_everyone_in_the_queue_away_at_once() {
    let (pool, server) = pool(|b| b.max_open(1));
    let held = pool.get().unwrap();
    thread::scope(|scope| {
        let callers: Vec<_> =
            (0..10).map(|_| scope.spawn(|| pool.get_timeout(Duration::MAX))).collect();
        await_waiting(&pool, 10);
        pool.close();
        for caller in callers {
            assert!(matches!(caller.join().unwrap(), Err(GetError::Closed)));
        }
    });
    drop(held);
    assert_eq!(await_rest(&pool, &server).open(), 0);
}

/// SHUT-01.
#[test]
fn a_closed_pool_lends_nothing_and_says_so() {
    let (pool, server) = pool(|b| b.max_open(2));
    pool.warm_up(2).unwrap();
    pool.close();
    assert_eq!(server.alive(), 0, "what was idle is closed");
    assert!(matches!(pool.get(), Err(GetError::Closed)));
    assert!(matches!(pool.get_timeout(Duration::ZERO), Err(GetError::Closed)));
    assert!(matches!(pool.get_owned(), Err(GetError::Closed)));
    assert!(matches!(pool.try_get(), Err(GetError::Closed)));
    assert!(matches!(pool.try_get_owned(), Err(GetError::Closed)));
    assert!(matches!(pool.warm_up(1), Err(GetError::Closed)));
    pool.flush();
    pool.resize(5).unwrap();
    assert_eq!(server.dials(), 2);
    await_rest(&pool, &server);
}

/// SHUT-02.
#[test]
fn a_return_that_races_with_close_leaves_nothing_open() {
    for round in 0..300 {
        let (pool, server) = pool(|b| b.max_open(2));
        let held = [pool.get_owned().unwrap(), pool.get_owned().unwrap()];
        let start = Barrier::new(3);
        thread::scope(|scope| {
            for guard in held {
                scope.spawn(|| {
                    start.wait();
                    drop(guard);
                });
            }
            start.wait();
            for _ in 0..round % 10 * 50 {
                std::hint::spin_loop();
            }
            pool.close();
        });
        assert_eq!(await_rest(&pool, &server).open(), 0);
        assert_eq!((server.opened.load(SeqCst), server.closed.load(SeqCst)), (2, 2));
    }
}

/// SHUT-03.
#[test]
fn a_dial_that_ends_after_close_is_closed_and_its_caller_has_been_told() {
    for act in [Act::Succeed, Act::Fail, Act::Panic] {
        let (pool, server) = pool(|b| b.max_open(1));
        let gate = Gate::new();
        server.on_dial([gate.then(act)]);
        thread::scope(|scope| {
            let caller = scope.spawn(|| pool.get().map(drop));
            gate.await_arrivals(1);
            pool.close();
            assert!(matches!(caller.join().unwrap(), Err(GetError::Closed)));
        });
        assert_eq!(pool.stats().dialing, 1);
        gate.open();
        assert_eq!(await_rest(&pool, &server).open(), 0);
    }
}

/// SHUT-03.
#[test]
fn a_check_or_a_reset_that_ends_after_close_is_the_connection_s_last() {
    for is_check in [false, true] {
        let (pool, server) =
            pool_that(|b| b.reset(true), |b| b.max_open(1).check_after(Duration::ZERO));
        let held = pool.get().unwrap();
        let gate = Gate::new();
        thread::scope(|scope| {
            if is_check {
                server.on_check([gate.then(Act::Succeed)]);
                drop(held);
                await_that("it is reset", || pool.stats().idle == 1);
                let caller = scope.spawn(|| pool.get().map(drop));
                gate.await_arrivals(1);
                pool.close();
                assert!(matches!(caller.join().unwrap(), Err(GetError::Closed)));
            } else {
                server.on_reset([gate.then(Act::Succeed)]);
                drop(used(held));
                gate.await_arrivals(1);
                pool.close();
            }
        });
        assert_eq!(pool.stats().in_use, 1);
        gate.open();
        assert_eq!(await_rest(&pool, &server).open(), 0);
    }
}

/// SHUT-04.
#[test]
fn drain_returns_when_every_dial_that_began_meanwhile_has_ended() {
    for _ in 0..100 {
        let (pool, server) = pool(|b| b.max_open(4));
        let start = Barrier::new(5);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    start.wait();
                    drop(pool.get());
                });
            }
            start.wait();
            assert!(pool.drain(later()).is_complete());
            assert_eq!((server.alive(), server.open.load(SeqCst)), (0, 0));
        });
    }
}

/// SHUT-05.
#[test]
fn drain_returns_after_the_last_close_has_and_a_slow_close_keeps_its_slot() {
    let (pool, server) = pool_that(|b| b.close(true), |b| b.max_open(2));
    pool.warm_up(2).unwrap();
    let gate = Gate::new();
    server.on_close([gate.then(Act::Succeed), gate.then(Act::Succeed)]);
    thread::scope(|scope| {
        pool.flush();
        gate.await_arrivals(2);
        let caller = scope.spawn(|| pool.get().map(drop));
        await_waiting(&pool, 1);
        assert_eq!((pool.stats().closing, server.dials()), (2, 2), "no slot for a third");

        let drained = pool.drain(soon());
        assert_eq!((drained.closing, drained.in_use, drained.dialing), (2, 0, 0));
        assert!(matches!(caller.join().unwrap(), Err(GetError::Closed)));
        let draining = scope.spawn(|| pool.drain(later()));
        gate.open();
        assert!(draining.join().unwrap().is_complete());
        assert_eq!(server.alive(), 0);
    });
    await_rest(&pool, &server);
}

/// SHUT-06.
#[test]
fn close_waits_for_nobody_and_drain_says_what_is_still_out() {
    let (pool, server) = pool(|b| b.max_open(3));
    let gate = Gate::new();
    let held = pool.get().unwrap();
    server.on_dial([gate.then(Act::Succeed)]);
    leave_a_dial(&pool);

    pool.close();
    let drained = pool.drain(soon());
    assert_eq!((drained.in_use, drained.dialing, drained.closing), (1, 1, 0));
    assert!(!drained.is_complete());
    assert_eq!(held.id, 1, "a borrower keeps what it has");

    thread::scope(|scope| {
        let draining = [0, 1].map(|_| scope.spawn(|| pool.drain(later())));
        drop(held);
        gate.open();
        assert!(draining.into_iter().all(|thread| thread.join().unwrap().is_complete()));
    });
    assert!(pool.drain(Instant::now()).is_complete(), "at once, when there is nothing to wait for");
    await_rest(&pool, &server);
}

/// SHUT-06.
#[test]
fn drain_is_done_when_the_last_connection_is_detached() {
    let (pool, server) = pool(|b| b.max_open(1));
    let held = pool.get().unwrap();
    thread::scope(|scope| {
        let draining = scope.spawn(|| pool.drain(later()));
        await_that("it is closed", || matches!(pool.try_get(), Err(GetError::Closed)));
        let mine = Connection::detach(held);
        assert!(draining.join().unwrap().is_complete());
        assert_eq!(server.alive(), 1);
        drop(mine);
    });
    await_rest(&pool, &server);
}

/// SHUT-06.
#[test]
fn drain_is_done_when_a_close_that_hangs_has_been_given_up() {
    let (pool, server) = pool_that(|b| b.close(true), |b| b.max_open(1).close_timeout(SHORT));
    drop(pool.get().unwrap());
    let gate = Gate::new();
    server.on_close([gate.then(Act::Succeed)]);
    assert!(pool.drain(later()).is_complete());
    assert_eq!(pool.stats().close_timeouts_total, 1);
    gate.open();
    await_that("it is closed at last", || server.alive() == 0);
}

/// SHUT-07.
#[test]
fn close_may_come_twice_and_from_several_threads() {
    for _ in 0..100 {
        let (pool, server) = pool(|b| b.max_open(3));
        pool.warm_up(3).unwrap();
        let start = Barrier::new(3);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    start.wait();
                    pool.close();
                    pool.close();
                });
            }
        });
        assert_eq!(await_rest(&pool, &server).open(), 0);
        assert_eq!(server.closed.load(SeqCst), 3, "each once");
    }
}

/// SHUT-09.
#[test]
fn the_last_handle_may_go_while_a_dial_is_under_way() {
    finishes(|| {
        let (pool, server) = pool(|b| b.max_open(2));
        let gate = Gate::new();
        server.on_dial([Act::Succeed, gate.then(Act::Succeed)]);
        drop(pool.get().unwrap());
        server.on_is_broken([Act::Fail]);
        leave_a_dial(&pool);
        let clone = pool.clone();
        drop(pool);
        assert_eq!(clone.stats().dialing, 1, "a clone is the same pool");
        drop(clone);
        gate.open();
        await_that("what it opened is closed", || server.open.load(SeqCst) == 0);
        await_that("and the dialer dropped", || Arc::strong_count(&server) == 1);
    });
}

/// SHUT-09.
#[test]
fn the_last_handle_may_be_that_of_a_guard() {
    finishes(|| {
        let (pool, server) = pool(|b| b.max_open(2));
        let held = pool.get_owned().unwrap();
        drop(pool.get().unwrap());
        drop(pool);
        assert_eq!(held.id, 1, "the guard keeps the pool");
        drop(held);
        await_that("all is closed", || server.open.load(SeqCst) == 0);
        await_that("and the dialer dropped", || Arc::strong_count(&server) == 1);
    });
}

/// SHUT-10.
#[test]
fn close_ends_a_warm_up_and_what_it_has_begun() {
    let (pool, server) = pool(|b| b.max_open(4));
    let gate = Gate::new();
    server.on_dial((0..4).map(|_| gate.then(Act::Succeed)));
    thread::scope(|scope| {
        let warming = scope.spawn(|| pool.warm_up(4));
        gate.await_arrivals(4);
        pool.close();
        assert!(matches!(warming.join().unwrap(), Err(GetError::Closed)));
    });
    gate.open();
    assert_eq!(await_rest(&pool, &server).open(), 0);
    assert_eq!(server.closed.load(SeqCst), 4);
}

/// SHUT-12.
#[test]
fn flush_ends_what_is_idle_now_and_what_is_in_use_as_it_comes_back() {
    let (pool, server) = pool(|b| b.max_open(3));
    pool.warm_up(2).unwrap();
    let held = pool.get().unwrap();
    pool.flush();
    assert_eq!((pool.stats().idle, pool.stats().in_use, server.alive()), (0, 1, 1));
    drop(held);
    assert_eq!((pool.stats().open(), server.alive()), (0, 0));
    drop(pool.get().unwrap());
    assert_eq!(pool.get().unwrap().id, 3, "what is opened from then on is kept");
    await_rest(&pool, &server);
}

/// SHUT-12.
#[test]
fn flush_ends_what_was_being_dialed_or_checked_or_reset_then() {
    let (pool, server) =
        pool_that(|b| b.reset(true), |b| b.max_open(3).check_after(Duration::ZERO));
    let [dialed, checked, reset] = [(); 3].map(|()| Gate::new());
    let held = [pool.get().unwrap(), pool.get().unwrap()];
    server.on_dial([dialed.then(Act::Succeed)]);
    leave_a_dial(&pool);
    server.on_reset([Act::Succeed, reset.then(Act::Succeed)]);
    for guard in held {
        drop(used(guard));
        await_that("the first of them is at rest", || pool.stats().idle == 1);
    }
    reset.await_arrivals(1);
    server.on_check([checked.then(Act::Succeed)]);
    assert!(pool.get_timeout(SHORT).is_err());
    checked.await_arrivals(1);
    assert_eq!((pool.stats().dialing, pool.stats().in_use), (1, 2));

    pool.flush();
    [dialed, checked, reset].iter().for_each(Gate::open);
    assert_eq!(await_rest(&pool, &server).open(), 0);
    assert_eq!(pool.get().unwrap().id, 4);
}

/// SHUT-12.
#[test]
fn however_flush_falls_nothing_from_before_it_is_lent_after_it() {
    let (pool, server) = pool(|b| b.max_open(3));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| (0..300).for_each(|_| drop(pool.get_timeout(LONG).unwrap())));
        }
        for _ in 0..100 {
            let newest = server.dials();
            pool.flush();
            // A caller who asks from now on gets a connection dialed since.
            assert!(pool.get_timeout(LONG).unwrap().id > newest);
        }
    });
    await_rest(&pool, &server);
}

/// SHUT-14.
#[test]
fn a_guard_dropped_after_close_closes_its_connection_and_says_nothing() {
    let (pool, server) = pool(|b| b.max_open(4));
    let held: [OwnedConnection<Scripted>; 4] = [(); 4].map(|()| pool.get_owned().unwrap());
    pool.close();
    let [dropped, discarded, detached, panicked] = held;
    drop(dropped);
    OwnedConnection::discard(discarded);
    drop(Connection::detach(detached));
    server.on_close([Act::Panic]);
    assert!(
        catch_unwind(AssertUnwindSafe(|| {
            let _panicked = panicked;
            panic!("while a connection is held");
        }))
        .is_err()
    );
    assert_eq!(await_rest(&pool, &server).open(), 0);
    assert_eq!(server.closed.load(SeqCst), 4);
}

/// SHUT-14.
#[test]
fn a_guard_may_outlive_every_other_handle() {
    let (dialer, server) = Scripted::new();
    let held = Pool::new(dialer).get_owned().unwrap();
    assert_eq!(server.alive(), 1);
    drop(held);
    await_that("all is closed", || server.alive() == 0);
}
