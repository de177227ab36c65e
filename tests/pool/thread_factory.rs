//! Threads that a program starts for its pools in a way of its own, or refuses to.

use std::error::Error;
use std::io;
use std::mem;
use std::panic;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::common;
use crate::common::{
    Gate, LONG, Scripted, Server, await_rest, await_that, await_waiting, leave_a_dial,
};
use latebind::{Builder, GetError, KeyedPool, Pool, PooledConnection, Threads};

/// A limit short enough to wait for.
const BRIEF: Duration = Duration::from_millis(20);

/// A system with so many threads to give.
struct System {
    left: AtomicU32,
    /// Those that there are.
    alive: AtomicU32,
    started: Mutex<Vec<String>>,
}

impl System {
    fn with(threads: u32) -> (Threads, Arc<Self>) {
        let system = Arc::new(Self {
            left: AtomicU32::new(threads),
            alive: AtomicU32::new(0),
            started: Mutex::default(),
        });
        let threads = Threads::new({
            let system = Arc::clone(&system);
            move |thread, body| {
                let take = |left: u32| left.checked_sub(1);
                system
                    .left
                    .fetch_update(SeqCst, SeqCst, take)
                    .map_err(|_| io::Error::from(io::ErrorKind::WouldBlock))?;
                system.alive.fetch_add(1, SeqCst);
                let system = Arc::clone(&system);
                thread.spawn(move || {
                    let name = thread::current().name().unwrap().to_owned();
                    system.started.lock().unwrap().push(name);
                    body();
                    system.alive.fetch_sub(1, SeqCst);
                })
            }
        });
        (threads, system)
    }

    fn allow(&self, threads: u32) {
        self.left.store(threads, SeqCst);
    }

    fn alive(&self) -> u32 {
        self.alive.load(SeqCst)
    }

    fn started(&self) -> usize {
        self.started.lock().unwrap().len()
    }
}

fn pool(
    threads: &Threads,
    set: impl FnOnce(Builder<Scripted>) -> Builder<Scripted>,
) -> (Pool<Scripted>, Arc<Server>) {
    common::pool(|b| set(b.threads(threads)))
}

/// A pool nothing of which ages, so that nobody has to keep it up.
fn ageless(threads: &Threads, max_open: u32) -> (Pool<Scripted>, Arc<Server>) {
    pool(threads, |b| b.max_open(max_open).max_lifetime(Duration::MAX).max_idle_time(Duration::MAX))
}

/// A caller for each.
fn get_from_each(pools: &[(Pool<Scripted>, Arc<Server>)]) {
    thread::scope(|scope| {
        for (pool, _) in pools {
            scope.spawn(|| drop(pool.get_timeout(LONG).unwrap()));
        }
    });
    for (pool, server) in pools {
        assert_eq!(pool.stats().dial_failed_total, 0);
        assert_eq!(await_rest(pool, server).idle, 1);
    }
}

// ---- Whose threads -----------------------------------------------------------------------------

#[test]
fn dials_and_upkeep_run_on_the_threads_that_a_program_starts() {
    let (threads, system) = System::with(10);
    let (aging, aged) = pool(&threads, |b| b.max_idle_time(BRIEF));
    let keyed = KeyedPool::builder(|_: &u32| Scripted::new().0).threads(&threads).build().unwrap();
    drop(aging.get().unwrap());
    drop(keyed.get(&1).unwrap());
    await_that("upkeep comes", || aged.alive() == 0);
    let started = system.started.lock().unwrap().clone();
    assert!(started.contains(&"latebind-1".to_owned()), "{started:?}");
    drop((aging, keyed));
    await_that("all end with the pools", || system.alive() == 0);
}

/// A thread of one kind does nothing for a pool that asks for another.
#[test]
fn pools_with_different_threads_share_none() {
    let [(one, of_one), (other, of_other)] = [(); 2].map(|()| System::with(10));
    let pools = [&one, &other].map(|threads| ageless(threads, 1));
    for _ in 0..20 {
        for (pool, _) in &pools {
            PooledConnection::discard(pool.get().unwrap());
        }
    }
    assert!(of_one.started() >= 1 && of_other.started() >= 1);
    of_one.allow(0);
    drop(pools);
    await_that("each goes", || of_one.alive() + of_other.alive() == 0);
    let (starved, _server) = ageless(&one, 1);
    assert!(matches!(starved.get(), Err(GetError::Unreachable { .. })));
    let (served, _server) = ageless(&other, 1);
    drop(served.get().unwrap());
}

