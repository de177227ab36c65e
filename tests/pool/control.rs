//! A pool that runs is told to go on in another way.

use std::collections::BTreeSet;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Barrier, Mutex};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use crate::common::{
    Act, Connection, Gate, LONG, Refused, SHORT, Scripted, await_rest, await_that, await_waiting,
    failed_dial, finishes, panic_quietly, pool, pool_that,
};
use latebind::{
    Cancel, CloseReason, ConfigError, DialRule, Event, GetError, Pool, PooledConnection,
};

// ---- What is idle -------------------------------------------------------------------------------

/// SHUT-16: connections in use or being dialed belong to those who asked for them.
#[test]
fn what_is_idle_is_closed_and_nothing_else() {
    let why = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&why);
    let (pool, server) = pool(|b| {
        b.max_open(4).dial_rule(DialRule::Eager).observer(move |event| {
            if let Event::Closed { reason, .. } = event {
                told.lock().unwrap().push(*reason);
            }
        })
    });
    let in_use = pool.get().unwrap();
    let [first, second] = [pool.get().unwrap(), pool.get().unwrap()];
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Succeed)]);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| pool.get().unwrap());
        gate.await_arrivals(1);
        drop(first);
        let served = waiter.join().unwrap();
        drop(second);
        pool.close_idle();
        assert_eq!((pool.stats().idle, pool.stats().in_use, pool.stats().dialing), (0, 2, 1));
        await_that("one is closed", || *why.lock().unwrap() == [CloseReason::ClosedIdle]);
        gate.open();
        drop((in_use, served));
    });
    await_that("the dial has ended", || pool.stats().dialed_total == 4);
    assert_eq!(await_rest(&pool, &server).idle, 3);
    pool.close_idle();
    assert_eq!((await_rest(&pool, &server).retired_total, server.closed.load(SeqCst)), (4, 4));
}

/// SHUT-16.
#[test]
fn what_is_closed_of_min_idle_is_dialed_again() {
    let (pool, server) = pool(|b| b.max_open(4).min_idle(2));
    pool.warm_up(4).unwrap();
    pool.close_idle();
    await_that("two are dialed", || server.dials() == 6 && server.alive() == 2);
    assert_eq!(await_rest(&pool, &server).idle, 2);
}

// ---- Settings -----------------------------------------------------------------------------------

/// The server sees it, and nobody asks the pool, which would have it look.
#[test]
fn max_idle_of_zero_set_while_the_pool_runs_leaves_nothing_open() {
    let (pool, server) = pool(|b| b);
    drop(pool.get().unwrap());
    pool.reconfigure().max_idle(0).apply().unwrap();
    let dialed = pool.get().unwrap();
    let resumed = pool.get_owned().unwrap();
    drop(dialed);
    drop(resumed);
    await_that("what came back is closed", || server.alive() == 0);
}

#[test]
fn a_burst_leaves_no_more_than_max_idle_open_although_nobody_calls() {
    for (min_idle, max_idle) in [(4, 4), (2, 4), (0, 4), (0, 1), (4, 5)] {
        let (pool, server) = pool(|b| b.max_open(20).min_idle(min_idle).max_idle(max_idle));
        for lent in [12, 20, 3] {
            let guards: Vec<_> = (0..lent).map(|_| pool.get().unwrap()).collect();
            drop(guards);
            await_that("no more rest than may", || server.alive() <= max_idle);
        }
    }
}

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

