//! The lines in a program's log about a pool that has no observer. A process has one logger.

use std::convert::Infallible;
use std::fmt;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::common;
use crate::common::{Act, Gate, LONG, Scripted, await_rest, await_that, panic_quietly};
use latebind::{Breaker, DialContext, Dialer, KeyedPool, Pool};
use log::{Level, LevelFilter, Log, Metadata, Record};

/// Keeps the lines.
struct Kept(Mutex<Vec<(Level, String)>>);

static KEPT: Kept = Kept(Mutex::new(Vec::new()));

impl Log for Kept {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "latebind"
    }

    fn log(&self, record: &Record<'_>) {
        assert_eq!(record.target(), "latebind");
        let line = record.args().to_string();
        if line.contains("a pool whose log panics") {
            panic_quietly();
        }
        self.lines().push((record.level(), line));
    }

    fn flush(&self) {}
}

impl Kept {
    fn lines(&self) -> MutexGuard<'_, Vec<(Level, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Vec<(Level, String)> {
        std::mem::take(&mut self.lines())
    }
}

fn keep_lines() {
    log::set_logger(&KEPT).unwrap();
    log::set_max_level(LevelFilter::Trace);
}

#[track_caller]
fn expect(expected: &[(Level, &str)]) {
    let lines = KEPT.take();
    let is_it =
        |((level, line), (expected_level, expected)): (&(Level, String), &(Level, &str))| {
            level == expected_level && line == expected
        };
    let are_they = lines.len() == expected.len() && lines.iter().zip(expected).all(is_it);
    assert!(are_they, "{lines:#?}\nand not\n{expected:#?}");
}

#[test]
fn an_outage_is_told_of_as_it_begins_as_callers_are_refused_and_as_it_ends() {
    in_a_process!();
    keep_lines();
    let (dialer, server) = Scripted::new();
    let pool = Pool::builder(dialer)
        .name("orders")
        .breaker(Breaker::new(3, Duration::from_millis(1)))
        .build()
        .unwrap();
    server.refuses.store(true, SeqCst);
    await_that("many dials have failed", || {
        let _ = pool.get();
        server.dials() > 20
    });
    await_that("the last has ended", || pool.stats().dialing == 0);
    let failures = pool.stats().dial_failed_total;
    expect(&[
        (Level::Warn, "pool orders: a dial failed: refused (dial 1)"),
        (
            Level::Warn,
            "pool orders: callers that no open connection can serve are refused until a dial \
             succeeds, after 3 failures in a row",
        ),
    ]);
    server.refuses.store(false, SeqCst);
    await_that("the server is found", || pool.get().is_ok());
    let end = format!(
        "pool orders: a dial succeeded after {failures} that failed; callers are refused no more"
    );
    expect(&[(Level::Info, &end)]);
    await_rest(&pool, &server);
}

/// The program has asked for nothing and installed nothing, and nobody calls.
#[test]
fn dials_for_nobody_that_fail_are_told_of() {
    in_a_process!();
    keep_lines();
    let (dialer, server) = Scripted::new();
    server.refuses.store(true, SeqCst);
    let pool = Pool::builder(dialer).min_idle(2).build().unwrap();
    await_that("it has been tried again", || pool.stats().dial_failed_total >= 2);
    let lines = KEPT.take();
    // The first two dials are made at the same time.
    assert!(
        matches!(&lines[..], [(Level::Warn, line)] if line.starts_with("a dial failed: refused (dial ")),
        "{lines:?}"
    );
    server.refuses.store(false, SeqCst);
    await_that("both are there", || pool.stats().idle == 2);
    let lines = KEPT.take();
    assert!(matches!(&lines[..], [(Level::Info, line)] if line.contains("a dial succeeded after")));
}

/// SHUT-15: a dial whose connection would be closed at once says nothing of the server.
#[test]
fn nobody_is_told_of_the_failure_of_a_dial_that_nobody_wants_any_more() {
    in_a_process!();
    keep_lines();
    let (dialer, server) = Scripted::new();
    let pool = Pool::new(dialer);
    let gate = Gate::new();
    server.on_dial([gate.then(Act::Fail)]);
    thread::scope(|scope| {
        let caller = scope.spawn(|| pool.get_timeout(LONG).unwrap().id);
        gate.await_arrivals(1);
        pool.flush();
        gate.open();
        assert_eq!(caller.join().unwrap(), 2);
    });
    await_rest(&pool, &server);
    expect(&[]);
}

