//! Controls of a keyed pool: of one key, and of all together.

use std::hash::Hash;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Instant;

use crate::config::{Config, ConfigError};
use crate::dialer::Dialer;
use crate::pool::Drained;
use crate::shell::Shell;

use super::directory::KeyRecord;
use super::{AsKey, Common, KeyedConfig, KeyedPool};

impl<K, D> KeyedPool<K, D>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    D: Dialer,
{
    /// Stops lending every connection of that key that was opened, or whose dial was begun, before
    /// this call. Idle connections are closed now, those in use when they are returned.
    pub fn flush_key<Q: ?Sized + AsKey<K>>(&self, key: &Q) {
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

    /// Closes the idle connections of all keys, and no others: see
    /// [`Pool::close_idle`](crate::Pool::close_idle). Takes time proportional to the number of keys.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::{KeyedPool, net::TcpDialer};
    ///
    /// # let listener = latebind::net::listen_tcp("127.0.0.1:0")?;
    /// # let port = listener.local_addr()?.port();
    /// let pool = KeyedPool::new(|port: &u16| TcpDialer::new("127.0.0.1", *port));
    /// drop(pool.get(&port)?);
    /// pool.close_idle();
    /// assert_eq!(pool.stats_summed().idle, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close_idle(&self) {
        for record in self.shared.directory.all() {
            record.pool.close_idle();
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
        KeyedConfig::check_total(max_open_total)?;
        self.shared.group.resize(max_open_total);
        Ok(())
    }

    /// Closes the pools of all keys: they lend nothing from now on. See [`Pool::close`](crate::Pool::close).
    pub fn close(&self) {
        self.shared.close();
    }

    /// [Closes](Self::close) the pool, and waits until no key has an open connection or `deadline`
    /// has come. See [`Pool::drain`](crate::Pool::drain).
    pub fn drain(&self, deadline: Instant) -> Drained {
        self.close();
        let pools = self.shared.group.shells().into_iter();
        pools.map(|shell| Drained::of(&shell, deadline)).reduce(Drained::and).unwrap_or_default()
    }

    /// [Closes](Self::close) the pool, and aborts the connections in use of all keys, as far as
    /// their dialers gave handles. Returns how many it aborted. See [`Pool::abort`](crate::Pool::abort).
    pub fn abort(&self) -> u32 {
        self.close();
        self.shared.group.shells().iter().map(Shell::abort).sum()
    }

    /// Closes the pool of that key, and forgets its dialer.
    ///
    /// Its idle connections are closed now, those in use when they are returned: until then the key may
    /// have more than `max_open` of old and new ones together. The next caller, and
    /// callers who wait for that key already, get a connection of a new pool, for which a new dialer is
    /// made. So this is how a key whose server has moved, or whose dialer should be another one, starts
    /// again. Does nothing if the key has no pool.
    pub fn close_key<Q: ?Sized + AsKey<K>>(&self, key: &Q) {
        if let Some(record) = self.shared.directory.look_up(key) {
            // Before its callers look for the key again.
            self.shared.directory.strike(&record);
            record.pool.close();
        }
    }

    /// Retires the connections of all keys that `predicate` names, among those whose dials began before
    /// this call: see [`Pool::retire_where`](crate::Pool::retire_where). Takes time proportional to the
    /// number of keys.
    pub fn retire_where(&self, predicate: impl Fn(&D::Connection) -> bool + Send + Sync + 'static) {
        let predicate = Arc::new(predicate);
        for record in self.shared.directory.all() {
            record.pool.shell().retire_where(Arc::clone(&predicate) as _);
        }
    }

    /// Lends and dials nothing, of any key, until [`resume`](Self::resume): see
    /// [`Pool::suspend`](crate::Pool::suspend). Takes time proportional to the number of keys.
    pub fn suspend(&self) {
        self.set_suspended(true);
    }

    /// Ends a [`suspend`](Self::suspend): callers in the queues are served in their order.
    pub fn resume(&self) {
        self.set_suspended(false);
    }

    /// Whether the pool is [suspended](Self::suspend). A closed pool is not.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        !self.shared.directory.is_closed() && self.common().is_suspended
    }

    /// The settings of each key that are in force, before `max_open_for` and `min_idle_for`: see
    /// [`Pool::settings`](crate::Pool::settings). [`stats`](Self::stats) has the bound on all keys together.
    ///
    /// # Examples
    ///
    /// ```
    /// use latebind::{KeyedPool, net::TcpDialer};
    ///
    /// let pool = KeyedPool::new(|port: &u16| TcpDialer::new("localhost", *port));
    /// pool.reconfigure().max_open(4).apply()?;
    /// assert_eq!((pool.settings().max_open, pool.stats().max_open), (4, 256));
    /// # Ok::<(), latebind::ConfigError>(())
    /// ```
    #[must_use]
    pub fn settings(&self) -> Config {
        self.common().config.in_force()
    }

    fn set_suspended(&self, is_suspended: bool) {
        let change = |common: &mut Common| {
            common.is_suspended = is_suspended;
            Ok(())
        };
        self.change_all(change, Self::tell_suspended).expect("this change is not refused");
    }

    /// Replaces the settings of all keys by what `change` makes of them.
    pub(crate) fn change(
        &self,
        change: impl FnOnce(Config) -> Result<Config, ConfigError>,
    ) -> Result<(), ConfigError> {
        let change = |common: &mut Common| {
            common.config = change(common.config)?;
            Ok(())
        };
        self.change_all(change, Self::tell_settings)
    }

    /// Changes the settings of all keys, and has `tell` pass them to the pool of each.
    fn change_all(
        &self,
        change: impl FnOnce(&mut Common) -> Result<(), ConfigError>,
        tell: impl Fn(&Self, &KeyRecord<K, D>, &Common),
    ) -> Result<(), ConfigError> {
        if self.shared.group.is_inherited() {
            return Ok(());
        }
        {
            let mut common = self.shared.common.lock();
            change(&mut common)?;
            common.version += 1;
        }
        let mut panic = None;
        for record in self.shared.directory.all() {
            // A panic of `max_open_for` or `min_idle_for` for one key must not keep the change from the others.
            let told = catch_unwind(AssertUnwindSafe(|| self.tell(&record, &tell)));
            panic = panic.or(told.err());
        }
        panic.map_or(Ok(()), |first| resume_unwind(first))
    }

    /// Has `tell` pass the settings to the pool of a key, and again if they have changed meanwhile: so the
    /// pool ends with the latest.
    fn tell(&self, record: &KeyRecord<K, D>, tell: impl Fn(&Self, &KeyRecord<K, D>, &Common)) {
        loop {
            let common = self.common();
            tell(self, record, &common);
            if self.common().version == common.version {
                return;
            }
        }
    }

    /// Tells a pool that was made by `before`, and is in the directory now, what has changed since.
    pub(super) fn catch_up(&self, record: &KeyRecord<K, D>, before: &Common) {
        if self.common().version != before.version {
            self.tell(record, |keyed, record, common| {
                // First, as it asks no user code, which may panic: this has a pool that nobody uses go.
                keyed.tell_suspended(record, common);
                keyed.tell_settings(record, common);
            });
        }
    }

    fn tell_settings(&self, record: &KeyRecord<K, D>, common: &Common) {
        let config = self.config_of(&record.key, common);
        let outcome = record.pool.shell().reconfigure(|_| Ok(config));
        outcome.expect("the settings are checked already");
    }

    fn tell_suspended(&self, record: &KeyRecord<K, D>, common: &Common) {
        record.pool.shell().set_suspended(common.is_suspended);
    }
}
