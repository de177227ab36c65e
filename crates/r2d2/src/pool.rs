//! `Pool` and `PooledConnection`: what a program keeps, and what it is lent.

use std::convert::Infallible;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use latebind::{Backoff, Breaker, GetError, OnDialFailure, OwnedConnection};

use crate::builder::{Builder, Config};
use crate::driver::{Core, Driver, Failure};
use crate::error::Error;
use crate::event::{CheckinEvent, CheckoutEvent, TimeoutEvent};
use crate::extensions::Extensions;
use crate::manage::ManageConnection;
use crate::outage::PAUSE;
use crate::reaper;

/// A pool of connections, shared by any number of threads.
///
/// A handle: cheap to clone, and all clones are the same pool. When the last has been dropped, and the
/// last connection that was lent has come back, all connections are closed.
///
/// # Examples
///
/// See the [crate](crate).
pub struct Pool<M: ManageConnection>(Arc<Shared<M>>);

/// The state that the clones of a pool share.
pub(crate) struct Shared<M: ManageConnection> {
    pool: latebind::Pool<Driver<M>>,
    /// Ends the thread by its end.
    _reaper: Option<Sender<Infallible>>,
}

type Guard<M> = OwnedConnection<Driver<M>>;

/// The pause after the first of several failed dials, as long as callers wait: each further one is
/// twice as long, up to [`PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// How long a dial may take before others are made beside it, if callers wait for less.
const DIAL_TIMEOUT: Duration = Duration::from_secs(30);

/// For a caller without time a dial is begun, as r2d2 does, which latebind does not.
const LEAST_WAIT: Duration = Duration::from_millis(1);

impl<M: ManageConnection> Shared<M> {
    fn core(&self) -> &Core<M> {
        &self.pool.dialer().0
    }

    fn config(&self) -> &Config<M> {
        &self.core().config
    }

    /// Closes what has been idle for so long, and says when to look again.
    pub(crate) fn retire_idle(&self, idle_timeout: Duration) -> Duration {
        let in_nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let next = Arc::new(AtomicU64::new(in_nanos(idle_timeout)));
        let seen = Arc::clone(&next);
        self.pool.retire_where(move |slot| {
            let left = idle_timeout.saturating_sub(slot.idle_since.elapsed());
            seen.fetch_min(in_nanos(left).max(1), Ordering::Relaxed);
            left.is_zero()
        });
        Duration::from_nanos(next.load(Ordering::Relaxed))
    }
}

impl<M: ManageConnection> Pool<M> {
    /// Opens a pool with the defaults, and waits until it has its ten connections.
    ///
    /// # Errors
    ///
    /// If it has not within 30 seconds.
    pub fn new(manager: M) -> Result<Pool<M>, Error> {
        Pool::builder().build(manager)
    }

    /// The settings of a pool before it is opened.
    #[must_use]
    pub fn builder() -> Builder<M> {
        Builder::new()
    }

    pub(crate) fn open(manager: M, config: Config<M>) -> Self {
        let forever = |limit: Option<Duration>| limit.unwrap_or(Duration::MAX);
        let least_idle = config.least_idle();
        let idle_timeout = config.idle_timeout.filter(|_| least_idle > 0);
        let max_size = config.max_size;
        let (max_lifetime, max_idle_time) =
            (forever(config.max_lifetime), forever(config.idle_timeout));
        let dial_timeout = config.connection_timeout.max(DIAL_TIMEOUT);
        let tests = config.test_on_check_out;

        let mut settings = latebind::Pool::builder(Driver(Core::new(manager, config)))
            .max_open(max_size)
            .min_idle(least_idle)
            .max_lifetime(max_lifetime)
            .max_idle_time(max_idle_time)
            .dial_timeout(dial_timeout)
            // A caller waits until its time is over. One that never opens has dials fail one at a time.
            .on_dial_failure(OnDialFailure::Retry(Backoff::new(FIRST_PAUSE, PAUSE)))
            .breaker(Breaker::new(u32::MAX, PAUSE))
            // A panic is for `has_broken` to judge: a manager knows what it leaves behind.
            .retire_on_panic(false);
        if !tests {
            settings = settings.check_after(Duration::MAX);
        }
        let pool = settings.build().expect("the builder has checked its settings");
        Self(Arc::new_cyclic(|shared| Shared {
            pool,
            _reaper: idle_timeout.map(|limit| reaper::start(shared.clone(), limit)),
        }))
    }