/// An earlier setting counts as equal to a limit lowered below it; settings of one change must fit together.
#[test]
fn a_min_idle_from_before_is_no_reason_to_refuse_a_lower_limit() {
    let (pool, server) = pool(|b| b.max_open(4).min_idle(3));
    await_that("min_idle is there", || pool.stats().idle == 3);
    pool.reconfigure().max_open(2).apply().unwrap();
    await_that("no more rest than may be open", || pool.stats().open() == 2);
    pool.resize(1).unwrap();
    assert_eq!(
        pool.reconfigure().max_open(4).max_idle(1).min_idle(2).apply(),
        Err(ConfigError::Contradiction {
            setting: "min_idle",
            value: 2,
            bound: "max_idle",
            limit: 1
        })
    );
    pool.resize(4).unwrap();
    await_that("min_idle is there again", || pool.stats().idle == 3);
    await_rest(&pool, &server);
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
            ConfigError::Contradiction {
                setting: "max_idle",
                value: 5,
                bound: "max_open",
                limit: 4,
            },
        ),
        (
            // Even if it is what it was: said together with the other it contradicts it.
            pool.reconfigure().check_after(Duration::ZERO).max_open(2).max_idle(3),
            ConfigError::Contradiction {
                setting: "max_idle",
                value: 3,
                bound: "max_open",
                limit: 2,
            },
        ),
    ] {
        assert_eq!(refused.apply(), Err(why));
        assert_eq!((pool.stats().max_open, pool.stats().idle), (4, 3));
    }
    drop(pool.get().unwrap());
    assert_eq!(await_rest(&pool, &server).dials_total, 3, "and nothing was closed for it");
    assert_eq!(server.checks.load(SeqCst), 0);
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

/// How many of the pool's connections, all at rest, were lent without its lock: in the numbers that
/// are read without it as well, those are counted when they come back.
fn lent_without_lock<D: latebind::Dialer<Error: std::fmt::Debug>>(pool: &Pool<D>) -> u64 {
    let before = pool.stats();
    let held: Vec<_> = (0..before.idle).map(|_| pool.get().unwrap()).collect();
    // A reading is an older one if a worker has the lock just then. Nobody is lent a connection any
    // more, so the largest reading is the latest.
    let lent = (0..10).map(|_| {
        let _ = pool.settings(); // Waits until the lock is free.
        pool.recent_stats().lent_total
    });
    let by_lock = lent.max().unwrap() - before.lent_total;
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
    for blocks in [true, false] {
        let (pool, server) = pool_that(|b| b.check(blocks), |b| b.max_open(4).check_after(LONG));
        pool.warm_up(4).unwrap();
        assert_eq!(lent_without_lock(&pool), 4);
        pool.reconfigure().check_after(Duration::ZERO).apply().unwrap();
        let by_the_caller = if blocks { 0 } else { 4 };
        assert_eq!(lent_without_lock(&pool), by_the_caller, "checked each time: {blocks}");
        // Nearer than the coarse clock tells. On a busy machine they may have rested for longer.
        pool.reconfigure().check_after(Duration::from_millis(49)).apply().unwrap();
        await_that("all are lent without the lock", || lent_without_lock(&pool) == 4);
        await_rest(&pool, &server);
    }
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

// ---- Connections --------------------------------------------------------------------------------

/// The connections that a predicate was asked about, each with the thread.
type Asked = Arc<Mutex<Vec<(u32, ThreadId)>>>;

/// A predicate that retires the connections of these numbers and notes whom it judges.
fn retiring<const N: usize>(ids: [u32; N]) -> (impl Fn(&Connection) -> bool, Asked) {
    let asked = Asked::default();
    let notes = Arc::clone(&asked);
    let predicate = move |connection: &Connection| {
        notes.lock().unwrap().push((connection.id, thread::current().id()));
        ids.contains(&connection.id)
    };
    (predicate, asked)
}

fn ids(asked: &Asked) -> Vec<u32> {
    asked.lock().unwrap().iter().map(|(id, _)| *id).collect()
}

#[test]
fn what_is_idle_is_judged_at_once_what_is_in_use_when_it_comes_back() {
    let (pool, server) = pool(|b| b.max_open(4));
    pool.warm_up(4).unwrap();
    let held = [pool.get_owned().unwrap(), pool.get_owned().unwrap()];
    let held_ids = held.each_ref().map(|connection| connection.id);
    let idle_ids: Vec<u32> = (1..=4).filter(|id| !held_ids.contains(id)).collect();
    let (predicate, asked) = retiring([held_ids[0], idle_ids[0]]);
    pool.retire_where(predicate);
    let here = thread::current().id();
    let judged = asked.lock().unwrap().clone();
    assert!(judged.iter().all(|(id, thread)| !held_ids.contains(id) && *thread == here));
    assert_eq!((judged.len(), server.closed.load(SeqCst)), (2, 1));

    let returner = thread::spawn(move || drop(held));
    let there = returner.thread().id();
    returner.join().unwrap();
    let judged = asked.lock().unwrap()[2..].to_vec();
    assert!(judged.iter().all(|(id, thread)| held_ids.contains(id) && *thread == there));
    assert_eq!((judged.len(), server.closed.load(SeqCst)), (2, 2));

    let (again, more) = (pool.get().unwrap(), pool.get().unwrap());
    let kept = BTreeSet::from([held_ids[1], idle_ids[1]]);
    assert_eq!(BTreeSet::from([again.id, more.id]), kept);
    drop((again, more));
    assert_eq!(ids(&asked).len(), 4, "each is judged once");
    await_rest(&pool, &server);
}

/// SHUT-12.
#[test]
fn what_was_being_dialed_is_judged_before_anybody_has_it() {
    let (pool, server) = pool(|b| b.max_open(2));
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Succeed)]);
    let (predicate, asked) = retiring([1]);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| pool.get().unwrap().id);
        gate.await_arrivals(1);
        pool.retire_where(predicate);
        assert!(ids(&asked).is_empty());
        gate.open();
        assert_eq!(waiter.join().unwrap(), 2, "whoever waited for the first had another dialed");
    });
    assert_eq!(ids(&asked), [1], "what was dialed since is not judged");
    await_rest(&pool, &server);
}

