//! `Pool`: the handle that a program keeps, and the guards that it lends.

use std::borrow::Borrow;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::config::{Config, ConfigError, moment};
use crate::dialer::Dialer;
use crate::error::GetError;
use crate::holder::{Holder, Site};
use crate::ledger::Entry;
use crate::shell::Shell;
use crate::stats::Stats;
use crate::sync::now;

/// What a pool's handles go by; the rest is the ledger's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    pub(crate) get_timeout: Duration,
    pub(crate) retire_on_panic: bool,
}

impl Default for Habits {
    fn default() -> Self {
        Self { get_timeout: Duration::from_secs(30), retire_on_panic: true }
    }
}

/// A pool of connections, shared by any number of threads.
///
/// A handle: cheap to clone, and all clones are the same pool. When the last one is dropped the
/// pool is [closed](Self::close).
///
/// # How a caller is served
///
/// [`get`](Self::get) takes an idle connection if there is one. If not, the caller joins the queue,
/// and the pool begins a dial on a thread of its own if there is room for one. From then on the
/// caller takes **whichever comes first**: a connection that another thread returns, the dial that
/// it began, or the dial of a caller who has been served otherwise. A dial that loses that race goes
/// on, and its connection serves the next in the queue or becomes idle.
///
/// # Examples
///
/// ```
/// use latebind::{Pool, net::TcpDialer};
/// use std::io::Write;
///
/// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
/// # let address = listener.local_addr()?;
/// let pool = Pool::builder(TcpDialer::from(address)).max_open(4).build()?;
/// let threads: Vec<_> = (0..8)
///     .map(|n| {
///         let pool = pool.clone();
///         std::thread::spawn(move || {
///             let mut connection = pool.get().expect("the server is up");
///             connection.write_all(&[n])
///         })
///     })
///     .collect();
/// for thread in threads {
///     thread.join().expect("no thread panics")?;
/// }
/// assert!(pool.stats().open() <= 4);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Pool<D: Dialer> {
    handle: Arc<Handle<D>>,
}

/// What the clones of a pool share. The workers share the shell alone, so that the last handle to
/// go closes the pool although a dial is still under way.
struct Handle<D: Dialer> {
    shell: Arc<Shell<D>>,
    habits: Habits,
}

impl<D: Dialer> Drop for Handle<D> {
    fn drop(&mut self) {
        self.shell.close();
    }
}

impl<D: Dialer> Pool<D> {
    pub(crate) fn open(dialer: D, config: Config, habits: Habits) -> Self {
        Self { handle: Arc::new(Handle { shell: Shell::new(dialer, config), habits }) }
    }

