//! Guards kept in, taken in and dropped in destructors of thread-locals, whichever of the pool's own
//! thread-locals have gone before. `alone_thread_of_main.rs` has the thread that `main` runs on.
//!
//! Windows holds a lock while it runs such a destructor that a thread needs to begin (see the
//! documentation of `std::thread::LocalKey`). So none may wait there for what another thread does.

#![cfg_attr(windows, allow(dead_code, unused_imports))] // Some of the tests are left out.

use std::cell::RefCell;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::common;
use crate::common::{LONG, SHORT, Scripted, Server, await_waiting, finishes, pool, pool_that};
use latebind::{Blocking, Cancel, GetError, Guard, KeyedPool};

/// A thread's act in a destructor of a thread-local.
struct AtEnd(RefCell<Option<Box<dyn FnOnce()>>>);

impl Drop for AtEnd {
    fn drop(&mut self) {
        if let Some(act) = self.0.take() {
            act();
        }
    }
}

thread_local! {
    static AT_END: AtEnd = const { AtEnd(RefCell::new(None)) };
}

/// Whether the thread-local of the test is there before those of the pool. The one that is made first is
/// destroyed last: those of the pool have gone by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Before,
    After,
    /// The thread uses the pool for the first time when it ends.
    Alone,
}

const ORDERS: [Order; 3] = [Order::Before, Order::After, Order::Alone];

/// Runs a thread, with a name or without, that uses a pool and keeps for its end what `keep` makes.
fn end_a_thread<A: FnOnce() + 'static>(
    order: Order,
    is_named: bool,
    keep: impl FnOnce() -> A + Send + 'static,
) {
    let body = move || {
        let touch = || AT_END.with(|_| ());
        match order {
            Order::Before => (touch(), use_all_there_is()).1,
            Order::After => (use_all_there_is(), touch()).1,
            Order::Alone => touch(),
        }
        let act = keep();
        AT_END.with(|at_end| at_end.0.replace(Some(Box::new(act))));
    };
    let builder = thread::Builder::new();
    let builder = if is_named { builder.name("it ends".to_owned()) } else { builder };
    finishes(move || builder.spawn(body).unwrap().join().expect("the thread has ended well"));
}

/// Has the thread meet everything that keeps something for it: a wait, a directory, an id, a name.
fn use_all_there_is() {
    let (pool, _server) = pool(|b| b.max_open(1));
    let _held = pool.get().unwrap();
    assert!(pool.get_timeout(SHORT).is_err());
    let (keyed, _server) = keyed(1);
    drop(keyed.get(&1).unwrap());
    drop(keyed.get(&1).unwrap());
}

fn keyed(max_open: u32) -> (KeyedPool<u32, Scripted>, Arc<Server>) {
    let (_, server) = Scripted::new();
    let pool = KeyedPool::builder({
        let server = Arc::clone(&server);
        move |_: &u32| Scripted { server: Arc::clone(&server), blocking: Blocking::default() }
    });
    (pool.max_open(max_open).build().unwrap(), server)
}

/// In each order, on a thread with a name and on one without.
fn in_each_way(check: impl Fn(Order, bool)) {
    for order in ORDERS {
        for is_named in [false, true] {
            check(order, is_named);
        }
    }
}

#[test]
fn a_keyed_guard_kept_by_a_thread_goes_back_when_the_thread_ends() {
    in_each_way(|order, is_named| {
        let (pool, server) = keyed(1);
        let owned = pool.clone();
        end_a_thread(order, is_named, move || {
            let guard = owned.get_owned(&1).unwrap();
            move || drop(guard)
        });
        let stats = pool.stats_of(&1).unwrap();
        assert_eq!((stats.idle, stats.in_use, server.alive()), (1, 0, 1), "{order:?}");
        drop(pool.get_timeout(&1, Duration::ZERO).unwrap());
    });
}

#[test]
fn a_borrowed_guard_of_a_static_kept_by_a_thread_goes_back_when_the_thread_ends() {
    in_each_way(|order, is_named| {
        let (keyed, keyed_server) = keyed(1);
        let (pool, server) = pool(|b| b.max_open(1));
        let (keyed, pool): (&'static _, &'static _) =
            (Box::leak(Box::new(keyed)), Box::leak(Box::new(pool)));
        end_a_thread(order, is_named, move || {
            let guards = (keyed.get(&1).unwrap(), pool.get().unwrap());
            move || drop(guards)
        });
        assert_eq!((keyed.stats_of(&1).unwrap().idle, keyed_server.alive()), (1, 1), "{order:?}");
        assert_eq!((pool.stats().idle, server.alive()), (1, 1), "{order:?}");
    });
}

#[test]
fn a_thread_that_ends_may_take_connections_of_keys() {
    in_each_way(|order, is_named| {
        let (pool, server) = keyed(1);
        drop(pool.get(&1).unwrap());
        let own = pool.clone();
        end_a_thread(order, is_named, || {
            move || {
                // At rest, to be dialed, of a key without connections, and of one at its limit.
                let one = own.get(&1).unwrap();
                let other = own.get_timeout(&2, LONG).unwrap();
                assert!(own.try_get(&3).is_err());
                assert!(matches!(own.get_timeout(&2, SHORT), Err(GetError::Exhausted { .. })));
                own.warm_up(&4, 1).unwrap();
                assert_eq!((own.stats().keys, own.holders().len()), (3, 2));
                drop(one);
                Guard::discard(other);
                drop(own.try_get(&1).unwrap());
            }
        });
        assert_eq!(server.alive(), 2, "{order:?}");
        assert_eq!((pool.stats_of(&1).unwrap().idle, pool.stats().keys), (1, 2), "{order:?}");
    });
}

