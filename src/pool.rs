//! `Pool`: the handle that a program keeps.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use crate::config::{Config, ConfigError};
use crate::dialer::Dialer;
use crate::ledger::stats::Stats;
use crate::report::error::{DialFailure, GetError};
use crate::report::histogram::Histograms;
use crate::report::holder::Holder;
use crate::report::reporter::Reporter;
use crate::runtime::sync::now;
use crate::runtime::workers::Crew;
use crate::shell::quota::Quota;
use crate::shell::{Group, Shell};

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
/// it began, or the dial of a caller that has been served otherwise. A dial that loses that race goes
/// on, and its connection serves the next in the queue or becomes idle.
///
/// # Forks
///
/// A pool belongs to the process that opened it. In the child of a fork it is closed:
/// [`GetError::Closed`], and all numbers are 0. Guards and handles may be dropped there. Nothing is
/// sent on the parent's connections, neither a goodbye nor a reset, as both processes have the same
/// sockets: what the child drops stays open there until it ends. The child may open pools of its own,
/// and makes their dialers itself, as those from before may have locks that other threads held.
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

/// The state that the clones of a pool share. The workers share only the shell, so that dropping the last
/// handle closes the pool although a dial is still under way.
struct Handle<D: Dialer> {
    shell: Arc<Shell<D>>,
}

impl<D: Dialer> Drop for Handle<D> {
    fn drop(&mut self) {
        if self.shell.is_inherited() {
            // Its connections are the parent's, and so must not even be dropped.
            std::mem::forget(Arc::clone(&self.shell));
        }
        self.shell.close();
    }
}

impl<D: Dialer> Pool<D> {
    pub(crate) fn open(
        dialer: D,
        config: Config,
        reporter: Reporter<D::Error>,
        quota: Option<Quota>,
        crew: Arc<Crew>,
    ) -> Result<Self, ConfigError> {
        let shell = match quota {
            None => Shell::new(dialer, config, reporter, crew),
            Some(quota) => Group::of_one(dialer, config, reporter, quota, crew)?,
        };
        shell.begin();
        Ok(Self::of(shell))
    }

    pub(crate) fn of(shell: Arc<Shell<D>>) -> Self {
        Self { handle: Arc::new(Handle { shell }) }
    }

    pub(crate) fn shell(&self) -> &Arc<Shell<D>> {
        &self.handle.shell
    }