/// SHUT-11: what is retired is what there was; the pool keeps connections as before.
#[test]
fn once_all_are_retired_new_ones_are_kept() {
    let (pool, server) = pool(|b| b.max_open(2));
    drop([pool.get().unwrap(), pool.get().unwrap()]);
    let held = pool.get().unwrap();
    pool.retire_where(|_| true);
    assert_eq!((pool.stats().idle, server.closed.load(SeqCst)), (0, 1));
    let fresh = pool.get().unwrap();
    assert_eq!(fresh.id, 3);
    drop((held, fresh));
    assert_eq!(await_rest(&pool, &server).idle, 1);
    assert_eq!(pool.get().unwrap().id, 3);
}

#[test]
fn a_waiter_is_served_by_what_the_predicate_lets_stay_or_by_a_new_dial() {
    for (retired, served_by) in [(&[][..], 1), (&[1], 2)] {
        let (pool, server) = pool(|b| b.max_open(1));
        let held = pool.get().unwrap();
        pool.retire_where(move |connection: &Connection| retired.contains(&connection.id));
        thread::scope(|scope| {
            let waiter = scope.spawn(|| pool.get().unwrap().id);
            await_waiting(&pool, 1);
            drop(held);
            assert_eq!(waiter.join().unwrap(), served_by);
        });
        await_rest(&pool, &server);
    }
}

/// NO-USER-CODE-UNDER-LOCK.
#[test]
fn a_predicate_may_use_the_pool() {
    finishes(|| {
        let (pool, server) = pool(|b| b.max_open(3));
        pool.warm_up(2).unwrap();
        let held = pool.get().unwrap();
        let its_own = pool.clone();
        pool.retire_where(move |_| {
            assert!(its_own.stats().open() >= 1);
            its_own.retire_where(|_| false);
            its_own.reconfigure().max_open(2).apply().unwrap();
            drop(its_own.try_get());
            false
        });
        drop(held);
        assert_eq!(await_rest_of(&pool), 2);
        drop(pool);
        assert_eq!(server.alive(), 0, "no predicate is left that keeps the pool");
    });
}

fn await_rest_of(pool: &Pool<Scripted>) -> u32 {
    await_that("the pool comes to rest", || {
        let stats = pool.stats();
        stats.in_use + stats.dialing + stats.closing + stats.waiting == 0
    });
    pool.stats().idle
}