#[test]
fn a_trouble_that_comes_and_goes_is_told_of_three_times_a_minute() {
    in_a_process!();
    keep_lines();
    let (pool, server) = common::pool(|b| b.name("flapping"));
    for _ in 0..200 {
        server.on_dial([Act::Fail]);
        assert!(pool.get().is_err());
        pool.flush();
        drop(pool.get().unwrap());
        pool.flush();
    }
    let lines = KEPT.take();
    let warnings = lines.iter().filter(|(level, _)| *level == Level::Warn).count();
    let infos = lines.iter().filter(|(level, _)| *level == Level::Info).count();
    assert_eq!((warnings, infos, lines.len()), (3, 3, 6), "{lines:#?}");
}

#[test]
fn a_leak_and_a_panic_are_told_of() {
    in_a_process!();
    keep_lines();
    let (pool, server) =
        common::pool(|b| b.name("jobs").max_open(1).leak_after(Duration::from_millis(10)));
    let held = pool.get().unwrap();
    await_that("the leak is told of", || !KEPT.lines().is_empty());
    let lines = KEPT.take();
    let [(Level::Warn, line)] = &lines[..] else { panic!("{lines:?}") };
    assert!(line.starts_with("pool jobs: a connection may have leaked: held for "), "{line}");
    assert!(line.contains("logger.rs:"), "{line}");
    server.on_is_broken([Act::Panic]);
    drop(held);
    expect(&[(
        Level::Error,
        "pool jobs: code that the pool calls (its dialer, an observer, a predicate) has panicked",
    )]);
    await_rest(&pool, &server);
}

#[test]
fn the_keys_of_a_keyed_pool_share_its_lines() {
    in_a_process!();
    keep_lines();
    struct Away(u8);
    #[derive(Debug)]
    struct Gone(u8);
    impl fmt::Display for Gone {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "host {} is away", self.0)
        }
    }
    impl std::error::Error for Gone {}
    impl Dialer for Away {
        type Connection = Infallible;
        type Error = Gone;

        fn dial(&self, _: &DialContext) -> Result<Infallible, Gone> {
            Err(Gone(self.0))
        }

        fn is_broken(&self, connection: &mut Infallible) -> bool {
            match *connection {}
        }
    }
    let pool = KeyedPool::builder(|key: &u8| Away(*key)).name("hosts").build().unwrap();
    for key in 0..100 {
        assert!(pool.get(&key).is_err());
    }
    // A thread may be interrupted between its dial and its line: so three lines, of whichever hosts.
    await_that("there are lines", || KEPT.lines().len() >= 3);
    drop(pool);
    let lines = KEPT.take();
    let is_it = |(level, line): &(Level, String)| {
        *level == Level::Warn && line.starts_with("pool hosts: a dial failed: host ")
    };
    assert!(lines.len() == 3 && lines.iter().all(is_it), "{lines:#?}");
}

/// A logger is user code.
#[test]
fn a_logger_that_panics_costs_its_line_and_nothing_else() {
    in_a_process!();
    keep_lines();
    let (pool, server) = common::pool(|b| b.name("a pool whose log panics").max_open(1));
    server.on_dial([Act::Fail]);
    assert!(pool.get().is_err());
    drop(pool.get_timeout(LONG).unwrap());
    expect(&[]);
    await_rest(&pool, &server);
}

/// A logger that does not want a level is not called, and no line counts against the limit.
#[test]
fn lines_that_nobody_wants_are_not_counted() {
    in_a_process!();
    keep_lines();
    log::set_max_level(LevelFilter::Error);
    let (pool, server) = common::pool(|b| b.name("quiet"));
    let fail = || {
        server.on_dial([Act::Fail]);
        assert!(pool.get().is_err());
        pool.flush();
        drop(pool.get().unwrap());
        pool.flush();
    };
    (0..10).for_each(|_| fail());
    expect(&[]);
    log::set_max_level(LevelFilter::Warn);
    fail();
    assert_eq!(KEPT.take().len(), 1);
    await_rest(&pool, &server);
}