    /// Opens connections until `connections` are open, as many at once as
    /// [`max_dialing`](crate::Builder::max_dialing) allows, and waits for them for at most
    /// `get_timeout`.
    ///
    /// They become idle in the pool, so no more are opened than `max_idle` and `max_open` allow.
    /// Connections that are already open count.
    ///
    /// # Errors
    ///
    /// The errors of [`get`](Self::get). Connections opened before the error stay open.
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
        let shell = &self.handle.shell;
        let warm = shell.warm_up(connections, shell.knobs().late_at(now()));
        warm.unwrap_or(Err(GetError::Closed))
    }

    /// The pool's numbers: the connections that it holds now, and totals since it was opened.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.handle.shell.stats()
    }

    /// As [`stats`](Self::stats), but never waits for the pool's lock, and holds it for no longer
    /// than a copy of the numbers takes: for frequent readers, such as a metrics exporter.
    ///
    /// `open()` is `idle + in_use + dialing + closing`, and at most `max_open`, in every reading, except
    /// that more may be open for a while after `max_open` was lowered.
    /// But its numbers are not of one moment. `idle` and `in_use` are current, read without
    /// synchronization. The others are current if the lock is free. If the lock is taken, they are
    /// as they were after the latest event that opened or closed a connection, or after an event
    /// that is about a millisecond old; the totals then lack the loans without the lock since.
    ///
    /// # Examples
    ///
    /// ```
    /// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// # let pool = latebind::Pool::new(latebind::net::TcpDialer::from(listener.local_addr()?));
    /// let connection = pool.get()?;
    /// assert_eq!(pool.recent_stats().in_use, 1);
    /// drop(connection);
    /// assert_eq!(pool.recent_stats().idle, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn recent_stats(&self) -> Stats {
        self.handle.shell.recent_stats()
    }

    /// How the latest dial failed, unless one has succeeded since. Includes dials that the pool
    /// began for [`min_idle`](crate::Settings::min_idle), and dials for a caller that was served
    /// otherwise.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::{Pool, net::TcpDialer};
    ///
    /// let nobody = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    /// let pool = Pool::builder(TcpDialer::from(nobody)).min_idle(1).build()?;
    /// // No caller asks for a connection. The pool dials by itself, and fails.
    /// # while pool.last_dial_failure().is_none() { std::thread::yield_now(); }
    /// let failure = pool.last_dial_failure().expect("nobody listens there");
    /// println!("{failure}"); // .. Connection refused ..
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn last_dial_failure(&self) -> Option<DialFailure<D::Error>> {
        self.handle.shell.last_dial_failure()
    }

    /// How long waits, dials and loans took since the pool was opened.
    ///
    /// Always on: a checkout that does not wait, and its return, write nothing for it.
    #[must_use]
    pub fn histograms(&self) -> Histograms {
        self.handle.shell.histograms()
    }

    /// The holders of connections now, longest first.
    ///
    /// Always on: each checkout records the line and the thread that asked, and when. A guard may
    /// be moved to another thread; the thread given is that of the checkout. A connection that is
    /// lent or returned at this very moment may be missing, and so may one that was given to a
    /// caller that has not woken yet.
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

    /// The settings in force, those of the latest [`reconfigure`](Self::reconfigure) or
    /// [`resize`](Self::resize) included. In the child of a fork: the defaults.
    ///
    /// # Examples
    ///
    /// ```
    /// # let pool = latebind::Pool::new(latebind::net::TcpDialer::new("localhost", 80));
    /// use std::time::Duration;
    ///
    /// pool.reconfigure().get_timeout(Duration::from_secs(2)).apply()?;
    /// println!("{:?}", pool.settings()); // Config { max_open: 10, .. get_timeout: 2s, ..
    /// # assert_eq!(pool.settings().get_timeout, Duration::from_secs(2));
    /// # Ok::<(), latebind::ConfigError>(())
    /// ```
    #[must_use]
    pub fn settings(&self) -> Config {
        self.handle.shell.settings()
    }

    /// The dialer.
    #[must_use]
    pub fn dialer(&self) -> &D {
        self.handle.shell.dialer()
    }

    /// Sets the most connections that may be open, from now on: short for
    /// [`reconfigure`](Self::reconfigure) with [`max_open`](crate::Settings::max_open) alone, which
    /// says what happens to connections beyond it.
    ///
    /// # Errors
    ///
    /// [`ConfigError::TooSmall`] if `max_open` is 0. Then nothing is changed.
    pub fn resize(&self, max_open: u32) -> Result<(), ConfigError> {
        self.handle.shell.reconfigure(|config| Config { max_open, ..config }.check_bounds())
    }

    /// Stops lending every connection that was opened, or whose dial was begun, before this call.
    ///
    /// Idle connections are closed now, those in use when they are returned. Dials under way are
    /// cancelled, as by a [`close`](Self::close), and callers who still wait dial again.
    pub fn flush(&self) {
        self.handle.shell.flush();
    }

    /// Closes the connections that are idle now, and no others: the program will not need them for a
    /// while, or the server should be spared.
    ///
    /// Connections in use and being dialed are not touched, and are lent again. `min_idle` is dialed
    /// again at once. [`flush`](Self::flush) is for connections that must not be used any more.
    ///
    /// # Examples
    ///
    /// ```
    /// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// # let pool = latebind::Pool::new(latebind::net::TcpDialer::from(listener.local_addr()?));
    /// pool.warm_up(3)?;
    /// let in_use = pool.get()?;
    /// pool.close_idle();
    /// drop(in_use);
    /// assert_eq!(pool.stats().idle, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close_idle(&self) {
        self.handle.shell.close_idle();
    }

    /// Retires the connections for which `predicate` returns `true`.
    ///
    /// It judges once each connection that was opened, or whose dial was begun, before this call:
    /// idle connections now, on this thread, and those in use when they are returned, on the
    /// returning thread. None of them is lent again before that. A connection on which the
    /// predicate panics is retired.
    ///
    /// The predicate runs under no lock. It is dropped when it has no connection left to judge, and
    /// so it is kept until the last of them is returned.
    ///
    /// # Examples
    ///
    /// ```
    /// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// # let pool = latebind::Pool::new(latebind::net::TcpDialer::from(listener.local_addr()?));
    /// # let moved_away = listener.local_addr()?;
    /// drop(pool.get()?);
    /// pool.retire_where(move |connection| {
    ///     connection.peer_addr().map_or(true, |address| address == moved_away)
    /// });
    /// assert_eq!(pool.stats().open(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn retire_where(&self, predicate: impl Fn(&D::Connection) -> bool + Send + Sync + 'static) {
        self.handle.shell.retire_where(Arc::new(predicate));
    }

    /// Stops lending and dialing, until [`resume`](Self::resume).
    ///
    /// Callers wait in the queue as if every connection were in use, and so does
    /// [`warm_up`](Self::warm_up); at its deadline a caller gets [`GetError::Suspended`], and
    /// `try_get` gets it at once. Returned connections and those of dials under way become idle.
    /// Meant, for example, for a server that is about to fail over or to be restarted: callers then
    /// notice a delay and no error.
    ///
    /// May be called more than once; one `resume` ends it. A suspended pool can be closed. Does nothing
    /// to a closed pool.
    ///
    /// # Examples
    ///
    /// ```
    /// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// # let pool = latebind::Pool::new(latebind::net::TcpDialer::from(listener.local_addr()?));
    /// use latebind::GetError;
    ///
    /// pool.suspend();
    /// assert!(matches!(pool.try_get(), Err(GetError::Suspended { .. })));
    /// std::thread::scope(|scope| {
    ///     scope.spawn(|| assert!(pool.get().is_ok())); // waits
    ///     pool.flush(); // and whatever else must be done meanwhile
    ///     pool.resume();
    /// });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn suspend(&self) {
        self.handle.shell.set_suspended(true);
    }

    /// Ends a [`suspend`](Self::suspend): callers in the queue are served in their order.
    ///
    /// Does nothing to a pool that is not suspended.
    pub fn resume(&self) {
        self.handle.shell.set_suspended(false);
    }

    /// Whether the pool is [suspended](Self::suspend). A closed pool is not.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.handle.shell.is_suspended()
    }

    /// Closes the pool: it lends nothing from now on.
    ///
    /// Callers in the queue are turned away with [`GetError::Closed`] and idle connections are
    /// closed. Dials under way are cancelled: those of the dialers of this crate for sockets end at
    /// once, and others when their dialer [notices](crate::DialContext). Connections in use are
    /// closed when they are returned: [`drain`](Self::drain) waits for both. If no other pool that shares its
    /// [threads](crate::Threads) is open, idle threads end now and the others after their work;
    /// `close` does not wait for that.
    ///
    /// May be called more than once, and from a dialer's own method.
    pub fn close(&self) {
        self.handle.shell.close();
    }

    /// [Closes](Self::close) the pool, and waits until it has no open connection or `deadline` has
    /// come.
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
    /// println!("{}", drained.holders[0]); // held for 12.0ms by thread "main" since src/main.rs:8:23
    /// drop(connection);
    /// assert!(pool.drain(Instant::now() + Duration::from_secs(5)).is_complete());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn drain(&self, deadline: Instant) -> Drained {
        Drained::of(&self.handle.shell, deadline)
    }

    /// [Closes](Self::close) the pool, and aborts the connections in use for which its dialer gave
    /// [handles](crate::Dialer::abort_handle). Returns how many it aborted.
    ///
    /// Meant for after a [`drain`](Self::drain) that did not complete: the reads and writes of a
    /// borrower that waits for a silent peer end at once, and so it gives its connection back. A
    /// borrower that does no I/O notices nothing. Connections being checked or reset are aborted
    /// too. Dials under way are cancelled by any close, and not counted.
    ///
    /// # Which dialers give handles
    ///
    /// | dialer | handle | what it does to the borrower |
    /// | --- | --- | --- |
    /// | [`TcpDialer`](crate::net::TcpDialer::abortable), `UnixDialer` | with `abortable(true)`: it costs a second descriptor for each connection | it reads the end of the stream, and cannot write |
    /// | `TlsDialer` | where the dialer of its stream gives one | the same |
    /// | `PostgresDialer` | always | its statement is cancelled, by a request to the server on a connection of its own: without effect on a server that does not answer |
    /// | `MysqlDialer` | with `abortable(true)`; on Windows never, as the client gives no socket there | it reads the end of the stream |
    /// | `SqliteDialer` | always | its statement is interrupted; a wait for a lock goes on |
    /// | `RedisDialer` | never by itself: the client lends nobody its socket, and its connection has no room for the id by which the server knows it | with [`abort_by`](crate::dialers::Hooked::abort_by), whose example is for Redis, the server ends its connection; `command_timeout` bounds its waits without that |
    /// | `R2d2Dialer` | never: a manager knows of no abort | |
    /// | [`dialer_fn`](crate::dialers::dialer_fn) | never | |
    /// | a dialer of your own | what its [`abort_handle`](crate::Dialer::abort_handle) gives: nothing by default | |
    /// | [`Hooked`](crate::dialers::Hooked) | what [`abort_by`](crate::dialers::Hooked::abort_by) gives, or else the dialer within | |
    /// | the other combinators of [`dialers`](crate::dialers), `Box`, `Arc` | what the dialer within gives | |
    ///
    /// # Examples
    ///
    /// Gives borrowers a moment to finish, then aborts:
    ///
    /// ```
    /// use std::io::Read;
    /// use std::time::{Duration, Instant};
    /// use latebind::{Pool, net::TcpDialer};
    ///
    /// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// # let address = listener.local_addr()?;
    /// let pool = Pool::new(TcpDialer::from(address).abortable(true));
    /// let mut connection = pool.get_owned()?;
    /// let borrower = std::thread::spawn(move || connection.read(&mut [0]));
    ///
    /// if !pool.drain(Instant::now() + Duration::from_millis(50)).is_complete() {
    ///     assert_eq!(pool.abort(), 1);
    ///     assert!(pool.drain(Instant::now() + Duration::from_secs(5)).is_complete());
    /// }
    /// assert_eq!(borrower.join().unwrap()?, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn abort(&self) -> u32 {
        self.handle.shell.abort()
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

/// The connections that were still open when [`Pool::drain`] returned, and their holders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "it says whether anything is still open"]
pub struct Drained {
    /// Connections held by callers.
    pub in_use: u32,
    /// Dials that have not ended. The connections that they open are closed at once.
    pub dialing: u32,
    /// Connections whose close has not returned.
    pub closing: u32,
    /// The holders of those in use, longest first. A connection that is being checked or reset has
    /// no holder.
    pub holders: Vec<Holder>,
}

impl Drained {
    /// Closes a pool, and waits until nothing is open or until `deadline`.
    pub(crate) fn of<D: Dialer>(shell: &Arc<Shell<D>>, deadline: Instant) -> Self {
        let Stats { in_use, dialing, closing, .. } = shell.drain(Some(deadline.into()));
        Self { in_use, dialing, closing, holders: shell.holders() }
    }

    /// The sum over two pools.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.in_use += other.in_use;
        self.dialing += other.dialing;
        self.closing += other.closing;
        self.holders.extend(other.holders);
        self
    }

    /// Whether no connection was open any more.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.in_use + self.dialing + self.closing == 0
    }
}
