//! `R2d2Dialer` over a manager that tests direct.
#![cfg(feature = "r2d2")]

mod common;

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use common::Act;
use common::Connection;
use common::Gate;
use common::LONG;
use common::Refused;
use common::SHORT;
use common::Scripted;
use common::Server;
use common::await_that;
use common::finishes;
use latebind::Builder;
use latebind::Dialer;
use latebind::GetError;
use latebind::Pool;
use latebind::PooledConnection;
use latebind::drivers::R2d2Dialer;

/// A manager as r2d2 knows them, over the scripted server.
struct Manager(Scripted);

/// As those of several crates.
impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Manager { password: \"open sesame\" }")
    }
}

impl r2d2::ManageConnection for Manager {
    type Connection = Connection;
    type Error = Refused;

    fn connect(&self) -> Result<Connection, Refused> {
        self.0.dial(Instant::now() + LONG)
    }

    fn is_valid(&self, connection: &mut Connection) -> Result<(), Refused> {
        self.0.check(connection, Instant::now() + LONG)
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        self.0.is_broken(connection)
    }
}

/// Notes which connections came and went; refuses if told to.
#[derive(Clone, Debug, Default)]
struct Guestbook {
    came: Arc<Mutex<Vec<u32>>>,
    left: Arc<Mutex<Vec<u32>>>,
    refuses: bool,
}

impl r2d2::CustomizeConnection<Connection, Refused> for Guestbook {
    fn on_acquire(&self, connection: &mut Connection) -> Result<(), Refused> {
        self.came.lock().unwrap().push(connection.id);
        if self.refuses { Err(Refused(connection.id)) } else { Ok(()) }
    }

    fn on_release(&self, connection: Connection) {
        self.left.lock().unwrap().push(connection.id);
    }
}

fn dialer() -> (R2d2Dialer<Manager>, Arc<Server>) {
    let (scripted, server) = Scripted::new();
    (Manager(scripted).into(), server)
}

fn pool(
    set: impl FnOnce(Builder<R2d2Dialer<Manager>>) -> Builder<R2d2Dialer<Manager>>,
) -> (Pool<R2d2Dialer<Manager>>, Arc<Server>) {
    let (dialer, server) = dialer();
    (set(Pool::builder(dialer)).build().unwrap(), server)
}

#[test]
fn many_threads_share_the_connections_of_a_manager() {
    const THREADS: u32 = 16;
    const ROUNDS: u32 = 200;
    let (pool, server) = pool(|b| b.max_open(4));
    finishes({
        let pool = pool.clone();
        move || {
            thread::scope(|scope| {
                for _ in 0..THREADS {
                    scope.spawn(|| {
                        for _ in 0..ROUNDS {
                            let guard = pool.get().unwrap();
                            assert!(!guard.in_use.swap(true, SeqCst), "lent to one at a time");
                            guard.in_use.store(false, SeqCst);
                        }
                    });
                }
            });
        }
    });
    await_that("all are back", || pool.stats().in_use + pool.stats().dialing == 0);
    assert!(server.most_open.load(SeqCst) <= 4);
    assert_eq!(server.alive(), pool.stats().idle);
}

#[test]
fn an_error_of_connect_reaches_the_caller_as_it_is() {
    let (pool, server) = pool(|b| b);
    server.on_dial([Act::Fail]);
    let error = pool.get().unwrap_err();
    assert!(matches!(error, GetError::Unreachable { .. }));
    assert_eq!(error.source().unwrap().downcast_ref(), Some(&Refused(1)));
}

/// As r2d2 does with its defaults.
#[test]
fn with_no_time_at_rest_is_valid_is_asked_at_each_reuse() {
    let (pool, server) = pool(|b| b.check_after(Duration::ZERO));
    for reuses in 0..4 {
        drop(pool.get().unwrap());
        assert_eq!(server.checks.load(SeqCst), reuses);
    }
    server.on_check([Act::Fail]);
    assert_eq!(pool.get().unwrap().id, 2, "the caller gets another connection, and no error");
    await_that("the other is closed", || server.alive() == 1);
}

#[test]
fn what_has_not_rested_long_is_not_asked_whether_it_is_valid() {
    let (pool, server) = pool(|b| b.check_after(Duration::MAX));
    for _ in 0..4 {
        drop(pool.get().unwrap());
    }
    assert_eq!((server.checks.load(SeqCst), server.dials()), (0, 1));
}

#[test]
fn an_is_valid_that_hangs_delays_no_caller_past_its_deadline() {
    let (pool, server) = pool(|b| b.max_open(1).check_after(Duration::ZERO));
    drop(pool.get().unwrap());
    let stuck = Gate::new();
    server.on_check([stuck.then(Act::Succeed)]);
    let begun = Instant::now();
    let error = pool.get_timeout(SHORT).unwrap_err();
    assert!(begun.elapsed() < LONG / 2, "DEADLINE");
    assert!(matches!(error, GetError::Exhausted { .. }), "{error}");
    stuck.open();
    assert_eq!(pool.get_timeout(LONG).unwrap().id, 1, "the answer came late, and was good");
}

#[test]
fn what_has_broken_in_use_is_closed_and_makes_room_for_another() {
    let (pool, server) = pool(|b| b.max_open(1).check_after(Duration::MAX));
    let mut guard = pool.get().unwrap();
    guard.is_broken = true;
    drop(guard);
    assert_eq!(pool.get_timeout(LONG).unwrap().id, 2);
    assert_eq!((server.most_open.load(SeqCst), pool.stats().broken_total), (1, 1));
}

#[test]
fn a_customizer_sees_each_connection_come_and_go() {
    let book = Guestbook::default();
    let (dialer, server) = dialer();
    let pool = Pool::new(dialer.customizer(Box::new(book.clone())));
    let (first, second) = (pool.get().unwrap(), pool.get().unwrap());
    drop(PooledConnection::detach(first));
    drop(second);
    pool.close();
    await_that("the other is closed", || server.alive() == 0);
    assert_eq!(*book.came.lock().unwrap(), [1, 2]);
    assert_eq!(*book.left.lock().unwrap(), [2], "the one detached left without the pool");
}

#[test]
fn a_customizer_that_refuses_a_connection_fails_the_dial() {
    let book = Guestbook { refuses: true, ..Guestbook::default() };
    let (dialer, server) = dialer();
    let pool = Pool::new(dialer.customizer(Box::new(book.clone())));
    assert_eq!(pool.get().unwrap_err().dial_error(), Some(&Refused(1)));
    assert_eq!(server.alive(), 0);
    assert!(book.left.lock().unwrap().is_empty());
}

/// Everything that a program might write into its log.
#[test]
fn no_password_is_shown() {
    let (dialer, server) = dialer();
    let builder = Pool::builder(dialer);
    let mut told = format!("{builder:?}");
    let pool = builder.build().unwrap();
    let guard = pool.get().unwrap();
    server.on_dial([Act::Fail]);
    let error = pool.get_timeout(SHORT).unwrap_err();
    told += &format!("{pool:?} {guard:?} {:?}", pool.reconfigure());
    told += &common::everything_told(&error);
    assert!(!told.contains("sesame"), "{told}");
}
