//! No threads until needed, as few as are needed at once, and none left behind. The thread that
//! wakes pools whose connections age has its tests in `housekeeper.rs`.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common;
use crate::common::{
    Act, Connection, Gate, Refused, SHORT, Scripted, await_that, leave_a_dial, pool, pool_that,
};
use latebind::{Blocking, DialContext, Dialer, KeyedPool, Pool, PooledConnection};

/// The threads of all pools of this process, as the system lists them.
pub(crate) fn threads() -> BTreeSet<PathBuf> {
    let tasks = fs::read_dir("/proc/self/task").expect("Linux lists a process's threads");
    tasks
        .filter_map(|task| {
            let path = task.ok()?.path();
            let name = fs::read_to_string(path.join("comm")).ok()?; // Gone meanwhile.
            name.starts_with("latebind-").then_some(path)
        })
        .collect()
}

#[test]
fn a_pool_has_no_thread_before_its_first_dial() {
    in_a_process!();
    let (pool, _server) =
        pool(|b| b.max_open(4).max_lifetime(Duration::MAX).max_idle_time(Duration::MAX));
    assert!(pool.try_get().is_err());
    assert!(pool.get_timeout(Duration::ZERO).is_err());
    pool.flush();
    pool.resize(2).unwrap();
    assert!(threads().is_empty());
    drop(pool.get().unwrap());
    assert_eq!(threads().len(), 1);
}

#[test]
fn a_checkout_of_an_idle_connection_and_its_return_touch_no_thread() {
    in_a_process!();
    let (pool, server) = pool(|b| {
        b.max_open(1)
            .check_after(Duration::MAX)
            .max_lifetime(Duration::MAX)
            .max_idle_time(Duration::MAX)
    });
    drop(pool.get().unwrap());
    let before = threads();
    for _ in 0..1_000 {
        drop(pool.get().unwrap());
    }
    assert_eq!(threads(), before);
    assert_eq!(server.dials(), 1);
}

#[test]
fn a_pool_uses_its_resting_threads_again() {
    in_a_process!();
    let (pool, server) = pool(|b| b.max_open(1));
    for _ in 0..200 {
        PooledConnection::discard(pool.get().unwrap());
    }
    assert_eq!(server.dials(), 200);
    // A worker hands its connection over a moment before it rests, so a few may be needed.
    assert!(threads().len() < 10, "{}", threads().len());
}

/// Threads that rest are woken to end: by themselves they would rest for 5 s.
#[track_caller]
fn leaves_no_thread(close: impl FnOnce()) {
    assert!(!threads().is_empty());
    let closed = Instant::now();
    close();
    await_that("no thread is left", || threads().is_empty());
    assert!(closed.elapsed() < Duration::from_secs(4), "they rested first, for 5 s");
}

/// SHUT-08.
#[test]
fn close_leaves_no_thread_without_work() {
    in_a_process!();
    let (pool, _server) = pool(|b| b.max_open(4));
    pool.warm_up(4).unwrap();
    leaves_no_thread(|| pool.close());
    pool.close();
    assert!(pool.get().is_err());
    assert!(threads().is_empty());
}

/// SHUT-08: although a handle is left.
#[test]
fn the_close_of_a_keyed_pool_leaves_no_thread_without_work() {
    in_a_process!();
    let (dialer, _server) = Scripted::new();
    let pool = KeyedPool::new(move |_: &u32| dialer.clone());
    drop([1, 2].map(|key| pool.get(&key).unwrap()));
    leaves_no_thread(|| pool.close());
    assert!(pool.get(&1).is_err());
}

/// SHUT-08.
#[test]
fn a_busy_thread_ends_with_its_work() {
    in_a_process!();
    let (pool, server) = pool_that(
        |b| b.close(true),
        |b| b.max_open(2).max_lifetime(Duration::MAX).max_idle_time(Duration::MAX),
    );
    drop(pool.get().unwrap());
    let [dial, close] = [Gate::new(), Gate::new()];
    server.on_dial([dial.then(Act::Succeed)]);
    server.on_close([close.then(Act::Succeed)]);
    PooledConnection::discard(pool.get().unwrap());
    leave_a_dial(&pool);
    close.await_arrivals(1);
    dial.await_arrivals(1);
    pool.close();
    await_that("only those at work are left", || threads().len() == 2);
    close.open();
    await_that("the one that closed has gone", || threads().len() == 1);
    dial.open();
    await_that("so has the one that dialed", || threads().is_empty());
    assert_eq!(server.alive(), 0);
}

/// SHUT-08, SHUT-09.
#[test]
fn the_last_handle_takes_the_threads_along() {
    in_a_process!();
    let (pool, server) = pool(|b| b.max_open(2));
    pool.warm_up(2).unwrap();
    let owned = pool.get_owned().unwrap();
    drop(pool.clone());
    drop(pool);
    assert!(!threads().is_empty(), "a guard is a handle too");
    drop(owned);
    await_that("no thread is left", || threads().is_empty());
    assert_eq!((server.alive(), Arc::strong_count(&server)), (0, 1));
}

