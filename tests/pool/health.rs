//! Health with real threads: dead connections at rest, checks that fail or hang, and doubt.

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{
    Act, Connection, Gate, LONG, Refused, SHORT, Scripted, Server, await_rest, await_that,
    await_waiting, finishes, panic_quietly, pool, pool_that, used,
};
use latebind::{
    Builder, CloseReason, GetError, KeyedConnection, KeyedPool, OwnedConnection, Pool,
    PooledConnection,
};

/// A pool with `n` connections at rest that have proved nothing for long.
fn stale(n: u32) -> (Pool<Scripted>, Arc<Server>) {
    let (pool, server) = pool(|b| b.max_open(n).check_after(Duration::ZERO));
    pool.warm_up(n).unwrap();
    (pool, server)
}

/// A pool that makes its checks on the thread that asks for a connection.
fn with_own_checks(
    set: impl FnOnce(Builder<Scripted>) -> Builder<Scripted>,
) -> (Pool<Scripted>, Arc<Server>) {
    pool_that(|blocking| blocking.check(false), set)
}

/// Breaks a connection, as its borrower notices.
fn break_one(mut guard: OwnedConnection<Scripted>) {
    guard.is_broken = true;
    drop(guard);
}

// ---- Dead connections at rest -------------------------------------------------------------------

/// HEAL-01, HEAL-09: however many there are, each is closed before the next is tried.
#[test]
fn as_many_dead_connections_as_can_rest_fail_no_caller() {
    const DEAD: u32 = 30;
    for act in [|| Act::Fail, || Act::Panic] {
        let (pool, server) = stale(DEAD);
        server.on_check((0..DEAD).map(|_| act()));
        let guard = pool.get_timeout(LONG).unwrap();
        assert_eq!((guard.id, server.dials()), (DEAD + 1, DEAD + 1), "one dial");
        // The caller waits for a free slot only: the last may still be on its way out.
        await_that("each is closed", || server.closed.load(SeqCst) == DEAD);
        assert_eq!(server.alive(), 1);
        drop(guard);
        await_rest(&pool, &server);
    }
}

/// HEAL-01, HEAL-06, HEAL-09: found out by a look, with no check at all.
#[test]
fn as_many_broken_connections_as_can_rest_fail_no_caller() {
    const DEAD: u32 = 30;
    for check_after in [Duration::MAX, Duration::ZERO] {
        let (pool, server) = pool(|b| b.max_open(DEAD).check_after(check_after));
        pool.warm_up(DEAD).unwrap();
        server.on_is_broken((0..DEAD).map(|_| Act::Fail));
        let guard = pool.get_timeout(LONG).unwrap();
        assert_eq!((guard.id, server.dials()), (DEAD + 1, DEAD + 1), "one dial");
        // The caller waits for a free slot only: the last may still be on its way out.
        await_that("each is closed", || server.closed.load(SeqCst) == DEAD);
        assert_eq!(server.alive(), 1);
        drop(guard);
        assert_eq!(await_rest(&pool, &server).retired_by[CloseReason::Broken], u64::from(DEAD));
    }
}

/// HEAL-02: the server was restarted. All who come then are served, and no more is dialed than that.
#[test]
fn after_a_restart_of_the_server_everyone_is_served_at_the_first_attempt() {
    const CALLERS: u32 = 40;
    let (pool, server) = stale(CALLERS);
    server.last_dead.store(CALLERS, SeqCst);
    let leave = Gate::new();
    thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                let guard = pool.get_timeout(LONG);
                leave.pass();
                assert!(guard.unwrap().id > CALLERS, "not one from before");
            });
        }
        leave.await_arrivals(CALLERS);
        let (dials, alive) = (server.dials(), server.alive());
        leave.open();
        assert_eq!((dials, alive), (2 * CALLERS, CALLERS), "a dial for each");
    });
    await_rest(&pool, &server);
}

/// HEAL-02: those who can be served one after the other need no dial each.
#[test]
fn after_a_restart_of_the_server_no_more_is_dialed_than_is_wanted() {
    const RESTING: u32 = 40;
    let (pool, server) = stale(RESTING);
    server.last_dead.store(RESTING, SeqCst);
    for _ in 0..100 {
        drop(pool.get_timeout(LONG).unwrap());
    }
    assert_eq!(server.dials(), RESTING + 1);
    await_that("all that were dead are closed", || server.alive() == 1);
    await_rest(&pool, &server);
}

