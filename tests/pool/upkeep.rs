//! Long life with real threads and short limits: ends, rests, checks and refills, with and without
//! anybody calling.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{
    Act, Connection, Gate, LONG, Scripted, Server, await_rest, await_that, await_waiting, pool,
    pool_that,
};
use latebind::signatures::Changes;
use latebind::{Blocking, Builder, CloseReason, Event, GetError, Pool, PooledConnection};

/// A limit short enough to wait for.
const BRIEF: Duration = Duration::from_millis(60);

const HOUR: Duration = Duration::from_secs(60 * 60);

/// By how much the clock of the fast way may be late.
const TICK: Duration = Duration::from_millis(11);

/// Time is what is tested here, and so has to pass.
fn pass(span: Duration) {
    let since = Instant::now();
    await_that("the time has passed", || since.elapsed() > span);
}

/// Waits until nothing is open, without a call that would have the pool look.
#[track_caller]
fn await_closed_unasked(server: &Server) {
    await_that("it is closed although nobody calls", || server.alive() == 0);
}

/// How old a connection was at most when it was asked for.
fn age_at(asked: Instant, guard: &PooledConnection<'_, Scripted>) -> Duration {
    let age = PooledConnection::age(guard);
    age.saturating_sub(asked.elapsed())
}

// ---- Lifetime and idle time ---------------------------------------------------------------------

type Limit = fn(Changes<'_, Scripted>, Duration) -> Changes<'_, Scripted>;

/// LIFE-01: whichever limit is set, whichever is set last, and whether or not upkeep sleeps already.
#[test]
fn a_shorter_limit_set_while_upkeep_sleeps_is_kept() {
    let limits: [Limit; 2] = [
        |changes, limit| changes.max_lifetime(limit),
        |changes, limit| changes.max_idle_time(limit),
    ];
    for (short, long) in [(0, 1), (1, 0), (0, 0), (1, 1)] {
        for (short_last, at_rest_before) in
            [(true, true), (true, false), (false, true), (false, false)]
        {
            let (pool, server) = pool(|b| b);
            if at_rest_before {
                drop(pool.get().unwrap());
            }
            let set =
                |which: usize, limit| limits[which](pool.reconfigure(), limit).apply().unwrap();
            if short_last || short == long {
                set(long, HOUR);
                set(short, BRIEF);
            } else {
                set(short, BRIEF);
                set(long, HOUR);
            }
            if !at_rest_before {
                drop(pool.get().unwrap());
            }
            await_closed_unasked(&server);
            assert_eq!(server.dials(), 1);
        }
    }
}

/// LIFE-03, LIFE-04: busy on the way that takes no lock, no connection is lent beyond its life.
#[test]
fn a_hot_pool_replaces_its_connections_in_time() {
    let (pool, server) =
        pool(|b| b.max_open(2).max_lifetime(BRIEF).lifetime_jitter(Duration::ZERO));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while server.dials() < 12 {
                    let asked = Instant::now();
                    let guard = pool.get().unwrap();
                    let age = age_at(asked, &guard);
                    assert!(age <= BRIEF + TICK, "lent at the age of {age:?}");
                }
            });
        }
    });
    assert!(pool.stats().reused_total > 100, "{:?}", pool.stats());
    await_rest(&pool, &server);
}

/// LIFE-04: also where each loan is longer than a life.
#[test]
fn a_connection_that_has_expired_while_lent_ends_at_its_return() {
    let (pool, server) = pool(|b| b.max_open(1).max_lifetime(BRIEF));
    for id in 1..=3 {
        let held = pool.get().unwrap();
        assert_eq!(held.id, id);
        pass(BRIEF);
        assert_eq!(server.alive(), 1, "not while it is lent");
        drop(held);
        assert_eq!(server.alive(), 0, "at once");
    }
    let stats = await_rest(&pool, &server);
    assert_eq!((stats.retired_by[CloseReason::Expired], stats.retired_total), (3, 3));
}

