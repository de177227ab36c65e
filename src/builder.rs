//! `Settings`: the settings of a pool, before it is opened and while it runs.

use std::fmt;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Breaker, Config, ConfigError, DialRule, IdleOrder, OnDialFailure};
use crate::dialer::Dialer;
use crate::keyed::{DialerFor, KeyedConfig, KeyedPool, MaxOpenFor, MinIdleFor};
use crate::pool::Pool;
use crate::report::event::Event;
use crate::report::reporter::Reporter;
use crate::runtime::threads::{Threads, crew_of};
use crate::shell::quota::Quota;

impl<D: Dialer> Pool<D> {
    /// Opens a pool with the default settings. It dials nothing yet.
    pub fn new(dialer: D) -> Self {
        Self::builder(dialer).build().expect("the defaults fit together")
    }

    /// Begins a pool with settings of your own.
    pub fn builder(dialer: D) -> Builder<D> {
        Settings::of(ToOpen { dialer, reporter: Reporter::default(), quota: None, threads: None })
    }

    /// Changes the settings of the pool while it runs.
    ///
    /// Settings that are not named stay as they are. A named setting applies to every caller, dial,
    /// check and close that begins after [`apply`](Settings::apply), and for connections at their
    /// next return or checkout.
    ///
    /// # Examples
    ///
    /// ```
    /// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// # let pool = latebind::Pool::new(latebind::net::TcpDialer::from(listener.local_addr()?));
    /// use std::time::Duration;
    ///
    /// pool.reconfigure().max_open(20).check_after(Duration::from_secs(2)).apply()?;
    /// assert_eq!(pool.stats().max_open, 20);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reconfigure(&self) -> Changes<'_, D> {
        Settings::of(ToChange(self))
    }
}

impl<K, D> KeyedPool<K, D>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    D: Dialer,
{
    /// Opens a keyed pool with the defaults. `dialer_for` makes a key's dialer, when the key is
    /// first used and when it is used again after its last connection was closed. It runs under no
    /// lock.
    pub fn new(dialer_for: impl Fn(&K) -> D + Send + Sync + 'static) -> Self {
        Self::builder(dialer_for).build().expect("the defaults fit together")
    }

    /// Begins a keyed pool with settings of your own: those of a [`Pool`], which apply to each key,
    /// and bounds for all keys together.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::{KeyedPool, net::TcpDialer};
    /// use std::time::Duration;
    ///
    /// let pool = KeyedPool::builder(|(host, port): &(String, u16)| TcpDialer::new(host, *port))
    ///     .max_open(6)
    ///     .max_idle_time(Duration::from_secs(90))
    ///     .max_open_total(100)
    ///     .max_idle_total(50)
    ///     .build()?;
    /// # Ok::<(), latebind::ConfigError>(())
    /// ```
    pub fn builder(dialer_for: impl Fn(&K) -> D + Send + Sync + 'static) -> KeyedBuilder<K, D> {
        Settings::of(ToOpenKeyed {
            dialer_for: Arc::new(dialer_for),
            reporter: Reporter::default(),
            max_open_for: None,
            min_idle_for: None,
            max_open_total: MAX_OPEN_TOTAL,
            max_idle_total: None,
            quota: None,
            threads: None,
        })
    }

    /// Changes the settings of each key, of those with a pool at once and of the others when they get one.
    /// Takes time proportional to the number of keys.
    ///
    /// [`resize_total`](Self::resize_total) changes the bound on all keys together.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::{KeyedPool, net::TcpDialer};
    /// use std::time::Duration;
    ///
    /// let pool = KeyedPool::new(|port: &u16| TcpDialer::new("localhost", *port));
    /// pool.reconfigure().max_open(4).max_idle_time(Duration::from_secs(20)).apply()?;
    /// # Ok::<(), latebind::ConfigError>(())
    /// ```
    pub fn reconfigure(&self) -> KeyedChanges<'_, K, D> {
        Settings::of(ToChangeKeyed(self))
    }
}

/// The default bound on the connections of all keys: as many as Chromium allows
/// (`net/socket/client_socket_pool_manager.cc`).
const MAX_OPEN_TOTAL: u32 = 256;