/// HEAL-08.
#[test]
fn ten_thousand_connections_that_end_at_rest_leave_nothing() {
    let (pool, server) = pool(|b| b.max_open(2).check_after(Duration::MAX));
    for n in 1..=10_000 {
        let guard = pool.get_timeout(LONG).unwrap();
        assert_eq!(guard.id, n);
        drop(guard);
        server.on_is_broken([Act::Fail]);
    }
    assert!(server.alive() <= 1 && server.most_open.load(SeqCst) <= 2);
    await_rest(&pool, &server);
}

/// HEAL-04: one caller, one dial.
#[test]
fn a_server_that_is_away_is_dialed_once_for_each_caller_who_finds_all_dead() {
    let (pool, server) = stale(5);
    server.on_check((0..5).map(|_| Act::Fail));
    server.refuses.store(true, SeqCst);
    for n in 1..=3 {
        let error = pool.get_timeout(LONG).unwrap_err();
        assert!(matches!(error, GetError::Unreachable { .. }), "{error:?}");
        assert_eq!(server.dials(), 5 + n);
    }
    assert_eq!(await_rest(&pool, &server).open(), 0);
}

// ---- Checks on the way to a caller --------------------------------------------------------------

/// HEAL-11.
#[test]
fn what_was_in_use_a_moment_ago_is_not_checked() {
    let (pool, server) = pool(|b| b.max_open(4).check_after(Duration::from_secs(10)));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..1_000).for_each(|_| drop(pool.get_timeout(LONG).unwrap())));
        }
    });
    assert_eq!(server.checks.load(SeqCst), 0);
    await_rest(&pool, &server);
}

/// HEAL-11: and is again when it has rested.
#[test]
fn what_has_rested_is_checked_once() {
    let rest = Duration::from_millis(60);
    let (pool, server) = pool(|b| b.max_open(1).check_after(rest));
    drop(pool.get().unwrap());
    for _ in 0..3 {
        let (rested, checks) = (Instant::now(), server.checks.load(SeqCst));
        await_that("it has rested", || rested.elapsed() > rest + SHORT);
        let mut guard = pool.get().unwrap();
        assert_eq!(server.checks.load(SeqCst), checks + 1);
        for _ in 0..10 {
            let in_use = Instant::now();
            drop(guard);
            guard = pool.get().unwrap();
            if in_use.elapsed() >= rest {
                break; // The system held this thread up for so long.
            }
            assert_eq!(server.checks.load(SeqCst), checks + 1);
        }
    }
    assert_eq!(server.dials(), 1);
}

/// FAIR-04: a caller who is given a dead connection keeps its place in the queue.
#[test]
fn a_failed_check_costs_a_caller_no_place() {
    let (pool, server) = pool(|b| b.max_open(1).check_after(Duration::ZERO));
    drop(pool.get().unwrap());
    let [checked, dialed] = [Gate::new(), Gate::new()];
    server.on_check([checked.then(Act::Fail)]);
    server.on_dial([dialed.then(Act::Succeed)]);
    thread::scope(|scope| {
        let first = scope.spawn(|| pool.get_timeout(LONG).unwrap());
        checked.await_arrivals(1);
        let second = scope.spawn(|| drop(pool.get_timeout(LONG).unwrap()));
        await_waiting(&pool, 2);
        checked.open();
        dialed.await_arrivals(1);
        dialed.open();
        let first = first.join().unwrap();
        await_waiting(&pool, 1);
        drop(first);
        second.join().unwrap();
    });
    await_rest(&pool, &server);
}

