//! `Hosts`: several hosts, one of which serves each dial.

use std::error::Error;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Stored, prepared};
use crate::abort::AbortHandle;
use crate::dial_context::DialContext;
use crate::dialer::{Blocking, Dialer};
use crate::report::error::OneLine;

/// Dials one of several hosts, each by a dialer of its own.
///
/// A dial tries the hosts one after the other, in the [`order`](Self::order) that is wanted, until one
/// serves. A host that has failed is tried after the others for [`retry_after`](Self::retry_after), so
/// that only the first dials pay for one that is dead; while all are down, each dial tries all of them.
/// One dial at a time finds out whether a host is back.
///
/// The hosts share the time until the deadline: each has an equal part of it, and
/// [`host_timeout`](Self::host_timeout) at most while others are left. A host whose dialer overruns its
/// part counts as down from then on, so that the next dial begins with another.
///
/// [`require`](Self::require) says which hosts will do, by a look at the connection: those that allow
/// writes, say. It is asked at each dial and at each check.
///
/// A guard is a [`Stored`], which dereferences to the connection and tells its
/// [host](Host::name). Each connection is checked, reset and closed by the dialer that opened it. It
/// stays where it is when a host that is preferred comes back, until `max_lifetime`;
/// [`Pool::retire_where`](crate::Pool::retire_where) moves connections sooner.
///
/// # Examples
///
/// ```no_run
/// # #[cfg(feature = "postgres")]
/// # {
/// use latebind::Pool;
/// use latebind::dialers::Hosts;
/// use latebind::drivers::PostgresDialer;
/// use postgres::NoTls;
///
/// let dialer = |name: &str| {
///     let config = format!("host={name} user=app").parse()?;
///     Ok::<_, postgres::Error>((name.to_owned(), PostgresDialer::new(config, NoTls)))
/// };
/// let primary = Hosts::new([dialer("db1.example")?, dialer("db2.example")?])
///     .require(|client| Ok(client.query_one("SELECT NOT pg_is_in_recovery()", &[])?.get(0)));
/// let pool = Pool::new(primary);
///
/// let mut client = pool.get()?;
/// println!("served by {}", client.stored().name());
/// client.batch_execute("INSERT INTO visit DEFAULT VALUES")?;
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Hosts<D: Dialer> {
    hosts: Vec<Host<D>>,
    order: HostOrder,
    suits: Option<Box<Suits<D>>>,
    retry_after: Duration,
    host_timeout: Duration,
    /// Dials begun in `HostOrder::RoundRobin`, by which hosts take turns.
    dials: AtomicUsize,
}

type Suits<D> =
    dyn Fn(&mut <D as Dialer>::Connection) -> Result<bool, <D as Dialer>::Error> + Send + Sync;

/// In which order a dial tries the hosts.
///
/// # Examples
///
/// ```
/// use latebind::dialers::{HostOrder, Hosts};
/// use latebind::net::TcpDialer;
///
/// let replicas = ["cache1.example", "cache2.example"];
/// let dialer = Hosts::new(replicas.map(|name| (name, TcpDialer::new(name, 6379))))
///     .order(HostOrder::Random);
/// # drop(dialer);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostOrder {
    /// As they were given, the preferred one first. The default.
    #[default]
    InOrder,
    /// Each dial draws an order of its own, so that several programs spread over the hosts.
    Random,
    /// Each dial begins one host further than the one before.
    RoundRobin,
}

impl<D: Dialer> Hosts<D> {
    /// Dials these hosts, each of which has a name, for errors and logs, and a dialer.
    ///
    /// Without any host each dial fails with [`HostsError::NoHosts`].
    ///
    /// # Examples
    ///
    /// See [`Hosts`].
    #[must_use]
    pub fn new<N: Into<Arc<str>>>(hosts: impl IntoIterator<Item = (N, D)>) -> Self {
        let hosts = hosts.into_iter().map(|(name, dialer)| {
            Host(Arc::new(HostState { name: name.into(), dialer, memory: Mutex::default() }))
        });
        Self {
            hosts: hosts.collect(),
            order: HostOrder::default(),
            suits: None,
            retry_after: Duration::from_secs(10),
            host_timeout: Duration::from_secs(5),
            dials: AtomicUsize::new(0),
        }
    }

    /// In which order a dial tries the hosts that are not known to be down.
    ///
    /// Defaults to [`HostOrder::InOrder`].
    ///
    /// # Examples
    ///
    /// See [`HostOrder`].
    #[must_use]
    pub fn order(mut self, order: HostOrder) -> Self {
        self.order = order;
        self
    }

