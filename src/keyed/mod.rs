//! `KeyedPool`: a pool for each key, and bounds for all of them together.

mod as_key;
mod at_hand;
mod checkout;
mod control;
mod directory;
mod numbers;

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::config::{Config, ConfigError};
use crate::dialer::Dialer;
use crate::guard::Guard;
use crate::ledger::Entry;
use crate::ledger::stats::Stats;
use crate::pool::Pool;
use crate::report::error::GetError;
use crate::report::event::Event;
use crate::report::holder::Holders;
use crate::report::reporter::Reporter;
use crate::runtime::sync::{Mutex, now};
use crate::runtime::workers::Crew;
use crate::shell::quota::Quota;
use crate::shell::{Group, OnVacant};

use self::directory::{Directory, IsClosed, KeyRecord};

pub use self::as_key::AsKey;
pub use self::checkout::KeyedCheckout;
pub use self::numbers::KeyedStats;

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
/// A key costs nothing before its first use, and nothing again once its last connection is closed: no
/// connection is dialed for a key that nobody asks for, except as
/// [`min_idle_for`](crate::Settings::min_idle_for) says.
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

/// The most connections of one key, where that is not the `max_open` of all.
pub(crate) type MaxOpenFor<K> = Arc<dyn Fn(&K) -> Option<NonZeroU32> + Send + Sync>;

/// The fewest idle connections to keep of a key.
pub(crate) type MinIdleFor<K> = Arc<dyn Fn(&K) -> u32 + Send + Sync>;

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
        Self::check_total(max_open_total)?;
        if let Some(value) = max_idle_total.filter(|most| *most > max_open_total) {
            let (setting, bound, limit) = ("max_idle_total", "max_open_total", max_open_total);
            return Err(ConfigError::Contradiction { setting, value, bound, limit });
        }
        Self::check_each(each)?;
        Ok(self)
    }

    pub(crate) fn check_total(max_open_total: u32) -> Result<(), ConfigError> {
        match max_open_total {
            0 => Err(ConfigError::TooSmall { setting: "max_open_total", value: 0, least: 1 }),
            _ => Ok(()),
        }
    }

    /// Returns the settings of each key if a keyed pool can keep them.
    pub(crate) fn check_each(each: Config) -> Result<Config, ConfigError> {
        match each.min_idle {
            0 => Ok(each),
            value => {
                let (setting, bound, limit) = ("min_idle", "what a keyed pool keeps", 0);
                Err(ConfigError::Contradiction { setting, value, bound, limit })
            }
        }
    }
}

/// The state that the clones of a keyed pool share.
struct Shared<K: Send + Sync, D: Dialer> {
    directory: Directory<K, D>,
    group: Arc<Group<D>>,
    dialer_for: DialerFor<K, D>,
    max_open_for: Option<MaxOpenFor<K>>,
    min_idle_for: Option<MinIdleFor<K>>,
    common: Mutex<Common>,
    reporter: Reporter<D::Error>,
}

/// The settings of all keys. A thread that changes them tells every pool in the directory; a thread that
/// enters a new pool there looks once more whether they have changed.
#[derive(Clone, Copy, Debug, Default)]
struct Common {
    config: Config,
    is_suspended: bool,
    /// How often it was changed.
    version: u64,
}

impl<K: Send + Sync, D: Dialer> Shared<K, D> {
    fn close(&self) {
        if self.group.is_inherited() {
            return;
        }
        // In this order: a caller that a key's pool turns away must find the directory closed.
        self.directory.close();
        self.group.close();
        // Those of keys that another thread is about to close are no longer in the directory.
        for shell in self.group.shells() {
            shell.close();
        }
        self.group.dismiss();
    }
}

impl<K: Send + Sync, D: Dialer> Drop for Shared<K, D> {
    fn drop(&mut self) {
        self.close();
    }
}

/// A connection on its way to a guard, with its key's record.
type Lent<K, D> = (Arc<KeyRecord<K, D>>, Entry<<D as Dialer>::Connection>);

impl<K, D> KeyedPool<K, D>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    D: Dialer,
{
    pub(crate) fn open(
        dialer_for: DialerFor<K, D>,
        max_open_for: Option<MaxOpenFor<K>>,
        min_idle_for: Option<MinIdleFor<K>>,
        config: &KeyedConfig,
        reporter: Reporter<D::Error>,
        quota: Option<Quota>,
        crew: Arc<Crew>,
    ) -> Result<Self, ConfigError> {
        let group = Group::new(config.max_open_total, config.max_idle_total, quota, crew);
        group.join_quota()?;
        let common = Common { config: config.each, ..Common::default() };
        let (directory, common) = (Directory::new(), Mutex::new(common));
        let shared = Arc::new(Shared {
            directory,
            group,
            dialer_for,
            max_open_for,
            min_idle_for,
            common,
            reporter,
        });
        Ok(Self { shared })
    }

