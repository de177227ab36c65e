//! First come, first served.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use crate::common::{Act, Gate, LONG, Scripted, await_rest, await_waiting, pool};
use latebind::{GetError, Pool, PooledConnection};

/// FAIR-01.
#[test]
fn fifty_callers_are_served_in_the_order_in_which_they_came() {
    let (pool, server) = pool(|b| b.max_open(1));
    let held = pool.get().unwrap();
    let order = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for n in 0..50 {
            let (pool, order) = (&pool, &order);
            scope.spawn(move || {
                let connection = pool.get_timeout(LONG).unwrap();
                order.lock().unwrap().push(n);
                drop(connection);
            });
            await_waiting(pool, n + 1);
        }
        drop(held);
    });
    assert_eq!(order.into_inner().unwrap(), (0..50).collect::<Vec<_>>());
    await_rest(&pool, &server);
}

/// FAIR-01.
#[test]
fn callers_served_by_dials_are_served_in_that_order_too() {
    let (pool, server) = pool(|b| b.max_open(4));
    let gates = [(); 4].map(|()| Gate::new());
    server.on_dial(gates.iter().map(|gate| gate.then(Act::Succeed)));
    thread::scope(|scope| {
        let callers: Vec<_> = (0..4)
            .map(|n| {
                let caller = scope.spawn(|| pool.get_timeout(LONG).unwrap());
                gates[n].await_arrivals(1);
                caller
            })
            .collect();
        // The latest dial ends first.
        let mut held = Vec::new();
        for (caller, gate) in callers.into_iter().zip(gates.iter().rev()) {
            gate.open();
            held.push(caller.join().unwrap());
        }
        assert_eq!(held.iter().map(|c| c.id).collect::<Vec<_>>(), [4, 3, 2, 1]);
    });
    await_rest(&pool, &server);
}

/// FAIR-02.
#[test]
fn one_who_returns_and_asks_again_at_once_comes_after_those_who_wait() {
    let (pool, server) = pool(|b| b.max_open(1));
    for _ in 0..500 {
        let held = pool.get().unwrap();
        let served = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let connection = pool.get_timeout(LONG).unwrap();
                served.store(true, SeqCst);
                drop(connection);
            });
            await_waiting(&pool, 1);
            drop(held);
            let again = pool.get_timeout(LONG).unwrap();
            assert!(served.load(SeqCst), "the one who waited has had it first");
            drop(again);
        });
    }
    assert_eq!(server.dials(), 1);
    await_rest(&pool, &server);
}

/// FAIR-04.
#[test]
fn a_caller_who_is_given_a_broken_connection_keeps_the_first_place() {
    let (pool, server) = pool(|b| b.max_open(1));
    let held = pool.get().unwrap();
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Succeed)]);
    thread::scope(|scope| {
        let first = scope.spawn(|| pool.get_timeout(LONG).unwrap());
        await_waiting(&pool, 1);
        let second = scope.spawn(|| pool.get_timeout(LONG).unwrap().id);
        await_waiting(&pool, 2);
        // Sound as it is returned, broken as it is lent again.
        server.on_is_broken([Act::Succeed, Act::Fail]);
        drop(held);
        gate.await_arrivals(1);
        await_waiting(&pool, 2);
        gate.open();
        let first = first.join().unwrap();
        assert_eq!((first.id, pool.stats().waiting), (2, 1), "served before the second");
        PooledConnection::discard(first);
        assert_eq!(second.join().unwrap(), 3);
    });
    await_rest(&pool, &server);
}

/// FAIR-05.
#[test]
fn try_get_does_not_jump_the_queue() {
    let (pool, server) = pool(|b| b.max_open(2).check_after(Duration::ZERO));
    pool.warm_up(2).unwrap();
    let gate = Gate::new();
    server.on_check([gate.then(Act::Fail)]);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| pool.get_timeout(LONG).unwrap().id);
        gate.await_arrivals(1);
        // The one being checked for the caller in the queue may be dead; then it wants the other.
        assert_eq!((pool.stats().idle, pool.stats().waiting), (1, 1));
        assert!(matches!(pool.try_get(), Err(GetError::Exhausted { .. })));
        assert!(matches!(pool.try_get_owned(), Err(GetError::Exhausted { .. })));
        gate.open();
        waiting.join().unwrap();
    });
    assert_eq!(server.dials(), 2);
    await_rest(&pool, &server);
}

/// FAIR-06.
#[test]
fn threads_that_take_turns_share_one_connection_so_that_the_others_may_age() {
    let (pool, server) = pool(|b| b.max_open(4));
    let held = [(); 4].map(|()| pool.get().unwrap());
    held.into_iter().for_each(drop);
    let turns = |pool: &Pool<Scripted>| {
        let mut used: Vec<u32> = (0..100).map(|_| pool.get().unwrap().id).collect();
        used.dedup();
        used
    };
    let first = turns(&pool);
    assert_eq!(first.len(), 1, "{first:?}");
    for _ in 0..8 {
        let other = thread::scope(|scope| scope.spawn(|| turns(&pool)).join().unwrap());
        assert_eq!(other, first);
    }
    await_rest(&pool, &server);
}

/// FAIR-06.
#[test]
fn a_surplus_is_taken_from_the_cold_end() {
    let (pool, server) = pool(|b| b.max_open(3));
    let held = [(); 3].map(|()| pool.get().unwrap());
    let [_, second, third] = held.each_ref().map(|c| c.id);
    held.into_iter().for_each(drop);
    pool.resize(2).unwrap();
    let left = [pool.get().unwrap(), pool.get().unwrap()];
    let mut ids = left.each_ref().map(|c| c.id);
    ids.sort_unstable();
    assert_eq!(ids, [second, third], "the one idle for longest is closed");
    assert_eq!(server.alive(), 2);
}
