//! When the system has no thread to give, a dial waits for one that is at work. If there is none, it
//! fails and says so; nothing else does.
//!
//! Each test runs once more in a process of its own. There the pool's threads are told to have a
//! huge stack, and then the address space is bounded to little more than what is in use.
#![cfg(target_os = "linux")]

use std::error::Error;
use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;

use crate::common::{
    Act, Gate, LONG, Scripted, Server, await_rest, await_that, leave_a_dial, pool, pool_that,
};
use crate::elsewhere;
use latebind::{GetError, Pool, PooledConnection};

const MIB: u64 = 1 << 20;

/// The stack of a pool's thread; all else in a child takes less.
const STACK: u64 = 1024 * MIB;
const HEADROOM: u64 = 512 * MIB;

/// Runs `body` in a process of its own, which can be made to have no threads to give.
#[track_caller]
fn in_a_child(test: &str, body: impl FnOnce()) {
    if elsewhere::is_here() {
        return body();
    }
    let mut child = elsewhere::process(&format!("no_threads::{test}"));
    elsewhere::assert_passed(&child.env("RUST_MIN_STACK", STACK.to_string()).output().unwrap());
}

/// Bounds the address space so that no thread fits, or no longer.
fn forbid_threads(forbid: bool) {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    let kib: u64 = size.trim().trim_end_matches(" kB").parse().unwrap();
    let limit = if forbid { (kib << 10) + HEADROOM } else { libc::RLIM64_INFINITY };
    let limits = libc::rlimit64 { rlim_cur: limit, rlim_max: libc::RLIM64_INFINITY };
    // SAFETY: `limits` is a valid `rlimit64` for the length of the call.
    let done = unsafe { libc::setrlimit64(libc::RLIMIT_AS, &raw const limits) };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
    let refused = thread::Builder::new().spawn(|| {}).map(|thread| thread.join().unwrap()).is_err();
    assert_eq!(refused, forbid, "whether the system refuses a thread");
}

/// Gives the worker that has made the pool's first dial a second one, until `gate` is opened.
fn keep_the_worker_busy(pool: &Pool<Scripted>, server: &Server, gate: &Gate) {
    await_that("it rests", || {
        let tasks = fs::read_dir("/proc/self/task").unwrap();
        let stats =
            tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
        stats.into_iter().any(|stat| stat.contains("(latebind-1) S"))
    });
    server.on_dial([gate.then(Act::Succeed)]);
    leave_a_dial(pool);
    gate.await_arrivals(1);
}

/// A thread of the test's own, small enough to fit.
fn small() -> thread::Builder {
    thread::Builder::new().stack_size(256 << 10)
}

/// ACC-05.
#[test]
fn a_dial_without_a_thread_fails_and_says_so() {
    in_a_child("a_dial_without_a_thread_fails_and_says_so", || {
        let (pool, server) = pool(|b| b.max_open(2));
        forbid_threads(true);
        for _ in 0..10 {
            let error = pool.get_timeout(LONG).unwrap_err();
            let GetError::Unreachable { stats, .. } = &error else { panic!("{error:?}") };
            assert_eq!(stats.open(), 0, "no slot is taken");
            assert!(error.dial_error().is_none(), "the dialer was never asked");
            let failure = error.source().unwrap();
            assert_eq!(failure.to_string(), "no thread could be started for the dial");
            let cause = failure.source().unwrap().downcast_ref::<io::Error>().unwrap();
            assert_eq!(cause.kind(), io::ErrorKind::WouldBlock);
        }
        assert!(matches!(pool.warm_up(2), Err(GetError::Unreachable { .. })));
        assert_eq!(server.dials(), 0);

        forbid_threads(false);
        drop(pool.get_timeout(LONG).unwrap());
        assert_eq!(await_rest(&pool, &server).open(), 1);
    });
}

