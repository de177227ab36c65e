//! `Config`: a pool's settings as plain data, and the one check that they fit together.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::runtime::moment::Moment;
#[cfg(feature = "serde")]
use crate::text::{some_span, span};

/// When the pool dials for callers that find nothing idle.
///
/// # Examples
///
/// ```
/// # let dialer = latebind::net::TcpDialer::new("localhost", 80);
/// use latebind::{DialRule, Pool};
///
/// let pool = Pool::builder(dialer).dial_rule(DialRule::Eager).build()?;
/// # Ok::<(), latebind::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum DialRule {
    /// Gives connections in use an eighth of a dial to come back, at most 250 ms; then dials for
    /// the callers that returns, at their current rate, would not serve within one dial.
    ///
    /// A caller is served at most that eighth later than with [`Eager`](Self::Eager). Where
    /// connections come back faster than new ones are dialed, none are dialed. It dials at once
    /// while nothing is in use, and until a first dial has shown how long one takes.
    ///
    /// Where a dial took 250 µs or less, it begins one for each eight callers at once. The dials
    /// for the others begin as soon as one of those has ended, or after 5 ms, because dials may
    /// have become slow.
    #[default]
    Adaptive,
    /// Dials at once for every caller for which no connection is on the way.
    Eager,
}

/// The idle connection that is lent first.
///
/// # Examples
///
/// ```
/// # let dialer = latebind::net::TcpDialer::new("localhost", 80);
/// use latebind::{IdleOrder, Pool};
///
/// // The name stands for several servers, and each dial reaches another one.
/// let pool = Pool::builder(dialer).idle_order(IdleOrder::Fifo).build()?;
/// # Ok::<(), latebind::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum IdleOrder {
    /// The one that was used last, as far as that can be told without a lock. So connections that the
    /// load does not need grow idle, and [`max_idle_time`](crate::Settings::max_idle_time) closes them;
    /// the one that is lent seldom needs a check.
    #[default]
    Lifo,
    /// The one that has been idle longest. So the load is spread over all connections, and over all
    /// servers behind a balancer that gives each dial another one. A pool that is in use shrinks only
    /// where the load leaves each connection idle for `max_idle_time`, and a connection is idle for
    /// longer before each loan, so that more of them are [checked](crate::Settings::check_after).
    ///
    /// Each loan and each return takes the pool's lock.
    Fifo,
}

/// The treatment of a caller whose own dial has failed.
///
/// A dial's failure belongs to the caller whose need began it, and to no other.
///
/// # Examples
///
/// ```
/// # let dialer = latebind::net::TcpDialer::new("localhost", 80);
/// use latebind::{Backoff, OnDialFailure, Pool};
///
/// // A database that restarts now and then: its callers would rather wait than get an error.
/// let pool = Pool::builder(dialer)
///     .on_dial_failure(OnDialFailure::Retry(Backoff::default()))
///     .build()?;
/// # Ok::<(), latebind::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum OnDialFailure {
    /// Fails at once if nothing is in use, because only another dial could help. Otherwise waits
    /// for a return, without a second dial, for as long as anything is in use and its deadline
    /// allows. Only while the [breaker](crate::Builder::breaker) is open, a dial may begin for it that
    /// tests whether the server is back.
    ///
    /// So a server that says "too many connections" fails no caller that a return would serve in
    /// five milliseconds.
    #[default]
    AwaitReturn,
    /// Fails at once, whatever is in use.
    Fail,
    /// Keeps waiting, and dials again after a pause, until its deadline or until the
    /// [breaker](crate::Builder::breaker) opens.
    ///
    /// One dial at a time is such a repeated attempt, for all callers together; when one succeeds,
    /// all of them may dial. A new caller's first dial does not wait for the pause.
    Retry(Backoff),
}

/// The pauses between attempts while dials fail: each twice as long as the one before, less a
/// random part of up to a half.
///
/// Defaults to 10 ms at first and 100 ms at most: a server that is back is found within a tenth of
/// a second, and one that is away is dialed ten to twenty times a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct Backoff {
    #[cfg_attr(feature = "serde", serde(with = "pause"))]
    first: Duration,
    #[cfg_attr(feature = "serde", serde(with = "pause"))]
    most: Duration,
}