/// SHUT-08.
#[test]
fn ten_thousand_pools_made_and_dropped_leave_nothing() {
    in_a_process!();
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
    await_that("no thread is left", || threads().is_empty());
}

/// Looked at now and then: reading the list is slow.
fn workers_are_few(n: u32) -> bool {
    n % 1_000 != 0 || threads().len() < 10
}

#[test]
fn keys_share_their_threads_and_leave_none_behind() {
    in_a_process!();
    let (_, server) = Scripted::new();
    let pool = KeyedPool::new({
        let server = Arc::clone(&server);
        move |_: &u32| Scripted { server: Arc::clone(&server), blocking: Blocking::default() }
    });
    for key in 0..20 {
        drop(pool.get(&key).unwrap());
    }
    assert!(threads().len() < 20, "a thread that has dialed for one key dials for the next");
    assert_eq!(pool.stats().keys, 20);
    pool.close();
    await_that("all have gone", || threads().is_empty());
    assert_eq!(server.alive(), 0);
}

// ---- What pools share --------------------------------------------------------------------------

/// QUIET: as many as are needed at once, however many pools there are.
#[test]
fn a_thousand_pools_used_one_after_the_other_share_a_handful_of_threads() {
    in_a_process!();
    let pools: Vec<_> = (0..1_000)
        .map(|_| {
            let (pool, server) = pool(|b| b.max_open(2));
            drop(pool.get().unwrap());
            (pool, server)
        })
        .collect();
    assert!(threads().len() < 10, "{}", threads().len());
    drop(pools);
    await_that("no thread is left", || threads().is_empty());
}

/// A dial that hangs is nobody else's business.
#[test]
fn dials_that_hang_in_one_pool_hold_up_no_other() {
    in_a_process!();
    let (hung, hung_server) = pool(|b| b.max_open(20).min_idle(0));
    let gate = Gate::new();
    hung_server.on_dial((0..20).map(|_| gate.then(Act::Succeed)));
    assert!(hung.reconfigure().get_timeout(SHORT).apply().is_ok());
    assert!(hung.warm_up(20).is_err());
    gate.await_arrivals(20);
    let (other, server) = pool(|b| b.max_open(5));
    other.warm_up(5).unwrap();
    assert_eq!(server.alive(), 5);
    assert!(threads().len() >= 21);
    gate.open();
    await_that("they end", || hung.stats().dialing == 0);
}

// ---- What runs at the end of a thread ----------------------------------------------------------

static HELD_BY_THE_PROGRAM: Mutex<u32> = Mutex::new(0);

/// State that a client leaves with a thread, such as an interpreter's.
struct ThreadState;

impl Drop for ThreadState {
    fn drop(&mut self) {
        *HELD_BY_THE_PROGRAM.lock().unwrap() += 1;
    }
}

thread_local! {
    static STATE: ThreadState = const { ThreadState };
}

struct Stateful(Scripted);

impl Dialer for Stateful {
    type Connection = Connection;
    type Error = Refused;

    fn dial(&self, context: &DialContext) -> Result<Connection, Refused> {
        STATE.with(|_| ());
        self.0.dial(context)
    }

    fn is_broken(&self, _: &mut Connection) -> bool {
        false
    }

    fn close(&self, connection: Connection) {
        STATE.with(|_| ());
        self.0.close(connection);
    }

    fn blocking(&self) -> Blocking {
        self.0.blocking
    }
}

/// The thread that drops a pool may hold a lock that those destructors wait for.
#[test]
fn nobody_who_closes_or_drops_a_pool_waits_for_the_end_of_a_thread() {
    in_a_process!();
    common::finishes(|| {
        for closes in [false, true] {
            let before = *HELD_BY_THE_PROGRAM.lock().unwrap();
            let (dialer, server) = Scripted::new();
            let pool = Pool::new(Stateful(dialer));
            drop(pool.get().unwrap());
            await_that("its worker rests", || pool.stats().idle == 1);
            let (keyed_dialer, _server) = Scripted::new();
            let keyed = KeyedPool::new(move |_: &u32| {
                let Scripted { server, blocking } = &keyed_dialer;
                Stateful(Scripted { server: Arc::clone(server), blocking: *blocking })
            });
            drop(keyed.get(&1).unwrap());

            let held = HELD_BY_THE_PROGRAM.lock().unwrap();
            if closes {
                pool.close();
                keyed.close();
            }
            drop((pool, keyed));
            assert_eq!(server.alive(), 0);
            drop(held);
            await_that("its threads have gone", || threads().is_empty());
            assert!(*HELD_BY_THE_PROGRAM.lock().unwrap() > before);
        }
    });
}
