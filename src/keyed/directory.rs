//! The directory: which key has which pool, found without a write that threads share.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, PoisonError};

use crate::dialer::Dialer;
use crate::pool::Pool;
use crate::shell::Shell;
use crate::sync::{Hashing, PerThread, Process, ShardedLock};

/// The pools that each thread has at hand: enough for one that goes round a few servers.
const RECENT: usize = 4;

/// A key, and the pool of its own.
pub(super) struct Record<K, D: Dialer> {
    pub(super) key: Arc<K>,
    pub(super) pool: Pool<D>,
}

/// All keys of which there is anything.
///
/// To count a reference is to write where all threads of a busy key write. So each thread keeps the
/// references that it used last, and moves them: out with a guard, and back when that is dropped.
pub(super) struct Directory<K: Send + Sync, D: Dialer> {
    all: ShardedLock<All<K, D>>,
    recent: PerThread<Recent<K, D>>,
    /// Where it was made. In a child of that process it is closed, and nothing is in it.
    process: Process,
}

struct All<K, D: Dialer> {
    records: HashMap<Arc<K>, Arc<Record<K, D>>, Hashing>,
    is_closed: bool,
}

type Recent<K, D> = [Option<Arc<Record<K, D>>>; RECENT];

/// No key is entered any more.
pub(super) struct IsClosed;

impl<K: Eq + Hash + Send + Sync, D: Dialer> Directory<K, D> {
    pub(super) fn new() -> Self {
        let all = All { records: HashMap::default(), is_closed: false };
        Self { all: ShardedLock::new(all), recent: PerThread::new(), process: Process::this() }
    }

    /// The key's record, from this thread's own if it is there, or from all.
    /// One of this thread's own may be closed already.
    #[inline]
    pub(super) fn find(&self, key: &K) -> Option<Arc<Record<K, D>>> {
        self.recall(key).or_else(|| self.look_up(key))
    }

    #[inline]
    fn recall(&self, key: &K) -> Option<Arc<Record<K, D>>> {
        let is_it = |at: &Option<Arc<Record<K, D>>>| at.as_ref().is_some_and(|r| *r.key == *key);
        self.recent.with(|recent| recent.iter_mut().find(|at| is_it(at)).and_then(Option::take))
    }

    /// The same, from all.
    pub(super) fn look_up(&self, key: &K) -> Option<Arc<Record<K, D>>> {
        self.read(None, |all| all.records.get(key).cloned())
    }

    /// Enters a record, unless there is one of its key: then that.
    pub(super) fn enter(&self, record: &Arc<Record<K, D>>) -> Result<Arc<Record<K, D>>, IsClosed> {
        if self.process.is_a_parent() {
            return Err(IsClosed);
        }
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        if all.is_closed {
            return Err(IsClosed);
        }
        let key = Arc::clone(&record.key);
        Ok(Arc::clone(all.records.entry(key).or_insert_with(|| Arc::clone(record))))
    }

    /// Takes the key's record out, if it is of that shell still.
    pub(super) fn strike(&self, key: &K, shell: &Arc<Shell<D>>) {
        if self.process.is_a_parent() {
            return;
        }
        let struck = {
            let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
            let is_it = |record: &Arc<Record<K, D>>| Arc::ptr_eq(record.pool.shell(), shell);
            if all.records.get(key).is_some_and(is_it) {
                all.records.remove_entry(key)
            } else {
                None
            }
        };
        drop(struck); // Perhaps with the last handle of its pool: not under the lock.
    }

    pub(super) fn len(&self) -> usize {
        self.read(0, |all| all.records.len())
    }
}

impl<K: Send + Sync, D: Dialer> Directory<K, D> {
    /// Keeps a reference at hand for this thread.
    #[inline]
    pub(super) fn remember(&self, record: Arc<Record<K, D>>) {
        let displaced = self.recent.with(|recent| {
            let free = recent.iter().position(Option::is_none);
            // With none free, those before move up by one, and the last goes.
            let at = free.unwrap_or(RECENT - 1);
            recent[..=at].rotate_right(1);
            recent[0].replace(record)
        });
        drop(displaced); // Perhaps the last of a pool's: it closes.
    }

    /// All records of this moment.
    pub(super) fn all(&self) -> Vec<Arc<Record<K, D>>> {
        self.read(Vec::new(), |all| all.records.values().cloned().collect())
    }

    pub(super) fn close(&self) {
        self.all.write().unwrap_or_else(PoisonError::into_inner).is_closed = true;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.read(true, |all| all.is_closed)
    }

    /// Reads what there is; in a child of its process, `nothing`.
    fn read<T>(&self, nothing: T, read: impl FnOnce(&All<K, D>) -> T) -> T {
        if self.process.is_a_parent() {
            return nothing;
        }
        read(&self.all.read().unwrap_or_else(PoisonError::into_inner))
    }
}
