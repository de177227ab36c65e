//! The server's side of a model: a dialer that does as it is told, and books of its own.

use std::cell::Cell;
use std::fmt;
use std::panic::resume_unwind;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::abort::AbortHandle;
use crate::config::{BreakerChoice, Config};
use crate::dial_context::DialContext;
use crate::dialer::{Blocking, Dialer};
use crate::keyed::{KeyedConfig, KeyedPool};
use crate::pool::Pool;
use crate::report::error::GetError;
use crate::report::event::Event;
use crate::report::reporter::Reporter;
use crate::runtime::sync::{Condvar, Mutex, MutexGuard, Planned, never};
use crate::runtime::workers::Crew;
use crate::shell::quota::Quota;
use crate::shell::{Group, Shell};

thread_local! {
    /// Dialers that the runs of a model have made, less those that are gone.
    static DIALERS: Cell<i32> = const { Cell::new(0) };
}

/// No dialer of an earlier run is left, and so no pool of it.
pub(crate) fn assert_none_left() {
    assert_eq!(DIALERS.get(), 0, "QUIET: a pool outlives its threads and handles");
}

/// The outcome of one dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Succeed,
    Refuse,
    Panic,
    /// Wait until the pool ends the dial, and fail.
    Linger,
}

/// How the server sees the pool. Its lock is one of loom's, so that all orders of what the server
/// sees are searched.
#[derive(Debug)]
pub(crate) struct Server {
    books: Mutex<Books>,
    /// Rung when it answers again, and when somebody finds it silent.
    answers: Condvar,
    /// Rung when a dial is ended.
    ends: Condvar,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Books {
    pub(crate) dials: u32,
    pub(crate) opened: u32,
    pub(crate) closed: u32,
    /// Connections alive and dials under way, now and at most.
    pub(crate) open: u32,
    pub(crate) most_open: u32,
    pub(crate) detached: u32,
    /// Whether the pool has ended the dial that lingers.
    is_ended: bool,
    /// Whether it answers no close.
    pub(crate) is_silent: bool,
    /// Whether somebody has waited for an answer.
    has_hung: bool,
}

impl Server {
    fn start() -> Arc<Self> {
        Arc::new(Self {
            books: Mutex::new(Books::default()),
            answers: Condvar::default(),
            ends: Condvar::default(),
        })
    }

    pub(crate) fn books(&self) -> Books {
        *self.books.lock()
    }

    /// Answers no close from now on, or all that have waited for an answer.
    pub(crate) fn fall_silent(&self, is_silent: bool) {
        self.books.lock().is_silent = is_silent;
        self.answers.ring();
    }

    /// Waits for as long as it is silent.
    fn await_answer(&self) -> MutexGuard<'_, Books> {
        let mut books = self.books.lock();
        if books.is_silent {
            books.has_hung = true;
            self.answers.ring();
        }
        while books.is_silent {
            self.answers.wait(&mut books, None);
        }
        books
    }

    /// Waits until somebody waits for an answer.
    pub(crate) fn await_hanging(&self) {
        let mut books = self.books.lock();
        while !books.has_hung {
            self.answers.wait(&mut books, None);
        }
    }

    /// A connection is about to be detached: it is no longer the pool's.
    pub(crate) fn let_go(&self) {
        let mut books = self.books.lock();
        books.detached += 1;
        books.open -= 1;
    }
}

/// A connection knows which dial opened it, and may keep things alive for its user.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) number: u32,
    pub(crate) is_broken: bool,
    pub(crate) keeps: Option<Pool<Scripted>>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused(pub(crate) u32);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dial {} is refused", self.0)
    }
}

impl std::error::Error for Refused {}

pub(crate) type Failed = GetError<Refused>;

/// Does for each dial what the script has for it, and succeeds where that ends.
#[derive(Debug)]
pub(crate) struct Scripted {
    server: Arc<Server>,
    script: Vec<Act>,
    max_open: u32,
    blocking: Blocking,
    /// Whether there are other dialers of the same server: then what is open may be another's.
    keys: bool,
    /// A pool that each method looks at, as a dialer may: usually its own.
    pub(crate) friend: std::sync::Mutex<Option<Pool<Scripted>>>,
}

