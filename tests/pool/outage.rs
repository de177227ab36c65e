//! Outages with real threads: what callers are told while dials fail, who tries again, and how often.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::common;
use crate::common::{
    Act, Gate, LONG, SHORT, Scripted, Server, await_rest, await_that, await_waiting, failed_dial,
    finishes_within, pool,
};
use latebind::{Backoff, Breaker, Event, GetError, OnDialFailure, Pool, PooledConnection};

/// A pause that no test waits for.
const NEVER: Duration = Duration::from_secs(3600);

fn retry() -> OnDialFailure {
    OnDialFailure::Retry(Backoff::new(Duration::from_millis(1), Duration::from_millis(4)))
}

fn is_unreachable(error: &GetError<common::Refused>) -> bool {
    matches!(error, GetError::Unreachable { .. })
}

// ---- Fail ---------------------------------------------------------------------------------------

/// REASON.
#[test]
fn with_fail_a_caller_whose_dial_has_failed_is_told_although_something_is_in_use() {
    let (pool, server) = pool(|b| b.max_open(3).on_dial_failure(OnDialFailure::Fail));
    let held = pool.get().unwrap();
    server.refuses.store(true, SeqCst);
    let start = Instant::now();
    let error = pool.get_timeout(LONG).unwrap_err();
    assert!(is_unreachable(&error) && failed_dial(&error) == Some(2), "{error:?}");
    assert!(start.elapsed() < LONG / 4);
    drop(held);
    assert_eq!(pool.get().unwrap().id, 1, "what is there is lent");
    await_rest(&pool, &server);
}

/// CAN-12: its own failure, and nobody else's.
#[test]
fn with_fail_a_bystander_waits_on_for_a_return() {
    let (pool, server) = pool(|b| b.max_open(2).on_dial_failure(OnDialFailure::Fail));
    let held = pool.get().unwrap();
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Fail)]);
    thread::scope(|scope| {
        let sponsor = scope.spawn(|| pool.get_timeout(LONG).map(drop));
        gate.await_arrivals(1);
        // No slot is left for a dial of its own.
        let bystander = scope.spawn(|| pool.get_timeout(LONG).map(drop));
        await_waiting(&pool, 2);
        let after = Gate::new();
        server.on_dial([after.then(Act::Succeed)]);
        gate.open();
        assert_eq!(failed_dial(&sponsor.join().unwrap().unwrap_err()), Some(2));
        assert_eq!(pool.stats().waiting, 1);
        drop(held);
        bystander.join().unwrap().unwrap();
        after.open();
    });
    await_rest(&pool, &server);
}

// ---- Retry --------------------------------------------------------------------------------------

#[test]
fn with_retry_a_caller_rides_out_as_many_refusals_as_there_are() {
    for in_use in [false, true] {
        let (pool, server) = pool(|b| b.max_open(3).on_dial_failure(retry()));
        let held = in_use.then(|| pool.get().unwrap());
        server.on_dial((0..12).map(|n| if n % 4 == 3 { Act::Panic } else { Act::Fail }));
        let guard = pool.get_timeout(LONG).unwrap();
        assert_eq!(guard.id, 13 + u32::from(in_use), "the first that succeeds");
        drop((held, guard));
        assert_eq!(await_rest(&pool, &server).dial_failed_total, 12);
    }
}

/// One dial at a time tries again for all, and when one succeeds all of them are served.
#[test]
fn with_retry_one_dial_at_a_time_tries_and_then_all_are_served() {
    const CALLERS: u32 = 20;
    let (pool, server) = pool(|b| b.max_open(CALLERS).on_dial_failure(retry()));
    server.refuses.store(true, SeqCst);
    let leave = Gate::new();
    thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                let guard = pool.get_timeout(LONG);
                leave.pass();
                drop(guard.unwrap());
            });
        }
        await_waiting(&pool, CALLERS);
        await_that("the first dial of each has failed", || {
            let stats = pool.stats();
            stats.dial_failed_total >= u64::from(CALLERS) && stats.dialing <= 1
        });
        server.most_open.store(0, SeqCst);
        let before = server.dials();
        await_that("they try again", || server.dials() >= before + 10);
        assert!(server.most_open.load(SeqCst) <= 1, "one at a time");
        server.refuses.store(false, SeqCst);
        leave.await_arrivals(CALLERS);
        assert_eq!(server.alive(), CALLERS);
        leave.open();
    });
    await_rest(&pool, &server);
}