/// LIFE-05.
#[test]
fn an_expired_connection_is_not_handed_to_whoever_waits_for_it() {
    let (pool, server) = pool(|b| b.max_open(1).max_lifetime(BRIEF));
    let held = pool.get().unwrap();
    thread::scope(|scope| {
        let caller = scope.spawn(|| pool.get_timeout(LONG).unwrap().id);
        await_waiting(&pool, 1);
        pass(BRIEF);
        drop(held);
        assert_eq!(caller.join().unwrap(), 2);
    });
    assert_eq!(server.most_open.load(SeqCst), 1, "BOUND");
    await_rest(&pool, &server);
}

/// Upkeep comes for each step.
#[test]
fn a_burst_is_closed_by_steps_although_nobody_calls() {
    let step = Duration::from_millis(200);
    let (pool, server) = pool(|b| b.max_open(5).max_idle_time(step).prune_every(HOUR));
    let burst = [(); 5].map(|()| pool.get().unwrap());
    let before = Instant::now();
    drop(burst);
    await_closed_unasked(&server);
    assert!(
        before.elapsed() >= 5 * step - TICK,
        "no step is longer than the idle time, nor shorter"
    );
    let stats = pool.stats();
    assert_eq!((stats.retired_by[CloseReason::IdleTooLong], stats.retired_total), (5, 5));
}

/// LIFE-06: at the way that takes no lock, and after a check that proved it alive meanwhile.
#[test]
fn what_has_rested_too_long_is_not_lent() {
    let ways = [
        (Duration::MAX, HOUR, true),
        (Duration::from_millis(100), HOUR, true),
        // The caller who takes it checks it, which shows that it has rested for some time.
        (Duration::MAX, Duration::ZERO, false),
    ];
    let rest = Duration::from_millis(150);
    let lends_none = |(check_every, check_after, blocks)| {
        let limits = |b: Builder<Scripted>| b.max_open(1).max_idle_time(rest);
        let set = |b| limits(b).check_idle_every(check_every).check_after(check_after);
        let (pool, server) = pool_that(|blocking: Blocking| blocking.check(blocks), set);
        for round in 0..4 {
            drop(pool.get().unwrap());
            let (rested, opened) = (Instant::now(), server.dials());
            // Now before upkeep has come, now after.
            pass(rest + TICK + Duration::from_millis(round * 20));
            let guard = pool.get().unwrap();
            assert!(guard.id > opened, "lent after {:?}", rested.elapsed());
            PooledConnection::discard(guard);
        }
        assert_eq!(await_rest(&pool, &server).retired_by[CloseReason::IdleTooLong], 4);
    };
    thread::scope(|scope| {
        for way in ways {
            scope.spawn(move || lends_none(way));
        }
    });
}

/// LIFE-07.
#[test]
fn connections_opened_together_do_not_end_together() {
    let ends = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&ends);
    let (pool, server) = pool(|b| {
        b.max_open(50)
            .max_lifetime(Duration::from_millis(600))
            .lifetime_jitter(Duration::from_millis(500))
            .observer(move |event: &Event<'_, _>| {
                if let Event::Closed { reason: CloseReason::Expired, age, .. } = event {
                    noted.lock().unwrap().push(*age);
                }
            })
    });
    pool.warm_up(50).unwrap();
    await_closed_unasked(&server);
    // On a slow machine the first may end before the last is dialed, and be dialed again.
    await_that("all are told of", || ends.lock().unwrap().len() >= 50);
    let ends = ends.lock().unwrap();
    let [first, last] = [ends.iter().min(), ends.iter().max()].map(Option::unwrap);
    assert!(*first >= Duration::from_millis(100), "{ends:?}");
    assert!(*last - *first >= Duration::from_millis(200), "{ends:?}");
}