    /// Waits for the connections that are to rest from the start.
    pub(crate) fn await_first(&self) -> Result<(), Error> {
        let Self(shared) = self;
        let (start, limit) = (Instant::now(), shared.config().connection_timeout);
        let mut left = limit;
        loop {
            // That is how long a warm-up waits. Callers bring a limit of their own.
            let setting = shared.pool.reconfigure().get_timeout(left);
            setting.apply().expect("any time limit will do");
            let Err(error) = shared.pool.warm_up(shared.config().least_idle()) else {
                return Ok(());
            };
            left = limit.saturating_sub(start.elapsed());
            if left.is_zero() || matches!(error, GetError::Closed) {
                return Err(Error::new(&error, None));
            }
            // A warm-up ends with the first dial that fails.
            thread::sleep(left.min(PAUSE));
        }
    }

    /// Lends a connection, waiting for at most [`connection_timeout`](Builder::connection_timeout).
    ///
    /// # Errors
    ///
    /// If there was none in time. The error says why.
    #[track_caller]
    pub fn get(&self) -> Result<PooledConnection<M>, Error> {
        self.get_timeout(self.0.config().connection_timeout)
    }

    /// Lends a connection, waiting for at most `timeout`: in the queue, for a new connection and for
    /// the test of one that has rested.
    ///
    /// `Duration::MAX` is no limit. Zero takes an idle connection; if there is none, one is opened for
    /// the next caller.
    ///
    /// # Errors
    ///
    /// If there was none in time. The error says why.
    #[track_caller]
    pub fn get_timeout(&self, timeout: Duration) -> Result<PooledConnection<M>, Error> {
        let start = Instant::now();
        if timeout.is_zero() {
            if let Some(connection) = self.try_get() {
                return Ok(connection);
            }
        }
        let (mut left, mut invalid) = (timeout.max(LEAST_WAIT), None);
        loop {
            match self.0.pool.checkout().timeout(left).get_owned().map(Self::test) {
                Ok(Ok(guard)) => return Ok(self.lend(guard, start)),
                Ok(Err(failure)) => invalid = Some(failure),
                Err(error) => {
                    self.0.config().tell(|events| events.handle_timeout(TimeoutEvent { timeout }));
                    return Err(Error::new(&error, invalid));
                }
            }
            left = timeout.saturating_sub(start.elapsed());
        }
    }

    /// Lends an idle connection if there is one and nobody waits for it.
    ///
    /// Waits for nothing but the test of that connection. Opens none.
    #[must_use]
    #[track_caller]
    pub fn try_get(&self) -> Option<PooledConnection<M>> {
        let start = Instant::now();
        loop {
            if let Ok(guard) = Self::test(self.0.pool.try_get_owned().ok()?) {
                return Some(self.lend(guard, start));
            }
        }
    }

    /// The same connection, if it is valid. If it is not, others may not be either.
    fn test(mut guard: Guard<M>) -> Result<Guard<M>, Failure> {
        match guard.test() {
            Ok(()) => Ok(guard),
            Err(failure) => {
                Guard::<M>::doubt(guard);
                Err(failure)
            }
        }
    }

    fn lend(&self, guard: Guard<M>, start: Instant) -> PooledConnection<M> {
        let lent_at = self.0.config().event_handler.as_ref().map(|events| {
            let now = Instant::now();
            let duration = now.duration_since(start);
            events.handle_checkout(CheckoutEvent { id: guard.id, duration });
            now
        });
        PooledConnection { guard, lent_at }
    }

    /// How many connections there are now.
    #[must_use]
    pub fn state(&self) -> State {
        let stats = self.0.pool.stats();
        State { connections: stats.idle + stats.in_use, idle_connections: stats.idle }
    }

    /// As the builder was told.
    #[must_use]
    pub fn max_size(&self) -> u32 {
        self.0.config().max_size
    }

