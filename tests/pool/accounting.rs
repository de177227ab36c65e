//! A slot is taken before its dial begins and freed after its close, whatever happens between.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;

use crate::common::{
    Act, Connection, Gate, LONG, SHORT, await_rest, await_that, await_waiting, failed_dial,
    leave_a_dial, pool, used,
};
use latebind::{GetError, PooledConnection};

/// ACC-01, HEAL-04.
#[test]
fn every_caller_of_a_dialer_that_always_fails_gets_the_error_of_a_dial_of_its_own() {
    let (pool, server) = pool(|b| b.max_open(2));
    server.refuses.store(true, SeqCst);

    let mut dials: Vec<_> = thread::scope(|scope| {
        let callers: Vec<_> = (0..6).map(|_| scope.spawn(|| pool.get().unwrap_err())).collect();
        callers.into_iter().map(|caller| failed_dial(&caller.join().unwrap())).collect()
    });

    dials.sort_unstable();
    assert_eq!(dials, (1..=6).map(Some).collect::<Vec<_>>());
    assert_eq!(await_rest(&pool, &server).open(), 0);
}

/// ACC-02.
#[test]
fn a_caller_who_arrives_as_a_dial_fails_does_not_take_its_slot_a_second_time() {
    let (pool, server) = pool(|b| b.max_open(1));
    server.refuses.store(true, SeqCst);

    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..100).for_each(|_| assert!(pool.get().is_err())));
        }
    });

    assert_eq!(server.dials(), 400);
    assert_eq!(server.most_open.load(SeqCst), 1, "one slot, one dial");
    await_rest(&pool, &server);
}

/// ACC-03.
#[test]
fn a_panic_of_the_dialer_fails_its_caller_and_loses_no_slot() {
    let (pool, server) = pool(|b| b.max_open(1));
    server.on_dial([Act::Panic]);

    let error = pool.get().unwrap_err();
    assert!(matches!(error, GetError::Unreachable { .. }), "{error:?}");

    assert_eq!(pool.get().unwrap().id, 2);
    let stats = await_rest(&pool, &server);
    assert_eq!((stats.open(), stats.panics_total), (1, 1));
}

/// ACC-03.
#[test]
fn a_caller_queued_behind_a_dial_that_panics_gets_a_dial_of_its_own() {
    let (pool, server) = pool(|b| b.max_open(1));
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Panic)]);

    thread::scope(|scope| {
        let first = scope.spawn(|| pool.get().map(|c| c.id));
        gate.await_arrivals(1);
        let second = scope.spawn(|| pool.get().unwrap().id);
        await_waiting(&pool, 2);
        gate.open();
        assert!(matches!(first.join().unwrap(), Err(GetError::Unreachable { .. })));
        assert_eq!(second.join().unwrap(), 2);
    });
    await_rest(&pool, &server);
}

/// ACC-04, ACC-10.
#[test]
fn a_fault_at_any_call_of_the_dialer_loses_no_slot() {
    // Each fault is met by one checkout and return, with one connection idle that needs a check.
    let calls = ["is_broken at the checkout", "check", "is_broken at the return", "reset", "close"];
    for call in calls {
        for is_panic in [false, true] {
            let (pool, server) = pool(|b| b.max_open(1).check_after(Duration::ZERO));
            drop(pool.get().unwrap());
            let fault = if is_panic { Act::Panic } else { Act::Fail };
            match call {
                "is_broken at the checkout" => server.on_is_broken([fault]),
                "check" => server.on_check([fault]),
                "is_broken at the return" => server.on_is_broken([Act::Succeed, fault]),
                "reset" => server.on_reset([fault]),
                // Nothing is closed before something is wrong.
                "close" => {
                    server.on_check([Act::Fail]);
                    server.on_close([fault]);
                }
                _ => unreachable!(),
            }

            drop(used(pool.get_timeout(LONG).unwrap_or_else(|e| panic!("{call} at fault: {e}"))));
            drop(pool.get_timeout(LONG).unwrap_or_else(|e| panic!("after a fault of {call}: {e}")));

            assert_eq!(server.dials(), 2, "{call} at fault costs its connection, and no other");
            let stats = await_rest(&pool, &server);
            assert_eq!((stats.open(), stats.retired_total), (1, 1), "{call} at fault");
            assert_eq!(stats.panics_total, u64::from(is_panic), "{call} at fault");
        }
    }
}

