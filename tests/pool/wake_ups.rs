//! Every event that frees anything serves a waiter, or begins the dial that one wants.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{
    Act, Connection, Gate, LONG, Scripted, Server, await_rest, await_that, await_waiting,
    failed_dial, pool, pool_that, used,
};
use latebind::{GetError, OwnedConnection, Pool, PooledConnection};

/// WAK-01.
#[test]
fn a_return_just_before_the_caller_joins_the_queue_is_not_missed() {
    let (pool, server) = pool(|b| b.max_open(1));
    let start = Barrier::new(2);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..2_000 {
                    start.wait();
                    drop(pool.get_timeout(LONG).unwrap());
                }
            });
        }
    });
    assert_eq!(await_rest(&pool, &server).timed_out_total, 0);
    assert_eq!(server.dials(), 1);
}

/// One caller waits for the only slot, and its holder frees it by `free`: the caller must be
/// served by a new dial, at once and without anything else happening in the pool.
#[track_caller]
fn a_waiter_is_served_when(
    pool: &Pool<Scripted>,
    server: &Server,
    free: impl FnOnce(OwnedConnection<Scripted>),
) {
    let held = pool.get_owned().unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| pool.get_timeout(LONG).unwrap().id);
        await_waiting(pool, 1);
        free(held);
        assert_eq!(waiting.join().unwrap(), 2);
    });
    assert_eq!(await_rest(pool, server).open(), 1);
}

/// WAK-02, WAK-14.
#[test]
fn a_discarded_connection_makes_room_for_a_waiter() {
    let (pool, server) = pool(|b| b.max_open(1));
    a_waiter_is_served_when(&pool, &server, OwnedConnection::discard);
}

/// WAK-02, WAK-14.
#[test]
fn a_connection_returned_broken_makes_room_for_a_waiter() {
    let (pool, server) = pool(|b| b.max_open(1));
    a_waiter_is_served_when(&pool, &server, |mut held| held.is_broken = true);
}

/// WAK-02, WAK-14, HEAL-10.
#[test]
fn a_connection_that_cannot_be_reset_makes_room_for_a_waiter() {
    for may_block in [false, true] {
        let (pool, server) = pool_that(|b| b.reset(may_block), |b| b.max_open(1));
        server.on_reset([Act::Fail]);
        a_waiter_is_served_when(&pool, &server, |held| drop(used(held)));
    }
}

/// WAK-02, WAK-14.
#[test]
fn a_detached_connection_makes_room_for_a_waiter() {
    let (pool, server) = pool(|b| b.max_open(1));
    a_waiter_is_served_when(&pool, &server, |held| drop(Connection::detach(held)));
}

/// WAK-02, WAK-14, LOCK-08.
#[test]
fn a_holder_who_panics_makes_room_for_a_waiter() {
    let (pool, server) = pool(|b| b.max_open(1));
    a_waiter_is_served_when(&pool, &server, |held| {
        let panics = catch_unwind(AssertUnwindSafe(|| {
            let _held = held;
            panic!("halfway through something");
        }));
        assert!(panics.is_err());
    });
}

/// WAK-02, WAK-13, WAK-14.
#[test]
fn a_connection_from_before_a_flush_makes_room_for_a_waiter() {
    let (pool, server) = pool(|b| b.max_open(1));
    a_waiter_is_served_when(&pool, &server, |held| {
        pool.flush();
        drop(held);
    });
}

/// WAK-02, WAK-14.
#[test]
fn a_slow_close_makes_room_for_a_waiter_when_it_has_ended() {
    let (pool, server) = pool_that(|b| b.close(true), |b| b.max_open(1));
    let gate = Gate::new();
    server.on_close([gate.then(Act::Succeed)]);
    a_waiter_is_served_when(&pool, &server, |held| {
        OwnedConnection::discard(held);
        gate.await_arrivals(1);
        assert_eq!((pool.stats().closing, pool.stats().dialing), (1, 0));
        gate.open();
    });
}

