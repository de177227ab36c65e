//! `Settings`: what can be set about a pool, before it is opened and while it runs.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Breaker, Config, ConfigError, DialRule, OnDialFailure};
use crate::dialer::Dialer;
use crate::event::Observer;
use crate::keyed::{DialerFor, KeyedConfig, KeyedPool};
use crate::pool::Pool;
use crate::reporter::Reporter;
use crate::threads::{Threads, crew_of};

impl<D: Dialer> Pool<D> {
    /// Opens a pool with the defaults. Nothing is dialed yet.
    pub fn new(dialer: D) -> Self {
        Self::open(dialer, Config::default(), Reporter::default(), crew_of(None))
    }

    /// What can be set about a pool before it is opened.
    pub fn builder(dialer: D) -> Builder<D> {
        Settings::of(ToOpen { dialer, reporter: Reporter::default(), threads: None })
    }

    /// Changes the settings of the pool while it runs.
    ///
    /// What is not named stays as it is. What is named holds for every caller, dial, check and close
    /// that begins after [`apply`](Settings::apply), and for connections at their next return or
    /// checkout.
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
    /// Opens a keyed pool with the defaults. `dialer_for` makes a key's dialer, each time that the
    /// key is used after nothing was left of it; it runs under no lock.
    pub fn new(dialer_for: impl Fn(&K) -> D + Send + Sync + 'static) -> Self {
        Self::builder(dialer_for).build().expect("the defaults fit together")
    }

    /// What can be set about a keyed pool before it is opened: what can be of a [`Pool`], which
    /// then holds for each key, and bounds for all keys together.
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
            max_open_total: MAX_OPEN_TOTAL,
            max_idle_total: None,
            threads: None,
        })
    }
}

/// The most connections of all keys, unless said otherwise: as many as Chromium allows
/// (`net/socket/client_socket_pool_manager.cc`).
const MAX_OPEN_TOTAL: u32 = 256;

/// Opens a [`Pool`] with settings of your own: begun by [`Pool::builder`], ended by
/// [`build`](Settings::build).
pub type Builder<D> = Settings<ToOpen<D>>;

/// Changes the settings of a [`Pool`] that runs: begun by [`Pool::reconfigure`], ended by
/// [`apply`](Settings::apply).
pub type Changes<'p, D> = Settings<ToChange<'p, D>>;

/// The settings are for a pool yet to be opened. See [`Builder`].
#[derive(Clone, Debug)]
pub struct ToOpen<D: Dialer> {
    dialer: D,
    reporter: Reporter<<D as Dialer>::Error>,
    threads: Option<Threads>,
}

/// Opens a [`KeyedPool`] with settings of your own: begun by [`KeyedPool::builder`], ended by
/// [`build`](Settings::build).
pub type KeyedBuilder<K, D> = Settings<ToOpenKeyed<K, D>>;

/// The settings are for a keyed pool yet to be opened. See [`KeyedBuilder`].
#[derive(Clone)]
pub struct ToOpenKeyed<K, D: Dialer> {
    dialer_for: DialerFor<K, D>,
    reporter: Reporter<<D as Dialer>::Error>,
    max_open_total: u32,
    max_idle_total: Option<u32>,
    threads: Option<Threads>,
}

/// The settings are for a pool that runs. See [`Changes`].
#[derive(Debug)]
pub struct ToChange<'p, D: Dialer>(&'p Pool<D>);

/// One setting, said.
type Change = Arc<dyn Fn(&mut Config) + Send + Sync>;

