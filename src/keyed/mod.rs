//! `KeyedPool`: a pool for each key, and bounds for all of them together.

mod at_hand;
mod checkout;
mod directory;

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::panic::Location;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::config::{Config, ConfigError};
use crate::dialer::Dialer;
use crate::error::GetError;
use crate::event::Event;
use crate::guard::Guard;
use crate::holder::{Holder, Holders, Site};
use crate::ledger::Entry;
use crate::pool::{Drained, Pool};
use crate::reporter::Reporter;
use crate::shell::{Exchange, OnVacant, Terms};
use crate::stats::Stats;
use crate::sync::{catch, now};
use crate::workers::Crew;

use self::directory::{Directory, IsClosed, Record};

pub use self::checkout::KeyedCheckout;

/// Connections to many servers: a [`Pool`] for each key, under bounds that hold for all of them.
///
/// A key says how to connect: of an HTTP client, say, scheme, host, port, proxy and TLS name. What
/// differs in any of them must differ as a key, since two callers with equal keys share connections.
/// Its `Hash`, `Eq`, `Clone` and `Drop` run under no lock of the pool: they may use the pool, and where
/// one panics, so does the call that was made with the key, and nothing is lost by it.
///
/// A handle: cheap to clone, and all clones are the same pool. When the last one is dropped the
/// pool is [closed](Self::close).
///
/// # How callers are served
///
/// Within a key, as in a [`Pool`]: a caller takes whichever comes first, a returned connection or
/// any new one. A key that is at its own limit holds up nobody of another.
///
/// Among keys, a slot of the [total](crate::Settings::max_open_total) that comes free goes to the
/// caller or the [warm-up](Self::warm_up) that has waited longest for one, of whatever key. While
/// somebody waits so, the connection that has rested longest in all keys is closed to make room, and
/// if none rests, the first that comes back and that nobody of its own key waits for. It is closed
/// before its slot is dialed into.
///
/// A busy key keeps what comes back to it for its own callers, since to hand it on costs a dial, but
/// not for long: who has waited for 2 ms, or for five times as long as the busy key's own callers do
/// in strict order if that is more, up to 10 ms, is passed by nobody who has waited less. Then the
/// first connection that comes back is closed for him, whosever it was.
///
/// A key costs nothing before its first use, and nothing again once its last connection is closed.
/// Every operation takes O(log n) in keys and connections, and all keys share their threads.
///
/// # Examples
///
/// ```
/// use latebind::{KeyedPool, net::TcpDialer};
/// use std::net::SocketAddr;
///
/// # let (one, other) = (latebind::net::listen_tcp("127.0.0.1:0")?, latebind::net::listen_tcp("127.0.0.1:0")?);
/// # let (one, other) = (one.local_addr()?, other.local_addr()?);
/// let pool = KeyedPool::builder(|address: &SocketAddr| TcpDialer::from(*address))
///     .max_open(6) // for each address
///     .max_open_total(100)
///     .build()?;
/// let connection = pool.get(&one)?;
/// assert_eq!(connection.peer_addr()?, one);
/// assert_eq!(pool.get(&other)?.peer_addr()?, other);
/// assert_eq!(pool.stats().open, 2);
/// # drop(connection);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct KeyedPool<K: Send + Sync + 'static, D: Dialer> {
    shared: Arc<Shared<K, D>>,
}

/// Makes the dialer of a key.
pub(crate) type DialerFor<K, D> = Arc<dyn Fn(&K) -> D + Send + Sync>;

/// What a keyed pool is opened with.
pub(crate) struct KeyedConfig {
    /// Of each key.
    pub(crate) each: Config,
    pub(crate) max_open_total: u32,
    /// `None`: as many as `max_open_total`.
    pub(crate) max_idle_total: Option<u32>,
}

impl KeyedConfig {
    /// The same, if its parts fit together.
    pub(crate) fn check(self) -> Result<Self, ConfigError> {
        let Self { each, max_open_total, max_idle_total } = self;
        if max_open_total == 0 {
            let setting = "max_open_total";
            return Err(ConfigError::TooSmall { setting, value: max_open_total, least: 1 });
        }
        for (setting, value, bound, limit) in [
            ("max_idle_total", max_idle_total.unwrap_or(0), "max_open_total", max_open_total),
            ("min_idle", each.min_idle, "what a keyed pool keeps", 0),
        ] {
            if value > limit {
                return Err(ConfigError::Contradiction { setting, value, bound, limit });
            }
        }
        Ok(self)
    }
}

