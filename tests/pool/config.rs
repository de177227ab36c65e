//! Every setting does something, and every contradiction is named.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use crate::common;
use crate::common::{
    Act, Gate, LONG, SHORT, Scripted, await_rest, await_that, await_waiting, pool, pool_that,
};
use latebind::{
    BreakerChoice, Builder, CloseReason, Config, ConfigError, GetError, IdleOrder, Pool,
    PooledConnection,
};

fn refusal(set: impl FnOnce(Builder<Scripted>) -> Builder<Scripted>) -> ConfigError {
    set(Pool::builder(Scripted::new().0)).build().unwrap_err()
}

#[test]
fn every_contradiction_is_named_with_its_values() {
    use ConfigError::{Contradiction, TooSmall, ZeroTimeout};
    let zero = Duration::ZERO;
    for (refused, as_it_is, message) in [
        (
            refusal(|b| b.max_open(0)),
            TooSmall { setting: "max_open", value: 0, least: 1 },
            "max_open is 0; it must be at least 1",
        ),
        (
            refusal(|b| b.max_open(0).max_idle(3)),
            TooSmall { setting: "max_open", value: 0, least: 1 },
            "max_open is 0; it must be at least 1",
        ),
        (
            refusal(|b| b.max_dialing(0)),
            TooSmall { setting: "max_dialing", value: 0, least: 1 },
            "max_dialing is 0; it must be at least 1",
        ),
        (
            refusal(|b| b.max_uses(0)),
            TooSmall { setting: "max_uses", value: 0, least: 1 },
            "max_uses is 0; it must be at least 1",
        ),
        (
            refusal(|b| b.max_open(5).max_idle(8)),
            Contradiction { setting: "max_idle", value: 8, bound: "max_open", limit: 5 },
            "max_idle (8) exceeds max_open (5)",
        ),
        (
            refusal(|b| b.max_dialing(11)),
            Contradiction { setting: "max_dialing", value: 11, bound: "max_open", limit: 10 },
            "max_dialing (11) exceeds max_open (10)",
        ),
        (
            refusal(|b| b.dial_timeout(zero)),
            ZeroTimeout { setting: "dial_timeout" },
            "dial_timeout is 0 s; it must be longer (Duration::MAX means no limit)",
        ),
        (
            refusal(|b| b.check_timeout(zero)),
            ZeroTimeout { setting: "check_timeout" },
            "check_timeout is 0 s; it must be longer (Duration::MAX means no limit)",
        ),
        (
            refusal(|b| b.close_timeout(zero)),
            ZeroTimeout { setting: "close_timeout" },
            "close_timeout is 0 s; it must be longer (Duration::MAX means no limit)",
        ),
    ] {
        assert_eq!(refused, as_it_is);
        assert_eq!(refused.to_string(), message);
    }
}

#[test]
fn settings_at_their_bounds_are_taken() {
    for (max_idle, max_dialing) in [(0, 1), (3, 3)] {
        let (pool, server) = pool(|b| b.max_open(3).max_idle(max_idle).max_dialing(max_dialing));
        drop(pool.get().unwrap());
        assert_eq!(await_rest(&pool, &server).idle, max_idle.min(1));
    }
}

#[test]
fn a_pool_of_defaults_opens_ten() {
    let (dialer, _) = Scripted::new();
    assert_eq!(Pool::new(dialer).stats().max_open, 10);
}

#[test]
fn resize_refuses_nothing_but_zero_and_changes_nothing_then() {
    let (pool, server) = pool(|b| b.max_open(4).max_idle(3).max_dialing(3));
    pool.warm_up(3).unwrap();
    assert_eq!(
        pool.resize(0),
        Err(ConfigError::TooSmall { setting: "max_open", value: 0, least: 1 })
    );
    assert_eq!((pool.stats().max_open, pool.stats().idle), (4, 3));
    pool.resize(2).unwrap();
    assert_eq!((pool.stats().max_open, pool.stats().idle, server.alive()), (2, 2, 2));
    pool.resize(6).unwrap();
    pool.warm_up(6).unwrap();
    assert_eq!(pool.stats().idle, 3, "max_idle is as it was");
}