/// DEADLINE.
#[test]
fn a_check_that_outlasts_its_caller_is_of_use_to_the_next() {
    let (pool, server) = stale(1);
    let gate = Gate::new();
    server.on_check([gate.then(Act::Succeed)]);
    let start = Instant::now();
    assert!(matches!(pool.get_timeout(SHORT).unwrap_err(), GetError::Exhausted { .. }));
    assert!(start.elapsed() < LONG / 4);
    thread::scope(|scope| {
        let next = scope.spawn(|| pool.get_timeout(LONG).unwrap().id);
        await_waiting(&pool, 1);
        gate.open();
        assert_eq!(next.join().unwrap(), 1);
    });
    assert_eq!((server.checks.load(SeqCst), server.dials()), (1, 1));
    await_rest(&pool, &server);
}

/// HEAL-10: off the lock, between borrowers, and a connection that cannot be reset fails nobody.
#[test]
fn between_two_borrowers_lies_a_reset() {
    for may_block in [false, true] {
        let (pool, server) =
            pool_that(|b| b.reset(may_block), |b| b.max_open(1).check_after(Duration::MAX));
        let resets = || server.resets.load(SeqCst);
        for round in 0..5 {
            let guard = pool.get_timeout(LONG).unwrap();
            assert_eq!((guard.id, resets()), (1, round));
        }
        await_that("the last is done", || resets() == 5 && pool.stats().idle == 1);
        for act in [Act::Fail, Act::Panic] {
            let held = pool.get_timeout(LONG).unwrap();
            let id = held.id;
            server.on_reset([act]);
            thread::scope(|scope| {
                let next = scope.spawn(|| pool.get_timeout(LONG).unwrap().id);
                await_waiting(&pool, 1);
                drop(held);
                assert_eq!(next.join().unwrap(), id + 1, "a new one, and no error");
            });
        }
        await_rest(&pool, &server);
    }
}

// ---- Doubt --------------------------------------------------------------------------------------

/// One broken connection, and each of those that rested then is checked once, however lately it was
/// used and by whichever way it came to rest.
#[test]
fn after_one_broken_connection_all_that_rest_are_checked_once() {
    for round in 0..50 {
        let (pool, server) = pool(|b| b.max_open(4).check_after(LONG));
        let [one, two, three, four] = [(); 4].map(|()| pool.get_owned().unwrap());
        drop((one, two));
        if round % 2 == 0 {
            drop(pool.get().unwrap());
        }
        let before = server.checks.load(SeqCst);
        assert_eq!(before, 0);
        break_one(three);
        // It was lent then, and so proves itself by its return.
        let fourth = four.id;
        drop(four);
        let proven = pool.get_owned().unwrap();
        assert_eq!((proven.id, server.checks.load(SeqCst)), (fourth, 0));
        for n in 1..=2 {
            let doubted = [(); 2].map(|()| pool.get_owned());
            assert!(doubted.iter().all(Result::is_ok), "{n}");
            assert_eq!(server.checks.load(SeqCst), 2, "each once");
        }
        assert_eq!(server.dials(), 4);
        drop(proven);
        await_rest(&pool, &server);
    }
}

/// A connection that is checked and dead is closed, and the doubt begins again.
#[test]
fn doubt_finds_every_dead_connection_before_a_caller_does() {
    let (pool, server) = pool(|b| b.max_open(6).check_after(LONG));
    let mut held: Vec<_> = (0..6).map(|_| pool.get_owned().unwrap()).collect();
    let first = held.pop().unwrap();
    drop(held);
    server.on_check((0..5).map(|_| Act::Fail));
    break_one(first);
    let guard = pool.get_timeout(LONG).unwrap();
    assert_eq!(guard.id, 7);
    assert_eq!(server.checks.load(SeqCst), 5);
    // The caller waits for a free slot only: the last of the five may still be on its way out.
    await_that("all five are closed", || server.alive() == 1);
    drop(guard);
    await_rest(&pool, &server);
}

/// A borrower who discards says nothing of the others.
#[test]
fn a_discard_casts_no_doubt() {
    let (pool, server) = pool(|b| b.max_open(3).check_after(LONG));
    let held = [(); 3].map(|()| pool.get_owned().unwrap());
    let [one, two, three] = held;
    drop((one, two));
    OwnedConnection::discard(three);
    drop([pool.get().unwrap(), pool.get().unwrap()]);
    assert_eq!(server.checks.load(SeqCst), 0);
    await_rest(&pool, &server);
}