/// LIFE-10, LIFE-12, I1 to I3: upkeep in the middle of checkouts and returns, at the very moment when
/// limits are reached.
#[test]
fn whenever_upkeep_falls_every_connection_has_one_holder_and_one_end() {
    let (pool, server) = pool_that(
        |b| b.close(true),
        |b| {
            b.max_open(6)
                .min_idle(3)
                .max_lifetime(Duration::from_millis(150))
                .max_idle_time(Duration::from_millis(5))
                .check_idle_every(Duration::from_millis(1))
                .check_after(Duration::from_millis(50))
        },
    );
    let (soonest, latest) = (Instant::now() + Duration::from_millis(1500), Instant::now() + LONG);
    let goes_on = || {
        let upkeep_was_at_it = server.checks.load(SeqCst) >= 5 && server.closed.load(SeqCst) >= 12;
        Instant::now() < if upkeep_was_at_it { soonest } else { latest }
    };
    thread::scope(|scope| {
        for seed in 1..=3_u64 {
            let (pool, server, goes_on) = (&pool, &server, &goes_on);
            scope.spawn(move || {
                let mut state = seed;
                while goes_on() {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(seed);
                    let guard = pool.get_timeout(LONG).unwrap();
                    assert!(!guard.in_use.swap(true, SeqCst), "two holders");
                    assert!(guard.in_use.swap(false, SeqCst));
                    drop(guard);
                    match state >> 60 {
                        0 => pass(Duration::from_millis(2)),
                        1 if server.check_script.lock().unwrap().is_empty() => {
                            server.on_check([Act::Succeed, Act::Fail]);
                        }
                        2 => thread::yield_now(),
                        _ => {}
                    }
                }
            });
        }
    });
    pool.reconfigure()
        .max_lifetime(HOUR)
        .check_idle_every(Duration::MAX)
        .min_idle(0)
        .apply()
        .unwrap();
    await_that("all but what is idle is closed", || {
        let stats = pool.stats();
        stats.closing + stats.dialing + stats.in_use == 0 && stats.idle == server.alive()
    });
    assert!(server.most_open.load(SeqCst) <= 6, "BOUND");
    assert!(server.checks.load(SeqCst) >= 5, "upkeep was at it");
    pool.close();
    await_closed_unasked(&server);
}

/// LIFE-10: many rounds at the moment when the only connection idles out.
#[test]
fn a_checkout_at_the_moment_of_the_end_gets_either_the_old_one_or_a_new_one() {
    let rest = Duration::from_millis(1);
    let (pool, server) = pool(|b| b.max_open(1).max_idle_time(rest));
    for round in 0..1_000 {
        drop(pool.get_timeout(LONG).unwrap());
        pass(rest * (round % 3) / 2);
    }
    await_closed_unasked(&server);
    let stats = await_rest(&pool, &server);
    assert_eq!(stats.retired_total, stats.dialed_total);
}

/// LIFE-11.
#[test]
fn upkeep_touches_nothing_that_is_lent() {
    let (pool, server) = pool(|b| b.max_open(2).max_lifetime(BRIEF).max_idle_time(BRIEF));
    let held = pool.get().unwrap();
    drop(pool.get().unwrap());
    await_that("the idle one is closed", || server.alive() == 1);
    pass(2 * BRIEF);
    assert_eq!((server.alive(), held.id), (1, 1));
    pool.reconfigure().max_lifetime(HOUR).apply().unwrap();
    let in_use = Instant::now();
    drop(held);
    let lent = pool.get().unwrap().id;
    assert!(lent == 1 || in_use.elapsed() > BRIEF, "it has not rested");
    await_closed_unasked(&server);
}

/// It comes back without the lock, after an upkeep that could not see it.
#[test]
fn what_comes_back_shortly_before_its_end_is_closed_in_time() {
    let life = Duration::from_secs(3);
    let (pool, server) = pool(|b| b.max_lifetime(life).lifetime_jitter(Duration::ZERO));
    let older = pool.get().unwrap();
    pass(life / 2);
    let asked = Instant::now();
    let younger = pool.get().unwrap();
    drop(older);
    await_that("upkeep has closed the older", || server.alive() == 1);
    pass(life / 10);
    drop(younger);
    await_closed_unasked(&server);
    let age = asked.elapsed();
    assert!(age >= life && age < life * 4 / 3, "{age:?}: the next upkeep would have come at 4.5 s");
}

