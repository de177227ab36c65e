//! A dialer that tests direct, and that keeps the server's side of the books.

#![allow(dead_code, unreachable_pub)] // Each test binary uses a part of it.

use std::borrow::Borrow;
use std::collections::VecDeque;
use std::fmt;
use std::panic;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use latebind::{Blocking, Builder, DialContext, Dialer, GetError, Guard, Pool, Stats};

/// Long enough that only a bug can use it up.
pub const LONG: Duration = Duration::from_secs(20);

/// Short enough to wait for in a test, for what is to time out.
pub const SHORT: Duration = Duration::from_millis(20);

/// A pool over a scripted server, and the server's side of the books. It has no breaker unless `set`
/// says so: a script is about each dial.
pub fn pool(
    set: impl FnOnce(Builder<Scripted>) -> Builder<Scripted>,
) -> (Pool<Scripted>, Arc<Server>) {
    pool_that(|blocking| blocking, set)
}

/// The same, for a dialer that says something else of which calls may block.
pub fn pool_that(
    may_block: impl FnOnce(Blocking) -> Blocking,
    set: impl FnOnce(Builder<Scripted>) -> Builder<Scripted>,
) -> (Pool<Scripted>, Arc<Server>) {
    let (mut dialer, server) = Scripted::new();
    dialer.blocking = may_block(dialer.blocking);
    (set(Pool::builder(dialer).breaker(None)).build().unwrap(), server)
}

/// Waits until `n` callers stand in the queue.
#[track_caller]
pub fn await_waiting<D: Dialer>(pool: &Pool<D>, n: u32) {
    await_that("as many callers wait", || pool.stats().waiting == n);
}

/// Asks for a connection, and leaves while the dial for it is under way. A caller whose deadline
/// passes before it has asked begins none.
#[track_caller]
pub fn leave_a_dial<D: Dialer>(pool: &Pool<D>) {
    await_that("a dial is under way", || {
        assert!(pool.get_timeout(Duration::from_millis(1)).is_err());
        pool.stats().dialing > 0
    });
}

/// Waits until nothing is lent, wanted or under way; then both sides of the books must agree.
#[track_caller]
pub fn await_rest(pool: &Pool<Scripted>, server: &Server) -> Stats {
    let mut stats = pool.stats();
    await_that("the pool comes to rest", || {
        stats = pool.stats();
        stats.in_use + stats.dialing + stats.closing + stats.waiting == 0
    });
    assert_eq!(stats.idle, server.alive(), "idle is what the server has open");
    assert!(server.most_open.load(SeqCst) <= stats.max_open, "BOUND, as the server sees it");
    stats
}

/// The number of the dial that an error gives as its reason.
pub fn failed_dial(error: &GetError<Refused>) -> Option<u32> {
    error.dial_error().map(|refused| refused.0)
}

/// A guard whose connection has been used, and so is reset when it comes back.
pub fn used<D: Dialer, P: Borrow<Pool<D>>>(guard: Guard<D, P>) -> Guard<D, P> {
    let _connection: &D::Connection = &guard;
    guard
}

/// Panics without a message on the test's output, where a panic is no news.
pub fn panic_quietly() -> ! {
    panic::resume_unwind(Box::new("as the script says"))
}

/// Runs what might come to a standstill, and fails if it does.
#[track_caller]
pub fn finishes<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    finishes_within(LONG, body)
}

/// The same, for what takes its time.
#[track_caller]
pub fn finishes_within<T: Send + 'static>(
    limit: Duration,
    body: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (done, ended) = mpsc::channel();
    let thread = thread::spawn(move || {
        let value = body();
        done.send(()).expect("the test waits for this");
        value
    });
    match ended.recv_timeout(limit) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("a standstill"),
        _ => thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic)),
    }
}

/// The act of the next dial, check, reset or close.
pub enum Act {
    Succeed,
    Fail,
    Panic,
    /// Waits until the gate is opened, and then does the other.
    Hold(Gate, Box<Act>),
}

/// Something to wait at until it is opened; tells who directs how many wait.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<(bool, u32)>, Condvar)>);

impl Gate {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn open(&self) {
        self.0.0.lock().unwrap().0 = true;
        self.0.1.notify_all();
    }

