//! User code runs under no lock of the pool: it may panic, hang, and call the pool.

use std::cell::Cell;
use std::error::Error;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::common;
use crate::common::{
    Act, Gate, LONG, SHORT, Scripted, await_rest, await_that, await_waiting, finishes, pool,
    pool_that, used,
};
use latebind::{Blocking, DialContext, Dialer, GetError, OwnedConnection, Pool, PooledConnection};

// ---- A dialer that calls its own pool ----------------------------------------------------------

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Call {
    Dial,
    IsBroken,
    Check,
    Reset,
    Close,
    DropConnection,
    DropError,
}

type Ask = dyn Fn(&Pool<CallingDialer>, Call) + Send + Sync;

/// Asks its pool for something in each of its calls, and in the drops of what it makes.
#[derive(Clone)]
struct CallingDialer(Arc<Inner>);

struct Inner {
    pool: Mutex<Option<Pool<CallingDialer>>>,
    ask: Box<Ask>,
    asked: Mutex<Vec<Call>>,
    /// Calls that are asking at this moment, on whatever thread.
    asking: AtomicU32,
    refuses: AtomicBool,
    blocking: Blocking,
}

struct CallingConnection(CallingDialer);

struct CallingError(CallingDialer);

impl CallingDialer {
    fn call(&self, call: Call) {
        thread_local!(static IS_INSIDE: Cell<bool> = const { Cell::new(false) });
        let pool = self.0.pool.lock().unwrap().clone();
        let Some(pool) = pool else { return };
        // The question leads to further calls on this thread.
        if !IS_INSIDE.replace(true) {
            self.0.asking.fetch_add(1, SeqCst);
            self.0.asked.lock().unwrap().push(call);
            (self.0.ask)(&pool, call);
            self.0.asking.fetch_sub(1, SeqCst);
            IS_INSIDE.set(false);
        }
    }

    fn was_asked(&self, call: Call) -> bool {
        self.0.asked.lock().unwrap().contains(&call)
    }

    /// Has each call made, in a pool of which every call asks for `ask`; says which were made.
    fn play(
        may_block: bool,
        ask: impl Fn(&Pool<CallingDialer>, Call) + Send + Sync + 'static,
    ) -> (Vec<Call>, Pool<CallingDialer>) {
        let dialer = CallingDialer(Arc::new(Inner {
            pool: Mutex::default(),
            ask: Box::new(ask),
            asked: Mutex::default(),
            asking: AtomicU32::default(),
            refuses: AtomicBool::default(),
            blocking: Blocking::default().check(may_block).reset(may_block).close(may_block),
        }));
        let pool = Pool::builder(dialer.clone())
            .max_open(3)
            .check_after(Duration::ZERO)
            .get_timeout(Duration::from_secs(1))
            .build()
            .unwrap();
        *dialer.0.pool.lock().unwrap() = Some(pool.clone());
        // The question may take an idle connection away before it is checked: then it is asked once more.
        for _ in 0..50 {
            drop(pool.get().map(used));
            await_that("it has come back", || pool.stats().in_use == 0);
            if dialer.was_asked(Call::Check) {
                break;
            }
        }
        if let Ok(connection) = pool.get() {
            PooledConnection::discard(connection);
        }
        drop(pool.warm_up(1));
        pool.flush();
        drop(pool.get().map(PooledConnection::detach));
        dialer.0.refuses.store(true, SeqCst);
        // A failed dial's error goes when the next has failed, after the caller has its answer. A dial
        // begun before may succeed yet.
        await_that("an error has been dropped, or the pool is closed", || {
            pool.flush();
            let is_closed = matches!(pool.get(), Err(GetError::Closed));
            is_closed || dialer.was_asked(Call::DropError)
        });
        await_that("nothing is under way", || {
            let stats = pool.stats();
            let calls = dialer.0.asking.load(SeqCst);
            stats.in_use + stats.dialing + stats.closing + stats.waiting + calls == 0
        });
        // The pool and its dialer hold each other.
        dialer.0.pool.lock().unwrap().take();
        let mut asked = dialer.0.asked.lock().unwrap().clone();
        asked.sort_unstable();
        asked.dedup();
        (asked, pool)
    }
}