/// What can be set about a [`Pool`], before it is opened ([`Builder`]) and while it runs
/// ([`Changes`]).
///
/// | decide | with | default |
/// | --- | --- | --- |
/// | how many connections the server may see | [`max_open`](Self::max_open) | 10 |
/// | how long a caller waits | [`get_timeout`](Self::get_timeout) | 30 s |
/// | how long a connection lives, and rests | [`max_lifetime`](Self::max_lifetime), [`max_idle_time`](Self::max_idle_time) | 30 min, 10 min |
/// | how long a dial may take | [`dial_timeout`](Self::dial_timeout) | 30 s |
///
/// The rest is seldom needed. No setter fails; [`build`](Self::build) and [`apply`](Self::apply)
/// check that they fit together.
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
    /// In the order in which they were said. They are carried out when there is a configuration to
    /// change: that of a running pool may be changed by others until then.
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

    /// `config` with what was said.
    fn on(&self, mut config: Config) -> Config {
        self.changes.iter().for_each(|change| change(&mut config));
        config
    }

    /// The same, if it fits together. What was set before may exceed a lowered `max_open`, and
    /// counts as equal to it then; what is said now may not.
    fn checked_on(&self, config: Config) -> Result<Config, ConfigError> {
        let changed = self.on(config);
        let Config { max_idle, max_dialing, min_idle, .. } = self.on(Config::default());
        Config { max_idle, max_dialing, min_idle, ..changed }.check()?;
        Ok(changed)
    }
}

impl<T> Settings<T> {
    /// The most connections open at once: idle, in use, being dialed and being closed together.
    ///
    /// At least 1. Memory follows what is open, not this bound. Defaults to 10: a server does its
    /// best work with a few busy connections per core, and a queue in the client costs it nothing.
    pub fn max_open(self, max_open: u32) -> Self {
        self.change(move |config| config.max_open = max_open)
    }

    /// The most connections kept at rest; one that comes back beyond it is closed.
    ///
    /// From 0, which keeps none, to `max_open`. Defaults to `max_open`.
    pub fn max_idle(self, max_idle: u32) -> Self {
        self.change(move |config| config.max_idle = Some(max_idle))
    }

    /// The fewest connections to keep at rest: the pool dials for them by itself, from the start.
    ///
    /// What is lent is made good at once, as long as `max_open` has room, and dials under way are
    /// counted. A connection that reaches its [`max_lifetime`](Self::max_lifetime) is replaced before
    /// it ends, if there is room for both: leave `max_open` one more than rest and work need.
    /// Otherwise it is closed first, and rests one short for as long as a dial takes.
    ///
    /// While dials fail one at a time tries, after pauses that double from 100 ms up to 10 s, or up to
    /// 10 min where [trying again cannot help](crate::Dialer::is_permanent).
    /// [`Pool::last_dial_failure`](crate::Pool::last_dial_failure) tells how the latest failed. A
    /// connection that has to end before it is 100 ms old is not replaced sooner than after as long
    /// again.
    ///
    /// From 0 to `max_idle`. Defaults to 0, as the first caller can dial: a program that is not used
    /// then holds nothing.
    pub fn min_idle(self, min_idle: u32) -> Self {
        self.change(move |config| config.min_idle = min_idle)
    }

    /// How long after its dial a connection ends, in use or not.
    ///
    /// One that has reached that age is not lent and not kept: it is closed while idle, or as it
    /// comes back. Which way it is, [`lifetime_jitter`](Self::lifetime_jitter) brings it forward for
    /// some. More than zero; `Duration::MAX` means no limit. Defaults to 30 min, as in HikariCP and
    /// r2d2: servers, proxies and balancers have limits of their own, and a connection that ends by
    /// its pool ends between two requests.
    pub fn max_lifetime(self, max_lifetime: Duration) -> Self {
        self.change(move |config| config.max_lifetime = max_lifetime)
    }

    /// The most by which a connection's life is shortened, each by a part of it drawn by lot.
    ///
    /// Connections that were opened together so do not end together. From zero, which is no jitter;
    /// what exceeds `max_lifetime` counts as equal to it. Defaults to a tenth of `max_lifetime`.
    pub fn lifetime_jitter(self, lifetime_jitter: Duration) -> Self {
        self.change(move |config| config.lifetime_jitter = Some(lifetime_jitter))
    }