/// What the clones of a keyed pool share.
struct Shared<K: Send + Sync, D: Dialer> {
    directory: Directory<K, D>,
    exchange: Arc<Exchange<D>>,
    dialer_for: DialerFor<K, D>,
    /// Of each key.
    config: Config,
    reporter: Reporter<D::Error>,
}

impl<K: Send + Sync, D: Dialer> Shared<K, D> {
    fn close(&self) {
        if self.exchange.is_inherited() {
            return;
        }
        // In this order: who is turned away by a key's pool must find all of them closed.
        self.directory.close();
        self.exchange.close();
        for record in self.directory.all() {
            record.pool.close();
        }
        self.exchange.dismiss();
    }
}

impl<K: Send + Sync, D: Dialer> Drop for Shared<K, D> {
    fn drop(&mut self) {
        self.close();
    }
}

/// A connection on its way to a guard, with the pool of its key.
type Lent<K, D> = (Arc<Record<K, D>>, Entry<<D as Dialer>::Connection>);

impl<K, D> KeyedPool<K, D>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    D: Dialer,
{
    pub(crate) fn open(
        dialer_for: DialerFor<K, D>,
        config: &KeyedConfig,
        reporter: Reporter<D::Error>,
        crew: Arc<Crew>,
    ) -> Self {
        let max_idle = config.max_idle_total.filter(|most| *most < config.max_open_total);
        let exchange = Exchange::new(config.max_open_total, max_idle, crew);
        let config = config.each;
        let directory = Directory::new();
        Self { shared: Arc::new(Shared { directory, exchange, dialer_for, config, reporter }) }
    }