impl Drop for CallingConnection {
    fn drop(&mut self) {
        self.0.call(Call::DropConnection);
    }
}

impl Drop for CallingError {
    fn drop(&mut self) {
        self.0.call(Call::DropError);
    }
}

impl fmt::Debug for CallingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallingError")
    }
}

impl fmt::Display for CallingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("refused")
    }
}

impl Error for CallingError {}

impl Dialer for CallingDialer {
    type Connection = CallingConnection;
    type Error = CallingError;

    fn dial(&self, _: &DialContext) -> Result<CallingConnection, CallingError> {
        self.call(Call::Dial);
        if self.0.refuses.load(SeqCst) {
            Err(CallingError(self.clone()))
        } else {
            Ok(CallingConnection(self.clone()))
        }
    }

    fn is_broken(&self, _: &mut CallingConnection) -> bool {
        self.call(Call::IsBroken);
        false
    }

    fn check(&self, _: &mut CallingConnection, _: Instant) -> Result<(), CallingError> {
        self.call(Call::Check);
        Ok(())
    }

    fn reset(&self, _: &mut CallingConnection) -> Result<(), CallingError> {
        self.call(Call::Reset);
        Ok(())
    }

    fn close(&self, connection: CallingConnection) {
        self.call(Call::Close);
        drop(connection);
    }

    fn blocking(&self) -> Blocking {
        self.0.blocking
    }
}

/// LOCK-01, LOCK-03, STAT-02.
#[test]
fn every_call_of_a_dialer_and_every_drop_may_call_the_pool() {
    for may_block in [false, true] {
        let asked = finishes(move || {
            let (asked, pool) = CallingDialer::play(may_block, |pool, _| {
                assert!(pool.stats().open() <= 3);
                assert!(format!("{pool:?}").contains("idle"));
                drop(pool.try_get());
                drop(pool.get_timeout(Duration::ZERO));
                drop(pool.checkout().timeout(Duration::from_micros(100)).get_owned());
                drop(pool.warm_up(0));
                pool.resize(3).unwrap();
                if let Ok(connection) = pool.try_get() {
                    PooledConnection::discard(connection);
                }
            });
            assert_eq!(pool.stats().panics_total, 0);
            asked
        });
        use Call::*;
        assert_eq!(asked, [Dial, IsBroken, Check, Reset, Close, DropConnection, DropError]);
    }
}

/// LOCK-01.
#[test]
fn every_call_of_a_dialer_and_every_drop_may_flush_the_pool() {
    for may_block in [false, true] {
        finishes(move || {
            // A flush at each close of what it has retired would go on for ever.
            let flushes = AtomicU32::new(0);
            let (asked, _) = CallingDialer::play(may_block, move |pool, _| {
                if flushes.fetch_add(1, SeqCst) < 20 {
                    pool.flush();
                }
            });
            use Call::*;
            assert_eq!(asked, [Dial, IsBroken, Check, Reset, Close, DropConnection, DropError]);
        });
    }
}

/// SHUT-07, SHUT-09.
#[test]
fn every_call_of_a_dialer_and_every_drop_may_close_the_pool() {
    use Call::*;
    for call in [Dial, IsBroken, Check, Reset, Close, DropConnection, DropError] {
        for may_block in [false, true] {
            finishes(move || {
                let (asked, pool) = CallingDialer::play(may_block, move |pool, at| {
                    if at == call {
                        pool.close();
                        assert!(matches!(pool.try_get(), Err(GetError::Closed)));
                        let _ = pool.drain(Instant::now());
                    }
                });
                assert!(asked.contains(&call), "{call:?} was made");
                assert!(matches!(pool.get(), Err(GetError::Closed)));
                assert_eq!((pool.stats().open(), pool.stats().panics_total), (0, 0));
            });
        }
    }
}