/// NO-DEMAND-NO-DIAL, REASON: at the deadline it ends, and the caller is told why.
#[test]
fn with_retry_nobody_dials_for_callers_who_have_left() {
    let (pool, server) = pool(|b| b.max_open(3).on_dial_failure(retry()));
    server.refuses.store(true, SeqCst);
    let error = pool.get_timeout(Duration::from_millis(60)).unwrap_err();
    assert!(is_unreachable(&error) && failed_dial(&error).is_some(), "{error:?}");
    assert!(server.dials() >= 3, "{} dials", server.dials());
    await_that("the last has ended", || pool.stats().dialing == 0);
    let dials = server.dials();
    let since = Instant::now();
    await_that("many pauses have gone by", || since.elapsed() > Duration::from_millis(60));
    assert_eq!((pool.stats().dialing, server.dials()), (0, dials));
    server.refuses.store(false, SeqCst);
    drop(pool.get().unwrap());
    await_rest(&pool, &server);
}

#[test]
fn with_retry_a_new_caller_does_not_wait_for_the_pause() {
    let (pool, server) =
        pool(|b| b.max_open(3).on_dial_failure(OnDialFailure::Retry(Backoff::new(NEVER, NEVER))));
    server.on_dial([Act::Fail]);
    thread::scope(|scope| {
        let first = scope.spawn(|| drop(pool.get_timeout(LONG).unwrap()));
        await_that("its dial has failed", || pool.stats().dial_failed_total == 1);
        drop(pool.get_timeout(LONG).unwrap());
        first.join().unwrap();
    });
    await_rest(&pool, &server);
}

#[test]
fn with_retry_a_pool_can_be_closed_and_suspended_in_the_pause() {
    let (pool, server) =
        pool(|b| b.max_open(3).on_dial_failure(OnDialFailure::Retry(Backoff::new(SHORT, SHORT))));
    server.refuses.store(true, SeqCst);
    thread::scope(|scope| {
        let caller = scope.spawn(|| pool.get_timeout(LONG).map(drop));
        await_that("it has tried twice", || server.dials() >= 2);
        pool.suspend();
        await_that("no dial is under way", || pool.stats().dialing == 0);
        let (dials, since) = (server.dials(), Instant::now());
        await_that("pauses have gone by", || since.elapsed() > 4 * SHORT);
        assert_eq!(server.dials(), dials, "not while it is suspended");
        pool.resume();
        await_that("then it tries again", || server.dials() > dials);
        pool.close();
        assert!(matches!(caller.join().unwrap(), Err(GetError::Closed)));
    });
    await_rest(&pool, &server);
}

// ---- Breaker ------------------------------------------------------------------------------------

/// A pool whose breaker has opened after three failures.
fn broken_off(probe_every: Duration) -> (Pool<Scripted>, Arc<Server>) {
    let (pool, server) = pool(|b| b.max_open(20).breaker(Breaker::new(3, probe_every)));
    server.refuses.store(true, SeqCst);
    for n in 1..=3 {
        assert_eq!(failed_dial(&pool.get().unwrap_err()), Some(n));
    }
    (pool, server)
}