    /// Lends a connection, waiting for at most `get_timeout` (30 s unless the
    /// [builder](crate::Builder::get_timeout) was told otherwise).
    ///
    /// # Errors
    ///
    /// [`GetError`] says why there was none, with the numbers of that moment.
    ///
    /// # Examples
    ///
    /// ```
    /// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// # let pool = latebind::Pool::new(latebind::net::TcpDialer::from(listener.local_addr()?));
    /// let connection = pool.get()?;
    /// println!("connected to {}", connection.peer_addr()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    #[track_caller]
    pub fn get(&self) -> Result<PooledConnection<'_, D>, GetError<D::Error>> {
        let deadline = |start| moment(start, self.handle.habits.get_timeout);
        self.lend(Location::caller(), deadline).map(|entry| Guard::new(self, entry))
    }

    /// Lends a connection, waiting for at most `timeout`.
    ///
    /// One limit for all of it: the wait in the queue, a dial, a check. `Duration::MAX` means no
    /// limit; zero means to take what is idle and needs no check, and not to begin a dial.
    ///
    /// # Errors
    ///
    /// [`GetError`] says why there was none, with the numbers of that moment.
    #[inline]
    #[track_caller]
    pub fn get_timeout(
        &self,
        timeout: Duration,
    ) -> Result<PooledConnection<'_, D>, GetError<D::Error>> {
        self.lend(Location::caller(), |start| moment(start, timeout))
            .map(|entry| Guard::new(self, entry))
    }

    /// Lends a connection, waiting until `deadline` at the latest.
    ///
    /// # Errors
    ///
    /// [`GetError`] says why there was none, with the numbers of that moment.
    #[track_caller]
    pub fn get_deadline(
        &self,
        deadline: Instant,
    ) -> Result<PooledConnection<'_, D>, GetError<D::Error>> {
        self.lend(Location::caller(), |_| Some(deadline)).map(|entry| Guard::new(self, entry))
    }

    /// Lends an idle connection if there is one and nobody waits for it.
    ///
    /// Does no I/O and does not wait: no dial is begun, and no check is made however long the
    /// connection has been idle (`is_broken` is asked).
    ///
    /// # Errors
    ///
    /// [`GetError::Exhausted`] if nothing is idle or the queue is not empty; [`GetError::Closed`].
    ///
    /// # Examples
    ///
    /// ```
    /// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// # let pool = latebind::Pool::new(latebind::net::TcpDialer::from(listener.local_addr()?));
    /// assert!(pool.try_get().is_err(), "nothing has been dialed yet");
    /// drop(pool.get()?);
    /// assert!(pool.try_get().is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn try_get(&self) -> Result<PooledConnection<'_, D>, GetError<D::Error>> {
        self.lend_idle(Location::caller()).map(|entry| Guard::new(self, entry))
    }

    /// As [`get`](Self::get), with a guard that keeps a handle of the pool and so borrows nothing.
    ///
    /// It costs a reference count, which all threads of the pool share: prefer `get` where its
    /// borrow will do.
    ///
    /// # Errors
    ///
    /// [`GetError`] says why there was none, with the numbers of that moment.
    ///
    /// # Examples
    ///
    /// ```
    /// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// # let pool = latebind::Pool::new(latebind::net::TcpDialer::from(listener.local_addr()?));
    /// let connection = pool.get_owned()?;
    /// std::thread::spawn(move || connection.set_nodelay(true)).join().unwrap()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn get_owned(&self) -> Result<OwnedConnection<D>, GetError<D::Error>> {
        self.get_timeout_owned(self.handle.habits.get_timeout)
    }

    /// As [`get_timeout`](Self::get_timeout), with a guard that borrows nothing.
    ///
    /// # Errors
    ///
    /// [`GetError`] says why there was none, with the numbers of that moment.
    #[track_caller]
    pub fn get_timeout_owned(
        &self,
        timeout: Duration,
    ) -> Result<OwnedConnection<D>, GetError<D::Error>> {
        self.lend(Location::caller(), |start| moment(start, timeout))
            .map(|entry| Guard::new(self.clone(), entry))
    }

    /// As [`try_get`](Self::try_get), with a guard that borrows nothing.
    ///
    /// # Errors
    ///
    /// [`GetError::Exhausted`] if nothing is idle or the queue is not empty; [`GetError::Closed`].
    #[track_caller]
    pub fn try_get_owned(&self) -> Result<OwnedConnection<D>, GetError<D::Error>> {
        self.lend_idle(Location::caller()).map(|entry| Guard::new(self.clone(), entry))
    }

    fn lend_idle(&self, location: Site) -> Result<Entry<D::Connection>, GetError<D::Error>> {
        let shell = &self.handle.shell;
        shell.take_resting(location).map_or_else(|| shell.try_get(location), Ok)
    }

    #[inline]
    fn lend(
        &self,
        location: Site,
        deadline: impl FnOnce(Instant) -> Option<Instant>,
    ) -> Result<Entry<D::Connection>, GetError<D::Error>> {
        match self.handle.shell.take_resting(location) {
            Some(entry) => Ok(entry),
            None => self.lend_slowly(location, deadline),
        }
    }

    #[cold]
    fn lend_slowly(
        &self,
        location: Site,
        deadline: impl FnOnce(Instant) -> Option<Instant>,
    ) -> Result<Entry<D::Connection>, GetError<D::Error>> {
        let start = now();
        self.handle.shell.get(start, deadline(start), location)
    }

    /// Opens connections until `connections` are open, all at once, and waits for them for at most
    /// `get_timeout`.
    ///
    /// They come to rest in the pool, so no more are opened than `max_idle` and `max_open` allow,
    /// and those open already are counted.
    ///
    /// # Errors
    ///
    /// As of [`get`](Self::get). Connections opened before the error stay open.
    ///
    /// # Examples
    ///
    /// ```
    /// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// # let pool = latebind::Pool::new(latebind::net::TcpDialer::from(listener.local_addr()?));
    /// pool.warm_up(3)?;
    /// assert_eq!(pool.stats().idle, 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn warm_up(&self, connections: u32) -> Result<(), GetError<D::Error>> {
        let deadline = moment(now(), self.handle.habits.get_timeout);
        self.handle.shell.warm_up(connections, deadline)
    }

    /// What the pool holds now, and has done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.handle.shell.stats()
    }

    /// Who has a connection now, longest first.
    ///
    /// Always on: each checkout notes the line and the thread that asked, and when. A guard may be
    /// moved; the thread is that of the checkout. A connection that changes hands at this very moment
    /// may be missing, as may one that has been given to a caller who has not woken yet.
    ///
    /// # Examples
    ///
    /// ```
    /// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// # let pool = latebind::Pool::new(latebind::net::TcpDialer::from(listener.local_addr()?));
    /// let connection = pool.get()?;
    /// let holders = pool.holders();
    /// assert_eq!(holders[0].location.file(), file!());
    /// println!("{}", holders[0]); // held for 0.0ns by thread "main" since src/main.rs:7:23
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn holders(&self) -> Vec<Holder> {
        self.handle.shell.holders()
    }

    /// The dialer.
    #[must_use]
    pub fn dialer(&self) -> &D {
        self.handle.shell.dialer()
    }

    /// Sets the most connections that may be open, now and from now on.
    ///
    /// Idle connections beyond it are closed at once, connections in use when they come back: until
    /// then more than `max_open` may be open. A `max_idle` or `max_dialing` above it counts as equal
    /// to it.
    ///
    /// # Errors
    ///
    /// [`ConfigError::TooSmall`] if it is 0. Nothing is changed then.
    pub fn resize(&self, max_open: u32) -> Result<(), ConfigError> {
        self.handle.shell.reconfigure(|config| config.max_open = max_open)
    }

    /// Lends no connection again that was opened, or began to be dialed, before this call.
    ///
    /// Idle ones are closed now, those in use when they come back.
    pub fn flush(&self) {
        self.handle.shell.flush();
    }

    /// Closes the pool: nothing is lent from now on.
    ///
    /// Callers in the queue are turned away with [`GetError::Closed`] and idle connections are
    /// closed. Connections in use are closed when they come back, and dials under way when they
    /// end: [`drain`](Self::drain) waits for both. Of the pool's threads, those without work have
    /// ended when this returns; the others end with their work.
    ///
    /// May be called more than once, and from a dialer's own method.
    pub fn close(&self) {
        self.handle.shell.close();
    }

    /// [Closes](Self::close) the pool, and waits until nothing of it is open or `deadline` has come.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    ///
    /// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// # let pool = latebind::Pool::new(latebind::net::TcpDialer::from(listener.local_addr()?));
    /// let connection = pool.get()?;
    /// let drained = pool.drain(Instant::now() + Duration::from_millis(10));
    /// assert_eq!(drained.in_use, 1);
    /// drop(connection);
    /// assert!(pool.drain(Instant::now() + Duration::from_secs(5)).is_complete());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn drain(&self, deadline: Instant) -> Drained {
        let Stats { in_use, dialing, closing, .. } = self.handle.shell.drain(Some(deadline));
        Drained { in_use, dialing, closing }
    }
}