/// The borrower has seen what the dialer cannot: then all that rested since before are checked, and no
/// more than once.
#[test]
fn whatever_rested_as_a_borrower_doubted_its_connection_is_checked_before_it_is_lent() {
    let (pool, server) = pool(|b| b.max_open(4).check_after(LONG));
    let [one, two, three, four] = [(); 4].map(|()| pool.get_owned().unwrap());
    drop((one, two));
    OwnedConnection::doubt(four);
    await_that("it is closed", || server.alive() == 3);
    drop(three); // Was lent then, and so has proved itself by its return.
    server.on_check([Act::Fail]);
    let ids = [(); 2].map(|()| pool.get_owned().unwrap().id);
    assert!(ids.iter().all(|id| *id == 3), "{ids:?}: what was in use meanwhile is lent at once");
    let held = [(); 2].map(|()| pool.get_owned().unwrap());
    assert_eq!(server.checks.load(SeqCst), 2, "each of the two");
    assert_eq!(pool.stats().retired_by[CloseReason::Broken], 0);
    drop(held);
    await_rest(&pool, &server);
}

/// The same among the keys of a keyed pool.
#[test]
fn a_doubt_of_one_key_concerns_no_other() {
    let servers = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&servers);
    let pool = KeyedPool::builder(move |_: &u8| {
        let (dialer, server) = Scripted::new();
        noted.lock().unwrap().push(server);
        dialer
    })
    .check_after(LONG)
    .build()
    .unwrap();
    for key in [1, 2] {
        let [one, two] = [(); 2].map(|()| pool.get(&key).unwrap());
        drop((one, two));
    }
    KeyedConnection::doubt(pool.get(&1).unwrap());
    drop((pool.get(&1).unwrap(), pool.get(&2).unwrap()));
    let checks: Vec<_> =
        servers.lock().unwrap().iter().map(|server| server.checks.load(SeqCst)).collect();
    assert_eq!(checks, [1, 0]);
}

/// A dialer that knows nothing: the borrower's work is all that can tell.
#[test]
fn a_connection_with_which_the_work_has_failed_is_not_lent_again() {
    for is_known in [false, true] {
        let (pool, server) = pool(|b| b.max_open(4).check_after(LONG));
        let held = [(); 3].map(|()| pool.get_owned().unwrap());
        drop(held);
        if is_known {
            // It is sound as it is lent, and broken after the work.
            server.on_is_broken([Act::Succeed, Act::Fail]);
        }
        let mut id = 0;
        let outcome = pool.with(|connection| -> Result<(), Box<dyn Error>> {
            id = connection.id;
            Err("the server has gone away".into())
        });
        assert_eq!(outcome.unwrap_err().to_string(), "the server has gone away");
        await_that("it is closed", || server.alive() == 2);
        let again = pool.with(|connection| Ok::<_, GetError<Refused>>(connection.id)).unwrap();
        assert_ne!(again, id);
        let third = pool.with(|connection| Ok::<_, GetError<Refused>>(connection.id)).unwrap();
        assert_eq!(third, again);
        assert_eq!(
            server.checks.load(SeqCst),
            u32::from(is_known),
            "what is known concerns others"
        );
        assert_eq!(pool.stats().retired_by[CloseReason::Broken], u64::from(is_known));
        await_rest(&pool, &server);
    }
}

#[test]
fn work_that_panics_retires_its_connection_and_work_that_gets_none_is_not_begun() {
    let (pool, server) = pool(|b| b.max_open(1));
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        pool.with(|_| -> Result<(), GetError<Refused>> { panic_quietly() })
    }));
    assert!(panicked.is_err());
    await_that("it is closed", || server.alive() == 0);
    server.on_dial([Act::Fail]);
    let refused = pool.with(|_| -> Result<(), GetError<Refused>> { unreachable!("no connection") });
    assert!(matches!(refused, Err(GetError::Unreachable { .. })));
    await_rest(&pool, &server);
}

