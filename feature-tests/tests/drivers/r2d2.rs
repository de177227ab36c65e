//! `R2d2Dialer` over a manager that tests direct.

use std::error::Error;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::common;
use crate::common::Act;
use crate::common::Connection;
use crate::common::Gate;
use crate::common::LONG;
use crate::common::Refused;
use crate::common::SHORT;
use crate::common::Scripted;
use crate::common::Server;
use crate::common::await_that;
use crate::common::finishes;
use crate::common::used;
use latebind::Builder;
use latebind::CloseReason;
use latebind::DialContext;
use latebind::Dialer;
use latebind::Event;
use latebind::GetError;
use latebind::Pool;
use latebind::PooledConnection;
use latebind::drivers::R2d2Call;
use latebind::drivers::R2d2Dialer;
use latebind::drivers::R2d2Error;

/// A manager as r2d2 knows them, over the scripted server; counts the calls of `has_broken`.
struct Manager(Scripted, Arc<AtomicU32>);

impl Manager {
    fn new() -> (Self, Arc<Server>) {
        let (scripted, server) = Scripted::new();
        (Self(scripted, Arc::default()), server)
    }
}

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
        self.0.dial(&DialContext::until(Instant::now() + LONG))
    }

    fn is_valid(&self, connection: &mut Connection) -> Result<(), Refused> {
        self.0.check(connection, Instant::now() + LONG)
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        self.1.fetch_add(1, SeqCst);
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
    let (manager, server) = Manager::new();
    (manager.into(), server)
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
fn an_error_of_connect_reaches_the_caller_as_text_that_says_which_call_failed() {
    let (pool, server) = pool(|b| b);
    server.on_dial([Act::Fail]);
    let error = pool.get().unwrap_err();
    assert!(matches!(error, GetError::Unreachable { .. }));
    let cause: &R2d2Error = error.source().unwrap().downcast_ref().unwrap();
    assert_eq!(cause.call(), R2d2Call::Connect);
    assert_eq!(cause.to_string(), "connect failed: refused (dial 1)");
    assert!(error.to_string().ends_with(": connect failed: refused (dial 1)"), "{error}");
}

#[test]
fn an_error_of_connect_that_is_kept_reaches_the_caller_as_it_is() {
    let (dialer, server) = dialer();
    let pool = Pool::new(dialer.keep_errors());
    server.on_dial([Act::Fail]);
    let error = pool.get().unwrap_err();
    let cause = error.dial_error().unwrap();
    assert_eq!(cause.source().unwrap().downcast_ref(), Some(&Refused(1)));
    assert!(error.to_string().ends_with(": connect failed: refused (dial 1)"), "{error}");
}

/// A manager whose errors must stay on their thread, and have a source.
struct Homebody;

#[derive(Debug)]
struct Rooted(Rc<Refused>);

impl fmt::Display for Rooted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody\nis there")
    }
}

impl Error for Rooted {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

impl r2d2::ManageConnection for Homebody {
    type Connection = ();
    type Error = Rooted;

    fn connect(&self) -> Result<(), Rooted> {
        Err(Rooted(Rc::new(Refused(7))))
    }

    fn is_valid(&self, (): &mut ()) -> Result<(), Rooted> {
        Ok(())
    }