impl Backoff {
    /// Pauses that grow from `first` (at least 1 ms) to `most` (at least `first`).
    #[must_use]
    pub fn new(first: Duration, most: Duration) -> Self {
        let first = first.max(SHORTEST_PAUSE);
        Self { first, most: most.max(first) }
    }

    /// The longest pause after the first failure.
    #[must_use]
    pub fn first(&self) -> Duration {
        self.first
    }

    /// The longest pause after any number of failures.
    #[must_use]
    pub fn most(&self) -> Duration {
        self.most.max(self.first)
    }

    /// The longest pause after that many failures in a row.
    pub(crate) fn pause(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.first.saturating_mul(1 << doublings).min(self.most())
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new(Duration::from_millis(10), Duration::from_millis(100))
    }
}

/// When to treat a server as unreachable, and how often to test whether it is back.
///
/// Defaults to three failures in a row and one dial every 90 ms: a server that is back is found
/// within a tenth of a second, at eleven dials a second, and one dial that fails by chance turns
/// away only its own caller.
///
/// # Examples
///
/// ```
/// # let dialer = latebind::net::TcpDialer::new("localhost", 80);
/// use latebind::{Breaker, Pool};
/// use std::time::Duration;
///
/// let breaker = Breaker::new(3, Duration::from_secs(1));
/// let pool = Pool::builder(dialer).breaker(breaker).build()?;
/// # Ok::<(), latebind::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct Breaker {
    failures: NonZeroU32,
    #[cfg_attr(feature = "serde", serde(with = "pause"))]
    probe_every: Duration,
}

impl Breaker {
    /// Opens after `failures` in a row (at least 1), and then lets one dial at a time try,
    /// `probe_every` (at least 1 ms) after the previous one has failed.
    #[must_use]
    pub fn new(failures: u32, probe_every: Duration) -> Self {
        let failures = NonZeroU32::new(failures).unwrap_or(NonZeroU32::MIN);
        Self { failures, probe_every: probe_every.max(SHORTEST_PAUSE) }
    }

    /// The failures in a row after which it opens.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures.get()
    }

    /// The time from a dial that has failed to the next that tries, while it is open.
    #[must_use]
    pub fn probe_every(&self) -> Duration {
        self.probe_every
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self::new(3, Duration::from_millis(90))
    }
}

/// The [`Breaker`] that a pool has, as in its [`Config`]: the one that
/// [`Settings::breaker`](crate::Settings::breaker) has set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum BreakerChoice {
    /// [`Breaker::default`]; none with [`OnDialFailure::Retry`], under which callers would rather wait than
    /// be refused.
    #[default]
    ByDefault,
    /// None: no caller is refused.
    Off,
    /// This one.
    On(Breaker),
}

impl From<Option<Breaker>> for BreakerChoice {
    fn from(breaker: Option<Breaker>) -> Self {
        breaker.map_or(Self::Off, Self::On)
    }
}

/// The shortest pause between two dials of an outage, so that a server that is away is not dialed in a
/// busy loop.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);

/// A pause between two dials, as text.
#[cfg(feature = "serde")]
mod pause {
    use super::{Duration, SHORTEST_PAUSE, span};
    use serde::{Deserializer, de::Error};

    pub(super) use super::span::serialize;

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let pause = span::deserialize(from)?;
        if pause < SHORTEST_PAUSE {
            let error = format!("a pause is {pause:?}; it must be at least {SHORTEST_PAUSE:?}");
            return Err(D::Error::custom(error));
        }
        Ok(pause)
    }
}

/// How long, at least, newcomers may pass a waiting caller: see `ledger/bypass.rs`. Measured on two
/// cores, 32 threads on 8 connections, each busy for 20 us (ideal: 100 checkouts a millisecond;
/// r2d2: 93 to 97, and 108 to 131 ms for the longest get), in runs of 0.3 s:
///
/// | | checkouts, as a share of r2d2's | longest get |
/// | --- | --- | --- |
/// | never | 0.72 to 0.78 | 8 to 10 ms |
/// | 1 ms | 0.93 to 0.94 | 11 ms |
/// | 1.5 ms | 0.93 to 0.96 | 12 to 16 ms |
/// | **2 ms** | 0.96 to 0.98 | 14 to 16 ms |
/// | 3 ms | 0.97 to 0.98 | 18 to 21 ms |
/// | 4 ms | 0.99 | 17 ms |
///
/// The longest get exceeds the bound by the time for which a woken thread waits for a processor.
const BYPASS: Duration = Duration::from_millis(2);