/// A fault that the dialer sees without asking is found at rest, by the check that no caller has asked for.
#[test]
fn a_broken_connection_is_found_at_rest_although_its_check_would_succeed() {
    let (pool, server) = pool(|b| b.max_open(10).check_after(LONG));
    pool.warm_up(10).unwrap();
    server.on_is_broken((0..10).map(|_| Act::Fail));
    pool.reconfigure().check_idle_every(Duration::from_millis(20)).apply().unwrap();
    await_that("all ten are closed", || server.alive() == 0);
    assert_eq!(server.checks.load(SeqCst), 0, "the peer was not asked");
    assert_eq!(
        (pool.stats().retired_by[CloseReason::Broken], pool.stats().check_failed_total),
        (10, 0)
    );
}

/// A failed reset is most often a server that has gone.
#[test]
fn after_a_failed_reset_all_that_rest_are_checked_once() {
    let (pool, server) = pool(|b| b.max_open(3).check_after(LONG));
    let [one, two, three] = [(); 3].map(|()| pool.get_owned().unwrap());
    drop((one, two));
    server.on_reset([Act::Fail]);
    drop(used(three));
    for _ in 0..2 {
        let _both = [(); 2].map(|()| pool.get_owned().unwrap());
        assert_eq!(server.checks.load(SeqCst), 2);
    }
    await_rest(&pool, &server);
}

/// However short the rest: the coarse clock, by which loans go otherwise, would not tell.
#[test]
fn a_rest_shorter_than_a_tick_is_told_from_a_shorter_one() {
    const TRUSTED: Duration = Duration::from_micros(1_500);
    for blocks in [true, false] {
        let set = |b: Builder<Scripted>| b.max_open(1).check_after(TRUSTED);
        let (pool, server) = pool_that(|blocking| blocking.check(blocks), set);
        let mut fresh = 0;
        for round in 0..60 {
            let guard = pool.get().unwrap();
            let (in_use, checks) = (Instant::now(), server.checks.load(SeqCst));
            drop(guard);
            drop(pool.get().unwrap());
            if in_use.elapsed() < TRUSTED {
                assert_eq!(server.checks.load(SeqCst), checks, "round {round}: fresh");
                fresh += 1;
            }
            let (rested, checks) = (Instant::now(), server.checks.load(SeqCst));
            await_that("it has rested", || rested.elapsed() > TRUSTED);
            drop(pool.get().unwrap());
            assert_eq!(server.checks.load(SeqCst), checks + 1, "round {round}: stale");
        }
        assert!(fresh > 0, "no loan followed another quickly");
        await_rest(&pool, &server);
    }
}

#[test]
fn a_failed_check_of_its_caller_costs_it_no_more_than_another_connection() {
    let (pool, server) = with_own_checks(|b| b.max_open(2).check_after(Duration::ZERO));
    pool.warm_up(1).unwrap(); // One after the other, so that the second comes to rest last.
    pool.warm_up(2).unwrap();
    server.on_check([Act::Fail]);
    let second = pool.get().unwrap();
    assert_eq!((second.id, server.checks.load(SeqCst), server.dials()), (1, 2, 2));
    assert_eq!(pool.stats().check_failed_total, 1);
    drop(second);
    await_rest(&pool, &server);
}

/// As where a check finds out what only a look tells: also of a connection that its dial's caller has
/// just given back.
#[test]
fn whoever_checks_its_own_connection_looks_at_it_after_the_check_as_well() {
    let (pool, server) = with_own_checks(|b| b.max_open(1).check_after(Duration::ZERO));
    drop(pool.get().unwrap()); // Asked at its return.
    server.on_is_broken([Act::Succeed, Act::Fail]);
    assert_eq!(pool.get().unwrap().id, 2);
    assert_eq!((server.checks.load(SeqCst), pool.stats().retired_by[CloseReason::Broken]), (1, 1));
    await_rest(&pool, &server);
}

#[test]
fn try_get_makes_no_check_however_long_a_connection_has_rested() {
    let (pool, server) = with_own_checks(|b| b.max_open(1).check_after(Duration::ZERO));
    pool.warm_up(1).unwrap();
    for _ in 0..3 {
        drop(pool.try_get().unwrap());
    }
    assert_eq!(server.checks.load(SeqCst), 0);
    drop(pool.get().unwrap());
    assert_eq!(server.checks.load(SeqCst), 1);
}

