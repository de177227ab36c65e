//! The thread that wakes the pools of a process: when it is there, when not, and whom it serves.
//!
//! It is one of those that dial as well, which rest for some seconds before they go. So a test that
//! counts threads waits for those to have gone.

use std::fs;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Barrier, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{
    Act, Connection, Gate, LONG, Refused, Scripted, Server, await_rest, await_that,
    finishes_within, pool, pool_that,
};
use crate::threads::threads;
use latebind::{Blocking, DialContext, Dialer, GetError, Pool, PooledConnection, Quota};

/// A limit short enough to wait for.
const BRIEF: Duration = Duration::from_millis(50);

/// The pool has no connection left, and is gone.
#[track_caller]
fn await_gone(server: &Arc<Server>) {
    await_that("all is closed", || server.alive() == 0);
    await_that("and the dialer dropped", || Arc::strong_count(server) == 1);
}

#[track_caller]
fn await_none() {
    await_that("no thread is left", || threads().is_empty());
}

/// The one that keeps pools up, after those that rest have gone.
#[track_caller]
fn await_one() {
    await_that("one thread is left", || threads().len() == 1);
}

/// How often the only one has gone to sleep.
fn sleeps() -> String {
    let [thread] = Vec::from_iter(threads()).try_into().expect("there is one");
    let status = fs::read_to_string(thread.join("status")).unwrap();
    status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).unwrap().to_owned()
}

/// A limit of its own on each, and one idle connection.
fn at_rest() -> (Pool<Scripted>, Arc<Server>) {
    let (pool, server) = pool(|b| b.max_open(2));
    drop(pool.get().unwrap());
    (pool, server)
}

// ---- When it is there ---------------------------------------------------------------------------

/// QUIET: at rest, with limits on, one sleeping thread for the whole process; none in the end.
#[test]
fn one_thread_sleeps_for_all_pools_at_rest_and_goes_with_the_last() {
    in_a_process!();
    let mut pools: Vec<_> = (0..20).map(|_| at_rest()).collect();
    await_one();
    await_that("it has fallen asleep", || {
        let [before, after] = [(); 2].map(|()| {
            thread::yield_now();
            sleeps()
        });
        before == after
    });
    let before = sleeps();
    // Nothing can be awaited here: this is to see that nothing happens.
    thread::sleep(Duration::from_millis(300));
    assert_eq!(sleeps(), before, "it has not woken since");

    let last = pools.pop().unwrap();
    for (n, (pool, _)) in pools.into_iter().enumerate() {
        if n % 2 == 0 {
            pool.close();
        }
    }
    await_one();
    last.0.close();
    await_none();
    drop(last);
    await_none();
}

/// QUIET, LIFE-09.
#[test]
fn there_is_none_for_a_pool_without_a_limit_or_with_nothing_open() {
    in_a_process!();
    let (idle, _server) = pool(|b| b);
    assert!(idle.try_get().is_err());
    idle.flush();
    idle.resize(3).unwrap();
    let (endless, _server) = pool(|b| b.max_lifetime(Duration::MAX).max_idle_time(Duration::MAX));
    drop(endless.get().unwrap());
    await_none();

    endless.reconfigure().max_lifetime(Duration::from_secs(60)).apply().unwrap();
    await_one();
}

/// QUIET: what might have hung has ended.
#[test]
fn there_is_none_for_a_closed_pool_whose_shared_slots_are_all_free() {
    in_a_process!();
    let quota = Quota::new();
    let (pool, _server) = pool(|b| b.quota(&quota).close_timeout(Duration::from_secs(60 * 60)));
    quota.allow(2, Some(Instant::now() + Duration::from_secs(60 * 60)));
    let (held, other) = (pool.get().unwrap(), pool.get().unwrap());
    drop(other);
    pool.close();
    await_one();
    drop(held);
    await_none();
    drop(pool);
}

/// LIFE-09: it is not ended by each discard, only to be begun again by the next dial.
#[test]
fn it_goes_by_itself_when_it_finds_nothing_open() {
    in_a_process!();
    let (pool, server) = pool(|b| b.max_idle_time(BRIEF));
    drop(pool.get().unwrap());
    await_that("what it has ended is closed", || server.alive() == 0);
    await_none();
}

/// LIFE-09.
#[test]
fn it_goes_by_itself_after_a_discard() {
    in_a_process!();
    let (pool, _server) = pool(|b| b.max_idle_time(BRIEF));
    PooledConnection::discard(pool.get().unwrap());
    await_none();
}