#[test]
fn a_panic_of_a_predicate_retires_the_connection_and_harms_nothing_else() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic_quietly();
        }
    }
    let (pool, server) = pool(|b| b.max_open(3));
    pool.warm_up(3).unwrap();
    let held = pool.get().unwrap();
    let (held_id, bomb) = (held.id, Bomb);
    pool.retire_where(move |connection: &Connection| {
        let _bomb = &bomb;
        if connection.id == held_id { panic_quietly() } else { connection.id == 2 }
    });
    drop(held);
    await_that("its call and its drop are counted", || pool.stats().panics_total == 2);
    let stats = await_rest(&pool, &server);
    assert_eq!(stats.idle, if held_id == 2 { 2 } else { 1 });
    pool.warm_up(3).unwrap();
}

/// A predicate is user code that may hold anything: it goes when nothing is left for it to judge.
#[test]
fn a_predicate_is_dropped_when_it_has_judged_all_that_it_had_to() {
    let (pool, server) = pool(|b| b.max_open(3));
    let token = Arc::new(());
    let retire_nothing = || {
        let held = Arc::clone(&token);
        pool.retire_where(move |_| Arc::strong_count(&held) == 0);
    };
    let left = || Arc::strong_count(&token) - 1;
    retire_nothing();
    assert_eq!(left(), 0, "there was nothing to judge");
    pool.warm_up(2).unwrap();
    retire_nothing();
    assert_eq!(left(), 0, "what is idle was judged at once");

    // In whatever way the last one ends.
    let ends: [fn(PooledConnection<'_, Scripted>); 4] = [
        |c| drop(c),
        |c| PooledConnection::discard(c),
        |c| drop(Connection::detach(c)),
        |mut c| {
            c.is_broken = true;
        },
    ];
    for end in ends {
        let (one, other) = (pool.get().unwrap(), pool.get().unwrap());
        retire_nothing();
        drop(one);
        assert_eq!(left(), 1, "one is still out");
        retire_nothing();
        assert_eq!(left(), 2);
        end(other);
        assert_eq!(left(), 0);
    }
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Fail)]);
    let held = pool.get().unwrap();
    PooledConnection::discard(held);
    pool.flush();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| pool.get().map(drop));
        gate.await_arrivals(1);
        retire_nothing();
        assert_eq!(left(), 1, "a dial is under way");
        gate.open();
        assert!(waiter.join().unwrap().is_err());
    });
    await_that("the predicate is dropped where the dial has failed", || left() == 0);
    await_rest(&pool, &server);
}

#[test]
fn ten_thousand_predicates_leave_nothing_behind() {
    let (pool, server) = pool(|b| b.max_open(2));
    let token = Arc::new(());
    let mut held = pool.get().unwrap();
    for _ in 0..10_000 {
        let keep = Arc::clone(&token);
        pool.retire_where(move |_| Arc::strong_count(&keep) == 0);
        // Now and then everything has come back; there is always one out.
        let next = pool.get().unwrap();
        drop(std::mem::replace(&mut held, next));
        assert!(Arc::strong_count(&token) <= 3);
    }
    drop(held);
    assert_eq!(Arc::strong_count(&token), 1);
    assert_eq!(await_rest(&pool, &server).dials_total, 2);
}

// ---- Suspension ---------------------------------------------------------------------------------

