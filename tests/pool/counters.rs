//! `Stats` is one moment, always balanced, and counts what failed as well as what did not.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{
    Act, Connection, Gate, LONG, SHORT, await_rest, await_that, await_waiting, leave_a_dial, pool,
    pool_that,
};
use latebind::{PooledConnection, Stats};

/// Asserts what holds of any snapshot, and of any two in the order of their time.
#[track_caller]
fn assert_balanced(before: &Stats, stats: &Stats) {
    assert_eq!(stats.open(), stats.idle + stats.in_use + stats.dialing + stats.closing);
    assert!(stats.open() <= stats.max_open, "BOUND: {stats}");
    assert!(stats.overdue <= stats.dialing);
    assert!(stats.reused_total <= stats.lent_total);
    assert_eq!(
        stats.dials_total,
        stats.dialed_total + stats.dial_failed_total + u64::from(stats.dialing),
        "each dial has one end: {stats:?}"
    );
    let totals = |stats: &Stats| {
        [
            stats.lent_total,
            stats.reused_total,
            stats.waited_total,
            stats.timed_out_total,
            stats.queue_full_total,
            stats.dials_total,
            stats.dialed_total,
            stats.dial_failed_total,
            stats.check_failed_total,
            stats.retired_total,
            stats.detached_total,
            stats.close_timeouts_total,
            stats.panics_total,
        ]
    };
    for (before, after) in totals(before).into_iter().zip(totals(stats)) {
        assert!(before <= after, "a total went down");
    }
    assert!(before.wait_time_total <= stats.wait_time_total);
    for (reason, total) in stats.retired_by.iter() {
        assert!(before.retired_by[reason] <= total, "a total went down: {reason}");
    }
    let by_reason: u64 = stats.retired_by.iter().map(|(_, total)| total).sum();
    assert_eq!(by_reason, stats.retired_total, "each is retired for one reason: {stats:?}");
}

/// STAT-01.
#[test]
fn every_snapshot_balances_whatever_is_under_way() {
    let (pool, server) =
        pool_that(|b| b.reset(true).close(true), |b| b.max_open(3).check_after(Duration::ZERO));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut before = pool.stats();
            while !is_over.load(SeqCst) {
                let stats = pool.stats();
                assert_balanced(&before, &stats);
                before = stats;
            }
        });
        scope.spawn(|| {
            let mut before = pool.recent_stats();
            while !is_over.load(SeqCst) {
                let stats = pool.recent_stats();
                assert_balanced(&before, &stats);
                before = stats;
            }
        });
        let borrowers: Vec<_> = (0..4)
            .map(|n| {
                let (pool, server) = (&pool, &server);
                scope.spawn(move || {
                    for round in 0..200 {
                        match (round + n) % 8 {
                            0 => server.on_dial([Act::Fail]),
                            1 => server.on_check([Act::Fail]),
                            2 => server.on_reset([Act::Panic]),
                            3 => server.on_is_broken([Act::Fail]),
                            4 => pool.flush(),
                            _ => {}
                        }
                        match pool.get_timeout(Duration::from_micros(round * 5)) {
                            Ok(connection) if round % 5 == 0 => {
                                PooledConnection::discard(connection);
                            }
                            Ok(connection) if round % 7 == 0 => {
                                drop(Connection::detach(connection));
                            }
                            _ => {}
                        }
                    }
                })
            })
            .collect();
        for borrower in borrowers {
            borrower.join().unwrap();
        }
        is_over.store(true, SeqCst);
    });
    let stats = await_rest(&pool, &server);
    assert_eq!(
        stats.dialed_total,
        u64::from(stats.idle) + stats.retired_total + stats.detached_total,
        "every connection is somewhere"
    );
}