/// LIFE-09.
#[test]
fn the_shortest_limits_wake_it_no_more_than_ten_times_a_second() {
    in_a_process!();
    let nanosecond = Duration::from_nanos(1);
    let (pool, server) =
        pool(|b| b.min_idle(1).max_idle_time(nanosecond).check_idle_every(nanosecond));
    drop(pool.get().unwrap());
    await_that("it has begun", || server.checks.load(SeqCst) >= 3);
    let (began, from) = (Instant::now(), server.checks.load(SeqCst));
    await_that("it has been at it for a while", || server.checks.load(SeqCst) >= from + 20);
    // Two connections, each a tenth earlier at most.
    assert!(began.elapsed() >= Duration::from_millis(800), "{:?}", began.elapsed());
}

/// SHUT-08, LIFE-09.
#[test]
fn ten_thousand_pools_leave_none() {
    in_a_process!();
    let (_kept, server) = at_rest();
    for n in 0..10_000 {
        let (pool, _server) = pool(|b| b.max_open(2));
        if n % 5 == 0 {
            drop(pool.get().unwrap());
        }
        drop(pool);
        assert!(n % 500 != 0 || threads().len() < 10, "{} after {n}", threads().len());
    }
    drop(_kept);
    await_none();
    for _ in 0..1_000 {
        drop(at_rest());
    }
    await_none();
    assert_eq!(server.alive(), 0);
}

/// SHUT-08: many ask and leave at the same time.
#[test]
fn pools_that_come_and_go_on_many_threads_leave_none() {
    in_a_process!();
    let start = Barrier::new(8);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                start.wait();
                for _ in 0..200 {
                    let (pool, server) = pool(|b| b.max_idle_time(Duration::from_millis(1)));
                    drop(pool.get().unwrap());
                    // Upkeep may be about to close what has idled out.
                    assert!(pool.drain(Instant::now() + LONG).is_complete());
                    assert_eq!(server.alive(), 0);
                }
            });
        }
    });
    await_none();
}

// ---- Whom it serves -----------------------------------------------------------------------------

/// A pool's end is not the end of what others have asked for.
#[test]
fn a_pool_that_is_closed_does_not_end_the_upkeep_of_another() {
    in_a_process!();
    let (pool, server) = pool(|b| b.min_idle(1).max_lifetime(BRIEF));
    drop(pool.get().unwrap());
    for _ in 0..5 {
        let (other, _server) = at_rest();
        drop(other.get().unwrap());
        other.close();
        let before = server.closed.load(SeqCst);
        await_that("the next has expired", || server.closed.load(SeqCst) > before);
    }
}

/// LIFE-01: of two threads that ask at the same time, the later one must not have the last word.
#[test]
fn the_sooner_of_two_moments_holds_whoever_comes_last() {
    in_a_process!();
    let race = || {
        let (pool, server) = pool(|b| b.max_open(4).max_lifetime(Duration::MAX));
        let held = pool.get().unwrap();
        let start = Barrier::new(3);
        thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                drop(pool.reconfigure().max_lifetime(Duration::from_secs(60)).apply());
            });
            scope.spawn(|| {
                start.wait();
                drop(pool.reconfigure().max_idle_time(Duration::from_millis(1)).apply());
            });
            start.wait();
            drop(held);
        });
        await_that("it is closed", || server.alive() == 0);
    };
    // Four pools at a time, as each waits for its upkeep.
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..75).for_each(|_| race()));
        }
    });
}

// ---- What it meets ------------------------------------------------------------------------------

/// A scripted dialer that does something of its own in a check and in a close.
struct HookedDialer {
    dialer: Scripted,
    pool: Arc<OnceLock<Mutex<Option<Pool<HookedDialer>>>>>,
    meddle: Box<dyn Fn(Option<Pool<HookedDialer>>) + Send + Sync>,
    in_checks: bool,
}

impl HookedDialer {
    fn meddle(&self) {
        let pool = self.pool.get().and_then(|pool| pool.lock().unwrap().take());
        (self.meddle)(pool);
    }
}

impl Dialer for HookedDialer {
    type Connection = Connection;
    type Error = Refused;

    fn dial(&self, context: &DialContext) -> Result<Connection, Refused> {
        self.dialer.dial(context)
    }

    fn is_broken(&self, _: &mut Connection) -> bool {
        false
    }

    fn check(&self, _: &mut Connection, _: Instant) -> Result<(), Refused> {
        if self.in_checks {
            self.meddle();
        }
        Ok(())
    }

    fn close(&self, connection: Connection) {
        if !self.in_checks {
            self.meddle();
        }
        self.dialer.close(connection);
    }

    fn blocking(&self) -> Blocking {
        self.dialer.blocking.check(false)
    }
}