#[test]
fn the_settings_in_force_can_be_read_and_given_to_another_pool() {
    let (pool, _) = pool(|b| b.max_open(4).min_idle(1).get_timeout(LONG).breaker(None));
    pool.reconfigure().max_idle(3).check_after(SHORT).apply().unwrap();
    pool.resize(5).unwrap();
    assert!(pool.reconfigure().max_open(7).max_idle(8).apply().is_err());
    let settings = pool.settings();
    let mut expected = Config::default();
    (expected.max_open, expected.max_idle, expected.min_idle) = (5, Some(3), 1);
    (expected.get_timeout, expected.check_after) = (LONG, SHORT);
    expected.breaker = BreakerChoice::Off;
    assert_eq!(settings, expected);

    let (other, _) = common::pool(|b| b.max_waiting(1).settings(settings).max_open(6));
    expected.max_open = 6;
    assert_eq!(other.settings(), expected, "a later setter counts, an earlier one does not");
    other.reconfigure().settings(settings).apply().unwrap();
    assert_eq!((other.settings(), other.stats().max_open), (settings, 5));
}

#[test]
fn max_open_bounds_what_is_open() {
    let (pool, server) = pool(|b| b.max_open(2));
    let held = [pool.get().unwrap(), pool.get().unwrap()];
    assert!(pool.get_timeout(SHORT).is_err());
    drop(held);
    await_rest(&pool, &server);
}

#[test]
fn max_idle_bounds_what_is_kept() {
    for max_idle in 0..=3 {
        let (pool, server) = pool(|b| b.max_open(3).max_idle(max_idle));
        let held = [(); 3].map(|()| pool.get().unwrap());
        drop(held);
        assert_eq!((pool.stats().open(), server.alive()), (max_idle, max_idle));
        pool.warm_up(3).unwrap();
        assert_eq!(pool.stats().open(), max_idle, "nor does a warm-up open more");
        await_rest(&pool, &server);
    }
}

/// However it is lent, and by whichever way it comes back.
#[test]
fn max_uses_is_how_often_a_connection_is_lent() {
    for resets_aside in [false, true] {
        let (pool, server) = pool_that(|blocking| blocking.reset(resets_aside), |b| b.max_uses(3));
        let ids: Vec<_> = (0..9)
            .map(|n| {
                let guard =
                    if n % 2 == 0 { pool.get() } else { pool.try_get().or_else(|_| pool.get()) };
                let id = guard.unwrap().id;
                await_rest(&pool, &server);
                id
            })
            .collect();
        assert_eq!(ids, [1, 1, 1, 2, 2, 2, 3, 3, 3]);
        let stats = await_rest(&pool, &server);
        assert_eq!(
            (stats.retired_by[CloseReason::UsedUp], stats.retired_total, stats.lent_total),
            (3, 3, 9)
        );
        assert_eq!((stats.open(), server.closed.load(SeqCst)), (0, 3));
    }
}

#[test]
fn a_limit_of_uses_holds_for_connections_from_before_and_ends_when_it_is_taken_away() {
    let (pool, server) = pool(|b| b);
    for _ in 0..5 {
        assert_eq!(pool.get().unwrap().id, 1);
    }
    pool.reconfigure().max_uses(2).apply().unwrap();
    assert_eq!([(); 3].map(|()| pool.get().unwrap().id), [1, 2, 2]);
    pool.reconfigure().max_uses(None).apply().unwrap();
    assert_eq!([(); 5].map(|()| pool.get().unwrap().id), [3; 5]);
    assert_eq!(await_rest(&pool, &server).retired_by[CloseReason::UsedUp], 2);
}

/// A caller who waits does not get a connection that has been lent often enough, but another.
#[test]
fn one_who_waits_for_a_connection_that_is_used_up_has_another_dialed() {
    let (pool, server) = pool(|b| b.max_open(1).max_uses(1));
    let held = pool.get().unwrap();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| pool.get().unwrap().id);
        await_waiting(&pool, 1);
        drop(held);
        assert_eq!(waiter.join().unwrap(), 2);
    });
    assert_eq!(await_rest(&pool, &server).retired_by[CloseReason::UsedUp], 2);
}

/// Without its lock, a pool lends what its thread has used last, or what is laid out first.
#[test]
fn idle_order_is_which_connection_is_lent_first() {
    let (pool, server) = pool(|b| b.max_open(3).check_after(LONG).idle_order(IdleOrder::Fifo));
    let lend = || [(); 6].map(|()| pool.get().unwrap().id);
    let held = [(); 3].map(|()| pool.get_owned().unwrap());
    drop(held);
    assert_eq!(lend(), [1, 2, 3, 1, 2, 3]);
    pool.reconfigure().idle_order(IdleOrder::Lifo).apply().unwrap();
    assert!(BTreeSet::from(lend()).len() <= 2, "the load keeps to few");
    pool.reconfigure().idle_order(IdleOrder::Fifo).apply().unwrap();
    let ids = lend();
    assert_eq!(BTreeSet::from(ids).len(), 3);
    assert_eq!(ids[..3], ids[3..], "they take turns");
    await_rest(&pool, &server);
}