    /// Lends a connection of that key, waiting for at most `get_timeout` (30 s unless the
    /// [builder](crate::Settings::get_timeout) was told otherwise).
    ///
    /// # Errors
    ///
    /// [`GetError`] says why there was none, with the numbers of the key's pool at that moment.
    ///
    /// # Examples
    ///
    /// ```
    /// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// # let address = listener.local_addr()?;
    /// use latebind::{KeyedPool, net::TcpDialer};
    ///
    /// let pool = KeyedPool::new(|port: &u16| TcpDialer::new("localhost", *port));
    /// # let pool = KeyedPool::new(|port: &u16| TcpDialer::new("127.0.0.1", *port));
    /// # let port = address.port();
    /// let connection = pool.get(&port)?;
    /// println!("connected to {}", connection.peer_addr()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    #[track_caller]
    pub fn get(&self, key: &K) -> Result<KeyedConnection<'_, K, D>, GetError<D::Error>> {
        let lent = self.lend(key, Terms::at(Location::caller()));
        lent.map(|lent| Lease::guard(self, lent))
    }

    /// As [`get`](Self::get), waiting for at most `timeout`: in all, as of
    /// [`Pool::get_timeout`].
    ///
    /// # Errors
    ///
    /// As of [`get`](Self::get).
    #[inline]
    #[track_caller]
    pub fn get_timeout(
        &self,
        key: &K,
        timeout: Duration,
    ) -> Result<KeyedConnection<'_, K, D>, GetError<D::Error>> {
        let lent = self.lend(key, Terms::at(Location::caller()).timeout(timeout));
        lent.map(|lent| Lease::guard(self, lent))
    }

    /// As [`get`](Self::get), waiting until `deadline` at the latest.
    ///
    /// # Errors
    ///
    /// As of [`get`](Self::get).
    #[track_caller]
    pub fn get_deadline(
        &self,
        key: &K,
        deadline: Instant,
    ) -> Result<KeyedConnection<'_, K, D>, GetError<D::Error>> {
        let lent = self.lend(key, Terms::at(Location::caller()).deadline(deadline));
        lent.map(|lent| Lease::guard(self, lent))
    }

    /// Lends an idle connection of that key, if there is one and nobody waits for it. Does no I/O
    /// and does not wait: see [`Pool::try_get`].
    ///
    /// # Errors
    ///
    /// [`GetError::Exhausted`] or [`GetError::Closed`].
    #[track_caller]
    pub fn try_get(&self, key: &K) -> Result<KeyedConnection<'_, K, D>, GetError<D::Error>> {
        self.lend_idle(key, Location::caller()).map(|lent| Lease::guard(self, lent))
    }

    fn lend_idle(&self, key: &K, site: Site) -> Result<Lent<K, D>, GetError<D::Error>> {
        while let Some(record) = self.shared.directory.find(key) {
            let shell = record.pool.shell();
            let at_rest = shell.take_fresh(site).map(Ok);
            match at_rest.or_else(|| shell.try_get_of_key(site)) {
                Some(outcome) => return outcome.map(|entry| (record, entry)),
                None => self.shared.directory.strike(&record),
            }
        }
        Err(self.turned_away(self.nothing()))
    }

    /// As [`try_get`](Self::try_get), with a guard that borrows nothing.
    ///
    /// # Errors
    ///
    /// As [`try_get`](Self::try_get).
    #[track_caller]
    pub fn try_get_owned(&self, key: &K) -> Result<OwnedKeyedConnection<K, D>, GetError<D::Error>> {
        self.lend_idle(key, Location::caller()).map(|lent| Lease::guard(self.clone(), lent))
    }

    /// As [`get`](Self::get), with a guard that keeps a handle of the pool and so borrows nothing.
    ///
    /// It costs a reference count, which all threads of the pool share.
    ///
    /// # Errors
    ///
    /// As of [`get`](Self::get).
    #[track_caller]
    pub fn get_owned(&self, key: &K) -> Result<OwnedKeyedConnection<K, D>, GetError<D::Error>> {
        let lent = self.lend(key, Terms::at(Location::caller()));
        lent.map(|lent| Lease::guard(self.clone(), lent))
    }

    /// Does `work` with a connection of that key, lent as by [`get`](Self::get). A connection with
    /// which the work has failed is closed rather than given back: see [`Pool::with`].
    ///
    /// # Errors
    ///
    /// Those of `work`, and [`GetError`] as of `get`.
    #[track_caller]
    pub fn with<T, E: From<GetError<D::Error>>>(
        &self,
        key: &K,
        work: impl FnOnce(&mut D::Connection) -> Result<T, E>,
    ) -> Result<T, E> {
        Guard::with(self.get(key)?, work)
    }

    #[inline]
    fn lend(&self, key: &K, terms: Terms<'_>) -> Result<Lent<K, D>, GetError<D::Error>> {
        let found = self.shared.directory.find(key);
        // Otherwise the key's pool says that the checkout is cancelled, and counts it.
        if !terms.is_cancelled() {
            let entry = found.as_ref().and_then(|it| it.pool.shell().take_resting(terms.site));
            match (entry, found) {
                (Some(entry), Some(record)) => Ok((record, entry)),
                (_, found) => self.lend_slowly(found, key, terms),
            }
        } else if found.is_none() {
            Err(self.turned_away(GetError::Cancelled))
        } else {
            self.lend_slowly(found, key, terms)
        }
    }

    #[cold]
    fn lend_slowly(
        &self,
        mut found: Option<Arc<Record<K, D>>>,
        key: &K,
        terms: Terms<'_>,
    ) -> Result<Lent<K, D>, GetError<D::Error>> {
        let start = now();
        let deadline = terms.late_at(start, self.shared.config.get_timeout);
        loop {
            let record = match found.take() {
                Some(record) => record,
                None => self.record(key)?,
            };
            match record.pool.shell().get_of_key(start, deadline, terms.cancel, terms.site) {
                Some(outcome) => return outcome.map(|entry| (record, entry)),
                // There is a new one, or will be.
                None => self.shared.directory.strike(&record),
            }
        }
    }

    /// The record of a key, made if there is none.
    fn record(&self, key: &K) -> Result<Arc<Record<K, D>>, GetError<D::Error>> {
        if let Some(record) = self.shared.directory.find(key) {
            return Ok(record);
        }
        let Shared { directory, exchange, dialer_for, config, reporter } = &*self.shared;
        if directory.is_closed() {
            return Err(self.turned_away(GetError::Closed));
        }
        let (dialer, hash) = (dialer_for(key), directory.hash(key));
        let shell = exchange.admit(dialer, *config, reporter.clone(), self.on_vacant(hash));
        let record = Record::new(key.clone(), hash, Pool::of_key(shell));
        // If another thread was first, this one ends here, under no lock.
        directory.enter(&record).map_err(|IsClosed| self.turned_away(GetError::Closed))
    }

    /// Tells and counts that a caller is given nothing, of a key that has no pool to do so.
    #[cold]
    fn turned_away(&self, error: GetError<D::Error>) -> GetError<D::Error> {
        self.shared.exchange.note_turned_away();
        if let Some(observer) = self.shared.reporter.observer() {
            let waited = Duration::ZERO;
            catch(|| observer.observe(&Event::TurnedAway { error: &error, waited }));
        }
        error
    }

    /// Takes a key's record out when nothing is left of it.
    fn on_vacant(&self, hash: u64) -> OnVacant<D> {
        let shared = Arc::downgrade(&self.shared);
        Box::new(move |shell| {
            if let Some(shared) = Weak::upgrade(&shared).filter(|_| shell.close_if_vacant()) {
                shared.directory.strike_shell(hash, shell);
            }
        })
    }

    /// What a caller is told who would not wait, of a key of which there is nothing.
    fn nothing(&self) -> GetError<D::Error> {
        if self.shared.directory.is_closed() {
            return GetError::Closed;
        }
        GetError::Exhausted {
            pool: self.shared.reporter.name().cloned(),
            waited: Duration::ZERO,
            stats: Box::new(Stats { max_open: self.shared.config.max_open, ..Stats::default() }),
            holders: Box::new(Holders::new(Vec::new(), false)),
            failure: None,
        }
    }

    /// Opens connections of that key until `connections` are open, and waits for them for at most
    /// `get_timeout`: see [`Pool::warm_up`]. Until it returns, those at rest make room for nobody of
    /// another key who has waited less.
    ///
    /// # Errors
    ///
    /// As of [`get`](Self::get). Connections opened before the error stay open.
    pub fn warm_up(&self, key: &K, connections: u32) -> Result<(), GetError<D::Error>> {
        let deadline = now().after(self.shared.config.get_timeout);
        loop {
            let record = self.record(key)?;
            match record.pool.shell().warm_up(connections, deadline) {
                Some(outcome) => return outcome,
                None => self.shared.directory.strike(&record),
            }
        }
    }

    /// What all keys hold together.
    #[must_use]
    pub fn stats(&self) -> KeyedStats {
        let keys = self.shared.directory.len();
        self.shared.exchange.read(|budget| KeyedStats {
            keys,
            open: budget.taken(),
            max_open: budget.max_open(),
            stalled: budget.stalled(),
            evicted_total: budget.evicted_total(),
            turned_away_total: self.shared.exchange.turned_away_total(),
        })
    }

    /// What that key's pool holds now, and has done since it was made; `None` if there is none.
    #[must_use]
    pub fn stats_of(&self, key: &K) -> Option<Stats> {
        Some(self.shared.directory.look_up(key)?.pool.stats())
    }

    /// The numbers of each key that has a pool now, in no order. Takes time for each.
    #[must_use]
    pub fn stats_of_all(&self) -> Vec<(K, Stats)> {
        let all = self.shared.directory.all();
        all.iter().map(|record| (record.key.clone(), record.pool.stats())).collect()
    }

    /// Who has a connection now, and of which key. Takes time for each key.
    #[must_use]
    pub fn holders(&self) -> Vec<(K, Holder)> {
        let all = self.shared.directory.all();
        let holders = |record: &Arc<Record<K, D>>| {
            let key = record.key.clone();
            record.pool.holders().into_iter().map(move |holder| (key.clone(), holder))
        };
        all.iter().flat_map(holders).collect()
    }

    /// Lends no connection of that key again that was opened, or began to be dialed, before this
    /// call. Idle ones are closed now, those in use when they come back.
    pub fn flush_key(&self, key: &K) {
        if let Some(record) = self.shared.directory.look_up(key) {
            record.pool.flush();
        }
    }

    /// [Flushes](Self::flush_key) every key. Takes time for each.
    pub fn flush(&self) {
        for record in self.shared.directory.all() {
            record.pool.flush();
        }
    }

    /// Sets the most connections of all keys together, now and from now on.
    ///
    /// Beyond a lowered bound, idle connections are closed at once, coldest first, and others as they
    /// come back: until then more may be open.
    ///
    /// # Errors
    ///
    /// [`ConfigError::TooSmall`] if it is 0. Nothing is changed then.
    pub fn resize_total(&self, max_open_total: u32) -> Result<(), ConfigError> {
        if max_open_total == 0 {
            let setting = "max_open_total";
            return Err(ConfigError::TooSmall { setting, value: max_open_total, least: 1 });
        }
        self.shared.exchange.resize(max_open_total);
        Ok(())
    }

    /// Closes the pools of all keys: nothing is lent from now on. See [`Pool::close`].
    pub fn close(&self) {
        self.shared.close();
    }

    /// [Closes](Self::close) the pool, and waits until nothing of any key is open or `deadline` has
    /// come. See [`Pool::drain`].
    pub fn drain(&self, deadline: Instant) -> Drained {
        self.close();
        let drained = self.shared.directory.all().into_iter().map(|r| r.pool.drain(deadline));
        drained.reduce(Drained::and).unwrap_or_default()
    }

    /// [Closes](Self::close) the pool, and aborts the connections of all keys that are in use, as far
    /// as their dialers gave handles for them. Says how many it aborted. See [`Pool::abort`].
    pub fn abort(&self) -> u32 {
        self.close();
        self.shared.directory.all().iter().map(|record| record.pool.abort()).sum()
    }
}