/// A lowered `max_lifetime` reaches what rests, what is lent, and what is lent without the lock.
#[test]
fn a_changed_lifetime_reaches_what_is_open() {
    let (pool, server) = pool(|b| b.max_open(3).max_lifetime(Duration::MAX));
    pool.warm_up(3).unwrap();
    // By now each has been dated.
    drop([pool.get().unwrap(), pool.get().unwrap(), pool.get().unwrap()]);
    let held = pool.get().unwrap();
    pass(BRIEF);
    pool.reconfigure().max_lifetime(BRIEF).apply().unwrap();
    assert_eq!(server.alive(), 1, "those at rest are too old at once");
    drop(held);
    assert_eq!(server.alive(), 0, "and so is the one in use");

    let held = pool.get().unwrap();
    pool.reconfigure().max_lifetime(HOUR).apply().unwrap();
    let (id, _) = (held.id, drop(held));
    pass(BRIEF + TICK);
    assert_eq!(pool.get().unwrap().id, id, "a longer one too");
    await_rest(&pool, &server);
}

/// LIFE-01, LIFE-04: what was lent without end and goes on being lent, by the way that takes no lock.
#[test]
fn a_changed_lifetime_reaches_what_is_lent_again_and_again() {
    let (pool, server) = pool(|b| b.max_open(1).max_lifetime(Duration::MAX));
    drop(pool.get().unwrap());
    drop(pool.get().unwrap());
    pool.reconfigure().max_lifetime(2 * BRIEF).apply().unwrap();
    while server.dials() < 3 {
        let asked = Instant::now();
        let guard = pool.get().unwrap();
        let age = age_at(asked, &guard);
        assert!(age <= 2 * BRIEF + TICK, "lent at the age of {age:?}");
    }
    await_rest(&pool, &server);
}

// ---- min_idle -----------------------------------------------------------------------------------

#[test]
fn min_idle_is_there_from_the_start_and_made_good_although_nobody_calls() {
    let (pool, server) = pool(|b| b.max_open(6).min_idle(3));
    await_that("it is dialed for", || server.alive() == 3);
    let held = [pool.get().unwrap(), pool.get().unwrap()];
    await_that("what is lent is made good", || server.alive() == 5);
    held.into_iter().for_each(PooledConnection::discard);
    await_that("and what is lost", || pool.stats().idle >= 3);
    assert_eq!(await_rest(&pool, &server).idle, 3);
    pass(BRIEF);
    assert_eq!((server.alive(), server.dials()), (3, 5), "NO-DEMAND-NO-DIAL");
}

/// A connection that expires is replaced before that, so that as many rest all the time.
#[test]
fn min_idle_outlives_every_connection() {
    // A replacement begins a quarter of that before: as late as upkeep may come on a busy machine.
    let lifetime = Duration::from_secs(3);
    let (pool, server) =
        pool(|b| b.max_open(4).min_idle(2).max_lifetime(lifetime).lifetime_jitter(BRIEF));
    drop(pool.get().unwrap());
    await_that("they are there", || pool.stats().idle >= 2);
    await_that("two generations have gone", || {
        let stats = pool.stats();
        assert!(stats.idle >= 2, "{stats}");
        server.closed.load(SeqCst) >= 4
    });
    assert!(server.most_open.load(SeqCst) <= 4);
}

/// HEAL-04, NO-DEMAND-NO-DIAL.
#[test]
fn min_idle_survives_an_outage_without_a_storm_of_dials() {
    let (pool, server) = pool(|b| b.max_open(8));
    server.refuses.store(true, SeqCst);
    pool.reconfigure().min_idle(4).apply().unwrap();
    assert!(pool.get().is_err());
    await_that("the first have failed", || pool.stats().dial_failed_total >= 4);
    let before = server.dials();
    pass(Duration::from_millis(300));
    assert!(server.dials() - before <= 6, "{} dials", server.dials() - before);
    server.refuses.store(false, SeqCst);
    await_that("it is made good", || server.alive() == 4);
    assert_eq!(await_rest(&pool, &server).idle, 4);
}