/// A pool with one connection that upkeep checks or closes, and meanwhile does `meddle` with the only
/// other handle of the pool.
fn meddled(
    in_checks: bool,
    meddle: impl Fn(Option<Pool<HookedDialer>>) + Send + Sync + 'static,
) -> (Pool<HookedDialer>, Arc<Server>) {
    let (dialer, server) = Scripted::new();
    let cell = Arc::new(OnceLock::new());
    let meddle = Box::new(meddle);
    let dialer = HookedDialer { dialer, pool: Arc::clone(&cell), meddle, in_checks };
    let builder = Pool::builder(dialer);
    let limited =
        if in_checks { builder.check_idle_every(BRIEF) } else { builder.max_idle_time(BRIEF) };
    let pool = limited.build().unwrap();
    assert!(cell.set(Mutex::new(Some(pool.clone()))).is_ok());
    drop(pool.get().unwrap());
    (pool, server)
}

/// SHUT-07, SHUT-09.
#[test]
fn what_upkeep_calls_may_close_the_pool() {
    in_a_process!();
    for in_checks in [false, true] {
        finishes_within(Duration::from_secs(20), move || {
            let (pool, server) = meddled(in_checks, |pool| {
                if let Some(pool) = pool {
                    pool.close();
                    assert!(matches!(pool.try_get(), Err(GetError::Closed)));
                    let _ = pool.drain(Instant::now());
                }
            });
            await_that("it is closed", || server.alive() == 0);
            assert!(matches!(pool.get(), Err(GetError::Closed)));
        });
        await_none();
    }
}

/// SHUT-08, SHUT-09.
#[test]
fn what_upkeep_calls_may_let_the_last_handle_go() {
    in_a_process!();
    for in_checks in [false, true] {
        finishes_within(Duration::from_secs(20), move || {
            let gate = Gate::new();
            let pass = gate.clone();
            let (pool, server) = meddled(in_checks, move |pool| {
                if let Some(pool) = pool {
                    pass.pass();
                    drop(pool);
                }
            });
            gate.await_arrivals(1);
            drop(pool);
            gate.open();
            await_gone(&server);
        });
        await_none();
    }
}

/// SHUT-08, SHUT-09.
#[test]
fn the_last_handle_may_go_while_upkeep_is_at_work() {
    in_a_process!();
    for may_block in [false, true] {
        finishes_within(Duration::from_secs(20), move || {
            let gate = Gate::new();
            let (pool, server) = pool_that(|b| b.close(may_block), |b| b.max_idle_time(BRIEF));
            server.on_close([gate.then(Act::Succeed)]);
            drop(pool.get().unwrap());
            gate.await_arrivals(1);
            pool.close();
            drop(pool);
            gate.open();
            await_gone(&server);
        });
        await_none();
    }
}

/// LIFE-12: for that pool and for all others.
#[test]
fn a_panic_in_what_upkeep_calls_ends_nothing_but_that_connection() {
    in_a_process!();
    let (other, others) = pool(|b| b.min_idle(1).max_lifetime(BRIEF));
    drop(other.get().unwrap());
    for may_block in [false, true] {
        let (pool, server) = pool_that(
            |b| b.close(may_block).check(may_block),
            |b| b.max_open(1).min_idle(1).check_idle_every(BRIEF).max_lifetime(4 * BRIEF),
        );
        server.on_check((0..2).map(|_| Act::Panic));
        server.on_close((0..3).map(|_| Act::Panic));
        drop(pool.get().unwrap());
        await_that("all have panicked", || pool.stats().panics_total == 5);
        let (checks, closed) = (server.checks.load(SeqCst), server.closed.load(SeqCst));
        await_that("upkeep goes on", || server.closed.load(SeqCst) > closed);
        await_that("checks go on", || server.checks.load(SeqCst) > checks);
        pool.reconfigure()
            .max_lifetime(Duration::MAX)
            .check_idle_every(Duration::MAX)
            .apply()
            .unwrap();
        assert_eq!(await_rest(&pool, &server).idle, 1);
    }
    let closed = others.closed.load(SeqCst);
    await_that("and elsewhere", || others.closed.load(SeqCst) > closed);
}

/// A dialer that blocks holds up no other pool.
#[test]
fn a_close_that_hangs_delays_the_upkeep_of_no_other_pool() {
    in_a_process!();
    for may_block in [true, false] {
        let gate = Gate::new();
        let (hung, server) = pool_that(|b| b.close(may_block), |b| b.max_idle_time(BRIEF));
        server.on_close([gate.then(Act::Succeed)]);
        drop(hung.get().unwrap());
        gate.await_arrivals(1);
        let (other, others) = pool(|b| b.max_idle_time(BRIEF));
        drop(other.get().unwrap());
        await_that("the other is kept up", || others.alive() == 0);
        gate.open();
        await_rest(&hung, &server);
    }
}