/// The most dials under way at once, unless a program asks for more. Half of the 128 connections
/// that the accept queue of many servers holds (`SOMAXCONN` on most systems, and on Linux before
/// 5.4): a connection beyond that is dropped, and tried again after a second. So two programs that
/// start at the same moment fit. It is more than the fifty callers of the ramps in `benches`, so it
/// does not affect them. Each dial takes a thread as well.
const MOST_DIALING: u32 = 64;

/// A pool's settings as plain data: to read what is in force
/// ([`Pool::settings`](crate::Pool::settings)), and to keep settings in a file or in the environment.
///
/// [`Settings`](crate::Settings) documents each by the name that it has here, with its unit, its bounds and
/// its default, and takes all of them at once by [`settings`](crate::Settings::settings). No password and
/// no address is among them: those belong to the dialer.
///
/// The bounds are checked where the settings are used: [`build`](crate::Settings::build) and
/// [`apply`](crate::Settings::apply) refuse settings that break one.
///
/// # Examples
///
/// ```
/// # let dialer = latebind::net::TcpDialer::new("localhost", 80);
/// use latebind::{Config, Pool};
///
/// let mut config = Config::default();
/// config.max_open = 20;
/// let pool = Pool::builder(dialer).settings(config).build()?;
/// assert_eq!(pool.settings(), config);
///
/// pool.resize(40)?;
/// assert_eq!(pool.settings().max_open, 40);
/// # Ok::<(), latebind::ConfigError>(())
/// ```
///
/// # From a file
///
/// With feature `serde` it is `Serialize` and `Deserialize`, for a table in a program's configuration. A
/// field that is left out has its default, and a field that is not a setting is refused. Times are texts such as
/// `"1m 30s"` or `"500ms"`, and `"unlimited"` for `Duration::MAX`:
///
/// ```toml
/// max_open = 20
/// get_timeout = "2s"
/// max_lifetime = "unlimited"
/// dial_rule = "eager"
/// breaker = { on = { failures = 5, probe_every = "1s" } } # or "off"
/// on_dial_failure = { retry = { first = "10ms", most = "1s" } } # or "fail"
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct Config {
    /// See [`Settings::max_open`](crate::Settings::max_open).
    pub max_open: u32,
    /// See [`Settings::max_idle`](crate::Settings::max_idle). `None`: as many as `max_open`.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub max_idle: Option<u32>,
    /// See [`Settings::max_dialing`](crate::Settings::max_dialing). `None`: as many as `max_open`, and 64
    /// at most.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub max_dialing: Option<u32>,
    /// See [`Settings::max_waiting`](crate::Settings::max_waiting). `None`: no bound.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub max_waiting: Option<u32>,
    /// See [`Settings::min_idle`](crate::Settings::min_idle).
    pub min_idle: u32,
    /// See [`Settings::max_lifetime`](crate::Settings::max_lifetime).
    #[cfg_attr(feature = "serde", serde(with = "span"))]
    pub max_lifetime: Duration,
    /// See [`Settings::lifetime_jitter`](crate::Settings::lifetime_jitter). `None`: a tenth of
    /// `max_lifetime`.
    #[cfg_attr(
        feature = "serde",
        serde(with = "some_span", skip_serializing_if = "Option::is_none")
    )]
    pub lifetime_jitter: Option<Duration>,
    /// See [`Settings::max_uses`](crate::Settings::max_uses). `None`: no limit.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub max_uses: Option<u32>,
    /// See [`Settings::idle_order`](crate::Settings::idle_order).
    pub idle_order: IdleOrder,
    /// See [`Settings::max_idle_time`](crate::Settings::max_idle_time).
    #[cfg_attr(feature = "serde", serde(with = "span"))]
    pub max_idle_time: Duration,
    /// See [`Settings::prune_every`](crate::Settings::prune_every).
    #[cfg_attr(feature = "serde", serde(with = "span"))]
    pub prune_every: Duration,
    /// See [`Settings::check_idle_every`](crate::Settings::check_idle_every).
    #[cfg_attr(feature = "serde", serde(with = "span"))]
    pub check_idle_every: Duration,
    /// See [`Settings::leak_after`](crate::Settings::leak_after).
    #[cfg_attr(feature = "serde", serde(with = "span"))]
    pub leak_after: Duration,
    /// See [`Settings::on_dial_failure`](crate::Settings::on_dial_failure).
    pub on_dial_failure: OnDialFailure,
    /// See [`Settings::breaker`](crate::Settings::breaker).
    pub breaker: BreakerChoice,
    /// See [`Settings::dial_rule`](crate::Settings::dial_rule).
    pub dial_rule: DialRule,
    /// See [`Settings::get_timeout`](crate::Settings::get_timeout).
    #[cfg_attr(feature = "serde", serde(with = "span"))]
    pub get_timeout: Duration,
    /// See [`Settings::dial_timeout`](crate::Settings::dial_timeout).
    #[cfg_attr(feature = "serde", serde(with = "span"))]
    pub dial_timeout: Duration,
    /// See [`Settings::check_after`](crate::Settings::check_after).
    #[cfg_attr(feature = "serde", serde(with = "span"))]
    pub check_after: Duration,
    /// See [`Settings::check_timeout`](crate::Settings::check_timeout).
    #[cfg_attr(feature = "serde", serde(with = "span"))]
    pub check_timeout: Duration,
    /// See [`Settings::close_timeout`](crate::Settings::close_timeout).
    #[cfg_attr(feature = "serde", serde(with = "span"))]
    pub close_timeout: Duration,
    /// See [`Settings::retire_on_panic`](crate::Settings::retire_on_panic).
    pub retire_on_panic: bool,
    /// Not a setting: how long, at least, newcomers may pass the longest wait while a connection is
    /// on its way to a caller that has not woken yet.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) bypass: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_open: 10,
            max_idle: None,
            max_dialing: None,
            max_waiting: None,
            min_idle: 0,
            max_lifetime: Duration::from_secs(30 * 60),
            lifetime_jitter: None,
            max_uses: None,
            idle_order: IdleOrder::default(),
            max_idle_time: Duration::from_secs(10 * 60),
            prune_every: Duration::ZERO,
            check_idle_every: Duration::MAX,
            leak_after: Duration::MAX,
            on_dial_failure: OnDialFailure::default(),
            breaker: BreakerChoice::ByDefault,
            dial_rule: DialRule::default(),
            get_timeout: Duration::from_secs(30),
            dial_timeout: Duration::from_secs(30),
            bypass: BYPASS,
            check_after: Duration::from_millis(500),
            check_timeout: Duration::from_secs(5),
            close_timeout: Duration::from_secs(5),
            retire_on_panic: true,
        }
    }
}