/// WAK-02, WAK-14.
#[test]
fn a_raised_limit_makes_room_for_a_waiter() {
    let (pool, server) = pool(|b| b.max_open(1));
    let held = pool.get().unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| pool.get_timeout(LONG).unwrap().id);
        await_waiting(&pool, 1);
        pool.resize(2).unwrap();
        assert_eq!(waiting.join().unwrap(), 2);
    });
    drop(held);
    await_rest(&pool, &server);
}

/// WAK-02.
#[test]
fn with_nothing_kept_at_rest_a_return_still_serves_the_one_who_waits() {
    let (pool, server) = pool(|b| b.max_open(1).max_idle(0));
    let held = pool.get().unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| pool.get_timeout(LONG).unwrap().id);
        await_waiting(&pool, 1);
        drop(held);
        assert_eq!(waiting.join().unwrap(), 1, "it never came to rest");
    });
    assert_eq!(await_rest(&pool, &server).open(), 0);
}

/// WAK-03.
#[test]
fn a_dial_that_fails_passes_its_slot_to_the_next_in_the_queue() {
    let (pool, server) = pool(|b| b.max_open(1));
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Fail)]);
    thread::scope(|scope| {
        let first = scope.spawn(|| pool.get().unwrap_err());
        gate.await_arrivals(1);
        let second = scope.spawn(|| pool.get_timeout(LONG).unwrap().id);
        await_waiting(&pool, 2);
        gate.open();
        assert_eq!(failed_dial(&first.join().unwrap()), Some(1));
        assert_eq!(second.join().unwrap(), 2);
    });
    await_rest(&pool, &server);
}

/// WAK-05, WAK-06.
#[test]
fn a_return_at_the_very_moment_of_a_timeout_reaches_that_caller_or_the_next_or_rest() {
    let (pool, server) = pool(|b| b.max_open(1));
    let limit = Duration::from_micros(200);
    // A timer of Linux's is some 50 µs late, and one of Windows's goes with a tick of 1 to 16 ms.
    let mut waits = {
        let _held = pool.get().unwrap();
        [(); 9].map(|()| {
            let start = Instant::now();
            assert!(pool.get_timeout(limit).is_err());
            start.elapsed()
        })
    };
    waits.sort();
    let mut takes = waits[4];
    let (mut served, mut late) = (0, 0);
    let begun = Instant::now();
    let mut rounds = 0..;
    while rounds.start < 1_000 || served == 0 || late == 0 {
        let round = rounds.next().unwrap();
        // The machine may be faster or slower than it was.
        match (round % 250, served, late) {
            (249, 0, _) => takes /= 2,
            (249, _, 0) => takes *= 2,
            _ => {}
        }
        assert!(begun.elapsed() < 3 * LONG, "a race that always ends the same is none");
        let held = pool.get().unwrap();
        thread::scope(|scope| {
            let hasty = scope.spawn(|| pool.get_timeout(limit).is_ok());
            await_that("it waits, or has done so", || {
                pool.stats().waiting == 1 || pool.stats().timed_out_total > 9 + late
            });
            let patient = (round % 2 == 0).then(|| scope.spawn(|| pool.get_timeout(LONG).is_ok()));
            // From well before the end of the wait to well after it: it has begun already.
            let return_at = Instant::now() + takes * (round % 250) / 250;
            while Instant::now() < return_at {
                std::hint::spin_loop();
            }
            drop(held);
            if hasty.join().unwrap() {
                served += 1
            } else {
                late += 1
            }
            assert!(patient.is_none_or(|patient| patient.join().unwrap()));
        });
        assert_eq!((pool.stats().in_use, pool.stats().idle), (0, 1));
    }
    assert_eq!(server.dials(), 1);
    await_rest(&pool, &server);
}

/// WAK-08, WAK-10.
#[test]
fn a_limit_of_billions_costs_nothing_and_all_dials_run_at_once() {
    let (pool, server) = pool(|b| b.max_open(u32::MAX));
    let gate = Gate::new();
    server.on_dial((0..64).map(|_| gate.then(Act::Succeed)));
    thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| pool.get_timeout(LONG).unwrap().id);
        }
        gate.await_arrivals(64);
        assert_eq!((pool.stats().dialing, pool.stats().waiting), (64, 64));
        gate.open();
    });
    await_rest(&pool, &server);
}