/// A connection that must be checked is checked in its turn, and none is passed by.
#[test]
fn with_fifo_a_connection_that_must_be_checked_is_checked_in_its_turn() {
    for check in [false, true] {
        let (pool, server) = pool_that(
            |blocking| blocking.check(check),
            |b| b.check_after(Duration::ZERO).idle_order(IdleOrder::Fifo),
        );
        let held = [(); 3].map(|()| pool.get_owned().unwrap());
        drop(held);
        assert_eq!([(); 4].map(|()| pool.get().unwrap().id), [1, 2, 3, 1]);
        assert_eq!(server.checks.load(SeqCst), 4);
        await_rest(&pool, &server);
    }
}

#[test]
fn max_dialing_bounds_the_dials_at_once() {
    let (pool, server) = pool(|b| b.max_open(6).max_dialing(2));
    let gate = Gate::new();
    server.on_dial((0..2).map(|_| gate.then(Act::Succeed)));
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| PooledConnection::discard(pool.get_timeout(LONG).unwrap()));
        }
        await_waiting(&pool, 6);
        gate.await_arrivals(2);
        assert_eq!((pool.stats().dialing, server.dials()), (2, 2));
        gate.open();
    });
    assert_eq!(server.dials(), 6);
    await_rest(&pool, &server);
}

/// As it comes, a pool does not knock a thousand times at once: not for callers, not for a warm-up,
/// and not by itself.
#[test]
fn unless_it_is_told_a_pool_begins_no_more_than_64_dials_at_once() {
    let by_itself = |b: Builder<Scripted>| b.min_idle(300);
    for set in [|b| b, by_itself] {
        let (dialer, server) = Scripted::new();
        let gate = Gate::new();
        // Before there is a pool, which may dial by itself.
        server.on_dial((0..300).map(|_| gate.then(Act::Succeed)));
        let pool = set(Pool::builder(dialer).max_open(300)).build().unwrap();
        thread::scope(|scope| {
            for _ in 0..100 {
                scope.spawn(|| drop(pool.get_timeout(LONG).unwrap()));
            }
            await_waiting(&pool, 100);
            scope.spawn(|| pool.warm_up(300).unwrap());
            gate.await_arrivals(64);
            assert_eq!((pool.stats().dialing, server.dials()), (64, 64));
            gate.open();
        });
        assert_eq!(await_rest(&pool, &server).open(), 300);
    }
    let (pool, server) = pool(|b| b.max_open(100).max_dialing(100));
    let gate = Gate::new();
    server.on_dial((0..100).map(|_| gate.then(Act::Succeed)));
    thread::scope(|scope| {
        scope.spawn(|| pool.warm_up(100).unwrap());
        gate.await_arrivals(100);
        gate.open();
    });
}

#[test]
fn max_waiting_turns_away_one_too_many_without_a_dial_to_count_on() {
    let (pool, server) = pool(|b| b.max_open(2).max_waiting(1));
    let held = pool.get().unwrap();
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Succeed)]);
    thread::scope(|scope| {
        for n in 1..=2 {
            scope.spawn(|| drop(pool.get_timeout(LONG).unwrap()));
            await_waiting(&pool, n);
        }
        // One has the dial to count on, the other is the one who may wait without.
        assert!(matches!(pool.get(), Err(GetError::QueueFull { max_waiting: 1, .. })));
        drop(held);
        gate.open();
    });
    assert_eq!(await_rest(&pool, &server).queue_full_total, 1);
}

#[test]
fn max_waiting_of_zero_serves_whom_a_dial_or_an_idle_connection_can_serve() {
    let (pool, server) = pool(|b| b.max_open(1).max_waiting(0).check_after(Duration::MAX));
    let held = pool.get().unwrap();
    assert!(matches!(pool.get(), Err(GetError::QueueFull { max_waiting: 0, .. })));
    drop(held);
    drop(pool.get().unwrap());
    await_rest(&pool, &server);
}

#[test]
fn max_waiting_of_zero_serves_whom_an_idle_connection_that_needs_a_check_can_serve() {
    let (pool, server) = pool(|b| b.max_open(1).max_waiting(0).check_after(Duration::ZERO));
    drop(pool.get().unwrap());
    assert_eq!(pool.get().unwrap().id, 1);
    await_rest(&pool, &server);
}