/// Opens a [`Pool`] with settings of your own: starts at [`Pool::builder`], ends with
/// [`build`](Settings::build).
pub type Builder<D> = Settings<ToOpen<D>>;

/// Changes the settings of a running [`Pool`]: starts at [`Pool::reconfigure`], ends with
/// [`apply`](Settings::apply).
pub type Changes<'p, D> = Settings<ToChange<'p, D>>;

/// The settings are for a pool yet to be opened. See [`Builder`].
#[derive(Clone, Debug)]
pub struct ToOpen<D: Dialer> {
    dialer: D,
    reporter: Reporter<<D as Dialer>::Error>,
    quota: Option<Quota>,
    threads: Option<Threads>,
}

/// Opens a [`KeyedPool`] with settings of your own: starts at [`KeyedPool::builder`], ends with
/// [`build`](Settings::build).
pub type KeyedBuilder<K, D> = Settings<ToOpenKeyed<K, D>>;

/// The settings are for a keyed pool yet to be opened. See [`KeyedBuilder`].
#[derive(Clone)]
pub struct ToOpenKeyed<K, D: Dialer> {
    dialer_for: DialerFor<K, D>,
    reporter: Reporter<<D as Dialer>::Error>,
    max_open_for: Option<MaxOpenFor<K>>,
    min_idle_for: Option<MinIdleFor<K>>,
    max_open_total: u32,
    max_idle_total: Option<u32>,
    quota: Option<Quota>,
    threads: Option<Threads>,
}

/// The settings are for a running pool. See [`Changes`].
#[derive(Debug)]
pub struct ToChange<'p, D: Dialer>(&'p Pool<D>);

/// Changes the settings of all keys of a running [`KeyedPool`]: starts at [`KeyedPool::reconfigure`],
/// ends with [`apply`](Settings::apply).
pub type KeyedChanges<'p, K, D> = Settings<ToChangeKeyed<'p, K, D>>;

/// The settings are for all keys of a running keyed pool. See [`KeyedChanges`].
#[derive(Debug)]
pub struct ToChangeKeyed<'p, K, D>(&'p KeyedPool<K, D>)
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    D: Dialer;

/// Makes one setting.
type Change = Arc<dyn Fn(&mut Config) + Send + Sync>;

/// The settings of a [`Pool`], before it is opened ([`Builder`]) and while it runs ([`Changes`]).
///
/// | decide | with | default |
/// | --- | --- | --- |
/// | how many connections the server may see | [`max_open`](Self::max_open) | 10 |
/// | how long a caller waits | [`get_timeout`](Self::get_timeout) | 30 s |
/// | how long a connection lives, and may be idle | [`max_lifetime`](Self::max_lifetime), [`max_idle_time`](Self::max_idle_time) | 30 min, 10 min |
/// | how long a dial may take | [`dial_timeout`](Self::dial_timeout) | 30 s |
///
/// The other settings are seldom needed. No setter fails; [`build`](Self::build) and
/// [`apply`](Self::apply) check that the settings fit together.
///
/// # Examples
///
/// ```
/// use latebind::{Pool, net::TcpDialer};
/// use std::time::Duration;
///
/// let pool = Pool::builder(TcpDialer::new("db.example", 5432))
///     .max_open(20)
///     .get_timeout(Duration::from_secs(2))
///     .build()?;
/// pool.reconfigure().max_open(40).apply()?;
/// # Ok::<(), latebind::ConfigError>(())
/// ```
#[derive(Clone)]
#[must_use = "settings do nothing until `build` or `apply`"]
pub struct Settings<T> {
    of: T,
    /// In the order in which they were made. `build` and `apply` carry them out, because other
    /// threads may change a running pool's settings until then.
    changes: Vec<Change>,
}

impl<T> Settings<T> {
    fn of(of: T) -> Self {
        Self { of, changes: Vec::new() }
    }

    fn change(mut self, change: impl Fn(&mut Config) + Send + Sync + 'static) -> Self {
        self.changes.push(Arc::new(change));
        self
    }

    /// `config` with these changes.
    fn applied_to(&self, mut config: Config) -> Config {
        self.changes.iter().for_each(|change| change(&mut config));
        config
    }

