//! Stands in for latebind's `KeyedPool`: a pool per key, without limits over all of them.

#![allow(dead_code)]

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use latebind::{ConfigError, Dialer, GetError, OwnedConnection, Pool, Stats};

pub(crate) type OwnedKeyedConnection<K, D> = <(K, D) as Keyed>::Guard;

pub(crate) trait Keyed {
    type Guard;
}

impl<K, D: Dialer> Keyed for (K, D) {
    type Guard = OwnedConnection<D>;
}

pub(crate) struct KeyedPool<K, D: Dialer>(Arc<Shared<K, D>>);

struct Shared<K, D: Dialer> {
    dialer_for: Box<dyn Fn(&K) -> D + Send + Sync>,
    max_open: u32,
    check_after: Duration,
    pools: Mutex<HashMap<K, Pool<D>>>,
}

pub(crate) struct Builder<K, D: Dialer>(Shared<K, D>);

impl<K: Clone + Eq + Hash, D: Dialer> Builder<K, D> {
    pub(crate) fn max_open(mut self, max_open: u32) -> Self {
        self.0.max_open = max_open;
        self
    }

    pub(crate) fn max_open_total(self, _: u32) -> Self {
        self
    }

    pub(crate) fn check_after(mut self, check_after: Duration) -> Self {
        self.0.check_after = check_after;
        self
    }

    pub(crate) fn build(self) -> Result<KeyedPool<K, D>, ConfigError> {
        Ok(KeyedPool(Arc::new(self.0)))
    }
}

impl<K: Clone + Eq + Hash, D: Dialer> KeyedPool<K, D> {
    pub(crate) fn builder(dialer_for: impl Fn(&K) -> D + Send + Sync + 'static) -> Builder<K, D> {
        let dialer_for = Box::new(dialer_for);
        let check_after = Duration::from_millis(500);
        Builder(Shared { dialer_for, max_open: 10, check_after, pools: Mutex::default() })
    }

    fn pool(&self, key: &K) -> Pool<D> {
        let mut pools = self.0.pools.lock().unwrap();
        if let Some(pool) = pools.get(key) {
            return pool.clone();
        }
        let builder = Pool::builder((self.0.dialer_for)(key)).max_open(self.0.max_open);
        let pool = builder.check_after(self.0.check_after).build().unwrap();
        pools.insert(key.clone(), pool.clone());
        pool
    }

    pub(crate) fn get_owned(
        &self,
        key: &K,
    ) -> Result<OwnedKeyedConnection<K, D>, GetError<D::Error>> {
        self.pool(key).get_owned()
    }

    pub(crate) fn get_timeout_owned(
        &self,
        key: &K,
        timeout: Duration,
    ) -> Result<OwnedKeyedConnection<K, D>, GetError<D::Error>> {
        self.pool(key).get_timeout_owned(timeout)
    }

    pub(crate) fn stats_of(&self, key: &K) -> Option<Stats> {
        self.0.pools.lock().unwrap().get(key).map(Pool::stats)
    }

    pub(crate) fn close(&self) {
        for pool in self.0.pools.lock().unwrap().values() {
            pool.close();
        }
    }
}

impl<K, D: Dialer> Clone for KeyedPool<K, D> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}