    /// To wait here, and then do `act`.
    pub fn then(&self, act: Act) -> Act {
        Act::Hold(self.clone(), Box::new(act))
    }

    /// Waits until it is open. A test that fails may leave it shut, and wait for the thread that is here:
    /// so the wait has an end, which is after that of every wait of the test's own.
    pub fn pass(&self) {
        let mut state = self.0.0.lock().unwrap();
        state.1 += 1;
        self.0.1.notify_all();
        let (state, wait) = self.0.1.wait_timeout_while(state, 4 * LONG, |state| !state.0).unwrap();
        drop(state);
        assert!(!wait.timed_out(), "nobody has opened the gate");
    }

    /// Waits until `n` have come to it.
    pub fn await_arrivals(&self, n: u32) {
        let mut state = self.0.0.lock().unwrap();
        let deadline = Instant::now() + LONG;
        while state.1 < n {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{} of {n} came to the gate", state.1);
            state = self.0.1.wait_timeout(state, left).unwrap().0;
        }
    }
}

/// The error of a scripted dial, check or reset.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused(pub u32);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused (dial {})", self.0)
    }
}

impl std::error::Error for Refused {}

/// The server's side: what was opened and closed, counted where it happens.
#[derive(Default)]
pub struct Server {
    pub dials: AtomicU32,
    /// The deadline that the latest dial was told.
    pub dial_deadline: Mutex<Option<Instant>>,
    /// The deadline that the latest check was told.
    pub check_deadline: Mutex<Option<Instant>>,
    pub opened: AtomicU32,
    pub closed: AtomicU32,
    /// Connections alive and dials under way.
    pub open: AtomicU32,
    /// The most that `open` has been.
    pub most_open: AtomicU32,
    pub checks: AtomicU32,
    pub resets: AtomicU32,
    pub dial_script: Mutex<VecDeque<Act>>,
    pub check_script: Mutex<VecDeque<Act>>,
    pub reset_script: Mutex<VecDeque<Act>>,
    pub close_script: Mutex<VecDeque<Act>>,
    pub broken_script: Mutex<VecDeque<Act>>,
    /// Whether every dial fails for which the script has nothing.
    pub refuses: AtomicBool,
    /// Whether threads that return a connection must not wait.
    pub must_not_wait: AtomicBool,
    /// The thread of the latest reset.
    pub reset_by: Mutex<Option<ThreadId>>,
    /// No check of a connection from this dial or an earlier one succeeds.
    pub last_dead: AtomicU32,
}

impl Server {
    pub fn script(script: &Mutex<VecDeque<Act>>, acts: impl IntoIterator<Item = Act>) {
        script.lock().unwrap().extend(acts);
    }

    pub fn on_dial(&self, acts: impl IntoIterator<Item = Act>) {
        Self::script(&self.dial_script, acts);
    }

    pub fn on_is_broken(&self, acts: impl IntoIterator<Item = Act>) {
        Self::script(&self.broken_script, acts);
    }

    pub fn on_check(&self, acts: impl IntoIterator<Item = Act>) {
        Self::script(&self.check_script, acts);
    }

    pub fn on_reset(&self, acts: impl IntoIterator<Item = Act>) {
        Self::script(&self.reset_script, acts);
    }

    pub fn on_close(&self, acts: impl IntoIterator<Item = Act>) {
        Self::script(&self.close_script, acts);
    }

    /// The deadline that the latest dial was told.
    pub fn latest_deadline(&self) -> Instant {
        self.dial_deadline.lock().unwrap().expect("something was dialed")
    }

    /// Dials begun.
    pub fn dials(&self) -> u32 {
        self.dials.load(SeqCst)
    }

    pub fn alive(&self) -> u32 {
        self.opened.load(SeqCst) - self.closed.load(SeqCst)
    }

    fn act(script: &Mutex<VecDeque<Act>>, otherwise: bool) -> bool {
        let act = script.lock().unwrap().pop_front();
        act.map_or(otherwise, perform)
    }

    fn enter(&self) {
        let open = self.open.fetch_add(1, SeqCst) + 1;
        self.most_open.fetch_max(open, SeqCst);
    }
}