impl<D: Dialer> Clone for Pool<D> {
    fn clone(&self) -> Self {
        Self { handle: Arc::clone(&self.handle) }
    }
}

impl<D: Dialer> fmt::Debug for Pool<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// What was still open when [`Pool::drain`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "it says whether anything is still open"]
pub struct Drained {
    /// Connections in callers' hands.
    pub in_use: u32,
    /// Dials that have not ended. What they open is closed at once.
    pub dialing: u32,
    /// Connections whose close has not returned.
    pub closing: u32,
}

impl Drained {
    /// Whether nothing is open any more.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.in_use + self.dialing + self.closing == 0
    }
}

/// A borrowed connection, for as long as the borrow of its pool lasts.
///
/// See [`Guard`] for what can be done with it.
pub type PooledConnection<'p, D> = Guard<D, &'p Pool<D>>;

/// A borrowed connection that keeps its pool alive, and so may go anywhere.
///
/// See [`Guard`] for what can be done with it.
pub type OwnedConnection<D> = Guard<D, Pool<D>>;

/// A borrowed connection. Dropping it gives the connection back.
///
/// It dereferences to the connection. Its own verbs are associated functions, so that they hide no
/// method of the connection: `PooledConnection::discard(guard)`.
///
/// One that was never dereferenced goes back as it came: the connection is not
/// [reset](Dialer::reset).
///
/// A guard dropped by a panic does not give the connection back: halfway through something, it is
/// retired (see [`retire_on_panic`](crate::Builder::retire_on_panic)).
#[must_use = "a connection not used is given straight back"]
pub struct Guard<D: Dialer, P: Borrow<Pool<D>>> {
    /// `None` only while the guard is taken apart.
    entry: Option<Entry<D::Connection>>,
    pool: P,
    /// Whether a panic was under way at the checkout: then it is no sign of a broken borrow.
    was_panicking: bool,
    /// Whether the connection was ever looked at.
    was_touched: AtomicBool,
}