/// REASON.
#[test]
fn an_open_breaker_refuses_everyone_at_once_and_says_why() {
    let (pool, server) = broken_off(NEVER);
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                let error = pool.get_timeout(LONG).unwrap_err();
                assert!(is_unreachable(&error) && failed_dial(&error) == Some(3), "{error:?}");
            });
        }
    });
    let error = pool.warm_up(4).unwrap_err();
    assert!(is_unreachable(&error) && failed_dial(&error) == Some(3), "{error:?}");
    assert!(start.elapsed() < LONG / 4);
    assert_eq!(server.dials(), 3, "nothing is dialed for them");
    assert_eq!(await_rest(&pool, &server).open(), 0);
}

/// The events of its turns, and the numbers meanwhile.
#[test]
fn a_breaker_that_opens_and_closes_is_told_of_and_counted() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&told);
    let (pool, server) = pool(|b| {
        b.breaker(Breaker::new(2, Duration::from_millis(2))).observer(move |event| match event {
            Event::BreakerOpened { failures, .. } => notes.lock().unwrap().push(Ok(*failures)),
            Event::BreakerClosed { open_for, .. } => notes.lock().unwrap().push(Err(*open_for)),
            _ => {}
        })
    });
    let await_told = |turns: usize| {
        await_that("its turn is told of", || told.lock().unwrap().len() >= turns);
        assert_eq!(told.lock().unwrap().len(), turns);
    };
    let numbers = || {
        let stats = pool.stats();
        (stats.failing_dials, stats.breaker_open_for.is_some(), stats.breaker_opened_total)
    };
    server.refuses.store(true, SeqCst);
    pool.get().unwrap_err();
    assert_eq!((numbers(), told.lock().unwrap().len()), ((1, false, 0), 0));
    let start = Instant::now();
    pool.get().unwrap_err();
    assert_eq!(numbers(), (2, true, 1));
    await_told(1);
    assert_eq!(told.lock().unwrap()[0], Ok(2));
    await_that("a third dial has failed", || {
        pool.get().unwrap_err();
        pool.stats().failing_dials == 3
    });
    let open_for = pool.stats().breaker_open_for.unwrap();
    assert!(open_for >= Duration::from_millis(2) && open_for <= start.elapsed(), "{open_for:?}");
    assert_eq!(pool.recent_stats().breaker_opened_total, 1, "it has been open all the time");

    server.refuses.store(false, SeqCst);
    await_that("the server is back", || pool.get().is_ok());
    assert_eq!(numbers(), (0, false, 1));
    await_told(2);
    assert!(told.lock().unwrap()[1].is_err_and(|closed_after| closed_after >= open_for));

    pool.flush();
    server.refuses.store(true, SeqCst);
    assert!(pool.get().is_err() && pool.get().is_err());
    await_told(3);
    pool.reconfigure().breaker(None).apply().unwrap();
    await_told(4);
    assert_eq!(numbers(), (2, false, 2), "the settings close it, and the dials fail on");
    pool.close();
    assert_eq!(numbers(), (0, false, 2), "a closed pool refuses for another reason");
}

/// The first success closes it.
#[test]
fn an_open_breaker_lets_one_dial_try_and_closes_when_one_succeeds() {
    let (pool, server) = broken_off(Duration::from_millis(2));
    server.most_open.store(0, SeqCst);
    let (refused, served) = (AtomicU32::new(0), Mutex::new(0));
    thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                let mut refusals = 0_u32;
                let guard = loop {
                    match pool.get_timeout(LONG) {
                        Ok(guard) => break guard,
                        Err(error) => assert!(is_unreachable(&error), "{error:?}"),
                    }
                    refusals += 1;
                    refused.fetch_add(u32::from(refusals == 1), SeqCst);
                    thread::yield_now();
                };
                *served.lock().unwrap() += 1;
                // Until all have one.
                await_that("all are served", || *served.lock().unwrap() == 10);
                drop(guard);
            });
        }
        await_that("some have tried, and all were refused", || {
            server.dials() >= 8 && refused.load(SeqCst) == 10
        });
        let most = server.most_open.load(SeqCst);
        server.refuses.store(false, SeqCst);
        assert_eq!(most, 1, "one at a time");
    });
    await_rest(&pool, &server);
}