/// STAT-02: at each step of one thread, the numbers without the lock are the exact ones.
#[test]
fn a_reading_without_the_lock_is_up_to_date() {
    let (pool, server) = pool(|b| b.max_open(3));
    let gauges = |stats: Stats| {
        let Stats { max_open, idle, in_use, dialing, closing, waiting, overdue, .. } = stats;
        [max_open, idle, in_use, dialing, closing, waiting, overdue]
    };
    // The reading first: the exact numbers make it up to date.
    let agree = || assert_eq!(gauges(pool.recent_stats()), gauges(pool.stats()));
    agree();
    pool.warm_up(2).unwrap();
    agree();
    let one = pool.get().unwrap();
    agree();
    let two = pool.get().unwrap();
    assert_eq!(gauges(pool.recent_stats()), [3, 0, 2, 0, 0, 0, 0]);
    drop(one);
    assert_eq!(gauges(pool.recent_stats()), [3, 1, 1, 0, 0, 0, 0]);
    let one = pool.try_get().unwrap();
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Succeed)]);
    // For this dial only: on a busy machine the others may take longer.
    pool.reconfigure().dial_timeout(SHORT).apply().unwrap();
    await_that("the dial is overdue, and nothing returns", || {
        assert!(pool.get_timeout(2 * SHORT).is_err());
        pool.stats().overdue == 1
    });
    pool.reconfigure().dial_timeout(LONG).apply().unwrap();
    agree();
    assert_eq!(gauges(pool.recent_stats()), [3, 0, 2, 1, 0, 0, 1]);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| pool.get().map(drop));
        await_that("it waits", || pool.recent_stats().waiting == 1);
        PooledConnection::discard(one);
        waiting.join().unwrap().unwrap();
    });
    drop(Connection::detach(two));
    gate.open();
    await_that("the dial ends", || pool.recent_stats().dialing == 0);
    agree();
    assert_eq!(pool.recent_stats(), pool.stats());
    pool.flush();
    pool.resize(2).unwrap();
    assert_eq!(gauges(pool.recent_stats()), [2, 0, 0, 0, 0, 0, 0]);
    pool.warm_up(2).unwrap();
    let held = pool.get().unwrap();
    pool.close();
    assert_eq!(gauges(pool.recent_stats()), [2, 0, 1, 0, 0, 0, 0], "what rested is closed");
    drop(held);
    assert_eq!(gauges(pool.recent_stats()), [2, 0, 0, 0, 0, 0, 0]);
}

/// STAT-01, STAT-02: whatever changes hands, and whoever takes the lock meanwhile, what is open is
/// open in every reading.
#[test]
fn no_reading_without_the_lock_misses_a_connection_or_counts_it_twice() {
    let (pool, server) = pool(|b| b.max_open(4));
    pool.warm_up(4).unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers: Vec<_> = [(); 2]
            .map(|()| {
                scope.spawn(|| {
                    let (mut before, mut seen_idle) = (pool.recent_stats(), 0);
                    loop {
                        // The borrowers may be done before this thread has begun.
                        let is_last = is_over.load(SeqCst);
                        let stats = pool.recent_stats();
                        assert_balanced(&before, &stats);
                        assert_eq!((stats.idle + stats.in_use, stats.open()), (4, 4), "{stats}");
                        seen_idle = stats.idle.max(seen_idle);
                        before = stats;
                        if is_last {
                            return seen_idle;
                        }
                    }
                })
            })
            .into();
        let borrowers: Vec<_> = (0..3)
            .map(|n| {
                let pool = &pool;
                scope.spawn(move || {
                    for round in 0..3000 {
                        let held = pool.get().unwrap();
                        if round % 10 == n {
                            assert_eq!(pool.stats().open(), 4);
                        }
                        drop(held);
                    }
                })
            })
            .collect();
        for borrower in borrowers {
            borrower.join().unwrap();
        }
        is_over.store(true, SeqCst);
        for reader in readers {
            assert!(reader.join().unwrap() > 0, "at least one is idle nearly always");
        }
    });
    await_rest(&pool, &server);
}

/// STAT-01.
#[test]
fn a_dial_that_is_overdue_and_then_fails_has_failed_once() {
    for act in [Act::Fail, Act::Panic, Act::Succeed] {
        let is_opened = matches!(act, Act::Succeed);
        let (pool, server) = pool(|b| b.max_open(1).dial_timeout(SHORT));
        let gate = Gate::new();
        server.on_dial([gate.then(act)]);
        let before = pool.stats();
        assert!(pool.get_timeout(LONG).is_err(), "overdue");
        assert_balanced(&before, &pool.stats());
        gate.open();
        let stats = await_rest(&pool, &server);
        assert_balanced(&before, &stats);
        assert_eq!(stats.dialed_total, u64::from(is_opened));
        assert_eq!(stats.dial_failed_total, u64::from(!is_opened));
    }
}

/// STAT-03.
#[test]
fn a_dial_that_hangs_looks_like_a_dial_and_not_like_a_busy_connection() {
    let (pool, server) = pool(|b| b.max_open(2));
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Succeed)]);
    leave_a_dial(&pool);
    let stats = pool.stats();
    assert_eq!((stats.dialing, stats.in_use, stats.idle, stats.open()), (1, 0, 0, 1));
    gate.open();
    await_rest(&pool, &server);
}