/// ACC-06.
#[test]
fn a_slot_handed_on_is_not_free_for_a_newcomer_as_well() {
    let (pool, server) = pool(|b| b.max_open(1));
    for _ in 0..100 {
        let held = pool.get().unwrap();
        let start = Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(|| drop(pool.get().unwrap()));
            await_waiting(&pool, 1);
            scope.spawn(|| {
                start.wait();
                drop(pool.get().unwrap());
            });
            start.wait();
            PooledConnection::discard(held);
        });
    }
    assert_eq!(server.most_open.load(SeqCst), 1);
    await_rest(&pool, &server);
}

/// ACC-07, ACC-14.
#[test]
fn of_a_return_and_all_that_may_retire_the_connection_at_that_moment_one_closes_it_once() {
    for round in 0..200 {
        let (pool, server) = pool(|b| b.max_open(2));
        let held = pool.get_owned().unwrap();
        let start = Barrier::new(4);
        thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                pool.flush();
            });
            scope.spawn(|| {
                start.wait();
                pool.resize(1).unwrap();
            });
            scope.spawn(|| {
                start.wait();
                pool.close();
            });
            start.wait();
            if round % 2 == 0 { drop(held) } else { latebind::OwnedConnection::discard(held) }
        });
        let stats = await_rest(&pool, &server);
        assert_eq!((stats.open(), stats.retired_total), (0, 1));
        assert_eq!(server.closed.load(SeqCst), 1);
    }
}

/// ACC-08.
#[test]
fn what_comes_for_a_caller_already_served_goes_to_the_next() {
    let (pool, server) = pool(|b| b.max_open(2));
    let held = pool.get().unwrap();
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Succeed)]);

    thread::scope(|scope| {
        let first = scope.spawn(|| pool.get().unwrap());
        gate.await_arrivals(1);
        let second = scope.spawn(|| pool.get().unwrap());
        await_waiting(&pool, 2);
        drop(held);
        let first = first.join().unwrap();
        assert_eq!(first.id, 1, "by the connection returned");
        gate.open();
        assert_eq!(second.join().unwrap().id, 2, "by the dial of the first");
    });
    assert_eq!(server.dials(), 2);
    await_rest(&pool, &server);
}

/// ACC-09, ACC-12.
#[test]
fn a_caller_who_leaves_at_any_moment_of_its_dial_takes_no_slot_along() {
    let (pool, server) = pool(|b| b.max_open(1));
    for nanos in (0..200_000).step_by(500) {
        if let Ok(connection) = pool.get_timeout(Duration::from_nanos(nanos)) {
            PooledConnection::discard(connection);
        }
    }
    await_that("the last dial ends", || pool.stats().dialing == 0);

    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..50).for_each(|_| drop(pool.get().unwrap())));
        }
    });
    assert_eq!(await_rest(&pool, &server).open(), 1);
}

/// ACC-11.
#[test]
fn ten_thousand_callers_who_time_out_leave_nothing_behind() {
    let (pool, server) = pool(|b| b.max_open(1));
    let held = pool.get().unwrap();
    for _ in 0..10_000 {
        assert!(matches!(
            pool.get_timeout(Duration::from_nanos(1)),
            Err(GetError::Exhausted { failure: None, .. })
        ));
    }
    assert_eq!((pool.stats().open(), pool.stats().waiting), (1, 0));
    drop(held);
    assert_eq!(pool.try_get().unwrap().id, 1);
    assert_eq!(await_rest(&pool, &server).timed_out_total, 10_000);
}

