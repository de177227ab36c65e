//! No threads until needed, and none left behind. Of the one that wakes pools whose connections age,
//! `maintenance.rs` tells.
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use common::{Act, Gate, SHORT, Scripted, await_that, pool, pool_that};
use latebind::{Blocking, KeyedPool, PooledConnection};

/// The pools' threads are told from others by name alone, so one test runs at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    // A thread that has been joined may be listed for a moment longer.
    await_that("those of the test before have gone", || workers().is_empty());
    alone
}

/// The ids of the threads of any pool, without the one that wakes them all. That one bears the name
/// of the thread that started it for a moment, so a test that tells one more from one less has no
/// use for it: its pools' connections do not age.
fn workers() -> BTreeSet<String> {
    let tasks = fs::read_dir("/proc/self/task").expect("Linux lists a process's threads");
    tasks
        .filter_map(|task| {
            let task = task.ok()?;
            let name = fs::read_to_string(task.path().join("comm")).ok()?; // Gone meanwhile.
            let id = task.file_name().into_string().ok()?;
            (name.starts_with("latebind-") && name.trim() != "latebind-upkeep").then_some(id)
        })
        .collect()
}

#[test]
fn a_pool_has_no_thread_before_its_first_dial() {
    let _alone = alone();
    let (pool, _server) =
        pool(|b| b.max_open(4).max_lifetime(Duration::MAX).max_idle_time(Duration::MAX));
    assert!(pool.try_get().is_err());
    assert!(pool.get_timeout(Duration::ZERO).is_err());
    pool.flush();
    pool.resize(2).unwrap();
    assert!(workers().is_empty());
    drop(pool.get().unwrap());
    assert_eq!(workers().len(), 1);
}

#[test]
fn a_checkout_of_an_idle_connection_and_its_return_touch_no_thread() {
    let _alone = alone();
    let (pool, server) = pool(|b| {
        b.max_open(1)
            .check_after(Duration::MAX)
            .max_lifetime(Duration::MAX)
            .max_idle_time(Duration::MAX)
    });
    drop(pool.get().unwrap());
    let before = workers();
    for _ in 0..1_000 {
        drop(pool.get().unwrap());
    }
    assert_eq!(workers(), before);
    assert_eq!(server.dials(), 1);
}

#[test]
fn a_pool_uses_its_resting_threads_again() {
    let _alone = alone();
    let (pool, server) = pool(|b| b.max_open(1));
    for _ in 0..200 {
        PooledConnection::discard(pool.get().unwrap());
    }
    assert_eq!(server.dials(), 200);
    // A worker hands its connection over a moment before it rests, so a few may be needed.
    assert!(workers().len() < 10, "{}", workers().len());
}

/// SHUT-08.
#[test]
fn close_leaves_no_thread_without_work() {
    let _alone = alone();
    let (pool, _server) = pool(|b| b.max_open(4));
    pool.warm_up(4).unwrap();
    assert!(!workers().is_empty());
    pool.close();
    await_that("no thread is left", || workers().is_empty());
    pool.close();
    assert!(pool.get().is_err());
    assert!(workers().is_empty());
}

/// SHUT-08.
#[test]
fn a_busy_thread_ends_with_its_work() {
    let _alone = alone();
    let (pool, server) = pool_that(
        |b| b.close(true),
        |b| b.max_open(2).max_lifetime(Duration::MAX).max_idle_time(Duration::MAX),
    );
    drop(pool.get().unwrap());
    let [dial, close] = [Gate::new(), Gate::new()];
    server.on_dial([dial.then(Act::Succeed)]);
    server.on_close([close.then(Act::Succeed)]);
    PooledConnection::discard(pool.get().unwrap());
    assert!(pool.get_timeout(SHORT).is_err());
    close.await_arrivals(1);
    dial.await_arrivals(1);
    pool.close();
    assert_eq!(workers().len(), 2);
    close.open();
    await_that("the one that closed has gone", || workers().len() == 1);
    dial.open();
    await_that("so has the one that dialed", || workers().is_empty());
    assert_eq!(server.alive(), 0);
}

/// SHUT-08, SHUT-09.
#[test]
fn the_last_handle_takes_the_threads_along() {
    let _alone = alone();
    let (pool, server) = pool(|b| b.max_open(2));
    pool.warm_up(2).unwrap();
    let owned = pool.get_owned().unwrap();
    drop(pool.clone());
    drop(pool);
    assert!(!workers().is_empty(), "a guard is a handle too");
    drop(owned);
    await_that("no thread is left", || workers().is_empty());
    assert_eq!((server.alive(), Arc::strong_count(&server)), (0, 1));
}

/// SHUT-08.
#[test]
fn ten_thousand_pools_made_and_dropped_leave_nothing() {
    let _alone = alone();
    for n in 0..10_000 {
        let (pool, server) = pool(|b| b.max_open(2));
        // Most programs that make many pools use each a little; some not at all.
        if n % 10 == 0 {
            drop(pool.get().unwrap());
        }
        drop(pool);
        assert_eq!(server.open.load(SeqCst), 0);
        assert!(workers_are_few(n), "threads pile up");
    }
    await_that("no thread is left", || workers().is_empty());
}

/// Looked at now and then: reading the list is slow.
fn workers_are_few(n: u32) -> bool {
    n % 1_000 != 0 || workers().len() < 10
}

#[test]
fn keys_share_their_threads_and_leave_none_behind() {
    let _alone = alone();
    let (_, server) = Scripted::new();
    let pool = KeyedPool::new({
        let server = Arc::clone(&server);
        move |_: &u32| Scripted { server: Arc::clone(&server), blocking: Blocking::default() }
    });
    for key in 0..20 {
        drop(pool.get(&key).unwrap());
    }
    assert!(workers().len() < 20, "a thread that has dialed for one key dials for the next");
    assert_eq!(pool.stats().keys, 20);
    pool.close();
    await_that("all have gone", || workers().is_empty());
    assert_eq!(server.alive(), 0);
}