    /// How long a connection may be idle before it is closed, unless [`min_idle`](Self::min_idle)
    /// would miss it.
    ///
    /// A check is no use of it. More than zero; `Duration::MAX` means no limit. Defaults to 10 min,
    /// as in HikariCP and r2d2: below what firewalls forget (often 15 min or an hour), and long
    /// enough to be there for the next wave.
    pub fn max_idle_time(self, max_idle_time: Duration) -> Self {
        self.change(move |config| config.max_idle_time = max_idle_time)
    }

    /// How long a connection may rest before it is [checked](Dialer::check) although nobody wants it.
    ///
    /// Up to a tenth earlier, each at a time of its own, one at a time, and no connection more than
    /// ten times a second. For servers and firewalls that cut what is silent, and to be told early of
    /// a server that is gone. More than zero; defaults to `Duration::MAX`, which is off: TCP keep-alive
    /// does as much for a quiet line, and what has rested long is checked before it is lent.
    pub fn check_idle_every(self, check_idle_every: Duration) -> Self {
        self.change(move |config| config.check_idle_every = check_idle_every)
    }

    /// How long a connection may be held before its holder is told of as a leak.
    ///
    /// The observer is told by [`Event::Leaked`](crate::Event::Leaked), once for each loan, with the
    /// line that asked for the connection; [`Stats::leaked_total`](crate::Stats) counts them. It is
    /// noticed within as long again, and nothing is done about it: the borrower may have its
    /// reasons. More than zero; defaults to `Duration::MAX`, which is off: how long is too long only
    /// the program knows. [`Pool::holders`] tells at any time who has a connection.
    pub fn leak_after(self, leak_after: Duration) -> Self {
        self.change(move |config| config.leak_after = leak_after)
    }

    /// What becomes of a caller whose own dial has failed.
    ///
    /// Defaults to [`OnDialFailure::AwaitReturn`]: it is told at once, unless a connection in use may
    /// come back to serve it. Whoever is told can decide better than the pool whether to try again.
    pub fn on_dial_failure(self, on_dial_failure: OnDialFailure) -> Self {
        self.change(move |config| config.on_dial_failure = on_dial_failure)
    }