#[test]
fn while_a_pool_is_suspended_nobody_is_lent_anything_and_nothing_is_dialed() {
    let (pool, server) = pool(|b| b.max_open(3));
    pool.warm_up(2).unwrap();
    pool.suspend();
    pool.suspend();
    assert!(pool.is_suspended());
    let error = pool.try_get().unwrap_err();
    assert!(matches!(error, GetError::Suspended { waited: Duration::ZERO, .. }), "{error}");
    let error = pool.get_timeout(SHORT).unwrap_err();
    assert!(matches!(error, GetError::Suspended { waited, .. } if waited >= SHORT), "{error}");
    let said = error.to_string();
    assert!(said.starts_with("the pool is suspended, and was not resumed in "), "{said}");
    assert!(said.ends_with("(open 2 of 3: idle 2, in use 0, dialing 0, closing 0; waiting 0)"));
    let error = pool.get_timeout(Duration::ZERO).unwrap_err();
    assert!(matches!(error, GetError::Suspended { .. }), "{error}");
    assert_eq!(pool.stats().timed_out_total, 2);
    thread::scope(|scope| {
        let waiters = [(); 3].map(|()| scope.spawn(|| pool.get().unwrap()));
        let warming = scope.spawn(|| pool.warm_up(3));
        await_waiting(&pool, 3);
        assert_eq!((pool.stats().in_use, server.dials()), (0, 2));
        pool.resume();
        let lent = waiters.map(|waiter| waiter.join().unwrap());
        assert_eq!(server.dials(), 3);
        warming.join().unwrap().unwrap();
        drop(lent);
    });
    assert!(!pool.is_suspended());
    pool.resume();
    assert!(pool.try_get().is_ok());
    await_rest(&pool, &server);
}

#[test]
fn a_suspended_pool_serves_its_callers_in_the_order_in_which_they_came() {
    let (pool, server) = pool(|b| b.max_open(1));
    drop(pool.get().unwrap());
    pool.suspend();
    let served = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for caller in 0..5 {
            let (pool, served) = (&pool, &served);
            scope.spawn(move || {
                let _guard = pool.get().unwrap();
                served.lock().unwrap().push(caller);
            });
            await_waiting(pool, caller + 1);
        }
        pool.resume();
    });
    assert_eq!(*served.lock().unwrap(), [0, 1, 2, 3, 4]);
    assert_eq!(await_rest(&pool, &server).dials_total, 1);
}

#[test]
fn what_is_out_when_a_pool_is_suspended_comes_back_to_rest() {
    let (pool, server) = pool(|b| b.max_open(3).dial_rule(DialRule::Eager));
    let gate = Gate::new();
    server.on_dial([Act::Succeed, gate.then(Act::Succeed), gate.then(Act::Fail)]);
    let held = pool.get().unwrap();
    thread::scope(|scope| {
        let waiters = [(); 2].map(|()| scope.spawn(|| pool.get().map(|lent| lent.id)));
        gate.await_arrivals(2);
        pool.suspend();
        drop(held);
        gate.open();
        await_that("both dials have ended", || pool.stats().dialing == 0);
        let stats = pool.stats();
        assert_eq!((stats.idle, stats.waiting, stats.dial_failed_total), (2, 2, 1));
        pool.resume();
        for waiter in waiters {
            waiter.join().unwrap().expect("even whose dial has failed: something is idle");
        }
    });
    await_rest(&pool, &server);
}

/// REASON: the error that a caller holds is its own again, once the pool is resumed.
#[test]
fn whose_dial_failed_while_the_pool_was_suspended_is_told_so_when_it_is_resumed() {
    let (pool, server) = pool(|b| b.max_open(1));
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Fail)]);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| pool.get().map(drop));
        gate.await_arrivals(1);
        pool.suspend();
        gate.open();
        await_that("the dial has failed", || pool.stats().dial_failed_total == 1);
        assert_eq!(pool.stats().waiting, 1);
        let late = pool.get_timeout(SHORT).unwrap_err();
        assert!(matches!(&late, GetError::Suspended { failure: Some(_), .. }), "{late}");
        assert_eq!(failed_dial(&late), Some(1));
        pool.resume();
        let error = waiter.join().unwrap().unwrap_err();
        assert!(matches!(&error, GetError::Unreachable { .. }), "{error}");
        assert_eq!(failed_dial(&error), Some(1));
    });
    await_rest(&pool, &server);
}

#[test]
fn the_bound_on_the_queue_holds_while_a_pool_is_suspended() {
    let (pool, server) = pool(|b| b.max_open(4).max_waiting(1));
    pool.warm_up(2).unwrap();
    pool.suspend();
    thread::scope(|scope| {
        scope.spawn(|| drop(pool.get().unwrap()));
        await_waiting(&pool, 1);
        assert!(matches!(pool.get().unwrap_err(), GetError::QueueFull { max_waiting: 1, .. }));
        pool.resume();
    });
    await_rest(&pool, &server);
}