    /// Accepts a host only if `suits` says so of its connection.
    ///
    /// Asked after each dial, as a part of it, and after each check that succeeds. It may ask the
    /// peer. `Ok(false)` closes the connection, and the dial goes on to the next host; a connection in
    /// the pool is retired. The host is then tried after the others for as long as one that is down.
    /// An error counts as the dial's or the check's own. Defaults to none: every host will do.
    ///
    /// # Examples
    ///
    /// See [`Hosts`].
    #[must_use]
    pub fn require(
        mut self,
        suits: impl Fn(&mut D::Connection) -> Result<bool, D::Error> + Send + Sync + 'static,
    ) -> Self {
        self.suits = Some(Box::new(suits));
        self
    }

    /// How long a host that failed is tried only after the others.
    ///
    /// Defaults to 10 s, as with the drivers of PostgreSQL for Java and .NET. A host that refuses
    /// because it is at its limit is not down.
    #[must_use]
    pub fn retry_after(mut self, retry_after: Duration) -> Self {
        self.retry_after = retry_after;
        self
    }

    /// How long a dial stays with a host while there are others left to try.
    ///
    /// Its equal share of the deadline, if that is shorter. Defaults to 5 s, in which a connect by TCP
    /// is repeated twice.
    #[must_use]
    pub fn host_timeout(mut self, host_timeout: Duration) -> Self {
        self.host_timeout = host_timeout;
        self
    }

    /// The hosts as a dial that begins now tries them: those that are down come last.
    fn in_turn(&self, now: Instant) -> Vec<&Host<D>> {
        let mut hosts: Vec<_> = self.hosts.iter().collect();
        match self.order {
            HostOrder::InOrder => {}
            HostOrder::Random => {
                let random = RandomState::new();
                hosts.sort_by_cached_key(|host| random.hash_one(Arc::as_ptr(&host.0).addr()));
            }
            HostOrder::RoundRobin => {
                let turn = self.dials.fetch_add(1, Relaxed);
                hosts.rotate_left(turn % self.hosts.len().max(1));
            }
        }
        hosts.sort_by_cached_key(|host| host.lock().is_down(now));
        hosts
    }

    /// The deadline of the next of `left` hosts: an equal share of the time until `deadline`, at most
    /// `host_timeout` while others are left.
    fn host_deadline(&self, now: Instant, deadline: Instant, left: usize) -> Instant {
        let all = deadline.saturating_duration_since(now);
        let share = all / u32::try_from(left).unwrap_or(u32::MAX);
        if left > 1 { now + share.min(self.host_timeout) } else { deadline }
    }

    /// Dials one host.
    fn dial_host(
        &self,
        host: &Host<D>,
        context: &DialContext<'_>,
    ) -> Result<D::Connection, HostFailure<D::Error>> {
        let has_time = !context.remaining().is_zero();
        let mut trial = Trial::begin(host, context.deadline(), self.retry_after);
        let dialer = &host.0.dialer;
        let outcome = dialer.dial(context).map_err(HostFailure::Dialer).and_then(|connection| {
            prepared(dialer, connection, |connection| match &self.suits {
                Some(suits) if !suits(connection).map_err(HostFailure::Dialer)? => {
                    Err(HostFailure::Unsuitable)
                }
                _ => Ok(()),
            })
        });
        trial.is_down = match &outcome {
            Ok(_) => Some(false),
            Err(HostFailure::Unsuitable) => Some(true),
            // It says nothing of the host.
            Err(HostFailure::Dialer(_)) if !has_time || context.is_cancelled() => None,
            Err(HostFailure::Dialer(error)) => Some(!dialer.is_at_limit(error)),
        };
        outcome
    }
}

/// One of the [`Hosts`]: it is stored beside each connection to it.
///
/// # Examples
///
/// See [`Hosts`].
pub struct Host<D>(Arc<HostState<D>>);

struct HostState<D> {
    name: Arc<str>,
    dialer: D,
    memory: Mutex<Memory>,
}

/// The dialer's memory of a host.
#[derive(Default)]
struct Memory {
    /// It has failed, and is tried last until then.
    down_until: Option<Instant>,
    /// When each dial that is under way should have ended.
    due: Vec<Instant>,
}

impl Memory {
    fn is_down(&self, now: Instant) -> bool {
        // A dial that is under way to a host that was down finds out for all others.
        let is_down = |until| now < until || !self.due.is_empty();
        self.down_until.is_some_and(is_down) || self.due.iter().any(|due| *due <= now)
    }
}

impl<D> Host<D> {
    /// The name that it was given.
    ///
    /// # Examples
    ///
    /// See [`Hosts`].
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.0.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error<E: Error>(&self, source: E) -> HostsError<E> {
        HostsError::Host { host: Arc::clone(&self.0.name), source }
    }