impl Scripted {
    fn new(server: &Arc<Server>, script: &[Act], max_open: u32) -> Self {
        DIALERS.set(DIALERS.get() + 1);
        Self {
            server: Arc::clone(server),
            script: script.to_vec(),
            max_open,
            blocking: Blocking::default(),
            keys: false,
            friend: std::sync::Mutex::new(None),
        }
    }

    /// Waits until the pool calls the handle, for as long as that takes.
    fn linger(&self, context: &DialContext) {
        let server = Arc::clone(&self.server);
        context.abort_with(AbortHandle::new(move || {
            server.books.lock().is_ended = true;
            server.ends.ring();
        }));
        let mut books = self.server.books.lock();
        while !books.is_ended {
            self.server.ends.wait(&mut books, None);
        }
        drop(books);
        assert!(context.is_cancelled());
    }

    fn use_the_pool(&self) {
        let friend = self.friend.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(pool) = friend {
            assert!(pool.stats().open() <= self.max_open, "BOUND");
        }
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        DIALERS.set(DIALERS.get() - 1);
        if self.keys || std::thread::panicking() {
            return; // The model has failed already, and says better why.
        }
        let books = self.server.books();
        assert_eq!(books.opened, books.closed + books.detached, "closed exactly once: {books:?}");
    }
}

impl Dialer for Scripted {
    type Connection = Connection;
    type Error = Refused;

    fn dial(&self, context: &DialContext) -> Result<Connection, Refused> {
        self.use_the_pool();
        let mut books = self.server.books.lock();
        books.dials += 1;
        books.open += 1;
        books.most_open = books.most_open.max(books.open);
        // The pool does not wait for ever for a server that answers no close.
        let most = self.max_open + u32::from(books.is_silent);
        assert!(books.open <= most, "BOUND: the server sees {books:?}");
        let number = books.dials;
        let act = self.script.get(number as usize - 1).copied().unwrap_or(Act::Succeed);
        if act == Act::Succeed {
            books.opened += 1;
            return Ok(Connection { number, is_broken: false, keeps: None });
        }
        drop(books);
        if act == Act::Linger {
            self.linger(context);
        }
        // A dial fails in its own time: others may act between.
        self.server.books.lock().open -= 1;
        match act {
            Act::Panic => resume_unwind(Box::new(Planned)),
            _ => Err(Refused(number)),
        }
    }

    fn is_broken(&self, connection: &mut Connection) -> bool {
        self.use_the_pool();
        connection.is_broken
    }

    fn check(&self, connection: &mut Connection, _deadline: Instant) -> Result<(), Refused> {
        self.use_the_pool();
        if connection.is_broken { Err(Refused(connection.number)) } else { Ok(()) }
    }

    fn reset(&self, _connection: &mut Connection) -> Result<(), Refused> {
        self.use_the_pool();
        Ok(())
    }

    fn close(&self, connection: Connection) {
        self.use_the_pool();
        let mut books = self.server.await_answer();
        books.closed += 1;
        books.open -= 1;
        drop(books);
        drop(connection);
    }

    fn blocking(&self) -> Blocking {
        self.blocking
    }
}

/// A pool that waits for as long as it takes, and the server that it dials.
pub(crate) fn pool(max_open: u32, script: &[Act]) -> (Pool<Scripted>, Arc<Server>) {
    pool_with(never_due(max_open), script, Blocking::default())
}

pub(crate) fn pool_with(
    config: Config,
    script: &[Act],
    blocking: Blocking,
) -> (Pool<Scripted>, Arc<Server>) {
    let server = Server::start();
    let mut dialer = Scripted::new(&server, script, config.max_open);
    dialer.blocking = blocking;
    (open(dialer, config, None), server)
}

/// A pool whose observer waits for the server, silent or not, as it is told that the breaker has opened.
pub(crate) fn pool_observed(config: Config, script: &[Act]) -> (Pool<Scripted>, Arc<Server>) {
    let server = Server::start();
    let dialer = Scripted::new(&server, script, config.max_open);
    let (mut reporter, observed) = (Reporter::default(), Arc::clone(&server));
    reporter.add_observer(move |event| {
        if let Event::BreakerOpened { .. } = event {
            drop(observed.await_answer());
        }
    });
    (Pool::open(dialer, config, reporter, None, Crew::of_the_process()).unwrap(), server)
}

