//! `KeyedPool`: a pool for each key, and bounds for all of them together.

mod at_hand;
mod checkout;
mod directory;

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::config::{Config, ConfigError};
use crate::dialer::Dialer;
use crate::guard::Guard;
use crate::ledger::Entry;
use crate::ledger::stats::Stats;
use crate::pool::{Drained, Pool};
use crate::report::error::GetError;
use crate::report::event::Event;
use crate::report::holder::{Holder, Holders};
use crate::report::reporter::Reporter;
use crate::runtime::sync::{catch, now};
use crate::runtime::workers::Crew;
use crate::shell::{Exchange, OnVacant};

use self::directory::{Directory, IsClosed, Record};

pub use self::checkout::KeyedCheckout;

/// Connections to many servers: a [`Pool`] for each key, under bounds that hold for all of them.
///
/// A key says how to connect: for an HTTP client, for example, scheme, host, port, proxy and TLS
/// name. Connections that differ in any of these need different keys, because callers with equal
/// keys share connections. Its `Hash`, `Eq`, `Clone` and `Drop` run under no lock of the pool: they
/// may use the pool. If one panics, so does the call that was made with the key, and the pool loses
/// nothing.
///
/// A handle: cheap to clone, and all clones are the same pool. When the last one is dropped the
/// pool is [closed](Self::close).
///
/// # How callers are served
///
/// Within a key, as in a [`Pool`], a caller takes whichever comes first, a returned connection or a
/// new one. A key that is at its own limit delays no caller of another.
///
/// Among keys, a slot of the [total](crate::Settings::max_open_total) that becomes free goes to the
/// caller or [warm-up](Self::warm_up) that has waited longest for one, of any key. While one waits
/// for a slot, a connection is closed to make room: the one that has been idle longest in all keys,
/// or, if none is idle, the first to be returned for which no caller of its own key waits. It is
/// closed before the dial into its slot begins.
///
/// A busy key keeps returned connections for its own callers, because handing one to another key
/// costs a dial, but not for long. A caller of another key that has waited for 2 ms, or for five
/// times as long as the busy key's own callers wait in strict order if that is more, up to 10 ms,
/// is passed by no caller that has waited less. Then the first connection to be returned, of any
/// key, is closed for it.
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

/// The settings of a keyed pool.
pub(crate) struct KeyedConfig {
    /// The settings of each key.
    pub(crate) each: Config,
    pub(crate) max_open_total: u32,
    /// `None`: as many as `max_open_total`.
    pub(crate) max_idle_total: Option<u32>,
}

impl KeyedConfig {
    /// Returns the settings if they fit together.
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

/// The state that the clones of a keyed pool share.
struct Shared<K: Send + Sync, D: Dialer> {
    directory: Directory<K, D>,
    exchange: Arc<Exchange<D>>,
    dialer_for: DialerFor<K, D>,
    /// The settings of each key.
    config: Config,
    reporter: Reporter<D::Error>,
}

impl<K: Send + Sync, D: Dialer> Shared<K, D> {
    fn close(&self) {
        if self.exchange.is_inherited() {
            return;
        }
        // In this order: a caller that a key's pool turns away must find the directory closed.
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

/// A connection on its way to a guard, with its key's record.
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
        // If another thread was first, this thread's record is dropped here, under no lock.
        directory.enter(&record).map_err(|IsClosed| self.turned_away(GetError::Closed))
    }

    /// Reports and counts that a caller gets no connection, for a key that has no pool to do so.
    #[cold]
    fn turned_away(&self, error: GetError<D::Error>) -> GetError<D::Error> {
        self.shared.exchange.note_turned_away();
        if let Some(observer) = self.shared.reporter.observer() {
            let waited = Duration::ZERO;
            catch(|| observer(&Event::TurnedAway { error: &error, waited }));
        }
        error
    }

    /// Makes the function that removes a key's record when its pool has no connection and no caller
    /// left.
    fn on_vacant(&self, hash: u64) -> OnVacant<D> {
        let shared = Arc::downgrade(&self.shared);
        Box::new(move |shell| {
            if let Some(shared) = Weak::upgrade(&shared).filter(|_| shell.close_if_vacant()) {
                shared.directory.strike_shell(hash, shell);
            }
        })
    }

    /// The error for a caller that does not wait, for a key without a pool.
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
    /// `get_timeout`: see [`Pool::warm_up`]. Until it returns, its idle connections make no room
    /// for a caller of another key that has waited less.
    ///
    /// # Errors
    ///
    /// The errors of [`get`](Self::get). Connections opened before the error stay open.
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

