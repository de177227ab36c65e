//! Everything at once, by real threads, with a dialer that fails, panics and dawdles at random.
//!
//! `LATEBIND_STRESS_SECONDS` says for how long; 2 by default.

use std::env;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use crate::common;
use crate::common::{await_that, finishes_within, panic_quietly};
use latebind::{Blocking, DialContext, Dialer, GetError, OwnedConnection, Pool, PooledConnection};

/// The pool is resized between 1 and this.
const MOST: u32 = 4;

/// How long a connection is trusted unchecked: hardly ever long enough, or nearly always.
const OFTEN: Duration = Duration::from_micros(50);
const SELDOM: Duration = Duration::from_millis(500);

fn length() -> Duration {
    let seconds = env::var("LATEBIND_STRESS_SECONDS").ok();
    let seconds = seconds.map_or(2.0, |s| s.parse().expect("LATEBIND_STRESS_SECONDS is a number"));
    Duration::from_secs_f64(seconds)
}

/// Random numbers good enough to mix things up (xorshift).
#[derive(Debug)]
struct Dice(AtomicU64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1))
    }

    /// A number below `n`.
    fn roll(&self, n: u64) -> u64 {
        let mut x = self.0.load(SeqCst);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0.store(x, SeqCst);
        x % n
    }

    /// Lets some time pass, mostly none: a server's answer may take a while.
    fn dawdle(&self) {
        match self.roll(40) {
            0 => thread::sleep(Duration::from_micros(self.roll(500))),
            1..=4 => thread::yield_now(),
            _ => {}
        }
    }
}

/// The server's side, counted where it happens.
#[derive(Debug)]
struct Server {
    dice: Dice,
    /// Connections alive in the pool, and dials under way.
    open: AtomicU32,
    most_open: AtomicU32,
    opened: AtomicU64,
    closed: AtomicU64,
    /// Nothing goes wrong any more.
    is_calm: AtomicBool,
}

impl Server {
    /// `true` once in `n`, while things go wrong.
    fn errs(&self, n: u64) -> bool {
        !self.is_calm.load(SeqCst) && self.dice.roll(n) == 0
    }

    fn trouble(&self) -> Result<(), Failed> {
        self.dice.dawdle();
        if self.errs(60) {
            panic_quietly();
        }
        if self.errs(12) { Err(Failed) } else { Ok(()) }
    }
}

#[derive(Debug)]
struct Failed;

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("as it happens")
    }
}

impl std::error::Error for Failed {}

/// Counts as open at the server until it is dropped.
struct Place(Arc<Server>);

impl Place {
    fn new(server: &Arc<Server>) -> Self {
        let open = server.open.fetch_add(1, SeqCst) + 1;
        server.most_open.fetch_max(open, SeqCst);
        Self(Arc::clone(server))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, SeqCst);
    }
}

struct Connection {
    is_held: AtomicBool,
    /// `None` once it is no longer the pool's.
    place: Option<Place>,
}

impl Connection {
    /// Uses the connection as one who has it alone may.
    fn hold(&self, body: impl FnOnce()) {
        assert!(!self.is_held.swap(true, SeqCst), "one connection, two holders");
        body();
        assert!(self.is_held.swap(false, SeqCst), "one connection, two holders");
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(place) = &self.place {
            place.0.closed.fetch_add(1, SeqCst);
        }
    }
}

struct ErraticDialer {
    server: Arc<Server>,
    blocking: Blocking,
}

impl Dialer for ErraticDialer {
    type Connection = Connection;
    type Error = Failed;

    fn dial(&self, _: &DialContext) -> Result<Connection, Failed> {
        let place = Place::new(&self.server);
        self.server.trouble()?;
        self.server.opened.fetch_add(1, SeqCst);
        Ok(Connection { is_held: AtomicBool::new(false), place: Some(place) })
    }

    fn is_broken(&self, connection: &mut Connection) -> bool {
        let mut is_broken = false;
        connection.hold(|| is_broken = self.server.errs(30));
        is_broken
    }