/// SHUT-09.
#[test]
fn every_call_of_a_dialer_and_every_drop_may_let_the_last_handle_go() {
    use Call::*;
    // `is_broken` and what follows a return are never without a handle: the guard borrows one.
    for call in [Dial, Check, Close, DropConnection] {
        finishes(move || {
            let dialer = CallingDialer(Arc::new(Inner {
                pool: Mutex::default(),
                ask: Box::new(move |pool, at| {
                    if at == call {
                        drop(pool.dialer().0.pool.lock().unwrap().take());
                    }
                }),
                asked: Mutex::default(),
                asking: AtomicU32::default(),
                refuses: AtomicBool::default(),
                blocking: Blocking::default().close(true),
            }));
            let nest = Arc::downgrade(&dialer.0);
            let pool = Pool::builder(dialer.clone())
                .max_open(2)
                .check_after(Duration::ZERO)
                .build()
                .unwrap();
            *dialer.0.pool.lock().unwrap() = Some(pool.clone());
            drop(dialer);
            drop(pool.get());
            drop(pool.get());
            pool.flush();
            drop(pool);
            await_that("all of it has gone", || nest.strong_count() == 0);
        });
    }
}

// ---- A connection that owns a guard of its own pool --------------------------------------------

/// A dialer whose connections can hold guards of the pool that they are in.
struct Nesting;

#[derive(Default)]
struct Nested(Option<Box<OwnedConnection<Nesting>>>);

impl Dialer for Nesting {
    type Connection = Nested;
    type Error = fmt::Error;

    fn dial(&self, _: &DialContext) -> Result<Nested, fmt::Error> {
        Ok(Nested::default())
    }

    fn is_broken(&self, _: &mut Nested) -> bool {
        false
    }
}

/// LOCK-03.
#[test]
fn a_connection_that_owns_a_guard_of_the_pool_may_be_retired_replaced_and_closed() {
    finishes(|| {
        let pool = Pool::builder(Nesting).max_open(4).build().unwrap();
        let nest = || {
            let mut outer = pool.get().unwrap();
            outer.0 = Some(Box::new(pool.get_owned().unwrap()));
            outer
        };
        PooledConnection::discard(nest());
        assert_eq!((pool.stats().in_use, pool.stats().idle), (0, 1), "the inner one came back");

        drop(nest());
        assert_eq!((pool.stats().in_use, pool.stats().idle), (1, 1), "held by one that rests");
        pool.flush();
        assert_eq!(pool.stats().open(), 0);

        drop(nest());
        drop(nest());
        pool.resize(1).unwrap();
        assert!(pool.stats().open() <= 1);

        pool.resize(4).unwrap();
        drop(nest());
        pool.close();
        assert_eq!(pool.stats().open(), 0);
    });
}

// ---- Panics ------------------------------------------------------------------------------------

fn panics(body: impl FnOnce()) {
    assert!(catch_unwind(AssertUnwindSafe(body)).is_err(), "it panics");
}

/// LOCK-02.
#[test]
fn a_panic_in_any_call_of_a_dialer_reaches_no_caller_and_kills_no_pool() {
    for may_block in [false, true] {
        let (pool, server) = pool_that(
            |b| b.check(may_block).reset(may_block).close(may_block),
            |b| b.max_open(1).check_after(Duration::ZERO),
        );
        for script in [
            &server.dial_script,
            &server.broken_script,
            &server.check_script,
            &server.reset_script,
            &server.close_script,
        ] {
            for _ in 0..3 {
                pool.flush();
                common::Server::script(script, [Act::Panic]);
                drop(pool.get_timeout(LONG).map(used));
                await_that("it has come back", || pool.stats().in_use == 0);
                PooledConnection::discard(pool.get_timeout(LONG).unwrap());
                drop(used(pool.get_timeout(LONG).unwrap()));
                await_that("it has panicked", || script.lock().unwrap().is_empty());
            }
        }
        assert_eq!(await_rest(&pool, &server).panics_total, 15);
    }
}