/// A pool whose slots a quota allows.
pub(crate) fn pool_under(quota: &Quota, config: Config) -> (Pool<Scripted>, Arc<Server>) {
    let server = Server::start();
    let dialer = Scripted::new(&server, &[], config.max_open);
    (open(dialer, config, Some(quota.clone())), server)
}

fn open(dialer: Scripted, config: Config, quota: Option<Quota>) -> Pool<Scripted> {
    Pool::open(dialer, config, Reporter::default(), quota, Crew::of_the_process()).unwrap()
}

/// A keyed pool all of whose keys dial the same server, which so sees the total.
pub(crate) fn keyed_pool(
    max_open_total: u32,
    max_idle_total: Option<u32>,
    each: Config,
    script: &[Act],
) -> (KeyedPool<u32, Scripted>, Arc<Server>) {
    let config = KeyedConfig { each, max_open_total, max_idle_total };
    open_keyed(&config, None, script)
}

/// The same, whose slots a quota allows as well.
pub(crate) fn keyed_pool_under(
    quota: &Quota,
    max_open_total: u32,
    each: Config,
) -> (KeyedPool<u32, Scripted>, Arc<Server>) {
    let config = KeyedConfig { each, max_open_total, max_idle_total: None };
    open_keyed(&config, Some(quota.clone()), &[])
}

fn open_keyed(
    config: &KeyedConfig,
    quota: Option<Quota>,
    script: &[Act],
) -> (KeyedPool<u32, Scripted>, Arc<Server>) {
    let server = Server::start();
    let max_open_total = config.max_open_total;
    let (script, of_all) = (script.to_vec(), Arc::clone(&server));
    let dialer_for = move |_: &u32| {
        let mut dialer = Scripted::new(&of_all, &script, max_open_total);
        dialer.keys = true;
        dialer
    };
    let crew = Crew::of_the_process();
    let dialer_for = Arc::new(dialer_for);
    let pool = KeyedPool::open(dialer_for, None, None, config, Reporter::default(), quota, crew);
    (pool.unwrap(), server)
}

/// The pool of the only key of a keyed pool, closed for good as soon as nothing is left in it.
pub(crate) fn pool_of_a_key(config: Config) -> (Pool<Scripted>, Arc<Server>) {
    let server = Server::start();
    let dialer = Scripted::new(&server, &[], config.max_open);
    let on_vacant = Box::new(|shell: &Arc<Shell<Scripted>>| {
        shell.close_if_vacant();
    });
    let group = Group::new(config.max_open, None, None, Crew::of_the_process());
    let shell = group.admit(dialer, config, false, Reporter::default(), Some(on_vacant));
    (Pool::of(shell), server)
}

/// Settings by which nothing is ever due: then a lost wake-up is a deadlock, which loom reports.
pub(crate) fn never_due(max_open: u32) -> Config {
    Config {
        max_open,
        bypass: Duration::ZERO,
        dial_timeout: Duration::MAX,
        get_timeout: Duration::MAX,
        check_after: Duration::MAX,
        check_timeout: Duration::MAX,
        close_timeout: Duration::MAX,
        breaker: BreakerChoice::Off,
        ..Config::default()
    }
}

/// Nothing is under way, nobody waits, and the server agrees with the pool's numbers.
#[track_caller]
pub(crate) fn assert_at_rest(pool: &Pool<Scripted>, server: &Server, idle: u32) {
    let (stats, books) = (pool.stats(), server.books());
    let busy = (stats.in_use, stats.dialing, stats.closing, stats.waiting);
    assert_eq!((stats.idle, busy), (idle, (0, 0, 0, 0)), "at rest: {stats}; {books:?}");
    assert_eq!(books.open, idle, "the server agrees: {stats}; {books:?}");
    assert_eq!(u64::from(books.dials), stats.dials_total);
    assert_eq!(stats.dials_total, stats.dialed_total + stats.dial_failed_total);
}

/// Closes the pool and waits, for as long as it takes, until everything under way has ended.
#[track_caller]
pub(crate) fn finish(pool: &Pool<Scripted>, server: &Server) {
    let drained = pool.drain(never());
    assert!(drained.is_complete(), "{drained:?}");
    assert!(matches!(pool.get(), Err(GetError::Closed)));
    assert_at_rest(pool, server, 0);
}