    /// The same, if it fits together. An older setting may exceed a lowered `max_open`, and then
    /// counts as equal to it; a setting made now may not.
    fn checked(&self, config: Config) -> Result<Config, ConfigError> {
        let changed = self.applied_to(config);
        let Config { max_idle, max_dialing, min_idle, .. } = self.applied_to(Config::default());
        Config { max_idle, max_dialing, min_idle, ..changed }.check()?;
        Ok(changed)
    }

    /// All settings at once, from plain data: what a file says, or what
    /// [another pool has](crate::Pool::settings). A setter that is called later changes one of them.
    ///
    /// # Examples
    ///
    /// ```
    /// # let dialer = latebind::net::TcpDialer::new("localhost", 80);
    /// use latebind::{Config, Pool};
    ///
    /// let mut config = Config::default();
    /// config.max_open = 4;
    /// config.min_idle = 5;
    /// let refused = Pool::builder(dialer).settings(config).build().unwrap_err();
    /// assert_eq!(refused.to_string(), "min_idle (5) exceeds max_open (4)");
    /// ```
    pub fn settings(self, settings: Config) -> Self {
        self.change(move |config| *config = settings)
    }

    /// The most connections open at once: idle, in use, being dialed and being closed together.
    ///
    /// At least 1. Memory depends on how many connections are open, not on this bound. Defaults to
    /// 10: a server does its best work with a few busy connections per core, and a queue in the
    /// client costs it nothing.
    pub fn max_open(self, max_open: u32) -> Self {
        self.change(move |config| config.max_open = max_open)
    }

    /// The most idle connections to keep; one that is returned beyond it is closed.
    ///
    /// From 0, which keeps none, to `max_open`. Defaults to `max_open`.
    pub fn max_idle(self, max_idle: u32) -> Self {
        self.change(move |config| config.max_idle = Some(max_idle))
    }

    /// The fewest idle connections to keep: the pool dials for them by itself, from the start.
    ///
    /// A connection that is lent is replaced at once, as long as `max_open` has room. Dials under
    /// way count. A connection that reaches its [`max_lifetime`](Self::max_lifetime) is replaced
    /// before it ends, if there is room for both: set `max_open` to one more than idle and busy
    /// connections need. Otherwise it is closed first, and one idle connection is missing for as
    /// long as a dial takes.
    ///
    /// While dials fail, one dial at a time is tried, after pauses that double from 100 ms up to 10
    /// s, or up to 10 min where [trying again cannot help](crate::Dialer::is_permanent).
    /// [`Pool::last_dial_failure`](crate::Pool::last_dial_failure) tells how the latest failed. A
    /// connection that has to end before it is 100 ms old is replaced no sooner than 100 ms later.
    ///
    /// From 0 to `max_idle`. Defaults to 0, because the first caller can dial, and an unused
    /// program then holds nothing.
    pub fn min_idle(self, min_idle: u32) -> Self {
        self.change(move |config| config.min_idle = min_idle)
    }

    /// The age at which a connection ends, in use or not.
    ///
    /// A connection of that age is neither lent nor kept: it is closed while idle, or when it is
    /// returned. [`lifetime_jitter`](Self::lifetime_jitter) ends some connections earlier. More
    /// than zero; `Duration::MAX` means no limit. Defaults to 30 min, as in HikariCP and r2d2:
    /// servers, proxies and balancers have limits of their own, and a connection that its pool ends
    /// is ended between two requests.
    pub fn max_lifetime(self, max_lifetime: Duration) -> Self {
        self.change(move |config| config.max_lifetime = max_lifetime)
    }

    /// The most by which a connection's life is shortened, each by a random part of it.
    ///
    /// So connections that were opened together do not end together. From zero, which is no jitter;
    /// a value above `max_lifetime` counts as equal to it. Defaults to a tenth of `max_lifetime`.
    pub fn lifetime_jitter(self, lifetime_jitter: Duration) -> Self {
        self.change(move |config| config.lifetime_jitter = Some(lifetime_jitter))
    }