impl<K: Send + Sync + 'static, D: Dialer> Clone for KeyedPool<K, D> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<K, D> fmt::Debug for KeyedPool<K, D>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    D: Dialer,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedPool").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// What a [`KeyedPool`] holds of all keys together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyedStats {
    /// Keys that have a pool: of the others there is nothing.
    pub keys: usize,
    /// Connections of all keys: idle, in use, being dialed and being closed.
    pub open: u32,
    /// The most that there may be.
    pub max_open: u32,
    /// Keys that want to dial and wait for a slot.
    pub stalled: usize,
    /// Connections closed to make room for other keys.
    pub evicted_total: u64,
    /// Callers who were given no connection, of whatever key and for whatever reason, and warm-ups that
    /// did not come to their end.
    ///
    /// Why, is counted in the [`Stats`] of each key's pool, which go with the pool: so a caller is
    /// counted here alone if there was none (`try_get` of a key without connections, a token that was
    /// cancelled before, any call after [`close`](KeyedPool::close)).
    pub turned_away_total: u64,
}

/// A borrowed connection of a [`KeyedPool`], for as long as the borrow of its pool lasts.
///
/// See [`Guard`] for what can be done with it.
pub type KeyedConnection<'p, K, D> = Guard<D, Lease<K, D, &'p KeyedPool<K, D>>>;