/// ACC-15.
#[test]
fn dead_idle_connections_are_replaced_by_one_dial() {
    let (pool, server) = pool(|b| b.max_open(4).check_after(Duration::ZERO));
    pool.warm_up(4).unwrap();
    server.on_check((0..4).map(|_| Act::Fail));

    let connection = pool.get().unwrap();
    assert_eq!(connection.id, 5);
    drop(connection);
    let stats = await_rest(&pool, &server);
    assert_eq!((stats.open(), stats.check_failed_total, stats.retired_total), (1, 4, 4));
    assert_eq!(server.dials(), 5);
}

/// ACC-16.
#[test]
fn whatever_the_limits_before_the_last_one_holds() {
    for before in 1..=5 {
        for last in 1..=5 {
            for warm in [0, 4] {
                let (pool, server) = pool(|b| b.max_open(4));
                pool.warm_up(warm).unwrap();
                pool.resize(before).unwrap();
                pool.resize(last).unwrap();
                server.most_open.store(0, SeqCst);

                let held: Vec<_> = (0..last).map(|_| pool.get().unwrap()).collect();
                let one_more = pool.get_timeout(Duration::from_millis(1));
                assert!(one_more.is_err(), "4, then {before}, then {last}");
                assert_eq!(pool.stats().open(), last);
                drop(held);
                await_rest(&pool, &server);
            }
        }
    }
}

/// ACC-17.
#[test]
fn a_limit_below_what_is_out_takes_effect_as_it_comes_back() {
    let (pool, server) = pool(|b| b.max_open(3));
    let [first, second, third] = [(); 3].map(|()| pool.get().unwrap());

    pool.resize(2).unwrap();
    assert_eq!((pool.stats().open(), server.alive()), (3, 3), "what is in use is left alone");
    drop(first);
    assert_eq!((pool.stats().open(), pool.stats().idle, server.alive()), (2, 0, 2));
    drop(second);
    drop(third);
    assert_eq!((pool.stats().open(), pool.stats().idle, server.alive()), (2, 2, 2));
}

/// ACC-18.
#[test]
fn those_who_warm_up_and_those_who_borrow_keep_to_one_limit() {
    let (pool, server) = pool(|b| b.max_open(3));
    for _ in 0..50 {
        let start = Barrier::new(6);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    start.wait();
                    pool.warm_up(3).unwrap();
                });
                scope.spawn(|| {
                    start.wait();
                    PooledConnection::discard(pool.get().unwrap());
                });
                scope.spawn(|| {
                    start.wait();
                    drop(pool.try_get());
                });
            }
        });
        pool.flush();
    }
    await_rest(&pool, &server);
}

/// ACC-19.
#[test]
fn no_more_is_dialed_than_callers_are_unmet() {
    let (pool, server) = pool(|b| b.max_open(100));
    drop(pool.get().unwrap());
    let first = pool.get().unwrap();
    let second = pool.get().unwrap();
    assert_eq!(server.dials(), 2);
    drop((first, second));
    assert_eq!(await_rest(&pool, &server).dials_total, 2);
}

/// ACC-20.
#[test]
fn a_detached_connection_no_longer_counts_and_lets_the_next_caller_dial() {
    let (pool, server) = pool(|b| b.max_open(1));
    let held = pool.get().unwrap();
    let mine = thread::scope(|scope| {
        let waiting = scope.spawn(|| pool.get().unwrap().id);
        await_waiting(&pool, 1);
        let mine = Connection::detach(held);
        assert_eq!(waiting.join().unwrap(), 2);
        mine
    });
    let stats = pool.stats();
    assert_eq!((stats.open(), stats.detached_total, stats.retired_total), (1, 1, 0));
    assert_eq!(server.alive(), 2, "the detached one lives on");
    drop(mine);
    assert_eq!(server.alive(), 1);
}