    /// The most loans of one connection: it is closed at the return from the last of them.
    ///
    /// For servers, proxies or clients that grow with each use. A loan counts even if its borrower does
    /// nothing with the connection. At least 1. No limit by default, because most connections do not
    /// wear out; with one, each loan and each return takes the pool's lock.
    /// [`CloseReason::UsedUp`](crate::CloseReason::UsedUp) counts the connections that ended this way.
    ///
    /// # Examples
    ///
    /// ```
    /// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// # let dialer = latebind::net::TcpDialer::from(listener.local_addr()?);
    /// use latebind::CloseReason;
    ///
    /// let pool = latebind::Pool::builder(dialer).max_uses(2).build()?;
    /// for used_up in [0, 1] {
    ///     drop(pool.get()?);
    ///     assert_eq!(pool.stats().retired_by[CloseReason::UsedUp], used_up);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn max_uses(self, max_uses: impl Into<Option<u32>>) -> Self {
        let max_uses = max_uses.into();
        self.change(move |config| config.max_uses = max_uses)
    }

    /// The idle connection that is lent first.
    ///
    /// Defaults to [`IdleOrder::Lifo`]: a pool gets smaller when its load does. With
    /// [`IdleOrder::Fifo`], each loan and each return takes the pool's lock.
    pub fn idle_order(self, idle_order: IdleOrder) -> Self {
        self.change(move |config| config.idle_order = idle_order)
    }

    /// How long a connection may be idle before it is closed, unless fewer than
    /// [`min_idle`](Self::min_idle) would be left.
    ///
    /// Each has its own time, counted from its return, so those that came to rest together are closed together:
    /// [`prune_every`](Self::prune_every) spreads that. With the default [`idle_order`](Self::idle_order) the
    /// connections that the load does not need are those that grow old.
    ///
    /// A check does not count as use. More than zero; `Duration::MAX` means no limit. Defaults to
    /// 10 min, as in HikariCP and r2d2: shorter than the time after which firewalls drop a quiet
    /// connection (often 15 min or an hour), and long enough to be there for the next wave.
    pub fn max_idle_time(self, max_idle_time: Duration) -> Self {
        self.change(move |config| config.max_idle_time = max_idle_time)
    }

    /// The least time between two closes for [`max_idle_time`](Self::max_idle_time), so that a pool which a
    /// burst has filled shrinks by steps.
    ///
    /// Connections that came to rest together would otherwise be closed together, and the next burst would find
    /// none. Only closes for `max_idle_time` wait for each other: the one that has been idle longest goes first,
    /// and those that have to wait may be lent meanwhile. So n connections beyond `min_idle` that nobody
    /// borrows are closed within `max_idle_time` and n times this pause and 100 ms.
    ///
    /// Zero, the default, closes each at its time, because idle connections seldom come to rest together.
    /// Above zero, less than 100 ms counts as that, and more than `max_idle_time` as `max_idle_time`.
    ///
    /// # Examples
    ///
    /// ```
    /// # let dialer = latebind::net::TcpDialer::new("localhost", 80);
    /// use latebind::Pool;
    /// use std::time::Duration;
    ///
    /// // Sixty connections of a burst are gone after about two minutes, not after one.
    /// let pool = Pool::builder(dialer)
    ///     .max_open(60)
    ///     .max_idle_time(Duration::from_secs(60))
    ///     .prune_every(Duration::from_secs(1))
    ///     .build()?;
    /// # Ok::<(), latebind::ConfigError>(())
    /// ```
    pub fn prune_every(self, prune_every: Duration) -> Self {
        self.change(move |config| config.prune_every = prune_every)
    }

    /// How long a connection may be idle before it is [checked](Dialer::check) although no caller
    /// wants it.
    ///
    /// Each check comes up to a tenth earlier at random; one connection is checked at a time, and the same
    /// one at most ten times a second. Meant for servers and firewalls that cut silent
    /// connections, and for learning early that a server is gone. More than zero; defaults to
    /// `Duration::MAX`, which is off: TCP keep-alive does as much for a quiet connection, and one
    /// that was idle for long is checked before it is lent.
    pub fn check_idle_every(self, check_idle_every: Duration) -> Self {
        self.change(move |config| config.check_idle_every = check_idle_every)
    }

    /// How long a connection may be held before its holder is reported as a leak.
    ///
    /// The observer gets [`Event::Leaked`](crate::Event::Leaked), once for each loan, with the line
    /// that asked for the connection; [`Stats::leaked_total`](crate::Stats) counts them. A leak is
    /// noticed within twice that time. The pool does nothing about it, because the borrower may
    /// have its reasons. More than zero; defaults to `Duration::MAX`, which is off, because only
    /// the program knows how long is too long. [`Pool::holders`] tells at any time who has a
    /// connection.
    pub fn leak_after(self, leak_after: Duration) -> Self {
        self.change(move |config| config.leak_after = leak_after)
    }

    /// The treatment of a caller whose own dial has failed: it gets the error, or dials again.
    ///
    /// Defaults to [`OnDialFailure::AwaitReturn`]: it gets the error at once, unless a connection in use
    /// may come back to serve it. The caller can decide better than the pool whether to try again.
    pub fn on_dial_failure(self, on_dial_failure: OnDialFailure) -> Self {
        self.change(move |config| config.on_dial_failure = on_dial_failure)
    }

    /// Whether callers are refused at once while the server cannot be reached.
    ///
    /// When dials have failed as many times in a row as the [`Breaker`] says, callers that nothing
    /// idle or in use can serve are turned away with the latest failure. One dial at a time tests
    /// whether the server is back: it begins for the next caller after the pause, or if none comes, for
    /// the first that waits for a return, unless the failure is [permanent](Dialer::is_permanent). From
    /// the first failure on, no more than one dial is under way. When a dial succeeds, callers that waited
    /// for a return meanwhile may dial again. So no caller waits for a server known to be away, and
    /// a server that comes back meets one dial and not a hundred.
    ///
    /// `None` is off: then every caller gets a dial of its own and its result, so callers that
    /// retry in a loop dial as often as they retry. Defaults to [`Breaker::default`], because few
    /// dials help a server that is away or full; and to `None` with [`OnDialFailure::Retry`], under
    /// which callers would rather wait than be refused.
    ///
    /// # Examples
    ///
    /// ```
    /// # let dialer = latebind::net::TcpDialer::new("localhost", 80);
    /// use latebind::{Breaker, Pool};
    /// use std::time::Duration;
    ///
    /// let once_a_second = Breaker::new(5, Duration::from_secs(1));
    /// let pool = Pool::builder(dialer.clone()).breaker(once_a_second).build()?;
    /// let pool = Pool::builder(dialer).breaker(None).build()?;
    /// # Ok::<(), latebind::ConfigError>(())
    /// ```
    pub fn breaker(self, breaker: impl Into<Option<Breaker>>) -> Self {
        let breaker = breaker.into().into();
        self.change(move |config| config.breaker = breaker)
    }

    /// The most dials under way at once.
    ///
    /// From 1 to `max_open`. Defaults to `max_open`, or 64 if that is less: half the accept queue
    /// of many servers, so that a thousand callers, or a [`min_idle`](Self::min_idle) of a
    /// thousand, do not connect all at once. Each dial takes a thread too. Lower it for a server
    /// that is slow to accept.
    pub fn max_dialing(self, max_dialing: u32) -> Self {
        self.change(move |config| config.max_dialing = Some(max_dialing))
    }

    /// The most callers that may wait with no dial under way for them; one more is turned away with
    /// [`GetError::QueueFull`](crate::GetError::QueueFull).
    ///
    /// With 0, a caller that neither an idle connection nor a dial can serve is turned away at
    /// once. Off by default: then `get_timeout` alone bounds the queue, as with `u32::MAX`.
    pub fn max_waiting(self, max_waiting: u32) -> Self {
        self.change(move |config| config.max_waiting = Some(max_waiting))
    }

    /// When the pool dials for callers that find nothing idle.
    ///
    /// Defaults to [`DialRule::Adaptive`]: a spike that the connections in use can serve opens no new
    /// ones.
    pub fn dial_rule(self, dial_rule: DialRule) -> Self {
        self.change(move |config| config.dial_rule = dial_rule)
    }

    /// How long [`Pool::get`] waits, from its call to its return.
    ///
    /// `Duration::MAX` means no limit. Defaults to 30 s: a program that asks for a second
    /// connection while it holds the last one gets an error instead of hanging.
    pub fn get_timeout(self, get_timeout: Duration) -> Self {
        self.change(move |config| config.get_timeout = get_timeout)
    }

    /// How long a dial may take before it counts as failed for its caller.
    ///
    /// The dialer is given this limit; a dial that overruns it keeps its slot until it returns.
    /// More than zero; `Duration::MAX` means no limit. Defaults to 30 s, as Go's
    /// `DefaultTransport`.
    pub fn dial_timeout(self, dial_timeout: Duration) -> Self {
        self.change(move |config| config.dial_timeout = dial_timeout)
    }

    /// How long a connection may be idle and still be lent without a [check](Dialer::check).
    ///
    /// Zero checks at each checkout that finds an idle connection, `Duration::MAX` at none. Below
    /// 50 ms a loan reads a precise clock twice, which takes some 40 ns more. Defaults to 500 ms, as
    /// in HikariCP: a busy connection is never checked, a quiet one seldom dies within that time, and
    /// a check costs a round trip.
    pub fn check_after(self, check_after: Duration) -> Self {
        self.change(move |config| config.check_after = check_after)
    }

    /// How long a check, or a reset that may block, may take before the connection is given up.
    ///
    /// More than zero; `Duration::MAX` means no limit. Defaults to 5 s: many round trips to the
    /// other side of the world, and a fraction of `get_timeout`.
    pub fn check_timeout(self, check_timeout: Duration) -> Self {
        self.change(move |config| config.check_timeout = check_timeout)
    }

    /// How long a close may take before its slot is freed for another dial even so.
    ///
    /// Until then a connection that is being closed counts as open, as it does for the server. Each
    /// slot freed this way is counted in [`Stats::close_timeouts_total`](crate::Stats). More than
    /// zero; `Duration::MAX` means no limit. Defaults to 5 s.
    pub fn close_timeout(self, close_timeout: Duration) -> Self {
        self.change(move |config| config.close_timeout = close_timeout)
    }

    /// Whether a connection whose guard is dropped by a panic is retired rather than given back.
    ///
    /// Defaults to `true`, because the panic may have left a request half written.
    pub fn retire_on_panic(self, retire_on_panic: bool) -> Self {
        self.change(move |config| config.retire_on_panic = retire_on_panic)
    }
}