    /// Whether callers are refused at once while the server cannot be reached.
    ///
    /// When dials have failed as many times in a row as the [`Breaker`] says, callers whom nothing
    /// idle or in use can serve are turned away with the latest failure, and one dial at a time tries
    /// whether the server is back: when its pause is over, for the next caller who comes. From the
    /// first failure on, no more than one dial is under way. When one succeeds, callers who have
    /// waited for a return meanwhile may dial again. Nobody has to wait for a server known
    /// to be away, and a server that comes back meets one dial and not a hundred.
    ///
    /// `None` is off: every caller has a dial of its own then, and is told what became of that, so that
    /// callers who ask again and again dial as often. Defaults to [`Breaker::default`], because a
    /// server that is away or full is helped by being asked seldom; and to `None` with
    /// [`OnDialFailure::Retry`], under which callers would rather wait than be refused.
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
        let breaker = Some(breaker.into());
        self.change(move |config| config.breaker = breaker)
    }

    /// The most dials under way at once.
    ///
    /// From 1 to `max_open`. Defaults to `max_open`, or 64 if that is less: half of what many servers
    /// let wait to be accepted, so that a thousand callers, or a [`min_idle`](Self::min_idle) of a
    /// thousand, do not knock all at once. Each dial takes a thread too. Lower it for a server that
    /// is slow to accept.
    pub fn max_dialing(self, max_dialing: u32) -> Self {
        self.change(move |config| config.max_dialing = Some(max_dialing))
    }

    /// The most callers that may wait with no dial under way for them; one more is turned away with
    /// [`GetError::QueueFull`](crate::GetError::QueueFull).
    ///
    /// 0 means that a caller whom neither an idle connection nor a dial can serve is turned away at
    /// once. Off by default: then `get_timeout` alone bounds the queue, as with `u32::MAX`.
    pub fn max_waiting(self, max_waiting: u32) -> Self {
        self.change(move |config| config.max_waiting = Some(max_waiting))
    }

    /// When the pool dials for callers who find nothing idle.
    ///
    /// Defaults to [`DialRule::Adaptive`]: a spike that the connections in use can serve opens none.
    pub fn dial_rule(self, dial_rule: DialRule) -> Self {
        self.change(move |config| config.dial_rule = dial_rule)
    }

    /// How long [`Pool::get`] waits, all in all.
    ///
    /// `Duration::MAX` means no limit. Defaults to 30 s: a program that borrows a second connection
    /// while it holds the last one gets an error rather than a standstill.
    pub fn get_timeout(self, get_timeout: Duration) -> Self {
        self.change(move |config| config.get_timeout = get_timeout)
    }

    /// How long a dial may take before nobody counts on it any more.
    ///
    /// The dialer is told; one that overruns it all the same keeps its slot until it returns. More
    /// than zero; `Duration::MAX` means no limit. Defaults to 30 s, as Go's `DefaultTransport`.
    pub fn dial_timeout(self, dial_timeout: Duration) -> Self {
        self.change(move |config| config.dial_timeout = dial_timeout)
    }

    /// How long a connection may be idle and still be lent without a [check](Dialer::check).
    ///
    /// Zero checks at each checkout that finds an idle connection, `Duration::MAX` at none. Below
    /// 50 ms a loan reads a precise clock twice, which takes some 40 ns more. Defaults to 500 ms, as
    /// HikariCP has it: a busy connection is never checked, a quiet one seldom dies within that time,
    /// and a check costs a round trip.
    pub fn check_after(self, check_after: Duration) -> Self {
        self.change(move |config| config.check_after = check_after)
    }

    /// How long a check, or a reset that may block, may take before the connection is given up.
    ///
    /// More than zero; `Duration::MAX` means no limit. Defaults to 5 s: many round trips to the far
    /// side of the earth, and a fraction of `get_timeout`.
    pub fn check_timeout(self, check_timeout: Duration) -> Self {
        self.change(move |config| config.check_timeout = check_timeout)
    }

    /// How long a close may take before its slot is free for another dial all the same.
    ///
    /// Until then a connection being closed counts as open, as it does for the server. Each slot
    /// freed by this is counted in [`Stats::close_timeouts_total`](crate::Stats). More than zero;
    /// `Duration::MAX` means no limit. Defaults to 5 s.
    pub fn close_timeout(self, close_timeout: Duration) -> Self {
        self.change(move |config| config.close_timeout = close_timeout)
    }

    /// Whether a connection whose guard is dropped by a panic is retired rather than given back.
    ///
    /// Defaults to `true`: whoever panicked may have left a request half written.
    pub fn retire_on_panic(self, retire_on_panic: bool) -> Self {
        self.change(move |config| config.retire_on_panic = retire_on_panic)
    }
}

impl<D: Dialer> Settings<ToOpen<D>> {
    /// Who is told what happens in the pool: a closure, or any [`Observer`].
    ///
    /// One; setting another replaces it. None by default, and then nothing is paid for it.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::{Event, Pool};
    /// # let dialer = latebind::net::TcpDialer::new("localhost", 80);
    ///
    /// let pool = Pool::builder(dialer)
    ///     .observer(|event: &Event<'_, _>| {
    ///         if let Event::Closed { reason, age, .. } = event {
    ///             eprintln!("a connection was closed at the age of {age:?}: {reason}");
    ///         }
    ///     })
    ///     .build()?;
    /// # Ok::<(), latebind::ConfigError>(())
    /// ```
    pub fn observer(mut self, observer: impl Observer<D::Error>) -> Self {
        self.of.reporter.set_observer(observer);
        self
    }