/// The others prove themselves by a check of their callers, though they have rested for a moment only.
#[test]
fn whoever_checks_its_own_connection_checks_what_a_broken_one_has_put_in_doubt() {
    let (pool, server) = with_own_checks(|b| b.max_open(3).check_after(LONG));
    let [one, two, three] = [(); 3].map(|()| pool.get_owned().unwrap());
    drop((one, two));
    break_one(three);
    for _ in 0..2 {
        let _both = [(); 2].map(|()| pool.get_owned().unwrap());
        assert_eq!(server.checks.load(SeqCst), 2);
    }
    await_rest(&pool, &server);
}

/// As on a thread that runs an async program's tasks.
#[test]
fn no_reset_runs_on_a_thread_that_must_not_wait() {
    finishes(|| {
        let (pool, server) = pool(|b| b.max_open(1).check_after(LONG));
        let gate = Gate::new();
        server.must_not_wait.store(true, SeqCst);
        server.on_reset([gate.then(Act::Succeed)]);
        drop(used(pool.get().unwrap())); // Does not wait for the gate.
        gate.await_arrivals(1);
        assert_eq!(pool.stats().in_use, 1);
        gate.open();
        server.must_not_wait.store(false, SeqCst);
        let guard = pool.get_timeout(LONG).unwrap();
        assert_eq!(guard.id, 1);
        let returned = used(guard);
        let here = thread::current().id();
        drop(returned);
        assert_eq!(*server.reset_by.lock().unwrap(), Some(here), "elsewhere it is done in place");
        await_rest(&pool, &server);
    });
}

// ---- Faults of what a dialer is asked about a connection ----------------------------------------

/// NO-LOST-SLOT, REASON: each call that lies on the way to a caller or back fails, panics or hangs.
#[test]
fn whatever_a_call_about_a_connection_does_its_slot_is_free_in_the_end() {
    type Script = fn(&Server, Act);
    let calls: [(&str, Script); 4] = [
        ("is_broken", |server, act| server.on_is_broken([act])),
        ("check", |server, act| server.on_check([act])),
        ("reset", |server, act| server.on_reset([act])),
        ("close", |server, act| server.on_close([act])),
    ];
    for (call, script) in calls {
        for fault in ["fails", "panics", "hangs"] {
            let hangs = fault == "hangs";
            let (pool, server) = pool_that(
                |b| b.check(true).reset(true).close(true),
                |b| b.max_open(2).check_after(Duration::ZERO),
            );
            pool.warm_up(1).unwrap();
            let gate = Gate::new();
            script(
                &server,
                match fault {
                    "fails" => Act::Fail,
                    "panics" => Act::Panic,
                    _ => gate.then(Act::Succeed),
                },
            );
            thread::scope(|scope| {
                let caller = scope.spawn(|| {
                    let guard = used(pool.get_timeout(LONG).unwrap());
                    if call == "close" {
                        PooledConnection::discard(guard);
                    }
                });
                if hangs {
                    gate.await_arrivals(1);
                    // The others go on meanwhile, as there is room for one more.
                    server.on_is_broken([]);
                    let deadline = Instant::now() + LONG;
                    while call != "check" && Instant::now() < deadline {
                        if pool.get_timeout(SHORT).is_ok() {
                            break;
                        }
                    }
                    assert!(Instant::now() < deadline, "a {call} that hangs holds up the others");
                    gate.open();
                }
                caller.join().unwrap();
            });
            await_rest(&pool, &server);
            let held = [pool.get_timeout(LONG).unwrap(), pool.get_timeout(LONG).unwrap()];
            assert_ne!(held[0].id, held[1].id, "a {call} that {fault} costs no slot");
            drop(held);
            await_rest(&pool, &server);
        }
    }
}

/// No caller is told of this file's errors of checks.
#[test]
fn no_caller_is_told_of_a_check() {
    let (pool, server) = stale(1);
    server.on_check([Act::Fail]);
    let guard: Result<PooledConnection<'_, Scripted>, GetError<Refused>> = pool.get_timeout(LONG);
    let connection: Connection = Connection::detach(guard.unwrap());
    assert_eq!(connection.id, 2);
    drop(connection);
    await_rest(&pool, &server);
}