fn perform(act: Act) -> bool {
    match act {
        Act::Succeed => true,
        Act::Fail => false,
        Act::Panic => panic_quietly(),
        Act::Hold(gate, act) => {
            gate.pass();
            perform(*act)
        }
    }
}

/// One connection. Its drop is the server's notice that it has gone.
pub struct Connection {
    pub id: u32,
    pub in_use: AtomicBool,
    pub is_broken: bool,
    /// Whether it still counts as open.
    counts: bool,
    server: Arc<Server>,
}

impl Connection {
    /// Takes a connection out of its pool. It no longer counts as soon as its slot may be free.
    pub fn detach<P: Borrow<Pool<Scripted>>>(mut guard: Guard<Scripted, P>) -> Self {
        guard.counts = false;
        guard.server.open.fetch_sub(1, SeqCst);
        Guard::detach(guard)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection {}", self.id)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.server.closed.fetch_add(1, SeqCst);
        if self.counts {
            self.server.open.fetch_sub(1, SeqCst);
        }
    }
}

/// A dialer that does as the server's script says.
#[derive(Clone)]
pub struct Scripted {
    pub server: Arc<Server>,
    pub blocking: Blocking,
}

impl Scripted {
    pub fn new() -> (Self, Arc<Server>) {
        let server = Arc::<Server>::default();
        (Self { server: Arc::clone(&server), blocking: Blocking::default() }, server)
    }
}

/// Counts a dial that does not end in a connection out again, also when it panics.
struct Dialing<'a>(Option<&'a Server>);

impl Drop for Dialing<'_> {
    fn drop(&mut self) {
        if let Some(server) = self.0 {
            server.open.fetch_sub(1, SeqCst);
        }
    }
}

impl Dialer for Scripted {
    type Connection = Connection;
    type Error = Refused;

    fn dial(&self, context: &DialContext) -> Result<Connection, Refused> {
        let id = self.server.dials.fetch_add(1, SeqCst) + 1;
        *self.server.dial_deadline.lock().unwrap() = Some(context.deadline());
        self.server.enter();
        let mut dialing = Dialing(Some(&self.server));
        if !Server::act(&self.server.dial_script, !self.server.refuses.load(SeqCst)) {
            return Err(Refused(id));
        }
        dialing.0 = None;
        self.server.opened.fetch_add(1, SeqCst);
        Ok(Connection {
            id,
            in_use: AtomicBool::new(false),
            is_broken: false,
            counts: true,
            server: Arc::clone(&self.server),
        })
    }

    fn is_broken(&self, connection: &mut Connection) -> bool {
        !Server::act(&self.server.broken_script, true) || connection.is_broken
    }

    fn check(&self, connection: &mut Connection, deadline: Instant) -> Result<(), Refused> {
        self.server.checks.fetch_add(1, SeqCst);
        *self.server.check_deadline.lock().unwrap() = Some(deadline);
        let is_alive = connection.id > self.server.last_dead.load(SeqCst);
        if Server::act(&self.server.check_script, is_alive) { Ok(()) } else { Err(Refused(0)) }
    }

    fn reset(&self, _connection: &mut Connection) -> Result<(), Refused> {
        self.server.resets.fetch_add(1, SeqCst);
        *self.server.reset_by.lock().unwrap() = Some(thread::current().id());
        if Server::act(&self.server.reset_script, true) { Ok(()) } else { Err(Refused(0)) }
    }

    fn must_not_wait(&self) -> bool {
        self.server.must_not_wait.load(SeqCst)
    }

    fn close(&self, connection: Connection) {
        Server::act(&self.server.close_script, true);
        drop(connection);
    }

    fn blocking(&self) -> Blocking {
        self.blocking
    }
}

/// All that an error shows of itself and of its causes.
pub fn everything_told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(|cause| format!("{cause} {cause:?} {cause:#?}\n")).collect()
}

/// Waits until `is_so`, for a state that a test can see and not be told of. It looks some thousand times
/// a second: a test that looked without a pause would keep a core from the tests beside it.
#[track_caller]
pub fn await_that(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        thread::sleep(Duration::from_micros(200));
    }
}