/// A borrowed connection of a [`KeyedPool`] that keeps its pool alive, and so may go anywhere.
///
/// See [`Guard`] for what can be done with it.
pub type OwnedKeyedConnection<K, D> = Guard<D, Lease<K, D, KeyedPool<K, D>>>;

/// Which key's pool the connection of a guard is of.
pub struct Lease<K: Send + Sync + 'static, D: Dialer, R: Borrow<KeyedPool<K, D>>> {
    keyed: R,
    /// `None` only while it is dropped.
    record: Option<Arc<Record<K, D>>>,
}

impl<K: Send + Sync + 'static, D: Dialer, R: Borrow<KeyedPool<K, D>>> Lease<K, D, R> {
    #[inline]
    fn guard(keyed: R, (record, entry): Lent<K, D>) -> Guard<D, Self> {
        Guard::new(Self { keyed, record: Some(record) }, entry)
    }
}

impl<K: Send + Sync + 'static, D: Dialer, R: Borrow<KeyedPool<K, D>>> Borrow<Pool<D>>
    for Lease<K, D, R>
{
    #[inline]
    fn borrow(&self) -> &Pool<D> {
        &self.record.as_ref().expect("a lease has its record until it is dropped").pool
    }
}

impl<K: Send + Sync + 'static, D: Dialer, R: Borrow<KeyedPool<K, D>>> Drop for Lease<K, D, R> {
    #[inline]
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            self.keyed.borrow().shared.directory.remember(record);
        }
    }
}

impl<K: Send + Sync + 'static, D: Dialer, R: Borrow<KeyedPool<K, D>>> fmt::Debug
    for Lease<K, D, R>
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").finish_non_exhaustive()
    }
}