impl<D: Dialer> Settings<ToOpen<D>> {
    /// Sets an observer, which is called for each event in the pool.
    ///
    /// It is called on the thread where the event happened, never under a lock of the pool, so it may
    /// use the pool and may block. But the operation goes on only when the observer returns, so keep
    /// it short. A panic in it is caught and counted in [`Stats::panics_total`](crate::Stats), and
    /// harms nothing. An observer that holds a handle of its own pool keeps that pool from closing
    /// when the program drops its last handle.
    ///
    /// Several observers are called in the order in which they were set. None by default, which costs
    /// nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::{Event, Pool};
    /// # let dialer = latebind::net::TcpDialer::new("localhost", 80);
    ///
    /// let pool = Pool::builder(dialer)
    ///     .observer(|event| {
    ///         if let Event::Closed { reason, age, .. } = event {
    ///             eprintln!("a connection was closed at the age of {age:?}: {reason}");
    ///         }
    ///     })
    ///     .build()?;
    /// # Ok::<(), latebind::ConfigError>(())
    /// ```
    pub fn observer(
        mut self,
        observer: impl Fn(&Event<'_, D::Error>) + Send + Sync + 'static,
    ) -> Self {
        self.of.reporter.add_observer(observer);
        self
    }

    /// The pool's name in its errors, in the lines that it [logs](crate#logs-events-and-metrics), and
    /// in its spans.
    ///
    /// None by default. The pool's threads are not named after it, because all pools share them; a
    /// [`Threads`] of your own may name its threads.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.of.reporter.set_name(name.into());
        self
    }