impl Config {
    /// Returns the settings if each is within its bounds.
    pub(crate) fn check_bounds(self) -> Result<Self, ConfigError> {
        for (setting, value) in [
            ("max_open", self.max_open),
            ("max_dialing", self.max_dialing.unwrap_or(1)),
            ("max_uses", self.max_uses.unwrap_or(1)),
        ] {
            if value == 0 {
                return Err(ConfigError::TooSmall { setting, value, least: 1 });
            }
        }
        for (setting, value) in [
            ("dial_timeout", self.dial_timeout),
            ("check_timeout", self.check_timeout),
            ("close_timeout", self.close_timeout),
            ("max_lifetime", self.max_lifetime),
            ("max_idle_time", self.max_idle_time),
            ("check_idle_every", self.check_idle_every),
            ("leak_after", self.leak_after),
        ] {
            if value.is_zero() {
                return Err(ConfigError::ZeroTimeout { setting });
            }
        }
        Ok(self)
    }

    /// Returns the settings if each is within its bounds and no two of them contradict each other.
    pub(crate) fn check(self) -> Result<Self, ConfigError> {
        self.check_bounds()?;
        let most = ("max_open", self.max_open);
        let most_idle = self.max_idle.map_or(most, |max_idle| ("max_idle", max_idle));
        for (setting, value, (bound, limit)) in [
            ("max_idle", self.max_idle, most),
            ("max_dialing", self.max_dialing, most),
            ("min_idle", Some(self.min_idle), most_idle),
        ] {
            if let Some(value) = value.filter(|value| *value > limit) {
                return Err(ConfigError::Contradiction { setting, value, bound, limit });
            }
        }
        Ok(self)
    }