    /// By which name the pool goes: in its errors, in the lines that it [logs](crate#watch), and
    /// in its spans.
    ///
    /// None by default. The pool's threads do not bear it, as all pools share them; those of a
    /// [`Threads`] may.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.of.reporter.set_name(name.into());
        self
    }

    /// Where the pool's threads come from, and with which pools it shares them. Defaults to the
    /// threads of the process.
    pub fn threads(mut self, threads: &Threads) -> Self {
        self.of.threads = Some(threads.clone());
        self
    }

    /// Checks the settings and opens the pool. Nothing is dialed yet but for
    /// [`min_idle`](Self::min_idle), and that is not waited for.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names a setting that is out of bounds, or two that contradict each other,
    /// with their values.
    pub fn build(self) -> Result<Pool<D>, ConfigError> {
        let config = self.checked_on(Config::default())?;
        let ToOpen { dialer, reporter, threads } = self.of;
        Ok(Pool::open(dialer, config, reporter, crew_of(threads.as_ref())))
    }
}

impl<K, D> Settings<ToOpenKeyed<K, D>>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    D: Dialer,
{
    /// The most connections open at once, of all keys together.
    ///
    /// At least 1. A key's own [`max_open`](Self::max_open) may exceed it, and counts as equal then.
    /// Defaults to 256.
    pub fn max_open_total(mut self, max_open_total: u32) -> Self {
        self.of.max_open_total = max_open_total;
        self
    }

    /// The most connections kept at rest, of all keys together. Beyond it the one that has rested
    /// longest is closed, of whatever key.
    ///
    /// From 0, which keeps none, to `max_open_total`, which is the default. A checkout and its return
    /// take some nanoseconds longer if it is less: they count then.
    pub fn max_idle_total(mut self, max_idle_total: u32) -> Self {
        self.of.max_idle_total = Some(max_idle_total);
        self
    }

    /// Who is told what happens in the pools of all keys: a closure, or any [`Observer`].
    pub fn observer(mut self, observer: impl Observer<D::Error>) -> Self {
        self.of.reporter.set_observer(observer);
        self
    }

    /// By which name the pool goes, with all its keys: as of a [`Pool`]'s
    /// [`name`](Settings::<ToOpen<D>>::name).
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.of.reporter.set_name(name.into());
        self
    }

    /// Where the threads for all keys come from, and with which pools they are shared. Defaults to
    /// the threads of the process.
    pub fn threads(mut self, threads: &Threads) -> Self {
        self.of.threads = Some(threads.clone());
        self
    }

    /// Checks the settings and opens the pool. Nothing is dialed yet.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names a setting that is out of bounds, or two that contradict each other,
    /// with their values. [`min_idle`](Self::min_idle) cannot be had: of a key that nobody uses,
    /// nothing is kept.
    pub fn build(self) -> Result<KeyedPool<K, D>, ConfigError> {
        let each = self.checked_on(Config::default())?;
        let ToOpenKeyed { dialer_for, reporter, max_open_total, max_idle_total, threads } = self.of;
        let config = KeyedConfig { each, max_open_total, max_idle_total }.check()?;
        Ok(KeyedPool::open(dialer_for, &config, reporter, crew_of(threads.as_ref())))
    }
}

impl<D: Dialer> Settings<ToChange<'_, D>> {
    /// Checks the settings and has the pool go by them, all at once.
    ///
    /// Of two threads that do so at the same time, the second wins, but only for the settings that
    /// it names. Beyond a lowered `max_open`, idle connections are closed at once and connections
    /// in use when they come back: until then more than `max_open` may be open. A `max_idle`,
    /// `max_dialing` or `min_idle` from before that is above it counts as equal to it.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names a setting that is out of bounds, or two that contradict each other,
    /// with their values. Nothing is changed then.
    pub fn apply(self) -> Result<(), ConfigError> {
        self.of.0.change(|config| self.checked_on(config))
    }
}

impl<K, D: Dialer> fmt::Debug for ToOpenKeyed<K, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { max_open_total, max_idle_total, reporter, threads, .. } = self;
        f.debug_struct("ToOpenKeyed")
            .field("max_open_total", max_open_total)
            .field("max_idle_total", max_idle_total)
            .field("reporter", reporter)
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
