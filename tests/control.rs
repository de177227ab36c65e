//! A pool that runs is told to go on in another way.

mod common;

use std::panic::{self, AssertUnwindSafe};
use std::thread;
use std::time::{Duration, Instant};

use common::{Act, Gate, LONG, SHORT, await_rest, await_that, await_waiting, panic_quietly, pool};
use latebind::{ConfigError, GetError, Pool, PooledConnection};

// ---- Settings -----------------------------------------------------------------------------------

#[test]
fn what_is_not_named_stays_as_it_is() {
    let (pool, server) = pool(|b| b.max_open(4).max_idle(3).max_waiting(0).check_after(LONG));
    pool.reconfigure().max_open(2).apply().unwrap();
    let held = [pool.get().unwrap(), pool.get().unwrap()];
    assert!(matches!(pool.get().unwrap_err(), GetError::QueueFull { max_waiting: 0, .. }));
    drop(held);
    pool.reconfigure().max_open(8).apply().unwrap();
    pool.warm_up(8).unwrap();
    assert_eq!((pool.stats().max_open, pool.stats().idle), (8, 3));
    pool.reconfigure().apply().unwrap();
    assert_eq!((pool.stats().max_open, pool.stats().idle), (8, 3));
    await_rest(&pool, &server);
}

/// LIFE-01: whatever was set first.
#[test]
fn every_limit_on_a_caller_holds_for_the_next_one() {
    let (pool, server) = pool(|b| b.max_open(1));
    let held = pool.get().unwrap();

    pool.reconfigure().get_timeout(SHORT).apply().unwrap();
    assert!(matches!(pool.get().unwrap_err(), GetError::Exhausted { .. }));
    assert!(pool.get_owned().is_err());
    pool.reconfigure().get_timeout(Duration::MAX).max_waiting(0).apply().unwrap();
    assert!(matches!(pool.get().unwrap_err(), GetError::QueueFull { .. }));
    pool.reconfigure().max_waiting(u32::MAX).apply().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| drop(pool.get().unwrap()));
        await_waiting(&pool, 1);
        drop(held);
    });
    await_rest(&pool, &server);
}

#[test]
fn every_limit_on_the_dialer_holds_for_its_next_call() {
    let (pool, server) = pool(|b| b.max_open(2));
    let gate = Gate::new();

    let idle = pool.get().unwrap();
    pool.reconfigure().dial_timeout(SHORT).max_dialing(1).apply().unwrap();
    server.on_dial([gate.then(Act::Succeed)]);
    assert!(pool.get_timeout(SHORT * 2).is_err());
    await_that("the dial is overdue", || pool.stats().overdue == 1);
    gate.open();
    await_that("the dial has ended", || pool.stats().dialing == 0);
    assert!(Instant::now() > server.latest_deadline());

    drop(idle);
    let gate = Gate::new();
    pool.reconfigure().check_after(Duration::ZERO).check_timeout(SHORT).apply().unwrap();
    server.on_check([gate.then(Act::Succeed), gate.then(Act::Succeed)]);
    drop(pool.get_timeout(SHORT * 2));
    await_that("the check is overdue", || pool.stats().check_failed_total > 0);
    gate.open();
    await_rest(&pool, &server);
}

#[test]
fn whether_a_panic_retires_is_settled_when_it_comes() {
    let (pool, server) = pool(|b| b.max_open(1));
    let panic_with = |guard: PooledConnection<'_, _>| {
        let unwound = panic::catch_unwind(AssertUnwindSafe(|| {
            let _guard = guard;
            panic_quietly();
        }));
        assert!(unwound.is_err());
    };
    let guard = pool.get().unwrap();
    pool.reconfigure().retire_on_panic(false).apply().unwrap();
    panic_with(guard);
    assert_eq!(await_rest(&pool, &server).idle, 1);
    let guard = pool.get().unwrap();
    pool.reconfigure().retire_on_panic(true).apply().unwrap();
    panic_with(guard);
    assert_eq!(await_rest(&pool, &server).idle, 0);
}