#[test]
fn a_suspended_pool_can_be_changed_flushed_and_closed() {
    let (pool, server) = pool(|b| b.max_open(2));
    pool.warm_up(2).unwrap();
    pool.suspend();
    pool.reconfigure().max_open(1).apply().unwrap();
    assert_eq!(pool.stats().idle, 1);
    pool.flush();
    assert_eq!((pool.stats().idle, server.dials()), (0, 2));
    thread::scope(|scope| {
        let waiter = scope.spawn(|| pool.get().map(drop));
        await_waiting(&pool, 1);
        pool.close();
        assert!(matches!(waiter.join().unwrap(), Err(GetError::Closed)));
    });
    pool.resume();
    assert!(matches!(pool.get(), Err(GetError::Closed)));
    assert!(matches!(pool.try_get(), Err(GetError::Closed)));
    assert!(pool.drain(Instant::now() + LONG).is_complete());
}

#[test]
fn a_closed_pool_is_not_suspended_whichever_came_first() {
    let (pool, server) = pool(|b| b);
    pool.suspend();
    pool.close();
    assert!(!pool.is_suspended());
    pool.suspend();
    assert!(!pool.is_suspended());
    assert!(matches!(pool.try_get(), Err(GetError::Closed)));
    await_rest(&pool, &server);
}

// ---- Cancellation -------------------------------------------------------------------------------

/// How many callers a token knows of.
#[track_caller]
fn assert_knows_nobody(cancel: &Cancel) {
    let said = format!("{cancel:?}");
    assert!(said.ends_with("waiting: 0 }"), "{said}");
}

/// CAN-01, NO-STRANDED-WAITER.
#[test]
fn a_cancelled_wait_ends_at_once_and_the_next_in_the_queue_is_served() {
    let (pool, server) = pool(|b| b.max_open(1));
    let held = pool.get().unwrap();
    let cancel = Cancel::new();
    thread::scope(|scope| {
        let cancelled =
            scope.spawn(|| pool.checkout().cancel(&cancel).timeout(Duration::MAX).get().map(drop));
        await_waiting(&pool, 1);
        let next = scope.spawn(|| pool.get().map(drop));
        await_waiting(&pool, 2);
        assert_eq!(format!("{cancel:?}"), "Cancel { is_cancelled: false, waiting: 1 }");
        cancel.cancel();
        let error = cancelled.join().unwrap().unwrap_err();
        assert!(matches!(error, GetError::Cancelled), "{error}");
        assert_eq!(error.to_string(), "the wait was cancelled");
        assert_eq!((pool.stats().waiting, pool.stats().cancelled_total), (1, 1));
        drop(held);
        next.join().unwrap().unwrap();
    });
    assert_eq!(pool.stats().timed_out_total, 0);
    assert_eq!(await_rest(&pool, &server).dials_total, 1);
    assert_knows_nobody(&cancel);
}

#[test]
fn a_token_that_is_cancelled_refuses_before_anything_is_done() {
    let (pool, server) = pool(|b| b.max_open(2));
    let cancel = Cancel::default();
    assert!(!cancel.is_cancelled());
    cancel.clone().cancel();
    cancel.cancel();
    assert!(cancel.is_cancelled());
    for _ in 0..2 {
        let refused = pool.checkout().cancel(&cancel).timeout(LONG).get().map(drop);
        assert!(matches!(refused, Err(GetError::Cancelled)));
        let refused = pool.checkout().cancel(&cancel).timeout(LONG).get_owned().map(drop);
        assert!(matches!(refused, Err(GetError::Cancelled)));
        pool.warm_up(1).unwrap(); // Not even what is idle.
    }
    let stats = await_rest(&pool, &server);
    assert_eq!((stats.waited_total, stats.lent_total, stats.dials_total), (0, 0, 1));
    assert_knows_nobody(&cancel);
}