/// ACC-05.
#[test]
fn what_is_open_is_lent_and_returned_and_checked_without_a_thread() {
    in_a_child("what_is_open_is_lent_and_returned_and_checked_without_a_thread", || {
        let (pool, server) = pool_that(
            |b| b.check(true).reset(true).close(true),
            |b| b.max_open(3).check_after(Duration::ZERO),
        );
        let held = pool.get().unwrap();
        let gate = Gate::new();
        keep_the_worker_busy(&pool, &server, &gate);
        forbid_threads(true);

        drop(held);
        await_that("it is reset here", || pool.stats().idle == 1);
        let held = pool.get_timeout(LONG).unwrap();
        assert_eq!((held.id, server.checks.load(SeqCst)), (1, 1), "and checked");
        PooledConnection::discard(held);
        await_that("and closed", || server.alive() == 0);

        gate.open();
        await_that("the dial ends", || pool.stats().dialing == 0);
        await_rest(&pool, &server);
    });
}

/// ACC-05: a thread that will be free is worth a wait, whichever pool it works for.
#[test]
fn a_dial_without_a_thread_of_its_own_waits_for_one_that_is_at_work() {
    in_a_child("a_dial_without_a_thread_of_its_own_waits_for_one_that_is_at_work", || {
        let (busy, busy_server) = ageless(2);
        let gate = Gate::new();
        busy_server.on_dial([gate.then(Act::Succeed)]);
        leave_a_dial(&busy);
        gate.await_arrivals(1);

        forbid_threads(true);
        let pools: Vec<_> = (0..50).map(|_| ageless(1)).collect();
        get_from_each(&pools, || gate.open());
        assert!(threads().len() <= 1);
        await_rest(&busy, &busy_server);
    });
}

/// A pool nothing of which ages, so that nobody has to keep it up.
fn ageless(max_open: u32) -> (Pool<Scripted>, Arc<Server>) {
    pool(|b| b.max_open(max_open).max_lifetime(Duration::MAX).max_idle_time(Duration::MAX))
}

/// A caller for each, none of whom is served before `open`.
fn get_from_each(pools: &[(Pool<Scripted>, Arc<Server>)], open: impl FnOnce()) {
    thread::scope(|scope| {
        let get = |pool: &Pool<Scripted>| drop(pool.get_timeout(LONG).unwrap());
        let caller = |pool| small().spawn_scoped(scope, move || get(pool)).unwrap();
        let callers: Vec<_> = pools.iter().map(|(pool, _)| caller(pool)).collect();
        for (pool, _) in pools {
            await_that("its caller has come", || pool.stats().dials_total == 1);
        }
        open();
        callers.into_iter().for_each(|caller| caller.join().unwrap());
    });
    for (pool, server) in pools {
        assert_eq!(pool.stats().dial_failed_total, 0);
        assert_eq!(await_rest(pool, server).idle, 1);
    }
}

/// The threads of all pools.
fn threads() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with("latebind-")).collect()
}

/// LIFE-03, LIFE-06: nothing that has aged is lent or kept although nobody wakes the pool; and when
/// there are threads again, somebody does.
#[test]
fn what_has_aged_is_neither_lent_nor_kept_without_a_thread() {
    in_a_child("what_has_aged_is_neither_lent_nor_kept_without_a_thread", || {
        let limit = Duration::from_millis(60);
        let (pool, server) =
            pool(|b| b.max_open(3).max_lifetime(Duration::MAX).max_idle_time(Duration::MAX));
        pool.warm_up(3).unwrap();
        let held = pool.get().unwrap();
        forbid_threads(true);
        pool.reconfigure().max_lifetime(limit).apply().unwrap();
        await_that("they have aged", || PooledConnection::age(&held) > 2 * limit);
        assert!(pool.try_get().is_err(), "neither of those at rest is lent");
        // By a worker that still rests, or else by this thread.
        await_that("both are closed", || server.alive() == 1);
        drop(held);
        assert_eq!(server.alive(), 0, "as is what comes back");

        forbid_threads(false);
        drop(pool.get_timeout(LONG).unwrap());
        await_that("it is closed although nobody calls", || server.alive() == 0);
    });
}