    /// Whether connections may be lent and given back without the ledger, which then chooses none of them
    /// and counts no loan at once.
    pub(crate) fn may_lend_without_ledger(&self) -> bool {
        self.max_uses.is_none() && self.idle_order == IdleOrder::Lifo
    }

    /// The most connections that may be idle.
    #[inline]
    pub(crate) fn max_idle(&self) -> u32 {
        self.max_idle.unwrap_or(self.max_open).min(self.max_open)
    }

    /// The most dials under way at once.
    pub(crate) fn max_dialing(&self) -> u32 {
        self.max_dialing.unwrap_or(MOST_DIALING)
    }

    /// When a server counts as unreachable; `None` is never.
    pub(crate) fn breaker(&self) -> Option<Breaker> {
        match (self.breaker, self.on_dial_failure) {
            (BreakerChoice::On(breaker), _) => Some(breaker),
            (BreakerChoice::Off, _) | (BreakerChoice::ByDefault, OnDialFailure::Retry(_)) => None,
            (BreakerChoice::ByDefault, _) => Some(Breaker::default()),
        }
    }

    /// The fewest idle connections to keep.
    pub(crate) fn min_idle(&self) -> u32 {
        self.min_idle.min(self.max_idle())
    }

    /// The same, with each bound that another has made smaller as small as it is then.
    pub(crate) fn in_force(&self) -> Self {
        Self {
            max_idle: self.max_idle.map(|_| self.max_idle()),
            max_dialing: self.max_dialing.map(|most| most.min(self.max_open)),
            min_idle: self.min_idle(),
            ..*self
        }
    }
}

/// A span in nanoseconds, at most `u64::MAX`, which is 584 years.
pub(crate) fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// A moment that no pool lives to see, for interfaces that need a deadline.
pub(crate) fn far_future(now: Moment) -> Moment {
    // Thirty years: small enough for every platform's clock.
    now.after(Duration::from_secs(30 * 365 * 24 * 60 * 60)).unwrap_or(now)
}

/// Why [`build`](crate::Settings::build), [`apply`](crate::Settings::apply),
/// [`Pool::resize`](crate::Pool::resize) or `Config::from_env` refused the settings.
///
/// # Examples
///
/// ```
/// # let dialer = latebind::net::TcpDialer::new("localhost", 80);
/// let refused = latebind::Pool::builder(dialer).max_open(5).max_idle(8).build();
/// assert_eq!(refused.unwrap_err().to_string(), "max_idle (8) exceeds max_open (5)");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// One setting exceeds another that bounds it.
    #[error("{setting} ({value}) exceeds {bound} ({limit})")]
    Contradiction {
        /// The setting that is too large.
        setting: &'static str,
        /// Its value.
        value: u32,
        /// The setting that it exceeds.
        bound: &'static str,
        /// The value of `bound`.
        limit: u32,
    },
    /// A variable of the environment does not hold what its setting can be.
    #[cfg(feature = "serde")]
    #[error("{variable} is {value:?}: {why}")]
    Variable {
        /// The name of the variable.
        variable: String,
        /// The text that it holds.
        value: String,
        /// The values that its setting can have.
        why: String,
    },
    /// The quota bounds another pool, which is not closed or has a connection left. Or the quota is of the
    /// process that this one was forked from.
    #[error("the quota bounds another pool: each pool needs one of its own")]
    QuotaInUse,
    /// A setting is below its bound.
    #[error("{setting} is {value}; it must be at least {least}")]
    TooSmall {
        /// The setting.
        setting: &'static str,
        /// Its value.
        value: u32,
        /// The least that it may be.
        least: u32,
    },
    /// A time limit is zero, which nothing could keep.
    #[error("{setting} is 0 s; it must be longer (Duration::MAX means no limit)")]
    ZeroTimeout {
        /// The setting.
        setting: &'static str,
    },
}