#[test]
fn get_timeout_is_how_long_get_waits() {
    let (pool, server) = pool(|b| b.max_open(1).get_timeout(SHORT));
    let held = pool.get_timeout(LONG).unwrap();
    let start = Instant::now();
    assert!(pool.get().is_err() && pool.get_owned().is_err());
    assert!(start.elapsed() >= 2 * SHORT && start.elapsed() < LONG);
    drop(held);
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Succeed)]);
    pool.flush();
    assert!(pool.warm_up(1).is_err());
    gate.open();
    await_rest(&pool, &server);
}

#[test]
fn dial_timeout_is_what_the_dialer_is_told_and_what_a_caller_is_spared() {
    let limit = 10 * SHORT;
    let (pool, server) = pool(|b| b.max_open(2).dial_timeout(limit));
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Succeed)]);
    let start = Instant::now();
    assert!(matches!(pool.get_timeout(LONG), Err(GetError::Unreachable { .. })));
    let told = server.latest_deadline();
    assert!(told >= start + limit && told <= Instant::now() + limit);
    gate.open();
    await_rest(&pool, &server);
}

#[test]
fn check_after_is_how_long_an_idle_connection_is_trusted() {
    for (check_after, checks) in [(Duration::ZERO, 3), (LONG, 0), (Duration::MAX, 0)] {
        let (pool, server) = pool(|b| b.max_open(1).check_after(check_after));
        for _ in 0..4 {
            drop(pool.get().unwrap());
        }
        assert_eq!(server.checks.load(SeqCst), checks);
        assert_eq!(server.dials(), 1);
    }
    let (pool, server) = pool(|b| b.max_open(1).check_after(SHORT));
    drop(pool.get().unwrap());
    let until = Instant::now() + SHORT;
    await_that("it has rested", || Instant::now() > until);
    drop(pool.get().unwrap());
    drop(pool.try_get().unwrap());
    assert_eq!(server.checks.load(SeqCst), 1);
}

/// However long the loan was: it is trusted from its return on, also by whoever takes the lock then.
#[test]
fn a_loan_is_no_part_of_the_time_for_which_a_connection_is_trusted() {
    const TRUSTED: Duration = Duration::from_millis(400);
    let (pool, server) = pool(|b| b.max_open(1).check_after(TRUSTED));
    let held = pool.get().unwrap();
    let until = Instant::now() + TRUSTED + SHORT;
    await_that("it has been lent for longer", || Instant::now() > until);
    drop(held);
    assert_eq!(pool.stats().idle, 1);
    assert_eq!(pool.get().unwrap().id, 1);
    assert_eq!(server.checks.load(SeqCst), 0);
}

#[test]
fn check_timeout_is_how_long_a_check_or_a_reset_may_take() {
    let (pool, server) = pool_that(
        |b| b.reset(true),
        |b| b.max_open(3).check_after(Duration::ZERO).check_timeout(SHORT),
    );
    drop(pool.get().unwrap());
    await_that("it is reset", || pool.stats().idle == 1);
    let gate = Gate::new();
    server.on_check([gate.then(Act::Succeed)]);
    let replaced = pool.get_timeout(LONG).unwrap();
    assert_eq!((replaced.id, pool.stats().check_failed_total), (2, 1));

    server.on_reset([gate.then(Act::Succeed)]);
    drop(replaced);
    gate.await_arrivals(2);
    assert_eq!(pool.get_timeout(LONG).map(|c| c.id).map_err(|e| e.to_string()), Ok(3));
    gate.open();
    await_rest(&pool, &server);
}

#[test]
fn a_check_on_the_callers_own_thread_is_told_when_its_time_is_up() {
    let (pool, server) =
        pool_that(|b| b.check(false), |b| b.check_after(Duration::ZERO).check_timeout(LONG));
    drop(pool.get().unwrap());
    let begun = Instant::now();
    drop(pool.get().unwrap());
    let deadline = server.check_deadline.lock().unwrap().expect("it was checked");
    assert!((begun + LONG..=Instant::now() + LONG).contains(&deadline));
}

#[test]
fn close_timeout_is_how_long_a_close_keeps_its_slot() {
    for (close_timeout, is_freed) in [(SHORT, true), (LONG, false)] {
        let (pool, server) =
            pool_that(|b| b.close(true), |b| b.max_open(1).close_timeout(close_timeout));
        let gate = Gate::new();
        server.on_close([gate.then(Act::Succeed)]);
        PooledConnection::discard(pool.get().unwrap());
        let patience = if is_freed { LONG } else { 10 * SHORT };
        assert_eq!(pool.get_timeout(patience).is_ok(), is_freed);
        assert_eq!(pool.stats().close_timeouts_total, u64::from(is_freed));
        gate.open();
        await_that("it is closed", || server.closed.load(SeqCst) == 1);
    }
}