/// A probe that hangs is waited for by whoever it was begun for, and by nobody else.
#[test]
fn while_the_probe_hangs_the_others_are_refused_at_once() {
    let (pool, server) = broken_off(Duration::from_millis(1));
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Succeed)]);
    thread::scope(|scope| {
        // The pause may not be over for the first.
        let probe = scope.spawn(|| {
            loop {
                if let Ok(guard) = pool.get_timeout(LONG) {
                    break guard.id;
                }
            }
        });
        gate.await_arrivals(1);
        let dials = server.dials();
        for _ in 0..10 {
            assert!(is_unreachable(&pool.get_timeout(LONG).unwrap_err()));
        }
        assert_eq!(server.dials(), dials);
        server.refuses.store(false, SeqCst);
        gate.open();
        assert_eq!(probe.join().unwrap(), dials);
    });
    let held = [(); 5].map(|()| pool.get_timeout(LONG).unwrap());
    drop(held);
    await_rest(&pool, &server);
}

/// NO-DEMAND-NO-DIAL: a breaker does not probe for nobody.
#[test]
fn an_open_breaker_with_nobody_waiting_dials_nothing() {
    let (pool, server) = broken_off(Duration::from_millis(1));
    let since = Instant::now();
    await_that("many probes could have been", || since.elapsed() > Duration::from_millis(50));
    assert_eq!((pool.stats().open(), server.dials()), (0, 3));
}

/// CAN-13: whom a return can serve is not refused while something is in use.
#[test]
fn an_open_breaker_refuses_nobody_whom_a_return_can_serve() {
    let (pool, server) = pool(|b| b.max_open(4).breaker(Breaker::new(1, NEVER)));
    let held = pool.get().unwrap();
    server.refuses.store(true, SeqCst);
    await_that("a dial has failed", || {
        assert!(pool.get_timeout(SHORT).is_err());
        server.dials() == 2 && pool.stats().dialing == 0
    });
    thread::scope(|scope| {
        let callers = [0, 1, 2].map(|_| scope.spawn(|| pool.get_timeout(LONG).map(|g| g.id)));
        await_waiting(&pool, 3);
        drop(held);
        for caller in callers {
            assert_eq!(caller.join().unwrap().unwrap(), 1);
        }
    });
    assert_eq!(server.dials(), 2);
    // When what was in use is lost, nothing is left to wait for.
    let held = pool.get().unwrap();
    thread::scope(|scope| {
        let caller = scope.spawn(|| pool.get_timeout(LONG).map(drop));
        await_waiting(&pool, 1);
        PooledConnection::discard(held);
        let error = caller.join().unwrap().unwrap_err();
        assert!(is_unreachable(&error) && failed_dial(&error) == Some(2), "{error:?}");
    });
    await_rest(&pool, &server);
}

/// With both, callers dial again until the breaker opens, and are told at once then.
#[test]
fn an_open_breaker_ends_all_retries() {
    let (pool, server) =
        pool(|b| b.max_open(4).on_dial_failure(retry()).breaker(Breaker::new(5, NEVER)));
    server.refuses.store(true, SeqCst);
    let start = Instant::now();
    assert_eq!(failed_dial(&pool.get_timeout(LONG).unwrap_err()), Some(5));
    assert!(start.elapsed() < LONG / 4);
    assert_eq!(await_rest(&pool, &server).open(), 0);
}

/// A breaker holds back `min_idle` too, and what it lacks is there when the server is back.
#[test]
fn min_idle_probes_through_a_breaker_one_at_a_time() {
    let failures = Arc::new(Mutex::new(0_u32));
    let noted = Arc::clone(&failures);
    let (pool, server) = pool(|b| {
        b.max_open(6).breaker(Breaker::new(2, Duration::from_millis(20))).observer(
            move |event: &Event<'_, _>| {
                if let Event::DialFailed { .. } = event {
                    *noted.lock().unwrap() += 1;
                }
            },
        )
    });
    server.refuses.store(true, SeqCst);
    for _ in 0..2 {
        assert!(pool.get().is_err());
    }
    server.most_open.store(0, SeqCst);
    pool.reconfigure().min_idle(4).apply().unwrap();
    await_that("it has tried by itself", || *failures.lock().unwrap() >= 4);
    assert_eq!(server.most_open.load(SeqCst), 1);
    server.refuses.store(false, SeqCst);
    await_that("it is filled although nobody calls", || server.alive() == 4);
    await_rest(&pool, &server);
}

