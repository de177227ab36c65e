//! One deadline covers all of a `get`, whatever the dialer does meanwhile.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{
    Act, Gate, LONG, SHORT, await_rest, await_that, await_waiting, failed_dial, pool, pool_that,
    used,
};
use latebind::{GetError, PooledConnection};

/// The time that a loaded machine may add to a deadline.
const SLACK: Duration = Duration::from_secs(5);

/// CAN-01.
#[test]
fn a_check_that_its_caller_makes_keeps_no_return_from_others() {
    let (pool, server) =
        pool_that(|b| b.check(false), |b| b.max_open(2).check_after(Duration::ZERO));
    pool.warm_up(2).unwrap();
    let held = pool.get().unwrap();
    let gate = Gate::new();
    server.on_check([gate.then(Act::Succeed)]);
    thread::scope(|scope| {
        // A check that is said not to block runs on the caller's thread.
        let first = scope.spawn(|| pool.get_timeout(SHORT).map(|c| c.id));
        gate.await_arrivals(1);
        let second = scope.spawn(|| pool.get_timeout(LONG).unwrap().id);
        await_waiting(&pool, 1);
        let returned = held.id;
        drop(held);
        assert_eq!(second.join().unwrap(), returned);
        gate.open();
        assert_ne!(first.join().unwrap().unwrap(), returned, "the one that it has checked");
    });
    await_rest(&pool, &server);
}

/// CAN-01.
#[test]
fn among_many_who_time_out_the_patient_one_is_served() {
    let (pool, server) = pool(|b| b.max_open(1));
    for _ in 0..20 {
        let held = pool.get().unwrap();
        let before = pool.stats().waited_total;
        let left = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..10 {
                scope.spawn(|| {
                    let start = Instant::now();
                    let served = pool.get_timeout(Duration::from_millis(2)).is_ok();
                    assert!(!served || start.elapsed() < SLACK, "served long after the deadline");
                    left.fetch_add(1, SeqCst);
                });
            }
            // A caller whose deadline has passed before it has the lock does not queue.
            await_that("the hasty ones have come", || {
                pool.stats().waited_total - before + left.load(SeqCst) >= 10
            });
            let come = pool.stats().waited_total;
            let patient = scope.spawn(|| pool.get_timeout(LONG).unwrap().id);
            await_that("so has the patient one", || pool.stats().waited_total > come);
            drop(held);
            assert_eq!(patient.join().unwrap(), 1);
        });
    }
    assert_eq!(server.dials(), 1);
    await_rest(&pool, &server);
}

/// CAN-02, BIND-10.
#[test]
fn callers_in_more_of_a_hurry_than_a_dial_get_its_connection_in_the_end() {
    let (pool, server) = pool(|b| b.max_open(4));
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Succeed)]);
    for _ in 0..5 {
        assert!(pool.get_timeout(Duration::from_millis(2)).is_err());
    }
    gate.open();
    assert_eq!(pool.get().unwrap().id, 1);
    assert_eq!(server.dials(), 1);
    await_rest(&pool, &server);
}

/// CAN-04, BIND-10.
#[test]
fn a_thousand_callers_one_by_one_cost_a_silent_host_one_dial() {
    let (pool, server) = pool(|b| b.max_open(50));
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Succeed)]);
    for _ in 0..1_000 {
        assert!(pool.get_timeout(Duration::from_micros(300)).is_err());
    }
    let stats = pool.stats();
    assert_eq!((stats.dialing, stats.waiting, stats.dials_total), (1, 0, 1));
    gate.open();
    await_rest(&pool, &server);
}

/// CAN-05.
#[test]
fn those_who_leave_from_behind_a_patient_caller_leave_nothing_in_the_queue() {
    let (pool, server) = pool(|b| b.max_open(1));
    let held = pool.get().unwrap();
    thread::scope(|scope| {
        let patient = scope.spawn(|| pool.get_timeout(LONG).unwrap().id);
        await_waiting(&pool, 1);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        assert!(pool.get_timeout(Duration::from_nanos(1)).is_err());
                    }
                });
            }
        });
        assert_eq!(pool.stats().waiting, 1);
        drop(held);
        assert_eq!(patient.join().unwrap(), 1);
    });
    await_rest(&pool, &server);
}