/// LOCK-02, LOCK-08.
#[test]
fn a_guard_dropped_by_a_panic_outlives_a_dialer_that_panics_too() {
    for retire in [false, true] {
        let (pool, server) = pool(|b| b.max_open(1).retire_on_panic(retire));
        for (broken, reset) in [(Act::Panic, None), (Act::Succeed, Some(Act::Panic))] {
            let held = used(pool.get().unwrap());
            if !retire {
                server.on_is_broken([broken]);
                server.on_reset(reset);
            }
            server.on_close([Act::Panic]);
            panics(|| {
                let _held = held;
                panic!("while a connection is held");
            });
            assert_eq!(pool.stats().open(), 0);
        }
        let stats = await_rest(&pool, &server);
        assert_eq!(stats.panics_total, if retire { 2 } else { 4 });
        drop(pool.get().unwrap());
    }
}

/// LOCK-08.
#[test]
fn a_guard_dropped_by_a_panic_is_retired_unless_told_otherwise() {
    for retire in [true, false] {
        let (pool, server) = pool(|b| b.max_open(1).retire_on_panic(retire));
        let held = pool.get().unwrap();
        panics(|| {
            let _held = held;
            panic!("halfway through something");
        });
        assert_eq!(pool.stats().idle, u32::from(!retire));
        assert_eq!(pool.get().unwrap().id, if retire { 2 } else { 1 });
        await_rest(&pool, &server);
    }
}

/// LOCK-08.
#[test]
fn a_borrow_made_and_ended_while_a_panic_is_under_way_is_like_any_other() {
    struct OnDrop<'p>(&'p Pool<Scripted>);
    impl Drop for OnDrop<'_> {
        fn drop(&mut self) {
            assert!(thread::panicking());
            drop(self.0.get().unwrap());
        }
    }
    let (pool, server) = pool(|b| b.max_open(1));
    panics(|| {
        let _last_words = OnDrop(&pool);
        panic!("of something else");
    });
    assert_eq!(pool.stats().idle, 1);
    await_rest(&pool, &server);
}

/// A connection and an error, each of which panics when it is dropped.
struct Bomb(Arc<AtomicU32>);

#[derive(Debug)]
struct ErrorBomb(Arc<AtomicU32>);

struct Bombs {
    live: Arc<AtomicU32>,
    refuses: Arc<AtomicBool>,
}

impl Bomb {
    fn explode(live: &AtomicU32) {
        live.fetch_sub(1, SeqCst);
        panic!("in a drop");
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        Self::explode(&self.0);
    }
}

impl Drop for ErrorBomb {
    fn drop(&mut self) {
        Bomb::explode(&self.0);
    }
}

impl fmt::Display for ErrorBomb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("refused")
    }
}

impl Error for ErrorBomb {}

impl Dialer for Bombs {
    type Connection = Bomb;
    type Error = ErrorBomb;

    fn dial(&self, _: &DialContext) -> Result<Bomb, ErrorBomb> {
        self.live.fetch_add(1, SeqCst);
        let live = Arc::clone(&self.live);
        if self.refuses.load(SeqCst) { Err(ErrorBomb(live)) } else { Ok(Bomb(live)) }
    }

    fn is_broken(&self, _: &mut Bomb) -> bool {
        false
    }
}

/// LOCK-02.
#[test]
fn connections_whose_drop_panics_are_dropped_all_the_same() {
    let (live, refuses) = (Arc::default(), Arc::default());
    let dialer = Bombs { live: Arc::clone(&live), refuses };
    let pool = Pool::builder(dialer).max_open(4).build().unwrap();
    PooledConnection::discard(pool.get().unwrap());
    pool.warm_up(4).unwrap();
    pool.flush();
    assert_eq!((pool.stats().open(), pool.stats().panics_total), (0, 5));
    pool.warm_up(4).unwrap();
    drop(pool);
    assert_eq!(live.load(SeqCst), 0);
}