    /// The record of a key, made if there is none.
    fn record<Q: ?Sized + AsKey<K>>(
        &self,
        key: &Q,
    ) -> Result<Arc<KeyRecord<K, D>>, GetError<D::Error>> {
        let Shared { directory, group, dialer_for, reporter, .. } = &*self.shared;
        if let Some(record) = directory.find(key) {
            return Ok(record);
        }
        if directory.is_closed() {
            return Err(self.turned_away(GetError::Closed));
        }
        let (hash, key, common) = (directory.hash(key), key.to_key(), self.common());
        let (dialer, config) = (dialer_for(&key), self.config_of(&key, &common));
        let (reporter, on_vacant) = (reporter.clone(), Some(self.on_vacant(hash)));
        if group.is_inherited() {
            return Err(GetError::Closed); // The code of the key's has forked.
        }
        let shell = group.admit(dialer, config, common.is_suspended, reporter, on_vacant);
        let record = KeyRecord::new(key, hash, Pool::of(shell));
        // If another thread was first, this thread's record is dropped here, under no lock.
        let entered = directory.enter(&record);
        let record = entered.map_err(|IsClosed| self.turned_away(GetError::Closed))?;
        self.catch_up(&record, &common);
        Ok(record)
    }

    /// The settings of all keys now; the defaults in the child of a fork.
    fn common(&self) -> Common {
        let Shared { group, common, .. } = &*self.shared;
        if group.is_inherited() { Common::default() } else { *common.lock() }
    }

    /// The settings of one key.
    fn config_of(&self, key: &K, common: &Common) -> Config {
        let (config, Shared { max_open_for, min_idle_for, .. }) = (common.config, &*self.shared);
        let own = max_open_for.as_ref().and_then(|max_open_for| max_open_for(key));
        let min_idle = min_idle_for.as_ref().map_or(0, |min_idle_for| min_idle_for(key));
        Config { max_open: own.map_or(config.max_open, NonZeroU32::get), min_idle, ..config }
    }

    /// Reports and counts that a caller gets no connection, for a key that has no pool to do so.
    #[cold]
    fn turned_away(&self, error: GetError<D::Error>) -> GetError<D::Error> {
        let Shared { group, reporter, .. } = &*self.shared;
        if group.is_inherited() {
            return error;
        }
        group.note_turned_away();
        let event = Event::TurnedAway { error: &error, waited: Duration::ZERO };
        // No key's pool is there to count a panic.
        reporter.tell(&event, || reporter.log(|log, pool| log.panicked(pool)));
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
    fn error_without_pool<Q: ?Sized + AsKey<K>>(&self, key: &Q) -> GetError<D::Error> {
        if self.shared.directory.is_closed() {
            return GetError::Closed;
        }
        let common = self.common();
        let Config { max_open, .. } = self.config_of(&key.to_key(), &common);
        let (pool, waited) = (self.shared.reporter.name().cloned(), Duration::ZERO);
        let stats = Box::new(Stats { max_open, ..Stats::default() });
        if common.is_suspended {
            return GetError::Suspended { pool, waited, stats, failure: None };
        }
        let holders = Box::new(Holders::new(Vec::new(), false));
        GetError::Exhausted { pool, waited, stats, holders, failure: None }
    }

    /// Opens connections of that key until `connections` are open, and waits for them for at most
    /// `get_timeout`: see [`Pool::warm_up`]. No more are opened than `max_open_total` and `max_idle_total`
    /// allow all keys together. Until it returns, its idle connections make no room for a caller of
    /// another key that has waited less.
    ///
    /// # Errors
    ///
    /// The errors of [`get`](Self::get). Connections opened before the error stay open.
    pub fn warm_up<Q: ?Sized + AsKey<K>>(
        &self,
        key: &Q,
        connections: u32,
    ) -> Result<(), GetError<D::Error>> {
        let start = now();
        loop {
            let record = self.record(key)?;
            let deadline = record.pool.shell().knobs().late_at(start);
            let connections = connections.min(self.shared.group.most_idle());
            match record.pool.shell().warm_up(connections, deadline) {
                Some(outcome) => return outcome,
                None => self.shared.directory.strike(&record),
            }
        }
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

/// A borrowed connection of a [`KeyedPool`], for as long as the borrow of its pool lasts.
///
/// See [`Guard`] for what can be done with it.
pub type KeyedConnection<'p, K, D> = Guard<D, Lease<K, D, &'p KeyedPool<K, D>>>;

/// A borrowed connection of a [`KeyedPool`] that keeps its pool alive, and so borrows nothing.
///
/// See [`Guard`] for what can be done with it.
pub type OwnedKeyedConnection<K, D> = Guard<D, Lease<K, D, KeyedPool<K, D>>>;

// A quota's lease, in the ledger, is something else.
/// The key's pool to which a guard's connection belongs.
pub struct Lease<K: Send + Sync + 'static, D: Dialer, R: Borrow<KeyedPool<K, D>>> {
    keyed: R,
    /// `None` only while it is dropped.
    record: Option<Arc<KeyRecord<K, D>>>,
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
