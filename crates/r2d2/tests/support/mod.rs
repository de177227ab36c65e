//! A server that the tests turn on and off, and its manager for both pools.

#![allow(dead_code, unreachable_pub)] // Each test binary uses a part of it.

use std::fmt;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex, RwLock, RwLockWriteGuard, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// So long that nothing takes it unless it never ends.
pub const LONG: Duration = Duration::from_secs(30);

/// A secret that managers of several crates show.
pub const PASSWORD: &str = "hunter2";

/// Waits until it is so.
#[track_caller]
pub fn await_that(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LONG, "it never came to that");
        thread::sleep(Duration::from_millis(1));
    }
}

/// The result of `action`, if it does not hang.
#[track_caller]
pub fn finishes<T: Send + 'static>(action: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || tell.send(action()));
    told.recv_timeout(LONG).expect("it comes to an end")
}

/// The error of the server, as of r2d2's own tests.
#[derive(Debug)]
pub struct Blammo;

impl fmt::Display for Blammo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("blammo")
    }
}

impl std::error::Error for Blammo {}

#[derive(Debug)]
pub struct Connection {
    pub number: u32,
}

/// A server and its manager. Clones are the same server.
#[derive(Clone, Default)]
pub struct Server(Arc<State>);

#[derive(Default)]
struct State {
    openers: Mutex<Vec<String>>,
    opened: AtomicU32,
    /// Connections up to this number are not valid,
    dead: AtomicU32,
    /// and up to this one they are broken.
    broken: AtomicU32,
    asked: AtomicU32,
    returned: AtomicU32,
    refused: AtomicU32,
    /// How many are refused from now on.
    refuse_next: AtomicU32,
    refuse: AtomicBool,
    never_valid: AtomicBool,
    panic_next: AtomicU32,
    panic_if_asked: AtomicBool,
    panic_on_return: AtomicBool,
    connect: RwLock<()>,
    is_valid: RwLock<()>,
}

fn count_down(count: &AtomicU32) -> bool {
    count.fetch_update(SeqCst, SeqCst, |count| count.checked_sub(1)).is_ok()
}

impl Server {
    pub fn refuse(&self, refuses: bool) {
        self.0.refuse.store(refuses, SeqCst);
    }

    pub fn refuse_next(&self, count: u32) {
        self.0.refuse_next.store(count, SeqCst);
    }

    pub fn refused(&self) -> u32 {
        self.0.refused.load(SeqCst)
    }

    pub fn panic_next(&self, count: u32) {
        self.0.panic_next.store(count, SeqCst);
    }

    pub fn panic_if_asked(&self, panics: bool) {
        self.0.panic_if_asked.store(panics, SeqCst);
    }

    pub fn panic_on_return(&self, panics: bool) {
        self.0.panic_on_return.store(panics, SeqCst);
    }

    pub fn never_valid(&self, never: bool) {
        self.0.never_valid.store(never, SeqCst);
    }

    /// How often `is_valid` was called.
    pub fn asked(&self) -> u32 {
        self.0.asked.load(SeqCst)
    }

    /// How often `has_broken` was called.
    pub fn returned(&self) -> u32 {
        self.0.returned.load(SeqCst)
    }

    /// The names of the threads that opened connections.
    pub fn openers(&self) -> Vec<String> {
        self.0.openers.lock().unwrap().clone()
    }

    /// Connections opened so far are not valid any more.
    pub fn kill_all(&self) {
        self.0.dead.store(self.0.opened.load(SeqCst), SeqCst);
    }

    /// Connections opened so far have broken.
    pub fn break_all(&self) {
        self.0.broken.store(self.0.opened.load(SeqCst), SeqCst);
    }

    /// As long as this is kept.
    pub fn connect_hangs(&self) -> Hang<'_> {
        Hang { _lock: self.0.connect.write().unwrap() }
    }

    /// As long as this is kept.
    pub fn is_valid_hangs(&self) -> Hang<'_> {
        Hang { _lock: self.0.is_valid.write().unwrap() }
    }

    fn open(&self) -> Result<Connection, Blammo> {
        let Self(state) = self;
        drop(state.connect.read());
        assert!(!count_down(&state.panic_next), "told to panic");
        if state.refuse.load(SeqCst) || count_down(&state.refuse_next) {
            state.refused.fetch_add(1, SeqCst);
            return Err(Blammo);
        }
        let opener = thread::current().name().unwrap_or_default().to_owned();
        state.openers.lock().unwrap().push(opener);
        Ok(Connection { number: state.opened.fetch_add(1, SeqCst) + 1 })
    }

    fn ask(&self, connection: &Connection) -> Result<(), Blammo> {
        let Self(state) = self;
        state.asked.fetch_add(1, SeqCst);
        assert!(!state.panic_if_asked.load(SeqCst), "told to panic");
        drop(state.is_valid.read());
        let is_dead = connection.number <= state.dead.load(SeqCst);
        if is_dead || state.never_valid.load(SeqCst) { Err(Blammo) } else { Ok(()) }
    }

    fn is_broken(&self, connection: &Connection) -> bool {
        let Self(state) = self;
        state.returned.fetch_add(1, SeqCst);
        assert!(!state.panic_on_return.load(SeqCst), "told to panic");
        connection.number <= state.broken.load(SeqCst)
    }
}

/// As many a manager: with the password.
impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("password", &PASSWORD).finish()
    }
}

pub struct Hang<'a> {
    _lock: RwLockWriteGuard<'a, ()>,
}

macro_rules! manage {
    ($($pool:ident),*) => { $(
        impl $pool::ManageConnection for Server {
            type Connection = Connection;
            type Error = Blammo;

            fn connect(&self) -> Result<Connection, Blammo> {
                self.open()
            }

            fn is_valid(&self, connection: &mut Connection) -> Result<(), Blammo> {
                self.ask(connection)
            }

            fn has_broken(&self, connection: &mut Connection) -> bool {
                self.is_broken(connection)
            }
        }
    )* };
}

manage!(r2d2, original);

/// Notes which connections were released.
#[derive(Clone, Debug, Default)]
pub struct Customizer(Arc<Mutex<Vec<u32>>>);

impl Customizer {
    pub fn released(&self) -> Vec<u32> {
        self.0.lock().unwrap().clone()
    }
}

impl r2d2::CustomizeConnection<Connection, Blammo> for Customizer {
    fn on_release(&self, connection: Connection) {
        self.0.lock().unwrap().push(connection.number);
    }
}