/// LOCK-02.
#[test]
fn errors_whose_drop_panics_are_dropped_all_the_same() {
    let (live, refuses) = (Arc::<AtomicU32>::default(), Arc::<AtomicBool>::default());
    let dialer = Bombs { live: Arc::clone(&live), refuses: Arc::clone(&refuses) };
    let pool = Pool::builder(dialer).max_open(4).build().unwrap();
    let held = pool.get().unwrap();
    refuses.store(true, SeqCst);
    thread::scope(|scope| {
        // Each waits on with the error of its own dial, as one connection may still come back.
        let callers: Vec<_> =
            (0..3).map(|_| scope.spawn(|| pool.get_timeout(LONG).map(drop))).collect();
        await_that("all have failed", || pool.stats().dial_failed_total == 3);
        pool.close();
        for caller in callers {
            assert!(matches!(caller.join().unwrap(), Err(GetError::Closed)));
        }
    });
    await_that("no error is left", || live.load(SeqCst) == 1);
    await_that("all panics are counted", || pool.stats().panics_total == 3);
    drop(held);
    assert_eq!((live.load(SeqCst), pool.stats().open()), (0, 0));
}

/// LOCK-02.
#[test]
fn what_a_dialer_throws_may_itself_panic_when_it_is_dropped() {
    struct Throws;
    impl Dialer for Throws {
        type Connection = ();
        type Error = fmt::Error;

        fn dial(&self, _: &DialContext) -> Result<(), fmt::Error> {
            Ok(())
        }

        fn is_broken(&self, _: &mut ()) -> bool {
            false
        }

        fn close(&self, (): ()) {
            panic_any(Bomb(Arc::new(AtomicU32::new(1))));
        }
    }
    let pool = Pool::builder(Throws).max_open(1).build().unwrap();
    PooledConnection::discard(pool.get().unwrap());
    assert_eq!((pool.stats().open(), pool.stats().panics_total), (0, 1));
    drop(pool.get().unwrap());
}

// ---- Hanging -----------------------------------------------------------------------------------

/// LOCK-01.
#[test]
fn while_one_call_of_a_dialer_hangs_another_caller_is_served() {
    for call in ["is_broken", "check", "reset", "close"] {
        // The dialer says that nothing of it blocks, and so each hangs on a caller's thread.
        let (pool, server) = pool_that(
            |b| b.check(false),
            |b| b.max_open(3).check_after(Duration::ZERO).check_timeout(SHORT),
        );
        drop(pool.get().unwrap());
        let gate = Gate::new();
        let hang = gate.then(Act::Succeed);
        match call {
            "is_broken" => server.on_is_broken([hang]),
            "check" => server.on_check([hang]),
            "reset" => server.on_reset([hang]),
            _ => {
                server.on_check([Act::Fail]);
                server.on_close([hang]);
            }
        }
        thread::scope(|scope| {
            scope.spawn(|| drop(used(pool.get_timeout(LONG).unwrap())));
            gate.await_arrivals(1);
            drop(pool.get_timeout(LONG).unwrap());
            assert!(pool.stats().open() >= 2, "{call} hangs");
            gate.open();
        });
        await_rest(&pool, &server);
    }
}

/// LOCK-06.
#[test]
fn one_who_borrows_a_second_while_holding_the_last_is_told_so() {
    let (pool, server) = pool(|b| b.max_open(1).get_timeout(SHORT));
    let held = pool.get_timeout(LONG).unwrap();
    let error = pool.get().unwrap_err();
    let GetError::Exhausted { stats, failure: None, waited, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!((stats.in_use, stats.max_open, stats.waiting), (1, 1, 0));
    assert!(*waited >= SHORT);
    drop(held);
    await_rest(&pool, &server);
}

/// LOCK-02.
#[test]
fn a_caller_is_served_although_the_one_before_it_panics_in_the_queue() {
    // Nothing of the pool unwinds in a queue; but a waiting thread may be one that panics already.
    struct Waits<'p>(&'p Pool<Scripted>);
    impl Drop for Waits<'_> {
        fn drop(&mut self) {
            drop(self.0.get_timeout(LONG).unwrap());
        }
    }
    let (pool, server) = pool(|b| b.max_open(1));
    let held = pool.get().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            panics(|| {
                let _waits = Waits(&pool);
                panic!("and then waits");
            });
        });
        await_waiting(&pool, 1);
        let next = scope.spawn(|| pool.get_timeout(LONG).unwrap().id);
        await_waiting(&pool, 2);
        drop(held);
        assert_eq!(next.join().unwrap(), 1);
    });
    await_rest(&pool, &server);
}