/// CAN-06.
#[test]
fn a_deadline_that_has_passed_neither_dials_nor_queues_but_takes_what_is_idle() {
    let (pool, server) = pool(|b| b.max_open(1).check_after(Duration::MAX));
    let past = Instant::now();
    assert!(matches!(pool.get_timeout(Duration::ZERO), Err(GetError::Exhausted { .. })));
    assert!(matches!(pool.get_deadline(past), Err(GetError::Exhausted { .. })));
    let stats = pool.stats();
    assert_eq!((stats.dials_total, stats.waited_total, stats.timed_out_total), (0, 0, 2));

    drop(pool.get().unwrap());
    drop(pool.get_timeout(Duration::ZERO).unwrap());
    drop(pool.get_deadline(past).unwrap());
    assert_eq!(server.dials(), 1);
    await_rest(&pool, &server);
}

/// CAN-06.
#[test]
fn a_deadline_that_has_passed_begins_no_check_either() {
    let (pool, server) = pool(|b| b.max_open(1).check_after(Duration::ZERO));
    drop(pool.get().unwrap());
    assert!(pool.get_timeout(Duration::ZERO).is_err());
    assert_eq!(server.checks.load(SeqCst), 0);
    assert_eq!(await_rest(&pool, &server).idle, 1);
}

/// CAN-09.
#[test]
fn durations_from_nothing_to_forever_mean_what_they_say() {
    const FOREVER: Duration = Duration::MAX;
    let (pool, server) = pool(|b| {
        b.max_open(1)
            .get_timeout(FOREVER)
            .dial_timeout(FOREVER)
            .check_after(Duration::ZERO)
            .check_timeout(FOREVER)
            .close_timeout(FOREVER)
    });
    drop(pool.get().unwrap());
    drop(pool.get_timeout(FOREVER).unwrap());
    drop(pool.checkout().timeout(FOREVER).get_owned().unwrap());
    pool.warm_up(1).unwrap();
    assert_eq!(server.checks.load(SeqCst), 2);

    let held = pool.get().unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| pool.get_timeout(FOREVER).unwrap().id);
        await_waiting(&pool, 1);
        for edge in [Duration::ZERO, Duration::from_nanos(1), Duration::from_micros(1)] {
            assert!(matches!(pool.get_timeout(edge), Err(GetError::Exhausted { .. })));
        }
        PooledConnection::discard(held);
        assert_eq!(waiting.join().unwrap(), 2);
    });

    // Beyond what the pool's own clock can say, which is 292 years.
    let some_day = Instant::now() + Duration::from_secs(300 * 366 * 24 * 60 * 60);
    let held = pool.get_deadline(some_day).unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| pool.get_deadline(some_day).unwrap().id);
        await_waiting(&pool, 1);
        PooledConnection::discard(held);
        assert_eq!(waiting.join().unwrap(), 3);
    });
    await_rest(&pool, &server);
    assert!(pool.drain(some_day).is_complete());
}

/// CAN-12.
#[test]
fn nobody_fails_for_a_dial_that_another_asked_for() {
    let (pool, server) = pool(|b| b.max_open(2));
    let [refused, slow] = [Gate::new(), Gate::new()];
    server.on_dial([refused.then(Act::Fail), slow.then(Act::Succeed)]);
    thread::scope(|scope| {
        let first = scope.spawn(|| pool.get().map(|c| c.id));
        refused.await_arrivals(1);
        let second = scope.spawn(|| pool.get().map(|c| c.id));
        slow.await_arrivals(1);
        let third = scope.spawn(|| pool.get().map(|c| c.id));
        await_waiting(&pool, 3);
        refused.open();
        assert_eq!(failed_dial(&first.join().unwrap().unwrap_err()), Some(1));
        assert_eq!(third.join().unwrap().unwrap(), 3, "a dial begins in the slot that came free");
        slow.open();
        assert_eq!(second.join().unwrap().unwrap(), 3, "or whichever came first");
    });
    await_rest(&pool, &server);
}