#[cfg(not(windows))] // See above.
#[test]
fn a_thread_that_ends_may_take_connections_and_wait_for_them() {
    in_each_way(|order, is_named| {
        let (pool, server) = pool(|b| b.max_open(2));
        let own = pool.clone();
        end_a_thread(order, is_named, || {
            move || {
                let (held, one) = (own.get_owned().unwrap(), own.get().unwrap());
                assert!(matches!(own.get_timeout(SHORT), Err(GetError::Exhausted { .. })));
                let other = thread::spawn({
                    let own = own.clone();
                    move || {
                        await_waiting(&own, 1);
                        drop(held);
                    }
                });
                let served = own.get().unwrap();
                other.join().unwrap();
                Guard::discard(one);
                drop(Guard::detach(served));
                own.warm_up(2).unwrap();
                let _ = (own.stats(), own.holders());
            }
        });
        assert_eq!((pool.stats().idle, server.alive()), (2, 2), "{order:?}");
    });
}

/// With a dialer all of whose calls are made on other threads.
#[cfg(not(windows))] // See above.
#[test]
fn a_thread_that_ends_may_have_threads_begun_for_it() {
    in_each_way(|order, is_named| {
        let (pool, server) = pool_that(|b| b.check(true).reset(true).close(true), |b| b);
        let own = pool.clone();
        end_a_thread(order, is_named, || {
            move || {
                let _ = &*own.get().unwrap();
                Guard::discard(own.get().unwrap());
                drop(own.get().unwrap());
                own.flush();
            }
        });
        common::await_rest(&pool, &server);
    });
}

#[cfg(not(windows))] // See above.
#[test]
fn a_thread_that_ends_may_cancel_waits_and_have_its_own_cancelled() {
    in_each_way(|order, is_named| {
        let (pool, _server) = pool(|b| b.max_open(1));
        let held = pool.get().unwrap();
        let (own, theirs) = (Cancel::new(), Cancel::new());
        let cancelled = thread::spawn({
            let (pool, own) = (pool.clone(), own.clone());
            move || pool.checkout().cancel(&own).timeout(LONG).get().map(drop)
        });
        await_waiting(&pool, 1);
        let waits = pool.clone();
        end_a_thread(order, is_named, || {
            move || {
                own.cancel();
                let other = thread::spawn({
                    let (waits, theirs) = (waits.clone(), theirs.clone());
                    move || {
                        common::await_that("it waits", || waits.stats().waiting == 1);
                        theirs.cancel();
                    }
                });
                let outcome = waits.checkout().cancel(&theirs).timeout(LONG).get();
                assert!(matches!(outcome, Err(GetError::Cancelled)));
                other.join().unwrap();
            }
        });
        assert!(matches!(cancelled.join().unwrap(), Err(GetError::Cancelled)));
        drop(held);
    });
}

#[test]
fn the_last_handles_may_go_with_a_thread() {
    in_each_way(|order, is_named| {
        let (keyed, keyed_server) = keyed(2);
        let (pool, server) = pool(|b| b);
        end_a_thread(order, is_named, move || {
            let (lent, other) = (keyed.get_owned(&1).unwrap(), pool.get_owned().unwrap());
            drop(keyed.get(&2).unwrap());
            move || drop((keyed, pool, lent, other))
        });
        for server in [keyed_server, server] {
            assert_eq!(server.alive(), 0, "{order:?}");
            // The thread that dialed may hold the pool for a moment after its connection has been used.
            common::await_that("nothing is left", || Arc::strong_count(&server) == 1);
        }
    });
}

#[test]
fn a_thread_that_ends_may_close_a_pool_and_wait_until_it_is_drained() {
    in_each_way(|order, is_named| {
        let ((keyed, keyed_server), (pool, server)) = (keyed(1), pool(|b| b.max_open(1)));
        let (theirs, other) = (keyed.get_owned(&1).unwrap(), pool.get_owned().unwrap());
        let returning = thread::spawn({
            let (keyed, pool) = (keyed.clone(), pool.clone());
            move || {
                let is_closed = |error| matches!(error, Err(GetError::Closed));
                common::await_that("it is closed", || is_closed(pool.try_get().map(drop)));
                drop(other);
                common::await_that("it is closed", || is_closed(keyed.try_get(&1).map(drop)));
                drop(theirs);
            }
        });
        end_a_thread(order, is_named, || {
            move || {
                assert!(pool.drain(Instant::now() + LONG).is_complete());
                assert!(keyed.drain(Instant::now() + LONG).is_complete());
                assert!(matches!(keyed.get(&1), Err(GetError::Closed)));
            }
        });
        returning.join().unwrap();
        assert_eq!((keyed_server.alive(), server.alive()), (0, 0), "{order:?}");
    });
}

/// Over real sockets, whose names may be resolved on yet other threads.
#[cfg(all(feature = "net", not(windows)))] // See above.
#[test]
fn a_thread_that_ends_may_dial_a_server() {
    use latebind::{Pool, net};

    let listener = net::listen_tcp("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let pool = Pool::new(net::TcpDialer::new("localhost", port));
    let keyed = KeyedPool::new(|port: &u16| net::TcpDialer::new("127.0.0.1", *port));
    in_each_way(|order, is_named| {
        let (pool, keyed) = (pool.clone(), keyed.clone());
        end_a_thread(order, is_named, move || {
            let kept = (pool.get_owned().unwrap(), keyed.get_owned(&port).unwrap());
            move || {
                let more = (pool.get().unwrap(), keyed.get(&port).unwrap());
                drop((more, kept));
            }
        });
    });
    assert_eq!((pool.stats().in_use, keyed.stats_of(&port).unwrap().in_use), (0, 0));
}
