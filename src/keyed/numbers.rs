//! The numbers of a keyed pool: of all keys together, and of each.

use std::hash::Hash;
use std::sync::Arc;

use crate::dialer::Dialer;
use crate::ledger::stats::Stats;
use crate::report::error::DialFailure;
use crate::report::histogram::Histograms;
use crate::report::holder::Holder;

use super::directory::KeyRecord;
use super::{AsKey, KeyedPool};

impl<K, D> KeyedPool<K, D>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    D: Dialer,
{
    /// The numbers of all keys together.
    #[must_use]
    pub fn stats(&self) -> KeyedStats {
        let keys = self.shared.directory.len();
        self.shared.group.read(|budget| KeyedStats {
            keys,
            open: budget.taken(),
            max_open: budget.max_open(),
            stalled: budget.stalled(),
            evicted_total: budget.evicted_total(),
            turned_away_total: self.shared.group.turned_away_total(),
        })
    }

    /// The numbers of that key's pool: the connections that it holds now, and totals since it was
    /// made; `None` if the key has no pool.
    #[must_use]
    pub fn stats_of<Q: ?Sized + AsKey<K>>(&self, key: &Q) -> Option<Stats> {
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
    /// of keys. A pool that [`close_key`](Self::close_key) has closed has no key any more: its holders
    /// are named by [`drain`](Self::drain) only.
    #[must_use]
    pub fn holders(&self) -> Vec<(K, Holder)> {
        let all = self.shared.directory.all();
        let holders = |record: &Arc<KeyRecord<K, D>>| {
            let key = record.key.clone();
            record.pool.holders().into_iter().map(move |holder| (key.clone(), holder))
        };
        all.iter().flat_map(holders).collect()
    }

    /// The numbers of all keys added up, with the totals of keys whose pools have gone. `max_open` is
    /// that of all keys together. Takes time proportional to the number of keys.
    ///
    /// The keys are read one after the other, so the numbers of two keys may be of different moments. No
    /// total is ever smaller than it was at an earlier call, so a scraper may take these for counters:
    /// `PoolMetrics::publish`, with feature `metrics`, accepts them as it does those of a [`Pool`].
    ///
    /// [`Pool`]: crate::Pool
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
    /// pool.close_key(&port);
    /// assert_eq!(pool.stats_of(&port), None);
    /// assert_eq!(pool.stats_summed().lent_total, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn stats_summed(&self) -> Stats {
        let mut sum = self.shared.group.summed().0;
        sum.max_open = self.stats().max_open;
        sum
    }

    /// The histograms of all keys added up, with those of keys whose pools have gone: see
    /// [`Pool::histograms`](crate::Pool::histograms). Takes time proportional to the number of keys.
    #[must_use]
    pub fn histograms(&self) -> Histograms {
        self.shared.group.summed().1
    }

    /// The latest dial of that key that failed, if the last to end did: see
    /// [`Pool::last_dial_failure`](crate::Pool::last_dial_failure). `None` also if the key has no pool.
    #[must_use]
    pub fn last_dial_failure_of<Q: ?Sized + AsKey<K>>(
        &self,
        key: &Q,
    ) -> Option<DialFailure<D::Error>> {
        self.shared.directory.look_up(key)?.pool.last_dial_failure()
    }

    /// The keys that have a pool now, in no particular order: those with a connection, a dial or a
    /// caller, and for a moment others. Takes time proportional to their number.
    #[must_use]
    pub fn keys(&self) -> Vec<K> {
        self.shared.directory.all().iter().map(|record| record.key.clone()).collect()
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