/// CAN-13.
#[test]
fn a_dial_that_is_refused_does_not_keep_its_caller_from_a_connection_that_comes_back() {
    let (pool, server) = pool(|b| b.max_open(3));
    let held = pool.get().unwrap();
    server.refuses.store(true, SeqCst);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| pool.get_timeout(LONG).unwrap().id);
        await_that("the dial is refused", || pool.stats().dial_failed_total == 1);
        assert_eq!(pool.stats().waiting, 1);
        drop(held);
        assert_eq!(waiting.join().unwrap(), 1);
    });
    assert_eq!(server.dials(), 2, "one refusal is not an invitation to dial again");
    await_rest(&pool, &server);
}

/// CAN-13.
#[test]
fn a_caller_whose_dial_was_refused_fails_when_the_last_connection_in_use_is_lost() {
    let (pool, server) = pool(|b| b.max_open(3));
    let held = pool.get().unwrap();
    server.refuses.store(true, SeqCst);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| pool.get_timeout(LONG).unwrap_err());
        await_that("the dial is refused", || pool.stats().dial_failed_total == 1);
        PooledConnection::discard(held);
        let error = waiting.join().unwrap();
        assert!(matches!(error, GetError::Unreachable { .. }));
        assert_eq!(failed_dial(&error), Some(2));
    });
    await_rest(&pool, &server);
}

/// CAN-14.
#[test]
fn each_idle_connection_whose_check_hangs_costs_one_check_timeout() {
    let limit = 10 * SHORT;
    let (pool, server) = pool(|b| b.max_open(4).check_after(Duration::ZERO).check_timeout(limit));
    pool.warm_up(4).unwrap();
    let gate = Gate::new();
    server.on_check((0..3).map(|_| gate.then(Act::Succeed)));

    let start = Instant::now();
    let good = thread::scope(|scope| {
        scope.spawn(|| {
            gate.await_arrivals(3);
            // On a slow machine the fourth would not end within that either.
            pool.reconfigure().check_timeout(LONG).apply().unwrap();
        });
        pool.get_timeout(LONG).unwrap()
    });
    assert!(start.elapsed() < 3 * limit + SLACK);
    assert!(start.elapsed() >= 3 * limit);
    assert_eq!(server.dials(), 4, "served by the fourth");
    assert_eq!((pool.stats().check_failed_total, pool.stats().closing), (3, 3));

    gate.open();
    drop(good);
    let stats = await_rest(&pool, &server);
    assert_eq!((stats.open(), stats.retired_total), (1, 3), "what came back late was closed");
}

#[test]
fn a_dial_that_hangs_delays_no_caller_past_its_deadline() {
    let (pool, server) = pool(|b| b.max_open(1));
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Succeed)]);
    let start = Instant::now();
    assert!(pool.get_timeout(SHORT).is_err());
    assert!(start.elapsed() >= SHORT && start.elapsed() < SLACK);
    gate.open();
    await_rest(&pool, &server);
}

#[test]
fn a_check_that_hangs_delays_no_caller_past_its_deadline() {
    let (pool, server) = pool(|b| b.max_open(1).check_after(Duration::ZERO));
    drop(pool.get().unwrap());
    let gate = Gate::new();
    server.on_check([gate.then(Act::Succeed)]);
    let start = Instant::now();
    assert!(matches!(pool.get_timeout(SHORT), Err(GetError::Exhausted { .. })));
    assert!(start.elapsed() >= SHORT && start.elapsed() < SLACK);
    gate.open();
    assert_eq!(await_rest(&pool, &server).idle, 1, "found alive, and kept");
}