    fn check(&self, connection: &mut Connection, _: Instant) -> Result<(), Failed> {
        let mut result = Ok(());
        connection.hold(|| {
            result =
                catch_unwind(AssertUnwindSafe(|| self.server.trouble())).unwrap_or(Err(Failed));
        });
        result
    }

    fn reset(&self, _: &mut Connection) -> Result<(), Failed> {
        self.server.trouble()
    }

    fn close(&self, connection: Connection) {
        let _ = self.server.trouble();
        drop(connection);
    }

    fn blocking(&self) -> Blocking {
        self.blocking
    }
}

/// One thing that a caller does.
fn step(pool: &Pool<ErraticDialer>, dice: &Dice) {
    let nanos = |most| Duration::from_nanos(dice.roll(most));
    let got = match dice.roll(20) {
        0..=5 => pool.get_timeout(nanos(2_000)),
        6..=9 => pool.get_timeout(nanos(300_000)),
        10..=13 => pool.get(),
        14..=16 => pool.try_get(),
        17 => {
            let held = pool.checkout().timeout(nanos(300_000)).get_owned();
            return held.into_iter().for_each(|held| end_owned(held, dice));
        }
        18 => return drop(pool.warm_up(u32::try_from(dice.roll(6)).expect("small"))),
        _ => {
            assert!(pool.stats().open() <= MOST);
            return match dice.roll(12) {
                0..=3 => pool.flush(),
                4 => {
                    let max_open = u32::try_from(1 + dice.roll(u64::from(MOST))).expect("small");
                    pool.resize(max_open).expect("it is not 0");
                }
                _ => {}
            };
        }
    };
    match got {
        Ok(connection) => {
            connection.hold(|| dice.dawdle());
            match dice.roll(12) {
                0 => PooledConnection::discard(connection),
                1 => leave(connection),
                2 => {
                    let panics = catch_unwind(AssertUnwindSafe(|| {
                        let _connection = connection;
                        panic_quietly();
                    }));
                    assert!(panics.is_err());
                }
                _ => drop(connection),
            }
        }
        Err(GetError::Closed) => panic!("nobody has closed it"),
        Err(error) => drop(error.to_string()),
    }
}

fn end_owned(connection: OwnedConnection<ErraticDialer>, dice: &Dice) {
    connection.hold(|| dice.dawdle());
    drop(connection);
}

/// Takes a connection out of the pool. It no longer counts as soon as its slot may be free.
fn leave(mut connection: PooledConnection<'_, ErraticDialer>) {
    let place = connection.place.take().expect("it is the pool's until now");
    place.0.closed.fetch_add(1, SeqCst);
    drop(place);
    drop(PooledConnection::detach(connection));
}

