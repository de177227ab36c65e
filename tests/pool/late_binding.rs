//! A caller takes whichever comes first.

use std::sync::Barrier;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;

use crate::common::{
    Act, Connection, Gate, LONG, SHORT, await_rest, await_that, await_waiting, failed_dial,
    leave_a_dial, pool,
};
use latebind::PooledConnection;

/// BIND-01, CAN-03.
#[test]
fn a_caller_whose_dial_is_slow_takes_the_connection_that_is_returned() {
    let (pool, server) = pool(|b| b.max_open(2));
    let held = pool.get().unwrap();
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Succeed)]);

    thread::scope(|scope| {
        let waiting = scope.spawn(|| pool.get().unwrap().id);
        gate.await_arrivals(1);
        drop(held);
        assert_eq!(waiting.join().unwrap(), 1, "served by the connection returned");
    });

    gate.open();
    await_that("the dial that lost ends idle", || pool.stats().idle == 2);
    assert_eq!(server.dials(), 2);
    assert_eq!(await_rest(&pool, &server).open(), 2);
}

/// BIND-01.
#[test]
fn a_caller_takes_the_dial_of_another_who_came_later() {
    let (pool, server) = pool(|b| b.max_open(2));
    let slow = Gate::new();
    server.on_dial([slow.then(Act::Succeed), Act::Succeed]);
    thread::scope(|scope| {
        let first = scope.spawn(|| Connection::detach(pool.get_timeout(LONG).unwrap()));
        slow.await_arrivals(1);
        let second = scope.spawn(|| pool.get_timeout(LONG).unwrap().id);
        assert_eq!(first.join().unwrap().id, 2);
        slow.open();
        assert_ne!(second.join().unwrap(), 2);
    });
    await_rest(&pool, &server);
}

/// BIND-02.
#[test]
fn a_dial_that_lost_is_closed_where_nothing_more_is_kept() {
    let (pool, server) = pool(|b| b.max_open(3).max_idle(1));
    let held = pool.get().unwrap();
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Succeed)]);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| pool.get().unwrap().id);
        gate.await_arrivals(1);
        drop(held);
        assert_eq!(waiting.join().unwrap(), 1);
    });
    assert_eq!((pool.stats().idle, pool.stats().dialing), (1, 1));

    gate.open();
    let stats = await_rest(&pool, &server);
    assert_eq!((stats.open(), stats.retired_total), (1, 1));
    assert_eq!((server.opened.load(SeqCst), server.closed.load(SeqCst)), (2, 1));
}

/// BIND-02.
#[test]
fn a_dial_that_lost_goes_to_the_first_who_waits() {
    let (pool, server) = pool(|b| b.max_open(2).max_idle(1));
    let held = pool.get().unwrap();
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Succeed)]);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| pool.get().unwrap());
        gate.await_arrivals(1);
        drop(held);
        let first = waiting.join().unwrap();
        let next = scope.spawn(|| pool.get_timeout(LONG).unwrap().id);
        await_waiting(&pool, 1);
        gate.open();
        assert_eq!(next.join().unwrap(), 2);
        drop(first);
    });
    assert_eq!(server.dials(), 2);
    await_rest(&pool, &server);
}

/// BIND-03.
#[test]
fn a_dial_and_a_return_at_the_same_moment_serve_one_caller_each() {
    for _ in 0..200 {
        let (pool, server) = pool(|b| b.max_open(2));
        let held = pool.get().unwrap();
        let gate = Gate::new();
        server.on_dial([gate.then(Act::Succeed)]);
        let start = Barrier::new(2);
        thread::scope(|scope| {
            let first = scope.spawn(|| pool.get_timeout(LONG).unwrap());
            gate.await_arrivals(1);
            let second = scope.spawn(|| pool.get_timeout(LONG).unwrap());
            await_waiting(&pool, 2);
            scope.spawn(|| {
                start.wait();
                gate.open();
            });
            start.wait();
            drop(held);
            let [first, second] = [first, second].map(|caller| caller.join().unwrap());
            assert_eq!(first.id + second.id, 3, "one each");
        });
        assert_eq!(await_rest(&pool, &server).idle, 2);
    }
}

/// BIND-04.
#[test]
fn a_dial_that_lost_and_then_fails_frees_its_slot_and_troubles_nobody() {
    let (pool, server) = pool(|b| b.max_open(2));
    let held = pool.get().unwrap();
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Fail)]);
    thread::scope(|scope| {
        let first = scope.spawn(|| pool.get().unwrap());
        gate.await_arrivals(1);
        drop(held);
        let first = first.join().unwrap();
        let second = scope.spawn(|| pool.get_timeout(LONG).unwrap().id);
        await_waiting(&pool, 1);
        assert_eq!(server.dials(), 2, "it counts on the dial of the first");
        gate.open();
        assert_eq!(second.join().unwrap(), 3, "a dial of its own begins");
        drop(first);
    });
    await_rest(&pool, &server);
}