/// STAT-04.
#[test]
fn waits_are_counted_whatever_came_of_them() {
    let (pool, server) = pool(|b| b.max_open(1));
    let held = pool.get().unwrap();
    let begun = pool.stats();
    let start = Instant::now();

    assert!(pool.get_timeout(SHORT).is_err());
    let timed_out = pool.stats();
    assert_eq!(timed_out.waited_total, begun.waited_total + 1);
    assert_eq!(timed_out.timed_out_total, 1);
    assert!(timed_out.wait_time_total >= begun.wait_time_total + SHORT);

    thread::scope(|scope| {
        scope.spawn(|| drop(pool.get_timeout(LONG).unwrap()));
        await_waiting(&pool, 1);
        let until = Instant::now() + SHORT;
        await_that("it has waited a while", || Instant::now() > until);
        drop(held);
    });
    let served = pool.stats();
    assert_eq!((served.waited_total, served.timed_out_total), (begun.waited_total + 2, 1));
    assert!(served.wait_time_total >= timed_out.wait_time_total + SHORT);
    assert!(served.wait_time_total <= begun.wait_time_total + start.elapsed());

    let held = pool.get().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| assert!(pool.get_timeout(LONG).is_err()));
        await_waiting(&pool, 1);
        let until = Instant::now() + SHORT;
        await_that("it has waited a while", || Instant::now() > until);
        pool.close();
    });
    assert!(pool.stats().wait_time_total >= served.wait_time_total + SHORT);
    drop(held);
    await_rest(&pool, &server);
}

/// STAT-04.
#[test]
fn one_who_is_given_a_broken_connection_and_waits_on_has_waited_once() {
    let (pool, server) = pool(|b| b.max_open(1));
    let held = pool.get().unwrap();
    let begun = pool.stats();
    let start = Instant::now();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| pool.get_timeout(LONG).unwrap().id);
        await_waiting(&pool, 1);
        let until = Instant::now() + 2 * SHORT;
        await_that("it has waited a while", || Instant::now() > until);
        server.on_is_broken([Act::Succeed, Act::Fail]);
        drop(held);
        assert_eq!(waiting.join().unwrap(), 2);
    });
    let stats = await_rest(&pool, &server);
    assert_eq!(stats.waited_total, begun.waited_total + 1);
    let waited = stats.wait_time_total - begun.wait_time_total;
    assert!(waited <= start.elapsed(), "{waited:?}");
}

/// STAT-04.
#[test]
fn each_kind_of_end_has_a_count() {
    let (pool, server) =
        pool(|b| b.max_open(1).max_waiting(0).check_after(Duration::ZERO).get_timeout(LONG));
    server.on_dial([Act::Fail, Act::Panic]);
    assert!(pool.get().is_err());
    assert!(pool.get().is_err());
    let held = pool.get().unwrap();
    assert!(pool.get().is_err());
    drop(held);
    let stats = pool.stats();
    assert_eq!((stats.dials_total, stats.dialed_total, stats.dial_failed_total), (3, 1, 2));
    assert_eq!((stats.lent_total, stats.reused_total), (1, 0));
    assert_eq!((stats.panics_total, stats.queue_full_total, stats.timed_out_total), (1, 1, 0));

    assert!(pool.get_timeout(Duration::ZERO).is_err());
    drop(pool.try_get().unwrap());
    server.on_check([Act::Fail]);
    pool.resize(2).unwrap();
    PooledConnection::discard(pool.get_timeout(LONG).unwrap());
    let stats = pool.stats();
    assert_eq!((stats.lent_total, stats.reused_total), (3, 1));
    assert_eq!((stats.timed_out_total, stats.check_failed_total), (1, 1));
    assert_eq!((stats.retired_total, stats.detached_total), (2, 0));
    drop(Connection::detach(pool.get_timeout(LONG).unwrap()));
    assert_eq!(await_rest(&pool, &server).detached_total, 1);
}

/// STAT-04.
#[test]
fn a_snapshot_reads_well() {
    let (pool, server) = pool(|b| b.max_open(3));
    let held = pool.get().unwrap();
    assert_eq!(
        pool.stats().to_string(),
        "open 1 of 3: idle 0, in use 1, dialing 0, closing 0; waiting 0"
    );
    drop(held);
    assert!(format!("{pool:?}").starts_with("Pool { stats: Stats { max_open: 3, idle: 1"));
    await_rest(&pool, &server);
}