#[test]
fn pools_with_the_same_threads_share_them() {
    let (threads, system) = System::with(1);
    let pools: Vec<_> = (0..50).map(|_| ageless(&threads.clone(), 1)).collect();
    get_from_each(&pools);
    assert_eq!(system.started(), 1);
}

// ---- None to be had ----------------------------------------------------------------------------

/// ACC-05, WAK-11.
#[test]
fn a_long_queue_without_a_thread_fails_in_a_loop_and_not_in_depth() {
    const CALLERS: u32 = 500;
    let (threads, system) = System::with(1);
    let (pool, server) = ageless(&threads, 1);
    let held = pool.get().unwrap();
    await_that("the thread that has dialed has gone", || system.alive() == 0);
    let ends = thread::scope(|scope| {
        let small = || thread::Builder::new().stack_size(256 << 10);
        let caller = || small().spawn_scoped(scope, || pool.get_timeout(LONG).map(drop));
        let callers: Vec<_> = (0..CALLERS).map(|_| caller().unwrap()).collect();
        await_waiting(&pool, CALLERS);
        let discard = || PooledConnection::discard(held);
        small().spawn_scoped(scope, discard).unwrap().join().unwrap();
        callers.into_iter().map(|caller| caller.join().unwrap()).collect::<Vec<_>>()
    });
    for end in ends {
        let reason = end.unwrap_err().source().unwrap().to_string();
        assert_eq!(reason, "no thread could be started for the dial");
    }
    assert_eq!((pool.stats().dial_failed_total, server.dials()), (u64::from(CALLERS), 1));
    await_rest(&pool, &server);
}

/// ACC-05, LIFE-06: the only thread there is does all dials, and upkeep in between.
#[test]
fn with_one_thread_all_pools_are_served_and_kept_up() {
    let (threads, system) = System::with(1);
    let (aging, aged) = pool(&threads, |b| b.max_idle_time(10 * BRIEF));
    drop(aging.get().unwrap());
    let pools: Vec<_> = (0..20).map(|_| ageless(&threads, 1)).collect();
    get_from_each(&pools);
    await_that("upkeep comes all the same", || aged.alive() == 0);
    drop(aging.get_timeout(LONG).unwrap());
    await_that("and again", || aged.alive() == 0);
    assert_eq!(system.started(), 1);
}

/// LIFE-06: what is due is not forgotten for want of a thread.
#[test]
fn upkeep_that_found_no_thread_comes_with_the_next_that_is_to_be_had() {
    let (threads, system) = System::with(1);
    let (aging, server) = ageless(&threads, 1);
    let held = aging.get().unwrap();
    await_that("the thread that has dialed has gone", || system.alive() == 0);
    aging.reconfigure().max_idle_time(BRIEF).apply().unwrap();
    drop(held);
    let (refilled, refills) = pool(&threads, |b| b.min_idle(1).max_lifetime(Duration::MAX));
    assert_eq!(refilled.stats().dial_failed_total, 1, "said, as of any dial");
    assert_eq!((server.alive(), refills.alive()), (1, 0));

    // Nobody uses those two from here on but to look at what their servers see.
    system.allow(10);
    let (other, _server) = ageless(&threads, 1);
    drop(other.get_timeout(LONG).unwrap());
    await_that("the one is closed", || server.alive() == 0);
    await_that("the other is refilled", || refills.alive() == 1);
}

/// A task that waits for a thread gets one as soon as there is one, however long others are at work.
#[test]
fn what_waits_behind_dials_that_hang_is_served_once_a_thread_is_to_be_had() {
    let (threads, system) = System::with(1);
    let (hung, hung_server) = ageless(&threads, 1);
    let gate = Gate::new();
    hung_server.on_dial([gate.then(common::Act::Succeed)]);
    leave_a_dial(&hung);
    gate.await_arrivals(1);
    let [first, second] = [(); 2].map(|()| ageless(&threads, 1));
    thread::scope(|scope| {
        scope.spawn(|| drop(first.0.get_timeout(LONG).unwrap()));
        await_that("it waits for a thread", || first.0.stats().dialing == 1);
        system.allow(1);
        drop(second.0.get_timeout(LONG).unwrap());
    });
    assert_eq!((first.1.alive(), second.1.alive(), system.started()), (1, 1, 2));
    gate.open();
    await_rest(&hung, &hung_server);
}