/// LIFE-13.
#[test]
fn every_mix_of_the_limits_on_idle_connections_is_kept() {
    for max_open in [1, 2, u32::MAX] {
        for max_idle in [None, Some(0), Some(1)] {
            for min_idle in [0, 1, 2] {
                let most = max_idle.unwrap_or(max_open);
                if min_idle > most {
                    continue;
                }
                let (pool, server) = pool(|b| {
                    let b = b.max_open(max_open).min_idle(min_idle).max_idle_time(BRIEF);
                    if let Some(max_idle) = max_idle { b.max_idle(max_idle) } else { b }
                });
                thread::scope(|scope| {
                    for _ in 0..4 {
                        scope.spawn(|| drop(pool.get_timeout(LONG).unwrap()));
                    }
                });
                await_that("what is too many is closed", || server.alive() == min_idle);
                await_rest(&pool, &server);
                assert!(server.most_open.load(SeqCst) <= max_open, "BOUND");
            }
        }
    }
}

/// SHUT-10.
#[test]
fn close_ends_a_refill_under_way() {
    let gate = Gate::new();
    let (pool, server) = pool(|b| b.max_open(4));
    server.on_dial((0..4).map(|_| gate.then(Act::Succeed)));
    pool.reconfigure().min_idle(4).apply().unwrap();
    gate.await_arrivals(4);
    pool.close();
    assert!(matches!(pool.get(), Err(GetError::Closed)));
    gate.open();
    assert!(pool.drain(Instant::now() + LONG).is_complete());
    await_closed_unasked(&server);
    assert_eq!((server.dials(), server.closed.load(SeqCst)), (4, 4));
}

/// SHUT-10: wherever in the fill it falls.
#[test]
fn however_close_falls_nothing_of_a_refill_is_left() {
    for round in 0..200 {
        let (pool, server) = pool(|b| b.max_open(4).min_idle(3));
        let start = Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                drop(pool.get());
            });
            start.wait();
            (0..round % 20 * 50).for_each(|_| std::hint::spin_loop());
            pool.close();
        });
        assert!(pool.drain(Instant::now() + LONG).is_complete());
        assert_eq!(server.alive(), 0);
    }
}

// ---- Checks in the background -------------------------------------------------------------------

fn with_checks() -> (Pool<Scripted>, Arc<Server>) {
    pool(|b| b.max_open(3).check_after(HOUR).check_idle_every(BRIEF))
}

#[test]
fn what_rests_is_checked_although_nobody_calls() {
    let (pool, server) = with_checks();
    pool.warm_up(3).unwrap();
    await_that("all are checked, again and again", || server.checks.load(SeqCst) >= 9);
    assert_eq!(await_rest(&pool, &server).idle, 3);
    assert_eq!(server.dials(), 3);
}

/// HEAL-06.
#[test]
fn a_connection_whose_check_fails_is_closed_before_anybody_asks() {
    for act in [Act::Fail, Act::Panic] {
        let (pool, server) = with_checks();
        pool.warm_up(1).unwrap();
        server.on_check([act]);
        await_closed_unasked(&server);
        assert_eq!(pool.get().unwrap().id, 2);
        assert_eq!(pool.stats().check_failed_total, 1);
        await_rest(&pool, &server);
    }
}

/// DEADLINE, LIFE-12: callers take what else there is, or leave at their deadline.
#[test]
fn a_check_that_hangs_in_the_background_holds_up_nobody() {
    let (pool, server) = with_checks();
    let gate = Gate::new();
    server.on_check([gate.then(Act::Succeed)]);
    pool.warm_up(2).unwrap();
    gate.await_arrivals(1);
    // The other one is lent, and one more is dialed for the next caller.
    let held = pool.get_timeout(LONG).unwrap();
    let start = Instant::now();
    let next = pool.get_timeout(Duration::from_millis(200));
    assert!(start.elapsed() < LONG / 2);
    drop((held, next));
    pool.reconfigure().check_timeout(BRIEF).apply().unwrap();
    gate.open();
    await_rest(&pool, &server);
}