    /// As the builder was told.
    #[must_use]
    pub fn min_idle(&self) -> Option<u32> {
        self.0.config().min_idle
    }

    /// As the builder was told.
    #[must_use]
    pub fn test_on_check_out(&self) -> bool {
        self.0.config().test_on_check_out
    }

    /// As the builder was told.
    #[must_use]
    pub fn max_lifetime(&self) -> Option<Duration> {
        self.0.config().max_lifetime
    }

    /// As the builder was told.
    #[must_use]
    pub fn idle_timeout(&self) -> Option<Duration> {
        self.0.config().idle_timeout
    }

    /// As the builder was told.
    #[must_use]
    pub fn connection_timeout(&self) -> Duration {
        self.0.config().connection_timeout
    }
}

impl<M: ManageConnection> Clone for Pool<M> {
    fn clone(&self) -> Pool<M> {
        Pool(Arc::clone(&self.0))
    }
}

/// Without the manager: those of several crates show the password with which they connect.
impl<M: ManageConnection> fmt::Debug for Pool<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("state", &self.state())
            .field("config", self.0.config())
            .finish_non_exhaustive()
    }
}

/// How many connections a pool has.
#[derive(Debug)]
#[non_exhaustive]
pub struct State {
    /// Those open, lent or not. Those being opened or closed are not counted.
    pub connections: u32,
    /// Those of them that are not lent.
    pub idle_connections: u32,
}

/// A connection that was lent. Dropping it gives the connection back.
///
/// It dereferences to the connection, and keeps the pool open.
///
/// # Examples
///
/// See the [crate](crate).
pub struct PooledConnection<M: ManageConnection> {
    guard: Guard<M>,
    /// `None`: nobody wants to know.
    lent_at: Option<Instant>,
}

impl<M: ManageConnection> PooledConnection<M> {
    /// The values kept with the connection.
    pub fn extensions(this: &Self) -> &Extensions {
        &this.guard.extensions
    }

    /// The values kept with the connection, to be changed. They are kept until it is closed.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # struct Manager;
    /// # impl r2d2::ManageConnection for Manager {
    /// #     type Connection = ();
    /// #     type Error = Infallible;
    /// #     fn connect(&self) -> Result<(), Infallible> { Ok(()) }
    /// #     fn is_valid(&self, _: &mut ()) -> Result<(), Infallible> { Ok(()) }
    /// #     fn has_broken(&self, _: &mut ()) -> bool { false }
    /// # }
    /// # let manager = Manager;
    /// use r2d2::PooledConnection;
    ///
    /// struct Uses(u32);
    ///
    /// let pool = r2d2::Pool::builder().max_size(1).build(manager)?;
    /// for uses in 0..3 {
    ///     let mut connection = pool.get()?;
    ///     let extensions = PooledConnection::extensions_mut(&mut connection);
    ///     let before = extensions.insert(Uses(uses + 1));
    ///     assert_eq!(before.map_or(0, |Uses(uses)| uses), uses);
    /// }
    /// # Ok::<(), r2d2::Error>(())
    /// ```
    pub fn extensions_mut(this: &mut Self) -> &mut Extensions {
        &mut this.guard.extensions
    }
}

impl<M: ManageConnection> Deref for PooledConnection<M> {
    type Target = M::Connection;

    #[inline]
    fn deref(&self) -> &M::Connection {
        &self.guard.connection
    }
}

impl<M: ManageConnection> DerefMut for PooledConnection<M> {
    #[inline]
    fn deref_mut(&mut self) -> &mut M::Connection {
        &mut self.guard.connection
    }
}

impl<M: ManageConnection> Drop for PooledConnection<M> {
    fn drop(&mut self) {
        let slot = &mut *self.guard;
        if let Some(lent_at) = self.lent_at {
            let (id, duration) = (slot.id, lent_at.elapsed());
            slot.core.config.tell(|events| events.handle_checkin(CheckinEvent { id, duration }));
        }
        if slot.core.config.idle_timeout.is_some() {
            slot.idle_since = Instant::now();
        }
    }
}

/// As the connection itself.
impl<M: ManageConnection> fmt::Debug for PooledConnection<M>
where
    M::Connection: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.guard.connection.fmt(f)
    }
}