/// CAN-07, BIND-05, and what all the others have in common.
fn storm(blocking: Blocking, check_after: Duration, seed: u64) {
    let server = Arc::new(Server {
        dice: Dice::new(seed),
        open: AtomicU32::new(0),
        most_open: AtomicU32::new(0),
        opened: AtomicU64::new(0),
        closed: AtomicU64::new(0),
        is_calm: AtomicBool::new(false),
    });
    let pool = Pool::builder(ErraticDialer { server: Arc::clone(&server), blocking })
        .max_open(MOST)
        .check_after(check_after)
        .get_timeout(Duration::from_millis(50))
        .build()
        .unwrap();

    let until = Instant::now() + length() / 2;
    let steps: u64 = thread::scope(|scope| {
        let threads: Vec<_> = (1..=8)
            .map(|n| {
                let pool = &pool;
                scope.spawn(move || {
                    let dice = Dice::new(seed + n);
                    let mut steps = 0;
                    while Instant::now() < until {
                        step(pool, &dice);
                        steps += 1;
                    }
                    steps
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });

    await_that("the pool comes to rest", || {
        let stats = pool.stats();
        stats.in_use + stats.dialing + stats.closing + stats.waiting == 0
    });
    let stats = pool.stats();
    assert!(steps > 100, "{steps} steps");
    assert!(server.most_open.load(SeqCst) <= MOST, "BOUND, as the server sees it: {stats:?}");
    assert_eq!(server.open.load(SeqCst), stats.idle, "{stats:?}");
    assert_eq!(
        server.opened.load(SeqCst),
        server.closed.load(SeqCst) + u64::from(stats.idle),
        "{stats:?}"
    );
    assert_eq!(stats.dials_total, stats.dialed_total + stats.dial_failed_total);
    assert_eq!(
        stats.dialed_total,
        stats.retired_total + stats.detached_total + u64::from(stats.idle)
    );

    // It is as good as new.
    server.is_calm.store(true, SeqCst);
    pool.resize(MOST).unwrap();
    // The breaker may have opened in the storm.
    await_that("the server is found", || pool.get_timeout(common::LONG).is_ok());
    let held: Vec<_> =
        (0..MOST).map(|_| pool.get_timeout(common::LONG).expect("all is calm")).collect();
    assert!(pool.get_timeout(Duration::from_millis(1)).is_err());
    drop(held);
    assert!(pool.drain(Instant::now() + common::LONG).is_complete());
    assert_eq!(server.open.load(SeqCst), 0);
}

#[test]
fn whatever_happens_at_once_the_books_balance() {
    finishes_within(length() + 3 * common::LONG, || storm(Blocking::default(), OFTEN, 1));
}

/// Here nearly all connections go by the places, without a lock.
#[test]
fn whatever_happens_at_once_the_books_balance_where_no_check_is_due() {
    finishes_within(length() + 3 * common::LONG, || storm(Blocking::default(), SELDOM, 4));
}

#[test]
fn whatever_happens_at_once_the_books_balance_where_every_call_may_block() {
    let blocking = Blocking::default().reset(true).close(true);
    finishes_within(length() + 3 * common::LONG, move || storm(blocking, OFTEN, 2));
}

#[test]
fn whatever_happens_at_once_the_books_balance_where_no_call_may_block() {
    let blocking = Blocking::default().check(false);
    finishes_within(length() + 3 * common::LONG, move || storm(blocking, OFTEN, 3));
}

/// SHUT-02, SHUT-03, SHUT-09.
#[test]
fn whenever_it_is_closed_everything_ends() {
    finishes_within(length() + 3 * common::LONG, || {
        let until = Instant::now() + length() / 2;
        let mut seed = 100;
        while Instant::now() < until {
            seed += 10;
            let server = Arc::new(Server {
                dice: Dice::new(seed),
                open: AtomicU32::new(0),
                most_open: AtomicU32::new(0),
                opened: AtomicU64::new(0),
                closed: AtomicU64::new(0),
                is_calm: AtomicBool::new(true),
            });
            let blocking = Blocking::default().reset(seed % 20 == 0).close(seed % 30 == 0);
            let dialer = ErraticDialer { server: Arc::clone(&server), blocking };
            let pool = Pool::builder(dialer).max_open(2).check_after(Duration::ZERO).build();
            let pool = pool.unwrap();
            let closes_at = Dice::new(seed).roll(60);
            thread::scope(|scope| {
                for n in 0..4 {
                    let pool = pool.clone();
                    scope.spawn(move || {
                        for round in 0..20 {
                            match pool.checkout().timeout(common::LONG).get_owned() {
                                Ok(connection) => connection.hold(thread::yield_now),
                                Err(GetError::Closed) => return,
                                Err(error) => panic!("{error}"),
                            }
                            if n * 20 + round == closes_at {
                                pool.close();
                            }
                        }
                    });
                }
            });
            if seed % 40 == 0 {
                assert!(pool.drain(Instant::now() + common::LONG).is_complete());
            }
            drop(pool);
            await_that("all is closed", || server.open.load(SeqCst) == 0);
            assert_eq!(server.opened.load(SeqCst), server.closed.load(SeqCst));
            assert!(server.most_open.load(SeqCst) <= 2);
        }
    });
}