/// A check in the background that overruns `check_timeout` is the end of its connection.
#[test]
fn a_check_that_hangs_in_the_background_is_given_up_and_the_others_go_on() {
    let (pool, server) = pool(|b| {
        b.max_open(2).check_after(HOUR).check_idle_every(BRIEF).check_timeout(8 * BRIEF).min_idle(2)
    });
    let gate = Gate::new();
    server.on_check([gate.then(Act::Succeed)]);
    drop(pool.get().unwrap());
    gate.await_arrivals(1);
    await_that("the next is checked", || server.checks.load(SeqCst) >= 3);
    assert_eq!(pool.stats().check_failed_total, 1);
    gate.open();
    await_that("what came back late is closed", || server.closed.load(SeqCst) == 1);
    await_that("and replaced", || pool.stats().idle == 2);
}

// ---- Faults in the background -------------------------------------------------------------------

/// NO-LOST-SLOT: each call of the dialer that upkeep leads to fails, panics or hangs, and the pool
/// goes on with as many connections as before.
#[test]
fn whatever_the_dialer_does_in_the_background_the_pool_goes_on() {
    let may_block = [false, true];
    let faults = ["fails", "panics", "hangs"];
    let cases = ["dial", "check", "close"].into_iter().flat_map(|call| {
        may_block.into_iter().flat_map(move |blocks| faults.map(|fault| (call, blocks, fault)))
    });
    // All at once, as what they do most is wait for the next upkeep.
    thread::scope(|scope| {
        for (call, blocks, fault) in cases {
            // What does not block does not hang either.
            if (call, blocks, fault) != ("check", false, "hangs") {
                scope.spawn(move || goes_on_although(call, blocks, fault));
            }
        }
    });
}

fn goes_on_although(call: &str, may_block: bool, fault: &str) {
    let (pool, server) = pool_that(
        |b| b.check(may_block).close(may_block),
        |b| {
            b.max_open(3)
                .min_idle(2)
                .max_lifetime(3 * BRIEF)
                .check_idle_every(BRIEF)
                .check_timeout(BRIEF)
                .close_timeout(BRIEF)
                .dial_timeout(BRIEF)
        },
    );
    drop(pool.get().unwrap());
    await_that("it is filled", || pool.stats().idle >= 2);
    let gate = Gate::new();
    let act = match fault {
        "fails" => Act::Fail,
        "panics" => Act::Panic,
        _ => gate.then(Act::Succeed),
    };
    match call {
        "dial" => server.on_dial([act]),
        "check" => server.on_check([act]),
        _ => server.on_close([act]),
    }
    let hangs = fault == "hangs";
    if hangs {
        gate.await_arrivals(1);
        // One slot is lost for as long as it hangs, and no more than that.
        drop(pool.get_timeout(LONG).unwrap());
        let closed = server.closed.load(SeqCst);
        await_that(&format!("others end while a {call} hangs ({may_block})"), || {
            drop(pool.get_timeout(LONG).unwrap());
            server.closed.load(SeqCst) >= closed + 2
        });
        gate.open();
    }
    let (dials, closed) = (server.dials(), server.closed.load(SeqCst));
    await_that(&format!("a {call} that {fault} ({may_block}) is over"), || {
        server.dials() >= dials + 3 && server.closed.load(SeqCst) >= closed + 3
    });
    pool.reconfigure()
        .max_lifetime(HOUR)
        .check_idle_every(Duration::MAX)
        .dial_timeout(LONG)
        .apply()
        .unwrap();
    await_that("it is filled again", || pool.stats().idle >= 2);
    if !hangs {
        await_rest(&pool, &server);
    }
    let held = [(); 3].map(|()| pool.get_timeout(LONG).unwrap());
    let ids = held.iter().map(|held| held.id).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(ids.len(), 3, "no slot is lost");
    drop(held);
    pool.close();
    await_closed_unasked(&server);
}

/// LIFE-14 and the like are the ledger's; here is that a detached one is nobody's.
#[test]
fn upkeep_leaves_alone_what_has_been_detached() {
    let (pool, server) = pool(|b| b.max_lifetime(BRIEF));
    let mine = Connection::detach(pool.get().unwrap());
    drop(pool.get().unwrap());
    await_that("the other has expired", || server.closed.load(SeqCst) == 1);
    assert_eq!((mine.id, server.alive()), (1, 1));
}