    /// The source of the pool's threads, shared by all pools that are given the same one. Defaults
    /// to the threads of the process.
    pub fn threads(mut self, threads: &Threads) -> Self {
        self.of.threads = Some(threads.clone());
        self
    }

    /// The slots of the pool come from this quota, which somebody outside of the pool sets: see
    /// [`Quota`]. None by default. [`max_open`](Self::max_open) bounds the pool as well.
    pub fn quota(mut self, quota: &Quota) -> Self {
        self.of.quota = Some(quota.clone());
        self
    }

    /// Checks the settings and opens the pool. It dials only for [`min_idle`](Self::min_idle), and
    /// does not wait for those dials.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names a setting that is out of bounds, or two that contradict each other,
    /// with their values. [`ConfigError::QuotaInUse`]: another pool has the quota.
    pub fn build(self) -> Result<Pool<D>, ConfigError> {
        let config = self.checked(Config::default())?;
        let ToOpen { dialer, reporter, quota, threads } = self.of;
        let (reporter, crew) = (reporter.here(), crew_of(threads.as_ref()));
        Pool::open(dialer, config, reporter, quota, crew)
    }
}

impl<K, D> Settings<ToOpenKeyed<K, D>>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    D: Dialer,
{
    /// The most connections open at once, over all keys.
    ///
    /// At least 1. A key's own [`max_open`](Self::max_open) may exceed it, and counts as equal then.
    /// Defaults to 256.
    pub fn max_open_total(mut self, max_open_total: u32) -> Self {
        self.of.max_open_total = max_open_total;
        self
    }