    fn note_down(&self, retry_after: Duration) {
        self.lock().down_until = Some(from_now(retry_after));
    }
}

impl<D> Clone for Host<D> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<D> fmt::Debug for Host<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Host").field(&self.0.name).finish()
    }
}

/// The most that `retry_after` counts for: an `Instant` overflows beyond it.
const AN_AGE: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

fn from_now(span: Duration) -> Instant {
    Instant::now() + span.min(AN_AGE)
}

/// A dial of one host, from its begin to its end. A panic counts as a failure.
struct Trial<'a, D> {
    host: &'a Host<D>,
    due: Instant,
    retry_after: Duration,
    is_down: Option<bool>,
}

impl<'a, D> Trial<'a, D> {
    fn begin(host: &'a Host<D>, due: Instant, retry_after: Duration) -> Self {
        host.lock().due.push(due);
        Self { host, due, retry_after, is_down: Some(true) }
    }
}

impl<D> Drop for Trial<'_, D> {
    fn drop(&mut self) {
        let mut memory = self.host.lock();
        if let Some(own) = memory.due.iter().position(|due| *due == self.due) {
            memory.due.swap_remove(own);
        }
        if let Some(is_down) = self.is_down {
            memory.down_until = is_down.then(|| from_now(self.retry_after));
        }
    }
}

impl<D: Dialer> fmt::Debug for Hosts<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hosts")
            .field("hosts", &self.hosts)
            .field("order", &self.order)
            .field("retry_after", &self.retry_after)
            .field("host_timeout", &self.host_timeout)
            .finish_non_exhaustive()
    }
}

impl<D: Dialer> Dialer for Hosts<D> {
    type Connection = Stored<D::Connection, Host<D>>;
    type Error = HostsError<D::Error>;

    fn dial(&self, context: &DialContext<'_>) -> Result<Self::Connection, Self::Error> {
        let hosts = self.in_turn(Instant::now());
        let mut tried: Vec<HostAttempt<D::Error>> = Vec::new();
        for (index, host) in hosts.iter().enumerate() {
            let begin = Instant::now();
            // The first host is tried even so: its dial may say itself that there is no time.
            if index > 0 && (begin >= context.deadline() || context.is_cancelled()) {
                break;
            }
            let until = self.host_deadline(begin, context.deadline(), hosts.len() - index);
            let failure = match self.dial_host(host, &context.sooner(until)) {
                Ok(connection) => return Ok(Stored::new(connection, Host::clone(host))),
                Err(failure) => failure,
            };
            let says = |says: fn(&D, &D::Error) -> bool| match &failure {
                HostFailure::Dialer(error) => says(&host.0.dialer, error),
                HostFailure::Unsuitable => false,
            };
            tried.push(HostAttempt {
                is_permanent: says(D::is_permanent),
                is_at_limit: says(D::is_at_limit),
                host: Arc::clone(&host.0.name),
                took: begin.elapsed(),
                failure,
            });
        }
        if hosts.is_empty() {
            return Err(HostsError::NoHosts);
        }
        let untried = hosts[tried.len()..].iter().map(|host| Arc::clone(&host.0.name)).collect();
        Err(HostsError::Unreachable { tried, untried })
    }

    /// Whether all hosts have failed so that trying again cannot help.
    fn is_permanent(&self, error: &Self::Error) -> bool {
        match error {
            HostsError::NoHosts => true,
            HostsError::Unreachable { tried, untried } => {
                untried.is_empty() && tried.iter().all(|attempt| attempt.is_permanent)
            }
            _ => false,
        }
    }

    /// Whether one of the hosts has as many connections as it allows.
    fn is_at_limit(&self, error: &Self::Error) -> bool {
        matches!(error, HostsError::Unreachable { tried, .. }
            if tried.iter().any(|attempt| attempt.is_at_limit))
    }

    fn is_broken(&self, connection: &mut Self::Connection) -> bool {
        let (connection, host) = connection.split();
        host.0.dialer.is_broken(connection)
    }

    fn check(
        &self,
        connection: &mut Self::Connection,
        deadline: Instant,
    ) -> Result<(), Self::Error> {
        let (connection, host) = connection.split();
        host.0.dialer.check(connection, deadline).map_err(|error| host.error(error))?;
        if let Some(suits) = &self.suits {
            if !suits(connection).map_err(|error| host.error(error))? {
                host.note_down(self.retry_after);
                return Err(HostsError::Unsuitable { host: Arc::clone(&host.0.name) });
            }
        }
        Ok(())
    }

    fn needs_reset(&self, connection: &mut Self::Connection) -> bool {
        let (connection, host) = connection.split();
        host.0.dialer.needs_reset(connection)
    }