#[test]
fn what_is_refused_changes_nothing() {
    let (pool, server) = pool(|b| b.max_open(4).max_idle(3).check_after(LONG));
    pool.warm_up(3).unwrap();
    for (refused, why) in [
        (
            pool.reconfigure()
                .max_open(2)
                .check_after(Duration::ZERO)
                .close_timeout(Duration::ZERO),
            ConfigError::ZeroTimeout { setting: "close_timeout" },
        ),
        (
            pool.reconfigure().check_after(Duration::ZERO).max_open(0),
            ConfigError::TooSmall { setting: "max_open", value: 0, least: 1 },
        ),
        (
            pool.reconfigure().check_after(Duration::ZERO).max_idle(5),
            ConfigError::Contradiction { setting: "max_idle", value: 5, limit: 4 },
        ),
        (
            // Even if it is what it was: said together with the other it contradicts it.
            pool.reconfigure().check_after(Duration::ZERO).max_open(2).max_idle(3),
            ConfigError::Contradiction { setting: "max_idle", value: 3, limit: 2 },
        ),
    ] {
        assert_eq!(refused.apply(), Err(why));
        assert_eq!((pool.stats().max_open, pool.stats().idle), (4, 3));
    }
    drop(pool.get().unwrap());
    assert_eq!(await_rest(&pool, &server).dials_total, 3, "and nothing was closed for it");
    assert_eq!(server.checks.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[test]
fn of_two_changes_at_once_each_has_what_it_named_and_the_second_the_rest() {
    let (pool, _server) = pool(|b| b.max_open(4));
    let first = pool.reconfigure().max_open(7).max_waiting(0);
    let second = pool.reconfigure().max_open(9).max_idle(2);
    second.apply().unwrap();
    first.apply().unwrap();
    pool.warm_up(9).unwrap();
    assert_eq!((pool.stats().max_open, pool.stats().idle), (7, 2));
    let held: Vec<_> = (0..7).map(|_| pool.get().unwrap()).collect();
    assert!(matches!(pool.get().unwrap_err(), GetError::QueueFull { .. }));
    drop(held);

    for round in 0..100 {
        thread::scope(|scope| {
            scope.spawn(|| pool.reconfigure().max_open(5 + round % 2).apply().unwrap());
            scope.spawn(|| pool.reconfigure().max_idle(4 + round % 2).apply().unwrap());
        });
        pool.warm_up(9).unwrap();
        assert_eq!((pool.stats().max_open, pool.stats().idle), (5 + round % 2, 4 + round % 2));
    }
}

/// How many of the pool's connections, all at rest, were lent without its lock: those are counted
/// when they come back.
fn lent_without_lock<D: latebind::Dialer>(pool: &Pool<D>) -> u64 {
    let before = pool.stats();
    let held: Vec<_> = (0..before.idle).map(|_| pool.try_get().unwrap()).collect();
    let by_lock = pool.stats().lent_total - before.lent_total;
    drop(held);
    assert_eq!(pool.stats().lent_total - before.lent_total, u64::from(before.idle));
    u64::from(before.idle) - by_lock
}

#[test]
fn a_pool_that_was_small_lends_without_its_lock_when_it_is_large() {
    let (pool, server) = pool(|b| b.max_open(4).check_after(Duration::MAX));
    pool.warm_up(4).unwrap();
    assert_eq!(lent_without_lock(&pool), 4);
    // There are 64 places at most: the 65th checkout takes the lock, and has the rest laid out.
    for (max_open, without_lock) in [(10, 10), (40, 40), (3, 3), (40, 40), (100, 99)] {
        pool.reconfigure().max_open(max_open).apply().unwrap();
        pool.warm_up(max_open).unwrap();
        assert_eq!(lent_without_lock(&pool), without_lock, "of {max_open}");
    }
    assert_eq!((pool.stats().open(), server.alive()), (100, 100));
}

#[test]
fn how_long_an_idle_connection_is_trusted_decides_at_run_time_who_takes_the_lock() {
    let (pool, server) = pool(|b| b.max_open(4).check_after(SHORT));
    pool.warm_up(4).unwrap();
    assert_eq!(lent_without_lock(&pool), 0);
    pool.reconfigure().check_after(LONG).apply().unwrap();
    assert_eq!(lent_without_lock(&pool), 4);
    pool.reconfigure().check_after(Duration::from_millis(49)).apply().unwrap();
    assert_eq!(lent_without_lock(&pool), 0, "the coarse clock cannot tell");
    await_rest(&pool, &server);
}

/// ACC-16.
#[test]
fn whatever_limits_were_set_before_the_last_one_holds() {
    let (pool, server) = pool(|b| b.max_open(4));
    for (round, max_open) in [1, 4, 2, 6, 1, 1, 3, 5, 2].into_iter().enumerate() {
        // Some of these find everything idle, others some of it in use.
        let held: Vec<_> = (0..round % 3).filter_map(|_| pool.try_get().ok()).collect();
        pool.reconfigure().max_open(max_open).apply().unwrap();
        drop(held);
        let mut lent: Vec<_> = (0..max_open).map(|_| pool.get().unwrap()).collect();
        assert!(pool.get_timeout(Duration::ZERO).is_err());
        assert_eq!((pool.stats().open(), server.alive()), (max_open, max_open));
        lent.truncate(1);
    }
    assert_eq!((pool.stats().open(), server.alive()), (2, 2));
}