    /// The most connections open at once for each key of which `max_open_for` says so, in place of
    /// [`max_open`](Self::max_open): for a server that allows fewer than the others, for example.
    ///
    /// It is asked when a key gets a pool, again at each [`reconfigure`](KeyedPool::reconfigure), and by a
    /// `try_get` that finds no pool. It may use the pool; a panic in it reaches the caller, as one in the
    /// key's own code does, and keeps changed settings from no other key. By default no key has a limit of
    /// its own.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::{KeyedPool, net::TcpDialer};
    /// use std::num::NonZeroU32;
    ///
    /// let pool = KeyedPool::builder(|host: &&'static str| TcpDialer::new(*host, 80))
    ///     .max_open(6)
    ///     .max_open_for(|host| if *host == "slow.example" { NonZeroU32::new(2) } else { None })
    ///     .build()?;
    /// # Ok::<(), latebind::ConfigError>(())
    /// ```
    pub fn max_open_for(
        mut self,
        max_open_for: impl Fn(&K) -> Option<NonZeroU32> + Send + Sync + 'static,
    ) -> Self {
        self.of.max_open_for = Some(Arc::new(max_open_for));
        self
    }

    /// The fewest idle connections to keep of a key, as [`min_idle`](Self::min_idle) is for a [`Pool`]: for a
    /// server that is asked often and must answer at once.
    ///
    /// It is asked as [`max_open_for`](Self::max_open_for) is. The pool dials for a key by itself once the key
    /// has a pool: from its first caller or [`warm_up`](KeyedPool::warm_up) on, until
    /// [`close_key`](KeyedPool::close_key), or until a [`reconfigure`](KeyedPool::reconfigure) at which this
    /// says 0. Until then the key is kept, with its dialer, also while its server is away.
    ///
    /// Callers come first, of any key. Such a dial takes only a slot of the total that is free and that nobody
    /// waits for, looks for one once a second, and has no connection of another key closed, because two keys
    /// could take them from each other without end. A connection that is kept ready may be closed to make room
    /// for a caller. So have `max_open_total` and `max_idle_total` exceed the sum of what is kept ready.
    ///
    /// More than the key's `max_idle` or `max_open` counts as equal to it. By default it is 0 for every key.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::{KeyedPool, net::TcpDialer};
    ///
    /// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// # let port = listener.local_addr()?.port();
    /// let primary = port;
    /// let pool = KeyedPool::builder(|port: &u16| TcpDialer::new("127.0.0.1", *port))
    ///     .min_idle_for(move |port| if *port == primary { 2 } else { 0 })
    ///     .build()?;
    /// pool.warm_up(&primary, 2)?; // also at once, and not for the first caller
    /// # assert_eq!(pool.stats().open, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn min_idle_for(
        mut self,
        min_idle_for: impl Fn(&K) -> u32 + Send + Sync + 'static,
    ) -> Self {
        self.of.min_idle_for = Some(Arc::new(min_idle_for));
        self
    }

    /// The most idle connections, over all keys. Beyond it the one that has been idle longest is
    /// closed, whatever its key.
    ///
    /// From 0, which keeps none, to `max_open_total`, which is the default. With less, a checkout
    /// and its return take some nanoseconds longer, because they then count idle connections.
    pub fn max_idle_total(mut self, max_idle_total: u32) -> Self {
        self.of.max_idle_total = Some(max_idle_total);
        self
    }

    /// The slots of all keys come from this quota, which somebody outside of the pool sets: see
    /// [`Quota`]. None by default. [`max_open_total`](Self::max_open_total) bounds them as well.
    pub fn quota(mut self, quota: &Quota) -> Self {
        self.of.quota = Some(quota.clone());
        self
    }

    /// Sets an observer, which is called for each event in the pools of all keys: see a [`Pool`]'s
    /// [`observer`](Settings::<ToOpen<D>>::observer).
    pub fn observer(
        mut self,
        observer: impl Fn(&Event<'_, D::Error>) + Send + Sync + 'static,
    ) -> Self {
        self.of.reporter.add_observer(observer);
        self
    }

    /// The name of the pool and of all its keys' pools: see a [`Pool`]'s
    /// [`name`](Settings::<ToOpen<D>>::name).
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.of.reporter.set_name(name.into());
        self
    }

    /// The source of the threads for all keys, shared by all pools that are given the same one.
    /// Defaults to the threads of the process.
    pub fn threads(mut self, threads: &Threads) -> Self {
        self.of.threads = Some(threads.clone());
        self
    }

    /// Checks the settings and opens the pool. It dials nothing yet.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names a setting that is out of bounds, or two that contradict each other,
    /// with their values. [`min_idle`](Self::min_idle) is refused, because a pool may see any number of keys:
    /// [`min_idle_for`](Self::min_idle_for) names those that it is for. [`ConfigError::QuotaInUse`]: another pool has the quota.
    pub fn build(self) -> Result<KeyedPool<K, D>, ConfigError> {
        let each = self.checked(Config::default())?;
        let ToOpenKeyed {
            dialer_for,
            reporter,
            max_open_for,
            min_idle_for,
            max_open_total,
            max_idle_total,
            quota,
            threads,
        } = self.of;
        let config = KeyedConfig { each, max_open_total, max_idle_total }.check()?;
        let (reporter, crew) = (reporter.here(), crew_of(threads.as_ref()));
        KeyedPool::open(dialer_for, max_open_for, min_idle_for, &config, reporter, quota, crew)
    }
}