/// ACC-21.
#[test]
fn a_slot_is_free_as_soon_as_its_guard_has_gone() {
    let (pool, server) = pool(|b| b.max_open(1));
    drop(pool.get().unwrap());
    assert_eq!((pool.stats().idle, pool.stats().in_use), (1, 0));
    PooledConnection::discard(pool.get().unwrap());
    assert_eq!(pool.stats().open(), 0);
    drop(Connection::detach(pool.get().unwrap()));
    assert_eq!(pool.stats().open(), 0);
    let panics = catch_unwind(AssertUnwindSafe(|| {
        let _guard = pool.get().unwrap();
        panic!("while a connection is held");
    }));
    assert!(panics.is_err());
    assert_eq!(pool.stats().open(), 0);
    await_rest(&pool, &server);
}

/// ACC-22.
#[test]
fn a_dial_that_ends_after_its_caller_has_left_comes_to_rest_and_is_used() {
    let (pool, server) = pool(|b| b.max_open(1));
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Succeed)]);

    assert!(matches!(pool.get_timeout(SHORT), Err(GetError::Exhausted { .. })));
    assert_eq!((pool.stats().dialing, pool.stats().in_use), (1, 0));
    gate.open();
    await_that("the dial ends", || pool.stats().dialing == 0);
    assert_eq!((pool.stats().idle, pool.stats().in_use, pool.stats().open()), (1, 0, 1));
    assert_eq!(pool.try_get().unwrap().id, 1);
    await_rest(&pool, &server);
}

/// ACC-23.
#[test]
fn a_caller_whose_dial_went_to_another_waits_on() {
    let (pool, server) = pool(|b| b.max_open(2));
    let [slow, quick] = [Gate::new(), Gate::new()];
    server.on_dial([slow.then(Act::Succeed), quick.then(Act::Succeed)]);

    thread::scope(|scope| {
        let first = scope.spawn(|| pool.get().unwrap());
        slow.await_arrivals(1);
        let second = scope.spawn(|| pool.get().unwrap());
        quick.await_arrivals(1);
        quick.open();
        let first = first.join().unwrap();
        assert_eq!(first.id, 2, "the first in the queue takes the dial of the second");
        assert_eq!(pool.stats().waiting, 1);
        slow.open();
        assert_eq!(second.join().unwrap().id, 1);
    });
    assert_eq!(server.dials(), 2);
    await_rest(&pool, &server);
}

/// ACC-25.
#[test]
fn a_hung_dial_is_reported_and_holds_up_nobody_but_its_own_slot() {
    let (pool, server) = pool(|b| b.max_open(2).dial_timeout(SHORT));
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Succeed)]);

    let error = pool.get().unwrap_err();
    let line = error.to_string();
    assert!(line.ends_with("dials overdue 1): the dial did not end within 20ms"), "{line}");
    assert!(matches!(error, GetError::Unreachable { .. }));
    assert_eq!((pool.stats().overdue, pool.stats().dialing), (1, 1));
    // On a slow machine the next would not end within that either.
    pool.reconfigure().dial_timeout(LONG).apply().unwrap();
    let held = pool.get().unwrap();
    assert_eq!((held.id, pool.stats().open()), (2, 2));

    gate.open();
    await_that("the dial ends at last", || pool.stats().idle == 1);
    drop(held);
    let stats = await_rest(&pool, &server);
    assert_eq!((stats.overdue, stats.idle), (0, 2), "late is better than never");
}

/// ACC-25.
#[test]
fn a_hung_dial_is_reported_though_nobody_waits_for_it() {
    let (pool, server) = pool(|b| b.max_open(1).dial_timeout(2 * SHORT));
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Succeed)]);
    leave_a_dial(&pool);
    await_that("the dial is overdue", || pool.stats().overdue == 1);
    gate.open();
    await_rest(&pool, &server);
}