    fn reset(&self, connection: &mut Self::Connection) -> Result<(), Self::Error> {
        let (connection, host) = connection.split();
        host.0.dialer.reset(connection).map_err(|error| host.error(error))
    }

    /// Whether the reset of any host's connections wipes them. Then all that is stored beside connections
    /// may be out of date after a reset.
    fn reset_wipes(&self) -> bool {
        self.hosts.iter().any(|host| host.0.dialer.reset_wipes())
    }

    fn must_not_wait(&self) -> bool {
        self.hosts.iter().any(|host| host.0.dialer.must_not_wait())
    }

    fn close(&self, connection: Self::Connection) {
        let (connection, host) = connection.into_parts();
        host.0.dialer.close(connection);
    }

    fn abort_handle(&self, connection: &Self::Connection) -> Option<AbortHandle> {
        connection.stored().0.dialer.abort_handle(connection)
    }

    /// A method blocks if it does with any of the hosts. With [`require`](Self::require) the check always
    /// blocks.
    fn blocking(&self) -> Blocking {
        let none = Blocking::default().check(self.suits.is_some()).reset(false).close(false);
        self.hosts.iter().map(|host| host.0.dialer.blocking()).fold(none, |all, one| {
            all.check(all.check || one.check)
                .reset(all.reset || one.reset)
                .close(all.close || one.close)
        })
    }
}

/// Why a dial, a check or a reset of [`Hosts`] fails. Its text has each host with its reason.
///
/// # Examples
///
/// ```
/// use std::io;
/// use std::time::{Duration, Instant};
/// use latebind::{DialContext, Dialer};
/// use latebind::dialers::{Hosts, HostsError, dialer_fn};
///
/// let dead = || dialer_fn(|_| Err::<(), _>(io::Error::from(io::ErrorKind::ConnectionRefused)));
/// let dialer = Hosts::new([("db1", dead()), ("db2", dead())]);
/// let context = DialContext::until(Instant::now() + Duration::from_secs(5));
/// let error = dialer.dial(&context).unwrap_err();
/// let text = error.to_string();
/// assert!(text.contains("db1: connection refused") && text.contains("db2: "), "{text}");
/// let HostsError::Unreachable { tried, .. } = error else { panic!("{error}") };
/// assert_eq!(&*tried[1].host, "db2");
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostsError<E: Error + 'static> {
    /// A connection failed its check or its reset.
    #[error("{host}")]
    Host {
        /// The name of its host.
        host: Arc<str>,
        /// The error of the dialer that opened it.
        source: E,
    },
    /// There is no host to dial.
    #[error("there is no host to dial")]
    NoHosts,
    /// No host could be dialed.
    #[error("no host could be dialed: {}", list(tried, untried))]
    Unreachable {
        /// The hosts that were tried, in that order.
        tried: Vec<HostAttempt<E>>,
        /// The names of those whose turn had not come at the deadline, or when the dial was cancelled.
        untried: Vec<Arc<str>>,
    },
    /// A connection is to a host that is no longer of the kind that is [required](Hosts::require).
    #[error("{host} no longer suits")]
    Unsuitable {
        /// The name of its host.
        host: Arc<str>,
    },
}

/// A failed dial to one host.
///
/// # Examples
///
/// See [`HostsError`].
#[derive(Debug)]
#[non_exhaustive]
pub struct HostAttempt<E> {
    /// The name of the host.
    pub host: Arc<str>,
    /// How long the dial lasted.
    pub took: Duration,
    /// Why it failed.
    pub failure: HostFailure<E>,
    is_permanent: bool,
    is_at_limit: bool,
}

/// Why a host was of no use to a dial.
///
/// # Examples
///
/// See [`HostsError`].
#[derive(Debug)]
#[non_exhaustive]
pub enum HostFailure<E> {
    /// It could not be dialed, or asked whether it suits.
    Dialer(E),
    /// It is not of the kind that is [required](Hosts::require).
    Unsuitable,
}

impl<E: Error + 'static> fmt::Display for HostAttempt<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, took, failure, .. } = self;
        match failure {
            HostFailure::Dialer(error) => write!(f, "{host}: {}", OneLine(error))?,
            HostFailure::Unsuitable => write!(f, "{host}: does not suit")?,
        }
        write!(f, " (after {took:.1?})")
    }
}

fn list<E: Error + 'static>(tried: &[HostAttempt<E>], untried: &[Arc<str>]) -> String {
    let mut list: Vec<_> = tried.iter().map(HostAttempt::to_string).collect();
    if !untried.is_empty() {
        list.push(format!("not tried: {}", untried.join(", ")));
    }
    list.join("; ")
}