impl<K, D> Settings<ToChangeKeyed<'_, K, D>>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    D: Dialer,
{
    /// Checks the settings and applies all of them at once to each key: see a [`Pool`]'s
    /// [`apply`](Settings::<ToChange<D>>::apply).
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names a setting that is out of bounds, or two that contradict each other,
    /// with their values. Nothing is changed then.
    pub fn apply(self) -> Result<(), ConfigError> {
        self.of.0.change(|config| KeyedConfig::check_each(self.checked(config)?))
    }
}

impl<D: Dialer> Settings<ToChange<'_, D>> {
    /// Checks the settings and applies all of them at once.
    ///
    /// If two threads apply settings at the same time, the second wins, but only for the settings
    /// that it names. Beyond a lowered `max_open`, idle connections are closed at once and
    /// connections in use when they come back: until then more than `max_open` may be open. An
    /// earlier `max_idle`, `max_dialing` or `min_idle` above it counts as equal to it, and a `min_idle` above
    /// a `max_idle` that was set at another time as equal to that.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names a setting that is out of bounds, or two that contradict each other,
    /// with their values. Nothing is changed then.
    pub fn apply(self) -> Result<(), ConfigError> {
        self.of.0.shell().reconfigure(|config| self.checked(config))
    }
}

impl<K, D: Dialer> fmt::Debug for ToOpenKeyed<K, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { max_open_total, max_idle_total, reporter, quota, threads, .. } = self;
        f.debug_struct("ToOpenKeyed")
            .field("max_open_total", max_open_total)
            .field("max_idle_total", max_idle_total)
            .field("reporter", reporter)
            .field("quota", quota)
            .field("threads", threads)
            .finish_non_exhaustive()
    }
}

impl<T: fmt::Debug> fmt::Debug for Settings<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { of, changes } = self;
        f.debug_struct("Settings").field("of", of).field("changes", &changes.len()).finish()
    }
}