/// BIND-05.
#[test]
fn no_connection_is_ever_held_by_two() {
    let (pool, server) = pool(|b| b.max_open(3));
    thread::scope(|scope| {
        for n in 0..6 {
            let pool = &pool;
            scope.spawn(move || {
                for round in 0..300 {
                    let connection = pool.get_timeout(LONG).unwrap();
                    assert!(!connection.in_use.swap(true, SeqCst), "held by two");
                    thread::yield_now();
                    assert!(connection.in_use.swap(false, SeqCst), "held by two");
                    if (round + n) % 7 == 0 {
                        PooledConnection::discard(connection);
                    }
                }
            });
        }
    });
    await_rest(&pool, &server);
}

/// BIND-06.
#[test]
fn however_a_dial_ends_it_is_no_longer_under_way() {
    for act in [Act::Succeed, Act::Fail, Act::Panic] {
        for is_late in [false, true] {
            let (pool, server) = pool(|b| b.max_open(1).dial_timeout(SHORT));
            let gate = Gate::new();
            server.on_dial([match &act {
                Act::Succeed => gate.then(Act::Succeed),
                Act::Fail => gate.then(Act::Fail),
                _ => gate.then(Act::Panic),
            }]);
            if !is_late {
                gate.open();
            }
            drop(pool.get());
            gate.open();
            await_that("the dial has ended", || pool.stats().dialing == 0);
            // On a slow machine the first may take longer than it may.
            await_that("a dial ends in time", || pool.get_timeout(LONG).is_ok());
            assert_eq!(pool.stats().overdue, 0);
            await_rest(&pool, &server);
        }
    }
}

/// BIND-07.
#[test]
fn a_connection_just_dialed_is_lent_as_it_is_and_never_begins_a_loop() {
    let (pool, server) = pool(|b| b.max_open(1));
    server.on_is_broken((0..10).map(|_| Act::Fail));
    for n in 1..=5 {
        let connection = pool.get().unwrap();
        assert_eq!((connection.id, server.dials()), (n, n), "one checkout, one dial");
        assert!(!PooledConnection::is_reused(&connection));
    }
    await_rest(&pool, &server);
}

/// BIND-07.
#[test]
fn a_dial_that_lost_and_is_found_broken_later_is_replaced_once() {
    let (pool, server) = pool(|b| b.max_open(1));
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Succeed)]);
    leave_a_dial(&pool);
    gate.open();
    await_that("the dial ends", || pool.stats().idle == 1);
    server.on_is_broken([Act::Fail]);
    let connection = pool.get().unwrap();
    assert_eq!((connection.id, server.dials()), (2, 2));
    drop(connection);
    await_rest(&pool, &server);
}

/// BIND-10.
#[test]
fn a_dial_whose_caller_has_left_is_adopted_by_the_next() {
    let (pool, server) = pool(|b| b.max_open(5));
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Succeed)]);
    leave_a_dial(&pool);
    thread::scope(|scope| {
        let next = scope.spawn(|| pool.get_timeout(LONG).unwrap().id);
        await_waiting(&pool, 1);
        assert_eq!(pool.stats().dialing, 1);
        gate.open();
        assert_eq!(next.join().unwrap(), 1);
    });
    assert_eq!(server.dials(), 1);
    await_rest(&pool, &server);
}

/// BIND-10.
#[test]
fn one_who_adopts_a_dial_that_fails_gets_one_of_its_own() {
    let (pool, server) = pool(|b| b.max_open(5));
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Fail), Act::Fail]);
    leave_a_dial(&pool);
    thread::scope(|scope| {
        let next = scope.spawn(|| pool.get_timeout(LONG).unwrap_err());
        await_waiting(&pool, 1);
        gate.open();
        assert_eq!(failed_dial(&next.join().unwrap()), Some(2), "its own, not another's");
    });
    assert_eq!(server.dials(), 2);
    await_rest(&pool, &server);
}

/// BIND-01.
#[test]
fn a_caller_has_an_idle_connection_checked_rather_than_count_on_a_dial_that_hangs() {
    let (pool, server) = pool(|b| b.max_open(2).check_after(Duration::ZERO));
    let held = pool.get().unwrap();
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Succeed)]);
    // On a slow machine a caller may have gone before the dial begins, which is then none.
    let mut patience = SHORT;
    await_that("a dial hangs whose caller has gone", || {
        assert!(pool.get_timeout(patience).is_err());
        patience *= 2;
        pool.stats().dialing == 1
    });
    drop(held);
    assert_eq!((pool.stats().idle, pool.stats().dialing), (1, 1));

    assert_eq!(pool.get_timeout(LONG).unwrap().id, 1);
    assert_eq!(server.checks.load(SeqCst), 1);
    gate.open();
    await_rest(&pool, &server);
}