impl<D: Dialer, P: Borrow<Pool<D>>> Guard<D, P> {
    fn new(pool: P, entry: Entry<D::Connection>) -> Self {
        let (was_panicking, was_touched) = (thread::panicking(), AtomicBool::new(false));
        Self { entry: Some(entry), pool, was_panicking, was_touched }
    }

    /// Takes the connection out for good, because it is of no more use. It is closed.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::PooledConnection;
    ///
    /// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// # let pool = latebind::Pool::new(latebind::net::TcpDialer::from(listener.local_addr()?));
    /// let connection = pool.get()?;
    /// PooledConnection::discard(connection);
    /// assert_eq!(pool.stats().open(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn discard(mut guard: Self) {
        let entry = guard.take();
        guard.shell().retire(entry);
    }

    /// Takes the connection out of the pool, to keep. It no longer counts as open.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::PooledConnection;
    ///
    /// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// # let pool = latebind::Pool::new(latebind::net::TcpDialer::from(listener.local_addr()?));
    /// let mine = PooledConnection::detach(pool.get()?);
    /// assert_eq!(pool.stats().open(), 0);
    /// # drop(mine);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use = "the connection is dropped otherwise: `discard` says that better"]
    pub fn detach(mut guard: Self) -> D::Connection {
        let entry = guard.take();
        guard.shell().detach(entry)
    }

    /// How long ago the connection was dialed.
    pub fn age(guard: &Self) -> Duration {
        guard.shell().age(guard.entry())
    }

    /// Whether the connection has been lent before.
    ///
    /// A request that fails on a reused connection before anything was received may have met one
    /// that the peer had just closed, and can be tried again on another; on a fresh one it cannot.
    pub fn is_reused(guard: &Self) -> bool {
        guard.entry().is_reused()
    }

    fn shell(&self) -> &Arc<Shell<D>> {
        &self.pool.borrow().handle.shell
    }

    fn take(&mut self) -> Entry<D::Connection> {
        self.entry.take().expect("a guard holds its connection until it is taken apart")
    }

    fn entry(&self) -> &Entry<D::Connection> {
        self.entry.as_ref().expect("a guard holds its connection until it is taken apart")
    }
}

impl<D: Dialer, P: Borrow<Pool<D>>> Deref for Guard<D, P> {
    type Target = D::Connection;

    fn deref(&self) -> &D::Connection {
        self.was_touched.store(true, Ordering::Relaxed);
        &self.entry().connection
    }
}

impl<D: Dialer, P: Borrow<Pool<D>>> DerefMut for Guard<D, P> {
    fn deref_mut(&mut self) -> &mut D::Connection {
        *self.was_touched.get_mut() = true;
        let entry = self.entry.as_mut();
        &mut entry.expect("a guard holds its connection until it is taken apart").connection
    }
}

impl<D: Dialer, P: Borrow<Pool<D>>> Drop for Guard<D, P> {
    #[inline]
    fn drop(&mut self) {
        let Some(entry) = self.entry.take() else { return };
        let is_suspect = thread::panicking() && !self.was_panicking;
        if is_suspect && self.pool.borrow().handle.habits.retire_on_panic {
            self.shell().retire(entry);
        } else {
            let was_touched = *self.was_touched.get_mut();
            self.shell().give_back(entry, was_touched);
        }
    }
}

impl<D: Dialer, P: Borrow<Pool<D>>> fmt::Debug for Guard<D, P>
where
    D::Connection: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