    fn has_broken(&self, (): &mut ()) -> bool {
        false
    }
}

#[test]
fn the_error_of_a_manager_need_not_be_send_or_sync() {
    let pool = Pool::new(R2d2Dialer::new(Homebody));
    let error = pool.get().unwrap_err();
    assert_eq!(
        error.dial_error().unwrap().to_string(),
        "connect failed: nobody; is there: refused (dial 7)"
    );
}

/// The same work for r2d2 as it comes and for latebind that checks at each checkout.
#[test]
fn a_manager_is_asked_no_more_often_than_by_r2d2() {
    const ROUNDS: u32 = 50;
    let counts = |server: &Server, broken: &AtomicU32| {
        (server.dials(), server.checks.load(SeqCst), broken.load(SeqCst))
    };
    let (manager, server) = Manager::new();
    let broken = Arc::clone(&manager.1);
    let theirs = r2d2::Pool::builder().max_size(1).build(manager).unwrap();
    for _ in 0..ROUNDS {
        let connection = theirs.get().unwrap();
        assert_eq!(connection.id, 1);
    }
    assert_eq!(counts(&server, &broken), (1, ROUNDS, ROUNDS), "what r2d2 does");

    let (manager, server) = Manager::new();
    let broken = Arc::clone(&manager.1);
    let ours = Pool::builder(R2d2Dialer::new(manager)).max_open(1).check_after(Duration::ZERO);
    let ours = ours.build().unwrap();
    for _ in 0..ROUNDS {
        assert_eq!(ours.get().unwrap().id, 1);
    }
    // One that has just been dialed is not asked whether it is alive.
    assert_eq!(counts(&server, &broken), (1, ROUNDS - 1, ROUNDS));
    drop(ours.get().unwrap());
    assert_eq!(
        broken.load(SeqCst),
        ROUNDS,
        "a connection that nobody used cannot have broken in use"
    );
    ours.close();
    await_that("it is closed", || server.alive() == 0);
    assert_eq!(broken.load(SeqCst), ROUNDS);
}

/// As that of `r2d2_mysql`, which pings.
#[test]
fn a_has_broken_that_hangs_delays_no_caller_past_its_deadline() {
    let (manager, server) = Manager::new();
    let asked = Arc::clone(&manager.1);
    let pool = Pool::builder(R2d2Dialer::new(manager)).max_open(1).build().unwrap();
    drop(used(pool.get().unwrap()));
    server.on_is_broken([Gate::new().then(Act::Succeed)]);
    // A connection that the caller never used comes back without a question too.
    finishes(move || pool.get_timeout(SHORT).map(drop)).unwrap();
    assert_eq!(asked.load(SeqCst), 1, "at the first return");
}

#[test]
fn a_task_that_returns_a_connection_does_not_wait_for_has_broken() {
    let (pool, server) = pool(|b| b.max_open(1));
    let stuck = Gate::new();
    server.on_is_broken([stuck.then(Act::Succeed)]);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    finishes({
        let pool = pool.clone();
        move || runtime.block_on(async { drop(used(pool.get().unwrap())) })
    });
    stuck.await_arrivals(1);
    stuck.open();
    assert_eq!(pool.get_timeout(LONG).unwrap().id, 1);
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
    assert_eq!(
        (server.most_open.load(SeqCst), pool.stats().retired_by[CloseReason::ResetFailed]),
        (1, 1)
    );
}

#[test]
fn what_has_broken_puts_in_doubt_what_rests() {
    let (pool, server) = pool(|b| b.max_open(3).check_after(Duration::MAX));
    let (mut broken, dead) = (pool.get().unwrap(), pool.get().unwrap());
    drop(used(dead));
    broken.is_broken = true;
    server.last_dead.store(2, SeqCst);
    drop(broken);
    assert_eq!(pool.get_timeout(LONG).unwrap().id, 3, "the other was asked, and was dead too");
    assert_eq!(server.checks.load(SeqCst), 1);
}

#[test]
fn the_observer_is_told_that_has_broken_closed_a_connection() {
    let (told, tell) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
    let (errors, reasons) = (Arc::clone(&told), Arc::clone(&tell));
    let (pool, _server) = pool(|b| {
        b.observer(move |event: &Event<'_, R2d2Error>| match event {
            Event::ResetFailed { error: Some(error), .. } => {
                errors.lock().unwrap().push((error.call(), error.to_string()));
            }
            Event::Closed { reason, .. } => reasons.lock().unwrap().push(*reason),
            _ => {}
        })
    });
    pool.get().unwrap().is_broken = true;
    await_that("it is closed", || !tell.lock().unwrap().is_empty());
    let text = "has_broken says that the connection is broken".to_owned();
    assert_eq!(*told.lock().unwrap(), [(R2d2Call::HasBroken, text)]);
    assert_eq!(*tell.lock().unwrap(), [CloseReason::ResetFailed]);
}

/// Servers' messages about their limit, as the clients of other crates quote them.
#[test]
fn a_dial_that_is_refused_for_the_limit_of_a_server_is_told_by_its_text() {
    struct Quoting(&'static str);
    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Quote(&'static str);
    impl r2d2::ManageConnection for Quoting {
        type Connection = ();
        type Error = Quote;
        fn connect(&self) -> Result<(), Quote> {
            Err(Quote(self.0))
        }
        fn is_valid(&self, (): &mut ()) -> Result<(), Quote> {
            Ok(())
        }
        fn has_broken(&self, (): &mut ()) -> bool {
            false
        }
    }
    let is_at_limit = |text| {
        [R2d2Dialer::new(Quoting(text)), R2d2Dialer::new(Quoting(text)).keep_errors()].map(
            |dialer| {
                let error = dialer.dial(&DialContext::until(Instant::now() + LONG)).unwrap_err();
                dialer.is_at_limit(&error)
            },
        )
    };
    for text in [
        "db error: FATAL: sorry, too many clients already",
        "FATAL: remaining connection slots are reserved for superusers",
        "FATAL: too many connections for role \"app\"",
        "FATAL: no more connections allowed (max_client_conn)",
        "FATAL: client connections exceeded (max_db_client_connections)",
        "MySqlError { ERROR 1040 (08004): Too many connections }",
        "ERROR 1203: User app already has more than 'max_user_connections' active connections",
        "ERR max number of clients reached",
    ] {
        assert_eq!(is_at_limit(text), [true; 2], "{text}");
    }
    assert_eq!(is_at_limit("FATAL: password authentication failed"), [false; 2]);
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
    let error = pool.get().unwrap_err();
    let cause = error.dial_error().unwrap();
    assert_eq!(cause.call(), R2d2Call::OnAcquire);
    assert_eq!(cause.to_string(), "on_acquire failed: refused (dial 1)");
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