    /// The numbers of all keys together.
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

    /// The numbers of that key's pool: the connections that it holds now, and totals since it was
    /// made; `None` if the key has no pool.
    #[must_use]
    pub fn stats_of(&self, key: &K) -> Option<Stats> {
        Some(self.shared.directory.look_up(key)?.pool.stats())
    }

    /// The numbers of each key that has a pool now, in no particular order. Takes time proportional
    /// to the number of keys.
    #[must_use]
    pub fn stats_of_all(&self) -> Vec<(K, Stats)> {
        let all = self.shared.directory.all();
        all.iter().map(|record| (record.key.clone(), record.pool.stats())).collect()
    }

    /// The holders of connections now, with the key of each. Takes time proportional to the number
    /// of keys.
    #[must_use]
    pub fn holders(&self) -> Vec<(K, Holder)> {
        let all = self.shared.directory.all();
        let holders = |record: &Arc<Record<K, D>>| {
            let key = record.key.clone();
            record.pool.holders().into_iter().map(move |holder| (key.clone(), holder))
        };
        all.iter().flat_map(holders).collect()
    }

    /// Stops lending every connection of that key that was opened, or whose dial was begun, before
    /// this call. Idle connections are closed now, those in use when they are returned.
    pub fn flush_key(&self, key: &K) {
        if let Some(record) = self.shared.directory.look_up(key) {
            record.pool.flush();
        }
    }

    /// [Flushes](Self::flush_key) every key. Takes time proportional to the number of keys.
    pub fn flush(&self) {
        for record in self.shared.directory.all() {
            record.pool.flush();
        }
    }

    /// Sets the most connections of all keys together, from now on.
    ///
    /// Beyond a lowered bound, idle connections are closed at once, longest idle first, and others
    /// when they are returned: until then more may be open.
    ///
    /// # Errors
    ///
    /// [`ConfigError::TooSmall`] if `max_open_total` is 0. Then nothing is changed.
    pub fn resize_total(&self, max_open_total: u32) -> Result<(), ConfigError> {
        if max_open_total == 0 {
            let setting = "max_open_total";
            return Err(ConfigError::TooSmall { setting, value: max_open_total, least: 1 });
        }
        self.shared.exchange.resize(max_open_total);
        Ok(())
    }

    /// Closes the pools of all keys: they lend nothing from now on. See [`Pool::close`].
    pub fn close(&self) {
        self.shared.close();
    }

    /// [Closes](Self::close) the pool, and waits until no key has an open connection or `deadline`
    /// has come. See [`Pool::drain`].
    pub fn drain(&self, deadline: Instant) -> Drained {
        self.close();
        let drained = self.shared.directory.all().into_iter().map(|r| r.pool.drain(deadline));
        drained.reduce(Drained::and).unwrap_or_default()
    }

    /// [Closes](Self::close) the pool, and aborts the connections in use of all keys, as far as
    /// their dialers gave handles. Returns how many it aborted. See [`Pool::abort`].
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

/// The numbers of all keys of a [`KeyedPool`] together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyedStats {
    /// Keys that have a pool. The others have no connection and no caller.
    pub keys: usize,
    /// Connections of all keys: idle, in use, being dialed and being closed.
    pub open: u32,
    /// The most connections that may be open.
    pub max_open: u32,
    /// Keys that want to dial and wait for a slot.
    pub stalled: usize,
    /// Connections closed to make room for other keys.
    pub evicted_total: u64,
    /// Callers that got no connection, of any key and for any reason, and warm-ups that did not
    /// complete.
    ///
    /// The reasons are counted in the [`Stats`] of each key's pool, which are dropped with that
    /// pool. A caller whose key had no pool is counted only here (`try_get` of a key without
    /// connections, a token that was cancelled before the call, any call after
    /// [`close`](KeyedPool::close)).
    pub turned_away_total: u64,
}

/// A borrowed connection of a [`KeyedPool`], for as long as the borrow of its pool lasts.
///
/// See [`Guard`] for what can be done with it.
pub type KeyedConnection<'p, K, D> = Guard<D, Lease<K, D, &'p KeyedPool<K, D>>>;

/// A borrowed connection of a [`KeyedPool`] that keeps its pool alive, and so borrows nothing.
///
/// See [`Guard`] for what can be done with it.
pub type OwnedKeyedConnection<K, D> = Guard<D, Lease<K, D, KeyedPool<K, D>>>;

/// The key's pool to which a guard's connection belongs.
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