// ---- As it comes --------------------------------------------------------------------------------

/// A pool with no setting but its size.
fn as_it_comes() -> (Pool<Scripted>, Arc<Server>) {
    let (dialer, server) = Scripted::new();
    (Pool::builder(dialer).max_open(20).build().unwrap(), server)
}

#[test]
fn as_it_comes_a_pool_dials_a_server_that_is_away_eleven_times_a_second_whatever_callers_do() {
    const CALLERS: u32 = 8;
    let (pool, server) = as_it_comes();
    server.refuses.store(true, SeqCst);
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                while start.elapsed() < Duration::from_millis(1500) {
                    let asked = Instant::now();
                    let error = pool.get_timeout(LONG).unwrap_err();
                    assert!(failed_dial(&error).is_some(), "told why: {error}");
                    assert!(asked.elapsed() < LONG / 4, "told at once");
                }
            });
        }
    });
    // A dial of each before the first has failed, two more until the breaker opens, and the probes.
    let probes = start.elapsed().as_millis() / 90 + 1;
    let most = u128::from(CALLERS) + 2 + probes;
    assert!(u128::from(server.dials()) <= most, "{} dials, {most} at most", server.dials());
    server.refuses.store(false, SeqCst);
    await_that("somebody is served", || pool.get_timeout(LONG).is_ok());
    await_rest(&pool, &server);
}

#[test]
fn as_it_comes_one_dial_that_fails_by_chance_refuses_nobody_but_its_caller() {
    const CALLERS: u32 = 20;
    // In a scope, threads that are not served would never let the test fail.
    finishes_within(4 * LONG, || {
        for round in 0..40 {
            let (pool, server) = as_it_comes();
            server.on_dial((0..round % CALLERS).map(|_| Act::Succeed).chain([Act::Fail]));
            let (together, leave) = (Barrier::new(CALLERS as usize), Gate::new());
            let (served, refused) = (AtomicU32::new(0), AtomicU32::new(0));
            thread::scope(|scope| {
                for _ in 0..CALLERS {
                    scope.spawn(|| {
                        together.wait();
                        let guard = pool.get_timeout(LONG);
                        let count = if guard.is_ok() { &served } else { &refused };
                        count.fetch_add(1, SeqCst);
                        leave.pass();
                    });
                }
                // All keep what they get. One may have to wait for a return, as its dial has failed.
                await_that("the others are served", || served.load(SeqCst) >= CALLERS - 1);
                leave.open();
            });
            assert!(refused.load(SeqCst) <= 1, "round {round}");
            await_rest(&pool, &server);
        }
    });
}

/// Callers who would rather wait than be told are not refused.
#[test]
fn with_retry_there_is_no_breaker_unless_it_is_asked_for() {
    let (dialer, server) = Scripted::new();
    let pool = Pool::builder(dialer).on_dial_failure(retry()).build().unwrap();
    server.on_dial((0..12).map(|_| Act::Fail));
    assert_eq!(pool.get_timeout(LONG).unwrap().id, 13);
    pool.reconfigure().on_dial_failure(OnDialFailure::AwaitReturn).apply().unwrap();
    pool.flush();
    server.on_dial((0..3).map(|_| Act::Fail));
    for _ in 0..4 {
        assert!(pool.get_timeout(LONG).is_err());
    }
    assert_eq!(server.dials(), 16, "and is there again without it: the fourth was refused");
}