#[test]
fn a_caller_who_was_cancelled_before_it_asked_is_told_and_counted() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&told);
    let (pool, server) = pool(|b| {
        b.observer(move |event: &Event<'_, Refused>| {
            if let Event::TurnedAway { error, waited, .. } = event {
                notes.lock().unwrap().push((error.to_string(), *waited));
            }
        })
    });
    drop(pool.get().unwrap());
    let cancel = Cancel::new();
    cancel.cancel();
    assert!(matches!(
        pool.checkout().cancel(&cancel).timeout(LONG).get(),
        Err(GetError::Cancelled)
    ));
    assert!(matches!(
        pool.checkout().cancel(&cancel).timeout(LONG).get_owned(),
        Err(GetError::Cancelled)
    ));
    let cancelled = ("the wait was cancelled".to_owned(), Duration::ZERO);
    assert_eq!(*told.lock().unwrap(), [cancelled.clone(), cancelled]);
    let stats = await_rest(&pool, &server);
    assert_eq!((stats.cancelled_total, stats.lent_total, stats.dials_total), (2, 1, 1));
}

#[test]
fn one_token_serves_many_callers_in_several_pools() {
    let pools = [pool(|b| b.max_open(1)), pool(|b| b.max_open(1))];
    let held = pools.each_ref().map(|(pool, _)| pool.get().unwrap());
    let cancel = Cancel::new();
    thread::scope(|scope| {
        let callers: Vec<_> = (0..6)
            .map(|n| {
                let (pool, cancel) = (&pools[n % 2].0, cancel.clone());
                scope.spawn(move || pool.checkout().cancel(&cancel).timeout(LONG).get().map(drop))
            })
            .collect();
        let other = scope
            .spawn(|| pools[0].0.checkout().cancel(&Cancel::new()).timeout(LONG).get().map(drop));
        await_waiting(&pools[0].0, 4);
        await_waiting(&pools[1].0, 3);
        cancel.cancel();
        for caller in callers {
            assert!(matches!(caller.join().unwrap(), Err(GetError::Cancelled)));
        }
        await_waiting(&pools[0].0, 1);
        drop(held);
        assert!(other.join().unwrap().is_ok(), "another token is another matter");
    });
    for (pool, server) in &pools {
        await_rest(pool, server);
    }
    assert_knows_nobody(&cancel);
}

#[test]
fn a_token_keeps_nothing_of_the_calls_that_it_has_served() {
    let (pool, server) = pool(|b| b.max_open(1).max_waiting(1));
    let cancel = Cancel::new();
    for round in 0..10_000 {
        let lent = pool.checkout().cancel(&cancel).timeout(LONG).get().unwrap();
        if round % 2 == 0 {
            let late =
                pool.checkout().cancel(&cancel).timeout(Duration::from_nanos(1)).get().map(drop);
            assert!(matches!(late, Err(GetError::Exhausted { .. })));
        }
        if round % 100 == 0 {
            PooledConnection::discard(lent);
        }
    }
    assert_knows_nobody(&cancel);
    drop(pool);
    assert_eq!(server.alive(), 0);
    await_that("nor does it keep the pool", || Arc::strong_count(&server) == 1);
    cancel.cancel();
}

/// CAN-07: what the caller's need has begun goes on, and serves whoever comes next.
#[test]
fn the_dial_of_a_cancelled_caller_serves_the_next() {
    let (pool, server) = pool(|b| b.max_open(1));
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Succeed)]);
    let cancel = Cancel::new();
    thread::scope(|scope| {
        let cancelled =
            scope.spawn(|| pool.checkout().cancel(&cancel).timeout(LONG).get().map(drop));
        gate.await_arrivals(1);
        cancel.cancel();
        assert!(matches!(cancelled.join().unwrap(), Err(GetError::Cancelled)));
        let next = scope.spawn(|| pool.get().unwrap().id);
        await_waiting(&pool, 1);
        gate.open();
        assert_eq!(next.join().unwrap(), 1);
    });
    assert_eq!(await_rest(&pool, &server).dials_total, 1);
}