/// No slot is lost, whatever it does.
#[test]
fn what_starts_threads_may_panic_or_drop_what_one_was_to_run() {
    let turn = AtomicU32::new(0);
    let threads = Threads::new(move |thread, body| match turn.fetch_add(1, SeqCst) {
        0 => panic::resume_unwind(Box::new("as the script says")),
        1 => {
            drop(body);
            Ok(())
        }
        _ => thread.spawn(body).map(drop),
    });
    let (pool, server) = ageless(&threads, 1);
    for reason in [
        "the function given to `Threads::new` panicked",
        "the function given to `Threads::new` dropped the body of the thread",
    ] {
        let error = pool.get_timeout(LONG).unwrap_err();
        let failure = error.source().unwrap();
        assert_eq!(failure.source().unwrap().to_string(), reason);
    }
    drop(pool.get_timeout(LONG).unwrap());
    assert_eq!(await_rest(&pool, &server).idle, 1);
}

/// A system that loses some threads: they panic before they run what they were started for.
#[derive(Default)]
struct Losing {
    /// Whether the next thread is lost.
    is_next: AtomicBool,
    /// The pool whose callers the next lost thread waits for, and how many it waits for.
    callers: Mutex<Option<(Pool<Scripted>, u32)>>,
    started: Mutex<Vec<thread::JoinHandle<()>>>,
}

impl Losing {
    fn threads() -> (Threads, Arc<Self>) {
        let system = Arc::<Self>::default();
        let threads = Threads::new({
            let system = Arc::clone(&system);
            move |thread, body| {
                let is_lost = system.is_next.swap(false, SeqCst);
                let of_thread = Arc::clone(&system);
                let thread = thread.spawn(move || {
                    if is_lost {
                        // Taken out: the pool would keep these threads, and they the pool.
                        let callers = of_thread.callers.lock().unwrap().take();
                        callers.into_iter().for_each(|(pool, n)| await_waiting(&pool, n));
                        panic::resume_unwind(Box::new("as the script says"));
                    }
                    body();
                })?;
                system.started.lock().unwrap().push(thread);
                Ok(())
            }
        });
        (threads, system)
    }

    /// Waits for the end of all threads, and returns how many were lost.
    fn join(&self) -> usize {
        let started = mem::take(&mut *self.started.lock().unwrap());
        started.into_iter().filter_map(|thread| thread.join().err()).count()
    }
}

/// NO-LOST-SLOT: the thread for a dial panics before it has begun the dial.
#[test]
fn a_thread_that_ends_before_it_has_dialed_fails_one_dial() {
    let (threads, system) = Losing::threads();
    let (pool, server) = ageless(&threads, 1);
    *system.callers.lock().unwrap() = Some((pool.clone(), 2));
    system.is_next.store(true, SeqCst);
    let ends = thread::scope(|scope| {
        let callers = [(); 2].map(|()| scope.spawn(|| pool.get_timeout(LONG).map(drop)));
        callers.map(|caller| caller.join().unwrap())
    });
    let failed: Vec<_> = ends.into_iter().filter_map(Result::err).collect();
    let [error] = &failed[..] else { panic!("{failed:?}") };
    let reason = error.source().unwrap().source().unwrap().to_string();
    assert_eq!(reason, "the function given to `Threads::new` dropped the body of the thread");
    assert_eq!((pool.stats().dial_failed_total, server.dials()), (1, 1));
    await_rest(&pool, &server);
}

/// LIFE-06: the thread for upkeep panics before it has begun. The pool's next event has upkeep come all the same.
#[test]
fn upkeep_whose_thread_was_lost_comes_after_the_next_event() {
    let (threads, system) = Losing::threads();
    let (pool, server) = ageless(&threads, 1);
    let held = pool.get().unwrap();
    assert_eq!(system.join(), 0, "it has dialed, rested and gone");
    system.is_next.store(true, SeqCst);
    pool.reconfigure().max_idle_time(BRIEF).apply().unwrap();
    assert_eq!(system.join(), 1);
    drop(held);
    await_that("it is closed", || server.alive() == 0);
}

/// NO-USER-CODE-UNDER-LOCK.
#[test]
fn what_starts_threads_may_use_pools_that_it_starts_them_for() {
    common::finishes(|| {
        let used = Arc::<Mutex<Option<[Pool<Scripted>; 2]>>>::default();
        let threads = Threads::new({
            let used = Arc::clone(&used);
            move |thread, body| {
                let pools = used.lock().unwrap().take();
                if let Some([wanted, other]) = pools {
                    assert_eq!(wanted.stats().dialing, 1);
                    drop(other.get_timeout(LONG).unwrap());
                }
                thread.spawn(body)
            }
        });
        let [(wanted, server), (other, _)] = [(); 2].map(|()| ageless(&threads, 1));
        *used.lock().unwrap() = Some([wanted.clone(), other]);
        drop(wanted.get_timeout(LONG).unwrap());
        await_rest(&wanted, &server);
    });
}