/// WAK-09.
#[test]
fn a_dial_that_hangs_is_no_reason_not_to_begin_another() {
    let (pool, server) = pool(|b| b.max_open(5));
    let gate = Gate::new();
    server.on_dial((0..5).map(|_| gate.then(Act::Fail)));
    server.refuses.store(true, SeqCst);
    thread::scope(|scope| {
        for n in 1..=5 {
            scope.spawn(|| assert!(pool.get_timeout(LONG).is_err()));
            gate.await_arrivals(n);
        }
        // They all fail; then a dial is under way whenever somebody waits.
        let late = scope.spawn(|| pool.get_timeout(LONG).unwrap_err());
        await_waiting(&pool, 6);
        gate.open();
        assert!(failed_dial(&late.join().unwrap()).is_some());
    });
    assert_eq!(server.dials(), 6);
    await_rest(&pool, &server);
}

/// WAK-10.
#[test]
fn as_many_slots_as_come_free_are_dialed_into_at_once() {
    let (pool, server) = pool(|b| b.max_open(4));
    let held = [(); 4].map(|()| pool.get().unwrap());
    let gate = Gate::new();
    server.on_dial((0..4).map(|_| gate.then(Act::Succeed)));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| drop(pool.get_timeout(LONG).unwrap()));
        }
        await_waiting(&pool, 4);
        held.into_iter().for_each(PooledConnection::discard);
        gate.await_arrivals(4);
        gate.open();
    });
    await_rest(&pool, &server);
}

/// WAK-11.
#[test]
fn a_chain_of_dials_that_fail_at_once_fails_every_caller_in_turn() {
    let (pool, server) = pool(|b| b.max_open(1));
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Fail)]);
    server.refuses.store(true, SeqCst);
    thread::scope(|scope| {
        let callers: Vec<_> =
            (0..100).map(|_| scope.spawn(|| pool.get_timeout(LONG).unwrap_err())).collect();
        await_waiting(&pool, 100);
        gate.open();
        for caller in callers {
            assert!(matches!(caller.join().unwrap(), GetError::Unreachable { .. }));
        }
    });
    assert_eq!((server.dials(), server.most_open.load(SeqCst)), (100, 1));
    await_rest(&pool, &server);
}

/// WAK-12.
#[test]
fn two_callers_whose_dials_both_fail_have_cost_two_dials() {
    let (pool, server) = pool(|b| b.max_open(2));
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Fail), gate.then(Act::Fail)]);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| assert!(pool.get().is_err()));
        }
        gate.await_arrivals(2);
        gate.open();
    });
    assert_eq!(server.dials(), 2);
    await_rest(&pool, &server);
}

/// WAK-13.
#[test]
fn a_waiter_for_whom_a_dial_from_before_a_flush_was_meant_gets_another() {
    let (pool, server) = pool(|b| b.max_open(1));
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Succeed)]);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| pool.get_timeout(LONG).unwrap().id);
        gate.await_arrivals(1);
        pool.flush();
        gate.open();
        assert_eq!(waiting.join().unwrap(), 2);
    });
    await_that("the old one is closed", || server.closed.load(SeqCst) == 1);
    await_rest(&pool, &server);
}

/// WAK-13.
#[test]
fn a_waiter_for_whom_a_connection_from_before_a_flush_is_being_checked_gets_a_dial_at_once() {
    let (pool, server) =
        pool(|b| b.max_open(2).check_after(Duration::ZERO).check_timeout(Duration::MAX));
    drop(pool.get().unwrap());
    let gate = Gate::new();
    server.on_check([gate.then(Act::Succeed)]);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| pool.get_timeout(LONG).map(|c| c.id));
        gate.await_arrivals(1);
        pool.flush();
        assert_eq!(waiting.join().unwrap().map_err(|error| error.to_string()), Ok(2));
    });
    assert_eq!((pool.stats().in_use, pool.stats().closing), (0, 1));
    gate.open();
    assert_eq!(await_rest(&pool, &server).open(), 1);
}