#[test]
fn who_waits_in_a_suspended_pool_can_be_cancelled() {
    let (pool, server) = pool(|b| b.max_open(1));
    let cancel = Cancel::new();
    pool.suspend();
    thread::scope(|scope| {
        let cancelled =
            scope.spawn(|| pool.checkout().cancel(&cancel).timeout(LONG).get().map(drop));
        await_waiting(&pool, 1);
        cancel.cancel();
        assert!(matches!(cancelled.join().unwrap(), Err(GetError::Cancelled)));
    });
    assert_eq!(await_rest(&pool, &server).dials_total, 0);
}

/// NO-LOST-CONNECTION.
#[test]
fn a_connection_granted_as_the_wait_is_cancelled_is_lent_or_goes_on() {
    let (pool, server) = pool(|b| b.max_open(1));
    let mut lent = 0;
    for _ in 0..500 {
        let held = pool.get().unwrap();
        let cancel = Cancel::new();
        let start = Barrier::new(2);
        thread::scope(|scope| {
            let racer =
                scope.spawn(|| pool.checkout().cancel(&cancel).timeout(LONG).get().map(drop));
            let patient = scope.spawn(|| {
                await_waiting(&pool, 1);
                drop(pool.get().unwrap());
            });
            await_waiting(&pool, 2);
            scope.spawn(|| {
                start.wait();
                cancel.cancel();
            });
            start.wait();
            drop(held);
            match racer.join().unwrap() {
                Ok(()) => lent += 1,
                Err(error) => assert!(matches!(error, GetError::Cancelled), "{error}"),
            }
            patient.join().unwrap();
        });
    }
    let stats = await_rest(&pool, &server);
    assert_eq!((stats.dials_total, stats.cancelled_total), (1, 500 - lent));
}

/// NO-USER-CODE-UNDER-LOCK: a dialer may cancel those who wait for it.
#[test]
fn a_token_may_be_cancelled_from_a_call_of_the_pools_own() {
    finishes(|| {
        let (pool, server) = pool(|b| b.max_open(1));
        drop(pool.get().unwrap());
        let held = pool.get().unwrap();
        let cancel = Cancel::new();
        let token = cancel.clone();
        pool.retire_where(move |_| {
            token.cancel();
            false
        });
        thread::scope(|scope| {
            let waiter =
                scope.spawn(|| pool.checkout().cancel(&cancel).timeout(LONG).get().map(drop));
            await_waiting(&pool, 1);
            drop(held);
            // One that is in the queue and has yet to look at its token may be served.
            let ended = waiter.join().unwrap();
            assert!(matches!(ended, Ok(()) | Err(GetError::Cancelled)), "{ended:?}");
        });
        await_rest(&pool, &server);
    });
}

/// A predicate is no check: the time that it takes retires nothing.
#[test]
fn a_predicate_that_takes_its_time_retires_only_what_it_names() {
    let (pool, server) = pool(|b| b.check_timeout(SHORT));
    pool.warm_up(3).unwrap();
    pool.retire_where(|_| {
        let begun = Instant::now();
        await_that("twice the limit of a check has passed", || begun.elapsed() > 2 * SHORT);
        false
    });
    assert_eq!((await_rest(&pool, &server).retired_total, server.alive()), (0, 3));
}

/// A bound that another has made smaller is read as it is in force, and so may be set again.
#[test]
fn the_settings_of_a_pool_that_was_made_smaller_fit_another() {
    let (first, _server) = pool(|b| b.max_open(10).max_idle(8).max_dialing(6).min_idle(5));
    first.resize(4).unwrap();
    let settings = first.settings();
    assert_eq!((settings.max_idle, settings.max_dialing, settings.min_idle), (Some(4), Some(4), 4));
    let (second, _server) = pool(|b| b.settings(settings));
    assert_eq!(second.settings(), settings);
    first.reconfigure().settings(settings).apply().unwrap();
}