#[test]
fn a_check_that_hangs_delays_nobody_whom_a_return_can_serve() {
    let (pool, server) = pool(|b| b.max_open(2).check_after(Duration::ZERO));
    pool.warm_up(2).unwrap();
    let held = pool.get().unwrap();
    let gate = Gate::new();
    server.on_check([gate.then(Act::Succeed)]);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| pool.get_timeout(LONG).unwrap().id);
        gate.await_arrivals(1);
        let returned = held.id;
        drop(held);
        assert_eq!(waiting.join().unwrap(), returned);
    });
    gate.open();
    await_rest(&pool, &server);
}

/// LOCK-05.
#[test]
fn the_close_of_a_dead_connection_delays_no_caller() {
    for is_found_by_check in [false, true] {
        let (pool, server) =
            pool_that(|b| b.close(true), |b| b.max_open(2).check_after(Duration::ZERO));
        drop(pool.get().unwrap());
        let gate = Gate::new();
        server.on_close([gate.then(Act::Succeed)]);
        if is_found_by_check {
            server.on_check([Act::Fail]);
        } else {
            server.on_is_broken([Act::Fail]);
        }

        assert_eq!(pool.get_timeout(LONG).unwrap().id, 2);
        assert_eq!(pool.stats().closing, 1);
        gate.open();
        await_rest(&pool, &server);
    }
}

#[test]
fn a_close_that_hangs_gives_its_slot_up_after_close_timeout() {
    for may_block in [false, true] {
        let (pool, server) =
            pool_that(|b| b.close(may_block), |b| b.max_open(1).close_timeout(SHORT));
        let gate = Gate::new();
        server.on_close([gate.then(Act::Succeed)]);
        thread::scope(|scope| {
            let held = pool.get().unwrap();
            // If it may not block, it hangs in the thread that retires the connection.
            scope.spawn(move || PooledConnection::discard(held));
            gate.await_arrivals(1);
            let stats = pool.stats();
            let given_up = stats.close_timeouts_total;
            assert_eq!(u64::from(stats.open()) + given_up, 1, "it holds its slot until then");
            let start = Instant::now();
            assert_eq!(pool.get_timeout(LONG).unwrap().id, 2);
            assert!(start.elapsed() < SLACK);
            let stats = pool.stats();
            assert_eq!((stats.closing, stats.close_timeouts_total, stats.open()), (0, 1, 1));
            gate.open();
        });
        await_that("it is closed after all", || server.alive() == 1);
        assert_eq!((pool.stats().retired_total, pool.stats().closing), (1, 0));
    }
}

/// LOCK-04.
#[test]
fn a_reset_that_hangs_delays_no_returning_thread_and_loses_no_slot() {
    let (pool, server) =
        pool_that(|b| b.reset(true), |b| b.max_open(3).check_timeout(SHORT).close_timeout(SHORT));
    let gate = Gate::new();
    server.on_reset((0..3).map(|_| gate.then(Act::Succeed)));

    let held = [(); 3].map(|()| used(pool.get().unwrap()));
    let start = Instant::now();
    drop(held);
    assert!(start.elapsed() < SLACK);
    gate.await_arrivals(3);

    let again = [(); 3].map(|()| pool.get_timeout(LONG).unwrap().id);
    assert!(again.iter().all(|id| *id > 3), "what hangs is never lent: {again:?}");
    assert_eq!(pool.stats().check_failed_total, 0, "a reset is not a check");
    gate.open();
    await_that("the hung ones are closed", || server.alive() == pool.stats().idle);
}

/// How long a caller has waited before is no part of the dial that it begins then.
#[test]
fn a_caller_who_has_waited_and_gets_a_broken_connection_has_the_whole_time_for_a_dial() {
    const DIAL: Duration = Duration::from_secs(30);
    let (pool, server) = pool(|b| b.max_open(1).dial_timeout(DIAL));
    let held = pool.get().unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| pool.get_timeout(LONG).unwrap().id);
        await_waiting(&pool, 1);
        // Sound as it is returned, broken as it is lent again.
        server.on_is_broken([Act::Succeed, Act::Fail]);
        let returned_at = Instant::now();
        drop(held);
        assert_eq!(waiting.join().unwrap(), 2);
        assert!(server.latest_deadline() >= returned_at + DIAL);
    });
    await_rest(&pool, &server);
}
