//! `Builder`: what can be set about a pool, and the two ways to open one.

use std::time::Duration;

use crate::config::{Config, ConfigError, DialRule};
use crate::dialer::Dialer;
use crate::event::{Observer, Watch};
use crate::pool::{Habits, Pool};

impl<D: Dialer> Pool<D> {
    /// Opens a pool with the defaults. Nothing is dialed yet.
    pub fn new(dialer: D) -> Self {
        Self::open(dialer, Config::default(), Habits::default(), Watch::default())
    }

    /// What can be set about a pool before it is opened.
    pub fn builder(dialer: D) -> Builder<D> {
        let (config, habits) = (Config::default(), Habits::default());
        Builder { dialer, config, habits, watch: Watch::default() }
    }
}

/// Opens a [`Pool`] with settings of your own.
///
/// | decide | with | default |
/// | --- | --- | --- |
/// | how many connections the server may see | [`max_open`](Self::max_open) | 10 |
/// | how long a caller waits | [`get_timeout`](Self::get_timeout) | 30 s |
/// | how long a dial may take | [`dial_timeout`](Self::dial_timeout) | 30 s |
///
/// The rest is seldom needed. No setter fails; [`build`](Self::build) checks that they fit together.
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
/// # Ok::<(), latebind::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct Builder<D: Dialer> {
    dialer: D,
    config: Config,
    habits: Habits,
    watch: Watch<<D as Dialer>::Error>,
}

impl<D: Dialer> Builder<D> {
    /// The most connections open at once: idle, in use, being dialed and being closed together.
    ///
    /// At least 1. Memory follows what is open, not this bound. Defaults to 10: a server does its
    /// best work with a few busy connections per core, and a queue in the client costs it nothing.
    pub fn max_open(mut self, max_open: u32) -> Self {
        self.config.max_open = max_open;
        self
    }

    /// The most connections kept at rest; one that comes back beyond it is closed.
    ///
    /// From 0, which keeps none, to `max_open`. Defaults to `max_open`.
    pub fn max_idle(mut self, max_idle: u32) -> Self {
        self.config.max_idle = Some(max_idle);
        self
    }

    /// The most dials under way at once.
    ///
    /// From 1 to `max_open`. Defaults to `max_open`: a dial is begun for a caller only, so there are
    /// never more than callers unmet. Lower it for a server that is slow to accept.
    pub fn max_dialing(mut self, max_dialing: u32) -> Self {
        self.config.max_dialing = Some(max_dialing);
        self
    }

    /// The most callers that may wait with no dial under way for them; one more is turned away with
    /// [`GetError::QueueFull`](crate::GetError::QueueFull).
    ///
    /// 0 means that a caller whom neither an idle connection nor a dial can serve is turned away at
    /// once. Off by default: then `get_timeout` alone bounds the queue.
    pub fn max_waiting(mut self, max_waiting: u32) -> Self {
        self.config.max_waiting = Some(max_waiting);
        self
    }

    /// When the pool dials for callers who find nothing idle.
    ///
    /// Defaults to [`DialRule::Adaptive`]: a spike that the connections in use can serve opens none.
    pub fn dial_rule(mut self, dial_rule: DialRule) -> Self {
        self.config.dial_rule = dial_rule;
        self
    }

    /// How long [`Pool::get`] waits, all in all.
    ///
    /// `Duration::MAX` means no limit. Defaults to 30 s: a program that borrows a second connection
    /// while it holds the last one gets an error rather than a standstill.
    pub fn get_timeout(mut self, get_timeout: Duration) -> Self {
        self.habits.get_timeout = get_timeout;
        self
    }

    /// How long a dial may take before nobody counts on it any more.
    ///
    /// The dialer is told; one that overruns it all the same keeps its slot until it returns. More
    /// than zero; `Duration::MAX` means no limit. Defaults to 30 s, as Go's `DefaultTransport`.
    pub fn dial_timeout(mut self, dial_timeout: Duration) -> Self {
        self.config.dial_timeout = dial_timeout;
        self
    }

    /// How long a connection may be idle and still be lent without a [check](Dialer::check).
    ///
    /// Zero checks at each checkout that finds an idle connection, `Duration::MAX` at none. Below
    /// 50 ms every checkout takes a lock, since only a precise clock can tell such times. Defaults
    /// to 500 ms, as HikariCP has it: a busy connection is never checked, a quiet one seldom dies
    /// within that time, and a check costs a round trip.
    pub fn check_after(mut self, check_after: Duration) -> Self {
        self.config.check_after = check_after;
        self
    }

    /// How long a check, or a reset that may block, may take before the connection is given up.
    ///
    /// More than zero; `Duration::MAX` means no limit. Defaults to 5 s: many round trips to the far
    /// side of the earth, and a fraction of `get_timeout`.
    pub fn check_timeout(mut self, check_timeout: Duration) -> Self {
        self.config.check_timeout = check_timeout;
        self
    }

    /// How long a close may take before its slot is free for another dial all the same.
    ///
    /// Until then a connection being closed counts as open, as it does for the server. Each slot
    /// freed by this is counted in [`Stats::close_timeouts_total`](crate::Stats). More than zero;
    /// `Duration::MAX` means no limit. Defaults to 5 s.
    pub fn close_timeout(mut self, close_timeout: Duration) -> Self {
        self.config.close_timeout = close_timeout;
        self
    }

    /// Whether a connection whose guard is dropped by a panic is retired rather than given back.
    ///
    /// Defaults to `true`: whoever panicked may have left a request half written.
    pub fn retire_on_panic(mut self, retire_on_panic: bool) -> Self {
        self.habits.retire_on_panic = retire_on_panic;
        self
    }

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
        self.watch = Watch::by(observer);
        self
    }

    /// Checks the settings and opens the pool. Nothing is dialed yet.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names a setting that is out of bounds, or two that contradict each other,
    /// with their values.
    pub fn build(self) -> Result<Pool<D>, ConfigError> {
        Ok(Pool::open(self.dialer, self.config.check()?, self.habits, self.watch))
    }
}
